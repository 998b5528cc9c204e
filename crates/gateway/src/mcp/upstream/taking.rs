//! Room that an answer takes while it comes in.
//!
//! A small one is read first; one that outgrows that takes the room of the largest before more of it is read,
//! because it may not wait for more room while it holds some. Every step can be given up and taken again.

use cogward_model::limits::{FREE_ANSWER_BYTES_MAX, RESPONSE_BYTES_MAX};

use crate::rooms::{Held, Room};

/// The room of one answer; none is taken for what is the plane's own.
#[derive(Debug, Default)]
pub(super) struct Taking {
    room: Option<Room>,
    held: Option<Held>,
    length: Option<usize>,
}

impl Taking {
    pub(super) fn new(room: Option<Room>) -> Self {
        Self { room, held: None, length: None }
    }

    /// The length is known beforehand.
    pub(super) fn expect(&mut self, length: u64) {
        self.length = usize::try_from(length).ok();
    }

    /// Waits until the answer may be so long. `None` only when the plane ends.
    pub(super) async fn reach(&mut self, length: usize) -> Option<()> {
        let Some(room) = &self.room else { return Some(()) };
        let length = self.length.unwrap_or(0).max(length);
        if length > FREE_ANSWER_BYTES_MAX && self.held.is_none() {
            let wanted = self.length.unwrap_or(RESPONSE_BYTES_MAX).min(RESPONSE_BYTES_MAX);
            self.held = Some(room.take(wanted).await?);
        }
        Some(())
    }

    /// The answer is whole, and so long. `Some(None)` where no room is taken.
    pub(super) async fn finish(&mut self, length: usize) -> Option<Option<Held>> {
        let Some(room) = &self.room else { return Some(None) };
        if self.held.is_none() {
            return room.take(length).await.map(Some);
        }
        if let Some(held) = &mut self.held {
            held.shrink(length);
        }
        Some(self.held.take())
    }
}
