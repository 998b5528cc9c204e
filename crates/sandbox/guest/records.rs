//! The one message format between a sandbox's guest and its supervisor: `name length`, a line end, the payload, a
//! line end.
//!
//! It has no escapes, no nesting and no numbers but lengths, so that reading it takes a few lines on both sides.
//! Whoever reads decides beforehand how long a payload may be: nothing is allocated because the other side says so.

/// Longest name.
const NAME_BYTES_MAX: usize = 20;
/// Longest first line, without its end: a name, a space and ten digits.
const HEAD_BYTES_MAX: usize = NAME_BYTES_MAX + 11;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is, in small letters and `-`.
    pub name: String,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Why what came is no record. Nothing after it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The first line is not a name and a length.
    Head,
    /// The payload is longer than the reader accepts for this name.
    TooLong,
    /// There is no line end after the payload.
    NoEnd,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "a message does not begin with a name and a length",
            Self::TooLong => "a message is longer than it may be",
            Self::NoEnd => "a message does not end where it says",
        })
    }
}

/// The bytes of one message.
pub fn encode(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{name} {}\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.push(b'\n');
    bytes
}

/// Messages out of bytes that come in any pieces.
#[derive(Debug, Default)]
pub struct Records {
    buffer: Vec<u8>,
    /// The message whose payload is still coming, so that its first line is read once.
    head: Option<Head>,
}

#[derive(Debug)]
struct Head {
    name: String,
    begins: usize,
    length: usize,
}

impl Records {
    /// Takes bytes. The caller bounds how many it brings before it asks for messages.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message. `most` says how long the payload of a name may be; `None` is a name that is not known.
    ///
    /// # Errors
    /// After an error nothing more can be read: where the next message begins is not known.
    pub fn next(&mut self, most: impl Fn(&str) -> Option<usize>) -> Result<Option<Record>, Malformed> {
        let head = match self.head.take() {
            Some(head) => head,
            None => match head(&self.buffer)? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        if head.length > most(&head.name).ok_or(Malformed::Head)? {
            return Err(Malformed::TooLong);
        }
        let ends = head.begins + head.length;
        match self.buffer.get(ends) {
            None => {
                self.head = Some(head);
                Ok(None)
            }
            Some(b'\n') => {
                let payload = self.buffer.get(head.begins..ends).unwrap_or_default().to_vec();
                self.buffer.drain(..=ends);
                Ok(Some(Record { name: head.name, payload }))
            }
            Some(_) => Err(Malformed::NoEnd),
        }
    }
}

/// The first line, once it is whole.
fn head(buffer: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(end) = buffer.iter().take(HEAD_BYTES_MAX + 1).position(|b| *b == b'\n') else {
        return if buffer.len() > HEAD_BYTES_MAX { Err(Malformed::Head) } else { Ok(None) };
    };
    let line = buffer.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(Malformed::Head)?;
    let (name, length) = line.split_once(' ').ok_or(Malformed::Head)?;
    let named =
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let plain = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    if !named || !plain {
        return Err(Malformed::Head);
    }
    let length: u32 = length.parse().map_err(|_| Malformed::Head)?;
    let length = usize::try_from(length).map_err(|_| Malformed::TooLong)?;
    Ok(Some(Head { name: name.to_owned(), begins: end + 1, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(records: &mut Records) -> Result<Vec<Record>, Malformed> {
        let mut found = Vec::new();
        while let Some(record) = records.next(|name| (name != "unknown").then_some(1000))? {
            found.push(record);
        }
        Ok(found)
    }

    #[test]
    fn messages_survive_any_cut() {
        let payloads: [&[u8]; 4] = [b"", b"\n", b"a 5\nb\n\0\xff", &[b'x'; 1000]];
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| encode("argv", payload)).collect();
        for piece in [1, 2, 3, 7, 64, bytes.len()] {
            let mut records = Records::default();
            let mut found = Vec::new();
            for part in bytes.chunks(piece) {
                records.push(part);
                found.extend(all(&mut records).unwrap());
            }
            assert_eq!(found.iter().map(|r| r.payload.as_slice()).collect::<Vec<_>>(), payloads, "pieces of {piece}");
            assert!(records.buffer.is_empty());
        }
    }

    #[test]
    fn what_is_no_message_is_refused_before_it_costs_memory() {
        for (bytes, why) in [
            (&b" 1\nx\n"[..], Malformed::Head),
            (b"argv\n", Malformed::Head),
            (b"argv 01\nx\n", Malformed::Head),
            (b"argv +1\nx\n", Malformed::Head),
            (b"argv -1\nx\n", Malformed::Head),
            (b"argv 1 \nx\n", Malformed::Head),
            (b"argv \nx\n", Malformed::Head),
            (b"Argv 1\nx\n", Malformed::Head),
            (b"arg\xffv 1\nx\n", Malformed::Head),
            (b"unknown 1\nx\n", Malformed::Head),
            (b"argv 99999999999\n", Malformed::Head),
            (b"argv 4294967295\n", Malformed::TooLong),
            (b"argv 1001\n", Malformed::TooLong),
            (b"argv 1\nxy", Malformed::NoEnd),
            (&[b'a'; 64], Malformed::Head),
        ] {
            let mut records = Records::default();
            records.push(bytes);
            assert_eq!(all(&mut records), Err(why), "{:?}", String::from_utf8_lossy(bytes));
        }
        let mut begun = Records::default();
        begun.push(b"argv 1000");
        assert_eq!(all(&mut begun), Ok(Vec::new()));
    }
}
