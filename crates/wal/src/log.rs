//! The writer: frames gather in a buffer, `commit` writes them at once and waits for the disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use crate::{
    frame::{self, FRAME_BYTES_MAX, HEADER_BYTES, Position},
    reader::WalReader,
    recovery::{Start, Torn},
    segment::{self, InDirectory, SEGMENT_HEADER_BYTES},
};

/// How large the files are.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of every segment but the first.
    pub segment_bytes: u64,
    /// Bytes of the first segment: smaller, so that a fresh plane starts at once.
    pub first_segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, first_segment_bytes: 4 * 1024 * 1024 }
    }
}

/// Why an append or a commit failed. After [`WalError::Io`] nothing is accepted until the log is opened again.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk did not take it; what was appended since the last commit is not acknowledged.
    #[error("the write-ahead log could not be written")]
    Io(#[source] io::Error),
    /// An earlier write failed.
    #[error("the write-ahead log stopped at an earlier write error")]
    Stopped,
    /// The tail is torn and has not been cut.
    #[error("the write-ahead log has a torn tail at {0} that was not cut")]
    TornTail(Position),
    /// Kind 0 means "unwritten" and cannot be a frame.
    #[error("a frame of kind 0 cannot be told from unwritten space")]
    KindZero,
    /// The payload is beyond [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
}

/// The open log. Dropping it releases the directory.
#[derive(Debug)]
pub struct Wal {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// Held for the life of the log; the lock goes with the descriptor.
    pub(crate) _lock: File,
    pub(crate) file: File,
    pub(crate) segment: u64,
    pub(crate) size: u64,
    /// Where the buffer will be written.
    pub(crate) offset: u64,
    pub(crate) batch: u64,
    pub(crate) torn: Option<Torn>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) last_frame: usize,
    pub(crate) preparing: Option<JoinHandle<io::Result<()>>>,
    pub(crate) stopped: bool,
}

impl Wal {
    /// Adds a frame to the batch; it is durable after the next [`Wal::commit`].
    ///
    /// # Errors
    /// See [`WalError`]; a frame that is refused for itself leaves the batch as it was.
    pub fn append(&mut self, kind: u8, parts: &[&[u8]]) -> Result<Position, WalError> {
        self.check()?;
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        if payload > FRAME_BYTES_MAX {
            return Err(WalError::TooLong(payload));
        }
        if kind == 0 {
            return Err(WalError::KindZero);
        }
        let whole = (HEADER_BYTES + payload) as u64;
        if self.offset + self.buffer.len() as u64 + whole > self.size {
            self.guarded(|wal| wal.roll(whole))?;
        }
        let position = Position { segment: self.segment, offset: self.offset + self.buffer.len() as u64 };
        self.last_frame = self.buffer.len();
        frame::push(&mut self.buffer, kind, self.batch, parts);
        Ok(position)
    }

    /// Writes the batch and waits until the disk has it.
    ///
    /// # Errors
    /// Any error stops the log for good: the caller must acknowledge nothing of the batch.
    pub fn commit(&mut self) -> Result<Position, WalError> {
        self.check()?;
        if !self.buffer.is_empty() {
            frame::mark_last(&mut self.buffer, self.last_frame);
            self.guarded(|wal| {
                wal.write_out()?;
                wal.file.sync_data()
            })?;
            self.batch += 1;
            self.prepare_ahead();
        }
        Ok(self.end())
    }

    /// Where the next frame will stand; everything before it is committed when the buffer is empty.
    #[must_use]
    pub fn end(&self) -> Position {
        Position { segment: self.segment, offset: self.offset + self.buffer.len() as u64 }
    }

    /// The place behind what is committed, for [`Wal::open_from`]; `None` while something is not.
    #[must_use]
    pub fn start(&self) -> Option<Start> {
        (self.buffer.is_empty() && !self.stopped && self.torn.is_none())
            .then(|| Start { at: self.end(), batch: self.batch - 1 })
    }

    /// The torn tail that [`Wal::open`] found and nobody has cut yet.
    #[must_use]
    pub fn torn(&self) -> Option<Torn> {
        self.torn
    }

    /// Writes zeros over the torn tail, durably. Only for a caller who knows that nothing signed lies there.
    ///
    /// # Errors
    /// As [`Wal::commit`].
    pub fn cut_torn_tail(&mut self) -> Result<(), WalError> {
        let Some(torn) = self.torn else { return Ok(()) };
        self.torn = None;
        self.guarded(|wal| {
            let zeros = vec![0_u8; usize::try_from(wal.size - torn.at.offset).unwrap_or(0)];
            wal.file.write_all_at(&zeros, torn.at.offset)?;
            wal.file.sync_all()
        })
    }

    /// A reader of what is committed, from `from` to `to`; it does not disturb the writer.
    #[must_use]
    pub fn reader(dir: &Path, from: Position, to: Position) -> WalReader {
        WalReader::new(Arc::new(InDirectory(dir.to_path_buf())), from, to)
    }

    fn check(&self) -> Result<(), WalError> {
        if self.stopped {
            return Err(WalError::Stopped);
        }
        match self.torn {
            Some(torn) => Err(WalError::TornTail(torn.at)),
            None => Ok(()),
        }
    }

    fn guarded(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), WalError> {
        write(self).map_err(|error| {
            // Never retried: after a failed fsync the kernel may have dropped the page and reports success next time.
            self.stopped = true;
            WalError::Io(error)
        })
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Goes to the next segment; the one that is left is durable first, so only the last can be torn.
    fn roll(&mut self, frame_bytes: u64) -> io::Result<()> {
        self.write_out()?;
        self.file.sync_data()?;
        let next = self.segment + 1;
        let needed = SEGMENT_HEADER_BYTES + frame_bytes;
        let size = self.options.segment_bytes.max(needed);
        let prepared = match self.preparing.take().map(JoinHandle::join) {
            Some(Ok(Ok(()))) => needed <= self.options.segment_bytes,
            // A failure to prepare ahead is met again here, where it stops the log.
            _ => false,
        };
        if !prepared {
            segment::prepare(&self.dir, next, size)?;
        }
        self.file = segment::adopt(&self.dir, next)?;
        (self.segment, self.size, self.offset) = (next, size, SEGMENT_HEADER_BYTES);
        Ok(())
    }

    /// Writes the next segment on a thread of its own once this one is half full, so that no batch waits for it.
    fn prepare_ahead(&mut self) {
        if self.preparing.is_some() || self.offset < self.size / 2 {
            return;
        }
        let (dir, next, size) = (self.dir.clone(), self.segment + 1, self.options.segment_bytes);
        self.preparing = std::thread::Builder::new()
            .name("wal-prepare".into())
            .spawn(move || segment::prepare(&dir, next, size))
            .ok();
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // The thread writes into our directory: it must not outlive the lock.
        if let Some(preparing) = self.preparing.take() {
            let _ended = preparing.join();
        }
    }
}
