//! A manifest: one segment, what of each log is in it, and the checkpoints that cover that; signed by the plane log's key.
//!
//! `manifest = note, then one line of JSON`. The note's text is four lines: the words that no other note of the plane
//! begins with, the plane log's origin, the manifest's number, and the SHA-256 of the JSON line with its line feed.

use serde::{Deserialize, Serialize};

use crate::{
    Hash,
    note::{NoteError, SignError, SigningKey, VerifyingKey},
};

use super::{from_hex, hex, sha256};

/// What a manifest's note begins with: it can be taken for nothing else that the key signs.
const DOMAIN: &str = "cogward.dev/archive/manifest/v1";
/// Largest manifest: some kilobytes for each log that has leaves in the segment.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The version of the form.
const FORM: u64 = 1;

/// A hash that is written in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex(pub Hash);

impl From<Hex> for String {
    fn from(hash: Hex) -> Self {
        hex(&hash.0)
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        from_hex(&text).map(Self).ok_or("not 64 hexadecimal digits")
    }
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the form.
    form: u64,
    /// The origin of the plane log.
    pub plane: String,
    /// The public keys of the plane log, a line each.
    pub keys: String,
    /// Which one of the archive, from 0.
    pub number: u64,
    /// The SHA-256 of the manifest before; nothing for the first.
    pub previous: Option<Hex>,
    /// The segment.
    pub segment: Sealed,
    /// Each log that has leaves in it, by origin.
    pub logs: Vec<LogPart>,
    /// What was said of the plane log's keys since the manifest before; in the first one all that ever was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
}

/// A sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Its number in the write-ahead log.
    pub index: u64,
    /// The SHA-256 of the whole file.
    pub sha256: Hex,
    /// The size of the file.
    pub bytes: u64,
    /// Where its first frame begins.
    pub from: u64,
    /// Where its last frame ends; zeros follow.
    pub to: u64,
}

/// What of one log is in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPart {
    /// The origin of the log.
    pub log: String,
    /// Its public keys, a line each.
    pub keys: String,
    /// The number of its first leaf in the segment.
    pub first: u64,
    /// Leaves up to the end of the segment.
    pub end: u64,
    /// The root over all of those.
    pub root: Hex,
    /// The hash of the last of them.
    pub last: Hex,
    /// The complete subtrees of those leaves, from the largest to the smallest.
    pub edge: Vec<Hex>,
    /// A signed checkpoint of the log that covers them.
    pub checkpoint: String,
    /// That the log up to the end of the segment is a beginning of what the checkpoint covers (RFC 6962, 2.1.2).
    pub proof: Vec<Hex>,
}

/// Why bytes are not a manifest of a plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It has not the form of one.
    #[error("not a manifest: {0}")]
    Form(String),
    /// The plane's key did not sign it.
    #[error("the note: {0}")]
    Note(#[from] NoteError),
    /// The statements about the plane's keys.
    #[error("the keys of the plane log: {0}")]
    Keys(String),
    /// The note is about another manifest.
    #[error("the signed note is about another manifest")]
    OtherText,
}

impl Manifest {
    /// A manifest of this form.
    #[must_use]
    pub fn new(keys: &VerifyingKey, number: u64, previous: Option<Hash>, segment: Sealed, logs: Vec<LogPart>) -> Self {
        let (plane, keys) = (keys.origin().to_owned(), keys.lines());
        let previous = previous.map(Hex);
        Self { form: FORM, plane, keys, number, previous, segment, logs, statements: Vec::new() }
    }

    /// The same, with what was said of the plane log's keys since the manifest before.
    #[must_use]
    pub fn with_statements(self, statements: Vec<String>) -> Self {
        Self { statements, ..self }
    }

    fn text(plane: &str, number: u64, line: &str) -> String {
        format!("{DOMAIN}\n{plane}\n{number}\n{}\n", hex(&sha256(line.as_bytes())))
    }

    /// The bytes of the manifest, signed. `None` when it has no such form, or is too long.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Option<Vec<u8>> {
        self.signed(key).ok().flatten()
    }

    /// The same for a key that may not sign now.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn signed(&self, key: &SigningKey) -> Result<Option<Vec<u8>>, SignError> {
        let Ok(mut line) = serde_json::to_string(self) else { return Ok(None) };
        line.push('\n');
        let note = key.signed_note(&Self::text(&self.plane, self.number, &line))?;
        let bytes = (note + &line).into_bytes();
        Ok((bytes.len() <= MANIFEST_BYTES_MAX).then_some(bytes))
    }

    /// Reads a manifest and checks that the plane's key signed it.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn open(bytes: &[u8], key: &VerifyingKey) -> Result<Self, ManifestError> {
        let (note, line, manifest) = Self::split(bytes)?;
        let signed = key.open_text(note)?;
        if manifest.plane != key.origin() || signed != Self::text(&manifest.plane, manifest.number, line) {
            return Err(ManifestError::OtherText);
        }
        Ok(manifest)
    }

    /// Reads a manifest that nobody may have signed.
    ///
    /// # Errors
    /// It has not the form of one.
    pub fn unchecked(bytes: &[u8]) -> Result<Self, ManifestError> {
        Self::split(bytes).map(|(_, _, manifest)| manifest)
    }

    /// The keys that it says are the plane's. They show that an archive is whole, not whose it is.
    ///
    /// # Errors
    /// They are none.
    pub fn named_keys(&self) -> Result<VerifyingKey, ManifestError> {
        self.keys.trim_end().parse().map_err(|error| ManifestError::Form(format!("its keys: {error}")))
    }

    /// Whether these may be the bytes of a manifest, and not of a checkpoint.
    #[must_use]
    pub fn begins(text: &str) -> bool {
        text.strip_prefix(DOMAIN).is_some_and(|rest| rest.starts_with('\n'))
    }

    fn split(bytes: &[u8]) -> Result<(&str, &str, Self), ManifestError> {
        let form = |detail: &str| ManifestError::Form(detail.to_owned());
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(form("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| form("it is not text"))?;
        // No line of a note begins so.
        let at = text.find("\n{").ok_or_else(|| form("there is nothing below the note"))?;
        let (note, line) = text.split_at_checked(at + 1).ok_or_else(|| form("it is not text"))?;
        let json = line.strip_suffix('\n').filter(|json| !json.contains('\n'));
        let json = json.ok_or_else(|| form("it is not one line"))?;
        let manifest: Self = serde_json::from_str(json).map_err(|error| ManifestError::Form(error.to_string()))?;
        if manifest.form != FORM {
            return Err(ManifestError::Form(format!("its form is {}, this program knows {FORM}", manifest.form)));
        }
        Ok((note, line, manifest))
    }
}
