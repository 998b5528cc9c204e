//! MCP: one endpoint for a run (`/mcp` on its own listener), and clients of the tool servers behind it.
//!
//! Both eras are spoken towards agents at once: sessions up to revision 2025-11-25, and the stateless
//! envelope of 2026-07-28. What an agent may see and call is what its version declares; everything
//! else is answered alike, whether it exists or not. A refusal is a tool result with `isError` and a
//! reason, because that is what agents survive and models can read; a malformed request is a protocol
//! error. What was judged is what is forwarded: one parser, the same bytes.

mod answer;
mod call;
mod caller;
mod can;
mod catalogue;
mod endpoint;
mod legacy;
mod listing;
mod members;
mod mirror;
mod modern;
mod offers;
mod question;
mod quiet;
mod reading;
mod rejection;
mod relay;
mod rests;
mod rounds;
mod rpc;
mod schema;
mod session;
mod shelf;
mod state;
mod stream;
mod tasks;
pub mod upstream;
mod waits;
mod watch;

use std::{net::IpAddr, sync::Arc};

use cogward_model::{TenantName, UpstreamName};
use http::{Request, Response};
use hyper::body::Incoming;

pub use call::ToolCall;
pub(crate) use catalogue::sha256;
pub use catalogue::{ToolCatalogue, ToolDefinition};
pub(crate) use rpc::shown;
pub(crate) use session::RunMcp;
use upstream::UpstreamError;
pub use upstream::listed::{Item, Listed};

use crate::{Gateway, Inner, body::AgentBody, run::RunContext};

/// A request on a run's MCP listener.
pub async fn serve(inner: Arc<Inner>, run: Arc<RunContext>, request: Request<Incoming>) -> Response<AgentBody> {
    endpoint::serve(inner, run, request).await
}

/// Closes what tool servers hold open for a run that is over.
pub(crate) fn forget(inner: &Inner, run: &RunContext) {
    for server in run.grant.tools().keys() {
        if let Some(client) = inner.upstreams.tool_server(&run.grant.tenant, server) {
            client.forget(run.grant.run);
        }
    }
}

impl Gateway {
    /// The names of the tools that a connected tool server offers: the check of a new registration.
    ///
    /// # Errors
    /// [`UpstreamError`] when there is no such server or it does not answer as one.
    pub async fn list_upstream_tools(
        &self,
        tenant: &TenantName,
        name: &UpstreamName,
    ) -> Result<Vec<String>, UpstreamError> {
        let client = self.upstreams().tool_server(tenant, name).ok_or_else(|| UpstreamError::Unusable {
            server: name.clone(),
            cause: "it is not registered".to_owned(),
        })?;
        Ok(client.tools().await?.iter().map(|tool| tool.name.to_string()).collect())
    }
}

/// Whether a host, as it stands in a URL or a `Host` header, is this one by definition.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod fuzzed;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use fuzzed::{
    Given as FuzzedState, Pairs as FuzzedPairs, events as fuzz_events, members as fuzz_members,
    members_of as fuzz_members_of, message as fuzz_message, state as fuzz_state,
};
