//! The pins of tools, resources, templates and prompts: what servers offer is compared with what operators approved,
//! written, and put before the gateway.
//!
//! Everything that changes a pin, of a server's doing or an operator's, goes through one lock from the transaction to
//! the gateway's table, so that the table always has what the store has. What narrows takes effect as soon as it is
//! committed; what widens waits until its evidence is durable.

mod observe;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use cogward_api::ProblemCode;
use cogward_evidence::Evidence;
use cogward_gateway::{
    PinKeeper, PinTable,
    mcp::{Item, Listed, ToolCatalogue, ToolDefinition},
    pins::{
        HeldTool, ServerPins, ToolMarks, Unwritten,
        entries::{Entry, EntryPins},
        identity,
    },
};
use cogward_identity::Operator;
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_model::{
    DataLabel, Digest, TenantName, UpstreamName,
    event::EventType,
    pin_name::{OtherKind, PinKind, PinName},
    upstream::{ToolServer, ToolTransport},
};
use cogward_store::{Committed, Store, ToolPinRow};
use tokio::sync::MutexGuard;

pub(crate) use self::observe::{Observed, Offered};
use crate::{events::by_operator, failure::Failure};

/// Names in one operational event; the evidence has all of them.
const NAMED_MAX: usize = 20;

/// What an operator decides about one tool.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    Approve { digest: Digest, reason: String },
    Block { reason: String },
    Label { labels: BTreeSet<DataLabel>, idempotent: bool, reason: Option<String> },
}

/// One tool, by its names.
#[derive(Debug, Clone)]
pub(crate) struct ToolKey {
    pub(crate) tenant: TenantName,
    pub(crate) server: UpstreamName,
    pub(crate) tool: PinName,
}

/// All that is kept about tools.
#[derive(Clone)]
pub(crate) struct PinBook {
    store: Store,
    evidence: Evidence,
    journal: Journal,
    table: Arc<PinTable>,
    changes: Arc<tokio::sync::Mutex<()>>,
}

impl PinBook {
    pub(crate) fn new(store: Store, evidence: Evidence, journal: Journal, table: Arc<PinTable>) -> Self {
        Self { store, evidence, journal, table, changes: Arc::default() }
    }

    /// Held while pins are changed, from before the transaction until the gateway has them.
    pub(crate) async fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Puts what is kept about a server before the gateway. Nothing of it is served before its list was examined.
    pub(crate) async fn load(&self, server: &ToolServer) -> Result<(), cogward_store::StoreError> {
        let _changes = self.changes().await;
        let rows = self.store.tool_pins(&server.tenant, &server.name).await?;
        self.table.put(&server.tenant, &server.name, pins(None, server, &rows));
        Ok(())
    }

    /// Puts what was just written before the gateway; for whoever holds the lock.
    pub(crate) fn put(&self, server: &ToolServer, kind: PinKind, seen: Option<Digest>, rows: &[ToolPinRow]) {
        let (tenant, name, upstream) = (&server.tenant, &server.name, identity(server));
        match OtherKind::ALL.into_iter().find(|other| other.kind() == kind) {
            None => self.table.put(tenant, name, pins(seen, server, rows)),
            Some(other) => self.table.put_entries(tenant, name, other, entries_of(other, seen, upstream, rows)),
        }
    }

    /// The list that the gateway's pins of a kind hold for.
    fn seen(&self, tenant: &TenantName, server: &UpstreamName, kind: PinKind) -> Option<Digest> {
        match OtherKind::ALL.into_iter().find(|other| other.kind() == kind) {
            None => self.table.get(tenant, server)?.seen(),
            Some(other) => self.table.entries(tenant, server, other)?.seen(),
        }
    }

    /// Takes a server's pins from the gateway; for whoever holds the lock.
    pub(crate) fn forget(&self, tenant: &TenantName, server: &UpstreamName) {
        self.table.remove(tenant, server);
    }

    /// Carries an operator's decision out. `matches` is given the revision that there is, and refuses another one than
    /// the operator has read.
    pub(crate) async fn decide(
        &self,
        operator: &Operator,
        key: ToolKey,
        matches: impl FnOnce(u64) -> Result<(), Failure> + Send,
        decision: Decision,
    ) -> Result<ToolPinRow, Failure> {
        let _changes = self.changes().await;
        let ToolKey { tenant, server, tool } = &key;
        let mut tx = self.store.begin().await?;
        let config = tx.tool_server(tenant, server).await?.ok_or_else(|| Failure::missing("tool server", server))?;
        let found = tx.tool_pin(tenant, server, tool).await?;
        let mut row = found.ok_or_else(|| Failure::missing("tool", format!("{server}/{tool}")))?;
        matches(row.revision)?;
        let now = tx.now();
        let before = row.pin.approved;
        let (kind, reason) = match decision {
            Decision::Approve { digest, reason } => {
                if row.pin.digest != digest || row.upstream != identity(&config.config) {
                    return Err(Failure::new(
                        ProblemCode::PreconditionFailed,
                        format!("the definition of `{server}/{tool}` is not the one with the digest {digest}"),
                    )
                    .rule("tool.pin")
                    .next_step(format!("look at what is offered now: `cogward tool diff {server} {tool}`")));
                }
                row.pin.approve();
                row.approved_definition = Some(row.definition.clone());
                (row.approved_by, row.approved) = (Some(operator.name.clone()), Some(now));
                row.reason = Some(reason.clone());
                (EventType::ToolApproved, Some(reason))
            }
            Decision::Block { reason } => {
                row.pin.block();
                row.reason = Some(reason.clone());
                (EventType::ToolBlocked, Some(reason))
            }
            Decision::Label { .. } if tool.tool().is_none() => {
                return Err(Failure::invalid("only tools have labels").rule("tool.labels"));
            }
            Decision::Label { labels, idempotent, reason } => {
                (row.labels, row.idempotent) = (labels, idempotent);
                (EventType::ToolLabelled, reason)
            }
        };
        row.revision = tx.tool_pin_put(&row).await?;
        let rows = tx.tool_pins(tenant, server).await?;
        let mut event = by_operator(kind, tenant.clone(), operator, reason.as_deref())
            .public("tool_server", server.as_str())
            .public("upstream", row.upstream.to_string());
        event = match kind {
            EventType::ToolLabelled => event
                .public("tool", tool.key())
                .public("labels", row.labels.iter().map(|label| label.as_str().to_owned()).collect::<Vec<_>>())
                .public("idempotent", row.idempotent),
            _ => observe::naming(event, tool.kind(), vec![observe::entry(tool, before, Some(row.pin.digest))]),
        };
        let committed = tx.commit(vec![event]).await?;
        // The rows are of the list that was examined last, whatever the server says by now.
        let seen = self.seen(tenant, server, tool.kind());
        if kind == EventType::ToolBlocked {
            self.put(&config.config, tool.kind(), seen, &rows);
            self.publish(committed).await.map_err(|error| crate::plane::unrecorded(&error))?;
        } else {
            self.publish(committed).await.map_err(|error| crate::plane::unrecorded(&error))?;
            self.put(&config.config, tool.kind(), seen, &rows);
        }
        let detail = serde_json::json!({ "tool_server": server, "tools": [tool], "digest": row.pin.digest });
        self.journal.publish(JournalEvent::tenant(kind.as_str(), tenant.clone()).detail(detail));
        Ok(row)
    }

    async fn publish(&self, committed: Committed) -> Result<(), cogward_evidence::RecordError> {
        self.evidence.publish(&self.store, committed).await.map(drop)
    }

    async fn examined(&self, tenant: &TenantName, server: &UpstreamName, offered: &Offered) -> Result<usize, Failure> {
        let _changes = self.changes().await;
        let config = self.store.tool_server(tenant, server).await?;
        let config = config.ok_or_else(|| Failure::missing("tool server", server))?.config;
        let rows = self.store.tool_pins(tenant, server).await?;
        // Whatever changes the rows holds the same lock, so what was read is still so in the transaction.
        let observed = Observed::of(&config, &rows, offered, self.store.now());
        let changed = observed.findings.len();
        if observed.is_written() {
            self.put(&config, offered.kind, Some(offered.list), &observed.rows());
            return Ok(0);
        }
        let mut tx = self.store.begin().await?;
        observed.write(&mut tx).await?;
        let events = observed.events();
        let committed = tx.commit(events).await?;
        self.publish(committed).await.map_err(|error| crate::plane::unrecorded(&error))?;
        self.put(&config, offered.kind, Some(offered.list), &observed.rows());
        self.tell(&observed);
        Ok(changed)
    }

    /// In a task of its own: an agent that goes away must not leave the store and the gateway apart.
    fn examine_in_task(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        offered: Offered,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let book = self.clone();
        let task = tokio::spawn(async move { book.examined(&tenant, &server, &offered).await });
        Box::pin(async move {
            let done = task.await.map_err(|_| Unwritten("the examination broke off".to_owned()))?;
            done.map_err(|failure| Unwritten(failure.detail().to_owned()))
        })
    }

    /// Tells whoever watches the plane.
    pub(crate) fn tell(&self, observed: &Observed) {
        for (kind, severity) in
            [(EventType::ToolChanged, Severity::Error), (EventType::ToolQuarantined, Severity::Warning)]
        {
            let named: Vec<_> = observed.findings.iter().filter(|f| f.kind() == kind).collect();
            if named.is_empty() {
                continue;
            }
            let tools: Vec<_> = named
                .iter()
                .take(NAMED_MAX)
                .map(|f| serde_json::json!({ "tool": f.tool, "what": f.what.as_str(), "before": f.before, "after": f.after }))
                .collect();
            let detail = serde_json::json!({ "tool_server": observed.server, "count": named.len(), "tools": tools });
            let event = JournalEvent::tenant(kind.as_str(), observed.tenant.clone());
            self.journal.publish(event.severity(severity).detail(detail));
        }
    }
}

impl PinKeeper for PinBook {
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        self.examine_in_task(tenant, server, Offered::tools(&catalogue))
    }

    fn examine_entries(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        kind: OtherKind,
        listed: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        self.examine_in_task(tenant, server, Offered::entries(kind, &listed))
    }
}

/// The rows of a server as the gateway wants them.
fn pins(seen: Option<Digest>, server: &ToolServer, rows: &[ToolPinRow]) -> ServerPins {
    let pins = pins_of(seen, identity(server), rows);
    if matches!(server.transport, ToolTransport::Memory { .. }) { pins.of_memory() } else { pins }
}

/// The rows as the gateway wants them. A stored text that is not what its digest says is not served.
fn pins_of(seen: Option<Digest>, upstream: Digest, rows: &[ToolPinRow]) -> ServerPins {
    let mut served = Vec::new();
    let mut held = std::collections::BTreeMap::new();
    let mut marks = HashMap::new();
    for row in rows {
        let Some(name) = row.tool.tool() else { continue };
        if !row.labels.is_empty() || row.idempotent {
            marks.insert(name.clone(), ToolMarks { labels: row.labels.clone(), idempotent: row.idempotent });
        }
        if row.pin.is_served() && row.upstream == upstream {
            let text = row.approved_definition.as_deref().unwrap_or_default();
            match ToolDefinition::parse(text) {
                Ok(Some(definition)) if definition.name == *name && Some(definition.digest) == row.pin.approved => {
                    served.push(definition);
                    continue;
                }
                _ => tracing::error!(
                    tenant = %row.tenant, server = %row.server, tool = %row.tool,
                    "the stored definition of a tool is not the one that was approved; it is not served"
                ),
            }
        }
        held.insert(name.clone(), held_as(row));
    }
    ServerPins::new(seen, served, held, marks)
}

fn held_as(row: &ToolPinRow) -> HeldTool {
    HeldTool { state: row.pin.state, digest: row.pin.digest, offered: row.pin.offered }
}

/// The same for rows of another kind.
fn entries_of(kind: OtherKind, seen: Option<Digest>, upstream: Digest, rows: &[ToolPinRow]) -> EntryPins {
    let mut served = BTreeMap::new();
    let mut held = BTreeMap::new();
    for row in rows.iter().filter(|row| row.tool.kind() == kind.kind()) {
        let key = row.tool.key().to_owned();
        if row.pin.is_served() && row.upstream == upstream {
            let item = row.approved_definition.as_deref().and_then(|text| Item::parse(kind, text));
            match item.filter(|item| item.name == row.tool && Some(item.digest) == row.pin.approved) {
                Some(item) => {
                    served.insert(key, Entry { raw: item.raw, digest: item.digest });
                    continue;
                }
                None => tracing::error!(
                    tenant = %row.tenant, server = %row.server, kind = kind.kind().as_str(),
                    "a stored definition is not the one that was approved; it is not served"
                ),
            }
        }
        held.insert(key, held_as(row));
    }
    EntryPins::new(seen, served, held)
}

#[cfg(test)]
mod tests {
    use cogward_model::pin::{Pin as ToolPin, PinState};

    use super::*;

    fn row(text: &str, digest: Option<Digest>) -> ToolPinRow {
        let definition = ToolDefinition::parse(text).unwrap().unwrap();
        let mut pin = ToolPin::first(digest.unwrap_or(definition.digest));
        pin.approve();
        ToolPinRow {
            tenant: "default".parse().unwrap(),
            server: "files".parse().unwrap(),
            tool: PinName::Tool(definition.name.clone()),
            upstream: Digest::from_bytes([1; 32]),
            pin,
            definition: text.to_owned(),
            approved_definition: Some(text.to_owned()),
            approved_by: None,
            approved: None,
            reason: None,
            labels: BTreeSet::new(),
            idempotent: false,
            seen: cogward_model::Timestamp::from_unix_micros(1),
            revision: 1,
        }
    }

    #[test]
    fn a_store_that_was_tampered_with_serves_nothing() {
        let upstream = Digest::from_bytes([1; 32]);
        let good = row(r#"{"name":"read","inputSchema":{}}"#, None);
        let pins = pins_of(None, upstream, std::slice::from_ref(&good));
        assert_eq!(pins.served().iter().count(), 1);
        let other_text = row(r#"{"name":"read","inputSchema":{}}"#, Some(Digest::from_bytes([9; 32])));
        let mut other_name = good.clone();
        other_name.tool = "write".parse().unwrap();
        for bad in [other_text, other_name] {
            let pins = pins_of(None, upstream, std::slice::from_ref(&bad));
            assert_eq!((pins.served().iter().count(), pins.all_held().count()), (0, 1));
        }
        // Of another server than the one that is connected now.
        let pins = pins_of(None, Digest::from_bytes([2; 32]), std::slice::from_ref(&good));
        assert_eq!(pins.served().iter().count(), 0);
        let name = good.tool.tool().unwrap();
        assert_eq!(pins.held(name).map(|held| held.state), Some(PinState::Approved));
    }

    #[test]
    fn so_does_one_whose_resources_and_prompts_were_tampered_with() {
        let upstream = Digest::from_bytes([1; 32]);
        let text = r#"{"name":"greet","description":"Greets."}"#;
        let item = Item::parse(OtherKind::Prompt, text).unwrap();
        let mut good = row(r#"{"name":"x","inputSchema":{}}"#, Some(item.digest));
        (good.tool, good.approved_definition) = (item.name, Some(text.to_owned()));
        let served = |row: &ToolPinRow, upstream| {
            let pins = entries_of(OtherKind::Prompt, None, upstream, std::slice::from_ref(row));
            (pins.iter().count(), pins.look("greet").is_err() || pins.held("greet").is_some())
        };
        assert_eq!(served(&good, upstream), (1, false));
        let mut other_text = good.clone();
        other_text.approved_definition = Some(text.replace("Greets", "Erases"));
        let mut other_name = good.clone();
        other_name.approved_definition = Some(text.replace("greet", "erase"));
        for bad in [other_text, other_name] {
            assert_eq!(served(&bad, upstream), (0, true));
        }
        assert_eq!(served(&good, Digest::from_bytes([2; 32])).0, 0, "of another server");
        // A prompt is no resource of the same name.
        assert_eq!(entries_of(OtherKind::Resource, None, upstream, &[good]).iter().count(), 0);
    }
}
