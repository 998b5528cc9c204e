//! What an API answered, as the result of a tool.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cogward_model::limits::FREE_ANSWER_BYTES_MAX;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Inner, Tool, unavailable};
use crate::{
    egress::inspect::echo::FORM_BYTES,
    inside::{AnswerRoom, InsideError},
    json,
    mcp::rpc,
};

/// Longest answer of an API, in bytes: it is in the result twice, as text and as a value.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What is kept of an answer that says that it did not go well, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long an answer may make no headway.
const STALL: Duration = Duration::from_secs(30);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolResult<'a> {
    result_type: &'static str,
    content: [Text<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_content: Option<&'a RawValue>,
    is_error: bool,
}

#[derive(Serialize)]
struct Text<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

fn result(text: &str, structured: Option<&RawValue>, is_error: bool) -> Bytes {
    let content = [Text { kind: "text", text }];
    rpc::to_json(&ToolResult { result_type: "complete", content, structured_content: structured, is_error })
}

/// The call was not made.
pub(super) fn refused(why: &str) -> Bytes {
    result(why, None, true)
}

/// What an answer is.
enum Kind {
    Json,
    Text,
    Nothing,
    Other(String),
}

/// Reads an answer and makes it a result.
pub(super) async fn of(
    api: &Inner,
    tool: &Tool,
    response: Response<Incoming>,
    room: &AnswerRoom,
) -> Result<Bytes, InsideError> {
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(unavailable(format!("it does not accept the plane's credential (status {status})"), false));
    }
    if status.is_redirection() {
        return Ok(refused(&format!("HTTP {status}: it redirects, which is not followed.")));
    }
    // Said by what stands before the API, or by one that is overloaded.
    if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
        return Err(unavailable(format!("it answered with status {status}"), true));
    }
    let well = status.is_success();
    let said = format!("HTTP {}", shown_status(status));
    if let Some(encoding) = encoded(response.headers()) {
        return Ok(refused(&format!("{said}. Its answer is compressed ({encoding}), which was not asked for.")));
    }
    let retry = retry_after(response.headers());
    let kind = kind(response.headers());
    let most = if well { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if well && length.is_some_and(|length: u64| length > most as u64) {
        return Ok(refused(&format!("{said}. Its answer is longer than {most} bytes and was not read.")));
    }
    // A little more than is handed on: a credential must not be cut in two where the answer is, and half of it go out.
    let (mut body, whole) = read(response, most + FORM_BYTES, room).await?;
    let whole = whole && body.len() <= most;
    if well && !whole {
        return Ok(refused(&format!("{said}. Its answer is longer than {most} bytes and was dropped.")));
    }
    if api.forms.iter().any(|forms| forms.stand_in(&body)) {
        tracing::warn!(server = %api.name, "an answer held the credential and was dropped");
        return Ok(refused(&format!("{said}. Its answer held the credential of the API and was dropped.")));
    }
    body.truncate(most);
    if body.is_empty() {
        return Ok(nothing(tool, &said, well));
    }
    let text = match kind {
        Kind::Other(media) => {
            let length = body.len();
            return Ok(refused(&format!("{said}. Its answer is `{media}` ({length} bytes), which is not handed on.")));
        }
        Kind::Nothing => return Ok(refused(&format!("{said}. Its answer does not say what it is."))),
        Kind::Json | Kind::Text => text_of(&body, whole),
    };
    let Some(text) = text else {
        return Ok(refused(&format!("{said}. Its answer is no text in UTF-8.")));
    };
    if !well {
        let retry = retry.map(|seconds| format!(" It asks to wait {seconds} seconds.")).unwrap_or_default();
        let cut = if whole { "" } else { "\n(the rest is left out)" };
        return Ok(result(&format!("{said}.{retry}\n{text}{cut}"), None, true));
    }
    Ok(structured(tool, &said, text, matches!(kind, Kind::Json)).await)
}

/// The answer of a call that went well.
async fn structured(tool: &Tool, said: &str, text: &str, is_json: bool) -> Bytes {
    // What readers could read differently is text and nothing more.
    let value = Some(text).filter(|_| is_json && json::check(text.as_bytes()).is_ok());
    let object = value.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let object = object.filter(|value| value.get().starts_with('{'));
    let Some(promised) = tool.output() else { return result(text, object, false) };
    let broken = match object {
        Some(value) => promised.check(value.get().as_bytes()).await.err().map(|error| error.to_string()),
        None => Some("it is no JSON object".to_owned()),
    };
    match broken {
        None => result(text, object, false),
        // Clients take no result that breaks what the tool promised; this one says what happened.
        Some(why) => {
            let why = why.replace("the arguments break the tool's input schema", "it differs");
            result(&format!("{said}. Its answer is not what the document promises: {why}.\n{text}"), None, true)
        }
    }
}

fn nothing(tool: &Tool, said: &str, well: bool) -> Bytes {
    match (well, tool.output()) {
        (true, Some(_)) => {
            result(&format!("{said}. It answered nothing, which the document does not promise."), None, true)
        }
        (true, None) => result(&format!("{said}."), None, false),
        (false, _) => result(&format!("{said}."), None, true),
    }
}

fn shown_status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// At most so many bytes, and whether that is all.
async fn read(response: Response<Incoming>, most: usize, room: &AnswerRoom) -> Result<(Bytes, bool), InsideError> {
    let broken = || unavailable("its answer broke off", true);
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let frame = match frame {
            Ok(Some(frame)) => frame.map_err(|_| broken())?,
            Ok(None) => return Ok((bytes.freeze(), true)),
            Err(_) => return Err(unavailable("its answer does not go on", true)),
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len().saturating_add(data.len()) > most {
            let left = most.saturating_sub(bytes.len());
            bytes.extend_from_slice(data.get(..left).unwrap_or_default());
            return Ok((bytes.freeze(), false));
        }
        // In the result it is there twice, with more bytes for each that has to be escaped.
        if bytes.len().saturating_add(data.len()) > FREE_ANSWER_BYTES_MAX / 8 {
            room.large().await?;
        }
        bytes.extend_from_slice(&data);
    }
}

/// An encoding of the content other than none.
fn encoded(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut other = all.filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    other.next().map(|value| rpc::shown(&String::from_utf8_lossy(value.as_bytes()), 40))
}

fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

fn kind(headers: &HeaderMap) -> Kind {
    let Some(given) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return Kind::Nothing;
    };
    let media = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (top, sub) = media.split_once('/').unwrap_or((&media, ""));
    let application = top == "application";
    if (application && (sub == "json" || sub.ends_with("+json"))) || media == "text/json" {
        Kind::Json
    } else if (top == "text" && sub != "event-stream")
        || (application
            && (matches!(sub, "xml" | "yaml" | "x-yaml") || sub.ends_with("+xml") || sub.ends_with("+yaml")))
    {
        Kind::Text
    } else {
        Kind::Other(rpc::shown(&media, 80))
    }
}

/// A text; one that was cut ends before the character that was.
fn text_of(body: &[u8], whole: bool) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if !whole && error.error_len().is_none() => {
            std::str::from_utf8(body.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}
