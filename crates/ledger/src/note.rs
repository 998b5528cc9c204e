//! Checkpoints as C2SP signed notes: what a log says about itself, in three lines and a signature.
//!
//! A reader ignores signatures of keys it does not know, so witnesses and a second algorithm can be
//! added without a new form; the log's own signature must be there and must hold.

use aws_lc_rs::{
    digest,
    signature::{self, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::Hash;

const ED25519: u8 = 0x01;
/// A note of ours is a few hundred bytes; witnesses may add some thousands.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

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
}

fn key_hash(name: &str, public: &[u8]) -> [u8; 4] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(name.as_bytes());
    context.update(&[b'\n', ED25519]);
    context.update(public);
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

fn hex(bytes: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(bytes))
}

/// Whether a name can stand in a note: no white space, no plus, not empty.
fn is_origin(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// The public half of a log's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    origin: String,
    public: [u8; 32],
}

impl VerifyingKey {
    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text of a note that the log's key has signed, with its last line feed.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open_text<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, signatures) =
            note.split_once("\n\n").ok_or(NoteError::Form("no empty line before the signatures"))?;
        let signed = note.get(..text.len() + 1).unwrap_or_default();
        check_signatures(signatures, signed, self)?;
        Ok(signed)
    }
}

impl std::fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut key = [ED25519; 33];
        key[1..].copy_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.origin, hex(key_hash(&self.origin, &self.public)), STANDARD.encode(key))
    }
}

impl std::str::FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (origin, rest) = text.split_once('+').ok_or(KeyError)?;
        let (hash, key) = rest.split_once('+').ok_or(KeyError)?;
        let key: [u8; 33] = STANDARD.decode(key).ok().and_then(|k| k.try_into().ok()).ok_or(KeyError)?;
        let [algorithm, public @ ..] = key;
        if !is_origin(origin) || algorithm != ED25519 || hash != hex(key_hash(origin, &public)) {
            return Err(KeyError);
        }
        Ok(Self { origin: origin.to_owned(), public })
    }
}

/// A log's key.
pub struct SigningKey {
    verifying: VerifyingKey,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.verifying.origin)
    }
}

impl SigningKey {
    /// The key that belongs to a seed.
    ///
    /// # Errors
    /// The origin cannot stand in a note.
    pub fn from_seed(origin: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        if !is_origin(origin) {
            return Err(KeyError);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        Ok(Self { verifying: VerifyingKey { origin: origin.to_owned(), public }, pair })
    }

    /// The public half.
    #[must_use]
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// Signs what the log is now.
    #[must_use]
    pub fn checkpoint(&self, size: u64, root: &Hash) -> String {
        let origin = &self.verifying.origin;
        self.sign_text(format!("{origin}\n{size}\n{}\n", STANDARD.encode(root)))
    }

    /// Signs a text that ends with a line feed and has no empty line. Its first line must not be the log's name: that
    /// would be a checkpoint.
    #[must_use]
    pub fn sign_text(&self, text: String) -> String {
        let origin = &self.verifying.origin;
        let mut signed = key_hash(origin, &self.verifying.public).to_vec();
        signed.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n\u{2014} {origin} {}\n", STANDARD.encode(signed))
    }
}

impl SigningKey {
    /// Signs a text of some lines as a C2SP note. `None` for a text that could be taken for a checkpoint of the log, or
    /// that does not end with a line feed.
    #[must_use]
    pub fn note(&self, text: &str) -> Option<String> {
        let origin = &self.verifying.origin;
        if text.lines().next() == Some(origin) || !text.ends_with('\n') || text.contains("\n\n") {
            return None;
        }
        let mut signed = key_hash(origin, &self.verifying.public).to_vec();
        signed.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        Some(format!("{text}\n\u{2014} {origin} {}\n", STANDARD.encode(signed)))
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
    /// Reads a note and checks the key's signature on it.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let (text, signatures) =
            note.split_once("\n\n").ok_or(NoteError::Form("no empty line before the signatures"))?;
        // The signed text ends with the line feed that stands before the empty line.
        let signed = note.get(..text.len() + 1).unwrap_or_default();
        let mut lines = text.split('\n');
        let (origin, size, root) = (lines.next(), lines.next(), lines.next());
        let (Some(origin), Some(size), Some(root), None) = (origin, size, root, lines.next()) else {
            return Err(NoteError::Form("not three lines"));
        };
        if origin != key.origin {
            return Err(NoteError::Origin { found: origin.chars().take(255).collect(), expected: key.origin.clone() });
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
        check_signatures(signatures, signed, key)?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
}

fn check_signatures(signatures: &str, signed: &str, key: &VerifyingKey) -> Result<(), NoteError> {
    let lines = signatures.strip_suffix('\n').ok_or(NoteError::Form("the last line has no end"))?;
    let wanted = key_hash(&key.origin, &key.public);
    let mut holds = false;
    for line in lines.split('\n') {
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteError::Form("a line is not a signature"))?;
        let bytes = STANDARD.decode(signature).map_err(|_| NoteError::Form("a signature is not base64"))?;
        let (hash, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Form("a signature is too short"))?;
        if name == key.origin && *hash == wanted {
            signature::UnparsedPublicKey::new(&signature::ED25519, key.public)
                .verify(signed.as_bytes(), signature)
                .map_err(|_| NoteError::Signature)?;
            holds = true;
        }
    }
    if holds { Ok(()) } else { Err(NoteError::Unsigned(key.origin.clone())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_opens_with_its_key_and_with_no_other() {
        let key = SigningKey::from_seed("cogward.dev/ledger/x/acme", &[7; 32]).unwrap();
        let note = key.checkpoint(42, &[9; 32]);
        let read: VerifyingKey = key.verifying().to_string().parse().unwrap();
        let opened = Checkpoint::open(&note, &read).unwrap();
        assert_eq!((opened.size, opened.root), (42, [9; 32]));
        let other = SigningKey::from_seed("cogward.dev/ledger/x/acme", &[8; 32]).unwrap();
        assert!(matches!(Checkpoint::open(&note, other.verifying()), Err(NoteError::Unsigned(_))));
        // A witness's line beside it does not disturb.
        let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert!(Checkpoint::open(&witnessed, &read).is_ok());
    }

    #[test]
    fn no_changed_bit_of_a_checkpoint_or_key_is_believed() {
        let key = SigningKey::from_seed("cogward.dev/ledger/x/acme", &[7; 32]).unwrap();
        let vkey = key.verifying().to_string();
        let note = key.checkpoint(42, &[9; 32]);
        for at in 0..note.len() * 8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let opened = std::str::from_utf8(&bytes).map(|text| Checkpoint::open(text, key.verifying()));
            assert!(!matches!(opened, Ok(Ok(_))), "bit {at}");
        }
        for at in 0..vkey.len() * 8 {
            let mut bytes = vkey.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            let read = std::str::from_utf8(&bytes).ok().and_then(|t| t.parse::<VerifyingKey>().ok());
            assert!(read.is_none_or(|read| Checkpoint::open(&note, &read).is_err()), "bit {at}");
        }
    }
}
