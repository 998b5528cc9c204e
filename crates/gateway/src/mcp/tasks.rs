//! The tasks extension (2026-07-28): what a tool began and has not finished belongs to the run that asked for it.
//!
//! A task is known here from the answer that named it. Its tool server is asked about it only for that run; of any
//! other id the answer is the same, whether there is such a task or not.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::action::{Action, Amounts};
use http::{Response, StatusCode};

use super::{
    answer::{Answer, MISSING_CAPABILITY, Shape},
    call::kept_field,
    caller::Caller,
    endpoint::{Params, refused, respond},
    members::quoted,
    reading::Reading,
    relay::{Request, relay},
    rpc,
    upstream::exchange::ClientCan,
};
use crate::{
    Inner,
    body::AgentBody,
    gate::{Call, First, public},
    run::RunContext,
};

/// What a client must declare.
const REQUIRED: &str = r#"{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;

/// Answers a method of the extension. `None` when it is none.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    caller: Caller,
    method: &str,
    params: &Params<'_>,
) -> Option<Response<AgentBody>> {
    let method = ["tasks/get", "tasks/update", "tasks/cancel"].into_iter().find(|known| *known == method)?;
    let none = |caller: &Caller| {
        Some(refused(StatusCode::BAD_REQUEST, Some(&caller.id), rpc::INVALID_PARAMS, "there is no such task"))
    };
    if !caller.can.has(ClientCan::TASKS) {
        let data = Some(Bytes::from_static(REQUIRED.as_bytes()));
        let message = "the client does not declare the tasks extension".to_owned();
        return Some(respond(Answer::Error { code: MISSING_CAPABILITY, message, data }, &caller, Shape::Plain));
    }
    let Some(task) = params.task_id.as_deref() else { return none(&caller) };
    let Some(owner) = run.mcp.task_owner(task) else { return none(&caller) };
    let Ok(tool) = owner.tool.parse() else { return none(&caller) };
    let Some(client) = inner.upstreams.tool_server(&run.grant.tenant, &owner.server) else { return none(&caller) };
    let mut there = format!(r#"{{"taskId":{}"#, quoted(task));
    let mut told = None;
    if let Some(responses) = params.input_responses.filter(|_| method == "tasks/update") {
        told = Some(kept_field(run, "responses", responses.get().as_bytes()));
        there.push_str(&format!(r#","inputResponses":{}"#, responses.get()));
    }
    there.push('}');
    let call = Call {
        target: Reading::new(Action::ToolCall { server: owner.server.clone(), tool }, there.clone().into()),
        worst: Amounts::default(),
        objection: None,
        fields: [public("method", method)].into_iter().chain(told).chain(caller.trace(run)).collect(),
    };
    // Who approved the call did not approve what it is told later.
    let first = if method == "tasks/update" { First { approved: None, ..owner.call } } else { owner.call };
    let admitted = match inner.gate.admit_later(run, first, call).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let answer = Answer::refused(Shape::Plain, rpc::INTERNAL_ERROR, &refusal.sentence());
            return Some(respond(answer, &caller, Shape::Plain));
        }
    };
    let request = Request {
        server: owner.server,
        method,
        params: there.into(),
        name: task.to_owned(),
        changed: None,
        mirrored: Vec::new(),
        more: None,
        shape: Shape::Plain,
    };
    Some(relay(inner, client, admitted, caller, request).await)
}
