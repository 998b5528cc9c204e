//! Operators: who may command the plane.

use cogward_model::{RoleName, Timestamp, id::OperatorId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Credential;

/// Longest time that a replaced credential is valid beside the new one, in seconds: a day.
pub const OVERLAP_SECONDS_MAX: u32 = 86_400;

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Operator {
    /// Its id.
    pub id: OperatorId,
    /// The name that is in the records.
    pub name: String,
    /// What it may do: `operator` or `auditor`.
    pub role: String,
    /// Roles that policies name: which approvals it may answer, which commands it may give.
    #[serde(default)]
    pub roles: Vec<RoleName>,
    /// When it was made.
    pub created: Timestamp,
    /// When its credential was replaced last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Timestamp>,
    /// Until when the credential before is valid too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_until: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// Most roles of one operator.
pub const ROLES_MAX: usize = 32;

/// An operator to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorAdd {
    /// The name for the records; used once.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// Whether it reads only.
    #[serde(default)]
    pub auditor: bool,
    /// Its roles.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub roles: Vec<RoleName>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// An operator that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewOperator {
    /// The operator.
    pub operator: Operator,
    /// Its credential. This answer is the only place that has it.
    pub credential: Credential,
}

/// The roles that an operator has from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorRoles {
    /// All of them.
    #[schemars(length(max = 32))]
    pub roles: Vec<RoleName>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// A credential to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorRotate {
    /// How long the old credential is valid beside the new one, in seconds; it is dead at once unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub overlap_seconds: Option<u32>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// A credential that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotatedOperator {
    /// The operator.
    pub operator: Operator,
    /// The new credential. This answer is the only place that has it.
    pub credential: Credential,
}
