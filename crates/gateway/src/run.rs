//! A run as the gateways see it: its grant, its fence, and what it has in flight.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cogward_model::limits::{RUN_CALLS_IN_FLIGHT_MAX, RUN_CONNECTIONS_MAX};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    fence::{Fence, FenceState},
    grant::RunGrant,
};

/// What a cut broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CutReport {
    /// Calls that were in flight.
    pub calls: usize,
}

/// One open run.
#[derive(Debug)]
pub struct RunContext {
    /// What it may do.
    pub grant: RunGrant,
    /// Whether it may act now.
    pub fence: Fence,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) calls_in_flight: AtomicUsize,
    cut: CancellationToken,
}

impl RunContext {
    /// A run whose fence is closed.
    #[must_use]
    pub fn new(grant: RunGrant) -> Self {
        Self {
            grant,
            fence: Fence::closed("run"),
            connections: Arc::new(Semaphore::new(RUN_CONNECTIONS_MAX)),
            calls: Arc::new(Semaphore::new(RUN_CALLS_IN_FLIGHT_MAX)),
            calls_in_flight: AtomicUsize::new(0),
            cut: CancellationToken::new(),
        }
    }

    /// Cancelled when the run is cut: every await on an upstream or a stream races against it.
    #[must_use]
    pub fn cut_signal(&self) -> &CancellationToken {
        &self.cut
    }

    /// Governed calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls_in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn cut(&self) -> CutReport {
        self.fence.set(FenceState::Closed);
        let report = CutReport { calls: self.in_flight() };
        self.cut.cancel();
        report
    }
}
