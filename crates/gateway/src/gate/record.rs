//! What stands in the records of decisions and outcomes.

use std::collections::BTreeMap;

use cogward_model::{
    action::{Action, Amounts},
    event::{Event, EventType, Field, FieldClass, Value},
};

use crate::{mcp::sha256, run::RunContext};

/// How much of a path is kept sealed in the vault, in bytes; of a longer one, which is refused, there is the digest.
const PATH_KEPT_BYTES_MAX: usize = 8 * 1024;

/// The record of a decision, without what the policies said.
pub(super) fn decision(run: &RunContext, action: &Action, verdict: &'static str, rule: &str) -> Event {
    let grant = &run.grant;
    let event = Event::new(EventType::decided(action), grant.tenant.clone(), grant.attribution())
        .run(grant.run)
        .public("basis", vec!["gateway"])
        .public("decision", verdict)
        .public("rule", rule)
        .public("version_digest", grant.version_digest.to_string())
        .public("autonomy", grant.autonomy.as_str())
        .public("tier", grant.tier.as_str());
    match action {
        Action::ToolCall { server, tool } => event.public("tool", format!("{server}/{tool}")),
        Action::ModelCall { provider, model, wire, streaming } => event
            .public("provider", provider.as_str())
            .public("model", bounded(model))
            .public("wire", wire.as_str())
            .public("streaming", *streaming),
        Action::Egress { host, port } => event.public("host", bounded(host)).public("port", u64::from(*port)),
        // A path may name persons and business: committed, not shown.
        Action::Request { host, port, method, path } => event
            .public("host", bounded(host))
            .public("port", u64::from(*port))
            .public("method", bounded(method))
            .confidential("path", whole(path)),
        // So may the name of a resource.
        Action::ResourceRead { server, uri } => {
            event.public("server", server.as_str()).confidential("uri", bounded(uri))
        }
        Action::PromptGet { server, prompt } => event.public("prompt", format!("{server}/{}", bounded(prompt))),
        Action::Sampling { server } | Action::Elicitation { server } => event.public("server", server.as_str()),
    }
}

/// A field of the customer's business.
#[must_use]
pub fn confidential(name: &'static str, value: impl Into<Value>) -> Field {
    Field { name: name.into(), class: FieldClass::Confidential, value: value.into() }
}

/// A field that everyone may read.
#[must_use]
pub fn public(name: &'static str, value: impl Into<Value>) -> Field {
    Field { name: name.into(), class: FieldClass::Public, value: value.into() }
}

pub(super) fn amounts(amounts: Amounts) -> Value {
    Value::Map(BTreeMap::from([
        ("connections".to_owned(), amounts.connections.into()),
        ("cost_nano".to_owned(), amounts.cost.nanos().into()),
        ("egress_bytes".to_owned(), amounts.egress_bytes.into()),
        ("tokens".to_owned(), amounts.tokens.into()),
        ("tool_calls".to_owned(), amounts.tool_calls.into()),
    ]))
}

/// A path to its end: what follows a part that is shown may be what it is about.
fn whole(path: &str) -> String {
    if path.len() <= PATH_KEPT_BYTES_MAX { path.to_owned() } else { sha256(path.as_bytes()).to_string() }
}

/// What an agent sent is shown in clear only up to a bound, and without control characters.
pub(super) fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}
