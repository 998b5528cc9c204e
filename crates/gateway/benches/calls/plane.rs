//! What the gateway is given: evidence, a hundred rules, an agent and an operator who approved everything.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use cogward_evidence::{Evidence, Health};
use cogward_gateway::{
    PinKeeper, PinTable, Records,
    gate::Unrecorded,
    mcp::{Listed, ToolCatalogue, ToolDefinition},
    pins::{ServerPins, Unwritten},
    policy::PolicySet,
};
use cogward_model::{TenantName, UpstreamName, event::Event, id::EventId, manifest::Manifest, pin_name::OtherKind};
use cogward_policy::Version;

pub struct Ledger(pub Evidence);

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move { self.0.record(event).await.map(|leaf| leaf.id).map_err(|e| Unrecorded(e.to_string())) })
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        self.0.note(event).map_err(|e| Unrecorded(e.to_string()))
    }
    fn stopped(&self) -> Option<String> {
        match &*self.0.health().borrow() {
            Health::Ok => None,
            other => Some(format!("{other:?}")),
        }
    }
}

/// A hundred rules: a tenth of them can match any call and reads something, the others are about other tools.
pub fn hundred_rules() -> PolicySet {
    use std::fmt::Write;
    let mut text = String::from("permit(principal, action, resource);\n");
    for n in 0..99 {
        let _ = match n % 10 {
            0 => writeln!(
                text,
                "forbid(principal, action, resource) when {{ context.budget.calls < {n} && context.time.hour > 24 }};"
            ),
            5 => writeln!(
                text,
                "forbid(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"bank/t{n}\");"
            ),
            _ => writeln!(
                text,
                "permit(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"bank/t{n}\");"
            ),
        };
    }
    let level = "tenant:default".parse().expect("a level");
    let version = Version::load(level, &text).expect("a policy");
    PolicySet { versions: vec![Arc::new(version)], ..PolicySet::default() }
}

pub fn manifest() -> Manifest {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": "bench", "tenant": "default", "version": "1", "owner": "t", "sponsor": "s", "costCentre": "c"},
        "spec": {
            "goal": "bench", "autonomy": "autonomous",
            "package": {"directory": ".", "entrypoint": ["x"]},
            "permissions": {
                "tools": [{"server": "echo", "allow": ["echo"]}],
                "models": [{"provider": "fake", "name": "m", "maxOutputTokens": 64}]
            },
            "budgets": {"run": {"tokens": 1, "costUsd": "1", "toolCalls": 1, "wallClockSeconds": 1}}
        }
    }))
    .expect("a manifest")
}

/// The operator approved everything.
pub struct Trusting(pub Arc<PinTable>);

impl PinKeeper for Trusting {
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let served = catalogue.iter().filter_map(|tool| ToolDefinition::parse(tool.raw.get()).ok().flatten()).collect();
        let pins = ServerPins::new(Some(catalogue.digest()), served, BTreeMap::new(), HashMap::new());
        self.0.put(&tenant, &server, pins);
        Box::pin(std::future::ready(Ok(0)))
    }

    fn examine_entries(
        &self,
        _: TenantName,
        _: UpstreamName,
        _: OtherKind,
        _: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        Box::pin(std::future::ready(Err(Unwritten("only tools are called".to_owned()))))
    }
}
