//! Connections to hosts outside.
use crate::{
    Inner,
    body::{self, AgentBody},
    run::RunContext,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

/// A request on a run's proxy listener.
pub async fn serve(_inner: Arc<Inner>, _run: Arc<RunContext>, _request: Request<Incoming>) -> Response<AgentBody> {
    body::empty(StatusCode::NOT_FOUND)
}
