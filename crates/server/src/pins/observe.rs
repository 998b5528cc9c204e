//! What a list of a server means for what is kept: a pure step from rows to rows, with its findings.

use std::collections::{BTreeMap, BTreeSet};

use cogward_gateway::{
    mcp::{Listed, ToolCatalogue},
    pins::identity,
};
use cogward_identity::Operator;
use cogward_model::{
    Digest, TenantName, Timestamp, UpstreamName,
    event::{Attribution, Event, EventType, Value},
    pin::{Pin, PinCause, PinFinding, PinState},
    pin_name::{OtherKind, PinKind, PinName},
    upstream::ToolServer,
};
use cogward_store::{StoreError, ToolPinRow, Tx};

use crate::events::by_operator;

/// Tools in one record; a leaf has room for about 200.
const PER_EVENT: usize = 100;
/// Characters of a name in a record; the digest says which definition it is.
const NAME_MAX: usize = 128;

/// What a server offers of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) kind: PinKind,
    pub(crate) list: Digest,
    items: Vec<(PinName, Digest, Box<str>)>,
}

impl Offered {
    /// Its tools.
    pub(crate) fn tools(catalogue: &ToolCatalogue) -> Self {
        let item = |tool: &std::sync::Arc<cogward_gateway::mcp::ToolDefinition>| {
            (PinName::Tool(tool.name.clone()), tool.digest, tool.raw.get().into())
        };
        Self { kind: PinKind::Tool, list: catalogue.digest(), items: catalogue.iter().map(item).collect() }
    }

    /// Its entries of another kind.
    pub(crate) fn entries(kind: OtherKind, listed: &Listed) -> Self {
        let items = listed.items().iter().map(|item| (item.name.clone(), item.digest, item.raw.get().into()));
        Self { kind: kind.kind(), list: listed.digest(), items: items.collect() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }
}

/// One finding.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) tool: PinName,
    pub(crate) what: PinFinding,
    pub(crate) before: Option<Digest>,
    pub(crate) after: Option<Digest>,
}

impl Found {
    pub(crate) fn kind(&self) -> EventType {
        match self.what {
            PinFinding::New => EventType::ToolQuarantined,
            _ => EventType::ToolChanged,
        }
    }
}

/// The rows of a server after its list was taken in.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) tenant: TenantName,
    pub(crate) server: UpstreamName,
    pub(crate) kind: PinKind,
    /// The digest of the list.
    pub(crate) list: Digest,
    pub(crate) findings: Vec<Found>,
    upstream: Digest,
    rows: BTreeMap<PinName, ToolPinRow>,
    changed: BTreeSet<PinName>,
    gone: Vec<PinName>,
    approved: Vec<(PinName, Option<Digest>, Digest)>,
}

impl Observed {
    /// Takes in what a server offers. Of the rows, those of the same kind.
    pub(crate) fn of(config: &ToolServer, rows: &[ToolPinRow], offered: &Offered, now: Timestamp) -> Self {
        let rows = rows.iter().filter(|row| row.tool.kind() == offered.kind);
        let mut this = Self {
            tenant: config.tenant.clone(),
            server: config.name.clone(),
            kind: offered.kind,
            list: offered.list,
            findings: Vec::new(),
            upstream: identity(config),
            rows: rows.map(|row| (row.tool.clone(), row.clone())).collect(),
            changed: BTreeSet::new(),
            gone: Vec::new(),
            approved: Vec::new(),
        };
        let mut absent: BTreeSet<PinName> = this.rows.keys().cloned().collect();
        for (name, digest, text) in &offered.items {
            absent.remove(name);
            this.offered(name.clone(), *digest, text, now);
        }
        for name in absent {
            this.absent(name);
        }
        this
    }

    fn offered(&mut self, name: PinName, digest: Digest, text: &str, now: Timestamp) {
        let upstream = self.upstream;
        let Some(row) = self.rows.get_mut(&name) else {
            self.findings.push(Found { tool: name.clone(), what: PinFinding::New, before: None, after: Some(digest) });
            let row = ToolPinRow {
                tenant: self.tenant.clone(),
                server: self.server.clone(),
                tool: name.clone(),
                upstream,
                pin: Pin::first(digest),
                definition: text.to_owned(),
                approved_definition: None,
                approved_by: None,
                approved: None,
                reason: None,
                labels: BTreeSet::new(),
                idempotent: false,
                seen: now,
                revision: 0,
            };
            self.changed.insert(name.clone());
            self.rows.insert(name, row);
            return;
        };
        let before = row.pin.digest;
        let moved = (row.upstream != upstream).then(|| row.pin.moved());
        row.upstream = upstream;
        let seen = row.pin.seen(Some(digest));
        if let Some(what) = moved.or(seen) {
            self.changed.insert(name.clone());
            self.findings.push(Found { tool: name.clone(), what, before: Some(before), after: Some(digest) });
        }
        if digest != before {
            (row.definition, row.seen) = (text.to_owned(), now);
        }
    }

    fn absent(&mut self, name: PinName) {
        let Some(row) = self.rows.get_mut(&name) else { return };
        let before = row.pin.digest;
        if row.upstream != self.upstream {
            row.pin.moved();
            row.upstream = self.upstream;
            self.changed.insert(name.clone());
        }
        if let Some(what) = row.pin.seen(None) {
            self.changed.insert(name.clone());
            self.findings.push(Found { tool: name.clone(), what, before: Some(before), after: None });
        }
        // Nobody decided anything about it: a server that makes up names all the time fills no database.
        if row.pin.is_gone() {
            self.rows.remove(&name);
            self.changed.remove(&name);
            self.gone.push(name);
        }
    }

    /// Approves what is offered now, except what an operator has blocked by name.
    pub(crate) fn approve_all(&mut self, operator: &Operator, reason: Option<&str>, now: Timestamp) {
        for (name, row) in &mut self.rows {
            let blocked = row.pin.cause == Some(PinCause::Operator);
            if !row.pin.offered || blocked || row.pin.state == PinState::Approved {
                continue;
            }
            self.approved.push((name.clone(), row.pin.approved, row.pin.digest));
            row.pin.approve();
            row.approved_definition = Some(row.definition.clone());
            (row.approved_by, row.approved) = (Some(operator.name.clone()), Some(now));
            row.reason = reason.map(str::to_owned);
            self.changed.insert(name.clone());
        }
    }

    /// Whether the store has all of it already.
    pub(crate) fn is_written(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// The rows as they are now.
    pub(crate) fn rows(&self) -> Vec<ToolPinRow> {
        self.rows.values().cloned().collect()
    }

    pub(crate) async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        for name in &self.gone {
            tx.tool_pin_delete(&self.tenant, &self.server, name).await?;
        }
        for row in self.changed.iter().filter_map(|name| self.rows.get(name)) {
            tx.tool_pin_put(row).await?;
        }
        Ok(())
    }

    /// The evidence of what the plane found, all of it.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in [EventType::ToolQuarantined, EventType::ToolChanged] {
            let found: Vec<&Found> = self.findings.iter().filter(|found| found.kind() == kind).collect();
            for part in found.chunks(PER_EVENT) {
                let tools: Vec<Value> = part
                    .iter()
                    .map(|found| {
                        let mut fields = fields(&found.tool, found.before, found.after);
                        fields.insert("what".to_owned(), found.what.as_str().into());
                        Value::Map(fields)
                    })
                    .collect();
                let event = Event::new(kind, self.tenant.clone(), Attribution::plane())
                    .public("basis", vec!["gateway"])
                    .public("tool_server", self.server.as_str())
                    .public("upstream", self.upstream.to_string())
                    .public("catalogue", self.list.to_string());
                events.push(naming(event, self.kind, tools));
            }
        }
        events
    }

    /// The evidence of what the operator approved with the server.
    pub(crate) fn approvals(&self, operator: &Operator, reason: Option<&str>) -> Vec<Event> {
        let parts = self.approved.chunks(PER_EVENT);
        let event = |part: &[(PinName, Option<Digest>, Digest)]| {
            let tools: Vec<Value> =
                part.iter().map(|(tool, before, after)| entry(tool, *before, Some(*after))).collect();
            let event = by_operator(EventType::ToolApproved, self.tenant.clone(), operator, reason)
                .public("tool_server", self.server.as_str())
                .public("upstream", self.upstream.to_string());
            naming(event, self.kind, tools)
        };
        parts.map(event).collect()
    }

    /// How many the operator approved with the server.
    pub(crate) fn approved(&self) -> usize {
        self.approved.len()
    }
}

/// A record of something of one kind. The name of a resource may name persons and business.
pub(super) fn naming(event: Event, kind: PinKind, entries: Vec<Value>) -> Event {
    match kind {
        PinKind::Tool => event.public("tools", entries),
        PinKind::Prompt => event.public("kind", kind.as_str()).public("entries", entries),
        PinKind::Resource | PinKind::Template => event.public("kind", kind.as_str()).confidential("entries", entries),
    }
}

fn fields(tool: &PinName, before: Option<Digest>, after: Option<Digest>) -> BTreeMap<String, Value> {
    let text = |digest: Option<Digest>| Value::from(digest.map(|digest| digest.to_string()));
    BTreeMap::from([
        (tool.kind().as_str().to_owned(), tool.key().chars().take(NAME_MAX).collect::<String>().into()),
        ("before".to_owned(), text(before)),
        ("after".to_owned(), text(after)),
    ])
}

/// A tool in a record, with the digest before and after.
pub(super) fn entry(tool: &PinName, before: Option<Digest>, after: Option<Digest>) -> Value {
    Value::Map(fields(tool, before, after))
}
