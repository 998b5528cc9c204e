//! The keys that sign a log, and what operators change of them.

use cogward_model::{
    Timestamp,
    id::{EventId, OperatorId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysQuery {
    /// The plane log instead of the tenant's own; for the tenant `default` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plane: Option<bool>,
}

/// What a key is to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// It signs.
    Present,
    /// A later one signs, and this one still does so too.
    Along,
    /// It signs no more.
    Past,
    /// It signs no more, and was revoked.
    Revoked,
}

impl KeyRole {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Along => "along",
            Self::Past => "past",
            Self::Revoked => "revoked",
        }
    }
}

/// A key that a log has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogKey {
    /// Its number; the first is 0.
    pub generation: u64,
    /// What it is to the log.
    pub role: KeyRole,
    /// The largest size of the log for which its signature alone is enough; without end for the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_up_to: Option<u64>,
    /// When it is destroyed, while it signs along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The PKCS#11 token that the Ed25519 key is in; missing when it is in a file, or gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The public keys, Ed25519 first: `NAME+HASH+BASE64` (C2SP signed-note).
    pub keys: Vec<String>,
}

/// A change of keys that another operator has to confirm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyChangeRequest {
    /// The event that recorded it: what a confirmation names.
    pub id: EventId,
    /// `rotate` or `revoke`.
    pub change: String,
    /// For how many days the old key is to sign along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_days: Option<u32>,
    /// Which key is to be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Up to which size it is to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Why it is to be revoked: `compromised`, `lost`, `superseded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who asked.
    pub by: String,
    /// By the id.
    pub operator: OperatorId,
    /// When.
    pub at: Timestamp,
}

/// A statement about the keys of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyStatement {
    /// The leaf that it is in; of the plane log, in the log of the tenant `default`.
    pub leaf: u64,
    /// The signed note.
    pub statement: String,
}

/// All keys of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogKeys {
    /// The log's name to the world.
    pub log: String,
    /// The keys, the present one first.
    pub keys: Vec<LogKey>,
    /// What led from each to the next, as a pack has it in `keys.jsonl`.
    pub statements: Vec<KeyStatement>,
    /// What another operator has to confirm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<KeyChangeRequest>,
}

/// Ask for the present key to be replaced, or confirm what another operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// The plane log instead of the tenant's own; for the tenant `default` only.
    #[serde(default)]
    pub plane: bool,
    /// For how many days the old key signs along before it is destroyed; 30 without it, 0 for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 366))]
    pub overlap_days: Option<u32>,
    /// The request of another operator that this confirms; then nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirms: Option<EventId>,
    /// Why.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Ask for a past key to be revoked, or confirm what another operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRevocation {
    /// The plane log instead of the tenant's own; for the tenant `default` only.
    #[serde(default)]
    pub plane: bool,
    /// Which key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Up to which size of the log its signatures count; without it, what enough witnesses saw, or on a plane
    /// without witnesses all that it signed alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Why: `compromised`, `lost`, `superseded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<KeyWhy>,
    /// The request of another operator that this confirms; then nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirms: Option<EventId>,
    /// Why, in words.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// Why a key is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyWhy {
    /// Somebody else has it, or may have.
    Compromised,
    /// Nobody can say any more where it was.
    Lost,
    /// Another key took its place.
    Superseded,
}
