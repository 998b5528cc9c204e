//! What the engine needs from others: sandboxes, gateways, the ledger. Small traits, so that every
//! step of a run's life can be tested with fakes, and so that drivers can be added.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use cogward_model::{
    AgentName, Digest, Listener, RunId, TenantName, VersionLabel,
    action::Amounts,
    attestation::Check,
    content::{Artifact, GivenInput, NotKept},
    event::Event,
    id::EventId,
    manifest::{self, Manifest, Medium, Profile, Resources},
    outside::OutsideClient,
};
use cogward_store::{Committed, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use cogward_model::violation::Violation;

/// A boxed future, so that the traits can be used behind a pointer.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a gateway checks on every call of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Calls pass.
    Open,
    /// Calls wait.
    Held,
    /// Calls are refused.
    Closed,
}

/// What a run may do, for the gateways.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The run.
    pub run: RunId,
    /// Its version's manifest.
    pub manifest: Arc<Manifest>,
    /// Its version's digest.
    pub version_digest: Digest,
    /// The digest of its package.
    pub package: Digest,
    /// The user for whom it acts.
    pub subject: Option<String>,
}

/// The listeners that only the run's own sandbox can connect to.
#[derive(Debug)]
pub struct Listeners {
    /// Model base URLs.
    pub model: Listener,
    /// MCP.
    pub mcp: Listener,
    /// HTTP proxy.
    pub proxy: Listener,
}

/// A port could not do what was asked; the text has the cause and no payload.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

impl PortError {
    /// With the error's causes in one line.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        Self(text)
    }
}

/// The gateways of the plane.
pub trait Gateways: Send + Sync {
    /// The certificate of the authority that the run's programs must trust, as PEM; `None` when they need none.
    ///
    /// # Errors
    /// [`PortError`] when there must be one and cannot be.
    fn authority(&self, grant: &Grant) -> Result<Option<String>, PortError> {
        let _ = grant;
        Ok(None)
    }
    /// Serves a run on its listeners; its fence starts closed.
    ///
    /// # Errors
    /// [`PortError`]; nothing is served then.
    fn open_run(&self, grant: Grant, listeners: Listeners) -> Result<(), PortError>;
    /// Sets a run's fence; the next call sees it. Unknown runs have nothing that could pass.
    fn fence(&self, run: RunId, fence: Fence);
    /// Closes a run's fence and breaks off what it has in flight; says how many calls that were.
    fn cut(&self, run: RunId) -> usize;
    /// Cuts a run and forgets it, when the outcomes of its calls are recorded; says what it used up.
    fn close_run(&self, run: RunId) -> Pending<'_, RunUsed>;
}

/// What a run used up through its gateways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunUsed {
    /// Against its budgets.
    pub amounts: Amounts,
    /// Model calls that were carried out.
    pub model_calls: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Calls and connections that were refused.
    pub refusals: u64,
    /// Telemetry exports, and the spans, metrics and log records in them, if its manifest accepts any.
    pub telemetry: Option<(u64, u64)>,
}

/// Where an event is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose ledger.
    pub tenant: TenantName,
    /// Its number in it.
    pub seq: u64,
    /// The event.
    pub id: EventId,
}

/// Everything a sandbox driver must know to start a run.
#[derive(Debug, Clone)]
pub struct LaunchRequest {
    /// The run.
    pub run: RunId,
    /// Its directory on the host.
    pub run_dir: PathBuf,
    /// The isolation that must be enforced in full.
    pub profile: Profile,
    /// What its processes may use.
    pub resources: Resources,
    /// The image that is its root; the host's `/usr` when there is none.
    pub root_image: Option<PathBuf>,
    /// The digest of the package that the directories belong to.
    pub package: Digest,
    /// Read-only directories: source on the host, place in the sandbox.
    pub mounts: Vec<(PathBuf, String)>,
    /// What the workspace is made of; `from` is a directory of the host.
    pub workspace: (Medium, Option<PathBuf>),
    /// What the run is given, each at its place on the host.
    pub inputs: Vec<(GivenInput, PathBuf)>,
    /// What is kept of it.
    pub outputs: Vec<manifest::Output>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// Files under `/run/cogward`, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// What the agent reads on stdin.
    pub stdin: Vec<u8>,
    /// The input comes later, by [`Sandbox::give_input`]; without it the agent is not let go.
    pub late_input: bool,
    /// The host identity of its processes.
    pub uid_slot: u32,
    /// Between being asked to end and being killed.
    pub grace: Duration,
    /// How long it may run altogether.
    pub wall_clock: Duration,
}

/// A run of a client outside.
#[derive(Debug, Clone, Copy)]
pub struct AttachRequest<'a> {
    /// The run.
    pub run: RunId,
    /// Its tenant.
    pub tenant: &'a TenantName,
    /// Its agent.
    pub agent: &'a AgentName,
    /// The version that it acts as.
    pub version: &'a VersionLabel,
    /// Its directory on the host.
    pub run_dir: &'a Path,
    /// Who acts in it.
    pub client: &'a OutsideClient,
}

/// How an agent ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What the sandbox says ended it, when it was neither the agent itself nor a command: `memory: ...`.
    pub cause: Option<String>,
    /// It was asked to end, did not, and was killed when its grace period was over.
    pub grace_expired: bool,
    /// What its processes used up.
    pub usage: Usage,
    /// Its output, bounded.
    pub output: Option<Vec<u8>>,
    /// Why its output file was not taken, where there was one.
    pub output_refused: Option<NotKept>,
    /// What became of its declared outputs.
    pub artifacts: Vec<Artifact>,
    /// How often what was refused in all; empty when the sandbox did not live to say.
    pub violations: Vec<Violation>,
}

/// What a run's processes used up on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, in microseconds.
    pub cpu_micros: u64,
    /// The most memory at a time, in bytes.
    pub memory_peak_bytes: u64,
    /// Bytes read from disks, where the host counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written to disks, where the host counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    /// Bytes written to standard output and standard error, kept or not.
    pub log_bytes: u64,
    /// Bytes of them that were not kept.
    pub log_bytes_dropped: u64,
}

/// What a kill did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillReport {
    /// Processes that were there.
    pub processes: u64,
    /// From the order to the last of them gone.
    pub micros: u64,
    /// Whether none is left.
    pub empty: bool,
}

/// What was found in force around a sandbox, by a look from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// What was read.
    pub facts: serde_json::Value,
    /// Its digest.
    pub proof: Digest,
    /// Each control, and whether it is in force.
    pub checks: Vec<Check>,
    /// Processes that were looked at.
    pub processes: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How often what was refused so far.
    pub violations: Vec<Violation>,
}

/// Why a sandbox was not examined.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttestError {
    /// Its supervisor is of a build that cannot; it was started by a plane before this one.
    #[error("its supervisor cannot be asked for a proof")]
    Unsupported,
    /// It could not, now.
    #[error(transparent)]
    Failed(#[from] PortError),
}

/// A mechanism that the host does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The mechanism.
    pub what: String,
    /// Why it is not there.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.what, self.why, self.fix)
    }
}

/// A supervisor that may be there for a run.
pub enum Found {
    /// It is there, and so is its sandbox.
    Alive(Arc<dyn Sandbox>),
    /// The agent has ended; the supervisor left this.
    Ended(Exit),
    /// There is nothing, and nothing was left.
    Lost,
}

/// Makes and finds sandboxes.
pub trait Sandboxes: Send + Sync {
    /// What the host lacks to enforce a profile in full; empty when it can.
    fn missing(&self, profile: Profile) -> Vec<Missing>;
    /// What the host lacks for limits that a manifest asks for beyond its profile's; empty when it can.
    fn missing_limits(&self, _sandbox: &manifest::Sandbox) -> Vec<Missing> {
        Vec::new()
    }
    /// Makes a sandbox, complete, with the agent held before its first instruction.
    fn launch(&self, request: LaunchRequest) -> Pending<'_, Result<Arc<dyn Sandbox>, PortError>>;
    /// Makes what stands in the place of a sandbox for a run of a client outside: listeners without a process. The
    /// same again for a run that an earlier plane opened.
    fn attach<'a>(&'a self, request: AttachRequest<'a>) -> Pending<'a, Result<Arc<dyn Sandbox>, PortError>> {
        let _ = request;
        Box::pin(async { Err(PortError("nobody is let in from outside here".to_owned())) })
    }
    /// Finds the sandbox of a run that an earlier plane started.
    fn adopt<'a>(&'a self, run_dir: &'a Path) -> Pending<'a, Result<Found, PortError>>;
}

/// One sandbox. Every verb may be repeated: the second time there is nothing left to do.
pub trait Sandbox: Send + Sync {
    /// Its listeners; each call gives them anew.
    fn listeners(&self) -> Pending<'_, Result<Listeners, PortError>>;
    /// What is enforced, for the evidence.
    fn enforcement(&self) -> serde_json::Value;
    /// Gives the input to a sandbox that was made with `late_input`: the file `input.json`, and standard input. Once.
    fn give_input(&self, file: Vec<u8>, stdin: Vec<u8>) -> Pending<'_, Result<(), PortError>>;
    /// What was found in force when it was made; `None` from a supervisor that does not say.
    fn proof(&self) -> Option<Attestation>;
    /// Looks again, from outside, at what is in force.
    fn attest(&self) -> Pending<'_, Result<Attestation, AttestError>>;
    /// Lets the agent execute its first instruction.
    fn start(&self) -> Pending<'_, Result<(), PortError>>;
    /// Freezes every process.
    fn suspend(&self) -> Pending<'_, Result<(), PortError>>;
    /// Thaws every process.
    fn resume(&self) -> Pending<'_, Result<(), PortError>>;
    /// Asks the agent to end.
    fn terminate(&self) -> Pending<'_, Result<(), PortError>>;
    /// Kills every process.
    fn kill(&self) -> Pending<'_, Result<KillReport, PortError>>;
    /// Resolves when the agent has ended and no process is left.
    fn wait(&self) -> Pending<'_, Exit>;
    /// What the sandbox stops, as it happens; `None` when it was taken before.
    fn violations(&self) -> Option<mpsc::Receiver<Violation>>;
}

/// Whether evidence can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerHealth {
    /// It can.
    Ok,
    /// The disk is nearly full: what is left belongs to the evidence of stopping.
    LowSpace,
    /// Nothing of it was signed for a while: agents wait until it is.
    Unsigned(String),
    /// It cannot.
    Failed(String),
}

/// The evidence of the plane.
pub trait Ledger: Send + Sync {
    /// Resolves when the events of a committed change are durable.
    fn publish<'a>(&'a self, store: &'a Store, committed: Committed) -> Pending<'a, Result<Vec<Place>, PortError>>;
    /// Resolves when an event that belongs to no change of state is durable.
    fn record(&self, event: Event) -> Pending<'_, Result<(), PortError>>;
    /// Takes an event in order; a later durable one implies it.
    ///
    /// # Errors
    /// [`PortError`] when nothing is taken any more.
    fn note(&self, event: Event) -> Result<(), PortError>;
    /// Whether evidence can be written.
    fn health(&self) -> watch::Receiver<LedgerHealth>;
}
