//! A tool server over MCP streamable HTTP, as a client of it.
//!
//! TLS with the public roots, plain HTTP only to this host; no redirects, no proxy from the
//! environment, and no header but those made here: nothing that an agent sent reaches the server
//! except the parameters of an admitted call.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cogward_model::{UpstreamName, limits::RESPONSE_BYTES_MAX};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::{Reply, RequestError, UpstreamError, sse::Events};
use crate::{
    mcp::rpc::{self, Message},
    rooms::{Growing, Held, Room},
    upstreams::Credential,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Longest session id that is taken from a server.
const SESSION_BYTES_MAX: usize = 1_024;
/// Time to open a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Requests of the server that are answered within one stream.
const ASKED_BACK_MAX: u32 = 32;
/// Headers of a request, with those that the client adds.
const HEADERS: usize = 8;
/// Time for the rest of a stream whose answer is already here, so that its connection can be used again.
const REST: Duration = Duration::from_millis(500);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Where a tool server is.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: HttpClient,
    uri: Uri,
    credential: Option<(HeaderName, HeaderValue)>,
}

impl Endpoint {
    pub(super) fn new(url: &str, header: Option<&str>, credential: Option<&Credential>) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "`url` is not a URL".to_owned())?;
        let host = uri.host().unwrap_or_default();
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || host.is_empty() {
            return Err("`url` must name a host and no user".to_owned());
        }
        let plain = uri.scheme() == Some(&Scheme::HTTP);
        if !plain && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err("`url` must start with https://, or with http:// when it is on this host".to_owned());
        }
        if plain && !crate::mcp::is_loopback(host) {
            return Err("`url` may be http:// only for a loopback address; use https://".to_owned());
        }
        let credential = credential.map(|secret| header_of(header, secret)).transpose()?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(tls);
        Ok(Self { client, uri, credential })
    }

    /// Greets the server: a session, and its answer to `initialize`.
    pub(super) async fn open(&self, server: &UpstreamName, greeting: &[u8]) -> Result<(Session, Bytes), UpstreamError> {
        let mut session = Session {
            endpoint: self.clone(),
            server: server.clone(),
            id: None,
            revision: None,
            next: AtomicU64::new(1),
        };
        let id = session.next_id();
        let body = rpc::request(Some(id), "initialize", greeting);
        let response = session.post(body.into()).await.map_err(RequestError::into_inner)?;
        session.id = match response.headers().get(SESSION) {
            Some(value) if value.len() <= SESSION_BYTES_MAX => Some(value.clone()),
            Some(_) => return Err(session.protocol("its session id is too long")),
            None => None,
        };
        let answer = session.answer(id, response, None).await?;
        Ok((session, answer.result))
    }
}

fn header_of(name: Option<&str>, secret: &Credential) -> Result<(HeaderName, HeaderValue), String> {
    let (name, text) = match name {
        None => (header::AUTHORIZATION, zeroize::Zeroizing::new(format!("Bearer {}", secret.expose()))),
        Some(name) => {
            let name = name.parse::<HeaderName>().map_err(|_| "`credential_header` is not a header name".to_owned())?;
            let taken = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TRANSFER_ENCODING];
            if taken.contains(&name) || name == header::CONNECTION || name == SESSION || name == REVISION {
                return Err(format!("`credential_header` cannot be `{name}`"));
            }
            (name, zeroize::Zeroizing::new(secret.expose().to_owned()))
        }
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| "the credential cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// A greeted server.
pub(super) struct Session {
    endpoint: Endpoint,
    server: UpstreamName,
    id: Option<HeaderValue>,
    revision: Option<HeaderValue>,
    next: AtomicU64,
}

impl Session {
    pub(super) fn set_revision(&mut self, revision: &'static str) {
        self.revision = Some(HeaderValue::from_static(revision));
    }

    pub(super) async fn request(
        &self,
        method: &'static str,
        params: &[u8],
        room: Option<&Room>,
    ) -> Result<Reply, RequestError> {
        let id = self.next_id();
        let response = self.post(rpc::request(Some(id), method, params).into()).await?;
        Ok(self.answer(id, response, room).await?)
    }

    pub(super) async fn notify(&self, method: &'static str) -> Result<(), UpstreamError> {
        let response = self.post(rpc::request(None, method, b"{}").into()).await.map_err(RequestError::into_inner)?;
        drop(response);
        Ok(())
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn asking(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let own = self.endpoint.credential.iter().map(|(name, value)| (name.clone(), value));
        let session = self.id.iter().map(|id| (SESSION, id));
        let revision = self.revision.iter().map(|revision| (REVISION, revision));
        for (name, value) in own.chain(session).chain(revision) {
            headers.append(name, value.clone());
        }
        request
    }

    async fn post(&self, body: Bytes) -> Result<Response<Incoming>, RequestError> {
        let response = self.endpoint.client.request(self.asking(body)).await.map_err(|error| {
            let sent = !error.is_connect();
            let cause = if sent { "the connection broke off" } else { "no connection to it can be made" };
            tracing::debug!(server = %self.server, %error, "tool server not reached");
            UpstreamError::Unavailable { server: self.server.clone(), cause: cause.to_owned(), sent }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let refused = |cause: String, sent| UpstreamError::Unavailable { server: self.server.clone(), cause, sent };
        Err(match status {
            // The session is over; the request was not looked at.
            StatusCode::NOT_FOUND if self.id.is_some() => {
                RequestError::NotTaken(refused("its session is over".to_owned(), false))
            }
            // Some servers answer a forgotten session so; either way it was not acted upon.
            StatusCode::BAD_REQUEST if self.id.is_some() => {
                RequestError::NotTaken(self.refusal(status, response).await)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                refused(format!("it does not accept the plane's credential (status {status})"), false).into()
            }
            _ if status.is_redirection() => refused("it redirects, which is not followed".to_owned(), false).into(),
            _ => self.refusal(status, response).await.into(),
        })
    }

    /// An error status; the body may be a JSON-RPC error that says why.
    async fn refusal(&self, status: StatusCode, response: Response<Incoming>) -> UpstreamError {
        let body = Limited::new(response.into_body(), 64 * 1024).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        if let Ok(Message { error: Some(error), .. }) = Message::parse(&body) {
            return UpstreamError::Rejected {
                server: self.server.clone(),
                code: error.code,
                message: rpc::shown(&error.message, 1_000),
            };
        }
        let cause = format!("it answered with status {status}");
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent: true }
    }

    async fn answer(&self, id: u64, response: Response<Incoming>, room: Option<&Room>) -> Result<Reply, UpstreamError> {
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => {
                let (body, room) = self.whole(response.into_body(), room).await?;
                match self.outcome(id, &body)? {
                    Some(result) => Ok(Reply { result, room }),
                    None => Err(self.protocol("it answered something else than what was asked")),
                }
            }
            "text/event-stream" => self.streamed(id, response.into_body(), room).await,
            _ => Err(self.protocol("its answer is neither JSON nor an event stream")),
        }
    }

    async fn whole(&self, mut body: Incoming, room: Option<&Room>) -> Result<(Bytes, Option<Held>), UpstreamError> {
        let mut growing = Taking::begin(room, body.size_hint().exact()).await.ok_or_else(|| self.broken(false))?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(|_| self.broken(false))?.into_data() else { continue };
            if bytes.len() + part.len() > RESPONSE_BYTES_MAX {
                return Err(self.broken(true));
            }
            growing.reach(bytes.len() + part.len()).await.ok_or_else(|| self.broken(false))?;
            bytes.extend_from_slice(&part);
        }
        let held = growing.finish(bytes.len()).await.ok_or_else(|| self.broken(false))?;
        Ok((bytes.freeze(), held))
    }

    async fn streamed(&self, id: u64, mut body: Incoming, room: Option<&Room>) -> Result<Reply, UpstreamError> {
        let mut growing = Taking::begin(room, None).await.ok_or_else(|| self.broken(false))?;
        let mut events = Events::new(RESPONSE_BYTES_MAX);
        let (mut total, mut asked_back, mut ready) = (0_usize, 0_u32, Vec::new());
        loop {
            let Some(frame) = body.frame().await else { return Err(self.broken(false)) };
            let Ok(part) = frame.map_err(|_| self.broken(false))?.into_data() else { continue };
            total = total.saturating_add(part.len());
            if total <= RESPONSE_BYTES_MAX {
                growing.reach(total).await.ok_or_else(|| self.broken(false))?;
            }
            if total > RESPONSE_BYTES_MAX || events.feed(&part, &mut ready).is_err() {
                return Err(self.broken(true));
            }
            for event in ready.drain(..) {
                if event.is_empty() {
                    continue;
                }
                if let Some(result) = self.outcome(id, &event)? {
                    let room = growing.finish(event.len()).await.ok_or_else(|| self.broken(false))?;
                    tokio::spawn(finish(body));
                    return Ok(Reply { result, room });
                }
                if let Some(reply) = asked_back_reply(&event) {
                    asked_back += 1;
                    if asked_back > ASKED_BACK_MAX {
                        return Err(self.protocol("it asks back without end"));
                    }
                    self.send_aside(reply);
                }
            }
        }
    }

    /// The result in a message, if it is the answer to `id`.
    fn outcome(&self, id: u64, bytes: &Bytes) -> Result<Option<Bytes>, UpstreamError> {
        let message = Message::parse(bytes).map_err(|error| self.protocol(&error.to_string()))?;
        let ours = message.id.and_then(|raw| raw.get().parse::<u64>().ok()) == Some(id);
        match (message.method, message.result, message.error) {
            (None, Some(result), _) if ours => Ok(Some(bytes.slice_ref(result.get().as_bytes()))),
            (None, None, Some(error)) if ours => Err(UpstreamError::Rejected {
                server: self.server.clone(),
                code: error.code,
                message: rpc::shown(&error.message, 1_000),
            }),
            _ => Ok(None),
        }
    }

    fn send_aside(&self, reply: Bytes) {
        let (client, request) = (self.endpoint.client.clone(), self.asking(reply));
        tokio::spawn(async move {
            // The server only waits for it; what it says to it changes nothing.
            let _ = tokio::time::timeout(CONNECT, client.request(request)).await;
        });
    }

    fn broken(&self, too_long: bool) -> UpstreamError {
        if too_long {
            return self.protocol(&format!("its answer is longer than {RESPONSE_BYTES_MAX} bytes"));
        }
        let cause = "its answer broke off".to_owned();
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent: true }
    }

    fn protocol(&self, cause: &str) -> UpstreamError {
        UpstreamError::Protocol { server: self.server.clone(), cause: cause.to_owned() }
    }
}

/// Room that an answer takes as it grows, if it takes any.
struct Taking<'a>(Option<Growing<'a>>);

impl<'a> Taking<'a> {
    async fn begin(room: Option<&'a Room>, length: Option<u64>) -> Option<Self> {
        match room {
            Some(room) => Some(Self(Some(room.answer(length).await?))),
            None => Some(Self(None)),
        }
    }

    async fn reach(&mut self, length: usize) -> Option<()> {
        match &mut self.0 {
            Some(growing) => growing.reach(length).await,
            None => Some(()),
        }
    }

    /// `Some(None)` where no room is taken.
    async fn finish(self, length: usize) -> Option<Option<Held>> {
        match self.0 {
            Some(growing) => growing.finish(length).await.map(Some),
            None => Some(None),
        }
    }
}

/// What a request of the server within a stream is answered with: nothing but `ping` is offered.
fn asked_back_reply(bytes: &[u8]) -> Option<Bytes> {
    let message = Message::parse(bytes).ok()?;
    let (method, id) = (message.method?, message.id?);
    let text = "the plane offers no such method to tool servers";
    Some(match &*method {
        "ping" => rpc::result(id, b"{}"),
        _ => rpc::error(Some(id), rpc::METHOD_NOT_FOUND, text, None),
    })
}

async fn finish(mut body: Incoming) {
    let rest = async {
        for _ in 0..16 {
            if !matches!(body.frame().await, Some(Ok(_))) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REST, rest).await;
}
