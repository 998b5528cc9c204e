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
    plane::Submitted,
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
    /// Sign what the plane log is now.
    PlaneCheckpoint(oneshot::Sender<Result<SignedCheckpoint, RecordError>>),
    /// A tenant's checkpoint for the plane log.
    Plane(Box<Submitted>),
    /// These ids will not come again.
    Forget(Vec<EventId>),
    /// Finish what is here and end.
    Stop,
}

impl Item {
    fn is_note(&self) -> bool {
        match self {
            Self::Append(append) => append.reply.is_none(),
            Self::Forget(_) | Self::Plane(_) => true,
            Self::Checkpoint(..) | Self::PlaneCheckpoint(_) | Self::Stop => false,
        }
    }
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// How many of them somebody waits for.
    urgent: usize,
    first_note: Option<Instant>,
    /// Until when the sequencer sleeps; `None` while it works, and once it has been woken.
    sleeps_until: Option<Instant>,
    closed: bool,
}

impl Waiting {
    /// When the oldest note has to be written.
    fn note_at(&self) -> Option<Instant> {
        self.first_note.map(|first| first + NOTE_DELAY)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.urgent > 0 || self.items.len() >= NOTES_MAX || self.note_at().is_some_and(|at| at <= now)
    }
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
        if item.is_note() {
            waiting.first_note.get_or_insert_with(Instant::now);
        } else {
            waiting.urgent += 1;
        }
        waiting.items.push_back(item);
        // A wake-up costs more than all the rest: none for a sequencer that works, that was woken already,
        // or that wakes in time by itself.
        let wake = waiting.sleeps_until.is_some_and(|until| waiting.is_due(until));
        if wake {
            waiting.sleeps_until = None;
        }
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
        let begun = Instant::now();
        let until = begun + patience;
        // A note often follows what was just written. Looking again by itself costs the sequencer less than
        // being woken for each of them.
        let mut look_again = Some(begun + NOTE_DELAY);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            if waiting.is_due(now) {
                std::mem::swap(&mut waiting.items, into);
                (waiting.urgent, waiting.first_note) = (0, None);
                return;
            }
            look_again = look_again.filter(|at| *at > now);
            let wake_at = [waiting.note_at(), look_again].into_iter().flatten().fold(until, Instant::min);
            let Some(left) = wake_at.checked_duration_since(now).filter(|left| !left.is_zero()) else { return };
            waiting.sleeps_until = Some(wake_at);
            waiting = self.came.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
            waiting.sleeps_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Item {
        Item::Forget(Vec::new())
    }

    fn urgent() -> Item {
        Item::Checkpoint(TenantName::default_tenant(), oneshot::channel().0)
    }

    /// Waits until the sequencer sleeps, and says until when.
    fn asleep(queue: &Queue) -> Instant {
        loop {
            if let Some(until) = queue.waiting.lock().unwrap().sleeps_until {
                return until;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_somebody_waits_for_wakes_the_sequencer_at_once() {
        let (queue, mut items) = (Queue::default(), VecDeque::new());
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                queue.take(Duration::from_secs(3_600), &mut items);
                items.len()
            });
            // Whether the note is seen before or while it sleeps, the item behind it must not wait for its delay.
            queue.push(note()).ok().unwrap();
            asleep(&queue);
            queue.push(urgent()).ok().unwrap();
            assert_eq!(taker.join().unwrap(), 2);
        });
    }

    #[test]
    fn a_note_is_taken_when_it_is_due_without_waking_a_sequencer_that_wakes_before() {
        let (queue, mut items) = (Queue::default(), VecDeque::new());
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                queue.take(Duration::from_secs(3_600), &mut items);
                items.len()
            });
            asleep(&queue);
            let pushed = Instant::now();
            queue.push(note()).ok().unwrap();
            assert_eq!(taker.join().unwrap(), 1);
            assert!(pushed.elapsed() >= NOTE_DELAY);
        });
    }

    #[test]
    fn a_note_that_comes_to_a_long_sleep_is_taken_in_time() {
        let (queue, mut items) = (Queue::default(), VecDeque::new());
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| {
                queue.take(Duration::from_secs(3_600), &mut items);
                items.len()
            });
            while asleep(&queue) < Instant::now() + NOTE_DELAY * 2 {
                std::thread::yield_now();
            }
            queue.push(note()).ok().unwrap();
            assert_eq!(taker.join().unwrap(), 1);
        });
    }

    #[test]
    fn nothing_is_taken_when_patience_ends() {
        let (queue, mut items) = (Queue::default(), VecDeque::new());
        queue.take(Duration::from_millis(1), &mut items);
        assert!(items.is_empty());
    }
}
