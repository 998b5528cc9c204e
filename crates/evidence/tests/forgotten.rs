//! Who was erased is found by nobody: not in the query index, not in one that is made anew, not through a proof.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path};

use cogward_evidence::{Evidence, Part, Query, SearchError, User};
use cogward_ledger::map::Kind;
use cogward_model::{
    RunId, SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
    id::RedactionId,
    redaction::ErasureScope,
};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use support::{new_run, open, tenant};

async fn acted(evidence: &Evidence, run: RunId, user: &str, count: usize) {
    for _ in 0..count {
        let by = Attribution {
            agent: Some(("claims".parse().unwrap(), "1.0.0".parse().unwrap())),
            subject: Some(user.to_owned()),
        };
        let event = Event::new(EventType::ToolCallDecided, tenant("acme"), by).run(run).personal("args", "x");
        evidence.record(event).await.unwrap();
    }
}

async fn found(evidence: &Evidence, user: User) -> usize {
    let query = Query { user: Some(user), ..Query::default() };
    evidence.search(&tenant("acme"), &query, None, 1_000).await.unwrap().leaves.len()
}

async fn erase(evidence: &Evidence, scope: ErasureScope) {
    let by = RedactionId::new(&SystemClock, &SystemEntropy);
    let erasure = evidence.prepare_erasure(&tenant("acme"), &scope).await.unwrap();
    evidence.destroy(&tenant("acme"), by, &erasure.plan).await.unwrap();
}

fn name(user: &str) -> User {
    User::Name(user.to_owned())
}

/// Rows of the index that say what leaves can be found by.
async fn terms(dir: &Path) -> i64 {
    let options = SqliteConnectOptions::new().filename(dir.join("index.db"));
    let mut file = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("SELECT count(*) FROM term").fetch_one(&mut file).await.unwrap().try_get(0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_forgets_whose_the_leaves_are_before_the_keys_go() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let (first, second) = (new_run(), new_run());
    acted(&evidence, first, "anna", 5).await;
    acted(&evidence, first, "bo", 3).await;
    acted(&evidence, second, "anna", 4).await;
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (9, 3));
    let before = terms(dir.path()).await;

    // One run of hers, then one name in the other, then all of her.
    erase(&evidence, ErasureScope::Run(second)).await;
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (5, 3));
    assert_eq!(terms(dir.path()).await, before - 4);
    erase(&evidence, ErasureScope::Field { leaf: 0, name: "sub".into() }).await;
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (4, 3));
    erase(&evidence, ErasureScope::Field { leaf: 1, name: "args".into() }).await;
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (4, 3));
    erase(&evidence, ErasureScope::Subject("anna".into())).await;
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (0, 3));
    assert_eq!(terms(dir.path()).await, before - 9);
    assert_eq!(found(&evidence, User::Pseudonym("0".repeat(32))).await, 0);
    // What is not a person's is found as before.
    let by_run = Query { run: Some(first), ..Query::default() };
    assert_eq!(evidence.search(&tenant("acme"), &by_run, None, 100).await.unwrap().leaves.len(), 8);

    // One that is made anew does not know it either.
    evidence.reindex().await.unwrap();
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (0, 3));
    drop(evidence);
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        let _gone = fs::remove_file(dir.path().join(file));
    }
    let evidence = open(dir.path());
    assert_eq!((found(&evidence, name("anna")).await, found(&evidence, name("bo")).await), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_proven_by_a_person_where_persons_were_erased_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let run = new_run();
    acted(&evidence, run, "anna", 3).await;
    acted(&evidence, run, "bo", 2).await;
    let part = |user: &str| Part::Subject(name(user), (None, None));
    let draft = |n: u32, part: Part| {
        let (evidence, dest) = (evidence.clone(), dir.path().join(format!("part-{n}")));
        async move { evidence.draft(&tenant("acme"), part, false, "opr_1", &dest).await.map(drop) }
    };
    // It puts the root of the open range into the log.
    draft(1, part("bo")).await.unwrap();
    erase(&evidence, ErasureScope::Subject("anna".into())).await;
    for user in ["anna", "bo"] {
        let refused = draft(2, part(user)).await.unwrap_err();
        assert!(matches!(refused, SearchError::Erased(0, _)), "{refused}");
    }
    // By what is in the leaves it is proven as before.
    draft(3, Part::Key(Kind::Agent, "claims".into(), (None, None))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_forget_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    acted(&evidence, new_run(), "anna", 3).await;
    assert_eq!(found(&evidence, name("anna")).await, 3);
    let options = SqliteConnectOptions::new().filename(dir.path().join("index.db"));
    let mut file = SqliteConnection::connect_with(&options).await.unwrap();
    let broken = "CREATE TRIGGER keep BEFORE DELETE ON term BEGIN SELECT RAISE(ABORT, 'no'); END";
    sqlx::raw_sql(broken).execute(&mut file).await.unwrap();
    drop(file);
    erase(&evidence, ErasureScope::Subject("anna".into())).await;
    assert_eq!(found(&evidence, name("anna")).await, 0);
}
