//! Access tokens of clients outside (RFC 9068), bound to a key that the client holds (DPoP, RFC 9449).
//!
//! Pure: bytes and a time go in, and who it is comes out, or the rule that refused. Nothing here asks a network, and
//! nothing keeps a token. The algorithm is that of the key, never of the header; the key is one of the issuer's own,
//! never one that a token brings; a token that is bound is never taken without its proof. Cheap checks come before
//! signatures, so that nonsense costs little.
//!
//! What a token says besides is not read: rights are in the manifest of the agent, not in what another party wrote.

mod json;
mod jws;
mod keys;
mod proof;
mod replay;
mod token;

pub use keys::{KeySet, KeySetError};
pub use proof::{Presented, canonical_uri};
pub use replay::{Replay, Seen};
pub use token::{Checked, Expected, Holder, peek_issuer};

/// Longest access token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest proof, in bytes.
pub const PROOF_BYTES_MAX: usize = 4 * 1024;
/// How far a clock may be ahead of this one, in seconds.
pub const SKEW_SECONDS: u64 = 10;
/// How old a proof may be, in seconds.
pub const PROOF_SECONDS_MAX: u64 = 60;
/// Longest time between the issue and the end of a token, in seconds.
pub const LIFETIME_SECONDS_MAX: u64 = 24 * 3_600;

/// The signature algorithms that are taken, of tokens and of proofs.
pub const ALGORITHMS: [&str; 3] = ["ES256", "EdDSA", "RS256"];

/// Which part of a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The access token: `invalid_token`.
    Token,
    /// The proof of possession: `invalid_dpop_proof`.
    Proof,
}

/// Why a request is not let in. It never quotes what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{rule}")]
pub struct Refused {
    /// What was wrong.
    pub part: Part,
    /// The rule, a word that stays.
    pub rule: &'static str,
}

impl Refused {
    pub(crate) const fn token(rule: &'static str) -> Self {
        Self { part: Part::Token, rule }
    }

    pub(crate) const fn proof(rule: &'static str) -> Self {
        Self { part: Part::Proof, rule }
    }

    /// As OAuth names it on the wire.
    #[must_use]
    pub fn oauth_error(self) -> &'static str {
        match self.part {
            Part::Token => "invalid_token",
            Part::Proof => "invalid_dpop_proof",
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests;
