//! A plane, its witnesses, and somebody who shows different people different histories.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path};

use cogward_evidence::{Added, CosignError, Evidence, LogName, WitnessBook, WitnessError};
use cogward_ledger::{
    note::{SigningKey, VerifyingKey},
    policy::Policy,
    verify::{self, What, verify_dir},
    witness::{AddCheckpoint, Examined},
};
use cogward_model::{SystemClock, SystemEntropy};
use support::{copy, event, open, tenant};

fn plane_key(evidence: &Evidence) -> VerifyingKey {
    evidence.verifying_keys(&LogName::Plane).unwrap().trim_end().parse().unwrap()
}

fn witness(dir: &Path, name: &str, log: &VerifyingKey) -> WitnessBook {
    WitnessBook::open(dir, Some(name), vec![log.clone()], Box::new(SystemClock), &SystemEntropy).unwrap()
}

fn other_log() -> VerifyingKey {
    SigningKey::from_seed("elsewhere.example/log", &[9; 32]).unwrap().verifying().clone()
}

/// Lets the plane log grow by one, and publishes it.
async fn grow(evidence: &Evidence) -> (u64, String) {
    evidence.record(event("acme", None)).await.unwrap();
    evidence.checkpoint(&tenant("acme")).await.unwrap();
    let plane = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, plane.size).await;
    (plane.size, plane.note)
}

async fn ask(evidence: &Evidence, book: &WitnessBook, old: u64, (size, note): &(u64, String)) -> Added {
    let proof = evidence.plane_consistency(old, *size).await.unwrap();
    book.add(&AddCheckpoint { old, proof, note: note.clone() }.to_text()).unwrap()
}

fn lines(added: Added) -> String {
    match added {
        Added::Cosigned(lines) => lines,
        refused => panic!("{refused:?}"),
    }
}

#[tokio::test]
async fn a_quorum_of_witnesses_is_in_the_pack_and_less_is_said_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let log = plane_key(&evidence);
    let books = ["a", "b", "c"].map(|name| witness(&dir.path().join(name), &format!("{name}.example"), &log));
    let policy = Policy::of(books.iter().map(|book| (book.keys()[0].clone(), None)).collect(), 2).unwrap();
    evidence.witnessed_by(policy.clone()).unwrap();
    let first = grow(&evidence).await;
    assert!(evidence.witness_status().needs_witnesses);
    // One of two that are needed.
    let note = first.1.clone() + &lines(ask(&evidence, &books[0], 0, &first).await);
    let cosigned = evidence.cosign(&note).await.unwrap();
    assert!(!cosigned.judged.quorum && cosigned.judged.by.len() == 1);
    assert!(evidence.witness_status().quorum.is_none());
    // The pack is there all the same.
    evidence.export(&tenant("acme"), &dir.path().join("below")).await.unwrap();
    assert!(verify_dir(&dir.path().join("below"), None).is_ok());
    // The second comes with its own line only; what the first said is not lost.
    let note = first.1.clone() + &lines(ask(&evidence, &books[2], 0, &first).await);
    assert!(evidence.cosign(&note).await.unwrap().judged.quorum);
    assert_eq!(evidence.witness_status().quorum.unwrap().size, first.0);
    evidence.export(&tenant("acme"), &dir.path().join("pack")).await.unwrap();
    assert!(verify_dir(&dir.path().join("pack"), None).is_ok());
    let proof = fs::read_to_string(dir.path().join("pack/plane/checkpoint.tlog-proof")).unwrap();
    assert!(proof.contains("a.example") && proof.contains("c.example") && !proof.contains("b.example"));
    // The auditor has names of witnesses and the plane's key from elsewhere.
    let check = |pack: &str, plane_key: Option<&VerifyingKey>, witnesses: Option<&Policy>| {
        let options = verify::Options { plane_key, witnesses, ..Default::default() };
        verify::verify(&dir.path().join(pack), &options).map_err(|finding| (finding.what, finding.detail))
    };
    let anchored = check("pack", Some(&log), Some(&policy)).unwrap().anchored.unwrap();
    assert!(anchored.key_pinned);
    let seen: Vec<_> = anchored.seen.unwrap().into_iter().map(|seen| seen.by).collect();
    assert_eq!((anchored.cosignatures, seen), (2, vec!["a.example".to_owned(), "c.example".to_owned()]));
    let anchored = check("pack", None, None).unwrap().anchored.unwrap();
    assert_eq!((anchored.key_pinned, anchored.cosignatures, anchored.seen), (false, 2, None));
    let all = Policy::of(books.iter().map(|book| (book.keys()[0].clone(), None)).collect(), 3).unwrap();
    for (pack, wanted, by) in [("pack", &all, "a.example, c.example"), ("below", &policy, "none of them")] {
        let (what, detail) = check(pack, None, Some(wanted)).unwrap_err();
        assert!(what == What::Anchor && detail.ends_with(by), "{detail}");
    }
    // A policy that names another plane log, and one that names this one.
    for (key, there) in [(&log, true), (&other_log(), false)] {
        let named = Policy::parse(&format!("log {}\nquorum none\n", key.ed25519_only())).unwrap();
        assert_eq!(check("pack", None, Some(&named)).map(|_| ()).map_err(|(what, _)| what).is_ok(), there);
    }
    // An anchor that somebody else made: whole in itself, and found by whoever knows the plane's key.
    let forger = open(&dir.path().join("forger"));
    grow(&forger).await;
    forger.export(&tenant("acme"), &dir.path().join("forged")).await.unwrap();
    assert_eq!(check("forged", Some(&log), None).unwrap_err().0, What::Key);
    fs::remove_dir_all(dir.path().join("forged/plane")).unwrap();
    assert!(check("forged", None, None).unwrap().anchored.is_none());
    assert_eq!(check("forged", Some(&log), None).unwrap_err().0, What::Missing);
    assert_eq!(check("forged", None, Some(&policy)).unwrap_err().0, What::Missing);
    // A witness that brings a line in another's name which does not hold takes nothing away from that one.
    let grown = grow(&evidence).await;
    let own = lines(ask(&evidence, &books[0], first.0, &grown).await);
    let theirs = lines(ask(&evidence, &books[1], 0, &grown).await);
    let (name, signature) = theirs.lines().next().unwrap().rsplit_once(' ').unwrap();
    let mut junk = signature.as_bytes().to_vec();
    let last = junk.len() - 8;
    junk[last] = if junk[last] == b'A' { b'B' } else { b'A' };
    let junk = format!("{name} {}\n", String::from_utf8(junk).unwrap());
    assert!(!evidence.cosign(&(grown.1.clone() + &own + &junk)).await.unwrap().judged.quorum);
    assert!(evidence.cosign(&(grown.1.clone() + &theirs)).await.unwrap().judged.quorum);
    let first = grown;
    // Strangers' lines are not kept, nor a line that does not hold.
    let stranger = witness(&dir.path().join("s"), "stranger.example", &log);
    let note = first.1.clone() + &lines(ask(&evidence, &stranger, 0, &first).await);
    assert!(matches!(evidence.cosign(&note).await, Err(CosignError::Unknown(_))));
    let second = grow(&evidence).await;
    let stolen = second.1.clone() + note.rsplit_once("\n\u{2014} stranger").unwrap().0.rsplit_once('\n').unwrap().1;
    assert!(evidence.cosign(&(stolen + "\n")).await.is_err());
    drop(evidence);
    // It is there after a restart.
    let evidence = open(&dir.path().join("evidence"));
    evidence.witnessed_by(policy).unwrap();
    assert_eq!(evidence.witness_status().quorum.unwrap().size, first.0);
}

#[tokio::test]
async fn two_histories_under_one_key_are_found_by_the_witness_and_both_notes_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let honest = dir.path().join("honest");
    let evidence = open(&honest);
    let common = grow(&evidence).await;
    drop(evidence);
    // A copy of everything, the keys too: what one is shown from here on is not what another is shown.
    let other = dir.path().join("other");
    copy(&honest, &other);
    let honest_then = dir.path().join("then");
    copy(&honest, &honest_then);
    let (ours, theirs) = (open(&honest), open(&other));
    let log = plane_key(&ours);
    assert_eq!(log, plane_key(&theirs));
    let book = witness(&dir.path().join("w"), "w.example", &log);
    lines(ask(&ours, &book, 0, &common).await);
    let (seen, hidden) = (grow(&ours).await, grow(&theirs).await);
    assert_eq!((seen.0, seen.0), (hidden.0, common.0 + 1));
    lines(ask(&ours, &book, common.0, &seen).await);
    // The same size, another root.
    let refused = ask(&theirs, &book, common.0, &hidden).await;
    let Added::Refused(Examined::SplitView { ours: kept, theirs: shown }) = refused else { panic!("{refused:?}") };
    assert_eq!((&kept.note, &shown), (&seen.1, &hidden.1));
    let logs = fs::read_dir(dir.path().join("w/logs")).unwrap().next().unwrap().unwrap().path();
    let proof = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path());
    let proof = proof.filter(|path| path.to_str().unwrap().contains("split-view")).collect::<Vec<_>>();
    let text = fs::read_to_string(&proof[0]).unwrap();
    assert!(text.contains(&seen.1) && text.contains(&hidden.1));
    // A longer one of the hidden history fits no better, and a shorter one of the honest is no way back.
    let longer = grow(&theirs).await;
    let proof = theirs.plane_consistency(seen.0, longer.0).await.unwrap();
    let request = AddCheckpoint { old: seen.0, proof, note: longer.1 };
    assert!(matches!(book.add(&request.to_text()).unwrap(), Added::Refused(Examined::Inconsistent)));
    assert!(matches!(ask(&ours, &book, 0, &common).await, Added::Refused(Examined::Conflict { .. })));
    // A plane that never published this size by itself finds the other history all the same.
    let jumped = dir.path().join("jumped");
    copy(&honest_then, &jumped);
    let third = open(&jumped);
    for name in ["acme", "other"] {
        third.record(event(name, None)).await.unwrap();
    }
    for name in ["acme", "other"] {
        third.checkpoint(&tenant(name)).await.unwrap();
    }
    let plane = third.plane_checkpoint().await.unwrap();
    third.until_published(&LogName::Plane, plane.size).await;
    assert_eq!(plane.size, common.0 + 2);
    let foreign = third.cosign(&seen.1).await.unwrap_err();
    assert!(matches!(foreign, CosignError::SplitView { .. }), "{foreign}");
    // The honest plane finds it too when the hidden note is brought to it.
    let cosigner = witness(&dir.path().join("fooled"), "fooled.example", &log);
    ours.witnessed_by(Policy::of(vec![(cosigner.keys()[1].clone(), None)], 1).unwrap()).unwrap();
    let note = hidden.1.clone() + &lines(ask(&theirs, &cosigner, 0, &hidden).await);
    let split = ours.cosign(&note).await.unwrap_err();
    assert!(matches!(&split, CosignError::SplitView { .. }), "{split}");
    assert!(split.to_string().contains(&hidden.1));
}

#[tokio::test]
async fn a_witness_remembers_before_it_signs_and_two_at_once_do_not_roll_back() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let log = plane_key(&evidence);
    let mut states = Vec::new();
    for _ in 0..6 {
        states.push(grow(&evidence).await);
    }
    let path = dir.path().join("w");
    let book = witness(&path, "w.example", &log);
    let mut requests = Vec::new();
    for new in &states {
        requests.push(AddCheckpoint { old: 0, proof: Vec::new(), note: new.1.clone() }.to_text());
    }
    // All at once, all from nothing: one is cosigned, the others hear its size.
    let answers: Vec<Added> = std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|request| scope.spawn(|| book.add(request).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let signed = answers.iter().filter(|answer| matches!(answer, Added::Cosigned(_))).count();
    assert_eq!(signed, 1, "{answers:?}");
    let Examined::Conflict { size } = (match book.add(&requests[0]).unwrap() {
        Added::Refused(refused) => refused,
        // The first was the one that won: it is cosigned again only with what was seen as its old size.
        Added::Cosigned(_) => panic!("it had been seen"),
    }) else {
        panic!("a conflict")
    };
    assert!(states.iter().any(|state| state.0 == size));
    // A second process cannot work on the same memory.
    let again = WitnessBook::open(&path, None, vec![log.clone()], Box::new(SystemClock), &SystemEntropy);
    assert!(matches!(again, Err(WitnessError::Held)));
    let keys = book.keys();
    drop(book);
    let other = WitnessBook::open(&path, Some("x.example"), vec![log.clone()], Box::new(SystemClock), &SystemEntropy);
    assert!(matches!(other, Err(WitnessError::OtherName(_))));
    let book = WitnessBook::open(&path, None, vec![log.clone()], Box::new(SystemClock), &SystemEntropy).unwrap();
    assert_eq!(book.keys(), keys);
    assert!(matches!(book.add(&requests[0]).unwrap(), Added::Refused(Examined::Conflict { size: s }) if s == size));
    // Memory that was damaged is not taken for none.
    drop(book);
    let logs = fs::read_dir(path.join("logs")).unwrap().next().unwrap().unwrap().path();
    fs::write(logs.join("checkpoint"), "gone").unwrap();
    let book = WitnessBook::open(&path, None, vec![log], Box::new(SystemClock), &SystemEntropy).unwrap();
    assert!(matches!(book.add(&requests[5]), Err(WitnessError::Memory { .. })));
}
