//! Serving a run on its three listeners. Bounded connections, bounded heads, no delay on small writes.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use cogward_model::{Listener, limits::REQUEST_HEAD_MS_MAX};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::{Inner, egress, mcp, model, run::RunContext, stall::Patient};

/// The listeners that only one run's sandbox can connect to.
#[derive(Debug)]
pub struct RunListeners {
    /// Model base URLs.
    pub model: Listener,
    /// The MCP endpoint.
    pub mcp: Listener,
    /// The HTTP proxy.
    pub proxy: Listener,
}

/// One of them, as it is accepted from.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of the agent, whatever carried it.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Accepting {
    fn new(listener: Listener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        match listener {
            Listener::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Listener::Unix(listener) => UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    /// The next connection. Small answers and stream chunks leave it at once.
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without this each waits for a delayed ACK (40 ms).
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

#[derive(Clone, Copy)]
enum Door {
    Model,
    Mcp,
    Proxy,
}

/// Starts the accept loops; they end when the run is cut.
pub(crate) fn spawn(inner: &Arc<Inner>, run: &Arc<RunContext>, listeners: RunListeners) -> io::Result<()> {
    let doors = [(Door::Model, listeners.model), (Door::Mcp, listeners.mcp), (Door::Proxy, listeners.proxy)];
    let mut ready = Vec::with_capacity(doors.len());
    for (door, listener) in doors {
        ready.push((door, Accepting::new(listener)?));
    }
    for (door, listener) in ready {
        tokio::spawn(accept(Arc::clone(inner), Arc::clone(run), door, listener));
    }
    Ok(())
}

async fn accept(inner: Arc<Inner>, run: Arc<RunContext>, door: Door, listener: Accepting) {
    let cut = run.cut_signal().clone();
    loop {
        // The slot comes first: an agent that opens more than its share waits in its own backlog.
        let slot = tokio::select! {
            () = cut.cancelled() => return,
            slot = Arc::clone(&run.connections).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let stream = tokio::select! {
            () = cut.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(run = %run.grant.run, %error, "accept failed");
                    // Out of descriptors or a connection that is already gone: do not spin.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let (inner, run, cut) = (Arc::clone(&inner), Arc::clone(&run), cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection(inner, run, door, stream) => {}
            }
            drop(slot);
        });
    }
}

async fn connection(inner: Arc<Inner>, run: Arc<RunContext>, door: Door, stream: Box<dyn Stream>) {
    let name = run.grant.run;
    let stream = Patient::new(stream, Arc::clone(&run));
    let service = service_fn(move |request: Request<Incoming>| {
        let (inner, run) = (Arc::clone(&inner), Arc::clone(&run));
        // What the largest door needs is held for every connection, and moved with every request.
        async move {
            Ok::<_, Infallible>(match door {
                Door::Model => model::serve(inner, run, request).await,
                Door::Mcp => mcp::serve(inner, run, request).await,
                Door::Proxy => Box::pin(egress::serve(inner, run, request)).await,
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(REQUEST_HEAD_MS_MAX))
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(run = %name, %error, "connection ended");
    }
}
