//! Keys of logs that live in PKCS#11 tokens (HSMs): made there, used there, destroyed there, never read out.
//!
//! In the token is the Ed25519 half. The ML-DSA-44 half stays in a file: no token in the field makes such keys yet.
//! `<log>.token` and `<log>.<n>.token` stand where `.sign` files stand for keys in files, and say which object it is.

#[cfg(test)]
mod conformance;
mod error;
mod module;
mod objects;
mod pin;
mod places;
mod uri;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use error::{TokenError, UriError};
pub(crate) use places::{Places, Reference, forget};
pub use uri::TokenUri;

use module::{Failed, Module, Open};
#[cfg(test)]
use objects::Tag;

/// Bytes of a `CKA_ID`.
const ID_BYTES: usize = 20;
/// Tokens that a plane uses at once: the one with the new keys, and those with the keys before.
pub const TOKENS_MAX: usize = 4;

/// Where the keys of logs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// The tokens that keys are in. New ones are made in the first.
    pub tokens: Vec<TokenUri>,
    /// New keys are made in files all the same: the way back.
    pub new_keys_in_files: bool,
}

/// A token that keys can be in.
pub(crate) struct Token {
    uri: Arc<TokenUri>,
    module: Arc<Module>,
    /// Where it is kept that a PIN was refused.
    marks: PathBuf,
}

impl Token {
    fn new(uri: &TokenUri, marks: &Path) -> Result<Self, TokenError> {
        let module = Module::of(&uri.module)?;
        Ok(Self { uri: Arc::new(uri.clone()), module, marks: marks.to_owned() })
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Open) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, TokenError> {
        self.module.with((Arc::clone(&self.uri), self.marks.clone()), work)
    }
}

/// The beginning of a digest, for names of files.
fn short_digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
