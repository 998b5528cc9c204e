//! `POST /v1/responses`.

use serde_json::{Value, json};

use super::{Said, SaidCall, stream::Event};

fn usage(said: &Said) -> Value {
    json!({
        "input_tokens": said.input,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": said.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": said.input.saturating_add(said.output),
    })
}

/// The response object. `output` and `usage` come only when it is over.
fn response(said: &Said, over: bool) -> Value {
    let status = match (over, said.cut_short) {
        (false, _) => "in_progress",
        (true, true) => "incomplete",
        (true, false) => "completed",
    };
    let reason = if over && said.cut_short { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    json!({
        "id": format!("resp_{}", said.seed),
        "object": "response",
        "created_at": 0,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": reason,
        "instructions": null,
        "max_output_tokens": null,
        "model": said.model,
        "output": if over { output(said) } else { Vec::new() },
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": if over { usage(said) } else { Value::Null },
        "user": null,
        "metadata": {},
    })
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn message(said: &Said, status: &str, content: Vec<Value>) -> Value {
    json!({"id": format!("msg_{}", said.seed), "type": "message", "status": status, "role": "assistant", "content": content})
}

fn call_item(call: &SaidCall, status: &str, arguments: &str) -> Value {
    json!({
        "id": format!("fc_{}", call.seed),
        "type": "function_call",
        "status": status,
        "call_id": format!("call_{}", call.seed),
        "name": call.name,
        "arguments": arguments,
    })
}

fn output(said: &Said) -> Vec<Value> {
    let status = if said.cut_short { "incomplete" } else { "completed" };
    let text = said.text.as_deref().map(|text| message(said, status, vec![part(text)]));
    text.into_iter().chain(said.calls.iter().map(|call| call_item(call, "completed", &call.arguments()))).collect()
}

/// A whole answer.
pub(super) fn whole(said: &Said) -> Value {
    response(said, true)
}

/// A streamed answer.
pub(super) fn stream(said: &Said) -> Vec<Event> {
    let mut events = Vec::new();
    let mut number = 0_u64;
    let mut put = |mut data: Value, piece: bool| {
        if let Some(data) = data.as_object_mut() {
            data.insert("sequence_number".to_owned(), number.into());
        }
        number += 1;
        events.push(Event::typed(&data, piece));
    };
    put(json!({"type": "response.created", "response": response(said, false)}), false);
    put(json!({"type": "response.in_progress", "response": response(said, false)}), false);
    let mut index = 0;
    if let Some(text) = &said.text {
        let item = format!("msg_{}", said.seed);
        let opened = message(said, "in_progress", Vec::new());
        put(json!({"type": "response.output_item.added", "output_index": index, "item": opened}), false);
        let place = |kind: &str| json!({"type": kind, "item_id": item, "output_index": index, "content_index": 0});
        put(with(place("response.content_part.added"), "part", part("")), false);
        for piece in &said.pieces {
            let delta = with(place("response.output_text.delta"), "delta", piece.as_str().into());
            put(with(delta, "logprobs", json!([])), true);
        }
        let done = with(place("response.output_text.done"), "text", text.as_str().into());
        put(with(done, "logprobs", json!([])), false);
        put(with(place("response.content_part.done"), "part", part(text)), false);
        let status = if said.cut_short { "incomplete" } else { "completed" };
        let closed = message(said, status, vec![part(text)]);
        put(json!({"type": "response.output_item.done", "output_index": index, "item": closed}), false);
        index += 1;
    }
    for call in &said.calls {
        let item = format!("fc_{}", call.seed);
        let opened = call_item(call, "in_progress", "");
        put(json!({"type": "response.output_item.added", "output_index": index, "item": opened}), false);
        let place = |kind: &str| json!({"type": kind, "item_id": item, "output_index": index});
        let arguments = call.arguments();
        put(with(place("response.function_call_arguments.delta"), "delta", arguments.as_str().into()), true);
        let done = with(place("response.function_call_arguments.done"), "arguments", arguments.as_str().into());
        put(with(done, "name", call.name.as_str().into()), false);
        let closed = call_item(call, "completed", &arguments);
        put(json!({"type": "response.output_item.done", "output_index": index, "item": closed}), false);
        index += 1;
    }
    let kind = if said.cut_short { "response.incomplete" } else { "response.completed" };
    put(json!({"type": kind, "response": response(said, true)}), false);
    events
}

fn with(mut data: Value, key: &str, value: Value) -> Value {
    if let Some(data) = data.as_object_mut() {
        data.insert(key.to_owned(), value);
    }
    data
}
