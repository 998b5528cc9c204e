//! A run that has not been closed, as this plane holds it.
//!
//! The invariant: once the fence of a run was closed for good (`Live::end`), no step that was under
//! way opens it again, and a sandbox that appears afterwards is not attached.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cogward_model::{
    AgentName, RunId, TenantName, Timestamp, VersionLabel, event::Attribution, id::OperationId, run::RunState,
};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::{
    attest::Basis,
    ports::{Fence, Gateways, Sandbox},
    violations::Watched,
};

/// One run of this plane.
pub(crate) struct Live {
    pub(crate) run: RunId,
    pub(crate) tenant: TenantName,
    pub(crate) agent: AgentName,
    pub(crate) version: VersionLabel,
    pub(crate) subject: Option<String>,
    /// Held from reading the run's row to publishing its evidence: leaves are in the order of states.
    pub(crate) commit: AsyncMutex<()>,
    /// Held while effects are made; the value is the state whose effects are there.
    pub(crate) applied: AsyncMutex<Option<RunState>>,
    /// The state that was committed last.
    pub(crate) goal: watch::Sender<RunState>,
    /// Turns true when the run is closed.
    pub(crate) closed: watch::Sender<bool>,
    slot: Mutex<Slot>,
    watched: Mutex<Watched>,
    /// Held while the sandbox is examined.
    pub(crate) attesting: AsyncMutex<()>,
    /// What its attestations are under; set before there is any.
    pub(crate) basis: OnceLock<Basis>,
}

#[derive(Default)]
struct Slot {
    sandbox: Option<Arc<dyn Sandbox>>,
    /// The fence is closed for good.
    ended: bool,
    /// The plane holds the run because evidence cannot be written.
    held: bool,
    /// Why the plane ends it.
    cause: Option<String>,
    /// When it was asked to end; its grace period runs from here.
    stop_begun: Option<Timestamp>,
    /// The operation that starts it, until it is finished.
    start_operation: Option<OperationId>,
}

impl Live {
    pub(crate) fn new(row: &cogward_store::RunRow) -> Self {
        Self {
            run: row.id,
            tenant: row.tenant.clone(),
            agent: row.agent.clone(),
            version: row.version.clone(),
            subject: row.subject.clone(),
            commit: AsyncMutex::new(()),
            applied: AsyncMutex::new(None),
            goal: watch::Sender::new(row.state),
            closed: watch::Sender::new(false),
            slot: Mutex::new(Slot { ended: row.state.is_final(), cause: row.fail_cause.clone(), ..Slot::default() }),
            watched: Mutex::default(),
            attesting: AsyncMutex::new(()),
            basis: OnceLock::new(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Only assignments happen under this lock: a poisoned one still holds a whole value.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what was refused, or counts it. Never held across anything that waits.
    pub(crate) fn watched<T>(&self, look: impl FnOnce(&mut Watched) -> T) -> T {
        // Counts are whole after every step: a poisoned lock still holds them.
        look(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn attribution(&self) -> Attribution {
        Attribution { agent: Some((self.agent.clone(), self.version.clone())), subject: self.subject.clone() }
    }

    /// Sets the fence, unless the run's fence is closed for good.
    pub(crate) fn fence(&self, gateways: &dyn Gateways, fence: Fence) {
        let slot = self.slot();
        let fence = match (slot.ended, slot.held, fence) {
            (true, ..) => Fence::Closed,
            (false, true, Fence::Open) => Fence::Held,
            (false, _, fence) => fence,
        };
        // Under the lock: no older decision is carried out after a newer one.
        gateways.fence(self.run, fence);
    }

    /// Closes the fence for good.
    pub(crate) fn end(&self, gateways: &dyn Gateways) {
        let mut slot = self.slot();
        slot.ended = true;
        gateways.fence(self.run, Fence::Closed);
    }

    /// Takes the sandbox of the run. False when the run has been ended meanwhile: nobody will use it.
    pub(crate) fn attach(&self, sandbox: &Arc<dyn Sandbox>) -> bool {
        let mut slot = self.slot();
        slot.sandbox = Some(Arc::clone(sandbox));
        !slot.ended
    }

    pub(crate) fn sandbox(&self) -> Option<Arc<dyn Sandbox>> {
        self.slot().sandbox.clone()
    }

    pub(crate) fn set_held(&self, held: bool) {
        self.slot().held = held;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.slot().held
    }

    /// The first cause stays.
    pub(crate) fn set_cause(&self, cause: &str) {
        self.slot().cause.get_or_insert_with(|| cause.to_owned());
    }

    pub(crate) fn cause(&self) -> Option<String> {
        self.slot().cause.clone()
    }

    pub(crate) fn set_stop_begun(&self, at: Timestamp) {
        self.slot().stop_begun.get_or_insert(at);
    }

    pub(crate) fn stop_begun(&self) -> Option<Timestamp> {
        self.slot().stop_begun
    }

    pub(crate) fn set_start_operation(&self, operation: OperationId) {
        self.slot().start_operation = Some(operation);
    }

    /// Gives the starting operation to whoever finishes it.
    pub(crate) fn take_start_operation(&self) -> Option<OperationId> {
        self.slot().start_operation.take()
    }

    /// What effects must bring about now: the committed state, unless the plane holds the run.
    pub(crate) fn target(&self) -> RunState {
        let goal = *self.goal.borrow();
        if goal == RunState::Running && self.is_held() { RunState::Suspended } else { goal }
    }
}
