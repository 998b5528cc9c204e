//! What a script sees of a request, whatever wire it came over.

use cogward_model::action::ModelWire;
use serde_json::Value;

/// Longest text that is put in for a placeholder.
const FILLED_BYTES_MAX: usize = 8 * 1024;
/// Placeholders of one text that are filled; the rest stay as they are.
const PLACEHOLDERS_MAX: usize = 16;

/// A conversation so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Conversation {
    /// Turns that the model has had: runs of messages and calls of its own.
    pub turn: u64,
    /// The last text of the user or of a tool.
    pub last: String,
    /// The last text of the user.
    pub input: String,
    /// The last result of a tool.
    pub tool_result: String,
    /// Names of the tools that are offered.
    pub tools: Vec<String>,
    /// The limit on the output.
    pub max_output: Option<u64>,
    /// Whether the model spoke last.
    pub speaking: bool,
}

impl Conversation {
    /// Reads a request. `None` when it is not of the wire's shape.
    pub(super) fn read(wire: ModelWire, body: &[u8]) -> Option<Self> {
        let request: Value = serde_json::from_slice(body).ok()?;
        let mut conversation = Self {
            tools: tools(&request),
            max_output: ["max_tokens", "max_completion_tokens", "max_output_tokens"]
                .iter()
                .find_map(|word| request.get(word).and_then(Value::as_u64)),
            ..Self::default()
        };
        match wire {
            ModelWire::OpenAiChat => {
                for message in request.get("messages")?.as_array()? {
                    conversation.chat(message);
                }
            }
            ModelWire::AnthropicMessages => {
                for message in request.get("messages")?.as_array()? {
                    conversation.message(message);
                }
            }
            ModelWire::OpenAiResponses => match request.get("input")? {
                Value::String(text) => conversation.user(text.clone()),
                Value::Array(items) => items.iter().for_each(|item| conversation.item(item)),
                _ => return None,
            },
        }
        Some(conversation)
    }

    fn user(&mut self, text: String) {
        self.speaking = false;
        self.last.clone_from(&text);
        self.input = text;
    }

    fn tool(&mut self, text: String) {
        self.speaking = false;
        self.last.clone_from(&text);
        self.tool_result = text;
    }

    /// What the model itself said: a run of it is one turn.
    fn model(&mut self) {
        if !self.speaking {
            self.turn += 1;
        }
        self.speaking = true;
    }

    fn chat(&mut self, message: &Value) {
        match message.get("role").and_then(Value::as_str) {
            Some("user") => self.user(text(message.get("content"))),
            Some("tool" | "function") => self.tool(text(message.get("content"))),
            Some("assistant") => self.model(),
            _ => {}
        }
    }

    fn message(&mut self, message: &Value) {
        match message.get("role").and_then(Value::as_str) {
            Some("user") => {
                let content = message.get("content");
                let blocks = content.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for block in blocks.iter().filter(|block| kind(block) == Some("tool_result")) {
                    self.tool(text(block.get("content")));
                }
                let said = text(content);
                if !said.is_empty() {
                    self.user(said);
                }
                self.speaking = false;
            }
            Some("assistant") => self.model(),
            _ => {}
        }
    }

    fn item(&mut self, item: &Value) {
        match (kind(item), item.get("role").and_then(Value::as_str)) {
            (Some("message") | None, Some("user")) => self.user(text(item.get("content"))),
            (Some("function_call_output" | "custom_tool_call_output"), _) => self.tool(text(item.get("output"))),
            (Some("message") | None, Some("assistant"))
            | (Some("function_call" | "custom_tool_call" | "reasoning"), _) => self.model(),
            _ => {}
        }
    }

    /// Puts what was said in for `{{input}}` and `{{last_tool_result}}`, once and without looking into it again.
    pub(super) fn fill(&self, template: &str) -> String {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        for _ in 0..PLACEHOLDERS_MAX {
            let Some((before, after)) = rest.split_once("{{") else { break };
            let known = [("input}}", &self.input), ("last_tool_result}}", &self.tool_result)];
            let Some((name, value)) = known.iter().find(|(name, _)| after.starts_with(name)) else {
                filled.push_str(before);
                filled.push_str("{{");
                rest = after;
                continue;
            };
            filled.push_str(before);
            filled.push_str(value.get(..value.floor_char_boundary(FILLED_BYTES_MAX)).unwrap_or_default());
            rest = after.strip_prefix(name).unwrap_or_default();
        }
        filled.push_str(rest);
        filled
    }

    /// The same in every text of a value.
    pub(super) fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(list) => list.iter().map(|value| self.fill_value(value)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.clone(), self.fill_value(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }
}

fn kind(value: &Value) -> Option<&str> {
    value.get("type").and_then(Value::as_str)
}

/// The text of a content: itself, or the text of its parts.
fn text(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter(|part| matches!(kind(part), Some("text" | "input_text" | "output_text")))
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn tools(request: &Value) -> Vec<String> {
    let offered = request.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |tool: &Value| {
        let place = tool.get("function").unwrap_or(tool);
        place.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    offered.iter().filter_map(name).collect()
}
