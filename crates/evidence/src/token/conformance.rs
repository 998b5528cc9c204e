//! What holds of a log's keys wherever they are: once on files, once on a real token (SoftHSM2).

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
};

use cogward_ledger::{
    key_chain::KeyChain,
    note::{Checkpoint, VerifyingKey},
};
use cogward_model::{SystemEntropy, Timestamp};

use super::{Places, Tag, Token, TokenError, TokenOptions, TokenUri};
use crate::{durable, key_change::KeyChangeError, keys::KeyringError, log_keys::LogKeys};

const ORIGIN: &str = "cogward.dev/ledger/abcdef";
const HOME: &str = "COGWARD_TEST_TOKENS";
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// Runs this test once more in a process that has tokens `a` and `b`: SoftHSM reads its configuration from the
/// environment. `Some` in there, with the URIs.
fn with_tokens(test: &str) -> Option<(PathBuf, [TokenUri; 2])> {
    let module = MODULES.iter().find(|path| Path::new(path).exists());
    let module = module.expect("SoftHSM2 is missing: run scripts/setup-tests.sh");
    if let Some(home) = std::env::var_os(HOME).map(PathBuf::from) {
        let uri = |name: &str| {
            let text = format!("pkcs11:token={name}?module-path={module}&pin-source=file:{}/pin", home.display());
            text.parse().unwrap()
        };
        let uris = ["a", "b"].map(uri);
        return Some((home, uris));
    }
    let home = tempfile::tempdir().unwrap();
    let (conf, tokens) = (home.path().join("softhsm2.conf"), home.path().join("tokens"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display())).unwrap();
    durable::replace(&home.path().join("pin"), b"471147\n").unwrap();
    for label in ["a", "b"] {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--so-pin", "00471147", "--pin", "471147", "--label", label])
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let inside = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HOME, home.path())
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success() && said.contains("1 passed"), "{said}");
    None
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros(1_790_000_000_000_000 + seconds * 1_000_000)
}

fn opened(dir: &Path, options: &TokenOptions) -> Result<LogKeys, KeyringError> {
    let places = Arc::new(Places::new(options, dir)?);
    LogKeys::open((dir, places), "plane.log", ORIGIN, &SystemEntropy)
}

fn signed(keys: &LogKeys, size: u64) -> String {
    keys.key().signed_checkpoint(size, &[7; 32]).unwrap()
}

fn rotated(keys: &LogKeys, size: u64) -> Result<VerifyingKey, KeyChangeError> {
    let turned = keys.rotate(&SystemEntropy, (at(size), at(size + 10).unix_micros()), || Ok(size))?;
    keys.recorded(&turned.statement, size).unwrap();
    Ok(keys.key().verifying().clone())
}

fn retired(keys: &LogKeys, size: u64) {
    let due = keys.due(at(size + 10)).unwrap();
    assert_eq!(keys.due(at(size + 9)), None);
    keys.destroy(due).unwrap();
    keys.destroy(due).unwrap();
    keys.retired().unwrap();
}

/// Everything that the rest of the plane counts on, in one place of keys.
fn conforms(dir: &Path, options: &TokenOptions) {
    durable::directory(dir).unwrap();
    let keys = opened(dir, options).unwrap();
    let first = keys.key().verifying().clone();
    assert_eq!(Checkpoint::open(&signed(&keys, 5), &first).unwrap().size, 5);
    assert_eq!(keys.key().signed_note("a text\n").map(|note| first.open_text(&note).is_ok()), Ok(true));
    let keys = opened(dir, options).unwrap();
    assert_eq!(*keys.key().verifying(), first, "the same after a start");
    let second = rotated(&keys, 20).unwrap();
    let both = signed(&keys, 21);
    for key in [&first, &second] {
        assert_eq!(Checkpoint::open(&both, key).unwrap().size, 21);
    }
    assert!(matches!(rotated(&keys, 22), Err(KeyChangeError::Overlap(_))));
    let keys = opened(dir, options).unwrap();
    for key in [&first, &second] {
        assert_eq!(Checkpoint::open(&signed(&keys, 23), key).unwrap().size, 23);
    }
    retired(&keys, 20);
    let alone = signed(&keys, 24);
    assert!(Checkpoint::open(&alone, &first).is_err());
    assert_eq!(Checkpoint::open(&alone, &second).unwrap().size, 24);
    assert!(matches!(keys.destroy(1), Err(KeyringError::OtherKey(_))), "never the present one");
    let keys = opened(dir, options).unwrap();
    let third = rotated(&keys, 30).unwrap();
    let mut chain = KeyChain::new(first);
    keys.entries().iter().for_each(|entry| chain.push(Some(entry.leaf), &entry.statement).unwrap());
    assert_eq!((chain.present(), chain.generation()), (&third, 2));
}

#[test]
fn keys_in_files_and_in_a_token_keep_the_same_promises() {
    let test = "token::conformance::keys_in_files_and_in_a_token_keep_the_same_promises";
    let Some((home, [token, _])) = with_tokens(test) else { return };
    let files = home.join("files");
    conforms(&files, &TokenOptions::default());
    let options = TokenOptions { tokens: vec![token.clone()], new_keys_in_files: false };
    let dir = home.join("in-token");
    conforms(&dir, &options);
    for name in ["plane.log.sign", "plane.log.1.sign", "plane.log.2.sign", "plane.log.token", "plane.log.mldsa"] {
        assert!(!dir.join(name).exists(), "{name}");
    }
    for name in ["plane.log.1.token", "plane.log.2.token", "plane.log.1.mldsa", "plane.log.2.mldsa"] {
        assert!(dir.join(name).exists(), "{name}");
    }
    // The first key is no object any more, the others are.
    let places = Token::new(&token, &dir).unwrap();
    let there = [0, 1, 2].map(|generation| places.find(&Tag::new(ORIGIN, generation)).unwrap().is_some());
    assert_eq!(there, [false, true, true]);
}

#[test]
fn a_start_makes_good_what_a_killed_plane_had_begun_in_a_token() {
    let test = "token::conformance::a_start_makes_good_what_a_killed_plane_had_begun_in_a_token";
    let Some((home, [token, other])) = with_tokens(test) else { return };
    let dir = home.join("keys");
    durable::directory(&dir).unwrap();
    let options = TokenOptions { tokens: vec![token.clone()], new_keys_in_files: false };
    let objects = Token::new(&token, &dir).unwrap();
    // An object, and no word about it yet: it is that key, and there is never a second one.
    let made = objects.make(&Tag::new(ORIGIN, 0)).unwrap();
    assert_eq!(objects.make(&Tag::new(ORIGIN, 0)).unwrap().public, made.public);
    let keys = opened(&dir, &options).unwrap();
    let first = keys.key().verifying().clone();
    let again = LogKeys::open(
        (&home.join("none"), Arc::new(Places::new(&options, &dir).unwrap())),
        "plane.log",
        ORIGIN,
        &SystemEntropy,
    );
    assert!(again.is_err(), "no directory, no key");
    // The next key, in the token, in a file, in both, and no statement: nobody's.
    objects.make(&Tag::new(ORIGIN, 1)).unwrap();
    durable::replace(&dir.join("plane.log.1.sign"), b"half a seed").unwrap();
    let keys = opened(&dir, &options).unwrap();
    assert_eq!(*keys.key().verifying(), first);
    let second = rotated(&keys, 20).unwrap();
    assert!(!dir.join("plane.log.1.sign").exists());
    // The old key is destroyed by half: the seed is gone; the seed and the object are gone.
    let token_file = dir.join("plane.log.token");
    std::fs::remove_file(dir.join("plane.log.mldsa")).unwrap();
    let keys = opened(&dir, &options).unwrap();
    assert_eq!(Checkpoint::open(&signed(&keys, 21), &second).unwrap().size, 21);
    assert!(Checkpoint::open(&signed(&keys, 21), &first).is_err());
    objects.destroy(&Tag::new(ORIGIN, 0)).unwrap();
    let keys = opened(&dir, &options).unwrap();
    assert!(token_file.exists());
    retired(&keys, 20);
    assert!(!token_file.exists());
    // Without the token nothing is destroyed, and nobody says that it was.
    rotated(&keys, 40).unwrap();
    let elsewhere = TokenOptions { tokens: vec![other], new_keys_in_files: false };
    assert!(matches!(opened(&dir, &elsewhere).err(), Some(KeyringError::Token(TokenError::KeyGone { .. }))));
    assert!(matches!(opened(&dir, &TokenOptions::default()).err(), Some(KeyringError::NoToken { .. })));
    // A reference beside a seed leaves open which it is.
    durable::replace(&dir.join("plane.log.2.sign"), &[b'A'; 44]).unwrap();
    assert!(matches!(opened(&dir, &options).err(), Some(KeyringError::Damaged(_))));
    std::fs::remove_file(dir.join("plane.log.2.sign")).unwrap();
    assert!(opened(&dir, &options).is_ok());
    // The reference of another generation.
    std::fs::copy(dir.join("plane.log.1.token"), dir.join("plane.log.2.token")).unwrap();
    assert!(matches!(opened(&dir, &options).err(), Some(KeyringError::Damaged(_))));
    // A lost first key is not made anew.
    let lost = home.join("lost");
    durable::directory(&lost).unwrap();
    durable::replace(&lost.join("plane.log.mldsa"), &[b'A'; 44]).unwrap();
    for options in [&options, &TokenOptions::default()] {
        assert!(matches!(opened(&lost, options).err(), Some(KeyringError::Gone(_))));
    }
}

#[test]
fn who_has_the_pin_cannot_read_the_key_out() {
    use cryptoki::{
        mechanism::Mechanism,
        object::{Attribute, AttributeType, ObjectClass},
    };
    let test = "token::conformance::who_has_the_pin_cannot_read_the_key_out";
    let Some((home, [token, _])) = with_tokens(test) else { return };
    let token = Token::new(&token, &home).unwrap();
    let tag = Tag::new(ORIGIN, 0);
    token.make(&tag).unwrap();
    let leaks = token.with(move |open| {
        let private = open.session.find_objects(&tag.named(ObjectClass::PRIVATE_KEY))?;
        let [private] = private.as_slice() else { panic!("{private:?}") };
        let session = &open.session;
        let mut leaks = Vec::new();
        // Its value as it is.
        let value = session.get_attributes(*private, &[AttributeType::Value]).unwrap_or_default();
        leaks.extend(value.iter().any(|told| matches!(told, Attribute::Value(_))).then_some("value"));
        // Its word that it stays, taken back.
        let looser = [Attribute::Extractable(true), Attribute::Sensitive(false)];
        for word in looser {
            leaks.extend(session.update_attributes(*private, &[word]).is_ok().then_some("attribute"));
        }
        // A copy that may leave.
        let copy = session.copy_object(*private, &[Attribute::Extractable(true), Attribute::Token(false)]);
        leaks.extend(copy.is_ok().then_some("copy"));
        // Under a key of ours.
        let wrap =
            [Attribute::Token(false), Attribute::ValueLen(32.into()), Attribute::Wrap(true), Attribute::Encrypt(true)];
        let wrapping = session.generate_key(&Mechanism::AesKeyGen, &wrap)?;
        for mechanism in [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad] {
            leaks.extend(session.wrap_key(&mechanism, wrapping, *private).is_ok().then_some("wrapped"));
        }
        Ok(leaks)
    });
    assert_eq!(leaks, Ok(Vec::new()));
}

#[test]
fn a_module_that_hangs_holds_nobody_up_and_is_used_again_when_it_comes_back() {
    let test = "token::conformance::a_module_that_hangs_holds_nobody_up_and_is_used_again_when_it_comes_back";
    let Some((home, [token, _])) = with_tokens(test) else { return };
    let token = Arc::new(Token::new(&token, &home).unwrap());
    let made = token.make(&Tag::new(ORIGIN, 0)).unwrap();
    let (release, hangs) = mpsc::channel::<()>();
    let hangs = std::sync::Mutex::new(hangs);
    let stuck = token.with(move |_| {
        // Until the test lets it go on.
        let _released = hangs.lock().unwrap().recv();
        Ok(())
    });
    assert!(matches!(stuck, Err(TokenError::Silent { .. })), "{stuck:?}");
    let before = std::time::Instant::now();
    assert!(matches!(token.find(&Tag::new(ORIGIN, 0)), Err(TokenError::Silent { .. })));
    assert!(before.elapsed() < std::time::Duration::from_secs(1), "nobody waits for what hangs already");
    drop(release);
    let found = loop {
        match token.find(&Tag::new(ORIGIN, 0)) {
            Ok(found) => break found,
            Err(TokenError::Silent { .. }) => std::thread::park_timeout(std::time::Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(found.unwrap().public, made.public);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let test = "token::conformance::a_wrong_pin_is_tried_once";
    let Some((home, [token, _])) = with_tokens(test) else { return };
    let pin = home.join("pin");
    durable::replace(&pin, b"000000\n").unwrap();
    let token = Token::new(&token, &home).unwrap();
    let refused = token.find(&Tag::new(ORIGIN, 0)).unwrap_err().to_string();
    assert!(refused.contains("did not take the PIN") && !refused.contains("000000"), "{refused}");
    // Whoever asks again within the rest, behind it, or in a plane that was started again: it is not tried.
    for _ in 0..3 {
        let again = Token::new(&token.uri, &home).unwrap().find(&Tag::new(ORIGIN, 0));
        assert!(matches!(again, Err(TokenError::PinRefused { .. })));
    }
    durable::replace(&pin, b"471147\n").unwrap();
    let found = loop {
        match token.find(&Tag::new(ORIGIN, 0)) {
            Err(TokenError::PinRefused { .. }) => std::thread::park_timeout(std::time::Duration::from_millis(10)),
            other => break other,
        }
    };
    assert!(matches!(found, Ok(None)), "{found:?}");
}
