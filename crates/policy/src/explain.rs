//! Runs a recorded ask again with the versions that decided it, and says whether the answer is the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ask::Ask, hierarchy::Hierarchy, level::PolicyScope, verdict::Decided, version::Version};

/// What a second run says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether the two answers are the same in everything.
    pub agrees: bool,
    /// The second answer.
    pub decided: Decided,
    /// What differs, one sentence each.
    pub differences: Vec<String>,
    /// The rules that determined the answer, with their texts' places.
    pub rules: Vec<ExplainedRule>,
}

/// One determining rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// Its level.
    pub level: PolicyScope,
    /// Its id.
    pub id: String,
    /// The line on which it begins.
    pub line: u32,
    /// `@doc`.
    pub doc: Option<String>,
    /// `@advice`.
    pub advice: Option<String>,
}

/// Decides `ask` with the `versions` of then and holds the answer against the `recorded` one.
#[must_use]
pub fn explain(versions: &[Arc<Version>], ask: &Ask, recorded: &Decided) -> Explanation {
    let decided = Hierarchy::new(versions.iter().cloned()).decide(ask);
    let mut differences = Vec::new();
    if decided.verdict != recorded.verdict {
        let (then, now) = (recorded.verdict.as_str(), decided.verdict.as_str());
        differences.push(format!("the verdict was {then} and is {now}"));
    }
    if decided.decided_by != recorded.decided_by {
        let (then, now) = (recorded.decided_by.as_str(), decided.decided_by.as_str());
        differences.push(format!("the deciding level was {then} and is {now}"));
    }
    for then in &recorded.levels {
        match decided.levels.iter().find(|now| now.level == then.level) {
            None => differences.push(format!("there is no version for {}", then.level)),
            Some(now) if now.version != then.version => {
                differences.push(format!("the version of {} was {} and is {}", then.level, then.version, now.version));
            }
            Some(now) if now != then => {
                differences.push(format!(
                    "{} answered by `{}` and now by `{}`",
                    then.level,
                    then.rules.join("`, `"),
                    now.rules.join("`, `")
                ));
            }
            Some(_) => {}
        }
    }
    for now in decided.levels.iter().filter(|now| recorded.levels.iter().all(|then| then.level != now.level)) {
        differences.push(format!("{} had no version and has one", now.level));
    }
    if decided.obligations != recorded.obligations || decided.escalations != recorded.escalations {
        differences.push("the obligations or the approvals differ".to_owned());
    }
    let mut rules = Vec::new();
    for level in &decided.levels {
        let version = versions.iter().find(|version| *version.level() == level.level);
        for rule in
            version.into_iter().flat_map(|version| version.rules()).filter(|rule| level.rules.contains(&rule.id))
        {
            rules.push(ExplainedRule {
                level: level.level.clone(),
                id: rule.id.clone(),
                line: rule.line,
                doc: rule.doc.clone(),
                advice: rule.advice.clone(),
            });
        }
    }
    Explanation { agrees: differences.is_empty(), decided, differences, rules }
}
