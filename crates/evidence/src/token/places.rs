//! Which key of a log is where, and where the next one is made.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_ledger::note::Device;
use serde::{Deserialize, Serialize};

use super::{
    Token, TokenError, TokenOptions,
    objects::{Tag, TokenKey},
};
use crate::{durable, keys::KeyringError};

const FORM: u64 = 1;
/// Largest word about which object a key is.
const REFERENCE_BYTES_MAX: u64 = 4_096;

/// What stands in a file in the place of a seed: which object of which token the key is. The names are for people; what
/// decides is the public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    form: u64,
    pub(crate) token: String,
    serial: String,
    object: String,
    id: String,
    public: String,
}

impl Reference {
    /// `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, KeyringError> {
        let failed = |source| KeyringError::Io { path: path.to_path_buf(), source };
        let Some(bytes) = durable::read(path, REFERENCE_BYTES_MAX).map_err(failed)? else { return Ok(None) };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok().filter(|read: &Self| read.form == FORM);
        read.map(Some).ok_or_else(|| KeyringError::Damaged(path.to_path_buf()))
    }

    fn public(&self) -> Option<[u8; 32]> {
        STANDARD.decode(&self.public).ok()?.try_into().ok()
    }
}

/// Removes a reference: the object that it names is nobody's key.
pub(crate) fn forget(path: &Path) -> Result<(), KeyringError> {
    let failed = |source| KeyringError::Io { path: path.to_path_buf(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => done.map_err(failed)?,
    }
    let synced = path.parent().map_or(Ok(()), |dir| File::open(dir).and_then(|dir| dir.sync_all()));
    synced.map_err(failed)
}

/// The tokens of a plane.
#[derive(Default)]
pub(crate) struct Places {
    tokens: Vec<Arc<Token>>,
    new_in_token: bool,
}

impl Places {
    pub(crate) fn new(options: &TokenOptions, marks: &Path) -> Result<Self, TokenError> {
        let tokens: Result<Vec<_>, _> = options.tokens.iter().map(|uri| Token::new(uri, marks).map(Arc::new)).collect();
        let tokens = tokens?;
        Ok(Self { new_in_token: !tokens.is_empty() && !options.new_keys_in_files, tokens })
    }

    /// The tokens that were named.
    pub(crate) fn named(&self) -> Vec<String> {
        self.tokens.iter().map(|token| token.uri.to_string()).collect()
    }

    /// Whether the next key is made in a token.
    pub(crate) fn new_in_token(&self) -> bool {
        self.new_in_token
    }

    /// Makes the key of a generation in the first token, and writes down which it is.
    pub(crate) fn make(&self, path: &Path, origin: &str, generation: u64) -> Result<(), KeyringError> {
        let tag = Tag::new(origin, generation);
        let token =
            self.tokens.first().ok_or_else(|| KeyringError::NoToken { path: path.into(), token: "?".into() })?;
        let held = token.make(&tag)?;
        let reference = Reference {
            form: FORM,
            token: held.token,
            serial: held.serial,
            id: tag.id_text(),
            object: tag.label,
            public: STANDARD.encode(held.public),
        };
        let failed = |source| KeyringError::Io { path: path.to_path_buf(), source };
        let bytes = serde_json::to_vec(&reference).map_err(|error| failed(error.into()))?;
        durable::replace(path, &bytes).map_err(failed)
    }

    /// The key that a file names.
    pub(crate) fn open(
        &self,
        (path, reference): (&Path, &Reference),
        origin: &str,
        generation: u64,
    ) -> Result<([u8; 32], Arc<dyn Device>), KeyringError> {
        let tag = Tag::new(origin, generation);
        let public = reference.public().filter(|_| reference.object == tag.label && reference.id == tag.id_text());
        let public = public.ok_or_else(|| KeyringError::Damaged(path.to_path_buf()))?;
        // A token that fails may be the one that has it: that is then the reason.
        let mut failed = None;
        for token in &self.tokens {
            match token.find(&tag) {
                Ok(Some(held)) if held.public == public => {
                    return Ok((public, Arc::new(TokenKey { token: Arc::clone(token), tag })));
                }
                Ok(Some(_)) => return Err(KeyringError::OtherKey(path.to_path_buf())),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(match failed {
            Some(error) => error.into(),
            None if self.tokens.is_empty() => self.none(path, reference),
            None => {
                let token = format!("{}, nor in any other of {}", reference.token, self.named().join(" "));
                TokenError::KeyGone { label: tag.label, token }.into()
            }
        })
    }

    /// Destroys the key that a file names, in every token that has it. The token that it was made in must be there.
    pub(crate) fn destroy(
        &self,
        (path, reference): (&Path, &Reference),
        origin: &str,
        generation: u64,
    ) -> Result<(), KeyringError> {
        let tag = Tag::new(origin, generation);
        let (mut gone, mut asked) = (0, false);
        for token in &self.tokens {
            let (count, serial) = token.destroy(&tag)?;
            gone += count;
            asked |= serial == reference.serial;
        }
        if gone == 0 && !asked { Err(self.none(path, reference)) } else { Ok(()) }
    }

    fn none(&self, path: &Path, reference: &Reference) -> KeyringError {
        let path: PathBuf = path.to_path_buf();
        KeyringError::NoToken { path, token: reference.token.clone() }
    }
}
