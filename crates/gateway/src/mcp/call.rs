//! `tools/call`: resolve, check, take through the gate, carry out, settle.
//!
//! An undeclared tool is refused with the same words whether it exists or not. A declared one is
//! looked at (is its server there, do the arguments keep to its schema) before the gate, which hears
//! of it only after the fence and the declared scope.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{
    Digest, ToolName, UpstreamName,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::Field,
    id::ApprovalId,
    pin_name::PinName,
};
use http::Response;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Shape},
    caller::Caller,
    catalogue::{ToolDefinition, sha256},
    endpoint::respond,
    listing, mirror,
    relay::{Request, relay},
    rests::Rests,
    rounds::{self, Brings, Going},
    rpc,
    schema::SchemaError,
    upstream::ToolServerClient,
    waits,
};
use crate::{
    Inner,
    body::AgentBody,
    gate::{Call, Governed, Renewal, confidential, public},
    grant::not_declared,
    pins::not_approved,
    policy::Content,
    run::RunContext,
};

/// How much of arguments or results is kept sealed in the vault, in bytes; of more there is the digest.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// Under which server an undeclared name is recorded that belongs to none.
const NO_SERVER: &str = "undeclared";

/// A call of a tool.
pub struct ToolCall {
    server: UpstreamName,
    tool: ToolName,
    arguments: Bytes,
    examined: Examined,
    awaits: Option<ApprovalId>,
    /// Answers to questions of the tool server that go along.
    brought: Option<Bytes>,
}

impl Governed for ToolCall {
    fn action(&self) -> Action {
        Action::ToolCall { server: self.server.clone(), tool: self.tool.clone() }
    }

    fn content(&self) -> Content<'_> {
        let (beside, definition) = (self.brought.as_ref(), self.examined.pin);
        Content { arguments: Some(&self.arguments), beside, definition, ..Content::default() }
    }

    fn set_arguments(&mut self, arguments: Bytes) {
        self.arguments = arguments;
    }

    fn fields(&self, run: &RunContext) -> Vec<Field> {
        let pin = self.examined.pin.map(|pin| public("definition", pin.to_string()));
        let brought = self.brought.as_deref().map(|brought| kept_field(run, "responses", brought));
        std::iter::once(kept_field(run, "args", &self.arguments)).chain(brought).chain(pin).collect()
    }

    fn renew<'a>(&'a mut self, run: &'a RunContext) -> Option<Renewal<'a>> {
        let inner = self.examined.rests.as_ref().filter(|rests| !rests.hold(run)).map(Rests::inner)?;
        Some(Box::pin(async move {
            let mut examined = examine(&inner, run, &self.server, &self.tool, &self.arguments).await;
            let objection = examined.objection.take();
            self.examined = examined;
            objection.map_or(Ok(()), Err)
        }))
    }

    fn stands<'a>(&'a self, run: &'a RunContext) -> Option<Renewal<'a>> {
        self.examined.rests.as_ref()?.stand(run)
    }

    fn awaits(&self) -> Option<ApprovalId> {
        self.awaits
    }
}

impl ToolCall {
    /// The parameters for the server, with the arguments byte for byte. A tool's name needs no escapes.
    pub(super) fn params(&self) -> Bytes {
        let parts: [&[u8]; 5] =
            [br#"{"name":""#, self.tool.as_str().as_bytes(), br#"","arguments":"#, &self.arguments, b"}"];
        parts.concat().into()
    }
}

/// What an agent wants of a tool.
pub(super) struct Wanted<'a> {
    /// The body that it came in.
    pub(super) body: &'a Bytes,
    pub(super) name: &'a str,
    pub(super) arguments: Option<&'a RawValue>,
    /// What it brings that answers questions of the tool's server.
    pub(super) brings: Brings<'a>,
}

/// Answers `tools/call`. Whatever happens is a tool result, never a protocol error, but for a request state that is
/// not one and for what a client of the older era has to be told as an error.
pub(super) async fn call(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    caller: Caller,
    wanted: Wanted<'_>,
) -> Response<AgentBody> {
    let Wanted { body, name, arguments, brings } = wanted;
    let failed = |caller: &Caller, text: &str| respond(Answer::failed(text), caller, Shape::Tool);
    let Some((server, tool)) = run.mcp.names(&run.grant).resolve(name).cloned() else {
        return failed(&caller, &undeclared(inner, run, name).await.sentence());
    };
    let arguments = arguments.map_or(Bytes::from_static(b"{}"), |raw| body.slice_ref(raw.get().as_bytes()));
    let (examined, awaits, brought) = (Examined::default(), None, None);
    let mut target = ToolCall { server, tool, arguments, examined, awaits, brought };
    let mut request = Request {
        server: target.server.clone(),
        method: "tools/call",
        params: target.params(),
        name: target.tool.to_string(),
        changed: None,
        mirrored: Vec::new(),
        more: None,
        shape: Shape::Tool,
    };
    let mut round = 0;
    match rounds::answers(inner, run, &target.action(), &request, brings).await {
        Ok(Going::Fresh(more)) => request.more = more,
        Ok(Going::On(resume, responses)) => return resume.with(caller, responses).await,
        Ok(Going::Awaited(awaited)) => {
            (round, target.awaits, request.more) = (awaited.round, Some(awaited.approval.id), awaited.more);
        }
        Err(refusal) => return respond(refusal, &caller, Shape::Tool),
    }
    target.brought = request.more.as_ref().and_then(|more| more.responses.clone());
    target.examined = examine(inner, run, &target.server, &target.tool, &target.arguments).await;
    let objection = target.examined.objection.take();
    let asked = target.arguments.clone();
    let worst = Amounts { tool_calls: 1, ..Amounts::default() };
    let fields = caller.trace(run).into_iter().collect();
    let admitted = match inner.gate.admit(run, Call { target, worst, objection, fields }).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            return match waits::ask(inner, run, &caller, &mut request, &refusal, round) {
                Some(answer) => respond(answer, &caller, Shape::Tool),
                None => failed(&caller, &refusal.sentence()),
            };
        }
    };
    let target = admitted.target();
    // Without an objection there is a client; were it otherwise, dropping the call settles it.
    let Some(client) = target.examined.client.clone() else {
        return failed(&caller, "the tool server is not connected");
    };
    // What is forwarded is what was judged, with what policy made of it.
    request.changed = (target.arguments != asked).then(|| target.params());
    if request.changed.is_some()
        && let Some(definition) = &target.examined.definition
        && let Err(error) = definition.schema().check(&target.arguments).await
    {
        let cause = "what policy made of the arguments does not keep to the schema of the tool".to_owned();
        let text = format!("cogward did not forward this call: {cause}: {error}.");
        admitted.settle(&Outcome::Broken { used: Amounts::default(), cause });
        return failed(&caller, &text);
    }
    if let Some(definition) = target.examined.definition.as_ref().filter(|definition| !definition.mirrored.is_empty()) {
        let arguments = serde_json::from_slice(&target.arguments).unwrap_or_default();
        request.mirrored = mirror::headers(&definition.mirrored, &arguments);
    }
    relay(inner, client, admitted, caller, request).await
}

/// The definition of a granted tool, as far as it can be had without starting anything for a stopped run.
pub(super) async fn definition(inner: &Inner, run: &RunContext, name: &str) -> Option<Arc<ToolDefinition>> {
    let (server, tool) = run.mcp.names(&run.grant).resolve(name)?;
    inner.gate.plane_fence().pass().await.ok()?;
    run.fence.pass().await.ok()?;
    let client = inner.upstreams.tool_server(&run.grant.tenant, server)?;
    inner.pinned(&run.grant.tenant, server, &client).await.ok()?.served().get(tool).cloned()
}

/// What is known of a declared tool before the gate.
#[derive(Default)]
struct Examined {
    client: Option<Arc<ToolServerClient>>,
    /// The definition that decides: the approved one, or the one that nobody approved.
    pin: Option<Digest>,
    definition: Option<Arc<ToolDefinition>>,
    rests: Option<Rests>,
    objection: Option<Refusal>,
}

async fn examine(
    inner: &Arc<Inner>,
    run: &RunContext,
    server: &UpstreamName,
    tool: &ToolName,
    arguments: &[u8],
) -> Examined {
    let mut examined = Examined::default();
    // A run that may not act starts no tool server; the gate will say and record why.
    if inner.gate.plane_fence().pass().await.is_err() || run.fence.pass().await.is_err() {
        examined.objection = Some(listing::cut());
        return examined;
    }
    examined.objection = look(inner, run, server, tool, arguments, &mut examined).await.err();
    examined
}

async fn look(
    inner: &Arc<Inner>,
    run: &RunContext,
    server: &UpstreamName,
    tool: &ToolName,
    arguments: &[u8],
    examined: &mut Examined,
) -> Result<(), Refusal> {
    let invalid =
        |rule: &str, detail: String, next: &str| Refusal::new(RefusalCode::InvalidRequest, rule, detail, next);
    if arguments.first() != Some(&b'{') {
        let detail = "`arguments` is not an object".to_owned();
        return Err(invalid("tool.arguments", detail, "Send an object with the tool's parameters"));
    }
    let absent = |detail: String| {
        let next = "An operator can see why with `cogward tool-server list`";
        Refusal::new(RefusalCode::UpstreamUnavailable, "upstream.available", detail, next)
    };
    let client = inner
        .upstreams
        .tool_server(&run.grant.tenant, server)
        .ok_or_else(|| absent(format!("the tool server `{server}` is not connected")))?;
    let client = examined.client.insert(client);
    let pins = tokio::select! {
        () = run.cut_signal().cancelled() => return Err(listing::cut()),
        pins = inner.pinned(&run.grant.tenant, server, client) => pins.map_err(|error| error.refusal())?,
    };
    let Some(definition) = pins.served().get(tool) else {
        return Err(match pins.held(tool) {
            Some(held) if held.offered => {
                examined.pin = Some(held.digest);
                not_approved(server, tool)
            }
            _ => absent(format!("the tool server `{server}` does not offer `{tool}` at the moment")),
        });
    };
    examined.pin = Some(definition.digest);
    if let Some(seen) = pins.seen() {
        let what = PinName::Tool(tool.clone());
        examined.rests = Some(Rests::on(inner, client, server, what, seen, definition.digest));
    }
    let definition = examined.definition.insert(Arc::clone(definition));
    definition.schema().check(arguments).await.map_err(|error| {
        let next = match &error {
            SchemaError::Broken { .. } => "Mend the arguments and call again",
            SchemaError::TooCostly => "Send smaller arguments",
            SchemaError::Unusable(_) => "The tool server's owner has to mend the schema",
        };
        invalid("tool.inputSchema", error.to_string(), next)
    })
}

/// Refuses a name that the run has no tool under, and records it.
async fn undeclared(inner: &Inner, run: &RunContext, name: &str) -> Refusal {
    let nearest = run.mcp.names(&run.grant).nearest(name);
    let server = nearest.cloned().or_else(|| NO_SERVER.parse().ok());
    let own = nearest.and_then(|server| name.strip_prefix(server.as_str())?.strip_prefix('_')).unwrap_or(name);
    let recorded = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let tool: String = own.chars().take(128).map(recorded).collect();
    let tool = tool.parse().or_else(|_| "_".parse::<ToolName>());
    let shown = rpc::shown(name, 128);
    let grant = &run.grant;
    let mut refusal = not_declared("permissions.tools", &shown, &grant.agent, &grant.version);
    let (Some(server), Ok(tool)) = (server, tool) else { return refusal };
    for fence in [inner.gate.plane_fence(), &run.fence] {
        if let Err(closed) = fence.pass().await {
            refusal = closed;
            break;
        }
    }
    let fields = vec![confidential("asked", rpc::shown(name, 256))];
    inner.gate.refuse(run, &Action::ToolCall { server, tool }, refusal, fields).await
}

pub(super) fn kept_field(run: &RunContext, name: &'static str, bytes: &[u8]) -> Field {
    match std::str::from_utf8(bytes) {
        Ok(text) if run.grant.evidence.keep_arguments && text.len() <= KEPT_BYTES_MAX => confidential(name, text),
        _ => confidential(name, sha256(bytes).to_string()),
    }
}
