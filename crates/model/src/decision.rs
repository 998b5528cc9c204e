//! What the gate answers: a permit with its basis, or a refusal that names the rule and the next step.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, id::ApprovalId};

/// The class of a refusal; each wire says it in its own way (status, `isError`), all use these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The run, its agent, its tenant or the plane is stopped.
    LifecycleFence,
    /// The manifest does not declare it.
    NotDeclared,
    /// The request is malformed, too large, too deep, or breaks the tool's schema.
    InvalidRequest,
    /// A budget does not cover the worst case of the call.
    BudgetExceeded,
    /// Too fast or too many at once; the same request may succeed later.
    Throttled,
    /// An address that no agent may reach: private, link-local, metadata, or one that hides its target.
    AddressRefused,
    /// The placeholder of a credential where it does not belong.
    CredentialMisused,
    /// The tool's definition is not one that an operator approved.
    #[serde(rename = "not_approved")]
    Quarantined,
    /// The decision cannot be recorded, so it cannot take effect.
    EvidenceUnavailable,
    /// The upstream is not there or does not answer.
    UpstreamUnavailable,
    /// An active policy forbids it, or none permits it.
    PolicyBlocked,
    /// A person has to approve it first.
    ApprovalRequired,
    /// A person said no.
    ApprovalDenied,
    /// Nobody approved it in time, or it was not made again in time.
    ApprovalExpired,
}

impl RefusalCode {
    /// The word used on every wire and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LifecycleFence => "lifecycle_fence",
            Self::NotDeclared => "not_declared",
            Self::InvalidRequest => "invalid_request",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Throttled => "throttled",
            Self::AddressRefused => "address_refused",
            Self::CredentialMisused => "credential_misused",
            Self::Quarantined => "not_approved",
            Self::EvidenceUnavailable => "evidence_unavailable",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::PolicyBlocked => "policy_blocked",
            Self::ApprovalRequired => "approval_required",
            Self::ApprovalDenied => "approval_denied",
            Self::ApprovalExpired => "approval_expired",
        }
    }

    /// The HTTP status of a refused model call or connection (run contract: 403, 402, 429, 503).
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::LifecycleFence
            | Self::NotDeclared
            | Self::AddressRefused
            | Self::CredentialMisused
            | Self::Quarantined
            | Self::PolicyBlocked
            | Self::ApprovalRequired
            | Self::ApprovalDenied
            | Self::ApprovalExpired => 403,
            Self::InvalidRequest => 400,
            Self::BudgetExceeded => 402,
            Self::Throttled => 429,
            Self::EvidenceUnavailable => 503,
            Self::UpstreamUnavailable => 502,
        }
    }
}

/// The approval that a refused call waits for, or that was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRef {
    /// Which one.
    pub id: ApprovalId,
    /// Who may give it.
    pub role: String,
    /// Until when it can be given and used.
    pub expires: Timestamp,
}

/// Why a call does not take place, for the agent, its model and the operator alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub code: RefusalCode,
    /// The rule that decided, stable enough to search for: `permissions.tools`, `budgets.run.tokens`.
    pub rule: String,
    /// One sentence with the cause. No secret, no payload.
    pub detail: String,
    /// What to do about it.
    pub next_step: String,
    /// When the same request may succeed, for a throttle.
    pub retry_after: Option<Duration>,
    /// The approval that it is about.
    pub approval: Option<Box<ApprovalRef>>,
}

impl Refusal {
    /// A refusal without a time to retry.
    pub fn new(
        code: RefusalCode,
        rule: impl Into<String>,
        detail: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self {
            code,
            rule: rule.into(),
            detail: detail.into(),
            next_step: next_step.into(),
            retry_after: None,
            approval: None,
        }
    }

    /// Names the approval that it is about.
    #[must_use]
    pub fn about(mut self, approval: ApprovalRef) -> Self {
        self.approval = Some(Box::new(approval));
        self
    }

    /// The whole sentence, as it is shown to an agent's model or an operator.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!(
            "cogward refused this call [{}; rule {}]: {}. {}.",
            self.code.as_str(),
            self.rule,
            self.detail,
            self.next_step
        )
    }
}
