//! What is read of packs and archives, with bytes changed, taken out, put in, and whole lines moved: nothing panics, and
//! nothing is taken for something else than what was signed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod corpus;

use std::{collections::BTreeMap, sync::LazyLock};

use cogward_ledger::{
    archive::{ManifestKeys, Name, sha256},
    key_chain::{Entry, KeyChain, Statement},
    note::{Checkpoint, Note},
    plane::{Anchor, PlaneLeaf},
    timestamp::Timestamped,
};
use corpus::archives::{InMemory, manifest_of, sign_line, small, verdict};
use proptest::{prelude::*, sample::Index};

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Change {
    Put(Index, u8),
    Replace(Index, u8),
    Remove(Index),
    /// A line comes to stand in another's place, or twice.
    Line(Index, Index, bool),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Put(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), any::<Index>(), any::<bool>()).prop_map(|(from, to, twice)| Change::Line(from, to, twice)),
    ];
    prop::collection::vec(change, 1..6)
}

fn changed(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Put(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Change::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Change::Line(from, to, twice) => {
                let mut lines: Vec<Vec<u8>> =
                    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let from = from.index(lines.len());
                let line = if *twice { lines[from].clone() } else { lines.remove(from) };
                lines.insert(to.index(lines.len() + 1), line);
                bytes = lines.concat();
            }
        }
    }
    bytes
}

static PACK: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(corpus::small_stamped);
static ARCHIVE: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(small);

fn statements() -> Vec<Entry> {
    let text = std::str::from_utf8(&PACK["keys.jsonl"]).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_changed_statement_is_refused_or_says_the_same(changes in changes()) {
        let [rotation, revocation] = [0, 1].map(|n| statements()[n].clone());
        let text = |note: &str| Note::parse(note).unwrap().text.to_owned();
        let good = changed(rotation.statement.as_bytes(), &changes);
        if let Ok(note) = String::from_utf8(good) {
            let _read = Statement::from_text(&note);
            if let Ok(mut chain) = KeyChain::starting_at(&note)
                && chain.push(Some(rotation.leaf), &note).is_ok()
            {
                prop_assert_eq!(text(&note), text(&rotation.statement));
            }
        }
        let mut chain = KeyChain::starting_at(&rotation.statement).unwrap();
        chain.push(Some(rotation.leaf), &rotation.statement).unwrap();
        if let Ok(note) = String::from_utf8(changed(revocation.statement.as_bytes(), &changes))
            && chain.push(Some(revocation.leaf), &note).is_ok()
            && note != rotation.statement
        {
            prop_assert_eq!(text(&note), text(&revocation.statement));
        }
    }

    #[test]
    fn a_statement_has_one_text(text in "[ -~\n]{0,200}") {
        for form in ["", "cogward.dev/key-rotation@v1\n", "cogward.dev/key-revocation@v1\nlog a\ngeneration 1\n"] {
            let text = format!("{form}{text}");
            if let Ok(statement) = Statement::from_text(&text) {
                prop_assert_eq!(statement.text(), text);
            }
        }
    }

    #[test]
    fn a_changed_checkpoint_is_refused_or_says_the_same(changes in changes()) {
        let key = corpus::key(32);
        let good = std::str::from_utf8(&PACK["checkpoint"]).unwrap();
        let said = Checkpoint::open(good, key.verifying()).unwrap();
        if let Ok(note) = String::from_utf8(changed(good.as_bytes(), &changes))
            && let Ok(read) = Checkpoint::open(&note, key.verifying())
        {
            prop_assert_eq!(read, said);
        }
    }

    #[test]
    fn a_changed_anchor_is_refused_or_shows_the_same(changes in changes(), which in 0_usize..3) {
        let names = ["plane/leaf.json", "plane/disclosure", "plane/checkpoint.tlog-proof"];
        let mut parts = names.map(|name| PACK[name].clone());
        let good = PlaneLeaf::from_bytes(&parts[0]).unwrap();
        parts[which] = changed(&parts[which], &changes);
        let [leaf, disclosure, proof] = parts;
        let plane = std::str::from_utf8(&PACK["plane/log.vkey"]).unwrap().trim_end().parse().unwrap();
        if let (Ok(disclosure), Ok(proof)) = (String::from_utf8(disclosure), String::from_utf8(proof))
            && let Ok(anchor) = Anchor::from_parts(leaf, disclosure, &proof)
            && let Ok((read, _)) = anchor.verify_earlier(corpus::ORIGIN, &plane)
        {
            prop_assert_eq!(read, good);
        }
    }

    /// Whose digest it gives stands in it; that it is the right one is asked by who has the data.
    #[test]
    fn a_changed_time_stamp_is_refused_or_gives_a_digest_that_is_in_it(changes in changes()) {
        let bytes = changed(&PACK["plane/timestamp/checkpoint.tsr"], &changes);
        if let Ok(read) = Timestamped::read(&bytes) {
            prop_assert!(bytes.windows(32).any(|part| part == read.imprint));
        }
    }

    #[test]
    fn a_changed_manifest_is_refused_or_says_the_same(changes in changes()) {
        let good = &ARCHIVE[&manifest_of(&ARCHIVE, 0)];
        let said = ManifestKeys::default().open(good).unwrap();
        if let Ok(read) = ManifestKeys::default().open(&changed(good, &changes)) {
            prop_assert_eq!(read, said);
        }
    }

    /// Its key signs whatever it is: then it is found in the segment, or says the same in other words.
    #[test]
    fn a_changed_manifest_that_is_signed_is_no_other_archive(changes in changes()) {
        let name = manifest_of(&ARCHIVE, 1);
        let text = std::str::from_utf8(&ARCHIVE[&name]).unwrap();
        let line = &text[text.find("\n{").unwrap() + 1..];
        let Ok(line) = String::from_utf8(changed(line.as_bytes(), &changes)) else { return Ok(()) };
        let bytes = sign_line(1, &line);
        let mut objects = ARCHIVE.clone();
        // The newest one: what follows would not name it.
        objects.remove(&manifest_of(&ARCHIVE, 2));
        objects.remove(&name);
        objects.insert(Name::Manifest { number: 1, digest: sha256(&bytes) }.to_string(), bytes.clone());
        if let Ok(found) = verdict(&InMemory(&objects), None, None) {
            prop_assert_eq!((found.segments, found.leaves), (2, 8));
        }
    }

    #[test]
    fn no_name_is_read_as_another(name in "(manifests|segments|.{0,9})/[0-9a-f]{15,17}-[0-9a-f]{63,65}\\.(manifest|seg|.{0,4})") {
        if let Some(parsed) = Name::parse(&name) {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }
}
