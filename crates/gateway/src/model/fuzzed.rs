//! What must hold of any bytes where streams of answers are read; tried by [`crate::fuzz`].

use super::sse::{Splitter, data};

/// Events, in two parts and byte by byte, against each other and against the bytes. How many there are.
pub(crate) fn events(bytes: &[u8]) -> usize {
    let read = |size: usize| {
        let (mut splitter, mut found) = (Splitter::default(), Vec::new());
        for part in bytes.chunks(size.max(1)) {
            if let Ok(Some(block)) = splitter.feed(part) {
                found.extend(block.events());
            }
        }
        (found, splitter.rest())
    };
    let (whole, rest) = read(bytes.len());
    let joined: Vec<u8> = whole.iter().chain([&rest]).flatten().copied().collect();
    assert_eq!(joined, bytes, "nothing is lost and nothing is added");
    let payload = |events: &[bytes::Bytes]| -> Vec<Vec<u8>> {
        events.iter().filter_map(|event| data(event).map(|data| data.into_owned())).collect()
    };
    let small = if bytes.len() > 512 { 61 } else { 1 };
    for size in [small, 97, bytes.len() / 2] {
        let (cut, _) = read(size);
        assert_eq!(payload(&whole), payload(&cut), "where the stream is cut makes a difference");
    }
    whole.len()
}
