//! What is refused is recorded and counted, and what is grave is answered as the manifest says.

use cogward_model::{
    RunId,
    event::{Event, EventType, Value},
    run::RunState,
    violation::Violation,
};
use cogward_store::OperationState;

use super::fakes::{World, closed, operations, row_when, running};
use crate::{Engine, ports::Exit};

fn report(object: &str, count: u64, total: u64) -> Violation {
    Violation { layer: "seccomp".into(), action: "deny".into(), object: object.into(), count, total }
}

fn field<'a>(event: &'a Event, name: &str) -> &'a Value {
    event.fields.iter().find(|f| f.name == name).map_or(&Value::Null, |f| &f.value)
}

fn events(world: &World, run: RunId, kind: EventType) -> Vec<Event> {
    world.leaves.lock().unwrap().iter().filter(|e| e.run == Some(run) && e.kind == kind).cloned().collect()
}

fn violations(world: &World, run: RunId) -> Vec<Event> {
    events(world, run, EventType::SandboxViolation)
}

/// A running agent and where its sandbox reports.
async fn watched(agent: &str) -> (std::sync::Arc<World>, Engine, RunId, tokio::sync::mpsc::Sender<Violation>) {
    let world = World::new();
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    *world.violations.lock().unwrap() = Some(receiver);
    let engine = world.engine().await;
    let run = running(&engine, &world, agent).await;
    (world, engine, run, sender)
}

#[tokio::test]
async fn a_violation_is_recorded_with_its_severity_and_an_agent_in_standard_goes_on() {
    let (world, engine, run, sender) = watched("clerk").await;
    sender.send(report("mount", 1, 1)).await.unwrap();
    sender.send(report("socket:netlink", 3, 3)).await.unwrap();
    row_when(&engine, run, |_| violations(&world, run).len() == 2).await;
    let found = violations(&world, run);
    for (name, wanted) in [("object", "mount"), ("severity", "high"), ("verdict", "deny"), ("rule", "sandbox.seccomp")]
    {
        assert_eq!(field(&found[0], name), &Value::from(wanted), "{name}");
    }
    assert_eq!(found[0].by.agent.as_ref().unwrap().0.as_str(), "clerk");
    assert_eq!((field(&found[1], "severity"), field(&found[1], "count")), (&Value::from("info"), &Value::Int(3)));
    assert_eq!(row_when(&engine, run, |_| true).await.state, RunState::Running);
}

#[tokio::test]
async fn what_is_high_kills_where_the_manifest_says_so() {
    let (world, engine, run, sender) = watched("strict").await;
    sender.send(report("socket:netlink", 1, 1)).await.unwrap();
    row_when(&engine, run, |_| violations(&world, run).len() == 1).await;
    assert_eq!(row_when(&engine, run, |_| true).await.state, RunState::Running, "info ends nobody");
    sender.send(report("bpf", 1, 1)).await.unwrap();
    drop(sender);
    let row = closed(&engine, run).await;
    assert_eq!(row.state, RunState::Killed);
    assert!(row.fail_cause.unwrap().starts_with("spec.sandbox.onViolation: "));
    let found = violations(&world, run);
    assert_eq!((field(&found[0], "verdict"), field(&found[1], "verdict")), (&"deny".into(), &"killed".into()));
    let kinds = world.kinds(run);
    let at = |kind| kinds.iter().position(|k| *k == kind).unwrap();
    assert!(at(EventType::SandboxViolation) < at(EventType::RunKilled));
    assert_eq!(kinds.last(), Some(&EventType::RunClosed));
    let killed = &events(&world, run, EventType::RunKilled)[0];
    assert_eq!(field(killed, "rule"), &Value::from("spec.sandbox.onViolation"));
    let receipts = operations(&engine, run).await;
    let kill = receipts.iter().find(|o| o.verb == "kill").unwrap();
    assert_eq!((kill.actor.as_str(), kill.state), ("plane", OperationState::Done));
    assert!(kill.receipt_json.as_ref().unwrap().contains("\"step\":\"killed\""));
}

#[tokio::test]
async fn what_is_high_suspends_where_the_manifest_says_so_each_time() {
    let (world, engine, run, sender) = watched("careful").await;
    for n in 1..=2_usize {
        // Two at once are one suspension.
        sender.send(report("mount", 1, 2 * n as u64 - 1)).await.unwrap();
        sender.send(report("mount", 1, 2 * n as u64)).await.unwrap();
        row_when(&engine, run, |r| r.state == RunState::Suspended).await;
        row_when(&engine, run, |_| *world.sandbox(run).unwrap().frozen.lock().unwrap()).await;
        row_when(&engine, run, |_| violations(&world, run).len() == 2 * n).await;
        // The reaction is over when its receipt is there; an operator looks at it and lets the run go on.
        while operations(&engine, run).await.iter().any(|o| o.state == OperationState::Pending) {
            tokio::task::yield_now().await;
        }
        engine.command(run, crate::Command::Resume, super::fakes::order()).await.unwrap();
    }
    assert!(violations(&world, run).iter().all(|v| field(v, "verdict") == &Value::from("suspended")));
    assert_eq!(events(&world, run, EventType::RunSuspended).len(), 2);
}

#[tokio::test]
async fn the_end_of_a_run_has_the_totals_whatever_became_of_the_reports() {
    let (world, engine, run, sender) = watched("clerk").await;
    sender.send(report("mount", 1, 1)).await.unwrap();
    row_when(&engine, run, |_| violations(&world, run).len() == 1).await;
    drop(sender);
    assert_eq!(engine.security(run).unwrap().0[0].total, 1);
    let told = vec![report("mount", 0, 10_000), report("bpf", 0, 2)];
    world.sandbox(run).unwrap().end(Exit { code: Some(0), violations: told, ..Exit::default() });
    let row = closed(&engine, run).await;
    assert!(row.usage_json.unwrap().contains("\"total\":10000"));
    let found = violations(&world, run);
    assert_eq!(
        field(found.iter().rfind(|v| field(v, "object") == &"mount".into()).unwrap(), "count"),
        &Value::Int(9_999)
    );
    let end = &events(&world, run, EventType::RunClosed)[0];
    assert_eq!(field(end, "violations_total"), &Value::Int(10_002));
    let Value::List(kinds) = field(end, "violations") else { panic!("{end:?}") };
    assert_eq!(kinds.len(), 2);
    assert_eq!(world.kinds(run).last(), Some(&EventType::RunClosed), "nothing comes after the end");
}

#[tokio::test]
async fn refused_connections_are_events_of_the_same_kind_and_a_flood_is_few_leaves() {
    let (world, engine, run, _sender) = watched("strict").await;
    let watch = engine.security_watch();
    for n in 0..5_000_u32 {
        watch.connection_refused(run, "undeclared", &format!("h{}.example:443", n % 1_000));
    }
    let leaves = violations(&world, run).len();
    assert!(leaves < 1_000 + 2_048, "{leaves}");
    let totals = engine.security(run).unwrap().0;
    assert_eq!(totals.iter().map(|t| t.total).sum::<u64>(), 5_000);
    assert!(totals.len() <= 129, "{}", totals.len());
    watch.connection_refused(run, "inside-address", "169.254.169.254:80");
    drop(_sender);
    let row = closed(&engine, run).await;
    assert_eq!(row.state, RunState::Killed);
    let end = &events(&world, run, EventType::RunClosed)[0];
    assert_eq!(field(end, "violations_total"), &Value::Int(5_001));
    // A run that is over has nothing that could be refused.
    watch.connection_refused(run, "undeclared", "late.example:443");
    assert_eq!(world.kinds(run).last(), Some(&EventType::RunClosed));
}

#[tokio::test]
async fn an_agent_that_ends_before_it_can_be_killed_has_not_done_well() {
    let (world, engine, run, sender) = watched("strict").await;
    drop(sender);
    world.sandbox(run).unwrap().end(Exit { code: Some(0), violations: vec![report("bpf", 0, 1)], ..Exit::default() });
    let row = closed(&engine, run).await;
    assert_eq!((row.state, row.exit_code), (RunState::Failed, Some(0)));
    assert!(row.fail_cause.unwrap().starts_with("spec.sandbox.onViolation: "));
    assert_eq!(field(&violations(&world, run)[0], "verdict"), &"deny".into(), "it was refused, and nothing was killed");
}
