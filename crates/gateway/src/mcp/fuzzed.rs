//! What must hold of any bytes where MCP reads them; tried by [`crate::fuzz`].

use serde_json::Value;

use super::{rpc::Message, upstream::sse::Events};

/// A message, against the same bytes read as plain JSON. Its class, if it is one.
pub(crate) fn message(bytes: &[u8]) -> Option<(bool, bool, bool, usize)> {
    let message = Message::parse(bytes).ok()?;
    let value: Value = serde_json::from_slice(bytes).expect("a message is JSON");
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    assert_eq!(message.method.as_deref(), text("method"), "two readers, two methods");
    let same = |raw: Option<&serde_json::value::RawValue>, name: &str| {
        let ours = raw.map(|raw| serde_json::from_str::<Value>(raw.get()).expect("a part is JSON"));
        assert_eq!(ours.as_ref(), value.get(name).filter(|v| name != "params" || !v.is_null()), "{name}");
    };
    same(message.id, "id");
    same(message.result, "result");
    same(message.params, "params");
    Some((message.method.is_some(), message.id.is_some(), message.error.is_some(), bytes.len() / 64))
}

/// Events, whole and in two parts.
pub(crate) fn events(bytes: &[u8]) -> Option<usize> {
    let read = |parts: &[&[u8]]| {
        let (mut events, mut found) = (Events::new(8 * 1024), Vec::new());
        parts.iter().try_for_each(|part| events.feed(part, &mut found)).ok()?;
        Some(found)
    };
    let whole = read(&[bytes]);
    let (first, second) = bytes.split_at(bytes.len() / 3);
    // What is too long may be noticed a little earlier or later, and then nothing of it is used.
    if let (Some(whole), Some(cut)) = (&whole, read(&[first, second])) {
        assert_eq!(*whole, cut, "where the stream is cut makes a difference");
    }
    whole.map(|found| found.len())
}
