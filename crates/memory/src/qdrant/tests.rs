use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use super::*;
use crate::conformance::{self, Bench, python};

/// Qdrant's own engine behind the part of its interface that is used here.
struct Engine {
    child: Child,
    url: String,
}

impl Engine {
    fn start(key: Option<&str>) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qdrant/server.py");
        let mut command = Command::new(python());
        command.arg(program).args(key.iter().flat_map(|key| ["--key", key])).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        assert!(!port.trim().is_empty(), "the engine does not start: scripts/setup-tests.sh installs it");
        Self { child, url: format!("http://127.0.0.1:{}", port.trim()) }
    }

    fn store(&self, key: Option<&str>, collection: &str, dimensions: Option<u32>) -> QdrantMemory {
        let options = QdrantOptions { url: &self.url, collection: Some(collection), dimensions };
        QdrantMemory::new(&options, key.map(|key| Zeroizing::new(key.to_owned()))).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_store() {
    let engine = Engine::start(Some("right"));
    let store = Arc::new(engine.store(Some("right\n"), "notes", Some(3)));
    conformance::all(Bench { store, counts_bytes: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_said() {
    let engine = Engine::start(Some("right"));
    let space = Space::new("acme".parse().unwrap(), "notes".parse().unwrap());
    for key in [None, Some("wrong")] {
        let refused = engine.store(key, "notes", None).ready(&space).await.unwrap_err();
        assert!(refused.to_string().contains("does not take the credential"), "{refused}");
    }
    engine.store(Some("right"), "notes", Some(3)).ready(&space).await.unwrap();
    engine.store(Some("right"), "notes", None).ready(&space).await.unwrap();
    let refused = engine.store(Some("right"), "notes", Some(4)).ready(&space).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("of 4 numbers")), "{refused}");
    for url in ["http://qdrant.example", "ftp://127.0.0.1", "https://u:p@q.example", "https://q.example/?a=b", "x"] {
        let options = QdrantOptions { url, collection: None, dimensions: None };
        assert!(QdrantMemory::new(&options, None).is_err(), "{url}");
    }
    for collection in ["", "a/b", "a?b", "../x", "a b"] {
        let options = QdrantOptions { url: "https://q.example", collection: Some(collection), dimensions: None };
        assert!(QdrantMemory::new(&options, None).is_err(), "{collection}");
    }
}

#[test]
fn no_two_owners_have_one_point() {
    let owner = |user: &str| {
        let subject = crate::Subject {
            tenant: "acme".parse().unwrap(),
            run: cogward_model::RunId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
            user: Some(user.into()),
            agent: "x".parse().unwrap(),
        };
        let space = Space::new("acme".parse().unwrap(), "notes".parse().unwrap());
        Owner::of(space, cogward_model::memory::MemoryScope::User, subject).unwrap()
    };
    let id = MemoryId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy);
    let (ann, bob) = (point_id(&owner("ann"), id), point_id(&owner("bob"), id));
    assert_ne!(ann, bob);
    assert_eq!(ann, point_id(&owner("ann"), id));
    assert_eq!(ann.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
}
