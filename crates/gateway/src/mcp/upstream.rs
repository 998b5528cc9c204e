//! One tool server.
use crate::upstreams::Credential;
use cogward_model::upstream::ToolServer;

/// A tool server, connected when first used.
pub struct ToolServerClient {
    server: ToolServer,
    credential: Option<Credential>,
}

impl ToolServerClient {
    /// Not connected yet.
    #[must_use]
    pub fn new(server: ToolServer, credential: Option<Credential>) -> Self {
        Self { server, credential }
    }
}
