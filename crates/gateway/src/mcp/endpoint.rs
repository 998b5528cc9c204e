//! The HTTP side of a run's MCP endpoint: who may post what, and which era it speaks.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cogward_model::limits::REQUEST_BYTES_MAX;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Shape},
    caller::Caller,
    is_loopback, legacy, modern,
    rpc::{self, Message, MessageError},
};
use crate::{
    Inner,
    body::{self, AgentBody},
    rooms::Held,
    run::RunContext,
};

/// The stateless revision.
pub(super) const STATELESS: &str = "2026-07-28";
/// The revisions with sessions, newest first.
pub(super) const WITH_SESSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
/// The session of a request.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// The revision of a request.
pub(super) const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The path of the endpoint.
const PATH: &str = "/mcp";

/// A request of an agent that is one well-formed message.
pub(super) struct Asked<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) id: Option<&'a RawValue>,
    pub(super) method: &'a str,
    pub(super) params: Params<'a>,
}

/// The parameters that the methods served here have.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Params<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) uri: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ref")]
    pub(super) reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) argument: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) level: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) task_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "rpc::present")]
    pub(super) input_responses: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) request_state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) notifications: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) capabilities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "_meta")]
    pub(super) meta: Option<&'a RawValue>,
}

impl<'a> Params<'a> {
    fn read(raw: &'a RawValue) -> Option<Self> {
        // A list would be read as the parameters in their order.
        raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten()
    }
}

/// Answers one HTTP request.
pub(super) async fn serve(inner: Arc<Inner>, run: Arc<RunContext>, request: Request<Incoming>) -> Response<AgentBody> {
    let (head, incoming) = request.into_parts();
    if let Err(why) = from_here(&head) {
        return refused(StatusCode::FORBIDDEN, None, rpc::INVALID_REQUEST, why);
    }
    if head.uri.path() != PATH {
        return refused(StatusCode::NOT_FOUND, None, rpc::INVALID_REQUEST, "the MCP endpoint is /mcp");
    }
    match head.method {
        Method::POST => {}
        // Only the era with sessions has these, and only in a session.
        Method::GET | Method::DELETE if !head.headers.contains_key(&SESSION) || says_stateless(&head.headers) => {
            return not_allowed();
        }
        Method::GET => return legacy::listen(&inner, &run, &head.headers).await,
        Method::DELETE => return legacy::end(&run, &head.headers),
        _ => return not_allowed(),
    }
    if let Err((status, why)) = exchangeable(&head.headers) {
        return refused(status, None, rpc::INVALID_REQUEST, why);
    }
    if incoming.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, None, rpc::INVALID_REQUEST, "the request is too long");
    }
    let _room = run.room(incoming.size_hint().upper()).await;
    let bytes = match body::read(incoming, REQUEST_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(refusal) => {
            return refused(StatusCode::BAD_REQUEST, None, rpc::INVALID_REQUEST, &refusal.sentence());
        }
    };
    let message = match Message::parse(&bytes) {
        Ok(message) => message,
        Err(error) => {
            let code = if matches!(error, MessageError::Json(_)) { rpc::PARSE_ERROR } else { rpc::INVALID_REQUEST };
            return refused(StatusCode::BAD_REQUEST, None, code, &error.to_string());
        }
    };
    message_in(&inner, &run, &head.headers, &bytes, &message).await
}

async fn message_in(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    headers: &HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Response<AgentBody> {
    let Some(method) = message.method.as_deref() else {
        return legacy::answered(run, headers, body, message);
    };
    let params = match message.params.map(Params::read) {
        None => Params::default(),
        Some(Some(params)) => params,
        Some(None) => {
            let text = "the parameters are not an object, or one of them is of the wrong type";
            return refused(StatusCode::BAD_REQUEST, message.id, rpc::INVALID_PARAMS, text);
        }
    };
    let revision = match single(headers, &REVISION) {
        Ok(revision) => revision,
        Err(why) => return refused(StatusCode::BAD_REQUEST, message.id, rpc::HEADER_MISMATCH, &why),
    };
    let asked = Asked { headers, body, id: message.id, method, params };
    let with_session = revision.is_none_or(|revision| WITH_SESSIONS.contains(&revision));
    let stateless = asked.params.meta.is_some_and(modern::is_marked) || method == "server/discover";
    if stateless || !with_session {
        modern::answer(inner, run, revision, &asked).await
    } else {
        legacy::answer(inner, run, &asked).await
    }
}

fn says_stateless(headers: &HeaderMap) -> bool {
    matches!(single(headers, &REVISION), Ok(Some(STATELESS)))
}

/// A web page that reached this address by a name of its own is not the agent.
fn from_here(head: &Parts) -> Result<(), &'static str> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err("exactly one `Host` is needed"),
    };
    let named = head.uri.authority().map_or(host, |authority| authority.as_str());
    if !is_loopback(host_of(host)) || !is_loopback(host_of(named)) {
        return Err("`Host` is not this endpoint");
    }
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    match (origins.next().map(|origin| origin.to_str().unwrap_or_default()), origins.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) => {
            let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            match rest {
                Some(rest) if is_loopback(host_of(rest)) => Ok(()),
                _ => Err("`Origin` is not this host"),
            }
        }
        _ => Err("more than one `Origin`"),
    }
}

/// The host of `host:port`, with the brackets of IPv6.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

fn exchangeable(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let media = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(media);
    if kind.as_deref() != Some("application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `content-type: application/json`"));
    }
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).map(media).peekable();
    if kinds.peek().is_some() && !kinds.any(|k| matches!(k.as_str(), "application/json" | "application/*" | "*/*")) {
        return Err((StatusCode::NOT_ACCEPTABLE, "send `accept: application/json, text/event-stream`"));
    }
    Ok(())
}

/// The one value of a header.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| format!("`{name}` is not plain text")),
        _ => Err(format!("`{name}` is there more than once")),
    }
}

/// A header value, out of its Base64 form if it has it.
pub(super) fn decoded(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    STANDARD.decode(inner).ok().and_then(|bytes| String::from_utf8(bytes).ok()).map(Cow::Owned)
}

/// A JSON answer.
pub(super) fn ok(bytes: Bytes) -> Response<AgentBody> {
    body::json(StatusCode::OK, bytes)
}

/// An answer, as its caller's era wants it.
pub(super) fn respond(answer: Answer, caller: &Caller, shape: Shape) -> Response<AgentBody> {
    let (status, message, room) = answer.message(caller, shape);
    body::json(status, Held::bind(room, message))
}

/// A protocol error.
pub(super) fn refused(status: StatusCode, id: Option<&RawValue>, code: i64, why: &str) -> Response<AgentBody> {
    body::json(status, rpc::error(id, code, why, None))
}

fn not_allowed() -> Response<AgentBody> {
    let mut response = body::empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static("POST, GET, DELETE"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(host: &[&str], origin: &[&str]) -> Parts {
        let mut request = Request::builder().uri("/mcp");
        for host in host {
            request = request.header("host", *host);
        }
        for origin in origin {
            request = request.header("origin", *origin);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_this_host_is_answered() {
        for host in ["127.0.0.1:28472", "localhost:1", "[::1]:9", "127.0.0.1"] {
            assert!(from_here(&head(&[host], &[])).is_ok(), "{host}");
        }
        for host in ["evil.example:28472", "127.0.0.1.evil.example", "", "localhost.evil.example:80", "169.254.169.254"]
        {
            assert!(from_here(&head(&[host], &[])).is_err(), "{host}");
        }
        assert!(from_here(&head(&[], &[])).is_err());
        assert!(from_here(&head(&["localhost", "localhost"], &[])).is_err());
        for origin in ["http://127.0.0.1:5000", "https://localhost", "http://[::1]:3"] {
            assert!(from_here(&head(&["localhost"], &[origin])).is_ok(), "{origin}");
        }
        for origin in ["null", "http://evil.example", "file://", "http://localhost.evil.example", "localhost", ""] {
            assert!(from_here(&head(&["localhost"], &[origin])).is_err(), "{origin}");
        }
        assert!(from_here(&head(&["localhost"], &["http://localhost", "http://localhost"])).is_err());
    }

    #[test]
    fn encoded_names_are_decoded_and_broken_ones_refused() {
        assert_eq!(decoded("read_file").as_deref(), Some("read_file"));
        assert_eq!(decoded("=?base64?IHBhZGRlZCA=?=").as_deref(), Some(" padded "));
        assert_eq!(decoded("=?base64?***?="), None);
    }
}
