//! `spec.evidence`: what must be recorded, and for how long it is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What must be recorded, and for how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EvidenceNeeds {
    /// Days that the evidence of its runs must be kept, 1 to 36,500.
    pub retention_days: u32,
    /// Whether tool arguments are kept sealed in the vault, beside their commitment.
    pub keep_arguments: bool,
    /// Whether results are kept sealed in the vault, beside their commitment.
    pub keep_results: bool,
}

impl Default for EvidenceNeeds {
    fn default() -> Self {
        Self { retention_days: 2_555, keep_arguments: true, keep_results: false }
    }
}
