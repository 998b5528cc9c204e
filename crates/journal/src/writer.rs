//! The one task that gives entries their places, writes them in batches and shows them to readers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cogward_model::{Clock, Timestamp};
use serde_json::json;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{Cursor, Entry, JournalEvent, JournalOptions, Severity, table::Table};

/// Events that are written at once.
const BATCH_MAX: usize = 512;
/// Rows between two looks at the retention bounds.
const PRUNE_EVERY: u64 = 4_096;

pub(crate) enum Command {
    Write { time: Timestamp, event: JournalEvent },
    Flush(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    pub(crate) table: Table,
    pub(crate) live: broadcast::Sender<Arc<Entry>>,
    pub(crate) head: watch::Sender<Cursor>,
    pub(crate) dropped: Arc<AtomicU64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: JournalOptions,
}

impl Writer {
    pub(crate) async fn run(self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut since_prune = PRUNE_EVERY;
        while commands.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut flushed = Vec::new();
            let mut events = Vec::with_capacity(batch.len());
            for command in batch.drain(..) {
                match command {
                    Command::Write { time, event } => events.push((time, event)),
                    Command::Flush(done) => flushed.push(done),
                }
            }
            since_prune += self.write(events).await;
            if since_prune >= PRUNE_EVERY {
                since_prune = 0;
                if let Err(error) = self.table.prune(&self.options, self.clock.now()).await {
                    tracing::warn!(%error, "the journal cannot drop its oldest rows");
                }
            }
            for done in flushed {
                // Whoever asked may have gone away.
                let _ = done.send(());
            }
        }
    }

    async fn write(&self, mut events: Vec<(Timestamp, JournalEvent)>) -> u64 {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let event =
                JournalEvent::plane("journal.overflow").severity(Severity::Warning).detail(json!({ "lost": lost }));
            events.push((self.clock.now(), event));
        }
        if events.is_empty() {
            return 0;
        }
        let mut place = *self.head.borrow();
        let entries: Vec<Entry> = events
            .into_iter()
            .map(|(time, event)| {
                place.seq += 1;
                let JournalEvent { tenant, run, kind, severity, detail } = event;
                Entry { cursor: place, time, tenant, run, kind, severity, detail }
            })
            .collect();
        let count = entries.len() as u64;
        // Written before it is shown: a reader that falls behind finds in the table what it missed.
        if let Err(error) = self.table.write(&entries).await {
            tracing::warn!(%error, entries = count, "the journal cannot write; readers that are connected still see the events");
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
        self.head.send_replace(place);
        for entry in entries {
            // Without readers there is nobody to show it to.
            let _ = self.live.send(Arc::new(entry));
        }
        count
    }
}
