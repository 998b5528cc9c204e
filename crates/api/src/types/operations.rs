//! Operations: what an operator commanded, and the receipt of what became true and when.

use cogward_model::{
    RunId, TenantName, Timestamp,
    id::OperationId,
    run::{RunState, Verb},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EvidenceRef;
use crate::Problem;

/// A lifecycle command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Operation {
    /// Its identifier.
    pub id: OperationId,
    /// What was commanded.
    pub verb: Verb,
    /// The run that it is on.
    pub run: RunId,
    /// The run's tenant.
    pub tenant: TenantName,
    /// How far it is.
    pub state: OperationState,
    /// The operator.
    pub requested_by: String,
    /// Why.
    pub reason: String,
    /// When the plane took it.
    pub requested: Timestamp,
    /// What became true and when, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// The fence holds; its effects are being made true.
    Pending,
    /// Its effects are true.
    Done,
    /// It could not be done; `problem` says why.
    Failed,
}

impl OperationState {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What became true and when. Times are measured by the plane, not estimated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The operation that it is for.
    pub operation: OperationId,
    /// The state that the run is in by it.
    pub state: RunState,
    /// When the plane took the command.
    pub requested: Timestamp,
    /// Microseconds from then until no gateway admitted another call of the run.
    pub fenced_us: u64,
    /// Microseconds from then until the effect was true: frozen, running again, or the last process gone.
    pub effective_us: u64,
    /// Processes that were frozen, resumed or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Calls in flight that were cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_cut: Option<u32>,
    /// The leaf that records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceRef>,
}
