//! A run as the gateways see it: its grant, its fence, and what it has in flight.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use cogward_model::{
    action::Action,
    limits::{REQUEST_BYTES_MAX, RUN_CALLS_IN_FLIGHT_MAX, RUN_CONNECTIONS_MAX},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    fence::{Fence, FenceState},
    grant::RunGrant,
    mcp::RunMcp,
    pace::{Pace, Turns},
    policy::{RunPolicies, Who},
    rooms::{Held, Room, Rooms},
    skills::RunSkills,
    telemetry::Telemetry,
};

/// Listeners of a run. Each holds a place for the connection that it waits for; those of two wait beside the one that
/// an agent uses up, and must not be missing there.
pub(crate) const LISTENERS: usize = 3;

/// What a cut broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CutReport {
    /// Calls that were in flight.
    pub calls: usize,
}

/// What a run has been let do, and not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Tool calls that were admitted.
    pub tool_calls: u64,
    /// Model calls that were admitted.
    pub model_calls: u64,
    /// Connections that were admitted.
    pub connections: u64,
    /// Calls and connections that were refused.
    pub refusals: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    tool_calls: AtomicU64,
    model_calls: AtomicU64,
    connections: AtomicU64,
    refusals: AtomicU64,
}

impl Counters {
    pub(crate) fn admitted(&self, action: &Action) {
        let counter = match action {
            // Each is a request to a tool server, and counts against the same budget.
            Action::ToolCall { .. } | Action::ResourceRead { .. } | Action::PromptGet { .. } => &self.tool_calls,
            Action::ModelCall { .. } => &self.model_calls,
            Action::Egress { .. } | Action::Request { .. } => &self.connections,
            // Parts of a tool call.
            Action::Sampling { .. } | Action::Elicitation { .. } => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what was counted under an earlier plane.
    pub(crate) fn earlier(&self, tally: Tally) {
        let Tally { tool_calls, model_calls, connections, refusals } = tally;
        self.tool_calls.fetch_add(tool_calls, Ordering::Relaxed);
        self.model_calls.fetch_add(model_calls, Ordering::Relaxed);
        self.connections.fetch_add(connections, Ordering::Relaxed);
        self.refusals.fetch_add(refusals, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }
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
    pub(crate) counters: Counters,
    pub(crate) refusals: Pace,
    /// Requests about calls whose own request is over.
    pub(crate) asked_again: Pace,
    /// Turns to open connections outside.
    pub(crate) dials: Turns,
    /// Room for the request bodies that the plane holds for this run.
    pub(crate) bodies: Room,
    /// Room for the answers that it has not read.
    pub(crate) answers: Room,
    pub(crate) mcp: RunMcp,
    /// What is active for it, as it was found last.
    pub(crate) policies: RunPolicies,
    /// Who acts, as the history counts.
    pub(crate) who: Arc<Who>,
    /// The skills of its version.
    pub(crate) skills: RunSkills,
    /// Where its telemetry goes, if it is accepted.
    pub(crate) telemetry: Option<Telemetry>,
    cut: CancellationToken,
}

impl RunContext {
    /// A run whose fence is closed, alone in its plane.
    #[must_use]
    pub fn new(grant: RunGrant) -> Self {
        Self::within(grant, &Rooms::default())
    }

    /// A run whose fence is closed, in the memory that it shares with others.
    pub(crate) fn within(grant: RunGrant, rooms: &Rooms) -> Self {
        Self {
            bodies: rooms.bodies.of(&grant.tenant),
            answers: rooms.answers.of(&grant.tenant),
            skills: RunSkills::of(&grant.tenant, grant.skills()),
            telemetry: grant.telemetry.clone().map(Telemetry::new),
            who: Arc::new(Who {
                tenant: grant.tenant.clone(),
                run: grant.run,
                user: grant.subject.as_deref().map(Arc::from),
                agent: grant.agent.clone(),
            }),
            grant,
            fence: Fence::closed("run"),
            connections: Arc::new(Semaphore::new(RUN_CONNECTIONS_MAX + LISTENERS - 1)),
            calls: Arc::new(Semaphore::new(RUN_CALLS_IN_FLIGHT_MAX)),
            calls_in_flight: AtomicUsize::new(0),
            counters: Counters::default(),
            refusals: Pace::default(),
            asked_again: Pace::default(),
            dials: Turns::default(),
            mcp: RunMcp::default(),
            policies: RunPolicies::default(),
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

    /// What it has been let do, and not, so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            tool_calls: read(&self.counters.tool_calls),
            model_calls: read(&self.counters.model_calls),
            connections: read(&self.counters.connections),
            refusals: read(&self.counters.refusals),
        }
    }

    /// Waits until there is room for a request body that says that it has at most `bytes`; one that does not say
    /// takes the room of the largest. An agent cannot make the plane hold all that its connections can send.
    pub(crate) async fn room(&self, bytes: Option<u64>) -> Option<Held> {
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(REQUEST_BYTES_MAX);
        self.bodies.take(bytes.min(REQUEST_BYTES_MAX)).await
    }

    pub(crate) fn cut(&self) -> CutReport {
        self.fence.set(FenceState::Closed);
        let report = CutReport { calls: self.in_flight() };
        self.cut.cancel();
        report
    }
}
