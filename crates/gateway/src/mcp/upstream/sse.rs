//! Server-sent events as a tool server answers with them: their data counts, and it is bounded. The id
//! of the last one and the wait that the server wants are kept for when the stream has to be taken up again.

use std::time::Duration;

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
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

/// Longest id of an event that a stream can be taken up from.
const ID_BYTES_MAX: usize = 1_024;

/// An event is longer than the bound.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mcp) struct TooLong;

impl Events {
    pub(in crate::mcp) fn new(max: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_return: false,
            max,
            id: None,
            last_id: None,
            retry: None,
        }
    }

    /// The id of the last event that had one.
    pub(in crate::mcp) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().filter(|id| !id.is_empty())
    }

    /// How long the server wants to be left alone before the stream is taken up again.
    pub(in crate::mcp) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Bytes of events that are not whole yet.
    pub(in crate::mcp) fn waiting(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// Begins another stream that goes on where this one broke off.
    pub(in crate::mcp) fn again(&mut self) {
        let (last_id, retry) = (self.last_id.take(), self.retry);
        *self = Self { last_id, retry, ..Self::new(self.max) };
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
            if let Some(id) = self.id.take() {
                self.last_id = Some(id);
            }
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then(|| data.into());
        }
        if let Some(id) = value_of(line, b"id") {
            let id = std::str::from_utf8(id).ok().filter(|id| id.len() <= ID_BYTES_MAX && !id.contains('\0'));
            self.id = id.map(str::to_owned).or_else(|| self.id.take());
        } else if let Some(wait) = value_of(line, b"retry") {
            let wait = std::str::from_utf8(wait).ok().and_then(|wait| wait.parse().ok());
            self.retry = wait.map(Duration::from_millis).or(self.retry);
        }
        let value = value_of(line, b"data")?;
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        None
    }
}

/// What a line says of a field.
fn value_of<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(field)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
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
    fn the_last_id_and_the_wanted_wait_are_kept() {
        let (mut events, mut out) = (Events::new(1_000), Vec::new());
        events.feed(b"id: 1\nretry: 250\n\nid: 2\ndata: x\n\nid: 3\ndata: unfin", &mut out).unwrap();
        assert_eq!((events.last_id(), events.retry()), (Some("2"), Some(Duration::from_millis(250))));
        events.again();
        events.feed(b"data: y\nretry: soon\n\n", &mut out).unwrap();
        assert_eq!((events.last_id(), events.retry(), out.len()), (Some("2"), Some(Duration::from_millis(250)), 2));
        events.feed(format!("id: {}\ndata: z\n\n", "9".repeat(900)).as_bytes(), &mut out).unwrap();
        assert_eq!(events.last_id().map(str::len), Some(900));
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
