//! Why a tool server did not answer.

use std::time::Duration;

use bytes::Bytes;
use cogward_model::UpstreamName;

use crate::mcp::rpc::{self, ErrorObject};

/// Longest `data` of an error that is kept.
const ERROR_DATA_BYTES_MAX: usize = 64 * 1024;

/// Why a tool server did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// It is not registered, or its registration cannot work.
    #[error("the tool server `{server}` cannot be used: {cause}")]
    Unusable {
        /// Its name.
        server: UpstreamName,
        /// What to mend.
        cause: String,
    },
    /// It cannot be started or reached, or it broke off.
    #[error("the tool server `{server}` is not available: {cause}")]
    Unavailable {
        /// Its name.
        server: UpstreamName,
        /// What was seen.
        cause: String,
        /// Whether it may have received the request.
        sent: bool,
    },
    /// It took too long.
    #[error("the tool server `{server}` did not answer within {} s", after.as_secs_f32())]
    TimedOut {
        /// Its name.
        server: UpstreamName,
        /// The limit.
        after: Duration,
    },
    /// What it sent is not MCP as we take it.
    #[error("the tool server `{server}` does not keep to the protocol: {cause}")]
    Protocol {
        /// Its name.
        server: UpstreamName,
        /// What was wrong.
        cause: String,
    },
    /// It answered, and there is no room for the answer.
    #[error("the answer of the tool server `{server}` was dropped: earlier answers are unread, and there is no room")]
    NoRoom {
        /// Its name.
        server: UpstreamName,
    },
    /// It answered that the request is wrong.
    #[error("the tool server `{server}` refused the request ({code}): {message}")]
    Rejected {
        /// Its name.
        server: UpstreamName,
        /// Its JSON-RPC code.
        code: i64,
        /// Its words, bounded.
        message: String,
        /// What it says beyond them, as JSON.
        data: Option<Bytes>,
    },
    /// It failed before and is left alone for a while.
    #[error("the tool server `{server}` is not available: it failed before and is tried again in {} ms", wait.as_millis())]
    Resting {
        /// Its name.
        server: UpstreamName,
        /// How long.
        wait: Duration,
    },
    /// As many requests are under way as its registration allows.
    #[error("the tool server `{server}` is busy: as many requests are under way as its registration allows")]
    Busy {
        /// Its name.
        server: UpstreamName,
    },
}

impl UpstreamError {
    /// Whether the request may have had an effect.
    #[must_use]
    pub fn effect_possible(&self) -> bool {
        match self {
            Self::Unusable { .. }
            | Self::Unavailable { sent: false, .. }
            | Self::Resting { .. }
            | Self::Busy { .. } => false,
            Self::Unavailable { .. }
            | Self::TimedOut { .. }
            | Self::Protocol { .. }
            | Self::NoRoom { .. }
            | Self::Rejected { .. } => true,
        }
    }

    /// Whether the server is to blame; `None` where it was not asked at all.
    pub(super) fn is_fault(&self) -> Option<bool> {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Protocol { .. } => Some(true),
            Self::Rejected { .. } | Self::NoRoom { .. } => Some(false),
            Self::Unusable { .. } | Self::Resting { .. } | Self::Busy { .. } => None,
        }
    }

    /// Whether it may be gone when the same is asked again.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The server said no.
    pub(super) fn rejected(server: &UpstreamName, error: &ErrorObject<'_>) -> Self {
        let data = error.data.map(serde_json::value::RawValue::get).filter(|data| data.len() <= ERROR_DATA_BYTES_MAX);
        Self::Rejected {
            server: server.clone(),
            code: error.code,
            message: rpc::shown(&error.message, 1_000),
            data: data.map(|data| Bytes::copy_from_slice(data.as_bytes())),
        }
    }
}
