//! Rules that would wait for a question that nobody puts, or for an answer that nobody waits for. They read as if they
//! did something, so they are refused when they are written. A version that was taken earlier stays what it was: at the
//! gate such a rule refuses, or matches nothing.

use cedar_policy::EntityUid;

use super::names::finding;
use crate::{
    finding::{Finding, Severity},
    track::Pattern,
    version::Version,
};

/// Actions of the schema that nothing asks yet.
const NOT_ASKED: [&str; 1] = ["token"];

pub(super) fn asked(version: &Version, findings: &mut Vec<Finding>) {
    for rule in version.rules() {
        if !rule.require_labels.is_empty() && rule.scope.may_have_no_labels() {
            let what = "`@require_label` on a rule that also matches what carries no labels (hosts, questions of tool \
                        servers, commands): that would be blocked each time";
            let next_step = "Name in its head what it is about: `action in [Cogward::Action::\"tool_call\", \
                             Cogward::Action::\"resource_read\"]`";
            findings.push(finding(rule, Severity::Error, what.into(), next_step.into()));
        }
        let named = rule.scope.actions().unwrap_or_default().iter().map(|(uid, _)| uid.id().unescaped());
        let counted = rule.trackers.iter().filter_map(|tracker| match tracker.of {
            Pattern::Action(action) => Some(action),
            _ => None,
        });
        for action in named.chain(counted).filter(|action| NOT_ASKED.contains(action)) {
            let what = format!("nothing asks for `{action}` yet: agents get no tokens, so this rule would do nothing");
            findings.push(finding(rule, Severity::Error, what, "Take it out until they do".into()));
        }
        // As with `tool_call`; taken by earlier releases, so it is refused here and not wherever a version is read.
        let exactly = |(uid, exactly): &(EntityUid, bool)| *exactly && uid.id().unescaped() == "memory";
        if rule.scope.actions().unwrap_or_default().iter().any(exactly) {
            let what = "`action == Cogward::Action::\"memory\"` matches no call of an approved tool";
            let next_step = "Write `action in Cogward::Action::\"memory\"`";
            findings.push(finding(rule, Severity::Error, what.into(), next_step.into()));
        }
        if rule.escalation.is_some() && rule.scope.may_be_a_command() {
            findings.push(finding(
                rule,
                Severity::Error,
                "`@escalate` on a rule that commands of operators match: a command waits for nobody, so it would be \
                 refused each time"
                    .into(),
                "Say in its head that it is about agents: `permit(principal is Cogward::AgentVersion, …)`. For \
                 operators, name the role that may: `permit(principal in Cogward::Role::\"release\", …)`"
                    .into(),
            ));
        }
    }
}
