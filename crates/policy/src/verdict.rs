//! What policy answers.

use cogward_model::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    escalation::Escalation,
    level::{LevelKind, PolicyScope},
    obligation::Obligation,
};

/// The three answers, from the mildest: the strictest over the levels holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may take place.
    Permit,
    /// A person has to approve it first.
    Escalate,
    /// It may not take place.
    Block,
}

impl Verdict {
    /// The word used in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Escalate => "escalate",
            Self::Block => "block",
        }
    }
}

/// Why a level answered as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A permit matched.
    Permitted,
    /// A permit with `@escalate` matched.
    Escalated,
    /// A forbid matched.
    Forbidden,
    /// Nothing matched.
    NothingMatched,
    /// A forbid could not be evaluated, or a permit that asks, obliges or wants a label: it blocks.
    RuleFailed,
    /// The resource does not carry the label that a matching permit requires.
    LabelMissing,
    /// The question could not be put.
    BadAsk,
}

/// The answer of one level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelDecision {
    /// The level.
    pub level: PolicyScope,
    /// The version that answered.
    pub version: Digest,
    /// Its answer.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// The rules that determined it, sorted.
    pub rules: Vec<String>,
    /// The rules that could not be evaluated.
    pub errors: Vec<RuleError>,
}

/// A rule that could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleError {
    /// The rule.
    pub rule: String,
    /// What went wrong, without any value.
    pub what: String,
}

/// The answer of all levels together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The strictest of the levels.
    pub verdict: Verdict,
    /// The widest level that gave it.
    pub decided_by: LevelKind,
    /// Every level that has an active version, from the widest.
    pub levels: Vec<LevelDecision>,
    /// What has to be done to the call and its answer. Empty when it is blocked.
    pub obligations: Vec<Obligation>,
    /// What has to be approved; every role has to. Empty unless the verdict is escalate.
    pub escalations: Vec<Escalation>,
}

impl Decided {
    /// The level that decided.
    #[must_use]
    pub fn decider(&self) -> Option<&LevelDecision> {
        self.levels.iter().find(|level| LevelKind::of(&level.level) == self.decided_by && level.verdict == self.verdict)
    }

    /// The deciding rule as refusals and records name it: `policy.tenant.no-payments`, `policy.plane` when no rule
    /// matched.
    #[must_use]
    pub fn rule(&self) -> String {
        let rule = self.decider().and_then(|decider| decider.rules.first());
        let level = self.decided_by.as_str();
        rule.map_or_else(|| format!("policy.{level}"), |rule| format!("policy.{level}.{rule}"))
    }

    /// One sentence for the agent and its operator; names rules, no values.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(decider) = self.decider() else { return "no policy is active".to_owned() };
        let level = &decider.level;
        let rules = decider.rules.join("`, `");
        match decider.cause {
            Cause::Permitted => format!("rule `{rules}` of the policy of {level} permits it"),
            Cause::Escalated => format!("rule `{rules}` of the policy of {level} asks for an approval"),
            Cause::Forbidden => format!("rule `{rules}` of the policy of {level} forbids it"),
            Cause::NothingMatched => format!("no rule of the policy of {level} permits it"),
            Cause::RuleFailed => format!("rule `{rules}` of the policy of {level} could not be evaluated"),
            Cause::LabelMissing => format!("rule `{rules}` of the policy of {level} requires a label that it lacks"),
            Cause::BadAsk => format!("the policy of {level} could not be asked"),
        }
    }
}
