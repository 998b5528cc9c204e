//! `resources/read`, `prompts/get` and `completion/complete`: resolve, take through the gate, relay.
//!
//! What is not declared is refused with the same words whether it exists or not, as with tools. A completion is
//! decided like the prompt or the resource that it is for: it tells of what is behind it.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::Field,
};
use http::{Response, StatusCode};
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Shape},
    call::kept_field,
    caller::Caller,
    catalogue::sha256,
    endpoint::{Params, refused, respond},
    members::{Members, quoted},
    relay::{Request, relay},
    rounds::{self, Brings, Going},
    rpc, shelf,
};
use crate::{
    Inner,
    body::AgentBody,
    gate::{Call, Governed, confidential, public},
    policy::Content,
    run::RunContext,
};

/// Longest name or URI that is taken, in bytes.
const NAME_BYTES_MAX: usize = 8 * 1024;
/// Under which server a name is recorded that belongs to none.
const NO_SERVER: &str = "undeclared";

/// What is read, as the gate sees it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    action: Action,
    /// The parameters: an approval is for these and no others.
    params: Bytes,
    /// Answers to questions of the tool server that go along.
    brought: Option<Bytes>,
}

impl Reading {
    pub(super) fn new(action: Action, params: Bytes) -> Self {
        Self { action, params, brought: None }
    }
}

impl Governed for Reading {
    fn action(&self) -> Action {
        self.action.clone()
    }

    fn content(&self) -> Content<'_> {
        Content { body: Some(&self.params), beside: self.brought.as_ref(), ..Content::default() }
    }

    fn fields(&self, run: &RunContext) -> Vec<Field> {
        self.brought.as_deref().map(|brought| kept_field(run, "responses", brought)).into_iter().collect()
    }
}

/// A reference to a prompt or a resource, as a client names it.
enum Wanted {
    Prompt(String),
    Resource(String),
}

impl Wanted {
    /// Whose it is, and what it is called there. What belongs to no server is recorded under none.
    async fn find(&self, inner: &Inner, run: &RunContext) -> Option<(UpstreamName, String)> {
        let found = match self {
            Self::Prompt(name) => shelf::prompt(&run.grant, name),
            Self::Resource(uri) => shelf::resource(inner, run, uri).await.map(|server| (server, uri.clone())),
        };
        found.or_else(|| Some((NO_SERVER.parse().ok()?, self.text().to_owned())))
    }

    fn text(&self) -> &str {
        match self {
            Self::Prompt(text) | Self::Resource(text) => text,
        }
    }

    fn action(&self, server: UpstreamName, own: String) -> Action {
        match self {
            Self::Prompt(_) => Action::PromptGet { server, prompt: own },
            Self::Resource(_) => Action::ResourceRead { server, uri: own },
        }
    }
}

/// Answers one of the three methods. `None` when it is none of them.
pub(super) async fn answer(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    caller: Caller,
    method: &str,
    params: &Params<'_>,
) -> Option<Response<AgentBody>> {
    let invalid = |caller: &Caller, why: &str| {
        let status = if caller.is_stateless() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        Some(refused(status, Some(&caller.id), rpc::INVALID_PARAMS, why))
    };
    let (method, wanted) = match method {
        "resources/read" => ("resources/read", params.uri.as_deref().map(|uri| Wanted::Resource(uri.to_owned()))),
        "prompts/get" => ("prompts/get", params.name.as_deref().map(|name| Wanted::Prompt(name.to_owned()))),
        "completion/complete" => ("completion/complete", params.reference.and_then(reference)),
        _ => return None,
    };
    let Some(wanted) = wanted.filter(|wanted| wanted.text().len() <= NAME_BYTES_MAX) else {
        return invalid(&caller, "the name of what is wanted is missing or too long");
    };
    let shape = if method == "resources/read" { Shape::Kept } else { Shape::Plain };
    let Some((server, own)) = wanted.find(inner, run).await else {
        return invalid(&caller, "there is no such thing");
    };
    let params_there = match method {
        "resources/read" => format!(r#"{{"uri":{}}}"#, quoted(&own)),
        "prompts/get" => named(&own, &[("arguments", params.arguments)]),
        _ => completion(&wanted, &own, params),
    };
    let action = wanted.action(server.clone(), own.clone());
    let mut request = Request {
        server: server.clone(),
        method,
        params: params_there.into(),
        name: own,
        changed: None,
        mirrored: Vec::new(),
        more: None,
        shape,
    };
    if method != "completion/complete" {
        let brings = Brings { responses: params.input_responses, state: params.request_state.as_deref() };
        match rounds::answers(inner, run, &action, &request, brings).await {
            Ok(Going::Fresh(more)) => request.more = more,
            Ok(Going::On(resume, responses)) => return Some(resume.with(caller, responses).await),
            Err(refusal) => return Some(respond(refusal, &caller, shape)),
        }
    }
    let client = inner.server_of(run, &server);
    let objection = client.is_none().then(|| {
        let detail = format!("the tool server `{server}` is not connected");
        let next = "An operator can see why with `cogward tool-server list`";
        Refusal::new(RefusalCode::UpstreamUnavailable, "upstream.available", detail, next)
    });
    let kept = run.grant.evidence.keep_arguments && request.params.len() <= 16 * 1024;
    let text = std::str::from_utf8(&request.params).ok().filter(|_| kept);
    let args = text.map_or_else(|| sha256(&request.params).to_string(), str::to_owned);
    let call = Call {
        target: Reading {
            brought: request.more.as_ref().and_then(|more| more.responses.clone()),
            ..Reading::new(action, request.params.clone())
        },
        worst: Amounts { tool_calls: 1, ..Amounts::default() },
        objection,
        fields: vec![public("method", method), confidential("args", args)],
    };
    let admitted = match inner.gate.admit(run, call).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let code = match refusal.code {
                RefusalCode::NotDeclared => caller.not_found(),
                _ => rpc::INTERNAL_ERROR,
            };
            return Some(respond(Answer::refused(shape, code, &refusal.sentence()), &caller, shape));
        }
    };
    let Some(client) = client else { return invalid(&caller, "the tool server is not connected") };
    Some(relay(inner, client, admitted, caller, request).await)
}

/// Decides whether a resource may be watched, and records it. The server that has it, or `None` when it may not be.
///
/// # Errors
/// Why nothing may be decided at the moment.
pub(super) async fn may_watch(
    inner: &Inner,
    run: &Arc<RunContext>,
    uri: &str,
) -> Result<Option<UpstreamName>, Refusal> {
    let Some(server) = shelf::resource(inner, run, uri).await.filter(|_| uri.len() <= NAME_BYTES_MAX) else {
        return Ok(None);
    };
    let args = format!(r#"{{"uri":{}}}"#, quoted(uri));
    let call = Call {
        target: Reading::new(
            Action::ResourceRead { server: server.clone(), uri: uri.to_owned() },
            Bytes::copy_from_slice(uri.as_bytes()),
        ),
        worst: Amounts { tool_calls: 1, ..Amounts::default() },
        objection: None,
        fields: vec![public("method", "resources/subscribe"), confidential("args", args)],
    };
    match inner.gate.admit(run, call).await {
        Ok(admitted) => {
            let used = admitted.reserved();
            admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
            Ok(Some(server))
        }
        Err(refusal) if refusal.code == RefusalCode::NotDeclared => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn reference(raw: &RawValue) -> Option<Wanted> {
    let members = Members::read(raw.get().as_bytes())?;
    match members.text("type")?.as_str() {
        "ref/prompt" => members.text("name").map(Wanted::Prompt),
        "ref/resource" => members.text("uri").map(Wanted::Resource),
        _ => None,
    }
}

fn named(name: &str, more: &[(&str, Option<&RawValue>)]) -> String {
    let mut text = format!(r#"{{"name":{}"#, quoted(name));
    for (key, value) in more.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
        text.push_str(&format!(r#","{key}":{}"#, value.get()));
    }
    text.push('}');
    text
}

fn completion(wanted: &Wanted, own: &str, params: &Params<'_>) -> String {
    let reference = match wanted {
        Wanted::Prompt(_) => format!(r#"{{"type":"ref/prompt","name":{}}}"#, quoted(own)),
        Wanted::Resource(_) => format!(r#"{{"type":"ref/resource","uri":{}}}"#, quoted(own)),
    };
    let argument = params.argument.map_or("{}", RawValue::get);
    let context = params.context.map(|context| format!(r#","context":{}"#, context.get())).unwrap_or_default();
    format!(r#"{{"ref":{reference},"argument":{argument}{context}}}"#)
}
