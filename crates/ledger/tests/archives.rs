//! Good and damaged archives, two verifiers, one verdict; and every byte of a small one flipped.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod corpus;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    time::Duration,
};

use cogward_ledger::archive::{Directory, Name, sha256};
use corpus::archives::{InMemory, cases, manifest_of, small, verdict};
use serde_json::{Value, json};

/// Says, a line each, what verify_archive.py finds in the archives that are named on its input.
const DRIVER: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify, verify_archive
for case in json.load(open(sys.argv[2])):
    try:
        print(json.dumps(["ok", verify_archive.verify_archive(case["dir"], case["key"], case["against"])["leaves"]]))
    except verify.Finding as finding:
        print(json.dumps([finding.what, finding.leaf]))
"#;

fn verify_archive_py(cases: &[Value]) -> Vec<Value> {
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let list = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&list, cases).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    let output = Command::new(python).args(["-c", DRIVER]).arg(scripts).arg(list.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ours(objects: &BTreeMap<String, Vec<u8>>, key: Option<&str>, against: Option<&str>) -> Value {
    match verdict(&InMemory(objects), key, against) {
        Ok(found) => json!(["ok", found.leaves]),
        Err(finding) => json!([finding.what, finding.leaf]),
    }
}

/// The part that `scripts/mutate-verifier.py` runs against verifiers that leave something out.
#[test]
fn our_own_verdict_is_the_one_that_each_archive_must_have() {
    for case in cases() {
        let found = ours(&case.objects, case.key.as_deref(), case.against.as_deref());
        assert_eq!(found, json!([case.verdict.0, case.verdict.1]), "{}", case.name);
    }
}

#[test]
fn both_verifiers_give_the_verdict_that_each_archive_must_have() {
    let root = tempfile::tempdir().unwrap();
    let cases = cases();
    assert_eq!(cases.iter().map(|case| &case.name).collect::<BTreeSet<_>>().len(), cases.len(), "a name stands twice");
    let mut lines = Vec::new();
    for case in &cases {
        let dir = root.path().join(&case.name);
        std::fs::create_dir_all(&dir).unwrap();
        corpus::write(&case.objects, &dir);
        lines.push(json!({"dir": dir, "key": case.key, "against": case.against}));
    }
    let theirs = verify_archive_py(&lines);
    assert_eq!(theirs.len(), cases.len());
    let (mut wrong, mut words) = (Vec::new(), BTreeSet::new());
    for (case, python) in cases.iter().zip(theirs) {
        let expected = json!([case.verdict.0, case.verdict.1]);
        words.insert(case.verdict.0);
        let directory = Directory::new(root.path().join(&case.name));
        let rust = match verdict(&directory, case.key.as_deref(), case.against.as_deref()) {
            Ok(found) => json!(["ok", found.leaves]),
            Err(finding) => json!([finding.what, finding.leaf]),
        };
        if rust != expected || python != expected {
            wrong.push(format!("{}: must be {expected}, cogward-verify {rust}, verify_archive.py {python}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all = [
        "against",
        "bytes",
        "form",
        "key",
        "manifest",
        "missing",
        "ok",
        "prev",
        "root",
        "seq",
        "signature",
        "tenant",
        "time",
    ];
    assert_eq!(words.into_iter().collect::<Vec<_>>(), all);
    assert!(cases.len() > 150, "{}", cases.len());
}

/// Who damages an archive may leave its names as they are, or make them fit. No byte carries nothing.
#[test]
fn every_flipped_byte_of_a_small_archive_is_seen() {
    let whole = small();
    assert_eq!(ours(&whole, None, None)[0], "ok");
    let newest = String::from_utf8(whole[&manifest_of(&whole, 2)].clone()).unwrap();
    let mut flips = 0;
    for (name, bytes) in &whole {
        let parsed = Name::parse(name).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let mut objects = whole.clone();
            objects.insert(name.clone(), damaged.clone());
            assert_eq!(ours(&objects, None, None)[0], "bytes", "{name} byte {at}");
            objects.remove(name);
            let digest = sha256(&damaged);
            let renamed = match parsed {
                Name::Manifest { number, .. } => Name::Manifest { number, digest },
                Name::Segment { index, .. } => Name::Segment { index, digest },
            };
            objects.insert(renamed.to_string(), damaged);
            assert_ne!(ours(&objects, None, None)[0], "ok", "{renamed} byte {at}");
            flips += 1;
        }
        for at in 0..name.len() {
            let mut other = name.clone().into_bytes();
            other[at] ^= 1 << (at % 7);
            let Ok(other) = String::from_utf8(other) else { continue };
            let mut objects = whole.clone();
            let bytes = objects.remove(name).unwrap();
            objects.insert(other.clone(), bytes);
            // That the newest manifest is not there can only be seen by who kept something.
            assert_ne!(ours(&objects, None, Some(&newest))[0], "ok", "{other}");
        }
    }
    assert!(flips > 13_000, "{flips}");
}

/// A verifier that is handed a pipe in place of an object does not wait at it.
#[test]
fn a_pipe_in_an_archive_is_not_read() {
    for kind in ["manifests", "segments"] {
        let dir = tempfile::tempdir().unwrap();
        let objects = small();
        corpus::write(&objects, dir.path());
        let name = objects.keys().find(|name| name.starts_with(kind)).unwrap();
        std::fs::remove_file(dir.path().join(name)).unwrap();
        assert!(Command::new("mkfifo").arg(dir.path().join(name)).status().unwrap().success());
        let (tell, told) = std::sync::mpsc::channel();
        let place = Directory::new(dir.path());
        std::thread::spawn(move || tell.send(verdict(&place, None, None)).is_ok());
        let found = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(found.unwrap_err().what.as_str(), "missing");
        let theirs = verify_archive_py(&[json!({"dir": dir.path(), "key": null, "against": null})]);
        assert_eq!(theirs, [json!(["missing", null])]);
    }
}
