//! What one run has at its MCP endpoint: sessions of the older era, the names that its tools are
//! shown under, and the list that was served last.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cogward_model::{Entropy, RunId, SystemEntropy};

use super::{
    endpoint::WITH_SESSIONS,
    listing::{Names, Served},
};
use crate::grant::RunGrant;

/// Ended sessions that are remembered; a client that goes on with an older one does itself no good.
const ENDED_MAX: usize = 64;

/// The MCP side of a run.
#[derive(Debug, Default)]
pub(crate) struct RunMcp {
    ended: Mutex<VecDeque<u128>>,
    names: OnceLock<Names>,
    served: Mutex<Option<Arc<Served>>>,
    pub(super) serving: tokio::sync::Mutex<()>,
}

impl RunMcp {
    /// A new session. Its id carries what there is to know of it, so that a run that outlives its plane keeps its
    /// sessions: no client of today begins anew by itself. It says nothing about who its holder is, which is known
    /// from the listener, and is of no use in another run.
    pub(super) fn open_session(&self, run: RunId, revision: &'static str) -> String {
        let mut random = [0_u8; 16];
        SystemEntropy.fill(&mut random);
        let random = u128::from_be_bytes(random);
        format!("{random:032x}{:016x}", check(run, revision, random))
    }

    /// The revision of a session of this run.
    pub(super) fn session(&self, run: RunId, id: &str) -> Option<&'static str> {
        if !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let (random, given) = id.split_at_checked(32).filter(|(_, given)| given.len() == 16)?;
        let (random, given) = (u128::from_str_radix(random, 16).ok()?, u64::from_str_radix(given, 16).ok()?);
        let revision = WITH_SESSIONS.into_iter().find(|revision| check(run, revision, random) == given)?;
        (!self.ended().contains(&random)).then_some(revision)
    }

    /// Ends a session. False when this run has no such session.
    pub(super) fn end_session(&self, run: RunId, id: &str) -> bool {
        if self.session(run, id).is_none() {
            return false;
        }
        let Some(random) = id.get(..32).and_then(|random| u128::from_str_radix(random, 16).ok()) else { return false };
        let mut ended = self.ended();
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(random);
        true
    }

    /// The names of the granted tools.
    pub(super) fn names(&self, grant: &RunGrant) -> &Names {
        self.names.get_or_init(|| Names::of(grant.tools()))
    }

    /// The list that was served last.
    pub(super) fn served(&self) -> Option<Arc<Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_served(&self, served: Arc<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some(served);
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, VecDeque<u128>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ties an id to its run and revision. No secret: a session has no power that its run does not have without it.
fn check(run: RunId, revision: &str, random: u128) -> u64 {
    let text = format!("{run} {revision} {random:032x}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock};

    use super::*;

    #[test]
    fn a_session_outlives_its_plane_ends_once_and_is_nobody_elses() {
        let (one, two) = (Id::new(&SystemClock, &SystemEntropy), Id::new(&SystemClock, &SystemEntropy));
        let plane = RunMcp::default();
        let ids: Vec<String> = WITH_SESSIONS.iter().map(|revision| plane.open_session(one, revision)).collect();
        let next = RunMcp::default();
        for (id, revision) in ids.iter().zip(WITH_SESSIONS) {
            assert_eq!((next.session(one, id), next.session(two, id)), (Some(revision), None));
        }
        let first = ids.first().unwrap();
        assert!(next.end_session(one, first) && !next.end_session(one, first));
        assert_eq!(next.session(one, first), None);
        for forged in
            ["", "x", &first[..47], &format!("{first}0"), &first.to_uppercase(), &"0".repeat(48), &"é".repeat(24)]
        {
            assert_eq!(next.session(one, forged), None, "{forged}");
        }
        for _ in 0..2 * ENDED_MAX {
            assert!(next.end_session(one, &next.open_session(one, WITH_SESSIONS[0])));
        }
        assert!(next.ended().len() <= ENDED_MAX);
    }
}
