//! Files on their way into a run.

use cogward_model::{AgentName, ContentName, TenantName, VersionLabel, content::Content, id::UploadId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was sent for an input. One run can be started with it, within an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upload {
    /// Its identifier, for the start of a run.
    pub id: UploadId,
    /// The tenant.
    pub tenant: TenantName,
    /// The agent that declares the input.
    pub agent: AgentName,
    /// The input.
    pub input: ContentName,
    /// What arrived.
    #[serde(flatten)]
    pub content: Content,
}

/// Which version declares the input.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadQuery {
    /// The version; the latest registered unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionLabel>,
}

/// An input of a run that is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunInput {
    /// Its name in the manifest.
    pub name: ContentName,
    /// What was uploaded for it.
    pub upload: UploadId,
}
