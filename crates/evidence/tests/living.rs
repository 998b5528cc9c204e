//! The living ledger does what it says while nothing goes wrong.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use cogward_evidence::{DecidedOrCompleted, Evidence, ExportError, Health};
use cogward_model::{
    action::Amounts,
    event::{Attribution, Event, EventType, Value},
};
use support::{SetClock, event, new_run, open, options, tenant, verified};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_writers_are_all_answered_in_their_order_and_the_log_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let writers: Vec<_> = (0..64)
        .map(|writer: u32| {
            let evidence = evidence.clone();
            tokio::spawn(async move {
                let (run, name) = (new_run(), if writer.is_multiple_of(2) { "even" } else { "odd" });
                let mut last = None;
                for _ in 0..40 {
                    evidence.note(event(name, Some(run))).unwrap();
                    let leaf = evidence.record(event(name, Some(run))).await.unwrap();
                    assert!(last < Some(leaf.seq));
                    last = Some(leaf.seq);
                }
                let closed = Event::new(EventType::RunClosed, tenant(name), Attribution::plane()).run(run);
                evidence.record(closed).await.unwrap();
                let leaves = evidence.run_leaves(&tenant(name), run, 0, 1_000).await.unwrap();
                let numbers: Vec<u64> = leaves.iter().map(|leaf| leaf.run_seq).collect();
                assert_eq!(numbers, (1..=81).collect::<Vec<_>>());
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for name in ["even", "odd"] {
        let log = verified(&evidence, name).await;
        assert_eq!((log.leaves, log.runs, log.closed_runs), (32 * 81, 32, 32));
    }
    drop(evidence);
    let again = open(dir.path());
    assert_eq!(verified(&again, "odd").await.leaves, 32 * 81);
}

#[tokio::test]
async fn a_note_is_on_the_disk_with_the_next_record_and_by_itself_soon() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    let noted = evidence.note(event("acme", Some(run))).unwrap();
    evidence.record(event("acme", Some(run))).await.unwrap();
    let leaves = evidence.run_leaves(&tenant("acme"), run, 0, 10).await.unwrap();
    assert_eq!(leaves[0].body["id"], noted.to_string());
    evidence.note(event("acme", Some(run))).unwrap();
    let wait = async {
        while evidence.run_leaves(&tenant("acme"), run, 2, 10).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test]
async fn personal_values_are_nowhere_in_clear_open_for_the_operator_and_never_commit_alike() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    for _ in 0..2 {
        evidence.record(event("acme", Some(run)).confidential("price", 4_200_u64)).await.unwrap();
    }
    let leaves = evidence.run_leaves(&tenant("acme"), run, 0, 10).await.unwrap();
    assert_ne!(leaves[0].body["args"]["$c"], leaves[1].body["args"]["$c"]);
    assert_ne!(leaves[0].body["sub"]["$c"], leaves[1].body["sub"]["$c"]);
    assert_eq!(leaves[0].disclosed["args"], "born 1970-01-01");
    assert_eq!(leaves[0].disclosed["sub"], "anna@example.org");
    assert_eq!(leaves[0].disclosed["price"], 4_200);
    // Another tenant that knows the run's id reads nothing.
    assert!(evidence.run_leaves(&tenant("evil"), run, 0, 10).await.unwrap().is_empty());
    drop(evidence);
    let mut paths = vec![dir.path().to_path_buf()];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for clear in [&b"1970-01-01"[..], b"anna@", b"4200"] {
            assert!(!bytes.windows(clear.len()).any(|part| part == clear), "{}", path.display());
        }
    }
    // Without the tenant's data keys the values are gone, and the log verifies as before.
    std::fs::remove_dir_all(dir.path().join("vault/acme")).unwrap();
    let erased = open(dir.path());
    assert!(erased.run_leaves(&tenant("acme"), run, 0, 10).await.unwrap()[0].disclosed.is_empty());
    verified(&erased, "acme").await;
}

#[tokio::test]
async fn time_never_goes_back_and_a_clock_that_does_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(1_700_000_000_000_000.into()));
    let mut options = options(dir.path());
    options.clock = Arc::clone(&clock) as _;
    let evidence = Evidence::open(options).unwrap();
    let run = new_run();
    evidence.record(event("default", Some(run))).await.unwrap();
    clock.0.fetch_sub(3_600_000_000, Ordering::SeqCst);
    for _ in 0..3 {
        evidence.record(event("default", Some(run))).await.unwrap();
    }
    let leaves = evidence.run_leaves(&tenant("default"), run, 0, 10).await.unwrap();
    assert!(leaves.iter().all(|leaf| leaf.time.unix_micros() == 1_700_000_000_000_000));
    // Four of the run and one `time.step`.
    assert_eq!(verified(&evidence, "default").await.leaves, 5);
}

#[tokio::test]
async fn a_clock_that_jumps_to_and_fro_is_recorded_each_time_and_the_log_goes_forward() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(1_700_000_000_000_000.into()));
    let reopen = || {
        let mut options = options(dir.path());
        options.clock = Arc::clone(&clock) as _;
        Evidence::open(options).unwrap()
    };
    let (mut evidence, run) = (reopen(), new_run());
    let hour = 3_600_000_000_i64;
    // Ahead, back, a little back (as time services do), back to where it was, far ahead.
    for (n, by) in [0, hour, -2 * hour, -10_000, 2 * hour + 20_000, 24 * hour].into_iter().enumerate() {
        clock.0.fetch_add(by.cast_unsigned(), Ordering::SeqCst);
        evidence.record(event("default", Some(run))).await.unwrap();
        if n == 3 {
            // A start while the clock is behind: the log's own time is kept, and the step is told again.
            drop(evidence);
            evidence = reopen();
            evidence.record(event("default", Some(run))).await.unwrap();
        }
    }
    let leaves = evidence.run_leaves(&tenant("default"), run, 0, 20).await.unwrap();
    assert!(leaves.is_sorted_by_key(|leaf| leaf.time), "{leaves:?}");
    let (mut seen, mut after) = (Vec::new(), 0);
    let pack = dir.path().join("pack");
    evidence.export(&tenant("default"), &pack).await.unwrap();
    let bytes = std::fs::read(pack.join(format!("tile/entries/000.p/{}", verified(&evidence, "default").await.leaves)));
    let bytes = bytes.unwrap();
    while let Some((length, rest)) = bytes[after..].split_first_chunk::<2>() {
        let leaf: serde_json::Value =
            serde_json::from_slice(&rest[..usize::from(u16::from_be_bytes(*length))]).unwrap();
        after += 2 + usize::from(u16::from_be_bytes(*length));
        if leaf["body"]["type"] == "time.step" {
            seen.push(if leaf["body"]["ahead_us"].is_u64() { "ahead" } else { "back" });
        }
    }
    assert_eq!(seen, ["ahead", "back", "back", "ahead", "ahead"]);
}

#[tokio::test]
async fn a_full_disk_ahead_stops_agents_by_its_health_and_never_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.low_water_bytes = u64::MAX;
    let evidence = Evidence::open(options).unwrap();
    let mut health = evidence.health();
    health.wait_for(|health| matches!(health, Health::LowSpace { .. })).await.unwrap();
    evidence.record(event("acme", None)).await.unwrap();
    evidence.checkpoint(&tenant("default")).await.unwrap();
    assert_eq!(verified(&evidence, "default").await.leaves, 1);
}

#[tokio::test]
async fn the_budgets_history_is_what_was_decided_and_settled() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    let amounts = |tokens: i64| {
        let part = |name: &str, n| (name.to_owned(), Value::Int(n));
        Value::Map(BTreeMap::from([part("tokens", tokens), part("cost_nano", 7), part("tool_calls", 1)]))
    };
    let mut decided = event("acme", Some(run)).public("budget", vec!["run/1".to_owned()]);
    decided = decided.public("reserved", amounts(100));
    let id = evidence.record(decided).await.unwrap().id;
    let mut completed = event("acme", Some(run)).public("refs", vec![id.to_string()]).public("used", amounts(40));
    completed.kind = EventType::ToolCallCompleted;
    completed.fields.retain(|field| field.name != "decision" && field.name != "args");
    evidence.record(completed).await.unwrap();
    evidence.record(event("acme", None)).await.unwrap();
    let mut seen = Vec::new();
    evidence.replay_decisions(None, evidence.committed(), &mut |one| seen.push(one.clone())).unwrap();
    let [
        DecidedOrCompleted::Decided { id: decision, reserved, budget, .. },
        DecidedOrCompleted::Completed { used, refs, .. },
        // Nothing was reserved for it, and it is counted all the same.
        DecidedOrCompleted::Decided { kind, permitted: true, run: None, reserved: Amounts { tokens: 0, .. }, .. },
    ] = &seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!((*decision, reserved.tokens, &budget[..]), (id, 100, &["run/1".to_owned()][..]));
    assert_eq!(kind, EventType::ToolCallDecided.as_str());
    assert_eq!((used.tokens, used.cost.nanos(), &refs[..]), (40, 7, &[id][..]));
}

#[tokio::test]
async fn a_pack_is_not_written_over_anything_and_an_empty_log_can_be_exported() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    assert_eq!(verified(&evidence, "nobody").await.leaves, 0);
    let refused = evidence.export(&tenant("nobody"), dir.path()).await;
    assert!(matches!(refused, Err(ExportError::NotEmpty(_))));
}

/// What is carried belongs to the log behind whose leaf it was made, and only whole.
#[tokio::test]
async fn what_is_carried_is_believed_only_beside_its_own_log() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (evidence, other) = (open(&here), open(&there));
    assert_eq!(evidence.carried(), None, "nothing was carried");
    for _ in 0..3 {
        evidence.record(event("acme", None)).await.unwrap();
        other.record(event("acme", None)).await.unwrap();
    }
    let mark = |of: &Evidence| of.replay_decisions(None, of.committed(), &mut |_| {}).unwrap().unwrap();
    let upto = mark(&evidence);
    evidence.carry(&upto, b"what it comes to").unwrap();
    let carried = evidence.carried().unwrap();
    assert_eq!((&carried.upto, &carried.text[..]), (&upto, &b"what it comes to"[..]));

    // Behind it only what came since is shown, and its end is carried on.
    let id = evidence.record(event("acme", None)).await.unwrap();
    let next = evidence.replay_decisions(Some(&upto), evidence.committed(), &mut |_| {}).unwrap().unwrap();
    assert!(next != upto && id.seq == 3);
    assert_eq!(evidence.replay_decisions(Some(&next), evidence.committed(), &mut |_| {}).unwrap(), Some(next));

    let (ours, key) = (here.join("carried"), here.join("keys/snapshot.key"));
    let whole = std::fs::read(&ours).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&ours, bytes).unwrap();
        assert_eq!(evidence.carried(), None, "byte {at}");
    }
    for length in [0, 5, 12, 13, whole.len() - 1] {
        std::fs::write(&ours, &whole[..length]).unwrap();
        assert_eq!(evidence.carried(), None, "{length} bytes");
    }
    // That of another log, even with its key.
    other.carry(&mark(&other), b"of another log").unwrap();
    std::fs::copy(there.join("carried"), &ours).unwrap();
    std::fs::copy(there.join("keys/snapshot.key"), &key).unwrap();
    assert_eq!(evidence.carried(), None, "of another log");
}
