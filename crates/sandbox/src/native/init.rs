//! Pid 1 of a sandbox: builds it, forks the agent's process, reaps, and dies with its supervisor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{DumpableBehavior, set_dumpable_behavior, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::{
    At, Stage, Uids, agent,
    control::{self, FromSandbox, ToInit},
    mounts::{self, Sources},
    network, seccomp, sys,
};
use crate::{
    profile::Controls,
    service::{Network, Shown},
    spec::LaunchSpec,
};

/// The descriptors that init and the agent's process are given.
#[derive(Debug)]
pub struct Ends<'a> {
    /// Init's end of the control pair.
    pub control: BorrowedFd<'a>,
    /// A byte here lets the agent execute.
    pub start: &'a OwnedFd,
    /// The agent's standard output.
    pub stdout: &'a OwnedFd,
    /// The agent's standard error.
    pub stderr: &'a OwnedFd,
    /// The file system of a workspace on disk.
    pub workspace: Option<BorrowedFd<'a>>,
    /// A mount of the image that the package comes from.
    pub package: Option<BorrowedFd<'a>>,
    /// The standard input of a program of the operator's.
    pub stdin: Option<BorrowedFd<'a>>,
    /// The paths of the host that it is shown.
    pub shown: &'a [Shown],
}

/// Everything init does. Never returns: this is a copy of the supervisor's process.
pub fn main(spec: &LaunchSpec, controls: &Controls, uids: Uids, ends: &Ends<'_>) -> ! {
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let agent = prepare(spec, controls, uids, ends)?;
        serve(agent, ends.control, false)
    }));
    let stage = match attempt {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(stage)) => stage,
        Err(_) => Stage::new("init", &"panicked"),
    };
    let Stage { stage, why } = stage;
    let _ = control::send(ends.control, &FromSandbox::Failed { stage, why }, &[]);
    sys::exit_now(1)
}

fn prepare(spec: &LaunchSpec, controls: &Controls, uids: Uids, ends: &Ends<'_>) -> Result<Pid, Stage> {
    // The supervisor's own end of the pair is among those closed; otherwise its death would never be seen.
    let mut kept = vec![ends.control, ends.start.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()];
    kept.extend(ends.workspace.into_iter().chain(ends.package).chain(ends.stdin));
    kept.extend(ends.shown.iter().map(|shown| shown.mount.as_fd()));
    sys::close_all_but(&kept).at("descriptors")?;
    rustix::process::setsid().at("session")?;
    // The supervisor's own umask closes what it writes on the host; what is made in here is for the agent to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // When the host itself runs out of memory, agents go before the plane does. Inherited by the agent, which cannot
    // lower it. Not every container lets it be written, and nothing that is promised depends on it.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    // A crash of init itself has the host execute nothing either.
    super::crash::limit().at("limit of core files")?;
    let sources = Sources::open(spec, uids, ends.package)?;
    expect(ends.control, |m| matches!(m, ToInit::Mapped))?;
    super::become_first_uid(uids).at("uid of init")?;
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // After the change of uid, which clears it. The end of the control pair says the same to a running init; this
    // signal also reaches a frozen one.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).at("death signal")?;
    rustix::system::sethostname(b"cogward").at("host name")?;
    let listeners = match &spec.service {
        None => network::listeners().at("listeners")?,
        Some(service) => {
            if service.network == Network::None {
                network::loopback().at("loopback")?;
            }
            Vec::new()
        }
    };
    let mut built = mounts::build(spec, sources, ends.workspace, ends.shown)?;
    let mut handed: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    handed.push(built.work.as_fd());
    handed.extend(built.late.iter().flatten().map(AsFd::as_fd));
    control::send(ends.control, &FromSandbox::Listeners, &handed).at("control socket")?;
    drop(handed);
    drop(listeners);
    // The supervisor's alone from here on: the agent's process never has them.
    built.late = None;
    // While the supervisor puts this process into its cgroups, which takes the kernel longest.
    let filter = seccomp::compile(controls)?;
    expect(ends.control, |m| matches!(m, ToInit::Limited))?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).at("cgroup namespace")?;

    let pid = match sys::fork().at("fork of the agent")? {
        None => agent::main(spec, controls, uids, &filter, ends, &built),
        Some(pid) => pid,
    };
    drop(built);
    drop_privileges().at("privileges of init")?;
    sys::close_all_but(&[ends.control]).at("descriptors")?;
    control::send(ends.control, &FromSandbox::Dropped, &[]).at("control socket")?;
    Ok(pid)
}

/// Waits for one message of the supervisor. Its death ends init, and with init everything.
pub fn expect(control: BorrowedFd<'_>, wanted: impl Fn(&ToInit) -> bool) -> Result<(), Stage> {
    match control::receive::<ToInit>(control).at("control socket")? {
        Some((message, _)) if wanted(&message) => Ok(()),
        Some(_) => Err(Stage::new("control socket", &"an unexpected message")),
        None => sys::exit_now(1),
    }
}

/// Becomes a uid of the sandbox, without supplementary groups.
pub fn become_uid(uid: u32) -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Empties the bounding set, while that is still permitted. The agent does it before it changes its uid.
pub fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..64_u32 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // Past the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Gives up every capability for good.
pub fn empty_capabilities() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)
}

/// Gives up everything that this process may, for good.
pub fn drop_privileges() -> rustix::io::Result<()> {
    empty_bounding_set()?;
    empty_capabilities()
}

/// Reaps until the supervisor is gone, and says how `first` ended. The supervisor ends the sandbox; init never decides
/// to, unless it is nothing `without` its first process.
pub fn serve(first: Pid, control: BorrowedFd<'_>, without: bool) -> Result<(), Stage> {
    let children = SigSet::from(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).at("signals of init")?;
    let ended =
        SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).at("signals of init")?;
    loop {
        // Before the first poll as well: a child may have ended before its signal was blocked.
        if reap(first, control) && without {
            return Ok(());
        }
        let mut fds = [PollFd::new(&control, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).at("poll of init"),
        }
        let [from_supervisor, _] = fds;
        if !from_supervisor.revents().is_empty() {
            // It never speaks after the launch: this is its end of file.
            return Ok(());
        }
        while let Ok(Some(_)) = ended.read_signal() {}
    }
}

/// Whether the first process was among those that have ended.
fn reap(first: Pid, control: BorrowedFd<'_>) -> bool {
    let mut ended = false;
    loop {
        let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return ended,
        };
        if pid == first {
            ended = true;
            let _ = control::send(control, &FromSandbox::AgentEnded { code, signal }, &[]);
        }
    }
}
