//! The journal of operational events: what a console, a pager or a SIEM wants to see happen.
//!
//! It is never evidence and never derived from evidence: it has its own file, its own retention and
//! may lose its newest rows when the host loses power. It carries no payload of a governed call.
//! [`Journal::publish`] never blocks and never fails; a full queue is counted and the loss is itself
//! an event. A reader resumes from any [`Cursor`] it has seen, or is told to [`Item::Resync`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::expect_used))]

mod cursor;
mod entry;
mod subscription;
mod table;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cogward_model::Clock;
use tokio::sync::{broadcast, mpsc, watch};

pub use cursor::{Cursor, ParseCursorError};
pub use entry::{DETAIL_BYTES_MAX, Entry, Filter, JournalEvent, Severity};
pub use subscription::{From, Item, Subscription};
pub use table::{OpenError, ReadError};

/// How much the journal keeps and holds.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// Rows that are kept.
    pub rows_max: u64,
    /// Age after which a row is dropped.
    pub age_max: Duration,
    /// Events that may wait to be written; more are counted and dropped.
    pub queue_max: usize,
    /// Live entries a slow reader may be behind before it reads from the table again.
    pub ring_max: usize,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { rows_max: 1_000_000, age_max: Duration::from_secs(30 * 86_400), queue_max: 8_192, ring_max: 1_024 }
    }
}

/// The journal; cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<writer::Command>,
    dropped: Arc<AtomicU64>,
    live: broadcast::Sender<Arc<Entry>>,
    head: watch::Receiver<Cursor>,
    table: table::Table,
    clock: Arc<dyn Clock>,
}

impl Journal {
    /// Opens or creates the journal in the file `path`, and starts its writer on the current runtime.
    ///
    /// A file that is not a readable database is moved aside: operational history must not keep a
    /// plane from starting.
    ///
    /// # Errors
    /// [`OpenError`] when the file can neither be opened nor made.
    pub async fn open(path: &Path, options: JournalOptions, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (table, head) = table::Table::open(path).await?;
        let (queue, commands) = mpsc::channel(options.queue_max.max(1));
        let (live, _) = broadcast::channel(options.ring_max.max(1));
        let (head_sender, head) = watch::channel(head);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = writer::Writer {
            table: table.clone(),
            live: live.clone(),
            head: head_sender,
            dropped: dropped.clone(),
            clock: clock.clone(),
            options,
        };
        tokio::spawn(writer.run(commands));
        Ok(Self(Arc::new(Inner { queue, dropped, live, head, table, clock })))
    }

    /// Hands an event over to be written and shown to readers. Returns at once.
    pub fn publish(&self, event: JournalEvent) {
        let time = self.0.clock.now();
        if self.0.queue.try_send(writer::Command::Write { time, event: event.bounded() }).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The place after the newest entry.
    #[must_use]
    pub fn head(&self) -> Cursor {
        *self.0.head.borrow()
    }

    /// Entries from `from` on that `filter` lets through, without an end.
    #[must_use]
    pub fn subscribe(&self, from: From, filter: Filter) -> Subscription {
        // The live feed is joined first: what is written while the table is read is in both, never in neither.
        Subscription::new(self.0.table.clone(), self.0.live.subscribe(), self.head(), from, filter)
    }

    /// Whether a reader can go on from `cursor` without a gap.
    ///
    /// # Errors
    /// [`ReadError`] when the table cannot be read.
    pub async fn resumable(&self, cursor: Cursor) -> Result<bool, ReadError> {
        Ok(cursor >= self.0.table.pruned().await? && cursor <= self.head())
    }

    /// Returns when everything published before this call is in the table, or could not be written.
    pub async fn flush(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self.0.queue.send(writer::Command::Flush(done)).await.is_ok() {
            // The writer only goes away with its runtime; then there is nothing left to wait for.
            let _ = wait.await;
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("head", &self.head()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
