//! The protobuf side of OTLP: a strict walk over the messages down to single spans, metric points' holders and log
//! records, and the one change that is made to them.
//!
//! Every length and wire type is checked on the way; what the protocol's later versions add is let through as it is.
//! The change: the attributes of each resource whose key begins with `cogward.` are the plane's and not the agent's.

use super::{Export, GROUPS_MAX, Invalid, OURS, Signal};

/// Resources, scopes and items of one export together.
const MESSAGES_MAX: u64 = 200_000;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// What a message is, as far as it is looked into.
#[derive(Clone, Copy)]
enum Message {
    Scope,
    Span,
    Metric,
    LogRecord,
    Resource,
    KeyValue,
}

/// One field.
struct Field<'a> {
    number: u64,
    kind: u8,
    /// The content of a length-delimited field.
    content: &'a [u8],
    /// The field with its tag, as it stands.
    whole: &'a [u8],
}

/// The fields of a message in their order.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn next(&mut self) -> Result<Option<Field<'a>>, Invalid> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.rest;
        let tag = self.varint()?;
        let kind = u8::try_from(tag & 7).map_err(|_| Invalid::Form)?;
        let number = tag >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(Invalid::Form);
        }
        let content = match kind {
            VARINT => {
                self.varint()?;
                &[][..]
            }
            FIXED64 => self.take(8)?,
            FIXED32 => self.take(4)?,
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| Invalid::Form)?;
                self.take(length)?
            }
            // Groups are of another age.
            _ => return Err(Invalid::Form),
        };
        let whole = start.get(..start.len() - self.rest.len()).ok_or(Invalid::Form)?;
        Ok(Some(Field { number, kind, content, whole }))
    }

    fn varint(&mut self) -> Result<u64, Invalid> {
        let mut value = 0_u64;
        for place in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or(Invalid::Form)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if place == 9 && bits > 1 {
                return Err(Invalid::Form);
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Invalid::Form)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(Invalid::Form)?;
        self.rest = rest;
        Ok(front)
    }
}

impl Message {
    /// The wire type that a known field must have.
    fn kind_of(self, number: u64) -> Option<u8> {
        Some(match (self, number) {
            (Self::Scope, 1..=3) | (Self::Resource, 1 | 3) | (Self::KeyValue, 1 | 2) => BYTES,
            (Self::Resource, 2) => VARINT,
            (Self::Span, 1..=5 | 9 | 11 | 13 | 15) => BYTES,
            (Self::Span, 6 | 10 | 12 | 14) => VARINT,
            (Self::Span, 7 | 8) => FIXED64,
            (Self::Span, 16) => FIXED32,
            (Self::Metric, 1..=3 | 5 | 7 | 9..=12) => BYTES,
            (Self::LogRecord, 1 | 11) => FIXED64,
            (Self::LogRecord, 2 | 7) => VARINT,
            (Self::LogRecord, 3 | 5 | 6 | 9 | 10 | 12) => BYTES,
            (Self::LogRecord, 8) => FIXED32,
            _ => return None,
        })
    }

    /// The length that a known field of bytes must have if it has any: ids.
    fn length_of(self, number: u64) -> Option<usize> {
        match (self, number) {
            (Self::Span, 1) | (Self::LogRecord, 9) => Some(16),
            (Self::Span, 2 | 4) | (Self::LogRecord, 10) => Some(8),
            _ => None,
        }
    }

    fn check(self, field: &Field<'_>) -> Result<(), Invalid> {
        if self.kind_of(field.number).is_some_and(|kind| kind != field.kind) {
            return Err(Invalid::Form);
        }
        let ids = self.length_of(field.number);
        if ids.is_some_and(|length| !field.content.is_empty() && field.content.len() != length) {
            return Err(Invalid::Form);
        }
        Ok(())
    }

    /// Walks a message whose fields need no more than this.
    fn walk(self, bytes: &[u8]) -> Result<(), Invalid> {
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            self.check(&field)?;
        }
        Ok(())
    }
}

/// Reads an export; gives it with the plane's own attributes, and how many items it has.
///
/// # Errors
/// [`Invalid`] for whatever is not an export of this signal.
pub(super) fn read(signal: Signal, bytes: &[u8], ours: &[(&'static str, String)]) -> Result<Export, Invalid> {
    let item = match signal {
        Signal::Traces => Message::Span,
        Signal::Metrics => Message::Metric,
        Signal::Logs => Message::LogRecord,
    };
    let mut export = Export { bytes: Vec::with_capacity(bytes.len() + 256), items: 0 };
    let (mut seen, mut groups, mut fields) = (0_u64, 0_usize, Fields::of(bytes));
    while let Some(field) = fields.next()? {
        if field.number != 1 {
            export.bytes.extend_from_slice(field.whole);
            continue;
        }
        if field.kind != BYTES {
            return Err(Invalid::Form);
        }
        groups += 1;
        if groups > GROUPS_MAX {
            return Err(Invalid::TooMany);
        }
        let group = group(field.content, item, ours, &mut export.items, &mut seen)?;
        put(&mut export.bytes, 1, &group);
    }
    Ok(export)
}

/// What one resource exports.
fn group(
    bytes: &[u8],
    item: Message,
    ours: &[(&'static str, String)],
    items: &mut u64,
    seen: &mut u64,
) -> Result<Vec<u8>, Invalid> {
    let (mut resource, mut rest) = (Vec::new(), Vec::with_capacity(bytes.len()));
    let mut fields = Fields::of(bytes);
    let count = |seen: &mut u64| {
        *seen += 1;
        if *seen > MESSAGES_MAX { Err(Invalid::TooMany) } else { Ok(()) }
    };
    count(seen)?;
    while let Some(field) = fields.next()? {
        match field.number {
            1..=3 if field.kind != BYTES => return Err(Invalid::Form),
            // Two of them are one by the rules of the encoding.
            1 => resource_of(field.content, &mut resource)?,
            2 => {
                count(seen)?;
                let mut scope = Fields::of(field.content);
                while let Some(field) = scope.next()? {
                    Message::Scope.check(&field)?;
                    if field.number == 2 {
                        count(seen)?;
                        item.walk(field.content)?;
                        *items += 1;
                    }
                }
                rest.extend_from_slice(field.whole);
            }
            _ => rest.extend_from_slice(field.whole),
        }
    }
    for (key, value) in ours {
        let (mut text, mut pair) = (Vec::new(), Vec::new());
        put(&mut text, 1, value.as_bytes());
        put(&mut pair, 1, key.as_bytes());
        put(&mut pair, 2, &text);
        put(&mut resource, 1, &pair);
    }
    let mut group = Vec::with_capacity(resource.len() + rest.len() + 8);
    put(&mut group, 1, &resource);
    group.extend_from_slice(&rest);
    Ok(group)
}

/// The agent's part of a resource.
fn resource_of(bytes: &[u8], kept: &mut Vec<u8>) -> Result<(), Invalid> {
    let mut fields = Fields::of(bytes);
    while let Some(field) = fields.next()? {
        Message::Resource.check(&field)?;
        if field.number != 1 || !is_ours(field.content)? {
            kept.extend_from_slice(field.whole);
        }
    }
    Ok(())
}

fn is_ours(pair: &[u8]) -> Result<bool, Invalid> {
    let mut fields = Fields::of(pair);
    // The last of several counts for some readers, the first for others; either makes it ours.
    let mut ours = false;
    while let Some(field) = fields.next()? {
        Message::KeyValue.check(&field)?;
        if field.number == 1 {
            let key = std::str::from_utf8(field.content).map_err(|_| Invalid::Form)?;
            ours |= key.starts_with(OURS);
        }
    }
    Ok(ours)
}

fn put(to: &mut Vec<u8>, number: u8, content: &[u8]) {
    to.push(number << 3 | BYTES);
    put_varint(to, u64::try_from(content.len()).unwrap_or(u64::MAX));
    to.extend_from_slice(content);
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

/// The answer that says that everything of an export was dropped, and why: a client must not send it again.
pub(super) fn dropped(items: u64, why: &str) -> Vec<u8> {
    let (mut partial, mut answer) = (vec![1 << 3 | VARINT], Vec::new());
    put_varint(&mut partial, items);
    put(&mut partial, 2, why.as_bytes());
    put(&mut answer, 1, &partial);
    answer
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, number, content);
        bytes
    }

    fn attribute(key: &str, value: &str) -> Vec<u8> {
        field(1, &[field(1, key.as_bytes()), field(2, &field(1, value.as_bytes()))].concat())
    }

    /// An export of one span by a resource with these attributes.
    pub(crate) fn trace(attributes: &[(&str, &str)]) -> Vec<u8> {
        let resource: Vec<u8> = attributes.iter().flat_map(|(key, value)| attribute(key, value)).collect();
        let span = [
            field(1, &[7; 16]),
            field(2, &[8; 8]),
            field(5, b"step"),
            vec![6 << 3, 1],
            [&[7 << 3 | FIXED64][..], &[1; 8], &[8 << 3 | FIXED64], &[2; 8]].concat(),
        ]
        .concat();
        let scope = [field(1, &field(1, b"lib")), field(2, &span)].concat();
        field(1, &[field(1, &resource), field(2, &scope)].concat())
    }

    fn ours() -> Vec<(&'static str, String)> {
        vec![("cogward.run.id", "run-1".to_owned()), ("cogward.tenant", "bank".to_owned())]
    }

    #[test]
    fn the_agent_s_word_on_who_it_is_does_not_count() {
        let sent = trace(&[("service.name", "a"), ("cogward.run.id", "forged"), ("cogward.x", "y")]);
        let export = read(Signal::Traces, &sent, &ours()).unwrap();
        let wanted = trace(&[("service.name", "a"), ("cogward.run.id", "run-1"), ("cogward.tenant", "bank")]);
        assert_eq!((export.items, export.bytes), (1, wanted));
    }

    #[test]
    fn a_second_resource_or_none_or_a_key_said_twice_changes_nothing_of_that() {
        let forged = attribute("cogward.run.id", "forged");
        let twice = field(1, &[field(1, b"service.name"), field(1, b"cogward.run.id"), field(2, b"")].concat());
        for resources in [vec![], vec![forged.clone(), forged.clone()], vec![twice]] {
            let group: Vec<u8> = resources.iter().flat_map(|resource| field(1, resource)).collect();
            let export = read(Signal::Logs, &field(1, &group), &ours()).unwrap();
            let text = String::from_utf8_lossy(&export.bytes).into_owned();
            assert!(!text.contains("forged") && text.contains("run-1") && text.matches("cogward.run.id").count() == 1);
        }
    }

    #[test]
    fn what_is_not_an_export_of_the_signal_is_refused() {
        let good = trace(&[]);
        assert!(read(Signal::Traces, &good, &[]).is_ok());
        // A span is no log record: its id stands where a time must.
        assert_eq!(read(Signal::Logs, &good, &[]).unwrap_err(), Invalid::Form);
        for end in 1..good.len() {
            assert!(read(Signal::Traces, &good[..end], &[]).is_err(), "cut at {end}");
        }
        for bad in [
            &b"\x0b\x0c"[..],                                // a group
            b"\x02\x00",                                     // field 0
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",     // a length beyond everything
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // a number of 65 bits
            b"\x08\x01",                                     // a resource that is a number
            b"GET / HTTP/1.1",
        ] {
            assert!(read(Signal::Traces, bad, &[]).is_err(), "{bad:?}");
        }
        let short = field(1, &field(2, &field(2, &field(1, &[7; 15]))));
        assert!(read(Signal::Traces, &short, &[]).is_err(), "an id of fifteen bytes");
    }

    #[test]
    fn endless_nothing_is_bounded() {
        let resources = field(1, &[]).repeat(GROUPS_MAX + 1);
        assert_eq!(read(Signal::Traces, &resources, &[]).unwrap_err(), Invalid::TooMany);
        let spans = field(2, &[]).repeat(usize::try_from(MESSAGES_MAX).unwrap());
        assert_eq!(read(Signal::Traces, &field(1, &field(2, &spans)), &[]).unwrap_err(), Invalid::TooMany);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_kept_is_read_again(bytes: Vec<u8>) {
            for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
                if let Ok(export) = read(signal, &bytes, &ours()) {
                    let again = read(signal, &export.bytes, &ours()).unwrap();
                    prop_assert_eq!(again.bytes, export.bytes);
                }
            }
        }
    }
}
