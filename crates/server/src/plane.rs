//! What every handler works with.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cogward_api::{Doctor, ProblemCode};
use cogward_budget::Budgets;
use cogward_engine::{Engine, RunFiles};
use cogward_evidence::{Evidence, RecordError};
use cogward_gateway::Gateway;
use cogward_identity::{Operators, Secrets};
use cogward_journal::Journal;
use cogward_model::{Clock, Entropy, Timestamp, event::Event};
use cogward_prover::Solver;
use cogward_store::{Committed, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::{PlaneMemories, approvals::StoredApprovals},
    archiving::Watched,
    data_dir::DataDir,
    failure::Failure,
    handlers::logs::Readers,
    outside::{Issuers, OutsideRuns, Refusals},
    pins::PinBook,
    policies::PlanePolicies,
};

/// A plane that is up.
pub(crate) struct Plane {
    pub(crate) store: Store,
    pub(crate) evidence: Evidence,
    pub(crate) journal: Journal,
    pub(crate) operators: Operators,
    pub(crate) secrets: Secrets,
    pub(crate) gateway: Gateway,
    /// What agents keep.
    pub(crate) memories: Arc<PlaneMemories>,
    /// What is approved of the tools of tool servers.
    pub(crate) pins: PinBook,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) policies: PlanePolicies,
    pub(crate) approvals: StoredApprovals,
    /// Whether whoever wrote a version of a policy may not approve it.
    pub(crate) four_eyes: bool,
    /// What proves that a change of a policy grants nothing.
    pub(crate) solver: Option<Arc<Solver>>,
    /// One analysis of policies at a time.
    pub(crate) analyses: Arc<Semaphore>,
    pub(crate) engine: Engine,
    pub(crate) files: RunFiles,
    pub(crate) data: DataDir,
    pub(crate) doctor: Doctor,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) started: Timestamp,
    pub(crate) address: SocketAddr,
    /// Whose access tokens are taken from clients outside.
    pub(crate) issuers: Arc<Issuers>,
    /// The runs of clients outside that are open.
    pub(crate) outside_runs: Arc<OutsideRuns>,
    /// Whose reading of logs was recorded.
    pub(crate) log_readers: Readers,
    /// What was refused at the door.
    pub(crate) refusals: Arc<Refusals>,
    /// Held while values of the evidence are erased, and while a legal hold is asked for.
    pub(crate) erasures: tokio::sync::Mutex<()>,
    /// Held while a credential for a host, or an issuer, is changed, so that the memory has what the store has.
    pub(crate) credential_changes: tokio::sync::Mutex<()>,
    /// Whether the plane takes requests.
    pub(crate) accepting: AtomicBool,
    /// How the archive does.
    pub(crate) archived: Watched,
    /// Cancelled when streams must end.
    pub(crate) closing: CancellationToken,
}

/// A handler's state.
pub(crate) type App = Arc<Plane>;

impl Plane {
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// Makes the evidence of a committed change durable.
    pub(crate) async fn publish(&self, committed: Committed) -> Result<(), Failure> {
        self.evidence.publish(&self.store, committed).await.map(drop).map_err(|e| unrecorded(&e))
    }

    /// Records an event that belongs to no change.
    pub(crate) async fn record(&self, event: Event) -> Result<(), Failure> {
        self.evidence.record(event).await.map(drop).map_err(|e| unrecorded(&e))
    }
}

/// What to do when a log cannot be signed.
pub(crate) const UNSIGNED_NEXT: &str = "connect the token with the key; `cogward doctor --remote` says how it does";

pub(crate) fn unrecorded(error: &RecordError) -> Failure {
    let failure = Failure::new(ProblemCode::EvidenceUnavailable, error.to_string());
    match error {
        RecordError::Unsigned(_) => failure.rule("evidence.signed").next_step(UNSIGNED_NEXT),
        _ => failure
            .rule("evidence.durable")
            .next_step("free space on the plane's disk, then look at `cogward plane show`"),
    }
}
