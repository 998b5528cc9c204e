//! Erasures and holds go through their states once, and what they were about is forgotten.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use cogward_model::{
    Id, SystemClock, SystemEntropy, TenantName,
    redaction::{ErasureScope, HoldScope, HoldState, RedactionState},
};
use cogward_store::{Answerable, HoldRow, PageRequest, RedactionRow, Store, TenantRow};

async fn store(dir: &std::path::Path) -> (Store, TenantName) {
    let store = Store::open(&dir.join("state.db")).await.unwrap();
    let tenant: TenantName = "acme".parse().unwrap();
    let mut tx = store.begin().await.unwrap();
    let row = TenantRow { name: tenant.clone(), created: tx.now(), created_by: "plane".into() };
    tx.tenant_insert(&row).await.unwrap();
    drop(tx.commit(Vec::new()).await.unwrap());
    (store, tenant)
}

fn by(name: &str) -> Answerable {
    use cogward_model::Clock as _;
    let id = Id::new(&SystemClock, &SystemEntropy);
    Answerable { name: name.to_owned(), id, at: SystemClock.now(), reason: "because".to_owned() }
}

#[tokio::test]
async fn an_erasure_is_answered_once_begun_once_and_forgets_whom_it_was_about() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tenant) = store(dir.path()).await;
    let asked = by("ada");
    let mut row = RedactionRow {
        id: Id::new(&SystemClock, &SystemEntropy),
        tenant: tenant.clone(),
        kind: "subject".into(),
        scope: Some(ErasureScope::Subject("anna@example.org".into())),
        ground: "gdpr-17-1-b".parse().unwrap(),
        reason: "ticket 7".into(),
        state: RedactionState::Requested,
        found: 3,
        requested: asked.at,
        requested_by: asked.name.clone(),
        requested_by_id: asked.id,
        answered: None,
        executed: None,
        plan: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.redaction_insert(&row).await.unwrap();
    assert!(!tx.redaction_begin(row.id, "{}", &by("ada")).await.unwrap(), "not before it is approved");
    drop(tx.commit(Vec::new()).await.unwrap());
    assert_eq!(store.redaction(&tenant, row.id).await.unwrap().as_ref(), Some(&row));
    assert_eq!(store.redaction(&"evil".parse().unwrap(), row.id).await.unwrap(), None);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.redaction_answer(row.id, true, &by("bob")).await.unwrap());
    assert!(!tx.redaction_answer(row.id, false, &by("eve")).await.unwrap());
    assert!(tx.redaction_begin(row.id, "{\"keys\":[]}", &by("ada")).await.unwrap());
    assert!(!tx.redaction_begin(row.id, "{}", &by("ada")).await.unwrap());
    drop(tx.commit(Vec::new()).await.unwrap());
    assert_eq!(store.redactions_open().await.unwrap().len(), 1);
    let mut tx = store.begin().await.unwrap();
    tx.redaction_end(row.id, 9).await.unwrap();
    drop(tx.commit(Vec::new()).await.unwrap());
    row = store.redaction(&tenant, row.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.found, row.scope, row.plan), (RedactionState::Executed, 9, None, None));
    assert_eq!(row.answered.map(|by| by.name).as_deref(), Some("bob"));
    assert!(store.redactions_open().await.unwrap().is_empty());
    assert_eq!(store.redactions(&tenant, None, &PageRequest::default()).await.unwrap().items.len(), 1);
    assert_eq!(store.redactions_since(&tenant, asked.at).await.unwrap(), 1);
    // And it is in no file any more.
    assert!(store.scrub().await.unwrap());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|part| part == b"anna@example.org"), "{}", path.display());
    }
}

#[tokio::test]
async fn a_hold_is_in_force_from_its_request_to_its_release() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tenant) = store(dir.path()).await;
    let mut hold = HoldRow {
        id: Id::new(&SystemClock, &SystemEntropy),
        tenant: tenant.clone(),
        kind: "subject".into(),
        scope: Some(HoldScope::Subject("anna".into())),
        reason: "case 12".into(),
        state: HoldState::Requested,
        requested: by("ada"),
        placed: None,
        releasing: None,
        released: None,
    };
    for state in HoldState::ALL {
        hold.state = *state;
        let mut tx = store.begin().await.unwrap();
        tx.hold_put(&hold).await.unwrap();
        drop(tx.commit(Vec::new()).await.unwrap());
        assert_eq!(store.hold(&tenant, hold.id).await.unwrap().as_ref(), Some(&hold));
        assert_eq!(store.holds_in_force(&tenant).await.unwrap().len(), usize::from(state.holds()), "{state}");
    }
    assert!(store.holds_in_force(&"evil".parse().unwrap()).await.unwrap().is_empty());
}
