//! `cogward-verify` as an auditor starts it: the verdict, the exit code, the key.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use cogward_ledger::{
    leaf::{Place, encode, leaf_hash, mint_id},
    note::SigningKey,
};
use cogward_model::{
    SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
};

fn key() -> SigningKey {
    SigningKey::from_seed("cogward.dev/ledger/test/acme", &[3; 32]).unwrap()
}

/// A log of one leaf.
fn pack(dir: &Path) {
    let event = Event::new(EventType::PlaneStarted, "acme".parse().unwrap(), Attribution::plane());
    let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
    let time = "2026-11-22T10:11:12.123456Z";
    let mut leaf = Vec::new();
    body.assemble(&Place { seq: 0, prev: None, time, run_seq: 0, run_prev: None }, &mut leaf);
    let hash = leaf_hash(&leaf);
    let length = u16::try_from(leaf.len()).unwrap().to_be_bytes();
    for (path, bytes) in [
        ("tile/entries/000.p/1", [&length[..], &leaf].concat()),
        ("tile/0/000.p/1", hash.to_vec()),
        ("checkpoint", key().checkpoint(1, &hash).into_bytes()),
        ("log.vkey", format!("{}\n", key().verifying()).into_bytes()),
    ] {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn verify(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } =
        Command::new(env!("CARGO_BIN_EXE_cogward-verify")).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn a_whole_log_holds_and_the_reader_is_told_whose_key_that_was() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path());
    let path = dir.path().to_str().unwrap();
    let (code, text) = verify(&[path]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("OK  1 leaves, 0 runs (0 closed)\n") && text.contains("WARNING"), "{text}");
    let vkey = key().verifying().to_string();
    let file = dir.path().join("log.vkey");
    for given in [vkey.as_str(), file.to_str().unwrap()] {
        let (code, text) = verify(&[path, "--key", given]);
        assert!(code == Some(0) && !text.contains("WARNING"), "{text}");
    }
    let (_, json) = verify(&["--json", path]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["verdict"], &json["log"]["leaves"]), (&"ok".into(), &1.into()));
    assert_eq!(json["log"]["key_pinned"], false);
}

#[test]
fn a_damaged_log_ends_with_9_and_names_the_leaf() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path());
    let entries = dir.path().join("tile/entries/000.p/1");
    let mut bytes = fs::read(&entries).unwrap();
    bytes[40] ^= 1;
    fs::write(&entries, bytes).unwrap();
    let path = dir.path().to_str().unwrap();
    let (code, text) = verify(&[path]);
    assert_eq!(code, Some(9));
    assert!(text.starts_with("FAILED  leaf 0: bytes: "), "{text}");
    let (code, json) = verify(&[path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["finding"]["leaf"], &json["finding"]["what"]), (Some(9), &0.into(), &"bytes".into()));
    let other = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap().verifying().to_string();
    assert_eq!(verify(&[path, "--key", &other]).0, Some(9));
}

#[test]
fn a_wrong_command_ends_with_2() {
    for arguments in
        [&[][..], &["/nowhere/at/all"], &["--frob", "."], &[".", "."], &[".", "--key"], &[".", "--key", "x"]]
    {
        assert_eq!(verify(arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(verify(&["--help"]).0, Some(0));
}

#[test]
fn the_verifier_asks_the_network_nothing_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path());
    let trace = dir.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=%network,rename,unlink,mkdir,openat", "-o", trace.to_str().unwrap()])
        .args([env!("CARGO_BIN_EXE_cogward-verify"), dir.path().to_str().unwrap()])
        .output()
        .expect("strace(1): scripts/setup-tests.sh installs it");
    assert!(output.status.success(), "{output:?}");
    let calls = fs::read_to_string(trace).unwrap();
    assert!(calls.contains("tile/entries/000.p/1"), "the trace is one of the verifier: {calls}");
    let wrong = calls.lines().filter(|call| {
        let kept = call.contains("openat(") && !call.contains("O_WRONLY") && !call.contains("O_RDWR");
        !(kept || call.contains("+++ exited") || call.contains("--- SIG"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn what_is_in_a_pack_moves_no_cursor() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path());
    let path = dir.path().to_str().unwrap();
    let checkpoint = fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let painted = checkpoint.replacen("cogward.dev", "\u{1b}[2J\u{1b}[32mOK  999 leaves\u{7f}\u{9b}", 1);
    fs::write(dir.path().join("checkpoint"), &painted).unwrap();
    let kept = dir.path().join("kept");
    fs::write(&kept, &painted).unwrap();
    for arguments in [&[path][..], &[path, "--against", kept.to_str().unwrap()], &["--json", path]] {
        let (code, text) = verify(arguments);
        assert_eq!(code, Some(9), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[test]
fn what_is_no_pack_is_no_damaged_pack() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fs::write(dir.path().join("photo.jpg"), "x").unwrap();
    let (code, text) = verify(&[path]);
    assert_eq!((code, text.as_str()), (Some(2), ""));
    let (code, text) = verify(&["--version"]);
    assert!(code == Some(0) && text.starts_with("cogward-verify "), "{text}");
    pack(dir.path());
    let other = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap().verifying().to_string();
    let (code, text) = verify(&[path, "--key", &other]);
    assert!(code == Some(9) && text.contains("verify it with the key of that time"), "{text}");
    // Who wants the plane log is not content with a pack that has nothing of it.
    let (code, text) = verify(&[path, "--plane-key", &other]);
    assert!(code == Some(9) && text.contains("there is no plane/"), "{text}");
    let (_, text) = verify(&[path]);
    assert!(text.contains("NOTE: there is no plane/"), "{text}");
    let policy = dir.path().join("policy");
    for (text, why) in [("quorum none\n", "nothing to check"), ("quorum", "no end"), ("log x\nquorum none\n", "line 1")]
    {
        fs::write(&policy, text).unwrap();
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_cogward-verify"))
            .args([path, "--witnesses", policy.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(status.code() == Some(2) && String::from_utf8_lossy(&stderr).contains(why), "{stderr:?}");
    }
}

#[test]
fn a_reader_who_went_away_does_not_change_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path());
    for damaged in [false, true] {
        if damaged {
            fs::remove_file(dir.path().join("tile/0/000.p/1")).unwrap();
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status =
            Command::new(env!("CARGO_BIN_EXE_cogward-verify")).arg(dir.path()).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(if damaged { 9 } else { 0 }));
    }
}
