//! `POST /v1/messages`.

use serde_json::{Value, json};

use super::{Said, SaidCall, stream::Event};

fn stop_reason(said: &Said) -> &'static str {
    match (said.cut_short, said.calls.is_empty()) {
        (true, _) => "max_tokens",
        (false, false) => "tool_use",
        (false, true) => "end_turn",
    }
}

fn usage(said: &Said, output: u64) -> Value {
    json!({
        "input_tokens": said.input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
        "service_tier": "standard",
    })
}

fn message(said: &Said, content: Vec<Value>, stop: Value, output: u64) -> Value {
    json!({
        "id": format!("msg_{}", said.seed),
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": null,
        "usage": usage(said, output),
    })
}

fn tool_use(call: &SaidCall, input: Value) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{}", call.seed), "name": call.name, "input": input})
}

/// A whole answer.
pub(super) fn whole(said: &Said) -> Value {
    let text = said.text.as_ref().map(|text| json!({"type": "text", "text": text}));
    let calls = said.calls.iter().map(|call| tool_use(call, call.arguments.clone()));
    message(said, text.into_iter().chain(calls).collect(), stop_reason(said).into(), said.output)
}

/// A streamed answer.
pub(super) fn stream(said: &Said) -> Vec<Event> {
    let started = message(said, Vec::new(), Value::Null, 1.min(said.output));
    let mut events = vec![Event::typed(&json!({"type": "message_start", "message": started}), false)];
    let mut block = |index: usize, opened: Value, deltas: Vec<Value>| {
        let start = json!({"type": "content_block_start", "index": index, "content_block": opened});
        events.push(Event::typed(&start, false));
        if index == 0 {
            events.push(Event::typed(&json!({"type": "ping"}), false));
        }
        for delta in deltas {
            let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.push(Event::typed(&delta, true));
        }
        events.push(Event::typed(&json!({"type": "content_block_stop", "index": index}), false));
    };
    let mut index = 0;
    if said.text.is_some() {
        let deltas = said.pieces.iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect();
        block(index, json!({"type": "text", "text": ""}), deltas);
        index += 1;
    }
    for call in &said.calls {
        let delta = json!({"type": "input_json_delta", "partial_json": call.arguments()});
        block(index, tool_use(call, json!({})), vec![delta]);
        index += 1;
    }
    let delta = json!({"stop_reason": stop_reason(said), "stop_sequence": null});
    let ended = json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": said.output}});
    events.push(Event::typed(&ended, false));
    events.push(Event::typed(&json!({"type": "message_stop"}), false));
    events
}
