//! The engine itself: what it holds, and the steps that several of its parts share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use cogward_journal::Journal;
use cogward_model::{
    Clock, Digest, Entropy, RunId,
    event::Event,
    id::{Id, OperationId},
    manifest::{Manifest, Sandbox},
    run::RunState,
};
use cogward_store::{Committed, OperationRow, OperationState, RunRow, Store, StoreError, VersionRow};
use tokio::sync::watch;

use crate::{
    attest::Attesting,
    files::RunFiles,
    live::Live,
    plan::fence_of,
    ports::{Fence, Gateways, Ledger, LedgerHealth, Missing, Place, PortError, Sandboxes},
    receipt::Stopwatch,
    warm::Spares,
};

/// What an engine works with.
#[derive(Clone)]
pub struct EngineOptions {
    /// State.
    pub store: Store,
    /// Evidence.
    pub ledger: Arc<dyn Ledger>,
    /// Operational events.
    pub journal: Journal,
    /// Sandbox drivers.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Gateways.
    pub gateways: Arc<dyn Gateways>,
    /// `<data dir>/runs`.
    pub files: RunFiles,
    /// `<data dir>/packages`.
    pub packages: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// How many runs may be live at once; each has a host identity of its own.
    pub run_slots: u32,
    /// How often their sandboxes are examined.
    pub attesting: Attesting,
}

/// Moves runs. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// What an engine and its tasks share.
pub struct Inner {
    pub(crate) with: EngineOptions,
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    pub(crate) spares: Spares,
    stopping: watch::Sender<bool>,
    /// Evidence cannot be written: every run is held.
    holding: AtomicBool,
}

impl std::ops::Deref for Engine {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("live", &self.live_all().len()).finish_non_exhaustive()
    }
}

/// A version as a run needs it.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) digest: Digest,
    pub(crate) package: Digest,
}

impl Version {
    pub(crate) fn read(row: &VersionRow) -> Result<Self, serde_json::Error> {
        Ok(Self {
            manifest: Arc::new(serde_json::from_str(&row.manifest_json)?),
            digest: row.version_digest,
            package: row.package_digest,
        })
    }
}

/// Whether a narrowing step's evidence is durable; a widening one does not happen without.
#[must_use]
pub(crate) enum Recorded {
    Yes(Vec<Place>),
    No(PortError),
}

impl Engine {
    /// An engine that moves nothing yet: [`Engine::recover`] comes first.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        let holding = *options.ledger.health().borrow() != LedgerHealth::Ok;
        Self(Arc::new(Inner {
            with: options,
            live: Mutex::default(),
            spares: Spares::default(),
            stopping: watch::Sender::new(false),
            holding: AtomicBool::new(holding),
        }))
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Takes no more starts and watches over nothing: the plane is on its way down. Runs go on under their
    /// supervisors.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// What the host lacks to run under these demands, in full; empty when it can. Registration and every start ask
    /// this and nothing else.
    #[must_use]
    pub fn missing(&self, sandbox: &Sandbox) -> Vec<Missing> {
        let mut missing = self.with.sandboxes.missing(sandbox.profile);
        missing.extend(self.with.sandboxes.missing_limits(sandbox));
        missing
    }

    /// Runs that are not closed, as this plane holds them.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live_table().len()
    }

    /// Resolves when a run is closed; at once when it is not held here.
    pub async fn closed(&self, run: RunId) {
        if let Some(live) = self.live(run) {
            let mut closed = live.closed.subscribe();
            // The sender lives in `live`, which is held here.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }
}

impl Inner {
    fn live_table(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Live>>> {
        // Only map operations happen under this lock.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self, run: RunId) -> Option<Arc<Live>> {
        self.live_table().get(&run).cloned()
    }

    pub(crate) fn live_all(&self) -> Vec<Arc<Live>> {
        self.live_table().values().cloned().collect()
    }

    /// Holds a run; `None` when it is held already.
    pub(crate) fn insert_live(&self, row: &RunRow) -> Option<Arc<Live>> {
        let mut table = self.live_table();
        if table.contains_key(&row.id) {
            return None;
        }
        let live = Arc::new(Live::new(row));
        live.set_held(self.is_holding());
        table.insert(row.id, Arc::clone(&live));
        Some(live)
    }

    pub(crate) fn remove_live(&self, run: RunId) {
        self.live_table().remove(&run);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Resolves when the plane is on its way down.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as this does.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    pub(crate) fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Acquire)
    }

    pub(crate) fn set_holding(&self, holding: bool) {
        self.holding.store(holding, Ordering::Release);
    }

    pub(crate) fn operation_id(&self) -> OperationId {
        Id::new(&*self.with.clock, &*self.with.entropy)
    }

    pub(crate) fn operation(&self, run: RunId, verb: &str, actor: &str, reason: Option<&str>) -> OperationRow {
        OperationRow {
            id: self.operation_id(),
            run,
            verb: verb.to_owned(),
            reason: reason.map(str::to_owned),
            actor: actor.to_owned(),
            state: OperationState::Pending,
            created: self.with.clock.now(),
            finished: None,
            receipt_json: None,
        }
    }

    pub(crate) async fn publish(&self, committed: Committed) -> Recorded {
        match self.with.ledger.publish(&self.with.store, committed).await {
            Ok(places) => Recorded::Yes(places),
            Err(error) => {
                tracing::error!(%error, "evidence of a committed change is not durable yet");
                Recorded::No(error)
            }
        }
    }

    /// Ends an operation with its receipt. An operation that was ended meanwhile stays as it is.
    pub(crate) async fn finish_operation(&self, id: OperationId, state: OperationState, receipt: Option<&str>) {
        let finish = async {
            let mut tx = self.with.store.begin().await?;
            tx.operation_finish(id, state, self.with.clock.now(), receipt).await?;
            // The operation's evidence is its command's; how long its steps took changes nothing.
            tx.commit(Vec::new()).await.map(drop)
        };
        match finish.await {
            Ok(()) | Err(StoreError::Stale { .. }) => {}
            Err(error) => {
                tracing::error!(operation = %id, %error, "the receipt of an operation is not kept; the next start ends it")
            }
        }
    }

    /// The version of a run, as it was registered.
    pub(crate) async fn version_of(&self, row: &RunRow) -> Result<Version, PortError> {
        let found = self.with.store.version(&row.tenant, &row.agent, &row.version).await;
        let version = found.map_err(|e| PortError::from_error(&e))?;
        let version = version.ok_or_else(|| PortError("its version is not registered".to_owned()))?;
        Version::read(&version).map_err(|e| PortError::from_error(&e))
    }

    /// Makes the effects of the state that was committed last. One at a time per run; whoever comes
    /// second finds them made. The end of a run does not wait for this.
    pub(crate) async fn converge(&self, live: &Live, watch: &mut Stopwatch) -> Result<(), (&'static str, PortError)> {
        let gateways = &*self.with.gateways;
        let mut applied = live.applied.lock().await;
        loop {
            let target = live.target();
            // Without a sandbox there is nothing to move; who attaches one converges then.
            let (Some(sandbox), false) = (live.sandbox(), *applied == Some(target)) else {
                return Ok(());
            };
            match target {
                RunState::Starting => return Ok(()),
                RunState::Running => {
                    live.fence(gateways, Fence::Open);
                    watch.step("fenced");
                    sandbox.resume().await.map_err(|e| ("thaw", e))?;
                    sandbox.start().await.map_err(|e| ("start", e))?;
                    watch.step("thawed");
                }
                RunState::Suspended => {
                    live.fence(gateways, Fence::Held);
                    watch.step("fenced");
                    sandbox.suspend().await.map_err(|e| ("freeze", e))?;
                    watch.step("frozen");
                }
                RunState::Stopping => {
                    live.fence(gateways, fence_of(target));
                    watch.step("fenced");
                    // The signal first: a frozen agent finds it when it is thawed.
                    sandbox.terminate().await.map_err(|e| ("terminate", e))?;
                    sandbox.resume().await.map_err(|e| ("thaw", e))?;
                    watch.step("signalled");
                }
                RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Killed => return Ok(()),
            }
            *applied = Some(target);
        }
    }

    /// Records an event of a run that changes no state; what cannot be recorded is logged.
    pub(crate) fn note(&self, event: Event) {
        if let Err(error) = self.with.ledger.note(event) {
            tracing::error!(%error, "an event is not recorded");
        }
    }
}
