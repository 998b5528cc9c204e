//! Access tokens and proofs of clients outside: of all texts, only the very ones that were signed let anybody in.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_identity::access::{Expected, Holder, KeySet, Presented, Refused, Replay, canonical_uri, peek_issuer};
use serde_json::{Value, json};

use super::{Class, ITERATIONS, Until, found_out, hold_for, hunt, seeds, targets::class, wishes};

const ISSUER: &str = "https://id.bank.example/t/retail";
const RESOURCE: &str = "https://mcp.bank.example/t/retail/a/clerk/mcp";
const NOW: u64 = 1_900_000_000;
const WORDS: &[&[u8]] = &[
    b".",
    b"..",
    b"=",
    b"eyJhbGciOiJub25lIn0",
    b"eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJub25lIiwia2lkIjoiazEifQ",
    b"eyJhbGciOiJIUzI1NiJ9",
    b"AAAA",
    b"\n",
    b" ",
    b"\t",
];

struct World {
    keys: KeySet,
    token: String,
    proof: String,
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let covered = format!("{}.{}", text(header.to_string()), text(claims.to_string()));
    let signature = text(key.sign(covered.as_bytes()));
    format!("{covered}.{signature}")
}

impl World {
    fn new() -> Self {
        let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key");
        let (issuer, client) = (key(7), key(8));
        let jwk = |key: &Ed25519KeyPair| json!({"crv": "Ed25519", "kty": "OKP", "x": text(key.public_key())});
        let mut listed = jwk(&issuer);
        listed["kid"] = "k1".into();
        let thumbprint = text(digest(&SHA256, jwk(&client).to_string().as_bytes()));
        let claims = json!({
            "iss": ISSUER, "aud": RESOURCE, "sub": "alice", "client_id": "ide", "jti": "t-1", "scope": "cogward.mcp",
            "iat": NOW - 5, "exp": NOW + 115, "cnf": {"jkt": thumbprint},
        });
        let token = signed(&issuer, &json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "k1"}), &claims);
        let ath = text(digest(&SHA256, token.as_bytes()));
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk(&client)});
        let claims = json!({"jti": "p-1", "htm": "POST", "htu": RESOURCE, "iat": NOW, "ath": ath});
        let proof = signed(&client, &header, &claims);
        let keys = KeySet::read(json!({"keys": [listed]}).to_string().as_bytes()).expect("a set of keys");
        Self { keys, token, proof }
    }

    fn check(&self, token: &str, proof: &str) -> Result<Holder, Refused> {
        let expected =
            Expected { issuer: ISSUER, resource: RESOURCE, keys: &self.keys, bearer: false, now: NOW, since: 0 };
        let presented = Presented { scheme_is_dpop: true, proof: Some(proof), method: "POST", uri: RESOURCE };
        expected.check(token, presented)?.use_up(&Replay::default(), "corp", NOW)
    }

    /// What was signed, as a seed; and what a lenient reader would take for it.
    fn seeds(&self) -> Vec<Vec<u8>> {
        let Self { token, proof, .. } = self;
        let near = [format!("{token}\n{proof}"), format!("{token} \n{proof}"), format!("{token}\n{proof}=")];
        seeds(include_str!("../../fuzz/access.txt")).into_iter().chain(near.map(String::into_bytes)).collect()
    }
}

fn access(world: &World, check: impl Fn(&str, &str) -> Result<Holder, Refused>, bytes: &[u8]) -> Class {
    let text = String::from_utf8_lossy(bytes);
    let (token, proof) = text.split_once('\n').unwrap_or((&text, ""));
    let genuine = (token, proof) == (world.token.as_str(), world.proof.as_str());
    let issuer = peek_issuer(token);
    if let Some(uri) = canonical_uri(proof) {
        assert_eq!(canonical_uri(&uri).as_deref(), Some(uri.as_str()), "one form, and no other of it");
    }
    if let Ok(set) = KeySet::read(bytes) {
        assert!(!set.is_empty());
    }
    match check(token, proof) {
        Ok(holder) => {
            assert!(genuine, "somebody was let in: {text}");
            assert_eq!((holder.subject.as_str(), issuer), ("alice", Ok(ISSUER.to_owned())));
            class("let in")
        }
        Err(refused) => {
            assert!(!genuine, "the genuine one was refused: {refused}");
            class((refused.rule, issuer.is_ok()))
        }
    }
}

#[test]
fn tokens() {
    let world = World::new();
    assert!(world.check(&world.token, &world.proof).is_ok(), "what is changed has to be good");
    let (seed, until) = wishes(ITERATIONS);
    match hunt((seed, until), world.seeds(), WORDS, |bytes| access(&world, |t, p| world.check(t, p), bytes)) {
        Ok(tried) => {
            println!("access: {} inputs, {} classes of outcomes, seed {seed}", tried.inputs, tried.classes);
            assert!(tried.classes > 8, "{tried:?}");
        }
        Err(finding) => panic!("access, seed {seed}: {}\n{}", finding.said, super::hex(&finding.input)),
    }
}

#[test]
fn a_reader_of_tokens_with_a_mistake_is_found_out() {
    let world = World::new();
    type Check<'a> = Box<dyn Fn(&str, &str) -> Result<Holder, Refused> + 'a>;
    let unsigned = |text: &str| text.rsplit_once('.').map(|(covered, _)| covered.to_owned());
    let mistakes: [(&str, Check<'_>); 4] = [
        ("spaces at the end are no part of it", Box::new(|token, proof| world.check(token.trim(), proof.trim()))),
        (
            "the signature of a proof is not looked at",
            Box::new(|token, proof| {
                let same = unsigned(proof) == unsigned(&world.proof);
                world.check(token, if same { &world.proof } else { proof })
            }),
        ),
        (
            "the signature of a token is not looked at",
            Box::new(|token, proof| {
                let same = unsigned(token) == unsigned(&world.token);
                world.check(if same { &world.token } else { token }, proof)
            }),
        ),
        ("a token without a proof is good", Box::new(|token, _| world.check(token, &world.proof))),
    ];
    for (mistake, check) in mistakes {
        let found = hunt((7, Until::Inputs(ITERATIONS)), world.seeds(), WORDS, |bytes| access(&world, &check, bytes));
        assert!(found.is_err(), "{mistake}: {found:?}");
    }
}

const KEYS: &[&[u8]] = &[b"\"kid\":\"k1\"", b"\"kty\":\"OKP\"", b"\"d\":\"AAAA\"", b"{\"keys\":[", b"\"use\":\"enc\""];

fn keys(reader: impl Fn(&[u8]) -> Option<usize>, bytes: &[u8]) -> Class {
    let Some(many) = reader(bytes) else { return class("refused") };
    let value: Value = serde_json::from_slice(bytes).expect("a set of keys is JSON");
    let listed = value["keys"].as_array().expect("it has a list");
    assert!((1..=listed.len()).contains(&many), "{many} of {}", listed.len());
    let secret = |key: &Value| ["d", "k", "p", "q"].iter().any(|member| key.get(member).is_some());
    assert!(!listed.iter().any(secret), "a key that is not public");
    class(many)
}

fn set_of(bytes: &[u8]) -> Option<usize> {
    KeySet::read(bytes).ok().map(|set| set.len())
}

#[test]
fn key_sets() {
    hold_for(ITERATIONS, "keys", include_str!("../../fuzz/keys.txt"), KEYS, |bytes| keys(set_of, bytes));
}

#[test]
fn a_reader_of_key_sets_with_a_mistake_is_found_out() {
    let wrong = [("a secret key will do", |bytes: &[u8]| {
        keys(
            |bytes| {
                let mut value: Value = serde_json::from_slice(bytes).ok()?;
                for key in value.get_mut("keys")?.as_array_mut()? {
                    key.as_object_mut()?.shift_remove("d");
                }
                set_of(value.to_string().as_bytes())
            },
            bytes,
        )
    })];
    found_out(include_str!("../../fuzz/keys.txt"), KEYS, wrong);
}
