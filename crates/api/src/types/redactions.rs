//! Erasing values of the evidence: redactions, legal holds, retention and receipts.

use cogward_model::{
    AgentName, RunId, TenantName, Timestamp,
    id::{HoldId, RedactionId},
    redaction::{ErasureScope, HoldScope, HoldState, LegalGround, RedactionState},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policies::Answered;

/// An erasure of values of the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Redaction {
    /// Its id.
    pub id: RedactionId,
    /// Whose evidence.
    pub tenant: TenantName,
    /// Where it is.
    pub state: RedactionState,
    /// What kind of scope it has: `subject`, `run`, `field`.
    pub kind: String,
    /// What is to be erased; forgotten when it is executed or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ErasureScope>,
    /// On which legal ground.
    pub ground: LegalGround,
    /// How many values it concerns; while it waits, as of when it was asked for.
    pub values: u64,
    /// Who asked for it, when and why.
    pub requested: Answered,
    /// Who approved or denied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// Who carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed: Option<Answered>,
}

/// What is to be erased, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedactionRequest {
    /// What.
    pub scope: ErasureScope,
    /// On which legal ground: `gdpr-17-1-a` to `gdpr-17-1-f`, or the name of another one.
    pub ground: LegalGround,
    /// Why, in a sentence that names nobody: it stays.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Which redactions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedactionQuery {
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RedactionState>,
    /// Most items to return, 1 to 200; 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A leaf with the proof that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptLeaf {
    /// Its number.
    pub index: u64,
    /// Its bytes, in base64.
    pub leaf: String,
    /// The path to the root of the checkpoint, from the leaf up, in base64.
    pub proof: Vec<String>,
}

/// What a data subject is given after an erasure. Nothing in it is about a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErasureReceipt {
    /// `cogward erasure receipt v1`.
    pub form: String,
    /// The erasure.
    pub redaction: RedactionId,
    /// What was erased, when and on which ground, signed by the log's key (C2SP signed note).
    pub text: String,
    /// The leaves that say the same.
    pub leaves: Vec<ReceiptLeaf>,
    /// The signed checkpoint that the proofs lead to.
    pub checkpoint: String,
    /// The log's public key.
    pub key: String,
}

/// A legal hold: nothing in its scope is erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// Whose evidence.
    pub tenant: TenantName,
    /// Where it is. It holds in every state but `released`.
    pub state: HoldState,
    /// What kind of scope it has: `subject`, `run`, `agent`, `window`.
    pub kind: String,
    /// What it keeps; forgotten when it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<HoldScope>,
    /// Who asked for it, when and why.
    pub requested: Answered,
    /// Who placed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Answered>,
    /// Who asked for its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releasing: Option<Answered>,
    /// Who released it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Answered>,
}

/// What is to be held, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// What.
    pub scope: HoldScope,
    /// Why.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Have what is too old erased.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionRequest {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// What is, or was, due of a version's values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retained {
    /// The agent.
    pub agent: AgentName,
    /// Days that the values of its runs are kept, by its manifest.
    pub retention_days: u32,
    /// The run.
    pub run: RunId,
    /// How many values.
    pub values: u64,
}

/// What retention erased, or would erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retention {
    /// Whose evidence.
    pub tenant: TenantName,
    /// Whether nothing was erased.
    pub dry_run: bool,
    /// The erasures, one for each step; none when nothing was due, or nothing was to be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redactions: Vec<RedactionId>,
    /// When.
    pub at: Timestamp,
    /// How many values.
    pub values: u64,
    /// By run.
    pub runs: Vec<Retained>,
    /// How many values are due and held.
    pub held: u64,
}
