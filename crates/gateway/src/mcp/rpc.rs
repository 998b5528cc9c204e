//! JSON-RPC 2.0 as MCP uses it: one message, never a batch; what is forwarded stays the bytes it came as.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::json;

/// The bytes are not JSON.
pub(super) const PARSE_ERROR: i64 = -32700;
/// They are not a request.
pub(super) const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
/// Its parameters are wrong.
pub(super) const INVALID_PARAMS: i64 = -32602;
/// The request cannot be carried out.
pub(super) const INTERNAL_ERROR: i64 = -32603;
/// There is no such resource (before 2026-07-28).
pub(super) const NOT_FOUND: i64 = -32002;
/// Headers and body disagree (2026-07-28).
pub(super) const HEADER_MISMATCH: i64 = -32020;
/// The revision is not spoken here (2026-07-28).
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// Longest id that is taken: it is sent back in every answer.
const ID_BYTES_MAX: usize = 256;

/// A message of either side. Its parts borrow the bytes that it came in.
#[derive(Debug, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<ErrorObject<'a>>,
}

/// The `error` of an answer.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorObject<'a> {
    pub(super) code: i64,
    #[serde(borrow, default)]
    pub(super) message: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// A `null` is there, which is not the same as absent.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("{0}")]
    Json(#[from] json::JsonError),
    #[error("not a JSON-RPC 2.0 message; batches are not part of MCP")]
    Shape,
    #[error("the id of a request is a text of at most {ID_BYTES_MAX} bytes or an integer")]
    Id,
}

impl<'a> Message<'a> {
    /// Reads one message, strictly: bounded depth, no key twice.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        json::check(bytes)?;
        // A list would be read as the members of a message in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(MessageError::Shape);
        }
        let message: Self = serde_json::from_slice(bytes).map_err(|_| MessageError::Shape)?;
        if message.jsonrpc != "2.0" {
            return Err(MessageError::Shape);
        }
        match (&message.method, &message.result, &message.error) {
            (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) => {}
            _ => return Err(MessageError::Shape),
        }
        // An error may answer something whose id could not be read.
        let may_be_null = message.error.is_some();
        if message.id.is_some_and(|id| !is_id(id.get()) && (!may_be_null || id.get() != "null")) {
            return Err(MessageError::Id);
        }
        Ok(message)
    }
}

/// Whether a value can be the id of a request, or the token of its progress.
pub(super) fn is_id(raw: &str) -> bool {
    let number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    raw.len() <= ID_BYTES_MAX && (raw.starts_with('"') || number(raw.strip_prefix('-').unwrap_or(raw)))
}

/// An answer whose `result` is JSON already.
pub(super) fn result(id: &RawValue, result: &[u8]) -> Bytes {
    let id = id.get().as_bytes();
    let parts: [&[u8]; 5] = [br#"{"jsonrpc":"2.0","id":"#, id, br#","result":"#, result, b"}"];
    parts.concat().into()
}

/// An answer that says what is wrong with a request. Without an id when it could not be read.
pub(super) fn error(id: Option<&RawValue>, code: i64, message: &str, data: Option<&serde_json::Value>) -> Bytes {
    error_with(id, code, message, data)
}

/// The same with `data` that is JSON already.
pub(super) fn error_raw(id: Option<&RawValue>, code: i64, message: &str, data: Option<&RawValue>) -> Bytes {
    error_with(id, code, message, data)
}

fn error_with<D: Serialize>(id: Option<&RawValue>, code: i64, message: &str, data: Option<D>) -> Bytes {
    #[derive(Serialize)]
    struct Answer<'a, D> {
        jsonrpc: &'static str,
        id: Option<&'a RawValue>,
        error: Inner<'a, D>,
    }
    #[derive(Serialize)]
    struct Inner<'a, D> {
        code: i64,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<D>,
    }
    let answer = Answer { jsonrpc: "2.0", id, error: Inner { code, message, data } };
    to_json(&answer)
}

/// A request or notification with parameters that are JSON already.
pub(super) fn request(id: Option<u64>, method: &str, params: &[u8]) -> Vec<u8> {
    let head = match id {
        Some(id) => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":"#),
        None => format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":"#),
    };
    let mut bytes = Vec::with_capacity(head.len() + params.len() + 2);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(params);
    bytes.push(b'}');
    bytes
}

/// A request of the plane to an agent's client, or a notification for it, with parameters that are JSON already.
pub(super) fn asking(id: Option<&str>, method: &str, params: &[u8]) -> Vec<u8> {
    let id = id.map(|id| format!(r#""id":"{id}","#)).unwrap_or_default();
    let head = format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":"#);
    [head.as_bytes(), params, b"}"].concat()
}

/// The result of a tool call that failed, for a model to read (MCP: `isError`).
pub(super) fn tool_error(text: &str) -> Bytes {
    #[derive(Serialize)]
    struct Failed<'a> {
        content: [Text<'a>; 1],
        #[serde(rename = "isError")]
        is_error: bool,
    }
    #[derive(Serialize)]
    struct Text<'a> {
        r#type: &'static str,
        text: &'a str,
    }
    to_json(&Failed { content: [Text { r#type: "text", text }], is_error: true })
}

/// Serialises what cannot fail to serialise: texts, numbers and JSON that was read before.
pub(super) fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_else(|_| Bytes::from_static(b"null"))
}

/// Text from an upstream, made fit for a message: bounded and without control characters.
pub(crate) fn shown(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_single_well_formed_messages_are_read() {
        assert!(Message::parse(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).is_ok());
        assert!(Message::parse(br#"{"jsonrpc":"2.0","id":"a-1","result":{}}"#).is_ok());
        assert!(Message::parse(br#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#).is_ok());
        for bad in [
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            r#"["2.0",1,"ping"]"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#,
        ] {
            assert!(Message::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(300));
        assert!(Message::parse(long.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn what_is_shown_is_bounded_and_clean(text: String) {
            let shown = shown(&text, 10);
            prop_assert!(shown.chars().count() <= 10 && !shown.chars().any(char::is_control));
        }
    }
}
