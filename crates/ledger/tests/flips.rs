//! Every byte of a pack whose key was replaced and whose beginning is stamped, flipped one after the other.
//!
//! Both verifiers must see each of them and say the same of it. What no verdict depends on is named here, and nothing else
//! may be.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod corpus;
#[path = "support/verdicts.rs"]
mod verdicts;

use std::{collections::BTreeMap, fs, ops::Range};

use serde_json::{Value, json};
use verdicts::{ours, verify_py};

/// The answer of the authority, as it stands in a pack.
const STAMP: &str = "plane/timestamp/checkpoint.tsr";

/// What no verdict depends on. In the answer of the authority: bytes that say what they say and are held by its own
/// signature only, which is for `openssl ts -verify`, or that lead to that signature.
const WITHOUT_MEANING: [(&str, &str, Range<usize>); 13] = [
    (STAMP, "whether it was granted as asked or with changes", 8..9),
    (STAMP, "the version of the message", 34..35),
    (STAMP, "the algorithms of its signature", 37..52),
    (STAMP, "the policy", 82..91),
    (STAMP, "the number of the stamp", 144..145),
    (STAMP, "the time", 147..162),
    (STAMP, "how exact the time is", 164..168),
    (STAMP, "the number of the request", 170..186),
    (STAMP, "the name of the authority", 188..211),
    (STAMP, "the certificates", 215..1_204),
    (STAMP, "where what its first signer says ends", 1_211..1_212),
    (STAMP, "the signature", 1_212..1_716),
    // The statements about the plane's key are leaves of another log than those of the pack.
    ("plane/keys.jsonl", "the number of the leaf in the log of the tenant `default`", 8..10),
];

/// Flips a bit of each byte, or of one in `step`, and gives those that neither verifier saw.
fn unseen(files: &BTreeMap<String, Vec<u8>>, step: usize) -> (Vec<(String, usize)>, usize) {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    corpus::write(files, one.path());
    corpus::write(files, two.path());
    let line = |path: &String| json!({"dir": two.path(), "path": two.path().join(path), "step": step});
    let lines: Vec<Value> = files.keys().map(line).collect();
    let theirs = std::thread::spawn(move || verify_py(&lines));
    let whole_verdict = ours(one.path(), None, None);
    assert_eq!(whole_verdict[0], "ok");
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for (name, whole) in files {
        let path = one.path().join(name);
        for at in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            let verdict = ours(one.path(), None, None);
            if verdict[0] == "ok" {
                assert_eq!(verdict, whole_verdict);
                unseen.push((name.clone(), at));
            }
            found.push((format!("{name} byte {at}"), verdict));
        }
        fs::write(&path, whole).unwrap();
    }
    let theirs = theirs.join().unwrap();
    assert_eq!(found.len(), theirs.len());
    let differ: Vec<String> = found
        .iter()
        .zip(&theirs)
        .filter(|((_, ours), theirs)| ours != *theirs)
        .map(|((place, ours), theirs)| format!("{place}: cogward-verify {ours}, verify.py {theirs}"))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    (unseen, found.len())
}

#[test]
fn every_flipped_byte_of_a_rotated_and_stamped_pack_is_seen_or_is_named() {
    let (unseen, flips) = unseen(&corpus::small_stamped(), 1);
    assert!(flips > 7_500, "{flips}");
    let mut met = [false; WITHOUT_MEANING.len()];
    for (name, at) in unseen {
        let named = WITHOUT_MEANING.iter().position(|(file, _, range)| *file == name && range.contains(&at));
        met[named.unwrap_or_else(|| panic!("{name} byte {at} was not seen"))] = true;
    }
    // What is named is really not seen: the list says no more than it has to.
    for ((file, what, _), met) in WITHOUT_MEANING.iter().zip(met) {
        assert!(met, "{file}: {what} is seen");
    }
}

#[test]
fn flipped_bytes_of_keys_and_signatures_of_both_kinds_are_seen() {
    let (unseen, flips) = unseen(&corpus::small_both(), 17);
    assert!(unseen.is_empty(), "{unseen:?}");
    assert!(flips > 1_500, "{flips}");
}
