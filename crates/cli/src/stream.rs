//! Reads server-sent events (the `text/event-stream` format) with bounds on every line and event.

use std::io::{self, BufRead, BufReader, Read};

use cogward_model::limits::STREAM_EVENT_BYTES_MAX;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamEvent {
    /// Its cursor.
    pub id: Option<String>,
    /// Its data.
    pub data: String,
}

/// A stream of events.
pub struct EventStream<R> {
    lines: BufReader<R>,
}

impl<R: Read> EventStream<R> {
    /// Reads from an answer's body.
    pub fn new(body: R) -> Self {
        Self { lines: BufReader::new(body) }
    }

    /// The next event with data; none at the stream's end. An event that the end cuts off is left out.
    pub fn next_event(&mut self) -> io::Result<Option<StreamEvent>> {
        let mut event = StreamEvent::default();
        let mut has_data = false;
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if has_data {
                    return Ok(Some(event));
                }
                event = StreamEvent::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = Some(value.to_owned()),
                "data" => {
                    if has_data {
                        event.data.push('\n');
                    }
                    has_data = true;
                    event.data.push_str(value);
                    if event.data.len() > STREAM_EVENT_BYTES_MAX {
                        return Err(io::Error::other("an event is too large"));
                    }
                }
                // Comments keep the connection alive; the other fields say nothing that the data does not.
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next line without its end.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let limit = STREAM_EVENT_BYTES_MAX as u64 + 64;
        let read = self.lines.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        if bytes.last() != Some(&b'\n') {
            // The end of the stream, or a line without one: neither is an event.
            return if read as u64 >= limit { Err(io::Error::other("a line is too long")) } else { Ok(None) };
        }
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        String::from_utf8(bytes).map(Some).map_err(|_| io::Error::other("the stream is not text"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Vec<StreamEvent> {
        let mut stream = EventStream::new(text.as_bytes());
        let mut events = Vec::new();
        while let Some(event) = stream.next_event().unwrap() {
            events.push(event);
        }
        events
    }

    #[test]
    fn events_comments_and_an_event_that_is_cut_off() {
        let text =
            ": hello\n\nid: 1\nevent: run.started\ndata: {\"a\":\ndata: 1}\n\nid: 2\r\ndata:x\r\n\r\nid: 3\ndata: cut";
        assert_eq!(
            all(text),
            [
                StreamEvent { id: Some("1".into()), data: "{\"a\":\n1}".into() },
                StreamEvent { id: Some("2".into()), data: "x".into() },
            ]
        );
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept_in_memory() {
        let endless = io::repeat(b'a');
        assert!(EventStream::new(endless).next_event().is_err());
        let many = "data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n".repeat(20_000);
        assert!(EventStream::new(many.as_bytes()).next_event().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut stream = EventStream::new(bytes.as_slice());
            while let Ok(Some(_)) = stream.next_event() {}
        }

        #[test]
        fn data_reads_back(lines in proptest::collection::vec("[ -~]{0,40}", 1..5)) {
            let text: String = lines.iter().map(|l| format!("data: {l}\n")).collect();
            let events = all(&format!("{text}\n"));
            prop_assert_eq!(&events[0].data, &lines.join("\n"));
        }
    }
}
