//! Salted commitments: how a value is in the ledger without being in it (RFC 9901, 4.2.3).
//!
//! A disclosure is `base64url(["<128-bit salt>","<field>",<value>])` and the leaf holds the SHA-256
//! of that text, in place: `{"$c":"…"}`. The salt makes guessing useless, the field's name keeps
//! a value from being shown as another field's.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::event::Value;

use crate::canonical::{CanonicalError, Keys, write_text, write_value};

/// Bytes of salt.
pub const SALT_BYTES: usize = 16;

/// What opens a commitment. Never in the ledger; sealed in the vault.
#[derive(Clone, PartialEq, Eq)]
pub struct Disclosure(String);

impl std::fmt::Debug for Disclosure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disclosure(…)")
    }
}

impl Disclosure {
    /// Makes the disclosure of a value.
    ///
    /// # Errors
    /// The value has no JSON form within the bounds.
    pub fn new(salt: &[u8; SALT_BYTES], field: &str, value: &Value) -> Result<Self, CanonicalError> {
        let mut json = Vec::with_capacity(96);
        json.push(b'[');
        write_text(&mut json, &URL_SAFE_NO_PAD.encode(salt));
        json.push(b',');
        write_text(&mut json, field);
        json.push(b',');
        write_value(&mut json, value, Keys::Any)?;
        json.push(b']');
        Ok(Self(URL_SAFE_NO_PAD.encode(json)))
    }

    /// Takes one that was made before, by us or by anyone.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands in the leaf: the base64url of the SHA-256 of the text.
    #[must_use]
    pub fn commitment(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.0.as_bytes()))
    }

    /// The field's name and value, or `None` when this is no disclosure.
    #[must_use]
    pub fn open(&self) -> Option<(String, serde_json::Value)> {
        let json = URL_SAFE_NO_PAD.decode(&self.0).ok()?;
        let (_salt, field, value): (String, String, serde_json::Value) = serde_json::from_slice(&json).ok()?;
        Some((field, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_rfc_9901() {
        let disclosure =
            Disclosure::from_text("WyJfMjZiYzRMVC1hYzZxMktJNmNCVzVlcyIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0".to_owned());
        assert_eq!(disclosure.commitment(), "X9yH0Ajrdm1Oij4tWso9UzzKJvPoDxwmuEcO3XAdRC0");
        assert_eq!(disclosure.open(), Some(("family_name".to_owned(), "Möbius".into())));
    }

    #[test]
    fn equal_values_commit_differently_and_a_value_is_bound_to_its_field() {
        let value = Value::from("1970-01-01");
        let one = Disclosure::new(&[1; 16], "born", &value).unwrap();
        assert_ne!(one.commitment(), Disclosure::new(&[2; 16], "born", &value).unwrap().commitment());
        assert_ne!(one.commitment(), Disclosure::new(&[1; 16], "died", &value).unwrap().commitment());
        assert_eq!(one.open().unwrap().1, "1970-01-01");
    }
}
