//! What one run has at its MCP endpoint: sessions of the older era, the names that its tools are
//! shown under, and the list that was served last.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cogward_model::{Entropy, SystemEntropy};
use tokio::sync::Semaphore;

use super::listing::{Names, Served};
use crate::grant::RunGrant;

/// Sessions of one run at once. Some clients make one per call and never end it; the oldest goes.
const SESSIONS_MAX: usize = 1_024;
/// Large requests of one run that are held at once.
const LARGE_MAX: usize = 8;

/// The MCP side of a run.
#[derive(Debug)]
pub(crate) struct RunMcp {
    /// Turns for large requests.
    pub(super) large: Semaphore,
    sessions: Mutex<Sessions>,
    names: OnceLock<Names>,
    served: Mutex<Option<Arc<Served>>>,
    pub(super) serving: tokio::sync::Mutex<()>,
}

impl Default for RunMcp {
    fn default() -> Self {
        Self {
            large: Semaphore::new(LARGE_MAX),
            sessions: Mutex::default(),
            names: OnceLock::new(),
            served: Mutex::default(),
            serving: tokio::sync::Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Sessions {
    revisions: HashMap<String, &'static str>,
    order: VecDeque<String>,
}

impl RunMcp {
    /// A new session, by an id that cannot be guessed. It says nothing about who its holder is: that is
    /// known from the listener, and a session lives only in the run that made it.
    pub(super) fn open_session(&self, revision: &'static str) -> String {
        let mut random = [0_u8; 16];
        SystemEntropy.fill(&mut random);
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let mut sessions = self.sessions();
        if sessions.order.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.order.pop_front()
        {
            sessions.revisions.remove(&oldest);
        }
        sessions.revisions.insert(id.clone(), revision);
        sessions.order.push_back(id.clone());
        id
    }

    /// The revision of a session of this run.
    pub(super) fn session(&self, id: &str) -> Option<&'static str> {
        self.sessions().revisions.get(id).copied()
    }

    /// Ends a session. False when this run has no such session.
    pub(super) fn end_session(&self, id: &str) -> bool {
        let mut sessions = self.sessions();
        let known = sessions.revisions.remove(id).is_some();
        if known {
            sessions.order.retain(|other| other != id);
        }
        known
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

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_bounded_and_the_oldest_goes_first() {
        let run = RunMcp::default();
        let first = run.open_session("2025-11-25");
        let second = run.open_session("2025-06-18");
        for _ in 0..SESSIONS_MAX - 1 {
            run.open_session("2025-11-25");
        }
        assert_eq!((run.session(&first), run.session(&second)), (None, Some("2025-06-18")));
        assert!(run.end_session(&second) && !run.end_session(&second));
    }
}
