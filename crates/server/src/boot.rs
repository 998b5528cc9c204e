//! Bringing a plane up and down.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cogward_api::{Doctor, ProfileReport};
use cogward_budget::Budgets;
use cogward_engine::{Engine, EngineOptions, RecoveryReport, RunFiles, ports::Missing};
use cogward_evidence::{Evidence, EvidenceOptions};
use cogward_gateway::{
    Credential as UpstreamCredential, EgressOptions, FenceState, Gateway, InspectionKey, Tally, policy::History,
};
use cogward_identity::{Credential, Operators, Role, Secrets};
use cogward_journal::{Journal, JournalEvent, JournalOptions};
use cogward_model::{
    Clock, Entropy, RunId, SystemClock, SystemEntropy, TenantName,
    event::{Attribution, EventType},
    manifest::Profile,
};
use cogward_sandbox::{HostReport, Images, SandboxConfig, doctor, profile::PROFILES};
use cogward_store::{PageRequest, Store, TenantRow};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use crate::http::ListenError;
use crate::{
    ServeOptions,
    adapters::{
        HostSandboxes, HostToolProcesses, JournalNotices, PlaneLedger, PlaneMemories, RunGateways,
        approvals::StoredApprovals,
    },
    archiving, budgets, cosigning,
    data_dir::{DataDir, DataDirError},
    described::described,
    erasure,
    events::by_plane,
    handlers::{credentials, providers, tool_servers},
    http, log_door,
    outside::{self, BaseError, Issuers, OutsideRuns, Refusals},
    pins::PinBook,
    plane::{App, Plane},
    policies::PlanePolicies,
    routes, stamping, upkeep, witness,
};

/// A run of a client outside in which nothing is asked for so long is over, where nobody said otherwise.
const OUTSIDE_IDLE: Duration = Duration::from_secs(900);
/// Runs that may be live at once; each has a host identity of its own.
const RUN_SLOTS: u32 = 1_024;
/// How long calls in flight may take when the plane drains.
const CALLS_DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why a plane does not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The address that clients outside use.
    #[error("`{url}` cannot be where clients outside come: {why}")]
    OutsideUrl {
        /// What was given.
        url: String,
        /// What it is not.
        why: BaseError,
    },
    /// The solver for policies.
    #[error(transparent)]
    Solver(#[from] cogward_prover::ProverError),
    /// There is evidence of an earlier plane and no state of it.
    #[error(
        "`{}` is gone, but the evidence of the plane that it belongs to is there; restore it from a backup \
         of the same time, or start with a new data directory", .0.display()
    )]
    StateGone(std::path::PathBuf),
    /// The state database.
    #[error("the state cannot be opened")]
    State(#[from] cogward_store::OpenError),
    /// A read or write of the state.
    #[error("the state cannot be used")]
    Store(#[from] cogward_store::StoreError),
    /// The ledger.
    #[error("the evidence cannot be opened")]
    Evidence(#[from] cogward_evidence::OpenError),
    /// What witnesses said to an earlier plane.
    #[error("the witnesses cannot be used")]
    Witnesses(#[from] cogward_evidence::CosignError),
    /// The address of a witness.
    #[error(transparent)]
    WitnessUrl(#[from] cosigning::WitnessUrlError),
    /// The time stamp authorities.
    #[error(transparent)]
    Timestamps(#[from] stamping::TimestampUrlError),
    /// The place of the archive.
    #[error("the archive cannot be used")]
    ArchivePlace(#[from] archiving::S3Error),
    /// Evidence that an earlier plane committed could not be put into the ledger, or this one's start.
    #[error("the evidence cannot be written: {0}")]
    Record(String),
    /// An erasure of an earlier plane could not be finished.
    #[error("an erasure that was begun cannot be finished: {0}")]
    Erasure(String),
    /// The ledger is older than the state, or another one.
    #[error(
        "the evidence was rolled back or replaced: the state refers to leaf {leaf} of tenant {tenant}, and the \
         ledger has {leaves} leaves; restore the directory `evidence` that belongs to this data directory"
    )]
    Rollback {
        /// Whose log.
        tenant: TenantName,
        /// What is there.
        leaves: u64,
        /// What must be.
        leaf: u64,
    },
    /// The budgets could not be read from the ledger.
    #[error("the budgets cannot be restored")]
    Budgets(#[from] cogward_evidence::ReadError),
    /// The active policies.
    #[error("the policies cannot be read: {0}")]
    Policies(String),
    /// The journal.
    #[error("the journal cannot be opened")]
    Journal(#[from] cogward_journal::OpenError),
    /// The plane's key.
    #[error(transparent)]
    Keys(#[from] cogward_identity::KekError),
    /// The first operator.
    #[error("the first operator cannot be made")]
    Operator(#[from] cogward_identity::CreateError),
    /// A sealed credential of an upstream.
    #[error("the credential of an upstream cannot be opened")]
    Secret(#[from] cogward_identity::SecretError),
    /// The runs of an earlier plane.
    #[error("the runs cannot be taken over")]
    Recover(#[from] cogward_engine::RecoverError),
    /// What a crash left among the images of packages.
    #[error("the images of packages cannot be swept")]
    Images(#[source] std::io::Error),
    /// What a crash left among the packages.
    #[error("the packages cannot be swept")]
    Packages(#[source] std::io::Error),
    /// Standard output.
    #[error("the address cannot be printed")]
    Output(#[source] std::io::Error),
    /// A thread ended early.
    #[error("a task of the start was ended")]
    Task(#[from] tokio::task::JoinError),
}

/// A plane that is up and not serving yet.
pub struct Running {
    pub(crate) app: App,
    listener: TcpListener,
    credential: Option<Credential>,
    door: Option<(TcpListener, Arc<outside::Door>, String)>,
    log_door: Option<(TcpListener, SocketAddr)>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("address", &self.app.address).finish_non_exhaustive()
    }
}

/// Brings a plane up. Nothing is admitted before everything that an earlier plane promised is in place.
///
/// # Errors
/// [`ServeError`]; then nothing was opened.
pub async fn start(options: ServeOptions) -> Result<Running, ServeError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    cosigning::check(&options.witnesses)?;
    stamping::check(&options.timestamps)?;
    let (listener, address) = http::bind(options.listen).await?;
    let door = match &options.outside {
        Some(outside) => Some(outside::bind(outside).await?),
        None => None,
    };
    let log_door = log_door::bind(options.log_listen).await?;
    let solver = match options.policy_solver {
        Some(program) => {
            let found = tokio::task::spawn_blocking(move || cogward_prover::Solver::find(&program)).await?;
            Some(Arc::new(found?))
        }
        None => None,
    };
    let data = DataDir::open(&options.data_dir)?;
    cogward_registry::package::sweep(&data.join("packages")).map_err(ServeError::Packages)?;
    let images = Images::new(data.join("images"));
    images.sweep(&data.join("packages")).map_err(ServeError::Images)?;
    let (state, dir) = (data.join("state.db"), data.join("evidence"));
    // A plane with a history and without its state would give itself a new operator over the old ledger.
    if !state.exists() && dir.join("wal").exists() {
        return Err(ServeError::StateGone(state));
    }
    let store = Store::open(&state).await?;
    // A build for tests refuses to act on a record that the event schema does not know: that is a defect of ours.
    let held = EvidenceOptions {
        strict: cfg!(debug_assertions),
        tokens: options.tokens.clone(),
        ..options.archive.evidence(dir)?
    };
    let evidence = tokio::task::spawn_blocking(move || Evidence::open(held)).await??;
    evidence.witnessed_by(options.witnesses.clone())?;
    // A change of keys that a plane was killed in is carried on before anything is signed for anybody.
    evidence.settle_keys().await.map_err(|e| ServeError::Record(e.to_string()))?;
    // Before anything is read or sealed: what was erased stays so, whatever came back with older files.
    let told = evidence.replay_erasures().await.map(|replayed| replayed.executed);
    let told = told.map_err(|e| ServeError::Erasure(cogward_engine::ports::PortError::from_error(&e).0))?;
    let drained = evidence.drain_outbox(&store).await;
    drained.map_err(|e| ServeError::Record(cogward_engine::ports::PortError::from_error(&e).0))?;
    witness::check(&store, &evidence).await?;
    let finished = erasure::finish(&store, &evidence, &told).await;
    finished.map_err(|e| ServeError::Erasure(cogward_engine::ports::PortError::from_error(&e).0))?;
    evidence.declare_schema().await.map_err(|e| ServeError::Record(e.to_string()))?;
    let journal = Journal::open(&data.join("journal.db"), JournalOptions::default(), clock.clone()).await?;
    let secrets = Secrets::open(&data.join("keys"), store.clone(), &*entropy).await?;
    let operators = Operators::new(store.clone(), clock.clone(), entropy.clone());
    let credential = first_start(&store, &evidence, &operators).await?;

    let budgets = Arc::new(Budgets::new());
    let ledger = Arc::new(PlaneLedger::new(evidence.clone()));
    let egress = EgressOptions {
        static_hosts: options.egress_hosts,
        inspection_key: Some(InspectionKey::new(secrets.derived("inspection")?)),
        notices: Some(Arc::new(JournalNotices(journal.clone()))),
        ..EgressOptions::default()
    };
    let gateway = Gateway::with_egress(ledger.clone(), budgets.clone(), clock.clone(), egress);
    let history = gateway.policies().history().clone();
    let earlier = Mutex::new(restore_budgets(&store, &evidence, &budgets, history).await?);
    let pins = PinBook::new(store.clone(), evidence.clone(), journal.clone(), gateway.pins().clone());
    gateway.keep_pins(Arc::new(pins.clone()));
    let (host, missing, report) = probe(&options.supervisor_exe, data.root(), &options.sandboxes).await?;
    let lacking = missing.get(&Profile::Standard).cloned().unwrap_or_default();
    let (exe, root) = (options.supervisor_exe.clone(), data.root().to_owned());
    let tools = Arc::new(HostToolProcesses::new(exe, root, lacking, journal.clone()));
    tools.sweep().await;
    gateway.upstreams().start_processes_by(tools);
    let memories = Arc::new(PlaneMemories::new(data.join("memory"), clock.clone(), entropy.clone()));
    gateway.upstreams().serve_inside_by(memories.clone());
    open_upstreams(&store, &secrets, &gateway, &pins).await?;
    let policies = PlanePolicies::default();
    let opened = policies.open(&store, &gateway, clock.now()).await;
    opened.map_err(|e| ServeError::Policies(cogward_engine::ports::PortError::from_error(&e).0))?;
    let approvals = StoredApprovals {
        store: store.clone(),
        evidence: evidence.clone(),
        journal: journal.clone(),
        secrets: secrets.clone(),
    };
    gateway.policies().approvals_by(Arc::new(approvals.clone()));
    let files = RunFiles::new(data.join("runs"));
    let idle = options.outside.as_ref().map_or(OUTSIDE_IDLE, |outside| outside.idle);
    let outside_runs = Arc::new(OutsideRuns::new(idle));
    let issuers = Arc::new(Issuers::open(&store).await?);
    let packages = data.join("packages");
    let engine = Engine::new(EngineOptions {
        store: store.clone(),
        ledger: ledger.clone(),
        journal: journal.clone(),
        sandboxes: Arc::new(HostSandboxes::new(
            options.supervisor_exe,
            options.sandboxes,
            (packages.clone(), images),
            missing,
            report,
            Arc::clone(&outside_runs),
        )),
        gateways: Arc::new(RunGateways {
            gateway: gateway.clone(),
            budgets: budgets.clone(),
            approvals: approvals.clone(),
            packages: packages.clone(),
            files: files.clone(),
            earlier,
        }),
        files: files.clone(),
        packages,
        clock: clock.clone(),
        entropy: entropy.clone(),
        run_slots: RUN_SLOTS,
        attesting: options.attesting,
    });
    ledger.watched_by(engine.security_watch());
    // A run that lives on is connected again while it is recovered: its calls wait for the plane to be
    // ready, and are not refused.
    gateway.fence_plane(FenceState::Held);
    let recovered = engine.recover().await?;
    if recovered != RecoveryReport::default() {
        tracing::info!(
            adopted = recovered.adopted,
            relaunched = recovered.relaunched,
            closed = recovered.closed,
            orphans = recovered.orphans,
            unreachable = recovered.unreachable,
            "the runs of an earlier plane"
        );
    }
    let event = by_plane(EventType::PlaneStarted)
        .public("adopted", recovered.adopted as u64)
        .public("closed", recovered.closed as u64)
        .public("orphans", recovered.orphans as u64);
    evidence.record(event).await.map_err(|e| ServeError::Record(e.to_string()))?;
    gateway.fence_plane(FenceState::Open);
    data.write_address(address, door.as_ref().map(|(_, address, _)| *address))?;
    journal.publish(JournalEvent::plane("plane.started"));

    let closing = CancellationToken::new();
    let archived = archiving::start(&evidence, &store, &journal, &clock, &options.archive, &closing)?;
    let app = Arc::new(Plane {
        started: clock.now(),
        erasures: tokio::sync::Mutex::default(),
        credential_changes: tokio::sync::Mutex::default(),
        accepting: AtomicBool::new(true),
        closing,
        archived,
        store,
        evidence,
        journal,
        operators,
        secrets,
        gateway,
        memories,
        pins,
        budgets,
        policies,
        approvals,
        four_eyes: options.four_eyes,
        solver,
        analyses: Arc::new(tokio::sync::Semaphore::new(1)),
        engine,
        files,
        data,
        doctor: host,
        clock,
        entropy,
        address,
        issuers,
        outside_runs,
        refusals: Arc::new(Refusals::default()),
        log_readers: Default::default(),
    });
    cosigning::start(&app.evidence, &app.journal, &options.witnesses, &app.closing);
    stamping::start(&app, &options.timestamps)?;
    let door = door.map(|(listener, address, base)| {
        let url = base.to_string();
        (listener, outside::Door::new(app.clone(), base, address, credential.is_some()), url)
    });
    tokio::spawn(outside::tell_refusals(app.clone()));
    tokio::spawn(upkeep::purge_answers(app.clone()));
    tokio::spawn(upkeep::sweep_approvals(app.clone()));
    tokio::spawn(upkeep::retire_keys(app.clone()));
    tokio::spawn(upkeep::carry_decisions(app.clone()));
    tokio::spawn(erasure::retention::watch(app.clone()));
    Ok(Running { app, listener, credential, door, log_door })
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.app.address
    }

    /// Where the logs are given out, if they are.
    #[must_use]
    pub fn log_address(&self) -> Option<SocketAddr> {
        self.log_door.as_ref().map(|(_, address)| *address)
    }

    /// Where clients outside are let in, if they are.
    #[must_use]
    pub fn outside_url(&self) -> Option<&str> {
        self.door.as_ref().map(|(_, _, url)| url.as_str())
    }

    /// The credential of a first start. It is nowhere else.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Serves until `shutdown` resolves, then drains: no new requests, calls in flight end, runs live on
    /// under their supervisors, and the next plane takes them over.
    ///
    /// # Errors
    /// [`ServeError`] when the end cannot be recorded.
    pub async fn until(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { app, listener, credential, door, log_door } = self;
        drop(credential);
        let log_door = log_door.map(|door| log_door::open(door, &app));
        let door = door
            .map(|(listener, door, _)| tokio::spawn(http::serve(listener, outside::router(door), app.closing.clone())));
        let server = tokio::spawn(http::serve(listener, routes::router(&app), app.closing.clone()));
        shutdown.await;
        app.accepting.store(false, Ordering::Release);
        app.engine.stop();
        app.closing.cancel();
        // No call begins any more; what waits is taken up again with the next plane.
        app.gateway.fence_plane(FenceState::Held);
        server.await?;
        if let Some(door) = door {
            door.await?;
        }
        if let Some(log_door) = log_door {
            log_door.await?;
        }
        app.refusals.tell(&app);
        drain_calls(&app).await;
        let event = by_plane(EventType::PlaneStopped).public("runs_live", app.engine.live_count() as u64);
        let recorded = app.evidence.record(event).await;
        app.journal.publish(JournalEvent::plane("plane.stopped"));
        app.journal.flush().await;
        app.data.remove_address();
        recorded.map(drop).map_err(|e| ServeError::Record(e.to_string()))
    }
}

async fn drain_calls(app: &Plane) {
    let Ok(live) = app.store.runs_live().await else { return };
    let settled = async {
        while live.iter().any(|run| app.gateway.in_flight(run.id) > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(CALLS_DRAIN_MAX, settled).await.is_err() {
        tracing::warn!("calls that did not end in time are broken off and charged in full");
    }
}

/// The tenant and the operator that a fresh plane has. `None` when there is an operator already.
async fn first_start(
    store: &Store,
    evidence: &Evidence,
    operators: &Operators,
) -> Result<Option<Credential>, ServeError> {
    if !store.operators(&PageRequest { after: None, limit: 1 }).await?.items.is_empty() {
        return Ok(None);
    }
    let tenant = TenantName::default_tenant();
    let mut tx = store.begin().await?;
    let mut recorded = Vec::with_capacity(2);
    if tx.tenant(&tenant).await?.is_none() {
        let created = tx.now();
        tx.tenant_insert(&TenantRow { name: tenant, created, created_by: "plane".to_owned() }).await?;
        recorded.push(by_plane(EventType::TenantCreated));
    }
    let made = operators.create(&mut tx, "operator", Role::Operator, Attribution::plane()).await?;
    recorded.push(made.event);
    let committed = tx.commit(recorded).await?;
    evidence.publish(store, committed).await.map_err(|e| ServeError::Record(e.to_string()))?;
    Ok(Some(made.credential))
}

async fn restore_budgets(
    store: &Store,
    evidence: &Evidence,
    budgets: &Arc<Budgets>,
    history: Arc<History>,
) -> Result<HashMap<RunId, Tally>, ServeError> {
    let live: HashSet<_> = store.runs_unclosed().await?.into_iter().map(|row| row.id).collect();
    let (evidence, budgets) = (evidence.clone(), budgets.clone());
    Ok(tokio::task::spawn_blocking(move || budgets::restore(&evidence, &budgets, &history, &live)).await??)
}

async fn secret(secrets: &Secrets, name: &str) -> Result<Option<UpstreamCredential>, ServeError> {
    let Some(bytes) = secrets.get(name).await? else { return Ok(None) };
    let text = String::from_utf8(bytes.to_vec());
    let text = text.map_err(|_| cogward_identity::SecretError::Broken { name: name.to_owned() })?;
    Ok(Some(UpstreamCredential::new(Zeroizing::new(text))))
}

/// Hands every registered upstream to the gateway. One that cannot be used stays away from agents and
/// does not keep the plane from starting.
async fn open_upstreams(store: &Store, secrets: &Secrets, gateway: &Gateway, pins: &PinBook) -> Result<(), ServeError> {
    let mut tenants = PageRequest { after: None, limit: 500 };
    loop {
        let found = store.tenants(&tenants).await?;
        for tenant in found.items {
            open_upstreams_of(&tenant.name, store, secrets, gateway, pins).await?;
        }
        match found.next {
            Some(next) => tenants.after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn open_upstreams_of(
    tenant: &TenantName,
    store: &Store,
    secrets: &Secrets,
    gateway: &Gateway,
    pins: &PinBook,
) -> Result<(), ServeError> {
    let mut page = PageRequest { after: None, limit: 500 };
    loop {
        let found = store.tool_servers(tenant, &page).await?;
        for row in found.items {
            let credential = secret(secrets, &tool_servers::secret_name(tenant, &row.config.name)).await?;
            pins.load(&row.config).await?;
            gateway.upstreams().put_tool_server(row.config, credential);
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    let mut page = PageRequest { after: None, limit: 500 };
    loop {
        let found = store.providers(tenant, &page).await?;
        for row in found.items {
            let name = row.config.name.clone();
            let credential = secret(secrets, &providers::secret_name(tenant, &name)).await?;
            if let Err(error) = gateway.upstreams().put_provider(row.config, credential) {
                tracing::error!(%tenant, provider = %name, %error, "a provider cannot be used");
            }
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    let mut page = PageRequest { after: None, limit: 500 };
    loop {
        let found = store.credentials(tenant, &page).await?;
        for row in found.items {
            let name = row.config.name.clone();
            match secret(secrets, &credentials::secret_name(tenant, &name)).await? {
                Some(secret) => gateway.upstreams().put_egress_credential(row.config, secret),
                None => tracing::error!(%tenant, credential = %name, "a credential has no secret"),
            }
        }
        match found.next {
            Some(next) => page.after = Some(next),
            None => return Ok(()),
        }
    }
}

type Probed = (Doctor, HashMap<Profile, Vec<Missing>>, Option<HostReport>);

/// What the host can enforce, asked once. A host that cannot be asked enforces nothing.
async fn probe(exe: &Path, data: &Path, config: &SandboxConfig) -> Result<Probed, ServeError> {
    let (exe, data, config) = (exe.to_owned(), data.to_owned(), config.clone());
    let probing = tokio::task::spawn_blocking(move || doctor::probe_with(&exe, &data, &config));
    let report = match probing.await? {
        Ok(report) => report,
        Err(error) => {
            tracing::error!(%error, "the host cannot be probed, so no run is accepted");
            let missing = Missing {
                what: "probe".to_owned(),
                why: cogward_engine::ports::PortError::from_error(&error).0,
                fix: "start the plane with the `cogward` program itself".to_owned(),
            };
            let profiles = PROFILES.map(|profile| ProfileReport {
                profile: profile.as_str().to_owned(),
                enforceable: false,
                missing: vec![missing.what.clone()],
            });
            let report = Doctor {
                kernel: String::new(),
                checks: Vec::new(),
                profiles: profiles.to_vec(),
                environment: cogward_api::Environment::default(),
                pod: cogward_api::Pod::default(),
            };
            return Ok((report, PROFILES.map(|profile| (profile, vec![missing.clone()])).into(), None));
        }
    };
    let missing = PROFILES.map(|profile| {
        let missing = report.require(profile).err().unwrap_or_default();
        let missing = missing.into_iter().map(|m| Missing { what: m.mechanism, why: m.why, fix: m.fix });
        (profile, missing.collect())
    });
    Ok((described(report.clone()), missing.into(), Some(report)))
}
