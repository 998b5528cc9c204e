//! The probes of the native driver. Each runs in a forked process that may restrict itself for good.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::DirBuilderExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use cogward_model::manifest::{Profile, Resources};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
    process::{Signal, WaitOptions, set_parent_process_death_signal},
};

use super::{kernels, runner::Probe};
use crate::{
    cgroup::{Cgroup, Hosts},
    native::{self, Uids, control, disk, landlock, network, seccomp, sys, tree},
    profile::Controls,
};

/// The mechanism that a workspace on disk needs.
pub const WORKSPACE_DISK: &str = "workspace-disk";

/// What the package of a run needs to come from an image of its own.
pub const PACKAGE_IMAGE: &str = "package-image";

/// What profiles need, and some that none needs yet.
pub const PROBES: [Probe; 14] = [
    Probe::new("kernel", "run Linux 6.7 or later", kernel),
    Probe::new(
        "namespaces",
        "allow user namespaces: user.max_user_namespaces above 0, and on Ubuntu an AppArmor profile for this program \
         with `userns,` (or kernel.apparmor_restrict_unprivileged_userns=0)",
        namespaces,
    ),
    Probe::new(
        "mounts",
        "something strips the capabilities of user namespaces (AppArmor, SELinux or a container's seccomp profile): \
         allow mounts in the plane's user namespaces",
        mounts,
    ),
    Probe::new(
        "proc",
        "run the plane on the host or in a container whose /proc is not masked (Docker: systempaths=unconfined)",
        proc,
    ),
    Probe::new("loopback", "allow the configuration of network interfaces in the plane's user namespaces", loopback),
    Probe::new(
        "landlock",
        "boot with Landlock in the list of security modules (lsm=landlock,...), on Linux 6.7 or later",
        landlock_denies,
    ),
    Probe::new("landlock-scopes", "needed by profile hardened: run Linux 6.12 or later", landlock_scopes),
    Probe::new(
        "seccomp",
        "use a kernel with CONFIG_SECCOMP_FILTER, and a container profile that permits user notification",
        seccomp_denies,
    ),
    Probe::new(
        "cgroups",
        "run the plane as root, or delegate control groups to it: a systemd unit with Delegate=yes and \
         DelegateSubgroup=cogward-plane on cgroup version 2",
        cgroups,
    ),
    Probe::new(
        WORKSPACE_DISK,
        "needed by manifests with `workspace: {medium: disk}`: run the plane as root, with e2fsprogs, ext4 and loop devices \
         (in a container: /dev/loop-control and the devices)",
        workspace_on_disk,
    ),
    Probe {
        // Two programs, and the first mount of a file system may load it into the kernel.
        most: Duration::from_secs(5),
        ..Probe::new(
            PACKAGE_IMAGE,
            "needed by no profile: without it packages are mounted from their directories on the host, and the evidence of each \
         run says so. Run the plane as root (with systemd: deploy/systemd/package-images.conf), with erofs-utils and erofs \
         in the kernel: Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE, or loop devices",
            package_image,
        )
    },
    Probe::new("overlayfs", "not needed by any profile yet", overlay),
    Probe::new("runsc", "not needed by any profile yet", runsc),
    Probe::new("kvm", "not needed by any profile yet", kvm),
];

fn kernel() -> Result<String, String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match kernels::number(&release) {
        Some(number) if number >= (6, 7, 0) => Ok(format!("Linux {release}")),
        _ => Err(format!("Linux {release} is older than 6.7")),
    }
}

/// Runs `inside` in the namespaces of a sandbox, with the uids of one.
fn in_namespaces(inside: fn() -> Result<String, String>) -> Result<String, String> {
    let failed = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    let uids = Uids::of(crate::spec::UID_SLOTS - 1);
    let (ours, theirs) = control::pair().map_err(failed("a socket pair"))?;
    match sys::clone_into(native::NAMESPACES, None)
        .map_err(failed("new user, mount, pid, ipc, uts and net namespaces"))?
    {
        sys::Side::Child => {
            // The parent may have failed and gone before this asks for its death signal; then the wait below ends.
            drop(ours);
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let result = match control::receive::<()>(theirs.as_fd()) {
                Ok(Some(_)) => {
                    native::become_first_uid(uids).map_err(|e| format!("uid 0: {e}")).and_then(|()| inside())
                }
                _ => Err("no uid map".to_owned()),
            };
            let _ = control::send(theirs.as_fd(), &result, &[]);
            sys::exit_now(0);
        }
        sys::Side::Parent(pid, _) => {
            native::write_maps(pid, uids).map_err(failed("the uid map"))?;
            control::send(ours.as_fd(), &(), &[]).map_err(failed("a socket pair"))?;
            drop(theirs);
            match control::receive(ours.as_fd()) {
                Ok(Some((result, _))) => result,
                _ => Err("the process in the namespaces died".to_owned()),
            }
        }
    }
}

fn namespaces() -> Result<String, String> {
    in_namespaces(|| Ok("made, with a uid map".to_owned()))
}

fn mounts() -> Result<String, String> {
    in_namespaces(|| {
        let attributes = rustix::mount::MountAttrFlags::MOUNT_ATTR_NOSUID;
        let root = tree::file_system("tmpfs", &[("size", "64k"), ("mode", "755")], attributes)
            .map_err(|e| format!("a tmpfs in a user namespace: {e}"))?;
        let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).map_err(|e| format!("private mounts: {e}"))?;
        let fd = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| e.to_string())?;
        let empty = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
            | rustix::mount::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&root, "", &fd, "", empty).map_err(|e| format!("attaching a mount: {e}"))?;
        tree::make_read_only(root.as_fd(), false).map_err(|e| format!("a read-only mount: {e}"))?;
        Ok("a tmpfs was mounted, attached and made read-only".to_owned())
    })
}

fn proc() -> Result<String, String> {
    in_namespaces(|| {
        let attributes = rustix::mount::MountAttrFlags::MOUNT_ATTR_NOSUID;
        tree::file_system("proc", &[("subset", "pid"), ("hidepid", "invisible")], attributes)
            .map(|_| "mounted with subset=pid and hidepid=invisible".to_owned())
            .map_err(|e| format!("proc in a user namespace: {e}"))
    })
}

fn loopback() -> Result<String, String> {
    in_namespaces(|| {
        let listeners = network::listeners().map_err(|e| format!("loopback in a network namespace: {e}"))?;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(|e| e.to_string())?;
        connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, network::PORTS[0])).map_err(|e| e.to_string())?;
        Ok(format!("up, {} listeners, connected to one", listeners.len()))
    })
}

pub fn landlock_denies() -> Result<String, String> {
    let abi = sys::landlock_abi().map_err(|e| format!("no Landlock: {e}"))?;
    let controls = Controls::of(Profile::Standard);
    if abi < controls.landlock_abi {
        return Err(format!("Landlock has ABI {abi}, {} is needed", controls.landlock_abi));
    }
    let file = "/proc/self/status";
    let open = || rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    open().map_err(|e| format!("{file}: {e}"))?;
    let grants = landlock::Grants { read: vec!["/usr".to_owned()], ..landlock::Grants::default() };
    landlock::restrict(&grants, &controls).map_err(|e| e.why)?;
    match open() {
        Err(Errno::ACCESS) => {}
        other => return Err(format!("a file outside the rules was not refused: {other:?}")),
    }
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    match connect(socket.map_err(|e| e.to_string())?, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)) {
        Err(Errno::ACCESS) => Ok(format!("ABI {abi}; a file and a port outside the rules were refused")),
        other => Err(format!("a port outside the rules was not refused: {other:?}")),
    }
}

/// A socket and a process from before the rules cannot be reached by their names after them.
pub fn landlock_scopes() -> Result<String, String> {
    let abi = sys::landlock_abi().map_err(|e| format!("no Landlock: {e}"))?;
    let controls = Controls::of(Profile::Hardened);
    if abi < controls.landlock_abi {
        return Err(format!("Landlock has ABI {abi}, {} is needed", controls.landlock_abi));
    }
    let name = SocketAddr::from_abstract_name(format!("cogward-probe-{}", std::process::id()));
    let name = name.map_err(|e| e.to_string())?;
    let _listener = UnixListener::bind_addr(&name).map_err(|e| format!("an abstract socket: {e}"))?;
    // Made before the rules, so it is outside of them. It ends with this process, which holds the other end of a pipe:
    // the signal of a parent's death does not leave the scope either, and would never come.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string())?;
    let outside = match sys::fork().map_err(|e| e.to_string())? {
        Some(pid) => rustix::process::Pid::from_raw(pid.as_raw()).ok_or("no process")?,
        None => {
            drop(write);
            let _ended = rustix::io::read(&read, &mut [0_u8; 1]);
            sys::exit_now(0);
        }
    };
    rustix::process::test_kill_process(outside).map_err(|e| format!("a signal before the rules: {e}"))?;
    let grants = landlock::Grants { read: vec!["/usr".to_owned()], ..landlock::Grants::default() };
    landlock::restrict(&grants, &controls).map_err(|e| e.why)?;
    let connected = UnixStream::connect_addr(&name).map_err(|e| e.raw_os_error());
    match (connected, rustix::process::test_kill_process(outside)) {
        (Err(Some(nix::libc::EPERM)), Err(Errno::PERM)) => {
            Ok(format!("ABI {abi}; a signal and an abstract socket outside the rules were refused"))
        }
        other => Err(format!("a signal or an abstract socket outside the rules was not refused: {other:?}")),
    }
}

/// The whole round trip: a filtered process makes a refused call, its supervisor answers it.
pub fn seccomp_denies() -> Result<String, String> {
    let text = |e: std::io::Error| e.to_string();
    let filter = seccomp::compile(&Controls::of(Profile::Hardened)).map_err(|e| e.why)?;
    let (ours, theirs) = control::pair().map_err(text)?;
    if sys::fork().map_err(text)?.is_none() {
        drop(ours);
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let result = (|| {
            rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string())?;
            sys::seccomp_install(&filter.clone3, false).map_err(text)?;
            let listener = sys::seccomp_install(&filter.list, true).map_err(text)?.ok_or("no listener")?;
            let begun = Ok::<_, String>(String::new());
            control::send(theirs.as_fd(), &begun, &[listener.as_fd()]).map_err(text)?;
            // Containers let this call through, so it is our filter that answers.
            let refused = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).map(drop);
            let absent = sys::clone3_answer().raw_os_error();
            match (refused, absent) {
                (Err(Errno::PERM), Some(nix::libc::ENOSYS)) => Ok("a call off the list was refused".to_owned()),
                other => Err(format!("calls off the list were not refused: {other:?}")),
            }
        })();
        let _: Result<(), _> = control::send(theirs.as_fd(), &result, &[]);
        sys::exit_now(0);
    }
    drop(theirs);
    let listener = match control::receive::<Result<String, String>>(ours.as_fd()) {
        Ok(Some((Ok(_), descriptors))) => descriptors.into_iter().next().ok_or("no descriptor for refused calls")?,
        Ok(Some((Err(why), _))) => return Err(why),
        _ => return Err("the filter was not taken".to_owned()),
    };
    // Whichever comes first: a filter that surrounds this one may answer in its place, and then nothing is reported.
    let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&ours, PollFlags::IN)];
    poll(&mut fds, None).map_err(|e| e.to_string())?;
    let reported = fds.first().is_some_and(|fd| fd.revents().contains(PollFlags::IN));
    let reported = if reported { sys::seccomp_receive(listener.as_fd()).map_err(text)? } else { None };
    if let Some(refused) = reported {
        sys::seccomp_refuse(listener.as_fd(), refused).map_err(text)?;
    }
    match (control::receive::<Result<String, String>>(ours.as_fd()), reported) {
        (Ok(Some((result, _))), Some(refused)) => {
            result.map(|what| format!("{what} and reported as `{}`", seccomp::name(refused.number)))
        }
        (Ok(Some((Err(why), _))), None) => Err(why),
        (Ok(Some((Ok(_), _))), None) => Err("a call was refused by another filter, and not reported".to_owned()),
        _ => Err("the filtered process died".to_owned()),
    }
}

fn cgroups() -> Result<String, String> {
    let hosts = Hosts::read().map_err(|e| e.to_string())?;
    let name = format!("cogward-probe-{}", std::process::id());
    let beside = crate::driver::Overhead { memory_mib: 0, pids: 1 };
    let mut group = Cgroup::create(&hosts, &name, &Resources::default(), beside).map_err(|e| e.to_string())?;
    let result = use_group(&mut group);
    group.kill(|| while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {});
    group.remove();
    result
}

fn use_group(group: &mut Cgroup) -> Result<String, String> {
    let target = group.clone_target().map_err(|e| e.to_string())?;
    let pid =
        match sys::clone_into(0, target.as_ref().map(AsFd::as_fd)).map_err(|e| format!("CLONE_INTO_CGROUP: {e}"))? {
            sys::Side::Child => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            sys::Side::Parent(pid, _) => pid,
        };
    let done = group.attach(pid).and_then(|()| group.freeze()).and_then(|()| group.thaw());
    let reap = || while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {};
    let (killed, empty) = group.kill(reap);
    done.map_err(|e| e.to_string())?;
    match (killed, empty) {
        (1, true) => Ok(format!("{}: limits set, a process attached, frozen, thawed and killed", group.kind())),
        other => Err(format!("a process in a group could not be killed: {other:?}")),
    }
}

/// A place for an image that every host has; the runs' own are in the plane's data directory.
fn workspace_on_disk() -> Result<String, String> {
    in_directory(disk::probe, &TEMPORARY)
}

/// Where the plane keeps images, if this is its data directory: not every file system has files that can be mounted.
fn package_image() -> Result<String, String> {
    let own = std::env::current_dir().map(|place| place.join("images")).unwrap_or_default();
    let tops: Vec<&Path> = if own.is_dir() { vec![&own] } else { TEMPORARY.map(Path::new).to_vec() };
    in_directory(crate::image::probe, &tops)
}

/// Directories for temporary files.
const TEMPORARY: [&str; 3] = ["/var/tmp", "/tmp", "/dev/shm"];

/// Does something with a directory that goes again.
fn in_directory(probe: fn(&Path) -> Result<String, String>, tops: &[impl AsRef<Path>]) -> Result<String, String> {
    let name = format!("cogward-probe-{}", std::process::id());
    let dirs: Vec<_> = tops.iter().map(|top| top.as_ref().join(&name)).collect();
    let made = |dir: &&std::path::PathBuf| std::fs::DirBuilder::new().mode(0o700).create(dir).is_ok();
    let dir = dirs.iter().find(made).ok_or("no directory for temporary files can be written to")?;
    let result = probe(dir);
    let _gone = std::fs::remove_dir_all(dir);
    result
}

fn overlay() -> Result<String, String> {
    in_namespaces(|| {
        let attributes = rustix::mount::MountAttrFlags::MOUNT_ATTR_NOSUID;
        let root = tree::file_system("tmpfs", &[("size", "64k")], attributes).map_err(|e| e.to_string())?;
        rustix::process::fchdir(&root).map_err(|e| e.to_string())?;
        for name in ["lower", "upper", "work"] {
            rustix::fs::mkdir(name, Mode::from_raw_mode(0o755)).map_err(|e| e.to_string())?;
        }
        let options = [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"), ("userxattr", "")];
        tree::file_system("overlay", &options, attributes)
            .map(|_| "mounted in a user namespace".to_owned())
            .map_err(|e| format!("overlay in a user namespace: {e}"))
    })
}

fn runsc() -> Result<String, String> {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let Some(path) = places.iter().map(|p| Path::new(p).join("runsc")).find(|p| p.is_file()) else {
        return Err("there is no runsc on this host".to_owned());
    };
    let output = Command::new(&path).arg("--version").env_clear().stdin(Stdio::null()).output();
    let output = output.map_err(|e| e.to_string())?;
    let version =
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().chars().take(100).collect();
    if output.status.success() { Ok(version) } else { Err(format!("{} does not run", path.display())) }
}

fn kvm() -> Result<String, String> {
    let open = rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = open.map_err(|e| format!("/dev/kvm: {e}"))?;
    let version = sys::kvm_version(fd.as_fd()).map_err(|e| e.to_string())?;
    Ok(format!("API version {version}; that a guest starts is not proven by this"))
}
