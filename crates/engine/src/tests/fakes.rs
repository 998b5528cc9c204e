//! A host that can be looked into: sandboxes that live in memory and outlive engines, gateways and a
//! ledger that note the order of things, and points at which everything can be made to hang.

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use cogward_journal::{Journal, JournalOptions};
use cogward_model::{
    AgentName, Digest, RunId, SystemClock, SystemEntropy, TenantName,
    action::Amounts,
    attestation::Check,
    content::GivenInput,
    event::{Event, EventType},
    manifest::{self, Manifest, Profile},
    run::RunState,
    violation::Reaction,
};
use cogward_store::{AgentRow, Committed, PageRequest, RunRow, Store, TenantRow, VersionRow};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::{
    Attesting, Engine, EngineOptions, RunFiles, StartRun,
    ports::{
        AttachRequest, AttestError, Attestation, Exit, Fence, Found, Gateways, Grant, KillReport, LaunchRequest,
        Ledger, LedgerHealth, Listeners, Missing, Pending, PortError, RunUsed, Sandbox, Sandboxes, Violation,
    },
};

/// One fake host; engines come and go on it.
pub(super) struct World {
    pub(super) dir: TempDir,
    /// The file of the state database.
    pub(super) state: Mutex<&'static str>,
    boxes: Mutex<HashMap<PathBuf, Arc<Box>>>,
    pub(super) log: Mutex<Vec<String>>,
    pub(super) leaves: Mutex<Vec<Event>>,
    published: Mutex<HashSet<String>>,
    pub(super) fences: Mutex<HashMap<RunId, Fence>>,
    hang: Mutex<Option<&'static str>>,
    pub(super) reached: watch::Sender<bool>,
    pub(super) fail: Mutex<HashSet<&'static str>>,
    pub(super) health: watch::Sender<LedgerHealth>,
    pub(super) missing: Mutex<Vec<Missing>>,
    pub(super) violations: Mutex<Option<mpsc::Receiver<Violation>>>,
    /// A control that every look finds gone.
    pub(super) gone: Mutex<Option<Check>>,
    pub(super) looks: Mutex<u32>,
    pub(super) doubled: Mutex<u32>,
    pub(super) launches: Mutex<u32>,
    /// What the last launch was given.
    pub(super) given: Mutex<Vec<(GivenInput, PathBuf)>>,
}

/// One fake sandbox.
pub(super) struct Box {
    run: RunId,
    pub(super) started: Mutex<bool>,
    pub(super) frozen: Mutex<bool>,
    ignores_term: bool,
    /// What the agent will read; none while it is still to come.
    pub(super) input: Mutex<Option<Vec<u8>>>,
    pub(super) exit: watch::Sender<Option<Exit>>,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        // In memory where there is such a place: what is tried here is the order of things, not the disk.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        std::fs::create_dir(dir.path().join("runs")).unwrap();
        Arc::new(Self {
            dir,
            state: Mutex::new("state.db"),
            boxes: Mutex::default(),
            log: Mutex::default(),
            leaves: Mutex::default(),
            published: Mutex::default(),
            fences: Mutex::default(),
            hang: Mutex::default(),
            reached: watch::Sender::new(false),
            fail: Mutex::default(),
            health: watch::Sender::new(LedgerHealth::Ok),
            missing: Mutex::default(),
            violations: Mutex::default(),
            gone: Mutex::default(),
            looks: Mutex::default(),
            doubled: Mutex::default(),
            launches: Mutex::default(),
            given: Mutex::default(),
        })
    }

    /// From now on whoever comes to `point` stays there, as if the plane had been killed.
    pub(super) fn hang_at(&self, point: &'static str) {
        self.reached.send_replace(false);
        *self.hang.lock().unwrap() = Some(point);
    }

    pub(super) fn go_on(&self) {
        *self.hang.lock().unwrap() = None;
    }

    async fn at(&self, point: &'static str) -> Result<(), PortError> {
        let hangs = *self.hang.lock().unwrap() == Some(point);
        if hangs {
            self.reached.send_replace(true);
            std::future::pending::<()>().await;
        }
        if self.fail.lock().unwrap().contains(point) {
            return Err(PortError(format!("{point} fails")));
        }
        Ok(())
    }

    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }

    pub(super) fn sandbox(&self, run: RunId) -> Option<Arc<Box>> {
        self.boxes.lock().unwrap().get(&self.dir.path().join("runs").join(run.to_string())).cloned()
    }

    /// The sandbox, of which there is one.
    pub(super) fn only_sandbox(&self) -> Arc<Box> {
        let boxes = self.boxes.lock().unwrap();
        assert_eq!(boxes.len(), 1);
        boxes.values().next().cloned().unwrap()
    }

    pub(super) fn alive(&self) -> usize {
        self.boxes.lock().unwrap().values().filter(|b| b.exit.borrow().is_none()).count()
    }

    /// How many sandboxes have an agent that has begun.
    pub(super) fn sandbox_runs_started(&self) -> usize {
        self.boxes.lock().unwrap().values().filter(|b| *b.started.lock().unwrap()).count()
    }

    pub(super) fn forget(&self, run: RunId) {
        self.boxes.lock().unwrap().remove(&self.dir.path().join("runs").join(run.to_string()));
    }

    pub(super) fn fence_of(&self, run: RunId) -> Option<Fence> {
        self.fences.lock().unwrap().get(&run).copied()
    }

    pub(super) fn kinds(&self, run: RunId) -> Vec<EventType> {
        self.leaves.lock().unwrap().iter().filter(|e| e.run == Some(run)).map(|e| e.kind).collect()
    }

    pub(super) async fn store(&self) -> Store {
        let file = *self.state.lock().unwrap();
        Store::open(&self.dir.path().join(file)).await.unwrap()
    }

    /// A plane comes up on this host: as after a crash, the outbox is drained first.
    pub(super) async fn engine(self: &Arc<Self>) -> Engine {
        let store = self.store().await;
        let pending = store.outbox_pending(1_000).await.unwrap();
        self.append(pending.iter().map(|r| (r.event_id.to_string(), r.event.clone())));
        store.outbox_done(&pending.iter().map(|r| r.id).collect::<Vec<_>>()).await.unwrap();
        // A new plane has no gateways open.
        self.fences.lock().unwrap().clear();
        if store.tenant(&TenantName::default_tenant()).await.unwrap().is_none() {
            register(&store).await;
        }
        let clock = Arc::new(SystemClock);
        let journal =
            Journal::open(&self.dir.path().join("journal.db"), JournalOptions::default(), clock.clone()).await.unwrap();
        Engine::new(EngineOptions {
            store,
            ledger: Arc::new(Fake(Arc::clone(self))),
            journal,
            sandboxes: Arc::new(Fake(Arc::clone(self))),
            gateways: Arc::new(Fake(Arc::clone(self))),
            files: RunFiles::new(self.dir.path().join("runs")),
            packages: self.dir.path().join("packages"),
            clock,
            entropy: Arc::new(SystemEntropy),
            run_slots: 8,
            attesting: Attesting { every: Duration::from_millis(50), within: Duration::from_millis(200) },
        })
    }

    fn append(&self, events: impl Iterator<Item = (String, Event)>) {
        for (id, event) in events {
            if self.published.lock().unwrap().insert(id) {
                self.note(format!("leaf {}", event.kind.as_str()));
                self.leaves.lock().unwrap().push(event);
            }
        }
    }
}

pub(super) struct Fake(pub(super) Arc<World>);

impl Gateways for Fake {
    fn open_run(&self, grant: Grant, _listeners: Listeners) -> Result<(), PortError> {
        if self.0.fail.lock().unwrap().contains("open_run") {
            return Err(PortError("open_run fails".into()));
        }
        self.0.fences.lock().unwrap().insert(grant.run, Fence::Closed);
        Ok(())
    }
    fn fence(&self, run: RunId, fence: Fence) {
        self.0.note(format!("fence {fence:?}"));
        if let Some(known) = self.0.fences.lock().unwrap().get_mut(&run) {
            *known = fence;
        }
    }
    fn cut(&self, run: RunId) -> usize {
        self.0.note("cut".into());
        if let Some(known) = self.0.fences.lock().unwrap().get_mut(&run) {
            *known = Fence::Closed;
        }
        2
    }
    fn close_run(&self, run: RunId) -> Pending<'_, RunUsed> {
        std::boxed::Box::pin(async move {
            self.0.fences.lock().unwrap().remove(&run);
            RunUsed { amounts: Amounts { tokens: 7, ..Amounts::default() }, ..RunUsed::default() }
        })
    }
}

impl Ledger for Fake {
    fn publish<'a>(
        &'a self,
        store: &'a Store,
        committed: Committed,
    ) -> Pending<'a, Result<Vec<crate::ports::Place>, PortError>> {
        std::boxed::Box::pin(async move {
            for row in &committed.outbox {
                match row.event.kind {
                    EventType::RunRequested => self.0.at("publish requested").await?,
                    EventType::RunStarted => self.0.at("publish started").await?,
                    EventType::RunClosed => self.0.at("publish closed").await?,
                    _ => self.0.at("publish command").await?,
                }
            }
            self.0.append(committed.outbox.iter().map(|r| (r.event_id.to_string(), r.event.clone())));
            let ids: Vec<i64> = committed.outbox.iter().map(|r| r.id).collect();
            store.outbox_done(&ids).await.map_err(|e| PortError::from_error(&e))?;
            Ok(Vec::new())
        })
    }
    fn record(&self, event: Event) -> Pending<'_, Result<(), PortError>> {
        std::boxed::Box::pin(async move {
            self.0.leaves.lock().unwrap().push(event);
            Ok(())
        })
    }
    fn note(&self, event: Event) -> Result<(), PortError> {
        self.0.leaves.lock().unwrap().push(event);
        Ok(())
    }
    fn health(&self) -> watch::Receiver<LedgerHealth> {
        self.0.health.subscribe()
    }
}

impl Sandboxes for Fake {
    fn missing(&self, _profile: Profile) -> Vec<Missing> {
        self.0.missing.lock().unwrap().clone()
    }
    fn launch(&self, request: LaunchRequest) -> Pending<'_, Result<Arc<dyn Sandbox>, PortError>> {
        std::boxed::Box::pin(async move {
            self.0.at("before launch").await?;
            let made = Arc::new(Box {
                run: request.run,
                started: Mutex::new(false),
                frozen: Mutex::new(false),
                ignores_term: request.stdin == b"stubborn",
                input: Mutex::new((!request.late_input).then_some(request.stdin)),
                exit: watch::Sender::new(None),
            });
            *self.0.launches.lock().unwrap() += 1;
            *self.0.given.lock().unwrap() = request.inputs.clone();
            let before = self.0.boxes.lock().unwrap().insert(request.run_dir, Arc::clone(&made));
            if before.is_some_and(|b| b.exit.borrow().is_none()) {
                *self.0.doubled.lock().unwrap() += 1;
            }
            self.0.at("after launch").await?;
            Ok(Arc::new(Handle { world: Arc::clone(&self.0), made }) as Arc<dyn Sandbox>)
        })
    }
    fn attach<'a>(&'a self, request: AttachRequest<'a>) -> Pending<'a, Result<Arc<dyn Sandbox>, PortError>> {
        std::boxed::Box::pin(async move {
            self.0.at("attach").await?;
            let made = Arc::new(Box {
                run: request.run,
                started: Mutex::new(false),
                frozen: Mutex::new(false),
                ignores_term: false,
                input: Mutex::new(Some(Vec::new())),
                exit: watch::Sender::new(None),
            });
            self.0.boxes.lock().unwrap().insert(request.run_dir.to_owned(), Arc::clone(&made));
            Ok(Arc::new(Handle { world: Arc::clone(&self.0), made }) as Arc<dyn Sandbox>)
        })
    }
    fn adopt<'a>(&'a self, run_dir: &'a Path) -> Pending<'a, Result<Found, PortError>> {
        std::boxed::Box::pin(async move {
            self.0.at("adopt").await?;
            let found = self.0.boxes.lock().unwrap().get(run_dir).cloned();
            let Some(made) = found else { return Ok(Found::Lost) };
            let exit = made.exit.borrow().clone();
            Ok(match exit {
                Some(exit) => Found::Ended(exit),
                None => Found::Alive(Arc::new(Handle { world: Arc::clone(&self.0), made })),
            })
        })
    }
}

struct Handle {
    world: Arc<World>,
    made: Arc<Box>,
}

impl Handle {
    fn act<'a>(
        &'a self,
        point: &'static str,
        act: impl FnOnce(&Box) + Send + 'a,
    ) -> Pending<'a, Result<(), PortError>> {
        std::boxed::Box::pin(async move {
            self.world.at(point).await?;
            self.world.note(point.to_owned());
            act(&self.made);
            Ok(())
        })
    }
}

impl Handle {
    fn found(&self) -> Attestation {
        let gone = self.world.gone.lock().unwrap().clone();
        Attestation {
            facts: serde_json::json!({ "gone": gone.is_some() }),
            proof: Digest::from_bytes([u8::from(gone.is_some()); 32]),
            checks: std::iter::once(Check::held("loopback only")).chain(gone).collect(),
            processes: 2,
            took_us: 300,
            violations: Vec::new(),
        }
    }
}

impl Sandbox for Handle {
    fn listeners(&self) -> Pending<'_, Result<Listeners, PortError>> {
        std::boxed::Box::pin(async move {
            self.world.at("listeners").await?;
            let bind = || TcpListener::bind("127.0.0.1:0").unwrap().into();
            Ok(Listeners { model: bind(), mcp: bind(), proxy: bind() })
        })
    }
    fn enforcement(&self) -> serde_json::Value {
        serde_json::json!({ "profile": "standard", "ratio": 0.5 })
    }
    fn give_input(&self, _file: Vec<u8>, stdin: Vec<u8>) -> Pending<'_, Result<(), PortError>> {
        std::boxed::Box::pin(async move {
            let mut input = self.made.input.lock().unwrap();
            if input.is_some() || self.made.exit.borrow().is_some() {
                return Err(PortError("no input is wanted".into()));
            }
            *input = Some(stdin);
            Ok(())
        })
    }
    fn proof(&self) -> Option<Attestation> {
        Some(self.found())
    }
    fn attest(&self) -> Pending<'_, Result<Attestation, AttestError>> {
        std::boxed::Box::pin(async move {
            *self.world.looks.lock().unwrap() += 1;
            self.world.at("attest").await?;
            Ok(self.found())
        })
    }
    fn start(&self) -> Pending<'_, Result<(), PortError>> {
        self.act("start", |b| {
            assert!(b.input.lock().unwrap().is_some(), "an agent begins without its input");
            *b.started.lock().unwrap() = true;
        })
    }
    fn suspend(&self) -> Pending<'_, Result<(), PortError>> {
        self.act("suspend", |b| *b.frozen.lock().unwrap() = true)
    }
    fn resume(&self) -> Pending<'_, Result<(), PortError>> {
        self.act("resume", |b| *b.frozen.lock().unwrap() = false)
    }
    fn terminate(&self) -> Pending<'_, Result<(), PortError>> {
        self.act("terminate", |b| {
            if !b.ignores_term {
                b.end(Exit { signal: Some(15), ..Exit::default() });
            }
        })
    }
    fn kill(&self) -> Pending<'_, Result<KillReport, PortError>> {
        std::boxed::Box::pin(async move {
            self.act("kill", |b| b.end(Exit { signal: Some(9), ..Exit::default() })).await?;
            Ok(KillReport { processes: 3, micros: 10, empty: true })
        })
    }
    fn wait(&self) -> Pending<'_, Exit> {
        let mut exit = self.made.exit.subscribe();
        std::boxed::Box::pin(async move {
            let ended = exit.wait_for(Option::is_some).await;
            ended.ok().and_then(|e| e.clone()).unwrap_or_default()
        })
    }
    fn violations(&self) -> Option<mpsc::Receiver<Violation>> {
        self.world.violations.lock().unwrap().take()
    }
}

impl Box {
    pub(super) fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|now| {
            if now.is_some() {
                return false;
            }
            *now = Some(exit);
            true
        });
    }
    pub(super) fn run(&self) -> RunId {
        self.run
    }
}

async fn register(store: &Store) {
    let now = cogward_model::Clock::now(&SystemClock);
    let tenant = TenantName::default_tenant();
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&TenantRow { name: tenant.clone(), created: now, created_by: "test".into() }).await.unwrap();
    for (name, autonomy, seconds, reaction) in [
        ("clerk", "autonomous", 3_600, None),
        ("helper", "user-delegated", 3_600, None),
        ("hasty", "autonomous", 3, None),
        ("strict", "autonomous", 3_600, Some(Reaction::Kill)),
        ("careful", "autonomous", 3_600, Some(Reaction::Suspend)),
        ("filer", "autonomous", 3_600, None),
        ("visited", "autonomous", 3_600, None),
        ("visited-briefly", "autonomous", 1, None),
        ("visited-staged", "autonomous", 3_600, None),
    ] {
        let mut manifest: Manifest = serde_json::from_value(serde_json::json!({
            "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
            "metadata": { "name": name, "tenant": "default", "version": "1.0.0", "owner": "team", "sponsor": "s", "costCentre": "c" },
            "spec": {
                "goal": "file papers", "autonomy": autonomy,
                "package": { "directory": ".", "entrypoint": ["python3", "main.py"] },
                "sandbox": { "graceSeconds": 1 },
                "budgets": { "run": { "tokens": 1, "costUsd": "1.00", "toolCalls": 1, "wallClockSeconds": seconds } }
            }
        }))
        .unwrap();
        manifest.spec.sandbox.on_violation = reaction;
        if name.starts_with("visited") {
            let (issuer, clients) = ("corp".parse().unwrap(), vec!["ide".to_owned(), "robot".to_owned()]);
            manifest.spec.access.outside = vec![manifest::OutsideGrant { issuer, clients, subjects: None }];
        }
        if name == "visited-staged" {
            manifest.spec.tier = manifest::Tier::Staging;
        }
        if name == "filer" {
            manifest.spec.sandbox.inputs =
                vec![manifest::Input { name: "claims".parse().unwrap(), max_mib: 1, required: true }];
        }
        let agent: AgentName = name.parse().unwrap();
        tx.agent_put(&AgentRow {
            tenant: tenant.clone(),
            name: agent.clone(),
            owner: "team".into(),
            sponsor: "s".into(),
            cost_centre: "c".into(),
            created: now,
            created_by: "test".into(),
        })
        .await
        .unwrap();
        let digest = Digest::from_bytes([1; 32]);
        tx.version_insert(&VersionRow {
            tenant: tenant.clone(),
            agent,
            label: "1.0.0".parse().unwrap(),
            manifest_json: serde_json::to_string(&manifest).unwrap(),
            manifest_digest: digest,
            package_digest: digest,
            version_digest: digest,
            tier: "development".into(),
            created: now,
            created_by: "test".into(),
        })
        .await
        .unwrap();
    }
    let _ = tx.commit(Vec::new()).await.unwrap();
}

pub(super) fn start_of(agent: &str) -> StartRun {
    StartRun {
        outside: None,
        tenant: TenantName::default_tenant(),
        agent: agent.parse().unwrap(),
        version: None,
        input: b"{}".to_vec(),
        inputs: Vec::new(),
        as_user: None,
        actor: "operator".into(),
        operator: Some(operator_id()),
        reason: None,
        claim: None,
    }
}

/// The operator of all commands.
pub(super) fn operator_id() -> cogward_model::id::OperatorId {
    cogward_model::id::OperatorId::from_bytes([7; 16])
}

pub(super) fn order() -> crate::Order {
    crate::Order { actor: "operator".into(), operator: Some(operator_id()), reason: Some("test".into()), claim: None }
}

/// The row of a run when it satisfies `until`; the store is looked at as often as it takes.
pub(super) async fn row_when(engine: &Engine, run: RunId, until: impl Fn(&RunRow) -> bool) -> RunRow {
    let look = async {
        loop {
            let row = engine.with.store.run(run).await.unwrap().unwrap();
            if until(&row) {
                return row;
            }
            // Looked at again and again; nothing depends on how often.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    match tokio::time::timeout(std::time::Duration::from_secs(60), look).await {
        Ok(row) => row,
        Err(_) => panic!("the run does not get there: {:?}", engine.with.store.run(run).await),
    }
}

pub(super) async fn running(engine: &Engine, world: &World, agent: &str) -> RunId {
    let run = engine.start_run(start_of(agent)).await.unwrap().run;
    row_when(engine, run, |r| {
        r.state == RunState::Running && world.sandbox(run).is_some_and(|b| *b.started.lock().unwrap())
    })
    .await;
    run
}

pub(super) async fn closed(engine: &Engine, run: RunId) -> RunRow {
    row_when(engine, run, |r| r.uid_slot.is_none() && engine.live(run).is_none()).await
}

pub(super) async fn operations(engine: &Engine, run: RunId) -> Vec<cogward_store::OperationRow> {
    engine.with.store.operations(run, &PageRequest::default()).await.unwrap().items
}
