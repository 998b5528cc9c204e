//! A run is proven before it begins and as long as it lasts; one that is not is ended.

use std::time::Duration;

use cogward_model::{
    attestation::Check,
    event::{Event, EventType, Value},
    run::RunState,
};
use cogward_store::OperationState;

use super::fakes::{World, closed, operations, order, row_when, running, start_of};
use crate::Command;

fn attested(world: &World) -> Vec<Event> {
    world.leaves.lock().unwrap().iter().filter(|e| e.kind == EventType::SandboxAttested).cloned().collect()
}

fn field<'a>(event: &'a Event, name: &str) -> &'a Value {
    event.fields.iter().find(|f| f.name == name).map_or(&Value::Null, |f| &f.value)
}

fn raised() -> Check {
    Check::gone("limits of its control groups", "memory.max was 1 and is 2")
}

#[tokio::test]
async fn the_proof_comes_before_the_first_instruction_and_the_start_names_it() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    let log = world.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|l| l == what).unwrap();
    assert!(at("leaf run.requested") < at("leaf sandbox.attested"));
    assert!(at("leaf sandbox.attested") < at("leaf run.started") && at("leaf run.started") < at("start"));
    let proof = attested(&world)[0].clone();
    assert_eq!((field(&proof, "occasion"), field(&proof, "holds")), (&"launch".into(), &true.into()));
    assert!(matches!(field(&proof, "facts"), Value::Map(_)) && matches!(field(&proof, "policy"), Value::Text(_)));
    let leaves = world.leaves.lock().unwrap().clone();
    let started = leaves.iter().find(|e| e.kind == EventType::RunStarted).unwrap();
    assert_eq!(field(started, "proof"), field(&proof, "proof"));
    assert!(engine.security(run).unwrap().1.unwrap().holds);
}

#[tokio::test]
async fn a_run_that_is_not_proven_never_begins() {
    let world = World::new();
    let engine = world.engine().await;
    *world.gone.lock().unwrap() = Some(raised());
    let run = engine.start_run(start_of("clerk")).await.unwrap().run;
    let row = closed(&engine, run).await;
    assert_eq!((row.state, row.started), (RunState::Failed, None));
    let cause = row.fail_cause.unwrap();
    assert!(cause.contains("sandbox.attestation: not in force: limits of its control groups"), "{cause}");
    assert_eq!(world.sandbox_runs_started(), 0);
    assert_eq!(world.kinds(run), [EventType::RunRequested, EventType::SandboxAttested, EventType::RunClosed]);
    assert_eq!(field(&attested(&world)[0], "holds"), &false.into());
}

#[tokio::test]
async fn it_is_looked_at_again_and_an_unchanged_proof_is_one_digest() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    row_when(&engine, run, |_| attested(&world).len() >= 3).await;
    let all = attested(&world);
    assert_eq!(field(&all[1], "occasion"), &"timer".into());
    for again in &all[1..] {
        assert_eq!((field(again, "unchanged"), field(again, "facts")), (&true.into(), &Value::Null));
        assert_eq!(field(again, "proof"), field(&all[0], "proof"));
    }
    // A frozen run is looked at as well.
    engine.command(run, Command::Suspend, order()).await.unwrap();
    let before = *world.looks.lock().unwrap();
    row_when(&engine, run, |_| *world.looks.lock().unwrap() > before + 1).await;
    assert_eq!(engine.attest_all().await, 1);
    row_when(&engine, run, |_| attested(&world).iter().any(|e| field(e, "occasion") == &"policy".into())).await;
}

#[tokio::test]
async fn a_control_that_is_gone_ends_the_run_by_its_rule() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    *world.gone.lock().unwrap() = Some(raised());
    let row = closed(&engine, run).await;
    assert_eq!(row.state, RunState::Killed);
    assert!(row.fail_cause.unwrap().starts_with("sandbox.attestation: not in force: "));
    let found = attested(&world);
    let last = found.last().unwrap();
    assert_eq!(field(last, "holds"), &false.into());
    assert!(matches!(field(last, "facts"), Value::Map(_)), "what has changed is told in full");
    let kinds = world.kinds(run);
    let at = |kind| kinds.iter().rposition(|k| *k == kind).unwrap();
    assert!(at(EventType::SandboxAttested) < at(EventType::RunKilled));
    let kill = operations(&engine, run).await.into_iter().find(|o| o.verb == "kill").unwrap();
    assert_eq!((kill.actor.as_str(), kill.reason.as_deref()), ("plane", Some("sandbox.attestation")));
    assert_eq!(kill.state, OperationState::Done);
    assert!(row.usage_json.unwrap().contains("\"holds\":false"));
}

#[tokio::test]
async fn a_supervisor_that_does_not_answer_or_refuses_loses_its_run() {
    for hangs in [true, false] {
        let world = World::new();
        let engine = world.engine().await;
        if hangs {
            world.hang_at("attest");
        } else {
            world.fail.lock().unwrap().insert("attest");
        }
        let run = running(&engine, &world, "clerk").await;
        let row = closed(&engine, run).await;
        assert_eq!(row.state, RunState::Killed, "{hangs}");
        assert!(row.fail_cause.unwrap().starts_with("sandbox.attestation: "));
    }
}

#[tokio::test]
async fn a_supervisor_that_answers_late_once_keeps_its_run() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    let before = attested(&world).len();
    world.hang_at("attest");
    let mut reached = world.reached.subscribe();
    reached.wait_for(|reached| *reached).await.unwrap();
    // The look that has come there stays there; the one after it is answered.
    world.go_on();
    let row = row_when(&engine, run, |_| attested(&world).len() >= before + 3).await;
    assert_eq!(row.state, RunState::Running);
}

#[tokio::test]
async fn a_run_that_ends_while_it_is_looked_at_has_ended_by_itself() {
    let world = World::new();
    let engine = world.engine().await;
    let run = running(&engine, &world, "clerk").await;
    world.hang_at("attest");
    let mut reached = world.reached.subscribe();
    reached.wait_for(|reached| *reached).await.unwrap();
    world.sandbox(run).unwrap().end(crate::ports::Exit { code: Some(0), ..Default::default() });
    assert_eq!(closed(&engine, run).await.state, RunState::Succeeded);
}

#[tokio::test]
async fn a_plane_that_takes_a_run_over_looks_at_it_at_once() {
    let world = World::new();
    let first = world.engine().await;
    let run = running(&first, &world, "clerk").await;
    first.stop();
    drop(first);
    *world.state.lock().unwrap() = "state.db";
    let second = world.engine().await;
    second.recover().await.unwrap();
    let look = async {
        while !attested(&world).iter().any(|e| field(e, "occasion") == &"adopted".into()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap();
    let again = attested(&world).into_iter().find(|e| field(e, "occasion") == &"adopted".into()).unwrap();
    assert_eq!(field(&again, "unchanged"), &true.into());
    assert_eq!(row_when(&second, run, |_| true).await.state, RunState::Running);
}
