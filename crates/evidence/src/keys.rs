//! The keys of the ledger: for each tenant one that signs, one that wraps, and the data keys it wraps.
//!
//! `keys/plane.id` names this plane's logs; `keys/<tenant>.sign` (Ed25519), `keys/<tenant>.mldsa` (ML-DSA-44; both
//! with their successors in [`crate::log_keys`], the first in a token where [`crate::token`] says so) and `keys/<tenant>.kek` are made at the tenant's first event; `keys/plane.log.*` are those of the plane log;
//! `vault/<tenant>/` holds the wrapped data keys ([`crate::data_keys`]). A new data key is on the disk before the
//! first leaf that needs it is acknowledged.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hmac,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_model::{Entropy, TenantName};
use zeroize::Zeroizing;

use crate::{
    data_keys::DataKeys,
    durable,
    log_keys::LogKeys,
    plane::PlaneKeys,
    resealed::Resealed,
    token::{Places, TokenError, TokenOptions},
};

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
    /// The key that the log's statements name is not there.
    #[error("the key {0} is gone; restore it from the backup that belongs to the log")]
    Gone(PathBuf),
    /// It is there and is another one.
    #[error("the key {0} is not the one that the log's statements name; restore the one that belongs to the log")]
    OtherKey(PathBuf),
    /// The key is in a token, and this plane was started without it.
    #[error(
        "{path} says that the key is in the PKCS#11 token {token}, which was not named: start with --log-keys and its URI"
    )]
    NoToken {
        /// Says so.
        path: PathBuf,
        /// Which token.
        token: String,
    },
    /// The token does not do what is asked of it.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The log knows of keys that these files do not know.
    #[error("rollback detected: the keys of {0} were replaced since these key files were written")]
    Behind(String),
}

/// All tenants' keys.
pub(crate) struct Keyring {
    keys: PathBuf,
    vault: PathBuf,
    plane: String,
    plane_keys: PlaneKeys,
    entropy: Arc<dyn Entropy>,
    places: Arc<Places>,
    tenants: Mutex<HashMap<TenantName, Arc<TenantKeys>>>,
    /// Held while keys are read or made: that may take a token's time, and nobody waits for it whose keys are there.
    loading: Mutex<()>,
    /// Whether any tenant has a data key that is not on the disk.
    unsaved: Arc<AtomicBool>,
}

/// One tenant's keys.
pub(crate) struct TenantKeys {
    pub(crate) log: LogKeys,
    pub(crate) data: DataKeys,
    /// Values that were sealed again because another value under their key was erased.
    pub(crate) resealed: Resealed,
}

impl Keyring {
    pub(crate) fn open(dir: &Path, entropy: Arc<dyn Entropy>, tokens: &TokenOptions) -> Result<Self, KeyringError> {
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
        // No tenant has a dot in its name.
        let origin = format!("cogward.dev/ledger/{plane}");
        let places = Arc::new(Places::new(tokens, &keys)?);
        let log = LogKeys::open((&keys, Arc::clone(&places)), "plane.log", &origin, &*entropy)?;
        let salt = hmac::Key::new(hmac::HMAC_SHA256, &*seed(keys.join("plane.log.salt"), &*entropy)?);
        let plane_keys = PlaneKeys { log, salt };
        let (tenants, loading, unsaved) = Default::default();
        Ok(Self { keys, vault, plane, plane_keys, entropy, places, tenants, loading, unsaved })
    }

    /// The keys of the plane log.
    pub(crate) fn plane(&self) -> &PlaneKeys {
        &self.plane_keys
    }

    /// A tenant's keys, made when there are none.
    pub(crate) fn tenant(&self, tenant: &TenantName) -> Result<Arc<TenantKeys>, KeyringError> {
        if let Some(keys) = self.loaded(tenant) {
            return Ok(keys);
        }
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = self.loaded(tenant) {
            return Ok(keys);
        }
        let keys = Arc::new(self.load(tenant)?);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(tenant.clone(), Arc::clone(&keys));
        Ok(keys)
    }

    fn loaded(&self, tenant: &TenantName) -> Option<Arc<TenantKeys>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).map(Arc::clone)
    }

    fn load(&self, tenant: &TenantName) -> Result<TenantKeys, KeyringError> {
        let damaged = || KeyringError::Damaged(self.keys.join(tenant.as_str()));
        let origin = format!("cogward.dev/ledger/{}/{tenant}", self.plane);
        let log = LogKeys::open((&self.keys, Arc::clone(&self.places)), tenant.as_str(), &origin, &*self.entropy)?;
        let kek_bytes = seed(self.keys.join(format!("{tenant}.kek")), &*self.entropy)?;
        let kek = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*kek_bytes).map_err(|_| damaged())?);
        // The file of data keys must not say whose they are: an id is a keyed hash of the person's name.
        let index = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*kek_bytes), b"cogward data key ids v1");
        let index = hmac::Key::new(hmac::HMAC_SHA256, index.as_ref());
        let dir = self.vault.join(tenant.as_str());
        let (entropy, unsaved) = (Arc::clone(&self.entropy), Arc::clone(&self.unsaved));
        let resealed = Resealed::new(dir.clone());
        let data = DataKeys::new(dir, tenant.clone(), kek, index, entropy, unsaved);
        Ok(TenantKeys { log, data, resealed })
    }

    /// The tokens that were named.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.places.named()
    }

    /// This plane's name in the origins of its logs.
    pub(crate) fn plane_id(&self) -> &str {
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
        let saved = tenants.iter().try_for_each(|keys| keys.data.save());
        if saved.is_err() {
            self.unsaved.store(true, Ordering::Release);
        }
        saved
    }
}

/// The 32 secret bytes in a key file, made when there is none.
pub(crate) fn seed(path: PathBuf, entropy: &dyn Entropy) -> Result<Zeroizing<[u8; 32]>, KeyringError> {
    let text = or_make(&path, 44, || {
        let mut key = Zeroizing::new([0_u8; 32]);
        entropy.fill(&mut *key);
        STANDARD.encode(*key).into_bytes()
    })?;
    let bytes = STANDARD.decode(&*text).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
    bytes.map(Zeroizing::new).ok_or(KeyringError::Damaged(path))
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

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock, SystemEntropy, id::RedactionId};

    use super::*;
    use crate::data_keys::{Found, Purpose, Sealing};

    fn of(subject: &str) -> Purpose<'_> {
        Purpose { class: Sealing::Personal, subject: Some(subject), run: None }
    }

    /// A full disk takes a part of a record; what is written once there is room stands where it belongs.
    #[test]
    fn what_an_attempt_left_behind_does_not_stand_before_the_next_key() {
        let dir = tempfile::tempdir().unwrap();
        let acme: TenantName = "acme".parse().unwrap();
        let open = || Keyring::open(dir.path(), Arc::new(SystemEntropy), &TokenOptions::default()).unwrap();
        let first = open();
        let keys = first.tenant(&acme).unwrap();
        let anna = keys.data.sealing(of("anna"), 20_000).unwrap().id;
        first.save().unwrap();
        let path = dir.path().join("vault/acme/666.deks");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &[7; 40]].concat()).unwrap();
        let berta = keys.data.sealing(of("berta"), 20_000).unwrap().id;
        first.save().unwrap();
        assert_eq!(keys.data.destroy(&[anna], Id::new(&SystemClock, &SystemEntropy), false).unwrap(), 1);
        let again = open();
        let keys = again.tenant(&acme).unwrap();
        assert!(matches!(keys.data.find(&anna).unwrap(), Found::Erased(_)));
        assert!(matches!(keys.data.find(&berta).unwrap(), Found::Key(_)));
        // What was written and is not there any more is nothing to go on from.
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        keys.data.sealing(of("cora"), 20_000).unwrap();
        assert!(again.save().is_err() && again.save().is_err(), "it is not forgotten that keys are not on the disk");
    }

    #[test]
    fn keys_are_the_same_after_a_restart_and_a_torn_record_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let acme: TenantName = "acme".parse().unwrap();
        let first = Keyring::open(dir.path(), Arc::new(SystemEntropy), &TokenOptions::default()).unwrap();
        let keys = first.tenant(&acme).unwrap();
        let anna = keys.data.sealing(of("anna"), 20_000).unwrap().id;
        assert_ne!(anna, keys.data.sealing(of("berta"), 20_000).unwrap().id);
        assert_ne!(anna, keys.data.sealing(of("anna"), 20_001).unwrap().id);
        first.save().unwrap();
        keys.data.sealing(of("unsaved"), 20_000).unwrap();
        let path = dir.path().join("vault/acme/666.deks");
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.len();
        assert!(!bytes.windows(4).any(|w| w == b"anna"));
        bytes.extend_from_slice(&[1; 20]);
        std::fs::write(&path, bytes).unwrap();
        let again = Keyring::open(dir.path(), Arc::new(SystemEntropy), &TokenOptions::default())
            .unwrap()
            .tenant(&acme)
            .unwrap();
        assert!(matches!(again.data.find(&anna).unwrap(), Found::Key(_)));
        assert_eq!(again.data.sealing(of("anna"), 20_000).unwrap().id, anna, "the day goes on with its key");
        assert_eq!(again.log.key().verifying(), keys.log.key().verifying());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole as u64);
    }

    #[test]
    fn a_destroyed_key_is_overwritten_where_it_stood_and_the_next_one_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let acme: TenantName = "acme".parse().unwrap();
        let ring = Keyring::open(dir.path(), Arc::new(SystemEntropy), &TokenOptions::default()).unwrap();
        let keys = ring.tenant(&acme).unwrap();
        let id = keys.data.sealing(of("anna"), 20_000).unwrap().id;
        let other = keys.data.sealing(of("berta"), 20_000).unwrap().id;
        ring.save().unwrap();
        let path = dir.path().join("vault/acme/666.deks");
        let before = std::fs::read(&path).unwrap();
        let tag = keys.data.subject_tag("anna");
        let by = RedactionId::new(&cogward_model::SystemClock, &SystemEntropy);
        assert_eq!(keys.data.destroy(&[id], by, false).unwrap(), 1);
        assert_eq!(keys.data.destroy(&[id], by, false).unwrap(), 0, "once is enough");
        let after = std::fs::read(&path).unwrap();
        assert_eq!(before.len(), after.len());
        // Of the key, the person and the run nothing is left: each 8 bytes of them were in the file and are not.
        for old in before[16..110].chunks(8).filter(|old| old.iter().any(|byte| *byte != 0)) {
            assert!(!after.windows(old.len()).any(|now| now == old));
        }
        assert!(!after.windows(16).any(|now| now == tag));
        assert_eq!(before[110..], after[110..], "the other one is untouched");
        let again = Keyring::open(dir.path(), Arc::new(SystemEntropy), &TokenOptions::default())
            .unwrap()
            .tenant(&acme)
            .unwrap();
        for keys in [&keys, &again] {
            assert!(matches!(keys.data.find(&id).unwrap(), Found::Erased(found) if found == by));
            assert!(matches!(keys.data.find(&other).unwrap(), Found::Key(_)));
            assert_ne!(keys.data.sealing(of("anna"), 20_000).unwrap().id, id);
        }
    }
}
