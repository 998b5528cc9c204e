//! What a provider says that a call used, in one record for all wires.

use cogward_model::{
    action::{Amounts, ModelWire},
    upstream::Price,
};
use serde::{Deserialize, de::IgnoredAny};

/// Longest name of an answering model that is kept.
const MODEL_CHARS_MAX: usize = 128;

/// Tokens of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// All input tokens, cached or not.
    pub input: u64,
    /// All output tokens, with reasoning.
    pub output: u64,
    /// Input in units of the list price: writing to a cache costs more than plain input. Reading from
    /// one costs less and is charged like plain input: a limit errs on the safe side.
    pub priced_input: u64,
}

impl Usage {
    /// What it costs.
    pub(super) fn amounts(self, price: Price) -> Amounts {
        Amounts {
            tokens: self.input.saturating_add(self.output),
            cost: price.cost(self.priced_input, self.output),
            ..Amounts::default()
        }
    }
}

/// The usage objects of all wires; each fills in its own words.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Said {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<Creation>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
}

/// Of the OpenAI wires.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Details {
    cache_write_tokens: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Creation {
    ephemeral_1h_input_tokens: Option<u64>,
}

impl Said {
    fn usage(&self, wire: ModelWire) -> Option<Usage> {
        let written = self.prompt_tokens_details.and_then(|details| details.cache_write_tokens).unwrap_or(0);
        let plain = |input: u64, output: u64| {
            let extra = written.min(input).div_ceil(4);
            Usage { input, output, priced_input: input.saturating_add(extra) }
        };
        match wire {
            ModelWire::OpenAiChat => Some(plain(self.prompt_tokens?, self.completion_tokens?)),
            ModelWire::OpenAiResponses => Some(plain(self.input_tokens?, self.output_tokens?)),
            ModelWire::AnthropicMessages => {
                let read = self.cache_read_input_tokens.unwrap_or(0);
                let written = self.cache_creation_input_tokens.unwrap_or(0);
                let hour = self.cache_creation.and_then(|c| c.ephemeral_1h_input_tokens).unwrap_or(0).min(written);
                let input = self.input_tokens?.saturating_add(read).saturating_add(written);
                // Written for an hour: twice the price. For five minutes: a quarter more.
                let extra = hour.saturating_add((written - hour).div_ceil(4));
                Some(Usage { input, output: self.output_tokens?, priced_input: input.saturating_add(extra) })
            }
        }
    }

    fn merge(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens = later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_creation = later.cache_creation.or(self.cache_creation);
    }
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Said>,
}

/// What a whole answer says of itself. `None` when it is not a JSON object.
pub(super) fn of_answer(wire: ModelWire, body: &[u8]) -> Option<(Option<String>, Option<Usage>)> {
    // A list would be read as a record in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let whole: Whole = match serde_json::from_slice(body) {
        Ok(whole) => whole,
        // An object whose usage is of a shape that nobody knows is still an answer.
        Err(_) => {
            serde_json::from_slice::<std::collections::HashMap<String, IgnoredAny>>(body).ok()?;
            return Some((None, None));
        }
    };
    Some((whole.model.map(bounded), whole.usage.and_then(|said| said.usage(wire))))
}

#[derive(Deserialize)]
struct StreamEvent {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Said>,
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    error: Option<IgnoredAny>,
    /// Of the responses wire.
    #[serde(default)]
    response: Option<Whole>,
    /// Of the messages wire.
    #[serde(default)]
    message: Option<Whole>,
}

/// Reads usage, the answering model and the end from a stream's events.
#[derive(Debug)]
pub(super) struct Meter {
    wire: ModelWire,
    partial: Said,
    /// Usage, as the upstream has last said it.
    pub usage: Option<Usage>,
    /// Whether more usage may follow: some servers report what was used so far with every chunk.
    provisional: bool,
    /// The model that answered.
    pub model: Option<String>,
    /// Events with data: about one for each token of output.
    pub events: u64,
    /// Whether the end of the answer was seen.
    pub ended: bool,
    /// Whether the upstream reported an error in the stream.
    pub failed: bool,
}

impl Meter {
    pub(super) fn new(wire: ModelWire) -> Self {
        Self {
            wire,
            partial: Said::default(),
            usage: None,
            provisional: false,
            model: None,
            events: 0,
            ended: false,
            failed: false,
        }
    }

    /// Usage that nothing will be added to, for a stream that broke off before its end.
    pub(super) fn final_usage(&self) -> Option<Usage> {
        self.usage.filter(|_| !self.provisional)
    }

    /// Reads one event's data. True when it is a chat chunk that carries usage and nothing else.
    pub(super) fn read(&mut self, data: &[u8]) -> bool {
        self.events += 1;
        if self.wire == ModelWire::OpenAiChat && data.trim_ascii() == b"[DONE]" {
            self.ended = true;
            return false;
        }
        let Ok(event) = serde_json::from_slice::<StreamEvent>(data) else { return false };
        if self.model.is_none() {
            let inner = event.response.as_ref().or(event.message.as_ref()).and_then(|whole| whole.model.clone());
            self.model = event.model.or(inner).map(bounded);
        }
        match self.wire {
            ModelWire::OpenAiChat => {
                if event.error.is_some() {
                    (self.failed, self.ended) = (true, true);
                }
                let usage = event.usage.and_then(|said| said.usage(self.wire));
                self.usage = usage.or(self.usage);
                let alone = usage.is_some() && event.choices.is_some_and(|choices| choices.is_empty());
                self.provisional = !alone && (self.provisional || usage.is_some());
                alone
            }
            ModelWire::OpenAiResponses => {
                match event.kind.as_deref() {
                    Some("response.completed" | "response.incomplete") => self.ended = true,
                    Some("response.failed" | "error") => (self.failed, self.ended) = (true, true),
                    _ => return false,
                }
                let said = event.response.and_then(|response| response.usage);
                self.usage = said.and_then(|said| said.usage(self.wire)).or(self.usage);
                false
            }
            ModelWire::AnthropicMessages => {
                match event.kind.as_deref() {
                    Some("message_start") => {
                        self.partial = event.message.and_then(|message| message.usage).unwrap_or_default();
                    }
                    Some("message_delta") => {
                        if let Some(said) = event.usage {
                            self.partial.merge(said);
                            self.usage = self.partial.usage(self.wire);
                        }
                    }
                    Some("message_stop") => self.ended = true,
                    Some("error") => (self.failed, self.ended) = (true, true),
                    _ => {}
                }
                false
            }
        }
    }
}

/// A model's name as it goes into the ledger.
fn bounded(name: String) -> String {
    name.chars().filter(|c| !c.is_control()).take(MODEL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use cogward_model::NanoUsd;

    use super::*;

    fn plain(input: u64, output: u64) -> Usage {
        Usage { input, output, priced_input: input }
    }

    #[test]
    fn each_wire_says_usage_in_its_own_words() {
        let chat = br#"{"model":"m","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
        assert_eq!(of_answer(ModelWire::OpenAiChat, chat), Some((Some("m".into()), Some(plain(7, 3)))));
        let responses = br#"{"usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cached_tokens":5}}}"#;
        assert_eq!(of_answer(ModelWire::OpenAiResponses, responses), Some((None, Some(plain(7, 3)))));
        assert_eq!(of_answer(ModelWire::OpenAiChat, responses), Some((None, None)));
        let written =
            br#"{"usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cache_write_tokens":5}}}"#;
        let (_, usage) = of_answer(ModelWire::OpenAiResponses, written).unwrap();
        assert_eq!(usage, Some(Usage { input: 7, output: 3, priced_input: 9 }));
        assert_eq!(of_answer(ModelWire::OpenAiChat, b"<html>"), None);
        assert_eq!(of_answer(ModelWire::OpenAiChat, b"[]"), None);
        assert_eq!(of_answer(ModelWire::OpenAiChat, br#"{"usage":{"prompt_tokens":-1}}"#), Some((None, None)));
    }

    #[test]
    fn cached_input_counts_and_writing_to_the_cache_costs_more() {
        let body = br#"{"usage":{"input_tokens":10,"output_tokens":1,"cache_read_input_tokens":100,
            "cache_creation_input_tokens":48,"cache_creation":{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":8}}}"#;
        let (_, usage) = of_answer(ModelWire::AnthropicMessages, body).unwrap();
        let usage = usage.unwrap();
        assert_eq!(usage, Usage { input: 158, output: 1, priced_input: 158 + 8 + 10 });
        let price =
            Price { input_per_million: NanoUsd::from_nanos(1_000_000), output_per_million: NanoUsd::from_nanos(0) };
        assert_eq!(usage.amounts(price).cost.nanos(), 176);
        assert_eq!(usage.amounts(price).tokens, 159);
    }

    #[test]
    fn an_anthropic_stream_is_final_only_with_its_last_delta() {
        let mut meter = Meter::new(ModelWire::AnthropicMessages);
        meter.read(
            br#"{"type":"message_start","message":{"model":"claude","usage":{"input_tokens":9,"output_tokens":1}}}"#,
        );
        assert_eq!((meter.usage, meter.model.as_deref()), (None, Some("claude")));
        meter.read(br#"{"type":"message_delta","delta":{},"usage":{"output_tokens":20}}"#);
        assert_eq!(meter.usage, Some(plain(9, 20)));
        assert!(!meter.ended);
        meter.read(br#"{"type":"message_stop"}"#);
        assert!(meter.ended && !meter.failed);
    }

    #[test]
    fn only_a_chunk_without_choices_is_the_extra_one() {
        let mut meter = Meter::new(ModelWire::OpenAiChat);
        assert!(!meter.read(br#"{"choices":[{"delta":{"content":"x"}}],"usage":null}"#));
        assert!(!meter.read(br#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#));
        assert_eq!((meter.usage, meter.final_usage()), (Some(plain(1, 2)), None), "more may follow");
        assert!(meter.read(br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3}}"#));
        assert_eq!(meter.final_usage(), Some(plain(1, 3)));
        assert!(!meter.read(b"[DONE]"));
        assert!(meter.ended);
    }
}
