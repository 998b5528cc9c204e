//! What must hold of any bytes where MCP reads them; tried by [`crate::fuzz`].

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::{Id, RunId, SystemClock, SystemEntropy};
use serde_json::Value;

use super::{
    members::Members,
    rpc::Message,
    state::{StateError, States, request_digest},
    upstream::sse::Events,
};
use crate::json;

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

/// Members with their values as they stand.
pub(crate) type Pairs = Vec<(String, String)>;

/// The members of an object as the plane reads them.
pub(crate) fn members_of(bytes: &[u8]) -> Option<Pairs> {
    let members = Members::read(bytes)?;
    Some(members.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// Members, against the same bytes read as plain JSON; and what is changed in them, against the same change there.
pub(crate) fn members(read: impl Fn(&[u8]) -> Option<Pairs>, bytes: &[u8]) -> Option<(usize, bool)> {
    // What comes here was checked before.
    json::check(bytes).ok()?;
    let mut value: Value = serde_json::from_slice(bytes).expect("what is checked can be read");
    let pairs = read(bytes);
    let Some(object) = value.as_object_mut() else {
        assert_eq!(pairs, None, "this is no object");
        return None;
    };
    let pairs = pairs.expect("an object has members");
    assert!(pairs.iter().map(|(key, _)| key).eq(object.keys()), "other members, or in another order: {pairs:?}");
    for (key, raw) in &pairs {
        let read: Value = serde_json::from_str(raw).expect("a value is JSON");
        assert_eq!(Some(&read), object.get(key), "{key}");
    }
    let mut changed = Members::read(bytes).expect("it was read above");
    changed.set("name", "\"of the plane\"");
    changed.retain(|key, _| key != "_meta");
    object.insert("name".to_owned(), "of the plane".into());
    object.shift_remove("_meta");
    let again: Value = serde_json::from_slice(&changed.json()).expect("what is written again is JSON");
    assert!(again.as_object().is_some_and(|again| again.iter().eq(object.iter())), "{again} is not {value}");
    json::check(&changed.json()).expect("and is still taken");
    Some((pairs.len(), pairs.iter().any(|(key, _)| key == "name")))
}

/// A state that was given out, and the plane that gave it.
pub(crate) struct Given {
    states: States,
    run: RunId,
    own: [u8; 32],
    other: [u8; 32],
    pub(crate) text: String,
}

impl Given {
    pub(crate) fn new() -> Self {
        let (states, run) = (States::default(), Id::new(&SystemClock, &SystemEntropy));
        let (own, other) = (request_digest(&[b"tools/call", b"a"]), request_digest(&[b"tools/call", b"b"]));
        let text = states.seal(run, &own, Some("the server's own"), Vec::new()).expect("a short state is sealed");
        Self { states, run, own, other, text }
    }

    /// What is said of a state that comes with another request than its own. Nothing is used up by that.
    pub(crate) fn shown(&self, text: &str) -> &'static str {
        match self.states.take(self.run, &self.other, text) {
            Err(StateError::Forged) => "forged",
            Err(StateError::Other) => "other",
            Err(StateError::Spent) => "spent",
            Ok(_) => "taken",
        }
    }
}

/// A state, of which only the very bytes that were sealed are any: for the request that it belongs to, once.
pub(crate) fn state(given: &Given, shown: impl Fn(&str) -> &'static str, bytes: &[u8]) -> (&'static str, usize) {
    let text = String::from_utf8_lossy(bytes);
    let said = shown(&text);
    let sealed = URL_SAFE_NO_PAD.decode(&given.text).ok();
    if sealed == URL_SAFE_NO_PAD.decode(text.as_bytes()).ok() {
        assert_eq!(said, "other", "the state itself, with another request");
    } else {
        assert_eq!(said, "forged", "{text}");
        let taken = given.states.take(given.run, &given.own, &text).err();
        assert_eq!(taken, Some(StateError::Forged), "{text}");
    }
    (said, text.len() / 16)
}
