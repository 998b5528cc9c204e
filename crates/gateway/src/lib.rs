//! Every governed call. Each wire (MCP, OpenAI, Anthropic, CONNECT) turns a request into one typed
//! call and takes it through the same [`gate`]; the clients towards upstreams accept only what the
//! gate has [`admitted`](gate::Admitted), so a call that was not decided, reserved and recorded does
//! not compile.
//!
//! A run is known by the listener its connections arrive on: pid 1 of its sandbox made that listener
//! inside the sandbox's own network namespace, and nothing the agent sends changes who it is. The
//! gateway asks and refuses; it never changes the state of a run.

// A call is awaited through the gate, its server and its questions: the compiler follows all of that at once.
#![recursion_limit = "256"]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod approvals;
pub mod body;
pub mod egress;
pub mod fence;
#[cfg(test)]
mod fuzz;
pub mod gate;
pub mod grant;
pub mod inside;
pub mod json;
pub mod mcp;
pub mod model;
mod pace;
pub mod pins;
pub mod policy;
mod rooms;
mod run;
mod serve;
mod skills;
mod stall;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod tool_process;
pub mod upstreams;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use cogward_budget::Budgets;
use cogward_model::{Clock, RunId};
use tokio::sync::Semaphore;

pub use egress::{
    EgressOptions,
    inspect::{AuthorityError, InspectionKey, Notice, NoticeKind, Notices},
};
pub use fence::{Fence, FenceState};
pub use gate::Records;
pub use grant::RunGrant;
pub use mcp::upstream::fetch_document;
pub use pins::{PinKeeper, PinTable};
pub use run::{CutReport, RunContext, Tally};
pub use serve::RunListeners;
pub use skills::{SKILLS_SERVER, Skills};
pub use telemetry::TelemetryCount;
pub use upstreams::{Credential, Upstreams};

/// The gateways of one plane.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

/// What every protocol needs: the gate and the upstreams.
pub struct Inner {
    /// Decides, reserves, records.
    pub gate: gate::Gate,
    /// Tool servers and providers.
    pub upstreams: Upstreams,
    /// Hosts outside.
    pub egress: egress::Egress,
    pins: Arc<pins::PinTable>,
    keeper: OnceLock<Arc<dyn pins::PinKeeper>>,
    rooms: rooms::Rooms,
    exports: Arc<Semaphore>,
    runs: RwLock<HashMap<RunId, Arc<RunContext>>>,
}

/// Why a run's gateways could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRunError {
    /// A listener could not be used.
    #[error("the listeners of {run} cannot be served")]
    Listener {
        /// The run.
        run: RunId,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The run is already open.
    #[error("the gateways of {0} are already open")]
    AlreadyOpen(RunId),
}

impl Gateway {
    /// Gateways that record to `records` and spend from `budgets`. The plane's fence starts closed.
    pub fn new(records: Arc<dyn Records>, budgets: Arc<Budgets>, clock: Arc<dyn Clock>) -> Self {
        Self::with_egress(records, budgets, clock, EgressOptions::default())
    }

    /// Like [`Self::new`], with what the operator decides about connections outside.
    pub fn with_egress(
        records: Arc<dyn Records>,
        budgets: Arc<Budgets>,
        clock: Arc<dyn Clock>,
        options: EgressOptions,
    ) -> Self {
        let pins: Arc<pins::PinTable> = Arc::default();
        let gate = gate::Gate::new(records, budgets, clock);
        gate.policies().tools_marked_by(Arc::clone(&pins) as Arc<dyn policy::ToolFacts>);
        let upstreams = Upstreams::new();
        gate.policies().providers_labelled_by(Arc::clone(upstreams.provider_labels()));
        Self {
            inner: Arc::new(Inner {
                gate,
                upstreams,
                egress: egress::Egress::new(options),
                pins,
                keeper: OnceLock::new(),
                rooms: rooms::Rooms::default(),
                exports: Arc::new(Semaphore::new(telemetry::READ_AT_ONCE)),
                runs: RwLock::default(),
            }),
        }
    }

    /// What policies say, and what they look back on.
    #[must_use]
    pub fn policies(&self) -> &policy::Policies {
        self.inner.gate.policies()
    }

    /// Tool servers and providers, to be set by the operator's commands.
    #[must_use]
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// Serves a run on the listeners that its sandbox made. Its fence starts closed.
    ///
    /// # Errors
    /// [`OpenRunError`]; nothing is served then.
    pub fn open_run(&self, grant: RunGrant, listeners: RunListeners) -> Result<(), OpenRunError> {
        let run = grant.run;
        let context = Arc::new(RunContext::within(grant, &self.inner.rooms));
        {
            let mut runs = self.inner.runs.write().unwrap_or_else(PoisonError::into_inner);
            if runs.contains_key(&run) {
                return Err(OpenRunError::AlreadyOpen(run));
            }
            runs.insert(run, Arc::clone(&context));
        }
        serve::spawn(&self.inner, &context, listeners).map_err(|source| {
            self.close_run(run);
            OpenRunError::Listener { run, source }
        })
    }

    /// The certificate of the authority that a run must trust to reach its inspected hosts, as PEM; `None` when
    /// it has none. Valid from now for the time of the run.
    ///
    /// # Errors
    /// [`AuthorityError`] when the run has inspected hosts and there can be no authority for them.
    pub fn authority_pem(&self, grant: &RunGrant) -> Result<Option<String>, AuthorityError> {
        if grant.inspected_hosts().is_empty() {
            return Ok(None);
        }
        let authority = self.inner.egress.inspection.derive(grant)?;
        authority.certificate_pem(self.inner.gate.now()).map(Some)
    }

    /// Sets the fence of a run; the next call sees it. False when the run is not open here.
    pub fn fence(&self, run: RunId, state: FenceState) -> bool {
        self.context(run).is_some_and(|context| {
            context.fence.set(state);
            true
        })
    }

    /// Sets the fence of the whole plane.
    pub fn fence_plane(&self, state: FenceState) {
        self.inner.gate.plane_fence().set(state);
    }

    /// Closes the fence of a run and breaks off every call and connection it has in flight.
    pub fn cut(&self, run: RunId) -> CutReport {
        self.context(run).map(|context| context.cut()).unwrap_or_default()
    }

    /// Cuts a run and forgets it.
    pub fn close_run(&self, run: RunId) -> CutReport {
        let context = self.inner.runs.write().unwrap_or_else(PoisonError::into_inner).remove(&run);
        self.inner.egress.inspection.forget(run);
        context.map_or_else(CutReport::default, |context| {
            mcp::forget(&self.inner, &context);
            let report = context.cut();
            self.policies().history().forget_run(&context.grant.tenant, run);
            report
        })
    }

    /// Calls of a run that are in flight.
    #[must_use]
    pub fn in_flight(&self, run: RunId) -> usize {
        self.context(run).map_or(0, |context| context.in_flight())
    }

    /// Adds to an open run what it was let do, and not, under an earlier plane.
    pub fn count_earlier(&self, run: RunId, tally: Tally) {
        if let Some(context) = self.context(run) {
            context.counters.earlier(tally);
        }
    }

    /// What was received of a run's telemetry; nothing where its manifest does not accept any.
    #[must_use]
    pub fn telemetry(&self, run: RunId) -> Option<TelemetryCount> {
        self.context(run)?.telemetry.as_ref().map(telemetry::Telemetry::count)
    }

    /// What a run has been let do, and not, since it was opened here and as far as earlier planes are counted in.
    #[must_use]
    pub fn tally(&self, run: RunId) -> Tally {
        self.context(run).map(|context| context.tally()).unwrap_or_default()
    }

    fn context(&self, run: RunId) -> Option<Arc<RunContext>> {
        self.inner.runs.read().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()
    }
}
