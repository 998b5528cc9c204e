//! A write transaction.

use std::sync::Arc;

use cogward_model::{Clock, Entropy, Timestamp, event::Event};
use sqlx::SqliteConnection;
use tokio::sync::OwnedMutexGuard;

use crate::{Committed, StoreError, Writer, outbox};

/// A write transaction; the only one at its time. Dropped without [`Tx::commit`], it never happened.
pub struct Tx {
    writer: OwnedMutexGuard<Writer>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Tx {
    pub(crate) async fn begin(
        mut writer: OwnedMutexGuard<Writer>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        if writer.abandoned {
            // Refused when the abandoned future was its commit and that went through: then there is
            // nothing to undo. Any other failure shows in the next statement, which cannot begin.
            let _ = sqlx::query("ROLLBACK").execute(&mut writer.connection).await;
        }
        // Set before the statement: the future can be dropped while SQLite executes it.
        writer.abandoned = true;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.connection).await?;
        Ok(Self { writer, clock, entropy })
    }

    /// Makes the changes last, together with the evidence of them, and hands the events out for the
    /// ledger. There is no other way to commit; a change that truly has no evidence passes none.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed; then nothing of it happened, unless the disk failed
    /// under the commit itself, which the next start finds out from the file.
    pub async fn commit(mut self, events: Vec<Event>) -> Result<Committed, StoreError> {
        let outbox = outbox::write(&mut self.writer.connection, events, &*self.clock, &*self.entropy).await?;
        sqlx::query("COMMIT").execute(&mut self.writer.connection).await?;
        self.writer.abandoned = false;
        Ok(Committed { outbox })
    }

    /// The time for the rows of this transaction.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.writer.connection
    }
}
