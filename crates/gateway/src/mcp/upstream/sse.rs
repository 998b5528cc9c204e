//! Server-sent events as a tool server answers with them: only their data counts, and it is bounded.

use bytes::Bytes;

/// Cuts a stream of bytes into the data of its events.
#[derive(Debug)]
pub(in crate::mcp) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return, and a line feed after it belongs to it.
    after_return: bool,
    max: usize,
}

/// An event is longer than the bound.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mcp) struct TooLong;

impl Events {
    pub(in crate::mcp) fn new(max: usize) -> Self {
        Self { line: Vec::new(), data: Vec::new(), has_data: false, after_return: false, max }
    }

    /// Takes bytes and appends the data of every event that they complete.
    pub(in crate::mcp) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Bytes>) -> Result<(), TooLong> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest.first() == Some(&b'\n') {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = end.unwrap_or(rest.len());
            if self.line.len() + self.data.len() + taken > self.max {
                return Err(TooLong);
            }
            self.line.extend_from_slice(rest.get(..taken).unwrap_or_default());
            let Some(end) = end else { return Ok(()) };
            self.after_return = rest.get(end) == Some(&b'\r');
            rest = rest.get(end + 1..).unwrap_or_default();
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.line_ended(&line) {
                out.push(event);
            }
        }
        Ok(())
    }

    fn line_ended(&mut self, line: &[u8]) -> Option<Bytes> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then(|| data.into());
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return None,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(parts: &[&[u8]]) -> Vec<Bytes> {
        let (mut events, mut out) = (Events::new(1_000), Vec::new());
        for part in parts {
            events.feed(part, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn events_are_found_whatever_ends_their_lines() {
        for text in ["id: 1\ndata: {}\n\n", "id: 1\r\ndata: {}\r\n\r\n", "id: 1\rdata:{}\r\r"] {
            assert_eq!(all(&[text.as_bytes()]), ["{}"], "{text:?}");
        }
        assert_eq!(all(&[b": hello\n\ndata: a\ndata: b\n\nevent: x\n\n"]), ["a\nb"]);
        assert_eq!(all(&[b"data: unfinished"]), Vec::<Bytes>::new());
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut events = Events::new(100);
        let mut out = Vec::new();
        let mut feed = || (0..100).try_for_each(|_| events.feed(b"data: xxxxxxxxxx\n", &mut out));
        assert_eq!(feed(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_makes_no_difference(text in "(data: [a-z]{0,5}\r?\n|:x\n|\r\n|\n){0,20}", at in 0_usize..200) {
            let bytes = text.as_bytes();
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(all(&[bytes]), all(&[first, second]));
        }
    }
}
