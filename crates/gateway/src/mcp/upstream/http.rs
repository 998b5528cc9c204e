//! A tool server over MCP streamable HTTP, as a client of it.
//!
//! TLS with the public roots, plain HTTP only to this host; no redirects, no proxy from the
//! environment, and no header but those made here: nothing that an agent sent reaches the server
//! except the parameters of an admitted call.

pub(super) mod connect;
mod reading;
mod stream;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cogward_model::UpstreamName;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::connect::{CONNECT, HttpClient};
pub(super) use self::reading::Reading;
use super::{
    RequestError, UpstreamError,
    credential::Credentials,
    exchange::{ClientCan, Heard, Peer, UpRequest},
    hub::{Hub, Origin},
    wire::{self, Offers},
};
use crate::{
    mcp::rpc::{self, Message},
    rooms::Room,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// Longest session id that is taken from a server.
const SESSION_BYTES_MAX: usize = 1_024;
/// Attempts of a request that changes nothing, where the connection breaks off: it may have been idle for too long.
const HARMLESS_ATTEMPTS: u32 = 2;
/// Headers of a request, with those that the client adds.
const HEADERS: usize = 10;
/// Steps of an exchange that wait for whoever asked.
pub(super) const HEARD_WAITING_MAX: usize = 64;
/// Longest body of an error status that is looked at.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Where a tool server is.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: HttpClient,
    uri: Uri,
    credentials: Credentials,
}

impl Endpoint {
    pub(super) fn new(url: &str, credentials: Credentials) -> Result<Self, String> {
        let (client, uri) = connect::to(url)?;
        Ok(Self { client, uri, credentials })
    }

    /// Whether the server speaks the stateless revision, and what it offers then.
    pub(super) async fn discover(
        &self,
        server: &UpstreamName,
        hub: &Arc<Hub>,
    ) -> Result<Option<Offers>, UpstreamError> {
        let session = Session::new(Core::new(self, server, hub, None, true));
        let request = UpRequest::plain("server/discover", b"{}");
        let ask = async || match session.begin(&request, ClientCan::NONE, None).await {
            Ok(reading) => super::exchange::Flow::Http(Box::new(reading)).answer(server).await,
            Err(error) => Err(error.into_inner()),
        };
        let mut answer = ask().await;
        if let Err(UpstreamError::Rejected { code: rpc::UNSUPPORTED_VERSION, data: Some(data), .. }) = &answer
            && wire::supports_modern(data)
        {
            // It names what it has just refused: it speaks this era, and is asked once more.
            answer = ask().await;
        }
        match answer {
            Ok(answer) => Ok(wire::discovered(&answer)),
            // Whoever is not let in, or not reached, has said nothing of eras.
            Err(error @ (UpstreamError::Unavailable { sent: false, .. } | UpstreamError::Unusable { .. })) => {
                Err(error)
            }
            Err(_) => Ok(None),
        }
    }

    /// A server of the stateless revision: there is nothing to begin.
    pub(super) fn stateless(&self, server: &UpstreamName, hub: &Arc<Hub>) -> Session {
        Session::new(Core::new(self, server, hub, None, true))
    }

    /// Greets a server with sessions.
    pub(super) async fn greet(
        &self,
        server: &UpstreamName,
        hub: &Arc<Hub>,
        peer: Peer,
    ) -> Result<(Session, Offers), UpstreamError> {
        let mut core = Core::new(self, server, hub, peer.own().then_some(peer), false);
        let can = if peer.own() { peer.can } else { ClientCan::NONE };
        let id = core.next_id();
        let body = rpc::request(Some(id), "initialize", &wire::greeting(can));
        let response = core.post(body.into(), &[], HARMLESS_ATTEMPTS).await.map_err(RequestError::into_inner)?;
        let session = match response.headers().get(SESSION) {
            Some(value) if value.len() <= SESSION_BYTES_MAX => Some(value.clone()),
            Some(_) => return Err(core.protocol("its session id is too long")),
            None => None,
        };
        let reading = Reading::of(Arc::new(core.clone_bare()), id, response, None)?;
        let answer = super::exchange::Flow::Http(Box::new(reading)).answer(server).await?;
        let (revision, offers) = wire::greeted(&answer).map_err(|cause| core.protocol(&cause))?;
        core.id = session;
        core.revision = Some(HeaderValue::from_static(revision));
        let session = Session::new(core);
        session.notify("notifications/initialized").await?;
        if session.core.origin.is_some() {
            session.listen().await;
        }
        Ok((session, offers))
    }
}

/// What requests on one session have in common.
pub(super) struct Core {
    endpoint: Endpoint,
    server: UpstreamName,
    hub: Arc<Hub>,
    /// Whose session it is, if it is a run's own.
    origin: Origin,
    modern: bool,
    id: Option<HeaderValue>,
    revision: Option<HeaderValue>,
    next: AtomicU64,
    /// The server does not know the session any more.
    lost: CancellationToken,
    /// Exchanges of a run's own session that hear what comes on its other stream.
    calls: Mutex<BTreeMap<u64, mpsc::Sender<Heard>>>,
}

/// A server that can be asked. The session ends with it.
pub(super) struct Session {
    core: Arc<Core>,
    listening: AtomicBool,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.end();
    }
}

impl Session {
    fn new(core: Core) -> Self {
        let stop = CancellationToken::new();
        Self { core: Arc::new(core), listening: AtomicBool::new(false), _stop: stop.clone().drop_guard(), stop }
    }

    /// Holds the stream open on which the server says what belongs to no request. Waits a moment for it: servers
    /// drop what they want to say while nobody listens.
    pub(super) async fn listen(&self) {
        if self.core.modern || self.listening.swap(true, Ordering::AcqRel) {
            return;
        }
        stream::listen(Arc::clone(&self.core), self.stop.clone()).await;
    }

    /// Sends a request and gives what is read from there on.
    pub(super) async fn begin(
        &self,
        request: &UpRequest<'_>,
        can: ClientCan,
        room: Option<Room>,
    ) -> Result<Reading, RequestError> {
        let core = &self.core;
        let id = core.next_id();
        let body = Bytes::from(wire::message(core.modern, id, request, can));
        let headers = core.headers_of(request);
        if core.origin.is_some() {
            // What is asked on the other stream may come before the answer's head.
            return Ok(Reading::sending(Arc::clone(core), id, body, headers, room));
        }
        // It only asks what the server speaks.
        let attempts = if request.method == "server/discover" { HARMLESS_ATTEMPTS } else { 1 };
        let response = core.post(body, &headers, attempts).await?;
        Ok(Reading::of(Arc::clone(core), id, response, room)?)
    }

    pub(super) async fn notify(&self, method: &'static str) -> Result<(), UpstreamError> {
        let body = rpc::request(None, method, b"{}").into();
        let response = self.core.post(body, &[], HARMLESS_ATTEMPTS).await.map_err(RequestError::into_inner)?;
        drop(response);
        Ok(())
    }

    /// Opens a stream of changes in the stateless era, which are told to `hub`.
    pub(super) async fn subscribe(&self, params: &[u8], hub: &Arc<Hub>) -> Result<stream::Changes, UpstreamError> {
        let core = Arc::new(Core::new(&self.core.endpoint, &self.core.server, hub, None, true));
        let request = UpRequest::plain("subscriptions/listen", params);
        let body = Bytes::from(wire::message(true, core.next_id(), &request, ClientCan::NONE));
        let response =
            core.post(body, &core.headers_of(&request), HARMLESS_ATTEMPTS).await.map_err(RequestError::into_inner)?;
        stream::Changes::of(core, response)
    }

    /// When the server does not know the session any more.
    pub(super) async fn lost(&self) {
        self.core.lost.cancelled().await;
    }
}

impl Core {
    fn new(endpoint: &Endpoint, server: &UpstreamName, hub: &Arc<Hub>, origin: Origin, modern: bool) -> Self {
        Self {
            endpoint: endpoint.clone(),
            server: server.clone(),
            hub: Arc::clone(hub),
            origin,
            modern,
            id: None,
            revision: modern.then(|| HeaderValue::from_static(wire::MODERN)),
            next: AtomicU64::new(1),
            lost: CancellationToken::new(),
            calls: Mutex::default(),
        }
    }

    /// The same without a session, for the greeting.
    fn clone_bare(&self) -> Self {
        let core = Self::new(&self.endpoint, &self.server, &self.hub, None, self.modern);
        core.next.store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
        core
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<u64, mpsc::Sender<Heard>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn headers_of(&self, request: &UpRequest<'_>) -> Vec<(HeaderName, HeaderValue)> {
        if !self.modern {
            return Vec::new();
        }
        let mut headers = Vec::with_capacity(2 + request.mirrored.len());
        headers.push((METHOD, HeaderValue::from_static(request.method)));
        headers.extend(request.name.and_then(wire::header_value).map(|name| (NAME, name)));
        headers.extend(request.mirrored.iter().cloned());
        headers
    }

    async fn asking(
        &self,
        method: Method,
        body: Bytes,
        more: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<Full<Bytes>>, UpstreamError> {
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = self.endpoint.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        } else {
            headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        let session = self.id.iter().map(|id| (SESSION, id));
        let revision = self.revision.iter().map(|revision| (REVISION, revision));
        let more = more.iter().map(|(name, value)| (name.clone(), value));
        for (name, value) in session.chain(revision).chain(more) {
            headers.append(name, value.clone());
        }
        // Last, so that nothing else can stand in their place.
        self.endpoint.credentials.put(&self.server, headers).await?;
        *request.method_mut() = method;
        Ok(request)
    }

    /// Sends what the server has to act upon, `attempts` times at most where the connection breaks off.
    async fn post(
        &self,
        body: Bytes,
        more: &[(HeaderName, HeaderValue)],
        mut attempts: u32,
    ) -> Result<Response<Incoming>, RequestError> {
        let mut renewed = false;
        loop {
            let request = self.asking(Method::POST, body.clone(), more).await?;
            attempts = attempts.saturating_sub(1);
            let response = match self.endpoint.client.request(request).await {
                Err(error) if attempts > 0 && !error.is_connect() => continue,
                response => response.map_err(|error| self.unreached(&error))?,
            };
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            // A token that is not taken any more: nothing was acted upon, and there may be another.
            if status == StatusCode::UNAUTHORIZED && !renewed && self.endpoint.credentials.renew() {
                renewed = true;
                continue;
            }
            return Err(Box::pin(self.refused(status, response)).await);
        }
    }

    /// Asks for a stream of what belongs to no request, or for the rest of one that broke off.
    async fn get(&self, last: Option<&str>) -> Result<Response<Incoming>, UpstreamError> {
        let last = last.and_then(|last| HeaderValue::from_str(last).ok()).map(|last| (LAST_EVENT, last));
        let request = self.asking(Method::GET, Bytes::new(), last.as_slice()).await?;
        self.endpoint.client.request(request).await.map_err(|error| self.unreached(&error))
    }

    fn unreached(&self, error: &hyper_util::client::legacy::Error) -> UpstreamError {
        let sent = !error.is_connect();
        let cause = if sent { "the connection broke off" } else { "no connection to it can be made" };
        tracing::debug!(server = %self.server, %error, "tool server not reached");
        UpstreamError::Unavailable { server: self.server.clone(), cause: cause.to_owned(), sent }
    }

    async fn refused(&self, status: StatusCode, response: Response<Incoming>) -> RequestError {
        let refused = |cause: String, sent| UpstreamError::Unavailable { server: self.server.clone(), cause, sent };
        if self.id.is_some() && matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
            self.lost.cancel();
        }
        match status {
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
            _ => match self.refusal(status, response).await {
                // It speaks the other era now.
                error @ UpstreamError::Rejected { code: rpc::UNSUPPORTED_VERSION, .. } if self.modern => {
                    RequestError::NotTaken(error)
                }
                error => error.into(),
            },
        }
    }

    /// An error status; the body may be a JSON-RPC error that says why.
    async fn refusal(&self, status: StatusCode, response: Response<Incoming>) -> UpstreamError {
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect();
        let body = tokio::time::timeout(CONNECT, body).await.ok().and_then(Result::ok);
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if let Ok(Message { error: Some(error), .. }) = Message::parse(&body) {
            return UpstreamError::rejected(&self.server, &error);
        }
        let cause = format!("it answered with status {status}");
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent: true }
    }

    /// Sends what nobody waits for: answers to what the server asked, and that a request is given up.
    pub(super) fn send_aside(self: &Arc<Self>, message: Bytes) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let sent = async {
                let request = core.asking(Method::POST, message, &[]).await?;
                core.endpoint.client.request(request).await.map_err(|error| core.unreached(&error))
            };
            // The server only waits for it; what it says to it changes nothing.
            let _ = tokio::time::timeout(CONNECT, sent).await;
        });
    }

    /// Tells the server that its session is not needed any more.
    fn end(self: &Arc<Self>) {
        let (Some(_), Ok(runtime)) = (&self.id, tokio::runtime::Handle::try_current()) else { return };
        let core = Arc::clone(self);
        runtime.spawn(async move {
            let sent = async {
                let request = core.asking(Method::DELETE, Bytes::new(), &[]).await?;
                core.endpoint.client.request(request).await.map_err(|error| core.unreached(&error))
            };
            let _ = tokio::time::timeout(CONNECT, sent).await;
        });
    }

    fn broken(&self) -> UpstreamError {
        let cause = "its answer broke off".to_owned();
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent: true }
    }

    fn protocol(&self, cause: &str) -> UpstreamError {
        UpstreamError::Protocol { server: self.server.clone(), cause: cause.to_owned() }
    }
}

/// The media type of a response, in lower case.
fn media_type(response: &Response<Incoming>) -> String {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase()
}
