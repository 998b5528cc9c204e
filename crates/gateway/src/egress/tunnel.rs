//! Bytes both ways, counted, until both sides have ended, nobody says anything any more, or the run is cut.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::counts::{Counts, Way};

/// A tunnel on which nothing is said in either direction for so long is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(300);
const BUFFER_BYTES: usize = 16 * 1024;

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides ended what they had to say.
    Closed,
    /// One side broke off.
    Broken,
    /// Nothing was said for [`IDLE_MAX`].
    Idle,
    /// The run was cut.
    Cut,
    /// The run's budget of bytes is used up.
    Spent,
}

/// Carries bytes between an agent and an upstream. An end of one direction is passed on and the other goes on.
pub async fn carry<A, U>(agent: A, upstream: U, counts: &Counts, cut: &CancellationToken) -> End
where
    A: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let (agent_reads, agent_writes) = tokio::io::split(agent);
    let (upstream_reads, upstream_writes) = tokio::io::split(upstream);
    let moved = Notify::new();
    let both = async {
        tokio::try_join!(
            one_way(agent_reads, upstream_writes, counts, Way::Up, &moved),
            one_way(upstream_reads, agent_writes, counts, Way::Down, &moved),
        )
    };
    let idle = async { while tokio::time::timeout(IDLE_MAX, moved.notified()).await.is_ok() {} };
    tokio::select! {
        biased;
        () = cut.cancelled() => End::Cut,
        ended = both => ended.err().unwrap_or(End::Closed),
        () = idle => End::Idle,
    }
}

async fn one_way<R, W>(mut from: R, mut to: W, counts: &Counts, way: Way, moved: &Notify) -> Result<(), End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| End::Broken)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await.map_err(|_| End::Broken);
        };
        forward(&mut to, bytes, counts, way).await?;
        moved.notify_one();
    }
}

/// Forwards bytes as far as they are allowed.
///
/// # Errors
/// [`End::Spent`] when the budget does not reach for all of them, [`End::Broken`].
pub async fn forward<W>(to: &mut W, bytes: &[u8], counts: &Counts, way: Way) -> Result<(), End>
where
    W: AsyncWrite + Unpin,
{
    let mut rest = bytes;
    while !rest.is_empty() {
        let allowed = counts.take(rest.len()).await.map_err(|_| End::Spent)?;
        let (now, later) = rest.split_at_checked(allowed).unwrap_or((rest, &[]));
        to.write_all(now).await.map_err(|_| End::Broken)?;
        to.flush().await.map_err(|_| End::Broken)?;
        counts.moved(way, now.len());
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_end_of_one_direction_leaves_the_other_open() {
        let (mut agent, inner) = duplex(64);
        let (outer, mut upstream) = duplex(64);
        let (counts, cut) = (Counts::default(), CancellationToken::new());
        let talk = async {
            agent.write_all(b"question").await.unwrap();
            agent.shutdown().await.unwrap();
            let mut asked = String::new();
            upstream.read_to_string(&mut asked).await.unwrap();
            upstream.write_all(b"answer, after the end of the question").await.unwrap();
            drop(upstream);
            let mut answered = String::new();
            agent.read_to_string(&mut answered).await.unwrap();
            (asked, answered)
        };
        let (end, (asked, answered)) = tokio::join!(carry(inner, outer, &counts, &cut), talk);
        assert_eq!((end, asked.as_str()), (End::Closed, "question"));
        assert_eq!((counts.up(), counts.down()), (8, u64::try_from(answered.len()).unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_tunnel_and_so_does_a_reader_that_never_reads() {
        let (_agent, inner) = duplex(8);
        let (outer, mut upstream) = duplex(8);
        let (counts, cut) = (Counts::default(), CancellationToken::new());
        // More than all the buffers hold, so the rest waits for a reader that never comes.
        let floods = async {
            let _ = upstream.write_all(&[0; 64 * 1024]).await;
        };
        tokio::select! {
            end = carry(inner, outer, &counts, &cut) => assert_eq!(end, End::Idle),
            () = async { floods.await; std::future::pending().await } => {}
        }
    }

    #[tokio::test]
    async fn a_cut_ends_it_at_once() {
        let (_agent, inner) = duplex(8);
        let (outer, _upstream) = duplex(8);
        let (counts, cut) = (Counts::default(), CancellationToken::new());
        cut.cancel();
        assert_eq!(carry(inner, outer, &counts, &cut).await, End::Cut);
    }
}
