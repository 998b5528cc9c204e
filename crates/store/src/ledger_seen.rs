//! How far the state has seen the logs of the ledger.

use cogward_model::Timestamp;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{Store, StoreError, Tx, rows};

/// How far a log was on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSeenRow {
    /// The tenant's name; empty for the plane log.
    pub log: String,
    /// Leaves that were on the disk.
    pub size: u64,
    /// The newest signed state that was seen: its size, and its root as text.
    pub signed: Option<(u64, String)>,
    /// When it was written.
    pub seen: Timestamp,
}

fn count(value: i64, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { column, why: "it is negative".to_owned() })
}

fn bound(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn row(row: &SqliteRow) -> Result<LedgerSeenRow, StoreError> {
    let signed: (Option<i64>, Option<String>) = (row.try_get("signed_size")?, row.try_get("signed_root")?);
    let signed = match signed {
        (Some(size), Some(root)) => Some((count(size, "signed_size")?, root)),
        _ => None,
    };
    let size = count(row.try_get("size")?, "size")?;
    Ok(LedgerSeenRow { log: row.try_get("log")?, size, signed, seen: rows::time(row, "seen")? })
}

impl Store {
    /// Every log that was seen.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn ledger_seen(&self) -> Result<Vec<LedgerSeenRow>, StoreError> {
        let mut reader = self.reader().await?;
        let found = sqlx::query("SELECT * FROM ledger_seen ORDER BY log").fetch_all(&mut *reader).await?;
        found.iter().map(row).collect()
    }
}

impl Tx {
    /// Says that a log has so many leaves on the disk, and what the newest signed state of it is, where that is known.
    /// What was seen never becomes less.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn ledger_seen_put(
        &mut self,
        log: &str,
        size: u64,
        signed: Option<(u64, &str)>,
    ) -> Result<(), StoreError> {
        let now = rows::micros(self.now());
        sqlx::query(
            "INSERT INTO ledger_seen (log, size, signed_size, signed_root, seen) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (log) DO UPDATE SET
                 size = CASE WHEN excluded.size > ledger_seen.size THEN excluded.size ELSE ledger_seen.size END,
                 signed_root = CASE WHEN excluded.signed_size >= COALESCE(ledger_seen.signed_size, 0)
                     THEN excluded.signed_root ELSE ledger_seen.signed_root END,
                 signed_size = CASE WHEN excluded.signed_size >= COALESCE(ledger_seen.signed_size, 0)
                     THEN excluded.signed_size ELSE ledger_seen.signed_size END,
                 seen = excluded.seen",
        )
        .bind(log)
        .bind(bound(size))
        .bind(signed.map(|(size, _)| bound(size)))
        .bind(signed.map(|(_, root)| root))
        .bind(now)
        .execute(self.connection())
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_seen_never_becomes_less() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).await.unwrap();
        for (size, signed) in [(7, Some((6, "six"))), (9, None), (3, Some((2, "two"))), (9, Some((6, "six")))] {
            let mut tx = store.begin().await.unwrap();
            tx.ledger_seen_put("acme", size, signed).await.unwrap();
            let _none = tx.commit(Vec::new()).await.unwrap();
        }
        // The row of a log that was seen with its leaves and never signed.
        store.outbox_published(&[], &[("globex".to_owned(), 4)]).await.unwrap();
        let seen = store.ledger_seen().await.unwrap();
        let told: Vec<_> = seen.into_iter().map(|row| (row.log, row.size, row.signed)).collect();
        let wanted = [("acme".to_owned(), 9, Some((6, "six".to_owned()))), ("globex".to_owned(), 4, None)];
        assert_eq!(told, wanted);
    }
}
