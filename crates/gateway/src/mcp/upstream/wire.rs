//! How requests to tool servers are written, in either era, and what their greetings say.

use std::{borrow::Cow, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::exchange::{ClientCan, UpRequest};
use crate::mcp::rpc;

/// The stateless revision, which is asked for first.
pub(super) const MODERN: &str = "2026-07-28";
/// The newest revision with sessions.
pub(super) const LEGACY: &str = "2025-11-25";
/// The revisions with sessions that are spoken.
const LEGACY_ALL: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY];

/// What a server offers, whatever its era.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::mcp) struct Offers {
    /// Tools.
    pub(in crate::mcp) tools: bool,
    /// Resources.
    pub(in crate::mcp) resources: bool,
    /// Updates of single resources.
    pub(in crate::mcp) subscribe: bool,
    /// Prompts.
    pub(in crate::mcp) prompts: bool,
    /// Completion of arguments.
    pub(in crate::mcp) completions: bool,
    /// Messages of its log.
    pub(in crate::mcp) logging: bool,
    /// Results that come later.
    pub(in crate::mcp) tasks: bool,
    /// Whether it speaks the stateless era.
    pub(in crate::mcp) modern: bool,
}

/// A message in the older era, or in the stateless one.
pub(super) fn message(modern: bool, id: u64, request: &UpRequest<'_>, can: ClientCan) -> Vec<u8> {
    let mut meta = String::new();
    if modern {
        let version = env!("CARGO_PKG_VERSION");
        let _ = write!(
            meta,
            r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{{"name":"cogward","version":"{version}"}},"io.modelcontextprotocol/clientCapabilities":{}"#,
            can.capabilities()
        );
        if let Some(level) = request.log_level {
            let _ = write!(meta, r#","io.modelcontextprotocol/logLevel":"{}""#, level.as_str());
        }
    }
    let mut member = |text: &str| {
        if !meta.is_empty() {
            meta.push(',');
        }
        meta.push_str(text);
    };
    if request.progress {
        member(&format!(r#""progressToken":{id}"#));
    }
    if !request.meta.is_empty() {
        member(request.meta);
    }
    if meta.is_empty() {
        return rpc::request(Some(id), request.method, request.params);
    }
    rpc::request(Some(id), request.method, &with_meta(request.params, &meta))
}

/// An object with one more member.
fn with_meta(params: &[u8], meta: &str) -> Vec<u8> {
    let open = params.trim_ascii_end();
    let open = open.strip_suffix(b"}").unwrap_or(open);
    let comma: &[u8] = if open.trim_ascii() == b"{" { b"" } else { b"," };
    let parts: [&[u8]; 5] = [open, comma, br#""_meta":{"#, meta.as_bytes(), b"}}"];
    parts.concat()
}

/// A text as a header value: as it is, or in Base64 where a header cannot hold it.
pub(in crate::mcp) fn header_value(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.starts_with("=?base64?");
    let text = if plain { Cow::Borrowed(text) } else { Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(text))) };
    HeaderValue::from_str(&text).ok()
}

/// What is said to a server with sessions first.
pub(super) fn greeting(can: ClientCan) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"protocolVersion":"{LEGACY}","capabilities":{},"clientInfo":{{"name":"cogward","version":"{version}"}}}}"#,
        can.capabilities()
    )
    .into_bytes()
}

/// The answer to `initialize`: the revision agreed on, and what there is.
pub(super) fn greeted(answer: &[u8]) -> Result<(&'static str, Offers), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Greeting<'a> {
        #[serde(borrow)]
        protocol_version: Cow<'a, str>,
        #[serde(borrow, default)]
        capabilities: Option<&'a RawValue>,
    }
    let greeting: Greeting<'_> =
        serde_json::from_slice(answer).map_err(|_| "its answer to `initialize` names no revision".to_owned())?;
    let revision = LEGACY_ALL.into_iter().find(|known| *known == greeting.protocol_version);
    let revision =
        revision.ok_or_else(|| format!("it speaks only revision {}", rpc::shown(&greeting.protocol_version, 32)))?;
    Ok((revision, offers(greeting.capabilities, false)))
}

/// What the answer to `server/discover` says, if it is one and the stateless revision is spoken.
pub(super) fn discovered(answer: &[u8]) -> Option<Offers> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovery<'a> {
        #[serde(borrow)]
        supported_versions: Vec<Cow<'a, str>>,
        #[serde(borrow, default)]
        capabilities: Option<&'a RawValue>,
    }
    let found: Discovery<'_> = serde_json::from_slice(answer).ok()?;
    let spoken = found.supported_versions.iter().any(|version| version == MODERN);
    spoken.then(|| offers(found.capabilities, true))
}

/// Whether a refusal of a revision names the stateless one among those that are spoken.
pub(super) fn supports_modern(data: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Supported<'a> {
        #[serde(borrow)]
        supported: Vec<Cow<'a, str>>,
    }
    serde_json::from_slice::<Supported<'_>>(data).is_ok_and(|data| data.supported.iter().any(|known| known == MODERN))
}

fn offers(capabilities: Option<&RawValue>, modern: bool) -> Offers {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Capabilities<'a> {
        #[serde(borrow)]
        tools: Option<&'a RawValue>,
        #[serde(borrow)]
        resources: Option<&'a RawValue>,
        #[serde(borrow)]
        prompts: Option<&'a RawValue>,
        #[serde(borrow)]
        completions: Option<&'a RawValue>,
        #[serde(borrow)]
        logging: Option<&'a RawValue>,
        #[serde(borrow)]
        extensions: Option<std::collections::BTreeMap<Cow<'a, str>, &'a RawValue>>,
    }
    #[derive(Deserialize, Default)]
    struct Resources {
        #[serde(default)]
        subscribe: bool,
    }
    let raw = capabilities.map_or("{}", RawValue::get);
    let all: Capabilities<'_> = serde_json::from_str(raw).unwrap_or_default();
    let resources = all.resources.and_then(|raw| serde_json::from_str::<Resources>(raw.get()).ok());
    Offers {
        tools: all.tools.is_some(),
        subscribe: resources.is_some_and(|resources| resources.subscribe),
        resources: all.resources.is_some(),
        prompts: all.prompts.is_some(),
        completions: all.completions.is_some(),
        logging: all.logging.is_some(),
        tasks: all.extensions.is_some_and(|all| all.contains_key("io.modelcontextprotocol/tasks")),
        modern,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(modern: bool, request: &UpRequest<'_>, can: ClientCan) -> Value {
        serde_json::from_slice(&message(modern, 7, request, can)).unwrap()
    }

    #[test]
    fn the_older_era_gets_the_parameters_byte_for_byte() {
        let request = UpRequest::plain("tools/call", br#"{ "name":"a","arguments":{"x" : 1.50} }"#);
        let message = message(false, 7, &request, ClientCan::NONE);
        let wanted =
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{ "name":"a","arguments":{"x" : 1.50} }}"#;
        assert_eq!(String::from_utf8_lossy(&message), wanted);
    }

    #[test]
    fn the_stateless_era_says_its_revision_and_what_the_asker_can_with_each_request() {
        for params in [&b"{}"[..], b"{ } ", br#"{"name":"a"}"#] {
            let mut request = UpRequest::plain("tools/call", params);
            (request.progress, request.meta, request.log_level) =
                (true, r#""traceparent":"00-1""#, Some(super::super::exchange::LogLevel::Warning));
            let message = written(true, &request, ClientCan::ELICIT_FORM);
            let meta = &message["params"]["_meta"];
            assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], MODERN);
            assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({"elicitation": {"form": {}}}));
            assert_eq!(meta["io.modelcontextprotocol/logLevel"], "warning");
            assert_eq!((&meta["progressToken"], &meta["traceparent"]), (&json!(7), &json!("00-1")));
        }
    }

    #[test]
    fn what_a_header_cannot_hold_goes_in_base64() {
        let shown = |text: &str| header_value(text).unwrap().to_str().unwrap().to_owned();
        assert_eq!(shown("file:///a b"), "file:///a b");
        for text in [" a", "a ", "é", "a\r\nx: y", "=?base64?YQ==?="] {
            let value = shown(text);
            let inner = value.strip_prefix("=?base64?").unwrap().strip_suffix("?=").unwrap();
            assert_eq!(STANDARD.decode(inner).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_greeting_says_what_there_is() {
        let answer =
            json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "resources": {"subscribe": true}}});
        let (revision, offers) = greeted(answer.to_string().as_bytes()).unwrap();
        assert_eq!((revision, offers.tools, offers.subscribe, offers.prompts), ("2025-06-18", true, true, false));
        assert!(greeted(br#"{"protocolVersion":"1999-01-01"}"#).is_err());
        let answer = json!({"supportedVersions": ["2026-07-28"], "capabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}});
        assert!(discovered(answer.to_string().as_bytes()).is_some_and(|offers| offers.modern && offers.tasks));
        assert!(discovered(br#"{"supportedVersions":["2025-11-25"]}"#).is_none());
        assert!(discovered(br#"{"content":[]}"#).is_none());
        assert!(
            supports_modern(br#"{"supported":["2026-07-28"]}"#) && !supports_modern(br#"{"supported":["2025-11-25"]}"#)
        );
        assert!(!supports_modern(b"[]"));
    }
}
