//! Releasing a segment: it leaves this disk, because the archive has it and nobody needs it here.
//!
//! The order is what makes a crash harmless. The archive is read back once more; what a start needs of the segment is
//! flushed beside it; the caller records the release in the ledger; the signed release is flushed; only then the file
//! goes. A crash before the signed release repeats all of it, one behind it leaves a file that goes next time.

use std::{fs, sync::atomic::Ordering, time::Duration};

use cogward_ledger::archive::{self, MANIFEST_BYTES_MAX, Name, SegmentReader};
use cogward_model::Timestamp;

use crate::{
    durable,
    kept::{self, Keeping},
    record::Evidence,
    released::{Release, kept_file, released_dir},
};

use super::{Archive, ArchiveError, seal::segment_file};

/// A segment that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ripe(Release);

/// What is recorded of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Its number.
    pub segment: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub digest: String,
    /// That of its manifest.
    pub manifest: String,
    /// Its size.
    pub bytes: u64,
    /// The time of its last leaf.
    pub until: Timestamp,
}

impl Ripe {
    /// What is recorded of it.
    #[must_use]
    pub fn told(&self) -> Released {
        let Release { segment, sha256, manifest, until, bytes, .. } = self.0;
        Released { segment, digest: archive::hex(&sha256), manifest: archive::hex(&manifest), bytes, until }
    }
}

impl Evidence {
    /// How many segments of the write-ahead log were released: they are only in the archive.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.shared.segments.released()
    }
}

impl Archive {
    /// How many segments were released.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.evidence.released()
    }

    /// The next segment that may leave this disk: its last leaf is older than `keep`, a flushed snapshot, the tiles and the
    /// index are behind it, what is here was read again since the start, and the archive gave all of it back just now.
    /// `None` while there is none.
    ///
    /// # Errors
    /// See [`ArchiveError`]; the next call tries the same again.
    pub fn ripe(&mut self, keep: Duration) -> Result<Option<Ripe>, ArchiveError> {
        let shared = &self.evidence.shared;
        let (segments, dir) = (&shared.segments, &shared.dir);
        // A plane that was killed behind the release of one had no time to remove it.
        segments.unlink()?;
        let index = segments.released();
        if index >= self.stored || index >= shared.progress.end().segment {
            return Ok(None);
        }
        let now = shared.clock.now();
        let is_young = |until: Timestamp| u128::from(now.micros_since(until)) < keep.as_micros();
        if self.young.is_some_and(|(of, until)| of == index && is_young(until)) {
            return Ok(None);
        }
        segments.passed.wake(index);
        if segments.passed.needed() <= index || !segments.passed.scrubbed.load(Ordering::Acquire) {
            tracing::debug!(segment = index, passed = ?segments.passed, "a segment is still needed here");
            return Ok(None);
        }
        let bytes = durable::read(&self.manifest_file(index), MANIFEST_BYTES_MAX as u64)?;
        let bytes = bytes.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        let (sealed, manifest) = (self.own(index, &bytes)?.segment, archive::sha256(&bytes));
        let damaged = |detail: String| ArchiveError::Damaged { segment: index, detail };
        let file = fs::File::open(segment_file(dir, index))?;
        let mut reader = SegmentReader::open(file, index, sealed.bytes).map_err(|error| damaged(error.to_string()))?;
        let ahead = match index.checked_sub(1) {
            // Without it, what was sealed for the first leaf of this segment would be missing from what is kept.
            Some(before) => match segments.release_of(before).and_then(|release| kept::ahead(dir, &release)) {
                Some(ahead) => ahead,
                None => return Err(damaged("what was kept of the segment before is damaged".to_owned())),
            },
            None => Vec::new(),
        };
        let mut keeping = Keeping::after(ahead);
        while let Some(frame) = reader.frame().map_err(|error| damaged(error.to_string()))? {
            let taken = keeping.frame(frame.kind, frame.payload);
            taken.ok_or_else(|| damaged(format!("the frame at byte {} is none of the ledger", frame.at)))?;
        }
        if reader.finish().map_err(|error| damaged(error.to_string()))? != sealed.sha256.0 {
            return Err(damaged("its bytes are no longer those that its manifest names".to_owned()));
        }
        // A segment without a leaf of a tenant is as old as the one before it.
        let until = match &keeping.time {
            Some(time) => time.parse().map_err(|_| damaged("a leaf has no time".to_owned()))?,
            None => {
                index.checked_sub(1).and_then(|before| segments.release_of(before)).map_or(now, |before| before.until)
            }
        };
        if is_young(until) {
            self.young = Some((index, until));
            return Ok(None);
        }
        // What was noted when it was brought there is not enough for removing the last copy here.
        self.read_back(&Name::Segment { index, digest: sealed.sha256.0 }, sealed.bytes, sealed.sha256.0)?;
        self.read_back(&Name::Manifest { number: index, digest: manifest }, bytes.len() as u64, manifest)?;
        let lines = keeping.finish().ok_or_else(|| damaged("what is kept of it cannot be written".to_owned()))?;
        durable::directory(&released_dir(dir))?;
        durable::replace(&kept_file(dir, index), &lines)?;
        let kept = archive::sha256(&lines);
        let (segment, sha256, bytes) = (index, sealed.sha256.0, sealed.bytes);
        Ok(Some(Ripe(Release { segment, sha256, manifest, kept, until, bytes })))
    }

    /// Removes a segment here, once its release is recorded in the ledger.
    ///
    /// # Errors
    /// The signed release could not be written, or the file not removed; the next [`Archive::ripe`] goes on with it.
    pub fn release(&mut self, Ripe(release): Ripe) -> Result<(), ArchiveError> {
        let shared = &self.evidence.shared;
        if release.segment != shared.segments.released() {
            return Ok(());
        }
        release.write(&shared.dir, &shared.keyring.plane().log)?;
        shared.segments.add(release);
        Ok(shared.segments.unlink()?)
    }
}
