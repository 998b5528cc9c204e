//! Leaves as they stand in the write-ahead log: with what is sealed for them, and where.

use std::sync::Arc;

use cogward_wal::{Position, WalReader};

use crate::{frames, read::ReadError, segments::Segments, vault::Sealed};

/// Frames that are read over rather than sought past, in bytes.
const READ_OVER: u64 = 256 * 1024;

/// One leaf in the log.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) tenant: String,
    /// Where its first frame stands.
    pub(crate) at: Position,
    /// Where the next leaf may begin.
    pub(crate) end: Position,
    pub(crate) leaf: Vec<u8>,
    /// The disclosures that were sealed for it.
    pub(crate) sealed: Vec<Vec<u8>>,
}

/// Reads leaves from a place on.
pub(crate) struct Leaves {
    segments: Arc<Segments>,
    to: Position,
    reader: WalReader,
    at: Position,
    heads: bool,
}

impl Leaves {
    /// The leaves from `from`, where one begins, to `to`.
    pub(crate) fn new(segments: &Arc<Segments>, from: Position, to: Position) -> Self {
        Self { reader: segments.reader(from, to), segments: Arc::clone(segments), to, at: from, heads: false }
    }

    /// Of what was sealed for them, only what [`Sealed::peek`] reads.
    pub(crate) fn heads(self) -> Self {
        Self { heads: true, ..self }
    }

    /// The next one, into `found`; whether there was one.
    pub(crate) fn next(&mut self, found: &mut Found) -> Result<bool, ReadError> {
        found.sealed.clear();
        let mut begins = None;
        while let Some(frame) = self.reader.next_frame()? {
            // Frames of later versions, and those of the plane log, are not a tenant's.
            if frame.kind != frames::SEALED && frame.kind != frames::LEAF {
                continue;
            }
            let begin = *begins.get_or_insert(frame.position);
            let damaged = || ReadError::Damaged(frame.position);
            let (tenant, rest) = frames::split_text(frame.payload).ok_or_else(damaged)?;
            if frame.kind == frames::SEALED {
                let kept = if self.heads { Sealed::head(rest).unwrap_or(rest) } else { rest };
                found.sealed.push(kept.to_vec());
                continue;
            }
            (found.at, found.end) = (begin, frame.end);
            found.tenant.clear();
            found.tenant.push_str(tenant);
            found.leaf.clear();
            found.leaf.extend_from_slice(rest);
            self.at = frame.end;
            return Ok(true);
        }
        Ok(false)
    }

    /// The leaf that begins at `at`, into `found`; whether it is there.
    pub(crate) fn find(&mut self, at: Position, found: &mut Found) -> Result<bool, ReadError> {
        let near =
            at.segment == self.at.segment && at.offset >= self.at.offset && at.offset - self.at.offset < READ_OVER;
        if !near {
            (self.reader, self.at) = (self.segments.reader(at, self.to), at);
        }
        while self.next(found)? {
            if found.at >= at {
                return Ok(found.at == at);
            }
        }
        Ok(false)
    }
}
