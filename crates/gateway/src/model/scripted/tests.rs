//! The scripted provider in every dialect, through the whole gate, member by member.

use cogward_model::action::{Amounts, ModelWire};
use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Script, conversation::Conversation};
use crate::model::{provider::ProviderTimeouts, sse, tests::plane::Plane};

const SCRIPT: &str = r#"{
  "steps": [
    {"when": {"contains": "busy"}, "reply": {"error": {"status": 429, "retry_after": 3, "message": "later"}}, "repeat": false},
    {"when": {"turn": 0, "tool_offered": "read"},
     "reply": {"text": "Let me look.", "tool_calls": [
       {"name": "read", "arguments": {"path": "{{input}}", "deep": [1, {"x": "{{input}}"}]}},
       {"name": "stat"}]},
     "usage": {"input": 40, "output": 20}},
    {"when": {"turn": 1}, "reply": {"text": "It says: {{last_tool_result}}"}, "chunks": 3},
    {"when": {"contains": "cut"}, "reply": {"text": "a b c d"}, "cut_after_chunks": 2},
    {"when": {"contains": "long"}, "reply": {"text": "0123456789 0123456789"}}
  ],
  "default": {"reply": {"text": "Hello you"}}
}"#;

async fn plane() -> Plane {
    Plane::with(1_000_000, SCRIPT, ProviderTimeouts::default()).await
}

fn events(text: &str) -> Vec<Value> {
    let mut splitter = sse::Splitter::default();
    let block = splitter.feed(text.as_bytes()).unwrap().unwrap();
    assert!(splitter.rest().is_empty());
    block
        .events()
        .filter_map(|event| {
            let data = sse::data(&event).unwrap().into_owned();
            let name = event
                .strip_prefix(b"event: ")
                .map(|rest| String::from_utf8(rest.split(|byte| *byte == b'\n').next().unwrap().to_vec()).unwrap());
            if data == b"[DONE]" {
                return None;
            }
            let value: Value = serde_json::from_slice(&data).unwrap();
            if let Some(name) = name {
                assert_eq!(value["type"], name.as_str(), "an event's name is the type in it");
            }
            Some(value)
        })
        .collect()
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "read", "parameters": {}}}])
}

#[tokio::test]
async fn chat_completions_plain() {
    let plane = plane().await;
    let asked = json!({"model": "demo", "tools": tools(), "messages": [{"role": "user", "content": "a.txt"}]});
    let answer = plane.ask("/v1/chat/completions", &asked).await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let answer = answer.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("demo")));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("tool_calls")));
    let message = &choice["message"];
    assert_eq!((&message["role"], &message["content"]), (&json!("assistant"), &json!("Let me look.")));
    let calls = message["tool_calls"].as_array().unwrap();
    assert_eq!(
        (calls.len(), &calls[0]["type"], &calls[0]["function"]["name"]),
        (2, &json!("function"), &json!("read"))
    );
    let arguments: Value = serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"path": "a.txt", "deep": [1, {"x": "a.txt"}]}));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    let usage = &answer["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
        (&json!(40), &json!(20), &json!(60))
    );
    assert_eq!((plane.used().tokens, plane.held()), (60, Amounts::default()));

    let mut messages = asked["messages"].as_array().unwrap().clone();
    messages.push(message.clone());
    messages.push(json!({"role": "tool", "tool_call_id": calls[0]["id"], "content": "secret plans"}));
    let asked = json!({"model": "demo", "tools": tools(), "messages": messages});
    let answer = plane.ask("/v1/chat/completions", &asked).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "It says: secret plans");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
    let again = plane.ask("/v1/chat/completions", &asked).await.json();
    assert_eq!(again, answer, "the same request has the same answer");
}

#[tokio::test]
async fn chat_completions_streamed() {
    let plane = plane().await;
    let asked = json!({"model": "demo", "stream": true, "stream_options": {"include_usage": true}, "tools": tools(),
        "messages": [{"role": "user", "content": "a.txt"}]});
    let answer = plane.ask("/v1/chat/completions", &asked).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    let chunks = events(&answer.text());
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let deltas: Vec<&Value> = chunks.iter().filter_map(|chunk| chunk["choices"].get(0)).collect();
    let text: String = deltas.iter().filter_map(|delta| delta["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Let me look.");
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(
        (&calls[0]["index"], &calls[0]["function"]["name"], &calls[2]["index"]),
        (&json!(0), &json!("read"), &json!(1))
    );
    let arguments: Value = serde_json::from_str(calls[1]["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments["path"], "a.txt");
    assert_eq!(deltas.last().unwrap()["finish_reason"], "tool_calls");
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(60)));
    assert_eq!(plane.used().tokens, 60);

    let hidden = json!({"model": "demo", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let text = plane.ask("/v1/chat/completions", &hidden).await.text();
    assert!(!text.contains("prompt_tokens") && text.contains("Hello "), "{text}");
    assert!(plane.used().tokens > 60);
}

#[tokio::test]
async fn responses_plain_and_streamed_agree() {
    let plane = plane().await;
    let mut asked = json!({"model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "a.txt"}]}],
        "tools": [{"type": "function", "name": "read", "parameters": {}, "strict": true}]});
    let whole = plane.ask("/v1/responses", &asked).await.json();
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["error"]),
        (&json!("response"), &json!("completed"), &Value::Null)
    );
    assert!(whole["id"].as_str().unwrap().starts_with("resp_"));
    let output = whole["output"].as_array().unwrap();
    assert_eq!(
        (&output[0]["type"], &output[0]["role"], &output[0]["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    assert_eq!(
        output[0]["content"][0],
        json!({"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []})
    );
    assert_eq!((&output[1]["type"], &output[1]["name"]), (&json!("function_call"), &json!("read")));
    assert!(
        output[1]["id"].as_str().unwrap().starts_with("fc_")
            && output[1]["call_id"].as_str().unwrap().starts_with("call_")
    );
    let arguments: Value = serde_json::from_str(output[1]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments["path"], "a.txt");
    let usage = &whole["usage"];
    assert_eq!(
        (&usage["input_tokens"], &usage["output_tokens"], &usage["total_tokens"]),
        (&json!(40), &json!(20), &json!(60))
    );
    assert_eq!(usage["output_tokens_details"], json!({"reasoning_tokens": 0}));

    asked["stream"] = true.into();
    let stream = events(&plane.ask("/v1/responses", &asked).await.text());
    for (number, event) in stream.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let kinds: Vec<&str> = stream.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        &kinds[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    assert_eq!(kinds.last(), Some(&"response.completed"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "response.function_call_arguments.done").count(), 2);
    let text: String = stream
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Let me look.");
    let end = &stream.last().unwrap()["response"];
    assert_eq!(end["status"], "completed");
    let shape = |response: &Value| {
        response["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shape(end), shape(&whole));
    let done: Vec<&Value> = stream
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(end["output"].as_array().unwrap().iter().collect::<Vec<_>>(), done);
    assert_eq!(plane.used().tokens, 120);

    let next = json!({"model": "demo", "input": [
        {"role": "user", "content": "a.txt"}, output[0], output[1],
        {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "plans"}]});
    let answer = plane.ask("/v1/responses", &next).await.json();
    assert_eq!(answer["output"][0]["content"][0]["text"], "It says: plans");
}

#[tokio::test]
async fn messages_plain_and_streamed_agree() {
    let plane = plane().await;
    let mut asked = json!({"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": "a.txt"}],
        "tools": [{"name": "read", "input_schema": {"type": "object"}}]});
    let whole = plane.ask("/v1/messages", &asked).await.json();
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("tool_use"))
    );
    assert!(whole["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(whole["content"][0], json!({"type": "text", "text": "Let me look."}));
    assert_eq!(
        (&whole["content"][1]["type"], &whole["content"][1]["input"]["path"]),
        (&json!("tool_use"), &json!("a.txt"))
    );
    assert!(whole["content"][1]["id"].as_str().unwrap().starts_with("toolu_"));
    assert_eq!((&whole["usage"]["input_tokens"], &whole["usage"]["output_tokens"]), (&json!(40), &json!(20)));
    assert_eq!(plane.used().tokens, 60);

    asked["stream"] = true.into();
    let stream = events(&plane.ask("/v1/messages?beta=true", &asked).await.text());
    let kinds: Vec<&str> = stream.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(&kinds[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(&kinds[kinds.len() - 2..], ["message_delta", "message_stop"]);
    let start = &stream[0]["message"];
    assert_eq!(
        (&start["content"], &start["stop_reason"], &start["usage"]["input_tokens"]),
        (&json!([]), &Value::Null, &json!(40))
    );
    let text: String = stream.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "Let me look.");
    let input = stream.iter().find_map(|event| event["delta"]["partial_json"].as_str()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(input).unwrap(), whole["content"][1]["input"]);
    let delta = &stream[stream.len() - 2];
    assert_eq!((&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]), (&json!("tool_use"), &json!(20)));
    assert_eq!(plane.used().tokens, 120);

    let next = json!({"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": "a.txt"},
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "plans"}]}]}]});
    let answer = plane.ask("/v1/messages", &next).await.json();
    assert_eq!((&answer["content"][0]["text"], &answer["stop_reason"]), (&json!("It says: plans"), &json!("end_turn")));
}

#[tokio::test]
async fn an_error_comes_in_the_dialect_and_only_once_when_it_is_not_repeated() {
    let plane = plane().await;
    let asked = json!({"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "are you busy?"}]});
    let answer = plane.ask("/v1/messages", &asked).await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"3".parse().unwrap()));
    assert_eq!(answer.json(), json!({"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}));
    assert_eq!(plane.used().tokens, 0);
    assert_eq!(plane.ask("/v1/messages", &asked).await.json()["content"][0]["text"], "Hello you");
}

#[tokio::test]
async fn a_script_can_cut_a_stream_and_keeps_to_the_output_limit() {
    let plane = plane().await;
    let asked = json!({"model": "demo", "stream": true, "messages": [{"role": "user", "content": "cut"}]});
    assert!(plane.ask("/v1/chat/completions", &asked).await.body.is_err());
    let asked = json!({"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "long"}]});
    let answer = plane.ask("/v1/chat/completions", &asked).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "0123456789 0");
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]),
        (&json!("length"), &json!(3))
    );
    let asked = json!({"model": "demo", "stream": true, "max_output_tokens": 3, "input": "long"});
    let stream = events(&plane.ask("/v1/responses", &asked).await.text());
    assert_eq!(stream.last().unwrap()["type"], "response.incomplete");
}

#[test]
fn a_wrong_script_is_refused_with_the_path() {
    let reply = r#"{"reply": {"text": "x"}}"#;
    let cases = [
        ("{", "script"),
        ("{}", "script"),
        ("[]", "script"),
        (r#"{"step": []}"#, "step"),
        (r#"{"steps": {}}"#, "steps"),
        (r#"{"steps": [{"reply": {"text": "x"}}, {"when": {}}]}"#, "steps[1].reply"),
        (r#"{"steps": [{"reply": {}}]}"#, "steps[0].reply"),
        (r#"{"steps": [{"reply": {"text": "x", "error": {"status": 400}}}]}"#, "steps[0].reply"),
        (r#"{"steps": [{"reply": {"error": {"status": 200}}}]}"#, "steps[0].reply.error.status"),
        (r#"{"steps": [{"reply": {"tool_calls": [{"name": ""}]}}]}"#, "steps[0].reply.tool_calls[0].name"),
        (r#"{"steps": [{"when": {"turm": 1}, "reply": {"text": "x"}}]}"#, "steps[0].when"),
        (r#"{"steps": [{"reply": {"text": "x"}, "chunks": 0}]}"#, "steps[0].chunks"),
        (r#"{"steps": [{"reply": {"text": "x"}, "delay": 1}]}"#, "steps[0]"),
        (r#"{"default": {"when": {"turn": 1}, "reply": {"text": "x"}}}"#, "default.when"),
        (r#"{"models": {"m": {"steps": [{}]}}}"#, "models.m.steps[0].reply"),
    ];
    for (script, path) in cases {
        let error = Script::parse(script).unwrap_err();
        assert_eq!(error.path, path, "{script}: {error}");
        assert!(error.to_string().contains(&format!("`{path}`")));
    }
    assert!(Script::parse(&format!(r#"{{"models": {{"m": {{"default": {reply}}}}}}}"#)).is_ok());
}

#[test]
fn placeholders_are_filled_once_and_bounded() {
    let conversation = Conversation {
        input: "{{last_tool_result}}".into(),
        tool_result: "é".repeat(10_000),
        ..Conversation::default()
    };
    assert_eq!(conversation.fill("a {{input}} {{unknown}} {{"), "a {{last_tool_result}} {{unknown}} {{");
    assert!(conversation.fill("{{last_tool_result}}").len() <= 8 * 1024);
}

proptest! {
    #[test]
    fn no_script_and_no_conversation_panics(script: String, body: Vec<u8>) {
        let _ = Script::parse(&script);
        for wire in [ModelWire::OpenAiChat, ModelWire::OpenAiResponses, ModelWire::AnthropicMessages] {
            let _ = Conversation::read(wire, &body);
        }
    }
}
