//! What the client of an agent can be asked, as it declared it: by a session once, by a stateless request each time.

use std::collections::BTreeSet;

use super::{members::Members, upstream::exchange::ClientCan};

/// The extension that the plane passes on.
const TASKS: &str = "io.modelcontextprotocol/tasks";
/// Longest `tracestate` that goes on, in bytes.
const TRACE_STATE_BYTES_MAX: usize = 512;

const ALL: [ClientCan; 6] = [
    ClientCan::ELICIT_FORM,
    ClientCan::ELICIT_URL,
    ClientCan::SAMPLING,
    ClientCan::SAMPLING_TOOLS,
    ClientCan::ROOTS,
    ClientCan::TASKS,
];

/// Reads the `capabilities` of a client. What is not an object declares nothing.
pub(super) fn declared(capabilities: &str) -> ClientCan {
    let mut can = ClientCan::NONE;
    let Some(all) = Members::read(capabilities.as_bytes()) else { return can };
    let inner = |name: &str| all.get(name).and_then(|value| Members::read(value.as_bytes()));
    let mut found = |there: bool, what: ClientCan| can = if there { can.with(what) } else { can };
    if let Some(elicitation) = inner("elicitation") {
        let url = elicitation.get("url").is_some();
        // An empty declaration means forms.
        found(elicitation.get("form").is_some() || !url, ClientCan::ELICIT_FORM);
        found(url, ClientCan::ELICIT_URL);
    }
    if let Some(sampling) = inner("sampling") {
        found(true, ClientCan::SAMPLING);
        found(sampling.get("tools").is_some(), ClientCan::SAMPLING_TOOLS);
    }
    found(inner("roots").is_some(), ClientCan::ROOTS);
    found(inner("extensions").is_some_and(|extensions| extensions.get(TASKS).is_some()), ClientCan::TASKS);
    can
}

/// Small enough to stand in the id of a session.
pub(super) fn bits(can: ClientCan) -> u8 {
    ALL.iter().enumerate().fold(0, |bits, (place, one)| bits | (u8::from(can.has(*one)) << place))
}

/// The other way round.
pub(super) fn from_bits(bits: u8) -> ClientCan {
    let there = |place: usize| bits & (1 << place) != 0;
    ALL.iter().enumerate().filter(|(place, _)| there(*place)).fold(ClientCan::NONE, |can, (_, one)| can.with(*one))
}

/// Members of `_meta` that go on to a tool server: the place in a trace, as W3C Trace Context has it, and nothing else.
/// Whatever else there is would reach the server without having been judged. As JSON without the braces.
pub(super) fn carried(meta: Option<&str>) -> String {
    let Some(mut meta) = meta.and_then(|meta| Members::read(meta.as_bytes())) else { return String::new() };
    meta.retain(|key, value| match (key, serde_json::from_str::<&str>(value)) {
        ("traceparent", Ok(text)) => is_trace_parent(text),
        ("tracestate", Ok(text)) => is_trace_state(text),
        _ => false,
    });
    meta.bare()
}

/// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
fn is_trace_parent(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [2, 32, 16, 2] && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// `vendor=value,tenant@other=value`: members without spaces, each key once.
fn is_trace_state(text: &str) -> bool {
    let key = |text: &str| {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@');
        first && text.bytes().all(rest)
    };
    let value = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    let mut keys = BTreeSet::new();
    let mut member =
        |text: &str| text.split_once('=').is_some_and(|(k, v)| key(k) && value(v) && keys.insert(k.to_owned()));
    text.len() <= TRACE_STATE_BYTES_MAX && text.split(',').all(|text| member(text.trim_matches([' ', '\t'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_read_and_told_again() {
        const FORM: ClientCan = ClientCan::ELICIT_FORM;
        const URL: ClientCan = ClientCan::ELICIT_URL;
        let everything = ALL.into_iter().fold(ClientCan::NONE, ClientCan::with);
        for (text, can) in [
            ("{}", ClientCan::NONE),
            (r#"{"elicitation":{}}"#, FORM),
            (r#"{"elicitation":{"url":{}}}"#, URL),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, FORM.with(URL)),
            (r#"{"sampling":{},"roots":{"listChanged":true}}"#, ClientCan::SAMPLING.with(ClientCan::ROOTS)),
            (r#"{"extensions":{"io.modelcontextprotocol/tasks":{},"x":{}}}"#, ClientCan::TASKS),
            (r#"{"elicitation":true,"sampling":null,"extensions":7}"#, ClientCan::NONE),
            ("[]", ClientCan::NONE),
        ] {
            assert_eq!(declared(text), can, "{text}");
        }
        for bits_given in 0..64 {
            let can = from_bits(bits_given);
            assert_eq!(bits(can), bits_given);
        }
        assert_eq!(declared(&everything.capabilities()), everything);
    }

    #[test]
    fn nothing_is_carried_but_the_place_in_a_trace() {
        let parent =
            r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=1,b=2""#;
        let meta = format!(
            r#"{{"baggage":"user=ada",{parent},"progressToken":1,"io.modelcontextprotocol/logLevel":"debug","x":{{"y":1.0}}}}"#
        );
        assert_eq!(carried(Some(&meta)), parent);
        let state = r#""tracestate":"rojo=00f067aa0ba902b7, t61@congo=t61rcWkgMzE""#;
        assert_eq!(carried(Some(&format!("{{{state}}}"))), state);
        assert_eq!((carried(None), carried(Some("7")), carried(Some("{}"))), Default::default());
        for other in [
            r#"{"traceparent":"send 5000 to DE02"}"#,
            r#"{"traceparent":"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"}"#,
            r#"{"traceparent":{"a":1},"tracestate":["a"]}"#,
            r#"{"tracestate":"a\u0000b"}"#,
            r#"{"tracestate":"pay 5000 to DE02"}"#,
            r#"{"tracestate":"a=pay 5000 to DE02"}"#,
            r#"{"tracestate":"a=1,a=2"}"#,
            r#"{"tracestate":"a=1,,b=2"}"#,
            r#"{"tracestate":"A=1"}"#,
            r#"{"tracestate":"=1"}"#,
            r#"{"tracestate":"a="}"#,
            &format!(r#"{{"tracestate":"a={}"}}"#, "a".repeat(TRACE_STATE_BYTES_MAX)),
        ] {
            assert_eq!(carried(Some(other)), "", "{other}");
        }
    }
}
