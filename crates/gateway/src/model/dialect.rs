//! Refusals and failures in the caller's own dialect: what unmodified SDKs understand and survive.

use cogward_model::decision::{Refusal, RefusalCode};
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    approvals,
    body::{self, AgentBody},
};

/// The shape of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// A refusal, with its status and headers.
    pub(super) fn refusal(self, refusal: &Refusal) -> Response<AgentBody> {
        let mut told = self.value(kind(refusal.code), refusal.code.as_str(), &refusal.sentence());
        if let (Some(approval), Some(error)) = (&refusal.approval, told.get_mut("error").and_then(Value::as_object_mut))
        {
            error.insert("approval".to_owned(), approvals::told(approval));
        }
        body::refusal_head(refusal)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body::full(told.to_string()))
            .unwrap_or_else(|_| body::empty(StatusCode::FORBIDDEN))
    }

    /// An error that is not a decision: a path that is not served, an upstream's own error without a usable text.
    pub(super) fn error(self, status: StatusCode, kind: &str, code: &str, message: &str) -> Response<AgentBody> {
        body::json(status, self.text(kind, code, message))
    }

    fn text(self, kind: &str, code: &str, message: &str) -> String {
        self.value(kind, code, message).to_string()
    }

    /// The error object.
    pub(super) fn value(self, kind: &str, code: &str, message: &str) -> Value {
        match self {
            Self::OpenAi => json!({"error": {"message": message, "type": kind, "param": null, "code": code}}),
            Self::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
        }
    }
}

/// The word for a class of refusals; Anthropic's words, which OpenAI's clients take as any other.
fn kind(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::LifecycleFence
        | RefusalCode::NotDeclared
        | RefusalCode::AddressRefused
        | RefusalCode::CredentialMisused
        | RefusalCode::Quarantined
        | RefusalCode::PolicyBlocked
        | RefusalCode::ApprovalRequired
        | RefusalCode::ApprovalDenied
        | RefusalCode::ApprovalExpired => "permission_error",
        RefusalCode::InvalidRequest => "invalid_request_error",
        RefusalCode::BudgetExceeded => "billing_error",
        RefusalCode::Throttled => "rate_limit_error",
        RefusalCode::EvidenceUnavailable | RefusalCode::UpstreamUnavailable => "api_error",
    }
}

/// The word for an upstream's status.
pub(super) fn kind_of_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 422 => "invalid_request_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}
