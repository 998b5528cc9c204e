//! What witnesses outside said of the plane log: kept beside its checkpoint, and never needed to go on.
//!
//! A cosignature is taken only for a checkpoint that this plane signed and that its log still contains; one
//! of another history under our own key is the proof of a split view, and is reported with both notes.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use cogward_ledger::{
    Hash,
    note::{Checkpoint, NOTE_BYTES_MAX, Note, NoteError},
    policy::{Policy, Witnessed},
    tile_proof::{TileProofError, TiledLog},
};

use crate::{
    durable,
    plane::LogName,
    publish,
    read::{ReadError, on_a_thread},
    record::{Evidence, Shared},
};

/// The file with the newest checkpoint of the plane log that enough witnesses saw.
const WITNESSED_FILE: &str = "witnessed";
/// Sizes whose cosignatures are still gathered.
const GATHERING_MAX: usize = 16;

/// A checkpoint of the plane log with what witnesses said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// Leaves of the plane log.
    pub size: u64,
    /// The note with the cosignatures below it.
    pub note: String,
    /// Who saw it, and whether they are enough.
    pub judged: Witnessed,
}

/// How far the plane log is witnessed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WitnessStatus {
    /// The size that is published.
    pub size: u64,
    /// Whether any witness is asked for.
    pub needs_witnesses: bool,
    /// The newest checkpoint that enough witnesses saw.
    pub quorum: Option<Cosigned>,
    /// The newest checkpoint that any witness saw.
    pub newest: Option<Cosigned>,
}

/// Why a cosignature was not taken.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    /// It is not a note of the plane log.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// No witness of the policy signed it.
    #[error("no witness that this plane asks has signed the checkpoint of {0} leaves")]
    Unknown(u64),
    /// The plane log is not that long, or not published that far.
    #[error("the plane log is published up to {found} leaves, the checkpoint has {size}")]
    Size {
        /// What is there.
        found: u64,
        /// What the note says.
        size: u64,
    },
    /// The plane's own key signed another history.
    #[error(
        "split view: the key of the plane log signed another history than this one\n--- this plane\n{ours}\n--- the other\n{theirs}"
    )]
    SplitView {
        /// The checkpoint of this plane.
        ours: String,
        /// The other one.
        theirs: String,
    },
    /// The tiles could not be read.
    #[error("the tiles of the plane log cannot be read: {0}")]
    Tiles(#[from] TileProofError<std::io::Error>),
    /// The file could not be written.
    #[error("the witnessed checkpoint could not be written")]
    Io(#[from] std::io::Error),
    /// Reading was interrupted.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Lines of the log's own keys that are kept below a checkpoint.
const OWN_LINES_MAX: usize = 8;

/// The witnesses and what they said.
#[derive(Default)]
pub(crate) struct Witnesses(Mutex<Known>);

#[derive(Default)]
struct Known {
    policy: Arc<Policy>,
    gathering: BTreeMap<u64, Cosigned>,
    quorum: Option<Cosigned>,
}

impl Known {
    fn take(&mut self, note: &str) -> Option<(Cosigned, bool)> {
        let parsed = Note::parse(note).ok()?;
        let size = Checkpoint::from_text(parsed.text).ok()?.size;
        let before = self.gathering.get(&size).map(|cosigned| cosigned.note.clone());
        let mut merged = before.clone().unwrap_or_else(|| {
            // The log's own lines, a few at most (two kinds of two keys), and none of a stranger.
            let own = parsed.signatures.iter().filter(|line| parsed.text.starts_with(&format!("{}\n", line.name)));
            own.take(OWN_LINES_MAX).fold(format!("{}\n", parsed.text), |note, line| note + line.line + "\n")
        });
        for line in &parsed.signatures {
            // One that does not hold would make a witness's own line worthless: anybody could bring it.
            let alone = format!("{}\n{}\n", parsed.text, line.line);
            let alone = Note::parse(&alone).ok();
            let holds = |note: &Note<'_>| self.policy.witnesses().iter().any(|witness| witness.key.saw(note).is_some());
            if alone.as_ref().is_some_and(holds)
                && !merged.contains(line.line)
                && merged.len() + line.line.len() < NOTE_BYTES_MAX
            {
                merged.push_str(line.line);
                merged.push('\n');
            }
        }
        let judged = self.policy.judge(&Note::parse(&merged).ok()?);
        let cosigned = Cosigned { size, note: merged, judged };
        self.gathering.insert(size, cosigned.clone());
        if self.gathering.len() > GATHERING_MAX {
            self.gathering.pop_first();
        }
        let is_better = cosigned.judged.quorum && self.quorum.as_ref().is_none_or(|quorum| quorum.size <= size);
        if is_better {
            self.quorum = Some(cosigned.clone());
        }
        Some((cosigned, is_better))
    }
}

/// The root of the plane log at some size, out of the tiles that are published.
pub(crate) fn root_at(dir: &Path, size: u64, published: u64) -> Result<Hash, CosignError> {
    let dir = publish::tiles_dir(dir, &LogName::Plane);
    Ok(TiledLog::new(size, |tile| publish::read_hashes(&dir, tile, published)).whole()?)
}

impl Shared {
    /// The newest checkpoint that enough witnesses saw.
    pub(crate) fn quorum(&self) -> Option<Cosigned> {
        self.witnesses.0.lock().unwrap_or_else(PoisonError::into_inner).quorum.clone()
    }
}

impl Evidence {
    /// From now on cosignatures of these witnesses count. What they said to an earlier plane is read again.
    ///
    /// # Errors
    /// The file with it is there and cannot be read.
    pub fn witnessed_by(&self, policy: Policy) -> Result<(), CosignError> {
        let path = LogName::Plane.dir(&self.shared.dir).join(WITNESSED_FILE);
        let kept = durable::read(&path, NOTE_BYTES_MAX as u64)?.and_then(|note| String::from_utf8(note).ok());
        let keys = self.shared.keyring.plane().log.chain();
        let kept = kept.filter(|note| keys.open(note).is_ok());
        let mut known = self.shared.witnesses.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { policy: Arc::new(policy), ..Known::default() };
        if let Some(note) = kept {
            let _judged = known.take(&note);
        }
        Ok(())
    }

    /// The witnesses.
    #[must_use]
    pub fn witnesses(&self) -> Arc<Policy> {
        Arc::clone(&self.shared.witnesses.0.lock().unwrap_or_else(PoisonError::into_inner).policy)
    }

    /// Takes cosignatures: a checkpoint of the plane log with the witnesses' lines below it.
    ///
    /// # Errors
    /// See [`CosignError`].
    pub async fn cosign(&self, note: &str) -> Result<Cosigned, CosignError> {
        // A witness may be late: what it saw was signed by the key of then.
        let checkpoint = self.shared.keyring.plane().log.chain().open(note)?;
        let published = self.published(&LogName::Plane).map_or(0, |published| published.size);
        if checkpoint.size == 0 || checkpoint.size > published {
            return Err(CosignError::Size { found: published, size: checkpoint.size });
        }
        let (evidence, note) = (self.clone(), note.to_owned());
        on_a_thread(move || evidence.take_cosigned(&checkpoint, &note, published)).await
    }

    fn take_cosigned(&self, checkpoint: &Checkpoint, note: &str, published: u64) -> Result<Cosigned, CosignError> {
        if root_at(&self.shared.dir, checkpoint.size, published)? != checkpoint.root {
            let ours = self.published(&LogName::Plane).map(|ours| ours.note.clone()).unwrap_or_default();
            tracing::error!(theirs = note, "the key of the plane log signed another history than this one");
            return Err(CosignError::SplitView { ours, theirs: note.to_owned() });
        }
        let mut known = self.shared.witnesses.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = Note::parse(note)?;
        if known.policy.witnesses().iter().all(|witness| witness.key.saw(&parsed).is_none()) {
            return Err(CosignError::Unknown(checkpoint.size));
        }
        let (cosigned, is_better) = known.take(note).ok_or(CosignError::Unknown(checkpoint.size))?;
        drop(known);
        if is_better {
            let path = LogName::Plane.dir(&self.shared.dir).join(WITNESSED_FILE);
            durable::replace(&path, cosigned.note.as_bytes())?;
            self.shared.published.tell();
        }
        Ok(cosigned)
    }

    /// How far the plane log is witnessed.
    #[must_use]
    pub fn witness_status(&self) -> WitnessStatus {
        let size = self.published(&LogName::Plane).map_or(0, |published| published.size);
        let known = self.shared.witnesses.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = known.gathering.values().rev().find(|cosigned| !cosigned.judged.by.is_empty());
        WitnessStatus {
            size,
            needs_witnesses: known.policy.needs_witnesses(),
            quorum: known.quorum.clone().filter(|_| known.policy.needs_witnesses()),
            newest: newest.cloned(),
        }
    }

    /// That the plane log of `old` leaves is a beginning of the one of `size`; nothing for an `old` of 0.
    ///
    /// # Errors
    /// There are no such sizes, or the tiles could not be read.
    pub async fn plane_consistency(&self, old: u64, size: u64) -> Result<Vec<Hash>, CosignError> {
        let found = self.published(&LogName::Plane).map_or(0, |published| published.size);
        if old > size || size > found {
            return Err(CosignError::Size { found, size });
        }
        if old == 0 {
            return Ok(Vec::new());
        }
        let dir = publish::tiles_dir(&self.shared.dir, &LogName::Plane);
        on_a_thread(move || Ok(TiledLog::new(size, |tile| publish::read_hashes(&dir, tile, found)).consistency(old)?))
            .await
    }
}
