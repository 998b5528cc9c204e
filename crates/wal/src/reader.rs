//! Reading what is committed, in order, a frame at a time.

use std::{io, sync::Arc};

use crate::{
    frame::{Frame, Position},
    segment::{SegmentReader, Segments, Step},
};

/// Why the log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("the write-ahead log could not be read")]
    Io(#[from] io::Error),
    /// There should be a frame here.
    #[error("the write-ahead log is damaged in {0}")]
    Damaged(Position),
}

/// Walks the frames between two places.
pub struct WalReader {
    from: Arc<dyn Segments>,
    at: Position,
    to: Position,
    open: Option<SegmentReader>,
}

impl WalReader {
    /// A reader from `at` to `to` of segments that come from there.
    #[must_use]
    pub fn new(from: Arc<dyn Segments>, at: Position, to: Position) -> Self {
        Self { from, at, to, open: None }
    }

    /// The next frame, or `None` at the end of the range.
    ///
    /// # Errors
    /// Damage is an error, never an end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        loop {
            if self.at >= self.to {
                return Ok(None);
            }
            let mut reader = match self.open.take() {
                Some(reader) => reader,
                None => {
                    let mut reader = SegmentReader::open(&*self.from, self.at.segment)?
                        .ok_or(ReadError::Damaged(Position { segment: self.at.segment, offset: 0 }))?;
                    if self.at.offset > reader.offset {
                        reader.seek(self.at.offset)?;
                    }
                    reader
                }
            };
            let start = Position { segment: self.at.segment, offset: reader.offset };
            if start >= self.to {
                // The range began in the segment's header, before any frame.
                return Ok(None);
            }
            match reader.step()? {
                Step::Frame(header) => {
                    self.at = Position { segment: start.segment, offset: reader.offset };
                    let end = self.at;
                    let reader = self.open.insert(reader);
                    return Ok(Some(Frame { position: start, end, kind: header.kind, payload: reader.payload() }));
                }
                Step::Unwritten if start.segment < self.to.segment => {
                    self.at = Position { segment: start.segment + 1, offset: 0 };
                }
                Step::Unwritten | Step::Broken => return Err(ReadError::Damaged(start)),
            }
        }
    }
}
