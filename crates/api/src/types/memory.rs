//! The memory of agents, as operators see it: how much there is, and that it is forgotten.

use cogward_model::{TenantName, UpstreamName, memory::MemoryScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much there is in a memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryUsage {
    /// The tenant.
    pub tenant: TenantName,
    /// The tool server.
    pub server: UpstreamName,
    /// Where it is kept: `builtin`, `pgvector` or `qdrant`.
    pub store: String,
    /// Whose it is.
    pub scope: MemoryScope,
    /// Memories of all owners together.
    pub items: u64,
    /// Their bytes, where the store counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Whose memories are to be forgotten: those of a user, or all.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryForget {
    /// All that was written for this user, whatever the scope; byte for byte as runs were started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub user: Option<String>,
    /// All that is in the memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everybody: bool,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

/// Names of persons are not for logs.
impl std::fmt::Debug for MemoryForget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryForget").field("everybody", &self.everybody).finish_non_exhaustive()
    }
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryForgotten {
    /// The tenant.
    pub tenant: TenantName,
    /// The tool server.
    pub server: UpstreamName,
    /// How many memories.
    pub forgotten: u64,
}
