//! A request as the agent sent it, its worst case, and the few members that are changed.
//!
//! The body is forwarded byte for byte unless a limit has to be written into it; then only those
//! members differ and every other value keeps its bytes.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use cogward_model::{
    action::{Amounts, ModelWire},
    decision::{Refusal, RefusalCode},
    upstream::Price,
};
use serde::{
    Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{survey::Survey, usage::Usage};
use crate::json;

/// Members of a request at most; the largest API has about forty.
const MEMBERS_MAX: usize = 128;
/// Answers that may be asked for at once.
const CHOICES_MAX: u64 = 16;
/// Longest name of a model.
const MODEL_BYTES_MAX: usize = 256;
/// What providers add to a conversation by themselves.
const OVERHEAD_TOKENS: u64 = 64;
/// What they add to explain tools to the model (346 to 700 tokens are documented).
const TOOLS_OVERHEAD_TOKENS: u64 = 1_024;
/// The dearest image of the known formulas (a small model that charges 33 times the base tiles).
const IMAGE_TOKENS: u64 = 40_000;

/// The members that limits depend on. One that differs from them only in case is refused: some
/// servers match names without regard to case and would read what was not judged.
const GOVERNED: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "messages",
    "input",
    "tools",
    "functions",
    "previous_response_id",
    "conversation",
    "prompt",
    "background",
    "prediction",
    "audio",
    "web_search_options",
    "mcp_servers",
    "container",
    "service_tier",
    "speed",
    "system",
    "instructions",
];

/// A readable request.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    wire: ModelWire,
    body: &'a Bytes,
    members: Members<'a>,
    /// The model that is asked for.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub streaming: bool,
    choices: u64,
    outputs: Vec<(&'static str, u64)>,
    asked_usage: bool,
    survey: Survey,
}

/// What is forwarded, and the most that it may use.
#[derive(Debug)]
pub(super) struct Bounded {
    /// The body.
    pub body: Bytes,
    /// The worst case.
    pub worst: Usage,
    /// Whether usage was asked for on the agent's behalf, so that its chunk must not reach it.
    pub hide_usage: bool,
}

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

impl<'a> Draft<'a> {
    /// Reads a request.
    pub(super) fn parse(wire: ModelWire, body: &'a Bytes) -> Result<Self, Refusal> {
        json::check(body).map_err(|error| invalid(error.to_string()))?;
        let members = serde_json::Deserializer::from_slice(body)
            .deserialize_map(MembersVisitor)
            .map_err(|_| invalid(format!("the body must be a JSON object with at most {MEMBERS_MAX} members")))?;
        for (key, _) in &members {
            // No API has such a name, and some servers fold letters: `K` of Kelvin is their `k`.
            if !key.is_ascii() {
                return Err(invalid("the name of a member is not plain ASCII".to_owned()));
            }
            if GOVERNED.iter().any(|known| *known != key && known.eq_ignore_ascii_case(key)) {
                return Err(invalid("a member differs from a known one only in upper and lower case".to_owned()));
            }
        }
        let model: String = member(&members, "model")
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .filter(|name: &String| !name.is_empty() && name.len() <= MODEL_BYTES_MAX)
            .ok_or_else(|| invalid(format!("`model` must be a text of 1 to {MODEL_BYTES_MAX} bytes")))?;
        let streaming = truth(&members, "stream")?;
        let choices = match wire {
            ModelWire::OpenAiChat => count(&members, "n")?.unwrap_or(1),
            ModelWire::OpenAiResponses | ModelWire::AnthropicMessages => 1,
        };
        if choices == 0 || choices > CHOICES_MAX {
            return Err(invalid(format!("`n` must be 1 to {CHOICES_MAX}")));
        }
        let words: &[&'static str] = match wire {
            ModelWire::OpenAiChat => &["max_completion_tokens", "max_tokens"],
            ModelWire::OpenAiResponses => &["max_output_tokens"],
            ModelWire::AnthropicMessages => &["max_tokens"],
        };
        let mut outputs = Vec::with_capacity(2);
        for word in words {
            if let Some(limit) = count(&members, word)? {
                outputs.push((*word, limit));
            }
        }
        let asked_usage = member(&members, "stream_options")
            .and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok())
            .is_some_and(|options| options.get("include_usage") == Some(&Value::Bool(true)));
        let survey = Survey::of(wire, &members);
        Ok(Self { wire, body, members, model, streaming, choices, outputs, asked_usage, survey })
    }

    /// What stands against the request whatever the budget.
    pub(super) fn objection(&mut self) -> Option<Refusal> {
        self.survey.objection.take()
    }

    /// Writes the limits in and computes the worst case. `word` is the member that limits the output
    /// when the agent said none.
    ///
    /// No tokenizer makes more tokens than there are bytes, so the length of the body bounds its text;
    /// what else a provider counts is added.
    pub(super) fn bounded(&self, limit: u32, word: &'static str) -> Bounded {
        let limit = u64::from(limit);
        let mut edits: Vec<(&'static str, String)> = Vec::new();
        let mut output = 0;
        for (word, asked) in &self.outputs {
            output = output.max(limit.min(*asked));
            if *asked > limit {
                edits.push((word, limit.to_string()));
            }
        }
        if self.outputs.is_empty() {
            output = limit;
            edits.push((word, limit.to_string()));
        }
        let hide_usage = self.wire == ModelWire::OpenAiChat && self.streaming && !self.asked_usage;
        if hide_usage {
            let mut options = member(&self.members, "stream_options")
                .and_then(|raw| serde_json::from_str::<serde_json::Map<String, Value>>(raw.get()).ok())
                .unwrap_or_default();
            options.insert("include_usage".to_owned(), Value::Bool(true));
            edits.push(("stream_options", Value::Object(options).to_string()));
        }
        let body = if edits.is_empty() { self.body.clone() } else { self.rewrite(&edits) };
        let mut input = u64::try_from(body.len()).unwrap_or(u64::MAX).saturating_add(OVERHEAD_TOKENS);
        if self.survey.tools {
            input = input.saturating_add(TOOLS_OVERHEAD_TOKENS);
        }
        input = input.saturating_add(self.survey.images.saturating_mul(IMAGE_TOKENS));
        // Written to a cache for an hour, input costs twice its price.
        let priced_input = if self.survey.cache_marks { input.saturating_mul(2) } else { input };
        Bounded { body, worst: Usage { input, output: output.saturating_mul(self.choices), priced_input }, hide_usage }
    }

    fn rewrite(&self, edits: &[(&'static str, String)]) -> Bytes {
        let mut text = String::with_capacity(self.body.len() + 128);
        let mut put = |key: &str, value: &str| {
            text.push(if text.is_empty() { '{' } else { ',' });
            text.push_str(&Value::String(key.to_owned()).to_string());
            text.push(':');
            text.push_str(value);
        };
        for (key, raw) in &self.members {
            let edit = edits.iter().find(|(word, _)| word == key);
            put(key, edit.map_or(raw.get(), |(_, value)| value));
        }
        for (word, value) in edits.iter().filter(|(word, _)| member(&self.members, word).is_none()) {
            put(word, value);
        }
        text.push('}');
        text.into()
    }
}

impl Bounded {
    /// The worst case as the gate reserves it.
    pub(super) fn amounts(&self, price: Price) -> Amounts {
        self.worst.amounts(price)
    }
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, "models.request", detail, "Send a request of the documented shape")
}

fn member<'a>(members: &Members<'a>, name: &str) -> Option<&'a RawValue> {
    members.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw)
}

fn count(members: &Members<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(raw) = member(members, name) else { return Ok(None) };
    serde_json::from_str::<Option<u64>>(raw.get()).map_err(|_| invalid(format!("`{name}` must be a whole number")))
}

fn truth(members: &Members<'_>, name: &str) -> Result<bool, Refusal> {
    let Some(raw) = member(members, name) else { return Ok(false) };
    let value = serde_json::from_str::<Option<bool>>(raw.get());
    value.map(|value| value.unwrap_or(false)).map_err(|_| invalid(format!("`{name}` must be true or false")))
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some(entry) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            if members.len() >= MEMBERS_MAX {
                return Err(de::Error::custom("too many members"));
            }
            members.push(entry);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bytes(value: &Value) -> Bytes {
        value.to_string().into()
    }

    fn draft(wire: ModelWire, body: &Bytes) -> Draft<'_> {
        Draft::parse(wire, body).unwrap()
    }

    #[test]
    fn a_request_within_its_limits_is_forwarded_byte_for_byte() {
        let body = Bytes::from_static(br#" { "model":"m", "max_tokens" : 10 ,"messages":[] ,"x":1.50e3}"#);
        let bounded = draft(ModelWire::OpenAiChat, &body).bounded(256, "max_tokens");
        assert_eq!(bounded.body, body);
        assert_eq!(bounded.worst.output, 10);
        assert!(bounded.worst.input >= body.len() as u64);
    }

    #[test]
    fn a_missing_limit_is_written_in_and_a_large_one_is_cut_and_nothing_else_changes() {
        let body =
            Bytes::from_static(br#"{"model":"m","seed":1.50e3,"messages":[{"role":"user","content":"\u00e4 "}]}"#);
        let bounded = draft(ModelWire::OpenAiChat, &body).bounded(256, "max_completion_tokens");
        let text = String::from_utf8(bounded.body.to_vec()).unwrap();
        let expected = r#"{"model":"m","seed":1.50e3,"messages":[{"role":"user","content":"\u00e4 "}],"max_completion_tokens":256}"#;
        assert_eq!(text, expected);

        let body = bytes(&json!({"model": "m", "max_tokens": 100_000, "n": 3, "messages": []}));
        let bounded = draft(ModelWire::OpenAiChat, &body).bounded(256, "max_tokens");
        let value: Value = serde_json::from_slice(&bounded.body).unwrap();
        assert_eq!(value, json!({"model": "m", "max_tokens": 256, "n": 3, "messages": []}));
        assert_eq!(bounded.worst.output, 768);
    }

    #[test]
    fn a_chat_stream_is_asked_for_its_usage_and_the_agent_is_not_told() {
        let body = bytes(&json!({"model": "m", "stream": true, "max_tokens": 5, "stream_options": {"x": 1}}));
        let bounded = draft(ModelWire::OpenAiChat, &body).bounded(256, "max_tokens");
        let value: Value = serde_json::from_slice(&bounded.body).unwrap();
        assert_eq!(value["stream_options"], json!({"x": 1, "include_usage": true}));
        assert!(bounded.hide_usage);
        let body =
            bytes(&json!({"model": "m", "stream": true, "max_tokens": 5, "stream_options": {"include_usage": true}}));
        let bounded = draft(ModelWire::OpenAiChat, &body).bounded(256, "max_tokens");
        assert!(!bounded.hide_usage && bounded.body == body);
    }

    #[test]
    fn what_cannot_be_read_one_way_only_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"model":1}"#,
            r#"{"model":""}"#,
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","Max_Tokens":1}"#,
            r#"{"model":"a","max_tokens":1,"max_to\u212aens":100000}"#,
            r#"{"model":"a","max_tokens":1,"max_token\u017f":100000}"#,
            r#"{"model":"a","max_tokens":-1}"#,
            r#"{"model":"a","max_tokens":1.5}"#,
            r#"{"model":"a","stream":"yes"}"#,
            r#"{"model":"a","n":0}"#,
            r#"{"model":"a","n":17}"#,
        ] {
            let body = Bytes::from_static(bad.as_bytes());
            assert_eq!(
                Draft::parse(ModelWire::OpenAiChat, &body).unwrap_err().code,
                RefusalCode::InvalidRequest,
                "{bad}"
            );
        }
    }

    #[test]
    fn what_the_length_does_not_bound_is_refused() {
        use ModelWire::{AnthropicMessages as Messages, OpenAiChat as Chat, OpenAiResponses as Responses};
        let part = |part: Value| json!({"model": "m", "messages": [{"role": "user", "content": [part]}]});
        let cases = [
            (Chat, part(json!({"type": "image_url", "image_url": {"url": "https://a.example/x"}})), "models.content"),
            (Chat, part(json!({"type": "file", "file": {"file_id": "f"}})), "models.content"),
            (Chat, json!({"model": "m", "web_search_options": {"x": 1}}), "models.hostedTools"),
            (Chat, json!({"model": "m", "tools": [{"type": "web_search"}]}), "models.hostedTools"),
            (Chat, json!({"model": "m", "service_tier": "priority"}), "models.price"),
            (Messages, part(json!({"type": "image", "source": {"type": "url", "url": "https://x"}})), "models.content"),
            (
                Messages,
                json!({"model": "m", "tools": [{"type": "web_search_20250305", "name": "w"}]}),
                "models.hostedTools",
            ),
            (Messages, json!({"model": "m", "mcp_servers": [{"url": "https://x"}]}), "models.hostedTools"),
            (
                Responses,
                json!({"model": "m", "tools": [{"type": "mcp", "server_url": "https://x"}]}),
                "models.hostedTools",
            ),
            (Responses, json!({"model": "m", "previous_response_id": "resp_1"}), "models.content"),
            (Responses, json!({"model": "m", "input": [{"type": "item_reference", "id": "x"}]}), "models.content"),
            (
                Responses,
                json!({"model": "m", "input": [{"content": [{"type": "input_image", "file_id": "x"}]}]}),
                "models.content",
            ),
            (Responses, json!({"model": "m", "background": true}), "models.request"),
        ];
        for (wire, value, rule) in cases {
            let body = bytes(&value);
            assert_eq!(draft(wire, &body).objection().unwrap().rule, rule, "{value}");
        }
    }

    #[test]
    fn what_agents_of_today_send_is_not_refused() {
        use ModelWire::{AnthropicMessages as Messages, OpenAiChat as Chat, OpenAiResponses as Responses};
        let cases = [
            (
                Chat,
                json!({"model": "m", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"url": {"type": "string"}, "type": {"type": "file"}}}}}],
                "messages": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"type\":\"file\"}"}}]}]}),
            ),
            (
                Responses,
                json!({"model": "m", "include": [], "previous_response_id": null, "tools": [{"type": "function", "name": "f"}],
                "input": [{"type": "function_call_output", "output": "x"}, {"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}),
            ),
            (
                Messages,
                json!({"model": "m", "mcp_servers": [], "tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g"}],
                "messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"type": "file", "file_id": "mine"}}]}]}),
            ),
            (
                Chat,
                json!({"model": "m", "messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}),
            ),
        ];
        for (wire, value) in cases {
            let body = bytes(&value);
            assert_eq!(draft(wire, &body).objection(), None, "{value}");
        }
    }

    #[test]
    fn images_tools_and_caches_raise_the_worst_case() {
        let plain = bytes(&json!({"model": "m", "messages": []}));
        let rich = bytes(&json!({"model": "m", "tools": [{"name": "f"}], "messages": [{"content": [
            {"type": "image", "source": {"type": "base64", "data": "AA"}, "cache_control": {"type": "ephemeral"}}]}]}));
        let plain = draft(ModelWire::AnthropicMessages, &plain).bounded(10, "max_tokens").worst;
        let rich = draft(ModelWire::AnthropicMessages, &rich).bounded(10, "max_tokens").worst;
        assert_eq!(plain.priced_input, plain.input);
        assert!(rich.input > plain.input + IMAGE_TOKENS + TOOLS_OVERHEAD_TOKENS);
        assert_eq!(rich.priced_input, 2 * rich.input);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let body = Bytes::from(bytes);
            let _ = Draft::parse(ModelWire::OpenAiChat, &body);
        }

        #[test]
        fn no_answer_may_be_larger_than_what_is_reserved(limit in 1_u32..100_000, asked: Option<u32>, n in 1_u64..=16) {
            let mut value = json!({"model": "m", "n": n, "messages": []});
            if let Some(asked) = asked {
                value["max_tokens"] = asked.into();
            }
            let body = bytes(&value);
            let bounded = draft(ModelWire::OpenAiChat, &body).bounded(limit, "max_tokens");
            let sent: Value = serde_json::from_slice(&bounded.body).unwrap();
            let sent = sent["max_tokens"].as_u64().unwrap();
            prop_assert!(sent <= u64::from(limit));
            prop_assert_eq!(bounded.worst.output, sent * n);
        }
    }
}
