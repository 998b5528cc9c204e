//! Tool servers that are part of the plane: a port, since what they keep is not this crate's to know.
//!
//! Such a server has no process and no connection of its own. To agents it is like any other: granted in the manifest,
//! pinned, judged, bounded and recorded; it is asked in the words of MCP, and answers in them. What sets it apart is that
//! it is told for whom a call is made, by the plane, so that an agent can neither say nor see it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use cogward_model::upstream::ToolServer;

use crate::{policy::Who, tool_process::Pending, upstreams::Credential};

/// One such server, as one tenant has added it.
pub trait InsideServer: Send + Sync + fmt::Debug {
    /// What there is to ask it.
    fn offers(&self) -> InsideOffers;

    /// Answers one request. Dropping the future gives it up.
    ///
    /// `request` is `tools/list` and what follows from the offers; the answer is a whole JSON-RPC result.
    fn answer(&self, request: InsideRequest) -> Pending<'static, Result<Bytes, InsideError>>;
}

/// Where the servers inside come from.
pub trait InsideServers: Send + Sync {
    /// The server of a configuration, or why there cannot be one; none where it is not a part of the plane.
    fn make(
        &self,
        server: &ToolServer,
        credential: Option<&Credential>,
    ) -> Option<Result<Arc<dyn InsideServer>, String>>;
}

/// What a server inside offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InsideOffers {
    /// `tools/list` and `tools/call`.
    pub tools: bool,
    /// `resources/list`, `resources/templates/list` and `resources/read`.
    pub resources: bool,
}

/// A request to a server inside, which was admitted or is the plane's own.
#[derive(Debug, Clone)]
pub struct InsideRequest {
    /// For whom; none where the plane itself wants to know what there is.
    pub who: Option<Arc<Who>>,
    /// Its method.
    pub method: &'static str,
    /// A JSON object, as it was judged.
    pub params: Bytes,
}

/// Why a server inside did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InsideError {
    /// The request is wrong: a JSON-RPC code, and what to mend.
    #[error("{message} ({code})")]
    Rejected {
        /// The code.
        code: i64,
        /// What to mend; the agent reads it.
        message: String,
    },
    /// What it keeps cannot be reached.
    #[error("{cause}")]
    Unavailable {
        /// What was seen.
        cause: String,
        /// Whether the request may have had an effect.
        sent: bool,
    },
    /// What it keeps answered with something that cannot be used.
    #[error("{0}")]
    Protocol(String),
}
