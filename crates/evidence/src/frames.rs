//! What the write-ahead log carries for the ledger: leaves, and before each leaf its sealed disclosures.
//!
//! `leaf   = {tenant length u8, tenant, leaf bytes}`
//! `sealed = {tenant length u8, tenant, key id 16, field length u8, field, nonce 12, ciphertext}`
//!
//! Sealed first: a leaf that survived a torn write has everything that belongs to it before it.

/// The kind of a leaf's frame.
pub(crate) const LEAF: u8 = 1;
/// The kind of a sealed disclosure's frame.
pub(crate) const SEALED: u8 = 2;
/// The kind of a frame with a leaf of the plane log; the tenant's name in it is empty.
pub(crate) const PLANE: u8 = 16;

/// The beginning of both: the tenant behind its length. Names are at most 63 bytes.
pub(crate) fn tenant_prefix(tenant: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(1 + tenant.len());
    push_tenant(&mut prefix, tenant);
    prefix
}

/// The same, at the end of what is there.
pub(crate) fn push_tenant(frame: &mut Vec<u8>, tenant: &str) {
    frame.push(u8::try_from(tenant.len()).unwrap_or(u8::MAX));
    frame.extend_from_slice(tenant.as_bytes());
}

/// Takes a text behind its length from the front.
pub(crate) fn split_text(payload: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = payload.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
