//! One tool server, as a client of it: connected when first used, connected again when it broke off.
//!
//! A call goes out only for an [`Admitted`] tool call. Nothing here repeats a call that may have had
//! an effect; what is certain not to have left the plane, or to have been refused for an expired
//! session, is sent once more.

mod http;
pub(super) mod sse;
mod stdio;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    upstream::{ToolServer, ToolTransport},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    call::ToolCall,
    catalogue::{CatalogueBuilder, ToolCatalogue},
    rpc,
};
use crate::{
    gate::Admitted,
    rooms::{Held, Room},
    tool_process::ServerProcesses,
    upstreams::Credential,
};

/// The revision that is asked for; the older ones are taken too.
const REVISION: &str = "2025-11-25";
const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", REVISION];
/// Most pages of a list of tools.
const PAGES_MAX: usize = 100;
/// A list of tools over HTTP is asked for again after this time: such a server cannot tell us of changes.
const CATALOGUE_AGE: Duration = Duration::from_secs(60);
/// The first wait after a failed start, doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Why a tool server did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// It is not registered, or its registration cannot work.
    #[error("the tool server `{server}` cannot be used: {cause}")]
    Unusable {
        /// Its name.
        server: UpstreamName,
        /// What to mend.
        cause: String,
    },
    /// It cannot be started or reached, or it broke off.
    #[error("the tool server `{server}` is not available: {cause}")]
    Unavailable {
        /// Its name.
        server: UpstreamName,
        /// What was seen.
        cause: String,
        /// Whether it may have received the request.
        sent: bool,
    },
    /// It took too long.
    #[error("the tool server `{server}` did not answer within {} s", after.as_secs_f32())]
    TimedOut {
        /// Its name.
        server: UpstreamName,
        /// The limit.
        after: Duration,
    },
    /// What it sent is not MCP as we take it.
    #[error("the tool server `{server}` does not keep to the protocol: {cause}")]
    Protocol {
        /// Its name.
        server: UpstreamName,
        /// What was wrong.
        cause: String,
    },
    /// It answered, and there is no room for the answer.
    #[error("the answer of the tool server `{server}` was dropped: earlier answers are unread, and there is no room")]
    NoRoom {
        /// Its name.
        server: UpstreamName,
    },
    /// It answered that the request is wrong.
    #[error("the tool server `{server}` refused the request ({code}): {message}")]
    Rejected {
        /// Its name.
        server: UpstreamName,
        /// Its JSON-RPC code.
        code: i64,
        /// Its words, bounded.
        message: String,
    },
}

impl UpstreamError {
    /// Whether the request may have had an effect.
    #[must_use]
    pub fn effect_possible(&self) -> bool {
        match self {
            Self::Unusable { .. } | Self::Unavailable { sent: false, .. } => false,
            Self::Unavailable { .. }
            | Self::TimedOut { .. }
            | Self::Protocol { .. }
            | Self::NoRoom { .. }
            | Self::Rejected { .. } => true,
        }
    }
}

/// The answer of a tool.
#[derive(Debug)]
pub struct ToolAnswer {
    /// The MCP result as the server sent it.
    pub result: Bytes,
    /// Whether it says that the call failed.
    pub is_error: bool,
    /// Whether the result names its own `resultType`.
    pub(super) typed: bool,
    /// The room that it takes.
    pub(super) room: Option<Held>,
}

/// A result, and the room that it takes if it is for a run.
#[derive(Debug)]
struct Reply {
    result: Bytes,
    room: Option<Held>,
}

/// How long a tool server may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To start, connect, shake hands, or list its tools.
    pub start: Duration,
    /// To answer a call.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { start: Duration::from_secs(20), call: Duration::from_secs(60) }
    }
}

/// A tool server, connected when first used.
pub struct ToolServerClient {
    name: UpstreamName,
    transport: Transport,
    timeouts: Timeouts,
    current: Mutex<Option<Connection>>,
    connecting: tokio::sync::Mutex<Option<Instant>>,
    catalogue: Mutex<Option<Cached>>,
    listing: tokio::sync::Mutex<()>,
    failures: AtomicU32,
    generations: AtomicU64,
}

enum Transport {
    Stdio(stdio::Program),
    Http(http::Endpoint),
    Unusable(String),
}

#[derive(Clone)]
struct Connection {
    generation: u64,
    link: Link,
}

#[derive(Clone)]
enum Link {
    Stdio(Arc<stdio::Session>),
    Http(Arc<http::Session>),
}

struct Cached {
    catalogue: Arc<ToolCatalogue>,
    generation: u64,
    changes: u64,
    at: Instant,
}

/// How a request on a connection failed.
enum RequestError {
    /// It is certain that it was not acted upon, and another connection may do better.
    NotTaken(UpstreamError),
    Failed(UpstreamError),
}

impl From<UpstreamError> for RequestError {
    fn from(error: UpstreamError) -> Self {
        Self::Failed(error)
    }
}

impl RequestError {
    fn into_inner(self) -> UpstreamError {
        match self {
            Self::NotTaken(error) | Self::Failed(error) => error,
        }
    }
}

impl ToolServerClient {
    /// Not connected yet.
    #[must_use]
    pub fn new(server: ToolServer, credential: Option<Credential>) -> Self {
        let confinement = server.transport.confinement();
        let transport = match server.transport {
            ToolTransport::Stdio { command, args, env, credential_env, .. } => {
                let owner = (server.tenant, server.name.clone());
                stdio::Program::new(owner, (command, args, env), credential_env, credential, confinement)
                    .map(Transport::Stdio)
            }
            ToolTransport::Http { url, credential_header } => {
                http::Endpoint::new(&url, credential_header.as_deref(), credential.as_ref()).map(Transport::Http)
            }
        };
        Self {
            name: server.name,
            transport: transport.unwrap_or_else(Transport::Unusable),
            timeouts: Timeouts::default(),
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            catalogue: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            failures: AtomicU32::new(0),
            generations: AtomicU64::new(0),
        }
    }

    /// With what starts its process, where it has one.
    #[must_use]
    pub fn with_processes(mut self, processes: Arc<dyn ServerProcesses>) -> Self {
        if let Transport::Stdio(program) = &mut self.transport {
            program.start_by(processes);
        }
        self
    }

    /// With other limits of time.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// What it offers; asked for once per connection, and again when it says that it changed.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn tools(&self) -> Result<Arc<ToolCatalogue>, UpstreamError> {
        let connection = self.connect().await?;
        if let Some(known) = self.known(&connection) {
            return Ok(known);
        }
        let _one = self.listing.lock().await;
        if let Some(known) = self.known(&connection) {
            return Ok(known);
        }
        let changes = connection.changes();
        let listed = tokio::time::timeout(self.timeouts.start, self.list(connection)).await;
        let (catalogue, generation) = listed.map_err(|_| self.timed_out(self.timeouts.start))??;
        let catalogue = Arc::new(catalogue);
        let cached = Cached { catalogue: Arc::clone(&catalogue), generation, changes, at: Instant::now() };
        *self.catalogue.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
        Ok(catalogue)
    }

    fn known(&self, connection: &Connection) -> Option<Arc<ToolCatalogue>> {
        let cached = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cached.as_ref().filter(|c| c.generation == connection.generation)?;
        let fresh = match &connection.link {
            Link::Stdio(_) => cached.changes == connection.changes(),
            Link::Http(_) => cached.at.elapsed() < CATALOGUE_AGE,
        };
        fresh.then(|| Arc::clone(&cached.catalogue))
    }

    async fn list(&self, mut connection: Connection) -> Result<(ToolCatalogue, u64), UpstreamError> {
        let mut builder = CatalogueBuilder::default();
        let mut cursor: Option<String> = None;
        for page in 0..PAGES_MAX {
            let params = match &cursor {
                Some(cursor) => rpc::to_json(&serde_json::json!({ "cursor": cursor })),
                None => Bytes::from_static(b"{}"),
            };
            let reply = match connection.request("tools/list", &params, None).await {
                Err(RequestError::NotTaken(_)) if page == 0 => {
                    connection = self.reconnect(connection.generation).await?;
                    connection.request("tools/list", &params, None).await
                }
                other => other,
            };
            let result = reply.map_err(RequestError::into_inner)?.result;
            self.failures.store(0, Ordering::Relaxed);
            cursor = builder.page(&result).map_err(|cause| self.protocol(cause))?;
            if cursor.is_none() {
                return Ok((builder.finish(), connection.generation));
            }
        }
        Err(self.protocol(format!("its list of tools has more than {PAGES_MAX} pages")))
    }

    /// Carries out an admitted call.
    ///
    /// # Errors
    /// [`UpstreamError`]. An answer of the server that says that the call failed is not an error here.
    pub async fn call(&self, admitted: &Admitted<ToolCall>) -> Result<ToolAnswer, UpstreamError> {
        let params = admitted.target().params();
        let room = Some(&admitted.run().answers);
        let answer = tokio::time::timeout(self.timeouts.call, async {
            let connection = self.connect().await?;
            match connection.request("tools/call", &params, room).await {
                Err(RequestError::NotTaken(_)) => {
                    let connection = self.reconnect(connection.generation).await?;
                    connection.request("tools/call", &params, room).await.map_err(RequestError::into_inner)
                }
                other => other.map_err(RequestError::into_inner),
            }
        });
        match answer.await.map_err(|_| self.timed_out(self.timeouts.call))? {
            Ok(reply) => self.answer(reply),
            Err(UpstreamError::Rejected { code, message, .. }) => Ok(ToolAnswer {
                result: rpc::tool_error(&format!("The tool server answered with error {code}: {message}")),
                is_error: true,
                typed: false,
                room: None,
            }),
            Err(error) => Err(error),
        }
    }

    fn answer(&self, reply: Reply) -> Result<ToolAnswer, UpstreamError> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(default, rename = "isError")]
            is_error: bool,
            #[serde(borrow, default, rename = "resultType")]
            kind: Option<std::borrow::Cow<'a, str>>,
        }
        let Reply { result, room } = reply;
        let head: Head<'_> = match serde_json::from_slice(&result) {
            Ok(head) if result.first() == Some(&b'{') => head,
            _ => return Err(self.protocol("its answer to a tool call is not a tool result".to_owned())),
        };
        if head.kind.as_ref().is_some_and(|kind| kind != "complete") {
            return Err(self.protocol("its answer asks for more input, which this revision cannot".to_owned()));
        }
        let (is_error, typed) = (head.is_error, head.kind.is_some());
        self.failures.store(0, Ordering::Relaxed);
        Ok(ToolAnswer { result, is_error, typed, room })
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        match self.connected() {
            Some(connection) => Ok(connection),
            None => self.establish().await,
        }
    }

    async fn reconnect(&self, broken: u64) -> Result<Connection, UpstreamError> {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.as_ref().is_some_and(|c| c.generation == broken) {
                *current = None;
            }
        }
        self.connect().await
    }

    fn connected(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|c| c.alive()).cloned()
    }

    /// One caller connects, the others wait for it.
    async fn establish(&self) -> Result<Connection, UpstreamError> {
        let mut not_before = self.connecting.lock().await;
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let failed = self.failures.load(Ordering::Relaxed) > 0;
        let wait = not_before.and_then(|at| at.checked_duration_since(Instant::now()));
        if let Some(wait) = wait.filter(|_| failed) {
            let cause = format!("it failed before and is tried again in {} ms", wait.as_millis());
            return Err(UpstreamError::Unavailable { server: self.name.clone(), cause, sent: false });
        }
        // Counted before the attempt and cleared by the first good answer, so that a server which
        // starts well and dies at once is not started without end.
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        if failures > 0 {
            *not_before = Some(Instant::now() + BACKOFF_FIRST.saturating_mul(1 << (failures - 1)).min(BACKOFF_MAX));
        }
        let started = tokio::time::timeout(self.timeouts.start, self.start()).await;
        let link = match started.unwrap_or_else(|_| Err(self.timed_out(self.timeouts.start))) {
            Ok(link) => link,
            Err(error) => {
                let wait = BACKOFF_FIRST.saturating_mul(1 << failures).min(BACKOFF_MAX);
                *not_before = Some(Instant::now() + wait);
                tracing::warn!(server = %self.name, %error, "tool server not started");
                return Err(error);
            }
        };
        let connection = Connection { generation: self.generations.fetch_add(1, Ordering::Relaxed), link };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    async fn start(&self) -> Result<Link, UpstreamError> {
        match &self.transport {
            Transport::Unusable(cause) => {
                Err(UpstreamError::Unusable { server: self.name.clone(), cause: cause.clone() })
            }
            Transport::Stdio(program) => {
                let session = program.start(&self.name).await?;
                let greeting =
                    session.request("initialize", &greeting(), None).await.map_err(RequestError::into_inner)?;
                self.revision(&greeting.result)?;
                session.notify("notifications/initialized").await?;
                Ok(Link::Stdio(Arc::new(session)))
            }
            Transport::Http(endpoint) => {
                let (mut session, greeting) = endpoint.open(&self.name, &greeting()).await?;
                session.set_revision(self.revision(&greeting)?);
                session.notify("notifications/initialized").await?;
                Ok(Link::Http(Arc::new(session)))
            }
        }
    }

    fn revision(&self, greeting: &[u8]) -> Result<&'static str, UpstreamError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Greeting<'a> {
            #[serde(borrow)]
            protocol_version: std::borrow::Cow<'a, str>,
        }
        let greeting: Greeting<'_> = serde_json::from_slice(greeting)
            .map_err(|_| self.protocol("its answer to `initialize` names no revision".to_owned()))?;
        REVISIONS.into_iter().find(|known| *known == greeting.protocol_version).ok_or_else(|| {
            self.protocol(format!("it speaks only revision {}", rpc::shown(&greeting.protocol_version, 32)))
        })
    }

    fn protocol(&self, cause: String) -> UpstreamError {
        UpstreamError::Protocol { server: self.name.clone(), cause }
    }

    fn timed_out(&self, after: Duration) -> UpstreamError {
        UpstreamError::TimedOut { server: self.name.clone(), after }
    }
}

impl Connection {
    /// The answer takes room where it is given one; a list of tools is the plane's own.
    async fn request(&self, method: &'static str, params: &[u8], room: Option<&Room>) -> Result<Reply, RequestError> {
        match &self.link {
            Link::Stdio(session) => session.request(method, params, room).await,
            Link::Http(session) => session.request(method, params, room).await,
        }
    }

    fn alive(&self) -> bool {
        match &self.link {
            Link::Stdio(session) => session.alive(),
            Link::Http(_) => true,
        }
    }

    fn changes(&self) -> u64 {
        match &self.link {
            Link::Stdio(session) => session.changes(),
            Link::Http(_) => 0,
        }
    }
}

fn greeting() -> Bytes {
    rpc::to_json(&serde_json::json!({
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": {"name": "cogward", "version": env!("CARGO_PKG_VERSION")}
    }))
}

#[cfg(test)]
mod tests;
