//! The state of a plane: who is registered, what runs, what was commanded.
//!
//! Relational, on SQLite in WAL mode with `synchronous=FULL`. Reads go through a pool of read-only
//! connections; every write goes through one writer connection, one transaction at a time. The one
//! invariant: [`Tx::commit`] is the only way to make a change last and it takes the evidence of the
//! change, so a change without a record does not compile. It writes the events to an outbox in the
//! same transaction; a crash between commit and ledger loses neither.
//!
//! What it refuses: a database of a newer plane, a value that its own types do not accept.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod agents;
mod approvals;
mod credentials;
mod error;
mod floors;
mod holds;
mod idempotency;
mod issuers;
mod ledger_seen;
mod migrations;
mod operations;
mod operators;
mod outbox;
mod page;
mod policies;
mod providers;
mod redactions;
mod rows;
mod runs;
mod secrets;
mod tenants;
mod tool_pins;
mod tool_servers;
mod tx;
mod versions;
mod warm;

use std::{os::unix::fs::OpenOptionsExt, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use cogward_model::{Clock, Entropy, SystemClock, SystemEntropy, Timestamp};
use sqlx::{
    ConnectOptions, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

pub use agents::AgentRow;
pub use approvals::{ApprovalFilter, ApprovalRow, ApprovalState};
pub use credentials::CredentialRow;
pub use error::{Noun, OpenError, StoreError};
pub use floors::{FloorRow, FloorRows};
pub use holds::HoldRow;
pub use idempotency::IdempotencyRow;
pub use issuers::IssuerRow;
pub use ledger_seen::LedgerSeenRow;
pub use operations::{OperationRow, OperationState};
pub use operators::{OperatorRow, Role};
pub use outbox::{Committed, OutboxRow};
pub use page::{Page, PageRequest};
pub use policies::{Answerable, NewPolicyVersion, PolicyPointerRow, PolicyVersionRow};
pub use providers::ProviderRow;
pub use redactions::RedactionRow;
pub use runs::{OutsideRuns, RunFilter, RunRow};
pub use secrets::SecretRow;
pub use tenants::TenantRow;
pub use tool_pins::{ApprovedTool, ToolPinRow};
pub use tool_servers::ToolServerRow;
pub use tx::Tx;
pub use versions::VersionRow;

/// How long a statement waits for a lock that another process holds on the file.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Readers of a plane: list and show requests, each a few milliseconds.
const READERS_MAX: u32 = 4;

/// An open state database. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub struct Store {
    readers: SqlitePool,
    writer: Arc<Mutex<Writer>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// The one connection that writes.
pub(crate) struct Writer {
    pub(crate) connection: SqliteConnection,
    /// A transaction was begun and neither committed nor rolled back: its future was dropped.
    pub(crate) abandoned: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database at `path`, makes it if it is not there, and brings it to this plane's schema.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, or belongs to a newer plane.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Arc::new(SystemClock), Arc::new(SystemEntropy)).await
    }

    /// As [`Store::open`], with the given sources of time and randomness for the ids of outbox events.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, or belongs to a newer plane.
    pub async fn open_with(path: &Path, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        private_file(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is deleted is overwritten: the outbox holds values that may be erased later.
            .pragma("secure_delete", "on")
            .busy_timeout(BUSY_WAIT)
            .disable_statement_logging();
        let mut connection = options.connect().await?;
        migrations::apply(&mut connection, clock.now()).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .connect_with(options.pragma("query_only", "on"))
            .await?;
        let writer = Arc::new(Mutex::new(Writer { connection, abandoned: false }));
        Ok(Self { readers, writer, clock, entropy })
    }

    /// Begins a write transaction. Waits for the one before it to end.
    ///
    /// Dropping the [`Tx`] without [`Tx::commit`] undoes everything in it.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        Tx::begin(writer, Arc::clone(&self.clock), Arc::clone(&self.entropy)).await
    }

    /// The time for rows, outside of a transaction.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Closes the readers; the writer closes with the last clone.
    pub async fn close(&self) {
        self.readers.close().await;
    }

    pub(crate) async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }
}

/// Makes the file if it is not there, and lets nobody but its owner read it. SQLite gives the `-wal`
/// and `-shm` files the mode of the database file.
fn private_file(path: &Path) -> Result<(), std::io::Error> {
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;

    async fn pragma(connection: &mut SqliteConnection, sql: &'static str) -> String {
        let row = sqlx::query(sql).fetch_one(connection).await.unwrap();
        row.try_get::<String, _>(0).unwrap_or_else(|_| row.get::<i64, _>(0).to_string())
    }

    #[tokio::test]
    async fn what_is_committed_is_on_disk_and_readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        for (sql, wanted) in [
            ("PRAGMA journal_mode", "wal"),
            // 2 is FULL: the log is flushed at each commit.
            ("PRAGMA synchronous", "2"),
            ("PRAGMA foreign_keys", "1"),
        ] {
            assert_eq!(pragma(tx.connection(), sql).await, wanted, "{sql}");
        }
        let mut reader = store.reader().await.unwrap();
        assert!(sqlx::query("DELETE FROM tenants").execute(&mut *reader).await.is_err());
    }

    #[tokio::test]
    async fn a_commit_whose_future_is_dropped_happened_whole_or_not_at_all() {
        use std::{
            future::Future,
            pin::pin,
            task::{Context, Waker},
        };

        use cogward_model::{
            TenantName,
            event::{Attribution, Event, EventType},
        };
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).await.unwrap();
        for polls in 0..12 {
            let name: TenantName = format!("t{polls}").parse().unwrap();
            let mut tx = store.begin().await.unwrap();
            let row = TenantRow { name: name.clone(), created: tx.now(), created_by: "plane".into() };
            tx.tenant_insert(&row).await.unwrap();
            let event = Event::new(EventType::TenantCreated, name.clone(), Attribution::plane());
            {
                let mut commit = pin!(tx.commit(vec![event]));
                for _ in 0..polls {
                    if commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                    std::thread::yield_now();
                }
            }
            // The next writer waits for what SQLite still does, and undoes what is left.
            drop(store.begin().await.unwrap());
            let made = store.tenant(&name).await.unwrap().is_some();
            let pending = store.outbox_pending(100).await.unwrap();
            assert_eq!(made, pending.iter().any(|r| r.event.tenant == name), "after {polls} polls");
        }
    }
}
