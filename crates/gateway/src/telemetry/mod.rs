//! OpenTelemetry exports of an agent (OTLP over HTTP, protobuf or JSON), received on the model listener.
//!
//! What an unmodified SDK sends to `/otlp/v1/{traces,metrics,logs}` is bounded, checked to be OTLP, marked with the
//! run that it came from, and kept in the run's directory. It is operational data and the agent's own word: it decides
//! nothing and is no evidence; how many exports there were is counted when the run is closed.

mod file;
mod text;
mod wire;

use std::{
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{
    Timestamp,
    decision::{Refusal, RefusalCode},
    limits::{
        RUN_TELEMETRY_BYTES_MAX, TELEMETRY_BURST, TELEMETRY_INFLATED_BYTES_MAX, TELEMETRY_INTERVAL_MS,
        TELEMETRY_REQUEST_BYTES_MAX,
    },
};
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use self::file::Kept;
pub use self::file::{FILE, lines};
use crate::{
    Inner,
    body::{self, AgentBody},
    run::RunContext,
};

/// Where an SDK exports to, before `/v1/traces`.
pub const PATH: &str = "/otlp";
/// Resources in one export; each of them is marked, so many empty ones would grow by it.
const GROUPS_MAX: usize = 1_000;
/// Exports of all runs that are read at once.
pub(crate) const READ_AT_ONCE: usize = 4;
/// Attributes of a resource that only the plane sets.
const OURS: &str = "cogward.";

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
    Logs,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// An export that was read.
#[derive(Debug)]
struct Export {
    bytes: Vec<u8>,
    items: u64,
}

/// Why an export is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Invalid {
    #[error("the body is not an OTLP export of this signal")]
    Form,
    #[error("the export has too many parts")]
    TooMany,
    #[error("the body is not gzip")]
    Gzip,
    #[error("the export is longer than {TELEMETRY_INFLATED_BYTES_MAX} bytes when it is unpacked")]
    TooLong,
    #[error("the plane could not keep the export")]
    Unkept,
}

/// What was received of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TelemetryCount {
    /// Exports that are kept.
    pub exports: u64,
    /// Spans, metrics and log records in them.
    pub items: u64,
    /// Spans, metrics and log records for which there was no room.
    pub dropped: u64,
}

/// The telemetry of one run.
#[derive(Debug)]
pub(crate) struct Telemetry {
    path: PathBuf,
    kept: Mutex<Option<Kept>>,
    dropped: AtomicU64,
    paid_until: Mutex<Option<Instant>>,
}

impl Signal {
    fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/traces" => Self::Traces,
            "/v1/metrics" => Self::Metrics,
            "/v1/logs" => Self::Logs,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Traces => 1,
            Self::Metrics => 2,
            Self::Logs => 3,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Traces, Self::Metrics, Self::Logs].into_iter().find(|signal| signal.byte() == byte)
    }
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match kind.split(';').next()?.trim().to_ascii_lowercase().as_str() {
            "application/x-protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    fn media(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }

    fn byte(self) -> u8 {
        match self {
            Self::Protobuf => 1,
            Self::Json => 2,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Protobuf, Self::Json].into_iter().find(|encoding| encoding.byte() == byte)
    }
}

impl Telemetry {
    /// Kept at `path`, which is opened with the first export.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, kept: Mutex::default(), dropped: AtomicU64::new(0), paid_until: Mutex::default() }
    }

    /// What was received. The file says it for what came under earlier planes.
    pub(crate) fn count(&self) -> TelemetryCount {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (exports, items) = match &*kept {
            Some(kept) => (kept.exports, kept.items),
            None if self.path.exists() => {
                Kept::open(&self.path).map(|kept| (kept.exports, kept.items)).unwrap_or_default()
            }
            None => (0, 0),
        };
        TelemetryCount { exports, items, dropped: self.dropped.load(Ordering::Relaxed) }
    }

    /// How long to wait before the next export, if it comes too early.
    fn early(&self, now: Instant) -> Option<Duration> {
        const TIME: Duration = Duration::from_millis(TELEMETRY_INTERVAL_MS);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let next = paid_until.map_or(now, |until| until.max(now)) + TIME;
        match next.checked_sub(TIME * TELEMETRY_BURST).and_then(|at| at.checked_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Some(wait),
            _ => {
                *paid_until = Some(next);
                None
            }
        }
    }

    /// Unpacks, checks, marks and keeps an export; gives the answer's body.
    fn receive(
        &self,
        run: &RunContext,
        (signal, encoding): (Signal, Encoding),
        packed: bool,
        bytes: &Bytes,
        now: Timestamp,
    ) -> Result<Vec<u8>, Invalid> {
        let inflated = if packed { Some(inflate(bytes)?) } else { None };
        let bytes = inflated.as_deref().unwrap_or(bytes);
        let ours = marks(run);
        let export = match encoding {
            Encoding::Protobuf => wire::read(signal, bytes, &ours)?,
            Encoding::Json => text::read(signal, bytes, &ours)?,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let unkept = |error: std::io::Error| {
            tracing::warn!(run = %run.grant.run, %error, "telemetry of a run could not be kept");
            Invalid::Unkept
        };
        let file = match &mut *kept {
            Some(file) => file,
            None => kept.insert(Kept::open(&self.path).map_err(unkept)?),
        };
        if file.add((signal, encoding), now, export.items, &export.bytes).map_err(unkept)? {
            return Ok(match encoding {
                Encoding::Protobuf => Vec::new(),
                Encoding::Json => b"{}".to_vec(),
            });
        }
        drop(kept);
        self.dropped.fetch_add(export.items, Ordering::Relaxed);
        Ok(dropped((signal, encoding), export.items))
    }
}

/// That there is no room is said in a way that ends the matter: a client that tried again would only be in the way.
fn dropped((signal, encoding): (Signal, Encoding), items: u64) -> Vec<u8> {
    let why = format!("dropped: the run has {RUN_TELEMETRY_BYTES_MAX} bytes of telemetry, which is all that is kept");
    let name = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    };
    match encoding {
        Encoding::Protobuf => wire::dropped(items, &why),
        Encoding::Json => serde_json::json!({"partialSuccess": {name: items.to_string(), "errorMessage": why}})
            .to_string()
            .into_bytes(),
    }
}

/// Who it is, as the plane knows it.
fn marks(run: &RunContext) -> [(&'static str, String); 4] {
    let grant = &run.grant;
    [
        ("cogward.run.id", grant.run.to_string()),
        ("cogward.tenant", grant.tenant.to_string()),
        ("cogward.agent", grant.agent.to_string()),
        ("cogward.version", grant.version.to_string()),
    ]
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, Invalid> {
    let most = u64::try_from(TELEMETRY_INFLATED_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(packed).take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|_| Invalid::Gzip)?;
    if bytes.len() > TELEMETRY_INFLATED_BYTES_MAX { Err(Invalid::TooLong) } else { Ok(bytes) }
}

/// Whether a path is one that is exported to.
pub(crate) fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers an export. A run whose manifest does not accept telemetry has nothing here.
pub(crate) async fn serve(inner: Arc<Inner>, run: Arc<RunContext>, request: Request<Incoming>) -> Response<AgentBody> {
    let (head, incoming) = request.into_parts();
    let signal = head.uri.path().strip_prefix(PATH).and_then(Signal::of_path);
    let (Some(signal), true) = (signal, run.telemetry.is_some()) else {
        return answer(StatusCode::NOT_FOUND, "there is nothing to export to here");
    };
    if head.method != Method::POST {
        return answer(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let Some(encoding) = Encoding::of(&head.headers) else {
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/x-protobuf or application/json");
    };
    let packed = match head.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => false,
        Some(b"gzip") => true,
        Some(_) => return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it as it is, or packed with gzip"),
    };
    if let Some(wait) = run.telemetry.as_ref().and_then(|telemetry| telemetry.early(Instant::now())) {
        let mut response = answer(StatusCode::TOO_MANY_REQUESTS, "too many exports; send fewer and larger ones");
        let seconds = wait.as_secs().saturating_add(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    // Unpacked it is larger than it came.
    let room = run.room(Some(TELEMETRY_INFLATED_BYTES_MAX as u64)).await;
    let bytes = match body::read(incoming, TELEMETRY_REQUEST_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(refusal) => return answer(status_of(&refusal), &refusal.sentence()),
    };
    let now = inner.gate.now();
    let turn = Arc::clone(&inner.exports).acquire_owned().await;
    let received = tokio::task::spawn_blocking(move || {
        let _held = (room, turn);
        let telemetry = run.telemetry.as_ref().ok_or(Invalid::Unkept)?;
        telemetry.receive(&run, (signal, encoding), packed, &bytes, now)
    });
    match received.await.unwrap_or(Err(Invalid::Unkept)) {
        Ok(bytes) => {
            let mut response = Response::new(body::full(bytes));
            response.headers_mut().insert(header::CONTENT_TYPE, encoding.media());
            response
        }
        Err(why @ Invalid::Unkept) => answer(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
        Err(why @ Invalid::TooLong) => answer(StatusCode::PAYLOAD_TOO_LARGE, &why.to_string()),
        Err(why) => answer(StatusCode::BAD_REQUEST, &why.to_string()),
    }
}

fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal.code {
        RefusalCode::InvalidRequest if refusal.detail.contains("longer than") => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn answer(status: StatusCode, why: &str) -> Response<AgentBody> {
    let mut response = Response::new(body::full(why.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod fuzzed;
#[cfg(test)]
pub(crate) use fuzzed::export as fuzz_export;
#[cfg(test)]
mod tests;
