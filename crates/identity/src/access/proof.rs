//! The proof of possession (RFC 9449): a fresh signature over this very request by the key that the token is bound to.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    ALGORITHMS, PROOF_BYTES_MAX, PROOF_SECONDS_MAX, Refused, SKEW_SECONDS, json::Json, jws::Signed, keys::PublicKey,
    same, sha256,
};

/// Longest id of a proof.
const ID_BYTES_MAX: usize = 256;

/// What came with a token.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// `Authorization: DPoP`, and not `Bearer`.
    pub scheme_is_dpop: bool,
    /// The header `DPoP`.
    pub proof: Option<&'a str>,
    /// The method of the request.
    pub method: &'a str,
    /// Where it was sent, as this plane knows it, in canonical form; never what a header says.
    pub uri: &'a str,
}

/// A proof in which everything but the signature is right.
pub(super) struct Proof<'a> {
    signed: Signed<'a>,
    key: PublicKey,
    pub(super) thumbprint: String,
    pub(super) id: String,
    pub(super) made: u64,
}

impl Proof<'_> {
    pub(super) fn is_signed(&self) -> bool {
        self.signed.is_signed_by(&self.key)
    }
}

pub(super) fn read<'a>(text: &'a str, presented: &Presented<'_>, token: &str, now: u64) -> Result<Proof<'a>, Refused> {
    let refuse = |rule| Err(Refused::proof(rule));
    if text.len() > PROOF_BYTES_MAX {
        return refuse("proof.size");
    }
    let Some(signed) = Signed::read(text) else { return refuse("proof.form") };
    if ["crit", "b64", "zip"].iter().any(|name| signed.header.contains_key(*name)) {
        return refuse("proof.header");
    }
    if !signed.header_text("typ").unwrap_or_default().eq_ignore_ascii_case("dpop+jwt") {
        return refuse("proof.typ");
    }
    let alg = signed.header_text("alg").unwrap_or_default();
    if !ALGORITHMS.contains(&alg) && alg != "Ed25519" {
        return refuse("proof.alg");
    }
    let Some(Json::Object(jwk)) = signed.header.get("jwk") else { return refuse("proof.jwk") };
    let Some(key) = PublicKey::read(jwk).filter(|key| key.is_for(alg)) else { return refuse("proof.jwk") };
    if signed.claim_text("htm") != Some(presented.method) {
        return refuse("proof.htm");
    }
    let target = signed.claim_text("htu").and_then(canonical_uri);
    if target.as_deref() != Some(presented.uri) {
        return refuse("proof.htu");
    }
    let Some(made) = signed.claims.get("iat").and_then(Json::number) else { return refuse("proof.iat") };
    if made > now.saturating_add(SKEW_SECONDS) || made.saturating_add(PROOF_SECONDS_MAX) < now {
        return refuse("proof.iat");
    }
    let hash = URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()));
    if !signed.claim_text("ath").is_some_and(|ath| same(ath.as_bytes(), hash.as_bytes())) {
        return refuse("proof.ath");
    }
    let id = match signed.claim_text("jti") {
        Some(id) if (1..=ID_BYTES_MAX).contains(&id.len()) => id.to_owned(),
        _ => return refuse("proof.jti"),
    };
    let thumbprint = key.thumbprint();
    Ok(Proof { signed, key, thumbprint, id, made })
}

/// A URI of http or https in the one form that is compared: scheme and host in lower case, no default port, no query,
/// no fragment; the path as it is.
///
/// ```
/// use cogward_identity::access::canonical_uri;
/// assert_eq!(canonical_uri("HTTPS://Mcp.Bank.Example:443/t/a?x=1").as_deref(), Some("https://mcp.bank.example/t/a"));
/// assert_eq!(canonical_uri("https://user@mcp.bank.example/"), None);
/// ```
#[must_use]
pub fn canonical_uri(uri: &str) -> Option<String> {
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = uri.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(default).unwrap_or(&authority);
    if authority.is_empty() || authority.contains(['@', '\\', '%']) || authority.ends_with(':') {
        return None;
    }
    Some(format!("{scheme}://{authority}{path}"))
}
