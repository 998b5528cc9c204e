//! One tool server, as a client of it: connected when first used, connected again when it broke off.
//!
//! A request of an agent goes out only when it was admitted ([`crate::gate::Admitted`]). Nothing here repeats
//! a call that may have had an effect; what is certain not to have left the plane, or to have been refused for
//! an expired session, is sent once more. Which era a server speaks is found out once and remembered until it fails.

pub(super) mod answer;
mod connection;
mod credential;
mod error;
pub(super) mod exchange;
mod guard;
mod http;
mod hub;
mod inside;
mod limits;
pub(super) mod listed;
mod oauth;
mod rest;
mod seat;
pub(super) mod sse;
mod stdio;
mod taking;
pub(super) mod watch;
pub(super) mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{
    Digest, RunId, TenantName, UpstreamName,
    upstream::{ToolServer, ToolServerLimits, ToolTransport},
};
use serde::Deserialize;
use tokio::time::Instant;

use self::{
    connection::{Connection, Link},
    credential::Credentials,
    exchange::{Flow, Peer, UpRequest},
    hub::{Hub, List},
    limits::Limits,
    listed::Lists,
    seat::Seat,
    wire::Offers,
};
pub use self::{error::UpstreamError, guard::fetch_document, limits::BreakerState, rest::MadeFrom};
use super::{
    catalogue::{CatalogueBuilder, ToolCatalogue},
    rpc,
};
use crate::{inside::InsideServer, rooms::Room, tool_process::ServerProcesses, upstreams::Credential};
pub use cogward_openapi::LeftOut;

/// Most pages of a list.
const PAGES_MAX: usize = 100;
/// A list over HTTP is asked for again after this time, unless the server names another.
const CATALOGUE_AGE: Duration = Duration::from_secs(60);
/// A list over HTTP is held for at least so long, whatever the server says.
const CATALOGUE_AGE_MIN: Duration = Duration::from_secs(1);
/// And for at most so long.
const CATALOGUE_AGE_MAX: Duration = Duration::from_secs(300);
/// Sessions of runs' own with a server over HTTP.
const OWN_HTTP_MAX: usize = 64;
/// Sessions of runs' own with a server that is a process: each is a process.
const OWN_STDIO_MAX: usize = 8;
/// How long a process may take to say whether it speaks the stateless revision.
const PROBE: Duration = Duration::from_secs(10);

/// How long a tool server may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To start, connect, shake hands, or list its tools.
    pub start: Duration,
    /// To answer a call, or to show that it is at work on it.
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
    limits: Limits,
    hub: Arc<Hub>,
    /// The session of all runs.
    shared: Seat,
    /// Sessions of runs that can be asked.
    own: Mutex<HashMap<Peer, Arc<Seat>>>,
    /// What was found out of the server.
    era: Mutex<Option<Era>>,
    catalogue: Mutex<Option<Cached>>,
    listing: tokio::sync::Mutex<()>,
    lists: Lists,
    subscribed: watch::Subscribed,
    generations: AtomicU64,
    rest: Option<rest::RestServer>,
}

enum Transport {
    Stdio(stdio::Program),
    Http(http::Endpoint),
    Inside(inside::Session),
    Unusable(String),
}

/// Which era a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Modern(Offers),
    Legacy,
}

struct Cached {
    catalogue: Arc<ToolCatalogue>,
    age: Age,
}

/// When a list was asked for, and how long it holds.
#[derive(Debug, Clone, Copy)]
struct Age {
    generation: u64,
    changes: u64,
    at: Instant,
    holds: Duration,
}

/// How a request on a connection failed.
#[derive(Debug)]
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

    fn inner(&self) -> &UpstreamError {
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
        let mut limits = Limits::new(&server.limits);
        let mut api = None;
        let transport = match server.transport {
            ToolTransport::Stdio { command, args, env, credential_env, .. } => {
                let owner = (server.tenant, server.name.clone());
                stdio::Program::new(owner, (command, args, env), credential_env, credential, confinement)
                    .map(Transport::Stdio)
            }
            ToolTransport::Http { url, credential_header, headers, oauth } => {
                Credentials::of(&url, credential_header.as_deref(), &headers, oauth, credential)
                    .and_then(|credentials| http::Endpoint::new(&url, credentials))
                    .map(Transport::Http)
            }
            ToolTransport::Memory { .. } => Err("this plane keeps no memory".to_owned()),
            ToolTransport::OpenApi { url, document, credential: place, headers, oauth } => {
                let from = rest::Registration { url, document, credential: place, headers, oauth };
                rest::make(&server.name, from, credential).map(|made| {
                    limits.also_idempotent(made.idempotent);
                    api = Some(made.server.clone());
                    Transport::Inside(inside::Session::new(Arc::new(made.server)))
                })
            }
        };
        let mut timeouts = Timeouts::default();
        if let Some(seconds) = server.limits.timeout_seconds {
            timeouts.call = Duration::from_secs(u64::from(seconds.max(1)));
        }
        Self {
            name: server.name,
            transport: transport.unwrap_or_else(Transport::Unusable),
            timeouts,
            limits,
            hub: Arc::default(),
            shared: Seat::default(),
            own: Mutex::default(),
            era: Mutex::default(),
            catalogue: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            lists: Lists::default(),
            subscribed: watch::Subscribed::default(),
            generations: AtomicU64::new(0),
            rest: api,
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

    /// As a part of the plane.
    #[must_use]
    pub fn with_inside(mut self, server: Arc<dyn InsideServer>) -> Self {
        self.transport = Transport::Inside(inside::Session::new(server));
        self
    }

    /// As one that cannot be used, and why.
    #[must_use]
    pub(crate) fn beyond_use(mut self, cause: String) -> Self {
        self.transport = Transport::Unusable(cause);
        self
    }

    /// A part of the plane that no operator added.
    #[must_use]
    pub(crate) fn of_inside(tenant: TenantName, name: UpstreamName, server: Arc<dyn InsideServer>) -> Self {
        // How it would be reached is replaced.
        let transport =
            ToolTransport::Http { url: String::new(), credential_header: None, headers: BTreeMap::new(), oauth: None };
        Self::new(ToolServer { tenant, name, transport, limits: ToolServerLimits::default() }, None).with_inside(server)
    }

    /// With other limits of time.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Whether it is spared at the moment.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.limits.breaker()
    }

    /// What it offers; asked for once per connection, and again when it says that it changed.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn tools(&self) -> Result<Arc<ToolCatalogue>, UpstreamError> {
        let connection = self.connect(Peer::PLANE).await?;
        if let Some(known) = self.known(&connection) {
            return Ok(known);
        }
        let _one = self.listing.lock().await;
        if let Some(known) = self.known(&connection) {
            return Ok(known);
        }
        let changes = self.hub.changes(List::Tools);
        let mut builder = CatalogueBuilder::default();
        let pages = Box::pin(self.pages("tools/list", connection, |page| builder.page(page)));
        let listed = tokio::time::timeout(self.timeouts.start, pages).await;
        let (generation, holds) = listed.map_err(|_| self.timed_out(self.timeouts.start))??;
        let catalogue = Arc::new(builder.finish());
        let age = Age { generation, changes, at: Instant::now(), holds };
        let cached = Cached { catalogue: Arc::clone(&catalogue), age };
        *self.catalogue.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
        Ok(catalogue)
    }

    fn known(&self, connection: &Connection) -> Option<Arc<ToolCatalogue>> {
        let cached = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cached.as_ref().filter(|cached| self.holds(&cached.age, connection, List::Tools))?;
        Some(Arc::clone(&cached.catalogue))
    }

    /// The digest of its tools as they were listed last, if that still holds: without asking it.
    pub(in crate::mcp) fn current_tools(&self) -> Option<Digest> {
        let connection = self.shared.connected()?;
        self.known(&connection).map(|catalogue| catalogue.digest())
    }

    /// Has all its lists asked for again when they are wanted next.
    pub(crate) fn forget_lists(&self) {
        for list in [List::Tools, List::Prompts, List::Resources] {
            self.hub.count(list);
        }
    }

    /// How long ago its tools were listed last.
    pub(crate) fn tools_age(&self) -> Option<Duration> {
        let cached = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        cached.as_ref().map(|cached| cached.age.at.elapsed())
    }

    /// Whether a list is still what the server would answer, as far as that can be known.
    fn holds(&self, age: &Age, connection: &Connection, list: List) -> bool {
        // A process says when its lists change, if it is honest; it is asked again like any other.
        let fresh = age.at.elapsed() < age.holds;
        fresh && age.generation == connection.generation && age.changes == self.hub.changes(list)
    }

    /// All pages of a list. Gives the connection that they came on, and how long they hold.
    async fn pages(
        &self,
        method: &'static str,
        mut connection: Connection,
        mut take: impl FnMut(&Bytes) -> Result<Option<String>, String>,
    ) -> Result<(u64, Duration), UpstreamError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default, rename = "ttlMs")]
            ttl: Option<u64>,
        }
        let mut cursor: Option<String> = None;
        let mut holds = CATALOGUE_AGE;
        for page in 0..PAGES_MAX {
            let params = match &cursor {
                Some(cursor) => rpc::to_json(&serde_json::json!({ "cursor": cursor })),
                None => Bytes::from_static(b"{}"),
            };
            let request = UpRequest::plain(method, &params);
            let reply = match connection.ask(&self.name, &request).await {
                Err(RequestError::NotTaken(error)) if page == 0 => {
                    connection = self.reconnect(Peer::PLANE, connection.generation, &error).await?;
                    connection.ask(&self.name, &request).await
                }
                other => other,
            };
            let result = reply.map_err(RequestError::into_inner)?;
            if let Some(ttl) = serde_json::from_slice::<Head>(&result).ok().and_then(|head| head.ttl) {
                holds = Duration::from_millis(ttl).clamp(CATALOGUE_AGE_MIN, CATALOGUE_AGE_MAX);
            }
            cursor = take(&result).map_err(|cause| self.protocol(cause))?;
            if cursor.is_none() {
                return Ok((connection.generation, holds));
            }
        }
        Err(self.protocol(format!("its answer to `{method}` has more than {PAGES_MAX} pages")))
    }

    /// What it offers, whatever its era.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn offers(&self) -> Result<Offers, UpstreamError> {
        Ok(self.connect(Peer::PLANE).await?.offers)
    }

    /// Ends the sessions of a run.
    pub(in crate::mcp) fn forget(&self, run: RunId) {
        self.own().retain(|peer, _| peer.run != Some(run));
    }

    /// Sends a request, once more on another connection where it was certainly not taken.
    async fn send(&self, peer: Peer, request: &UpRequest<'_>, room: Option<Room>) -> Result<Flow, UpstreamError> {
        let connection = self.connect(peer).await?;
        match connection.begin(&self.name, peer, request, room.clone()).await {
            Err(RequestError::NotTaken(error)) => {
                let again = async {
                    let connection = self.reconnect(peer, connection.generation, &error).await?;
                    connection.begin(&self.name, peer, request, room).await.map_err(RequestError::into_inner)
                };
                Box::pin(again).await
            }
            other => other.map_err(RequestError::into_inner),
        }
    }

    async fn connect(&self, peer: Peer) -> Result<Connection, UpstreamError> {
        if peer.own() {
            // Only what has sessions can give a run its own, and only the first connection finds that out.
            let shared = self.connect_to(&self.shared, Peer::PLANE).await?;
            if !shared.offers.modern {
                return self.connect_to(&*self.seat(peer)?, peer).await;
            }
            return Ok(shared);
        }
        self.connect_to(&self.shared, Peer::PLANE).await
    }

    async fn reconnect(&self, peer: Peer, broken: u64, error: &UpstreamError) -> Result<Connection, UpstreamError> {
        if matches!(error, UpstreamError::Rejected { code: rpc::UNSUPPORTED_VERSION, .. }) {
            *self.era() = None;
        }
        self.shared.clear(broken);
        for seat in self.own().values() {
            seat.clear(broken);
        }
        self.connect(peer).await
    }

    /// The session of a run's own is over.
    fn lost(&self, peer: Peer) {
        self.own().remove(&peer);
    }

    fn seat(&self, peer: Peer) -> Result<Arc<Seat>, UpstreamError> {
        let mut own = self.own();
        if let Some(seat) = own.get(&peer) {
            return Ok(Arc::clone(seat));
        }
        let most = if matches!(self.transport, Transport::Stdio(_)) { OWN_STDIO_MAX } else { OWN_HTTP_MAX };
        if own.len() >= most {
            let cause = format!("{most} runs have sessions of their own with it, which is the most");
            return Err(UpstreamError::Unavailable { server: self.name.clone(), cause, sent: false });
        }
        Ok(Arc::clone(own.entry(peer).or_default()))
    }

    async fn start(&self, peer: Peer) -> Result<(Link, Offers), UpstreamError> {
        let era = *self.era();
        let started = match &self.transport {
            Transport::Unusable(cause) => {
                Err(UpstreamError::Unusable { server: self.name.clone(), cause: cause.clone() })
            }
            Transport::Stdio(program) => self.start_process(program, peer, era).await,
            Transport::Http(endpoint) => self.greet(endpoint, peer, era).await,
            Transport::Inside(session) => Ok((Link::Inside(session.clone()), session.offers())),
        };
        let found = started.as_ref().ok().map(|(_, offers)| match offers.modern {
            true => Era::Modern(*offers),
            false => Era::Legacy,
        });
        *self.era() = found;
        started
    }

    async fn greet(
        &self,
        endpoint: &http::Endpoint,
        peer: Peer,
        era: Option<Era>,
    ) -> Result<(Link, Offers), UpstreamError> {
        let modern = match era {
            Some(Era::Modern(offers)) => Some(offers),
            Some(Era::Legacy) => None,
            None => endpoint.discover(&self.name, &self.hub).await?,
        };
        let (session, offers) = match modern {
            Some(offers) => (endpoint.stateless(&self.name, &self.hub), offers),
            None => endpoint.greet(&self.name, &self.hub, peer).await?,
        };
        Ok((Link::Http(Arc::new(session)), offers))
    }

    async fn start_process(
        &self,
        program: &stdio::Program,
        peer: Peer,
        era: Option<Era>,
    ) -> Result<(Link, Offers), UpstreamError> {
        let origin = peer.own().then_some(peer);
        let mut session = program.start(&self.name, &self.hub, origin).await?;
        if era != Some(Era::Legacy) {
            session.set_modern(true);
            if let Some(offers) = self.discover(&session).await {
                return Ok((Link::Stdio(Arc::new(session)), offers));
            }
            session.set_modern(false);
            // Some do not survive a question before the greeting.
            if !session.alive() {
                session = program.start(&self.name, &self.hub, origin).await?;
            }
        }
        let can = if peer.own() { peer.can } else { exchange::ClientCan::NONE };
        let greeting = wire::greeting(can);
        let request = UpRequest::plain("initialize", &greeting);
        let pending = session.begin(&request, can, None).await.map_err(RequestError::into_inner)?;
        let answer = Flow::Stdio(pending).answer(&self.name).await?;
        let (_, offers) = wire::greeted(&answer).map_err(|cause| self.protocol(cause))?;
        session.notify("notifications/initialized").await?;
        Ok((Link::Stdio(Arc::new(session)), offers))
    }

    /// Whether a process speaks the stateless revision. One that says nothing does not.
    async fn discover(&self, session: &stdio::Session) -> Option<Offers> {
        let request = UpRequest::plain("server/discover", b"{}");
        let asked = async {
            let pending = session.begin(&request, exchange::ClientCan::NONE, None).await.ok()?;
            Flow::Stdio(pending).answer(&self.name).await.ok()
        };
        let patience = PROBE.min(self.timeouts.start / 2);
        let answer = tokio::time::timeout(patience, asked).await.ok().flatten()?;
        wire::discovered(&answer)
    }

    fn era(&self) -> std::sync::MutexGuard<'_, Option<Era>> {
        self.era.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, HashMap<Peer, Arc<Seat>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &UpstreamName {
        &self.name
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn protocol(&self, cause: String) -> UpstreamError {
        UpstreamError::Protocol { server: self.name.clone(), cause }
    }

    fn timed_out(&self, after: Duration) -> UpstreamError {
        UpstreamError::TimedOut { server: self.name.clone(), after }
    }
}

/// The number of the request that a notification of progress belongs to.
fn token_of(params: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Progress {
        #[serde(rename = "progressToken")]
        token: u64,
    }
    serde_json::from_slice::<Progress>(params).ok().map(|progress| progress.token)
}

#[cfg(test)]
mod judged;
#[cfg(test)]
mod tests;
