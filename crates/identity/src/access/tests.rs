//! Every way in that is not one.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::outside::Binding;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{keys::PublicKey, *};

const ISSUER: &str = "https://id.bank.example/t/retail";
const RESOURCE: &str = "https://mcp.bank.example/t/retail/a/clerk/mcp";
const NOW: u64 = 1_900_000_000;

enum Signer {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self) -> Value {
        match self {
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Self::Ed25519(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key()) }),
            Self::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent());
                json!({ "kty": "RSA", "n": text(n), "e": text(e.big_endian_without_leading_zero()) })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn jws(&self, header: &str, claims: &str) -> String {
        let covered = format!("{}.{}", text(header), text(claims));
        let signature = text(self.sign(covered.as_bytes()));
        format!("{covered}.{signature}")
    }

    fn thumbprint(&self) -> String {
        let members = json::object(self.jwk().to_string().as_bytes()).unwrap();
        PublicKey::read(&members).unwrap().thumbprint()
    }
}

struct World {
    issuer: Signer,
    client: Signer,
    replay: Replay,
    bearer: bool,
}

impl World {
    fn new() -> Self {
        Self { issuer: Signer::p256(), client: Signer::p256(), replay: Replay::default(), bearer: false }
    }

    fn set(&self) -> KeySet {
        let mut jwk = self.issuer.jwk();
        jwk["kid"] = "k1".into();
        KeySet::read(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap()
    }

    fn header(&self) -> Value {
        json!({ "typ": "at+jwt", "alg": self.issuer.alg(), "kid": "k1" })
    }

    fn claims(&self) -> Value {
        json!({
            "iss": ISSUER, "aud": RESOURCE, "sub": "alice", "client_id": "ide", "jti": "t-1", "scope": "cogward.mcp",
            "iat": NOW - 5, "exp": NOW + 115, "cnf": { "jkt": self.client.thumbprint() },
        })
    }

    fn token(&self) -> String {
        self.issuer.jws(&self.header().to_string(), &self.claims().to_string())
    }

    fn token_with(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (self.header(), self.claims());
        change(&mut header, &mut claims);
        self.issuer.jws(&header.to_string(), &claims.to_string())
    }

    fn proof_with(&self, token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut header = json!({ "typ": "dpop+jwt", "alg": self.client.alg(), "jwk": self.client.jwk() });
        let mut claims = json!({
            "jti": text(sha256(token.as_bytes())), "htm": "POST", "htu": RESOURCE, "iat": NOW,
            "ath": text(sha256(token.as_bytes())),
        });
        change(&mut header, &mut claims);
        self.client.jws(&header.to_string(), &claims.to_string())
    }

    fn proof(&self, token: &str) -> String {
        self.proof_with(token, |_, _| {})
    }

    fn check(&self, token: &str, scheme_is_dpop: bool, proof: Option<&str>) -> Result<Holder, Refused> {
        let keys = self.set();
        let expected =
            Expected { issuer: ISSUER, resource: RESOURCE, keys: &keys, bearer: self.bearer, now: NOW, since: 0 };
        let presented = Presented { scheme_is_dpop, proof, method: "POST", uri: RESOURCE };
        expected.check(token, presented)?.use_up(&self.replay, "corp", expected.now)
    }

    /// The rule that refuses a token that comes with a good proof.
    fn rule(&self, token: &str) -> &'static str {
        self.check(token, true, Some(&self.proof(token))).expect_err("it is refused").rule
    }

    fn rule_of_proof(&self, change: impl FnOnce(&mut Value, &mut Value)) -> &'static str {
        let token = self.token();
        self.check(&token, true, Some(&self.proof_with(&token, change))).expect_err("it is refused").rule
    }
}

#[test]
fn a_bound_token_with_its_proof_says_who_it_is() {
    let rsa = RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let ed = || Signer::Ed25519(Ed25519KeyPair::generate().unwrap());
    for (issuer, client) in
        [(Signer::p256(), Signer::p256()), (ed(), ed()), (Signer::Rsa(Box::new(rsa)), Signer::p256())]
    {
        let world = World { issuer, client, ..World::new() };
        let token = world.token();
        let holder = world.check(&token, true, Some(&world.proof(&token))).unwrap();
        assert_eq!((holder.subject.as_str(), holder.client.as_str()), ("alice", "ide"));
        assert_eq!(holder.scopes, ["cogward.mcp"]);
        assert_eq!((holder.binding, holder.expires), (Binding::Dpop, NOW + 115));
        assert_eq!(holder.token_id, sha256(b"t-1"));
    }
    let world = World::new();
    let listed = world.token_with(|_, claims| claims["aud"] = json!([RESOURCE]));
    assert!(world.check(&listed, true, Some(&world.proof(&listed))).is_ok(), "a list of one is one");
    assert_eq!(peek_issuer(&listed).unwrap(), ISSUER);
}

#[test]
fn the_algorithm_is_that_of_the_key() {
    let world = World::new();
    for alg in ["none", "None", "", "HS256", "HS512", "RS256", "PS256", "ES384", "EdDSA", "es256", "ES256K"] {
        let token = world.token_with(|header, _| header["alg"] = alg.into());
        assert!(["token.alg", "token.kid"].contains(&world.rule(&token)), "{alg}");
    }
    // The public key as the secret of an HMAC, in each spelling that libraries have used.
    let jwk = world.issuer.jwk();
    let point = [&[4_u8][..], &URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap()].concat();
    for secret in [jwk.to_string().into_bytes(), point] {
        let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": "k1" });
        let covered = format!("{}.{}", text(header.to_string()), text(world.claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), covered.as_bytes());
        assert_eq!(world.rule(&format!("{covered}.{}", text(tag))), "token.alg");
    }
    let token = world.token();
    let (covered, _) = token.rsplit_once('.').unwrap();
    assert_eq!(world.rule(&format!("{covered}.")), "token.signature", "no signature");
    let unsigned = text(json!({ "typ": "at+jwt", "alg": "none", "kid": "k1" }).to_string());
    assert_eq!(world.rule(&format!("{unsigned}.{}.", text(world.claims().to_string()))), "token.alg");
}

#[test]
fn a_token_brings_no_key_and_no_header_that_changes_what_it_says() {
    let world = World::new();
    let own = world.client.jwk();
    for (name, value) in [
        ("jwk", own.clone()),
        ("jku", json!("https://evil.example/jwks")),
        ("x5u", json!("https://evil.example/cert")),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let token = world.token_with(|header, _| header[name] = value.clone());
        assert_eq!(world.rule(&token), "token.header", "{name}");
    }
    for kid in [json!("../../../dev/null"), json!("k1' OR '1'='1"), json!("/proc/self/environ"), json!("k2"), json!("")]
    {
        let token = world.token_with(|header, _| header["kid"] = kid.clone());
        assert_eq!(world.rule(&token), "token.kid", "{kid}");
    }
    for kid in [json!(1), json!(null), json!(["k1"])] {
        let token = world.token_with(|header, _| header["kid"] = kid.clone());
        assert_eq!(world.rule(&token), "token.kid", "{kid}");
    }
    // Signed by somebody else's key, under the name of the issuer's.
    let stranger = World { issuer: Signer::p256(), client: Signer::p256(), ..World::new() };
    let forged = stranger.issuer.jws(&world.header().to_string(), &world.claims().to_string());
    assert_eq!(world.rule(&forged), "token.signature");
}

#[test]
fn a_token_is_of_its_type_its_issuer_and_for_this_resource_alone() {
    let world = World::new();
    for typ in ["JWT", "jwt", "id+jwt", "dpop+jwt", "client-authentication+jwt", "", "at+jwt "] {
        let token = world.token_with(|header, _| header["typ"] = typ.into());
        assert_eq!(world.rule(&token), "token.typ", "{typ}");
    }
    let untyped = world.token_with(|header, _| drop(header.as_object_mut().unwrap().remove("typ")));
    assert_eq!(world.rule(&untyped), "token.typ");
    for aud in [
        json!("https://mcp.bank.example/t/retail/a/other/mcp"),
        json!("https://mcp.bank.example/t/wealth/a/clerk/mcp"),
        json!("https://mcp.bank.example/t/retail/a/clerk/mcp/"),
        json!("https://MCP.bank.example/t/retail/a/clerk/mcp"),
        json!("https://mcp.bank.example:443/t/retail/a/clerk/mcp"),
        json!("https://mcp.bank.example/t/retail/a/clerk%2Fmcp"),
        json!("https://mcp.bank.example"),
        json!("*"),
        json!([RESOURCE, "https://other.example"]),
        json!([]),
        json!([[RESOURCE]]),
        json!(null),
        json!({ "0": RESOURCE }),
    ] {
        let token = world.token_with(|_, claims| claims["aud"] = aud.clone());
        assert_eq!(world.rule(&token), "token.aud", "{aud}");
    }
    for iss in ["https://id.bank.example/t/wealth", "https://id.bank.example/t/retail/", "https://evil.example", ""] {
        let token = world.token_with(|_, claims| claims["iss"] = iss.into());
        assert_eq!(world.rule(&token), "token.iss", "{iss}");
    }
    for name in ["sub", "client_id", "jti"] {
        for value in [json!(null), json!(""), json!(7), json!("a\nb"), json!("x".repeat(300))] {
            let token = world.token_with(|_, claims| claims[name] = value.clone());
            assert_eq!(world.rule(&token), "token.names", "{name} {value}");
        }
    }
}

#[test]
fn a_token_is_good_for_its_time() {
    let world = World::new();
    for (name, value, rule) in [
        ("exp", json!(NOW), "token.exp"),
        ("exp", json!(NOW - 1), "token.exp"),
        ("exp", json!(-1), "token.time"),
        ("exp", json!("1900000115"), "token.time"),
        ("exp", json!(null), "token.time"),
        ("exp", json!(NOW + LIFETIME_SECONDS_MAX), "token.iat"),
        ("iat", json!(NOW + SKEW_SECONDS + 1), "token.iat"),
        ("iat", json!(null), "token.time"),
        ("nbf", json!(NOW + SKEW_SECONDS + 1), "token.nbf"),
        ("nbf", json!("soon"), "token.nbf"),
    ] {
        let token = world.token_with(|_, claims| claims[name] = value.clone());
        assert_eq!(world.rule(&token), rule, "{name} {value}");
    }
    let fraction = world.claims().to_string().replace(&(NOW + 115).to_string(), "1900000115.5");
    assert_eq!(world.rule(&world.issuer.jws(&world.header().to_string(), &fraction)), "token.form");
    let ahead = world.token_with(|_, claims| claims["nbf"] = json!(NOW + SKEW_SECONDS));
    assert!(world.check(&ahead, true, Some(&world.proof(&ahead))).is_ok(), "a clock may be a little ahead");
}

#[test]
fn a_bound_token_is_worth_nothing_without_its_key() {
    let world = World::new();
    let token = world.token();
    assert_eq!(world.check(&token, true, None).unwrap_err().rule, "proof.missing");
    assert_eq!(world.check(&token, false, None).unwrap_err().rule, "proof.missing");
    let proof = world.proof(&token);
    assert_eq!(world.check(&token, false, Some(&proof)).unwrap_err().rule, "token.downgraded");
    // A thief with a key of his own.
    let thief = World { client: Signer::p256(), ..World::new() };
    assert_eq!(world.check(&token, true, Some(&thief.proof(&token))).unwrap_err().rule, "proof.key");
    // The issuer takes tokens that are bound to nothing: this one is not.
    let lax = World { bearer: true, ..world };
    assert_eq!(lax.check(&token, false, None).unwrap_err().rule, "proof.missing");
    for cnf in [
        json!({}),
        json!(null),
        json!({ "x5t#S256": "abc" }),
        json!({ "jkt": 1 }),
        json!("abc"),
        json!({ "jkt": lax.client.thumbprint(), "kid": "k1" }),
    ] {
        let token = lax.token_with(|_, claims| claims["cnf"] = cnf.clone());
        assert_eq!(lax.check(&token, false, None).unwrap_err().rule, "token.cnf", "{cnf}");
    }
    assert!(lax.check(&token, true, Some(&proof)).is_ok());
}

#[test]
fn a_token_that_is_bound_to_nothing_is_refused_unless_the_operator_says_so() {
    let mut world = World::new();
    let token = world.token_with(|_, claims| drop(claims.as_object_mut().unwrap().remove("cnf")));
    assert_eq!(world.check(&token, false, None).unwrap_err().rule, "token.unbound");
    assert_eq!(world.check(&token, true, Some(&world.proof(&token))).unwrap_err().rule, "token.unbound");
    world.bearer = true;
    assert_eq!(world.check(&token, false, None).unwrap().binding, Binding::Bearer);
    assert_eq!(world.check(&token, true, None).unwrap_err().rule, "token.unbound");
}

#[test]
fn a_proof_is_for_this_request() {
    let world = World::new();
    for (name, value, rule) in [
        ("htm", json!("GET"), "proof.htm"),
        ("htm", json!("post"), "proof.htm"),
        ("htm", json!(null), "proof.htm"),
        ("htu", json!("https://mcp.bank.example/t/retail/a/other/mcp"), "proof.htu"),
        ("htu", json!("https://evil.example/t/retail/a/clerk/mcp"), "proof.htu"),
        ("htu", json!("http://mcp.bank.example/t/retail/a/clerk/mcp"), "proof.htu"),
        ("htu", json!("https://mcp.bank.example:8443/t/retail/a/clerk/mcp"), "proof.htu"),
        ("htu", json!("https://mcp.bank.example@evil.example/t/retail/a/clerk/mcp"), "proof.htu"),
        ("htu", json!("/t/retail/a/clerk/mcp"), "proof.htu"),
        ("iat", json!(NOW - PROOF_SECONDS_MAX - 1), "proof.iat"),
        ("iat", json!(NOW + SKEW_SECONDS + 1), "proof.iat"),
        ("iat", json!("now"), "proof.iat"),
        ("ath", json!(text(sha256(b"another token"))), "proof.ath"),
        ("ath", json!(null), "proof.ath"),
        ("jti", json!(""), "proof.jti"),
        ("jti", json!("x".repeat(257)), "proof.jti"),
        ("jti", json!(5), "proof.jti"),
    ] {
        assert_eq!(world.rule_of_proof(|_, claims| claims[name] = value.clone()), rule, "{name} {value}");
    }
    for htu in
        ["HTTPS://MCP.BANK.EXAMPLE/t/retail/a/clerk/mcp", "https://mcp.bank.example:443/t/retail/a/clerk/mcp?q=1#f"]
    {
        let token = world.token();
        let proof = world.proof_with(&token, |_, claims| {
            claims["htu"] = htu.into();
            claims["jti"] = htu.into();
        });
        assert!(world.check(&token, true, Some(&proof)).is_ok(), "{htu}");
    }
}

#[test]
fn a_proof_brings_one_public_key_of_its_own() {
    let world = World::new();
    let private = {
        let mut jwk = world.client.jwk();
        jwk["d"] = "c2VjcmV0".into();
        jwk
    };
    for (jwk, why) in [
        (private, "a private key"),
        (json!({ "kty": "oct", "k": "c2VjcmV0" }), "a symmetric key"),
        (json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }), "a short point"),
        (json!({ "kty": "EC", "crv": "P-384", "x": text([1; 48]), "y": text([1; 48]) }), "another curve"),
        (json!({ "kty": "RSA", "n": text([1; 128]), "e": "AQAB" }), "a small modulus"),
        (json!({ "kty": "RSA", "n": text([1; 1_024]), "e": "AQAB" }), "a huge modulus"),
        (json!({ "kty": "RSA", "n": text([1; 256]), "e": "AQ" }), "the exponent one"),
        (json!(null), "nothing"),
        (json!("https://evil.example/key"), "a reference"),
    ] {
        assert_eq!(world.rule_of_proof(|header, _| header["jwk"] = jwk.clone()), "proof.jwk", "{why}");
    }
    for alg in ["none", "HS256", "RS256", "EdDSA"] {
        let rule = world.rule_of_proof(|header, _| header["alg"] = alg.into());
        assert!(["proof.alg", "proof.jwk"].contains(&rule), "{alg}: {rule}");
    }
    for typ in ["JWT", "at+jwt", ""] {
        assert_eq!(world.rule_of_proof(|header, _| header["typ"] = typ.into()), "proof.typ");
    }
    assert_eq!(world.rule_of_proof(|header, _| header["crit"] = json!(["htu"])), "proof.header");
    // A point that is on no curve, under the thumbprint that the token is bound to: the signature cannot hold.
    let token = world.token();
    let proof = world.proof(&token);
    let (covered, _) = proof.rsplit_once('.').unwrap();
    let bad = format!("{covered}.{}", text([0; 64]));
    assert_eq!(world.check(&token, true, Some(&bad)).unwrap_err().rule, "proof.signature");
}

#[test]
fn a_proof_is_used_once_and_a_bad_one_uses_nothing_up() {
    let world = World::new();
    let token = world.token();
    let proof = world.proof(&token);
    // The token is forged: the proof that came with it is still good for the right one.
    let forged = world.issuer.jws(&world.header().to_string(), &world.claims().to_string().replace("alice", "mallory"));
    assert_ne!(world.rule(&forged[..forged.len() - 4]), "proof.replay");
    assert!(world.check(&token, true, Some(&proof)).is_ok());
    assert_eq!(world.check(&token, true, Some(&proof)).unwrap_err().rule, "proof.replay");
    let keys = world.set();
    let late = Expected { issuer: ISSUER, resource: RESOURCE, keys: &keys, bearer: false, now: NOW, since: NOW + 1 };
    let again = world.proof_with(&token, |_, claims| claims["jti"] = "new".into());
    let presented = Presented { scheme_is_dpop: true, proof: Some(&again), method: "POST", uri: RESOURCE };
    assert_eq!(late.check(&token, presented).unwrap_err().rule, "proof.iat", "before this plane was");
}

#[test]
fn what_two_readers_could_read_differently_is_read_by_none() {
    let world = World::new();
    let claims = world.claims().to_string();
    let twice = claims.replacen('{', r#"{"sub":"root","#, 1);
    assert_eq!(world.rule(&world.issuer.jws(&world.header().to_string(), &twice)), "token.form");
    let header = world.header().to_string().replacen('{', r#"{"alg":"none","#, 1);
    assert_eq!(world.rule(&world.issuer.jws(&header, &claims)), "token.form");
    let token = world.token();
    for bad in [
        format!("{token}="),
        format!("{token}\n"),
        format!(" {token}"),
        format!("{token}."),
        format!("{token}.x.y"),
        token.replacen('.', "..", 1),
        token.replace('.', ""),
        String::new(),
        "a.b.c".to_owned(),
        "é.é.é".to_owned(),
    ] {
        let rule = world.check(&bad, true, Some(&world.proof(&bad))).unwrap_err().rule;
        assert_eq!(rule, "token.form", "{bad:.40}");
    }
    // The last character of a signature has bits that mean nothing: only one spelling is one.
    let last = token.chars().last().unwrap();
    let spelled: usize = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(['-', '_'])
        .filter(|c| *c != last)
        .filter(|c| {
            let other = format!("{}{c}", &token[..token.len() - 1]);
            let proof = world.proof_with(&other, |_, claims| claims["jti"] = c.to_string().into());
            world.check(&other, true, Some(&proof)).is_ok()
        })
        .count();
    assert_eq!(spelled, 0);
}

#[test]
fn what_is_too_large_is_not_read() {
    let world = World::new();
    let token = world.token_with(|_, claims| claims["pad"] = "x".repeat(TOKEN_BYTES_MAX).into());
    assert_eq!(world.check(&token, true, None).unwrap_err().rule, "token.size");
    assert_eq!(peek_issuer(&token).unwrap_err().rule, "token.size");
    assert_eq!(world.rule_of_proof(|_, claims| claims["pad"] = "x".repeat(PROOF_BYTES_MAX).into()), "proof.size");
    let many = "s ".repeat(100);
    assert_eq!(world.rule(&world.token_with(|_, claims| claims["scope"] = many.as_str().into())), "token.scope");
}

#[test]
fn a_set_of_keys_is_public_bounded_and_says_one_thing() {
    let world = World::new();
    let mut jwk = world.issuer.jwk();
    jwk["kid"] = "k1".into();
    let read = |set: Value| KeySet::read(set.to_string().as_bytes());
    assert_eq!(read(json!({ "keys": [jwk] })).unwrap().len(), 1);
    let mut private = jwk.clone();
    private["d"] = "c2VjcmV0".into();
    assert_eq!(read(json!({ "keys": [jwk, private] })), Err(KeySetError::Private));
    assert_eq!(read(json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] })), Err(KeySetError::Private));
    assert_eq!(read(json!({ "keys": [jwk, jwk] })), Err(KeySetError::Ambiguous));
    assert_eq!(read(json!({ "keys": [] })), Err(KeySetError::Unusable));
    assert_eq!(read(json!({ "keys": "k1" })), Err(KeySetError::Malformed));
    assert_eq!(read(json!({ "keys": vec![jwk.clone(); 33] })), Err(KeySetError::Large));
    assert_eq!(KeySet::read(&vec![b' '; 65 * 1024]), Err(KeySetError::Large));
    assert_eq!(KeySet::read(br#"{"keys":[],"keys":[]}"#), Err(KeySetError::Malformed));
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"])), ("alg", json!("RS256"))] {
        let mut other = jwk.clone();
        other[name] = value;
        assert_eq!(read(json!({ "keys": [other] })), Err(KeySetError::Unusable), "{name}");
    }
    // Without a name in the token, only one key can be meant.
    let other = World::new();
    let mut second = other.issuer.jwk();
    second["kid"] = "k2".into();
    let both = read(json!({ "keys": [jwk, second] })).unwrap();
    assert!(both.find(None, "ES256").is_none() && both.find(Some("k2"), "ES256").is_some());
}

/// RFC 7638, section 3.1; RFC 8037, appendix A.3.
#[test]
fn thumbprints_are_those_of_the_standards() {
    let thumbprint =
        |jwk: Value| PublicKey::read(&json::object(jwk.to_string().as_bytes()).unwrap()).unwrap().thumbprint();
    assert_eq!(
        thumbprint(json!({ "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw" })),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
    assert_eq!(
        thumbprint(json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
}

proptest! {
    /// Whatever is changed in a token or a proof that are good, they are refused, and nothing falls over.
    #[test]
    fn nothing_but_the_right_bytes_is_taken(which in any::<bool>(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let world = World::new();
        let token = world.token();
        let proof = world.proof(&token);
        let mut changed = if which { token.clone() } else { proof.clone() }.into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != to);
        changed[at] = to;
        let changed = String::from_utf8_lossy(&changed).into_owned();
        let (token, proof) = if which { (changed, proof) } else { (token, changed) };
        prop_assert!(world.check(&token, true, Some(&proof)).is_err());
    }

    #[test]
    fn no_text_makes_it_fall_over(token in "\\PC{0,200}", proof in "\\PC{0,200}") {
        let world = World::new();
        prop_assert!(world.check(&token, true, Some(&proof)).is_err());
        let _ = canonical_uri(&token);
    }
}
