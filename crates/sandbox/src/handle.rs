//! The plane's side of a supervised run: start one, find one again, command it, hear its end.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    cgroup::{self, Hosts},
    native::control,
    protocol::{self, Answer, Command, Frame, Hello, LaunchFailure, Phase, Request},
    spec::{Enforcement, Exit, ExitCause, KillReport, LaunchSpec, SpecError, Usage, Violation},
    supervisor::{EXIT_FILE, OUTPUT_FILE, SPEC_FILE},
};

/// Time for a supervisor to make a sandbox, or to say why not.
const LAUNCH_MAX: Duration = Duration::from_secs(30);
/// Time for a supervisor that lives to answer a new connection.
const ADOPT_MAX: Duration = Duration::from_secs(10);
/// Time for an answer to a command; the slowest is a kill that has to be given up.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Violations that may wait for the plane to read them; further ones are dropped with a warning in the log.
const VIOLATIONS_MAX: usize = 1024;

/// Why a run could not be launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The launch asks for something out of bounds.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something of the sandbox could not be put in place. Nothing weaker was tried.
    #[error("the sandbox could not be made: {0}")]
    Refused(#[from] LaunchFailure),
    /// The supervisor could not be started or did not answer.
    #[error("the supervisor {what}")]
    Supervisor {
        /// What went wrong.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Why it could not be found out what became of a run.
#[derive(Debug, thiserror::Error)]
#[error("the run directory {} cannot be read: {what}", .run_dir.display())]
pub struct AdoptError {
    run_dir: PathBuf,
    what: String,
}

/// What became of a run while no plane watched.
#[derive(Debug)]
pub enum Adopted {
    /// It is there.
    Alive(Supervised),
    /// It has ended, and this is how.
    Ended(Exit),
    /// Its supervisor is gone without a record. Whatever it had left is killed.
    Lost,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The run has ended, or its supervisor is gone.
    #[error("the run's supervisor is gone")]
    Gone,
    /// The supervisor refused.
    #[error("{0}")]
    Refused(String),
    /// The supervisor did not answer in time.
    #[error("the run's supervisor did not answer in time")]
    Late,
}

/// The listeners that the agent can connect to, on the plane's side.
#[derive(Debug)]
pub struct Listeners {
    /// Model calls.
    pub model: TcpListener,
    /// MCP.
    pub mcp: TcpListener,
    /// HTTP proxy.
    pub proxy: TcpListener,
}

/// A run with a live supervisor. Clones are the same run; dropping all of them does not end it.
#[derive(Debug, Clone)]
pub struct Supervised {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    run_dir: PathBuf,
    supervisor: u32,
    phase: Phase,
    enforcement: Enforcement,
    next: AtomicU64,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    once: Mutex<Once>,
    ended: watch::Receiver<Option<Exit>>,
    reader: tokio::task::AbortHandle,
}

/// What can be taken once.
#[derive(Debug)]
struct Once {
    listeners: Option<Listeners>,
    violations: Option<mpsc::Receiver<Violation>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Makes the sandbox of a run. The agent is complete and held: [`Supervised::start`] lets it execute.
///
/// `exe` is this program; it is started as `exe supervise <run_dir>` with an empty environment. The run directory
/// must exist.
///
/// # Errors
/// [`LaunchError`]; nothing of the run is left then but its directory.
pub async fn launch(exe: &Path, spec: &LaunchSpec) -> Result<Supervised, LaunchError> {
    spec.validate()?;
    let failed = |what| move |source| LaunchError::Supervisor { what, source };
    write_spec(spec).map_err(failed("could not be given its launch"))?;
    let (ours, theirs) = StdStream::pair().map_err(failed("could not be connected"))?;
    let log = File::options().create(true).append(true).mode(0o600).open(spec.run_dir.join("supervisor.log"));
    let log = log.map_err(failed("could not be given its log"))?;
    let child = tokio::process::Command::new(exe)
        .arg("supervise")
        .arg(&spec.run_dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(failed("could not be started"))?;
    // It outlives this plane; while the plane lives, the runtime reaps it.
    drop(child);
    let (stream, hello, listeners) = match timeout(LAUNCH_MAX, connect(ours)).await {
        Ok(done) => done.map_err(failed("did not answer"))?,
        Err(_) => return Err(failed("did not answer")(io::Error::from(io::ErrorKind::TimedOut))),
    };
    Ok(supervise(&spec.run_dir, stream, hello, listeners)??)
}

/// Finds out what became of a run, and takes it over again when it lives.
///
/// # Errors
/// [`AdoptError`] when the run directory cannot be read.
pub async fn adopt(run_dir: &Path) -> Result<Adopted, AdoptError> {
    let refuse = |what: &dyn std::fmt::Display| AdoptError { run_dir: run_dir.to_owned(), what: what.to_string() };
    let deadline = tokio::time::Instant::now() + ADOPT_MAX;
    loop {
        // Asked before the exit is looked for: a supervisor writes the exit and only then lets go of the lock.
        let alive = supervisor_lives(run_dir).map_err(|e| refuse(&e))?;
        if let Some(exit) = read_exit(run_dir).map_err(|e| refuse(&e))? {
            return Ok(Adopted::Ended(exit));
        }
        if !alive {
            sweep(run_dir).await;
            return Ok(Adopted::Lost);
        }
        if let Ok(stream) = connect_by_name(run_dir)
            && let Ok(Ok((stream, hello, listeners))) = timeout(ADOPT_MAX, connect(stream)).await
        {
            match supervise(run_dir, stream, hello, listeners) {
                Ok(Ok(supervised)) => return Ok(Adopted::Alive(supervised)),
                Ok(Err(_)) => {} // A launch that failed: its exit is there now.
                Err(error) => return Err(refuse(&error)),
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(refuse(&"its supervisor lives but does not answer"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn write_spec(spec: &LaunchSpec) -> io::Result<()> {
    let bytes = serde_json::to_vec(spec)?;
    let path = spec.run_dir.join(SPEC_FILE);
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)?.write_all(&bytes)
}

/// Whether a supervisor holds the lock of the run directory.
fn supervisor_lives(run_dir: &Path) -> io::Result<bool> {
    let spec = match File::open(run_dir.join(SPEC_FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match rustix::fs::flock(&spec, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn connect_by_name(run_dir: &Path) -> io::Result<StdStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(run_dir, flags, Mode::empty())?;
    let stream = StdStream::connect(protocol::socket_path(dir.as_fd()))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    if peer.uid == rustix::process::geteuid() {
        Ok(stream)
    } else {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }
}

/// The end of a run, if it is recorded.
pub(crate) fn read_exit(run_dir: &Path) -> io::Result<Option<Exit>> {
    let bytes = match fs::read(run_dir.join(EXIT_FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut exit: Exit = serde_json::from_slice(&bytes)?;
    exit.output = fs::read(run_dir.join(OUTPUT_FILE)).ok();
    Ok(Some(exit))
}

/// Kills and removes what a supervisor that is gone has left.
async fn sweep(run_dir: &Path) {
    let path = run_dir.join(SPEC_FILE);
    let swept = tokio::task::spawn_blocking(move || {
        let spec: LaunchSpec = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(cgroup::sweep(&Hosts::read().ok()?, &cgroup::name_of(spec.run)))
    });
    if let Ok(Some(killed @ 1..)) = swept.await {
        tracing::warn!(run_dir = %run_dir.display(), killed, "processes of a lost run were killed");
    }
}

/// Reads the first frame and the listeners beside it.
async fn connect(stream: StdStream) -> io::Result<(UnixStream, Hello, Option<Listeners>)> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (mut buffer, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        if let Some(frame) = protocol::decode::<Frame>(&mut buffer).map_err(io::Error::other)? {
            let Frame::Hello(hello) = frame else { return Err(io::Error::from(io::ErrorKind::InvalidData)) };
            let mut fds = descriptors.into_iter().map(TcpListener::from);
            let listeners = match (fds.next(), fds.next(), fds.next()) {
                (Some(model), Some(mcp), Some(proxy)) => Some(Listeners { model, mcp, proxy }),
                _ => None,
            };
            return Ok((stream, *hello, listeners));
        }
        // Exactly one frame is read here: the length first, then so much and no more. What follows is for the reader.
        let mut chunk = [0_u8; 4096];
        let wanted = match buffer.first_chunk::<4>() {
            None => 4 - buffer.len(),
            Some(prefix) => {
                4 + usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX).min(1 << 20) - buffer.len()
            }
        };
        let into = chunk.get_mut(..wanted.min(4096)).unwrap_or_default();
        let receive = || control::receive_with(stream.as_fd(), into, rustix::net::RecvFlags::empty());
        let (length, mut fds) = stream.async_io(Interest::READABLE, receive).await?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        descriptors.append(&mut fds);
        buffer.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
}

fn supervise(
    run_dir: &Path,
    stream: UnixStream,
    hello: Hello,
    listeners: Option<Listeners>,
) -> Result<Result<Supervised, LaunchFailure>, LaunchError> {
    let phase = match hello.outcome {
        Ok(phase) => phase,
        Err(failure) => return Ok(Err(failure)),
    };
    let (Some(enforcement), Some(listeners)) = (hello.enforcement, listeners) else {
        let source = io::Error::from(io::ErrorKind::InvalidData);
        return Err(LaunchError::Supervisor { what: "did not hand over the listeners", source });
    };
    let (reading, writing) = stream.into_split();
    let (violation, violations) = mpsc::channel(VIOLATIONS_MAX);
    let (end, ended) = watch::channel(None);
    let run_dir = run_dir.to_owned();
    let shared = Arc::new_cyclic(|weak: &std::sync::Weak<Shared>| {
        let reader = Reader { shared: weak.clone(), run_dir: run_dir.clone(), violation, end };
        Shared {
            run_dir,
            supervisor: hello.supervisor,
            phase,
            enforcement,
            next: AtomicU64::new(1),
            writer: tokio::sync::Mutex::new(writing),
            waiting: Mutex::default(),
            once: Mutex::new(Once { listeners: Some(listeners), violations: Some(violations) }),
            ended,
            reader: tokio::spawn(reader.read(reading)).abort_handle(),
        }
    });
    Ok(Ok(Supervised { shared }))
}

/// The task that reads what a supervisor sends.
struct Reader {
    shared: std::sync::Weak<Shared>,
    run_dir: PathBuf,
    violation: mpsc::Sender<Violation>,
    end: watch::Sender<Option<Exit>>,
}

impl Reader {
    async fn read(self, mut stream: OwnedReadHalf) {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 4096];
        let mut exit = None;
        'connection: loop {
            loop {
                match protocol::decode::<Frame>(&mut buffer) {
                    Ok(Some(Frame::Exit(end))) => {
                        exit = Some(*end);
                        break 'connection;
                    }
                    Ok(Some(frame)) => self.take(frame),
                    Ok(None) => break,
                    Err(_) => break 'connection,
                }
            }
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        }
        let exit = match exit {
            Some(mut exit) => {
                exit.output = fs::read(self.run_dir.join(OUTPUT_FILE)).ok();
                exit
            }
            None => self.lost().await,
        };
        let _ = self.end.send(Some(exit));
        // Whoever still waits for an answer will not get one.
        if let Some(shared) = self.shared.upgrade() {
            lock(&shared.waiting).clear();
        }
    }

    fn take(&self, frame: Frame) {
        match frame {
            Frame::Answer(id, answer) => {
                let waiting = self.shared.upgrade().and_then(|shared| lock(&shared.waiting).remove(&id));
                if let Some(sender) = waiting {
                    let _ = sender.send(answer);
                }
            }
            Frame::Violation(violation) => {
                if let Err(mpsc::error::TrySendError::Full(v)) = self.violation.try_send(violation) {
                    tracing::warn!(
                        layer = v.layer,
                        object = v.object,
                        count = v.count,
                        "a violation report was dropped"
                    );
                }
            }
            Frame::Hello(_) | Frame::Exit(_) => {}
        }
    }

    /// The connection ended without an exit: the supervisor is dead, or lives and dropped us.
    async fn lost(&self) -> Exit {
        for _ in 0..200 {
            if let Ok(Some(exit)) = read_exit(&self.run_dir) {
                return exit;
            }
            if !supervisor_lives(&self.run_dir).unwrap_or(false) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Ok(Some(exit)) = read_exit(&self.run_dir) {
            return exit;
        }
        sweep(&self.run_dir).await;
        Exit {
            code: None,
            signal: None,
            cause: ExitCause::SupervisorLost,
            usage: Usage::default(),
            output: None,
            empty: true,
            detail: None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervised {
    /// The listeners; `None` when they were taken already.
    #[must_use]
    pub fn take_listeners(&self) -> Option<Listeners> {
        lock(&self.shared.once).listeners.take()
    }

    /// What the sandbox refused; `None` when it was taken already.
    #[must_use]
    pub fn violations(&self) -> Option<mpsc::Receiver<Violation>> {
        lock(&self.shared.once).violations.take()
    }

    /// What is in force.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.shared.enforcement
    }

    /// The phase the run was in when this plane connected.
    #[must_use]
    pub fn phase_at_connect(&self) -> Phase {
        self.shared.phase
    }

    /// Process id of the supervisor.
    #[must_use]
    pub fn supervisor(&self) -> u32 {
        self.shared.supervisor
    }

    /// The run's directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.shared.run_dir
    }

    async fn command(&self, command: Command) -> Result<Answer, CommandError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.waiting).insert(id, sender);
        if self.shared.ended.borrow().is_some() {
            lock(&self.shared.waiting).remove(&id);
            return Err(CommandError::Gone);
        }
        let bytes = protocol::encode(&Request { id, command }).map_err(|_| CommandError::Gone)?;
        let exchange = async {
            self.shared.writer.lock().await.write_all(&bytes).await.map_err(|_| CommandError::Gone)?;
            receiver.await.map_err(|_| CommandError::Gone)
        };
        let answer = timeout(ANSWER_MAX, exchange).await.unwrap_or(Err(CommandError::Late));
        lock(&self.shared.waiting).remove(&id);
        match answer? {
            Answer::Refused(why) => Err(CommandError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// Lets the agent execute.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn start(&self) -> Result<(), CommandError> {
        self.command(Command::Start).await.map(drop)
    }

    /// Freezes the agent; answers once it is, with the microseconds that took.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn suspend(&self) -> Result<u64, CommandError> {
        match self.command(Command::Suspend).await? {
            Answer::Frozen(micros) => Ok(micros),
            _ => Err(CommandError::Gone),
        }
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn resume(&self) -> Result<(), CommandError> {
        self.command(Command::Resume).await.map(drop)
    }

    /// Asks every process of the agent to end; the supervisor kills them after the grace period.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn terminate(&self) -> Result<(), CommandError> {
        self.command(Command::Terminate).await.map(drop)
    }

    /// Kills everything; answers once the cgroup was seen empty, or was not.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn kill(&self) -> Result<KillReport, CommandError> {
        match self.command(Command::Kill).await? {
            Answer::Killed(report) => Ok(report),
            _ => Err(CommandError::Gone),
        }
    }

    /// What the run uses so far.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn usage(&self) -> Result<Usage, CommandError> {
        match self.command(Command::Usage).await? {
            Answer::Usage(usage) => Ok(usage),
            _ => Err(CommandError::Gone),
        }
    }

    /// The end of the run, once it has come. May be called any number of times.
    pub async fn wait(&self) -> Exit {
        let mut ended = self.shared.ended.clone();
        let exit = ended.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        exit.unwrap_or(Exit {
            code: None,
            signal: None,
            cause: ExitCause::SupervisorLost,
            usage: Usage::default(),
            output: None,
            empty: false,
            detail: None,
        })
    }
}
