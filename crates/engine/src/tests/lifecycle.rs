//! One engine, one run: every verb, and the order of record and effect.

use cogward_model::{event::EventType, run::RunState};
use cogward_store::OperationState;

use super::fakes::{World, closed, operations, order, row_when, running, start_of};
use crate::{
    Command, CommandError, StartError,
    ports::{Exit, Fence, Missing},
};

#[tokio::test]
async fn the_agent_runs_only_after_its_start_is_in_the_ledger() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    let log = world.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|l| l == what).unwrap();
    assert!(at("leaf run.requested") < at("leaf run.started"));
    assert!(at("leaf run.started") < at("fence Open"));
    assert!(at("fence Open") < at("start"));
    world.sandbox(run).unwrap().end(Exit { code: Some(0), output: Some(b"done".to_vec()), ..Exit::default() });
    let row = closed(&engine, run).await;
    assert_eq!((row.state, row.exit_code, row.fail_cause), (RunState::Succeeded, Some(0), None));
    assert!(row.usage_json.unwrap().contains("\"tokens\":7"));
    let kinds: Vec<_> = world.kinds(run).into_iter().filter(|kind| *kind != EventType::SandboxAttested).collect();
    assert_eq!(kinds, [EventType::RunRequested, EventType::RunStarted, EventType::RunClosed]);
    assert_eq!(world.kinds(run)[1], EventType::SandboxAttested, "the proof is the first leaf after the request");
    row_when(&engine, run, |_| engine.live_count() == 0).await;
    assert!(operations(&engine, run).await.iter().all(|o| o.state == OperationState::Done));
}

#[tokio::test]
async fn suspend_holds_and_freezes_and_resume_lets_go_on() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    let receipt = engine.command(run, Command::Suspend, order()).await.unwrap();
    assert_eq!((receipt.from, receipt.state), (RunState::Running, RunState::Suspended));
    assert!(receipt.steps.iter().any(|s| s.step == "frozen"));
    assert!(*world.sandbox(run).unwrap().frozen.lock().unwrap());
    assert_eq!(world.fence_of(run), Some(Fence::Held));
    let again = engine.command(run, Command::Suspend, order()).await;
    assert!(matches!(again, Err(CommandError::Transition(_))), "{again:?}");
    engine.command(run, Command::Resume, order()).await.unwrap();
    assert!(!*world.sandbox(run).unwrap().frozen.lock().unwrap());
    assert_eq!(world.fence_of(run), Some(Fence::Open));
}

#[tokio::test]
async fn kill_fences_then_cuts_then_kills_and_measures() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    world.log.lock().unwrap().clear();
    let receipt = engine.command(run, Command::Kill, order()).await.unwrap();
    let steps: Vec<&str> = receipt.steps.iter().map(|s| s.step.as_str()).collect();
    assert_eq!(steps, ["fenced", "recorded", "streams_cut", "killed"]);
    assert_eq!((receipt.calls_cut, receipt.processes, receipt.tree_empty), (Some(2), Some(3), Some(true)));
    let log = world.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|l| l == what).unwrap();
    assert!(at("fence Closed") < at("leaf run.killed") && at("leaf run.killed") < at("cut") && at("cut") < at("kill"));
    let row = closed(&engine, run).await;
    assert_eq!((row.state, row.exit_signal), (RunState::Killed, Some(9)));
    assert!(matches!(engine.command(run, Command::Resume, order()).await, Err(CommandError::Transition(_))));
    let receipts = operations(&engine, run).await;
    assert!(
        receipts
            .iter()
            .any(|o| o.verb == "kill" && o.receipt_json.as_ref().is_some_and(|r| r.contains("\"processes\":3")))
    );
}

#[tokio::test]
async fn cancel_gives_time_and_then_kills() {
    for (input, end) in [(&b"{}"[..], RunState::Cancelled), (b"stubborn", RunState::Killed)] {
        let world = World::new();
        let engine = world.engine().await;
        let mut start = start_of("clerk");
        start.input = input.to_vec();
        let run = engine.start_run(start).await.unwrap().run;
        row_when(&engine, run, |r| r.state == RunState::Running).await;
        engine.command(run, Command::Cancel, order()).await.unwrap();
        assert_eq!(closed(&engine, run).await.state, end);
    }
}

#[tokio::test]
async fn a_suspended_run_that_is_cancelled_is_thawed_to_end() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    engine.command(run, Command::Suspend, order()).await.unwrap();
    engine.command(run, Command::Cancel, order()).await.unwrap();
    assert!(!*world.sandbox(run).unwrap().frozen.lock().unwrap());
    assert_eq!(closed(&engine, run).await.state, RunState::Cancelled);
}

#[tokio::test]
async fn the_wall_clock_ends_a_run_even_while_it_is_suspended() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "hasty").await;
    engine.command(run, Command::Suspend, order()).await.unwrap();
    let row = closed(&engine, run).await;
    assert_eq!(row.state, RunState::Failed);
    assert!(row.fail_cause.unwrap().starts_with("budgets.run.wallClockSeconds"));
    assert!(world.kinds(run).contains(&EventType::RunKilled));
}

#[tokio::test]
async fn an_agent_that_fails_says_how() {
    let world = World::new();
    let engine = world.engine().await;
    for (exit, cause) in [
        (Exit { code: Some(3), ..Exit::default() }, "exit code 3"),
        (Exit { signal: Some(11), ..Exit::default() }, "signal 11"),
        (Exit { signal: Some(9), cause: Some("memory".into()), ..Exit::default() }, "memory"),
    ] {
        let run = running(&engine, &world, "clerk").await;
        world.sandbox(run).unwrap().end(exit);
        let row = closed(&engine, run).await;
        assert_eq!(row.state, RunState::Failed);
        assert!(row.fail_cause.unwrap().contains(cause));
    }
}

#[tokio::test]
async fn what_may_not_start_is_refused_and_recorded() {
    let world = World::new();
    let engine = world.engine().await;
    let refused = |what: &str| {
        let mut start = start_of("clerk");
        match what {
            "agent" => start.agent = "nobody".parse().unwrap(),
            "version" => start.version = Some("9".parse().unwrap()),
            "tenant" => start.tenant = "nowhere".parse().unwrap(),
            "user" => start.agent = "helper".parse().unwrap(),
            "input" => start.input = vec![0; 2 << 20],
            _ => {}
        }
        start
    };
    assert!(matches!(engine.start_run(refused("agent")).await, Err(StartError::UnknownAgent { .. })));
    assert!(matches!(engine.start_run(refused("version")).await, Err(StartError::UnknownVersion { .. })));
    assert!(matches!(engine.start_run(refused("tenant")).await, Err(StartError::UnknownTenant(_))));
    assert!(matches!(engine.start_run(refused("user")).await, Err(StartError::UserRequired(_))));
    assert!(matches!(engine.start_run(refused("input")).await, Err(StartError::TooLong { .. })));
    let missing = Missing { what: "seccomp".into(), why: "not there".into(), fix: "turn it on".into() };
    world.missing.lock().unwrap().push(missing);
    let error = engine.start_run(start_of("clerk")).await.unwrap_err();
    assert!(error.to_string().contains("seccomp: not there (turn it on)"), "{error}");
    let leaves = world.leaves.lock().unwrap();
    assert_eq!(leaves.len(), 6);
    assert!(leaves.iter().all(|e| e.kind == EventType::RunRefused));
    assert_eq!(*world.launches.lock().unwrap(), 0);
    assert_eq!(std::fs::read_dir(world.dir.path().join("runs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_version_below_a_floor_that_was_raised_does_not_start() {
    let world = World::new();
    let engine = world.engine().await;
    let earlier = running(&engine, &world, "clerk").await;
    let store = &engine.with.store;
    for tenant in [None, Some(cogward_model::TenantName::default_tenant())] {
        let mut tx = store.begin().await.unwrap();
        tx.floor_put(&cogward_store::FloorRow {
            tenant: tenant.clone(),
            tier: cogward_model::manifest::Tier::Development,
            profile: cogward_model::manifest::Profile::Hardened,
            reason: "a finding of the audit".into(),
            updated: tx.now(),
            set_by: "ada".into(),
        })
        .await
        .unwrap();
        let _committed = tx.commit(Vec::new()).await.unwrap();
        let error = engine.start_run(start_of("clerk")).await.unwrap_err();
        assert!(matches!(error, StartError::ProfileTooWeak { .. }), "{error}");
        for said in ["`standard`", "`hardened`", "`ada`", "a finding of the audit"] {
            assert!(error.to_string().contains(said), "{error}");
        }
        let mut tx = store.begin().await.unwrap();
        assert!(tx.floor_delete(tenant.as_ref(), cogward_model::manifest::Tier::Development).await.unwrap());
        let _committed = tx.commit(Vec::new()).await.unwrap();
    }
    let refused = |e: &&cogward_model::event::Event| e.kind == EventType::RunRefused;
    let leaves = world.leaves.lock().unwrap().clone();
    assert_eq!(leaves.iter().filter(refused).count(), 2);
    for leaf in leaves.iter().filter(refused) {
        assert!(leaf.fields.iter().any(|f| f.name == "rule" && f.value == "profile_too_weak".into()));
    }
    // What runs already goes on, and nothing of the refused ones is left.
    assert_eq!(row_when(&engine, earlier, |_| true).await.state, RunState::Running);
    assert_eq!(std::fs::read_dir(world.dir.path().join("runs")).unwrap().count(), 1);
    running(&engine, &world, "clerk").await;
}

#[tokio::test]
async fn the_number_of_live_runs_is_bounded() {
    let world = World::new();
    let engine = world.engine().await;
    for _ in 0..8 {
        running(&engine, &world, "clerk").await;
    }
    assert!(matches!(engine.start_run(start_of("clerk")).await, Err(StartError::TooManyRuns(8))));
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_fails_the_run() {
    for point in ["before launch", "listeners", "open_run", "start"] {
        let world = World::new();
        let engine = world.engine().await;
        world.fail.lock().unwrap().insert(point);
        let run = engine.start_run(start_of("clerk")).await.unwrap().run;
        let row = closed(&engine, run).await;
        assert_eq!(row.state, RunState::Failed, "{point}");
        assert!(row.fail_cause.unwrap().starts_with("launch"), "{point}");
        assert_eq!(world.alive(), 0, "{point}");
        assert_eq!(*world.kinds(run).last().unwrap(), EventType::RunClosed);
    }
}
