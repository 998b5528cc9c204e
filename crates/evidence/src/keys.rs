//! The keys of the ledger: for each tenant one that signs, one that wraps, and the data keys it wraps.
//!
//! `keys/plane.id` names this plane's logs; `keys/<tenant>.sign` and `keys/<tenant>.kek` are made at the
//! tenant's first event; `vault/<tenant>.deks` holds the wrapped data keys, one record behind the
//! other. A new data key is on the disk before the first leaf that needs it is acknowledged.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_ledger::note::SigningKey;
use cogward_model::{Entropy, TenantName};
use zeroize::Zeroizing;

use crate::{
    durable,
    vault::{DataKey, KEY_ID_BYTES},
};

/// Purposes whose keys are found without computing their ids.
const RECENT_MAX: usize = 4_096;
/// `{id 16, nonce 12, wrapped key 32, tag 16}`.
const RECORD_BYTES: usize = KEY_ID_BYTES + NONCE_LEN + 32 + 16;

/// Why the keys are not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file could not be read or written.
    #[error("a key file could not be read or written: {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is there and is not what was written.
    #[error("the key file {0} is damaged")]
    Damaged(PathBuf),
}

/// All tenants' keys.
pub(crate) struct Keyring {
    keys: PathBuf,
    vault: PathBuf,
    plane: String,
    entropy: Arc<dyn Entropy>,
    tenants: Mutex<HashMap<TenantName, Arc<TenantKeys>>>,
    /// Whether any tenant has a data key that is not on the disk.
    unsaved: Arc<AtomicBool>,
}

/// What a data key is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// Values about a person who is known.
    Subject(&'a str),
    /// Values about whoever this run is about.
    Run(&'a str),
    /// The customer's own values.
    Tenant,
}

/// One tenant's keys.
pub(crate) struct TenantKeys {
    tenant: TenantName,
    pub(crate) signing: SigningKey,
    kek: LessSafeKey,
    index: hmac::Key,
    entropy: Arc<dyn Entropy>,
    unsaved: Arc<AtomicBool>,
    data: Mutex<DataKeys>,
}

struct DataKeys {
    path: PathBuf,
    /// The keys of the newest purposes, by kind and name: their ids need not be computed again.
    recent: HashMap<String, Arc<DataKey>>,
    known: HashMap<[u8; KEY_ID_BYTES], Arc<DataKey>>,
    /// Records that are not on the disk yet.
    unsaved: Vec<u8>,
}

impl Keyring {
    pub(crate) fn open(dir: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, KeyringError> {
        let (keys, vault) = (dir.join("keys"), dir.join("vault"));
        for path in [&keys, &vault] {
            durable::directory(path).map_err(|source| KeyringError::Io { path: path.clone(), source })?;
        }
        let path = keys.join("plane.id");
        let id = or_make(&path, 12, || {
            let mut random = [0_u8; 6];
            entropy.fill(&mut random);
            random.iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect()
        })?;
        let plane = String::from_utf8(id.to_vec()).map_err(|_| KeyringError::Damaged(path.clone()))?;
        if !plane.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(KeyringError::Damaged(path));
        }
        Ok(Self { keys, vault, plane, entropy, tenants: Mutex::default(), unsaved: Arc::default() })
    }

    /// A tenant's keys, made when there are none.
    pub(crate) fn tenant(&self, tenant: &TenantName) -> Result<Arc<TenantKeys>, KeyringError> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = tenants.get(tenant) {
            return Ok(Arc::clone(keys));
        }
        let keys = Arc::new(self.load(tenant)?);
        tenants.insert(tenant.clone(), Arc::clone(&keys));
        Ok(keys)
    }

    fn load(&self, tenant: &TenantName) -> Result<TenantKeys, KeyringError> {
        let random = || {
            let mut key = Zeroizing::new([0_u8; 32]);
            self.entropy.fill(&mut *key);
            STANDARD.encode(*key).into_bytes()
        };
        let read = |extension: &str| {
            let path = self.keys.join(format!("{tenant}.{extension}"));
            let text = or_make(&path, 44, random)?;
            let bytes = STANDARD.decode(&*text).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
            bytes.map(Zeroizing::new).ok_or(KeyringError::Damaged(path))
        };
        let damaged = || KeyringError::Damaged(self.keys.join(tenant.as_str()));
        let origin = format!("cogward.dev/ledger/{}/{tenant}", self.plane);
        let signing = SigningKey::from_seed(&origin, &*read("sign")?).map_err(|_| damaged())?;
        let kek_bytes = read("kek")?;
        let kek = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*kek_bytes).map_err(|_| damaged())?);
        // The file of data keys must not say whose they are: an id is a keyed hash of the person's name.
        let index = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*kek_bytes), b"cogward data key ids v1");
        let index = hmac::Key::new(hmac::HMAC_SHA256, index.as_ref());
        let path = self.vault.join(format!("{tenant}.deks"));
        let data = DataKeys::load(path, tenant, &kek)?;
        let (entropy, unsaved) = (Arc::clone(&self.entropy), Arc::clone(&self.unsaved));
        Ok(TenantKeys { tenant: tenant.clone(), signing, kek, index, entropy, unsaved, data: Mutex::new(data) })
    }

    /// This plane's name in the origins of its logs.
    pub(crate) fn plane(&self) -> &str {
        &self.plane
    }

    /// Puts every new data key on the disk.
    pub(crate) fn save(&self) -> Result<(), KeyringError> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let tenants: Vec<_> = {
            let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.values().map(Arc::clone).collect()
        };
        tenants.iter().try_for_each(|keys| keys.data.lock().unwrap_or_else(PoisonError::into_inner).save())
    }
}

/// The content of a key file of exactly `length` bytes, made when there is none.
fn or_make(path: &Path, length: usize, make: impl FnOnce() -> Vec<u8>) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let failed = |source| KeyringError::Io { path: path.to_path_buf(), source };
    let found = match durable::read(path, 1_024).map_err(failed)? {
        Some(found) => Zeroizing::new(found),
        None => {
            let made = Zeroizing::new(make());
            durable::replace(path, &made).map_err(failed)?;
            made
        }
    };
    if found.len() == length { Ok(found) } else { Err(KeyringError::Damaged(path.to_path_buf())) }
}

impl TenantKeys {
    /// The data key for a purpose, made when there is none; it is durable after the next [`Keyring::save`].
    pub(crate) fn data_key(&self, purpose: Purpose<'_>) -> Option<Arc<DataKey>> {
        let (kind, name) = match purpose {
            Purpose::Subject(name) => ("subject", name),
            Purpose::Run(id) => ("run", id),
            Purpose::Tenant => ("tenant", ""),
        };
        let named = [kind, "\0", name].concat();
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = data.recent.get(&named) {
            return Some(Arc::clone(key));
        }
        let id = self.tag(&named);
        let key = match data.known.get(&id) {
            Some(key) => Arc::clone(key),
            None => self.make(id, &mut data)?,
        };
        if data.recent.len() >= RECENT_MAX {
            data.recent.clear();
        }
        data.recent.insert(named, Arc::clone(&key));
        Some(key)
    }

    /// A person's pseudonym: the id that the key for the person's values has, had or would have. It makes no key.
    pub(crate) fn pseudonym(&self, subject: &str) -> [u8; KEY_ID_BYTES] {
        self.tag(&["subject\0", subject].concat())
    }

    /// A keyed hash for the query index. No id of a data key begins with its first word.
    pub(crate) fn index_tag(&self, text: &str) -> [u8; KEY_ID_BYTES] {
        self.tag(&["search\0", text].concat())
    }

    fn tag(&self, text: &str) -> [u8; KEY_ID_BYTES] {
        hmac::sign(&self.index, text.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn make(&self, id: [u8; KEY_ID_BYTES], data: &mut DataKeys) -> Option<Arc<DataKey>> {
        let (mut key, mut nonce) = (Zeroizing::new([0_u8; 32]), [0_u8; NONCE_LEN]);
        self.entropy.fill(&mut *key);
        self.entropy.fill(&mut nonce);
        let mut wrapped = key.to_vec();
        let aad = Aad::from(wrapped_for(&self.tenant, &id));
        self.kek.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut wrapped).ok()?;
        let made = Arc::new(DataKey::new(id, &key)?);
        data.unsaved.extend_from_slice(&id);
        data.unsaved.extend_from_slice(&nonce);
        data.unsaved.extend_from_slice(&wrapped);
        data.known.insert(id, Arc::clone(&made));
        self.unsaved.store(true, Ordering::Release);
        Some(made)
    }

    /// The data key with an id, `None` when it was destroyed.
    pub(crate) fn known(&self, id: &[u8; KEY_ID_BYTES]) -> Option<Arc<DataKey>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).known.get(id).map(Arc::clone)
    }
}

fn wrapped_for(tenant: &TenantName, id: &[u8; KEY_ID_BYTES]) -> Vec<u8> {
    [tenant.as_str().as_bytes(), b"\0", id].concat()
}

impl DataKeys {
    fn load(path: PathBuf, tenant: &TenantName, kek: &LessSafeKey) -> Result<Self, KeyringError> {
        let failed = |source| KeyringError::Io { path: path.clone(), source };
        let bytes = durable::read(&path, u64::MAX).map_err(failed)?.unwrap_or_default();
        let (records, torn) = bytes.as_chunks::<RECORD_BYTES>();
        if !torn.is_empty() {
            // A crash while a key was added; the leaf that needed it was not acknowledged.
            let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
            let whole = (records.len() * RECORD_BYTES) as u64;
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let mut known = HashMap::with_capacity(records.len());
        for record in records {
            let key = unwrap_record(record, tenant, kek).ok_or_else(|| KeyringError::Damaged(path.clone()))?;
            known.insert(key.id, Arc::new(key));
        }
        Ok(Self { path, recent: HashMap::new(), known, unsaved: Vec::new() })
    }

    fn save(&mut self) -> Result<(), KeyringError> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let is_new = !self.path.exists();
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            file.write_all(&self.unsaved)?;
            file.sync_data()?;
            if is_new && let Some(dir) = self.path.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|source| KeyringError::Io { path: self.path.clone(), source })?;
        self.unsaved.clear();
        Ok(())
    }
}

fn unwrap_record(record: &[u8; RECORD_BYTES], tenant: &TenantName, kek: &LessSafeKey) -> Option<DataKey> {
    let (id, rest) = record.split_first_chunk::<KEY_ID_BYTES>()?;
    let (nonce, wrapped) = rest.split_first_chunk::<NONCE_LEN>()?;
    let mut wrapped = Zeroizing::new(wrapped.to_vec());
    let aad = Aad::from(wrapped_for(tenant, id));
    let key = kek.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut wrapped).ok()?;
    DataKey::new(*id, key.first_chunk()?)
}

#[cfg(test)]
mod tests {
    use cogward_model::SystemEntropy;

    use super::*;

    #[test]
    fn keys_are_the_same_after_a_restart_and_a_torn_record_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let acme: TenantName = "acme".parse().unwrap();
        let first = Keyring::open(dir.path(), Arc::new(SystemEntropy)).unwrap();
        let keys = first.tenant(&acme).unwrap();
        let anna = keys.data_key(Purpose::Subject("anna")).unwrap().id;
        assert_ne!(anna, keys.data_key(Purpose::Run("anna")).unwrap().id);
        first.save().unwrap();
        keys.data_key(Purpose::Subject("unsaved")).unwrap();
        let path = dir.path().join("vault/acme.deks");
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"anna"));
        bytes.extend_from_slice(&[1; 20]);
        std::fs::write(&path, bytes).unwrap();
        let again = Keyring::open(dir.path(), Arc::new(SystemEntropy)).unwrap().tenant(&acme).unwrap();
        assert!(again.known(&anna).is_some());
        assert_eq!(again.signing.verifying(), keys.signing.verifying());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * RECORD_BYTES as u64);
    }
}
