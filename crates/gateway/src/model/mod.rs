//! Model calls: OpenAI chat completions and responses, Anthropic messages, plain and streamed.
//!
//! The body goes on byte for byte but for the limits that are written into it; the answer comes back
//! byte for byte but for a usage chunk that the agent did not ask for. What an agent sends as
//! authorization is never looked at: the listener says which run it is.

mod call;
mod dialect;
pub mod provider;
mod relay;
mod request;
mod sampled;
mod scripted;
mod sse;
mod survey;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    action::{Action, ModelWire},
    decision::{Refusal, RefusalCode},
    limits::REQUEST_BYTES_MAX,
    upstream::Price,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

pub(crate) use self::sampled::sample;
use self::{dialect::Dialect, provider::ModelCall, request::Draft};
use crate::{
    Inner,
    body::{self, AgentBody},
    gate::{Call, confidential},
    run::RunContext,
    telemetry,
};

/// Headers of an agent's request that reach a provider.
const FORWARDED: [HeaderName; 4] = [
    header::ACCEPT,
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
];
/// Longest value of such a header.
const HEADER_BYTES_MAX: usize = 1_024;

/// Largest request that is read where it arrives: a fraction of a millisecond.
const SMALL_BYTES_MAX: usize = 128 * 1024;

/// Answers a request on a run's model listener.
pub async fn serve(inner: Arc<Inner>, run: Arc<RunContext>, request: Request<Incoming>) -> Response<AgentBody> {
    if telemetry::is_path(request.uri().path()) {
        return telemetry::serve(inner, run, request).await;
    }
    let (head, body) = request.into_parts();
    let wire = match head.uri.path() {
        "/v1/chat/completions" => ModelWire::OpenAiChat,
        "/v1/responses" => ModelWire::OpenAiResponses,
        "/v1/messages" => ModelWire::AnthropicMessages,
        path => return elsewhere(&run, &head, path),
    };
    let dialect = Dialect::of(wire);
    if head.method != Method::POST {
        return dialect.error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method", "use POST");
    }
    let room = run.room(body.size_hint().upper()).await;
    let asked = match body::read(body, REQUEST_BYTES_MAX).await {
        Ok(bytes) => read(&inner, &run, head, wire, bytes).await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok((mut call, client)) => {
            call.target.room = room;
            call::perform(inner, run, call, client).await
        }
        Err(refusal) => {
            let action = undeclared(wire);
            dialect.refusal(&inner.gate.refuse(&run, &action, refusal, Vec::new()).await)
        }
    }
}

/// Reads a request; a large one away from the threads that serve everyone.
async fn read(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    head: Parts,
    wire: ModelWire,
    bytes: Bytes,
) -> Result<Asked, Refusal> {
    if bytes.len() <= SMALL_BYTES_MAX {
        return ask(inner, run, &head, wire, &bytes);
    }
    let (inner, run) = (Arc::clone(inner), Arc::clone(run));
    let asked = tokio::task::spawn_blocking(move || ask(&inner, &run, &head, wire, &bytes)).await;
    asked.unwrap_or_else(|_| {
        Err(refused(RefusalCode::InvalidRequest, "models.request", "the request could not be read"))
    })
}

type Asked = (Call<ModelCall>, Option<Arc<provider::ProviderClient>>);

/// Turns a request into a call. Fails only on what names no model at all; everything else is for the
/// gate to say, after it has looked at the fence and the declared scope.
fn ask(inner: &Inner, run: &RunContext, head: &Parts, wire: ModelWire, bytes: &Bytes) -> Result<Asked, Refusal> {
    let mut draft = Draft::parse(wire, bytes)?;
    let grant = run.grant.model(&draft.model);
    let client = grant.and_then(|grant| inner.upstreams.provider(&run.grant.tenant, &grant.provider));
    let price = client.as_ref().and_then(|client| client.price(&draft.model));
    let objection = match (grant, &client, price) {
        // The gate refuses it as undeclared before it looks at this.
        (None, ..) => Some(refused(RefusalCode::NotDeclared, "permissions.models", "the model is not declared")),
        (Some(_), None, _) => {
            Some(refused(RefusalCode::UpstreamUnavailable, "models.provider", "its provider is not connected"))
        }
        (Some(_), Some(client), _) if !client.speaks(wire) => Some(refused(
            RefusalCode::InvalidRequest,
            "models.wire",
            "the provider of this model does not speak this wire",
        )),
        (Some(_), Some(_), None) => Some(refused(
            RefusalCode::NotDeclared,
            "models.price",
            "the model has no price, so its cost could not be limited",
        )),
        (Some(_), Some(_), Some(_)) => draft.objection(),
    };
    let word = client.as_ref().map_or("max_tokens", |client| client.limit_word(wire));
    let bounded = draft.bounded(grant.map_or(0, |grant| grant.max_output_tokens), word);
    let price =
        price.unwrap_or(Price { input_per_million: Default::default(), output_per_million: Default::default() });
    let call = Call {
        worst: bounded.amounts(price),
        objection,
        fields: vec![confidential("request", call::digest(bytes).to_string())],
        target: ModelCall {
            provider: grant.map_or_else(undeclared_name, |grant| grant.provider.clone()),
            model: draft.model.chars().filter(|c| !c.is_control()).collect(),
            wire,
            streaming: draft.streaming,
            headers: forwarded(&head.headers),
            beta: head.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "beta=true")),
            price,
            hide_usage: bounded.hide_usage,
            body: bounded.body,
            room: None,
        },
    };
    Ok((call, client))
}

fn refused(code: RefusalCode, rule: &str, detail: &str) -> Refusal {
    let next_step = match code {
        RefusalCode::NotDeclared => "The model's operator or the agent's owner can declare it",
        RefusalCode::UpstreamUnavailable => "An operator can connect it with `cogward provider add`",
        _ => "Send a request that the model's provider understands",
    };
    Refusal::new(code, rule, detail, next_step)
}

/// What stands in records and refusals for a model that is not declared, whether it exists or not.
fn undeclared(wire: ModelWire) -> Action {
    Action::ModelCall { provider: undeclared_name(), model: String::new(), wire, streaming: false }
}

fn undeclared_name() -> UpstreamName {
    UNDECLARED.clone()
}

#[expect(clippy::unwrap_used, reason = "a constant that is a name, as a test shows")]
static UNDECLARED: std::sync::LazyLock<UpstreamName> = std::sync::LazyLock::new(|| "undeclared".parse().unwrap());

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(FORWARDED.len() + 4);
    for name in FORWARDED {
        for value in headers.get_all(&name).iter().filter(|value| value.len() <= HEADER_BYTES_MAX).take(8) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// What is not a model call: the list of models, and nothing else.
fn elsewhere(run: &RunContext, head: &Parts, path: &str) -> Response<AgentBody> {
    let anthropic = path.starts_with("/v1/messages") || head.headers.contains_key("anthropic-version");
    let dialect = if anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
    if head.method == Method::GET {
        if path == "/v1/models" {
            let models: Vec<Value> = run.grant.models().iter().map(|grant| dialect.model(&grant.name)).collect();
            return body::json(StatusCode::OK, dialect.model_list(models).to_string());
        }
        if let Some(grant) = path.strip_prefix("/v1/models/").and_then(|name| run.grant.model(name)) {
            return body::json(StatusCode::OK, dialect.model(&grant.name).to_string());
        }
    }
    dialect.error(StatusCode::NOT_FOUND, "not_found_error", "not_found", "there is nothing here for this run")
}

impl Dialect {
    fn of(wire: ModelWire) -> Self {
        match wire {
            ModelWire::OpenAiChat | ModelWire::OpenAiResponses => Self::OpenAi,
            ModelWire::AnthropicMessages => Self::Anthropic,
        }
    }

    fn model(self, name: &str) -> Value {
        match self {
            Self::OpenAi => json!({"id": name, "object": "model", "created": 0, "owned_by": "cogward"}),
            Self::Anthropic => {
                json!({"id": name, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"})
            }
        }
    }

    fn model_list(self, models: Vec<Value>) -> Value {
        match self {
            Self::OpenAi => json!({"object": "list", "data": models}),
            Self::Anthropic => {
                let id = |model: Option<&Value>| model.and_then(|model| model.get("id")).cloned().unwrap_or_default();
                let (first, last) = (id(models.first()), id(models.last()));
                json!({"data": models, "has_more": false, "first_id": first, "last_id": last})
            }
        }
    }
}

#[cfg(test)]
mod fuzzed;
#[cfg(test)]
pub(crate) use fuzzed::events as fuzz_events;
#[cfg(test)]
mod tests;
