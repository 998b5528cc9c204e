//! Evidence as it is read: leaves of a tenant's ledger, with the disclosures that the reader may see.

use std::collections::BTreeMap;

use cogward_model::{
    TenantName, Timestamp,
    id::{EventId, RedactionId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a leaf is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceRef {
    /// Whose ledger.
    pub tenant: TenantName,
    /// Its place, from 0.
    pub seq: u64,
    /// Its event.
    pub id: EventId,
}

/// One leaf of a tenant's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceLeaf {
    /// Its place in the tenant's ledger, from 0.
    pub seq: u64,
    /// When it was written.
    pub time: Timestamp,
    /// What happened: the leaf's `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The leaf's body as it is in the ledger; personal and confidential fields are commitments.
    pub body: serde_json::Map<String, serde_json::Value>,
    /// The values behind commitments that the reader may see, by field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disclosed: BTreeMap<String, serde_json::Value>,
    /// The fields whose values were erased, with the redaction that did it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub erased: BTreeMap<String, RedactionId>,
}

/// How far the plane log, which holds the checkpoints of all tenants, is witnessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceStatus {
    /// The origin of the plane log.
    pub log: String,
    /// Its public keys, one a line, for a witness's list of logs.
    pub keys: Vec<String>,
    /// Leaves that are published.
    pub size: u64,
    /// The witnesses that are asked, by name.
    pub witnesses: Vec<String>,
    /// Whether a quorum of them is wanted.
    pub quorum_wanted: bool,
    /// The newest checkpoint that enough witnesses saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<WitnessedCheckpoint>,
    /// The newest checkpoint that any witness saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<WitnessedCheckpoint>,
    /// Whether there are checkpoints that are not witnessed by enough.
    pub below_quorum: bool,
    /// The age of what is witnessed by enough, in seconds: whoever holds all keys of the plane could rewrite
    /// at most what was recorded since, and about two seconds more. 0 when everything published is
    /// witnessed; missing when nothing ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure_seconds: Option<u64>,
    /// For how long the log that was not signed for longest is unsigned, in seconds, since its key does not sign; missing
    /// when all are signed. Whoever has the disk could rewrite what was recorded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsigned_seconds: Option<u64>,
    /// The newest time stamp of the plane log, if it ever had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampStatus>,
    /// How the archive of sealed segments does, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
}

/// How the archive of a plane does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveStatus {
    /// Its place: a directory, or `s3://bucket/prefix`.
    pub archive: String,
    /// Segments that are in it, were read back and are recorded.
    pub segments: u64,
    /// Segments that are sealed and not in it yet.
    pub waiting: u64,
    /// Segments that are only in it: they were removed from the plane's disk.
    #[serde(default)]
    pub released: u64,
    /// The SHA-256 of the newest manifest in it. Whoever keeps it can show later that nothing before it was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_manifest: Option<String>,
    /// Since when it fails; missing while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Whether that is an alarm: it lasts, or somebody changed the archive or the ledger.
    pub alarm: bool,
}

/// A time stamp (RFC 3161) of a checkpoint of the plane log. The authority's signature is for `openssl ts -verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimestampStatus {
    /// Leaves.
    pub size: u64,
    /// When, as the authority says.
    pub time: Timestamp,
    /// How long ago that is by the plane's clock: whoever holds all keys of the plane and its witnesses' could back-date
    /// what is in the log since, and nothing before.
    pub age_seconds: u64,
    /// Milliseconds by which the plane's clock was ahead of the authority's, behind when negative. Missing for one that
    /// an earlier plane took in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<i64>,
}

/// What is carried to a time stamp authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimestampRequest {
    /// Leaves of the plane log.
    pub size: u64,
    /// The note that is to be stamped.
    pub checkpoint: String,
    /// The request (RFC 3161, DER) in base64.
    pub request: String,
}

/// What a time stamp authority answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimestampAnswer {
    /// The answer (RFC 3161, DER) in base64.
    pub answer: String,
}

/// A checkpoint of the plane log that witnesses saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WitnessedCheckpoint {
    /// Leaves.
    pub size: u64,
    /// When the first of them saw it.
    pub time: Timestamp,
    /// Who.
    pub by: Vec<String>,
}

/// What is asked of a request for a witness.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessRequestQuery {
    /// The size that the witness saw last; 0 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<u64>,
}

/// A checkpoint of the plane log with what witnesses said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cosignatures {
    /// The note: the checkpoint as it was handed out, with the witnesses' lines below it.
    pub note: String,
}
