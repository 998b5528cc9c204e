//! Questions to the evidence: what to search for, and which part to export.

use cogward_model::{AgentName, RunId, Timestamp, VersionLabel, id::ApprovalId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EvidenceLeaf;

/// What to search for. What is not said does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidenceQuery {
    /// The agent that acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionLabel>,
    /// The person on whose authority it was: a user for whom a run acts, or an operator. Recorded as a pseudonym alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub user: Option<String>,
    /// The same person by the pseudonym that a record or a pack has: 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<String>,
    /// The operator whose command it was, who asked for it or agreed to it, or whom it is about: by public id or by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub operator: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The tool: `server/tool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tool: Option<String>,
    /// The tool server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tool_server: Option<String>,
    /// The type of event: `tool.call.decided`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub kind: Option<String>,
    /// The decision, or the verdict of the policies: `permit`, `block`, `escalate`; or `refused`, whatever was refused in
    /// any way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub decision: Option<String>,
    /// The digest of a policy version that was asked: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub policy: Option<String>,
    /// The approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// From this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Most items to return, 1 to 200; 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before; it belongs to its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What was found, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceFound {
    /// The leaves. There may be fewer than the limit, even none, and a cursor all the same: a long search goes in steps.
    pub items: Vec<EvidenceLeaf>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Leaves of the tenant's ledger that were looked through or lie before: what is behind them is not indexed yet.
    pub current: u64,
    /// When the plane looked: what is asked for a later time is not known yet.
    pub asked: Timestamp,
}

/// Which part to export; nothing said is the whole ledger. One of run, agent and so on, or a sample; a time alone or with
/// an agent and so on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// One run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// All from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// All before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// All of an agent, with the proof that it is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// All of a tool, `server/tool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tool: Option<String>,
    /// All of a tool server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tool_server: Option<String>,
    /// All of an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// All of a type of event.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub kind: Option<String>,
    /// All on the authority of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub user: Option<String>,
    /// The same person by a pseudonym.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<String>,
    /// A sample: the auditor's number, to whose SHA-256 `commit_sample` committed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16, max = 128))]
    pub nonce: Option<String>,
    /// How many leaves the sample has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub count: Option<u64>,
    /// Leaves of the checkpoint that answered the commitment: the sample is drawn from its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether the values that the vault still opens go along. Decided by policy as the command `evidence.disclose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disclose: Option<bool>,
    /// Why; required with `disclose`, and goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Between which states of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    /// Leaves of the older state: the second line of the checkpoint that you kept.
    pub old: u64,
    /// Leaves of the newer state; what is signed now unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<u64>,
}

/// What becomes of the query index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceIndex {
    /// It is being made anew.
    pub rebuilding: bool,
}

/// An auditor's commitment to a number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleQuery {
    /// The SHA-256 of the number in hexadecimal digits: the number itself is told with the export.
    #[schemars(length(min = 64, max = 64))]
    pub commitment: String,
}

/// A commitment on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SampleCommitted {
    /// The leaf that holds it.
    pub leaf: u64,
    /// The commitment.
    pub commitment: String,
    /// Leaves that the checkpoint covers.
    pub size: u64,
    /// The signed checkpoint whose root is drawn from. Keep it: the sample has to have the same.
    pub checkpoint: String,
}
