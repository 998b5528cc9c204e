//! Server-sent events, cut into whole events whatever the network did to them.
//!
//! The relay passes on bytes as the upstream sent them; this only finds where one event ends and the
//! next begins, so that usage can be read and no half event is ever passed on.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use cogward_model::limits::STREAM_EVENT_BYTES_MAX;

/// An event is longer than [`STREAM_EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {STREAM_EVENT_BYTES_MAX} bytes")]
pub(super) struct EventTooLong;

/// Whole events, back to back.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Bytes,
    ends: Vec<usize>,
}

impl Block {
    /// One event that fills the block: what was left when the stream ended.
    pub(super) fn single(bytes: Bytes) -> Self {
        let ends = vec![bytes.len()];
        Self { bytes, ends }
    }

    /// The events in order.
    pub(super) fn events(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let event = self.bytes.slice(start..end);
            start = end;
            event
        })
    }

    /// The block without the events that `keep` refuses; untouched bytes are not copied.
    pub(super) fn retain(&self, mut keep: impl FnMut(&Bytes) -> bool) -> Vec<Bytes> {
        let mut kept = Vec::with_capacity(1);
        let (mut from, mut at) = (0, 0);
        for event in self.events() {
            let end = at + event.len();
            if !keep(&event) {
                if at > from {
                    kept.push(self.bytes.slice(from..at));
                }
                from = end;
            }
            at = end;
        }
        if at > from {
            kept.push(self.bytes.slice(from..at));
        }
        kept
    }
}

/// Finds the ends of events in a stream that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: BytesMut,
    scanned: usize,
    line: usize,
    after_cr: bool,
}

impl Splitter {
    /// Takes the next piece; gives the events that are whole now.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Option<Block>, EventTooLong> {
        self.buffer.extend_from_slice(piece);
        let mut ends: Vec<usize> = Vec::new();
        for (at, byte) in self.buffer.iter().enumerate().skip(self.scanned) {
            match byte {
                // The second half of a line end, which may come in the next piece.
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    if let Some(last) = ends.last_mut().filter(|last| **last == at) {
                        *last = at + 1;
                    }
                }
                b'\r' | b'\n' => {
                    if self.line == 0 {
                        ends.push(at + 1);
                    }
                    self.line = 0;
                    self.after_cr = *byte == b'\r';
                }
                _ => {
                    self.line += 1;
                    self.after_cr = false;
                }
            }
        }
        let mut start = 0;
        for &end in ends.iter().chain([&self.buffer.len()]) {
            if end - start > STREAM_EVENT_BYTES_MAX {
                return Err(EventTooLong);
            }
            start = end;
        }
        let Some(&whole) = ends.last() else {
            self.scanned = self.buffer.len();
            return Ok(None);
        };
        let bytes = self.buffer.split_to(whole).freeze();
        self.scanned = self.buffer.len();
        Ok(Some(Block { bytes, ends }))
    }

    /// Bytes of an event whose end has not come yet.
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// What came after the last whole event.
    pub(super) fn rest(&mut self) -> Bytes {
        self.scanned = 0;
        self.buffer.split().freeze()
    }
}

/// The `data` of an event: its data lines, joined. `None` for a comment or an empty event.
pub(super) fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut found: Option<Cow<'_, [u8]>> = None;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value {
            [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
            [] => value,
            _ => continue,
        };
        found = Some(match found {
            None => Cow::Borrowed(value),
            Some(before) => {
                let mut joined = before.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(stream: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut splitter = Splitter::default();
        let (mut data_seen, mut bytes, mut rest) = (Vec::new(), Vec::new(), stream);
        let mut lengths = pieces.iter().copied().chain(std::iter::repeat(7));
        while !rest.is_empty() {
            let take = lengths.next().unwrap_or(1).clamp(1, rest.len());
            let (piece, after) = rest.split_at(take);
            rest = after;
            if let Some(block) = splitter.feed(piece).unwrap() {
                for event in block.events() {
                    data_seen.extend(data(&event).map(Cow::into_owned));
                    bytes.extend_from_slice(&event);
                }
            }
        }
        let rest = splitter.rest();
        data_seen.extend(data(&rest).map(Cow::into_owned));
        bytes.extend_from_slice(&rest);
        (data_seen, bytes)
    }

    #[test]
    fn every_line_end_of_the_standard_is_understood() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!(": hello{end}{end}event: x{end}data: 1{end}data:2{end}{end}data: 3{end}{end}");
            let (seen, bytes) = split(stream.as_bytes(), &[1; 80]);
            assert_eq!(seen, [b"1\n2".to_vec(), b"3".to_vec()]);
            assert_eq!(bytes, stream.as_bytes());
        }
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_the_memory() {
        let mut splitter = Splitter::default();
        let piece = vec![b'x'; 64 * 1024];
        let mut fed = 0;
        while splitter.feed(&piece).is_ok() {
            fed += piece.len();
            assert!(fed <= STREAM_EVENT_BYTES_MAX);
        }
        assert_eq!(fed, STREAM_EVENT_BYTES_MAX);
    }

    #[test]
    fn a_dropped_event_leaves_its_neighbours_whole() {
        let mut splitter = Splitter::default();
        let block = splitter.feed(b"data: a\n\ndata: drop\n\ndata: b\n\ndata: half").unwrap().unwrap();
        let kept = block.retain(|event| data(event).as_deref() != Some(b"drop"));
        assert_eq!(kept, [Bytes::from_static(b"data: a\n\n"), Bytes::from_static(b"data: b\n\n")]);
        assert_eq!(splitter.rest(), Bytes::from_static(b"data: half"));
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_changes_nothing(
            events in proptest::collection::vec(("[a-z{}\": ]{0,40}", 0_usize..3), 1..20),
            pieces in proptest::collection::vec(1_usize..30, 0..60),
        ) {
            let mut stream = String::new();
            let mut expected = Vec::new();
            for (text, end) in &events {
                let end = ["\n", "\r\n", "\r"][*end];
                stream.push_str(&format!("event: e{end}data: {text}{end}{end}"));
                expected.push(text.clone().into_bytes());
            }
            let (seen, bytes) = split(stream.as_bytes(), &pieces);
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(bytes, stream.into_bytes());
        }

        #[test]
        fn arbitrary_bytes_come_out_as_they_went_in(stream: Vec<u8>, pieces in proptest::collection::vec(1_usize..9, 0..40)) {
            let (_, bytes) = split(&stream, &pieces);
            prop_assert_eq!(bytes, stream);
        }
    }
}
