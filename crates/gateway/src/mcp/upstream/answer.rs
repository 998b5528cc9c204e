//! The answer to what a tool server asked: given once, or declined.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{exchange::OpenAsk, http, stdio};
use crate::mcp::rpc;

/// What a server hears that asks for what nobody offered it.
const NOT_OFFERED: &str = "the plane offers no such method to tool servers";

/// Where answers go.
#[derive(Clone)]
pub(super) enum Route {
    Http(Arc<http::Core>),
    Stdio(Arc<stdio::Shared>),
}

impl Route {
    fn send(&self, message: Bytes) {
        match self {
            Self::Http(core) => core.send_aside(message),
            Self::Stdio(shared) => shared.reply(message),
        }
    }

    /// Answers a request that is no one's.
    pub(super) fn refuse(&self, id: &RawValue) {
        self.send(rpc::error(Some(id), rpc::METHOD_NOT_FOUND, NOT_OFFERED, None));
    }

    /// Answers `ping`.
    pub(super) fn pong(&self, id: &RawValue) {
        self.send(rpc::result(id, b"{}"));
    }
}

/// Takes the answer to one request of a server. Dropped without an answer, it declines.
pub(in crate::mcp) struct Answerer {
    id: Box<RawValue>,
    route: Option<Route>,
    open: Option<OpenAsk>,
}

impl std::fmt::Debug for Answerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Answerer").field(&self.id.get()).finish()
    }
}

impl Answerer {
    pub(super) fn new(id: &RawValue, route: Route) -> Self {
        Self { id: id.to_owned(), route: Some(route), open: None }
    }

    pub(super) fn opened(&mut self, open: OpenAsk) {
        self.open = Some(open);
    }

    /// Sends the answer: a result in JSON, or an error.
    pub(in crate::mcp) fn answer(mut self, outcome: Result<&[u8], (i64, &str)>) {
        let message = match outcome {
            Ok(result) => rpc::result(&self.id, result),
            Err((code, text)) => rpc::error(Some(&self.id), code, text, None),
        };
        if let Some(route) = self.route.take() {
            route.send(message);
        }
    }

    /// Nothing of the kind was offered to the server.
    pub(super) fn decline(mut self) {
        if let Some(route) = self.route.take() {
            route.refuse(&self.id);
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if let Some(route) = self.route.take() {
            route.send(rpc::error(Some(&self.id), rpc::INTERNAL_ERROR, "declined", None));
        }
    }
}
