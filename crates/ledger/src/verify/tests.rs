//! Attacks on an exported log: each must be seen, and the right leaf named.

use std::{fs, path::PathBuf};

use cogward_model::{
    RunId, SystemClock, SystemEntropy, Timestamp,
    event::{Attribution, Event, EventType},
};

use super::*;
use crate::{
    leaf::{Place, encode, leaf_hash, mint_id},
    note::SigningKey,
    tiles::{EntryBundles, HashTiles, TileSink},
    tree::Frontier,
};

struct ToFiles(PathBuf);

impl TileSink for ToFiles {
    type Error = io::Error;
    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, bytes)
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed("cogward.dev/ledger/test/acme", &[3; 32]).unwrap()
}

/// Leaves of two runs and of none, in turn.
fn leaves(count: u64) -> Vec<Vec<u8>> {
    let runs: [RunId; 2] = [RunId::new(&SystemClock, &SystemEntropy), RunId::new(&SystemClock, &SystemEntropy)];
    let mut chains = [(0, None), (0, None)];
    let mut prev = None;
    (0..count)
        .map(|seq| {
            let by = Attribution::operator("anna");
            let mut event =
                Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by).public("policy_generation", seq);
            let which = usize::try_from(seq % 3).unwrap();
            if let Some(run) = runs.get(which) {
                event = event.run(*run);
            }
            let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
            let (run_seq, run_prev) = chains.get(which).copied().unwrap_or_default();
            let time = &Timestamp::from_unix_micros(seq).to_string();
            let mut leaf = Vec::new();
            body.assemble(&Place { seq, prev, time, run_seq: run_seq + 1, run_prev }, &mut leaf);
            prev = Some(leaf_hash(&leaf));
            if let Some(chain) = chains.get_mut(which) {
                *chain = (run_seq + 1, prev);
            }
            leaf
        })
        .collect()
}

fn write(dir: &Path, leaves: &[Vec<u8>]) {
    let mut sink = ToFiles(dir.to_path_buf());
    let (mut tiles, mut bundles, mut tree) = (HashTiles::default(), EntryBundles::default(), Frontier::default());
    for leaf in leaves {
        let hash = leaf_hash(leaf);
        tree.push(hash);
        tiles.push(hash, &mut sink).unwrap();
        bundles.push(leaf, &mut sink).unwrap();
    }
    tiles.finish(&mut sink).unwrap();
    bundles.finish(&mut sink).unwrap();
    fs::write(dir.join(CHECKPOINT_FILE), key().checkpoint(tree.size(), &tree.root())).unwrap();
    fs::write(dir.join(KEY_FILE), format!("{}\n", key().verifying())).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn whole_logs_of_many_sizes_hold() {
    for size in [0, 1, 2, 255, 256, 257, 600] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &leaves(size));
        let verified = verify_dir(dir.path(), Some(key().verifying())).unwrap();
        assert_eq!(verified.leaves, size);
    }
}

#[test]
fn every_flipped_byte_is_found_and_a_leafs_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let leaves = leaves(16);
    write(dir.path(), &leaves);
    let mut flips = 0;
    for file in files(dir.path()) {
        let whole = fs::read(&file).unwrap();
        let entries = file.to_str().unwrap().contains("entries");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&file, &damaged).unwrap();
            let finding = verify_dir(dir.path(), None).unwrap_err();
            if entries {
                let mut end = 0;
                let hit = leaves.iter().position(|leaf| {
                    end += 2 + leaf.len();
                    at < end
                });
                assert_eq!(finding.leaf, hit.map(|n| n as u64), "{} byte {at}: {finding}", file.display());
            }
            flips += 1;
        }
        fs::write(&file, &whole).unwrap();
    }
    assert!(flips > 5_000);
    verify_dir(dir.path(), None).unwrap();
}

/// The holder of the key rewrites the log: tiles, root and signature fit, the leaves do not.
fn signed_anew(edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Finding {
    let dir = tempfile::tempdir().unwrap();
    let mut leaves = leaves(30);
    edit(&mut leaves);
    write(dir.path(), &leaves);
    verify_dir(dir.path(), None).unwrap_err()
}

#[test]
fn a_leaf_dropped_swapped_doubled_or_changed_is_named_even_when_all_is_signed_anew() {
    let named = |finding: Finding| (finding.leaf, finding.what);
    assert_eq!(named(signed_anew(|l| drop(l.remove(7)))), (Some(7), What::Seq));
    assert_eq!(named(signed_anew(|l| l.swap(4, 5))), (Some(4), What::Seq));
    assert_eq!(named(signed_anew(|l| l.insert(9, l[8].clone()))), (Some(9), What::Seq));
    let replace = |l: &mut Vec<Vec<u8>>, at: usize, from: &str, to: &str| {
        let text = String::from_utf8(l[at].clone()).unwrap();
        assert!(text.contains(from), "{text}");
        l[at] = text.replace(from, to).into_bytes();
    };
    assert_eq!(
        named(signed_anew(|l| replace(l, 6, "\"policy_generation\":6", "\"policy_generation\":7"))),
        (Some(7), What::Prev)
    );
    assert_eq!(named(signed_anew(|l| replace(l, 6, "000006Z", "000005Z"))), (Some(7), What::Prev));
    assert_eq!(named(signed_anew(|l| replace(l, 29, "000029Z", "000027Z"))), (Some(29), What::Time));
    assert_eq!(named(signed_anew(|l| replace(l, 29, "acme", "evil"))), (Some(29), What::Tenant));
    assert_eq!(named(signed_anew(|l| replace(l, 28, "\"run_seq\":10", "\"run_seq\":11"))), (Some(28), What::RunChain));
    assert_eq!(named(signed_anew(|l| replace(l, 28, "\"v\":1", "\"v\":2"))), (Some(28), What::Form));
}

#[test]
fn a_duplicate_key_is_not_read_as_either() {
    let finding = signed_anew(|l| {
        let text = String::from_utf8(l[29].clone()).unwrap();
        l[29] = text.replace("\"v\":1", "\"tenant\":\"acme\",\"v\":1").into_bytes();
    });
    assert_eq!((finding.leaf, finding.what), (Some(29), What::Form));
}

#[test]
fn a_tail_cut_off_is_found_by_the_checkpoint_and_by_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let all = leaves(20);
    write(dir.path(), &all);
    let checkpoint = fs::read(dir.path().join(CHECKPOINT_FILE)).unwrap();
    let cut = tempfile::tempdir().unwrap();
    write(cut.path(), &all[..15]);
    // With its own, shorter checkpoint it is a whole log: no log can show what was never said outside.
    verify_dir(cut.path(), None).unwrap();
    fs::write(cut.path().join(CHECKPOINT_FILE), checkpoint).unwrap();
    assert_eq!(verify_dir(cut.path(), None).unwrap_err().what, What::Missing);
}

#[test]
fn what_is_not_a_file_is_missing_and_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &leaves(3));
    for name in [KEY_FILE, CHECKPOINT_FILE, "tile/entries/000.p/3", "tile/0/000.p/3"] {
        let path = dir.path().join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let finding = verify_dir(dir.path(), None).unwrap_err();
        assert_eq!((finding.what, finding.detail), (What::Missing, format!("{name} is not a file")));
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    verify_dir(dir.path(), None).unwrap();
}

#[test]
fn another_key_is_refused_when_the_reader_gives_one() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &leaves(3));
    let other = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap();
    assert_eq!(verify_dir(dir.path(), Some(other.verifying())).unwrap_err().what, What::Signature);
}

fn against(dir: &Path, note: &str) -> Result<Option<u64>, What> {
    let options = Options { against: Some(note), ..Options::default() };
    verify(dir, &options).map(|log| log.against).map_err(|finding| finding.what)
}

fn note_over(leaves: &[Vec<u8>]) -> String {
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf)));
    key().checkpoint(tree.size(), &tree.root())
}

#[test]
fn a_log_contains_every_checkpoint_of_its_own_past_and_none_of_another() {
    let all = leaves(520);
    let mut rewritten = all.clone();
    // The key's holder changed the one before last and signed everything anew: only its own leaves change behind it.
    let text =
        String::from_utf8(rewritten[2].clone()).unwrap().replace("\"policy_generation\":2", "\"policy_generation\":3");
    rewritten[2] = text.into_bytes();
    for now in [1, 3, 255, 256, 257, 512, 513, 520] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &all[..now]);
        for older in [0, 1, 2, 3, 128, 255, 256, 257, 300, 511, 512, 513, 520] {
            let expected = if older <= now { Ok(Some(older as u64)) } else { Err(What::Against) };
            assert_eq!(against(dir.path(), &note_over(&all[..older])), expected, "{older} in {now}");
            let expected = if older <= now && older < 3 { Ok(Some(older as u64)) } else { Err(What::Against) };
            assert_eq!(against(dir.path(), &note_over(&rewritten[..older])), expected, "rewritten {older} in {now}");
        }
        for wrong in [key().checkpoint(1, &[9; 32]), "nonsense".to_owned(), String::new()] {
            assert_eq!(against(dir.path(), &wrong), Err(What::Against));
        }
        let thief = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap();
        assert_eq!(against(dir.path(), &thief.checkpoint(0, &crate::tree::empty_root())), Err(What::Against));
    }
}

#[test]
fn two_notes_that_contradict_each_other_are_told_apart_from_two_that_show_nothing() {
    let (key, other) = (key(), SigningKey::from_seed("cogward.dev/ledger/test/acme", &[4; 32]).unwrap());
    let now = key.checkpoint(5, &[1; 32]);
    let says = |older: &str| contradiction(older, &now, &crate::key_chain::KeyChain::new(key.verifying().clone()));
    assert_eq!(says(&key.checkpoint(6, &[1; 32])), Some(Contradiction::Shorter));
    assert_eq!(says(&key.checkpoint(5, &[2; 32])), Some(Contradiction::Rewritten));
    assert_eq!(says(&other.checkpoint(5, &[2; 32])), None);
}

/// Three bundles, and everything that is wrong at the seams between them.
#[test]
fn the_verdict_does_not_depend_on_the_threads() {
    let all = leaves(600);
    let replace = |at: usize, from: &str, to: &str| {
        let mut edited = all.clone();
        let text = String::from_utf8(edited[at].clone()).unwrap();
        assert!(text.contains(from), "{text}");
        edited[at] = text.replacen(from, to, 1).into_bytes();
        edited
    };
    let mut logs = vec![(all.clone(), None)];
    for at in [255_usize, 256, 257, 511, 512, 599] {
        let next = (at < 599).then_some((at as u64 + 1, What::Prev));
        logs.push((replace(at, &format!("\"policy_generation\":{at}"), "\"policy_generation\":7"), next));
        logs.push((replace(at, "acme", "evil"), Some((at as u64, What::Tenant))));
        logs.push((replace(at, &format!("{at:06}Z"), "000001Z"), Some((at as u64, What::Time))));
        logs.push((replace(at, "1970-", "197x-"), Some((at as u64, What::Time))));
        logs.push((replace(at, &format!("\"seq\":{at}"), "\"seq\":1"), Some((at as u64, What::Seq))));
        logs.push((replace(at, "\"v\":1", "\"v\":2"), Some((at as u64, What::Form))));
        logs.push((replace(at, "\"prev\":\"", "\"prev\":\"A"), Some((at as u64, What::Prev))));
        if at % 3 < 2 {
            logs.push((replace(at, "\"run_seq\":", "\"run_seq\":1"), Some((at as u64, What::RunChain))));
            logs.push((replace(at, "\"run_prev\":\"", "\"run_prev\":\"A"), Some((at as u64, What::RunChain))));
        } else {
            let edited = replace(at, "\"sub\"", "\"run_seq\":1,\"sub\"");
            logs.push((edited, Some((at as u64, What::RunChain))));
        }
    }
    // Two things at once: the earlier leaf is named, and in one leaf the rule that comes first.
    let mut two = replace(512, "\"prev\":\"", "\"prev\":\"A");
    two[514] = b"{}".to_vec();
    logs.push((two, Some((512, What::Prev))));
    let mut two = replace(515, "\"v\":1", "\"v\":2");
    two[256] = String::from_utf8(two[256].clone()).unwrap().replace("acme", "evil").into_bytes();
    logs.push((two, Some((256, What::Tenant))));
    for (leaves, expected) in logs {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &leaves);
        for threads in [1, 2, 3, 64] {
            let found = verify(dir.path(), &Options { threads, ..Options::default() });
            let found = found.map(|log| log.leaves).map_err(|finding| (finding.leaf, finding.what));
            assert_eq!(found, expected.map_or(Ok(600), |(leaf, what)| Err((Some(leaf), what))), "{threads} threads");
        }
    }
}

#[test]
fn more_runs_than_fit_into_memory_are_followed_in_more_walks() {
    let (mut prev, mut ends, mut all) = (None, vec![(0, None); 40], Vec::new());
    let runs: Vec<RunId> = (0..40).map(|_| RunId::new(&SystemClock, &SystemEntropy)).collect();
    for seq in 0..400 {
        let which = seq * 7 % 40;
        let kind = if seq >= 360 && which < 25 { EventType::RunClosed } else { EventType::ToolCallDecided };
        let event = Event::new(kind, "acme".parse().unwrap(), Attribution::plane()).run(runs[which]);
        let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
        let (run_seq, run_prev): (u64, Option<crate::Hash>) = ends[which];
        let time = &Timestamp::from_unix_micros(seq as u64).to_string();
        let mut leaf = Vec::new();
        body.assemble(&Place { seq: seq as u64, prev, time, run_seq: run_seq + 1, run_prev }, &mut leaf);
        prev = Some(leaf_hash(&leaf));
        ends[which] = (run_seq + 1, prev);
        all.push(leaf);
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &all);
    for runs_max in [1, 3, 10, 39, 40, 0] {
        let log = verify(dir.path(), &Options { runs_max, ..Options::default() }).unwrap();
        assert_eq!((log.runs, log.closed_runs), (40, 25), "{runs_max}");
    }
    // The last leaf of each run says something else of its place: found in whichever walk follows the run.
    for at in 360..400 {
        let mut edited = all.clone();
        edited[at] = String::from_utf8(edited[at].clone()).unwrap().replace("\"run_seq\":10", "\"run_seq\":11").into();
        edited.truncate(at + 1);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &edited);
        let finding = verify(dir.path(), &Options { runs_max: 3, ..Options::default() }).unwrap_err();
        assert_eq!((finding.leaf, finding.what), (Some(at as u64), What::RunChain));
    }
}
