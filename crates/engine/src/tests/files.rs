//! What a run is given, what it leaves, and what the evidence says of both.

use std::{fs, path::PathBuf};

use cogward_model::{
    Digest,
    content::{Artifact, Content, ContentKind, NotKept},
    event::{EventType, Value},
    run::RunState,
};

use super::{
    crash::{crash, next_life, only_run},
    fakes::{World, closed, row_when, start_of},
};
use crate::{StartError, StartInput, UPLOADED, ports::Exit};

fn content(byte: u8) -> Content {
    Content { kind: ContentKind::File, digest: Digest::from_bytes([byte; 32]), bytes: 5, entries: 1 }
}

fn uploaded(world: &World) -> StartInput {
    let upload = world.dir.path().join("upload");
    fs::create_dir(&upload).unwrap();
    fs::write(upload.join(UPLOADED), "hello").unwrap();
    StartInput { name: "claims".parse().unwrap(), upload, content: content(3) }
}

fn field(world: &World, kind: EventType, name: &str) -> Option<Value> {
    let leaves = world.leaves.lock().unwrap();
    let leaf = leaves.iter().find(|leaf| leaf.kind == kind)?;
    leaf.fields.iter().find(|field| field.name == name).map(|field| field.value.clone())
}

#[test]
fn a_run_that_is_launched_again_is_given_the_same_files() {
    for point in ["publish requested", "before launch", "after launch"] {
        let world = World::new();
        let inputs = vec![uploaded(&world)];
        crash(&world, point, async move |engine| {
            let _ = engine.start_run(crate::StartRun { inputs: inputs.clone(), ..start_of("filer") }).await;
        });
        next_life(async {
            let engine = world.engine().await;
            engine.recover().await.unwrap();
            let run = only_run(&engine).await;
            row_when(&engine, run, |r| r.state == RunState::Running).await;
            let given = world.given.lock().unwrap().clone();
            let [(input, place)] = given.as_slice() else { panic!("{point}: {given:?}") };
            assert_eq!((input.name.as_str(), input.content), ("claims", content(3)), "{point}");
            assert_eq!(fs::read(place).unwrap(), b"hello", "{point}");
            assert!(!world.dir.path().join("upload").exists());
            let recorded = field(&world, EventType::RunRequested, "inputs");
            assert!(format!("{recorded:?}").contains(&content(3).digest.to_string()), "{recorded:?}");
            world.sandbox(run).unwrap().end(Exit { code: Some(0), ..Exit::default() });
            assert_eq!(closed(&engine, run).await.state, RunState::Succeeded);
        });
    }
}

#[tokio::test]
async fn a_refused_start_leaves_the_upload_and_a_used_one_is_gone() {
    let world = World::new();
    let engine = world.engine().await;
    engine.recover().await.unwrap();
    let refused = engine.start_run(start_of("filer")).await.unwrap_err();
    assert!(matches!(refused, StartError::Input { .. }), "{refused}");
    let input = uploaded(&world);
    let start = |inputs| engine.start_run(crate::StartRun { inputs, ..start_of("filer") });
    let other = StartInput { name: "other".parse().unwrap(), ..input.clone() };
    assert!(matches!(start(vec![input.clone(), other]).await, Err(StartError::Input { .. })));
    assert!(input.upload.exists(), "what was refused before it was taken can be used again");
    assert_eq!(field(&world, EventType::RunRefused, "rule"), Some("spec.sandbox.inputs".into()));
    start(vec![input.clone()]).await.unwrap();
    let refused = start(vec![input]).await.unwrap_err().to_string();
    assert!(refused.contains("used by another run"), "{refused}");
    assert_eq!(fs::read_dir(world.dir.path().join("runs")).unwrap().count(), 1);
    let left: Vec<PathBuf> = fs::read_dir(world.dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!left.iter().any(|p| p.ends_with("upload")), "{left:?}");
}

#[tokio::test]
async fn a_run_without_its_required_output_has_failed_and_says_which() {
    let artifact = |required, refused: Option<NotKept>| Artifact {
        name: "report".parse().unwrap(),
        required,
        content: refused.is_none().then(|| content(9)),
        refused,
        detail: Some("`a path that the agent chose`".into()),
    };
    for (artifact, code, state, cause) in [
        (artifact(true, None), 0, RunState::Succeeded, None),
        (artifact(false, Some(NotKept::Link)), 0, RunState::Succeeded, None),
        (
            artifact(true, Some(NotKept::TooLarge)),
            0,
            RunState::Failed,
            Some("spec.sandbox.outputs: the required output `report` was not kept: too_large"),
        ),
        // What ended badly says that first.
        (artifact(true, Some(NotKept::Missing)), 3, RunState::Failed, Some("the agent ended with exit code 3")),
    ] {
        let world = World::new();
        let engine = world.engine().await;
        engine.recover().await.unwrap();
        let run = engine.start_run(start_of("clerk")).await.unwrap().run;
        row_when(&engine, run, |r| r.state == RunState::Running).await;
        let exit = Exit { code: Some(code), artifacts: vec![artifact.clone()], ..Exit::default() };
        world.sandbox(run).unwrap().end(exit);
        let row = closed(&engine, run).await;
        assert_eq!((row.state, row.fail_cause.as_deref()), (state, cause));
        let recorded = format!("{:?}", field(&world, EventType::RunClosed, "artifacts"));
        match artifact.refused {
            None => assert!(recorded.contains(&content(9).digest.to_string()), "{recorded}"),
            Some(reason) => {
                assert!(recorded.contains(reason.as_str()) && !recorded.contains("agent chose"), "{recorded}")
            }
        }
    }
}
