//! The signed word that a segment is in the archive and may be missing here.
//!
//! A start takes a missing segment for one that was released only when this note is there, signed by a key of the
//! plane log, and the signed manifest that it names is, too. Everything else that is missing is a loss.

use std::path::{Path, PathBuf};

use cogward_ledger::{
    Hash,
    archive::{self, Hex, MANIFEST_BYTES_MAX, Manifest, Walk},
    note::NOTE_BYTES_MAX,
};
use cogward_model::Timestamp;

use crate::{durable, log_keys::LogKeys, open::OpenError};

/// What the note begins with: it can be taken for nothing else that the key signs.
const DOMAIN: &str = "cogward.dev/archive/released/v1";

/// A segment that was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) segment: u64,
    /// The SHA-256 of the segment.
    pub(crate) sha256: Hash,
    /// The SHA-256 of its manifest.
    pub(crate) manifest: Hash,
    /// The SHA-256 of what is kept of it for a start.
    pub(crate) kept: Hash,
    /// The time of its last leaf.
    pub(crate) until: Timestamp,
    /// The size of the segment; in its manifest.
    pub(crate) bytes: u64,
}

/// Where the notes, and what is kept, lie.
pub(crate) fn released_dir(dir: &Path) -> PathBuf {
    dir.join("released")
}

fn note_file(dir: &Path, segment: u64) -> PathBuf {
    released_dir(dir).join(format!("{segment:016x}.released"))
}

pub(crate) fn kept_file(dir: &Path, segment: u64) -> PathBuf {
    released_dir(dir).join(format!("{segment:016x}.kept"))
}

pub(crate) fn manifest_file(dir: &Path, number: u64) -> PathBuf {
    dir.join("archive").join(format!("{number:016x}.manifest"))
}

impl Release {
    fn text(&self, origin: &str) -> String {
        let Self { segment, sha256, manifest, kept, until, .. } = self;
        let [sha256, manifest, kept] = [sha256, manifest, kept].map(archive::hex);
        format!("{DOMAIN}\n{origin}\n{segment}\n{sha256}\n{manifest}\n{kept}\n{}\n", until.unix_micros())
    }

    /// Signs it and puts it into place, flushed.
    pub(crate) fn write(&self, dir: &Path, log: &LogKeys) -> std::io::Result<()> {
        let note = {
            let _same_key = log.while_signing();
            log.key().note(&self.text(log.origin()))
        };
        let note = note.ok_or_else(|| std::io::Error::other("the release cannot be signed"))?;
        durable::directory(&released_dir(dir))?;
        durable::replace(&note_file(dir, self.segment), note.as_bytes())
    }

    /// The release of a segment, `None` when there is none.
    fn read(dir: &Path, log: &LogKeys, segment: u64) -> Result<Option<Self>, OpenError> {
        let wrong = |detail: &str| OpenError::Released { segment, detail: detail.to_owned() };
        let Some(note) = durable::read(&note_file(dir, segment), NOTE_BYTES_MAX as u64)? else { return Ok(None) };
        let note = String::from_utf8(note).map_err(|_| wrong("its note is not text"))?;
        let chain = log.chain();
        let text = chain.keys().find_map(|(_, key)| key.open_text(&note).ok());
        let text = text.ok_or_else(|| wrong("no key of the plane log signed its note"))?;
        let lines: Vec<&str> = text.lines().collect();
        let [DOMAIN, _, _, sha256, manifest, kept, until] = lines[..] else {
            return Err(wrong("its note is none about a release"));
        };
        let hash = |text: &str| Hex::try_from(text.to_owned()).map(|hex| hex.0).map_err(wrong);
        let until = until.parse().map(Timestamp::from_unix_micros).map_err(|_| wrong("its note has no time"))?;
        let (sha256, manifest, kept) = (hash(sha256)?, hash(manifest)?, hash(kept)?);
        let mut release = Self { segment, sha256, manifest, kept, until, bytes: 0 };
        if release.text(log.origin()) != text {
            return Err(wrong("its note is about another segment or another plane"));
        }
        let manifest = release.read_manifest(dir, log)?;
        release.bytes = manifest.segment.bytes;
        Ok(Some(release))
    }

    /// The signed manifest that the release names.
    fn read_manifest(&self, dir: &Path, log: &LogKeys) -> Result<Manifest, OpenError> {
        let segment = self.segment;
        let wrong = |detail: String| OpenError::Released { segment, detail };
        let bytes = durable::read(&manifest_file(dir, segment), MANIFEST_BYTES_MAX as u64)?
            .ok_or_else(|| wrong("its manifest is not there: bring it back from the archive".to_owned()))?;
        if archive::sha256(&bytes) != self.manifest {
            return Err(wrong("its manifest was changed: bring it back from the archive".to_owned()));
        }
        let chain = log.chain();
        let manifest = chain.keys().find_map(|(_, key)| Manifest::open(&bytes, key).ok());
        let manifest = manifest.ok_or_else(|| wrong("no key of the plane log signed its manifest".to_owned()))?;
        let named = manifest.segment;
        if (manifest.number, named.index, named.sha256.0) != (segment, segment, self.sha256) {
            return Err(wrong("its manifest is about another segment".to_owned()));
        }
        Ok(manifest)
    }
}

/// All releases from segment 0 on, each with its manifest, and where the logs stood at the beginning of segment `first`.
pub(crate) fn read_all(dir: &Path, log: &LogKeys, first: u64) -> Result<(Vec<Release>, Walk), OpenError> {
    let (mut all, mut walk) = (Vec::<Release>::new(), Walk::new(log.origin()));
    for segment in 0.. {
        let Some(release) = Release::read(dir, log, segment)? else { break };
        if segment < first {
            let manifest = release.read_manifest(dir, log)?;
            let before = all.last().map(|before| Hex(before.manifest));
            if manifest.previous != before || !manifest.logs.iter().all(|part| walk.goes_on(part)) {
                let detail = "its manifest does not follow the one before".to_owned();
                return Err(OpenError::Released { segment, detail });
            }
        }
        all.push(release);
    }
    Ok((all, walk))
}
