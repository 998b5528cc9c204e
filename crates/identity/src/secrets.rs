//! Secrets of upstreams, sealed with AES-256-GCM under the plane's key and kept in the store.
//!
//! A secret's name is bound into its seal: a row that was copied over another one does not open, so
//! whoever can write the database cannot make the plane send one upstream's key to another.

use std::{path::Path, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::Entropy;
use cogward_store::{SecretRow, Store, StoreError, Tx};
use zeroize::Zeroizing;

use crate::kek::{self, KekError};

/// What opens the sealed text; another algorithm will have another one.
const SCHEME: &str = "v1.";
/// A secret is a key or a token, not a document.
const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Longest name of a sealed secret.
const NAME_BYTES_MAX: usize = 256;

/// Why a secret cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The name is not one.
    #[error("a secret's name has 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, `/`, `.`, `_` and `-`")]
    Name,
    /// The secret is empty or too long.
    #[error("a secret has 1 to {SECRET_BYTES_MAX} bytes")]
    Length,
    /// The seal does not hold: the row was changed, moved from another name, or sealed under another key.
    #[error("the secret `{name}` does not open: it was changed outside the plane, or keys/kek is another one")]
    Broken {
        /// Its name.
        name: String,
    },
    /// The cipher refused; nothing was written.
    #[error("the secret cannot be sealed")]
    Seal,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sealed secrets of a plane. Names are like `tool-server/<tenant>/<name>`.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    key: Arc<RandomizedNonceKey>,
    /// What other keys of the plane are derived from; the sealing key itself is used for nothing else.
    derivation: Arc<Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// HKDF-SHA256 (RFC 5869) with a label of ours as salt.
fn derive(from: &[u8], purpose: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut out = Zeroizing::new([0_u8; 32]);
    let whole = Salt::new(HKDF_SHA256, b"cogward plane key").extract(from);
    whole.expand(&[purpose], HKDF_SHA256).and_then(|okm| okm.fill(out.as_mut_slice())).ok()?;
    Some(out)
}

fn aad(name: &str) -> Aad<Vec<u8>> {
    let mut bytes = b"cogward secret\0".to_vec();
    bytes.extend_from_slice(name.as_bytes());
    Aad::from(bytes)
}

fn check_name(name: &str) -> Result<(), SecretError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(SecretError::Name);
    }
    Ok(())
}

impl Secrets {
    /// Opens the secrets of a store under the key in the directory `keys`, which is made at first start.
    ///
    /// # Errors
    /// [`KekError`] when the key is missing although something is sealed, others can read it, or it is damaged.
    pub async fn open(keys: &Path, store: Store, entropy: &dyn Entropy) -> Result<Self, KekError> {
        let key = kek::load(keys, store.secrets_exist().await?, entropy)?;
        let damaged = || KekError::Damaged { path: keys.join("kek") };
        let derivation = derive(key.as_slice(), b"derivation").ok_or_else(damaged)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref())
            .map_err(|_| KekError::Damaged { path: keys.join("kek") })?;
        Ok(Self { store, key: Arc::new(key), derivation: Arc::new(derivation) })
    }

    /// A key of the plane for one purpose: the same after every start, and worth nothing for another purpose.
    ///
    /// # Errors
    /// [`SecretError::Seal`] when the cipher refused.
    pub fn derived(&self, purpose: &'static str) -> Result<Zeroizing<[u8; 32]>, SecretError> {
        derive(self.derivation.as_slice(), purpose.as_bytes()).ok_or(SecretError::Seal)
    }

    /// Seals a secret into the transaction, in place of the one of the same name.
    ///
    /// # Errors
    /// [`SecretError`] when name or length is out of bounds or the database failed.
    pub async fn put(&self, tx: &mut Tx, name: &str, secret: &[u8]) -> Result<(), SecretError> {
        check_name(name)?;
        if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
            return Err(SecretError::Length);
        }
        // Room for the tag from the start: a buffer that grows would leave the clear text behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
        buffer.extend_from_slice(secret);
        let nonce = self.key.seal_in_place_append_tag(aad(name), &mut *buffer).map_err(|_| SecretError::Seal)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&buffer);
        let row = SecretRow {
            name: name.to_owned(),
            sealed: format!("{SCHEME}{}", URL_SAFE_NO_PAD.encode(sealed)),
            updated: tx.now(),
        };
        Ok(tx.secret_put(&row).await?)
    }

    /// The secret of that name; `None` when there is none.
    ///
    /// # Errors
    /// [`SecretError::Broken`] when the seal does not hold.
    pub async fn get(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        check_name(name)?;
        let Some(row) = self.store.secret(name).await? else { return Ok(None) };
        self.unseal(name, &row.sealed).map(Some).ok_or_else(|| SecretError::Broken { name: name.to_owned() })
    }

    /// Removes a secret in the transaction; says whether it was there.
    ///
    /// # Errors
    /// [`SecretError`] when the database failed.
    pub async fn delete(&self, tx: &mut Tx, name: &str) -> Result<bool, SecretError> {
        check_name(name)?;
        Ok(tx.secret_delete(name).await?)
    }

    fn unseal(&self, name: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(sealed.strip_prefix(SCHEME)?).ok()?);
        let (nonce, body) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let clear = self.key.open_in_place(nonce, aad(name), body).ok()?;
        Some(Zeroizing::new(clear.to_vec()))
    }
}
