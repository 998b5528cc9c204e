//! The vault: what opens the commitments, sealed so that destroying one key erases one person.
//!
//! A disclosure is sealed with AES-256-GCM under a data key; the tenant, the event and the field are
//! bound to it, so a sealed value cannot be moved. The sealed bytes travel in the write-ahead log
//! with the leaf and cost no flush of their own; the data keys are in a file apart that can change.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use cogward_ledger::commitment::Disclosure;
use cogward_model::{Entropy, id::RedactionId};

use crate::{
    data_keys::{Found, KeyFacts, KeyId, block_of},
    frames::split_text,
    keys::{KeyringError, TenantKeys},
};

/// Bytes of a data key's identifier: a day and random bits.
pub const KEY_ID_BYTES: usize = 16;

/// A key that seals disclosures.
pub(crate) struct DataKey {
    pub(crate) id: [u8; KEY_ID_BYTES],
    key: LessSafeKey,
}

impl DataKey {
    pub(crate) fn new(id: [u8; KEY_ID_BYTES], key: &[u8; 32]) -> Option<Self> {
        Some(Self { id, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?) })
    }
}

fn bound_to(tenant: &str, event: &str, field: &str) -> Vec<u8> {
    [tenant, event, field].join("\0").into_bytes()
}

/// The frame of a sealed disclosure; `None` only if the cipher refuses, which it does for no length of ours.
pub(crate) fn seal(
    key: &DataKey,
    entropy: &dyn Entropy,
    tenant: &str,
    event: &str,
    field: &str,
    disclosure: &Disclosure,
) -> Option<Vec<u8>> {
    let mut nonce = [0_u8; NONCE_LEN];
    entropy.fill(&mut nonce);
    let plain = disclosure.as_str().as_bytes();
    let head = 1 + tenant.len() + KEY_ID_BYTES + 1 + field.len() + NONCE_LEN;
    let mut frame = Vec::with_capacity(head + plain.len() + AES_256_GCM.tag_len());
    crate::frames::push_tenant(&mut frame, tenant);
    frame.extend_from_slice(&key.id);
    frame.push(u8::try_from(field.len()).ok()?);
    frame.extend_from_slice(field.as_bytes());
    frame.extend_from_slice(&nonce);
    frame.extend_from_slice(plain);
    let aad = Aad::from(bound_to(tenant, event, field));
    // Sealed where it will lie, which leaves no further copy of the value in clear behind.
    let (nonce, value) = (Nonce::assume_unique_for_key(nonce), frame.get_mut(head..)?);
    let tag = key.key.seal_in_place_separate_tag(nonce, aad, value).ok()?;
    frame.extend_from_slice(tag.as_ref());
    Some(frame)
}

/// A sealed disclosure as it lies in the log.
pub(crate) struct Sealed {
    pub(crate) key_id: [u8; KEY_ID_BYTES],
    pub(crate) field: String,
    nonce: [u8; NONCE_LEN],
    bytes: Vec<u8>,
}

impl Sealed {
    /// The key and the field of a frame's payload behind its tenant, without the rest.
    pub(crate) fn peek(rest: &[u8]) -> Option<([u8; KEY_ID_BYTES], &str)> {
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>()?;
        Some((*key_id, split_text(rest)?.0))
    }

    /// As much of a frame's payload behind its tenant as [`Self::peek`] reads.
    pub(crate) fn head(rest: &[u8]) -> Option<&[u8]> {
        let (_, field) = Self::peek(rest)?;
        rest.get(..KEY_ID_BYTES + 1 + field.len())
    }

    /// Reads a frame's payload behind its tenant.
    pub(crate) fn parse(rest: &[u8]) -> Option<Self> {
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>()?;
        let (field, rest) = split_text(rest)?;
        let (nonce, bytes) = rest.split_first_chunk::<NONCE_LEN>()?;
        Some(Self { key_id: *key_id, field: field.to_owned(), nonce: *nonce, bytes: bytes.to_vec() })
    }

    /// Opens it; `None` when the key is another one or anything was changed.
    pub(crate) fn open(mut self, key: &DataKey, tenant: &str, event: &str) -> Option<Disclosure> {
        let aad = Aad::from(bound_to(tenant, event, &self.field));
        let plain = key.key.open_in_place(Nonce::assume_unique_for_key(self.nonce), aad, &mut self.bytes).ok()?;
        Some(Disclosure::from_text(String::from_utf8(plain.to_vec()).ok()?))
    }
}

/// How a sealed value can be opened.
pub(crate) enum Openable {
    With(Arc<DataKey>, Sealed),
    Erased(RedactionId),
    Never,
}

/// The key that opens a value of an event, with the value as it is sealed now.
pub(crate) fn key_of(keys: &TenantKeys, event: &str, sealed: Sealed) -> Result<Openable, KeyringError> {
    let mut current = sealed;
    // Each time that a neighbour is erased it is sealed again, and only the last entry counts.
    for _ in 0..2 {
        match keys.data.find(&current.key_id)? {
            Found::Key(key) => return Ok(Openable::With(key, current)),
            Found::Erased(by) => return Ok(Openable::Erased(by)),
            Found::Gone => return Ok(Openable::Never),
            Found::Resealed(by) => match keys.resealed.find(block_of(&current.key_id), event, &current.field)? {
                Some(again) if again.key_id != current.key_id => current = again,
                _ => return Ok(Openable::Erased(by)),
            },
        }
    }
    Ok(Openable::Never)
}

/// What is known of the key that opens a value of an event now; none when the value is erased.
pub(crate) fn facts_of(
    keys: &TenantKeys,
    event: &str,
    (mut id, field): (KeyId, &str),
) -> Result<Option<KeyFacts>, KeyringError> {
    for _ in 0..2 {
        if let Some(facts) = keys.data.facts(&id)? {
            return Ok(Some(facts));
        }
        let again = if keys.data.is_resealed(&id)? { keys.resealed.find(block_of(&id), event, field)? } else { None };
        let Some(again) = again.filter(|again| again.key_id != id) else { return Ok(None) };
        id = again.key_id;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use cogward_model::{SystemEntropy, event::Value};

    use super::*;

    #[test]
    fn a_sealed_value_opens_only_with_its_key_in_its_place() {
        let key = DataKey::new([1; 16], &[5; 32]).unwrap();
        let disclosure = Disclosure::new(&[0; 16], "args", &Value::from("born 1970")).unwrap();
        let frame = seal(&key, &SystemEntropy, "acme", "evt_1", "args", &disclosure).unwrap();
        assert!(!frame.windows(9).any(|w| w == &disclosure.as_str().as_bytes()[..9]));
        let (tenant, rest) = split_text(&frame).unwrap();
        let sealed = || Sealed::parse(rest).unwrap();
        assert_eq!(tenant, "acme");
        let head = Sealed::head(rest).unwrap();
        assert!(head.len() < rest.len() - 16);
        assert_eq!(Sealed::peek(head), Some(([1; 16], "args")));
        assert_eq!(Sealed::head(&head[..head.len() - 1]), None);
        assert_eq!(sealed().open(&key, "acme", "evt_1"), Some(disclosure));
        assert_eq!(sealed().open(&key, "acme", "evt_2"), None);
        assert_eq!(sealed().open(&key, "evil", "evt_1"), None);
        let mut moved = sealed();
        moved.field = "other".into();
        assert_eq!(moved.open(&key, "acme", "evt_1"), None);
        assert_eq!(sealed().open(&DataKey::new([1; 16], &[6; 32]).unwrap(), "acme", "evt_1"), None);
    }
}
