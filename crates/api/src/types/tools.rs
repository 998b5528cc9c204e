//! The tools of tool servers, and their resources, templates and prompts: what is offered, what was approved, and what is
//! different.

use std::collections::BTreeSet;

use cogward_model::{
    DataLabel, Digest, TenantName, Timestamp, UpstreamName,
    pin::{PinCause, PinState, Suspicion},
    pin_name::PinName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many tools of a server are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ToolCounts {
    /// Approved, and offered as they were approved: agents can be given these.
    pub approved: u32,
    /// Waiting for somebody to approve them.
    pub quarantined: u32,
    /// Changed since they were approved, or blocked by an operator.
    pub blocked: u32,
    /// Approved, and not offered at the moment.
    pub gone: u32,
}

/// Which tools of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolListQuery {
    /// Most items to return, 1 to 200; 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Ask the server again, whatever is known of it; once, for the first page.
    #[serde(default)]
    pub relist: bool,
}

/// How a tool is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolQuery {
    /// Ask the server again, whatever is known of it.
    #[serde(default)]
    pub relist: bool,
}

/// How old what is shown of a server is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Known {
    /// When the server said what it offers; none when it was not asked since the plane was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<Timestamp>,
    /// Why it could not be asked now. What is shown is then what was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
}

/// A tool of a tool server, or something else that it defines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// The tenant.
    pub tenant: TenantName,
    /// Its server.
    pub server: UpstreamName,
    /// Its name; for what is no tool with the kind before it: `resource:URI`, `template:URI`, `prompt:NAME`.
    pub name: PinName,
    /// Whether agents can be given it.
    pub state: PinState,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PinCause>,
    /// Whether its server offered it when it was asked last.
    pub offered: bool,
    /// The definition that is offered, or was last.
    pub digest: Digest,
    /// The definition that was approved last, which is the one that agents are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_digest: Option<Digest>,
    /// The operator who approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Timestamp>,
    /// Why it was approved or blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The labels of its data.
    pub labels: BTreeSet<DataLabel>,
    /// Whether a call may be sent twice without harm.
    pub idempotent: bool,
    /// When the definition that is offered was first seen.
    pub seen: Timestamp,
    /// What a person should look at in the definition that is offered, and in its name.
    pub suspicions: Vec<Suspicion>,
}

/// A tool with its definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolDetail {
    /// The tool.
    #[serde(flatten)]
    pub tool: Tool,
    /// The definition that is offered, or was last: the text that the server sent.
    pub definition: String,
    /// The definition that was approved last, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_definition: Option<String>,
    /// The definition on several lines, with everything hidden made visible.
    pub shown: Vec<String>,
    /// How old this is.
    pub known: Known,
}

/// What is different between the definition that was approved and the one that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolDiff {
    /// Its server.
    pub server: UpstreamName,
    /// Its name.
    pub name: PinName,
    /// Whether agents can be given it.
    pub state: PinState,
    /// The definition that was approved; none when none ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// The definition that is offered, or was last: the one to approve.
    pub after: Digest,
    /// Both, line by line, with everything hidden made visible.
    pub lines: Vec<DiffLine>,
    /// What a person should look at.
    pub suspicions: Vec<Suspicion>,
    /// How old this is.
    pub known: Known,
}

/// A line of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiffLine {
    /// Where it is.
    pub change: LineChange,
    /// The line.
    pub text: String,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineChange {
    /// It is in both.
    Same,
    /// It was approved and is not offered any more.
    Removed,
    /// It was not approved and is offered.
    Added,
}

/// The approval of one definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolApprove {
    /// The definition that was looked at. Any other one is not approved.
    pub digest: Digest,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

/// What an operator says of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolLabelsPut {
    /// The labels of its data, all of them.
    #[schemars(length(max = 32))]
    pub labels: BTreeSet<DataLabel>,
    /// Whether a call may be sent twice without harm.
    #[serde(default)]
    pub idempotent: bool,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}
