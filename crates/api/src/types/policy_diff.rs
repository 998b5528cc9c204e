//! What a version of a policy changes, before it decides anything.

use cogward_model::{Digest, PolicyScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DiffLine, PolicyVerdict};

/// What a version is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyDiffQuery {
    /// Another version of the same level; the active one unless said, or what holds where none is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Digest>,
}

/// What a version of a level changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyDiff {
    /// The level.
    pub level: PolicyScope,
    /// The version.
    pub version: Digest,
    /// The one that it is compared with; none where the level has no say, which permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Digest>,
    /// What is known of what it grants.
    pub analysis: PolicyAnalysis,
    /// Questions that it answers more mildly, one for each kind.
    pub grants: Vec<PolicyExample>,
    /// Questions that it answers more strictly, one for each kind.
    pub takes: Vec<PolicyExample>,
    /// Its rules that do nothing.
    pub idle: Vec<IdleRule>,
    /// Whether nothing but these does nothing.
    pub idle_exact: bool,
    /// What a solver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<PolicyProof>,
    /// Both texts, line by line, with everything hidden made visible.
    pub lines: Vec<DiffLine>,
}

/// Whether a version grants nothing that another one does not, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyAnalysis {
    /// What is known.
    pub grants: Grants,
    /// How.
    pub method: AnalysisMethod,
    /// Questions that both versions were asked.
    pub questions: u64,
    /// Where the questions do not stand for all questions: why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// Why no solver was asked, or what it could not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproved: Option<String>,
}

impl PolicyAnalysis {
    /// Nothing was compared, and why.
    #[must_use]
    pub fn uncompared(why: String) -> Self {
        let (grants, method) = (Grants::Unknown, AnalysisMethod::Search);
        Self { grants, method, questions: 0, because: vec![why], unproved: None }
    }
}

/// Whether a version grants anything that another one does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grants {
    /// It is certain that it does not.
    Nothing,
    /// It does; there is an example.
    Something,
    /// Nothing was found, and there may be something.
    Unknown,
}

impl Grants {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Something => "something",
            Self::Unknown => "unknown",
        }
    }
}

/// How it is known what a version grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnalysisMethod {
    /// The questions that were asked stand for all questions.
    Exact,
    /// A solver proved it for all questions.
    Proof,
    /// A bounded number of questions was asked; they do not stand for all.
    Search,
}

impl AnalysisMethod {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Proof => "proof",
            Self::Search => "search",
        }
    }
}

/// One question that two versions answer differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyExample {
    /// What the other version says; `none` where the level had no say.
    pub from: PolicyVerdict,
    /// What this one says.
    pub to: PolicyVerdict,
    /// The question: who, what, and the facts that bear on it.
    pub question: serde_json::Value,
}

/// A rule that does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdleRule {
    /// The rule.
    pub rule: String,
    /// Its line.
    pub line: u32,
    /// Whether nothing matches it; otherwise every answer is the same without it.
    pub dead: bool,
    /// Rules that match whenever it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadowed_by: Vec<String>,
}

/// What a solver says of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyProof {
    /// The solver as it names itself.
    pub solver: String,
    /// What it was asked.
    pub claims: Vec<PolicyClaim>,
    /// Kinds of questions that it was asked about; the others have the same rules in both versions.
    pub kinds: u64,
    /// Rules that can fail at some question. Of such questions nothing is proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub can_fail: Vec<String>,
}

/// One claim about a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyClaim {
    /// In words.
    pub claim: String,
    /// Whether it holds; none when it is not known.
    pub holds: Option<bool>,
    /// A question for which it does not hold, or why it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
