//! The evidence of lifecycle steps. What is about a person or the customer's business is committed,
//! not written; the rest is in clear.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    Digest, TenantName,
    action::Amounts,
    attestation::Check,
    content::{Artifact, GivenInput},
    event::{Attribution, Event, EventType, Value},
    id::OperationId,
    run::RunState,
    violation::{CGROUP, EGRESS, Reaction, SECCOMP, Severity as Danger, ViolationTotal},
};
use cogward_store::RunRow;

use crate::{
    attest::Occasion,
    command::Order,
    engine::Version,
    errors::StartError,
    given,
    live::Live,
    outside,
    ports::{Attestation, Exit, RunUsed, Violation},
    start::StartRun,
};

/// Who a command of the plane itself is by.
pub(crate) const PLANE: &str = "plane";

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0_u8; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

pub(crate) fn requested(
    row: &RunRow,
    version: &Version,
    operation: OperationId,
    inputs: &[GivenInput],
    request: &StartRun,
) -> Event {
    let by_itself = request.outside.as_ref().is_some_and(|outside| outside.by_itself);
    let by = Attribution { agent: Some((row.agent.clone(), row.version.clone())), subject: row.subject.clone() };
    let spec = &version.manifest.spec;
    let client = row.outside.as_ref();
    Event::new(EventType::RunRequested, row.tenant.clone(), by)
        .run(row.id)
        .public("basis", vec![if by_itself { outside::PROFILE } else { "operator" }])
        .public("operator", request.operator.map(|id| id.to_string()))
        .public("policy", version.digest.to_string())
        .public("package", version.package.to_string())
        .public("autonomy", spec.autonomy.as_str())
        .public("tier", spec.tier.as_str())
        .public("profile", outside::profile_of(row, version))
        .public("issuer", client.map(|client| client.issuer.to_string()))
        .public("client", client.map(|client| shown(&client.client)))
        .public("binding", client.map(|client| client.binding.as_str()))
        .public("operation", operation.to_string())
        .public("inputs", given::recorded(inputs))
        .confidential("goal", row.goal.as_str())
        .confidential("input", row.input_digest.map(|d| d.to_string()))
        .personal("actor", row.created_by.as_str())
        .personal("reason", row.reason.clone())
}

pub(crate) fn refused(request: &StartRun, tenant_known: bool, error: &StartError, rule: &'static str) -> Event {
    // An unknown tenant has no ledger, and asking for one must not make one.
    let tenant = if tenant_known { request.tenant.clone() } else { TenantName::default_tenant() };
    let who = request.as_user.as_ref().unwrap_or(&request.actor);
    Event::new(EventType::RunRefused, tenant, Attribution::operator(who.as_str()))
        .public("basis", vec!["operator"])
        .public("operator", request.operator.map(|id| id.to_string()))
        .public("rule", rule)
        .public("cause", error.to_string())
        .public("asked_tenant", request.tenant.as_str())
        .public("asked_agent", request.agent.as_str())
        .public("asked_version", request.version.as_ref().map(|v| v.as_str().to_owned()))
        .personal("actor", request.actor.as_str())
        .personal("reason", request.reason.clone())
}

/// A command on a run, or a step that the plane takes by itself.
pub(crate) fn commanded(
    live: &RunRow,
    kind: EventType,
    state: RunState,
    operation: OperationId,
    order: &Order,
) -> Event {
    let by = Attribution { agent: Some((live.agent.clone(), live.version.clone())), subject: live.subject.clone() };
    let event = Event::new(kind, live.tenant.clone(), by)
        .run(live.id)
        .public("from", live.state.as_str())
        .public("to", state.as_str())
        .public("operation", operation.to_string());
    if order.actor == PLANE {
        event.public("basis", vec!["plane"]).public("rule", order.reason.clone())
    } else {
        event
            .public("basis", vec!["operator"])
            .public("operator", order.operator.map(|id| id.to_string()))
            .personal("actor", order.actor.as_str())
            .personal("reason", order.reason.clone())
    }
}

pub(crate) fn started(live: &Live, profile: &str, enforcement: serde_json::Value, proof: Option<Digest>) -> Event {
    Event::new(EventType::RunStarted, live.tenant.clone(), live.attribution())
        .run(live.run)
        .public("basis", vec!["sandbox"])
        .public("profile", profile)
        // The leaf before this one has what it is the digest of.
        .public("proof", proof.map(|proof| proof.to_string()))
        .public("enforcement", plain(enforcement, 0))
}

/// What was found in force. An unchanged proof is told by its digest alone: the leaf that has the facts is before it in
/// the run's chain.
pub(crate) fn attested(live: &Live, occasion: Occasion, found: &Attestation, unchanged: bool) -> Event {
    let event = Event::new(EventType::SandboxAttested, live.tenant.clone(), live.attribution())
        .run(live.run)
        .public("basis", vec!["sandbox"])
        .public("occasion", occasion.as_str())
        .public("policy", live.basis.get().map(|basis| basis.policy.to_string()))
        .public("profile", live.basis.get().map(|basis| basis.profile))
        .public("holds", found.checks.iter().all(|check| check.holds))
        .public("proof", found.proof.to_string())
        .public("processes", found.processes)
        .public("took_us", found.took_us);
    if unchanged {
        return event.public("unchanged", true).public("checks", found.checks.len() as u64);
    }
    let checks: Vec<Value> = found.checks.iter().map(checked).collect();
    event.public("checks", checks).public("facts", plain(found.facts.clone(), 0))
}

fn checked(check: &Check) -> Value {
    let mut map =
        BTreeMap::from([("name".to_owned(), shown(&check.name).into()), ("holds".to_owned(), check.holds.into())]);
    if let Some(detail) = &check.detail {
        map.insert("detail".to_owned(), shown(detail).into());
    }
    Value::Map(map)
}

pub(crate) fn adopted(live: &Live, state: RunState) -> Event {
    Event::new(EventType::RunAdopted, live.tenant.clone(), live.attribution())
        .run(live.run)
        .public("basis", vec!["plane"])
        .public("state", state.as_str())
}

pub(crate) fn violation(live: &Live, violation: &Violation, severity: Danger, verdict: Reaction) -> Event {
    let event = Event::new(EventType::SandboxViolation, live.tenant.clone(), live.attribution())
        .run(live.run)
        .public("basis", vec![if violation.layer == EGRESS { "gateway" } else { "sandbox" }])
        .public("rule", format!("sandbox.{}", word(&violation.layer)))
        .public("layer", word(&violation.layer))
        .public("action", word(&violation.action))
        .public("severity", severity.as_str())
        .public("verdict", verdict.verdict())
        .public("count", violation.count)
        .public("total", violation.total);
    match object(violation) {
        Some(object) => event.public("object", object),
        // A path that the agent chose may hold anything.
        None => event.confidential("object", shown(&violation.object)),
    }
}

/// What a violation was about, where that is a word of our own or what a decision names in clear as well.
pub(crate) fn object(violation: &Violation) -> Option<String> {
    [SECCOMP, CGROUP, EGRESS].contains(&violation.layer.as_str()).then(|| shown(&violation.object))
}

/// Most kinds of refusals that the last leaf of a run names; the sum is of all.
const KINDS_NAMED_MAX: usize = 64;

fn totals(violations: &[ViolationTotal]) -> Vec<Value> {
    let named = violations.iter().take(KINDS_NAMED_MAX).map(|v| {
        let clear = [SECCOMP, CGROUP, EGRESS].contains(&v.layer.as_str());
        Value::Map(BTreeMap::from([
            ("layer".to_owned(), word(&v.layer).into()),
            ("action".to_owned(), word(&v.action).into()),
            ("object".to_owned(), clear.then(|| shown(&v.object)).into()),
            ("severity".to_owned(), v.severity.as_str().into()),
            ("total".to_owned(), v.total.into()),
        ]))
    });
    named.collect()
}

pub(crate) fn closed(row: &RunRow, exit: &Exit, used: RunUsed, violations: &[ViolationTotal]) -> Event {
    let by = Attribution { agent: Some((row.agent.clone(), row.version.clone())), subject: row.subject.clone() };
    let usage = BTreeMap::from([
        ("cpu_micros".to_owned(), exit.usage.cpu_micros.into()),
        ("memory_peak_bytes".to_owned(), exit.usage.memory_peak_bytes.into()),
        ("io_read_bytes".to_owned(), exit.usage.io_read_bytes.into()),
        ("io_write_bytes".to_owned(), exit.usage.io_write_bytes.into()),
        ("log_bytes".to_owned(), exit.usage.log_bytes.into()),
        ("log_bytes_dropped".to_owned(), exit.usage.log_bytes_dropped.into()),
    ]);
    let (started, ended) = (row.started, row.ended.unwrap_or_default());
    let telemetry = used.telemetry.map(|(exports, items)| {
        Value::Map(BTreeMap::from([("exports".to_owned(), exports.into()), ("items".to_owned(), items.into())]))
    });
    Event::new(EventType::RunClosed, row.tenant.clone(), by)
        .run(row.id)
        .public("basis", vec!["sandbox"])
        .public("state", row.state.as_str())
        .public("exit_code", number(row.exit_code))
        .public("exit_signal", number(row.exit_signal))
        .public("cause", row.fail_cause.clone())
        .public("duration_us", started.map(|from| ended.micros_since(from)))
        .public("used", amounts(used.amounts))
        .public("model_calls", used.model_calls)
        .public("connections", used.connections)
        .public("refusals", used.refusals)
        .public("telemetry", telemetry)
        .public("artifacts", Value::List(exit.artifacts.iter().map(artifact).collect()))
        .public("output_refused", exit.output_refused.map(|reason| reason.as_str()))
        .public("violations", totals(violations))
        .public("violations_total", violations.iter().map(|v| v.total).sum::<u64>())
        .public("usage", Value::Map(usage))
        .confidential("output", exit.output.as_deref().map(|bytes| sha256(bytes).to_string()))
}

/// What became of a declared output. Why it was not kept is one of our own words: a path that the agent chose is not
/// for a record that is read by many.
fn artifact(artifact: &Artifact) -> Value {
    let mut fields = BTreeMap::from([("name".to_owned(), artifact.name.as_str().into())]);
    if let Some(content) = &artifact.content {
        fields.extend(given::content(content));
    }
    if let Some(reason) = artifact.refused {
        fields.insert("refused".to_owned(), reason.as_str().into());
    }
    Value::Map(fields)
}

pub(crate) fn amounts(amounts: Amounts) -> Value {
    Value::Map(BTreeMap::from([
        ("connections".to_owned(), amounts.connections.into()),
        ("cost_nano".to_owned(), amounts.cost.nanos().into()),
        ("egress_bytes".to_owned(), amounts.egress_bytes.into()),
        ("tokens".to_owned(), amounts.tokens.into()),
        ("tool_calls".to_owned(), amounts.tool_calls.into()),
    ]))
}

/// An event for the journal, about a run.
pub(crate) fn journal(kind: &'static str, live: &Live) -> JournalEvent {
    JournalEvent::run(kind, live.tenant.clone(), live.run)
}

/// The severity of a run's end.
pub(crate) fn severity_of(state: RunState) -> Severity {
    if state == RunState::Failed { Severity::Warning } else { Severity::Info }
}

fn number(value: Option<i32>) -> Value {
    value.map_or(Value::Null, |v| Value::Int(v.into()))
}

/// A word of our own vocabulary, held to its alphabet.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')).take(64).collect()
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Deepest nesting of what a sandbox says is in force, as far as evidence takes it.
const DEPTH_MAX: u32 = 8;

/// JSON in the ledger's profile: what it cannot hold (a float, a number beyond 2^53, a deep tree) as text.
fn plain(value: serde_json::Value, depth: u32) -> Value {
    use serde_json::Value as Json;
    if depth > DEPTH_MAX {
        return Value::Text(value.to_string());
    }
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(value) => match value.as_i64() {
            Some(int) if int.unsigned_abs() <= 1 << 53 => Value::Int(int),
            _ => Value::Text(value.to_string()),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(list) => Value::List(list.into_iter().map(|v| plain(v, depth + 1)).collect()),
        Json::Object(map) => Value::Map(map.into_iter().map(|(k, v)| (k, plain(v, depth + 1))).collect()),
    }
}
