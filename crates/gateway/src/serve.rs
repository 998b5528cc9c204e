//! Serving a run on its three listeners. Bounded connections, bounded heads, no delay on small writes.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use cogward_model::limits::REQUEST_HEAD_MS_MAX;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::{Inner, body::AgentBody, egress, mcp, model, run::RunContext, stall::Patient};

/// The listeners that pid 1 of a sandbox made inside it.
#[derive(Debug)]
pub struct RunListeners {
    /// Model base URLs.
    pub model: std::net::TcpListener,
    /// The MCP endpoint.
    pub mcp: std::net::TcpListener,
    /// The HTTP proxy.
    pub proxy: std::net::TcpListener,
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
        listener.set_nonblocking(true)?;
        ready.push((door, TcpListener::from_std(listener)?));
    }
    for (door, listener) in ready {
        tokio::spawn(accept(Arc::clone(inner), Arc::clone(run), door, listener));
    }
    Ok(())
}

async fn accept(inner: Arc<Inner>, run: Arc<RunContext>, door: Door, listener: TcpListener) {
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
                Ok((stream, _)) => stream,
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

async fn connection(inner: Arc<Inner>, run: Arc<RunContext>, door: Door, stream: TcpStream) {
    // Small answers and stream chunks leave at once; without this each waits for a delayed ACK (40 ms).
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let name = run.grant.run;
    let stream = Patient::new(stream, Arc::clone(&run));
    let service = service_fn(move |request: Request<Incoming>| {
        let (inner, run) = (Arc::clone(&inner), Arc::clone(&run));
        answer(async move {
            match door {
                Door::Model => model::serve(inner, run, request).await,
                Door::Mcp => mcp::serve(inner, run, request).await,
                Door::Proxy => egress::serve(inner, run, request).await,
            }
        })
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

async fn answer(response: impl Future<Output = Response<AgentBody>>) -> Result<Response<AgentBody>, Infallible> {
    Ok(response.await)
}
