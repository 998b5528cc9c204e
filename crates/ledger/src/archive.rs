//! The archive: sealed segments of the write-ahead log as they are, and for each a signed manifest that names it.
//!
//! A manifest names the one before it, so the segments of an archive are one chain: none can be left out, swapped
//! or put in. The invariant: [`verify`] says OK only when every byte of every segment is the one that a manifest of
//! the plane's key names, and every leaf in it is where the signed checkpoints have it. What no archive can show by
//! itself is that its newest part is there: for that a checkpoint or a manifest from elsewhere is needed.
//!
//! The disclosures in a segment stay sealed. Their keys are not in the archive, so what is erased is erased here too.

mod keys;
mod manifest;
mod segment;
mod verify;
mod walk;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use crate::{Hash, leaf::to_hash};

pub use keys::ManifestKeys;
pub use manifest::{Hex, LogPart, MANIFEST_BYTES_MAX, Manifest, ManifestError, Sealed};
pub use segment::{SegmentError, SegmentFrame, SegmentReader};
pub use verify::{Finding, Options, Verified, verify};
pub use walk::{Problem, Reached, Walk};

/// Where the manifests are.
const MANIFESTS: &str = "manifests";
/// Where the segments are.
const SEGMENTS: &str = "segments";
/// Objects of one archive: with segments of 64 MiB more than a hundred terabytes.
pub const OBJECTS_MAX: usize = 4_000_000;

/// What an object of an archive is, by its name. Nobody's name is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A manifest by its number in the chain, and the digest of its bytes.
    Manifest {
        /// From 0.
        number: u64,
        /// The SHA-256 of the object.
        digest: Hash,
    },
    /// A segment by its number in the write-ahead log, and the digest of its bytes.
    Segment {
        /// As in the write-ahead log.
        index: u64,
        /// The SHA-256 of the object.
        digest: Hash,
    },
}

impl Name {
    /// Reads a name; `None` for anything that this program would not have written.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (folder, rest) = name.split_once('/')?;
        let (number, rest) = rest.split_once('-')?;
        let (digest, kind) = rest.split_once('.')?;
        let (digest, number) = (from_hex(digest)?, u64::from_str_radix(number, 16).ok()?);
        let found = match (folder, kind) {
            (MANIFESTS, "manifest") => Self::Manifest { number, digest },
            (SEGMENTS, "seg") => Self::Segment { index: number, digest },
            _ => return None,
        };
        // One text for each name.
        (found.to_string() == name).then_some(found)
    }

    /// The digest that the object must have.
    #[must_use]
    pub fn digest(&self) -> Hash {
        match self {
            Self::Manifest { digest, .. } | Self::Segment { digest, .. } => *digest,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest { number, digest } => write!(f, "{MANIFESTS}/{number:016x}-{}.manifest", hex(digest)),
            Self::Segment { index, digest } => write!(f, "{SEGMENTS}/{index:016x}-{}.seg", hex(digest)),
        }
    }
}

/// Where an archive is read from.
pub trait Objects {
    /// The names of all objects, in any order.
    ///
    /// # Errors
    /// The place cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The bytes of an object. Nothing of them is believed.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    fn open(&self, name: &str) -> io::Result<Box<dyn io::Read>>;
}

/// An archive in a directory.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

impl Directory {
    /// The archive below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Where an object lies.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }
}

impl Objects for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for folder in [MANIFESTS, SEGMENTS] {
            let entries = match fs::read_dir(self.0.join(folder)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.0.is_dir() => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                // What has no name in text is none of ours, and is told as such.
                names.push(format!("{folder}/{}", entry?.file_name().to_string_lossy()));
                if names.len() > OBJECTS_MAX {
                    return Err(io::Error::other("the archive has too many objects"));
                }
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn io::Read>> {
        let path = self.path(name);
        // Whoever made the archive may want its verifier to wait for ever at a pipe.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        Ok(Box::new(fs::File::open(path)?))
    }
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    to_hash(&digest::digest(&digest::SHA256, bytes))
}

/// A hash in hexadecimal digits.
#[must_use]
pub fn hex(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |at: u8| DIGITS.get(usize::from(at)).map_or('?', |digit| char::from(*digit));
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The same backwards; capital letters are none of ours.
fn from_hex(text: &str) -> Option<Hash> {
    let digits: Option<Vec<u8>> = text
        .bytes()
        .map(|byte| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        })
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    if rest.is_empty() { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests;
