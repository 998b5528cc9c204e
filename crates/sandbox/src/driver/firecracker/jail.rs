//! The jail of a machine monitor: its directory, the sockets in it, and the process that starts it and dies with us.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::libc;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags},
    process::{Pid, Signal, pidfd_send_signal, set_parent_process_death_signal},
};

use super::FirecrackerSettings;
use crate::{
    cgroup::Cgroup,
    native::{At, Stage, crash, init, sys},
};

/// Name of the monitor's own socket inside.
const API: &str = "api.sock";
/// Pause between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Time for a killed monitor to be gone.
const DEATH_MAX: Duration = Duration::from_secs(5);
/// Files that the monitor may have open: its drives, its sockets, and one for each connection of the agent.
const OPEN_FILES: u32 = 1024;

/// The namespaces of the monitor, beside those that its jailer makes.
const NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET) as u64;
/// Their names, for evidence.
pub const NAMESPACE_NAMES: [&str; 5] = ["mount", "pid", "ipc", "uts", "net"];

/// The directory of the jail. Removed with everything in it when it is dropped.
#[derive(Debug)]
pub struct Jail {
    base: PathBuf,
    root: PathBuf,
    opened: OwnedFd,
    id: String,
    uid: u32,
}

impl Jail {
    /// Makes it below the run's directory, for the uid that the monitor will have.
    pub fn make(settings: &FirecrackerSettings, run_dir: &Path, id: &str, uid: u32) -> Result<Self, Stage> {
        let base = run_dir.join("jail");
        let program = settings.firecracker.file_name().unwrap_or_default();
        let root = base.join(program).join(id).join("root");
        fs::DirBuilder::new().mode(0o700).create(&base).at("jail")?;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&root).at("jail")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&root, flags, Mode::empty()).at("jail")?;
        Ok(Self { base, root, opened, id: id.to_owned(), uid })
    }

    /// The place of a file inside, on the host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Shows a file that is kept elsewhere at a path inside. It stays root's, and readable for all.
    pub fn link(&self, source: &Path, path: &Path) -> io::Result<()> {
        fs::hard_link(source, path).or_else(|_| fs::copy(source, path).map(|_| ()))
    }

    /// Gives a file inside to the monitor.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        chown(path, Some(self.uid), Some(self.uid))
    }

    /// A socket inside that only the monitor can connect to.
    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        // A socket path is at most 108 bytes, a data directory not.
        let path = self.through(name);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        chown(&path, Some(self.uid), Some(self.uid))?;
        Ok(listener)
    }

    fn through(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.opened.as_raw_fd())
    }

    /// The arguments of the jailer.
    fn command(&self, settings: &FirecrackerSettings, largest_file: u64) -> Vec<CString> {
        let uid = self.uid.to_string();
        let fsize = format!("fsize={largest_file}");
        let no_file = format!("no-file={OPEN_FILES}");
        let arguments: [&OsStr; 18] = [
            settings.jailer.as_os_str(),
            "--id".as_ref(),
            self.id.as_ref(),
            "--exec-file".as_ref(),
            settings.firecracker.as_os_str(),
            "--uid".as_ref(),
            uid.as_ref(),
            "--gid".as_ref(),
            uid.as_ref(),
            "--chroot-base-dir".as_ref(),
            self.base.as_os_str(),
            "--resource-limit".as_ref(),
            fsize.as_ref(),
            "--resource-limit".as_ref(),
            no_file.as_ref(),
            "--".as_ref(),
            "--api-sock".as_ref(),
            API.as_ref(),
        ];
        // A path with a NUL byte is refused with the settings.
        arguments.iter().filter_map(|argument| CString::new(argument.as_bytes()).ok()).collect()
    }

    /// Starts the monitor through its jailer, in the groups of the run.
    pub fn start(&self, settings: &FirecrackerSettings, largest_file: u64, cgroup: &Cgroup) -> Result<Keeper, Stage> {
        crash::prepare()?;
        let command = self.command(settings, largest_file);
        let (go_read, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("pipe")?;
        let (log, log_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("pipe")?;
        rustix::io::ioctl_fionbio(&log, true).at("pipe")?;
        let target = cgroup.clone_target().map_err(|e| Stage::new("cgroups", &e))?;
        match sys::clone_into(NAMESPACES, target.as_ref().map(AsFd::as_fd)).at("namespaces")? {
            sys::Side::Child => keep(&command, &go_read, &log_write),
            sys::Side::Parent(pid, pidfd) => {
                let keeper = Keeper { pid, pidfd, log, kept: Vec::new() };
                cgroup.attach(keeper.pid).map_err(|e| Stage::new("cgroups", &e))?;
                // Not before it is in all its groups: whatever it starts is then in them too.
                rustix::io::write(&go, b"1").at("jailer")?;
                Ok(keeper)
            }
        }
    }

    /// Connects to the monitor as soon as it listens.
    pub fn connect(&self, keeper: &mut Keeper, until: Instant) -> Result<UnixStream, Stage> {
        loop {
            match UnixStream::connect(self.through(API)) {
                Ok(stream) => return Ok(stream),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
                Err(e) => return Err(Stage::new("socket of firecracker", &e)),
            }
            // One that prints more than a pipe holds would wait for us.
            keeper.drain();
            if keeper.is_gone(LOOK_EVERY) {
                return Err(Stage::new("jailer", &keeper.last_line("it ended before firecracker listened")));
            }
            if Instant::now() >= until {
                return Err(Stage::new("jailer", &keeper.last_line("firecracker did not listen in time")));
            }
        }
    }

    /// Removes it. What was in it belonged to the monitor: no link of it is followed.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The process above the jailer: the first one of the monitor's namespaces, which ends when the supervisor does, so
/// that the machine ends too. The monitor itself could not: with its change of uid it forgets such a wish.
#[derive(Debug)]
pub struct Keeper {
    pid: Pid,
    pidfd: OwnedFd,
    log: OwnedFd,
    /// The first bytes of what the jailer and the monitor print.
    kept: Vec<u8>,
}

/// Most bytes that are kept of what is printed.
const LOG_BYTES_MAX: usize = 4096;

impl Keeper {
    /// Its process id on the host.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Ready for input once it has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Where what is printed arrives.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Takes what was printed and keeps its beginning.
    pub fn drain(&mut self) {
        let mut chunk = [0_u8; 4096];
        // No more than a pipe holds.
        for _ in 0..16 {
            match rustix::io::read(&self.log, &mut chunk) {
                Ok(count) if count > 0 => {
                    let room = LOG_BYTES_MAX.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
                }
                _ => return,
            }
        }
    }

    /// The last line that was kept, after what is known anyway.
    pub fn last_line(&mut self, known: &str) -> String {
        self.drain();
        let text = String::from_utf8_lossy(&self.kept);
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
        if line.is_empty() { known.to_owned() } else { format!("{known}: {line}") }
    }

    fn is_gone(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Timespec::try_from(wait).ok().as_ref()), Ok(1))
    }

    /// Kills it, and with it everything in its namespace.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.is_gone(DEATH_MAX);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// Everything that the keeper does. Never returns: this is a copy of the supervisor's process.
fn keep(command: &[CString], go: &OwnedFd, log: &OwnedFd) -> ! {
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| prepare_and_wait(command, go, log)));
    let code = match attempt {
        Ok(Ok(code)) => code,
        Ok(Err(Stage { stage, why })) => {
            let _ = rustix::io::write(log, format!("{stage}: {why}\n").as_bytes());
            1
        }
        Err(_) => 1,
    };
    sys::exit_now(code)
}

fn prepare_and_wait(command: &[CString], go: &OwnedFd, log: &OwnedFd) -> Result<i32, Stage> {
    sys::close_all_but(&[go.as_fd(), log.as_fd()]).at("descriptors")?;
    set_parent_process_death_signal(Some(Signal::KILL)).at("death signal")?;
    // The jailer and the monitor inherit it.
    crash::limit().at("limit of core files")?;
    rustix::process::setsid().at("session")?;
    let mut byte = [0_u8];
    if !matches!(rustix::io::read(go, &mut byte), Ok(1)) {
        // The supervisor is gone, perhaps before the signal above was asked for.
        sys::exit_now(1);
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).at("private mounts")?;
    // The jailer looks for its own descriptors in /proc, by its number in this namespace.
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", plain, None).at("proc of the jailer")?;
    let Some(program) = command.first() else { return Err(Stage::new("jailer", &"it has no name")) };
    let Some(jailer) = sys::fork().at("fork of the jailer")? else {
        let Err(error) = execute(program, command, log);
        let _ = rustix::io::write(log, format!("{}: {error}\n", program.to_string_lossy()).as_bytes());
        sys::exit_now(127);
    };
    sys::close_all_but(&[]).at("descriptors")?;
    // What is left to do is to wait, which needs nothing.
    init::drop_privileges().at("privileges of the keeper")?;
    loop {
        match nix::sys::wait::waitpid(None, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(pid, code)) if pid == jailer => return Ok(code),
            Ok(nix::sys::wait::WaitStatus::Signaled(pid, ..)) if pid == jailer => return Ok(1),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Ok(1),
        }
    }
}

fn execute(program: &CString, command: &[CString], log: &OwnedFd) -> io::Result<std::convert::Infallible> {
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
    sys::move_to_standard(&nothing, 0)?;
    sys::move_to_standard(log, 1)?;
    sys::move_to_standard(log, 2)?;
    sys::close_on_exec_from(3)?;
    sys::signals_to_default();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(nix::unistd::execve(program, command, &[] as &[CString])?)
}
