//! Canonical JSON: RFC 8785 restricted to what needs no floating point and no Unicode sorting.
//!
//! Within the restriction (ASCII keys, integers within 2^53, no fractions) a writer that sorts keys
//! by bytes *is* RFC 8785, so nothing has to be parsed in order to be canonical.

use cogward_model::event::Value;

pub use crate::scan::is_canonical;

/// Beyond ±2^53 readers of JSON disagree about integers.
pub const INTEGER_MAX: i64 = 1 << 53;
/// Deepest nesting of a value.
pub const DEPTH_MAX: usize = 64;

/// Why a value has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// An integer that not every reader can hold.
    #[error("the integer {0} is beyond 2^53")]
    Integer(i64),
    /// A key that would need Unicode sorting or an escape.
    #[error("the key `{0}` is not plain ASCII")]
    Key(String),
    /// Too deep.
    #[error("the value is nested deeper than {DEPTH_MAX}")]
    Depth,
}

/// Which keys a map may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Printable ASCII that needs no escape: what is hashed must have one form and one order.
    Ascii,
    /// Any: for disclosures, whose very bytes are hashed and kept.
    Any,
}

/// Bytes that are looked at together.
const TOGETHER: usize = 32;

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Where the first byte is that needs an escape.
fn first_escape(bytes: &[u8]) -> Option<usize> {
    let (together, rest) = bytes.as_chunks::<TOGETHER>();
    // Without a way out in between, which lets the compiler look at all of them at once.
    let plain = |part: &&[u8; TOGETHER]| !part.iter().fold(false, |found, byte| found | needs_escape(*byte));
    let before = together.iter().take_while(plain).count();
    let from = before * TOGETHER;
    let near = together.get(before).map_or(rest, <[u8; TOGETHER]>::as_slice);
    near.iter().position(|byte| needs_escape(*byte)).map(|at| from + at)
}

/// Writes a text with its quotes.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = first_escape(rest) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, tail)) = special.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Writes an integer.
pub fn write_integer(out: &mut Vec<u8>, integer: u64) {
    // The longest has twenty digits.
    let (mut digits, mut at, mut left) = ([b'0'; 20], 20, integer);
    while at > 0 {
        at -= 1;
        if let (Some(digit), Ok(value)) = (digits.get_mut(at), u8::try_from(left % 10)) {
            *digit += value;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

/// Writes a value.
///
/// # Errors
/// See [`CanonicalError`]; `out` then holds a part that must be thrown away.
pub fn write_value(out: &mut Vec<u8>, value: &Value, keys: Keys) -> Result<(), CanonicalError> {
    write_at(out, value, keys, 0)
}

fn write_at(out: &mut Vec<u8>, value: &Value, keys: Keys, depth: usize) -> Result<(), CanonicalError> {
    if depth > DEPTH_MAX {
        return Err(CanonicalError::Depth);
    }
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) if (-INTEGER_MAX..=INTEGER_MAX).contains(n) => {
            if *n < 0 {
                out.push(b'-');
            }
            write_integer(out, n.unsigned_abs());
        }
        Value::Int(n) => return Err(CanonicalError::Integer(*n)),
        Value::Text(text) => write_text(out, text),
        Value::List(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_at(out, item, keys, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Map(map) => {
            out.push(b'{');
            for (n, (key, item)) in map.iter().enumerate() {
                if keys == Keys::Ascii && !key.bytes().all(is_key_byte) {
                    return Err(CanonicalError::Key(key.chars().take(64).collect()));
                }
                if n > 0 {
                    out.push(b',');
                }
                write_text(out, key);
                out.push(b':');
                write_at(out, item, keys, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

pub(crate) fn is_key_byte(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-INTEGER_MAX..=INTEGER_MAX).prop_map(Value::Int),
            any::<String>().prop_map(Value::Text),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                proptest::collection::btree_map("[ !#-\\[\\]-~]{0,8}", inner, 0..6).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        /// serde_json with its sorted map writes this profile canonically too; the two were written apart.
        #[test]
        fn agrees_with_a_sorted_json_writer(value in value()) {
            let mut ours = Vec::new();
            write_value(&mut ours, &value, Keys::Ascii).unwrap();
            let parsed: serde_json::Value = serde_json::from_slice(&ours).unwrap();
            prop_assert_eq!(&serde_json::to_value(&value).unwrap(), &parsed);
            prop_assert_eq!(&serde_json::to_vec(&serde_json::to_value(&value).unwrap()).unwrap(), &ours);
            prop_assert!(is_canonical(&ours));
        }

        /// Whatever is called canonical after a change has exactly one writing, its own.
        #[test]
        fn what_is_called_canonical_is_what_a_writer_gives(value in value(), at: usize, byte: u8, kind in 0..3) {
            let mut bytes = Vec::new();
            write_value(&mut bytes, &value, Keys::Ascii).unwrap();
            let at = at % bytes.len();
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if is_canonical(&bytes) {
                let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(serde_json::to_vec(&parsed).unwrap(), bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn an_integer_is_written_as_everywhere(integer: u64) {
            for integer in [integer, integer % 1_000, 0, u64::MAX] {
                let mut out = Vec::new();
                write_integer(&mut out, integer);
                prop_assert_eq!(out, integer.to_string().into_bytes());
            }
        }

        /// Wherever it stands among bytes that are looked at together.
        #[test]
        fn what_needs_an_escape_gets_one(plain in "[a-zäö]{0,80}", at in 0_usize..80, byte in 0_u8..0x80) {
            let mut text: Vec<char> = plain.chars().collect();
            text.insert(at.min(text.len()), char::from(byte));
            let text: String = text.into_iter().collect();
            let mut out = Vec::new();
            write_text(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
        }
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        let mut out = Vec::new();
        assert_eq!(
            write_value(&mut out, &Value::Int(INTEGER_MAX + 1), Keys::Ascii),
            Err(CanonicalError::Integer(INTEGER_MAX + 1))
        );
        let map = Value::Map([("ä".to_owned(), Value::Null)].into());
        assert!(matches!(write_value(&mut out, &map, Keys::Ascii), Err(CanonicalError::Key(_))));
        let deep = (0..100).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert_eq!(write_value(&mut out, &deep, Keys::Any), Err(CanonicalError::Depth));
    }

    #[test]
    fn a_second_writing_of_the_same_value_is_not_canonical() {
        for good in ["{}", "[]", "{\"a\":1,\"b\":[-1,0,\"\\u001f\\n\",null]}", "9007199254740992", "\"ä\u{7f}\""] {
            assert!(is_canonical(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " {}",
            "{} ",
            "{\"a\":1,\"a\":1}",
            "{\"b\":1,\"a\":1}",
            "{\"a\": 1}",
            "{\"a\":1,}",
            "[1,]",
            "[,1]",
            "-0",
            "01",
            "1.0",
            "1e3",
            "9007199254740993",
            "-",
            "+1",
            "NaN",
            "tru",
            "\"\\/\"",
            "\"\\u0041\"",
            "\"\\u000A\"",
            "\"\\u000a\"",
            "\"\\ud800\"",
            "\"a",
            "\"\n\"",
            "{\"\\n\":1}",
            "{\"ä\":1}",
            "{1:1}",
            "[1 2]",
            "{\"a\"}",
            "null null",
        ] {
            assert!(!is_canonical(bad.as_bytes()), "{bad}");
        }
        assert!(!is_canonical(b"\"\xff\""));
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(is_canonical(&deep(DEPTH_MAX + 3)) && !is_canonical(&deep(DEPTH_MAX + 4)));
        assert!(!is_canonical(&deep(1_000_000)));
    }

    #[test]
    fn the_escapes_of_rfc_8785() {
        let mut out = Vec::new();
        write_text(&mut out, "\u{20ac}$\u{000F}\u{000a}A'\u{0042}\u{0022}\u{005c}\\\"/");
        assert_eq!(String::from_utf8(out).unwrap(), "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"");
    }
}
