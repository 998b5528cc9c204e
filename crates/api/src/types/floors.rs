//! Floors: the weakest sandbox profile that is accepted for a tier.

use cogward_model::{
    AgentName, RunId, TenantName, Timestamp, VersionLabel,
    floor::FloorSource,
    manifest::{Profile, Tier},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The floor that holds for a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Floor {
    /// The tier.
    pub tier: Tier,
    /// The weakest profile that is accepted.
    pub profile: Profile,
    /// Where it comes from.
    pub source: FloorSource,
    /// What the plane demands, whatever the tenant adds.
    pub plane: Profile,
    /// The operator who set it; none for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_by: Option<String>,
    /// When it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A floor to be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloorPut {
    /// The weakest profile to accept from now on; `null` takes back what was set here before.
    #[serde(deserialize_with = "given")]
    #[schemars(required)]
    pub profile: Option<Profile>,
    /// Why; goes into the evidence, and is told to whoever meets the floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// `null` must be written: a body that forgets the profile takes nothing back.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Profile>, D::Error> {
    Option::deserialize(from)
}

/// A registered version that its floor does not accept any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shortfall {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its agent.
    pub agent: AgentName,
    /// The version.
    pub version: VersionLabel,
    /// Its tier.
    pub tier: Tier,
    /// Its profile.
    pub profile: Profile,
    /// The weakest that is accepted.
    pub floor: Profile,
    /// Where the floor comes from.
    pub source: FloorSource,
    /// Runs of it that have not ended. They go on: a floor decides what starts.
    pub live_runs: Vec<RunId>,
}

/// Which shortfalls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShortfallQuery {
    /// Only of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Most versions to look at, 1 to 200; 50 unless said. A page may have fewer items and not be the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
