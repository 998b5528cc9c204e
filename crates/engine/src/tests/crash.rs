//! The plane is killed at every step, and another comes up on what is left.

use std::sync::Arc;

use cogward_model::{RunId, event::EventType, run::RunState};
use cogward_store::OperationState;

use super::fakes::{World, closed, operations, order, row_when, running, start_of};
use crate::{
    Command, Engine,
    ports::{Exit, Fence},
};

/// Runs a plane until it hangs at `point`, then takes its runtime away: nothing of it goes on.
pub(super) fn crash(world: &Arc<World>, point: &'static str, life: impl AsyncFnOnce(Engine) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = world.engine().await;
        let mut reached = world.reached.subscribe();
        world.hang_at(point);
        tokio::select! {
            () = life(engine) => {}
            _ = reached.wait_for(|reached| *reached) => return,
            () = tokio::time::sleep(std::time::Duration::from_secs(20)) => panic!("{point} is not reached"),
        }
        tokio::time::timeout(std::time::Duration::from_secs(20), reached.wait_for(|reached| *reached))
            .await
            .unwrap_or_else(|_| panic!("{point} is not reached"))
            .unwrap();
    });
    runtime.shutdown_background();
    world.go_on();
}

pub(super) fn next_life<T>(life: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(life)
}

pub(super) async fn only_run(engine: &Engine) -> RunId {
    let page = engine.with.store.runs(&Default::default(), &Default::default()).await.unwrap();
    assert_eq!(page.items.len(), 1);
    page.items[0].id
}

#[test]
fn a_start_that_was_cut_off_anywhere_ends_in_one_running_agent() {
    for point in ["publish requested", "before launch", "after launch", "listeners", "publish started", "start"] {
        let world = World::new();
        crash(&world, point, async |engine| {
            let _ = engine.start_run(start_of("clerk")).await;
        });
        let before = world.sandbox_runs_started();
        next_life(async {
            let engine = world.engine().await;
            engine.recover().await.unwrap();
            let run = only_run(&engine).await;
            row_when(&engine, run, |r| {
                r.state == RunState::Running && world.sandbox(run).is_some_and(|b| *b.started.lock().unwrap())
            })
            .await;
            assert_eq!((world.alive(), *world.doubled.lock().unwrap()), (1, 0), "{point}");
            row_when(&engine, run, |_| world.fence_of(run) == Some(Fence::Open)).await;
            let kinds = world.kinds(run);
            assert_eq!(kinds.iter().filter(|k| **k == EventType::RunRequested).count(), 1, "{point}: {kinds:?}");
            assert_eq!(kinds.iter().filter(|k| **k == EventType::RunStarted).count(), 1, "{point}: {kinds:?}");
            // An agent that had begun was not begun anew.
            assert!(before <= 1);
            world.sandbox(run).unwrap().end(Exit { code: Some(0), ..Exit::default() });
            assert_eq!(closed(&engine, run).await.state, RunState::Succeeded, "{point}");
            for operation in operations(&engine, run).await {
                assert_ne!(operation.state, OperationState::Pending, "{point}");
            }
        });
    }
}

#[test]
fn a_command_that_was_cut_off_anywhere_takes_effect() {
    let cases: [(Command, &[&str], RunState); 4] = [
        (Command::Kill, &["publish command", "kill"], RunState::Killed),
        (Command::Suspend, &["publish command", "suspend"], RunState::Suspended),
        (Command::Resume, &["publish command", "resume"], RunState::Running),
        (Command::Cancel, &["publish command", "terminate"], RunState::Cancelled),
    ];
    for (command, points, state) in cases {
        for point in points {
            let world = World::new();
            let before = Arc::clone(&world);
            crash(&world, "none", {
                let world = Arc::clone(&world);
                async move |engine| {
                    let run = running(&engine, &world, "clerk").await;
                    if command == Command::Resume {
                        engine.command(run, Command::Suspend, order()).await.unwrap();
                    }
                    world.hang_at(point);
                    let _ = engine.command(run, command, order()).await;
                }
            });
            next_life(async {
                let world = before;
                let engine = world.engine().await;
                engine.recover().await.unwrap();
                let run = only_run(&engine).await;
                let row = row_when(&engine, run, |r| r.state == state).await;
                let what = format!("{command:?} at {point}");
                assert_eq!(row.state, state, "{what}");
                match state {
                    RunState::Killed | RunState::Cancelled => {
                        closed(&engine, run).await;
                        assert_eq!(world.alive(), 0, "{what}");
                        assert_eq!(*world.kinds(run).last().unwrap(), EventType::RunClosed, "{what}");
                    }
                    RunState::Suspended => {
                        assert!(*world.sandbox(run).unwrap().frozen.lock().unwrap(), "{what}");
                        assert_eq!(world.fence_of(run), Some(Fence::Held), "{what}");
                    }
                    _ => {
                        assert!(!*world.sandbox(run).unwrap().frozen.lock().unwrap(), "{what}");
                        assert_eq!(world.fence_of(run), Some(Fence::Open), "{what}");
                    }
                }
                for operation in operations(&engine, run).await {
                    assert_ne!(operation.state, OperationState::Pending, "{what}");
                }
            });
        }
    }
}

#[test]
fn what_happened_while_no_plane_was_there_is_found() {
    for (what, state, cause) in [
        ("ended well", RunState::Succeeded, None),
        ("ended badly", RunState::Failed, Some("exit code 4")),
        ("gone", RunState::Failed, Some("lost")),
    ] {
        let world = World::new();
        crash(&world, "suspend", {
            let world = Arc::clone(&world);
            async move |engine| {
                let run = running(&engine, &world, "clerk").await;
                let _ = engine.command(run, Command::Suspend, order()).await;
            }
        });
        next_life(async {
            let store = world.store().await;
            let run = store.runs_unclosed().await.unwrap()[0].id;
            let code = if what == "ended well" { 0 } else { 4 };
            if what == "gone" {
                world.forget(run);
            } else {
                world.sandbox(run).unwrap().end(Exit { code: Some(code), ..Exit::default() });
            }
            drop(store);
            let engine = world.engine().await;
            engine.recover().await.unwrap();
            let row = closed(&engine, run).await;
            assert_eq!(row.state, state, "{what}");
            if let Some(cause) = cause {
                assert!(row.fail_cause.unwrap().contains(cause), "{what}");
            }
        });
    }
}

#[test]
fn a_crash_while_closing_closes_once() {
    let world = World::new();
    crash(&world, "publish closed", {
        let world = Arc::clone(&world);
        async move |engine| {
            let run = running(&engine, &world, "clerk").await;
            world.sandbox(run).unwrap().end(Exit { code: Some(0), ..Exit::default() });
        }
    });
    next_life(async {
        let engine = world.engine().await;
        engine.recover().await.unwrap();
        let run = only_run(&engine).await;
        assert_eq!(closed(&engine, run).await.state, RunState::Succeeded);
        assert_eq!(world.kinds(run).iter().filter(|k| **k == EventType::RunClosed).count(), 1);
    });
}

#[test]
fn a_supervisor_without_a_run_is_killed() {
    let world = World::new();
    let sandbox = next_life(async {
        let engine = world.engine().await;
        let run = running(&engine, &world, "clerk").await;
        world.sandbox(run).unwrap()
    });
    // Another state: the run is not known there.
    *world.state.lock().unwrap() = "other.db";
    next_life(async {
        let engine = world.engine().await;
        let report = engine.recover().await.unwrap();
        assert_eq!((report.orphans, world.alive()), (1, 0));
        assert!(engine.with.store.run(sandbox.run()).await.unwrap().is_none());
    });
}
