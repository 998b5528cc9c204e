//! The data keys of a tenant: what seals disclosures, and what erasing destroys.
//!
//! There is a key for each class of values, person, run and day. A person, a run and an age are thus each a set
//! of keys, and erasing one of them destroys these and no others. A file holds the keys of thirty days, one
//! record behind the other, in `vault/<tenant>/<number of the thirty days>.deks`:
//!
//! `{id 16, person 16, run 16, class 1, state 1, nonce 12, wrapped key 32, tag 16}`
//!
//! An id is the day and 96 random bits; the person is a keyed hash of the name. A destroyed key is overwritten
//! where it stands by `{id, redaction 16, zeros}`: the same bytes of the same file, flushed. So a crash leaves a
//! record that opens nothing or one that opens as before, and never a second copy of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    aead::{Aad, LessSafeKey, NONCE_LEN, Nonce},
    digest, hmac,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::{Entropy, RunId, TenantName, Timestamp, id::RedactionId};
use zeroize::Zeroizing;

use crate::{
    durable,
    keys::KeyringError,
    vault::{DataKey, KEY_ID_BYTES},
};

/// Purposes whose keys are found without a look at the records.
const RECENT_MAX: usize = 4_096;
/// Keys that are kept open for readers.
const OPENED_MAX: usize = 1_024;
/// Files whose records are in memory; the one that is written is always among them.
const BLOCKS_MAX: usize = 8;
/// Days whose keys share a file.
const BLOCK_DAYS: u32 = 30;
const DAY_MICROS: u64 = 86_400_000_000;
const HEAD_BYTES: usize = KEY_ID_BYTES + 16 + 16 + 1;
const STATE_AT: usize = HEAD_BYTES;
const RECORD_BYTES: usize = HEAD_BYTES + 1 + NONCE_LEN + 32 + 16;

const LIVE: u8 = 1;
const DESTROYED: u8 = 2;
/// Destroyed, and what was to stay is sealed again under another key.
const RESEALED: u8 = 3;

/// The identifier of a data key.
pub(crate) type KeyId = [u8; KEY_ID_BYTES];

/// The class of the values that a key seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealing {
    Personal,
    Confidential,
}

/// What a data key is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose<'a> {
    pub(crate) class: Sealing,
    /// The person whom the values are about, where one is known.
    pub(crate) subject: Option<&'a str>,
    pub(crate) run: Option<RunId>,
}

/// What there is of a key.
pub(crate) enum Found {
    Key(Arc<DataKey>),
    /// Destroyed by this redaction.
    Erased(RedactionId),
    /// Destroyed by this redaction, but some of its values are sealed again.
    Resealed(RedactionId),
    /// There is no such key.
    Gone,
}

/// What is known of a live key without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    pub(crate) id: KeyId,
    /// The keyed hash of the person's name; zeros when nobody is known.
    pub(crate) subject: [u8; 16],
    pub(crate) run: Option<RunId>,
}

impl KeyFacts {
    /// The day of its values, counted from 1970.
    pub(crate) fn day(&self) -> u32 {
        day_of(&self.id)
    }
}

/// How the ledger names a key: its day, and the SHA-256 of its identifier.
pub(crate) fn key_name(id: &KeyId) -> String {
    let digest = digest::digest(&digest::SHA256, id);
    format!("{}.{}", day_of(id), URL_SAFE_NO_PAD.encode(digest.as_ref()))
}

/// The day of a time, counted from 1970.
pub(crate) fn day(time: Timestamp) -> u32 {
    u32::try_from(time.unix_micros() / DAY_MICROS).unwrap_or(u32::MAX)
}

fn day_of(id: &KeyId) -> u32 {
    id.first_chunk().map_or(0, |day| u32::from_be_bytes(*day))
}

/// The number of the thirty days whose file a key is in.
pub(crate) fn block_of(id: &KeyId) -> u32 {
    day_of(id) / BLOCK_DAYS
}

type Record = [u8; RECORD_BYTES];

fn part<const N: usize>(record: &Record, at: usize) -> [u8; N] {
    record.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn id_of(record: &Record) -> KeyId {
    part(record, 0)
}

fn facts(record: &Record) -> KeyFacts {
    let run = part(record, KEY_ID_BYTES + 16);
    KeyFacts {
        id: id_of(record),
        subject: part(record, KEY_ID_BYTES),
        run: (run != [0; 16]).then(|| RunId::from_bytes(run)),
    }
}

fn state(record: &Record) -> u8 {
    record.get(STATE_AT).copied().unwrap_or(0)
}

/// The record of a key that is no more.
fn tombstone(id: &KeyId, by: RedactionId, state: u8) -> Record {
    let mut record = [0; RECORD_BYTES];
    record[..KEY_ID_BYTES].copy_from_slice(id);
    record[KEY_ID_BYTES..KEY_ID_BYTES + 16].copy_from_slice(&by.to_bytes());
    record[STATE_AT] = state;
    record
}

/// All data keys of a tenant.
pub(crate) struct DataKeys {
    dir: PathBuf,
    tenant: TenantName,
    kek: LessSafeKey,
    index: hmac::Key,
    entropy: Arc<dyn Entropy>,
    /// Whether any tenant has a key that is not on the disk.
    unsaved: Arc<AtomicBool>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The keys of the newest purposes of `today`.
    recent: HashMap<Vec<u8>, Arc<DataKey>>,
    today: u32,
    opened: HashMap<KeyId, Arc<DataKey>>,
    blocks: BTreeMap<u32, Block>,
}

#[derive(Default)]
struct Block {
    records: Vec<Record>,
    by_id: HashMap<KeyId, usize>,
    /// The live key of a purpose and day: `head` without the random part of the id.
    by_purpose: HashMap<[u8; 37], usize>,
    /// Records from here on are not on the disk yet.
    saved: usize,
}

/// Day, person, run and class of a record.
fn purpose_of(record: &Record) -> [u8; 37] {
    let mut purpose = [0; 37];
    purpose[..4].copy_from_slice(&part::<4>(record, 0));
    purpose[4..].copy_from_slice(&part::<33>(record, KEY_ID_BYTES));
    purpose
}

impl Block {
    fn push(&mut self, record: Record) {
        let at = self.records.len();
        self.by_id.insert(id_of(&record), at);
        if state(&record) == LIVE {
            self.by_purpose.insert(purpose_of(&record), at);
        }
        self.records.push(record);
    }

    fn get(&self, id: &KeyId) -> Option<&Record> {
        self.records.get(*self.by_id.get(id)?)
    }
}

impl DataKeys {
    pub(crate) fn new(
        dir: PathBuf,
        tenant: TenantName,
        kek: LessSafeKey,
        index: hmac::Key,
        entropy: Arc<dyn Entropy>,
        unsaved: Arc<AtomicBool>,
    ) -> Self {
        Self { dir, tenant, kek, index, entropy, unsaved, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, block: u32) -> PathBuf {
        self.dir.join(format!("{block}.deks"))
    }

    /// The keyed hash by which keys are found that are about a person.
    pub(crate) fn subject_tag(&self, subject: &str) -> [u8; 16] {
        self.tag("subject\0", subject)
    }

    /// A keyed hash for the query index, which is never that of a person.
    pub(crate) fn index_tag(&self, text: &str) -> [u8; 16] {
        self.tag("search\0", text)
    }

    fn tag(&self, of: &str, text: &str) -> [u8; 16] {
        let tag = hmac::sign(&self.index, &[of.as_bytes(), text.as_bytes()].concat());
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The key for a purpose on a day, made when there is none; it is durable after the next [`DataKeys::save`].
    pub(crate) fn sealing(&self, purpose: Purpose<'_>, today: u32) -> Option<Arc<DataKey>> {
        let class: u8 = match purpose.class {
            Sealing::Personal => 1,
            Sealing::Confidential => 2,
        };
        let run = purpose.run.map_or([0; 16], |run| run.to_bytes());
        let mut named = vec![class];
        named.extend_from_slice(&run);
        named.extend_from_slice(purpose.subject.map_or(&b""[..], str::as_bytes));
        let mut inner = self.lock();
        if inner.today != today || inner.recent.len() >= RECENT_MAX {
            inner.recent.clear();
            inner.today = today;
        }
        if let Some(key) = inner.recent.get(&named) {
            return Some(Arc::clone(key));
        }
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&today.to_be_bytes());
        if let Some(subject) = purpose.subject {
            head[KEY_ID_BYTES..KEY_ID_BYTES + 16].copy_from_slice(&self.subject_tag(subject));
        }
        head[KEY_ID_BYTES + 16..HEAD_BYTES - 1].copy_from_slice(&run);
        head[HEAD_BYTES - 1] = class;
        let key = self.of_head(&mut inner, head)?;
        inner.recent.insert(named, Arc::clone(&key));
        Some(key)
    }

    /// The live key with this day, person, run and class, made when there is none.
    fn of_head(&self, inner: &mut Inner, mut head: [u8; HEAD_BYTES]) -> Option<Arc<DataKey>> {
        let day = u32::from_be_bytes(*head.first_chunk()?);
        let block = self.block(inner, day / BLOCK_DAYS).ok()?;
        let mut probe = [0; RECORD_BYTES];
        probe[..HEAD_BYTES].copy_from_slice(&head);
        if let Some(at) = block.by_purpose.get(&purpose_of(&probe))
            && let Some(record) = block.records.get(*at)
            && let Some(key) = self.unwrap(record)
        {
            return Some(Arc::new(key));
        }
        self.entropy.fill(&mut head[4..KEY_ID_BYTES]);
        let (record, key) = self.make(&head)?;
        block.push(record);
        self.unsaved.store(true, Ordering::Release);
        Some(Arc::new(key))
    }

    fn make(&self, head: &[u8; HEAD_BYTES]) -> Option<(Record, DataKey)> {
        let (mut key, mut nonce) = (Zeroizing::new([0_u8; 32]), [0_u8; NONCE_LEN]);
        self.entropy.fill(&mut *key);
        self.entropy.fill(&mut nonce);
        let mut wrapped = Zeroizing::new(key.to_vec());
        let aad = Aad::from(self.wrapped_for(head));
        self.kek.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *wrapped).ok()?;
        let mut record = [0; RECORD_BYTES];
        let parts: [&[u8]; 4] = [head, &[LIVE], &nonce, &wrapped];
        for (to, from) in record.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        Some((record, DataKey::new(id_of(&record), &key)?))
    }

    fn wrapped_for(&self, head: &[u8]) -> Vec<u8> {
        [self.tenant.as_str().as_bytes(), b"\0", head].concat()
    }

    fn unwrap(&self, record: &Record) -> Option<DataKey> {
        let head = record.get(..HEAD_BYTES)?;
        let nonce = part::<NONCE_LEN>(record, STATE_AT + 1);
        let mut wrapped = Zeroizing::new(record.get(STATE_AT + 1 + NONCE_LEN..)?.to_vec());
        let aad = Aad::from(self.wrapped_for(head));
        let key = self.kek.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut wrapped).ok()?;
        DataKey::new(id_of(record), key.first_chunk()?)
    }

    /// The records of thirty days, read when they are not in memory.
    fn block<'a>(&self, inner: &'a mut Inner, number: u32) -> Result<&'a mut Block, KeyringError> {
        if !inner.blocks.contains_key(&number) {
            let block = load(&self.path(number))?;
            if inner.blocks.len() >= BLOCKS_MAX {
                let today = inner.today / BLOCK_DAYS;
                inner.blocks.retain(|n, block| *n == today || block.saved < block.records.len());
            }
            inner.blocks.insert(number, block);
        }
        inner.blocks.get_mut(&number).ok_or_else(|| KeyringError::Damaged(self.path(number)))
    }

    /// What there is of a key.
    pub(crate) fn find(&self, id: &KeyId) -> Result<Found, KeyringError> {
        let mut inner = self.lock();
        if let Some(key) = inner.opened.get(id) {
            return Ok(Found::Key(Arc::clone(key)));
        }
        let Some(record) = self.block(&mut inner, block_of(id))?.get(id).copied() else { return Ok(Found::Gone) };
        let by = || RedactionId::from_bytes(part(&record, KEY_ID_BYTES));
        match state(&record) {
            DESTROYED => Ok(Found::Erased(by())),
            RESEALED => Ok(Found::Resealed(by())),
            _ => {
                let Some(key) = self.unwrap(&record) else { return Ok(Found::Gone) };
                if inner.opened.len() >= OPENED_MAX {
                    inner.opened.clear();
                }
                let key = Arc::new(key);
                inner.opened.insert(*id, Arc::clone(&key));
                Ok(Found::Key(key))
            }
        }
    }

    /// What is known of a key that is live.
    pub(crate) fn facts(&self, id: &KeyId) -> Result<Option<KeyFacts>, KeyringError> {
        let mut inner = self.lock();
        let record = self.block(&mut inner, block_of(id))?.get(id);
        Ok(record.filter(|record| state(record) == LIVE).map(facts))
    }

    /// Whether a key is destroyed and some of its values are sealed again.
    pub(crate) fn is_resealed(&self, id: &KeyId) -> Result<bool, KeyringError> {
        let mut inner = self.lock();
        Ok(self.block(&mut inner, block_of(id))?.get(id).is_some_and(|record| state(record) == RESEALED))
    }

    /// Every live key that `wanted` takes, oldest first.
    pub(crate) fn select(&self, wanted: &mut dyn FnMut(&KeyFacts) -> bool) -> Result<Vec<KeyFacts>, KeyringError> {
        let mut blocks = self.blocks_on_disk()?;
        let mut inner = self.lock();
        blocks.extend(inner.blocks.keys());
        let mut found = Vec::new();
        for number in blocks {
            let block = self.block(&mut inner, number)?;
            let live = block.records.iter().filter(|record| state(record) == LIVE).map(facts);
            found.extend(live.filter(|key| wanted(key)));
        }
        found.sort_by_key(|key| key.id);
        Ok(found)
    }

    fn blocks_on_disk(&self) -> Result<BTreeSet<u32>, KeyringError> {
        let failed = |source| KeyringError::Io { path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(|name| name.strip_suffix(".deks")?.parse::<u32>().ok()));
        }
        Ok(found)
    }

    /// Nothing more is sealed under these keys; what they sealed they open until they are destroyed.
    pub(crate) fn retire(&self, ids: &[KeyId]) -> Result<(), KeyringError> {
        let mut inner = self.lock();
        inner.recent.clear();
        for id in ids {
            let block = self.block(&mut inner, block_of(id))?;
            if let Some(record) = block.get(id).copied() {
                block.by_purpose.remove(&purpose_of(&record));
            }
        }
        Ok(())
    }

    /// A new key for the same day, person, run and class as another.
    pub(crate) fn successor(&self, of: &KeyId) -> Result<Option<Arc<DataKey>>, KeyringError> {
        let mut inner = self.lock();
        let Some(record) = self.block(&mut inner, block_of(of))?.get(of).copied() else { return Ok(None) };
        self.block(&mut inner, block_of(of))?.by_purpose.remove(&purpose_of(&record));
        let Some(head) = record.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        Ok(self.of_head(&mut inner, *head))
    }

    /// Overwrites keys where they stand and waits for the disk. Says how many were there.
    ///
    /// With `resealed`, what was to stay of their values must be durable elsewhere before.
    pub(crate) fn destroy(&self, ids: &[KeyId], by: RedactionId, resealed: bool) -> Result<usize, KeyringError> {
        // A record that is not on the disk yet would come there later.
        self.save()?;
        let mut blocks: BTreeMap<u32, Vec<KeyId>> = BTreeMap::new();
        for id in ids {
            blocks.entry(block_of(id)).or_default().push(*id);
        }
        let mut inner = self.lock();
        inner.recent.clear();
        let mut destroyed = 0;
        for (number, ids) in blocks {
            let path = self.path(number);
            let failed = |source| KeyringError::Io { path: path.clone(), source };
            let block = self.block(&mut inner, number)?;
            let mut file = None;
            for id in &ids {
                let Some(at) = block.by_id.get(id).copied() else { continue };
                let Some(record) = block.records.get_mut(at) else { continue };
                if state(record) != LIVE {
                    continue;
                }
                block.by_purpose.remove(&purpose_of(record));
                let dead = tombstone(id, by, if resealed { RESEALED } else { DESTROYED });
                let file = match &mut file {
                    Some(file) => file,
                    none => none.insert(OpenOptions::new().write(true).open(&path).map_err(failed)?),
                };
                let offset = u64::try_from(at * RECORD_BYTES).unwrap_or(u64::MAX);
                file.write_all_at(&dead, offset).map_err(failed)?;
                *record = dead;
                destroyed += 1;
            }
            if let Some(file) = file {
                file.sync_all().map_err(failed)?;
            }
            ids.iter().for_each(|id| drop(inner.opened.remove(id)));
        }
        Ok(destroyed)
    }

    /// Puts every new key on the disk.
    pub(crate) fn save(&self) -> Result<(), KeyringError> {
        let mut inner = self.lock();
        for (number, block) in &mut inner.blocks {
            let new = block.records.get(block.saved..).unwrap_or_default();
            if new.is_empty() {
                continue;
            }
            let path = self.path(*number);
            // Part of a record of an attempt that failed must not stand before this one.
            let at = (block.saved * RECORD_BYTES) as u64;
            append(&self.dir, &path, Some(at), new.as_flattened())
                .map_err(|source| KeyringError::Io { path: path.clone(), source })?;
            block.saved = block.records.len();
        }
        Ok(())
    }
}

/// Appends to a file of the vault, durably. What is there behind `end` is not the vault's and is cut.
pub(crate) fn append(dir: &Path, path: &Path, end: Option<u64>, bytes: &[u8]) -> io::Result<()> {
    let is_new = !path.exists();
    durable::directory(dir)?;
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if let Some(end) = end {
        match file.metadata()?.len() {
            there if there < end => return Err(io::Error::other("the file is shorter than what was written to it")),
            there if there > end => file.set_len(end)?,
            _ => {}
        }
    }
    file.write_all(bytes)?;
    file.sync_data()?;
    if is_new {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<Block, KeyringError> {
    let failed = |source| KeyringError::Io { path: path.to_path_buf(), source };
    let bytes = durable::read(path, u64::MAX).map_err(failed)?.unwrap_or_default();
    let (records, torn) = bytes.as_chunks::<RECORD_BYTES>();
    if !torn.is_empty() {
        // A crash while a key was added; the leaf that needed it was not acknowledged.
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        let whole = (records.len() * RECORD_BYTES) as u64;
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    let mut block = Block::default();
    for record in records {
        if ![LIVE, DESTROYED, RESEALED].contains(&state(record)) {
            return Err(KeyringError::Damaged(path.to_path_buf()));
        }
        block.push(*record);
    }
    block.saved = block.records.len();
    Ok(block)
}
