//! One frame: `{len u32, kind u8, flags u8, 0 u16, batch u64, crc32c u32}`, little endian, then the payload.
//!
//! The checksum covers the header before it and the payload. The batch number and the mark on the
//! last frame of a batch let recovery tell a torn batch, which nobody was told of, from damage to
//! batches that were acknowledged: a batch is written only after the one before it is on the disk.

/// Largest payload of one frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 20;

const CRC_AT: usize = 16;
const FLAG_LAST: u8 = 1;

/// A place in the log. Places are ordered as the frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The number of the segment.
    pub segment: u64,
    /// Bytes from the start of the segment's file.
    pub offset: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {} at byte {}", self.segment, self.offset)
    }
}

/// One frame as it is read back.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Where it starts.
    pub position: Position,
    /// Where the next one may start.
    pub end: Position,
    /// What the writer said it is.
    pub kind: u8,
    /// What the writer gave.
    pub payload: &'a [u8],
}

/// A header whose shape is possible; its checksum is not yet compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) last: bool,
    pub(crate) batch: u64,
    crc: u32,
}

impl Header {
    /// Reads the header, or `None` when no writer of ours can have made it.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [l0, l1, l2, l3, kind, flags, z0, z1, b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3] = *bytes;
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
        let possible = len <= FRAME_BYTES_MAX && kind != 0 && flags & !FLAG_LAST == 0 && z0 == 0 && z1 == 0;
        possible.then(|| Self {
            len,
            kind,
            last: flags & FLAG_LAST != 0,
            batch: u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Whether the checksum agrees.
    pub(crate) fn holds(&self, header: &[u8; HEADER_BYTES], payload: &[u8]) -> bool {
        let covered = header.get(..CRC_AT).unwrap_or_default();
        crc32c::crc32c_append(crc32c::crc32c(covered), payload) == self.crc
    }
}

/// Appends a frame to `buffer`; `parts` are its payload, one behind the other.
pub(crate) fn push(buffer: &mut Vec<u8>, kind: u8, batch: u64, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    // The caller has compared `len` with FRAME_BYTES_MAX, which fits.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let mut covered = [0_u8; CRC_AT];
    covered[..4].copy_from_slice(&len.to_le_bytes());
    covered[4] = kind;
    covered[8..].copy_from_slice(&batch.to_le_bytes());
    let mut crc = crc32c::crc32c(&covered);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    buffer.extend_from_slice(&covered);
    buffer.extend_from_slice(&crc.to_le_bytes());
    for part in parts {
        buffer.extend_from_slice(part);
    }
}

/// Marks the frame that starts at `start` and ends the buffer as the last of its batch.
pub(crate) fn mark_last(buffer: &mut [u8], start: usize) {
    let Some(frame) = buffer.get_mut(start..) else { return };
    if frame.len() < HEADER_BYTES {
        return;
    }
    let (header, payload) = frame.split_at_mut(HEADER_BYTES);
    header[5] |= FLAG_LAST;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), payload);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_changed_bit_is_seen(payload in proptest::collection::vec(any::<u8>(), 0..64), bit in 0usize..640) {
            let mut bytes = Vec::new();
            push(&mut bytes, 7, 3, &[&payload]);
            mark_last(&mut bytes, 0);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
            let whole = Header::parse(&header)
                .is_some_and(|h| h.len == payload.len() && h.holds(&header, &bytes[HEADER_BYTES..]));
            prop_assert!(!whole);
        }
    }
}
