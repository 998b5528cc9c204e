//! The archive: what is in it is proven by it alone, what somebody does to it is named, and no crash makes two of one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cogward_evidence::{
    Evidence, LogName, OpenError,
    archive::{
        Archive, ArchiveError, Archived, Content, Directory, DirectoryPlace, Finding, Options, Place, RestoreError,
        Verified, restore,
    },
    executed,
};
use cogward_ledger::{
    archive::{Objects, verify},
    note::VerifyingKey,
    verify::What,
};
use cogward_model::{
    RunId, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::RedactionId,
    redaction::ErasureScope,
};
use support::{files, grow, new_run, open, tenant, verified};

/// A copy whose objects can be damaged.
fn copy(from: &Path, to: &Path) {
    support::copy(from, to);
    for path in files(to) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Leaves of two tenants over some segments, published.
async fn filled(dir: &Path, rounds: usize) -> (Evidence, RunId) {
    let (evidence, run) = (open(dir), new_run());
    grow(&evidence, run, rounds).await;
    (evidence, run)
}

fn place(dir: &Path) -> Box<dyn Place> {
    Box::new(DirectoryPlace::new(dir))
}

/// Archives all that is sealed, as the plane does it.
fn all(archive: &mut Archive) -> Vec<Archived> {
    let mut done = Vec::new();
    while let Some(archived) = archive.step().unwrap() {
        archive.recorded().unwrap();
        done.push(archived);
    }
    done
}

fn key(evidence: &Evidence) -> VerifyingKey {
    evidence.verifying_keys(&LogName::Plane).unwrap().trim_end().parse().unwrap()
}

fn ours(dir: &Path, key: &VerifyingKey, against: Option<&str>) -> Result<Verified, Finding> {
    verify(&Directory::new(dir), &Options { key: Some(key), against })
}

fn check(dir: &Path, key: &VerifyingKey, against: Option<&str>) -> Result<Verified, Finding> {
    let found = ours(dir, key, against);
    support::as_the_other_verifier(&found, dir, key, against);
    found
}

fn objects(dir: &Path) -> Vec<String> {
    let mut names = Directory::new(dir).list().unwrap();
    names.sort();
    names
}

fn of_kind(dir: &Path, kind: &str) -> Vec<String> {
    objects(dir).into_iter().filter(|name| name.starts_with(kind)).collect()
}

/// A copy of an archive to which something is done.
fn damaged(archive: &Path, attack: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(archive, dir.path());
    attack(dir.path());
    dir
}

#[tokio::test]
async fn an_archive_is_verified_alone_and_brings_the_same_segments_back() {
    let (home, store, back) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, run) = filled(home.path(), 200).await;
    let mut archive = Archive::open(&evidence, place(store.path())).unwrap();
    let first = all(&mut archive);
    assert!(first.len() >= 3, "{first:?}");
    // More comes, and a plane that was started again goes on where it was.
    drop(archive);
    drop(evidence);
    let evidence = open(home.path());
    grow(&evidence, run, 100).await;
    let mut archive = Archive::open(&evidence, place(store.path())).unwrap();
    let more = all(&mut archive);
    assert_eq!(more[0].segment, first.len() as u64);
    assert_eq!(archive.waiting(), 0);
    let key = key(&evidence);
    let found = check(store.path(), &key, None).unwrap();
    assert_eq!(found.segments, (first.len() + more.len()) as u64);
    assert_eq!(found.newest, more.last().unwrap().manifest);
    assert_eq!(archive.newest().as_deref(), Some(found.newest.as_str()));
    assert!(found.unnamed.is_empty() && found.key_pinned && !found.compared && found.leaves > 300, "{found:?}");
    // Without a key the one in it is used, and that is said.
    assert!(!verify(&Directory::new(store.path()), &Options::default()).unwrap().key_pinned);
    // No name says of whom anything is.
    for name in objects(store.path()) {
        assert!(!name.contains("acme") && !name.contains("anna"), "{name}");
    }
    let dest = back.path().join("evidence");
    let restored = restore(&Directory::new(store.path()), &Options { key: Some(&key), against: None }, &dest).unwrap();
    assert_eq!(restored, found);
    for n in 0..found.segments {
        let name = format!("wal/{n:016x}.seg");
        assert_eq!(fs::read(dest.join(&name)).unwrap(), fs::read(home.path().join(&name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_dir(dest.join("wal")).unwrap().count() as u64, found.segments);
    let again = restore(&Directory::new(store.path()), &Options::default(), &dest);
    assert!(matches!(again, Err(RestoreError::NotEmpty(_))), "{again:?}");
    verified(&evidence, "acme").await;
}

#[tokio::test]
async fn early_segments_that_are_gone_come_back_from_the_archive() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, _) = filled(home.path(), 150).await;
    let done = all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    drop(evidence);
    let gone = |n: u64| home.path().join(format!("wal/{n:016x}.seg"));
    fs::remove_file(gone(0)).unwrap();
    fs::remove_file(gone(1)).unwrap();
    let refused = Evidence::open(support::options(home.path())).err().unwrap();
    let said = refused.to_string();
    assert!(matches!(refused, OpenError::FirstGone { first: 2 }), "{refused:?}");
    assert!(said.contains("segments 0 to 1") && said.contains("archive restore"), "{said}");
    let dest = store.path().join("back");
    restore(&Directory::new(store.path()), &Options::default(), &dest).unwrap();
    for n in 0..2 {
        fs::rename(dest.join(format!("wal/{n:016x}.seg")), gone(n)).unwrap();
    }
    let evidence = open(home.path());
    verified(&evidence, "acme").await;
    assert!(done.len() > 2);
}

#[tokio::test]
async fn whatever_is_done_to_an_archive_is_found_and_named() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, _) = filled(home.path(), 150).await;
    all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    let key = key(&evidence);
    let names = objects(store.path());
    let (manifests, segments) = (of_kind(store.path(), "manifests"), of_kind(store.path(), "segments"));
    assert!(manifests.len() >= 3);
    for name in &names[..names.len() - 1] {
        if Some(name) == manifests.last() {
            continue;
        }
        let dir = damaged(store.path(), |dir| fs::remove_file(dir.join(name)).unwrap());
        let finding = check(dir.path(), &key, None).unwrap_err();
        assert_eq!(finding.what, What::Missing, "{name}: {finding}");
    }
    // Two that change their places.
    for (one, other) in [(&segments[0], &segments[1]), (&manifests[0], &manifests[1])] {
        let dir = damaged(store.path(), |dir| {
            fs::rename(dir.join(one), dir.join("beside")).unwrap();
            fs::rename(dir.join(other), dir.join(one)).unwrap();
            fs::rename(dir.join("beside"), dir.join(other)).unwrap();
        });
        let finding = check(dir.path(), &key, None).unwrap_err();
        assert_eq!((finding.what, finding.object.as_str()), (What::Bytes, one.as_str()), "{finding}");
    }
    // Every object, a bit of it: near its ends and at many places between.
    for name in &names {
        let whole = fs::read(store.path().join(name)).unwrap();
        let step = (whole.len() / 97).max(1);
        for at in (0..whole.len()).step_by(step).chain([1, whole.len() - 1]) {
            let dir = damaged(store.path(), |dir| {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                fs::write(dir.join(name), bytes).unwrap();
            });
            // A second verifier for each of them would be minutes: of every flipped byte there is a corpus.
            let judge = if at % 16 == 0 { check } else { ours };
            let finding = judge(dir.path(), &key, None).unwrap_err();
            assert_eq!((finding.what, &finding.object), (What::Bytes, name), "byte {at}: {finding}");
        }
        // Too short and too long.
        for bytes in [whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat(), Vec::new()] {
            let dir = damaged(store.path(), |dir| fs::write(dir.join(name), &bytes).unwrap());
            let finding = check(dir.path(), &key, None).unwrap_err();
            assert_eq!((finding.what, &finding.object), (What::Bytes, name), "{} bytes: {finding}", bytes.len());
        }
    }
    // A bit in a leaf is told as that leaf.
    let whole = fs::read(store.path().join(&segments[1])).unwrap();
    let mark = b"\"chain\":{\"prev\"";
    let at = whole.windows(mark.len()).position(|window| window == mark).unwrap();
    let dir = damaged(store.path(), |dir| {
        let mut bytes = whole.clone();
        bytes[at + 3] ^= 1;
        fs::write(dir.join(&segments[1]), bytes).unwrap();
    });
    let finding = check(dir.path(), &key, None).unwrap_err();
    assert!(finding.leaf.is_some() && finding.log.is_some(), "{finding}");
    assert!(finding.to_string().contains(": leaf "), "{finding}");
    // What nobody named is told and does no harm.
    let dir = damaged(store.path(), |dir| fs::write(dir.join("segments/half.new"), b"x").unwrap());
    assert_eq!(check(dir.path(), &key, None).unwrap().unnamed, ["segments/half.new"]);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(check(empty.path(), &key, None).unwrap_err().what, What::Missing);
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_seen_with_what_somebody_kept_and_only_then() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, run) = filled(home.path(), 100).await;
    let early = evidence.checkpoint(&tenant("acme")).await.unwrap().note;
    let plane = evidence.plane_checkpoint().await.unwrap().note;
    grow(&evidence, run, 100).await;
    all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    let key = key(&evidence);
    let manifests = of_kind(store.path(), "manifests");
    let kept = fs::read_to_string(store.path().join(manifests.last().unwrap())).unwrap();
    let late = evidence.checkpoint(&tenant("acme")).await.unwrap().note;
    for note in [&early, &plane, &kept] {
        assert!(check(store.path(), &key, Some(note)).unwrap().compared);
    }
    // What was signed after the last sealed segment cannot be in it, and that is said as it is.
    let finding = check(store.path(), &key, Some(&late)).unwrap_err();
    assert!(finding.what == What::Against && finding.detail.contains("was not archived yet"), "{finding}");
    let cut = damaged(store.path(), |dir| {
        for name in manifests.iter().skip(1) {
            fs::remove_file(dir.join(name)).unwrap();
        }
    });
    // By itself it is a whole archive: it cannot show what is behind its end.
    let alone = check(cut.path(), &key, None).unwrap();
    assert_eq!(alone.segments, 1);
    assert!(!alone.unnamed.is_empty());
    for note in [&early, &plane, &kept] {
        assert_eq!(check(cut.path(), &key, Some(note)).unwrap_err().what, What::Against);
    }
    // A checkpoint that the log's key did not sign is none, and neither is one of another plane.
    let forged = early.replacen('\n', "\n1", 1);
    assert_eq!(check(store.path(), &key, Some(&forged)).unwrap_err().what, What::Against);
    let other = tempfile::tempdir().unwrap();
    let (stranger, _) = filled(other.path(), 2).await;
    let foreign = stranger.checkpoint(&tenant("acme")).await.unwrap().note;
    assert_eq!(check(store.path(), &key, Some(&foreign)).unwrap_err().what, What::Against);
    assert_eq!(check(store.path(), &self::key(&stranger), None).unwrap_err().what, What::Signature);
}

#[tokio::test]
async fn the_archive_of_another_plane_is_not_mixed_in() {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let [home, store, other_home, other_store] = [0, 1, 2, 3].map(|n| dirs[n].path());
    let (evidence, run) = filled(home, 100).await;
    all(&mut Archive::open(&evidence, place(store)).unwrap());
    let (other, _) = filled(other_home, 100).await;
    all(&mut Archive::open(&other, place(other_store)).unwrap());
    let key = key(&evidence);
    let (mine, theirs) = (of_kind(store, "manifests"), of_kind(other_store, "manifests"));
    let both = damaged(store, |dir| {
        let _bytes = fs::copy(other_store.join(&theirs[1]), dir.join(&theirs[1])).unwrap();
    });
    let finding = check(both.path(), &key, None).unwrap_err();
    assert!(finding.what == What::Manifest && finding.detail.contains("two manifests"), "{finding}");
    let instead = damaged(store, |dir| {
        fs::remove_file(dir.join(&mine[1])).unwrap();
        let _bytes = fs::copy(other_store.join(&theirs[1]), dir.join(&theirs[1])).unwrap();
    });
    assert_eq!(check(instead.path(), &key, None).unwrap_err().what, What::Signature);
    // Nor does a plane write into it.
    grow(&evidence, run, 60).await;
    let mut mistaken = Archive::open(&evidence, place(other_store)).unwrap();
    let error = mistaken.step().unwrap_err();
    assert!(matches!(error, ArchiveError::Other(_)) && error.is_alarm(), "{error}");
    assert_eq!(of_kind(other_store, "manifests"), theirs);
    // Nor into its own from which somebody took a manifest.
    fs::remove_file(store.join(&mine[0])).unwrap();
    let error = Archive::open(&evidence, place(store)).unwrap().step().unwrap_err();
    assert!(error.to_string().contains("manifest 0 is gone"), "{error}");
}

#[tokio::test]
async fn a_crash_between_the_copy_and_its_record_repeats_the_same() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, run) = filled(home.path(), 60).await;
    let first = Archive::open(&evidence, place(store.path())).unwrap().step().unwrap().unwrap();
    // Killed here. Checkpoints go on meanwhile, so a manifest that was made anew would be another one.
    grow(&evidence, run, 60).await;
    let before = objects(store.path());
    let mut archive = Archive::open(&evidence, place(store.path())).unwrap();
    assert_eq!(archive.step().unwrap().unwrap(), first);
    assert_eq!(objects(store.path()), before);
    archive.recorded().unwrap();
    all(&mut archive);
    drop(archive);
    // Killed before the copy: the manifest is here and nothing is there.
    fs::remove_dir_all(store.path().join("manifests")).unwrap();
    fs::remove_dir_all(store.path().join("segments")).unwrap();
    for entry in fs::read_dir(home.path().join("archive")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "stored") {
            fs::remove_file(path).unwrap();
        }
    }
    let again = all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    assert_eq!(again[0], first);
    let key = key(&evidence);
    check(store.path(), &key, None).unwrap();
    // The plane lost its own manifests, as after a restore of an older copy: it takes them from the archive.
    fs::remove_dir_all(home.path().join("archive")).unwrap();
    grow(&evidence, run, 60).await;
    let mut archive = Archive::open(&evidence, place(store.path())).unwrap();
    let repeated = all(&mut archive);
    assert_eq!(repeated[..again.len()], again);
    assert!(repeated.len() > again.len());
    assert_eq!(check(store.path(), &key, None).unwrap().segments, repeated.len() as u64);
}

/// A place that gives back what it likes, or takes nothing.
struct Odd {
    inner: DirectoryPlace,
    lies: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl Objects for Odd {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let mut bytes = Vec::new();
        self.inner.open(name)?.read_to_end(&mut bytes)?;
        if self.lies.load(Ordering::SeqCst) && name.starts_with("segments") {
            bytes[100] ^= 1;
        }
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

impl Place for Odd {
    fn put(&self, name: &str, content: &Content<'_>) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.inner.put(name, content),
        }
    }

    fn shown(&self) -> String {
        "odd".to_owned()
    }
}

#[tokio::test]
async fn a_place_that_lies_or_is_full_has_nothing_until_it_has_it() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, _) = filled(home.path(), 100).await;
    let (lies, full) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let inner = DirectoryPlace::new(store.path());
    let odd = Odd { inner, lies: Arc::clone(&lies), full: Arc::clone(&full) };
    let mut archive = Archive::open(&evidence, Box::new(odd)).unwrap();
    for _ in 0..2 {
        let error = archive.step().unwrap_err();
        assert!(matches!(error, ArchiveError::Lies(_)) && error.is_alarm(), "{error}");
        assert_eq!(archive.stored(), 0);
    }
    assert!(of_kind(store.path(), "manifests").is_empty(), "no manifest names what is not there");
    lies.store(false, Ordering::SeqCst);
    full.store(true, Ordering::SeqCst);
    let error = archive.step().unwrap_err();
    assert!(!error.is_alarm(), "{error}");
    full.store(false, Ordering::SeqCst);
    assert!(all(&mut archive).len() > 1);
    check(store.path(), &key(&evidence), None).unwrap();
}

#[tokio::test]
async fn a_segment_that_is_not_what_was_signed_is_not_archived() {
    let (home, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, _) = filled(home.path(), 100).await;
    let path = home.path().join("wal/0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[5_000] ^= 4;
    fs::write(&path, bytes).unwrap();
    let mut archive = Archive::open(&evidence, place(store.path())).unwrap();
    let error = archive.step().unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { segment: 0, .. }) && error.is_alarm(), "{error}");
    assert!(objects(store.path()).is_empty());
    fs::write(&path, &whole).unwrap();
    assert!(all(&mut archive).len() > 1);
    // And one that is changed between its manifest and the copy.
    let error = {
        fs::remove_dir_all(store.path().join("segments")).unwrap();
        fs::remove_dir_all(store.path().join("manifests")).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let other = tempfile::tempdir().unwrap();
        Archive::open(&evidence, place(other.path())).unwrap().step().unwrap_err()
    };
    assert!(matches!(error, ArchiveError::Damaged { segment: 0, .. }), "{error}");
    fs::write(&path, &whole).unwrap();
}

/// What the values of a run open to, with the segments of an archive and the keys and the vault in some directory.
async fn opened(archive: &Path, keys: &Path, run: RunId) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let dest: PathBuf = dir.path().join("evidence");
    restore(&Directory::new(archive), &Options::default(), &dest).unwrap();
    for part in ["keys", "vault"] {
        copy(&keys.join(part), &dest.join(part));
    }
    let evidence = open(&dest);
    let leaves = evidence.run_leaves(&tenant("acme"), run, 0, 1_000).await.unwrap();
    assert!(!leaves.is_empty());
    leaves.into_iter().flat_map(|leaf| leaf.disclosed).map(|(field, value)| (field, value.to_string())).collect()
}

#[tokio::test]
async fn what_is_erased_opens_nowhere_in_the_archive() {
    let (home, store, before) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, run) = filled(home.path(), 100).await;
    all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    // As a control: with the keys as they were, the archive's values open.
    for part in ["keys", "vault"] {
        copy(&home.path().join(part), &before.path().join(part));
    }
    let values = opened(store.path(), before.path(), run).await;
    assert!(values.values().any(|value| value.contains("1970")), "{values:?}");
    let by = RedactionId::new(&SystemClock, &SystemEntropy);
    let scope = ErasureScope::Subject("anna@example.org".to_owned());
    let erasure = evidence.prepare_erasure(&tenant("acme"), &scope).await.unwrap();
    evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap();
    let said = || {
        Event::new(EventType::RedactionExecuted, tenant("acme"), Attribution::plane())
            .public("redaction", by.to_string())
            .public("ground", "gdpr-17-1-b")
    };
    for event in executed(&erasure, said) {
        evidence.record(event).await.unwrap();
    }
    // Every file that there is now, of the plane and of the archive: nothing of it opens, and all of it verifies.
    let values = opened(store.path(), home.path(), run).await;
    assert!(values.is_empty(), "{values:?}");
    check(store.path(), &key(&evidence), None).unwrap();
}

#[tokio::test]
async fn a_restore_of_a_damaged_archive_leaves_nothing() {
    let (home, store, back) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (evidence, _) = filled(home.path(), 100).await;
    all(&mut Archive::open(&evidence, place(store.path())).unwrap());
    let last = of_kind(store.path(), "segments").pop().unwrap();
    let bad = damaged(store.path(), |dir| {
        let mut bytes = fs::read(dir.join(&last)).unwrap();
        bytes[3_000] ^= 1;
        fs::write(dir.join(&last), bytes).unwrap();
    });
    let dest = back.path().join("evidence");
    let error = restore(&Directory::new(bad.path()), &Options::default(), &dest).unwrap_err();
    assert!(matches!(&error, RestoreError::Archive(finding) if finding.object == last), "{error}");
    assert_eq!(fs::read_dir(back.path()).unwrap().count(), 0);
}
