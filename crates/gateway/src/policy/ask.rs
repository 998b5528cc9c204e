//! The question as the policies read it: only what they read is looked up.

use cogward_model::{
    action::{Action, Amounts},
    decision::{Refusal, RefusalCode},
};
use cogward_policy::{
    AskError, BudgetLeft, Deed, Facts, Head, Needs, Principal, Shape, Tracker as Declared, Value,
    ask::{AgentVersion, HttpRequest, ModelFacts},
    track::Measure,
};

use super::{
    Question, ToolMarks,
    active::{Asking, Resolved},
    history::Tracker,
};
use crate::grant::RunGrant;

/// The head of a question: constant for a run and what it does.
pub(super) fn head(question: &Question<'_>, marks: &ToolMarks) -> Result<Asking, AskError> {
    let deed = Deed::of(question.action, marks.shape.is_some(), marks.memory);
    let grant = &question.run.grant;
    question.run.policies.head(
        deed,
        |head| head.labels == *marks.labels,
        |deed| Head { principal: principal(grant), deed, labels: (*marks.labels).clone() },
    )
}

fn principal(grant: &RunGrant) -> Principal {
    Principal::Agent(AgentVersion {
        tenant: grant.tenant.clone(),
        agent: grant.agent.clone(),
        version: grant.version.clone(),
        digest: grant.version_digest,
        tier: grant.tier,
        autonomy: grant.autonomy,
        delegators: Vec::new(),
    })
}

/// What is known of a call, but for its history.
pub(super) fn facts(question: &Question<'_>, needs: &Needs, marks: &ToolMarks) -> Result<Facts, Refusal> {
    let grant = &question.run.grant;
    let mut facts = Facts::at(question.now);
    facts.run = needs.run.then_some(grant.run);
    facts.subject = grant.subject.clone().filter(|_| needs.subject);
    facts.budget = needs.budget.then(|| budget((question.left)()));
    if let Action::ModelCall { wire, streaming, .. } = question.action {
        facts.model = needs.model.then(|| ModelFacts::of(*wire, *streaming, question.worst.tokens));
    }
    if let Action::Request { method, path, .. } = question.action {
        facts.request = needs.request.then(|| HttpRequest { method: method.clone(), path: path.clone() });
    }
    if let (false, Some(shape), Some(bytes)) = (needs.arguments.is_empty(), &marks.shape, question.content.arguments) {
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable("the arguments are not UTF-8"))?;
        let read = shape.project(text, &needs.arguments);
        facts.arguments = Some(read.map_err(|error| unreadable(&error.to_string()))?);
    }
    Ok(facts)
}

/// A tool that is not pinned has arguments without types: what a rule reads of them must not be there, else a forbid would
/// pass over what it names.
pub(super) fn untyped(question: &Question<'_>, needs: &Needs, marks: &ToolMarks) -> Result<(), Refusal> {
    if let (false, None, Some(bytes)) = (needs.arguments.is_empty(), &marks.shape, question.content.arguments) {
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable("the arguments are not UTF-8"))?;
        let read = Shape::default().project(text, &needs.arguments);
        read.map_err(|error| unreadable(&error.to_string()))?;
    }
    Ok(())
}

fn unreadable(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, "policy.arguments", detail, "Mend the arguments and call again")
}

fn budget(left: Amounts) -> BudgetLeft {
    let held = |part: u64| i64::try_from(part).unwrap_or(i64::MAX);
    BudgetLeft { usd_nanos: held(left.cost.nanos()), tokens: held(left.tokens), calls: held(left.tool_calls) }
}

/// What the call adds to each count that counts it.
///
/// # Errors
/// A sum counts it, and the value to add is there and cannot be read: adding nothing would be a way around the sum.
pub(super) fn adds(
    question: &Question<'_>,
    resolved: &Resolved,
    deed: &Deed,
    facts: &Facts,
) -> Result<Vec<(Tracker, i64)>, Refusal> {
    // More for a call that goes on is the same call; what a tool server asks back within one is not.
    let asked_back = matches!(question.action, Action::Sampling { .. } | Action::Elicitation { .. });
    if question.first.is_some() && !asked_back {
        return Ok(Vec::new());
    }
    let mut adds = Vec::new();
    for (declared, tracker) in resolved.trackers.iter().filter(|(declared, _)| declared.counts(deed)) {
        if let Measure::Sum(path) = &declared.measure
            && !has_number(facts, path.steps())
            && is_there(question, path.steps())
        {
            return Err(not_summed(declared));
        }
        adds.push((tracker.clone(), declared.adds(facts.arguments.as_ref())));
    }
    Ok(adds)
}

fn has_number(facts: &Facts, path: &[String]) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    let mut record = facts.arguments.as_ref();
    for step in above {
        record = match record.and_then(|record| record.get(step)) {
            Some(Value::Record(inner)) => Some(inner),
            _ => None,
        };
    }
    matches!(record.and_then(|record| record.get(last)), Some(Value::Long(_) | Value::Decimal(_)))
}

/// Whether the arguments have something there; what cannot be looked into has.
fn is_there(question: &Question<'_>, path: &[String]) -> bool {
    let Some(bytes) = question.content.arguments else { return false };
    let Ok(whole) = serde_json::from_slice::<serde_json::Value>(bytes) else { return true };
    let mut at = &whole;
    for step in path {
        match at.get(step) {
            Some(next) => at = next,
            // A list on the way may hold it.
            None => return at.is_array(),
        }
    }
    !at.is_null()
}

fn not_summed(tracker: &Declared) -> Refusal {
    let Measure::Sum(path) = &tracker.measure else { return unreadable("a count cannot be kept") };
    Refusal::new(
        RefusalCode::PolicyBlocked,
        "policy.history",
        format!("a policy sums `arguments.{path}`, and this call gives no number there that it can read"),
        "Give it as one number; the tool must be approved, and its schema must say that it is a number",
    )
}
