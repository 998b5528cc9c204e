//! What an agent gets in the end, and how its era wants it.

use bytes::Bytes;
use http::StatusCode;
use serde_json::value::RawValue;

use super::{
    caller::{Caller, Era},
    members::Members,
    rpc,
};
use crate::rooms::Held;

/// A client lacks a capability that its request needs (2026-07-28).
pub(super) const MISSING_CAPABILITY: i64 = -32021;
/// The user has to go to a web page first (2025-11-25).
pub(super) const URL_NEEDED: i64 = -32042;

/// What kind of a result a method has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A model reads it, also when it says that something failed.
    Tool,
    /// A client may keep it for a while.
    Kept,
    /// Nothing of the kind.
    Plain,
}

/// A result or an error.
#[derive(Debug)]
pub(super) enum Answer {
    /// A result in JSON.
    Result {
        bytes: Bytes,
        /// Whether it names its own `resultType`.
        typed: bool,
        /// The room that it takes.
        room: Option<Held>,
    },
    /// A protocol error.
    Error { code: i64, message: String, data: Option<Bytes> },
}

impl Answer {
    /// A result of the plane's own, without a type.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self::Result { bytes, typed: false, room: None }
    }

    /// A tool call that failed, for a model to read.
    pub(super) fn failed(text: &str) -> Self {
        Self::own(rpc::tool_error(text))
    }

    /// That something failed, as the kind of result has it.
    pub(super) fn refused(shape: Shape, code: i64, text: &str) -> Self {
        match shape {
            Shape::Tool => Self::failed(text),
            Shape::Kept | Shape::Plain => Self::Error { code, message: text.to_owned(), data: None },
        }
    }

    /// The message for the agent, its status in HTTP, and the room that it takes.
    pub(super) fn message(self, caller: &Caller, shape: Shape) -> (StatusCode, Bytes, Option<Held>) {
        let stateless = matches!(caller.era, Era::Stateless);
        match self {
            Self::Result { bytes, typed, room } => {
                let bytes = match (stateless, shape) {
                    (true, Shape::Kept) => kept(&bytes),
                    (true, _) if !typed => completed(&bytes),
                    _ => bytes,
                };
                (StatusCode::OK, rpc::result(&caller.id, &bytes), room)
            }
            Self::Error { code, message, data } => {
                let data = data.as_deref().and_then(|data| serde_json::from_slice::<&RawValue>(data).ok());
                let status = match code {
                    MISSING_CAPABILITY if stateless => StatusCode::BAD_REQUEST,
                    rpc::METHOD_NOT_FOUND if stateless => StatusCode::NOT_FOUND,
                    _ => StatusCode::OK,
                };
                (status, rpc::error_raw(Some(&caller.id), code, &message, data), None)
            }
        }
    }
}

/// A result of the older era, as the stateless one wants it.
pub(super) fn completed(result: &[u8]) -> Bytes {
    let rest = result.strip_prefix(b"{").unwrap_or_default();
    let alone = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let parts: [&[u8]; 3] = [br#"{"resultType":"complete""#, if alone { b"" } else { b"," }, rest];
    parts.concat().into()
}

/// A result that a client may keep for itself and nobody else, for no longer than its server said.
fn kept(result: &Bytes) -> Bytes {
    let Some(mut members) = Members::read(result) else { return result.clone() };
    if members.get("resultType").is_some_and(|kind| kind != "\"complete\"") {
        return result.clone();
    }
    members.set("resultType", "\"complete\"");
    members.set("cacheScope", "\"private\"");
    let said = members.get("ttlMs").and_then(|ms| ms.parse::<u64>().ok());
    members.set("ttlMs", said.unwrap_or_default().to_string());
    members.json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_completed_whatever_it_holds() {
        for (result, wanted) in [
            (r#"{}"#, r#"{"resultType":"complete"}"#),
            (r#"{ }"#, r#"{"resultType":"complete" }"#),
            (r#"{"content":[]}"#, r#"{"resultType":"complete","content":[]}"#),
        ] {
            assert_eq!(completed(result.as_bytes()), wanted);
        }
    }

    #[test]
    fn what_was_shown_to_one_is_never_kept_for_all() {
        for (result, wanted) in [
            (r#"{"contents":[]}"#, r#"{"contents":[],"resultType":"complete","cacheScope":"private","ttlMs":0}"#),
            (
                r#"{"contents":[],"ttlMs":60000,"cacheScope":"public","resultType":"complete"}"#,
                r#"{"contents":[],"ttlMs":60000,"cacheScope":"private","resultType":"complete"}"#,
            ),
            (r#"{"ttlMs":-1}"#, r#"{"ttlMs":0,"resultType":"complete","cacheScope":"private"}"#),
            (r#"{"resultType":"input_required"}"#, r#"{"resultType":"input_required"}"#),
        ] {
            assert_eq!(kept(&Bytes::from(result)), wanted);
        }
    }
}
