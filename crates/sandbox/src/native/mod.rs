//! The native launcher: namespaces, a fresh root, Landlock, seccomp, no capabilities.
//!
//! Three processes take part. The *supervisor* (host side) clones the *init* (pid 1 of the sandbox, ours), which
//! builds everything and forks the *agent*'s process; that one restricts itself, checks the restrictions from
//! inside and waits before its `execve`. A step that fails ends the launch: there is no weaker sandbox.

mod agent;
pub mod control;
pub mod crash;
pub mod disk;
pub mod init;
pub mod landlock;
pub mod loop_device;
pub mod mounts;
pub mod network;
pub mod seccomp;
pub mod sys;
pub mod syscalls;
pub mod template;
pub mod tree;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use cogward_model::manifest::Medium;
use nix::libc;
use rustix::process::Pid;

use crate::{
    image,
    profile::Controls,
    service::{self, Network},
    spec::LaunchSpec,
};

/// A step of the launch that failed, and what the system answered.
#[derive(Debug)]
pub struct Stage {
    /// The step.
    pub stage: String,
    /// What the system answered.
    pub why: String,
}

impl Stage {
    pub(crate) fn new(stage: impl Into<String>, why: &dyn fmt::Display) -> Self {
        Self { stage: stage.into(), why: why.to_string().chars().take(500).collect() }
    }
}

/// Names the step that an error belongs to.
pub(crate) trait At<T> {
    fn at(self, stage: &str) -> Result<T, Stage>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: &str) -> Result<T, Stage> {
        self.map_err(|e| Stage::new(stage, &e.into()))
    }
}

/// The namespaces of every run. The cgroup namespace follows once init is in its cgroups, so that its root is theirs.
pub const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET) as u64;

/// Those of one launch: a program of the operator's may have been given the host's network.
fn namespaces_of(spec: &LaunchSpec) -> u64 {
    match &spec.service {
        Some(service) if service.network == Network::Host => NAMESPACES & !u64::from(libc::CLONE_NEWNET.unsigned_abs()),
        _ => NAMESPACES,
    }
}

/// Their names, for evidence.
pub const NAMESPACE_NAMES: [&str; 7] = ["user", "mount", "pid", "ipc", "uts", "net", "cgroup"];
/// The uid of the agent inside.
pub const AGENT_UID: u32 = 1000;

/// How the uids of the sandbox map to the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uids {
    /// 65,536 uids of the run's own, from `base`; init is uid 0 inside, the agent uid 1000.
    OwnRange {
        /// First uid on the host.
        base: u32,
    },
    /// One uid, the caller's own; init and agent share it.
    Single {
        /// The caller's uid.
        uid: u32,
        /// The caller's gid.
        gid: u32,
    },
}

impl Uids {
    /// What this process can give to a run with that slot.
    #[must_use]
    pub fn of(slot: u32) -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            Self::OwnRange { base: 0x1_0000 * (slot + 16) }
        } else {
            Self::Single { uid: uid.as_raw(), gid: gid.as_raw() }
        }
    }

    /// The word for evidence and the first uid on the host.
    #[must_use]
    pub fn describe(self) -> (&'static str, u32) {
        match self {
            Self::OwnRange { base } => ("own-range", base),
            Self::Single { uid, .. } => ("single", uid),
        }
    }

    /// The first uid on the host, and how many are the run's own.
    #[must_use]
    pub fn range(self) -> (u32, u32) {
        match self {
            Self::OwnRange { base } => (base, 0x1_0000),
            Self::Single { uid, .. } => (uid, 1),
        }
    }

    /// The agent's uid and gid on the host.
    #[must_use]
    pub fn agent_on_host(self) -> (u32, u32) {
        match self {
            Self::OwnRange { base } => (base + AGENT_UID, base + AGENT_UID),
            Self::Single { uid, gid } => (uid, gid),
        }
    }
}

/// A sandbox that is being made.
#[derive(Debug)]
pub struct Begun {
    /// Its init, on the host.
    pub pid: Pid,
    /// The same, as a descriptor.
    pub pidfd: OwnedFd,
    /// The supervisor's end of the control pair.
    pub control: OwnedFd,
    /// One byte here lets the agent execute.
    pub start: OwnedFd,
    /// The agent's standard output.
    pub stdout: OwnedFd,
    /// The agent's standard error.
    pub stderr: OwnedFd,
    /// Where the standard input of a program of the operator's is written to, until the plane has it.
    pub stdin: Option<OwnedFd>,
    /// How the image of the package is mounted, where the run has one.
    pub package: Option<image::Backing>,
    /// Holds the size of a workspace on disk, for as long as the run lives; nobody reads it.
    _ballast: Option<OwnedFd>,
}

/// The file system of a workspace on disk and what holds its size, where the run has one.
pub fn disk_of(spec: &LaunchSpec, uids: Uids) -> Result<Option<(OwnedFd, OwnedFd)>, Stage> {
    match spec.storage.medium {
        Medium::Memory => Ok(None),
        Medium::Disk if matches!(uids, Uids::OwnRange { .. }) => {
            let resources = &spec.resources;
            let (mib, inodes) = (resources.workspace_mib, resources.inodes());
            disk::workspace_for(&spec.run_dir, mib, inodes, uids.agent_on_host()).map(Some)
        }
        Medium::Disk => Err(Stage::new("workspace on disk", &"the plane does not run as root")),
    }
}

/// A mount of the image that the package comes from, where the run has one. That it is the image that was made is
/// made sure of here.
pub fn package_of(spec: &LaunchSpec, uids: Uids) -> Result<Option<image::Mounted>, Stage> {
    match &spec.package_image {
        None => Ok(None),
        Some(image) if matches!(uids, Uids::OwnRange { .. }) => image::open(image).map(Some),
        Some(_) => Err(Stage::new("image of the package", &"the plane does not run as root")),
    }
}

/// Makes init in its namespaces, in `cgroup` from its first instruction, and writes its uid map.
///
/// The caller puts it in the other cgroups, says [`control::ToInit::Limited`], and reads what it says.
pub fn begin(
    spec: &LaunchSpec,
    controls: &Controls,
    uids: Uids,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Begun, Stage> {
    crash::prepare()?;
    let (control, init_control) = control::pair().at("control socket")?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("pipe");
    let ((start_read, start), (stdout, stdout_write), (stderr, stderr_write)) = (pipe()?, pipe()?, pipe()?);
    let (uid, gid) = uids.agent_on_host();
    for end in [&stdout_write, &stderr_write] {
        // So that the agent may open /dev/stdout and /dev/stderr, which are these pipes, by name.
        let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
        rustix::fs::fchown(end, owner.0, owner.1).at("owner of the standard streams")?;
    }
    let package = package_of(spec, uids)?;
    let (disk, ballast) = disk_of(spec, uids)?.unzip();
    let (stdin_read, stdin) = spec.service.is_some().then(pipe).transpose()?.unzip();
    let shown = spec.service.as_ref().map_or(Ok(Vec::new()), |service| service::open(service, uids))?;
    match sys::clone_into(namespaces_of(spec), cgroup).at("namespaces")? {
        sys::Side::Child => {
            let ends = init::Ends {
                control: init_control.as_fd(),
                start: &start_read,
                stdout: &stdout_write,
                stderr: &stderr_write,
                workspace: disk.as_ref().map(AsFd::as_fd),
                package: package.as_ref().map(|package| package.mount.as_fd()),
                stdin: stdin_read.as_ref().map(AsFd::as_fd),
                shown: &shown,
            };
            init::main(spec, controls, uids, &ends)
        }
        sys::Side::Parent(pid, pidfd) => {
            write_maps(pid, uids).at("uid map")?;
            // An init that has died already has said why, and that is read next.
            let _ = control::send(control.as_fd(), &control::ToInit::Mapped, &[]);
            let package = package.map(|package| package.backing);
            Ok(Begun { pid, pidfd, control, start, stdout, stderr, stdin, package, _ballast: ballast })
        }
    }
}

/// Becomes the uid that init has inside, once the maps are written.
pub fn become_first_uid(uids: Uids) -> io::Result<()> {
    match uids {
        Uids::OwnRange { .. } => Ok(init::become_uid(0)?),
        Uids::Single { .. } => Ok(()),
    }
}

/// Gives up whatever privilege this process has, for good: what is left is what a process in a restricted pod has.
pub fn without_privileges() -> io::Result<()> {
    // Without the capability for it the set stays, and gives nothing to a process that can never gain from it.
    let _ = init::empty_bounding_set();
    if rustix::process::geteuid().is_root() {
        // A root that may not change its uid has no capability that would make it more than the uid it is.
        let _ = init::become_uid(NOBODY);
    }
    Ok(init::empty_capabilities()?)
}

/// A uid that owns nothing.
const NOBODY: u32 = 65_534;

/// Maps the uids and gids of a process in a new user namespace.
pub fn write_maps(pid: Pid, uids: Uids) -> io::Result<()> {
    let write = |file: &str, text: &str| std::fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), text);
    match uids {
        Uids::OwnRange { base } => {
            write("uid_map", &format!("0 {base} 65536\n"))?;
            write("gid_map", &format!("0 {base} 65536\n"))
        }
        Uids::Single { uid, gid } => {
            write("setgroups", "deny")?;
            write("uid_map", &format!("{AGENT_UID} {uid} 1\n"))?;
            write("gid_map", &format!("{AGENT_UID} {gid} 1\n"))
        }
    }
}
