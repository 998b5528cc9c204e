//! The token of an operator: `cwo_`, the operator's ULID, `_`, and 32 random bytes as base64url.
//!
//! The id part finds the row, so that verification compares one secret and never searches by it.

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::{Digest, Entropy, id::OperatorId};
use zeroize::Zeroizing;

const PREFIX: &str = "cwo_";
const ULID_LEN: usize = 26;
const SECRET_BYTES: usize = 32;
/// Length of [`SECRET_BYTES`] in base64url without padding.
const SECRET_LEN: usize = 43;

/// A token, in clear. It is wiped when dropped and cannot be printed by accident.
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// The text, for the one place that shows it to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Makes the token of an operator, and the hash that the plane keeps.
pub(crate) fn mint(id: OperatorId, entropy: &dyn Entropy) -> (Credential, String) {
    let mut secret = Zeroizing::new([0_u8; SECRET_BYTES]);
    entropy.fill(secret.as_mut());
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
    let id = id.to_string();
    let ulid = id.strip_prefix("opr_").unwrap_or(&id);
    let hash = hash(&encoded).to_string();
    // Sized before it is filled: a string that grows would leave copies that nobody wipes.
    let mut token = Zeroizing::new(String::with_capacity(PREFIX.len() + ulid.len() + 1 + encoded.len()));
    for part in [PREFIX, ulid, "_", &encoded] {
        token.push_str(part);
    }
    (Credential(token), hash)
}

/// The parts of a token; `None` when it is not one.
pub(crate) fn split(token: &str) -> Option<(OperatorId, &str)> {
    let rest = token.strip_prefix(PREFIX)?;
    let (ulid, secret) = (rest.get(..ULID_LEN)?, rest.get(ULID_LEN..)?.strip_prefix('_')?);
    let id = format!("opr_{ulid}").parse().ok()?;
    (secret.len() == SECRET_LEN).then_some((id, secret))
}

/// What the plane keeps of a secret. A plain hash is right here and a slow one is not needed: the
/// secret is 256 random bits, so there is no dictionary to try and no work factor to add.
fn hash(secret: &str) -> Digest {
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    Digest::from_bytes(bytes)
}

/// Whether the secret is the one of this hash, in constant time.
pub(crate) fn matches(secret: &str, kept: &str) -> bool {
    let Ok(kept) = kept.parse::<Digest>() else { return false };
    verify_slices_are_equal(hash(secret).as_bytes(), kept.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use cogward_model::{SystemClock, SystemEntropy, id::Id};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_gives_its_id_and_matches_only_its_hash() {
        let id: OperatorId = Id::new(&SystemClock, &SystemEntropy);
        let (token, hash) = mint(id, &SystemEntropy);
        let (other, _) = mint(id, &SystemEntropy);
        let (found, secret) = split(token.expose()).unwrap();
        assert_eq!(found, id);
        assert!(matches(secret, &hash));
        assert!(!matches(split(other.expose()).unwrap().1, &hash));
        assert!(!matches(secret, "not a hash"));
        assert!(!hash.contains(secret) && !format!("{token:?}").contains(secret));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_split(text in ".{0,120}") {
            let _ = split(&text);
        }

        #[test]
        fn a_token_with_another_letter_is_another_token(at in 0_usize..74, letter in "[A-Za-z0-9_-]") {
            let id: OperatorId = Id::new(&SystemClock, &SystemEntropy);
            let (token, hash) = mint(id, &SystemEntropy);
            let mut changed: Vec<char> = token.expose().chars().collect();
            let letter = letter.chars().next().unwrap();
            prop_assume!(changed[at] != letter);
            changed[at] = letter;
            let changed: String = changed.into_iter().collect();
            let same = split(&changed).is_some_and(|(found, secret)| found == id && matches(secret, &hash));
            prop_assert!(!same);
        }
    }
}
