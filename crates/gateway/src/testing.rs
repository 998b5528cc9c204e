//! What the tests of this crate share: one small manifest, and a ledger without a memory.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use cogward_model::{
    Id, SystemClock, SystemEntropy, TenantName, UpstreamName, event::Event, id::EventId, manifest::Manifest,
    pin_name::OtherKind,
};

use crate::{
    gate::Unrecorded,
    mcp::{Item, Listed, ToolCatalogue, ToolDefinition},
    pins::{
        PinKeeper, PinTable, ServerPins, Unwritten,
        entries::{Entry, EntryPins},
    },
};

/// Approves whatever it is shown: for tests of everything but pins.
pub struct Trusting(pub Arc<PinTable>);

impl PinKeeper for Trusting {
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let served = catalogue.iter().filter_map(|tool| ToolDefinition::parse(tool.raw.get()).ok().flatten()).collect();
        let pins = ServerPins::new(Some(catalogue.digest()), served, BTreeMap::new(), Default::default());
        self.0.put(&tenant, &server, pins);
        Box::pin(std::future::ready(Ok(0)))
    }

    fn examine_entries(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        kind: OtherKind,
        listed: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let entry = |item: &Item| Entry { raw: item.raw.clone(), digest: item.digest };
        let served = listed.items().iter().map(|item| (item.name.key().to_owned(), entry(item))).collect();
        self.0.put_entries(&tenant, &server, kind, EntryPins::new(Some(listed.digest()), served, BTreeMap::new()));
        Box::pin(std::future::ready(Ok(0)))
    }
}

/// An agent with two read tools, one model and one host.
pub fn manifest() -> Manifest {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": "reader", "tenant": "default", "version": "1", "owner": "team", "sponsor": "ada@example.com", "costCentre": "c1"},
        "spec": {
            "goal": "read", "autonomy": "supervised",
            "package": {"directory": ".", "entrypoint": ["python3", "agent.py"]},
            "permissions": {
                "tools": [{"server": "files", "allow": ["read_text_file", "list_directory"]}],
                "models": [{"provider": "scripted", "name": "demo-model", "maxOutputTokens": 256}],
                "egress": [{"host": "api.example.com", "port": 443}]
            },
            "budgets": {"run": {"tokens": 10000, "costUsd": "1.00", "toolCalls": 10, "wallClockSeconds": 60}}
        }
    }))
    .unwrap()
}

/// A ledger that takes everything.
pub struct Nowhere;

impl crate::Records for Nowhere {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move { self.note(event) })
    }
    fn note(&self, _: Event) -> Result<EventId, Unrecorded> {
        Ok(Id::new(&SystemClock, &SystemEntropy))
    }
    fn stopped(&self) -> Option<String> {
        None
    }
}
