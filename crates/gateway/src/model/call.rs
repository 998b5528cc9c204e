//! One call from the gate to its settlement.
//!
//! It runs in a task of its own: an agent that goes away neither saves itself the cost of what it
//! asked for nor leaves a reservation behind.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cogward_model::{
    Digest,
    action::{Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::Field,
    limits::RESPONSE_BYTES_MAX,
};
use http::{HeaderName, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::{
    dialect::{self, Dialect},
    provider::{ModelCall, ProviderClient, SendError, UpstreamBody},
    relay,
    usage::{self, Usage},
};
use crate::{
    Inner,
    body::{self, AgentBody},
    gate::{Admitted, Call, public},
    rooms::{Held, Room},
    run::RunContext,
};

/// Headers of an answer that reach the agent.
const RETURNED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("x-should-retry"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
];

/// SHA-256 of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    let whole = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    for (to, from) in digest.iter_mut().zip(whole.as_ref()) {
        *to = *from;
    }
    Digest::from_bytes(digest)
}

/// Takes a call through the gate, forwards it, and settles it.
pub(super) async fn perform(
    inner: Arc<Inner>,
    run: Arc<RunContext>,
    call: Call<ModelCall>,
    client: Option<Arc<ProviderClient>>,
) -> Response<AgentBody> {
    let dialect = Dialect::of(call.target.wire);
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        let mut answer = answer;
        let response = tokio::select! {
            // Nothing is decided yet, so an agent that goes away leaves nothing behind.
            () = answer.closed() => return,
            () = open(&inner, &run) => decide(&inner, &run, call, client).await,
        };
        // The agent may have gone; the call is settled all the same.
        let _ = answer.send(response);
    });
    answered.await.unwrap_or_else(|_| {
        dialect.error(StatusCode::BAD_GATEWAY, "api_error", "upstream_unavailable", "the call was broken off")
    })
}

/// Waits while the run or the plane is suspended. The gate looks again.
async fn open(inner: &Inner, run: &RunContext) {
    let _ = inner.gate.plane_fence().pass().await;
    let _ = run.fence.pass().await;
}

async fn decide(
    inner: &Inner,
    run: &Arc<RunContext>,
    call: Call<ModelCall>,
    client: Option<Arc<ProviderClient>>,
) -> Response<AgentBody> {
    let dialect = Dialect::of(call.target.wire);
    let admitted = match inner.gate.admit(run, call).await {
        Ok(admitted) => admitted,
        Err(refusal) => return dialect.refusal(&refusal),
    };
    match client {
        Some(client) => forward(admitted, &client).await,
        // The gate has refused what has no provider; should it not have, nothing is forwarded.
        None => {
            let outcome = Outcome::Broken { used: Amounts::default(), cause: "no provider".to_owned() };
            admitted.settle(&outcome);
            unavailable(dialect, "its provider is not connected")
        }
    }
}

async fn forward(admitted: Admitted<ModelCall>, client: &ProviderClient) -> Response<AgentBody> {
    let dialect = Dialect::of(admitted.target().wire);
    let run = Arc::clone(admitted.run());
    let sent = tokio::select! {
        biased;
        () = run.cut_signal().cancelled() => {
            broken(admitted, Charge::InFull, "the run was stopped");
            return unavailable(dialect, "the run was stopped");
        }
        sent = client.send(&admitted) => sent,
    };
    match sent {
        Ok(response) if is_stream(&admitted, &response) => relay::start(admitted, response, client.timeouts()),
        Ok(response) => whole(admitted, response, client).await,
        Err(error) => {
            let charge = if matches!(error, SendError::Unreachable) { Charge::Nothing } else { Charge::InFull };
            broken(admitted, charge, &error.to_string());
            unavailable(dialect, &error.to_string())
        }
    }
}

fn is_stream(admitted: &Admitted<ModelCall>, response: &Response<UpstreamBody>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    admitted.target().streaming
        && response.status() == StatusCode::OK
        && kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// An answer that is read whole before any of it is passed on.
async fn whole(
    admitted: Admitted<ModelCall>,
    response: Response<UpstreamBody>,
    client: &ProviderClient,
) -> Response<AgentBody> {
    let wire = admitted.target().wire;
    let dialect = Dialect::of(wire);
    let run = Arc::clone(admitted.run());
    let (head, body) = response.into_parts();
    let read = tokio::select! {
        biased;
        () = run.cut_signal().cancelled() => Err("the run was stopped"),
        read = collect(body, client, &run.answers) => read,
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(cause) => {
            broken(admitted, Charge::InFull, cause);
            return unavailable(dialect, cause);
        }
    };
    if !head.status.is_success() {
        return failed(admitted, &head, bytes);
    }
    let Some((model, usage)) = usage::of_answer(wire, &bytes) else {
        broken(admitted, Charge::InFull, "the provider's answer is not JSON");
        return unavailable(dialect, "the provider's answer is not JSON");
    };
    let result = Some(digest(&bytes));
    completed(admitted, Answered { usage, seen: 0, failed: false, result, status: head.status, model });
    returned(&head, bytes)
}

/// The bytes hold their room until the agent has read them.
async fn collect(mut body: UpstreamBody, client: &ProviderClient, room: &Room) -> Result<Bytes, &'static str> {
    const ENDS: &str = "the plane ends";
    let mut bytes = BytesMut::new();
    let mut growing = room.answer(body.size_hint().exact()).await.ok_or(ENDS)?;
    loop {
        match tokio::time::timeout(client.timeouts().idle, body.frame()).await {
            Err(_) => return Err("the provider stopped in the middle of its answer"),
            Ok(None) => {
                let held = growing.finish(bytes.len()).await.ok_or(ENDS)?;
                return Ok(Held::bind(Some(held), bytes.freeze()));
            }
            Ok(Some(Err(_))) => return Err("the provider broke off its answer"),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if bytes.len() + data.len() > RESPONSE_BYTES_MAX {
                    return Err("the provider's answer is too long");
                }
                growing.reach(bytes.len() + data.len()).await.ok_or(ENDS)?;
                bytes.extend_from_slice(&data);
            }
        }
    }
}

/// The provider refused or failed by its own word: nothing was used.
fn failed(admitted: Admitted<ModelCall>, head: &http::response::Parts, bytes: Bytes) -> Response<AgentBody> {
    let dialect = Dialect::of(admitted.target().wire);
    let status = head.status;
    let usage = Some(Usage::default());
    let result = Some(digest(&bytes));
    completed(admitted, Answered { usage, seen: 0, failed: true, result, status, model: None });
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        // Not the agent's credential, and what providers write here quotes parts of it.
        return unavailable(dialect, "the provider refuses the plane's credential");
    }
    if !status.is_client_error() && !status.is_server_error() {
        return unavailable(dialect, "the provider answered with a status that means nothing here");
    }
    if usage::of_answer(admitted_wire(dialect), &bytes).is_some() {
        return returned(head, bytes);
    }
    let text = format!("the provider answered {}", status.as_u16());
    let text = dialect.value(dialect::kind_of_status(status), "upstream_error", &text).to_string();
    let mut response = returned(head, Bytes::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Any wire of a dialect will do to see whether a text is a JSON object.
fn admitted_wire(dialect: Dialect) -> cogward_model::action::ModelWire {
    match dialect {
        Dialect::OpenAi => cogward_model::action::ModelWire::OpenAiChat,
        Dialect::Anthropic => cogward_model::action::ModelWire::AnthropicMessages,
    }
}

/// An answer towards the agent, with the headers that are its business.
pub(super) fn returned(head: &http::response::Parts, bytes: Bytes) -> Response<AgentBody> {
    returned_body(head, body::full(bytes))
}

/// Likewise, with a body of any kind.
pub(super) fn returned_body(head: &http::response::Parts, body: AgentBody) -> Response<AgentBody> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    for name in RETURNED {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn unavailable(dialect: Dialect, detail: &str) -> Response<AgentBody> {
    dialect.refusal(&Refusal::new(
        RefusalCode::UpstreamUnavailable,
        "models.provider",
        detail,
        "The same call may work later; the operator sees the failure",
    ))
}

/// What is charged when an answer broke off.
pub(super) enum Charge {
    /// It certainly was not carried out.
    Nothing,
    /// It may have been.
    InFull,
    /// The upstream said what it used, or this many events came.
    Seen(Option<Usage>, u64),
}

/// Settles a call whose answer is not whole.
pub(super) fn broken(admitted: Admitted<ModelCall>, charge: Charge, cause: &str) {
    let used = match charge {
        Charge::Nothing => Amounts::default(),
        Charge::InFull => admitted.reserved(),
        Charge::Seen(Some(usage), _) => usage.amounts(admitted.target().price),
        Charge::Seen(None, events) => estimate(&admitted, events),
    };
    admitted.settle(&Outcome::Broken { used, cause: cause.to_owned() });
}

/// What is charged when the upstream does not say: the reservation, or more if more was seen to come.
fn estimate(admitted: &Admitted<ModelCall>, events: u64) -> Amounts {
    let (reserved, price) = (admitted.reserved(), admitted.target().price);
    let seen = Usage { input: 0, output: events, priced_input: 0 }.amounts(price);
    Amounts { tokens: reserved.tokens.max(seen.tokens), cost: reserved.cost.max(seen.cost), ..Amounts::default() }
}

/// How the upstream answered.
pub(super) struct Answered {
    pub usage: Option<Usage>,
    pub seen: u64,
    pub failed: bool,
    pub result: Option<Digest>,
    pub status: StatusCode,
    pub model: Option<String>,
}

/// Settles a call that was answered.
pub(super) fn completed(admitted: Admitted<ModelCall>, answered: Answered) {
    let used = match answered.usage {
        Some(usage) => usage.amounts(admitted.target().price),
        None => estimate(&admitted, answered.seen),
    };
    let mut fields: Vec<Field> = vec![public("status", u64::from(answered.status.as_u16()))];
    if let Some(usage) = answered.usage {
        fields.push(public("tokens_in", usage.input));
        fields.push(public("tokens_out", usage.output));
    }
    if let Some(model) = answered.model {
        fields.push(public("model_answered", model));
    }
    let outcome = Outcome::Completed {
        used,
        estimated: answered.usage.is_none(),
        upstream_error: answered.failed,
        result: answered.result,
    };
    admitted.settle_with(&outcome, fields);
}
