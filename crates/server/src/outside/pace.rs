//! How fast an address is refused. A client that is let in is never slowed down: behind one TLS proxy everybody has the
//! same address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Refusals that are answered at once, after a time without any.
const BURST: u32 = 64;
/// Time for each one after that.
const INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for one answer.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Addresses that are told apart; the others share one pace.
const PEERS_MAX: usize = 4_096;

/// The pace of each address.
#[derive(Debug, Default)]
pub(super) struct Paces {
    paid_until: Mutex<HashMap<Option<IpAddr>, Instant>>,
}

impl Paces {
    /// Counts a refusal and says when it may be answered.
    pub(super) fn next(&self, peer: IpAddr, now: Instant) -> Instant {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        if paid_until.len() >= PEERS_MAX && !paid_until.contains_key(&Some(peer)) {
            paid_until.retain(|_, until| *until > now);
        }
        let known = paid_until.len() < PEERS_MAX || paid_until.contains_key(&Some(peer));
        let until = paid_until.entry(known.then_some(peer)).or_insert(now);
        *until = ((*until).max(now) + INTERVAL).min(now + INTERVAL * BURST + WAIT_MAX);
        until.checked_sub(INTERVAL * BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_the_rest_waits_and_nobody_waits_for_another() {
        let (paces, now) = (Paces::default(), Instant::now());
        let peer = |n: u32| IpAddr::from(n.to_be_bytes());
        for _ in 0..BURST {
            assert!(paces.next(peer(1), now) <= now);
        }
        assert_eq!(paces.next(peer(1), now), now + INTERVAL);
        assert!(paces.next(peer(2), now) <= now);
        for _ in 0..10_000 {
            assert!(paces.next(peer(1), now) <= now + WAIT_MAX);
        }
        for n in 0..10_000 {
            paces.next(peer(n), now);
        }
        assert!(paces.paid_until.lock().unwrap().len() <= PEERS_MAX + 1);
    }
}
