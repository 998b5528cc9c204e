//! One strict pass over a leaf: whether its bytes are canonical, and what a verifier needs of it.
//!
//! Verification spends its time here and in SHA-256. A general parser would build what nobody asks
//! for and would have to be doubted: what it accepts and what is canonical are different sets. This
//! one knows the form, takes slices of the bytes, and is held equal to the general parser by tests.

use crate::{
    canonical::{DEPTH_MAX, INTEGER_MAX, is_key_byte},
    leaf::{Parsed, ParsedBody, ParsedChain},
};

/// Whether these bytes are exactly what this profile's writer gives for what they say.
///
/// One pass, nothing is parsed or written anew. A verifier that only parsed could be shown one value
/// where another reader sees a second one: keys that stand twice, numbers beyond 2^53, escapes.
#[must_use]
pub fn is_canonical(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut scan = Scan { text, at: 0 };
    scan.value(0).is_some() && scan.at == text.len()
}

impl<'a> Parsed<'a> {
    /// Reads a leaf that is canonical and of the known form, in one pass.
    ///
    /// Stricter than [`Parsed::from_bytes`], which takes any writing of a leaf.
    ///
    /// # Errors
    /// In words, which of the two it is not.
    pub fn from_canonical(leaf: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(leaf).map_err(|_| "it is not canonical JSON")?;
        let mut scan = Scan { text, at: 0 };
        match scan.leaf() {
            Some(parsed) if scan.at == text.len() => Ok(parsed),
            _ if is_canonical(leaf) => Err("it is not a leaf of the form that is known"),
            _ => Err("it is not canonical JSON"),
        }
    }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

/// A value, as far as a leaf's own fields need it.
#[derive(Clone, Copy)]
enum Found<'a> {
    Null,
    /// A text without escapes: its characters are its bytes.
    Plain(&'a str),
    Natural(u64),
    /// Anything else.
    Other,
}

impl<'a> Found<'a> {
    fn text(self) -> Option<&'a str> {
        if let Self::Plain(text) = self { Some(text) } else { None }
    }

    fn text_or_null(self) -> Option<Option<&'a str>> {
        match self {
            Self::Null => Some(None),
            Self::Plain(text) => Some(Some(text)),
            _ => None,
        }
    }

    fn natural(self) -> Option<u64> {
        if let Self::Natural(number) = self { Some(number) } else { None }
    }

    fn natural_or_null(self) -> Option<Option<u64>> {
        match self {
            Self::Null => Some(None),
            Self::Natural(number) => Some(Some(number)),
            _ => None,
        }
    }
}

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Where the first byte stands that ends a text or needs an escape: a quote, a backslash, a control character.
fn special(bytes: &[u8]) -> Option<usize> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (n, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        // Of each, the lowest byte that is marked is right; one above it may be marked by a borrow.
        let control = word.wrapping_sub(EACH * 0x20) & !word;
        let quote = word ^ (EACH * u64::from(b'"'));
        let quote = quote.wrapping_sub(EACH) & !quote;
        let backslash = word ^ (EACH * u64::from(b'\\'));
        let backslash = backslash.wrapping_sub(EACH) & !backslash;
        let marked = (control | quote | backslash) & HIGH;
        if marked != 0 {
            return Some(n * 8 + marked.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\'))?;
    Some(chunks.len() * 8 + at)
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, text: &[u8]) -> Option<()> {
        let there = self.rest().starts_with(text);
        self.at += if there { text.len() } else { 0 };
        there.then_some(())
    }

    /// `{"body":{…},"chain":{"prev":…,"seq":…,"time":…}}`
    fn leaf(&mut self) -> Option<Parsed<'a>> {
        self.skip(b"{\"body\":")?;
        let body = self.body()?;
        self.skip(b",\"chain\":{\"prev\":")?;
        let prev = self.value(2)?.text_or_null()?;
        self.skip(b",\"seq\":")?;
        let seq = self.value(2)?.natural()?;
        self.skip(b",\"time\":")?;
        let time = self.value(2)?.text()?;
        self.skip(b"}}")?;
        Some(Parsed { body, chain: ParsedChain { prev, seq, time } })
    }

    fn body(&mut self) -> Option<ParsedBody<'a>> {
        let (mut id, mut tenant, mut kind, mut version) = (None, None, None, None);
        let (mut run, mut run_prev, mut run_seq) = (None, None, None);
        if self.text.as_bytes().get(self.at) != Some(&b'{') {
            return None;
        }
        self.map(1, &mut |key, value| {
            match key {
                "id" => id = Some(value.text()?),
                "run" => run = value.text_or_null()?,
                "run_prev" => run_prev = value.text_or_null()?,
                "run_seq" => run_seq = value.natural_or_null()?,
                "tenant" => tenant = Some(value.text()?),
                "type" => kind = Some(value.text()?),
                "v" => version = Some(value.natural()?),
                _ => {}
            }
            Some(())
        })?;
        Some(ParsedBody { id: id?, run, run_prev, run_seq, tenant: tenant?, kind: kind?, v: version? })
    }

    fn value(&mut self, depth: usize) -> Option<Found<'a>> {
        // A leaf's values are two levels below its top.
        if depth > DEPTH_MAX + 2 {
            return None;
        }
        match self.text.as_bytes().get(self.at)? {
            b'{' => self.map(depth, &mut |_, _| Some(())).map(|()| Found::Other),
            b'[' => self.list(depth).map(|()| Found::Other),
            b'"' => self.text().map(|text| text.map_or(Found::Other, Found::Plain)),
            b'-' | b'0'..=b'9' => self.integer(),
            b'n' => self.skip(b"null").map(|()| Found::Null),
            b't' => self.skip(b"true").map(|()| Found::Other),
            _ => self.skip(b"false").map(|()| Found::Other),
        }
    }

    fn map(&mut self, depth: usize, each: &mut dyn FnMut(&'a str, Found<'a>) -> Option<()>) -> Option<()> {
        self.next();
        if self.skip(b"}").is_some() {
            return Some(());
        }
        let mut before: Option<&str> = None;
        loop {
            // A key without escapes, or none.
            let key = self.text()??;
            // Strictly rising: sorted, and none twice.
            if !key.bytes().all(is_key_byte) || before.is_some_and(|before| before >= key) {
                return None;
            }
            before = Some(key);
            self.skip(b":")?;
            let value = self.value(depth + 1)?;
            each(key, value)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.next();
        if self.skip(b"]").is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A text: what stands between its quotes when nothing of it is escaped, `Some(None)` otherwise.
    fn text(&mut self) -> Option<Option<&'a str>> {
        self.skip(b"\"")?;
        let (start, mut plain) = (self.at, true);
        loop {
            self.at += special(self.rest())?;
            match self.next()? {
                b'"' if plain => return self.text.get(start..self.at - 1).map(Some),
                b'"' => return Some(None),
                b'\\' => {
                    plain = false;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    /// The one escape that each character has; most have none.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r' => Some(()),
            b'u' => {
                self.skip(b"00")?;
                let tens = match self.next()? {
                    b'0' => 0,
                    b'1' => 16,
                    _ => return None,
                };
                let ones = match self.next()? {
                    digit @ b'0'..=b'9' => digit - b'0',
                    digit @ b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                (!matches!(tens + ones, 0x08 | b'\t' | b'\n' | 0x0c | b'\r')).then_some(())
            }
            _ => None,
        }
    }

    fn integer(&mut self) -> Option<Found<'a>> {
        let negative = self.skip(b"-").is_some();
        let (mut value, start) = (0_u64, self.at);
        while let Some(digit) = self.text.as_bytes().get(self.at).filter(|byte| byte.is_ascii_digit()) {
            // Stops far below where it could overflow.
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let (digits, zero_first) = (self.at - start, self.text.as_bytes().get(start) == Some(&b'0'));
        // One writing for each number: no minus zero, no zeros in front.
        let one_writing = digits > 0 && !(zero_first && (digits > 1 || negative));
        if !one_writing || value > INTEGER_MAX.unsigned_abs() {
            return None;
        }
        Some(if negative { Found::Other } else { Found::Natural(value) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAF: &str = concat!(
        r#"{"body":{"act":null,"args":{"$c":"KNyw"},"id":"evt_1","list":[1,{"a":-1}],"run":"run_1","run_prev":null,"#,
        r#""run_seq":1,"sub":"ä\n","tenant":"acme","type":"x.y","v":1},"#,
        r#""chain":{"prev":null,"seq":0,"time":"2026-11-22T10:11:12.123456Z"}}"#
    );

    /// What the general parser says, and nothing that is not canonical. It takes a missing `chain.prev` for `null`.
    fn general(leaf: &[u8]) -> Option<String> {
        let has_prev = leaf.windows(16).any(|part| part == b"\"chain\":{\"prev\":");
        let parsed = Parsed::from_bytes(leaf).ok().filter(|_| is_canonical(leaf) && has_prev);
        parsed.map(|parsed| format!("{parsed:?}"))
    }

    fn strict(leaf: &[u8]) -> Option<String> {
        Parsed::from_canonical(leaf).ok().map(|parsed| format!("{parsed:?}"))
    }

    #[test]
    fn the_strict_pass_reads_what_the_general_parser_reads() {
        assert!(strict(LEAF.as_bytes()).is_some());
        assert_eq!(strict(LEAF.as_bytes()), general(LEAF.as_bytes()));
    }

    #[test]
    fn a_chain_without_its_predecessor_is_not_a_leaf() {
        let without = LEAF.replace("\"prev\":null,", "");
        assert!(is_canonical(without.as_bytes()) && Parsed::from_canonical(without.as_bytes()).is_err());
    }

    #[test]
    fn every_byte_replaced_removed_or_doubled_is_judged_as_by_the_general_parser() {
        let whole = LEAF.as_bytes();
        let interesting: Vec<u8> = b"\"\\{}[]:,.-+019aefnrtuvE \n\x00\x1f\x7f\x80\xc3\xff".to_vec();
        for at in 0..whole.len() {
            let mut variants: Vec<Vec<u8>> = Vec::new();
            for byte in &interesting {
                let mut replaced = whole.to_vec();
                replaced[at] = *byte;
                let mut inserted = whole.to_vec();
                inserted.insert(at, *byte);
                variants.extend([replaced, inserted]);
            }
            let mut removed = whole.to_vec();
            removed.remove(at);
            variants.extend([removed, whole[..at].to_vec()]);
            for variant in variants {
                assert_eq!(strict(&variant), general(&variant), "{}", String::from_utf8_lossy(&variant));
            }
        }
    }

    proptest! {
        /// Values of every kind in the places that the verifier reads, and a field that it does not know.
        #[test]
        fn agrees_with_the_general_parser_on_any_values(
            place in 0..8_usize,
            value in prop_oneof![
                Just("null".to_owned()), Just("true".to_owned()), Just("\"\"".to_owned()), Just("[]".to_owned()),
                Just("{\"$c\":\"x\"}".to_owned()), Just("\"a\\\\b\"".to_owned()), Just("\"\\u001f\"".to_owned()),
                "-?[0-9]{1,20}", "\"[a-zäß€ ]{0,20}\"", "\\PC{0,12}", "[0-9]{1,3}(\\.[0-9]|e[0-9])?",
            ],
        ) {
            let old = ["\"evt_1\"", "\"run_1\"", "1,\"sub\"", "\"acme\"", "\"x.y\"", "1}", "null,\"seq\"", "[1,"][place];
            let tail = old.trim_start_matches("null").trim_start_matches(['1', '[']).to_owned();
            let tail = if old.starts_with('"') { String::new() } else { tail };
            let head = if old.starts_with('[') { "[" } else { "" };
            let leaf = LEAF.replacen(old, &format!("{head}{value}{tail}"), 1);
            prop_assert_eq!(strict(leaf.as_bytes()), general(leaf.as_bytes()), "{}", leaf);
        }

        #[test]
        fn the_special_byte_is_the_first_one(bytes in proptest::collection::vec(
            prop_oneof![Just(b'"'), Just(b'\\'), Just(0x1f_u8), Just(b'!'), Just(b' '), Just(0x80), Just(0xa2), Just(0xdc), any::<u8>()],
            0..40,
        )) {
            let plain = bytes.iter().position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\'));
            prop_assert_eq!(special(&bytes), plain);
        }
    }
}
