//! Agents and their versions: what is registered, and nothing that is not can run.

use cogward_model::{AgentName, Digest, TenantName, Timestamp, VersionLabel, manifest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Finding;

/// A registered agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its name, unique within the tenant.
    pub name: AgentName,
    /// The team that runs it, from its latest version.
    pub owner: String,
    /// The person who is accountable for it, from its latest version.
    pub sponsor: String,
    /// On whose authority it acts, from its latest version.
    pub autonomy: manifest::AutonomyClass,
    /// When its first version was registered.
    pub created: Timestamp,
    /// The version that a run gets when it names none.
    pub latest: VersionLabel,
    /// Every version, newest first. Lists of agents leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionSummary>,
}

/// A version, without its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionSummary {
    /// Its label.
    pub version: VersionLabel,
    /// Its identity: what the label stands for, byte for byte.
    pub digest: Digest,
    /// Where it may run.
    pub tier: manifest::Tier,
    /// When it was registered.
    pub created: Timestamp,
}

/// A version with its manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentVersion {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its agent.
    pub agent: AgentName,
    /// Its label.
    pub version: VersionLabel,
    /// Its identity.
    pub digest: Digest,
    /// When it was registered.
    pub created: Timestamp,
    /// The manifest that it was registered with.
    pub manifest: manifest::Manifest,
}

/// What a registration made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registration {
    /// The tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The version's label.
    pub version: VersionLabel,
    /// The version's identity.
    pub digest: Digest,
    /// Whether it is new; false when this very package had been registered under this label before.
    pub created: bool,
    /// What is accepted in this tier and would not be in a higher one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// How a package is registered; its body is the package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterQuery {
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
    /// Check everything and answer as if, but register nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Which agents.
pub type AgentQuery = super::PageQuery;

/// Sandboxes of a version that are complete before a run asks for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Warm {
    /// The agent.
    pub agent: AgentName,
    /// The version.
    pub version: VersionLabel,
    /// How many are to be ready.
    pub count: u32,
    /// How many are ready now; the rest is being made.
    pub ready: u32,
}

/// How many sandboxes of a version are to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmPut {
    /// The number, 0 to 32. Each holds memory and a host identity, and is made anew every ten minutes.
    #[schemars(range(max = 32))]
    pub count: u32,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}
