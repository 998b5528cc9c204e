//! Approvals: calls that wait for a person.

use cogward_model::{AgentName, Digest, RunId, TenantName, Timestamp, VersionLabel, id::ApprovalId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policies::Answered;

/// What is shown of a call's arguments, in bytes.
pub const PREVIEW_BYTES_MAX: usize = 16 * 1024;

/// Where an approval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has answered.
    Pending,
    /// Somebody allowed the call, and it was not made again yet.
    Approved,
    /// Somebody refused it.
    Denied,
    /// Nobody answered in time, it was not made again in time, or the run ended.
    Expired,
    /// The call was made; the approval is used up.
    Consumed,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Denied, Self::Expired, Self::Consumed];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
        }
    }
}

/// One exact call that waits, or waited, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// Whose.
    pub tenant: TenantName,
    /// Where it is.
    pub state: ApprovalState,
    /// The run that asks.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// Its version.
    pub version: VersionLabel,
    /// The user for whom the run acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What kind of call: `tool.call`, `model.call`, `egress`.
    pub action: String,
    /// What it is on: `files/write_file`.
    pub object: String,
    /// The digest of the exact call. The answer is for this call and no other.
    pub request: Digest,
    /// The arguments as they were sent, cut where they are long; only when one approval is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// How long the arguments are, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments_bytes: Option<u64>,
    /// The level of policy that asks.
    pub level: String,
    /// The rules that ask.
    pub rules: Vec<String>,
    /// Who may answer: operators with this role. Any operator when it is empty.
    pub role: String,
    /// Whoever started the run, or is the user for whom it acts, cannot approve it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub four_eyes: bool,
    /// Why it is asked, as the rule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked.
    pub requested: Timestamp,
    /// Until when it can be answered, and used.
    pub expires: Timestamp,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// When the call was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed: Option<Timestamp>,
}

/// Which approvals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalQuery {
    /// Only of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ApprovalState>,
    /// Most items to return, 1 to 200; 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
