//! The logs as plain static files below the path of their origin, for public tooling: C2SP tlog-tiles.
//!
//! It needs no credential and gives no value that is personal or confidential: those are commitments. Whose logs
//! there are is known to whoever knows their origins. Off unless the plane is started with an address for it.

use std::net::SocketAddr;

use ::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use cogward_evidence::{Evidence, LogFile, LogName};
use cogward_model::TenantName;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{ListenError, http, plane::Plane};

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 512;

/// Who may keep an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everyone.
    Public,
    /// Whoever asked.
    Private,
}

/// A file of a log as an answer; `None` when the log has none of this name.
pub(crate) async fn file(
    evidence: &Evidence,
    log: &LogName,
    file: String,
    readers: Readers,
) -> std::io::Result<Option<Response>> {
    let headers = |kind: &'static str, caching: &'static str| {
        [
            (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
            (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ]
    };
    const TEXT: &str = "text/plain; charset=utf-8";
    if file == "log.vkey" && evidence.published(log).is_some() {
        let keys = evidence.verifying_keys(log).map_err(std::io::Error::other)?;
        return Ok(Some((headers(TEXT, "no-cache"), keys).into_response()));
    }
    if file == "keys.jsonl"
        && let Some(published) = evidence.published(log)
    {
        let statements = evidence.key_statements(log, published.size).map_err(std::io::Error::other)?;
        return Ok(statements.map(|statements| (headers(TEXT, "no-cache"), statements).into_response()));
    }
    let (evidence, log) = (evidence.clone(), log.clone());
    let found = tokio::task::spawn_blocking(move || evidence.log_file(&log, &file)).await;
    Ok(found.map_err(std::io::Error::other)??.map(|found| match found {
        LogFile::Checkpoint(checkpoint) => (headers(TEXT, "no-cache"), checkpoint.note.clone()).into_response(),
        LogFile::Tile { bytes, full } => {
            let caching = match (readers, full) {
                (Readers::Public, true) => "public, max-age=31536000, immutable",
                (Readers::Private, true) => "private, max-age=31536000, immutable",
                (Readers::Public, false) => "public, max-age=60",
                (Readers::Private, false) => "private, max-age=60",
            };
            (headers("application/octet-stream", caching), bytes).into_response()
        }
    }))
}

/// Takes the address, if one is given.
pub(crate) async fn bind(listen: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, ListenError> {
    match listen {
        Some(listen) => http::bind(listen).await.map(Some),
        None => Ok(None),
    }
}

/// Gives the logs out until the plane closes.
pub(crate) fn open((listener, address): (TcpListener, SocketAddr), app: &Plane) -> JoinHandle<()> {
    tracing::info!(%address, "logs are given out without a credential");
    let router = Router::new().fallback(any(answer)).with_state(app.evidence.clone());
    tokio::spawn(http::serve(listener, router, app.closing.clone()))
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

async fn answer(State(evidence): State<Evidence>, request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow: (HeaderName, HeaderValue) = (header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return ([allow], plain(StatusCode::METHOD_NOT_ALLOWED, "GET\n")).into_response();
    }
    let nothing = || plain(StatusCode::NOT_FOUND, "there is no such file\n");
    let Ok(origin) = evidence.origin(&LogName::Plane) else { return nothing() };
    let path = request.uri().path();
    let below = path.strip_prefix('/').and_then(|path| path.strip_prefix(&origin)).and_then(|p| p.strip_prefix('/'));
    let Some(below) = below.filter(|_| path.len() <= PATH_BYTES_MAX) else { return nothing() };
    // The plane log's own files first; no tenant's file has the name of one.
    match file(&evidence, &LogName::Plane, below.to_owned(), Readers::Public).await {
        Ok(Some(found)) => return found,
        Ok(None) => {}
        Err(error) => return failed(&error),
    }
    let Some((Ok(tenant), rest)) = below.split_once('/').map(|(name, rest)| (name.parse::<TenantName>(), rest)) else {
        return nothing();
    };
    match file(&evidence, &LogName::Tenant(tenant), rest.to_owned(), Readers::Public).await {
        Ok(Some(found)) => found,
        Ok(None) => nothing(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &std::io::Error) -> Response {
    tracing::error!(%error, "a file of a log cannot be read");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n")
}
