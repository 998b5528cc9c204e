//! The built-in provider `scripted`: answers from a script, offline and always the same.
//!
//! It keeps no conversation: which step answers follows from the request alone (how many turns the
//! model has had, what was said last, which tools are offered), so a demo, a test and a restart see
//! the same. Only `repeat: false` counts, by run. It speaks every wire through the same gate, budget
//! and relay as a provider across the network. The format is described in `docs/models.md`.

mod chat;
mod conversation;
mod messages;
mod responses;
mod stream;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cogward_model::{RunId, action::ModelWire};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use self::{conversation::Conversation, stream::ScriptedStream};
use super::{
    call,
    dialect::{self, Dialect},
    provider::{ModelCall, UpstreamBody},
};

/// Longest script.
const SCRIPT_BYTES_MAX: usize = 1024 * 1024;
/// Steps of one list at most.
const STEPS_MAX: usize = 1_024;
/// Tool calls of one answer at most.
const TOOL_CALLS_MAX: usize = 64;
/// Longest pause that a script may make.
const PAUSE_MS_MAX: u64 = 600_000;
/// Pieces of a streamed answer at most.
const CHUNKS_MAX: usize = 10_000;
/// Steps that are remembered as used, over all runs; then the oldest runs may see one again.
const USED_STEPS_MAX: usize = 100_000;

/// Why a script is refused: where, and what is wrong there.
#[derive(Debug, thiserror::Error)]
#[error("its script is wrong at `{path}`: {problem}")]
pub(super) struct ScriptError {
    path: String,
    problem: String,
}

/// A script that was checked.
#[derive(Debug)]
pub(super) struct Script {
    everywhere: Steps,
    models: BTreeMap<String, Steps>,
    /// Steps that answer once in a run and have done so.
    used: Mutex<HashSet<(RunId, usize)>>,
}

#[derive(Debug, Default)]
struct Steps {
    steps: Vec<Step>,
    default: Option<Step>,
}

#[derive(Debug)]
struct Step {
    /// Unique in the script.
    number: usize,
    when: When,
    text: Option<String>,
    tool_calls: Vec<ScriptedCall>,
    error: Option<ScriptedError>,
    timing: Timing,
}

/// Conditions; all that are given must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct When {
    turn: Option<u64>,
    contains: Option<String>,
    tool_offered: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Reply {
    text: Option<String>,
    tool_calls: Vec<ScriptedCall>,
    error: Option<ScriptedError>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedCall {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedError {
    status: u16,
    #[serde(default)]
    retry_after: Option<u64>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ScriptedUsage {
    input: Option<u64>,
    output: Option<u64>,
}

/// The members of a step beside `when` and `reply`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Timing {
    usage: ScriptedUsage,
    chunks: Option<usize>,
    chunk_delay_ms: u64,
    cut_after_chunks: Option<usize>,
    delay_ms: u64,
    repeat: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            usage: ScriptedUsage::default(),
            chunks: None,
            chunk_delay_ms: 0,
            cut_after_chunks: None,
            delay_ms: 0,
            repeat: true,
        }
    }
}

/// An answer before it is put into a wire's shape.
#[derive(Debug)]
struct Said {
    /// Hex digits that follow from the request, for ids.
    seed: String,
    model: String,
    text: Option<String>,
    /// The text in the pieces in which it is streamed.
    pieces: Vec<String>,
    calls: Vec<SaidCall>,
    input: u64,
    output: u64,
    /// Whether the output limit cut the text.
    cut_short: bool,
}

#[derive(Debug)]
struct SaidCall {
    /// Hex digits for its id.
    seed: String,
    name: String,
    arguments: Value,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`] with the path of what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, ScriptError> {
        let root = "script";
        if text.len() > SCRIPT_BYTES_MAX {
            return Err(wrong(root, format!("longer than {SCRIPT_BYTES_MAX} bytes")));
        }
        crate::json::check(text.as_bytes()).map_err(|error| wrong(root, error.to_string()))?;
        let mut number = 0;
        let mut members = object(root, text)?;
        let models = match members.remove("models") {
            None => BTreeMap::new(),
            Some(models) => object("models", models.get())?
                .into_iter()
                .map(|(name, steps)| {
                    let path = format!("models.{name}");
                    let mut members = object(&path, steps.get())?;
                    Ok((name, Steps::parse(&format!("{path}."), &mut members, &mut number)?))
                })
                .collect::<Result<_, ScriptError>>()?,
        };
        let everywhere = Steps::parse("", &mut members, &mut number)?;
        if number == 0 {
            return Err(wrong(root, "it has neither `steps` nor `default`".to_owned()));
        }
        Ok(Self { everywhere, models, used: Mutex::default() })
    }

    /// Answers an admitted call, as a provider would over the network.
    pub(super) async fn answer(&self, run: RunId, call: &ModelCall) -> Response<UpstreamBody> {
        let dialect = Dialect::of(call.wire);
        let Some(conversation) = Conversation::read(call.wire, &call.body) else {
            return error(dialect, StatusCode::BAD_REQUEST, None, "the conversation cannot be read");
        };
        let Some(step) = self.step(run, &call.model, &conversation) else {
            let message = format!("the script has no step for turn {} of this conversation", conversation.turn);
            return error(dialect, StatusCode::BAD_REQUEST, None, &message);
        };
        if step.timing.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(step.timing.delay_ms)).await;
        }
        if let Some(failure) = &step.error {
            let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let message = failure.message.as_deref().unwrap_or("the script answers with an error");
            return error(dialect, status, failure.retry_after, message);
        }
        let said = step.say(call, &conversation);
        if call.streaming {
            let frames = match call.wire {
                ModelWire::OpenAiChat => chat::stream(&said),
                ModelWire::OpenAiResponses => responses::stream(&said),
                ModelWire::AnthropicMessages => messages::stream(&said),
            };
            let pause = Duration::from_millis(step.timing.chunk_delay_ms);
            let body = ScriptedStream::new(frames, pause, step.timing.cut_after_chunks);
            return respond(StatusCode::OK, "text/event-stream", body.boxed());
        }
        let whole = match call.wire {
            ModelWire::OpenAiChat => chat::whole(&said),
            ModelWire::OpenAiResponses => responses::whole(&said),
            ModelWire::AnthropicMessages => messages::whole(&said),
        };
        let text = whole.to_string();
        let body = match step.timing.cut_after_chunks {
            None => plain(text),
            Some(_) => ScriptedStream::new(Vec::new(), Duration::ZERO, Some(0)).boxed(),
        };
        respond(StatusCode::OK, "application/json", body)
    }

    fn step(&self, run: RunId, model: &str, conversation: &Conversation) -> Option<&Step> {
        let steps = self.models.get(model).unwrap_or(&self.everywhere);
        let fits = |step: &&Step| {
            if !step.when.holds(conversation) {
                return false;
            }
            if step.timing.repeat {
                return true;
            }
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            if used.len() >= USED_STEPS_MAX {
                used.clear();
            }
            used.insert((run, step.number))
        };
        steps.steps.iter().find(fits).or(steps.default.as_ref())
    }
}

impl Steps {
    fn parse(path: &str, members: &mut Members, number: &mut usize) -> Result<Self, ScriptError> {
        let mut parsed = Self::default();
        if let Some(steps) = members.remove("steps") {
            let at = format!("{path}steps");
            let steps: Vec<Box<RawValue>> =
                serde_json::from_str(steps.get()).map_err(|_| wrong(&at, "it must be a list of steps".to_owned()))?;
            if steps.len() > STEPS_MAX {
                return Err(wrong(&at, format!("more than {STEPS_MAX} steps")));
            }
            for (index, step) in steps.iter().enumerate() {
                parsed.steps.push(Step::parse(&format!("{at}[{index}]"), step.get(), number)?);
            }
        }
        if let Some(step) = members.remove("default") {
            let step = Step::parse(&format!("{path}default"), step.get(), number)?;
            if step.when.any() {
                return Err(wrong(&format!("{path}default.when"), "the default step has no conditions".to_owned()));
            }
            parsed.default = Some(step);
        }
        match members.keys().next() {
            None => Ok(parsed),
            Some(key) => Err(wrong(&format!("{path}{key}"), "there is no such member".to_owned())),
        }
    }
}

type Members = BTreeMap<String, Box<RawValue>>;

fn object(path: &str, text: &str) -> Result<Members, ScriptError> {
    serde_json::from_str(text).map_err(|_| wrong(path, "it must be an object".to_owned()))
}

fn wrong(path: &str, problem: String) -> ScriptError {
    ScriptError { path: path.to_owned(), problem }
}

fn read<T: for<'a> Deserialize<'a>>(path: &str, text: &str) -> Result<T, ScriptError> {
    serde_json::from_str(text).map_err(|error| wrong(path, error.to_string()))
}

impl When {
    fn any(&self) -> bool {
        self.turn.is_some() || self.contains.is_some() || self.tool_offered.is_some()
    }

    fn holds(&self, conversation: &Conversation) -> bool {
        self.turn.is_none_or(|turn| turn == conversation.turn)
            && self.contains.as_ref().is_none_or(|text| conversation.last.contains(text.as_str()))
            && self.tool_offered.as_ref().is_none_or(|name| conversation.tools.contains(name))
    }
}

impl Step {
    fn parse(path: &str, text: &str, number: &mut usize) -> Result<Self, ScriptError> {
        let mut members = object(path, text)?;
        let when: When = match members.remove("when") {
            Some(when) => read(&format!("{path}.when"), when.get())?,
            None => When::default(),
        };
        let at = format!("{path}.reply");
        let reply = members.remove("reply").ok_or_else(|| wrong(&at, "it is missing".to_owned()))?;
        let reply: Reply = read(&at, reply.get())?;
        let said = reply.text.is_some() || !reply.tool_calls.is_empty();
        if said == reply.error.is_some() {
            return Err(wrong(&at, "it must have `text`, `tool_calls` or both, or else `error`".to_owned()));
        }
        if reply.tool_calls.len() > TOOL_CALLS_MAX {
            return Err(wrong(&format!("{at}.tool_calls"), format!("more than {TOOL_CALLS_MAX}")));
        }
        for (index, call) in reply.tool_calls.iter().enumerate() {
            if call.name.is_empty() || call.name.len() > 128 {
                return Err(wrong(&format!("{at}.tool_calls[{index}].name"), "1 to 128 bytes".to_owned()));
            }
        }
        if reply.error.as_ref().is_some_and(|error| !(400..=599).contains(&error.status)) {
            return Err(wrong(&format!("{at}.error.status"), "it must be 400 to 599".to_owned()));
        }
        let rest: Map<String, Value> = members
            .into_iter()
            .map(|(key, value)| Ok((key.clone(), read(&format!("{path}.{key}"), value.get())?)))
            .collect::<Result<_, ScriptError>>()?;
        let timing: Timing =
            serde_json::from_value(Value::Object(rest)).map_err(|error| wrong(path, error.to_string()))?;
        for (name, pause) in [("delay_ms", timing.delay_ms), ("chunk_delay_ms", timing.chunk_delay_ms)] {
            if pause > PAUSE_MS_MAX {
                return Err(wrong(&format!("{path}.{name}"), format!("longer than {PAUSE_MS_MAX}")));
            }
        }
        if timing.chunks.is_some_and(|chunks| chunks == 0 || chunks > CHUNKS_MAX) {
            return Err(wrong(&format!("{path}.chunks"), format!("it must be 1 to {CHUNKS_MAX}")));
        }
        *number += 1;
        let number = *number;
        Ok(Self { number, when, text: reply.text, tool_calls: reply.tool_calls, error: reply.error, timing })
    }

    fn say(&self, call: &ModelCall, conversation: &Conversation) -> Said {
        let seed: String = call::digest(&call.body).hex().chars().take(24).collect();
        let mut text = self.text.as_ref().map(|text| conversation.fill(text));
        let calls: Vec<SaidCall> = self
            .tool_calls
            .iter()
            .enumerate()
            .map(|(index, scripted)| SaidCall {
                seed: format!("{seed}{index:02}"),
                name: scripted.name.clone(),
                arguments: conversation.fill_value(&Value::Object(scripted.arguments.clone())),
            })
            .collect();
        // Four bytes a token, so that a limit on the output is one here as well.
        let room = usize::try_from(conversation.max_output.unwrap_or(u64::MAX).saturating_mul(4)).unwrap_or(usize::MAX);
        let mut cut_short = false;
        if let Some(text) = text.as_mut().filter(|text| text.len() > room) {
            text.truncate(text.floor_char_boundary(room));
            cut_short = true;
        }
        let bytes = text.as_ref().map_or(0, String::len)
            + calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum::<usize>();
        let tokens = |bytes: usize| u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX);
        let limit = conversation.max_output.unwrap_or(u64::MAX);
        Said {
            seed,
            model: call.model.clone(),
            pieces: text.as_deref().map(|text| pieces(text, self.timing.chunks)).unwrap_or_default(),
            text,
            calls,
            input: self.timing.usage.input.unwrap_or_else(|| tokens(call.body.len())),
            output: self.timing.usage.output.unwrap_or_else(|| tokens(bytes).min(limit)),
            cut_short,
        }
    }
}

impl SaidCall {
    fn arguments(&self) -> String {
        self.arguments.to_string()
    }
}

/// Cuts a text into about `count` pieces of whole characters; into words when no count is given.
fn pieces(text: &str, count: Option<usize>) -> Vec<String> {
    let Some(count) = count else {
        return text.split_inclusive(' ').map(str::to_owned).take(CHUNKS_MAX).collect::<Vec<_>>();
    };
    let size = text.chars().count().div_ceil(count.max(1)).max(1);
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(size).map(|piece| piece.iter().collect()).collect()
}

fn plain(text: String) -> UpstreamBody {
    Full::from(text).map_err(|never| match never {}).boxed()
}

fn respond(status: StatusCode, kind: &'static str, body: UpstreamBody) -> Response<UpstreamBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn error(dialect: Dialect, status: StatusCode, retry: Option<u64>, message: &str) -> Response<UpstreamBody> {
    let text = dialect.value(dialect::kind_of_status(status), "scripted", message).to_string();
    let mut response = respond(status, "application/json", plain(text));
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests;
