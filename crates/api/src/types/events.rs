//! Operational events, as the stream sends them. They are not evidence: they may be thinned out and
//! are kept for a while only. What must be proven is in the ledger.

use cogward_model::{AgentName, RunId, TenantName, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One operational event. On the stream its `cursor` is the `id` and its `type` is the `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Hand this back to go on after it. Its text has no meaning.
    pub cursor: String,
    /// When it happened.
    pub time: Timestamp,
    /// What happened: `run.started`, `tool.call.decided`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The tenant that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// The agent that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// The run that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// One line for a person.
    pub message: String,
    /// The rest, by name.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Only of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Go on after this event. The header `Last-Event-ID` says the same and goes first.
    /// Without either the stream begins with what happens next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
