//! One segment: a file of fixed size, written full of zeros before its first frame.
//!
//! Zeros first, because an append that does not extend the file needs no journal commit of the
//! file system, and because a full disk is then met when a segment is made, not in the middle of a batch.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::frame::{HEADER_BYTES, Header};

/// Bytes before the first frame: `{magic, index u64, size u64, 0 u32, crc32c u32}`.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 32;

/// Zeros that are written between two flushes: what a batch waits behind at most.
const STEP_BYTES: u64 = 256 * 1024;
const MAGIC: &[u8; 8] = b"cogwal01";
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The file of a segment.
pub(crate) fn path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:016x}.seg"))
}

fn prepared_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:016x}.prepared"))
}

/// The segments that are there, in order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(index) = name.strip_suffix(".seg").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            found.push(index);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes what a stopped process had prepared and not used.
pub(crate) fn remove_prepared(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "prepared") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn header(index: u64, size: u64) -> [u8; 32] {
    let mut bytes = [0_u8; 32];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Writes a segment in full and makes it durable, under a name that recovery ignores.
pub(crate) fn prepare(dir: &Path, index: u64, size: u64) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(prepared_path(dir, index))?;
    file.write_all(&header(index, size))?;
    let mut rest = size.saturating_sub(SEGMENT_HEADER_BYTES);
    while rest > 0 {
        let part = usize::try_from(rest).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all(ZEROS.get(..part).unwrap_or(&ZEROS))?;
        rest = rest.saturating_sub(part as u64);
        // In steps, so that the flush of a batch never queues behind a whole segment of zeros.
        if rest % STEP_BYTES < ZEROS.len() as u64 {
            file.sync_data()?;
        }
    }
    file.sync_all()
}

/// Gives a prepared segment its name, durably, and opens it for writing.
pub(crate) fn adopt(dir: &Path, index: u64) -> io::Result<File> {
    fs::rename(prepared_path(dir, index), path(dir, index))?;
    File::open(dir)?.sync_all()?;
    OpenOptions::new().read(true).write(true).open(path(dir, index))
}

/// Where readers get the files of segments from.
pub trait Segments: Send + Sync {
    /// The file of a segment. Others may read it at the same time, and it may have no name any more.
    ///
    /// # Errors
    /// It is not there, or cannot be brought here.
    fn open(&self, index: u64) -> io::Result<Arc<File>>;
}

/// The segments that lie in a directory.
pub(crate) struct InDirectory(pub(crate) PathBuf);

impl Segments for InDirectory {
    fn open(&self, index: u64) -> io::Result<Arc<File>> {
        File::open(path(&self.0, index)).map(Arc::new)
    }
}

/// A place in a file that others read, too.
struct Shared {
    file: Arc<File>,
    at: u64,
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for Shared {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        }
        .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// What stands at the reader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A whole frame; its payload is in the reader.
    Frame(Header),
    /// Zeros, as far as a header goes: the writer has not been here.
    Unwritten,
    /// Neither.
    Broken,
}

/// Reads the frames of one segment in order.
pub(crate) struct SegmentReader {
    file: BufReader<Shared>,
    /// The size that the header states.
    pub(crate) size: u64,
    /// Where the next frame starts.
    pub(crate) offset: u64,
    payload: Vec<u8>,
}

impl SegmentReader {
    /// Opens a segment, or `None` when its header is not the one it was made with.
    pub(crate) fn open(from: &dyn Segments, index: u64) -> io::Result<Option<Self>> {
        let file = from.open(index)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(256 * 1024, Shared { file, at: 0 });
        let mut found = [0_u8; 32];
        match file.read_exact(&mut found) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        // The file's own length is what the header must state: a file cut short is damage, not an end.
        if found != header(index, length) {
            return Ok(None);
        }
        Ok(Some(Self { file, size: length, offset: SEGMENT_HEADER_BYTES, payload: Vec::new() }))
    }

    /// Goes to `offset`, which must be where a frame starts.
    pub(crate) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        Ok(())
    }

    /// The payload of the last frame.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Reads what stands here; after anything but a frame the reader is used up.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let left = self.size.saturating_sub(self.offset);
        if left < HEADER_BYTES as u64 {
            let mut rest = Vec::new();
            (&mut self.file).take(left).read_to_end(&mut rest)?;
            return Ok(if rest.iter().all(|b| *b == 0) { Step::Unwritten } else { Step::Broken });
        }
        let mut bytes = [0_u8; HEADER_BYTES];
        self.file.read_exact(&mut bytes)?;
        if bytes == [0; HEADER_BYTES] {
            return Ok(Step::Unwritten);
        }
        let Some(header) = Header::parse(&bytes) else { return Ok(Step::Broken) };
        let whole = (HEADER_BYTES + header.len) as u64;
        if whole > left {
            return Ok(Step::Broken);
        }
        self.payload.resize(header.len, 0);
        self.file.read_exact(&mut self.payload)?;
        if !header.holds(&bytes, &self.payload) {
            return Ok(Step::Broken);
        }
        self.offset += whole;
        Ok(Step::Frame(header))
    }

    /// Everything from the reader's place to the end of the segment.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let offset = self.offset;
        self.seek(offset)?;
        let mut rest = Vec::new();
        (&mut self.file).take(self.size.saturating_sub(offset)).read_to_end(&mut rest)?;
        Ok(rest)
    }
}
