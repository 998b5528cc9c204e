//! Opening the log: every frame is read and checked once, and the end is found.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::{
    frame::{FRAME_BYTES_MAX, Frame, HEADER_BYTES, Header, Position},
    log::{Options, Wal},
    segment::{self, InDirectory, SEGMENT_HEADER_BYTES, SegmentReader, Step},
};

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The files could not be read or made.
    #[error("the write-ahead log could not be opened")]
    Io(#[from] io::Error),
    /// Another process has it.
    #[error("another process holds the write-ahead log")]
    Held,
    /// A segment is missing between two that are there.
    #[error("segment {0} of the write-ahead log is missing")]
    MissingSegment(u64),
    /// Bytes that were acknowledged are not what was written.
    #[error("the write-ahead log is damaged in {0}, before data that was acknowledged")]
    Damaged(Position),
}

/// A place in the log from which on it can be read by itself: everything before it was read and checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Where the frames of the next batch begin.
    pub at: Position,
    /// The number of the batch before it.
    pub batch: u64,
}

/// An unfinished batch at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Where the whole frames end.
    pub at: Position,
    /// Bytes from there to the last one that was written.
    pub bytes: u64,
}

impl Wal {
    /// Opens the log in `dir`, makes it when there is none, and shows every frame to `visit` in order.
    ///
    /// A torn tail is left as it is: see [`Wal::torn`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: Options, visit: &mut dyn FnMut(Frame<'_>)) -> Result<Self, OpenError> {
        Self::open_from(dir, options, None, visit)
    }

    /// The same, but reads only what is behind `start`. What is before it is taken as it was when that place was noted.
    ///
    /// # Errors
    /// See [`OpenError`]; a start that this log does not have is damage.
    pub fn open_from(
        dir: &Path,
        options: Options,
        start: Option<Start>,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Self, OpenError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => OpenError::Held,
            fs::TryLockError::Error(error) => OpenError::Io(error),
        })?;
        segment::remove_prepared(dir)?;
        let segments = segment::list(dir)?;
        let (Some(first), Some(last)) = (segments.first().copied(), segments.last().copied()) else {
            // Nothing is made over a log that is gone.
            return match start {
                Some(start) => Err(OpenError::Damaged(start.at)),
                None => create(dir, options, lock),
            };
        };
        for (index, expected) in segments.iter().zip(first..) {
            if *index != expected {
                return Err(OpenError::MissingSegment(expected));
            }
        }
        let mut state = Scan { batch: start.map_or(0, |start| start.batch), last_in_batch: true };
        if let Some(start) = start
            && !(first..=last).contains(&start.at.segment)
        {
            return Err(OpenError::Damaged(start.at));
        }
        let first = start.map_or(first, |start| start.at.segment);
        let mut end = (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
        let mut torn = None;
        for index in first..=last {
            let mut reader = SegmentReader::open(&InDirectory(dir.to_path_buf()), index)?
                .ok_or(OpenError::Damaged(Position { segment: index, offset: 0 }))?;
            if let Some(start) = start.filter(|start| start.at.segment == index) {
                if start.at.offset < SEGMENT_HEADER_BYTES || start.at.offset > reader.size {
                    return Err(OpenError::Damaged(start.at));
                }
                reader.seek(start.at.offset)?;
            }
            torn = state.segment(&mut reader, index, visit)?;
            if let (Some(torn), true) = (torn, index < last) {
                return Err(OpenError::Damaged(torn.at));
            }
            end = (reader.offset, reader.size);
        }
        let file = OpenOptions::new().read(true).write(true).open(segment::path(dir, last))?;
        // Of a process that was killed the last frames may be in the page cache alone. They are acted upon from here on, so
        // they must not be lost with the power any more. Earlier segments were flushed when they were full.
        file.sync_all()?;
        Ok(Self {
            dir: dir.to_path_buf(),
            options,
            _lock: lock,
            file,
            segment: last,
            size: end.1,
            offset: end.0,
            // A batch whose end is missing goes on: nothing behind it may look as if it had been acknowledged.
            batch: if state.last_in_batch { state.batch + 1 } else { state.batch },
            torn,
            buffer: Vec::with_capacity(1024 * 1024),
            last_frame: 0,
            preparing: None,
            stopped: false,
        })
    }
}

fn create(dir: &Path, options: Options, lock: File) -> Result<Wal, OpenError> {
    let size = options.first_segment_bytes.max(SEGMENT_HEADER_BYTES + HEADER_BYTES as u64);
    segment::prepare(dir, 0, size)?;
    let file = segment::adopt(dir, 0)?;
    Ok(Wal {
        dir: dir.to_path_buf(),
        options,
        _lock: lock,
        file,
        segment: 0,
        size,
        offset: SEGMENT_HEADER_BYTES,
        batch: 1,
        torn: None,
        buffer: Vec::with_capacity(1024 * 1024),
        last_frame: 0,
        preparing: None,
        stopped: false,
    })
}

/// What is known of the frames so far.
struct Scan {
    batch: u64,
    last_in_batch: bool,
}

impl Scan {
    /// Reads one segment; the reader is left where its whole frames end.
    fn segment(
        &mut self,
        reader: &mut SegmentReader,
        index: u64,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Option<Torn>, OpenError> {
        loop {
            let position = Position { segment: index, offset: reader.offset };
            match reader.step()? {
                Step::Frame(header) => {
                    (self.batch, self.last_in_batch) = (header.batch, header.last);
                    let end = Position { segment: index, offset: reader.offset };
                    visit(Frame { position, end, kind: header.kind, payload: reader.payload() });
                }
                Step::Unwritten | Step::Broken => {
                    let rest = reader.rest()?;
                    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(None) };
                    if self.acknowledged_behind(&rest) {
                        return Err(OpenError::Damaged(position));
                    }
                    return Ok(Some(Torn { at: position, bytes: last as u64 + 1 }));
                }
            }
        }
    }

    /// Whether a frame stands behind the broken place that can only have been written after the
    /// broken batch was on the disk. Then this is no torn tail: somebody was told that it is safe.
    fn acknowledged_behind(&self, rest: &[u8]) -> bool {
        // The broken batch is the one after the last whole one, or the last one itself if it has no end.
        let broken = if self.last_in_batch { self.batch + 1 } else { self.batch };
        let mut at = 0;
        while let Some(bytes) = rest.get(at..).and_then(|tail| tail.first_chunk::<HEADER_BYTES>()) {
            if let Some(header) = Header::parse(bytes)
                && header.batch > broken
                && header.batch - broken <= FRAME_BYTES_MAX as u64
                && let Some(payload) = rest.get(at + HEADER_BYTES..at + HEADER_BYTES + header.len)
                && header.holds(bytes, payload)
            {
                return true;
            }
            at += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests;
