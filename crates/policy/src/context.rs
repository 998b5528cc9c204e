//! The context record of a question. Only what the rules of the slice read is in it.

use cedar_policy::{EvaluationError, RestrictedExpression};

use crate::{
    ask::{Deed, Facts, Head, MemoryOperation, Principal},
    needs::Needs,
    value::record_expression,
};

type Pair = (String, RestrictedExpression);

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn long(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

/// A record of distinct names.
fn record(pairs: impl IntoIterator<Item = (String, RestrictedExpression)>) -> RestrictedExpression {
    RestrictedExpression::new_record(pairs).unwrap_or_else(|_| RestrictedExpression::new_bool(false))
}

fn named(pairs: impl IntoIterator<Item = (&'static str, RestrictedExpression)>) -> RestrictedExpression {
    record(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

pub(crate) fn pairs(head: &Head, facts: &Facts, needs: &Needs) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::with_capacity(8);
    let mut add = |name: &str, value: RestrictedExpression| pairs.push((name.to_owned(), value));
    if let Principal::Agent(agent) = &head.principal {
        add("tier", text(agent.tier.as_str()));
        add("autonomy", text(agent.autonomy.as_str()));
    }
    if let Some(subject) = facts.subject.as_deref().filter(|_| needs.subject) {
        add("subject", text(subject));
    }
    if let Some(run) = facts.run.filter(|_| needs.run) {
        add("run", text(&run.to_string()));
    }
    if let Some(budget) = facts.budget.filter(|_| needs.budget) {
        let parts = [("usd_nanos", budget.usd_nanos), ("tokens", budget.tokens), ("calls", budget.calls)];
        add("budget", named(parts.map(|(name, value)| (name, long(value)))));
    }
    if needs.time {
        add("time", time(facts.at_ms));
    }
    if let Some(labels) = facts.labels.as_ref().filter(|_| needs.labels) {
        add("labels", RestrictedExpression::new_set(labels.iter().map(|label| text(label))));
    }
    if !needs.history.is_empty() {
        let known = needs
            .history
            .iter()
            .filter_map(|tracker| facts.history.get(&tracker.key()).map(|value| (tracker.name.clone(), long(*value))));
        add("history", record(known));
    }
    if let Some(model) = facts.model.as_ref().filter(|_| needs.model) {
        let parts = [
            ("wire", text(&model.wire)),
            ("streaming", RestrictedExpression::new_bool(model.streaming)),
            ("tokens_max", long(model.tokens_max)),
        ];
        add("model", named(parts));
    }
    if let Some(request) = facts.request.as_ref().filter(|_| needs.request) {
        add("request", named([("method", text(&request.method)), ("path", text(&request.path))]));
    }
    if let Some(arguments) = facts.arguments.as_ref().filter(|_| !needs.arguments.is_empty()) {
        add("arguments", record_expression(arguments));
    }
    match &head.deed {
        Deed::Memory { operation, .. } => add("operation", text(operation.as_str())),
        Deed::RunCommand { command, .. } | Deed::OperatorCommand { command, .. } => add("command", text(command)),
        _ => {}
    }
    pairs
}

fn time(at_ms: u64) -> RestrictedExpression {
    let [epoch_ms, hour, weekday] = clock(at_ms);
    named([("epoch_ms", long(epoch_ms)), ("hour", long(hour)), ("weekday", long(weekday))])
}

/// Milliseconds, hour and weekday in UTC; 1970-01-01 was a Thursday, weekday 4.
pub(crate) fn clock(at_ms: u64) -> [i64; 3] {
    let hours = at_ms / 3_600_000;
    [at_ms, hours % 24, (hours / 24 + 3) % 7 + 1].map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

impl MemoryOperation {
    /// The word of the schema.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// An evaluation error by its kind alone: the full text can hold values of the call.
pub(crate) fn told(error: &EvaluationError) -> String {
    use EvaluationError as E;
    match error {
        E::EntityDoesNotExist(_) => "it names an entity that is not part of the question",
        E::EntityAttrDoesNotExist(_) | E::RecordAttrDoesNotExist(_) => "it reads something that is not there",
        E::FailedExtensionFunctionLookup(_) | E::WrongNumArguments(_) | E::FailedExtensionFunctionExecution(_) => {
            "a function failed"
        }
        E::TypeError(_) => "a value has another type than the rule takes it for",
        E::IntegerOverflow(_) => "a sum or product left the range of numbers",
        E::RecursionLimit(_) => "it is nested too deeply",
        _ => "it could not be evaluated",
    }
    .to_owned()
}
