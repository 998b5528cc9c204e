//! `POST /v1/chat/completions`.

use serde_json::{Value, json};

use super::{Said, stream::Event};

fn finish(said: &Said) -> &'static str {
    match (said.cut_short, said.calls.is_empty()) {
        (true, _) => "length",
        (false, false) => "tool_calls",
        (false, true) => "stop",
    }
}

fn usage(said: &Said) -> Value {
    json!({
        "prompt_tokens": said.input,
        "completion_tokens": said.output,
        "total_tokens": said.input.saturating_add(said.output),
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}

/// A whole answer.
pub(super) fn whole(said: &Said) -> Value {
    let mut message = json!({"role": "assistant", "content": said.text, "refusal": null});
    if !said.calls.is_empty() {
        let calls: Vec<Value> = said
            .calls
            .iter()
            .map(|call| {
                json!({
                    "id": format!("call_{}", call.seed),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments()},
                })
            })
            .collect();
        if let Some(message) = message.as_object_mut() {
            message.insert("tool_calls".to_owned(), calls.into());
        }
    }
    json!({
        "id": format!("chatcmpl-{}", said.seed),
        "object": "chat.completion",
        "created": 0,
        "model": said.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish(said)}],
        "usage": usage(said),
        "system_fingerprint": "scripted",
    })
}

/// A streamed answer; the gateway has asked for the usage chunk.
pub(super) fn stream(said: &Said) -> Vec<Event> {
    let chunk = |choices: Value, usage: Value| {
        json!({
            "id": format!("chatcmpl-{}", said.seed),
            "object": "chat.completion.chunk",
            "created": 0,
            "model": said.model,
            "system_fingerprint": "scripted",
            "choices": choices,
            "usage": usage,
        })
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let first = if said.text.is_some() { json!("") } else { Value::Null };
    let mut events = vec![Event::unnamed(&delta(json!({"role": "assistant", "content": first}), Value::Null), false)];
    for piece in &said.pieces {
        events.push(Event::unnamed(&delta(json!({"content": piece}), Value::Null), true));
    }
    for (index, call) in said.calls.iter().enumerate() {
        let opened = json!({"tool_calls": [{
            "index": index,
            "id": format!("call_{}", call.seed),
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }]});
        events.push(Event::unnamed(&delta(opened, Value::Null), false));
        let arguments = json!({"tool_calls": [{"index": index, "function": {"arguments": call.arguments()}}]});
        events.push(Event::unnamed(&delta(arguments, Value::Null), true));
    }
    events.push(Event::unnamed(&delta(json!({}), finish(said).into()), false));
    events.push(Event::unnamed(&chunk(json!([]), usage(said)), false));
    events.push(Event::done());
    events
}
