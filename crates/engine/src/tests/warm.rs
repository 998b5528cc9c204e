//! Spares: complete before they are asked for, used once, never left behind.

use std::time::Duration;

use cogward_model::{AgentName, TenantName, VersionLabel, event::EventType, run::RunState};

use super::fakes::{World, closed, operator_id, row_when, running, start_of};
use crate::{Engine, StartError, WARM_MAX, WarmError, ports::Exit};

fn clerk() -> (TenantName, AgentName, VersionLabel) {
    (TenantName::default_tenant(), "clerk".parse().unwrap(), "1.0.0".parse().unwrap())
}

async fn set(engine: &Engine, count: u32) {
    let (tenant, agent, label) = clerk();
    engine.set_warm((&tenant, &agent, &label), count, ("operator", operator_id()), None).await.unwrap();
}

/// Waits until so many are ready.
async fn ready(engine: &Engine, count: u32) {
    let (tenant, agent, label) = clerk();
    let look = async {
        while engine.warm(&tenant, &agent, &label).await.unwrap().1 != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap();
}

#[tokio::test]
async fn a_run_takes_the_spare_whose_id_it_has_and_another_is_made() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    set(&engine, 2).await;
    ready(&engine, 2).await;
    assert_eq!((world.alive(), world.sandbox_runs_started()), (2, 0));
    let mut start = start_of("clerk");
    start.input = b"the question".to_vec();
    let run = engine.start_run(start).await.unwrap().run;
    row_when(&engine, run, |r| r.state == RunState::Running).await;
    let sandbox = world.sandbox(run).unwrap();
    assert_eq!(sandbox.input.lock().unwrap().as_deref(), Some(&b"the question"[..]));
    let row = row_when(&engine, run, |_| *sandbox.started.lock().unwrap()).await;
    assert!(row.uid_slot.unwrap() >= 8, "its host identity is apart from those of runs without a spare");
    // Proven when it was made, and again for this run.
    assert_eq!(world.kinds(run), [EventType::RunRequested, EventType::SandboxAttested, EventType::RunStarted]);
    assert_eq!(*world.looks.lock().unwrap(), 1);
    ready(&engine, 2).await;
    assert_eq!((world.alive(), world.sandbox_runs_started()), (3, 1));
    sandbox.end(Exit { code: Some(0), ..Exit::default() });
    assert_eq!(closed(&engine, run).await.state, RunState::Succeeded);
    assert_eq!(*world.doubled.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_spare_that_has_died_is_replaced_by_a_launch() {
    let world = World::new();
    let engine = world.engine().await;
    // Without the keeper: the spare is dead and still there when it is taken.
    set(&engine, 1).await;
    let keeper = tokio::spawn(engine.clone().keep_warm());
    ready(&engine, 1).await;
    keeper.abort();
    let spare = world.only_sandbox();
    spare.end(Exit { signal: Some(9), ..Exit::default() });
    let run = engine.start_run(start_of("clerk")).await.unwrap().run;
    assert_eq!(run, spare.run());
    row_when(&engine, run, |r| r.state == RunState::Running).await;
    row_when(&engine, run, |_| world.sandbox(run).is_some_and(|b| *b.started.lock().unwrap())).await;
    assert_eq!(*world.launches.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_start_that_is_refused_takes_no_spare() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    set(&engine, 1).await;
    ready(&engine, 1).await;
    world.missing.lock().unwrap().push(crate::ports::Missing {
        what: "landlock".into(),
        why: "off".into(),
        fix: "turn it on".into(),
    });
    assert!(matches!(engine.start_run(start_of("clerk")).await, Err(StartError::ProfileUnenforceable { .. })));
    ready(&engine, 1).await;
    assert_eq!(world.sandbox_runs_started(), 0);
}

#[tokio::test]
async fn none_are_left_when_none_are_wanted_or_the_plane_ends() {
    for ends in [false, true] {
        let world = World::new();
        let engine = world.engine().await;
        engine.recover().await.unwrap();
        set(&engine, 3).await;
        ready(&engine, 3).await;
        if ends {
            engine.stop()
        } else {
            set(&engine, 0).await
        }
        ready(&engine, 0).await;
        let look = async {
            while world.alive() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_killed_plane_left_is_ended_by_the_next_and_made_anew() {
    let world = World::new();
    let engine = world.engine().await;
    let keeper = tokio::spawn(engine.clone().keep_warm());
    set(&engine, 1).await;
    ready(&engine, 1).await;
    keeper.abort();
    let left = world.only_sandbox();
    drop(engine);
    let next = world.engine().await;
    assert_eq!(next.recover().await.unwrap().orphans, 1);
    assert!(left.exit.borrow().is_some());
    ready(&next, 1).await;
    let run = running(&next, &world, "clerk").await;
    assert_ne!(run, left.run());
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let world = World::new();
    let engine = world.engine().await;
    let (tenant, agent, label) = clerk();
    let refused = engine.set_warm((&tenant, &agent, &label), WARM_MAX + 1, ("operator", operator_id()), None).await;
    assert!(matches!(refused, Err(WarmError::TooMany { .. })));
    let unknown = "9.9.9".parse().unwrap();
    let refused = engine.set_warm((&tenant, &agent, &unknown), 1, ("operator", operator_id()), None).await;
    assert!(matches!(refused, Err(WarmError::Store(_))), "{refused:?}");
}
