//! The probes themselves. Each runs in a forked process that may restrict itself for good.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cogward_model::manifest::{Profile, Resources};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
    process::{Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid},
};

use super::Check;
use crate::{
    cgroup::{Cgroup, Hosts},
    native::{self, Uids, control, landlock, network, seccomp, sys, tree},
    profile::Controls,
};

/// Time for one probe. One that takes longer hangs, and counts as missing.
const ONE_MAX: Duration = Duration::from_secs(2);

type Probe = fn() -> Result<String, String>;

const PROBES: [(&str, &str, Probe); 12] = [
    ("kernel", "run Linux 6.7 or later", kernel),
    (
        "namespaces",
        "allow user namespaces: user.max_user_namespaces above 0, and on Ubuntu an AppArmor profile for this program \
         with `userns,` (or kernel.apparmor_restrict_unprivileged_userns=0)",
        namespaces,
    ),
    (
        "mounts",
        "something strips the capabilities of user namespaces (AppArmor, SELinux or a container's seccomp profile): \
         allow mounts in the plane's user namespaces",
        mounts,
    ),
    (
        "proc",
        "run the plane on the host or in a container whose /proc is not masked (Docker: systempaths=unconfined)",
        proc,
    ),
    ("loopback", "allow the configuration of network interfaces in the plane's user namespaces", loopback),
    (
        "landlock",
        "boot with Landlock in the list of security modules (lsm=landlock,...), on Linux 6.7 or later",
        landlock_denies,
    ),
    ("landlock-scopes", "needed by profile hardened: run Linux 6.12 or later", landlock_scopes),
    (
        "seccomp",
        "use a kernel with CONFIG_SECCOMP_FILTER, and a container profile that permits user notification",
        seccomp_denies,
    ),
    (
        "cgroups",
        "run the plane as root, or delegate control groups to it: a systemd unit with Delegate=yes and \
         DelegateSubgroup=cogward-plane on cgroup version 2",
        cgroups,
    ),
    ("overlayfs", "not needed by any profile yet", overlay),
    ("runsc", "not needed by any profile yet", runsc),
    ("kvm", "not needed by any profile yet", kvm),
];

/// Does every probe, one after the other.
pub fn all() -> Vec<Check> {
    PROBES
        .iter()
        .map(|(name, fix, probe)| {
            let begin = Instant::now();
            let result = isolated(*probe);
            let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            let ok = result.is_ok();
            let detail = result.unwrap_or_else(|why| why);
            Check { mechanism: (*name).to_owned(), ok, detail, fix: (!ok).then(|| (*fix).to_owned()), micros }
        })
        .collect()
}

/// Runs a probe in a process of its own.
fn isolated(probe: Probe) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| text(&e))?;
    let Some(child) = sys::fork().map_err(|e| text(&e))? else {
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let result = std::panic::catch_unwind(probe).unwrap_or_else(|_| Err("the probe panicked".to_owned()));
        let bytes = serde_json::to_vec(&result).unwrap_or_default();
        let _ = std::fs::File::from(write).write_all(&bytes);
        sys::exit_now(0);
    };
    drop(write);
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    let answered = poll(&mut fds, Timespec::try_from(ONE_MAX).ok().as_ref());
    let pid = rustix::process::Pid::from_raw(child.as_raw());
    let mut bytes = Vec::new();
    if matches!(answered, Ok(1)) {
        // The answer is one small write; more never follows.
        let mut chunk = [0; 4096];
        let n = std::fs::File::from(read).read(&mut chunk).unwrap_or_default();
        bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    match answered {
        Ok(1) => serde_json::from_slice(&bytes).unwrap_or_else(|_| Err("the probe died".to_owned())),
        _ => Err("the probe hung".to_owned()),
    }
}

fn kernel() -> Result<String, String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 7) => Ok(format!("Linux {release}")),
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

fn landlock_denies() -> Result<String, String> {
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
fn landlock_scopes() -> Result<String, String> {
    let abi = sys::landlock_abi().map_err(|e| format!("no Landlock: {e}"))?;
    let controls = Controls::of(Profile::Hardened);
    if abi < controls.landlock_abi {
        return Err(format!("Landlock has ABI {abi}, {} is needed", controls.landlock_abi));
    }
    let name = SocketAddr::from_abstract_name(format!("cogward-probe-{}", std::process::id()));
    let name = name.map_err(|e| e.to_string())?;
    let _listener = UnixListener::bind_addr(&name).map_err(|e| format!("an abstract socket: {e}"))?;
    let outside = rustix::process::getppid().ok_or("no parent")?;
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
fn seccomp_denies() -> Result<String, String> {
    let text = |e: std::io::Error| e.to_string();
    let filter = seccomp::compile(&Controls::of(Profile::Hardened)).map_err(|e| e.why)?;
    let (ours, theirs) = control::pair().map_err(text)?;
    if sys::fork().map_err(text)?.is_none() {
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let result = (|| {
            rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string())?;
            sys::seccomp_install(&filter.clone3, false).map_err(text)?;
            let listener = sys::seccomp_install(&filter.list, true).map_err(text)?.ok_or("no listener")?;
            control::send(theirs.as_fd(), &(), &[listener.as_fd()]).map_err(text)?;
            let refused = nix::sched::unshare(nix::sched::CloneFlags::empty());
            let absent = sys::clone3_answer().raw_os_error();
            match (refused, absent) {
                (Err(nix::errno::Errno::EPERM), Some(nix::libc::ENOSYS)) => {
                    Ok("a call off the list was refused".to_owned())
                }
                other => Err(format!("calls off the list were not refused: {other:?}")),
            }
        })();
        let _: Result<(), _> = control::send(theirs.as_fd(), &result, &[]);
        sys::exit_now(0);
    }
    drop(theirs);
    let listener = match control::receive::<()>(ours.as_fd()) {
        Ok(Some((_, descriptors))) => descriptors.into_iter().next().ok_or("no descriptor for refused calls")?,
        _ => return Err("the filter was not taken".to_owned()),
    };
    let refused = sys::seccomp_receive(listener.as_fd()).map_err(text)?.ok_or("no refused call was reported")?;
    sys::seccomp_refuse(listener.as_fd(), refused).map_err(text)?;
    match control::receive::<Result<String, String>>(ours.as_fd()) {
        Ok(Some((result, _))) => {
            result.map(|what| format!("{what} and reported as `{}`", seccomp::name(refused.number)))
        }
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
