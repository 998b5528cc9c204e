//! `resources/read`, `prompts/get` and `completion/complete`: resolve, take through the gate, relay.
//!
//! What is not declared is refused with the same words whether it exists or not, as with tools. A completion is
//! decided like the prompt or the resource that it is for: it tells of what is behind it.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{
    Digest, UpstreamName,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::Field,
    id::ApprovalId,
    pin_name::{OtherKind, PinName},
};
use http::{Response, StatusCode};
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Shape},
    call::kept_field,
    caller::Caller,
    catalogue::sha256,
    endpoint::{Params, refused, respond},
    listing,
    members::{Members, quoted},
    relay::{Request, relay},
    rests::Rests,
    rounds::{self, Brings, Going},
    rpc, shelf, waits,
};
use crate::{
    Inner,
    body::AgentBody,
    gate::{Call, Governed, Renewal, confidential, public},
    pins::entries::{EntryPins, entry_not_approved},
    policy::Content,
    run::RunContext,
};

/// Longest name or URI that is taken, in bytes.
const NAME_BYTES_MAX: usize = 8 * 1024;
/// Under which server a name is recorded that belongs to none.
const NO_SERVER: &str = "undeclared";

/// The rule of what no server lists.
const NOT_LISTED: &str = "resource.listed";

/// What is read, as the gate sees it.
pub(super) struct Reading {
    action: Action,
    /// The parameters: an approval is for these and no others.
    params: Bytes,
    examined: Examined,
    awaits: Option<ApprovalId>,
    /// Answers to questions of the tool server that go along.
    brought: Option<Bytes>,
}

/// The definition that it is read under.
#[derive(Default)]
struct Examined {
    pin: Option<Digest>,
    /// What to look for again; what is not pinned has nothing.
    rests: Option<(Rests, Wanted)>,
    objection: Option<Refusal>,
}

impl Reading {
    pub(super) fn new(action: Action, params: Bytes) -> Self {
        Self { action, params, examined: Examined::default(), awaits: None, brought: None }
    }

    /// Looks at its definition, where it may be asked for at all. The gate says why not.
    async fn examine(&mut self, inner: &Arc<Inner>, run: &RunContext, server: &UpstreamName, wanted: Wanted) {
        self.examined = Examined::default();
        if run.skills.is(server) || run.grant.permits(&self.action).is_err() {
            return;
        }
        // A run that may not act starts no tool server.
        if inner.gate.plane_fence().pass().await.is_err() || run.fence.pass().await.is_err() {
            self.examined.objection = Some(listing::cut());
            return;
        }
        let looked = tokio::select! {
            () = run.cut_signal().cancelled() => Err(listing::cut()),
            looked = look(inner, run, server, &wanted, &mut self.examined.pin) => looked,
        };
        match looked {
            Ok(rests) => self.examined.rests = Some((rests, wanted)),
            Err(refusal) => self.examined.objection = Some(refusal),
        }
    }
}

/// The definition of what is wanted: its own, or that of the template that it comes of.
async fn look(
    inner: &Arc<Inner>,
    run: &RunContext,
    server: &UpstreamName,
    wanted: &Wanted,
    pin: &mut Option<Digest>,
) -> Result<Rests, Refusal> {
    let client = inner.server_of(run, server).ok_or_else(|| not_connected(server))?;
    let pins = async |kind| {
        let pins = inner.pinned_entries(&run.grant.tenant, server, kind, &client).await;
        pins.map_err(|error| error.refusal())
    };
    let mut found = |pins: &EntryPins, kind: OtherKind, key: &str, digest: Result<Digest, Digest>| {
        *pin = Some(digest.unwrap_or_else(|held| held));
        let what = PinName::Other(kind, key.to_owned());
        match (digest, pins.seen()) {
            (Ok(digest), Some(seen)) => Ok(Rests::on(inner, &client, server, what, seen, digest)),
            _ => Err(entry_not_approved(server, &what)),
        }
    };
    let (kind, key) = match wanted {
        Wanted::Prompt(name) => (OtherKind::Prompt, name),
        Wanted::Resource(uri) => (OtherKind::Resource, uri),
    };
    let own = pins(kind).await?;
    match own.look(key) {
        Ok(Some(digest)) => return found(&own, kind, key, Ok(digest)),
        Err(held) => return found(&own, kind, key, Err(held)),
        Ok(None) => {}
    }
    if kind == OtherKind::Resource {
        let templates = pins(OtherKind::Template).await?;
        // A completion names the template itself.
        match templates.look(key) {
            Ok(Some(digest)) => return found(&templates, OtherKind::Template, key, Ok(digest)),
            Err(held) => return found(&templates, OtherKind::Template, key, Err(held)),
            Ok(None) => {}
        }
        if let Some((template, digest)) = templates.template_of(key) {
            return found(&templates, OtherKind::Template, template, digest);
        }
    }
    let detail = format!("the tool server `{server}` lists no such thing at the moment, and no template of it fits");
    let next = "Ask for what is listed; an operator can see it with `cogward tool list`";
    Err(Refusal::new(RefusalCode::InvalidRequest, NOT_LISTED, detail, next))
}

impl Governed for Reading {
    fn action(&self) -> Action {
        self.action.clone()
    }

    fn content(&self) -> Content<'_> {
        let (beside, definition) = (self.brought.as_ref(), self.examined.pin);
        Content { body: Some(&self.params), beside, definition, ..Content::default() }
    }

    fn fields(&self, run: &RunContext) -> Vec<Field> {
        let pin = self.examined.pin.map(|pin| public("definition", pin.to_string()));
        pin.into_iter().chain(self.brought.as_deref().map(|brought| kept_field(run, "responses", brought))).collect()
    }

    fn renew<'a>(&'a mut self, run: &'a RunContext) -> Option<Renewal<'a>> {
        let (rests, wanted) = self.examined.rests.as_ref().filter(|(rests, _)| !rests.hold(run))?;
        let (inner, server, wanted) = (rests.inner(), rests.server().clone(), wanted.clone());
        Some(Box::pin(async move {
            self.examine(&inner, run, &server, wanted).await;
            self.examined.objection.take().map_or(Ok(()), Err)
        }))
    }

    fn stands<'a>(&'a self, run: &'a RunContext) -> Option<Renewal<'a>> {
        self.examined.rests.as_ref()?.0.stand(run)
    }

    fn awaits(&self) -> Option<ApprovalId> {
        self.awaits
    }
}

/// A reference to a prompt or a resource, as a client names it.
#[derive(Clone)]
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

    /// The same by its name at its server.
    fn there(&self, own: &str) -> Self {
        match self {
            Self::Prompt(_) => Self::Prompt(own.to_owned()),
            Self::Resource(_) => Self::Resource(own.to_owned()),
        }
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
    let there = wanted.there(&own);
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
    let (mut round, mut awaits) = (0, None);
    if method != "completion/complete" {
        let brings = Brings { responses: params.input_responses, state: params.request_state.as_deref() };
        match rounds::answers(inner, run, &action, &request, brings).await {
            Ok(Going::Fresh(more)) => request.more = more,
            Ok(Going::On(resume, responses)) => return Some(resume.with(caller, responses).await),
            Ok(Going::Awaited(awaited)) => {
                (round, awaits, request.more) = (awaited.round, Some(awaited.approval.id), awaited.more);
            }
            Err(refusal) => return Some(respond(refusal, &caller, shape)),
        }
    }
    let client = inner.server_of(run, &server);
    let brought = request.more.as_ref().and_then(|more| more.responses.clone());
    let mut target = Reading { awaits, brought, ..Reading::new(action, request.params.clone()) };
    target.examine(inner, run, &server, there).await;
    let objection = target.examined.objection.take().or_else(|| client.is_none().then(|| not_connected(&server)));
    let kept = run.grant.evidence.keep_arguments && request.params.len() <= 16 * 1024;
    let text = std::str::from_utf8(&request.params).ok().filter(|_| kept);
    let args = text.map_or_else(|| sha256(&request.params).to_string(), str::to_owned);
    let call = Call {
        target,
        worst: Amounts { tool_calls: 1, ..Amounts::default() },
        objection,
        fields: [public("method", method), confidential("args", args)].into_iter().chain(caller.trace(run)).collect(),
    };
    let admitted = match inner.gate.admit(run, call).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let asks = method != "completion/complete";
            let ask = asks.then(|| waits::ask(inner, run, &caller, &mut request, &refusal, round)).flatten();
            if let Some(answer) = ask {
                return Some(respond(answer, &caller, shape));
            }
            let message = refusal.sentence();
            let absent = refusal.code == RefusalCode::NotDeclared || refusal.rule == NOT_LISTED;
            let answer = match (&wanted, absent) {
                // The revisions want to hear again what is not there.
                (Wanted::Resource(uri), true) => {
                    let data = Some(rpc::to_json(&serde_json::json!({ "uri": uri })));
                    Answer::Error { code: caller.not_found(), message, data }
                }
                (Wanted::Prompt(_), true) => Answer::refused(shape, caller.not_found(), &message),
                (_, false) => Answer::refused(shape, rpc::INTERNAL_ERROR, &message),
            };
            return Some(respond(answer, &caller, shape));
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
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    uri: &str,
) -> Result<Option<UpstreamName>, Refusal> {
    let Some(server) = shelf::resource(inner, run, uri).await.filter(|_| uri.len() <= NAME_BYTES_MAX) else {
        return Ok(None);
    };
    let args = format!(r#"{{"uri":{}}}"#, quoted(uri));
    let mut target = Reading::new(
        Action::ResourceRead { server: server.clone(), uri: uri.to_owned() },
        Bytes::copy_from_slice(uri.as_bytes()),
    );
    target.examine(inner, run, &server, Wanted::Resource(uri.to_owned())).await;
    let call = Call {
        objection: target.examined.objection.take(),
        target,
        worst: Amounts { tool_calls: 1, ..Amounts::default() },
        fields: vec![public("method", "resources/subscribe"), confidential("args", args)],
    };
    match inner.gate.admit(run, call).await {
        Ok(admitted) => {
            let used = admitted.reserved();
            admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
            Ok(Some(server))
        }
        Err(refusal) if refusal.code == RefusalCode::NotDeclared || refusal.rule == NOT_LISTED => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn not_connected(server: &UpstreamName) -> Refusal {
    let detail = format!("the tool server `{server}` is not connected");
    let next = "An operator can see why with `cogward tool-server list`";
    Refusal::new(RefusalCode::UpstreamUnavailable, "upstream.available", detail, next)
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
