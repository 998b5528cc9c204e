//! Erasing means that nobody opens the value again, with all files of the ledger in hand; and nothing else changes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_evidence::{DecidedOrCompleted, EraseError, Erasure, Evidence, Kept, LeafView, executed};
use cogward_ledger::{Hash, leaf::leaf_hash, note::Checkpoint, proof::verify_inclusion};
use cogward_model::{
    RunId, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::RedactionId,
    redaction::{ErasureScope, HoldScope},
};
use cogward_wal::Wal;
use support::{SetClock, files, new_run, open, options, tenant, verified};

const DAY: u64 = 86_400_000_000;

fn of(person: &str, run: RunId, secret: &str) -> Event {
    let by = Attribution {
        agent: Some(("claims".parse().unwrap(), "1.0.0".parse().unwrap())),
        subject: Some(person.to_owned()),
    };
    Event::new(EventType::ToolCallDecided, tenant("acme"), by)
        .public("decision", "block")
        .personal("args", secret)
        .confidential("path", format!("/files/{secret}"))
        .run(run)
}

fn subject(name: &str) -> ErasureScope {
    ErasureScope::Subject(name.to_owned())
}

fn new_redaction() -> RedactionId {
    RedactionId::new(&SystemClock, &SystemEntropy)
}

fn said(scope: &ErasureScope, by: RedactionId) -> Event {
    let event = Event::new(EventType::RedactionExecuted, tenant("acme"), Attribution::plane())
        .public("redaction", by.to_string())
        .public("ground", "gdpr-17-1-b");
    match scope {
        ErasureScope::Field { leaf, name } => event.public("leaf", *leaf).public("field", name.as_str()),
        _ => event,
    }
}

/// All steps, as the plane takes them.
async fn erase(evidence: &Evidence, scope: &ErasureScope) -> (RedactionId, Erasure) {
    let by = new_redaction();
    let erasure = evidence.prepare_erasure(&tenant("acme"), scope).await.unwrap();
    evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap();
    for event in executed(&erasure, || said(scope, by)) {
        evidence.record(event).await.unwrap();
    }
    (by, erasure)
}

async fn leaves(evidence: &Evidence, run: RunId) -> Vec<LeafView> {
    evidence.run_leaves(&tenant("acme"), run, 0, 1_000).await.unwrap()
}

fn opens(key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    key.open_in_place(nonce, Aad::from(aad), &mut bytes).ok().map(|plain| plain.to_vec())
}

/// What a thief can open who has every byte of the directory and knows how it is made. Every place of every file is taken
/// for a data key as it is wrapped, with every wrapping key; and for a key as it is. With these, every sealed value of the
/// log and of what was sealed again is tried. Gives the opened disclosures.
fn stolen(dir: &Path, ids: &[String]) -> Vec<String> {
    // Tiles and the index come and go meanwhile.
    let contents: Vec<Vec<u8>> = files(dir).iter().filter_map(|path| fs::read(path).ok()).collect();
    let keks: Vec<Vec<u8>> = files(&dir.join("keys"))
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "kek"))
        .map(|path| STANDARD.decode(fs::read(path).unwrap()).unwrap())
        .collect();
    let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
    for content in &contents {
        for record in content.windows(110).filter(|record| record[62..94] != [0; 32]) {
            let aad = [b"acme\0", &record[..49]].concat();
            keys.extend(keks.iter().filter_map(|kek| opens(kek, &record[50..62], &aad, &record[62..110])));
        }
    }
    let mut sealed: Vec<(String, Vec<u8>)> = Vec::new();
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    drop(Wal::open(&dir.join("wal"), options(dir).wal, &mut |frame| match frame.kind {
        2 => waiting.push(frame.payload[5..].to_vec()),
        // A leaf of the plane log.
        16 => {}
        _ => {
            let text = String::from_utf8_lossy(frame.payload).into_owned();
            let id = text.split("\"id\":\"").nth(1).unwrap()[..30].to_owned();
            sealed.extend(waiting.drain(..).map(|one| (id.clone(), one)));
        }
    }));
    for path in files(&dir.join("vault")).iter().filter(|path| path.extension().is_some_and(|e| e == "resealed")) {
        let content = fs::read(path).unwrap();
        let mut rest = &content[..];
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            sealed.push((String::from_utf8(rest[5..35].to_vec()).unwrap(), rest[35..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
    }
    let raw = contents.iter().flat_map(|content| content.windows(32)).filter(|key| key.iter().all(|byte| *byte != 0));
    let mut found = Vec::new();
    let mine = || sealed.iter().filter(|(id, _)| ids.contains(id));
    let mut attempt = |key: &[u8], id: &str, sealed: &[u8]| {
        let length = usize::from(sealed[16]);
        let field = std::str::from_utf8(&sealed[17..17 + length]).unwrap();
        let rest = &sealed[17 + length..];
        let aad = ["acme", id, field].join("\0");
        found.extend(opens(key, &rest[..12], aad.as_bytes(), &rest[12..]).map(|p| String::from_utf8(p).unwrap()));
    };
    keys.iter().for_each(|key| mine().for_each(|(id, sealed)| attempt(key, id, sealed)));
    if let Some((id, one)) = mine().next() {
        raw.for_each(|key| attempt(key, id, one));
    }
    found
}

fn ids(leaves: &[LeafView]) -> Vec<String> {
    leaves.iter().map(|leaf| leaf.body["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn after_an_erasure_nobody_opens_the_values_with_all_files_in_hand_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let (anna, berta) = (new_run(), new_run());
    for n in 0..3 {
        evidence.record(of("anna", anna, &format!("a{n}"))).await.unwrap();
        evidence.record(of("berta", berta, &format!("b{n}"))).await.unwrap();
    }
    // A record that somebody else made about her.
    let about = Event::new(EventType::MemoryForgotten, tenant("acme"), Attribution::operator("ops"));
    evidence.record(about.about("anna").personal("user", "anna").run(berta)).await.unwrap();
    let before = leaves(&evidence, anna).await;
    let (of_anna, of_berta) = (ids(&before), ids(&leaves(&evidence, berta).await));
    evidence.checkpoint(&tenant("acme")).await.unwrap();
    let old_checkpoint = fs::read_to_string(dir.path().join("tenants/acme/checkpoint")).unwrap();
    drop(evidence);
    assert_eq!(stolen(dir.path(), &of_anna).len(), 9, "the thief knows the trade");
    let log_before: Vec<Vec<u8>> = log_of(dir.path());

    let evidence = open(dir.path());
    let (by, erasure) = erase(&evidence, &subject("anna")).await;
    assert_eq!(erasure.values.len(), 10);
    let after = leaves(&evidence, anna).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.body, &before.hash), (&after.body, &after.hash), "the log is the same");
        assert_eq!(after.body["decision"], "block");
        assert_eq!(after.body["act"], "agent:claims@1.0.0");
        assert!(after.disclosed.is_empty());
        let fields = ["args", "path", "sub"].map(|field| (field.to_owned(), by));
        assert_eq!(after.erased, BTreeMap::from(fields));
    }
    let other = leaves(&evidence, berta).await;
    assert_eq!(other[0].disclosed["args"], "b0");
    assert_eq!(other[3].disclosed["sub"], "ops");
    assert_eq!(other[3].erased["user"], by);
    // The same person again: a new key, which the erasure does not reach.
    evidence.record(of("anna", anna, "later")).await.unwrap();
    assert_eq!(leaves(&evidence, anna).await[3].disclosed["args"], "later");
    let whole = verified(&evidence, "acme").await;
    drop(evidence);

    assert!(stolen(dir.path(), &of_anna).is_empty());
    assert_eq!(stolen(dir.path(), &of_berta).len(), 10);
    let log_after = log_of(dir.path());
    assert_eq!(log_after[..log_before.len()], log_before, "byte for byte");
    // The checkpoint from before is one of the log that it is now.
    let again = open(dir.path());
    let key = again.verifying_key(&tenant("acme")).unwrap().parse().unwrap();
    let old = Checkpoint::open(&old_checkpoint, &key).unwrap();
    let hashes: Vec<Hash> = log_after.iter().map(|leaf| leaf_hash(leaf)).collect();
    let tree = cogward_ledger::proof::Tree::new(hashes);
    assert_eq!(tree.root(usize::try_from(old.size).unwrap()), Some(old.root));
    let shown = leaves(&again, anna).await;
    assert_eq!((shown[0].erased.len(), shown[3].disclosed.len()), (3, 3));
    assert_eq!(verified(&again, "acme").await.leaves, whole.leaves);
    assert!(again.replay_erasures().await.unwrap().returned.is_empty(), "nothing has come back");
    let nothing = again.prepare_erasure(&tenant("acme"), &subject("carla")).await;
    assert!(matches!(nothing, Err(EraseError::Nothing)));
}

/// The leaves of the tenant, as they lie in the log.
fn log_of(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    drop(Wal::open(&dir.join("wal"), options(dir).wal, &mut |frame| {
        if frame.kind == 1 && frame.payload.starts_with(b"\x04acme") {
            found.push(frame.payload[5..].to_vec());
        }
    }));
    found
}

#[tokio::test]
async fn one_field_goes_and_its_neighbours_stay() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    for n in 0..3 {
        evidence.record(of("anna", run, &format!("a{n}"))).await.unwrap();
    }
    let all = ids(&leaves(&evidence, run).await);
    let field = |leaf, name: &str| ErasureScope::Field { leaf, name: name.to_owned() };
    let (by, erasure) = erase(&evidence, &field(1, "args")).await;
    assert_eq!(erasure.values.iter().map(|v| (v.seq, v.field.as_str())).collect::<Vec<_>>(), [(1, "args")]);
    let (second, _) = erase(&evidence, &field(2, "args")).await;
    let shown = leaves(&evidence, run).await;
    assert_eq!((shown[0].disclosed["args"].as_str(), shown[0].erased.len()), (Some("a0"), 0));
    assert_eq!((shown[1].disclosed["sub"].as_str(), shown[1].erased["args"]), (Some("anna"), by));
    assert_eq!((shown[2].disclosed["sub"].as_str(), shown[2].erased["args"]), (Some("anna"), second));
    assert_eq!(shown[2].disclosed["path"], "/files/a2");
    let refused =
        async |leaf, name: &str| evidence.prepare_erasure(&tenant("acme"), &field(leaf, name)).await.unwrap_err();
    assert!(matches!(refused(1, "args").await, EraseError::Already(found) if found == by));
    assert!(matches!(refused(1, "decision").await, EraseError::Public { .. }));
    assert!(matches!(refused(1, "tenant").await, EraseError::Public { .. }));
    assert!(matches!(refused(1, "nothing").await, EraseError::NoSuchField { .. }));
    assert!(matches!(refused(999, "args").await, EraseError::NoSuchLeaf(999)));
    drop(evidence);
    let opened = stolen(dir.path(), &all);
    let holds = |value: &str| opened.iter().filter(|text| decoded(text).contains(value)).count();
    assert_eq!((holds("\"a1\""), holds("\"a2\""), holds("files/a1")), (0, 0, 1), "{opened:?}");
    let evidence = open(dir.path());
    assert_eq!(leaves(&evidence, run).await[2].disclosed.len(), 2, "after a restart as before");
    // What was sealed again goes with the person too.
    let (third, erasure) = erase(&evidence, &subject("anna")).await;
    assert_eq!(erasure.values.len(), 7);
    let shown = leaves(&evidence, run).await;
    assert!(shown.iter().all(|leaf| leaf.disclosed.is_empty() && leaf.erased.len() == 3));
    assert_eq!((shown[1].erased["args"], shown[1].erased["sub"]), (by, third));
    drop(evidence);
    assert!(stolen(dir.path(), &all).is_empty());
}

fn decoded(disclosure: &str) -> String {
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(disclosure).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_made_good_by_doing_them_again() {
    let start = 20_000 * DAY;
    for stop_after in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock(start.into()));
        let opened = |dir: &Path| {
            let mut options = options(dir);
            options.clock = Arc::clone(&clock) as _;
            Evidence::open(options).unwrap()
        };
        let mut evidence = opened(dir.path());
        let run = new_run();
        // Two files of keys: what is half done has one of them behind it.
        evidence.record(of("anna", run, "one")).await.unwrap();
        clock.0.fetch_add(40 * DAY, Ordering::SeqCst);
        evidence.record(of("anna", run, "two")).await.unwrap();
        let by = new_redaction();
        let erasure = evidence.prepare_erasure(&tenant("acme"), &subject("anna")).await.unwrap();
        let plan = serde_json::to_string(&erasure.plan).unwrap();
        match stop_after {
            0 => {}
            1 => {
                // Killed in the middle: half of the keys are gone, and one is half overwritten.
                let mut half: serde_json::Value = serde_json::from_str(&plan).unwrap();
                half["keys"].as_array_mut().unwrap().truncate(1);
                let half = serde_json::from_value(half).unwrap();
                evidence.destroy(&tenant("acme"), by, &half).await.unwrap();
                let path = files(&dir.path().join("vault")).into_iter().max().unwrap();
                let mut bytes = fs::read(&path).unwrap();
                bytes[70..110].fill(0);
                fs::write(&path, bytes).unwrap();
            }
            2 => drop(evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap()),
            _ => {
                evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap();
                evidence.record(executed(&erasure, || said(&subject("anna"), by)).remove(0)).await.unwrap();
            }
        }
        drop(evidence);
        evidence = opened(dir.path());
        let plan = serde_json::from_str(&plan).unwrap();
        let again = evidence.prepare_again(&tenant("acme"), plan).await.unwrap();
        assert_eq!(again.values.len(), 6, "the same values, {stop_after}");
        let commitments = |erasure: &Erasure| erasure.values.iter().map(|v| v.commitment.clone()).collect::<Vec<_>>();
        assert_eq!(commitments(&again), commitments(&erasure));
        evidence.destroy(&tenant("acme"), by, &again.plan).await.unwrap();
        let shown = leaves(&evidence, run).await;
        assert!(shown.iter().all(|leaf| leaf.disclosed.is_empty() && leaf.erased.values().all(|id| *id == by)));
        let all = ids(&shown);
        verified(&evidence, "acme").await;
        drop(evidence);
        assert!(stolen(dir.path(), &all).is_empty());
    }
}

#[tokio::test]
async fn an_old_copy_of_the_vault_brings_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let (run, other) = (new_run(), new_run());
    evidence.record(of("anna", run, "a0")).await.unwrap();
    evidence.record(of("anna", run, "a1")).await.unwrap();
    evidence.record(of("berta", other, "b0")).await.unwrap();
    let all = ids(&leaves(&evidence, run).await);
    drop(evidence);
    let vault = dir.path().join("vault");
    let backup = dir.path().join("backup");
    let copied = std::process::Command::new("cp").arg("-a").arg(&vault).arg(&backup).status().unwrap();
    assert!(copied.success());

    let evidence = open(dir.path());
    let (field, _) = erase(&evidence, &ErasureScope::Field { leaf: 0, name: "args".to_owned() }).await;
    drop(evidence);
    let restore = || {
        fs::remove_dir_all(&vault).unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(&backup).arg(&vault).status().unwrap();
        assert!(copied.success());
    };
    restore();
    let evidence = open(dir.path());
    let replayed = evidence.replay_erasures().await.unwrap();
    assert_eq!(replayed.returned.values().sum::<usize>(), 1);
    assert_eq!(replayed.executed, BTreeSet::from([field]));
    let shown = leaves(&evidence, run).await;
    assert_eq!((shown[0].erased["args"], shown[0].disclosed["sub"].as_str()), (field, Some("anna")), "neighbours stay");
    assert_eq!(shown[1].disclosed["args"], "a1");

    // Now the person: what the first one sealed again must not come back by the second copy.
    let (person, _) = erase(&evidence, &subject("anna")).await;
    drop(evidence);
    restore();
    let evidence = open(dir.path());
    assert!(!evidence.replay_erasures().await.unwrap().returned.is_empty());
    let shown = leaves(&evidence, run).await;
    assert!(shown.iter().all(|leaf| leaf.disclosed.is_empty()), "{shown:?}");
    assert_eq!(shown[1].erased["path"], person);
    assert_eq!(leaves(&evidence, other).await[0].disclosed["args"], "b0");
    let whole = verified(&evidence, "acme").await;
    assert_eq!(whole.leaves, 3 + 2 + 3, "each return is in the log: one, and then two");
    drop(evidence);
    fs::remove_dir_all(&backup).unwrap();
    assert!(stolen(dir.path(), &all).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_recorded_meanwhile_is_either_erased_and_named_or_opens() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    evidence.record(of("anna", run, "first")).await.unwrap();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let evidence = evidence.clone();
            tokio::spawn(async move {
                for n in 0..60 {
                    evidence.note(of("anna", run, &format!("note {writer} {n}"))).unwrap();
                    evidence.record(of("anna", run, &format!("{writer} {n}"))).await.unwrap();
                }
            })
        })
        .collect();
    let mut named = BTreeSet::new();
    for _ in 0..5 {
        // Somebody has recorded for her since the last time, or else there is nothing to erase.
        evidence.record(of("anna", run, "between")).await.unwrap();
        let (_, erasure) = erase(&evidence, &subject("anna")).await;
        named.extend(erasure.values.into_iter().map(|value| (value.seq, value.field)));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    evidence.record(of("anna", run, "last")).await.unwrap();
    let shown = leaves(&evidence, run).await;
    assert_eq!(shown.len(), 2 + 5 + 6 * 60 * 2);
    for leaf in &shown {
        for field in ["sub", "args", "path"] {
            let (opens, erased) = (leaf.disclosed.contains_key(field), leaf.erased.contains_key(field));
            assert!(opens != erased, "{} {field} is one of the two", leaf.seq);
            assert_eq!(erased, named.contains(&(leaf.seq, field.to_owned())), "{} {field}", leaf.seq);
        }
    }
    assert_eq!(shown.last().unwrap().disclosed["args"], "last");
    verified(&evidence, "acme").await;
}

#[tokio::test]
async fn what_policies_count_by_outlives_the_person_and_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    let added = cogward_model::event::Value::Map(BTreeMap::from([(
        "calls() per user".to_owned(),
        cogward_model::event::Value::Int(1),
    )]));
    evidence.record(of("anna", run, "a").confidential("history", added)).await.unwrap();
    let field = ErasureScope::Field { leaf: 0, name: "history".to_owned() };
    assert!(matches!(evidence.examine(&tenant("acme"), &field).await, Err(EraseError::Counted("history"))));
    erase(&evidence, &subject("anna")).await;
    let mut seen = Vec::new();
    evidence.replay_decisions(None, evidence.committed(), &mut |one| seen.push(one.clone())).unwrap();
    let Some(DecidedOrCompleted::Decided { lasting: Some(lasting), .. }) = seen.first() else { panic!("{seen:?}") };
    assert_eq!(lasting.subject, Kept::Lost);
    assert_eq!(lasting.added, Kept::Known(BTreeMap::from([("calls() per user".to_owned(), 1)])));
}

#[tokio::test]
async fn another_tenants_person_of_the_same_name_is_another_person() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let (here, there) = (new_run(), new_run());
    evidence.record(of("anna", here, "mine")).await.unwrap();
    let mut theirs = of("anna", there, "theirs");
    theirs.tenant = tenant("evil");
    evidence.record(theirs).await.unwrap();
    erase(&evidence, &subject("anna")).await;
    let kept = evidence.run_leaves(&tenant("evil"), there, 0, 10).await.unwrap();
    assert_eq!(kept[0].disclosed["args"], "theirs");
    let theirs = evidence.prepare_erasure(&tenant("acme"), &ErasureScope::Run(there)).await;
    assert!(matches!(theirs, Err(EraseError::Nothing)), "a run of another tenant is nothing here");
}

#[tokio::test]
async fn a_hold_keeps_what_is_in_its_scope_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock((20_000 * DAY).into()));
    let mut with_clock = options(dir.path());
    with_clock.clock = Arc::clone(&clock) as _;
    let evidence = Evidence::open(with_clock).unwrap();
    let (anna, berta) = (new_run(), new_run());
    evidence.record(of("anna", anna, "a")).await.unwrap();
    clock.0.fetch_add(DAY, Ordering::SeqCst);
    evidence.record(of("berta", berta, "b")).await.unwrap();
    let erasure = evidence.examine(&tenant("acme"), &ErasureScope::Run(anna)).await.unwrap();
    let held =
        |hold: &HoldScope| erasure.values.iter().all(|value| evidence.is_held(&tenant("acme"), value, hold).unwrap());
    let at = |days: u64| cogward_model::Timestamp::from_unix_micros(days * DAY);
    assert!(held(&HoldScope::Subject("anna".into())) && !held(&HoldScope::Subject("berta".into())));
    assert!(held(&HoldScope::Run(anna)) && !held(&HoldScope::Run(berta)));
    assert!(held(&HoldScope::Agent("claims".parse().unwrap())) && !held(&HoldScope::Agent("other".parse().unwrap())));
    assert!(held(&HoldScope::Window { from: at(19_999), until: None }));
    assert!(held(&HoldScope::Window { from: at(20_000), until: Some(at(20_001)) }));
    assert!(!held(&HoldScope::Window { from: at(20_001), until: None }));
    assert!(!held(&HoldScope::Window { from: at(19_000), until: Some(at(20_000)) }));
}

#[tokio::test]
async fn values_whose_time_is_over_go_by_day_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock((20_000 * DAY).into()));
    let mut with_clock = options(dir.path());
    with_clock.clock = Arc::clone(&clock) as _;
    let evidence = Evidence::open(with_clock).unwrap();
    let (short, long) = (new_run(), new_run());
    for _ in 0..3 {
        evidence.record(of("anna", short, "s")).await.unwrap();
        evidence.record(of("anna", long, "l")).await.unwrap();
        clock.0.fetch_add(10 * DAY, Ordering::SeqCst);
    }
    let acme = tenant("acme");
    assert_eq!(evidence.runs_with_values(&acme, 25).await.unwrap(), BTreeSet::from([short, long]));
    let kept = BTreeMap::from([(short, 15), (long, 3_000)]);
    assert!(evidence.runs_with_values(&acme, 30).await.unwrap().is_empty());
    let (erasure, more) = evidence.prepare_expired(&acme, kept.clone(), 0).await.unwrap();
    assert!(!more);
    let skipped = evidence.prepare_expired(&acme, kept.clone(), erasure.plan.keys()).await;
    assert!(matches!(skipped, Err(EraseError::Nothing)));
    // Day 0 is 30 days old, day 10 is 20 days old, day 20 is 10 days old.
    assert_eq!(erasure.values.iter().map(|value| value.seq).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2]));
    evidence.destroy(&acme, new_redaction(), &erasure.plan).await.unwrap();
    let shown = leaves(&evidence, short).await;
    let erased: Vec<usize> = shown.iter().map(|leaf| leaf.erased.len()).collect();
    assert_eq!(erased, [3, 3, 0]);
    assert!(leaves(&evidence, long).await.iter().all(|leaf| leaf.erased.is_empty()));
    assert!(matches!(evidence.prepare_expired(&acme, kept, 0).await, Err(EraseError::Nothing)));
    // Exactly its days, counted from the end of its day, are not over yet.
    let exactly = BTreeMap::from([(short, 10)]);
    assert!(matches!(evidence.prepare_expired(&acme, exactly, 0).await, Err(EraseError::Nothing)));
    let (over, _) = evidence.prepare_expired(&acme, BTreeMap::from([(short, 9)]), 0).await.unwrap();
    let mut held = over.clone();
    held.without(|value| evidence.is_held(&acme, value, &HoldScope::Subject("anna".into())).unwrap());
    assert_eq!((held.values.len(), held.plan.keys()), (0, 0));
}

#[tokio::test]
async fn a_receipt_proves_the_erasure_and_names_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    for n in 0..700 {
        evidence.note(of("anna@example.org", run, &format!("secret {n}"))).unwrap();
    }
    evidence.record(of("anna@example.org", run, "secret")).await.unwrap();
    let scope = subject("anna@example.org");
    let (by, erasure) = erase(&evidence, &scope).await;
    assert_eq!(erasure.values.len(), 701 * 3);
    let receipt = evidence.erasure_receipt(&tenant("acme"), by).await.unwrap();
    let key = receipt.key.parse().unwrap();
    let checkpoint = Checkpoint::open(&receipt.checkpoint, &key).unwrap();
    assert_eq!(receipt.leaves.len(), 5, "500 commitments a leaf");
    let mut commitments = 0;
    for proven in &receipt.leaves {
        let leaf = STANDARD.decode(&proven.leaf).unwrap();
        let proof: Vec<Hash> = proven.proof.iter().map(|h| STANDARD.decode(h).unwrap().try_into().unwrap()).collect();
        assert!(verify_inclusion(&leaf_hash(&leaf), proven.index, checkpoint.size, &proof, &checkpoint.root));
        let leaf: serde_json::Value = serde_json::from_slice(&leaf).unwrap();
        commitments += leaf["body"]["commitments"].as_array().unwrap().len();
    }
    assert_eq!(commitments, 701 * 3);
    assert!(receipt.text.contains("values erased: 2103\nof leaves: 0-"), "{}", receipt.text);
    assert!(receipt.text.contains("gdpr-17-1-b: consent was withdrawn"));
    let whole = serde_json::to_string(&receipt).unwrap();
    for personal in ["anna", "secret"] {
        assert!(!whole.contains(personal));
    }
    assert!(Checkpoint::open(&receipt.text, &key).is_err(), "no receipt is a checkpoint");
    assert!(evidence.erasure_receipt(&tenant("acme"), new_redaction()).await.is_err());
    assert!(evidence.erasure_receipt(&tenant("evil"), by).await.is_err());
    verified(&evidence, "acme").await;
}

/// What the script says of a receipt that somebody keeps.
fn judged(receipt: &cogward_evidence::Receipt, text: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut json = serde_json::to_value(receipt).unwrap();
    json["text"] = text.into();
    fs::write(dir.path().join("receipt.txt"), text).unwrap();
    fs::write(dir.path().join("receipt.json"), json.to_string()).unwrap();
    let python = std::env::var("COGWARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/verify-receipt.py");
    let done = std::process::Command::new(python).arg(script).arg(dir.path()).args(["--key", &receipt.key]).output();
    let done = done.unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_receipt_of_a_huge_erasure_says_what_is_not_in_it() {
    const PARTS: u64 = 400;
    const COMMITMENTS: u64 = 1_200;
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let by = new_redaction();
    let mut hashes = Vec::new();
    for part in 1..=PARTS {
        let commitment = |n: u64| format!("{:043}", part * 10_000 + n);
        let event = said(&subject("anna"), by)
            .public("part", part)
            .public("parts", PARTS)
            .public("values", PARTS * COMMITMENTS)
            .public("leaves", vec![part.to_string()])
            .public("erased_fields", vec!["args"])
            .public("commitments", (0..COMMITMENTS).map(commitment).collect::<Vec<_>>())
            .public("keys", vec![format!("key-{part}")]);
        evidence.record(event).await.unwrap();
        // Leaves of others between them.
        evidence.record(of("otto", new_run(), "x")).await.unwrap();
    }
    let receipt = evidence.erasure_receipt(&tenant("acme"), by).await.unwrap();
    let bytes: usize = receipt.leaves.iter().map(|leaf| leaf.leaf.len()).sum();
    let here = receipt.leaves.len() as u64;
    assert!((100..PARTS).contains(&here) && bytes < 24 << 20, "{here} leaves, {bytes} bytes");
    // The rest is counted, and bound by one hash that whoever has the log makes, too.
    let pack = dir.path().join("pack");
    evidence.export(&tenant("acme"), &pack).await.unwrap();
    cogward_ledger::whole::leaves(&pack, 2 * PARTS, |_, leaf| {
        if leaf.windows(17).any(|text| text == b"redaction.execute") {
            hashes.push(leaf_hash(leaf));
        }
        Ok(())
    })
    .unwrap();
    let mut tree = cogward_ledger::tree::Frontier::default();
    hashes.iter().skip(receipt.leaves.len()).for_each(|hash| tree.push(*hash));
    let left = PARTS - here;
    let counted =
        format!("left out: {left} leaves with {} values, {} to {}\n", left * COMMITMENTS, 2 * here, 2 * PARTS - 2);
    assert!(receipt.text.contains(&counted), "{counted}{}", &receipt.text[receipt.text.len() - 4_000..]);
    assert!(receipt.text.contains(&cogward_ledger::leaf::hash_text(&tree.root())));
    assert!(receipt.text.contains(&format!("keys destroyed: {PARTS}\n")));
    let (code, told) = judged(&receipt, &receipt.text);
    assert!(code == Some(0) && told.contains(&format!("{} values erased", PARTS * COMMITMENTS)), "{told}");
    assert!(told.contains(&format!("{left} leaves")), "{told}");
    // Another number is another text, and one leaf less in it is seen.
    let (code, told) =
        judged(&receipt, &receipt.text.replace(&format!("{left} leaves"), &format!("{} leaves", left - 1)));
    assert!(code == Some(9) && told.contains("signature"), "{told}");
    let mut less = receipt.clone();
    less.leaves.pop();
    let (code, told) = judged(&less, &receipt.text);
    assert!(code == Some(9) && told.contains("a part is missing"), "{told}");
}

#[tokio::test]
async fn a_kept_disclosure_still_opens_its_commitment_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    evidence.record(of("anna", run, "born 1970-01-01")).await.unwrap();
    evidence.record(of("anna", run, "born 1970-01-01")).await.unwrap();
    let before = leaves(&evidence, run).await;
    drop(evidence);
    let kept = stolen(dir.path(), &ids(&before[..1]));
    let kept = kept.iter().find(|text| decoded(text).contains("\"args\"")).unwrap();
    let evidence = open(dir.path());
    erase(&evidence, &subject("anna")).await;
    let shown = leaves(&evidence, run).await;
    let kept = cogward_ledger::commitment::Disclosure::from_text(kept.clone());
    let fits = |leaf: &LeafView, field: &str| leaf.body[field]["$c"] == kept.commitment();
    assert!(fits(&shown[0], "args"), "whoever kept it can still show what was there");
    assert!(!fits(&shown[1], "args"), "the same value in another leaf is another commitment");
    assert!(!fits(&shown[0], "path") && !fits(&shown[0], "sub"));
    // Nor is it guessed: all birthdays of a century, as a thief would hash them who does not have the salt.
    use aws_lc_rs::digest::{SHA256, digest};
    let wanted = shown[0].body["args"]["$c"].as_str().unwrap();
    for guess in (1920..2020).flat_map(|y| (1..13).map(move |m| format!("born {y}-{m:02}-01"))) {
        for form in [
            guess.clone(),
            format!("\"{guess}\""),
            format!("[\"args\",\"{guess}\"]"),
            format!("[\"\",\"args\",\"{guess}\"]"),
        ] {
            let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest(&SHA256, form.as_bytes()));
            assert_ne!(hash, wanted);
        }
    }
}
