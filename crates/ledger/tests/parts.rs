//! Parts of a log whose key was replaced, and what may stand in a leaf of a part: two verifiers, one verdict.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod corpus;

use std::{collections::BTreeMap, path::Path, process::Command};

use cogward_ledger::{
    archive::{hex, sha256},
    leaf::{Parsed, hash_text, leaf_hash},
    map::{self, Kind, Map, values},
    note::SigningKey,
    pack::{signed_text, verify_pack},
    proof::Tree,
    text::{base64_bytes, base64_hash},
};
use cogward_model::event::{Attribution, Event, EventType};
use serde_json::{Value, json};

const DRIVER: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import verify, verify_part
for case in json.load(open(sys.argv[2])):
    try:
        print(json.dumps(["ok", verify_part.verify_part(case["dir"], case["key"])["leaves"]]))
    except verify.Finding as finding:
        print(json.dumps([finding.what, finding.leaf]))
"#;

type Files = BTreeMap<String, Vec<u8>>;
/// Its name, its files, the key that the reader brings along, the verdict with its leaf or their number.
type Part = (&'static str, Files, Option<String>, &'static str, Option<u64>);

/// All leaves of a log as a sample, signed by this key. What else is in the pack has to be named.
fn sample(whole: &Files, leaves: &[Vec<u8>], key: &SigningKey, named: &[&str]) -> Files {
    let tree = Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
    let line = |(index, leaf): (usize, &Vec<u8>)| {
        let proof: Vec<String> = tree.inclusion(index, leaves.len()).unwrap().iter().map(base64_hash).collect();
        format!("{}\n", json!({"index": index, "leaf": base64_bytes(leaf), "proof": proof}))
    };
    let mut files: Files = whole
        .clone()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("tile/") && !path.starts_with("plane"))
        .collect();
    files.insert("leaves.jsonl".to_owned(), leaves.iter().enumerate().map(line).collect::<String>().into_bytes());
    let digests: BTreeMap<&str, String> = named.iter().map(|name| (*name, hex(&sha256(&files[*name])))).collect();
    let manifest = json!({
        "form": 1, "origin": corpus::ORIGIN, "size": leaves.len(), "leaves": leaves.len(), "by": "opr_1",
        "time": "2026-11-23T10:11:12.123456Z", "disclosed": false, "files": digests,
        "scope": {"kind": "sample", "nonce": "a number of the auditor's", "count": 1_000, "of": leaves.len()},
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let note = key.note(&signed_text(corpus::ORIGIN, &manifest)).unwrap();
    files.insert("pack.json".to_owned(), manifest);
    files.insert("pack.note".to_owned(), note.into_bytes());
    files
}

/// A part by key: what names the key is the first leaf, and the second is the root of the index over it.
fn by_key(with: &[(&str, &str)], of: Kind, value: &str, key: &SigningKey) -> Files {
    let event = Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), Attribution::plane());
    let mut about = BTreeMap::from([(0, event)]);
    let plain = corpus::leaves_about(1, &about).remove(0);
    // What no plane writes: a hostile one signs any text.
    let mut text = String::from_utf8(plain.clone()).unwrap();
    for (there, put) in with {
        assert!(text.contains(there), "{there} in {text}");
        text = text.replacen(there, put, 1);
    }
    let first = text.into_bytes();
    let mut index = Map::default();
    values(&first).unwrap().iter().for_each(|(kind, value)| index.add(map::key(*kind, value), 0));
    let time = Parsed::from_bytes(&first).unwrap().chain.time.to_owned();
    let claim = Event::new(EventType::LedgerIndexed, "acme".parse().unwrap(), Attribution::plane());
    let claim = claim.public("map", 1_u64).public("from", 0_u64).public("to", 1_u64).public("entries", index.len());
    let claim = claim.public("root", hash_text(&index.root())).public("subject_entries", 0_u64);
    let claim = claim.public("subject_root", hash_text(&Map::default().root()));
    about.insert(1, claim.public("first_time", time.clone()).public("last_time", time));
    let [_, second] = corpus::leaves_about(2, &about).try_into().unwrap();
    let [before, now] = [&plain, &first].map(|leaf| format!("\"prev\":\"{}\"", hash_text(&leaf_hash(leaf))));
    let second = String::from_utf8(second).unwrap().replacen(&before, &now, 1).into_bytes();
    let leaves = [first, second];
    let tree = Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
    let line = |index: usize| {
        let proof: Vec<String> = tree.inclusion(index, 2).unwrap().iter().map(base64_hash).collect();
        json!({"index": index, "leaf": base64_bytes(&leaves[index]), "proof": proof})
    };
    let proof = index.prove(&map::key(of, value));
    let mut files = corpus::signed(&leaves, key);
    files.retain(|path, _| !path.starts_with("tile/"));
    files.insert("leaves.jsonl".to_owned(), format!("{}\n", line(0)).into_bytes());
    files.insert("index.jsonl".to_owned(), format!("{}\n", json!({"claim": line(1), "map": proof})).into_bytes());
    let digests: BTreeMap<&str, String> =
        ["leaves.jsonl", "index.jsonl"].iter().map(|name| (*name, hex(&sha256(&files[*name])))).collect();
    let manifest = json!({
        "form": 1, "origin": corpus::ORIGIN, "size": 2, "leaves": 1, "by": "opr_1", "time": "2026-11-23T10:11:12.123456Z",
        "disclosed": false, "files": digests,
        "scope": {"kind": "key", "of": of.as_str(), "value": value, "from": 0, "to": 1},
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let note = key.note(&signed_text(corpus::ORIGIN, &manifest)).unwrap();
    files.insert("pack.json".to_owned(), manifest);
    files.insert("pack.note".to_owned(), note.into_bytes());
    files
}

#[test]
fn both_verifiers_give_the_verdict_that_each_part_must_have() {
    let (whole, leaves, [first, present]) = corpus::rotated_of_one_kind();
    let size = Some(leaves.len() as u64);
    let named = ["keys.jsonl", "leaves.jsonl"];
    let good = sample(&whole, &leaves, &present, &named);
    let key = |key: &SigningKey| Some(key.verifying().to_string());
    let stranger = corpus::key(39);
    let with = |name: &str, bytes: Option<&[u8]>| {
        let mut files = good.clone();
        match bytes {
            Some(bytes) => drop(files.insert(name.to_owned(), bytes.to_vec())),
            None => drop(files.remove(name)),
        }
        files
    };
    let text = String::from_utf8(whole["keys.jsonl"].clone()).unwrap();
    let first_line = format!("{}\n", text.lines().next().unwrap());
    let mut unnamed_keys = whole.clone();
    unnamed_keys.remove("keys.jsonl");
    let not_canonical = {
        let text = String::from_utf8(leaves[0].clone()).unwrap();
        let mut leaves = corpus::leaves(3);
        leaves[0] = text.replacen("\"v\":1", "\"v\": 1", 1).into_bytes();
        (corpus::signed(&leaves, &present), leaves)
    };
    let evil = corpus::leaves_of("evil", 3, &BTreeMap::new());
    let crm = ("\"sub\":", "\"server\":\"crm\",\"sub\":");
    let of_empty = [crm, ("\"type\":", "\"tool\":\"read\",\"tool_server\":\"\",\"type\":")];
    let of_index = [("\"type\":", "\"tool\":\"read\",\"tool_server\":\"ledger.index\",\"type\":")];
    let odd = [crm, ("\"act\":null", "\"act\":7"), ("\"type\":", "\"tool\":7,\"tool_server\":[\"mail\"],\"type\":")];
    let cases: Vec<Part> = vec![
        // What names something, read the same by both: an empty name is one, what is no text is none, and any name may be chosen.
        ("key-of-an-empty-name", by_key(&of_empty, Kind::ToolServer, "", &present), None, "ok", Some(1)),
        ("key-of-its-tool", by_key(&of_empty, Kind::Tool, "/read", &present), None, "ok", Some(1)),
        ("key-behind-an-empty-name", by_key(&of_empty, Kind::ToolServer, "crm", &present), None, "scope", Some(0)),
        (
            "key-named-like-the-index",
            by_key(&of_index, Kind::ToolServer, "ledger.index", &present),
            None,
            "ok",
            Some(1),
        ),
        ("key-beside-what-is-no-text", by_key(&odd, Kind::ToolServer, "crm", &present), None, "ok", Some(1)),
        ("as-it-must-be", good.clone(), None, "ok", size),
        ("known-first", good.clone(), key(&first), "ok", size),
        ("known-present", good.clone(), key(&present), "ok", size),
        ("known-none", good.clone(), key(&stranger), "signature", None),
        ("keys-taken-out", with("keys.jsonl", None), None, "missing", None),
        ("keys-empty", with("keys.jsonl", Some(b"")), None, "key", None),
        // It leads to the present key, and is not the file that was signed: a revocation was taken out.
        ("keys-with-a-line-less", with("keys.jsonl", Some(first_line.as_bytes())), None, "manifest", None),
        ("keys-not-named", sample(&whole, &leaves, &present, &["leaves.jsonl"]), None, "manifest", None),
        ("manifest-by-the-key-before", sample(&whole, &leaves, &first, &named), None, "manifest", None),
        // Without the statements it is a part of the present key's log: who knows the first one alone cannot follow.
        ("without-keys", sample(&unnamed_keys, &leaves, &present, &["leaves.jsonl"]), None, "ok", size),
        (
            "without-keys-known-first",
            sample(&unnamed_keys, &leaves, &present, &["leaves.jsonl"]),
            key(&first),
            "signature",
            None,
        ),
        // Its leaves agree with each other, and not with the name of the log.
        (
            "of-another-tenant",
            sample(&corpus::signed(&evil, &present), &evil, &present, &["leaves.jsonl"]),
            None,
            "tenant",
            Some(0),
        ),
        // What another reader of JSON could take for something else is no leaf, here as in a whole log.
        (
            "leaf-not-canonical",
            sample(&not_canonical.0, &not_canonical.1, &present, &["leaves.jsonl"]),
            None,
            "form",
            Some(0),
        ),
    ];
    let root = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    for (name, files, key, ..) in &cases {
        corpus::write(files, &root.path().join(name));
        lines.push(json!({"dir": root.path().join(name), "key": key}));
    }
    let list = root.path().join("cases.json");
    std::fs::write(&list, serde_json::to_vec(&lines).unwrap()).unwrap();
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    let output = Command::new(python).args(["-c", DRIVER]).arg(scripts).arg(&list).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(theirs.len(), cases.len());
    for ((name, _, key, what, leaf), theirs) in cases.iter().zip(theirs) {
        let key = key.as_ref().map(|key| key.parse().unwrap());
        let ours = match verify_pack(&root.path().join(name), key.as_ref()) {
            Ok(pack) => json!(["ok", pack.extracted.leaves]),
            Err(finding) => json!([finding.what, finding.leaf]),
        };
        assert_eq!((ours, theirs), (json!([what, leaf]), json!([what, leaf])), "{name}");
    }
}
