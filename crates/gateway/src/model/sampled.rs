//! A model call that the plane makes for a tool server which asks for one (MCP: sampling), where the agent's client cannot
//! be asked and the manifest names a model for it. It is a call of the run like any other: declared, judged, recorded,
//! reserved and paid for. Of what MCP may ask for, texts are carried.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{action::ModelWire, id::EventId, limits::RESPONSE_BYTES_MAX};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ask, call};
use crate::{Inner, body::AgentBody, gate::public, run::RunContext};

/// Messages of one request.
const MESSAGES_MAX: usize = 256;
/// The revision of Anthropic's API that is written here.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Why there is no answer; for the tool server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("the request is not one that can be carried: {0}")]
    Request(&'static str),
    #[error("{0}")]
    Refused(String),
    #[error("the model's answer is not a text")]
    Answer,
}

/// What a tool server asks of a model.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    messages: Vec<Message>,
    #[serde(default)]
    system_prompt: Option<String>,
    max_tokens: u64,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    #[serde(default)]
    tools: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: Role,
    content: Value,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
}

/// Has `model` asked, under the decision that allowed the question.
pub(crate) async fn sample(
    inner: &Arc<Inner>,
    run: &Arc<RunContext>,
    model: &str,
    params: &[u8],
    allowed: EventId,
) -> Result<Bytes, SampleError> {
    let wanted = read(params)?;
    let grant = run.grant.model(model);
    let client = grant.and_then(|grant| inner.upstreams.provider(&run.grant.tenant, &grant.provider));
    let anthropic = client.as_ref().is_some_and(|client| !client.speaks(ModelWire::OpenAiChat));
    let (wire, path) = match anthropic {
        true => (ModelWire::AnthropicMessages, "/v1/messages"),
        false => (ModelWire::OpenAiChat, "/v1/chat/completions"),
    };
    let limit = client.as_ref().map_or("max_tokens", |client| client.limit_word(wire));
    let body = Bytes::from(body(&wanted, model, wire, limit).to_string());
    let mut head = Request::builder().method(Method::POST).uri(path);
    if anthropic {
        head = head.header("anthropic-version", ANTHROPIC_VERSION);
    }
    let head = head.body(()).map_err(|_| SampleError::Request("its head"))?.into_parts().0;
    let (mut call, client) =
        ask(inner, run, &head, wire, &body).map_err(|refusal| SampleError::Refused(refusal.sentence()))?;
    call.fields.push(public("refs", vec![allowed.to_string()]));
    call.target.room = run.room(Some(body.len() as u64)).await;
    answer(wire, call::perform(Arc::clone(inner), Arc::clone(run), call, client).await).await
}

fn read(params: &[u8]) -> Result<Wanted, SampleError> {
    let wanted: Wanted = serde_json::from_slice(params).map_err(|_| SampleError::Request("it is not as MCP has it"))?;
    if wanted.messages.is_empty() || wanted.messages.len() > MESSAGES_MAX {
        return Err(SampleError::Request("it has no messages, or too many"));
    }
    if wanted.tools.as_ref().is_some_and(|tools| !tools.is_null()) {
        return Err(SampleError::Request("it offers tools to the model"));
    }
    if wanted.messages.iter().any(|message| text(&message.content).is_none()) {
        return Err(SampleError::Request("it holds something else than texts"));
    }
    Ok(wanted)
}

/// The text of a content: one block, or a list of them.
fn text(content: &Value) -> Option<String> {
    let block = |block: &Value| {
        let is_text = block.get("type").and_then(Value::as_str) == Some("text");
        block.get("text").and_then(Value::as_str).filter(|_| is_text).map(str::to_owned)
    };
    match content {
        Value::Array(blocks) => blocks.iter().map(block).collect::<Option<Vec<_>>>().map(|texts| texts.join("\n")),
        one => block(one),
    }
}

fn body(wanted: &Wanted, model: &str, wire: ModelWire, limit: &str) -> Value {
    let mut messages = Vec::with_capacity(wanted.messages.len() + 1);
    let mut all = Map::new();
    all.insert("model".to_owned(), model.into());
    let anthropic = wire == ModelWire::AnthropicMessages;
    if let Some(system) = &wanted.system_prompt {
        if anthropic {
            all.insert("system".to_owned(), system.as_str().into());
        } else {
            messages.push(json!({"role": "system", "content": system}));
        }
    }
    for message in &wanted.messages {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        messages.push(json!({"role": role, "content": text(&message.content).unwrap_or_default()}));
    }
    all.insert("messages".to_owned(), messages.into());
    all.insert(limit.to_owned(), wanted.max_tokens.into());
    if let Some(temperature) = wanted.temperature {
        all.insert("temperature".to_owned(), temperature.into());
    }
    if !wanted.stop_sequences.is_empty() {
        let word = if anthropic { "stop_sequences" } else { "stop" };
        all.insert(word.to_owned(), wanted.stop_sequences.clone().into());
    }
    Value::Object(all)
}

/// The answer of a model as MCP has it.
async fn answer(wire: ModelWire, response: Response<AgentBody>) -> Result<Bytes, SampleError> {
    let (head, body) = response.into_parts();
    let whole = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
    let whole = whole.map_err(|_| SampleError::Answer)?.to_bytes();
    let said: Value = serde_json::from_slice(&whole).map_err(|_| SampleError::Answer)?;
    if head.status != StatusCode::OK {
        let why = said.pointer("/error/message").and_then(Value::as_str).unwrap_or("the model call failed");
        return Err(SampleError::Refused(why.to_owned()));
    }
    told(wire, &said).ok_or(SampleError::Answer)
}

fn told(wire: ModelWire, said: &Value) -> Option<Bytes> {
    let (text, stopped) = match wire {
        ModelWire::AnthropicMessages => (text(said.get("content")?)?, said.get("stop_reason")),
        ModelWire::OpenAiChat | ModelWire::OpenAiResponses => {
            let choice = said.pointer("/choices/0")?;
            (choice.pointer("/message/content")?.as_str()?.to_owned(), choice.get("finish_reason"))
        }
    };
    let stopped = match stopped.and_then(Value::as_str) {
        Some("length" | "max_tokens") => "maxTokens",
        Some("stop_sequence") => "stopSequence",
        _ => "endTurn",
    };
    let model = said.get("model").and_then(Value::as_str).unwrap_or_default();
    let result = json!({
        "role": "assistant", "content": {"type": "text", "text": text}, "model": model, "stopReason": stopped
    });
    Some(result.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_one_of_each_wire_and_nothing_else_is_let_through() {
        let wanted = read(
            br#"{"messages":[{"role":"user","content":{"type":"text","text":"a"}},
                {"role":"assistant","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]}],
                "systemPrompt":"s","maxTokens":9,"temperature":0.5,"stopSequences":["x"],"model":"other","n":50}"#,
        )
        .unwrap();
        assert_eq!(
            body(&wanted, "m", ModelWire::OpenAiChat, "max_completion_tokens"),
            json!({"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b\nc"}], "max_completion_tokens": 9, "temperature": 0.5, "stop": ["x"]})
        );
        assert_eq!(
            body(&wanted, "m", ModelWire::AnthropicMessages, "max_tokens"),
            json!({"model": "m", "system": "s", "messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": "b\nc"}], "max_tokens": 9, "temperature": 0.5, "stop_sequences": ["x"]})
        );
        for bad in [
            r#"{"messages":[],"maxTokens":9}"#,
            r#"{"messages":[{"role":"system","content":{"type":"text","text":"a"}}],"maxTokens":9}"#,
            r#"{"messages":[{"role":"user","content":{"type":"image","data":"","mimeType":"x"}}],"maxTokens":9}"#,
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"a"}}]}"#,
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"a"}}],"maxTokens":-1}"#,
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"a"}}],"maxTokens":9,"tools":[]}"#,
            "[]",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_told_as_mcp_has_it() {
        let chat = json!({"model": "m", "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]});
        let told_json = |wire, said: &Value| serde_json::from_slice::<Value>(&told(wire, said).unwrap()).unwrap();
        let wanted = |stop: &str| json!({"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m", "stopReason": stop});
        assert_eq!(told_json(ModelWire::OpenAiChat, &chat), wanted("maxTokens"));
        let messages = json!({"model": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn"});
        assert_eq!(told_json(ModelWire::AnthropicMessages, &messages), wanted("endTurn"));
        assert!(told(ModelWire::OpenAiChat, &json!({"choices": []})).is_none());
        assert!(told(ModelWire::AnthropicMessages, &json!({"content": [{"type": "tool_use"}]})).is_none());
    }
}
