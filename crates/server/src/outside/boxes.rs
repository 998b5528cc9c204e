//! What stands in the place of a sandbox in a run of a client outside: the listeners, and no process.
//!
//! The MCP listener is a Unix socket in the run's own directory, which nobody else can enter; the door connects to it
//! for a client that it has let in. The other two listeners are closed to everybody: they have no name.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cogward_engine::ports::{
    AttachRequest, AttestError, Attestation, Exit, KillReport, Listeners, Pending, PortError, Sandbox, Violation,
};
use cogward_model::{
    AgentName, Digest, RunId, TenantName, VersionLabel,
    attestation::Check,
    outside::{OutsideClient, PROFILE},
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::Instant,
};

/// The socket of the MCP endpoint, in the run's directory.
const SOCKET: &str = "door";
/// Tokens of one client that are known again.
const TOKENS_MAX: usize = 16;

type Key = (TenantName, AgentName, String);

/// The runs of clients outside that are open here.
#[derive(Debug)]
pub(crate) struct OutsideRuns {
    by_client: Mutex<HashMap<Key, Arc<OutsideBox>>>,
    idle: Duration,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct OutsideBox {
    pub(crate) run: RunId,
    pub(crate) tenant: TenantName,
    pub(crate) agent: AgentName,
    pub(crate) version: VersionLabel,
    pub(crate) client: OutsideClient,
    /// Held open: a path into it is as short as a socket's has to be.
    dir: File,
    exit: watch::Sender<Option<Exit>>,
    state: Mutex<State>,
    /// Whether its gateway takes requests, or holds them.
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    uses: usize,
    last: Instant,
    suspended: bool,
    tokens: Vec<[u8; 32]>,
}

impl OutsideRuns {
    pub(crate) fn new(idle: Duration) -> Self {
        Self { by_client: Mutex::default(), idle }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Arc<OutsideBox>>> {
        // Only map operations happen under this lock.
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run of a client that is open here.
    pub(crate) fn of(&self, tenant: &TenantName, agent: &AgentName, client: &OutsideClient) -> Option<Arc<OutsideBox>> {
        self.table().get(&(tenant.clone(), agent.clone(), client.key())).cloned()
    }

    /// Opens one.
    pub(crate) fn open(self: &Arc<Self>, request: AttachRequest<'_>) -> Result<Arc<OutsideBox>, PortError> {
        let dir = File::open(request.run_dir).map_err(|e| PortError::from_error(&e))?;
        let opened = Arc::new(OutsideBox {
            run: request.run,
            tenant: request.tenant.clone(),
            agent: request.agent.clone(),
            version: request.version.clone(),
            client: request.client.clone(),
            dir,
            exit: watch::Sender::new(None),
            state: Mutex::new(State { uses: 0, last: Instant::now(), suspended: false, tokens: Vec::new() }),
            ready: watch::Sender::new(false),
        });
        self.table().insert(opened.key(), Arc::clone(&opened));
        let (runs, watched) = (Arc::clone(self), Arc::clone(&opened));
        tokio::spawn(async move {
            watched.follow(runs.idle).await;
            let mut table = runs.table();
            if table.get(&watched.key()).is_some_and(|known| known.run == watched.run) {
                table.remove(&watched.key());
            }
        });
        Ok(opened)
    }
}

impl OutsideBox {
    fn key(&self) -> Key {
        (self.tenant.clone(), self.agent.clone(), self.client.key())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only assignments happen under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when it is over; ends it when nobody asked for anything for so long.
    async fn follow(&self, idle: Duration) {
        let mut over = self.exit.subscribe();
        loop {
            let due = {
                let state = self.state();
                let now = Instant::now();
                let busy = state.uses > 0 || state.suspended;
                let due = if busy { now + idle } else { state.last + idle };
                if due <= now {
                    drop(state);
                    self.leave();
                    return;
                }
                due
            };
            tokio::select! {
                _ = over.wait_for(Option::is_some) => return,
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(exit);
            first
        });
    }

    /// The client has left: it did what it came for, as far as anybody can know.
    pub(crate) fn leave(&self) {
        self.end(Exit { code: Some(0), ..Exit::default() });
    }

    /// Counts a request in; none when it is over.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InUse> {
        let mut state = self.state();
        if self.exit.borrow().is_some() {
            return None;
        }
        state.uses += 1;
        drop(state);
        Some(InUse(Arc::clone(self)))
    }

    /// Has a token recorded that was not seen here before, as far as is remembered.
    ///
    /// # Errors
    /// What `record` says; then the token is still a new one.
    pub(crate) fn once<E>(&self, token: [u8; 32], record: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut state = self.state();
        if state.tokens.contains(&token) {
            return Ok(());
        }
        record()?;
        if state.tokens.len() == TOKENS_MAX {
            state.tokens.remove(0);
        }
        state.tokens.push(token);
        Ok(())
    }

    /// Resolves when requests can be sent to it, or it is over. False when it is over.
    pub(crate) async fn usable(&self) -> bool {
        let (mut ready, mut over) = (self.ready.subscribe(), self.exit.subscribe());
        tokio::select! {
            biased;
            _ = over.wait_for(Option::is_some) => false,
            // The sender lives in `self`.
            _ = ready.wait_for(|ready| *ready) => true,
        }
    }

    /// A connection to the MCP endpoint of the run.
    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.at(SOCKET)).await
    }

    fn at(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd())
    }

    fn listen(&self) -> io::Result<Listeners> {
        let nameless = |name: &str| {
            let listener = self.bind(name)?;
            fs::remove_file(self.at(name))?;
            Ok::<_, io::Error>(listener)
        };
        let (model, proxy) = (nameless("no-model")?, nameless("no-proxy")?);
        let mcp = self.bind(SOCKET)?;
        Ok(Listeners { model: model.into(), mcp: mcp.into(), proxy: proxy.into() })
    }

    fn bind(&self, name: &str) -> io::Result<UnixListener> {
        let path = self.at(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    fn look(&self) -> io::Result<Attestation> {
        let begun = Instant::now();
        let found = fs::metadata(Path::new(&self.at(".")))?;
        let own = found.uid() == rustix::process::geteuid().as_raw();
        let private = "the endpoint is in a directory of the plane's user alone";
        let check = if own && found.mode() & 0o077 == 0 {
            Check::held(private)
        } else {
            Check::gone(private, format!("mode {:o}, owner {}", found.mode() & 0o7777, found.uid()))
        };
        let mut facts = self.described();
        facts.sort_all_objects();
        let mut digest = [0; 32];
        let text = facts.to_string();
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref());
        Ok(Attestation {
            facts,
            proof: Digest::from_bytes(digest),
            checks: vec![check],
            processes: 0,
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            violations: Vec::new(),
        })
    }

    /// What it is. It never says that it is a sandbox.
    fn described(&self) -> serde_json::Value {
        serde_json::json!({
            "profile": PROFILE,
            "sandboxed": false,
            "endpoint": "mcp",
            "issuer": self.client.issuer,
            "binding": self.client.binding,
        })
    }
}

/// One as the engine sees it.
pub(crate) struct AsSandbox(pub(crate) Arc<OutsideBox>);

impl std::ops::Deref for AsSandbox {
    type Target = OutsideBox;
    fn deref(&self) -> &OutsideBox {
        &self.0
    }
}

impl Sandbox for AsSandbox {
    fn listeners(&self) -> Pending<'_, Result<Listeners, PortError>> {
        Box::pin(async move { self.listen().map_err(|e| PortError::from_error(&e)) })
    }

    fn enforcement(&self) -> serde_json::Value {
        self.described()
    }

    fn give_input(&self, _file: Vec<u8>, _stdin: Vec<u8>) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async { Err(PortError("a client outside is given nothing".to_owned())) })
    }

    fn proof(&self) -> Option<Attestation> {
        self.look()
            .inspect_err(|error| tracing::error!(run = %self.run, %error, "an endpoint cannot be looked at"))
            .ok()
    }

    fn attest(&self) -> Pending<'_, Result<Attestation, AttestError>> {
        Box::pin(async move { self.look().map_err(|e| PortError::from_error(&e).into()) })
    }

    fn start(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            self.ready.send_replace(true);
            Ok(())
        })
    }

    /// The fence is the whole of it: there is no process to be frozen.
    fn suspend(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            self.state().suspended = true;
            // Requests are held by the fence, as those of every suspended run.
            self.ready.send_replace(true);
            Ok(())
        })
    }

    fn resume(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            let mut state = self.state();
            if state.suspended {
                state.suspended = false;
                state.last = Instant::now();
            }
            Ok(())
        })
    }

    fn terminate(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            self.leave();
            Ok(())
        })
    }

    fn kill(&self) -> Pending<'_, Result<KillReport, PortError>> {
        Box::pin(async move {
            let begun = Instant::now();
            self.end(Exit::default());
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            Ok(KillReport { processes: 0, micros, empty: true })
        })
    }

    fn wait(&self) -> Pending<'_, Exit> {
        let mut over = self.exit.subscribe();
        let own = Arc::clone(&self.0);
        Box::pin(async move {
            let ended = over.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
            drop(own);
            ended.unwrap_or_default()
        })
    }

    fn violations(&self) -> Option<mpsc::Receiver<Violation>> {
        None
    }
}

/// One request of a client, as long as anything of its answer is to come.
#[derive(Debug)]
pub(crate) struct InUse(pub(crate) Arc<OutsideBox>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.uses = state.uses.saturating_sub(1);
        state.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock, SystemEntropy, outside::Binding};

    use super::*;

    fn opened(idle: Duration) -> (tempfile::TempDir, Arc<OutsideRuns>, AsSandbox) {
        // A directory whose path is longer than that of any socket.
        let home = tempfile::TempDir::new().unwrap();
        let dir = home.path().join("d".repeat(120));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let client = OutsideClient {
            issuer: "corp".parse().unwrap(),
            client: "ide".to_owned(),
            subject: "alice".to_owned(),
            binding: Binding::Dpop,
        };
        let runs = Arc::new(OutsideRuns::new(idle));
        let (tenant, agent, version) = (TenantName::default_tenant(), "clerk".parse().unwrap(), "1".parse().unwrap());
        let run = Id::new(&SystemClock, &SystemEntropy);
        let request =
            AttachRequest { run, tenant: &tenant, agent: &agent, version: &version, run_dir: &dir, client: &client };
        let opened = AsSandbox(runs.open(request).unwrap());
        (home, runs, opened)
    }

    #[tokio::test]
    async fn only_its_own_directory_leads_to_the_endpoint() {
        let (home, _runs, opened) = opened(Duration::from_secs(600));
        assert!(opened.connect().await.is_err(), "nothing listens yet");
        let listeners = opened.listeners().await.unwrap();
        assert!(opened.connect().await.is_ok());
        let dir = home.path().join("d".repeat(120));
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [SOCKET], "the other listeners have no name");
        assert_eq!(fs::metadata(dir.join(SOCKET)).unwrap().mode() & 0o777, 0o600);
        assert!(opened.proof().unwrap().checks.iter().all(|check| check.holds));
        assert_eq!(opened.enforcement()["sandboxed"], false);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(opened.attest().await.unwrap().checks.iter().all(|check| !check.holds), "others could enter");
        drop(listeners);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nobody_asks_and_not_before() {
        let idle = Duration::from_secs(600);
        let (_home, runs, opened) = opened(idle);
        let found = || runs.of(&opened.tenant, &opened.agent, &opened.client);
        let busy = opened.0.enter().unwrap();
        tokio::time::sleep(idle * 3).await;
        assert!(found().is_some(), "a request is under way");
        drop(busy);
        opened.suspend().await.unwrap();
        tokio::time::sleep(idle * 3).await;
        assert!(found().is_some(), "who is suspended has not left");
        opened.resume().await.unwrap();
        tokio::time::sleep(idle - Duration::from_secs(1)).await;
        assert!(opened.0.enter().is_some());
        tokio::time::sleep(idle * 2).await;
        assert_eq!(opened.wait().await.code, Some(0));
        assert!(opened.0.enter().is_none() && found().is_none());
    }

    #[tokio::test]
    async fn the_first_end_stays() {
        let (_home, _runs, opened) = opened(Duration::from_secs(600));
        let using = opened.0.enter().unwrap();
        assert!(opened.kill().await.unwrap().empty);
        opened.terminate().await.unwrap();
        assert_eq!(opened.wait().await.code, None);
        assert!(!opened.usable().await && opened.0.enter().is_none());
        drop(using);
    }
}
