//! How a plane comes to a supervised run: by starting its supervisor, or by finding it again.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cogward_model::{Listener, RunId};
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::{io::Interest, net::UnixStream, time::timeout};

use crate::{
    cgroup,
    handle::{Handed, Listeners, Streams, Supervised, supervise},
    native::control,
    protocol::{self, Frame, Hello, LaunchFailure},
    spec::{Exit, LaunchSpec, SpecError},
    supervisor::{EXIT_FILE, GROUPS_FILE, OUTPUT_FILE, SPEC_FILE},
};

/// Time for a supervisor to make a sandbox, or to say why not.
const LAUNCH_MAX: Duration = Duration::from_secs(30);
/// Bytes of an image that a supervisor reads in a second, at least, before it mounts it.
const IMAGE_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;
/// Time for a supervisor that lives to answer a new connection.
const ADOPT_MAX: Duration = Duration::from_secs(10);

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
    let (stream, hello, handed) = match timeout(launch_max(spec), connect(ours)).await {
        Ok(done) => done.map_err(failed("did not answer"))?,
        Err(_) => return Err(failed("did not answer")(io::Error::from(io::ErrorKind::TimedOut))),
    };
    Ok(supervise(&spec.run_dir, stream, hello, handed)??)
}

fn launch_max(spec: &LaunchSpec) -> Duration {
    let bytes = spec.package_image.as_ref().map_or(0, |image| image.bytes);
    LAUNCH_MAX.saturating_add(Duration::from_secs(bytes / IMAGE_BYTES_PER_SECOND))
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
            && let Ok(Ok((stream, hello, handed))) = timeout(ADOPT_MAX, connect(stream)).await
        {
            match supervise(run_dir, stream, hello, handed) {
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
pub(crate) fn supervisor_lives(run_dir: &Path) -> io::Result<bool> {
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

/// Kills and removes what a supervisor that is gone has left. Answers with the processes killed.
pub(crate) async fn sweep(run_dir: &Path) -> u32 {
    let directory = run_dir.to_owned();
    let swept = tokio::task::spawn_blocking(move || {
        let name = cgroup::name_of(run_of(&directory)?);
        Some(cgroup::sweep(&groups_of(&directory, &name)?, &name))
    });
    let killed = swept.await.ok().flatten().unwrap_or_default();
    if killed > 0 {
        tracing::warn!(run_dir = %run_dir.display(), killed, "processes of a lost run were killed");
    }
    killed
}

/// The run that a directory is of: what its launch says, else its name. It may be gone, and its processes not.
fn run_of(run_dir: &Path) -> Option<RunId> {
    let spec = fs::read(run_dir.join(SPEC_FILE)).ok().and_then(|text| serde_json::from_slice::<LaunchSpec>(&text).ok());
    spec.map(|spec| spec.run).or_else(|| run_dir.file_name()?.to_str()?.parse().ok())
}

/// Its groups: those that its supervisor wrote down, else those that one of this plane's would make.
fn groups_of(run_dir: &Path, name: &str) -> Option<Vec<PathBuf>> {
    let written = fs::read(run_dir.join(GROUPS_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    written.or_else(|| cgroup::Hosts::read().ok()?.groups(name).ok())
}

/// What the descriptors beside a first frame are.
fn handed(hello: &Hello, descriptors: Vec<OwnedFd>) -> io::Result<Handed> {
    if hello.streams {
        let streams = <[OwnedFd; 3]>::try_from(descriptors).ok();
        let streams = streams.map(|[stdin, stdout, stderr]| Streams { stdin, stdout, stderr });
        return Ok(streams.map_or(Handed::Nothing, Handed::Streams));
    }
    let fds = descriptors.into_iter().map(Listener::try_from).collect::<io::Result<Vec<_>>>()?;
    let listeners = <[Listener; 3]>::try_from(fds).ok();
    let listeners = listeners.map(|[model, mcp, proxy]| Listeners { model, mcp, proxy });
    Ok(listeners.map_or(Handed::Nothing, Handed::Listeners))
}

/// Reads the first frame and the descriptors beside it.
async fn connect(stream: StdStream) -> io::Result<(UnixStream, Hello, Handed)> {
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (mut buffer, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        if let Some(frame) = protocol::decode::<Frame>(&mut buffer).map_err(io::Error::other)? {
            let Frame::Hello(hello) = frame else { return Err(io::Error::from(io::ErrorKind::InvalidData)) };
            return handed(&hello, descriptors).map(|handed| (stream, *hello, handed));
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
