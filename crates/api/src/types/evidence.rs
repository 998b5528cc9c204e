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
