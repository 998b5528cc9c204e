//! Agents stop when evidence cannot be written, and go on by themselves only if the plane stopped them.

use cogward_model::run::RunState;

use super::fakes::{World, order, row_when, running, start_of};
use crate::{
    Command, CommandError, StartError,
    ports::{Fence, LedgerHealth},
};

#[tokio::test]
async fn low_space_holds_every_run_and_lets_go_only_what_it_held() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    let held = running(&engine, &world, "clerk").await;
    let parked = running(&engine, &world, "clerk").await;
    engine.command(parked, Command::Suspend, order()).await.unwrap();
    world.health.send_replace(LedgerHealth::LowSpace);
    row_when(&engine, held, |r| r.state == RunState::Suspended && r.desired == RunState::Running).await;
    row_when(&engine, held, |_| *world.sandbox(held).unwrap().frozen.lock().unwrap()).await;
    assert_eq!(world.fence_of(held), Some(Fence::Held));
    assert!(matches!(engine.start_run(start_of("clerk")).await, Err(StartError::Evidence(_))));
    assert!(matches!(engine.command(held, Command::Resume, order()).await, Err(CommandError::Evidence(_))));
    world.health.send_replace(LedgerHealth::Ok);
    row_when(&engine, held, |r| r.state == RunState::Running).await;
    row_when(&engine, held, |_| world.fence_of(held) == Some(Fence::Open)).await;
    assert!(!*world.sandbox(held).unwrap().frozen.lock().unwrap());
    assert_eq!(row_when(&engine, parked, |_| true).await.state, RunState::Suspended);
    assert!(*world.sandbox(parked).unwrap().frozen.lock().unwrap());
}

#[tokio::test]
async fn an_operator_can_make_a_hold_stay() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    let run = running(&engine, &world, "clerk").await;
    world.health.send_replace(LedgerHealth::LowSpace);
    row_when(&engine, run, |r| r.state == RunState::Suspended).await;
    engine.command(run, Command::Suspend, order()).await.unwrap();
    let other = running_after_release(&world, &engine).await;
    assert_eq!(row_when(&engine, run, |_| true).await.state, RunState::Suspended);
    assert_eq!(world.fence_of(run), Some(Fence::Held));
    assert_ne!(other, run);
}

async fn running_after_release(world: &World, engine: &crate::Engine) -> cogward_model::RunId {
    world.health.send_replace(LedgerHealth::Ok);
    // The hold is over when starts are taken again and go through.
    while engine.is_holding() {
        tokio::task::yield_now().await;
    }
    running(engine, world, "clerk").await
}

#[tokio::test]
async fn a_failed_ledger_freezes_even_when_nothing_can_be_recorded() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    let run = running(&engine, &world, "clerk").await;
    world.fail.lock().unwrap().insert("publish command");
    world.health.send_replace(LedgerHealth::Failed("disk".into()));
    row_when(&engine, run, |_| *world.sandbox(run).unwrap().frozen.lock().unwrap()).await;
    assert_eq!(world.fence_of(run), Some(Fence::Held));
}

#[tokio::test]
async fn a_kill_holds_even_when_it_cannot_be_recorded_yet_and_a_resume_does_not() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    engine.command(run, Command::Suspend, order()).await.unwrap();
    world.fail.lock().unwrap().insert("publish command");
    assert!(matches!(engine.command(run, Command::Resume, order()).await, Err(CommandError::Evidence(_))));
    assert!(*world.sandbox(run).unwrap().frozen.lock().unwrap());
    assert_ne!(world.fence_of(run), Some(Fence::Open));
    let receipt = engine.command(run, Command::Kill, order()).await.unwrap();
    assert!(!receipt.recorded);
    assert_eq!(receipt.tree_empty, Some(true));
    // It waits in the outbox.
    assert!(!engine.with.store.outbox_pending(10).await.unwrap().is_empty());
}
