//! A connection of an agent that takes nothing for too long is given up.
//!
//! Answers are held until the agent has read them. One that never does would hold them for as long as its run lives,
//! and so would one that takes a byte now and then. The time that the plane waits for the agent is added up: when it
//! reaches [`AGENT_STALL_MS_MAX`] before the agent has taken [`AGENT_TAKES_BYTES_MIN`], the connection ends, and with it
//! what was held for it. An agent that is suspended cannot read, and that is not its fault.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cogward_model::limits::{AGENT_STALL_MS_MAX, AGENT_TAKES_BYTES_MIN};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{FenceState, run::RunContext};

const PATIENCE: Duration = Duration::from_millis(AGENT_STALL_MS_MAX);

/// A connection on which writing does not wait for ever.
pub(crate) struct Patient<S> {
    stream: S,
    run: Arc<RunContext>,
    /// Ends when the patience does; there while something waits.
    over: Option<Pin<Box<Sleep>>>,
    /// Waited before what waits now, since the agent took enough.
    waited: Duration,
    /// Taken in that time, in bytes.
    taken: usize,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, run: Arc<RunContext>) -> Self {
        Self { stream, run, over: None, waited: Duration::ZERO, taken: 0 }
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = &written {
            self.taken = self.taken.saturating_add(done.as_ref().map_or(0, bytes));
            if let Some(over) = self.over.take() {
                self.waited = PATIENCE.saturating_sub(over.deadline().saturating_duration_since(Instant::now()));
            }
            if self.taken >= AGENT_TAKES_BYTES_MIN {
                (self.waited, self.taken) = (Duration::ZERO, 0);
            }
            return written;
        }
        let left = PATIENCE.saturating_sub(self.waited);
        let over = self.over.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        while over.as_mut().poll(cx).is_ready() {
            if self.run.fence.state() != FenceState::Held {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the agent does not read its answer")));
            }
            over.as_mut().reset(Instant::now() + PATIENCE);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written, |taken| *taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watched(cx, written, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use cogward_budget::Scope;
    use cogward_model::{Digest, Id, RunId, SystemClock, SystemEntropy};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::RunGrant;

    fn run() -> Arc<RunContext> {
        let id: RunId = Id::new(&SystemClock, &SystemEntropy);
        let grant =
            RunGrant::new(id, &crate::testing::manifest(), Digest::from_bytes([0; 32]), None, vec![Scope::run(id)]);
        Arc::new(RunContext::new(grant))
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_reads_nothing_is_given_up_and_one_that_reads_slowly_is_not() {
        let run = run();
        run.fence.set(FenceState::Open);
        let (_agent, plane) = duplex(8);
        let begun = Instant::now();
        let error = Patient::new(plane, Arc::clone(&run)).write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, PATIENCE.as_secs()));

        let (mut agent, plane) = duplex(AGENT_TAKES_BYTES_MIN);
        let reads = async {
            let mut part = vec![0; AGENT_TAKES_BYTES_MIN];
            for _ in 0..4 {
                tokio::time::sleep(PATIENCE * 9 / 10).await;
                agent.read_exact(&mut part).await.unwrap();
            }
        };
        let mut plane = Patient::new(plane, run);
        let whole = vec![0; 4 * AGENT_TAKES_BYTES_MIN];
        let (written, ()) = tokio::join!(plane.write_all(&whole), reads);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_takes_a_little_now_and_then_is_given_up_too() {
        let run = run();
        run.fence.set(FenceState::Open);
        let (mut agent, plane) = duplex(8);
        let begun = Instant::now();
        let mut plane = Patient::new(plane, run);
        let drips = async {
            let mut part = [0; 8];
            while agent.read_exact(&mut part).await.is_ok() {
                tokio::time::sleep(PATIENCE / 4).await;
            }
        };
        let error = tokio::select! {
            written = plane.write_all(&[0; 4096]) => written.unwrap_err(),
            () = drips => unreachable!("the plane holds its end"),
        };
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_between_two_answers_is_not_time_that_the_plane_waited() {
        let run = run();
        run.fence.set(FenceState::Open);
        let (mut agent, plane) = duplex(8);
        let mut plane = Patient::new(plane, run);
        for _ in 0..8 {
            let reads = async {
                tokio::time::sleep(PATIENCE / 10).await;
                agent.read_exact(&mut [0; 16]).await.unwrap();
            };
            let (written, ()) = tokio::join!(plane.write_all(&[0; 16]), reads);
            written.unwrap();
            tokio::time::sleep(PATIENCE * 3).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_agent_is_waited_for() {
        let run = run();
        run.fence.set(FenceState::Held);
        let (_agent, plane) = duplex(8);
        let mut plane = Patient::new(plane, Arc::clone(&run));
        let (written, ()) = tokio::join!(plane.write_all(&[0; 64]), async {
            tokio::time::sleep(PATIENCE * 50).await;
            run.fence.set(FenceState::Open);
        });
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
