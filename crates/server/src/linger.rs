//! The end of a connection on which the client still sends.
//!
//! A request that is refused before its body was read is answered at once. Were the connection closed then, what the
//! client still sends would be met by a reset, and a reset can overtake the answer. So the write side is closed, and
//! what comes is read and thrown away for a while.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

/// How long it is read on.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// How much of it.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

enum End {
    Open,
    Lingers { over: Pin<Box<Sleep>>, left: usize },
    Closed,
}

/// A connection that is read on when its writing ends. Not while the plane goes down: idle clients would hold it up.
pub(crate) struct Lingering<S> {
    stream: S,
    closing: CancellationToken,
    end: End,
}

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S, closing: CancellationToken) -> Self {
        Self { stream, closing, end: End::Open }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.end = match this.closing.is_cancelled() {
                        true => End::Closed,
                        false => {
                            End::Lingers { over: Box::pin(tokio::time::sleep(LINGER_MAX)), left: LINGER_BYTES_MAX }
                        }
                    };
                }
                End::Lingers { over, left } => {
                    let mut bytes = [0; 16 * 1024];
                    let mut read = ReadBuf::new(&mut bytes);
                    let read = match Pin::new(&mut this.stream).poll_read(cx, &mut read) {
                        Poll::Ready(Ok(())) => read.filled().len(),
                        Poll::Ready(Err(_)) => 0,
                        Poll::Pending if over.as_mut().poll(cx).is_ready() => 0,
                        Poll::Pending => return Poll::Pending,
                    };
                    *left = left.saturating_sub(read);
                    if read == 0 || *left == 0 || over.is_elapsed() {
                        this.end = End::Closed;
                    }
                }
                End::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_still_comes_is_taken_and_the_end_is_waited_for() {
        let (mut client, plane) = duplex(64);
        let mut plane = Lingering::new(plane, CancellationToken::new());
        let sends = async {
            client.write_all(&[0; 100_000]).await.unwrap();
            let mut told = String::new();
            client.read_to_string(&mut told).await.unwrap();
            drop(client);
            told
        };
        plane.write_all(b"413").await.unwrap();
        let (told, ended) = tokio::join!(sends, plane.shutdown());
        ended.unwrap();
        assert_eq!(told, "413");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_silent_client_nor_an_endless_one_holds_it_up_for_long() {
        let (_client, plane) = duplex(64);
        let begun = Instant::now();
        Lingering::new(plane, CancellationToken::new()).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER_MAX);

        let (mut client, plane) = duplex(1024 * 1024);
        let mut plane = Lingering::new(plane, CancellationToken::new());
        let endless = async {
            let bytes = vec![0; 1024 * 1024];
            let mut sent = 0;
            while client.write_all(&bytes).await.is_ok() {
                sent += bytes.len();
                assert!(sent < 2 * LINGER_BYTES_MAX);
            }
        };
        tokio::join!(endless, async {
            plane.shutdown().await.unwrap();
            drop(plane);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_plane_that_goes_down_waits_for_nobody() {
        let (_client, plane) = duplex(64);
        let closing = CancellationToken::new();
        closing.cancel();
        let begun = Instant::now();
        Lingering::new(plane, closing).shutdown().await.unwrap();
        assert!(begun.elapsed().is_zero());
    }
}
