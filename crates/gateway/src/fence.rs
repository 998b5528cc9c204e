//! The state that every call checks first: whether its run, and the plane, may act at all.
//!
//! The authority is the engine's store; this is its effect. A kill sets the fence before anything
//! else happens, so the next call is refused however busy the plane is.

use cogward_model::decision::{Refusal, RefusalCode};
use tokio::sync::watch;

/// What a fence says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// Calls pass.
    Open,
    /// Calls wait: the run is suspended.
    Held,
    /// Calls are refused.
    Closed,
}

/// A fence; starts closed.
#[derive(Debug)]
pub struct Fence {
    state: watch::Sender<FenceState>,
    scope: &'static str,
}

impl Fence {
    /// A closed fence around `scope` (`run`, `plane`).
    #[must_use]
    pub fn closed(scope: &'static str) -> Self {
        Self { state: watch::Sender::new(FenceState::Closed), scope }
    }

    /// Sets the state; every waiting call sees it.
    pub fn set(&self, state: FenceState) {
        self.state.send_replace(state);
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> FenceState {
        *self.state.borrow()
    }

    /// Waits while the fence is held.
    ///
    /// # Errors
    /// A refusal when it is closed.
    pub async fn pass(&self) -> Result<(), Refusal> {
        // The common case takes no subscription.
        if self.state() == FenceState::Open {
            return Ok(());
        }
        let mut watcher = self.state.subscribe();
        loop {
            let now = *watcher.borrow_and_update();
            match now {
                FenceState::Open => return Ok(()),
                FenceState::Closed => return Err(self.refusal()),
                FenceState::Held => {
                    if watcher.changed().await.is_err() {
                        return Err(self.refusal());
                    }
                }
            }
        }
    }

    fn refusal(&self) -> Refusal {
        Refusal::new(
            RefusalCode::LifecycleFence,
            format!("lifecycle.{}", self.scope),
            format!("the {} is stopped", self.scope),
            "Only an operator can let it act again",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_held_call_goes_on_when_the_fence_opens_and_ends_when_it_closes() {
        for (then, passes) in [(FenceState::Open, true), (FenceState::Closed, false)] {
            let fence = Arc::new(Fence::closed("run"));
            fence.set(FenceState::Held);
            let waiting = tokio::spawn({
                let fence = Arc::clone(&fence);
                async move { fence.pass().await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            fence.set(then);
            assert_eq!(waiting.await.unwrap().is_ok(), passes);
        }
    }

    #[tokio::test]
    async fn a_new_fence_is_closed() {
        assert_eq!(Fence::closed("plane").pass().await.unwrap_err().code, RefusalCode::LifecycleFence);
    }
}
