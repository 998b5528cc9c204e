//! Public keys, as an issuer publishes them (RFC 7517) and as a proof brings one.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    json::{self, Json, Members},
    sha256,
};

/// Largest set of keys, in bytes.
const SET_BYTES_MAX: usize = 64 * 1024;
/// Keys of one issuer.
const KEYS_MAX: usize = 32;
/// Longest name of a key.
const KID_BYTES_MAX: usize = 128;
/// Longest modulus, in bytes: a longer one makes each check dear and no token safer.
const MODULUS_BYTES_MAX: usize = 512;
/// What a private or symmetric key has.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A key that can verify. Its algorithm belongs to it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// X and Y, uncompressed.
    P256(Box<[u8; 65]>),
    Ed25519([u8; 32]),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

impl PublicKey {
    /// Reads a public JWK. One that has a private part is none: whoever sends it does not know what it is.
    pub(super) fn read(jwk: &Members) -> Option<Self> {
        if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk.get(name)?.text()?).ok();
        let text = |name: &str| jwk.get(name).and_then(Json::text);
        let key = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                let mut point = [4_u8; 65];
                point.get_mut(1..33)?.copy_from_slice(x.get(..32).filter(|_| x.len() == 32)?);
                point.get_mut(33..)?.copy_from_slice(y.get(..32).filter(|_| y.len() == 32)?);
                Self::P256(Box::new(point))
            }
            ("OKP", Some("Ed25519")) => Self::Ed25519(bytes("x")?.try_into().ok()?),
            ("RSA", None) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let plain = |number: &[u8]| number.first().is_some_and(|first| *first != 0);
                let sizes = (256..=MODULUS_BYTES_MAX).contains(&n.len()) && (3..=4).contains(&e.len());
                if !sizes || !plain(&n) || !plain(&e) || e.last().is_none_or(|last| last % 2 == 0) {
                    return None;
                }
                Self::Rsa { n, e }
            }
            _ => return None,
        };
        // What the key says of its own algorithm must be so.
        match jwk.get("alg") {
            None => Some(key),
            Some(alg) => alg.text().is_some_and(|alg| key.is_for(alg)).then_some(key),
        }
    }

    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa { .. } => "RS256",
        }
    }

    /// Whether a header may name this algorithm with this key.
    pub(super) fn is_for(&self, alg: &str) -> bool {
        // RFC 9864 gave it a name of its own.
        alg == self.algorithm() || (alg == "Ed25519" && matches!(self, Self::Ed25519(_)))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point[..]).verify(message, signature).is_ok()
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }

    /// Its thumbprint (RFC 7638), as tokens carry it.
    pub(super) fn thumbprint(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let members = match self {
            Self::P256(point) => {
                let (x, y) = (text(point.get(1..33).unwrap_or_default()), text(point.get(33..).unwrap_or_default()));
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Self::Ed25519(key) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(key)),
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n)),
        };
        text(&sha256(members.as_bytes()))
    }
}

/// Why a set of keys is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// It is too large.
    #[error("a set of keys has at most {SET_BYTES_MAX} bytes and {KEYS_MAX} keys")]
    Large,
    /// It is not such a document.
    #[error("this is not a set of keys: an object with `keys`, a list of objects, no key of an object twice")]
    Malformed,
    /// It gives a secret away.
    #[error("a private or symmetric key is in the set; publish public keys alone")]
    Private,
    /// Two keys have one name.
    #[error("two keys of the set have the same `kid`")]
    Ambiguous,
    /// None of the keys can be used.
    #[error(
        "no key of the set can be used: P-256 for ES256, Ed25519, or RSA of 2048 to 4096 bits for RS256, to verify"
    )]
    Unusable,
}

/// The keys of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet(Vec<(Option<String>, PublicKey)>);

impl KeySet {
    /// Reads a JWKS document. Keys of other kinds, or for encryption, are left out.
    ///
    /// # Errors
    /// [`KeySetError`]; a set that holds a secret is refused whole.
    pub fn read(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > SET_BYTES_MAX {
            return Err(KeySetError::Large);
        }
        let set = json::object(document).ok_or(KeySetError::Malformed)?;
        let Some(Json::List(listed)) = set.get("keys") else { return Err(KeySetError::Malformed) };
        if listed.len() > KEYS_MAX {
            return Err(KeySetError::Large);
        }
        let mut keys: Vec<(Option<String>, PublicKey)> = Vec::with_capacity(listed.len());
        for jwk in listed {
            let Json::Object(jwk) = jwk else { return Err(KeySetError::Malformed) };
            if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
                return Err(KeySetError::Private);
            }
            let kid = match jwk.get("kid") {
                None => None,
                Some(Json::Text(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
                Some(_) => return Err(KeySetError::Malformed),
            };
            if !verifies(jwk) {
                continue;
            }
            let Some(key) = PublicKey::read(jwk) else { continue };
            if kid.is_some() && keys.iter().any(|(known, _)| *known == kid) {
                return Err(KeySetError::Ambiguous);
            }
            keys.push((kid, key));
        }
        if keys.is_empty() {
            return Err(KeySetError::Unusable);
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none; there always is one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one key that a header means. Without a name there must be only one that can be meant.
    pub(super) fn find(&self, kid: Option<&str>, alg: &str) -> Option<&PublicKey> {
        let mut fitting = self.0.iter().filter(|(known, key)| {
            let named = kid.is_none_or(|kid| known.as_deref() == Some(kid));
            named && key.is_for(alg)
        });
        match (fitting.next(), fitting.next()) {
            (Some((_, key)), None) => Some(key),
            _ => None,
        }
    }
}

/// Whether a key is there to verify signatures.
fn verifies(jwk: &Members) -> bool {
    let used = jwk.get("use").is_none_or(|what| what.text() == Some("sig"));
    let operations = match jwk.get("key_ops") {
        None => true,
        Some(Json::List(operations)) => operations.iter().any(|operation| operation.text() == Some("verify")),
        Some(_) => false,
    };
    used && operations
}
