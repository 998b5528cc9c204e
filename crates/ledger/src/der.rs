//! A strict reader of DER (X.690): the little that a time stamp needs.
//!
//! Definite lengths in their shortest form, tags of one byte, integers in their shortest form. It goes forward only and
//! never down by itself, so no input makes it deep; what it reads are borrowed slices of the input. Nothing panics.

/// Bytes that are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not DER of the expected form")]
pub(crate) struct DerError;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Context-specific and constructed.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// What is left of some elements that stand one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next element: its tag and its content.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), DerError> {
        let (tag, rest) = self.0.split_first().ok_or(DerError)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError);
        }
        let (first, mut rest) = rest.split_first().ok_or(DerError)?;
        let mut length = usize::from(*first);
        if length > 0x7f {
            // Nothing that is read here has 16 MiB.
            let count = length - 0x80;
            let (bytes, behind) = rest.split_at_checked(count).filter(|_| (1..=3).contains(&count)).ok_or(DerError)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            if length < 0x80 || bytes.first() == Some(&0) {
                return Err(DerError);
            }
            rest = behind;
        }
        let (content, behind) = rest.split_at_checked(length).ok_or(DerError)?;
        self.0 = behind;
        Ok((*tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn of(&mut self, wanted: u8) -> Result<&'a [u8], DerError> {
        let (tag, content) = self.any()?;
        if tag == wanted { Ok(content) } else { Err(DerError) }
    }

    /// The same, when it is there.
    pub(crate) fn maybe(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.0.first() == Some(&wanted) { self.of(wanted).map(Some) } else { Ok(None) }
    }

    /// The elements within the next one.
    pub(crate) fn within(&mut self, wanted: u8) -> Result<Self, DerError> {
        self.of(wanted).map(Self)
    }

    /// An integer in its shortest form, as it stands.
    pub(crate) fn integer(&mut self) -> Result<&'a [u8], DerError> {
        integer(self.of(INTEGER)?)
    }

    /// That nothing follows.
    pub(crate) fn end(self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError) }
    }
}

/// The content of an integer, when it is in its shortest form.
pub(crate) fn integer(content: &[u8]) -> Result<&[u8], DerError> {
    match content {
        [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => Err(DerError),
        _ => Ok(content),
    }
}

/// The dotted text of an object identifier.
pub(crate) fn oid(content: &[u8]) -> Result<String, DerError> {
    if content.len() > 64 || content.last().is_none_or(|last| last & 0x80 != 0) {
        return Err(DerError);
    }
    let (mut text, mut arc, mut begins) = (String::new(), 0_u64, true);
    for byte in content {
        if begins && *byte == 0x80 || arc >> 57 != 0 {
            return Err(DerError);
        }
        (arc, begins) = (arc << 7 | u64::from(byte & 0x7f), byte & 0x80 == 0);
        if begins {
            text = match (text.is_empty(), arc) {
                (true, ..80) => format!("{}.{}", arc / 40, arc % 40),
                (true, _) => format!("2.{}", arc - 80),
                (false, _) => format!("{text}.{arc}"),
            };
            arc = 0;
        }
    }
    Ok(text)
}

/// Writes one element.
pub(crate) fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let bytes = length.to_be_bytes();
    let significant = bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
    let mut whole = vec![tag];
    match (u8::try_from(length), u8::try_from(significant.len())) {
        (Ok(short @ ..0x80), _) => whole.push(short),
        (_, count) => {
            whole.push(0x80 | count.unwrap_or(8));
            whole.extend_from_slice(&significant);
        }
    }
    for part in content {
        whole.extend_from_slice(part);
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_writing_of_each_element_is_read_and_no_other() {
        for (bytes, content) in [
            (&[2, 1, 5][..], Some(&[5][..])),
            (&[2, 0x81, 1, 5], None),
            (&[2, 0x80, 5, 0, 0], None),
            (&[2, 2, 0, 5], None),
            (&[2, 2, 0, 0x80], Some(&[0, 0x80])),
            (&[2, 2, 0xff, 0x80], None),
            (&[2, 0], None),
            (&[2, 2, 5], None),
            (&[0x1f, 2, 1, 5], None),
            (&[2, 0x84, 0, 0, 0, 1, 5], None),
            (&[2], None),
            (&[], None),
        ] {
            assert_eq!(Der::new(bytes).integer().ok(), content, "{bytes:x?}");
        }
    }

    #[test]
    fn identifiers_are_read_as_they_are_written() {
        for (bytes, text) in [
            (
                &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04][..],
                Some("1.2.840.113549.1.9.16.1.4"),
            ),
            (&[0x88, 0x37], Some("2.999")),
            (&[0x2a, 0x80, 0x01], None),
            (&[0x2a, 0x86], None),
            (&[], None),
            (&[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], None),
        ] {
            assert_eq!(oid(bytes).ok().as_deref(), text, "{bytes:x?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_again(content in prop::collection::vec(any::<u8>(), 0..2_000), tag in 0_u8..31) {
            let content = content.repeat(37);
            let written = element(tag, &[&content]);
            let mut der = Der::new(&written);
            prop_assert_eq!(der.of(tag).unwrap(), &content[..]);
            prop_assert!(der.end().is_ok());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut der = Der::new(&bytes);
            while let Ok((_, content)) = der.any() {
                let (_integer, _oid) = (integer(content), oid(content));
            }
        }
    }
}
