//! Time that never goes back, so that what has expired stays so whatever is done to the host's clock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cogward_model::{Clock, Timestamp};

/// The time of one store.
#[derive(Clone)]
pub(crate) struct Moments {
    clock: Arc<dyn Clock>,
    last: Arc<AtomicU64>,
}

impl std::fmt::Debug for Moments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moments").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Moments {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Arc::default() }
    }

    /// It is at least so late: something was written then.
    pub(crate) fn not_before(&self, at: Timestamp) {
        self.last.fetch_max(at.unix_micros(), Ordering::AcqRel);
    }

    /// The latest time that was seen, or now.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now().unix_micros();
        let before = self.last.fetch_max(now, Ordering::AcqRel);
        Timestamp::from_unix_micros(now.max(before))
    }

    /// A time that was not given before.
    pub(crate) fn next(&self) -> Timestamp {
        let now = self.clock.now().unix_micros();
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let before = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).unwrap_or_default();
        Timestamp::from_unix_micros(now.max(before.saturating_add(1)))
    }
}
