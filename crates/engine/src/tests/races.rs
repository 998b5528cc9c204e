//! Commands at once, and in any order.

use std::sync::Arc;

use cogward_model::run::RunState;
use proptest::prelude::*;

use super::fakes::{World, closed, order, row_when, running, start_of};
use crate::{Command, CommandError, ports::Fence};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_equal_commands_exactly_one_wins() {
    let world = World::new();
    let engine = world.engine().await;
    for command in [Command::Suspend, Command::Resume, Command::Cancel] {
        let run = running(&engine, &world, "clerk").await;
        if command == Command::Resume {
            engine.command(run, Command::Suspend, order()).await.unwrap();
        }
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let engine = engine.clone();
                tokio::spawn(async move { engine.command(run, command, order()).await })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => won += 1,
                Err(CommandError::Transition(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "{command:?}");
        if command != Command::Cancel {
            engine.command(run, Command::Kill, order()).await.unwrap();
        }
        closed(&engine, run).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_wins_over_a_suspend_that_hangs() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    world.hang_at("suspend");
    let slow = tokio::spawn({
        let engine = engine.clone();
        async move { engine.command(run, Command::Suspend, order()).await }
    });
    world.reached.subscribe().wait_for(|reached| *reached).await.unwrap();
    let receipt = engine.command(run, Command::Kill, order()).await.unwrap();
    assert_eq!(receipt.tree_empty, Some(true));
    assert_eq!(closed(&engine, run).await.state, RunState::Killed);
    slow.abort();
}

#[tokio::test]
async fn a_run_that_is_killed_while_its_sandbox_is_made_never_begins() {
    let world = World::new();
    let engine = world.engine().await;
    world.hang_at("after launch");
    let run = engine.start_run(start_of("clerk")).await.unwrap().run;
    world.reached.subscribe().wait_for(|reached| *reached).await.unwrap();
    let kill = tokio::spawn({
        let engine = engine.clone();
        async move { engine.command(run, Command::Kill, order()).await }
    });
    row_when(&engine, run, |r| r.state == RunState::Killed).await;
    assert!(!*world.sandbox(run).unwrap().started.lock().unwrap());
    kill.abort();
    // The plane that hung is gone; the next one finds the sandbox and ends it.
    let engine = {
        world.go_on();
        world.engine().await
    };
    engine.recover().await.unwrap();
    closed(&engine, run).await;
    assert_eq!(world.alive(), 0);
    assert!(!*world.sandbox(run).unwrap().started.lock().unwrap());
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Command(Command),
    AgentEnds,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop_oneof![
            3 => Just(Command::Suspend), 3 => Just(Command::Resume), 1 => Just(Command::Cancel), 1 => Just(Command::Kill)
        ].prop_map(Act::Command),
        1 => Just(Act::AgentEnds),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is commanded, alone or at once, across restarts: at most one sandbox per run, an open
    /// fence only while running, and an ended run stays ended.
    #[test]
    fn any_sequence_keeps_the_promises(acts in proptest::collection::vec((act(), any::<bool>()), 1..14)) {
        let world = World::new();
        let mut ended = None;
        let mut run = None;
        let mut acts = acts.into_iter().peekable();
        while acts.peek().is_some() || run.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = world.engine().await;
                engine.recover().await.unwrap();
                let id = match run {
                    Some(run) => run,
                    None => running(&engine, &world, "clerk").await,
                };
                run = Some(id);
                for (act, at_once) in acts.by_ref() {
                    match act {
                        Act::Restart => return,
                        Act::AgentEnds => world.sandbox(id).unwrap().end(Default::default()),
                        Act::Command(command) => {
                            let engine = engine.clone();
                            let task = tokio::spawn(async move { drop(engine.command(id, command, order()).await) });
                            if !at_once {
                                task.await.unwrap();
                            }
                        }
                    }
                    let row = engine.with.store.run(id).await.unwrap().unwrap();
                    if let Some(before) = ended {
                        assert_eq!(row.state, before);
                    }
                    ended = row.state.is_final().then_some(row.state);
                    if row.state.is_final() {
                        // A command that is under way closes it right after its commit.
                        row_when(&engine, id, |_| world.fence_of(id) != Some(Fence::Open)).await;
                    }
                }
            });
        }
        prop_assert_eq!(*world.doubled.lock().unwrap(), 0);
        prop_assert!(world.alive() <= 1);
        let _ = Arc::clone(&world);
    }
}
