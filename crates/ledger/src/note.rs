//! Checkpoints as C2SP signed notes: what a log says about itself, in three lines and its signatures.
//!
//! A log of ours signs twice: with Ed25519, which every tool reads, and with ML-DSA-44, which a quantum
//! computer does not forge ([`crate::cosign`] has the form). A reader ignores signatures of keys that it
//! does not know, so witnesses need no new form; every key that it does know must have signed.

use aws_lc_rs::signature::{
    self, Ed25519KeyPair, KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    Hash,
    cosign::{self, ML_DSA_BYTES, ML_DSA_SIGNATURE_BYTES},
    vkey::{self, ED25519, ML_DSA},
};

use signer::Classic;
pub use signer::{Device, SignError};

/// A note of ours is some kilobytes; each witness adds a line.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// The public keys of a log, a line each.
pub const KEYS_BYTES_MAX: usize = 16 * 1024;
/// Signatures on one note.
const SIGNATURES_MAX: usize = 64;

/// Why a key text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 key in the form NAME+HASH+BASE64")]
pub struct KeyError;

/// Why a note cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is not a signed checkpoint.
    #[error("not a signed checkpoint: {0}")]
    Form(&'static str),
    /// It speaks for another log than the key does.
    #[error("the checkpoint is of `{found}`, the key is of `{expected}`")]
    Origin {
        /// The note's.
        found: String,
        /// The key's.
        expected: String,
    },
    /// No signature of the key.
    #[error("the checkpoint has no signature of the key of `{0}`")]
    Unsigned(String),
    /// There is one and it does not hold.
    #[error("the signature does not belong to this checkpoint and this key")]
    Signature,
    /// Signed by a past key alone, and larger than what that key can speak for.
    #[error(
        "the checkpoint of `{origin}` with {size} leaves has only the signature of a past key, which counts up to {most}"
    )]
    Past {
        /// The log.
        origin: String,
        /// The checkpoint's.
        size: u64,
        /// The last size for which that key is enough.
        most: u64,
    },
}

/// A signed note in its parts; nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// What is signed, with its last line feed.
    pub text: &'a str,
    /// By whom.
    pub signatures: Vec<NoteSignature<'a>>,
}

/// One line below a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature<'a> {
    /// The name of the key.
    pub name: &'a str,
    /// Its short identifier.
    pub key: [u8; 4],
    /// What the kind of key makes of the text.
    pub bytes: Vec<u8>,
    /// The whole line, without its line feed.
    pub line: &'a str,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// It has not the form of one.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Form("it is too long"));
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Form("no empty line before the signatures"))?;
        // The signed text ends with the line feed that stands before the empty line.
        let (text, signatures) = note.split_at_checked(at + 1).ok_or(NoteError::Form("no text"))?;
        let lines = signatures.strip_prefix('\n').unwrap_or_default();
        Ok(Self { text, signatures: signature_lines(lines)? })
    }
}

/// Reads lines of signatures, as they stand below a note or come from a witness.
///
/// # Errors
/// One is not of that form, or there are too many.
pub fn signature_lines(lines: &str) -> Result<Vec<NoteSignature<'_>>, NoteError> {
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Form("the last line has no end"))?;
    let mut found = Vec::new();
    for line in lines.split('\n') {
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteError::Form("a line is not a signature"))?;
        let bytes = STANDARD.decode(signature).map_err(|_| NoteError::Form("a signature is not base64"))?;
        let (key, bytes) = bytes.split_first_chunk::<4>().ok_or(NoteError::Form("a signature is too short"))?;
        if found.len() == SIGNATURES_MAX {
            return Err(NoteError::Form("too many signatures"));
        }
        found.push(NoteSignature { name, key: *key, bytes: bytes.to_vec(), line });
    }
    Ok(found)
}

/// A line below a note.
pub(crate) fn signature_line(name: &str, key: [u8; 4], signature: &[u8]) -> String {
    let mut signed = key.to_vec();
    signed.extend_from_slice(signature);
    format!("\u{2014} {name} {}\n", STANDARD.encode(signed))
}

/// The public half of a log's keys: Ed25519, and ML-DSA-44 when the log has that too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    origin: String,
    public: [u8; 32],
    ml_dsa: Option<Box<[u8; ML_DSA_BYTES]>>,
}

impl VerifyingKey {
    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Every key, a line each: the content of `log.vkey`.
    #[must_use]
    pub fn lines(&self) -> String {
        let ml_dsa = self.ml_dsa.as_ref().map(|key| vkey::text(&self.origin, ML_DSA, &key[..]));
        ml_dsa.map_or_else(|| format!("{self}\n"), |second| format!("{self}\n{second}\n"))
    }

    /// Whether these are, among others, the keys of `known`.
    #[must_use]
    pub fn includes(&self, known: &Self) -> bool {
        self.origin == known.origin
            && self.public == known.public
            && (known.ml_dsa.is_none() || known.ml_dsa == self.ml_dsa)
    }

    /// The text of a note that the log's Ed25519 key has signed, with its last line feed. It is no checkpoint.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open_text<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let note = Note::parse(note)?;
        let id = vkey::id(&self.origin, ED25519, &self.public);
        let mut holds = false;
        for line in note.signatures.iter().filter(|line| line.name == self.origin && line.key == id) {
            UnparsedPublicKey::new(&signature::ED25519, self.public)
                .verify(note.text.as_bytes(), &line.bytes)
                .map_err(|_| NoteError::Signature)?;
            holds = true;
        }
        if holds { Ok(note.text) } else { Err(NoteError::Unsigned(self.origin.clone())) }
    }

    /// The same log by its Ed25519 key alone.
    #[must_use]
    pub fn ed25519_only(&self) -> Self {
        Self { ml_dsa: None, ..self.clone() }
    }
}

/// The Ed25519 key, in one line: what a reader compares and keeps.
impl std::fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&vkey::text(&self.origin, ED25519, &self.public))
    }
}

/// One key a line, the Ed25519 key first. Kinds that are not known are ignored, as long as they are keys.
impl std::str::FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > KEYS_BYTES_MAX {
            return Err(KeyError);
        }
        let mut lines = text.split('\n');
        let first = lines.next().and_then(vkey::parse).ok_or(KeyError)?;
        let public = <[u8; 32]>::try_from(first.public.as_slice()).map_err(|_| KeyError)?;
        if first.algorithm != ED25519 {
            return Err(KeyError);
        }
        let mut keys = Self { origin: first.name.to_owned(), public, ml_dsa: None };
        for line in lines {
            let further = vkey::parse(line).filter(|key| key.name == keys.origin).ok_or(KeyError)?;
            match further.algorithm {
                ML_DSA if keys.ml_dsa.is_none() => {
                    keys.ml_dsa = Some(further.public.into_boxed_slice().try_into().map_err(|_| KeyError)?);
                }
                // A second one of a kind would leave open which of them counts.
                ML_DSA | ED25519 => return Err(KeyError),
                _ => {}
            }
        }
        Ok(keys)
    }
}

/// A log's keys.
pub struct SigningKey {
    verifying: VerifyingKey,
    classic: Classic,
    ml_dsa: Option<PqdsaKeyPair>,
    /// The key before, which signs along for a while.
    older: Option<Box<SigningKey>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.verifying.origin)
    }
}

impl SigningKey {
    /// The Ed25519 key that belongs to a seed.
    ///
    /// # Errors
    /// The origin cannot stand in a note.
    pub fn from_seed(origin: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        if !vkey::is_name(origin) {
            return Err(KeyError);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        let verifying = VerifyingKey { origin: origin.to_owned(), public, ml_dsa: None };
        Ok(Self { verifying, classic: Classic::Seed(Box::new(pair)), ml_dsa: None, older: None })
    }

    /// The same, signing with the ML-DSA-44 key of a seed as well.
    ///
    /// # Errors
    /// The key cannot be made.
    pub fn with_ml_dsa(mut self, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed).map_err(|_| KeyError)?;
        let public: [u8; ML_DSA_BYTES] = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        self.verifying.ml_dsa = Some(Box::new(public));
        self.ml_dsa = Some(pair);
        Ok(self)
    }

    /// The public half.
    #[must_use]
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// Signs what the log is now.
    ///
    /// # Errors
    /// See [`SignError`]; then there is no checkpoint, and none with fewer signatures.
    pub fn signed_checkpoint(&self, size: u64, root: &Hash) -> Result<String, SignError> {
        let VerifyingKey { origin, public, ml_dsa } = &self.verifying;
        let text = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root));
        let first = self.sign_classic(text.as_bytes())?;
        let mut note = format!("{text}\n{}", signature_line(origin, vkey::id(origin, ED25519, public), &first));
        if let (Some(public), Some(pair)) = (ml_dsa, &self.ml_dsa) {
            // A log makes no statement about time: that is what its witnesses do.
            let message = cosign::cosigned_message(origin, 0, origin, size, root);
            let mut signature = [0; 8 + ML_DSA_SIGNATURE_BYTES];
            let (_, tail) = signature.split_at_mut(8);
            pair.sign(&message, tail).map_err(|_| SignError::Quantum(origin.clone()))?;
            note.push_str(&signature_line(origin, vkey::id(origin, ML_DSA, &public[..]), &signature));
        }
        // Lines of keys that a reader does not know are ignored: the form of the note is the same.
        if let Some(older) = &self.older {
            let older = older.signed_checkpoint(size, root)?;
            note.push_str(older.rsplit_once("\n\n").map_or("", |(_, lines)| lines));
        }
        Ok(note)
    }

    /// The same for a key whose seed is in this process, which always signs. Of any other that does not sign: an empty
    /// text, which is no note.
    #[must_use]
    pub fn checkpoint(&self, size: u64, root: &Hash) -> String {
        self.signed_checkpoint(size, root).unwrap_or_default()
    }

    /// Signs a text of some lines as a C2SP note, with the Ed25519 key: the form has no other signature of texts.
    ///
    /// # Errors
    /// [`SignError::Text`] for a text that could be taken for a checkpoint of the log, or that does not end with a line
    /// feed; else the key did not sign.
    pub fn signed_note(&self, text: &str) -> Result<String, SignError> {
        let VerifyingKey { origin, public, .. } = &self.verifying;
        if text.lines().next() == Some(origin) || !text.ends_with('\n') || text.contains("\n\n") {
            return Err(SignError::Text);
        }
        let signed = self.sign_classic(text.as_bytes())?;
        Ok(format!("{text}\n{}", signature_line(origin, vkey::id(origin, ED25519, public), &signed)))
    }

    /// The same, without why not.
    #[must_use]
    pub fn note(&self, text: &str) -> Option<String> {
        self.signed_note(text).ok()
    }
}

/// What a signed checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The tenant whose log it is: the last part of the log's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.origin.rsplit('/').next().unwrap_or_default()
    }

    /// Reads the text of a note of ours: three lines and no more. Whether it is signed is another question.
    ///
    /// # Errors
    /// It is not a checkpoint.
    pub fn from_text(text: &str) -> Result<Self, NoteError> {
        Self::from_lines(text, false)
    }

    /// The same, with further lines of a log that is not ours.
    ///
    /// # Errors
    /// It is not a checkpoint.
    pub fn from_text_extended(text: &str) -> Result<Self, NoteError> {
        Self::from_lines(text, true)
    }

    fn from_lines(text: &str, extended: bool) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').unwrap_or_default().split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Form("not three lines"));
        };
        if lines.any(|line| !extended || line.is_empty()) {
            return Err(NoteError::Form("not three lines"));
        }
        let number: u64 = size.parse().map_err(|_| NoteError::Form("the size is not a number"))?;
        // One text for each number: `+7` and `007` would parse too.
        if number.to_string() != size {
            return Err(NoteError::Form("the size is not a number"));
        }
        let root: Hash = STANDARD
            .decode(root)
            .ok()
            .and_then(|r| r.try_into().ok())
            .ok_or(NoteError::Form("the root is not 32 bytes of base64"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// Reads a note and checks the signatures on it: every key in `key` must have signed.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        Self::from_lines(note.text, false).and_then(|checkpoint| checkpoint.signed(&note, key, true))
    }

    /// The same, but a note with one signature and no other is believed: it is older than the second key.
    ///
    /// # Errors
    /// See [`NoteError`]; a signature that is there and does not hold is one in any case.
    pub fn open_older(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let note = Note::parse(note)?;
        Self::from_lines(note.text, false)
            .and_then(|checkpoint| checkpoint.signed(&note, key, note.signatures.len() > 1))
    }

    /// Itself, when `note` has the signatures of `key` on it.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn signed(self, note: &Note<'_>, key: &VerifyingKey, all: bool) -> Result<Self, NoteError> {
        if self.origin != key.origin {
            let found = self.origin.chars().take(255).collect();
            return Err(NoteError::Origin { found, expected: key.origin.clone() });
        }
        let of = |algorithm, public: &[u8]| {
            let id = vkey::id(&key.origin, algorithm, public);
            note.signatures.iter().filter(move |line| line.name == key.origin && line.key == id)
        };
        let (mut classic, mut quantum) = (false, false);
        for line in of(ED25519, &key.public) {
            UnparsedPublicKey::new(&signature::ED25519, key.public)
                .verify(note.text.as_bytes(), &line.bytes)
                .map_err(|_| NoteError::Signature)?;
            classic = true;
        }
        if let Some(public) = &key.ml_dsa {
            for line in of(ML_DSA, &public[..]) {
                let (time, signature) = cosign::timestamped(&line.bytes).ok_or(NoteError::Signature)?;
                let message = cosign::cosigned_message(&key.origin, time, &self.origin, self.size, &self.root);
                UnparsedPublicKey::new(&ML_DSA_44, &public[..])
                    .verify(&message, signature)
                    .map_err(|_| NoteError::Signature)?;
                quantum = true;
            }
        }
        if !classic || (all && key.ml_dsa.is_some() && !quantum) {
            return Err(NoteError::Unsigned(key.origin.clone()));
        }
        Ok(self)
    }
}

mod signer;
mod statement;
#[cfg(test)]
mod tests;
