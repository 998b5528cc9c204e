//! The signing keys of one log: the present one, the one before it while that signs along, and what was said of them.
//!
//! `<log>.sign` and `<log>.mldsa` are the first key, `<log>.<n>.sign` and `.mldsa` the n-th after it; where the Ed25519
//! key is in a token, `.token` stands for `.sign` ([`crate::token`]). `<log>.chain`
//! says which is the present one, with the statements that led to it: replacing that file is the one step by
//! which a log gets another key. Each statement is in it before it is a leaf, so a leaf with a statement that is
//! not in it means that these are older files than the log's.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_ledger::{
    key_chain::{Entry, KeyChain, Statement, Why},
    note::{Checkpoint, Note, NoteError, SigningKey},
};
use cogward_model::{Entropy, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    durable,
    key_change::{KeyChangeError, KeyRequest},
    keys::{KeyringError, seed},
    token::{Places, Reference, forget},
};

const FORM: u64 = 1;
/// Largest file of statements: what a reader takes of them, and their marks.
const RECORD_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The text of a seed.
const SEED_BYTES: u64 = 44;

/// What `<log>.chain` holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    form: u64,
    pub(crate) statements: Vec<Kept>,
    /// The key that still signs along, and when it is destroyed.
    pub(crate) retire: Option<Retire>,
    /// What one operator asked for and another has to confirm.
    pub(crate) request: Option<KeyRequest>,
}

/// A statement and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) statement: String,
    /// `None` until its leaf is known to be on the disk.
    pub(crate) leaf: Option<u64>,
}

/// A key on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retire {
    pub(crate) generation: u64,
    pub(crate) at_us: u64,
}

struct State {
    signing: Arc<SigningKey>,
    chain: Arc<KeyChain>,
    record: Record,
}

/// Where the keys of a log lie.
struct Files {
    dir: PathBuf,
    name: String,
    origin: String,
    places: Arc<Places>,
}

impl Files {
    fn load(&self, entropy: &dyn Entropy) -> Result<State, KeyringError> {
        let path = self.record_path();
        let bytes = durable::read(&path, RECORD_BYTES_MAX);
        let bytes = bytes.map_err(|source| KeyringError::Io { path: path.clone(), source })?;
        let record = match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| damaged(path.clone()))?,
            None => Record { form: FORM, ..Record::default() },
        };
        if record.form != FORM {
            return Err(damaged(path));
        }
        let Some(first) = record.statements.first() else {
            self.make_first(entropy)?;
            let [path, _] = self.seed_paths(0);
            let signing = self.existing(0)?.ok_or(KeyringError::Gone(path))?;
            let chain = KeyChain::new(signing.verifying().clone());
            return Ok(State { signing: Arc::new(signing), chain: Arc::new(chain), record });
        };
        let mut chain = KeyChain::starting_at(&first.statement).map_err(|_| damaged(path.clone()))?;
        for kept in &record.statements {
            chain.push(None, &kept.statement).map_err(|_| damaged(path.clone()))?;
        }
        let signing = self.signing(&chain, record.retire)?;
        Ok(State { signing: Arc::new(signing), chain: Arc::new(chain), record })
    }

    /// The key that signs, with the one before it while that is there.
    fn signing(&self, chain: &KeyChain, retire: Option<Retire>) -> Result<SigningKey, KeyringError> {
        let generation = chain.generation();
        let [path, _] = self.key_paths(generation);
        let present = self.existing(generation)?.ok_or_else(|| KeyringError::Gone(path.clone()))?;
        if present.verifying() != chain.present() {
            return Err(KeyringError::OtherKey(path));
        }
        let older = match retire {
            Some(Retire { generation, .. }) => self.existing(generation)?,
            None => None,
        };
        Ok(present.along_with(older))
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join(format!("{}.chain", self.name))
    }

    fn seed_paths(&self, generation: u64) -> [PathBuf; 2] {
        ["sign", "mldsa"].map(|kind| match generation {
            0 => self.dir.join(format!("{}.{kind}", self.name)),
            n => self.dir.join(format!("{}.{n}.{kind}", self.name)),
        })
    }

    /// What stands in the place of the first seed when the key is in a token.
    fn token_path(&self, generation: u64) -> PathBuf {
        let [seed, _] = self.seed_paths(generation);
        seed.with_extension("token")
    }

    /// The files of a key, wherever it is.
    fn key_paths(&self, generation: u64) -> [PathBuf; 2] {
        let ([seed, quantum], token) = (self.seed_paths(generation), self.token_path(generation));
        [if token.exists() { token } else { seed }, quantum]
    }

    /// Makes the only keys that are ever made without a word in a log: its first. The Ed25519 key comes first: where the
    /// other one is and that is not, it was lost.
    fn make_first(&self, entropy: &dyn Entropy) -> Result<(), KeyringError> {
        let [classic, quantum] = self.seed_paths(0);
        let token = self.token_path(0);
        if !classic.exists() && !token.exists() {
            if quantum.exists() {
                return Err(KeyringError::Gone(classic));
            }
            if self.places.new_in_token() {
                self.places.make(&token, &self.origin, 0)?;
            }
        }
        if !token.exists() {
            seed(classic, entropy)?;
        }
        seed(quantum, entropy).map(drop)
    }

    /// Makes the key of a generation that no statement names. What an attempt that broke off left was never anybody's.
    fn make(&self, generation: u64, entropy: &dyn Entropy) -> Result<(), KeyringError> {
        let [classic, quantum] = self.seed_paths(generation);
        let token = self.token_path(generation);
        let fresh = |path: PathBuf| {
            let mut bytes = Zeroizing::new([0_u8; 32]);
            entropy.fill(&mut *bytes);
            let text = Zeroizing::new(STANDARD.encode(*bytes).into_bytes());
            durable::replace(&path, &text).map_err(|source| KeyringError::Io { path, source })
        };
        if self.places.new_in_token() {
            overwrite(&classic).map_err(|source| KeyringError::Io { path: classic, source })?;
            self.places.make(&token, &self.origin, generation)?;
        } else {
            forget(&token)?;
            fresh(classic)?;
        }
        fresh(quantum)
    }

    fn key_of(&self, classic: &[u8; 32], quantum: &[u8; 32]) -> Result<SigningKey, KeyringError> {
        let key = SigningKey::from_seed(&self.origin, classic).and_then(|key| key.with_ml_dsa(quantum));
        key.map_err(|_| damaged(self.dir.join(&self.name)))
    }

    /// A key that is there whole; none is ever made in its place. What is half destroyed is gone.
    fn existing(&self, generation: u64) -> Result<Option<SigningKey>, KeyringError> {
        let mut seeds = Vec::with_capacity(2);
        let token = self.token_path(generation);
        let reference = Reference::read(&token)?;
        let [first, _] = self.seed_paths(generation);
        if reference.is_some() && first.exists() {
            return Err(damaged(token));
        }
        for path in self.seed_paths(generation).into_iter().skip(usize::from(reference.is_some())) {
            let text = durable::read(&path, SEED_BYTES);
            let Some(text) = text.map_err(|source| KeyringError::Io { path: path.clone(), source })? else {
                return Ok(None);
            };
            let text = Zeroizing::new(text);
            let bytes = STANDARD.decode(&*text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            match bytes {
                Some(bytes) => seeds.push(Zeroizing::new(bytes)),
                // Overwritten and not yet removed.
                None if text.iter().all(|byte| *byte == 0) => return Ok(None),
                None => return Err(damaged(path)),
            }
        }
        match (reference, seeds.as_slice()) {
            (None, [classic, quantum]) => self.key_of(classic, quantum).map(Some),
            (Some(reference), [quantum]) => {
                let (public, device) = self.places.open((&token, &reference), &self.origin, generation)?;
                let key = SigningKey::in_device(&self.origin, public, device).and_then(|key| key.with_ml_dsa(quantum));
                key.map(Some).map_err(|_| damaged(token))
            }
            _ => Ok(None),
        }
    }

    fn write(&self, record: &Record) -> Result<(), KeyringError> {
        let path = self.record_path();
        let bytes = serde_json::to_vec(record).map_err(|_| damaged(path.clone()))?;
        durable::replace(&path, &bytes).map_err(|source| KeyringError::Io { path, source })
    }
}

/// The keys of one log.
pub(crate) struct LogKeys {
    files: Files,
    state: RwLock<State>,
    /// Read while a checkpoint is signed and put into its place, written while the key is replaced. So it is known
    /// to the leaf what the old key signed alone.
    turn: RwLock<()>,
}

impl LogKeys {
    /// Reads the keys of a log; makes its first when it never had any.
    pub(crate) fn open(
        (dir, places): (&Path, Arc<Places>),
        name: &str,
        origin: &str,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeyringError> {
        let files = Files { dir: dir.to_path_buf(), name: name.to_owned(), origin: origin.to_owned(), places };
        let state = RwLock::new(files.load(entropy)?);
        Ok(Self { files, state, turn: RwLock::new(()) })
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that signs now.
    pub(crate) fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.state().signing)
    }

    /// All keys that the log had.
    pub(crate) fn chain(&self) -> Arc<KeyChain> {
        Arc::clone(&self.state().chain)
    }

    /// The name of the log to the world.
    pub(crate) fn origin(&self) -> &str {
        &self.files.origin
    }

    pub(crate) fn record(&self) -> Record {
        self.state().record.clone()
    }

    /// In which tokens its keys are that still sign.
    pub(crate) fn tokens(&self) -> BTreeMap<u64, String> {
        let (present, retire) = {
            let state = self.state();
            (state.chain.generation(), state.record.retire)
        };
        let in_token = |generation| {
            let reference = Reference::read(&self.files.token_path(generation)).ok().flatten()?;
            Some((generation, reference.token))
        };
        [Some(present), retire.map(|retire| retire.generation)].into_iter().flatten().filter_map(in_token).collect()
    }

    /// No key is replaced while this is held.
    pub(crate) fn while_signing(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements that are leaves, as a pack tells them.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let state = self.state();
        let kept = state.record.statements.iter();
        kept.filter_map(|kept| Some(Entry { leaf: kept.leaf?, statement: kept.statement.clone() })).collect()
    }

    /// Statements that are not known to be leaves.
    pub(crate) fn unrecorded(&self) -> Vec<String> {
        let state = self.state();
        state.record.statements.iter().filter(|kept| kept.leaf.is_none()).map(|kept| kept.statement.clone()).collect()
    }

    /// A statement is in this leaf.
    ///
    /// # Errors
    /// The file could not be written, or the statement is none of this log's: its key files are older than the log.
    pub(crate) fn recorded(&self, statement: &str, leaf: u64) -> Result<(), KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut record = state.record.clone();
        let kept = record.statements.iter_mut().find(|kept| kept.statement == statement);
        let kept = kept.ok_or_else(|| KeyringError::Behind(self.files.origin.clone()))?;
        if kept.leaf.is_none() {
            kept.leaf = Some(leaf);
            self.files.write(&record)?;
            state.record = record;
        }
        Ok(())
    }

    /// Keeps what was asked for.
    pub(crate) fn asked(&self, request: Option<KeyRequest>) -> Result<(), KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let record = Record { request, ..state.record.clone() };
        self.files.write(&record)?;
        state.record = record;
        Ok(())
    }

    /// Opens the checkpoint that lies on the disk. The key before may have signed it alone as long as it is there:
    /// it is not destroyed before the present one has.
    pub(crate) fn open_own(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let state = self.state();
        match Checkpoint::open_older(note, state.chain.present()) {
            Err(NoteError::Unsigned(_)) if state.record.retire.is_some() => {
                let before = state.chain.generation().checked_sub(1).and_then(|n| state.chain.key(n));
                before.map_or(Err(NoteError::Unsigned(self.files.origin.clone())), |key| {
                    Checkpoint::open_older(note, key)
                })
            }
            other => other,
        }
    }

    /// Whether a checkpoint was signed by a key that these files do not know yet.
    pub(crate) fn is_behind(&self, note: &str) -> bool {
        self.state().chain.is_behind(note)
    }

    /// The generation that a new key would have.
    fn next(state: &State) -> Result<u64, KeyChangeError> {
        if let Some(Retire { at_us, .. }) = state.record.retire {
            return Err(KeyChangeError::Overlap(Timestamp::from_unix_micros(at_us)));
        }
        if state.record.statements.iter().any(|kept| kept.leaf.is_none()) {
            return Err(KeyChangeError::Unsettled);
        }
        Ok(state.chain.generation() + 1)
    }

    /// Replaces the key. From here on both sign; the statement has to become a leaf.
    pub(crate) fn rotate(
        &self,
        entropy: &dyn Entropy,
        (now, retire_at_us): (Timestamp, u64),
        signed_alone: impl FnOnce() -> io::Result<u64>,
    ) -> Result<Turned, KeyChangeError> {
        let generation = Self::next(&self.state())?;
        // A token takes its time, and nobody has to wait for it: changes of keys come one after the other.
        self.files.make(generation, entropy)?;
        let _nobody_signs = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if Self::next(&state)? != generation {
            return Err(KeyChangeError::Unsettled);
        }
        let [path, _] = self.files.key_paths(generation);
        let new = self.files.existing(generation)?.ok_or(KeyringError::Gone(path))?;
        let size = signed_alone().map_err(|source| KeyringError::Io { path: self.files.record_path(), source })?;
        let statement = Statement::Rotation {
            generation,
            old: state.chain.present().clone(),
            new: new.verifying().clone(),
            size,
            time: now.to_string(),
        };
        let note = statement.signed(&[&state.signing, &new])?;
        let retire = Some(Retire { generation: generation - 1, at_us: retire_at_us });
        let turned = self.turn_to(&mut state, note, retire)?;
        Ok(Turned { generation, size, ..turned })
    }

    /// Says up to which size the signatures of a past key count.
    pub(crate) fn revoke(
        &self,
        (generation, size, why): (u64, u64, Why),
        now: Timestamp,
    ) -> Result<Turned, KeyChangeError> {
        let _nobody_signs = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.record.statements.iter().any(|kept| kept.leaf.is_none()) {
            return Err(KeyChangeError::Unsettled);
        }
        let most = state.chain.counts_up_to(generation).ok_or(KeyChangeError::NotPast(generation))?;
        let key = state.chain.key(generation).cloned().ok_or(KeyChangeError::NotPast(generation))?;
        if size > most {
            return Err(KeyChangeError::Size { size, most });
        }
        let statement = Statement::Revocation { generation, key, size, why, time: now.to_string() };
        let note = statement.signed(&[&state.signing])?;
        // Whoever else has it shall not be helped by its still signing along.
        let now_us = now.unix_micros();
        let retire = state.record.retire.map(|retire| Retire { at_us: retire.at_us.min(now_us), ..retire });
        let retire = retire.filter(|retire| retire.generation == generation).or(state.record.retire);
        let turned = self.turn_to(&mut state, note, retire)?;
        Ok(Turned { generation, size, ..turned })
    }

    /// The one step: the statement is in the file, and what it says holds.
    fn turn_to(&self, state: &mut State, note: String, retire: Option<Retire>) -> Result<Turned, KeyChangeError> {
        // What does not fit would stop the next start: it is never written.
        Note::parse(&note).map_err(|error| KeyChangeError::Chain(error.to_string()))?;
        let mut chain = KeyChain::clone(&state.chain);
        chain.push(None, &note).map_err(|error| KeyChangeError::Chain(error.to_string()))?;
        let mut record = Record { retire, request: None, ..state.record.clone() };
        record.statements.push(Kept { statement: note.clone(), leaf: None });
        let signing = self.files.signing(&chain, retire)?;
        self.files.write(&record)?;
        *state = State { signing: Arc::new(signing), chain: Arc::new(chain), record };
        Ok(Turned { statement: note, generation: 0, size: 0, retire })
    }

    /// The key whose time is over.
    pub(crate) fn due(&self, now: Timestamp) -> Option<u64> {
        let state = self.state();
        let settled = state.record.statements.iter().all(|kept| kept.leaf.is_some());
        state
            .record
            .retire
            .filter(|retire| settled && retire.at_us <= now.unix_micros())
            .map(|retire| retire.generation)
    }

    /// Destroys a past key: overwritten where it stood, flushed, removed. Only once the present one has signed what
    /// lies on the disk.
    pub(crate) fn destroy(&self, generation: u64) -> Result<(), KeyringError> {
        let _nobody_signs = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let [first, _] = self.files.seed_paths(generation);
        if generation >= state.chain.generation() {
            return Err(KeyringError::OtherKey(first));
        }
        let token = self.files.token_path(generation);
        // The seeds go first and the word about a token last: what is destroyed by half is gone, and is finished.
        for path in self.files.seed_paths(generation) {
            overwrite(&path).map_err(|source| KeyringError::Io { path, source })?;
        }
        if let Some(reference) = Reference::read(&token)? {
            self.files.places.destroy((&token, &reference), &self.files.origin, generation)?;
            forget(&token)?;
        }
        let synced = File::open(&self.files.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| KeyringError::Io { path: first, source })?;
        state.signing = Arc::new(self.files.signing(&state.chain, None)?);
        Ok(())
    }

    /// The key is gone and that is recorded.
    pub(crate) fn retired(&self) -> Result<(), KeyringError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let record = Record { retire: None, ..state.record.clone() };
        self.files.write(&record)?;
        state.record = record;
        Ok(())
    }
}

/// What a change of the keys led to.
pub(crate) struct Turned {
    pub(crate) statement: String,
    pub(crate) generation: u64,
    pub(crate) size: u64,
    pub(crate) retire: Option<Retire>,
}

fn damaged(path: PathBuf) -> KeyringError {
    KeyringError::Damaged(path)
}

fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len().min(SEED_BYTES)).unwrap_or_default();
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    fs::remove_file(path)
}
