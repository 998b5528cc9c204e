//! Proofs that were used: none is taken twice.
//!
//! Two sets, each of which takes what comes for as long as a proof can be taken at all; then the older one is thrown
//! away. A proof is so remembered for longer than it is good for, and the memory is bounded: when it is full, nothing
//! is let in that cannot be remembered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use super::{PROOF_SECONDS_MAX, Refused, SKEW_SECONDS, sha256};

/// How long a proof can be taken, from the earliest to the last second.
const WINDOW_SECONDS: u64 = PROOF_SECONDS_MAX + SKEW_SECONDS + 1;
/// Proofs that are remembered, in each of the two sets.
const PROOFS_MAX: usize = 131_072;
/// Of them, those of one key: one busy client does not shut out the others.
const PROOFS_OF_KEY_MAX: usize = 16_384;
/// Of them, those of the clients of one issuer: one tenant does not shut out the others.
const PROOFS_OF_ISSUER_MAX: usize = 32_768;

/// How many proofs are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// In all.
    pub proofs: usize,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Replay(Mutex<Sets>);

#[derive(Debug, Default)]
struct Sets {
    now: Set,
    before: Set,
    /// When the current set began.
    since: u64,
    /// The latest time that was seen: a clock that is set back makes nothing fresh again.
    latest: u64,
}

#[derive(Debug, Default)]
struct Set {
    proofs: HashSet<[u8; 32]>,
    of_key: HashMap<[u8; 32], usize>,
    of_issuer: HashMap<[u8; 32], usize>,
}

impl Replay {
    /// Remembers a proof.
    ///
    /// # Errors
    /// [`Refused`] when it was used, when it is older than what is remembered, or when there is no room for it.
    pub(super) fn admit(&self, issuer: &str, thumbprint: &str, id: &str, made: u64, now: u64) -> Result<(), Refused> {
        let issuer = sha256(issuer.as_bytes());
        let key = sha256(thumbprint.as_bytes());
        let mut both = key.to_vec();
        both.extend_from_slice(&sha256(id.as_bytes()));
        let proof = sha256(&both);
        // Only whole steps happen under this lock.
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sets.latest = sets.latest.max(now);
        let latest = sets.latest;
        if made.saturating_add(PROOF_SECONDS_MAX) < latest {
            return Err(Refused::proof("proof.iat"));
        }
        sets.turn(latest);
        if sets.now.proofs.contains(&proof) || sets.before.proofs.contains(&proof) {
            return Err(Refused::proof("proof.replay"));
        }
        let used = sets.now.of_key.get(&key).copied().unwrap_or(0);
        let of_issuer = sets.now.of_issuer.get(&issuer).copied().unwrap_or(0);
        let is_full = sets.now.proofs.len() >= PROOFS_MAX;
        if is_full || used >= PROOFS_OF_KEY_MAX || of_issuer >= PROOFS_OF_ISSUER_MAX {
            return Err(Refused::proof("proof.room"));
        }
        sets.now.proofs.insert(proof);
        sets.now.of_key.insert(key, used + 1);
        sets.now.of_issuer.insert(issuer, of_issuer + 1);
        Ok(())
    }

    /// How much is remembered.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Seen { proofs: sets.now.proofs.len() + sets.before.proofs.len() }
    }
}

impl Sets {
    fn turn(&mut self, now: u64) {
        if now.saturating_sub(self.since) < WINDOW_SECONDS {
            return;
        }
        let old = std::mem::take(&mut self.now);
        // After a long silence even the newer set is over.
        self.before = if now.saturating_sub(self.since) < 2 * WINDOW_SECONDS { old } else { Set::default() };
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_proof_is_taken_once_whoever_is_faster() {
        let replay = Replay::default();
        let taken = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for id in 0..500 {
                        if replay.admit("corp", "key", &id.to_string(), 1_000, 1_000).is_ok() {
                            taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 500);
        // The id is that of its key.
        assert!(replay.admit("corp", "another key", "1", 1_000, 1_000).is_ok());
    }

    #[test]
    fn the_memory_is_bounded_and_one_key_does_not_fill_it() {
        let replay = Replay::default();
        let mut refused = 0;
        for id in 0..PROOFS_OF_KEY_MAX + 10 {
            let taken = replay.admit("corp", "busy", &id.to_string(), 5, 5);
            refused += usize::from(taken == Err(Refused::proof("proof.room")));
        }
        assert_eq!(refused, 10);
        assert!(replay.admit("corp", "other", "1", 5, 5).is_ok());
        for key in 0..PROOFS_OF_ISSUER_MAX {
            let _ = replay.admit("corp", &format!("k{key}"), "1", 5, 5);
        }
        assert_eq!(replay.seen().proofs, PROOFS_OF_ISSUER_MAX, "with as many keys as it likes");
        assert!(replay.admit("bank", "other", "2", 5, 5).is_ok());
        for key in 0..PROOFS_MAX + 100 {
            let _ = replay.admit(&format!("i{}", key / 20_000), &format!("k{key}"), "1", 5, 5);
        }
        assert_eq!(replay.seen().proofs, PROOFS_MAX);
        assert_eq!(replay.admit("new", "late", "1", 5, 5), Err(Refused::proof("proof.room")));
        // Time makes room.
        let later = 5 + 2 * WINDOW_SECONDS;
        assert!(replay.admit("new", "late", "1", later, later).is_ok());
        assert_eq!(replay.seen().proofs, 1);
    }

    proptest! {
        /// In whatever order and at whatever time proofs come, as long as each is fresh: none is taken twice.
        #[test]
        fn no_proof_is_taken_twice(steps in proptest::collection::vec((0u64..40, 0u64..70, 0u8..20, any::<bool>()), 1..200)) {
            let replay = Replay::default();
            let mut now = 10_000_u64;
            let mut taken: HashMap<u8, u64> = HashMap::new();
            for (pass, age, id, back) in steps {
                now = if back { now.saturating_sub(pass) } else { now + pass };
                // What the proof says of its time belongs to it: a second use has the same.
                let made = taken.get(&id).copied().unwrap_or(now.saturating_sub(age));
                if made > now + SKEW_SECONDS || made + PROOF_SECONDS_MAX < now {
                    continue;
                }
                if replay.admit("corp", "key", &id.to_string(), made, now).is_ok() {
                    prop_assert!(taken.insert(id, made).is_none(), "proof {id} was taken twice");
                }
            }
        }
    }
}
