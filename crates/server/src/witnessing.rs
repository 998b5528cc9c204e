//! A witness as a process of its own: `POST /add-checkpoint`, as C2SP tlog-witness says.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use cogward_evidence::{Added, WitnessBook, WitnessError};
use cogward_ledger::{
    note::VerifyingKey,
    witness::{Examined, REQUEST_BYTES_MAX},
};
use cogward_model::{SystemClock, SystemEntropy};
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;

use crate::{ListenError, http as listener};

/// A witness's directory and whom it watches.
#[derive(Debug, Clone)]
pub struct WitnessOptions {
    /// Where its keys and its memory are; made when it is not there.
    pub dir: PathBuf,
    /// Its name, which the first opening keeps.
    pub name: Option<String>,
    /// The public keys of the logs that it watches.
    pub logs: Vec<VerifyingKey>,
}

impl WitnessOptions {
    /// Opens the witness.
    ///
    /// # Errors
    /// See [`WitnessError`].
    pub fn open(self) -> Result<WitnessBook, WitnessError> {
        WitnessBook::open(&self.dir, self.name.as_deref(), self.logs, Box::new(SystemClock), &SystemEntropy)
    }
}

/// A witness that has its address.
pub struct WitnessServer {
    book: Arc<WitnessBook>,
    listener: tokio::net::TcpListener,
    address: SocketAddr,
}

impl WitnessServer {
    /// Takes the address.
    ///
    /// # Errors
    /// It is not one of this host alone, or it is taken.
    pub async fn bind(book: WitnessBook, listen: SocketAddr) -> Result<Self, ListenError> {
        let (listener, address) = listener::bind(listen).await?;
        Ok(Self { book: Arc::new(book), listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` resolves.
    pub async fn until(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let router = Router::new().route("/add-checkpoint", post(add)).with_state(self.book);
        let closing = CancellationToken::new();
        let server = tokio::spawn(listener::serve(self.listener, router, closing.clone()));
        shutdown.await;
        closing.cancel();
        let _ended = server.await;
    }
}

async fn add(State(book): State<Arc<WitnessBook>>, body: Body) -> Response {
    let Ok(body) = Limited::new(body, REQUEST_BYTES_MAX).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long\n");
    };
    let Ok(request) = String::from_utf8(body.to_bytes().to_vec()) else {
        return plain(StatusCode::BAD_REQUEST, "the request is not text\n");
    };
    // It waits for the disk.
    let added = tokio::task::spawn_blocking(move || book.add(&request)).await;
    match added {
        Ok(Ok(Added::Cosigned(lines))) => plain(StatusCode::OK, lines),
        Ok(Ok(Added::Refused(refused))) => refusal(&refused),
        Ok(Err(error)) => {
            tracing::error!(%error, "the witness's memory cannot be used");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness cannot remember, so it does not sign\n")
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n"),
    }
}

fn refusal(refused: &Examined) -> Response {
    let sized = |size: u64| {
        (StatusCode::CONFLICT, [(header::CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n")).into_response()
    };
    match refused {
        Examined::Malformed | Examined::Cosign { .. } => plain(StatusCode::BAD_REQUEST, "not a request\n"),
        Examined::UnknownLog => plain(StatusCode::NOT_FOUND, "the log is not known here\n"),
        Examined::Unsigned => plain(StatusCode::FORBIDDEN, "no signature of a key that is trusted for this log\n"),
        Examined::Conflict { size } => sized(*size),
        Examined::SplitView { ours, .. } => sized(ours.size),
        Examined::Inconsistent => plain(StatusCode::UNPROCESSABLE_ENTITY, "the proof does not hold\n"),
    }
}

fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}
