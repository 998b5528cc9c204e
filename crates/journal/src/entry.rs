//! What is published and what is read.

use std::borrow::Cow;

use cogward_model::{RunId, TenantName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Cursor;

/// Longest detail of one event, as JSON text; more is replaced by a note that says so.
pub const DETAIL_BYTES_MAX: usize = 8 * 1024;
/// Longest kind of an event.
const KIND_BYTES_MAX: usize = 64;

/// How much attention an event deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Part of normal work.
    Info,
    /// Somebody should look at it some day.
    Warning,
    /// Somebody should look at it now.
    Error,
}

impl Severity {
    /// The word used in the API and in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    pub(crate) fn from_word(word: &str) -> Self {
        match word {
            "info" => Self::Info,
            "warning" => Self::Warning,
            _ => Self::Error,
        }
    }
}

/// One event as it is published. No payload of a call, no secret, no personal data.
#[derive(Debug, Clone)]
pub struct JournalEvent {
    /// The tenant it belongs to; `None` for the plane itself.
    pub tenant: Option<TenantName>,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// A dotted word: `run.started`, `plane.low_space`.
    pub kind: Cow<'static, str>,
    /// How much attention it deserves.
    pub severity: Severity,
    /// The rest, a JSON object.
    pub detail: Value,
}

impl JournalEvent {
    /// An event of the plane, at severity `Info`, without detail.
    #[must_use]
    pub fn plane(kind: &'static str) -> Self {
        Self { tenant: None, run: None, kind: kind.into(), severity: Severity::Info, detail: Value::Null }
    }

    /// An event of a tenant.
    #[must_use]
    pub fn tenant(kind: &'static str, tenant: TenantName) -> Self {
        Self { tenant: Some(tenant), ..Self::plane(kind) }
    }

    /// An event of a run.
    #[must_use]
    pub fn run(kind: &'static str, tenant: TenantName, run: RunId) -> Self {
        Self { run: Some(run), ..Self::tenant(kind, tenant) }
    }

    /// With another severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// Holds what a caller gave within the bounds of a row.
    pub(crate) fn bounded(mut self) -> Self {
        if self.kind.len() > KIND_BYTES_MAX {
            self.kind = self.kind.chars().take(KIND_BYTES_MAX / 4).collect::<String>().into();
        }
        let bytes = self.detail.to_string().len();
        if bytes > DETAIL_BYTES_MAX {
            self.detail = serde_json::json!({ "omitted_bytes": bytes });
        }
        self
    }
}

/// One event as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The place after this entry: what a reader gives to go on from here.
    pub cursor: Cursor,
    /// When it was published.
    pub time: Timestamp,
    /// The tenant it belongs to.
    pub tenant: Option<TenantName>,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// A dotted word.
    pub kind: Cow<'static, str>,
    /// How much attention it deserves.
    pub severity: Severity,
    /// The rest.
    pub detail: Value,
}

/// What a reader wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this tenant's, and not the plane's own.
    pub tenant: Option<TenantName>,
    /// Only this run's.
    pub run: Option<RunId>,
}

impl Filter {
    /// Whether an entry passes.
    #[must_use]
    pub fn lets_through(&self, entry: &Entry) -> bool {
        self.tenant.as_ref().is_none_or(|t| entry.tenant.as_ref() == Some(t))
            && self.run.is_none_or(|r| entry.run == Some(r))
    }
}
