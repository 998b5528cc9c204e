//! Keys that are replaced, revoked and destroyed: what a reader who knows an old one still believes, and what a start
//! makes good after a plane was killed between any two steps.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_evidence::{
    Evidence, EvidenceOptions, KeyChange, KeyChangeError, KeyState, KeyringError, LogName, OpenError,
};
use cogward_ledger::{
    key_chain::{Entry, KEYS_FILE, Statement, Why},
    note::{Checkpoint, Note, SigningKey, VerifyingKey},
    verify::{CHECKPOINT_FILE, Finding, KEY_FILE, Options, Verified, What, verify},
};
use cogward_model::{
    Id, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::{EventId, OperatorId},
};
use support::{SetClock, copy, event, files, options, python, tenant};

const DAY: u64 = 86_400_000_000;
const START: u64 = 1_790_000_000_000_000;

struct Plane {
    dir: PathBuf,
    clock: Arc<SetClock>,
    evidence: Option<Evidence>,
}

impl Plane {
    fn new(dir: &Path) -> Self {
        let clock = Arc::new(SetClock(AtomicU64::new(START)));
        let mut plane = Self { dir: dir.to_path_buf(), clock, evidence: None };
        plane.evidence = Some(plane.open().unwrap());
        plane
    }

    fn open(&self) -> Result<Evidence, OpenError> {
        Evidence::open(EvidenceOptions { clock: self.clock.clone(), ..options(&self.dir) })
    }

    fn evidence(&self) -> &Evidence {
        self.evidence.as_ref().unwrap()
    }

    fn stop(&mut self) {
        self.evidence = None;
    }

    /// The next start, with what boot does before anything is served.
    async fn start(&mut self) {
        self.stop();
        let evidence = self.open().unwrap();
        evidence.settle_keys().await.unwrap();
        self.evidence = Some(evidence);
    }

    fn later(&self, days: u64) {
        self.clock.0.fetch_add(days * DAY, Ordering::SeqCst);
    }

    async fn leaves(&self, count: usize) {
        for _ in 0..count {
            self.evidence().record(event("acme", None)).await.unwrap();
        }
    }

    async fn rotate(&self, overlap_days: u32) -> KeyState {
        rotate(self.evidence(), &acme(), overlap_days).await.unwrap()
    }

    fn key(&self) -> VerifyingKey {
        self.evidence().verifying_keys(&acme()).unwrap().trim_end().parse().unwrap()
    }

    async fn pack(&self, dir: &Path) -> PathBuf {
        self.evidence().export(&tenant("acme"), dir).await.unwrap();
        dir.to_path_buf()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(name)
    }

    fn signing(&self, name: &str) -> SigningKey {
        let seed = |kind: &str| -> [u8; 32] {
            STANDARD.decode(fs::read(self.file(&format!("{name}.{kind}"))).unwrap()).unwrap().try_into().unwrap()
        };
        let origin = self.evidence().origin(&acme()).unwrap();
        SigningKey::from_seed(&origin, &seed("sign")).unwrap().with_ml_dsa(&seed("mldsa")).unwrap()
    }
}

fn acme() -> LogName {
    LogName::Tenant(tenant("acme"))
}

fn told(kind: EventType, log: &LogName) -> Event {
    let of = match log {
        LogName::Plane => tenant("default"),
        LogName::Tenant(tenant) => tenant.clone(),
    };
    Event::new(kind, of, Attribution::plane())
}

async fn changed(
    evidence: &Evidence,
    log: &LogName,
    change: KeyChange,
    kind: EventType,
) -> Result<KeyState, KeyChangeError> {
    let by: OperatorId = Id::new(&SystemClock, &SystemEntropy);
    let asked = (change, by, "anna".to_owned());
    let request = evidence.ask_key_change(log, asked, told(EventType::LedgerKeyRequested, log)).await?;
    evidence.change_keys(log, (request.id, request.change), told(kind, log)).await
}

async fn rotate(evidence: &Evidence, log: &LogName, overlap_days: u32) -> Result<KeyState, KeyChangeError> {
    changed(evidence, log, KeyChange::Rotate { overlap_days }, EventType::LedgerKeyRotated).await
}

async fn revoke(evidence: &Evidence, generation: u64, size: Option<u64>) -> Result<KeyState, KeyChangeError> {
    let change = KeyChange::Revoke { generation, size, why: Why::Compromised };
    changed(evidence, &acme(), change, EventType::LedgerKeyRevoked).await
}

/// The verdict of both verifiers, which have to agree to the last field.
fn verdict(pack: &Path, key: Option<&VerifyingKey>, against: Option<&str>) -> Result<Verified, Finding> {
    let ours = verify(pack, &Options { key, against, ..Options::default() });
    let scratch = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/verify.py");
    let mut theirs = python();
    theirs.arg("-B").arg(script).arg(pack).arg("--json");
    if let Some(key) = key {
        fs::write(scratch.path().join("key"), key.lines()).unwrap();
        theirs.arg("--key").arg(scratch.path().join("key"));
    }
    if let Some(note) = against {
        fs::write(scratch.path().join("note"), note).unwrap();
        theirs.arg("--against").arg(scratch.path().join("note"));
    }
    let output = theirs.output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    match &ours {
        Ok(log) => assert_eq!(said, serde_json::json!({"verdict": "ok", "log": log})),
        Err(finding) => {
            let found = (&said["finding"]["what"], &said["finding"]["leaf"]);
            let wanted = (serde_json::json!(finding.what), serde_json::json!(finding.leaf));
            assert_eq!(found, (&wanted.0, &wanted.1), "{finding} and {said}");
        }
    }
    ours
}

fn failed(pack: &Path, key: Option<&VerifyingKey>, against: Option<&str>) -> What {
    verdict(pack, key, against).unwrap_err().what
}

fn note(pack: &Path) -> String {
    fs::read_to_string(pack.join(CHECKPOINT_FILE)).unwrap()
}

#[tokio::test]
async fn who_knows_any_key_of_a_log_verifies_it_by_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(3).await;
    let (first, before) = (plane.key(), plane.pack(&dir.path().join("before")).await);
    assert_eq!(verdict(&before, Some(&first), None).unwrap().generation, 0);
    let state = plane.rotate(30).await;
    assert_eq!((state.chain.generation(), state.retiring.unwrap().0), (1, 0));
    let second = plane.key();
    assert_ne!(first, second);
    plane.leaves(300).await;
    let both = plane.pack(&dir.path().join("both")).await;
    // While both sign, a reader of the note alone needs neither statement nor news.
    for key in [&first, &second] {
        Checkpoint::open(&note(&both), key).unwrap();
        let log = verdict(&both, Some(key), Some(&note(&before))).unwrap();
        assert_eq!((log.generation, log.against), (1, Some(3)));
        assert_eq!(log.pinned_generation, (*key == first).then_some(0));
    }
    // The day comes: the key is gone from the disk, and the log goes on.
    let secret = fs::read(plane.file("acme.sign")).unwrap();
    plane.later(30);
    plane.evidence().retire_keys().await.unwrap();
    assert!(!plane.file("acme.sign").exists() && !plane.file("acme.mldsa").exists());
    let left = files(&plane.dir);
    assert!(left.iter().all(|file| !contains(&fs::read(file).unwrap(), &secret)));
    plane.leaves(2).await;
    let after = plane.pack(&dir.path().join("after")).await;
    assert!(Checkpoint::open(&note(&after), &first).is_err());
    assert_eq!(note(&after).lines().filter(|line| line.starts_with('\u{2014}')).count(), 2);
    for key in [&first, &first.ed25519_only(), &second, &second.ed25519_only()] {
        for older in [note(&before), note(&both)] {
            assert_eq!(verdict(&after, Some(key), Some(&older)).unwrap().generation, 1);
        }
    }
    // And once more, with a start in between each time.
    plane.start().await;
    plane.rotate(0).await;
    assert!(!plane.file("acme.1.sign").exists(), "without an overlap the key goes at once");
    plane.start().await;
    plane.leaves(1).await;
    let third = plane.pack(&dir.path().join("third")).await;
    for (key, generation) in [(&first, Some(0)), (&second, Some(1)), (&plane.key(), None)] {
        let log = verdict(&third, Some(key), Some(&note(&after))).unwrap();
        assert_eq!((log.generation, log.pinned_generation), (2, generation));
        assert_eq!(log.key, plane.key().to_string());
    }
    let stranger = SigningKey::from_seed(first.origin(), &[9; 32]).unwrap();
    assert_eq!(failed(&third, Some(stranger.verifying()), None), What::Signature);
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_stolen_key_makes_no_log_that_who_knows_the_chain_believes() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(3).await;
    let (first, stolen) = (plane.key(), plane.signing("acme"));
    let before = plane.pack(&dir.path().join("before")).await;
    let state = plane.rotate(0).await;
    let (leaf, alone) = (state.statements[0].leaf, state.chain.counts_up_to(0).unwrap());
    plane.leaves(2).await;
    let second = plane.key();
    let good = plane.pack(&dir.path().join("good")).await;
    assert!(verdict(&good, Some(&first), None).is_ok());
    let of = Checkpoint::open(&note(&good), &second).unwrap();

    // The true log, signed by the stolen key alone, with the statement left out: the leaf says it.
    let forged = dir.path().join("forged");
    copy(&good, &forged);
    fs::remove_dir_all(forged.join("plane")).unwrap();
    let by_thief = stolen.checkpoint(of.size, &of.root);
    fs::write(forged.join(CHECKPOINT_FILE), &by_thief).unwrap();
    fs::write(forged.join(KEY_FILE), first.lines()).unwrap();
    assert_eq!(failed(&forged, Some(&first), None), What::Key, "no whole chain and the key that is in it");
    fs::remove_file(forged.join(KEYS_FILE)).unwrap();
    let finding = verdict(&forged, Some(&first), None).unwrap_err();
    assert_eq!((finding.what, finding.leaf), (What::Key, Some(leaf)));
    assert_eq!(failed(&forged, Some(&second), None), What::Signature);
    // With the statement: the note lacks the present key.
    copy(&good, &forged);
    fs::remove_dir_all(forged.join("plane")).unwrap();
    fs::write(forged.join(CHECKPOINT_FILE), &by_thief).unwrap();
    for key in [&first, &second] {
        assert_eq!(failed(&forged, Some(key), None), What::Signature);
    }
    // What a thief says that it kept from after the time of the key is no checkpoint of the log.
    for size in [alone + 1, of.size] {
        assert_eq!(failed(&good, Some(&second), Some(&stolen.checkpoint(size, &of.root))), What::Against);
    }
    assert!(verdict(&good, Some(&second), Some(&note(&before))).is_ok());

    // A successor of the thief's own: another chain. Who knows the present key does not follow it, and a reader of
    // the true log does not take its statement.
    let own = SigningKey::from_seed(first.origin(), &[66; 32]).unwrap().with_ml_dsa(&[67; 32]).unwrap();
    let fork = |by: &[&SigningKey]| {
        let statement = Statement::Rotation {
            generation: 1,
            old: first.clone(),
            new: own.verifying().clone(),
            size: alone,
            time: "2026-11-23T10:11:12.123456Z".to_owned(),
        };
        serde_json::to_string(&Entry { leaf, statement: statement.signed(by).unwrap() }).unwrap() + "\n"
    };
    let make = |statements: &str| {
        copy(&good, &forged);
        fs::remove_dir_all(forged.join("plane")).unwrap();
        fs::write(forged.join(CHECKPOINT_FILE), own.checkpoint(of.size, &of.root)).unwrap();
        fs::write(forged.join(KEY_FILE), own.verifying().lines()).unwrap();
        fs::write(forged.join(KEYS_FILE), statements).unwrap();
    };
    for (by, wanted) in [
        (vec![&stolen], (What::Key, None)),
        (vec![&own], (What::Key, None)),
        (vec![&stolen, &own], (What::Key, Some(leaf))),
    ] {
        make(&fork(&by));
        let finding = verdict(&forged, Some(&first), None).unwrap_err();
        assert_eq!((finding.what, finding.leaf), wanted, "{finding}");
    }
    assert_eq!(failed(&forged, Some(&second), None), What::Signature);
    // Both successors in one chain.
    let statements = fs::read_to_string(good.join(KEYS_FILE)).unwrap();
    for both in [statements.clone() + &fork(&[&stolen, &own]), fork(&[&stolen, &own]) + &statements] {
        make(&both);
        assert_eq!(failed(&forged, Some(&first), None), What::Key);
    }
    let at = format!("\"leaf\":{leaf}");
    // A line that is none, the statement in another leaf, and one that is not there.
    for wrong in [
        String::new(),
        "\n".to_owned(),
        statements.trim_end().to_owned(),
        statements.replace(&at, &format!("\"leaf\":{}", leaf + 1)),
        statements.replace(&at, "\"leaf\":9999"),
        statements.replace(&at, "\"leaf\":-1"),
        statements.replace(&at, &format!("{at}.0")),
        statements.replace(&at, &format!("{at},{at}")),
        statements.replace(&at, &format!("\"more\":1,{at}")),
        statements.replace("generation 1", "generation 2"),
        statements.replace(&format!("size {alone}"), "size 0"),
        statements.replace("/acme", "/else"),
    ] {
        assert_ne!(wrong, statements);
        copy(&good, &forged);
        fs::write(forged.join(KEYS_FILE), &wrong).unwrap();
        fs::write(forged.join(KEY_FILE), second.lines()).unwrap();
        fs::write(forged.join(CHECKPOINT_FILE), note(&good)).unwrap();
        assert_eq!(failed(&forged, Some(&second), None), What::Key, "{wrong}");
    }
}

#[tokio::test]
async fn both_verifiers_find_every_damaged_byte_of_the_statements() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(1).await;
    let first = plane.key();
    plane.rotate(0).await;
    let good = plane.pack(&dir.path().join("good")).await;
    let whole = fs::read(good.join(KEYS_FILE)).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 7);
        fs::write(good.join(KEYS_FILE), damaged).unwrap();
        assert_eq!(failed(&good, Some(&first), None), What::Key, "byte {at}");
    }
}

#[tokio::test]
async fn what_was_asked_for_happens_once_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(1).await;
    let by: OperatorId = Id::new(&SystemClock, &SystemEntropy);
    let ask = KeyChange::Rotate { overlap_days: 30 };
    let asked = (ask.clone(), by, "anna".to_owned());
    let told_of = || told(EventType::LedgerKeyRotated, &acme());
    let request =
        plane.evidence().ask_key_change(&acme(), asked, told(EventType::LedgerKeyRequested, &acme())).await.unwrap();
    plane.start().await;
    assert_eq!(plane.evidence().key_state(&acme()).unwrap().request, Some(request.clone()), "it outlives a start");
    let other: EventId = Id::new(&SystemClock, &SystemEntropy);
    for (id, change) in [(other, ask.clone()), (request.id, KeyChange::Rotate { overlap_days: 0 })] {
        let refused = plane.evidence().change_keys(&acme(), (id, change), told_of()).await;
        assert!(matches!(refused, Err(KeyChangeError::Asked)));
    }
    plane.evidence().change_keys(&acme(), (request.id, ask.clone()), told_of()).await.unwrap();
    let again = plane.evidence().change_keys(&acme(), (request.id, ask), told_of()).await;
    assert!(matches!(again, Err(KeyChangeError::Asked)));
    assert_eq!(plane.evidence().key_state(&acme()).unwrap().chain.generation(), 1);
}

#[tokio::test]
async fn a_revoked_key_counts_no_further_than_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(10).await;
    let (first, stolen) = (plane.key(), plane.signing("acme"));
    let early = plane.pack(&dir.path().join("early")).await;
    plane.leaves(10).await;
    let late = plane.pack(&dir.path().join("late")).await;
    assert!(matches!(revoke(plane.evidence(), 0, None).await, Err(KeyChangeError::NotPast(0))));
    let most = plane.rotate(90).await.chain.counts_up_to(0).unwrap();
    assert!(matches!(rotate(plane.evidence(), &acme(), 0).await, Err(KeyChangeError::Overlap(_))));
    assert!(matches!(revoke(plane.evidence(), 1, None).await, Err(KeyChangeError::NotPast(1))));
    let beyond = revoke(plane.evidence(), 0, Some(most + 1)).await;
    assert!(matches!(beyond, Err(KeyChangeError::Size { most: of, .. }) if of == most));
    let state = revoke(plane.evidence(), 0, Some(15)).await.unwrap();
    // It does not sign along any more, whatever the overlap was.
    assert!(state.retiring.is_none() && !plane.file("acme.sign").exists());
    assert_eq!((state.chain.counts_up_to(0), state.chain.is_revoked(0)), (Some(15), true));
    assert!(matches!(revoke(plane.evidence(), 0, Some(16)).await, Err(KeyChangeError::Size { most: 15, .. })));
    plane.start().await;
    plane.leaves(1).await;
    let pack = plane.pack(&dir.path().join("pack")).await;
    let (second, of) = (plane.key(), Checkpoint::open(&note(&pack), &plane.key()).unwrap());
    let log = verdict(&pack, Some(&first), Some(&note(&early))).unwrap();
    assert!(log.pinned_revoked && log.pinned_generation == Some(0));
    assert!(!verdict(&pack, Some(&second), None).unwrap().pinned_revoked);
    for beyond in [note(&late), stolen.checkpoint(16, &of.root), stolen.checkpoint(of.size, &of.root)] {
        assert_eq!(failed(&pack, Some(&second), Some(&beyond)), What::Against);
    }
    // The thief cannot take it back, nor revoke in its turn.
    let lines = fs::read_to_string(pack.join(KEYS_FILE)).unwrap();
    let entries: Vec<Entry> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let Ok(Statement::Revocation { key, why, time, .. }) =
        Statement::from_text(Note::parse(&entries[1].statement).unwrap().text)
    else {
        panic!("{lines}")
    };
    let counter = Statement::Revocation { generation: 0, key, size: most, why, time };
    let line = Entry { leaf: entries[1].leaf, statement: counter.signed(&[&stolen]).unwrap() };
    let first_line = lines.lines().next().unwrap();
    for wrong in [format!("{first_line}\n"), format!("{first_line}\n{}\n", serde_json::to_string(&line).unwrap())] {
        fs::write(pack.join(KEYS_FILE), wrong).unwrap();
        assert_eq!(failed(&pack, Some(&second), None), What::Key);
    }
    // A rotation after a revocation goes on.
    fs::write(pack.join(KEYS_FILE), &lines).unwrap();
    plane.rotate(1).await;
    plane.leaves(1).await;
    let next = plane.pack(&dir.path().join("next")).await;
    for key in [&first, &second, &plane.key()] {
        assert_eq!(verdict(&next, Some(key), Some(&note(&pack))).unwrap().generation, 2);
    }
}

#[tokio::test]
async fn a_start_makes_good_what_a_killed_plane_had_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("before"));
    plane.leaves(3).await;
    let first = plane.key();
    plane.stop();
    let after = dir.path().join("after");
    copy(&plane.dir, &after);
    let mut plane = Plane { dir: after, ..plane };
    plane.start().await;
    plane.rotate(30).await;
    plane.stop();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let unrecorded = |keys: &Path| {
        let file = keys.join("acme.chain");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert!(record["statements"][0]["leaf"].is_u64());
        record["statements"][0]["leaf"] = serde_json::Value::Null;
        fs::write(file, record.to_string()).unwrap();
    };
    for (step, generation) in [
        ("new seeds only", 0),
        ("statement in the file", 1),
        ("leaf without its mark", 1),
        ("half destroyed", 1),
        ("destroyed", 1),
    ] {
        let named = |what: &str| dir.path().join(format!("{what} {step}"));
        let here = named("plane");
        let clock = Arc::new(SetClock(AtomicU64::new(START)));
        match step {
            "new seeds only" => {
                copy(&before, &here);
                for kind in ["sign", "mldsa"] {
                    fs::copy(after.join(format!("keys/acme.1.{kind}")), here.join(format!("keys/acme.1.{kind}")))
                        .unwrap();
                }
            }
            "statement in the file" => {
                copy(&before, &here);
                copy(&after.join("keys"), &here.join("keys"));
                unrecorded(&here.join("keys"));
            }
            "leaf without its mark" => {
                copy(&after, &here);
                unrecorded(&here.join("keys"));
            }
            "half destroyed" => {
                copy(&after, &here);
                fs::write(here.join("keys/acme.sign"), [0; 44]).unwrap();
                clock.0.fetch_add(30 * DAY, Ordering::SeqCst);
            }
            _ => {
                copy(&after, &here);
                fs::remove_file(here.join("keys/acme.sign")).unwrap();
                fs::remove_file(here.join("keys/acme.mldsa")).unwrap();
                clock.0.fetch_add(30 * DAY, Ordering::SeqCst);
            }
        }
        let mut killed = Plane { dir: here, clock, evidence: None };
        killed.start().await;
        killed.leaves(1).await;
        let pack = killed.pack(&named("pack")).await;
        let log = verdict(&pack, Some(&first), None).unwrap();
        assert_eq!(log.generation, generation, "{step}");
        let statements = fs::read_to_string(pack.join(KEYS_FILE)).unwrap_or_default();
        assert_eq!(statements.lines().count() as u64, generation, "{step}: said once");
        // Nothing is left to be done, and the next rotation works.
        killed.start().await;
        let state = killed.evidence().key_state(&acme()).unwrap();
        assert_eq!(state.retiring.is_some(), !step.contains("destroyed") && generation == 1, "{step}");
        assert_eq!(killed.file("acme.sign").exists(), !step.contains("destroyed"), "{step}");
        killed.later(31);
        killed.evidence().retire_keys().await.unwrap();
        killed.rotate(0).await;
        let last = killed.pack(&named("last")).await;
        assert_eq!(verdict(&last, Some(&first), Some(&note(&pack))).unwrap().generation, generation + 1, "{step}");
    }
}

#[tokio::test]
async fn a_statement_that_a_crash_said_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(2).await;
    let first = plane.key();
    let state = plane.rotate(0).await;
    // As a start does it that cannot see the leaf any more, because it reads the log from a snapshot on.
    let statement = state.statements[0].statement.clone();
    let again = told(EventType::LedgerKeyRotated, &acme()).public("log", state.origin).public("statement", statement);
    plane.evidence().record(again).await.unwrap();
    let twice = plane.pack(&dir.path().join("twice")).await;
    assert_eq!(fs::read_to_string(twice.join(KEYS_FILE)).unwrap().lines().count(), 2);
    plane.start().await;
    let served = plane.evidence().key_statements(&acme(), u64::MAX).unwrap().unwrap();
    assert_eq!(served.lines().count(), 1);
    for statements in [fs::read_to_string(twice.join(KEYS_FILE)).unwrap(), served] {
        fs::write(twice.join(KEYS_FILE), statements).unwrap();
        assert_eq!(verdict(&twice, Some(&first), None).unwrap().generation, 1);
    }
}

#[tokio::test]
async fn key_files_older_than_the_log_are_noticed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(3).await;
    plane.stop();
    let old = dir.path().join("old-keys");
    copy(&plane.dir.join("keys"), &old);
    plane.start().await;
    plane.rotate(30).await;
    plane.leaves(1).await;
    plane.stop();
    let new = dir.path().join("new-keys");
    copy(&plane.dir.join("keys"), &new);
    let put = |keys: &Path| {
        fs::remove_dir_all(plane.dir.join("keys")).unwrap();
        copy(keys, &plane.dir.join("keys"));
    };
    // All of them as they were; then the chain alone; then with a checkpoint that the old key would take.
    put(&old);
    assert!(matches!(plane.open(), Err(OpenError::Keys(KeyringError::Behind(_)))));
    put(&new);
    fs::remove_file(plane.file("acme.chain")).unwrap();
    assert!(matches!(plane.open(), Err(OpenError::Keys(KeyringError::Behind(_)))));
    put(&old);
    let checkpoint = plane.dir.join("tenants/acme/checkpoint");
    let signed = fs::read(&checkpoint).unwrap();
    fs::remove_file(&checkpoint).unwrap();
    assert!(matches!(plane.open(), Err(OpenError::Keys(KeyringError::Behind(_)))), "the leaf says it");
    fs::write(&checkpoint, signed).unwrap();
    // The new key gone, or another one in its place: none is made, and none is taken.
    put(&new);
    fs::remove_file(plane.file("acme.1.mldsa")).unwrap();
    assert!(matches!(plane.open(), Err(OpenError::Keys(KeyringError::Gone(_)))));
    fs::copy(plane.file("acme.1.sign"), plane.file("acme.1.mldsa")).unwrap();
    assert!(matches!(plane.open(), Err(OpenError::Keys(KeyringError::OtherKey(_)))));
    put(&new);
    plane.start().await;
    plane.leaves(1).await;
}

#[tokio::test]
async fn the_plane_log_gets_a_new_key_and_says_so_in_the_log_of_the_plane() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&dir.path().join("evidence"));
    plane.leaves(3).await;
    let key = |plane: &Plane| -> VerifyingKey {
        plane.evidence().verifying_keys(&LogName::Plane).unwrap().trim_end().parse().unwrap()
    };
    let first = key(&plane);
    plane.pack(&dir.path().join("before")).await;
    rotate(plane.evidence(), &LogName::Plane, 5).await.unwrap();
    let second = key(&plane);
    for (name, of) in [("acme", "acme"), ("own", "default")] {
        let pack = dir.path().join(name);
        plane.evidence().export(&tenant(of), &pack).await.unwrap();
        let log = verdict(&pack, None, None).unwrap();
        // The statement is a leaf of the plane's own log, and that log has its first key still.
        assert_eq!((log.generation, log.anchored.unwrap().key), (0, second.to_string()));
        let proof = fs::read_to_string(pack.join("plane/checkpoint.tlog-proof")).unwrap();
        let (_, note) = proof.split_once("\n\n").unwrap();
        for key in [&first, &second] {
            Checkpoint::open(note, key).unwrap();
        }
        let statements = pack.join("plane").join(KEYS_FILE);
        let good = fs::read_to_string(&statements).unwrap();
        fs::write(&statements, good.replace("generation 1", "generation 2")).unwrap();
        assert_eq!(failed(&pack, None, None), What::Key);
    }
    plane.later(5);
    plane.start().await;
    assert!(!plane.file("plane.log.sign").exists());
    plane.leaves(1).await;
    verdict(&plane.pack(&dir.path().join("later")).await, None, None).unwrap();
    let note = plane.evidence().published(&LogName::Plane).unwrap().note.clone();
    assert!(Checkpoint::open(&note, &first).is_err());
    Checkpoint::open(&note, &second).unwrap();
}
