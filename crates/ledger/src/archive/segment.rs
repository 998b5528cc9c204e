//! Reading one archived segment: its frames in order, and the digest of all its bytes on the way.
//!
//! `segment = {magic 8, index u64, size u64, 0 u32, crc32c u32}, frames, zeros`
//! `frame   = {length u32, kind u8, flags u8, 0 u16, batch u64, crc32c u32}, payload`; all little endian.

use std::io::{self, BufReader, Read};

use aws_lc_rs::digest;

use crate::{Hash, leaf::to_hash};

const MAGIC: &[u8; 8] = b"cogwal01";
/// Bytes before the first frame.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 32;
const HEADER_BYTES: usize = 20;
const CRC_AT: usize = 16;
/// Longest payload of a frame.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a segment cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The object could not be read, or ends too early.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not a segment of the write-ahead log, or another one.
    #[error("it does not begin as segment {0} of the write-ahead log")]
    Header(u64),
    /// A frame's checksum does not hold.
    #[error("the frame at byte {at} is damaged")]
    Frame {
        /// Where it begins.
        at: u64,
        /// The kind and the payload, as far as they can be read.
        kind: u8,
        /// What can be read of the payload.
        payload: Vec<u8>,
    },
    /// Behind the last frame is something else than zeros.
    #[error("there is something behind the last frame, at byte {0}")]
    Behind(u64),
}

/// Hashes what passes through.
struct Hashing<R> {
    inner: R,
    digest: digest::Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// One frame.
#[derive(Debug, Clone, Copy)]
pub struct SegmentFrame<'a> {
    /// Where it begins.
    pub at: u64,
    /// What the plane said it is.
    pub kind: u8,
    /// What is in it.
    pub payload: &'a [u8],
}

/// Reads a segment from its first byte to its last.
pub struct SegmentReader<R: Read> {
    file: BufReader<Hashing<io::Take<R>>>,
    bytes: u64,
    at: u64,
    payload: Vec<u8>,
    ended: bool,
}

impl<R: Read> SegmentReader<R> {
    /// Begins with segment `index`, which should have so many bytes.
    ///
    /// # Errors
    /// It is no such segment.
    pub fn open(file: R, index: u64, bytes: u64) -> Result<Self, SegmentError> {
        // One byte more is looked at, so that an object that is too long is not taken for a whole one.
        let inner = file.take(bytes.saturating_add(1));
        let hashing = Hashing { inner, digest: digest::Context::new(&digest::SHA256) };
        let mut file = BufReader::with_capacity(256 * 1024, hashing);
        let mut header = [0_u8; SEGMENT_HEADER_BYTES as usize];
        file.read_exact(&mut header)?;
        let mut expected = [0_u8; SEGMENT_HEADER_BYTES as usize];
        expected[..8].copy_from_slice(MAGIC);
        expected[8..16].copy_from_slice(&index.to_le_bytes());
        expected[16..24].copy_from_slice(&bytes.to_le_bytes());
        let crc = crc32c::crc32c(&expected[..28]);
        expected[28..].copy_from_slice(&crc.to_le_bytes());
        if header != expected {
            return Err(SegmentError::Header(index));
        }
        Ok(Self { file, bytes, at: SEGMENT_HEADER_BYTES, payload: Vec::new(), ended: false })
    }

    /// Where the next frame begins, or where the last one ended.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next frame, or `None` behind the last one.
    ///
    /// # Errors
    /// Damage is an error, never an end.
    pub fn frame(&mut self) -> Result<Option<SegmentFrame<'_>>, SegmentError> {
        let left = self.bytes.saturating_sub(self.at);
        if self.ended || left < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut header = [0_u8; HEADER_BYTES];
        self.file.read_exact(&mut header)?;
        if header == [0; HEADER_BYTES] {
            self.ended = true;
            return Ok(None);
        }
        let at = self.at;
        let [l0, l1, l2, l3, kind, _, _, _, _, _, _, _, _, _, _, _, c0, c1, c2, c3] = header;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX || (HEADER_BYTES + length) as u64 > left {
            return Err(SegmentError::Frame { at, kind, payload: Vec::new() });
        }
        self.payload.resize(length, 0);
        self.file.read_exact(&mut self.payload)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(header.get(..CRC_AT).unwrap_or_default()), &self.payload);
        if crc != u32::from_le_bytes([c0, c1, c2, c3]) || kind == 0 {
            return Err(SegmentError::Frame { at, kind, payload: std::mem::take(&mut self.payload) });
        }
        self.at += (HEADER_BYTES + length) as u64;
        Ok(Some(SegmentFrame { at, kind, payload: &self.payload }))
    }

    /// Reads the rest, which must be zeros up to the end of the segment, and gives the SHA-256 of everything.
    ///
    /// # Errors
    /// There is something else, or the object has another length.
    pub fn finish(mut self) -> Result<Hash, SegmentError> {
        let mut read = self.at + if self.ended { HEADER_BYTES as u64 } else { 0 };
        let mut buffer = vec![0_u8; 64 * 1024];
        loop {
            let part = self.file.read(&mut buffer)?;
            if part == 0 {
                break;
            }
            if buffer.get(..part).unwrap_or_default().iter().any(|byte| *byte != 0) {
                return Err(SegmentError::Behind(self.at));
            }
            read += part as u64;
        }
        if read != self.bytes {
            let short = format!("it has {read} bytes, not {}", self.bytes);
            return Err(SegmentError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, short)));
        }
        Ok(to_hash(&self.file.into_inner().digest.finish()))
    }
}
