//! Compact JWS: three parts, strictly.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    json::{self, Members},
    keys::PublicKey,
};

/// A signed object whose signature is not checked yet.
pub(super) struct Signed<'a> {
    pub(super) header: Members,
    pub(super) claims: Members,
    covered: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Signed<'a> {
    /// Reads one. No padding, no line breaks, no second spelling of the same bytes.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let (covered, signature) = text.rsplit_once('.')?;
        let (header, claims) = covered.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        Some(Self {
            header: part(header)?,
            claims: part(claims)?,
            covered: covered.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(self.covered, &self.signature)
    }

    /// A member of the header that is a text.
    pub(super) fn header_text(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.text()
    }

    pub(super) fn claim_text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.text()
    }
}

fn part(text: &str) -> Option<Members> {
    json::object(&URL_SAFE_NO_PAD.decode(text).ok()?)
}
