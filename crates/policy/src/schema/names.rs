//! What Cedar does not check: the arguments that annotations name, and tools that are named as entities.

use std::sync::Arc;

use super::{Schema, validate::nearest_argument};
use crate::{
    finding::{Finding, Severity},
    level::PolicyScope,
    obligation::Obligation,
    path::Path,
    rule::Rule,
    shape::{Kind, Shape},
    track::{Measure, Pattern, Per, Tracker},
    version::Version,
};

pub(super) fn finding(rule: &Rule, severity: Severity, what: String, next_step: String) -> Finding {
    Finding { severity, line: rule.line, column: rule.column, rule: Some(rule.id.clone()), what, next_step }
}

/// A count goes on with the calls of the runs that its level is over. One that is said to be over more would leave out the
/// calls of all others, and a limit on it would be no limit.
fn counts_in_part(level: &PolicyScope, rule: &Rule, tracker: &Tracker) -> Option<Finding> {
    let whole = match (level, tracker.per) {
        (_, Per::Run) | (PolicyScope::Plane | PolicyScope::Tenant(_), _) | (PolicyScope::Agent(..), Per::Agent) => true,
        (PolicyScope::Tier(..) | PolicyScope::Agent(..), _) => false,
    };
    let what = || {
        let (name, per, level) = (&tracker.name, tracker.per.as_str(), level.level());
        format!(
            "the tracker `{name}` counts per {per}, and a policy of the level {level} sees only a part of those calls"
        )
    };
    let next_step =
        "Declare it in the policy of the tenant, and name the tier or the agent in the condition; or count per run";
    (!whole).then(|| finding(rule, Severity::Error, what(), next_step.into()))
}

impl Schema {
    pub(super) fn names(&self, version: &Version, findings: &mut Vec<Finding>) {
        for rule in version.rules() {
            for obligation in &rule.obligations {
                self.obligation(rule, obligation, findings);
            }
            for tracker in &rule.trackers {
                self.tracker(rule, tracker, findings);
                findings.extend(counts_in_part(version.level(), rule, tracker));
            }
            self.entities(rule, findings);
        }
    }

    /// An obligation on an argument that does not exist would do nothing.
    fn obligation(&self, rule: &Rule, obligation: &Obligation, findings: &mut Vec<Finding>) {
        let (path, capped) = match obligation {
            Obligation::RedactArguments(path) => (path, false),
            Obligation::Cap { path, .. } => (path, true),
            Obligation::RedactResult(_) => return,
        };
        for tool in self.exact_tools(rule) {
            let Some(shape) = self.tools.get(&tool) else { continue };
            let (server, tool) = tool;
            match shape.at(path.steps()) {
                None => self.unknown(rule, &format!("{server}/{tool}"), shape, path, findings),
                Some(Kind::Long | Kind::Decimal) => {}
                Some(_) if capped => findings.push(finding(
                    rule,
                    Severity::Error,
                    format!("the argument `{path}` of `{server}/{tool}` is not a number, so it has no cap"),
                    "Name an argument that is a number".into(),
                )),
                Some(_) => {}
            }
        }
    }

    fn unknown(&self, rule: &Rule, tool: &str, shape: &Shape, path: &Path, findings: &mut Vec<Finding>) {
        // What is there and has no single type can still be taken out.
        if shape.why_not(&path.to_string()).is_some() {
            return;
        }
        let next_step = match nearest_argument(shape, path.steps()) {
            Some(known) => format!("Did you mean `arguments.{known}`?"),
            None => "`cogward tool show` lists its arguments".into(),
        };
        findings.push(finding(rule, Severity::Error, format!("`{tool}` has no argument `{path}`"), next_step));
    }

    /// A sum over an argument that no call has would always be nought.
    fn tracker(&self, rule: &Rule, tracker: &Tracker, findings: &mut Vec<Finding>) {
        let of = |server: &str, tool: &str| match &tracker.of {
            Pattern::Action("memory") => self.memories.contains(&(server.to_owned(), tool.to_owned())),
            Pattern::Action(action) => *action == "tool_call",
            Pattern::Server(wanted) => wanted.as_str() == server,
            Pattern::Tool(wanted, name) => wanted.as_str() == server && name.as_str() == tool,
        };
        let tools: Vec<(&str, &str, &Arc<Shape>)> = self.tools().filter(|(server, tool, _)| of(server, tool)).collect();
        if tools.is_empty() {
            if !matches!(tracker.of, Pattern::Action(_)) {
                let what = format!(
                    "the tracker `{}` counts calls of `{}`, and no such tool is approved",
                    tracker.name, tracker.of
                );
                findings.push(finding(rule, Severity::Warning, what, "Check the names, or add the tool server".into()));
            }
            return;
        }
        let Measure::Sum(path) = &tracker.measure else { return };
        let number = |shape: &Shape| matches!(shape.at(path.steps()), Some(Kind::Long | Kind::Decimal));
        if !tools.iter().any(|(_, _, shape)| number(shape)) {
            let what = format!(
                "the tracker `{}` sums `arguments.{path}`, which is no number of `{}`",
                tracker.name, tracker.of
            );
            let known = tools.iter().find_map(|(_, _, shape)| nearest_argument(shape, path.steps()));
            let known = known.filter(|known| *known != path.to_string());
            let next_step = match known {
                Some(known) => format!("Did you mean `arguments.{known}`?"),
                None => "Name an argument that is a number".into(),
            };
            findings.push(finding(rule, Severity::Error, what, next_step));
        }
    }

    /// Cedar takes every entity id; a tool or a server that does not exist is a doubtful one.
    fn entities(&self, rule: &Rule, findings: &mut Vec<Finding>) {
        if self.tools.is_empty() {
            return;
        }
        for uid in rule.policy.entity_literals() {
            let id = uid.id().unescaped();
            let (known, names): (bool, Vec<String>) = match uid.type_name().basename() {
                "ToolServer" => (
                    self.tools().any(|(server, _, _)| server == id),
                    self.tools().map(|(server, _, _)| server.to_owned()).collect(),
                ),
                "Tool" => {
                    let names: Vec<String> = self.tools().map(|(server, tool, _)| format!("{server}/{tool}")).collect();
                    (names.iter().any(|name| name == id), names)
                }
                _ => continue,
            };
            if known {
                continue;
            }
            let next_step = match crate::nearest::nearest(id, names.iter().map(String::as_str)) {
                Some(known) => format!("Did you mean `{known}`?"),
                None => "Check the name; it is `SERVER/TOOL` for a tool".into(),
            };
            findings.push(finding(
                rule,
                Severity::Warning,
                format!("`{id}` is not an approved tool or server"),
                next_step,
            ));
        }
    }
}
