//! Evidence that was committed with a change of state: published before the change has any effect.
//!
//! The store's transaction holds the events; here they become leaves, each once, whatever crashed in
//! between: an event keeps the id it was given at commit, and an id that is in the log is not appended again.

use std::collections::{BTreeMap, HashSet};

use cogward_store::{Committed, OutboxRow, Store, StoreError};

use crate::{
    queue::Item,
    read::{ReadError, on_a_thread},
    record::{Evidence, LeafRef, RecordError},
};

/// Rows that are looked up in the log at once.
const PAGE: u32 = 4_096;

/// Why the outbox could not be drained. The gateways must not open.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The store.
    #[error("the outbox could not be read")]
    Store(#[from] StoreError),
    /// The ledger could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Evidence {
    /// Puts the events of a committed change into the ledger and takes them off the outbox.
    ///
    /// # Errors
    /// See [`RecordError`]; then the change's effects must not start. The events stay in the outbox.
    pub async fn publish(&self, store: &Store, committed: Committed) -> Result<Vec<LeafRef>, RecordError> {
        let rows = committed.outbox;
        let mut answers = Vec::with_capacity(rows.len());
        for row in &rows {
            answers.push(self.submit(&row.event, row.event_id, true)?);
        }
        let mut leaves = Vec::with_capacity(rows.len());
        for answer in answers {
            leaves.push(answer.await.unwrap_or_else(|_| Err(self.shared.failure()))?);
        }
        if let Err(error) = self.done(store, &rows, &leaves).await {
            // The leaves are durable, so the change may take effect; the ids are recognised when they come again.
            tracing::warn!(%error, "published events could not be taken off the outbox");
        }
        Ok(leaves)
    }

    /// Publishes what an earlier process left in the outbox. Before the gateways open. Says how many leaves that made.
    ///
    /// # Errors
    /// See [`DrainError`].
    pub async fn drain_outbox(&self, store: &Store) -> Result<usize, DrainError> {
        let mut made = 0;
        loop {
            let rows = store.outbox_pending(PAGE).await?;
            if rows.is_empty() {
                return Ok(made);
            }
            let wanted: HashSet<String> = rows.iter().map(|row| row.event_id.to_string()).collect();
            let evidence = self.clone();
            let found = on_a_thread(move || evidence.find(wanted)).await?;
            let (there, missing): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| found.contains(&row.event_id.to_string()));
            made += self.publish(store, Committed { outbox: missing }).await?.len();
            self.done(store, &there, &[]).await?;
        }
    }

    /// The leaves are on the disk: that they must be there from now on is written with the same transaction.
    async fn done(&self, store: &Store, rows: &[OutboxRow], leaves: &[LeafRef]) -> Result<(), StoreError> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let mut logs: BTreeMap<&str, u64> = BTreeMap::new();
        for leaf in leaves {
            let size = logs.entry(leaf.tenant.as_str()).or_default();
            *size = leaf.seq.saturating_add(1).max(*size);
        }
        let logs: Vec<_> = logs.into_iter().map(|(log, size)| (log.to_owned(), size)).collect();
        store.outbox_published(&ids, &logs).await?;
        let events = rows.iter().map(|row| row.event_id).collect();
        // A full queue keeps some ids longer than needed, no more.
        drop(self.shared.queue.push(Item::Forget(events)));
        Ok(())
    }
}
