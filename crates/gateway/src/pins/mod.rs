//! Pins: which definitions of tools may be listed and called, and the watch over what the servers offer.
//!
//! What a server offers is compared with what an operator approved each time that it is asked: when it is connected,
//! when it says that its list changed, and when its list has become old. As long as a list has not been examined and
//! the finding of it not written, nothing of that server is served. What agents see and what arguments are checked
//! against is the approved text from the plane's own store, never what the server says now.

pub mod canonical;
pub mod diff;
pub mod entries;
pub mod suspicion;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use cogward_model::{
    DataLabel, Digest, TenantName, ToolName, UpstreamName,
    decision::{Refusal, RefusalCode},
    pin::PinState,
    pin_name::{OtherKind, PinKind},
    upstream::ToolServer,
};
use tokio::time::Instant;

use crate::{
    Gateway, Inner,
    mcp::{
        Listed, ToolCatalogue, ToolDefinition,
        upstream::{ToolServerClient, UpstreamError},
    },
    policy::{self, ToolFacts},
};

/// How far ahead of time a server may change its definitions; a few changes in a row are looked at at once.
const AHEAD: Duration = Duration::from_secs(1);
/// What a list that differs costs of that time, and each tool in it: what a server changes all the time is written that
/// much less often.
const EACH_LIST: Duration = Duration::from_millis(50);
const EACH_TOOL: Duration = Duration::from_millis(10);
/// An operator's command may come between an examination and its use; then it is looked at again.
const ATTEMPTS: usize = 3;

type Key = (TenantName, UpstreamName);

/// Who writes down what is found: the plane's store and ledger.
pub trait PinKeeper: Send + Sync {
    /// Compares what a server offers with what is approved of it, writes what is new, and puts the pins that hold for
    /// this catalogue into the [`PinTable`]. Gives how many tools are not what they were.
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>>;

    /// The same for one of its other lists, whose pins go into [`PinTable::put_entries`].
    fn examine_entries(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        kind: OtherKind,
        listed: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>>;
}

/// The finding is not written. Nothing of the server is served.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unwritten(pub String);

/// A tool that is known and not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldTool {
    /// Why.
    pub state: PinState,
    /// The definition that is offered, or was last.
    pub digest: Digest,
    /// Whether its server offers it.
    pub offered: bool,
}

/// What an operator says of a tool besides approving it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolMarks {
    /// The labels of its data.
    pub labels: BTreeSet<DataLabel>,
    /// Whether a call may be sent twice without harm.
    pub idempotent: bool,
}

/// The pins of one server at one time. Never changed; another one takes its place.
#[derive(Debug)]
pub struct ServerPins {
    seen: Option<Digest>,
    served: Arc<ToolCatalogue>,
    held: BTreeMap<ToolName, HeldTool>,
    marks: HashMap<ToolName, ToolMarks>,
    /// The labels as policies read them, ready to be asked for at each call.
    labels: HashMap<ToolName, Arc<BTreeSet<String>>>,
    /// Whether the server is a memory.
    memory: bool,
    /// Those of all its tools together.
    all_labels: Arc<BTreeSet<String>>,
}

impl ServerPins {
    /// Pins that hold for the catalogue with the digest `seen`; for none, when nothing has been examined yet.
    #[must_use]
    pub fn new(
        seen: Option<Digest>,
        served: Vec<ToolDefinition>,
        held: BTreeMap<ToolName, HeldTool>,
        marks: HashMap<ToolName, ToolMarks>,
    ) -> Self {
        let texts = |marks: &ToolMarks| Arc::new(marks.labels.iter().map(ToString::to_string).collect());
        let labels = marks.iter().map(|(tool, marks)| (tool.clone(), texts(marks))).collect();
        let all_labels = marks.values().flat_map(|marks| marks.labels.iter().map(ToString::to_string)).collect();
        Self {
            seen,
            served: Arc::new(ToolCatalogue::of(served)),
            held,
            marks,
            labels,
            memory: false,
            all_labels: Arc::new(all_labels),
        }
    }

    /// The same of a server that is a memory: policies are asked about its tools as such.
    #[must_use]
    pub fn of_memory(self) -> Self {
        Self { memory: true, ..self }
    }

    /// The digest of the catalogue that they hold for.
    #[must_use]
    pub fn seen(&self) -> Option<Digest> {
        self.seen
    }

    /// The approved definitions of what is offered.
    #[must_use]
    pub fn served(&self) -> &Arc<ToolCatalogue> {
        &self.served
    }

    /// A tool that is known and not served.
    #[must_use]
    pub fn held(&self, tool: &ToolName) -> Option<HeldTool> {
        self.held.get(tool).copied()
    }

    /// The tools that are known and not served.
    pub fn all_held(&self) -> impl Iterator<Item = (&ToolName, &HeldTool)> {
        self.held.iter()
    }

    /// What the operator said of a tool; nothing unless it was said.
    #[must_use]
    pub fn marks(&self, tool: &ToolName) -> Option<&ToolMarks> {
        self.marks.get(tool)
    }
}

/// The pins of all servers of a plane. The keeper puts them here; the gateway reads them.
#[derive(Debug, Default)]
pub struct PinTable {
    servers: RwLock<HashMap<Key, Arc<ServerPins>>>,
    entries: RwLock<HashMap<(TenantName, UpstreamName, OtherKind), Arc<entries::EntryPins>>>,
    turns: std::sync::Mutex<HashMap<(Key, PinKind), Turn>>,
}

/// Whose turn it is to have a list examined, and until when it is busy.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

impl PinTable {
    /// Puts the pins of a server in the place of the ones before.
    pub fn put(&self, tenant: &TenantName, server: &UpstreamName, pins: ServerPins) {
        let key = (tenant.clone(), server.clone());
        self.servers.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(pins));
    }

    /// Forgets a server.
    pub fn remove(&self, tenant: &TenantName, server: &UpstreamName) {
        let key = (tenant.clone(), server.clone());
        self.servers.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(of, name, _), _| of != tenant || name != server);
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != key);
    }

    /// The pins of a server as they are, examined or not.
    #[must_use]
    pub fn get(&self, tenant: &TenantName, server: &UpstreamName) -> Option<Arc<ServerPins>> {
        let key = (tenant.clone(), server.clone());
        self.servers.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn holding(&self, tenant: &TenantName, server: &UpstreamName, catalogue: Digest) -> Option<Arc<ServerPins>> {
        self.get(tenant, server).filter(|pins| pins.seen == Some(catalogue))
    }

    fn turn(&self, tenant: &TenantName, server: &UpstreamName, kind: PinKind) -> Turn {
        let key = ((tenant.clone(), server.clone()), kind);
        Arc::clone(self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }
}

impl ToolFacts for PinTable {
    fn of(&self, tenant: &TenantName, server: &UpstreamName, tool: &ToolName) -> policy::ToolMarks {
        let Some(pins) = self.get(tenant, server) else { return policy::ToolMarks::default() };
        policy::ToolMarks {
            labels: pins.labels.get(tool).cloned().unwrap_or_default(),
            shape: pins.served.get(tool).map(|definition| Arc::clone(definition.shape())),
            memory: pins.memory.then(|| cogward_policy::ask::MemoryOperation::of_tool(tool.as_str())),
        }
    }

    fn of_server(&self, tenant: &TenantName, server: &UpstreamName) -> Arc<BTreeSet<String>> {
        self.get(tenant, server).map(|pins| Arc::clone(&pins.all_labels)).unwrap_or_default()
    }
}

/// Why the pins of a server cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The server does not say what it offers.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What it offers could not be compared with what is approved.
    #[error("what the tool server `{server}` offers could not be checked against what is approved: {why}")]
    Unwritten {
        /// Its name.
        server: UpstreamName,
        /// What failed.
        why: Unwritten,
    },
    /// It changes all the time.
    #[error("the definitions of the tool server `{server}` change too often")]
    Unsettled {
        /// Its name.
        server: UpstreamName,
        /// When it is looked at again.
        after: Duration,
    },
}

impl PinsError {
    /// As the refusal of a call.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Upstream(error) => Refusal::new(
                RefusalCode::UpstreamUnavailable,
                "upstream.available",
                error.to_string(),
                "An operator can see why with `cogward tool-server list`",
            ),
            Self::Unwritten { .. } => Refusal::new(
                RefusalCode::EvidenceUnavailable,
                "tool.pin",
                self.to_string(),
                "Nothing was forwarded; an operator must look at the plane's log",
            ),
            Self::Unsettled { after, .. } => {
                let next = "Wait, and call again; an operator can see it with `cogward tool list`";
                let mut refusal = Refusal::new(RefusalCode::Throttled, "tool.pin", self.to_string(), next);
                refusal.retry_after = Some(*after);
                refusal
            }
        }
    }
}

/// The refusal of a declared tool whose definition nobody approved.
#[must_use]
pub fn not_approved(server: &UpstreamName, tool: &ToolName) -> Refusal {
    Refusal::new(
        RefusalCode::Quarantined,
        "tool.pin",
        format!("the definition of `{server}/{tool}` is not approved"),
        format!("An operator can look at it with `cogward tool diff {server} {tool}` and approve it"),
    )
}

/// Who a server is: how it is reached. Credentials, and how they are got, may be replaced without its becoming another
/// one. What is not said is left out, so that a field that comes later changes nothing for who does not use it.
#[must_use]
pub fn identity(server: &ToolServer) -> Digest {
    let mut transport = serde_json::to_value(&server.transport).unwrap_or_default();
    if let Some(members) = transport.as_object_mut() {
        let empty = |value: &serde_json::Value| match value {
            serde_json::Value::Null => true,
            serde_json::Value::Array(items) => items.is_empty(),
            serde_json::Value::Object(map) => map.is_empty(),
            _ => false,
        };
        // How much a memory may hold is not who it is; where it is and whose, is. What a document says shows in the
        // definitions that are made of it.
        let aside = |key: &str| key.starts_with("credential") || matches!(key, "oauth" | "quota" | "document");
        members.retain(|key, value| !aside(key) && !empty(value));
    }
    let whole = serde_json::json!({"tenant": server.tenant, "name": server.name, "transport": transport}).to_string();
    let text = canonical::canonical(&whole).unwrap_or(whole);
    crate::mcp::sha256(text.as_bytes())
}

impl Inner {
    /// The pins of a server, which hold for what it offers now.
    ///
    /// # Errors
    /// [`PinsError`]; nothing of the server may be served then.
    pub(crate) async fn pinned(
        &self,
        tenant: &TenantName,
        server: &UpstreamName,
        client: &ToolServerClient,
    ) -> Result<Arc<ServerPins>, PinsError> {
        let mut catalogue = client.tools().await?;
        if let Some(pins) = self.pins.holding(tenant, server, catalogue.digest()) {
            return Ok(pins);
        }
        let turn = self.pins.turn(tenant, server, PinKind::Tool);
        let mut busy_until = turn.lock().await;
        for _ in 0..ATTEMPTS {
            if let Some(pins) = self.pins.holding(tenant, server, catalogue.digest()) {
                return Ok(pins);
            }
            let now = Instant::now();
            let ahead = busy_until.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
            if ahead > AHEAD {
                return Err(PinsError::Unsettled { server: server.clone(), after: ahead - AHEAD });
            }
            let unwritten = |why| PinsError::Unwritten { server: server.clone(), why };
            let keeper =
                self.keeper.get().ok_or_else(|| unwritten(Unwritten("nobody keeps what is approved".into())))?;
            let changed =
                keeper.examine(tenant.clone(), server.clone(), Arc::clone(&catalogue)).await.map_err(unwritten)?;
            if changed > 0 {
                let tools = EACH_TOOL.saturating_mul(u32::try_from(changed).unwrap_or(u32::MAX));
                *busy_until = Some(now + ahead + EACH_LIST + tools);
            }
            if let Some(pins) = self.pins.holding(tenant, server, catalogue.digest()) {
                return Ok(pins);
            }
            catalogue = client.tools().await?;
        }
        Err(PinsError::Unsettled { server: server.clone(), after: AHEAD })
    }
}

impl Gateway {
    /// The pins of all servers, for whoever keeps them.
    #[must_use]
    pub fn pins(&self) -> &Arc<PinTable> {
        &self.inner.pins
    }

    /// From now on this one writes down what is found. Until then nothing is served of any tool server.
    pub fn keep_pins(&self, keeper: Arc<dyn PinKeeper>) {
        // The first one stays; there is one store in a plane.
        let _ = self.inner.keeper.set(keeper);
    }

    /// Asks a tool server what it offers, unless that is known, and gives the pins that hold for it.
    ///
    /// # Errors
    /// [`PinsError`].
    pub async fn pinned(&self, tenant: &TenantName, server: &UpstreamName) -> Result<Arc<ServerPins>, PinsError> {
        let client = self.upstreams().tool_server(tenant, server).ok_or_else(|| UpstreamError::Unusable {
            server: server.clone(),
            cause: "it is not registered".to_owned(),
        })?;
        self.inner.pinned(tenant, server, &client).await
    }

    /// Like [`Self::pinned`], for all that a server defines. `again` has it asked whatever is known. What has another
    /// kind of list that cannot be read has none of that kind served, and nobody is kept from the rest of it.
    ///
    /// # Errors
    /// [`PinsError`], of its tools.
    pub async fn pin_all(&self, tenant: &TenantName, server: &UpstreamName, again: bool) -> Result<(), PinsError> {
        let client = self.upstreams().tool_server(tenant, server).ok_or_else(|| UpstreamError::Unusable {
            server: server.clone(),
            cause: "it is not registered".to_owned(),
        })?;
        if again {
            client.forget_lists();
        }
        self.inner.pinned(tenant, server, &client).await?;
        for kind in OtherKind::ALL {
            if let Err(error) = self.inner.pinned_entries(tenant, server, kind, &client).await {
                tracing::info!(%tenant, %server, kind = kind.kind().as_str(), %error, "a list is shown as it is known");
            }
        }
        Ok(())
    }

    /// How long ago a server said what tools it has, if this plane ever asked it.
    #[must_use]
    pub fn listed_ago(&self, tenant: &TenantName, server: &UpstreamName) -> Option<Duration> {
        self.upstreams().tool_server(tenant, server)?.tools_age()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(transport: serde_json::Value) -> ToolServer {
        serde_json::from_value(serde_json::json!({"tenant": "default", "name": "files", "transport": transport}))
            .unwrap()
    }

    #[test]
    fn a_server_is_another_one_when_it_is_reached_otherwise() {
        let stdio = |program: &str, arg: &str, env: &str, credential: Option<&str>| {
            identity(&server(serde_json::json!({"kind": "stdio", "command": program, "args": [arg],
                "env": {"A": env}, "credential_env": credential})))
        };
        let one = stdio("/bin/a", "x", "1", None);
        assert_eq!(one, stdio("/bin/a", "x", "1", Some("TOKEN")));
        for other in [stdio("/bin/b", "x", "1", None), stdio("/bin/a", "y", "1", None), stdio("/bin/a", "x", "2", None)]
        {
            assert_ne!(one, other);
        }
        let http = |url: &str| identity(&server(serde_json::json!({"kind": "http", "url": url})));
        assert_ne!(http("https://a.example/mcp"), http("https://b.example/mcp"));
        let mut elsewhere = server(serde_json::json!({"kind": "http", "url": "https://a.example/mcp"}));
        elsewhere.tenant = "retail".parse().unwrap();
        assert_ne!(identity(&elsewhere), http("https://a.example/mcp"));
    }
}
