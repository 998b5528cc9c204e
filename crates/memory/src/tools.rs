//! The tools by which agents reach a memory: what they are told of them, and what is made of their arguments.
//!
//! No tool takes whose memory it is. Arguments that nobody knows are refused, by the schema and here once more.

use std::time::Duration;

use bytes::Bytes;
use cogward_model::memory::MemoryScope;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    item::{Draft, Filter, Item, TAG_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX},
    memory::{ANSWERS_MAX, Found, Memory, MemoryError, Question, TTL_SECONDS_MAX},
    owner::Subject,
    store::StoreError,
};

/// How long the list of tools holds, in milliseconds: it changes only when the operator changes the memory.
const LIST_HOLDS: Duration = Duration::from_secs(300);

/// The names of the tools.
pub const NAMES: [&str; 5] = ["remember", "recall", "read", "list", "forget"];

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request is no call of one of these tools.
    #[error("{0}")]
    Unknown(String),
    /// The store failed.
    #[error("{cause}")]
    Unavailable {
        /// What was seen.
        cause: String,
        /// Whether it may have been done nevertheless.
        sent: bool,
    },
}

/// The result of `tools/list`.
#[must_use]
pub fn list(memory: &Memory) -> Bytes {
    let whole = json!({
        "resultType": "complete",
        "ttlMs": u64::try_from(LIST_HOLDS.as_millis()).unwrap_or(0),
        "cacheScope": "private",
        "tools": definitions(memory.scope(), memory.dimensions()),
    });
    Bytes::from(whole.to_string())
}

fn whose(scope: MemoryScope) -> &'static str {
    match scope {
        MemoryScope::AgentAndUser => "You share it with nobody: it holds what you were told for this user.",
        MemoryScope::User => "All agents that work for this user share it.",
        MemoryScope::Agent => "It is yours, whomever you work for.",
        MemoryScope::Tenant => "All agents share it.",
        MemoryScope::Run => "It is of this session alone.",
    }
}

/// The definitions of the tools.
#[must_use]
pub fn definitions(scope: MemoryScope, dimensions: Option<u32>) -> Value {
    let tag = json!({ "type": "string", "minLength": 1, "maxLength": TAG_BYTES_MAX });
    let tags = json!({ "type": "array", "items": tag, "maxItems": TAGS_MAX });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": ANSWERS_MAX });
    let id = json!({ "type": "string", "minLength": 1, "maxLength": 64 });
    let vector =
        dimensions.map(|n| json!({ "type": "array", "items": { "type": "number" }, "minItems": n, "maxItems": n }));
    let memory = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" }, "text": { "type": "string" }, "kind": { "type": "string" },
            "tags": { "type": "array", "items": { "type": "string" } },
            "written": { "type": "string" }, "expires": { "type": "string" }, "score": { "type": "number" },
        },
        "required": ["id", "text", "tags", "written"],
    });
    let memories = json!({
        "type": "object",
        "properties": { "memories": { "type": "array", "items": memory }, "next": { "type": "string" } },
        "required": ["memories"],
    });
    let tool = |name: &str, says: &str, mut properties: Value, required: &[&str], output: &Value| {
        if let (Some(vector), Some(map), true) =
            (&vector, properties.as_object_mut(), matches!(name, "remember" | "recall"))
        {
            map.insert("embedding".to_owned(), vector.clone());
        }
        let reads = matches!(name, "recall" | "read" | "list");
        json!({
            "name": name,
            "description": says,
            "inputSchema": {
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            },
            "outputSchema": output,
            "annotations": { "readOnlyHint": reads, "destructiveHint": name == "forget", "openWorldHint": false },
        })
    };
    let kept = json!({
        "type": "object",
        "properties": { "id": { "type": "string" }, "written": { "type": "string" }, "expires": { "type": "string" } },
        "required": ["id", "written"],
    });
    let forgotten = json!({ "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] });
    json!([
        tool(
            "remember",
            &format!("Keeps a text in memory. {} With `id` it takes the place of that memory.", whose(scope)),
            json!({
                "text": { "type": "string", "minLength": 1, "maxLength": TEXT_BYTES_MAX },
                "kind": tag, "tags": tags, "id": id,
                "ttl_seconds": { "type": "integer", "minimum": 1, "maximum": TTL_SECONDS_MAX },
            }),
            &["text"],
            &kept,
        ),
        tool(
            "recall",
            "Finds what is in memory that has any of the words of `query`, the best first.",
            json!({ "query": { "type": "string", "minLength": 1, "maxLength": 4096 }, "kind": tag, "tags": tags, "limit": limit }),
            &[],
            &memories,
        ),
        tool("read", "Gives one memory.", json!({ "id": id }), &["id"], &memory),
        tool(
            "list",
            "Gives what is in memory, the newest first. `next` is the `cursor` of the next part.",
            json!({ "kind": tag, "tags": tags, "limit": limit, "cursor": { "type": "string", "maxLength": 32 } }),
            &[],
            &memories,
        ),
        tool("forget", "Removes one memory for good.", json!({ "id": id }), &["id"], &forgotten),
    ])
}

#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remember {
    text: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    embedding: Option<Vec<f64>>,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    #[serde(default)]
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recall {
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    embedding: Option<Vec<f64>>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

/// What a call came to.
enum Outcome {
    Done(Value),
    /// The agent can read why, and do better.
    Refused(String),
}

impl From<MemoryError> for Result<Outcome, CallError> {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Store(StoreError::Unavailable { cause, sent }) => Err(CallError::Unavailable { cause, sent }),
            MemoryError::Store(StoreError::Unusable(cause)) => Err(CallError::Unavailable { cause, sent: false }),
            error => Ok(Outcome::Refused(error.to_string())),
        }
    }
}

/// Whether a call gives many memories at once.
#[must_use]
pub fn answers_at_length(params: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: std::borrow::Cow<'a, str>,
    }
    // What cannot be read is refused at no length.
    serde_json::from_slice::<Named<'_>>(params).is_ok_and(|call| matches!(&*call.name, "recall" | "list"))
}

/// Answers `tools/call`: `params` as they were judged, `subject` as the plane has it.
///
/// # Errors
/// [`CallError`].
pub async fn call(memory: &Memory, subject: Subject, params: &[u8]) -> Result<Bytes, CallError> {
    let call: Call = serde_json::from_slice(params)
        .map_err(|_| CallError::Unknown("the parameters are not those of a call".to_owned()))?;
    let arguments = if call.arguments.is_null() { json!({}) } else { call.arguments };
    let outcome = match call.name.as_str() {
        "remember" => remember(memory, subject, arguments).await,
        "recall" => recall(memory, subject, arguments).await,
        "read" => read(memory, subject, arguments).await,
        "list" => newest(memory, subject, arguments).await,
        "forget" => forget(memory, subject, arguments).await,
        _ => return Err(CallError::Unknown("there is no such tool".to_owned())),
    };
    let (is_error, structured, text) = match outcome.or_else(Result::from)? {
        Outcome::Done(value) => (false, Some(value.clone()), value.to_string()),
        Outcome::Refused(why) => (true, None, why),
    };
    let mut result =
        json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }], "isError": is_error });
    if let (Some(structured), Some(members)) = (structured, result.as_object_mut()) {
        members.insert("structuredContent".to_owned(), structured);
    }
    Ok(Bytes::from(result.to_string()))
}

fn given<T: DeserializeOwned>(arguments: Value) -> Result<T, MemoryError> {
    serde_json::from_value(arguments)
        .map_err(|error| MemoryError::Invalid(crate::item::Invalid(format!("the arguments cannot be taken: {error}"))))
}

async fn remember(memory: &Memory, subject: Subject, arguments: Value) -> Result<Outcome, MemoryError> {
    let Remember { text, kind, tags, embedding, ttl_seconds, id } = given(arguments)?;
    let draft = Draft { replaces: id, text, kind, tags, embedding, ttl_seconds };
    let kept = memory.remember(subject, draft).await?;
    let mut told = json!({ "id": kept.id.to_string(), "written": kept.written.to_string() });
    if let (Some(expires), Some(members)) = (kept.expires, told.as_object_mut()) {
        members.insert("expires".to_owned(), expires.to_string().into());
    }
    Ok(Outcome::Done(told))
}

async fn recall(memory: &Memory, subject: Subject, arguments: Value) -> Result<Outcome, MemoryError> {
    let Recall { query, embedding, kind, tags, limit } = given(arguments)?;
    let filter = Filter::new(kind, tags)?;
    let found = memory.recall(subject, Question { query, embedding, filter, limit }).await?;
    let told = found.iter().map(|Found { item, score }| shown(item, Some(*score)));
    Ok(Outcome::Done(json!({ "memories": told.collect::<Vec<_>>() })))
}

async fn read(memory: &Memory, subject: Subject, arguments: Value) -> Result<Outcome, MemoryError> {
    let One { id } = given(arguments)?;
    Ok(Outcome::Done(shown(&memory.read(subject, &id).await?, None)))
}

async fn newest(memory: &Memory, subject: Subject, arguments: Value) -> Result<Outcome, MemoryError> {
    let List { kind, tags, limit, cursor } = given(arguments)?;
    let filter = Filter::new(kind, tags)?;
    let (found, next) = memory.list(subject, filter, cursor.as_deref(), limit).await?;
    let mut told = json!({ "memories": found.iter().map(|item| shown(item, None)).collect::<Vec<_>>() });
    if let (Some(next), Some(members)) = (next, told.as_object_mut()) {
        members.insert("next".to_owned(), next.into());
    }
    Ok(Outcome::Done(told))
}

async fn forget(memory: &Memory, subject: Subject, arguments: Value) -> Result<Outcome, MemoryError> {
    let One { id } = given(arguments)?;
    memory.delete(subject, &id).await?;
    Ok(Outcome::Done(json!({ "id": id })))
}

/// A memory as an agent sees it: nothing of whose it is, or of what is beside it.
fn shown(item: &Item, score: Option<f64>) -> Value {
    let mut told =
        json!({ "id": item.id.to_string(), "text": item.text, "tags": item.tags, "written": item.written.to_string() });
    if let Some(members) = told.as_object_mut() {
        if let Some(kind) = &item.kind {
            members.insert("kind".to_owned(), kind.as_str().into());
        }
        if let Some(expires) = item.expires {
            members.insert("expires".to_owned(), expires.to_string().into());
        }
        if let Some(score) = score {
            members.insert("score".to_owned(), ((score * 1e6).round() / 1e6).into());
        }
    }
    told
}
