//! A witness: what it knows of the logs that it watches, in a directory of its own.
//!
//! One state a log: the largest checkpoint that it cosigned. The check and the write are one step under one lock, and
//! the state is on the disk before a signature leaves. Two histories under one key are kept, both notes, for ever.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest;
use cogward_ledger::{
    cosign::{WitnessKey, WitnessSigner},
    note::{Checkpoint, NOTE_BYTES_MAX, Note, NoteError, VerifyingKey},
    witness::{Examined, Remembered, examine},
};
use cogward_model::{Clock, Entropy};
use rustix::fs::{FlockOperation, flock};

use crate::{
    durable,
    keys::{KeyringError, seed},
};

/// Why a witness cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file could not be read or written.
    #[error("the witness's files could not be read or written")]
    Io(#[from] io::Error),
    /// Another process works on the directory.
    #[error("another witness works on this directory")]
    Held,
    /// Its keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// Its name cannot stand in a note.
    #[error("`{0}` cannot be the name of a witness: no white space, no `+`, at most 255 letters")]
    Name(String),
    /// The directory belongs to a witness of another name.
    #[error("this directory is that of the witness `{0}`")]
    OtherName(String),
    /// What it remembers of a log is damaged. It must not begin anew: it could be made to sign a rollback.
    #[error("what the witness remembers of `{origin}` is damaged: {source}")]
    Memory {
        /// The log.
        origin: String,
        /// What is wrong.
        source: NoteError,
    },
}

/// What came of a request.
#[derive(Debug)]
pub enum Added {
    /// The lines of the witness.
    Cosigned(String),
    /// Anything else, as the rules say.
    Refused(Examined),
}

/// A witness with its memory.
pub struct WitnessBook {
    dir: PathBuf,
    signer: WitnessSigner,
    logs: HashMap<String, VerifyingKey>,
    clock: Box<dyn Clock>,
    /// Held over check and write: what is remembered never goes back.
    memory: Mutex<()>,
    _held: fs::File,
}

impl WitnessBook {
    /// Opens a witness's directory, made with new keys when it is not there. The first opening gives it its name.
    ///
    /// # Errors
    /// See [`WitnessError`].
    pub fn open(
        dir: &Path,
        name: Option<&str>,
        logs: Vec<VerifyingKey>,
        clock: Box<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Self, WitnessError> {
        durable::directory(dir)?;
        durable::directory(&dir.join("logs"))?;
        let held = fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|_| WitnessError::Held)?;
        let path = dir.join("name");
        let kept = durable::read(&path, 256)?.and_then(|bytes| String::from_utf8(bytes).ok());
        let name = match (kept, name) {
            (Some(kept), Some(name)) if kept != name => return Err(WitnessError::OtherName(kept)),
            (Some(kept), _) => kept,
            (None, name) => {
                let name = name.unwrap_or_default().to_owned();
                // Tried before it is kept.
                WitnessSigner::from_seeds(&name, &[0; 32], &[0; 32]).map_err(|_| WitnessError::Name(name.clone()))?;
                durable::replace(&path, name.as_bytes())?;
                name
            }
        };
        let (classic, quantum) = (seed(dir.join("witness.sign"), entropy)?, seed(dir.join("witness.mldsa"), entropy)?);
        let signer = WitnessSigner::from_seeds(&name, &classic, &quantum).map_err(|_| WitnessError::Name(name))?;
        let logs = logs.into_iter().map(|key| (key.origin().to_owned(), key)).collect();
        Ok(Self { dir: dir.to_owned(), signer, logs, clock, memory: Mutex::default(), _held: held })
    }

    /// Its public keys: Ed25519, ML-DSA-44.
    #[must_use]
    pub fn keys(&self) -> [WitnessKey; 2] {
        self.signer.keys()
    }

    /// Where a log's state is: its name could be a path.
    fn log_dir(&self, origin: &str) -> PathBuf {
        let name = digest::digest(&digest::SHA256, origin.as_bytes());
        self.dir.join("logs").join(name.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>())
    }

    fn remembered(&self, origin: &str) -> Result<Remembered, WitnessError> {
        let path = self.log_dir(origin).join("checkpoint");
        let Some(bytes) = durable::read(&path, NOTE_BYTES_MAX as u64)? else { return Ok(Remembered::default()) };
        let wrong = |source| WitnessError::Memory { origin: origin.to_owned(), source };
        let note = String::from_utf8(bytes).map_err(|_| wrong(NoteError::Form("not text")))?;
        let of = Note::parse(&note).and_then(|note| Checkpoint::from_text_extended(note.text)).map_err(wrong)?;
        if of.origin != origin {
            return Err(wrong(NoteError::Form("it is of another log")));
        }
        Ok(Remembered { size: of.size, root: of.root, note })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// What it remembers cannot be read or written: then nothing is signed.
    pub fn add(&self, request: &str) -> Result<Added, WitnessError> {
        let _one_at_a_time = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = None;
        let examined = examine(
            request,
            |origin| self.logs.get(origin).cloned(),
            |origin| {
                self.remembered(origin).unwrap_or_else(|error| {
                    failed = Some(error);
                    Remembered::default()
                })
            },
        );
        if let Some(error) = failed {
            return Err(error);
        }
        match examined {
            Examined::Cosign { checkpoint, text, remember } => {
                let dir = self.log_dir(&checkpoint.origin);
                durable::directory(&dir)?;
                durable::replace(&dir.join("checkpoint"), remember.note.as_bytes())?;
                let seconds = self.clock.now().unix_micros() / 1_000_000;
                Ok(Added::Cosigned(self.signer.cosign(&text, &checkpoint, seconds)))
            }
            Examined::SplitView { ours, theirs } => {
                tracing::error!(ours = %ours.note, %theirs, "split view: one key signed two histories");
                let origin = theirs.lines().next().unwrap_or_default();
                let (dir, mark) = (self.log_dir(origin), digest::digest(&digest::SHA256, theirs.as_bytes()));
                let mark: String = mark.as_ref().iter().take(4).map(|b| format!("{b:02x}")).collect();
                let proof = format!("{}\n--- and, signed by the same key:\n\n{theirs}", ours.note);
                durable::replace(&dir.join(format!("split-view-{}-{mark}", ours.size)), proof.as_bytes())?;
                Ok(Added::Refused(Examined::SplitView { ours, theirs }))
            }
            refused => Ok(Added::Refused(refused)),
        }
    }
}
