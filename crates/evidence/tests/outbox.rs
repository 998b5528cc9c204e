//! Evidence of changes of state: each event once, whatever is interrupted.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use cogward_store::Store;
use support::{event, open, verified};

#[tokio::test]
async fn events_of_a_change_are_in_the_ledger_once_however_often_they_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).await.unwrap();
    let data = dir.path().join("evidence");
    let evidence = open(&data);
    let committed = store.begin().await.unwrap().commit(vec![event("acme", None), event("acme", None)]).await.unwrap();
    let leaves = evidence.publish(&store, committed.clone()).await.unwrap();
    assert_eq!(leaves.iter().map(|leaf| leaf.seq).collect::<Vec<_>>(), [0, 1]);
    assert!(store.outbox_pending(10).await.unwrap().is_empty());
    assert_eq!(leaves[0].id, committed.outbox[0].event_id);

    // A crash after the commit and before the publication.
    let _lost = store.begin().await.unwrap().commit(vec![event("acme", None)]).await.unwrap();
    // One after the publication and before the mark: what the ledger has, the store still lists.
    let marked = store.begin().await.unwrap().commit(vec![event("acme", None)]).await.unwrap();
    let other = Store::open(&dir.path().join("other.db")).await.unwrap();
    evidence.publish(&other, marked).await.unwrap();
    drop(evidence);
    let again = open(&data);
    assert_eq!(store.outbox_pending(10).await.unwrap().len(), 2);
    assert_eq!(again.drain_outbox(&store).await.unwrap(), 1);
    assert!(store.outbox_pending(10).await.unwrap().is_empty());
    assert_eq!(verified(&again, "acme").await.leaves, 4);
    assert_eq!(again.drain_outbox(&store).await.unwrap(), 0);
}
