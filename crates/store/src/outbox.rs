//! Evidence that is committed with a change and not in the ledger yet.

use cogward_model::{
    Clock, Entropy,
    event::Event,
    id::{EventId, Id},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Store, StoreError, rows};

/// What [`crate::Tx::commit`] leaves to be published to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the events are published to the ledger before the change takes effect outside"]
pub struct Committed {
    /// One row per event, in the order given.
    pub outbox: Vec<OutboxRow>,
}

/// One event on its way to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place; never used twice.
    pub id: i64,
    /// Its id in the ledger, fixed at commit, so that a second attempt after a crash is recognised.
    pub event_id: EventId,
    /// What happened.
    pub event: Event,
}

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    events: Vec<Event>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Vec<OutboxRow>, StoreError> {
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    if count == 0 {
        return Ok(Vec::new());
    }
    // A counter and not MAX(id): rows are deleted, and an id that came back could be marked as done
    // by the late answer to its predecessor.
    let last: i64 = sqlx::query("UPDATE counters SET value = value + $1 WHERE name = 'outbox' RETURNING value")
        .bind(count)
        .fetch_one(&mut *connection)
        .await?
        .try_get("value")?;
    let now = rows::micros(clock.now());
    let mut out = Vec::with_capacity(events.len());
    for (id, event) in (last - count + 1..).zip(events) {
        let event_id: EventId = Id::new(clock, entropy);
        sqlx::query("INSERT INTO outbox (id, event_id, event, created) VALUES ($1, $2, $3, $4)")
            .bind(id)
            .bind(event_id.to_string())
            .bind(serde_json::to_string(&event)?)
            .bind(now)
            .execute(&mut *connection)
            .await?;
        out.push(OutboxRow { id, event_id, event });
    }
    Ok(out)
}

fn row(row: &SqliteRow) -> Result<OutboxRow, StoreError> {
    Ok(OutboxRow { id: row.try_get("id")?, event_id: rows::typed(row, "event_id")?, event: rows::json(row, "event")? })
}

impl Store {
    /// Events that are not in the ledger yet, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn outbox_pending(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let mut reader = self.reader().await?;
        let found = sqlx::query("SELECT id, event_id, event FROM outbox ORDER BY id LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&mut *reader)
            .await?;
        found.iter().map(row).collect()
    }

    /// Removes events whose leaves are durable. Ids that are not there any more are ignored.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed; then they stay pending, and are recognised by their
    /// event id when they are published again.
    pub async fn outbox_done(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.outbox_published(ids, &[]).await
    }

    /// The same, and that the logs of these names have so many leaves on the disk.
    ///
    /// # Errors
    /// As [`Store::outbox_done`].
    pub async fn outbox_published(&self, ids: &[i64], logs: &[(String, u64)]) -> Result<(), StoreError> {
        if ids.is_empty() && logs.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for (log, size) in logs {
            tx.ledger_seen_put(log, *size, None).await?;
        }
        for id in ids {
            sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id).execute(tx.connection()).await?;
        }
        let _no_evidence = tx.commit(Vec::new()).await?;
        Ok(())
    }
}
