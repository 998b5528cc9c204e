//! MCP towards agents.
pub mod upstream;
use crate::{
    Inner,
    body::{self, AgentBody},
    run::RunContext,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

/// A request on a run's MCP listener.
pub async fn serve(_inner: Arc<Inner>, _run: Arc<RunContext>, _request: Request<Incoming>) -> Response<AgentBody> {
    body::empty(StatusCode::NOT_FOUND)
}
