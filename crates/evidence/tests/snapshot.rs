//! A start from a snapshot: as good as a start that reads everything, and no way to hide anything.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cogward_evidence::{Evidence, EvidenceOptions, Health, LogName, OpenError, Seen, SeenLogs};
use cogward_model::{RunId, event::EventType};
use support::{copy, event, new_run, options, tenant, verified};

/// A snapshot after every batch of a few leaves.
fn often(dir: &Path) -> EvidenceOptions {
    EvidenceOptions { snapshot_bytes: 512, ..options(dir) }
}

fn open(dir: &Path) -> Evidence {
    Evidence::open(often(dir)).unwrap()
}

/// Three tenants, open and closed runs, over several segments.
async fn some(dir: &Path, runs: &[RunId; 3], rounds: usize) -> Evidence {
    let evidence = open(dir);
    for n in 0..rounds {
        for (which, name) in ["acme", "beta", "gamma"].into_iter().enumerate() {
            let mut one = event(name, Some(runs[which]));
            if n + 1 == rounds && which == 0 {
                one.kind = EventType::RunClosed;
            }
            evidence.record(one).await.unwrap();
            evidence.record(event(name, None)).await.unwrap();
        }
    }
    evidence
}

fn segment(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("wal/{n:016x}.seg"))
}

#[tokio::test]
async fn a_ledger_goes_on_from_a_snapshot_as_if_all_had_been_read() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [new_run(), new_run(), new_run()];
    for round in 1..=4_u64 {
        let evidence = some(dir.path(), &runs, 20).await;
        // Every chain holds over the starts: those of the logs and those of the runs, closed ones too.
        for (name, run) in ["acme", "beta", "gamma"].into_iter().zip(runs) {
            let log = verified(&evidence, name).await;
            assert_eq!((log.leaves, log.runs), (round * 40, 1));
            let leaves = evidence.run_leaves(&tenant(name), run, 0, 1_000).await.unwrap();
            assert_eq!(leaves.len() as u64, round * 20);
        }
        drop(evidence);
        assert!(dir.path().join("snapshot").exists());
        let without = tempfile::tempdir().unwrap();
        copy(dir.path(), without.path());
        fs::remove_file(without.path().join("snapshot")).unwrap();
        assert_eq!(verified(&Evidence::open(options(without.path())).unwrap(), "acme").await.leaves, round * 40);
    }
}

/// That the log before a snapshot is really not read at the start: it is not there, and nobody notices at once.
#[tokio::test]
async fn what_is_before_the_snapshot_is_read_in_the_background_and_damage_there_stops_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    drop(some(dir.path(), &[new_run(), new_run(), new_run()], 60).await);
    let whole = fs::read(segment(dir.path(), 0)).unwrap();
    let mut damaged = whole.clone();
    damaged[2_000] ^= 1;
    fs::write(segment(dir.path(), 0), &damaged).unwrap();
    let evidence = open(dir.path());
    let mut health = evidence.health();
    let failed = health.wait_for(|health| matches!(health, Health::Failed { .. }));
    let failed = tokio::time::timeout(Duration::from_secs(60), failed).await.unwrap().unwrap().clone();
    assert!(matches!(&failed, Health::Failed { why } if why.contains("damaged in segment 0")), "{failed:?}");
    assert!(evidence.record(event("acme", None)).await.is_err());
    drop(evidence);
    // Whoever wants all of it read at the start takes the snapshot away.
    fs::remove_file(dir.path().join("snapshot")).unwrap();
    assert!(Evidence::open(often(dir.path())).is_err());
    fs::write(segment(dir.path(), 0), whole).unwrap();
    assert!(Evidence::open(often(dir.path())).is_ok());
}

/// What the state of the plane saw holds a start from a snapshot as well: its size at once, its root once that part was read.
#[tokio::test]
async fn a_log_that_somebody_else_saw_longer_or_otherwise_is_refused_from_a_snapshot_too() {
    let dir = tempfile::tempdir().unwrap();
    let early = some(dir.path(), &[new_run(), new_run(), new_run()], 4).await;
    early.sign_all().await.unwrap();
    early.checkpoint(&tenant("acme")).await.unwrap();
    let state = |evidence: &Evidence| {
        let all = evidence.signed_states();
        all.into_iter().find(|(log, _)| *log == LogName::Tenant(tenant("acme"))).unwrap().1
    };
    let then = state(&early);
    assert_eq!((then.size, then.signed.as_ref().map(|(size, _)| *size)), (8, Some(8)));
    drop(early);
    drop(some(dir.path(), &[new_run(), new_run(), new_run()], 60).await);
    assert!(dir.path().join("snapshot").exists());
    let opened = |seen: &Seen| {
        let mut all = SeenLogs::default();
        all.insert(LogName::Tenant(tenant("acme")), seen.clone());
        Evidence::open(EvidenceOptions { seen: all, ..often(dir.path()) })
    };
    let longer = opened(&Seen { size: 1_000, signed: None });
    assert!(matches!(longer, Err(OpenError::Lost { leaves: 128, seen: 1_000, .. })), "{longer:?}");
    drop(opened(&then).unwrap());

    let forged = Seen { signed: Some((8, "AAAA".to_owned())), ..then };
    let evidence = opened(&forged).unwrap();
    let mut health = evidence.health();
    let failed = health.wait_for(|health| matches!(health, Health::Failed { .. }));
    let failed = tokio::time::timeout(Duration::from_secs(60), failed).await.unwrap().unwrap().clone();
    assert!(matches!(&failed, Health::Failed { why } if why.contains("is not the one whose 8 leaves")), "{failed:?}");
    drop(evidence);
    fs::remove_file(dir.path().join("snapshot")).unwrap();
    assert!(matches!(opened(&forged), Err(OpenError::Replaced { size: 8, .. })));
}

#[tokio::test]
async fn a_damaged_snapshot_or_one_of_another_plane_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    drop(some(dir.path(), &[new_run(), new_run(), new_run()], 10).await);
    let other = tempfile::tempdir().unwrap();
    drop(some(other.path(), &[new_run(), new_run(), new_run()], 10).await);
    let (file, good) = (dir.path().join("snapshot"), fs::read(dir.path().join("snapshot")).unwrap());
    // With the first segment damaged a start that believes the snapshot works, and one that reads everything does not.
    let mut damaged = fs::read(segment(dir.path(), 0)).unwrap();
    damaged[700] ^= 1;
    fs::write(segment(dir.path(), 0), damaged).unwrap();
    assert!(Evidence::open(often(dir.path())).is_ok());
    let believed = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Evidence::open(EvidenceOptions { snapshot_bytes: u64::MAX, ..options(dir.path()) }).is_ok()
    };
    assert!(believed(&good));
    for at in (0..good.len()).step_by(97).chain([0, 31, 32, good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(!believed(&bad), "byte {at}");
    }
    for cut in [0, 1, 31, 32, 33, good.len() - 1] {
        assert!(!believed(&good[..cut]), "{cut}");
    }
    assert!(!believed(&fs::read(other.path().join("snapshot")).unwrap()), "of another plane");
    assert!(believed(&good));
}

/// Copies what a plane is writing to: a file that is not there any more was on its way to another name.
fn copy_living(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let dest = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_living(&path, &dest),
            false => match fs::copy(&path, &dest) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            },
        }
    }
}

/// A snapshot in place of one that a start would have believed must be one, too, whenever the plane is killed: where
/// segments were released, there is no other way to start without the archive. That every log is signed as far takes a
/// flush for each of them, and a snapshot takes one.
#[tokio::test]
async fn a_snapshot_is_never_ahead_of_what_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (evidence, file) = (open(dir.path()), dir.path().join("snapshot"));
    let mut seen = Vec::new();
    // What is damaged below is not the last leaf of its log: those are looked at.
    for _ in 0..20 {
        evidence.record(event("filler", None)).await.unwrap();
    }
    for round in 0..3 {
        for n in 0..150 {
            evidence.record(event(&format!("bank-{n}"), None)).await.unwrap();
        }
        let until = std::time::Instant::now() + Duration::from_secs(60);
        let new = loop {
            match fs::read(&file) {
                Ok(bytes) if bytes != seen => break bytes,
                _ => assert!(std::time::Instant::now() < until, "no snapshot after round {round}"),
            }
            std::thread::yield_now();
        };
        // What a plane that is killed now leaves behind: the log last, it is never behind what is signed.
        let killed = tempfile::tempdir().unwrap();
        copy_living(dir.path(), killed.path());
        copy_living(&dir.path().join("wal"), &killed.path().join("wal"));
        fs::write(killed.path().join("snapshot"), &new).unwrap();
        let mut damaged = fs::read(segment(killed.path(), 0)).unwrap();
        damaged[6_000] ^= 1;
        fs::write(segment(killed.path(), 0), damaged).unwrap();
        let opened = Evidence::open(EvidenceOptions { snapshot_bytes: u64::MAX, ..options(killed.path()) });
        assert!(opened.is_ok(), "round {round}: {:?}", opened.err());
        seen = new;
    }
}

/// The key that marks snapshots is in the plane's directory: whoever has the whole directory can make any snapshot.
/// A copy of a true one, taken at any time, is the best that they can have, and it hides nothing either.
#[tokio::test]
async fn no_snapshot_hides_a_log_that_was_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [new_run(), new_run(), new_run()];
    drop(some(dir.path(), &runs, 10).await);
    let old = tempfile::tempdir().unwrap();
    copy(dir.path(), old.path());
    drop(some(dir.path(), &runs, 30).await);
    let put_back = |what: &[&str]| {
        let forged = tempfile::tempdir().unwrap();
        copy(dir.path(), forged.path());
        for name in what {
            let _there =
                fs::remove_dir_all(forged.path().join(name)).or_else(|_| fs::remove_file(forged.path().join(name)));
            let from = old.path().join(name);
            if from.is_dir() {
                copy(&from, &forged.path().join(name));
            } else {
                let _bytes = fs::copy(from, forged.path().join(name)).unwrap();
            }
        }
        let opened = Evidence::open(EvidenceOptions { snapshot_bytes: u64::MAX, ..options(forged.path()) });
        (opened, forged)
    };
    // An old snapshot alone: the rest is read from there on.
    let (opened, _dir) = put_back(&["snapshot"]);
    assert_eq!(verified(&opened.unwrap(), "acme").await.leaves, 80);
    // An old log under the new snapshot, or under the old one: the checkpoints say how long it was.
    for what in [&["wal"][..], &["wal", "snapshot"]] {
        let refused = put_back(what).0.unwrap_err();
        assert!(matches!(refused, OpenError::Rollback { leaves: 20, signed: 80, .. }), "{what:?}: {refused}");
    }
    // An old checkpoint under a new snapshot: it is not signed so far, so all is read, and all is there.
    let (opened, _dir) = put_back(&["tenants"]);
    assert_eq!(verified(&opened.unwrap(), "acme").await.leaves, 80);
    // No log at all.
    let gone = tempfile::tempdir().unwrap();
    copy(dir.path(), gone.path());
    fs::remove_dir_all(gone.path().join("wal")).unwrap();
    assert!(matches!(Evidence::open(often(gone.path())), Err(OpenError::Rollback { leaves: 0, signed: 80, .. })));
}

#[tokio::test]
async fn the_end_of_the_log_before_a_snapshot_cannot_be_taken_away_under_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(some(dir.path(), &[new_run(), new_run(), new_run()], 10).await);
    let bytes = fs::read(segment(dir.path(), 0)).unwrap();
    let (last, n) = (0..)
        .map_while(|n| fs::read(segment(dir.path(), n)).ok().map(|bytes| (bytes, n)))
        .filter(|(bytes, _)| bytes[32..].iter().any(|byte| *byte != 0))
        .last()
        .unwrap();
    assert!(!bytes.is_empty());
    let end = last.iter().rposition(|byte| *byte != 0).unwrap();
    let file = fs::OpenOptions::new().write(true).open(segment(dir.path(), n)).unwrap();
    file.write_all_at(&vec![0; 900], end as u64 - 899).unwrap();
    let refused = Evidence::open(often(dir.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Rollback { signed: 20, .. }), "{refused}");
}
