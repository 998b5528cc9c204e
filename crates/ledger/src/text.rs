//! Hashes and bytes as the texts of C2SP files: base64 with padding.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::Hash;

/// The text of a hash.
#[must_use]
pub fn base64_hash(hash: &Hash) -> String {
    STANDARD.encode(hash)
}

/// The hash of a text.
#[must_use]
pub fn from_base64(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// The text of some bytes.
#[must_use]
pub fn base64_bytes(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a text.
#[must_use]
pub fn bytes_from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
