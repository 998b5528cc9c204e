//! How fast a run may be refused.
//!
//! Every refusal is recorded, and a record is disk that all runs share. So an agent that does nothing but
//! provoke refusals waits for each of them once it has had many: it slows itself down and nobody else, and
//! no refusal is left out of the record.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Refusals that are answered at once, after a time without any. An agent that goes on in spite of a few
/// refusals is not punished.
pub(crate) const BURST: u32 = 256;
/// Time for each one after that: 20 a second are some 60 KB of evidence.
pub(crate) const INTERVAL: Duration = Duration::from_millis(50);

/// The pace of one run.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the refusals so far would have been over, had each taken its interval.
    paid_until: Mutex<Option<Instant>>,
}

impl Pace {
    /// Counts a refusal and says when it may be answered.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let next = paid_until.map_or(now, |until| until.max(now)) + INTERVAL;
        *paid_until = Some(next);
        next.checked_sub(INTERVAL * BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_keeps_the_pace() {
        let (pace, now) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert!(pace.next(now) <= now);
        }
        assert_eq!(pace.next(now), now + INTERVAL);
        assert_eq!(pace.next(now), now + INTERVAL * 2);
        let later = now + INTERVAL * (BURST + 2);
        assert!(pace.next(later) <= later, "quiet pays the debt");
        let much_later = later + INTERVAL * BURST * 100;
        let free = (0..2 * BURST).filter(|_| pace.next(much_later) <= much_later).count();
        assert_eq!(free, BURST as usize, "quiet is not saved up beyond a burst");
    }
}
