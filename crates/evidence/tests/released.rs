//! Segments that leave this disk: everything still works, nothing is taken for released that was not, and no crash
//! makes a loss of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cogward_evidence::{
    DecidedOrCompleted, Evidence, EvidenceOptions, LogName, OpenError, Query,
    archive::{Archive, ArchiveError, Content, DirectoryPlace, Place, restore},
    executed, unfetched,
};
use cogward_ledger::archive::{Directory, Objects, Options};
use cogward_model::{
    RunId, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::RedactionId,
    redaction::ErasureScope,
};
use support::{event, new_run, options, tenant, verified};

/// A place that can be gone, or give something else, and counts what is asked of it.
#[derive(Default)]
struct Faulty {
    dir: PathBuf,
    gone: AtomicBool,
    lies: AtomicBool,
    read: AtomicUsize,
}

impl Faulty {
    fn new(dir: &Path) -> Arc<Self> {
        Arc::new(Self { dir: dir.to_owned(), ..Self::default() })
    }

    fn set(&self, gone: bool, lies: bool) {
        self.gone.store(gone, Ordering::SeqCst);
        self.lies.store(lies, Ordering::SeqCst);
    }
}

impl Objects for Faulty {
    fn list(&self) -> io::Result<Vec<String>> {
        DirectoryPlace::new(&self.dir).list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.read.fetch_add(1, Ordering::SeqCst);
        if self.gone.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::HostUnreachable, "nobody answers"));
        }
        let object = DirectoryPlace::new(&self.dir).open(name)?;
        if !self.lies.load(Ordering::SeqCst) {
            return Ok(object);
        }
        let mut bytes = Vec::new();
        object.take(u64::MAX).read_to_end(&mut bytes)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

impl Place for Faulty {
    fn put(&self, name: &str, content: &Content<'_>) -> io::Result<()> {
        DirectoryPlace::new(&self.dir).put(name, content)
    }

    fn shown(&self) -> String {
        DirectoryPlace::new(&self.dir).shown()
    }
}

fn with(dir: &Path, store: &Arc<Faulty>) -> EvidenceOptions {
    EvidenceOptions { archive: Some(Arc::clone(store) as Arc<dyn Place>), ..options(dir) }
}

fn opened(dir: &Path, store: &Arc<Faulty>) -> Evidence {
    Evidence::open(with(dir, store)).unwrap()
}

fn archive(evidence: &Evidence, dir: &Path) -> Archive {
    Archive::open(evidence, Box::new(DirectoryPlace::new(dir))).unwrap()
}

async fn grow(evidence: &Evidence, run: RunId, rounds: usize) {
    support::grow(evidence, run, rounds).await;
    // A search brings the index up to now.
    evidence.search(&tenant("acme"), &Query::default(), None, 1).await.unwrap();
}

fn bring(archive: &mut Archive) -> u64 {
    while archive.step().unwrap().is_some() {
        archive.recorded().unwrap();
    }
    archive.stored()
}

/// Releases as many as the archive has, as the plane does it.
async fn release(evidence: &Evidence, archive: &mut Archive, count: u64) {
    let (until, mut news) = (Instant::now() + Duration::from_secs(60), evidence.publications());
    while archive.released() < count {
        match archive.ripe(Duration::ZERO).unwrap() {
            Some(ripe) => {
                let told = ripe.told();
                assert_eq!(told.segment, archive.released());
                let event = Event::new(EventType::LedgerReleased, tenant("default"), Attribution::plane())
                    .public("segment", told.segment)
                    .public("digest", told.digest);
                evidence.record(event).await.unwrap();
                archive.release(ripe).unwrap();
            }
            None => {
                assert!(Instant::now() < until, "nothing is ripe");
                // What it waits for happens once a second: a snapshot, a mark of the tiles.
                let _none = tokio::time::timeout(Duration::from_millis(50), news.changed()).await;
            }
        }
    }
}

fn segment(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("wal/{n:016x}.seg"))
}

fn note(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("released/{n:016x}.released"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let dest = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &dest);
        } else {
            let _bytes = fs::copy(&path, &dest).unwrap();
            fs::set_permissions(&dest, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// No long lists in the report of a test that fails.
fn same(found: &[DecidedOrCompleted], expected: &[DecidedOrCompleted]) {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{} of {}, first at {at:?}: {:?} {:?}",
        found.len(),
        expected.len(),
        at.map(|at| &found[at]),
        at.map(|at| &expected[at])
    );
}

fn decisions(evidence: &Evidence) -> Vec<DecidedOrCompleted> {
    let mut seen = Vec::new();
    let _mark = evidence.replay_decisions(None, evidence.committed(), &mut |one| seen.push(one.clone())).unwrap();
    seen
}

/// A ledger with released segments, an archive with them, and the run that is in all of them.
struct Trimmed {
    home: tempfile::TempDir,
    store: tempfile::TempDir,
    place: Arc<Faulty>,
    run: RunId,
    released: u64,
    stored: u64,
    leaves: u64,
    decided: Vec<DecidedOrCompleted>,
}

async fn trimmed() -> Trimmed {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (place, run) = (Faulty::new(store.path()), new_run());
    let evidence = opened(home.path(), &place);
    // A tenant that is quiet ever after: its last leaf is only in the archive.
    evidence.record(event("quiet", None)).await.unwrap();
    evidence.checkpoint(&tenant("quiet")).await.unwrap();
    grow(&evidence, run, 200).await;
    let mut archive = archive(&evidence, store.path());
    let stored = bring(&mut archive);
    assert!(stored >= 5, "{stored}");
    let (decided, released) = (decisions(&evidence), stored - 2);
    release(&evidence, &mut archive, released).await;
    for n in 0..released {
        assert!(!segment(home.path(), n).exists(), "{n}");
    }
    assert!(segment(home.path(), released).exists());
    let leaves = verified(&evidence, "acme").await.leaves;
    Trimmed { home, store, place, run, released, stored, leaves, decided }
}

#[tokio::test]
async fn everything_still_works_and_a_start_needs_no_archive() {
    let Trimmed { home, store, place, run, released, stored: archived, leaves, decided } = trimmed().await;
    // Without an archive, and so without asking one: the start, what it books again, and what is recorded.
    let evidence = Evidence::open(options(home.path())).unwrap();
    assert!(evidence.replay_erasures().await.unwrap().returned.is_empty());
    same(&decisions(&evidence), &decided);
    let next = evidence.record(event("acme", Some(run))).await.unwrap();
    assert_eq!(next.seq, leaves);
    // What is only there is not there, and that is said.
    let pack = home.path().join("pack");
    let refused = evidence.export(&tenant("acme"), &pack).await.unwrap_err();
    let why = unfetched(&refused).unwrap();
    assert!(why.segment == 0 && why.to_string().contains("without --archive"), "{why}");
    fs::remove_dir_all(&pack).unwrap();
    drop(evidence);

    // With it: exports, searches, runs and proofs of what is only there.
    place.read.store(0, Ordering::SeqCst);
    let evidence = opened(home.path(), &place);
    evidence.replay_erasures().await.unwrap();
    same(&decisions(&evidence)[..decided.len()], &decided);
    assert_eq!(place.read.load(Ordering::SeqCst), 0, "a start asks for nothing");
    assert_eq!(verified(&evidence, "acme").await.leaves, leaves + 1);
    assert_eq!(verified(&evidence, "quiet").await.leaves, 1);
    let found = evidence.search(&tenant("acme"), &Query::default(), None, 20).await.unwrap();
    assert!(found.leaves.len() == 20 && found.leaves[0].seq == 0, "{:?}", found.leaves.first());
    assert_eq!(found.leaves[0].disclosed["args"], "born 1970-01-01");
    assert_eq!(evidence.run_leaves(&tenant("acme"), run, 0, 1_000).await.unwrap().len() as u64, leaves + 1);
    assert!(evidence.prove_leaf(&tenant("acme"), 3).await.unwrap().starts_with("c2sp.org/tlog-proof"));
    // Nothing of it has a name on this disk, and few are kept open.
    let fetched = home.path().join("fetched");
    assert!(!fetched.exists() || fs::read_dir(&fetched).unwrap().next().is_none());
    // What the archive has and what is here are the whole.
    let back = store.path().join("back");
    let restored = restore(&Directory::new(store.path()), &Options::default(), &back).unwrap();
    assert_eq!(restored.segments, archived);
    // And the plane goes on: more is archived and released.
    grow(&evidence, run, 150).await;
    let mut archive = archive(&evidence, store.path());
    let stored = bring(&mut archive);
    assert!(stored > released);
    release(&evidence, &mut archive, stored).await;
    drop(archive);
    drop(evidence);
    let evidence = opened(home.path(), &place);
    assert_eq!(verified(&evidence, "acme").await.leaves, leaves + 151);
    assert!(decisions(&evidence).len() > decided.len());
    // What was carried behind a leaf that is only there is not believed, and what is kept is enough.
    let mark = evidence.replay_decisions(None, evidence.committed(), &mut |_| {}).unwrap().unwrap();
    evidence.carry(&mark, b"all").unwrap();
    assert!(evidence.carried().is_some());
    grow(&evidence, run, 150).await;
    let mut archive = self::archive(&evidence, store.path());
    let stored = bring(&mut archive);
    assert!(mark.segment() < stored);
    release(&evidence, &mut archive, stored).await;
    place.set(true, false);
    assert!(evidence.carried().is_none());
    assert!(decisions(&evidence).len() > decided.len() + 600);
}

#[tokio::test]
async fn only_what_was_released_may_be_missing() {
    let Trimmed { home, store: _store, place, released, .. } = trimmed().await;
    let attacked = |attack: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        copy(home.path(), dir.path());
        attack(dir.path());
        (Evidence::open(with(dir.path(), &place)), dir)
    };
    let (fine, _dir) = attacked(&|_| {});
    drop(fine.unwrap());
    // A segment that was not released.
    let (refused, _dir) = attacked(&|dir| fs::remove_file(segment(dir, released)).unwrap());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, OpenError::Gone { from, to } if from == released && to == released), "{refused}");
    assert!(refused.to_string().contains("archive restore"), "{refused}");
    // An older record of releases, or one with a hole: what is missing is not covered by it.
    for n in [released - 1, 1, 0] {
        let (refused, _dir) = attacked(&|dir| fs::remove_file(note(dir, n)).unwrap());
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, OpenError::Gone { from, .. } if from == n)
                || matches!(refused, OpenError::FirstGone { .. } if n == 0),
            "{n}: {refused}"
        );
    }
    // A record of one that was not released: nobody but the plane can make it.
    let forged = |dir: &Path| {
        let text = fs::read_to_string(note(dir, released - 1)).unwrap();
        let next = text.replacen(&format!("\n{}\n", released - 1), &format!("\n{released}\n"), 1);
        assert_ne!(text, next);
        fs::write(note(dir, released), next).unwrap();
        fs::remove_file(segment(dir, released)).unwrap();
    };
    let (refused, _dir) = attacked(&forged);
    assert!(matches!(refused.unwrap_err(), OpenError::Released { segment, .. } if segment == released));
    // The same note for another segment.
    let (refused, _dir) = attacked(&|dir| assert!(fs::copy(note(dir, 0), note(dir, released)).is_ok()));
    assert!(matches!(refused.unwrap_err(), OpenError::Released { .. }));
    // A manifest that is gone, or changed, or another one.
    let manifest = |dir: &Path, n: u64| dir.join(format!("archive/{n:016x}.manifest"));
    let (refused, _dir) = attacked(&|dir| fs::remove_file(manifest(dir, 1)).unwrap());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("segment 1") && refused.contains("manifest is not there"), "{refused}");
    for attack in [
        &(|dir: &Path| {
            let mut bytes = fs::read(manifest(dir, 1)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(manifest(dir, 1), bytes).unwrap();
        }) as &dyn Fn(&Path),
        &|dir: &Path| assert!(fs::copy(manifest(dir, 0), manifest(dir, 1)).is_ok()),
    ] {
        let (refused, _dir) = attacked(attack);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("segment 1") && refused.contains("manifest was changed"), "{refused}");
    }
    // Everything that is still here.
    let (refused, _dir) = attacked(&|dir| fs::remove_dir_all(dir.join("wal")).unwrap());
    assert!(matches!(refused.unwrap_err(), OpenError::AllGone { .. }));
}

#[tokio::test]
async fn without_a_snapshot_or_with_a_damaged_extract_the_archive_is_read_and_it_must_be_true() {
    let Trimmed { home, store: _store, place, decided, leaves, .. } = trimmed().await;
    let changed = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        copy(home.path(), dir.path());
        change(dir.path());
        dir
    };
    let bare = changed(&|dir| fs::remove_file(dir.join("snapshot")).unwrap());
    let refused = Evidence::open(options(bare.path())).unwrap_err();
    assert!(matches!(&refused, OpenError::Early(_)) && unfetched(&refused).is_some(), "{refused}");
    for (gone, lies) in [(true, false), (false, true)] {
        place.set(gone, lies);
        let refused = Evidence::open(with(bare.path(), &place)).unwrap_err();
        let why = unfetched(&refused).unwrap();
        assert_eq!(why.lies, lies, "{why}");
    }
    place.set(false, false);
    let evidence = opened(bare.path(), &place);
    assert_eq!(verified(&evidence, "acme").await.leaves, leaves);
    same(&decisions(&evidence), &decided);
    drop(evidence);
    // What is kept for the start is believed only as the signed release has it.
    let damaged = changed(&|dir| {
        let file = dir.join("released/0000000000000001.kept");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("permit", "block!")).unwrap();
    });
    let evidence = opened(damaged.path(), &place);
    same(&decisions(&evidence), &decided);
    place.set(true, false);
    drop(evidence);
    let evidence = opened(damaged.path(), &place);
    assert!(evidence.replay_decisions(None, evidence.committed(), &mut |_| {}).is_err(), "rather none than another");
    place.set(false, false);
    drop(evidence);
    // Tiles and index that are gone are made anew from it, one segment after the other.
    let again = changed(&|dir| {
        fs::remove_file(dir.join("index.db")).unwrap();
        fs::remove_file(dir.join("tiles.mark")).unwrap();
        fs::remove_dir_all(dir.join("tenants/acme/log")).unwrap();
    });
    let evidence = opened(again.path(), &place);
    evidence.until_published(&LogName::Tenant(tenant("acme")), leaves).await;
    let until = Instant::now() + Duration::from_secs(60);
    while evidence.search(&tenant("acme"), &Query::default(), None, 1).await.unwrap().current < leaves {
        assert!(Instant::now() < until);
    }
    assert!(evidence.prove_leaf(&tenant("acme"), 0).await.is_ok());
}

#[tokio::test]
async fn an_archive_that_is_gone_or_lies_fails_the_read_and_not_the_plane() {
    let Trimmed { home, store, place, run, leaves, .. } = trimmed().await;
    let evidence = opened(home.path(), &place);
    for (gone, lies, says) in [(true, false, "nobody answers"), (false, true, "other bytes")] {
        place.set(gone, lies);
        let dest = store.path().join(says);
        let refused = evidence.export(&tenant("acme"), &dest).await.unwrap_err();
        let why = unfetched(&refused).unwrap();
        assert!(why.lies == lies && why.to_string().contains(says), "{why}");
        let refused = evidence.search(&tenant("acme"), &Query::default(), None, 5).await.unwrap_err();
        assert!(unfetched(&refused).is_some(), "{refused}");
        // What is here is read, and more is recorded.
        evidence.record(event("acme", Some(run))).await.unwrap();
    }
    place.set(false, false);
    assert_eq!(verified(&evidence, "acme").await.leaves, leaves + 2);
    // The index is not thrown away for it.
    assert_eq!(evidence.search(&tenant("acme"), &Query::default(), None, 5).await.unwrap().leaves.len(), 5);
}

#[tokio::test]
async fn a_value_in_a_released_segment_is_erased_and_stays_so() {
    let Trimmed { home, store: _store, place, run, .. } = trimmed().await;
    let evidence = opened(home.path(), &place);
    let scope = ErasureScope::Field { leaf: 2, name: "args".to_owned() };
    let erasure = evidence.prepare_erasure(&tenant("acme"), &scope).await.unwrap();
    assert_eq!(erasure.values.len(), 1);
    let by = RedactionId::new(&SystemClock, &SystemEntropy);
    let vault = tempfile::tempdir().unwrap();
    copy(&home.path().join("vault"), vault.path());
    evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap();
    let base = || {
        Event::new(EventType::RedactionExecuted, tenant("acme"), Attribution::plane())
            .public("redaction", by.to_string())
            .public("leaf", 2_u64)
            .public("field", "args")
    };
    for event in executed(&erasure, base) {
        evidence.record(event).await.unwrap();
    }
    let leaf = |leaves: Vec<cogward_evidence::LeafView>, seq| leaves.into_iter().find(|leaf| leaf.seq == seq).unwrap();
    let seen = evidence.run_leaves(&tenant("acme"), run, 0, 1_000).await.unwrap();
    assert_eq!(leaf(seen.clone(), 2).erased.get("args"), Some(&by));
    assert_eq!(leaf(seen, 3).disclosed["args"], "born 1970-01-01", "its neighbour stays");
    // The erasure itself is released, and a vault from before comes back.
    grow(&evidence, run, 150).await;
    let mut archive = archive(&evidence, &place.dir);
    let stored = bring(&mut archive);
    release(&evidence, &mut archive, stored).await;
    drop(archive);
    drop(evidence);
    fs::remove_dir_all(home.path().join("vault")).unwrap();
    copy(vault.path(), &home.path().join("vault"));
    let evidence = Evidence::open(options(home.path())).unwrap();
    let refused = evidence.replay_erasures().await;
    // Its neighbours are sealed again from the log, for which the archive is needed: not without it.
    assert!(refused.is_err() || !refused.unwrap().returned.is_empty());
    drop(evidence);
    let evidence = opened(home.path(), &place);
    let replayed = evidence.replay_erasures().await.unwrap();
    assert!(replayed.executed == BTreeSet::from([by]), "{replayed:?}");
    let seen = evidence.run_leaves(&tenant("acme"), run, 0, 1_000).await.unwrap();
    assert_eq!(leaf(seen.clone(), 2).erased.get("args"), Some(&by));
    assert_eq!(leaf(seen, 3).disclosed["args"], "born 1970-01-01");
}

#[tokio::test]
async fn nothing_is_released_that_is_young_or_not_in_the_archive_any_more() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (place, run) = (Faulty::new(store.path()), new_run());
    let evidence = opened(home.path(), &place);
    grow(&evidence, run, 150).await;
    let mut archive = archive(&evidence, store.path());
    assert!(archive.ripe(Duration::ZERO).unwrap().is_none(), "nothing is archived");
    bring(&mut archive);
    let until = Instant::now() + Duration::from_secs(60);
    while archive.ripe(Duration::ZERO).unwrap().is_none() {
        assert!(Instant::now() < until);
        evidence.checkpoint(&tenant("acme")).await.unwrap();
    }
    assert!(archive.ripe(Duration::from_secs(3_600)).unwrap().is_none(), "too young");
    // What is noted is not enough: it is read back once more.
    let object = Directory::new(store.path())
        .list()
        .unwrap()
        .into_iter()
        .find(|name| name.contains("0000000000000000-"))
        .unwrap();
    let file = store.path().join(&object);
    let whole = fs::read(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = archive.ripe(Duration::ZERO).unwrap_err();
    assert!(matches!(error, ArchiveError::Lies(_)) && error.is_alarm(), "{error}");
    fs::remove_file(&file).unwrap();
    assert!(matches!(archive.ripe(Duration::ZERO).unwrap_err(), ArchiveError::Place { .. }));
    fs::write(&file, &whole).unwrap();
    // Nor is a segment released here that was changed here.
    let here = segment(home.path(), 0);
    let mut bytes = fs::read(&here).unwrap();
    let last = bytes.len() - 1;
    bytes[last] = 1;
    fs::write(&here, bytes).unwrap();
    assert!(matches!(archive.ripe(Duration::ZERO).unwrap_err(), ArchiveError::Damaged { segment: 0, .. }));
    assert_eq!(archive.released(), 0);
}

#[tokio::test]
async fn another_archive_must_have_the_released_segments_first() {
    let Trimmed { home, store, place, released, .. } = trimmed().await;
    let evidence = opened(home.path(), &place);
    let other = tempfile::tempdir().unwrap();
    let mut empty = archive(&evidence, other.path());
    let error = empty.step().unwrap_err();
    assert!(matches!(error, ArchiveError::Elsewhere(0)), "{error}");
    copy(store.path(), other.path());
    let mut copied = archive(&evidence, other.path());
    assert!(bring(&mut copied) >= released);
    assert!(!segment(home.path(), 0).exists());
}

const CHILD_DIR: &str = "COGWARD_TEST_RELEASE_DIR";
const CHILD_STORE: &str = "COGWARD_TEST_RELEASE_STORE";

/// Not a test by itself: releases what is in the archive.
#[tokio::test]
#[ignore = "run as a child by the test that kills it"]
async fn child_releases() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let place = Faulty::new(&PathBuf::from(std::env::var_os(CHILD_STORE).unwrap()));
    let evidence = opened(&dir, &place);
    // What is brought and signed first is not what is killed here.
    let mut archive = archive(&evidence, &place.dir);
    let stored = archive.stored();
    println!("begins");
    release(&evidence, &mut archive, stored).await;
    println!("done");
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_release_loses_nothing() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = new_run();
    let leaves = {
        let evidence = opened(home.path(), &Faulty::new(store.path()));
        grow(&evidence, run, 60).await;
        bring(&mut archive(&evidence, store.path()));
        verified(&evidence, "acme").await.leaves
    };
    let mut killed = BTreeSet::new();
    for (call, upto, step) in [("rename", 24, 1), ("unlink", 12, 1), ("fsync", 30, 4)] {
        for n in (1..=upto).step_by(step) {
            let dir = tempfile::tempdir().unwrap();
            copy(home.path(), dir.path());
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            command.args(["-e", &format!("inject={call}:signal=KILL:when={n}")]);
            command.arg(std::env::current_exe().unwrap());
            command.args(["--exact", "child_releases", "--nocapture", "--include-ignored", "--test-threads", "1"]);
            let output = command
                .env(CHILD_DIR, dir.path())
                .env(CHILD_STORE, store.path())
                .output()
                .expect("strace(1): scripts/setup-tests.sh names it");
            let text = String::from_utf8_lossy(&output.stdout);
            let (at, place) = (dir.path(), Faulty::new(store.path()));
            let evidence = opened(at, &place);
            assert_eq!(verified(&evidence, "acme").await.leaves, leaves, "{call} {n}: {text}");
            let mut archive = archive(&evidence, &place.dir);
            if text.contains("begins") && !text.contains("done") {
                killed.insert((call, archive.released()));
            }
            let stored = archive.stored();
            release(&evidence, &mut archive, stored).await;
            // A file that was left behind by the kill goes, too.
            assert!(archive.ripe(Duration::ZERO).unwrap().is_none());
            for n in 0..stored {
                assert!(!segment(at, n).exists());
            }
            assert_eq!(verified(&evidence, "acme").await.leaves, leaves, "{call} {n}: {text}");
            if text.contains("done") {
                break;
            }
        }
    }
    assert!(killed.len() >= 3, "{killed:?}");
}
