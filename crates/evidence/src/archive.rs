//! The archive of a plane: each sealed segment goes there as it is, with a signed manifest that names it.
//!
//! The order is what makes a crash harmless: the manifest is made and flushed here first, then the segment and the
//! manifest are put into the archive, both are read back, and only then the place is noted. Whatever was broken off is
//! done again with the same bytes under the same names. The invariant: a segment is archived only when every log in it
//! leads to its signed checkpoint, and counts as archived only when the archive gave all its bytes back.

mod directory;
mod release;
mod restore;
mod seal;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use cogward_ledger::{
    Hash,
    archive::{self, Hex, MANIFEST_BYTES_MAX, Manifest, ManifestError, Name, Objects, Sealed, Walk},
    note::SignError,
    tile_proof::TileProofError,
};

use cogward_model::Timestamp;

use crate::{durable, keys::KeyringError, plane::LogName, record::Evidence, released::manifest_file};

pub use cogward_ledger::archive::{Directory, Finding, Options, Verified};
pub use directory::DirectoryPlace;
pub use release::{Released, Ripe};
pub use restore::{RestoreError, restore};

/// A number in digits.
const MARK_BYTES_MAX: u64 = 64;

/// What is put into an archive.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A file of so many bytes, with this digest.
    File(&'a Path, u64, Hash),
    /// Bytes with this digest.
    Bytes(&'a [u8], Hash),
}

impl Content<'_> {
    /// The SHA-256.
    #[must_use]
    pub fn digest(&self) -> Hash {
        match self {
            Self::File(_, _, digest) | Self::Bytes(_, digest) => *digest,
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::File(_, bytes, _) => *bytes,
            Self::Bytes(bytes, _) => bytes.len() as u64,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where an archive is kept.
pub trait Place: Objects + Send + Sync {
    /// Puts an object there, durably. What is there already under the name is left as it is.
    ///
    /// # Errors
    /// It is not there now, or not kept as it should be.
    fn put(&self, name: &str, content: &Content<'_>) -> io::Result<()>;

    /// The place in words, without credentials.
    fn shown(&self) -> String;
}

/// Why nothing was archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The place did not take an object or give it back.
    #[error("the archive cannot be used: {object}: {source}")]
    Place {
        /// Which object.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// The plane's own files.
    #[error("the plane's own files of the archive cannot be used")]
    Local(#[from] io::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The key does not sign.
    #[error("a manifest could not be signed: {0}")]
    Unsigned(#[from] SignError),
    /// The tiles from which it is shown that a checkpoint covers the segment.
    #[error("the tiles of a log cannot be read: {0}")]
    Tiles(#[from] TileProofError<io::Error>),
    /// A segment is not what it was.
    #[error("segment {segment} is not archived: {detail}")]
    Damaged {
        /// Which.
        segment: u64,
        /// Why.
        detail: String,
    },
    /// The archive gives something else back.
    #[error("the archive gives back other bytes than were put there: {0}")]
    Lies(String),
    /// What is in the archive does not go with this plane's own manifests.
    #[error("the archive holds another history than this plane: {0}")]
    Other(String),
    /// Only an earlier archive has the segment.
    #[error(
        "segment {0} was released here and is not in this archive: copy what is in the archive before into this one \
         first, with any tool"
    )]
    Elsewhere(u64),
    /// A manifest that is kept here.
    #[error("manifest {number} of the archive, in the plane's own files: {source}")]
    Manifest {
        /// Which.
        number: u64,
        /// Why.
        source: ManifestError,
    },
}

impl ArchiveError {
    /// Whether this is no failure of today but something that somebody did.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Lies(_) | Self::Other(_) | Self::Manifest { .. })
    }
}

/// A segment that is in the archive now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Its number.
    pub segment: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub digest: String,
    /// That of its manifest.
    pub manifest: String,
}

/// The plane's side of an archive. One at a time works on a directory: the plane that holds the ledger.
pub struct Archive {
    evidence: Evidence,
    place: Box<dyn Place>,
    /// `archive/` of the ledger's directory.
    dir: PathBuf,
    /// The origin of the plane log.
    plane: String,
    /// Manifests that are made.
    made: u64,
    /// Statements about the plane log's keys that they tell.
    told: usize,
    newest: Option<Hash>,
    walk: Walk,
    /// Segments that this place has and that are recorded.
    stored: u64,
    /// Whether the place was compared with what is kept here.
    agreed: bool,
    /// The next segment to be released that is too young yet, and the time of its last leaf.
    young: Option<(u64, Timestamp)>,
}

impl Archive {
    /// Takes up the work where it was left. The place itself is not asked yet.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub fn open(evidence: &Evidence, place: Box<dyn Place>) -> Result<Self, ArchiveError> {
        let dir = evidence.shared.dir.join("archive");
        durable::directory(&dir)?;
        let plane = evidence.shared.keyring.plane().log.origin().to_owned();
        let walk = Walk::new(&plane);
        let evidence = evidence.clone();
        let mut archive = Self {
            evidence,
            place,
            dir,
            plane,
            made: 0,
            told: 0,
            newest: None,
            walk,
            stored: 0,
            agreed: false,
            young: None,
        };
        while let Some(bytes) = durable::read(&archive.manifest_file(archive.made), MANIFEST_BYTES_MAX as u64)? {
            archive.take(&bytes)?;
        }
        let mark = durable::read(&archive.mark_file(), MARK_BYTES_MAX)?;
        let mark = mark.and_then(|text| String::from_utf8(text).ok()).and_then(|text| text.trim().parse().ok());
        // A mark that cannot be read or says too much costs nothing but asking for what is there already.
        archive.stored = mark.filter(|stored| *stored <= archive.made).unwrap_or(0);
        Ok(archive)
    }

    /// The place in words.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.shown()
    }

    /// How many segments are in the archive and recorded.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The newest manifest that is in the archive.
    #[must_use]
    pub fn newest(&self) -> Option<String> {
        let number = self.stored.checked_sub(1)?;
        let bytes = durable::read(&self.manifest_file(number), MANIFEST_BYTES_MAX as u64).ok()??;
        Some(archive::hex(&archive::sha256(&bytes)))
    }

    fn manifest_file(&self, number: u64) -> PathBuf {
        manifest_file(&self.evidence.shared.dir, number)
    }

    /// What is archived is noted for each place: another one begins at the first segment.
    fn mark_file(&self) -> PathBuf {
        let of = archive::hex(&archive::sha256(self.place.shown().as_bytes()));
        self.dir.join(format!("{}.stored", of.get(..16).unwrap_or_default()))
    }

    /// Goes on behind a manifest of this plane.
    fn take(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let number = self.made;
        let wrong = |detail: &str| ArchiveError::Manifest { number, source: ManifestError::Form(detail.to_owned()) };
        let manifest = self.own(number, bytes)?;
        if manifest.number != number || manifest.previous != self.newest.map(Hex) {
            return Err(wrong("it does not follow the one before"));
        }
        if !manifest.logs.iter().all(|part| self.walk.goes_on(part)) {
            return Err(wrong("it speaks of a log that is none of this plane"));
        }
        self.newest = Some(archive::sha256(bytes));
        self.made += 1;
        self.told += manifest.statements.len();
        Ok(())
    }

    /// Reads a manifest that this plane signed, by whichever of its keys.
    fn own(&self, number: u64, bytes: &[u8]) -> Result<Manifest, ArchiveError> {
        let chain = self.evidence.shared.keyring.plane().log.chain();
        let mut wrong = ManifestError::OtherText;
        for (_, key) in chain.keys() {
            match Manifest::open(bytes, key) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => wrong = error,
            }
        }
        Err(ArchiveError::Manifest { number, source: wrong })
    }

    /// Compares what the place has with what is kept here. A plane that lost its own manifests takes them from the
    /// archive; an archive that lost some of them, or has others, is not written to.
    fn agree(&mut self) -> Result<(), ArchiveError> {
        let unusable = |object: &str, source| ArchiveError::Place { object: object.to_owned(), source };
        let names = self.place.list().map_err(|source| unusable("its list", source))?;
        let mut there = std::collections::BTreeMap::new();
        for name in names.iter().filter_map(|name| Name::parse(name)) {
            if let Name::Manifest { number, digest } = name
                && there.insert(number, digest).is_some()
            {
                return Err(ArchiveError::Other(format!("it has two manifests of number {number}")));
            }
        }
        let mut before = None;
        for number in 0..self.made {
            let bytes = durable::read(&self.manifest_file(number), MANIFEST_BYTES_MAX as u64)?;
            let digest = archive::sha256(&bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?);
            match there.remove(&number) {
                Some(found) if found != digest => {
                    return Err(ArchiveError::Other(format!("its manifest {number} is not the one of this plane")));
                }
                None if number < self.stored => {
                    return Err(ArchiveError::Other(format!("its manifest {number} is gone")));
                }
                _ => before = Some(digest),
            }
        }
        debug_assert_eq!(before, self.newest);
        while let Some(digest) = there.remove(&self.made) {
            let name = Name::Manifest { number: self.made, digest };
            let bytes = self.read(&name, MANIFEST_BYTES_MAX as u64)?;
            let file = self.manifest_file(self.made);
            self.take(&bytes).map_err(|error| ArchiveError::Other(error.to_string()))?;
            durable::replace(&file, &bytes)?;
        }
        match there.keys().next() {
            Some(number) => Err(ArchiveError::Other(format!("it has manifest {number} and not the one before"))),
            None => Ok(()),
        }
    }

    /// The bytes of an object, which must be those that its name says.
    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, ArchiveError> {
        let object = name.to_string();
        let mut bytes = Vec::new();
        let read = self.place.open(&object).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
        read.map_err(|source| ArchiveError::Place { object: object.clone(), source })?;
        if archive::sha256(&bytes) == name.digest() { Ok(bytes) } else { Err(ArchiveError::Lies(object)) }
    }

    /// Puts an object there and reads all of it back.
    fn put(&self, name: &Name, content: &Content<'_>) -> Result<(), ArchiveError> {
        let object = name.to_string();
        let unusable = |source| ArchiveError::Place { object: object.clone(), source };
        self.place.put(&object, content).map_err(unusable)?;
        self.read_back(name, content.len(), content.digest())
    }

    /// Reads all of an object back.
    fn read_back(&self, name: &Name, bytes: u64, digest: Hash) -> Result<(), ArchiveError> {
        let object = name.to_string();
        let unusable = |source| ArchiveError::Place { object: object.clone(), source };
        let file = self.place.open(&object).map_err(unusable)?;
        let found = directory::digest_of(file.take(bytes.saturating_add(1))).map_err(unusable)?;
        if found == digest { Ok(()) } else { Err(ArchiveError::Lies(object)) }
    }

    /// Brings the next segment into the archive, when there is one that is sealed and signed. It counts once
    /// [`Archive::recorded`] was called.
    ///
    /// # Errors
    /// See [`ArchiveError`]; the next call tries the same again.
    pub fn step(&mut self) -> Result<Option<Archived>, ArchiveError> {
        if !self.agreed {
            self.agree()?;
            self.agreed = true;
        }
        if self.stored == self.made {
            let Some((manifest, walk)) = self.seal(self.made)? else { return Ok(None) };
            // Here before it is anywhere else: what is put there after a crash are the same bytes.
            durable::replace(&self.manifest_file(self.made), &manifest)?;
            let told = self.own(self.made, &manifest)?.statements.len();
            (self.walk, self.newest) = (walk, Some(archive::sha256(&manifest)));
            (self.made, self.told) = (self.made + 1, self.told + told);
        }
        let moved = self.bring(self.stored);
        // Somebody may have changed the archive: it is looked at again before anything else is put there.
        self.agreed = moved.is_ok();
        moved.map(Some)
    }

    fn bring(&self, number: u64) -> Result<Archived, ArchiveError> {
        let bytes = durable::read(&self.manifest_file(number), MANIFEST_BYTES_MAX as u64)?;
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let manifest = self.own(number, &bytes)?;
        let sealed = manifest.segment;
        let digest = archive::sha256(&bytes);
        let name = Name::Segment { index: sealed.index, digest: sealed.sha256.0 };
        if self.evidence.shared.segments.gone(sealed.index).is_some() {
            // Another place than the one before: it must have the segment already.
            self.read_back(&name, sealed.bytes, sealed.sha256.0).map_err(|error| match error {
                ArchiveError::Place { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    ArchiveError::Elsewhere(sealed.index)
                }
                other => other,
            })?;
        } else {
            self.bring_segment(&name, &sealed)?;
        }
        // The manifest last: what it names is there.
        self.put(&Name::Manifest { number, digest }, &Content::Bytes(&bytes, digest))?;
        let (segment, manifest) = (sealed.index, archive::hex(&digest));
        Ok(Archived { segment, digest: archive::hex(&sealed.sha256.0), manifest })
    }

    fn bring_segment(&self, name: &Name, sealed: &Sealed) -> Result<(), ArchiveError> {
        let path = seal::segment_file(&self.evidence.shared.dir, sealed.index);
        let damaged = |detail: String| ArchiveError::Damaged { segment: sealed.index, detail };
        let now = fs::File::open(&path)?;
        if now.metadata()?.len() != sealed.bytes || directory::digest_of(now)? != sealed.sha256.0 {
            return Err(damaged("its bytes are no longer those that its manifest names".to_owned()));
        }
        self.put(name, &Content::File(&path, sealed.bytes, sealed.sha256.0))
    }

    /// Notes that the segment of the last [`Archive::step`] is in the archive and recorded.
    ///
    /// # Errors
    /// The note cannot be written; then the segment is brought and recorded once more.
    pub fn recorded(&mut self) -> Result<(), ArchiveError> {
        let stored = self.stored + 1;
        durable::replace(&self.mark_file(), format!("{stored}\n").as_bytes())?;
        self.stored = stored;
        Ok(())
    }

    /// How many segments are sealed and not in the archive yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.evidence.shared.progress.end().segment.saturating_sub(self.stored)
    }

    fn log_name(&self, origin: &str) -> Option<LogName> {
        let rest = origin.strip_prefix(self.plane.as_str())?;
        if rest.is_empty() {
            return Some(LogName::Plane);
        }
        rest.strip_prefix('/')?.parse().ok().map(LogName::Tenant)
    }
}
