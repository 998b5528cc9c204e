//! What waits for the sequencer, in order.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cogward_ledger::leaf::Body;
use cogward_model::{TenantName, event::EventType, id::EventId};
use tokio::sync::oneshot;

use crate::{
    checkpoint::SignedCheckpoint,
    record::{LeafRef, RecordError},
};

/// Items that may wait; more are refused, so that a slow disk cannot fill the memory.
const WAITING_MAX: usize = 65_536;
/// A note is on the disk after this long at the latest.
const NOTE_DELAY: Duration = Duration::from_millis(100);
/// So many notes are written without waiting for more.
const NOTES_MAX: usize = 4_096;

/// One event on its way.
pub(crate) struct Append {
    pub(crate) tenant: TenantName,
    pub(crate) id: EventId,
    pub(crate) kind: EventType,
    pub(crate) body: Body,
    pub(crate) sealed: Vec<Vec<u8>>,
    /// Whether the id may have been appended before: it comes from the outbox.
    pub(crate) once: bool,
    /// Nobody waits for a note.
    pub(crate) reply: Option<oneshot::Sender<Result<LeafRef, RecordError>>>,
}

/// What the sequencer is asked to do.
pub(crate) enum Item {
    Append(Box<Append>),
    /// Sign what the log of a tenant is now.
    Checkpoint(TenantName, oneshot::Sender<Result<SignedCheckpoint, RecordError>>),
    /// These ids will not come again.
    Forget(Vec<EventId>),
    /// Finish what is here and end.
    Stop,
}

impl Item {
    fn is_note(&self) -> bool {
        match self {
            Self::Append(append) => append.reply.is_none(),
            Self::Forget(_) => true,
            Self::Checkpoint(..) | Self::Stop => false,
        }
    }
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// How many of them somebody waits for.
    urgent: usize,
    first_note: Option<Instant>,
    closed: bool,
}

/// The queue between the callers and the one sequencer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

impl Queue {
    /// Puts an item at the end, or gives it back when too many wait.
    pub(crate) fn push(&self, item: Item) -> Result<(), Item> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed || (waiting.items.len() >= WAITING_MAX && !matches!(item, Item::Stop)) {
            return Err(item);
        }
        let wake = if item.is_note() {
            let first = waiting.first_note.is_none();
            waiting.first_note.get_or_insert_with(Instant::now);
            first || waiting.items.len() >= NOTES_MAX
        } else {
            waiting.urgent += 1;
            waiting.urgent == 1
        };
        waiting.items.push_back(item);
        drop(waiting);
        if wake {
            self.came.notify_one();
        }
        Ok(())
    }

    /// Lets nothing in any more and drops what waits: whoever waits for it is told so.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        let dropped = std::mem::take(&mut waiting.items);
        drop(waiting);
        drop(dropped);
    }

    /// Takes everything, once somebody waits for it or a note is old enough; nothing after `patience`.
    pub(crate) fn take(&self, patience: Duration, into: &mut VecDeque<Item>) {
        let until = Instant::now() + patience;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let note_at = waiting.first_note.map(|first| first + NOTE_DELAY);
            if waiting.urgent > 0 || waiting.items.len() >= NOTES_MAX || note_at.is_some_and(|at| at <= now) {
                std::mem::swap(&mut waiting.items, into);
                (waiting.urgent, waiting.first_note) = (0, None);
                return;
            }
            let wake_at = note_at.map_or(until, |at| at.min(until));
            let Some(left) = wake_at.checked_duration_since(now).filter(|left| !left.is_zero()) else { return };
            waiting = self.came.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
