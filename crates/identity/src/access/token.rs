//! The access token: whose it is, for what it was issued, to what it is bound.

use cogward_model::outside::Binding;

use super::{
    LIFETIME_SECONDS_MAX, Refused, SKEW_SECONDS, TOKEN_BYTES_MAX,
    json::Json,
    jws::Signed,
    keys::{KeySet, PublicKey},
    proof::{self, Presented},
    replay::Replay,
    same, sha256,
};

/// Longest subject, client or token id.
const NAME_BYTES_MAX: usize = 256;
/// Scopes of one token.
const SCOPES_MAX: usize = 64;
/// Members of the header that bring a key, or change what a signature covers.
const FOREIGN: [&str; 7] = ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip"];

/// What a token must be for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The issuer, byte for byte.
    pub issuer: &'a str,
    /// The resource, byte for byte (RFC 8707).
    pub resource: &'a str,
    /// Its keys.
    pub keys: &'a KeySet,
    /// Whether a token that is bound to nothing is taken.
    pub bearer: bool,
    /// Now, in seconds.
    pub now: u64,
    /// A proof that was made before is not taken: what was seen then is not known any more.
    pub since: u64,
}

/// Who a request is from. Nothing in it lets anybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// For whom the client acts; the client itself where they are the same.
    pub subject: String,
    /// The client.
    pub client: String,
    /// What the token is good for.
    pub scopes: Vec<String>,
    /// The digest of the token's id: enough to find it at its issuer.
    pub token_id: [u8; 32],
    /// What holds it.
    pub binding: Binding,
    /// When it ends, in seconds.
    pub expires: u64,
}

/// A token that is good, with a proof that is not used up yet.
#[derive(Debug)]
pub struct Checked {
    holder: Holder,
    proof: Option<Unused>,
}

#[derive(Debug)]
struct Unused {
    thumbprint: String,
    id: String,
    made: u64,
}

impl Checked {
    /// Who it would be.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Uses the proof up, for whoever may do what it asks: to remember proofs takes room, and those who may do nothing
    /// must not be able to fill it. `issuer` is whose part of the room it takes.
    ///
    /// # Errors
    /// [`Refused`] when it was used before, or there is no room to remember it.
    pub fn use_up(self, replay: &Replay, issuer: &str, now: u64) -> Result<Holder, Refused> {
        if let Some(proof) = self.proof {
            replay.admit(issuer, &proof.thumbprint, &proof.id, proof.made, now)?;
        }
        Ok(self.holder)
    }
}

/// The issuer that a token says it is of, before anything of it is believed.
///
/// # Errors
/// [`Refused`] when it is not a token at all.
pub fn peek_issuer(token: &str) -> Result<String, Refused> {
    let signed = read(token)?;
    let issuer = signed.claim_text("iss").ok_or(Refused::token("token.iss"))?;
    Ok(issuer.to_owned())
}

fn read(token: &str) -> Result<Signed<'_>, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::token("token.size"));
    }
    Signed::read(token).ok_or(Refused::token("token.form"))
}

impl Expected<'_> {
    /// Checks a token and, where it is bound, the proof that came with it, all but whether that was used before.
    ///
    /// # Errors
    /// [`Refused`] names the first rule that is not met.
    pub fn check(&self, token: &str, presented: Presented<'_>) -> Result<Checked, Refused> {
        let signed = read(token)?;
        let key = self.key(&signed)?;
        let (holder, bound_to) = self.claims(&signed)?;
        let proof = match (bound_to, presented.proof) {
            (Some(jkt), Some(text)) => {
                // A token that is bound is only good with `Authorization: DPoP`.
                if !presented.scheme_is_dpop {
                    return Err(Refused::token("token.downgraded"));
                }
                let proof = proof::read(text, &presented, token, self.now)?;
                if proof.made < self.since {
                    return Err(Refused::proof("proof.iat"));
                }
                if !same(proof.thumbprint.as_bytes(), jkt.as_bytes()) {
                    return Err(Refused::proof("proof.key"));
                }
                Some(proof)
            }
            (Some(_), None) => return Err(Refused::proof("proof.missing")),
            (None, _) if presented.scheme_is_dpop => return Err(Refused::token("token.unbound")),
            (None, _) if !self.bearer => return Err(Refused::token("token.unbound")),
            (None, _) => None,
        };
        if !signed.is_signed_by(key) {
            return Err(Refused::token("token.signature"));
        }
        if proof.as_ref().is_some_and(|proof| !proof.is_signed()) {
            return Err(Refused::proof("proof.signature"));
        }
        let proof = proof.map(|proof| Unused { thumbprint: proof.thumbprint, id: proof.id, made: proof.made });
        Ok(Checked { holder, proof })
    }

    fn key(&self, signed: &Signed<'_>) -> Result<&PublicKey, Refused> {
        if FOREIGN.iter().any(|name| signed.header.contains_key(*name)) {
            return Err(Refused::token("token.header"));
        }
        let typ = signed.header_text("typ").unwrap_or_default().to_ascii_lowercase();
        if typ != "at+jwt" && typ != "application/at+jwt" {
            return Err(Refused::token("token.typ"));
        }
        let alg = signed.header_text("alg").unwrap_or_default();
        if !super::ALGORITHMS.contains(&alg) && alg != "Ed25519" {
            return Err(Refused::token("token.alg"));
        }
        let kid = match signed.header.get("kid") {
            None => None,
            Some(kid) => Some(kid.text().ok_or(Refused::token("token.kid"))?),
        };
        self.keys.find(kid, alg).ok_or(Refused::token("token.kid"))
    }

    fn claims(&self, signed: &Signed<'_>) -> Result<(Holder, Option<String>), Refused> {
        let refuse = |rule| Err(Refused::token(rule));
        if signed.claim_text("iss") != Some(self.issuer) {
            return refuse("token.iss");
        }
        // One audience: a token that others take as well can be used by them against this plane.
        let audience = match signed.claims.get("aud") {
            Some(Json::Text(audience)) => Some(audience.as_str()),
            Some(Json::List(audiences)) => match audiences.as_slice() {
                [Json::Text(audience)] => Some(audience.as_str()),
                _ => None,
            },
            _ => None,
        };
        if audience != Some(self.resource) {
            return refuse("token.aud");
        }
        let time = |name: &str| signed.claims.get(name).and_then(Json::number);
        let latest = self.now.saturating_add(SKEW_SECONDS);
        let (Some(expires), Some(issued)) = (time("exp"), time("iat")) else { return refuse("token.time") };
        if expires <= self.now {
            return refuse("token.exp");
        }
        if issued > latest || expires <= issued || expires - issued > LIFETIME_SECONDS_MAX {
            return refuse("token.iat");
        }
        if signed.claims.contains_key("nbf") && time("nbf").is_none_or(|from| from > latest) {
            return refuse("token.nbf");
        }
        let name = |name: &str| signed.claim_text(name).filter(|text| is_name(text));
        let (Some(subject), Some(client), Some(id)) = (name("sub"), name("client_id"), name("jti")) else {
            return refuse("token.names");
        };
        let scopes = match signed.claims.get("scope") {
            None => Vec::new(),
            Some(Json::Text(text)) => text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
            Some(_) => return refuse("token.scope"),
        };
        if scopes.len() > SCOPES_MAX {
            return refuse("token.scope");
        }
        let bound_to = bound(signed)?;
        let binding = if bound_to.is_some() { Binding::Dpop } else { Binding::Bearer };
        let holder = Holder {
            subject: subject.to_owned(),
            client: client.to_owned(),
            scopes,
            token_id: sha256(id.as_bytes()),
            binding,
            expires,
        };
        Ok((holder, bound_to))
    }
}

/// The key that a token is bound to. One that is bound to something else is not taken for one that is bound to nothing.
fn bound(signed: &Signed<'_>) -> Result<Option<String>, Refused> {
    match signed.claims.get("cnf") {
        None => Ok(None),
        Some(Json::Object(confirmation)) => match (confirmation.len(), confirmation.get("jkt")) {
            (1, Some(Json::Text(jkt))) => Ok(Some(jkt.clone())),
            _ => Err(Refused::token("token.cnf")),
        },
        Some(_) => Err(Refused::token("token.cnf")),
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
