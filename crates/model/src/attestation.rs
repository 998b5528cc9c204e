//! What was found in force around a run, by a look from outside of its sandbox.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Timestamp};

/// One control that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What must hold, in a few words.
    pub name: String,
    /// Whether it does.
    pub holds: bool,
    /// What was found instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Check {
    /// One that holds.
    pub fn held(name: impl Into<String>) -> Self {
        Self { name: name.into(), holds: true, detail: None }
    }

    /// One that does not, and what was found.
    pub fn gone(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), holds: false, detail: Some(detail.into()) }
    }
}

/// The last attestation of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attested {
    /// When.
    pub at: Timestamp,
    /// The digest of the facts that were read. The leaf `sandbox.attested` of the same digest has them.
    pub proof: Digest,
    /// Whether every control was found in force.
    pub holds: bool,
    /// What was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Check>,
    /// Controls that were looked at.
    pub checks: u64,
    /// Processes that were looked at.
    pub processes: u64,
    /// How long the look took, in microseconds.
    pub took_us: u64,
}
