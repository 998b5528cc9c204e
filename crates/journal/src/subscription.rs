//! A reader: what the table has, then what comes, without a gap that is not told.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    Cursor, Entry, Filter,
    table::{ReadError, Table},
};

const PAGE: u32 = 256;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest entry that is kept.
    Oldest,
    /// With the next entry.
    Now,
    /// After an entry seen before.
    After(Cursor),
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An entry.
    Entry(Arc<Entry>),
    /// Entries between the reader's place and here are gone, or its place is of another journal:
    /// the reader must fetch current state again, then goes on from `from`.
    Resync {
        /// The place from which the stream goes on.
        from: Cursor,
    },
}

/// A stream of entries; see [`crate::Journal::subscribe`].
pub struct Subscription {
    table: Table,
    live: broadcast::Receiver<Arc<Entry>>,
    filter: Filter,
    /// Everything up to here has been given out or filtered.
    place: Cursor,
    ready: VecDeque<Entry>,
    /// Whether the table may hold entries after `place` that the live feed does not bring any more.
    behind: bool,
    /// Whether `place` has yet to be held against what has been dropped.
    unchecked: bool,
    head_at_start: Cursor,
}

impl Subscription {
    pub(crate) fn new(
        table: Table,
        live: broadcast::Receiver<Arc<Entry>>,
        head: Cursor,
        from: From,
        filter: Filter,
    ) -> Self {
        let (place, behind, unchecked) = match from {
            From::Oldest => (Cursor::default(), true, false),
            From::Now => (head, false, false),
            From::After(cursor) => (cursor, true, true),
        };
        Self { table, live, filter, place, ready: VecDeque::new(), behind, unchecked, head_at_start: head }
    }

    /// The next item; `None` when the journal has closed. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ReadError`] when the table cannot be read; the reader may ask again.
    pub async fn next(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.place = entry.cursor;
                return Ok(Some(Item::Entry(Arc::new(entry))));
            }
            if self.unchecked {
                let pruned = self.table.pruned().await?;
                self.unchecked = false;
                if self.place < pruned {
                    self.place = pruned;
                    return Ok(Some(Item::Resync { from: pruned }));
                }
                if self.place > self.head_at_start {
                    self.place = self.head_at_start;
                    return Ok(Some(Item::Resync { from: self.place }));
                }
            }
            if self.behind {
                let page = self.table.page(self.place, &self.filter, PAGE).await?;
                self.behind = page.len() == PAGE as usize;
                self.ready.extend(page);
                continue;
            }
            match self.live.recv().await {
                // Seen in the table already.
                Ok(entry) if entry.cursor <= self.place => {}
                Ok(entry) => {
                    self.place = entry.cursor;
                    if self.filter.lets_through(&entry) {
                        return Ok(Some(Item::Entry(entry)));
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    // Too slow for the live feed: back to the table, unless the place is gone there too.
                    self.behind = true;
                    self.unchecked = true;
                    self.head_at_start = Cursor { epoch: u32::MAX, seq: u64::MAX };
                }
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("place", &self.place).field("filter", &self.filter).finish_non_exhaustive()
    }
}
