//! The leaf: `{"body":{…},"chain":{"prev":…,"seq":…,"time":…}}`, canonical JSON, at most 65,535 bytes.
//!
//! The request thread writes the body as two halves, [`encode`]; the sequencer, which alone knows
//! the order, only puts the run's chain between them and the log's chain behind them, [`Body::assemble`].
//! `body` sorts before `chain`, and everything the sequencer adds has its fixed place in the sort.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::{
    Clock, Entropy, RunId,
    event::{Event, Field, FieldClass, Value},
    id::EventId,
    limits::LEAF_BYTES_MAX,
};
use serde::Deserialize;

use crate::{
    Hash,
    canonical::{CanonicalError, Keys, write_integer, write_text, write_value},
    commitment::{Disclosure, SALT_BYTES},
    schema::{Mismatch, schema},
};

/// The version of the leaf's form.
pub const LEAF_VERSION: u64 = 1;
/// What the sequencer adds at most: two hashes, two numbers, a time and their names.
const CHAIN_BYTES_MAX: usize = 384;
/// All disclosures of one event together, in bytes.
pub const DISCLOSED_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Most fields of one event.
pub const FIELDS_MAX: usize = 128;

const RESERVED: [&str; 9] = ["act", "id", "run", "run_prev", "run_seq", "sub", "tenant", "type", "v"];

/// Why an event cannot become a leaf. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value has no canonical form.
    #[error("field `{field}`: {source}")]
    Value {
        /// The field.
        field: String,
        /// Why.
        source: CanonicalError,
    },
    /// The name belongs to the ledger, is used twice, or is not lower-case ASCII.
    #[error("`{0}` cannot be the name of a field: it is reserved, used twice or not of [a-z0-9_]")]
    FieldName(String),
    /// Too many fields.
    #[error("an event has at most {FIELDS_MAX} fields")]
    TooManyFields,
    /// The public part does not fit into a leaf.
    #[error("the public fields take {0} bytes; a leaf has at most {LEAF_BYTES_MAX}")]
    TooLong(usize),
    /// The name says that it is a secret. Nothing of it is kept.
    #[error("`{0}` is the name of a secret, and secrets are not recorded")]
    Secret(String),
    /// A build for tests: the event is not what the schema says.
    #[error(transparent)]
    Schema(#[from] Mismatch),
    /// The committed values are too large together.
    #[error("the committed values take {0} bytes; one event has at most {DISCLOSED_BYTES_MAX}")]
    TooMuchDisclosed(usize),
}

/// A committed field: what the vault must keep.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The field.
    pub field: Cow<'static, str>,
    /// Whose key seals it.
    pub class: FieldClass,
    /// What opens it.
    pub disclosure: Disclosure,
}

/// A body that waits for its place.
#[derive(Debug, Clone)]
pub struct Body {
    bytes: Vec<u8>,
    /// Where the run's chain goes: behind the last key that sorts before `run_prev`.
    split: usize,
    /// Whether it belongs to a run.
    pub run: Option<RunId>,
    /// The values behind the commitments.
    pub committed: Vec<Committed>,
}

/// Mints the identifier of an event.
pub fn mint_id(clock: &dyn Clock, entropy: &dyn Entropy) -> EventId {
    EventId::new(clock, entropy)
}

/// Writes an event's body, all but its place.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode(event: &Event, id: &EventId, entropy: &dyn Entropy) -> Result<Body, EncodeError> {
    if event.fields.len() > FIELDS_MAX {
        return Err(EncodeError::TooManyFields);
    }
    let owned = |name: &'static str, value: Value| {
        Cow::Owned(Field { name: Cow::Borrowed(name), class: FieldClass::Public, value })
    };
    let mut fields: Vec<Cow<'_, Field>> = Vec::with_capacity(event.fields.len() + 7);
    let classes = schema().of(event.kind);
    for field in &event.fields {
        if !is_field_name(&field.name) {
            return Err(EncodeError::FieldName(field.name.chars().take(64).collect()));
        }
        let Some(class) = classes.class(field) else { return Err(EncodeError::Secret(field.name.to_string())) };
        fields.push(match class == field.class {
            true => Cow::Borrowed(field),
            // What nobody has classed may be about anybody.
            false => Cow::Owned(Field { class, ..field.clone() }),
        });
    }
    let act = event.by.agent.as_ref().map(|(agent, version)| format!("agent:{agent}@{version}"));
    fields.push(owned("act", act.into()));
    fields.push(owned("id", id.to_string().into()));
    if let Some(run) = event.run {
        fields.push(owned("run", run.to_string().into()));
    }
    fields.push(Cow::Owned(Field {
        name: Cow::Borrowed("sub"),
        // That nobody is named is public; who is named is not.
        class: if event.by.subject.is_some() { FieldClass::Personal } else { FieldClass::Public },
        value: event.by.subject.clone().into(),
    }));
    fields.push(owned("tenant", event.tenant.as_str().into()));
    fields.push(owned("type", event.kind.as_str().into()));
    fields.push(owned("v", Value::from(LEAF_VERSION)));
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = fields.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        return Err(EncodeError::FieldName(pair.first().map(|f| f.name.to_string()).unwrap_or_default()));
    }
    write_body(&fields, event.run, entropy)
}

fn write_body(fields: &[Cow<'_, Field>], run: Option<RunId>, entropy: &dyn Entropy) -> Result<Body, EncodeError> {
    let hidden = fields.iter().filter(|f| f.class != FieldClass::Public).count();
    let mut salts = vec![0_u8; hidden * SALT_BYTES];
    entropy.fill(&mut salts);
    let (salts, _) = salts.as_chunks::<SALT_BYTES>();
    let mut salts = salts.iter();
    let mut body = Body { bytes: Vec::with_capacity(1536), split: 0, run, committed: Vec::with_capacity(hidden) };
    let out = &mut body.bytes;
    out.extend_from_slice(b"{\"body\":{");
    let mut disclosed = 0;
    for (n, field) in fields.iter().enumerate() {
        if body.split == 0 && *field.name > *"run_prev" {
            body.split = out.len();
        }
        if n > 0 {
            out.push(b',');
        }
        write_text(out, &field.name);
        out.push(b':');
        let refuse = |source| EncodeError::Value { field: field.name.to_string(), source };
        match (field.class, salts.next_if_hidden(field.class)) {
            (class, Some(salt)) => {
                let disclosure = Disclosure::new(salt, &field.name, &field.value).map_err(refuse)?;
                disclosed += disclosure.as_str().len();
                if disclosed > DISCLOSED_BYTES_MAX {
                    return Err(EncodeError::TooMuchDisclosed(disclosed));
                }
                out.extend_from_slice(b"{\"$c\":\"");
                out.extend_from_slice(disclosure.commitment().as_bytes());
                out.extend_from_slice(b"\"}");
                body.committed.push(Committed { field: field.name.clone(), class, disclosure });
            }
            (_, None) => write_value(out, &field.value, Keys::Ascii).map_err(refuse)?,
        }
        if out.len() + CHAIN_BYTES_MAX > LEAF_BYTES_MAX {
            return Err(EncodeError::TooLong(out.len()));
        }
    }
    Ok(body)
}

/// One salt for each hidden field, none for a public one.
trait Salts<'a> {
    fn next_if_hidden(&mut self, class: FieldClass) -> Option<&'a [u8; SALT_BYTES]>;
}

impl<'a> Salts<'a> for std::slice::Iter<'a, [u8; SALT_BYTES]> {
    fn next_if_hidden(&mut self, class: FieldClass) -> Option<&'a [u8; SALT_BYTES]> {
        if class == FieldClass::Public { None } else { self.next() }
    }
}

pub(crate) fn is_field_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && !RESERVED.contains(&name)
        // Would have to stand between the two keys that the sequencer adds as one piece.
        && !("run_prev"..="run_seq").contains(&name)
}

/// Where the sequencer puts a body.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The leaf's number in the tenant's log, from 0.
    pub seq: u64,
    /// The leaf hash of the one before; `None` for the first.
    pub prev: Option<Hash>,
    /// The text of a [`cogward_model::Timestamp`], never earlier than the one before.
    pub time: &'a str,
    /// The number of the leaf in its run's chain, from 1. Ignored for a body without a run.
    pub run_seq: u64,
    /// The leaf hash of the one before in the run's chain; `None` for the first.
    pub run_prev: Option<Hash>,
}

impl Body {
    /// Appends the bytes of the leaf to `out`.
    pub fn assemble(&self, place: &Place<'_>, out: &mut Vec<u8>) {
        let (head, tail) = self.bytes.split_at_checked(self.split).unwrap_or((&self.bytes, &[]));
        out.extend_from_slice(head);
        if self.run.is_some() {
            out.extend_from_slice(b",\"run_prev\":");
            write_hash(out, place.run_prev.as_ref());
            out.extend_from_slice(b",\"run_seq\":");
            write_integer(out, place.run_seq);
        }
        out.extend_from_slice(tail);
        out.extend_from_slice(b"},\"chain\":{\"prev\":");
        write_hash(out, place.prev.as_ref());
        out.extend_from_slice(b",\"seq\":");
        write_integer(out, place.seq);
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(place.time.as_bytes());
        out.extend_from_slice(b"\"}}");
    }
}

fn write_hash(out: &mut Vec<u8>, hash: Option<&Hash>) {
    match hash {
        None => out.extend_from_slice(b"null"),
        Some(hash) => {
            let mut text = [0_u8; 43];
            out.push(b'"');
            if URL_SAFE_NO_PAD.encode_slice(hash, &mut text).is_ok() {
                out.extend_from_slice(&text);
            }
            out.push(b'"');
        }
    }
}

/// The RFC 6962 hash of a leaf's bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    // One call over a copy costs less than a context that is fed in parts.
    let mut prefixed = Vec::with_capacity(leaf.len() + 1);
    prefixed.push(0);
    prefixed.extend_from_slice(leaf);
    to_hash(&digest::digest(&digest::SHA256, &prefixed))
}

pub(crate) fn to_hash(digest: &digest::Digest) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// What a verifier and a recovering plane read of a leaf. All of it is ASCII without escapes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parsed<'a> {
    /// What happened.
    #[serde(borrow)]
    pub body: ParsedBody<'a>,
    /// Its place.
    pub chain: ParsedChain<'a>,
}

/// The part of the body that every leaf has.
#[derive(Debug, Deserialize)]
pub struct ParsedBody<'a> {
    /// The event's identifier.
    pub id: &'a str,
    /// The run.
    #[serde(default)]
    pub run: Option<&'a str>,
    /// The leaf hash of the run's leaf before.
    #[serde(default)]
    pub run_prev: Option<&'a str>,
    /// Its number within the run.
    #[serde(default)]
    pub run_seq: Option<u64>,
    /// Whose ledger.
    pub tenant: &'a str,
    /// The event type.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The version of the form.
    pub v: u64,
}

/// The leaf's place in the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParsedChain<'a> {
    /// The leaf hash of the one before.
    pub prev: Option<&'a str>,
    /// Its number.
    pub seq: u64,
    /// Its time.
    pub time: &'a str,
}

impl<'a> Parsed<'a> {
    /// Reads a leaf.
    ///
    /// # Errors
    /// It is not a leaf of this form.
    pub fn from_bytes(leaf: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(leaf)
    }
}

/// Whether a text in a leaf is that of this hash.
#[must_use]
pub fn is_hash_text(text: Option<&str>, hash: Option<&Hash>) -> bool {
    match (text, hash) {
        (None, None) => true,
        (Some(text), Some(hash)) => {
            let mut expected = [0_u8; 43];
            URL_SAFE_NO_PAD.encode_slice(hash, &mut expected).is_ok() && text.as_bytes() == expected
        }
        _ => false,
    }
}

/// The text of a hash in a leaf.
#[must_use]
pub fn hash_text(hash: &Hash) -> String {
    URL_SAFE_NO_PAD.encode(hash)
}

#[cfg(test)]
mod tests {
    use cogward_model::{
        SystemClock, SystemEntropy,
        event::{Attribution, EventType},
    };
    use proptest::prelude::*;

    use super::*;

    fn event(run: bool) -> Event {
        let by = Attribution {
            agent: Some(("claims-triage".parse().unwrap(), "4.2.1".parse().unwrap())),
            subject: Some("anna".into()),
        };
        let event = Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by);
        let event = event.public("rule", "r1").personal("args", "secret").public("zone", 7_u64).public("aa", true);
        if run { event.run(RunId::new(&SystemClock, &SystemEntropy)) } else { event }
    }

    fn assembled(event: &Event) -> Vec<u8> {
        let id = mint_id(&SystemClock, &SystemEntropy);
        let body = encode(event, &id, &SystemEntropy).unwrap();
        let place = Place {
            seq: 3,
            prev: Some([1; 32]),
            time: "1970-01-01T00:00:01.000000Z",
            run_seq: 2,
            run_prev: Some([2; 32]),
        };
        let mut leaf = Vec::new();
        body.assemble(&place, &mut leaf);
        leaf
    }

    #[test]
    fn a_leaf_is_canonical_with_and_without_a_run() {
        for run in [true, false] {
            let leaf = assembled(&event(run));
            let value: serde_json::Value = serde_json::from_slice(&leaf).unwrap();
            // serde_json's map is sorted, so writing it again must give the same bytes.
            assert_eq!(serde_json::to_vec(&value).unwrap(), leaf);
            let parsed = Parsed::from_bytes(&leaf).unwrap();
            assert_eq!((parsed.body.v, parsed.chain.seq, parsed.body.run.is_some()), (1, 3, run));
            assert_eq!(parsed.body.run_seq, run.then_some(2));
            assert_eq!(value["body"]["act"], "agent:claims-triage@4.2.1");
            let text = String::from_utf8(leaf).unwrap();
            assert!(!text.contains("anna") && !text.contains("secret"));
            assert!(value["body"]["sub"]["$c"].is_string());
        }
    }

    #[test]
    fn a_field_of_the_ledgers_own_is_refused() {
        for name in ["run", "run_seq", "run_q", "v", "sub", "Upper", "", "a-b", "ä"] {
            let mut event = event(false);
            event.fields.push(Field { name: name.to_owned().into(), class: FieldClass::Public, value: Value::Null });
            let id = mint_id(&SystemClock, &SystemEntropy);
            assert!(matches!(encode(&event, &id, &SystemEntropy), Err(EncodeError::FieldName(_))), "{name}");
        }
        let id = mint_id(&SystemClock, &SystemEntropy);
        let twice = event(false).public("rule", "r2");
        assert!(matches!(encode(&twice, &id, &SystemEntropy), Err(EncodeError::FieldName(_))));
    }

    #[test]
    fn a_field_that_the_schema_does_not_know_is_committed_and_a_secret_is_refused() {
        let leaf = assembled(&event(true).public("colour", "deep red").public("tool", "a/b"));
        let value: serde_json::Value = serde_json::from_slice(&leaf).unwrap();
        assert!(value["body"]["colour"]["$c"].is_string() && !String::from_utf8(leaf).unwrap().contains("deep red"));
        assert_eq!(value["body"]["tool"], "a/b");
        // The schema says that arguments are hidden, whatever an emitter says.
        let mut careless = event(true);
        careless.fields.retain(|field| field.name != "args");
        let leaf = String::from_utf8(assembled(&careless.public("args", "born 1970-01-01"))).unwrap();
        assert!(!leaf.contains("1970-01-01T") || !leaf.contains("born"), "{leaf}");
        let id = mint_id(&SystemClock, &SystemEntropy);
        for event in [event(true).public("password", "x"), event(true).confidential("api_key", "x")] {
            assert!(matches!(encode(&event, &id, &SystemEntropy), Err(EncodeError::Secret(_))));
        }
    }

    #[test]
    fn a_large_public_field_is_refused_and_a_large_committed_one_fits() {
        let id = mint_id(&SystemClock, &SystemEntropy);
        let large = "x".repeat(70_000);
        let mut public = event(true);
        public.fields.retain(|field| field.name != "rule");
        let public = public.public("rule", large.clone());
        assert!(matches!(encode(&public, &id, &SystemEntropy), Err(EncodeError::TooLong(_))));
        let hidden = event(true).confidential("big", large);
        assert!(assembled(&hidden).len() < 2_000);
    }

    proptest! {
        #[test]
        fn any_text_keeps_the_leaf_canonical(
            text: String,
            name in proptest::sample::select(vec!["code", "definition", "policy_level", "rule", "tool", "version_digest"]),
        ) {
            let mut event = event(true);
            event.fields.retain(|f| f.name != name);
            event.fields.push(Field { name: name.into(), class: FieldClass::Public, value: text.into() });
            let leaf = assembled(&event);
            let value: serde_json::Value = serde_json::from_slice(&leaf).unwrap();
            prop_assert_eq!(serde_json::to_vec(&value).unwrap(), leaf);
        }
    }
}
