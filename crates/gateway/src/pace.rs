//! How fast a run may be refused, and how fast it may open connections outside.
//!
//! Every refusal is recorded, and a record is disk that all runs share. So an agent that does nothing but
//! provoke refusals waits for each of them once it has had many: it slows itself down and nobody else, and
//! no refusal is left out of the record.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cogward_model::limits::{CONNECT_BURST, CONNECT_INTERVAL_MS};
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

/// Turns to open a connection outside: one after the other, after a burst each in its time. Whoever gives up while
/// it waits has taken no turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    paid_until: tokio::sync::Mutex<Option<Instant>>,
}

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn next(&self) {
        const TIME: Duration = Duration::from_millis(CONNECT_INTERVAL_MS);
        let mut paid_until = self.paid_until.lock().await;
        let now = Instant::now();
        let next = paid_until.map_or(now, |until| until.max(now)) + TIME;
        if let Some(at) = next.checked_sub(TIME * CONNECT_BURST).filter(|at| *at > now) {
            tokio::time::sleep_until(at).await;
        }
        *paid_until = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_after_a_burst_keep_the_pace_and_none_is_refused() {
        let (turns, begun) = (Turns::default(), Instant::now());
        join_all((0..CONNECT_BURST).map(|_| turns.next())).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        join_all((0..100).map(|_| turns.next())).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(CONNECT_INTERVAL_MS * 100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_no_debt() {
        let (turns, begun) = (Turns::default(), Instant::now());
        join_all((0..CONNECT_BURST).map(|_| turns.next())).await;
        for _ in 0..1_000 {
            assert!(turns.next().now_or_never().is_none());
        }
        turns.next().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(CONNECT_INTERVAL_MS));
    }

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
