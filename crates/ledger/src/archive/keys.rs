//! The keys by which the manifests of an archive are read, one after the other.
//!
//! A manifest tells the statements by which the plane log came to another key since the manifest before. So an archive
//! that goes on over the replacement of a key is read from its first manifest on, and by whoever knows one of its keys.

use super::{Manifest, ManifestError};
use crate::{
    key_chain::{ChainError, KeyChain},
    note::VerifyingKey,
};

/// The plane log's keys up to a manifest.
#[derive(Debug, Clone, Default)]
pub struct ManifestKeys(Option<KeyChain>);

impl ManifestKeys {
    /// Reads the next manifest: the key that is the present one by then has to have signed it.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn open(&mut self, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let told = Manifest::unchecked(bytes)?;
        let keys = |error: ChainError| ManifestError::Keys(error.to_string());
        let mut chain = match (&self.0, told.statements.first()) {
            (Some(chain), _) => chain.clone(),
            (None, Some(first)) => KeyChain::starting_at(first).map_err(keys)?,
            (None, None) => KeyChain::new(told.named_keys()?),
        };
        for statement in &told.statements {
            // They are leaves of another log than the one that they are about.
            chain.push(None, statement).map_err(keys)?;
        }
        let manifest = Manifest::open(bytes, chain.present())?;
        self.0 = Some(chain);
        Ok(manifest)
    }

    /// The key that signed the last manifest; `None` before the first.
    #[must_use]
    pub fn present(&self) -> Option<&VerifyingKey> {
        self.0.as_ref().map(KeyChain::present)
    }

    /// Every key so far, and what was said of them.
    #[must_use]
    pub fn chain(&self) -> Option<&KeyChain> {
        self.0.as_ref()
    }
}
