//! Runs of clients outside: whom the engine lets begin one, and that every command on them holds.

use cogward_model::{
    RunId, TenantName,
    event::EventType,
    floor::Floor,
    manifest::{Profile, Tier},
    outside::{Binding, OutsideClient},
    run::RunState,
};

use super::fakes::{World, closed, order, row_when, start_of};
use crate::{
    Command, Engine, Outside, StartError, StartRun,
    ports::{Exit, Fence},
};

fn client(name: &str, subject: &str) -> OutsideClient {
    let (issuer, binding) = ("corp".parse().unwrap(), Binding::Dpop);
    OutsideClient { issuer, client: name.to_owned(), subject: subject.to_owned(), binding }
}

fn visit(agent: &str, client: OutsideClient, by_itself: bool) -> StartRun {
    let actor = if by_itself { client.actor() } else { "operator".to_owned() };
    StartRun {
        input: Vec::new(),
        as_user: client.user(),
        actor,
        outside: Some(Outside { client, by_itself }),
        ..start_of(agent)
    }
}

async fn visiting(engine: &Engine, world: &World, request: StartRun) -> RunId {
    let run = engine.start_run(request).await.unwrap().run;
    row_when(engine, run, |row| {
        row.state == RunState::Running && world.sandbox(run).is_some_and(|made| *made.started.lock().unwrap())
    })
    .await;
    run
}

#[tokio::test]
async fn a_client_outside_has_one_run_that_says_what_it_is() {
    let world = World::new();
    let engine = world.engine().await;
    let run = visiting(&engine, &world, visit("visited", client("ide", "alice"), true)).await;
    assert_eq!(world.fence_of(run), Some(Fence::Open));
    let again = engine.start_run(visit("visited", client("ide", "alice"), true)).await.unwrap_err();
    assert!(matches!(again, StartError::Attached(known) if known == run), "{again}");
    let bearer = OutsideClient { binding: Binding::Bearer, ..client("ide", "alice") };
    let again = engine.start_run(visit("visited", bearer, true)).await.unwrap_err();
    assert!(matches!(again, StartError::Attached(known) if known == run), "however its tokens are held: {again}");
    let other = visiting(&engine, &world, visit("visited", client("ide", "bob"), true)).await;
    assert_ne!(run, other);
    let leaves = world.leaves.lock().unwrap().clone();
    for kind in [EventType::RunRequested, EventType::SandboxAttested, EventType::RunStarted] {
        let leaf = leaves.iter().find(|leaf| leaf.run == Some(run) && leaf.kind == kind).unwrap();
        assert!(leaf.fields.iter().any(|f| f.name == "profile" && f.value == "outside".into()), "{kind:?}");
    }
    let requested = leaves.iter().find(|leaf| leaf.run == Some(run)).unwrap();
    assert!(requested.fields.iter().any(|f| f.name == "basis" && f.value == vec!["outside"].into()));
    assert_eq!(requested.by.subject.as_deref(), Some("outside:corp:alice"));
}

#[tokio::test]
async fn two_requests_at_once_begin_one_run() {
    let world = World::new();
    let engine = world.engine().await;
    let starts = (0..16).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.start_run(visit("visited", client("ide", "alice"), true)).await })
    });
    let mut begun = 0;
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Ok(_) => begun += 1,
            Err(StartError::Attached(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(begun, 1);
}

#[tokio::test]
async fn what_an_operator_stopped_comes_back_by_an_operator_alone() {
    let world = World::new();
    let engine = world.engine().await;
    for command in [Command::Kill, Command::Cancel] {
        let run = visiting(&engine, &world, visit("visited", client("ide", "alice"), false)).await;
        engine.command(run, command, order()).await.unwrap();
        closed(&engine, run).await;
        assert_eq!(world.alive(), 0);
        let refused = engine.start_run(visit("visited", client("ide", "alice"), true)).await.unwrap_err();
        assert!(matches!(refused, StartError::Stopped(last) if last == run), "{command:?}: {refused}");
        let other = OutsideClient { binding: Binding::Bearer, ..client("ide", "alice") };
        assert!(matches!(engine.start_run(visit("visited", other, true)).await, Err(StartError::Stopped(_))));
    }
    // One that left comes back, and so does one whose time was over.
    let run = visiting(&engine, &world, visit("visited", client("ide", "alice"), false)).await;
    world.sandbox(run).unwrap().end(Exit { code: Some(0), ..Exit::default() });
    assert_eq!(closed(&engine, run).await.state, RunState::Succeeded);
    visiting(&engine, &world, visit("visited", client("ide", "alice"), true)).await;
    let brief = visiting(&engine, &world, visit("visited-briefly", client("ide", "alice"), true)).await;
    assert_eq!(closed(&engine, brief).await.state, RunState::Failed);
    visiting(&engine, &world, visit("visited-briefly", client("ide", "alice"), true)).await;
    // A client that comes again and again writes nothing here: who lets it in counts.
    assert!(!world.leaves.lock().unwrap().iter().any(|leaf| leaf.kind == EventType::RunRefused));
}

#[tokio::test]
async fn nobody_is_let_in_where_a_sandbox_is_demanded_or_nobody_is_named() {
    let world = World::new();
    let engine = world.engine().await;
    let refused = async |request| engine.start_run(request).await.unwrap_err();
    assert!(matches!(refused(visit("clerk", client("ide", "alice"), true)).await, StartError::NotAdmitted { .. }));
    assert!(matches!(refused(visit("visited", client("other", "alice"), true)).await, StartError::NotAdmitted { .. }));
    assert!(matches!(
        refused(visit("visited-staged", client("ide", "alice"), false)).await,
        StartError::OutsideTier(_)
    ));
    let with_input = StartRun { input: b"x".to_vec(), ..visit("visited", client("ide", "alice"), false) };
    assert!(matches!(refused(with_input).await, StartError::OutsideGiven(_)));
    let mut tx = engine.with.store.begin().await.unwrap();
    assert!(Floor::default_of(Tier::Development).profile < Profile::Hardened);
    let floor = cogward_store::FloorRow {
        tenant: Some(TenantName::default_tenant()),
        tier: Tier::Development,
        profile: Profile::Hardened,
        reason: "everything in a sandbox".into(),
        updated: tx.now(),
        set_by: "ada".into(),
    };
    tx.floor_put(&floor).await.unwrap();
    let _committed = tx.commit(Vec::new()).await.unwrap();
    let raised = refused(visit("visited", client("ide", "alice"), true)).await;
    assert!(matches!(raised, StartError::OutsideFloor { .. }) && raised.to_string().contains("ada"), "{raised}");
    assert_eq!(std::fs::read_dir(world.dir.path().join("runs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_restart_keeps_what_was_commanded() {
    let world = World::new();
    let engine = world.engine().await;
    let (open, held, killed) = (
        visiting(&engine, &world, visit("visited", client("ide", "alice"), true)).await,
        visiting(&engine, &world, visit("visited", client("ide", "bob"), true)).await,
        visiting(&engine, &world, visit("visited", client("robot", "robot"), true)).await,
    );
    engine.command(held, Command::Suspend, order()).await.unwrap();
    // The kill is committed, and the plane is gone before anything else happens.
    world.hang_at("publish command");
    let dying = engine.clone();
    let kill = tokio::spawn(async move { dying.command(killed, Command::Kill, order()).await });
    world.reached.subscribe().wait_for(|reached| *reached).await.unwrap();
    kill.abort();
    world.go_on();
    drop(engine);
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    row_when(&engine, open, |row| row.state == RunState::Running).await;
    assert_eq!(world.fence_of(open), Some(Fence::Open));
    assert_eq!(world.fence_of(held), Some(Fence::Held));
    assert_eq!(closed(&engine, killed).await.state, RunState::Killed);
    let again = engine.start_run(visit("visited", client("robot", "robot"), true)).await.unwrap_err();
    assert!(matches!(again, StartError::Stopped(_)), "{again}");
    let held_again = engine.start_run(visit("visited", client("ide", "bob"), true)).await.unwrap_err();
    assert!(matches!(held_again, StartError::Attached(run) if run == held), "{held_again}");
}
