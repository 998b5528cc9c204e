//! The keeper: the process in which a runtime and everything that it starts live.
//!
//! It is to a container what init is to a native sandbox, one level further out: a clone of the supervisor, first
//! process of its own process namespace, in namespaces, uids and control groups of the run before it does anything. A
//! runtime is started in there and has no more than that: no network but loopback, no uid of the host's users, no
//! process of the host, and of its files `/usr` alone. When the supervisor dies the kernel kills the keeper, and with
//! it the container, a frozen one as well; nothing of that is asked of the runtime.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{DumpableBehavior, Pid, set_dumpable_behavior, set_parent_process_death_signal},
};
use serde::{Deserialize, Serialize};

use super::{
    Oci, bundle,
    runtime::{self, Commands},
};
use crate::{
    driver::{Order, guest},
    native::{
        self, AGENT_UID, At, Stage,
        control::{self, ToInit},
        crash, init,
        mounts::{self, Sources},
        sys,
        tree::{self, Tree},
    },
    spec::{LaunchSpec, RuntimeKind},
};

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromKeeper {
    /// A step failed; the keeper ends.
    Failed {
        /// The step.
        stage: String,
        /// What the system or the runtime answered.
        why: String,
    },
    /// The workspace travels with this.
    Workspace,
    /// The runtime has started the container.
    Started {
        /// What the runtime says of itself.
        version: String,
    },
}

/// The descriptors that the keeper is given.
#[derive(Debug)]
pub struct Ends<'a> {
    /// Its end of the control pair.
    pub control: BorrowedFd<'a>,
    /// The agent's standard output.
    pub stdout: BorrowedFd<'a>,
    /// The agent's standard error.
    pub stderr: BorrowedFd<'a>,
    /// The file system of a workspace on disk.
    pub workspace: Option<BorrowedFd<'a>>,
}

/// Everything the keeper does. Never returns: this is a copy of the supervisor's process.
pub fn main(order: &Order<'_>, oci: &Oci, program: &Path, config: &[u8], ends: &Ends<'_>) -> ! {
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let container = prepare(order, oci, program, config, ends)?;
        init::serve(container, ends.control, true)
    }));
    let stage = match attempt {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(stage)) => stage,
        Err(_) => Stage::new("keeper", &"panicked"),
    };
    let Stage { stage, why } = stage;
    let _ = control::send(ends.control, &FromKeeper::Failed { stage, why }, &[]);
    sys::exit_now(1)
}

fn prepare(
    order: &Order<'_>,
    oci: &Oci,
    program: &Path,
    config: &[u8],
    ends: &Ends<'_>,
) -> Result<nix::unistd::Pid, Stage> {
    let mut kept = vec![ends.control, ends.stdout, ends.stderr];
    kept.extend(ends.workspace);
    sys::close_all_but(&kept).at("descriptors")?;
    rustix::process::setsid().at("session")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    // The runtime and all that it starts inherit it.
    crash::limit().at("limit of core files")?;
    let spec = order.spec;
    let sources = Sources::open(spec, order.uids, None)?;
    // After the sources, which have cut this namespace off from the host's mounts.
    let host = Host::open(spec, program)?;
    init::expect(ends.control, |m| matches!(m, ToInit::Mapped))?;
    native::become_first_uid(order.uids).at("uid of the keeper")?;
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // After the change of uid, which clears it.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).at("death signal")?;
    rustix::system::sethostname(b"cogward").at("host name")?;
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).at("loopback")?;
    sys::loopback_up(any.as_fd()).at("loopback")?;
    drop(any);
    let built = build(spec, &sources, &host, config, ends.workspace)?;
    drop((sources, host));
    control::send(ends.control, &FromKeeper::Workspace, &[built.work.as_fd()]).at("control socket")?;
    drop(built.work);
    init::expect(ends.control, |m| matches!(m, ToInit::Limited))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).at("cgroup namespace")?;
    if oci.kind == RuntimeKind::Runc {
        own_cgroup()?;
    }

    let commands = Commands::new(oci.kind, oci.platform.as_deref());
    let asked = commands.ask_version()?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().at("standard streams");
    let container = commands.start(built.stdin, own(ends.stdout)?, own(ends.stderr)?)?;
    let version = commands.version(asked)?;
    init::drop_privileges().at("privileges of the keeper")?;
    control::send(ends.control, &FromKeeper::Started { version }, &[]).at("control socket")?;
    sys::close_all_but(&[ends.control]).at("descriptors")?;
    Ok(nix::unistd::Pid::from_raw(Pid::as_raw(Some(container))))
}

/// What the keeper takes with it from the host, cloned before its uid changes.
struct Host {
    usr: OwnedFd,
    program: OwnedFd,
    carrier: OwnedFd,
    tty: OwnedFd,
}

impl Host {
    fn open(spec: &LaunchSpec, program: &Path) -> Result<Self, Stage> {
        let read_only = |path: &Path| -> io::Result<OwnedFd> {
            let fd = mounts::clone_tree(path)?;
            tree::make_read_only(fd.as_fd(), true)?;
            Ok(fd)
        };
        Ok(Self {
            usr: read_only(Path::new("/usr")).at("mount of /usr")?,
            program: read_only(program).at("mount of the runtime")?,
            // A socket is connected to on a read-only mount as well.
            carrier: read_only(&spec.run_dir.join(super::CARRIER_DIRECTORY)).at("mount of the carrier")?,
            tty: mounts::clone_tree(Path::new("/dev/tty")).at("device nodes")?,
        })
    }
}

/// What is left of the build.
struct Built {
    work: OwnedFd,
    stdin: OwnedFd,
}

/// Builds the root of the keeper with the bundle in it, and moves there.
fn build(
    spec: &LaunchSpec,
    sources: &Sources,
    host: &Host,
    config: &[u8],
    disk: Option<BorrowedFd<'_>>,
) -> Result<Built, Stage> {
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    // State and log of the runtime are small, and so is what is written here.
    let root = memory(config.len() + spec.stdin.len() + (8 << 20), "755", plain).at("root file system")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&root, "", sources.run_dir(), "", flags).at("root file system")?;
    let outer = Tree::new(root);

    for name in ["usr", "dev", "proc", "tmp", "sys/fs/cgroup", "run/runtime", "bundle/rootfs", "work"] {
        outer.directory(name).at("places of the keeper")?;
    }
    outer.attach(host.usr.as_fd(), "usr").at("mount of /usr")?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        if Path::new("/usr").join(name).is_dir() {
            outer.link(name, &format!("usr/{name}")).at("links of the root")?;
        }
    }
    let place = runtime::RUNTIME.trim_start_matches('/');
    outer.file(place, b"").at("mount of the runtime")?;
    outer.attach(host.program.as_fd(), place).at("mount of the runtime")?;
    sources.attach_devices(&outer)?;
    // Runtimes give it to every container; without a terminal it cannot be opened.
    outer.file("dev/tty", b"").at("device nodes")?;
    outer.attach(host.tty.as_fd(), "dev/tty").at("device nodes")?;
    let proc = tree::file_system("proc", &[], plain | MountAttrFlags::MOUNT_ATTR_NOEXEC).at("proc")?;
    outer.attach(proc.as_fd(), "proc").at("proc")?;
    outer.file("bundle/config.json", config).at("bundle")?;

    rootfs(spec, sources, host, &outer)?;
    match disk {
        Some(disk) => outer.attach(disk, "work").at("workspace on disk")?,
        None => outer.attach(workspace(spec)?.as_fd(), "work").at("workspace")?,
    }
    let work = outer.open("work", OFlags::RDONLY | OFlags::DIRECTORY).at("workspace")?;
    sources.copy_template(work.as_fd())?;
    let stdin = mounts::standard_input(&outer, &spec.stdin, false).at("standard input")?.0;
    rustix::process::fchdir(outer.root()).at("move into the root")?;
    rustix::process::pivot_root(".", ".").at("move into the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).at("move into the root")?;
    rustix::process::chdir("/").at("move into the root")?;
    Ok(Built { work, stdin })
}

/// The root of the container: what a native sandbox sees, and the guest. Read-only before the runtime sees it.
fn rootfs(spec: &LaunchSpec, sources: &Sources, host: &Host, outer: &Tree) -> Result<(), Stage> {
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let payload = sources.payload(spec) + guest::PROGRAM.len();
    // The agent goes through it to what it may read, and does not see what else there is.
    let root = memory(payload + (4 << 20), "711", plain).at("root of the container")?;
    outer.attach(root.as_fd(), "bundle/rootfs").at("root of the container")?;
    let inner = Tree::new(root);
    sources.furnish(spec, &inner)?;
    for name in ["proc", "dev", "work", "tmp", bundle::CARRIER.trim_start_matches('/')] {
        inner.directory(name).at("places of the container")?;
    }
    // Some runtimes give the file system that they put there the mode of what it covers.
    let tmp = inner.open("tmp", OFlags::RDONLY | OFlags::DIRECTORY).at("places of the container")?;
    rustix::fs::fchmod(&tmp, Mode::from_raw_mode(0o1777)).at("places of the container")?;
    inner.attach(host.carrier.as_fd(), bundle::CARRIER.trim_start_matches('/')).at("mount of the carrier")?;
    let place = bundle::GUEST.trim_start_matches('/');
    inner.program(place, guest::PROGRAM).at("guest")?;
    tree::make_read_only(inner.root(), false).at("read-only root")
}

/// The run's own group and nothing above it, which only the host's root may change. `runc` wants to see one, and makes
/// none of its own where it may not.
fn own_cgroup() -> Result<(), Stage> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let fd = tree::file_system("cgroup2", &[], attributes).at("control groups for runc")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&fd, "", rustix::fs::CWD, "/sys/fs/cgroup", flags).at("control groups for runc")
}

fn workspace(spec: &LaunchSpec) -> Result<OwnedFd, Stage> {
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mib = spec.resources.workspace_mib;
    let (size, owner) = (format!("{mib}m"), AGENT_UID.to_string());
    // The root of the workspace is an inode as well, and not one of the agent's.
    let inodes = spec.resources.inodes().saturating_add(1).to_string();
    let options = [("size", size.as_str()), ("nr_inodes", &inodes), ("mode", "700"), ("uid", &owner), ("gid", &owner)];
    tree::file_system("tmpfs", &options, plain | MountAttrFlags::MOUNT_ATTR_NOEXEC).at("workspace")
}

fn memory(bytes: usize, mode: &str, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let size = bytes.to_string();
    tree::file_system("tmpfs", &[("size", &size), ("nr_inodes", "4096"), ("mode", mode)], attributes)
}
