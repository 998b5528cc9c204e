//! Tool servers of which a run hears nothing but answers for a while.
//!
//! What a server logs or asks does not always say which call it is about. While policy takes parts out of the answer of
//! one call, that would be a way around it, so the run is told and asked nothing by that server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cogward_model::UpstreamName;

/// How many calls whose answers are redacted are under way, for each server that has some.
#[derive(Debug, Default, Clone)]
pub(super) struct Quiet(Arc<Mutex<BTreeMap<UpstreamName, usize>>>);

/// Keeps a server quiet until it is dropped.
pub(super) struct Hush {
    quiet: Quiet,
    server: UpstreamName,
}

impl Quiet {
    /// Keeps a server quiet.
    pub(super) fn hush(&self, server: &UpstreamName) -> Hush {
        *self.calls().entry(server.clone()).or_default() += 1;
        Hush { quiet: self.clone(), server: server.clone() }
    }

    /// Whether nothing that a server says beside its answers may be passed on.
    pub(super) fn is_hushed(&self, server: &UpstreamName) -> bool {
        self.calls().contains_key(server)
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<UpstreamName, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        let mut calls = self.quiet.calls();
        if let Some(count) = calls.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_heard_again_when_the_last_of_its_calls_is_over() {
        let quiet = Quiet::default();
        let (one, other): (UpstreamName, UpstreamName) = ("one".parse().unwrap(), "other".parse().unwrap());
        let first = quiet.hush(&one);
        let second = quiet.hush(&one);
        assert!(quiet.is_hushed(&one) && !quiet.is_hushed(&other));
        drop(first);
        assert!(quiet.is_hushed(&one));
        drop(second);
        assert!(!quiet.is_hushed(&one));
    }
}
