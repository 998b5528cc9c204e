//! The plane's side of a supervised run: command it, hear what it refuses, hear its end.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cogward_model::Listener;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    attest::Attestation,
    connect::{LaunchError, read_exit, supervisor_lives, sweep},
    protocol::{self, Answer, Command, Frame, Hello, LaunchFailure, Phase, Request},
    reports::{Reporter, Reports},
    spec::{Enforcement, Exit, ExitCause, KillReport, LateInput, Usage},
    supervisor::{LATE_INPUT_FILE, OUTPUT_FILE},
};

/// Time for an answer to a command; the slowest is a kill that has to be given up.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Time for the answer to a kill before the supervisor itself is killed.
const KILL_ANSWER_MAX: Duration = Duration::from_secs(5);

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
    pub model: Listener,
    /// MCP.
    pub mcp: Listener,
    /// HTTP proxy.
    pub proxy: Listener,
}

/// The plane's ends of the standard streams of a program of the operator's.
#[derive(Debug)]
pub struct Streams {
    /// What is written here it reads; closed, it is at its end.
    pub stdin: OwnedFd,
    /// What it writes.
    pub stdout: OwnedFd,
    /// What it complains of.
    pub stderr: OwnedFd,
}

/// What a supervisor hands over with its first frame.
#[derive(Debug)]
pub(crate) enum Handed {
    Listeners(Listeners),
    Streams(Streams),
    Nothing,
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
    /// The same process, whatever becomes of its number.
    pidfd: Option<OwnedFd>,
    phase: Phase,
    enforcement: Enforcement,
    proof: Option<Attestation>,
    protocol: u32,
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
    streams: Option<Streams>,
    violations: Option<Reports>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A handle on a connection that has said hello, or the launch that failed.
pub(crate) fn supervise(
    run_dir: &Path,
    stream: UnixStream,
    hello: Hello,
    handed: Handed,
) -> Result<Result<Supervised, LaunchFailure>, LaunchError> {
    let phase = match hello.outcome {
        Ok(phase) => phase,
        Err(failure) => return Ok(Err(failure)),
    };
    let (listeners, streams) = match handed {
        Handed::Listeners(listeners) => (Some(listeners), None),
        Handed::Streams(streams) => (None, Some(streams)),
        Handed::Nothing => (None, None),
    };
    let handed = listeners.is_some() || streams.is_some();
    let Some(enforcement) = hello.enforcement.filter(|_| handed) else {
        let source = io::Error::from(io::ErrorKind::InvalidData);
        return Err(LaunchError::Supervisor { what: "did not hand over its descriptors", source });
    };
    let (reading, writing) = stream.into_split();
    let (reporter, violations) = Reporter::new();
    let (end, ended) = watch::channel(None);
    let run_dir = run_dir.to_owned();
    let pid = i32::try_from(hello.supervisor).ok().and_then(Pid::from_raw);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let shared = Arc::new_cyclic(|weak: &std::sync::Weak<Shared>| {
        let reader = Reader { shared: weak.clone(), run_dir: run_dir.clone(), reporter, end };
        Shared {
            run_dir,
            supervisor: hello.supervisor,
            pidfd,
            phase,
            enforcement,
            proof: hello.proof,
            protocol: hello.protocol,
            next: AtomicU64::new(1),
            writer: tokio::sync::Mutex::new(writing),
            waiting: Mutex::default(),
            once: Mutex::new(Once { listeners, streams, violations: Some(violations) }),
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
    reporter: Reporter,
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
            Frame::Violation(violation) => self.reporter.report(violation),
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
            output_refused: None,
            artifacts: Vec::new(),
            violations: Vec::new(),
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

    /// The standard streams of a program of the operator's; `None` for a run, and when they were taken already.
    #[must_use]
    pub fn take_streams(&self) -> Option<Streams> {
        lock(&self.shared.once).streams.take()
    }

    /// Lets a program of the operator's execute, with a secret in a variable of its environment if it has one. The secret
    /// goes to it through memory alone: no file and no other process has it.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn start_with(&self, secret: Option<(String, String)>) -> Result<(), CommandError> {
        self.command(Command::StartWith(secret)).await.map(drop)
    }

    /// What the sandbox refused; `None` when it was taken already.
    #[must_use]
    pub fn violations(&self) -> Option<Reports> {
        lock(&self.shared.once).violations.take()
    }

    /// What is in force.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.shared.enforcement
    }

    /// What was found in force when the sandbox was complete; `None` from a supervisor that does not say.
    #[must_use]
    pub fn proof(&self) -> Option<&Attestation> {
        self.shared.proof.as_ref()
    }

    /// Looks again, from outside, at what is in force. `None` from a supervisor that cannot be asked.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn attest(&self) -> Result<Option<Attestation>, CommandError> {
        if self.shared.protocol < protocol::PROTOCOL_ATTESTS {
            return Ok(None);
        }
        match self.command(Command::Attest).await? {
            Answer::Attested(found) => Ok(Some(*found)),
            _ => Err(CommandError::Gone),
        }
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

    /// Gives the input to a run that was launched with [`crate::LaunchSpec::late_input`]; once.
    ///
    /// # Errors
    /// [`CommandError`]; the run is of no use then.
    pub async fn give_input(&self, input: &LateInput) -> Result<(), CommandError> {
        let refused = |why: &dyn std::fmt::Display| CommandError::Refused(why.to_string());
        input.validate().map_err(|e| refused(&e))?;
        let path = self.run_dir().join(LATE_INPUT_FILE);
        let bytes = serde_json::to_vec(input).map_err(|e| refused(&e))?;
        let written = async {
            let mut file = tokio::fs::File::options().create_new(true).write(true).mode(0o600).open(&path).await?;
            file.write_all(&bytes).await?;
            file.flush().await
        };
        written.await.map_err(|e: io::Error| refused(&e))?;
        self.command(Command::TakeInput).await.map(drop)
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
    /// A supervisor that does not answer is passed over, and killed as well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn kill(&self) -> Result<KillReport, CommandError> {
        match timeout(KILL_ANSWER_MAX, self.command(Command::Kill)).await {
            Ok(Ok(Answer::Killed(report))) => Ok(report),
            Ok(Ok(_)) => Err(CommandError::Gone),
            Ok(Err(error)) if error != CommandError::Late => Err(error),
            Ok(Err(_)) | Err(_) => Ok(self.kill_with_supervisor().await),
        }
    }

    /// The way that asks nobody: everything in the run's groups, then the supervisor, then the look that proves it.
    async fn kill_with_supervisor(&self) -> KillReport {
        tracing::warn!(run_dir = %self.run_dir().display(), "a supervisor does not answer to a kill and is killed");
        let begin = std::time::Instant::now();
        let processes = sweep(self.run_dir()).await;
        if let Some(supervisor) = &self.shared.pidfd {
            let _ = pidfd_send_signal(supervisor, Signal::KILL);
        }
        let empty = sweep(self.run_dir()).await == 0;
        KillReport { processes, micros: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX), empty }
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
            output_refused: None,
            artifacts: Vec::new(),
            violations: Vec::new(),
            empty: false,
            detail: None,
        })
    }
}
