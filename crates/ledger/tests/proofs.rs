//! Proof files against whatever somebody may hand in: nothing but the plane's own proof is believed, and nothing panics.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use cogward_ledger::{
    extract::LeafLine,
    leaf::{Place, encode, leaf_hash, mint_id},
    note::SigningKey,
    proof::Tree,
    proof_file::{self, PROOF_FORM, ProofFile, Proven, State},
    text::base64_hash,
    verify::What,
};
use cogward_model::{
    Id, RunId, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::from_seed("cogward.dev/ledger/test/acme", &[3; 32]).unwrap()
}

/// A log of one run, closed at its end.
fn leaves(count: u64) -> (RunId, Vec<Vec<u8>>) {
    let run = Id::new(&SystemClock, &SystemEntropy);
    let (mut leaves, mut prev) = (Vec::new(), None);
    for seq in 0..count {
        let kind = if seq + 1 == count { EventType::RunClosed } else { EventType::ToolCallDecided };
        let event = Event::new(kind, "acme".parse().unwrap(), Attribution::plane()).run(run);
        let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
        let mut leaf = Vec::new();
        let time = "2026-11-22T10:11:12.123456Z";
        body.assemble(&Place { seq, prev, time, run_seq: seq + 1, run_prev: prev }, &mut leaf);
        prev = Some(leaf_hash(&leaf));
        leaves.push(leaf);
    }
    (run, leaves)
}

fn run_proof(run: RunId, leaves: &[Vec<u8>], size: usize) -> String {
    let tree = Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
    let lines = leaves[..size].iter().enumerate();
    let line =
        |(index, leaf): (usize, &Vec<u8>)| LeafLine::new(index as u64, leaf, &tree.inclusion(index, size).unwrap());
    serde_json::to_string(&ProofFile::Run {
        form: PROOF_FORM.to_owned(),
        checkpoint: key().checkpoint(size as u64, &tree.root(size).unwrap()),
        run: run.to_string(),
        leaves: lines.map(line).collect(),
    })
    .unwrap()
}

#[test]
fn a_tlog_proof_has_the_form_of_the_specification() {
    let (_, leaves) = leaves(5);
    let tree = Tree::new(leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
    let note = key().checkpoint(5, &tree.root(5).unwrap());
    let text = proof_file::inclusion(&leaves[2], 2, &tree.inclusion(2, 5).unwrap(), &note);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines[6]), ("c2sp.org/tlog-proof@v1", "index 2", ""));
    assert!(lines[1].starts_with("extra ") && text.ends_with(&format!("\n\n{note}")));
    let verified = proof_file::verify(&text, key().verifying()).unwrap();
    assert!(matches!(verified, Proven::Inclusion { index: 2, size: 5, .. }));
    // The leaf of another place, a number written otherwise, another log's key.
    let other = proof_file::inclusion(&leaves[3], 2, &tree.inclusion(2, 5).unwrap(), &note);
    assert_eq!(proof_file::verify(&other, key().verifying()).unwrap_err().what, What::Bytes);
    let moved = proof_file::inclusion(&leaves[3], 3, &tree.inclusion(2, 5).unwrap(), &note);
    assert_eq!(proof_file::verify(&moved, key().verifying()).unwrap_err().what, What::Bytes);
    assert!(proof_file::verify(&text.replace("index 2", "index 02"), key().verifying()).is_err());
    let stranger = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap();
    assert_eq!(proof_file::verify(&text, stranger.verifying()).unwrap_err().what, What::Signature);
    let elsewhere = SigningKey::from_seed("cogward.dev/ledger/test/other", &[3; 32]).unwrap();
    assert_eq!(proof_file::verify(&text, elsewhere.verifying()).unwrap_err().what, What::Signature);
    // The leaf of one tenant in a log that bears the name of another one.
    let note = elsewhere.checkpoint(5, &tree.root(5).unwrap());
    let text = proof_file::inclusion(&leaves[2], 2, &tree.inclusion(2, 5).unwrap(), &note);
    assert_eq!(proof_file::verify(&text, elsewhere.verifying()).unwrap_err().what, What::Tenant);
}

#[test]
fn a_run_without_its_end_is_told_to_be_open_and_one_with_a_gap_is_none() {
    let (run, leaves) = leaves(7);
    for size in 1..=7 {
        let Proven::Run { extracted, .. } =
            proof_file::verify(&run_proof(run, &leaves, size), key().verifying()).unwrap()
        else {
            panic!()
        };
        assert_eq!((extracted.leaves, extracted.complete), (size as u64, size == 7));
    }
    let whole: serde_json::Value = serde_json::from_str(&run_proof(run, &leaves, 7)).unwrap();
    for gone in 0..6 {
        let mut less = whole.clone();
        less["leaves"].as_array_mut().unwrap().remove(gone);
        assert_eq!(
            proof_file::verify(&less.to_string(), key().verifying()).unwrap_err().what,
            What::RunChain,
            "{gone}"
        );
    }
    let mut empty = whole.clone();
    empty["leaves"] = serde_json::json!([]);
    assert_eq!(proof_file::verify(&empty.to_string(), key().verifying()).unwrap_err().what, What::Scope);
    let mut other = whole.clone();
    other["run"] = "run_01K00000000000000000000000".into();
    assert_eq!(proof_file::verify(&other.to_string(), key().verifying()).unwrap_err().what, What::Scope);
    let mut more = whole;
    more["surprise"] = 1.into();
    assert_eq!(proof_file::verify(&more.to_string(), key().verifying()).unwrap_err().what, What::Form);
}

#[test]
fn a_state_that_is_no_beginning_of_the_other_is_refused() {
    let (_, leaves) = leaves(9);
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let tree = Tree::new(hashes.clone());
    let mut rewritten = hashes;
    rewritten[1] = [7; 32];
    let rewritten = Tree::new(rewritten);
    let file = |old_tree: &Tree, old: usize, new: usize| {
        let texts = |proof: Vec<_>| proof.iter().map(base64_hash).collect();
        let state =
            |tree: &Tree, size: usize| State { size: size as u64, root: base64_hash(&tree.root(size).unwrap()) };
        serde_json::to_string(&ProofFile::Consistency {
            form: PROOF_FORM.to_owned(),
            checkpoint: key().checkpoint(9, &tree.root(9).unwrap()),
            old: state(old_tree, old),
            new: state(&tree, new),
            proof: texts(tree.consistency(old, new).unwrap()),
            to_checkpoint: texts(tree.consistency(new, 9).unwrap()),
        })
        .unwrap()
    };
    for old in 1..=9 {
        for new in old..=9 {
            assert!(proof_file::verify(&file(&tree, old, new), key().verifying()).is_ok(), "{old} {new}");
            let other = proof_file::verify(&file(&rewritten, old, new), key().verifying());
            assert_eq!(other.is_err(), old > 1, "{old} {new}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_and_none_panics(text in ".{0,400}", head in 0_usize..3) {
        let heads = ["", "c2sp.org/tlog-proof@v1\nextra ", "{\"kind\":\"run\",\"form\":\"cogward.dev/proof@v1\","];
        let verified = proof_file::verify(&[heads[head], &text].concat(), key().verifying());
        prop_assert!(verified.is_err());
    }

    #[test]
    fn a_proof_with_anything_put_in_is_refused(at in 0_usize..2_000, insert in "[ -~\n]{1,6}", size in 1_usize..6) {
        let (run, leaves) = leaves(6);
        let text = run_proof(run, &leaves, size);
        let at = at % text.len();
        prop_assume!(text.is_char_boundary(at));
        let changed = format!("{}{insert}{}", &text[..at], &text[at..]);
        // White space between the parts of JSON says nothing.
        let same = serde_json::from_str::<serde_json::Value>(&changed).is_ok_and(|value| {
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|whole| whole == value)
        });
        prop_assert!(same || proof_file::verify(&changed, key().verifying()).is_err());
    }
}
