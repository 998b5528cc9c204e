//! The OCI driver: a container made by a runtime that is installed on the host.
//!
//! `runsc` (gVisor) carries profile `gvisor`, `runc` and `crun` carry `container`. The runtime makes the boundary; what
//! the plane promises of every run does not rely on it. It runs inside the [`keeper`]: in the run's own control groups,
//! namespaces and uids, so limits, freezing, the kill that is proven and the death with the supervisor are the plane's.
//! The container's first process is the guest, which reaches the plane's listeners through a mounted directory of
//! sockets; which run a connection belongs to is known by the listener, as everywhere.

mod bundle;
mod calls;
mod keeper;
mod runtime;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
    process::{Signal, pidfd_send_signal},
};

use super::{
    Carried, Driver, Event, Order, Overhead, Watched,
    guest::{Config, Doors, Link},
};
use crate::{
    attest::{
        self, Attestation, Window,
        keeper::{First, Kept, Others},
    },
    cgroup::Cgroup,
    native::{
        self, At, Stage, Uids,
        control::{self, ToInit},
        network, sys,
    },
    spec::{Enforcement, Root, Runtime, RuntimeKind},
};
use keeper::FromKeeper;

/// The directory of the sockets, in the run directory.
const CARRIER_DIRECTORY: &str = "carrier";
/// Time from the clone to the held agent, at most: two commands of a runtime and the guest.
const LAUNCH_MAX: Duration = Duration::from_secs(25);

/// Time for a killed keeper to be dead once the groups are empty.
const KEEPER_END_MAX: Duration = Duration::from_secs(5);

const LINK: u32 = 0;
const KEEPER: u32 = 1;

/// Makes containers with one runtime.
#[derive(Debug)]
pub struct Oci {
    /// Its program.
    pub runtime: PathBuf,
    /// Which it is.
    pub kind: RuntimeKind,
    /// How it intercepts system calls, where it has a choice and the configuration says.
    pub platform: Option<String>,
}

/// Its container.
#[derive(Debug)]
struct Container {
    pid: i32,
    pidfd: OwnedFd,
    /// Its end of file is the end of the keeper.
    _control: OwnedFd,
    link: Link,
    doors: Doors,
    stdout: OwnedFd,
    stderr: OwnedFd,
    work: OwnedFd,
    /// Holds the size of a workspace on disk.
    _ballast: Option<OwnedFd>,
    enforcement: Enforcement,
    uids: Uids,
    shares_the_kernel: bool,
    first: Option<First>,
    window: Window,
}

impl Driver for Oci {
    fn overhead(&self) -> Overhead {
        match self.kind {
            // Its kernel is a program of some twenty threads, with a process for each of the agent's.
            RuntimeKind::Runsc => Overhead { memory_mib: 64, pids: 128 },
            // The keeper and the guest.
            RuntimeKind::Runc | RuntimeKind::Crun => Overhead { memory_mib: 2, pids: 2 },
        }
    }

    fn overhead_of_launch(&self) -> Overhead {
        // The runtime's own commands, which have ended before the agent begins.
        let Overhead { memory_mib, pids } = self.overhead();
        Overhead { memory_mib: memory_mib + 128, pids: pids + 128 }
    }

    fn launch(&self, order: &Order<'_>) -> Result<Box<dyn Carried>, Stage> {
        let Uids::OwnRange { base } = order.uids else {
            return Err(Stage::new("driver oci", &"the plane does not run as root"));
        };
        let program = runtime::program(&self.runtime)?;
        let places = bundle::Places { work: "/work" };
        let bundle = bundle::generate(order.spec, self.kind, places)
            .ok_or_else(|| Stage::new("bundle", &"there is no list of system calls for this architecture"))?;
        let directory = order.spec.run_dir.join(CARRIER_DIRECTORY);
        let doors = Doors::make(&directory, (base, base)).at("carrier")?;
        match self.begin(order, &program, &bundle, &doors) {
            Ok(begun) => {
                let Begun { pid, pidfd, control, link, stdout, stderr, work, ballast, enforcement } = begun;
                Ok(Box::new(Container {
                    pid,
                    pidfd,
                    _control: control,
                    link,
                    doors,
                    stdout,
                    stderr,
                    work,
                    _ballast: ballast,
                    enforcement,
                    uids: order.uids,
                    shares_the_kernel: self.kind.shares_the_kernel(),
                    first: None,
                    window: Window::default(),
                }))
            }
            Err(stage) => {
                doors.remove();
                Err(stage)
            }
        }
    }
}

/// A container that is held, without its doors.
struct Begun {
    pid: i32,
    pidfd: OwnedFd,
    control: OwnedFd,
    link: Link,
    stdout: OwnedFd,
    stderr: OwnedFd,
    work: OwnedFd,
    ballast: Option<OwnedFd>,
    enforcement: Enforcement,
}

impl Oci {
    fn begin(&self, order: &Order<'_>, program: &Path, bundle: &bundle::Bundle, doors: &Doors) -> Result<Begun, Stage> {
        let deadline = Instant::now() + LAUNCH_MAX;
        native::crash::prepare()?;
        let (control, theirs) = control::pair().at("control socket")?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("pipe");
        let ((stdout, stdout_write), (stderr, stderr_write)) = (pipe()?, pipe()?);
        let (uid, gid) = order.uids.agent_on_host();
        for end in [&stdout_write, &stderr_write] {
            let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
            rustix::fs::fchown(end, owner.0, owner.1).at("owner of the standard streams")?;
        }
        let (disk, ballast) = native::disk_of(order.spec, order.uids)?.unzip();
        let target = order.cgroup.clone_target().map_err(|e| Stage::new("cgroups", &e))?;
        if let (RuntimeKind::Runc, Some(group)) = (self.kind, &target) {
            // It looks for a group of its own in there, and takes no for an answer only where it may look.
            rustix::fs::fchmod(group, Mode::from_raw_mode(0o755)).at("control groups for runc")?;
        }
        let side = sys::clone_into(native::NAMESPACES, target.as_ref().map(AsFd::as_fd)).at("namespaces")?;
        let (pid, pidfd) = match side {
            sys::Side::Child => {
                let ends = keeper::Ends {
                    control: theirs.as_fd(),
                    stdout: stdout_write.as_fd(),
                    stderr: stderr_write.as_fd(),
                    workspace: disk.as_ref().map(AsFd::as_fd),
                };
                keeper::main(order, self, program, &bundle.text, &ends)
            }
            sys::Side::Parent(pid, pidfd) => (pid, pidfd),
        };
        drop((theirs, stdout_write, stderr_write, disk));
        native::write_maps(pid, order.uids).at("uid map")?;
        // A keeper that has died already has said why, and that is read next.
        let _ = control::send(control.as_fd(), &ToInit::Mapped, &[]);
        if let Err(error) = order.cgroup.attach(pid) {
            let soon = Instant::now() + Duration::from_millis(100);
            return Err(match next(&control, soon) {
                Ok((FromKeeper::Failed { stage, why }, _)) => Stage { stage, why },
                _ => Stage::new("cgroups", &error),
            });
        }
        let _ = control::send(control.as_fd(), &ToInit::Limited, &[]);
        let mut work = None;
        let version = loop {
            match next(&control, deadline)? {
                (FromKeeper::Failed { stage, why }, _) => return Err(Stage { stage, why }),
                (FromKeeper::Workspace, descriptors) => work = descriptors.into_iter().next(),
                (FromKeeper::Started { version }, _) => break version,
            }
        };
        let work = work.ok_or_else(|| Stage::new("keeper", &"it did not hand over the workspace"))?;
        let mut link = doors.accept(Some(pidfd.as_fd()), deadline)?;
        let mut config = Config {
            // The workspace is the host's to read.
            output: None,
            refused: vec![bundle::CARRIER.to_owned()],
            seccomp: self.kind.shares_the_kernel(),
            ..Config::of(order.spec)
        };
        // The filter, which is in force by now, keeps the bundle's limit of core files; and a kernel in user space
        // refuses to bound what it does not have.
        let elsewhere: &[&str] = if config.seccomp { &["core"] } else { &["msgqueue", "rtprio"] };
        config.limits.retain(|(name, _)| !elsewhere.contains(name));
        let checks = link.prepare(&config, Some(pidfd.as_fd()), deadline)?;
        let enforcement = self.enforcement(order, version, bundle.allowed, checks);
        let pid = pid.as_raw_nonzero().get();
        Ok(Begun { pid, pidfd, control, link, stdout, stderr, work, ballast, enforcement })
    }

    fn enforcement(
        &self,
        order: &Order<'_>,
        version: String,
        seccomp_allowed: Option<usize>,
        self_checks: Vec<String>,
    ) -> Enforcement {
        let spec = order.spec;
        let (uids, uid_base) = order.uids.describe();
        Enforcement {
            profile: spec.profile,
            driver: spec.driver.name().to_owned(),
            runtime: Some(Runtime { name: self.kind.as_str().to_owned(), version, platform: self.platform.clone() }),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            namespaces: native::NAMESPACE_NAMES.map(str::to_owned).to_vec(),
            uids: uids.to_owned(),
            uid_base,
            landlock_abi: None,
            connect_ports: network::PORTS.to_vec(),
            seccomp_instructions: None,
            seccomp_allowed,
            cgroup: order.cgroup.kind().to_owned(),
            resources: spec.resources,
            root: match spec.root {
                Root::HostUsr => "host-usr",
                Root::Image { .. } => "image",
            }
            .to_owned(),
            package: crate::spec::PACKAGE_DIRECTORY.to_owned(),
            workspace: spec.storage.medium,
            self_checks,
        }
    }
}

/// What the keeper says next.
fn next(control: &OwnedFd, deadline: Instant) -> Result<(FromKeeper, Vec<OwnedFd>), Stage> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(control, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Err(Stage::new("keeper", &"the container was not ready in time")),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Stage::new("keeper", &e)),
        }
    }
    match control::receive(control.as_fd()).map_err(|e| Stage::new("keeper", &e))? {
        Some(message) => Ok(message),
        None => Err(Stage::new("keeper", &"it died")),
    }
}

impl Carried for Container {
    fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    fn listeners(&self) -> Option<[BorrowedFd<'_>; 3]> {
        Some(self.doors.listeners.each_ref().map(AsFd::as_fd))
    }

    fn streams(&self) -> [&OwnedFd; 2] {
        [&self.stdout, &self.stderr]
    }

    fn watched(&self) -> Vec<Watched<'_>> {
        let input = |token, fd| Watched { token, fd, flags: PollFlags::IN, hang_up: true };
        vec![input(LINK, self.link.as_fd()), input(KEEPER, self.pidfd.as_fd())]
    }

    fn turn(&mut self, token: u32, events: &mut Vec<Event>) {
        // What the guest said before its container died still counts.
        self.link.turn(events);
        if token == KEEPER {
            events.push(Event::Gone);
        }
    }

    fn last_words(&mut self, events: &mut Vec<Event>) {
        self.link.turn(events);
    }

    fn attest(&mut self, cgroup: &Cgroup) -> Option<Attestation> {
        let subject = Kept {
            cgroup,
            uids: self.uids,
            keeper: self.pid,
            own: &["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"],
            others: match self.shares_the_kernel {
                true => Others::Agents(self.uids.agent_on_host().0),
                false => Others::Carriers,
            },
            first: self.first.as_ref(),
            window: &self.window,
        };
        let (found, first) = attest::keeper::look(&subject)?;
        self.first.get_or_insert(first);
        Some(found)
    }

    fn start(&mut self) -> io::Result<()> {
        self.link.start()
    }

    fn terminate(&mut self, cgroup: &mut Cgroup) -> io::Result<()> {
        // It is read by the guest once that goes on.
        let asked = self.link.terminate();
        cgroup.thaw().map_err(io::Error::other)?;
        asked
    }

    fn kill(&mut self, cgroup: &mut Cgroup, reap: &mut dyn FnMut()) -> (u32, bool) {
        let (processes, empty) = cgroup.kill(reap);
        // Whatever was moved out of the groups is still in the keeper's process namespace, and ends with it.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let gone = matches!(poll(&mut fds, Timespec::try_from(KEEPER_END_MAX).ok().as_ref()), Ok(1..));
        (processes, empty && gone)
    }

    fn workspace(&self) -> Option<BorrowedFd<'_>> {
        Some(self.work.as_fd())
    }

    fn remove(&mut self) {
        self.doors.remove();
    }
}
