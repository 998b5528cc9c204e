//! Policies: versions of a level's rules, which of them decides, and what they decided or would decide.

use cogward_model::{Digest, PolicyScope, RunId, TenantName, Timestamp, id::EventId, id::OperatorId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Finding;

/// Largest text of one version, in bytes.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// Most decisions that one simulation reads.
pub const SIMULATED_MAX: u32 = 100_000;

/// A level and what decides there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyLevel {
    /// The level.
    pub level: PolicyScope,
    /// The version that decides; none when the level has no say. The plane then has what cogward comes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Digest>,
    /// Counts its changes; the ETag, for `If-Match` when another version is activated.
    pub revision: u64,
    /// Versions that were ever written.
    pub versions: u64,
    /// When it was changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// Who changed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyState {
    /// Written, and not approved.
    Draft,
    /// Approved, and never active.
    Approved,
    /// It decides.
    Active,
    /// It decided once and does not any more; activating it again is the way back.
    Superseded,
}

impl PolicyState {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Approved => "approved",
            Self::Active => "active",
            Self::Superseded => "superseded",
        }
    }
}

/// Somebody who answers for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answered {
    /// The operator's name at that time.
    pub by: String,
    /// The operator.
    pub operator: OperatorId,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// One version of a level's policy. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyVersion {
    /// The level.
    pub level: PolicyScope,
    /// What names it: the digest of its text and level.
    pub digest: Digest,
    /// Its place among the level's versions, from 1.
    pub number: u64,
    /// Where it is.
    pub state: PolicyState,
    /// Who wrote it.
    pub written: Answered,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Answered>,
    /// When it was active for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_active: Option<Timestamp>,
    /// The text; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What is allowed and deserves a look; only in the answer to a new version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// A text that becomes a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyWrite {
    /// The Cedar text.
    #[schemars(length(min = 1, max = 1_048_576))]
    pub text: String,
    /// What findings call it: the name of the file it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub file: Option<String>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// A text to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheck {
    /// The Cedar text.
    #[schemars(length(min = 1, max = 1_048_576))]
    pub text: String,
    /// What findings call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub file: Option<String>,
}

/// What a text would be. One that could not be a version is refused instead, with its findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyChecked {
    /// The level that it was checked for.
    pub level: PolicyScope,
    /// The digest that the version would have.
    pub digest: Digest,
    /// Its rules.
    pub rules: u64,
    /// What is allowed and deserves a look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// Which version decides from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyActivate {
    /// The version; `null` leaves the level without a say.
    #[serde(deserialize_with = "given")]
    #[schemars(required)]
    pub version: Option<Digest>,
    /// Only if it is certain that it grants nothing that what decides now does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_grants_nothing: bool,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// `null` must be written: a body that forgets the version takes nothing away.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    Option::deserialize(from)
}

/// What the gateways apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// Whether whoever wrote a version may not approve it.
    pub four_eyes: bool,
    /// Operators who may change things. With one of them and four eyes, nothing can be approved.
    pub operators: u64,
    /// The solver that proves what changes of policies grant, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solver: Option<String>,
    /// What each gateway applies.
    pub gateways: Vec<GatewayPolicies>,
}

/// What one gateway applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GatewayPolicies {
    /// Which one.
    pub gateway: String,
    /// Counts the swaps since the plane came up; the records of decisions name it.
    pub generation: u64,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Whether that is what the store says should be applied.
    pub current: bool,
    /// The version of each level.
    pub levels: Vec<AppliedPolicy>,
}

/// The version of one level as a gateway applies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedPolicy {
    /// The level.
    pub level: PolicyScope,
    /// The version.
    pub digest: Digest,
    /// Whether it is what cogward comes with.
    pub built_in: bool,
    /// Why it cannot be used; everything under the level is blocked then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// What one evaluation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyVerdict {
    /// `permit`, `block` or `escalate`.
    pub verdict: String,
    /// The level that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The rules that decided.
    pub rules: Vec<String>,
}

/// Which explanation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The run that the decision is of. Without it the whole ledger is searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// A past decision, made again under the versions that were active then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyExplanation {
    /// The decision.
    pub decision: EventId,
    /// What was decided: the leaf's `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub time: Timestamp,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// What the record says.
    pub recorded: PolicyVerdict,
    /// The rule that the record names as the one that settled it: a budget or the manifest may have refused what every
    /// policy permitted.
    pub settled_by: String,
    /// What the same input comes to now, under the stored versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<PolicyVerdict>,
    /// Whether both say the same.
    pub agrees: bool,
    /// Why it could not be made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The versions that decided.
    pub versions: Vec<AppliedPolicy>,
    /// The exact input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<serde_json::Value>,
    /// The texts of the rules that decided, by `level/rule`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
}

/// Which decisions a version is tried on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulateQuery {
    /// Only of this tenant; needed for the plane's level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// From when on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Most decisions to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub limit: Option<u32>,
    /// Most examples of changes to give, 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub examples: Option<u32>,
}

/// What a version would have decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicySimulation {
    /// The level that it was tried at, beside the versions that each decision was made under.
    pub level: PolicyScope,
    /// The version.
    pub version: Digest,
    /// Whose decisions.
    pub tenant: TenantName,
    /// Decisions that were looked at.
    pub decisions: u64,
    /// Those that were made again; on the others the level does not bear, or their question cannot be opened any more.
    pub replayed: u64,
    /// Those whose record does not have what this version reads: only what the versions of that time read is recorded.
    pub unknown: u64,
    /// Whether there were more than were read.
    pub more: bool,
    /// How many verdicts changed, by what from and what to.
    pub changes: Vec<PolicyChange>,
    /// Some of them.
    pub examples: Vec<ChangedDecision>,
}

/// Verdicts that changed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyChange {
    /// What the versions of that time say.
    pub from: String,
    /// What they say with this version.
    pub to: String,
    /// How many.
    pub count: u64,
}

/// A decision that would be another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedDecision {
    /// The decision.
    pub decision: EventId,
    /// When.
    pub time: Timestamp,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// What it was about.
    pub object: String,
    /// What the versions of that time say.
    pub from: PolicyVerdict,
    /// What they say with this version.
    pub to: PolicyVerdict,
}
