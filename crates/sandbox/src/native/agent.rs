//! The agent's process before it is the agent: restrict, check from inside, wait, execute.

use std::{
    convert::Infallible,
    ffi::CString,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    AGENT_UID, At, Stage, Uids,
    control::{self, FromSandbox},
    crash,
    init::{self, Ends},
    landlock, mounts,
    mounts::Built,
    seccomp::Filter,
    sys,
};
use crate::{
    profile::Controls,
    service::{self, Network},
    spec::{LaunchSpec, MODEL_PORT},
};

/// Everything up to the `execve`. Never returns: this is a copy of init's process.
pub fn main(spec: &LaunchSpec, controls: &Controls, uids: Uids, filter: &Filter, ends: &Ends<'_>, built: &Built) -> ! {
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let checks = restrict(spec, controls, uids, filter, ends, built)?;
        control::send(
            ends.control,
            &FromSandbox::Held {
                checks,
                instructions: filter.list.len() + filter.clone3.len(),
                allowed: filter.allowed,
                filter: filter.digest(),
            },
            &[],
        )
        .at("control socket")?;
        let mut byte = [0_u8];
        match rustix::io::read(ends.start, &mut byte) {
            Ok(1) if spec.service.is_some() => service::secret_from(ends.start.as_fd()).at("secret"),
            Ok(1) => Ok(None),
            // The supervisor is gone before it said so: the agent never runs.
            _ => sys::exit_now(1),
        }
    }));
    let (secret, failed) = match attempt {
        Ok(Ok(secret)) => (secret, None),
        Ok(Err(stage)) => (None, Some(stage)),
        Err(_) => (None, Some(Stage::new("agent", &"panicked"))),
    };
    if let Some(Stage { stage, why }) = failed {
        let _ = control::send(ends.control, &FromSandbox::Failed { stage, why }, &[]);
        sys::exit_now(1);
    }
    let Err(error) = execute(spec, secret);
    let _ = control::send(ends.control, &FromSandbox::NotExecutable { why: error.to_string() }, &[]);
    sys::exit_now(127)
}

fn restrict(
    spec: &LaunchSpec,
    controls: &Controls,
    uids: Uids,
    filter: &Filter,
    ends: &Ends<'_>,
    built: &Built,
) -> Result<Vec<String>, Stage> {
    rustix::process::setsid().at("session")?;
    match ends.stdin {
        Some(stdin) => sys::move_to_standard(&stdin.try_clone_to_owned().at("standard streams")?, 0),
        None => sys::move_to_standard(&built.stdin, 0),
    }
    .at("standard streams")?;
    sys::move_to_standard(ends.stdout, 1).at("standard streams")?;
    sys::move_to_standard(ends.stderr, 2).at("standard streams")?;
    sys::close_on_exec_from(3).at("descriptors")?;
    sys::signals_to_default();
    limits(spec).at("resource limits")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    init::empty_bounding_set().at("bounding set")?;
    if matches!(uids, Uids::OwnRange { .. }) {
        init::become_uid(AGENT_UID).at("uid of the agent")?;
    }
    init::empty_capabilities().at("capabilities")?;
    rustix::process::chdir(spec.cwd.as_str()).at("working directory")?;
    if controls.landlock_holds() {
        landlock::restrict(&built.grants, controls)?;
    }
    if controls.write_or_execute_holds() {
        sys::refuse_execution_of_what_was_written().at("memory protection")?;
    }
    // First the one that reports nothing: once the list is in place, `seccomp` itself is refused.
    sys::seccomp_install(&filter.clone3, false).at("seccomp")?;
    let refusals = sys::seccomp_install(&filter.list, true).at("seccomp")?;
    let refusals = refusals.ok_or_else(|| Stage::new("seccomp", &"no descriptor for refused calls"))?;
    control::send(ends.control, &FromSandbox::Refusals, &[refusals.as_fd()]).at("control socket")?;
    check(spec, controls)
}

/// What `getrlimit` bounds beside the cgroup.
fn limits(spec: &LaunchSpec) -> io::Result<()> {
    let bounds = [
        (Resource::Nofile, u64::from(spec.resources.open_files)),
        (Resource::Core, crash::CORE_LIMIT),
        (Resource::Fsize, u64::from(spec.resources.workspace_mib) * 1024 * 1024),
        (Resource::Msgqueue, 64 * 1024),
        (Resource::Memlock, 1024 * 1024),
        (Resource::Rtprio, 0),
    ];
    for (resource, wanted) in bounds {
        let now = getrlimit(resource);
        let limit = now.maximum.map_or(wanted, |most| most.min(wanted));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// Proves from inside that each control holds. What fails here stops the run before its first instruction.
fn check(spec: &LaunchSpec, controls: &Controls) -> Result<Vec<String>, Stage> {
    let hosts_network = spec.service.as_ref().is_some_and(|service| service.network == Network::Host);
    let mut passed = Vec::new();
    let mut must = |holds: bool, what: &str| {
        passed.push(what.to_owned());
        if holds { Ok(()) } else { Err(Stage::new("self-check", &format!("not in force: {what}"))) }
    };
    let status = std::fs::read_to_string("/proc/self/status").at("self-check")?;
    let line = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)).map(|rest| rest.trim_start_matches(':').trim()).unwrap_or("?")
    };
    must(line("NoNewPrivs") == "1", "no_new_privs")?;
    must(line("Seccomp") == "2", "system-call filter")?;
    let empty = |name| line(name).bytes().all(|b| b == b'0');
    must(
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].into_iter().all(empty),
        "no capabilities, bounding set empty",
    )?;
    let most = getrlimit(Resource::Core).maximum;
    must(most.is_some_and(|most| most <= crash::CORE_LIMIT), "a crash has the host execute nothing")?;
    if controls.write_or_execute_holds() {
        let refused =
            |answer: &io::Result<()>| answer.as_ref().is_err_and(|e| e.raw_os_error() == Some(nix::libc::EACCES));
        must(sys::execution_of_what_was_written().iter().all(refused), "memory that was written cannot be executed")?;
    }
    if controls.seccomp_holds() {
        must(sys::clone3_answer().raw_os_error() == Some(nix::libc::ENOSYS), "clone3 is not there")?;
        // Answered by the supervisor, so this also proves that it reports.
        let refused = nix::sched::unshare(nix::sched::CloneFlags::empty());
        must(matches!(refused, Err(nix::errno::Errno::EPERM)), "a call off the list is refused and reported")?;
        if !controls.datagrams {
            let datagrams = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
            must(matches!(datagrams, Err(rustix::io::Errno::PERM)), "there are no datagram sockets")?;
        }
    }
    let stream = || socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).at("self-check");
    if controls.landlock_holds() {
        let denied = rustix::fs::open(mounts::PROBE_FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        must(matches!(denied, Err(rustix::io::Errno::ACCESS)), "landlock refuses a file outside its rules")?;
        if !hosts_network {
            let connected = connect(stream()?, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));
            must(matches!(connected, Err(rustix::io::Errno::ACCESS)), "landlock refuses a port outside its rules")?;
        }
    }
    if spec.service.is_none() {
        // On a port that Landlock would let pass.
        let routed = connect(stream()?, &SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), MODEL_PORT));
        must(matches!(routed, Err(rustix::io::Errno::NETUNREACH)), "no route leaves the sandbox")?;
    }
    let written = rustix::fs::open(
        "/cogward-probe",
        OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    );
    must(written.is_err(), "the root cannot be written to")?;
    Ok(passed)
}

fn execute(spec: &LaunchSpec, secret: Option<String>) -> io::Result<Infallible> {
    let text = |t: &str| CString::new(t).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let argv = spec.argv.iter().map(|a| text(a)).collect::<io::Result<Vec<_>>>()?;
    let env = spec.env.iter().map(|(k, v)| format!("{k}={v}")).chain(secret);
    let env = env.map(|variable| text(&variable)).collect::<io::Result<Vec<_>>>()?;
    let program = spec.argv.first().map(String::as_str).unwrap_or_default();
    if program.contains('/') {
        return Ok(nix::unistd::execve(&text(program)?, &argv, &env)?);
    }
    let path = spec.env.iter().find(|(k, _)| k == "PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, v)| v);
    let mut worst = io::Error::from(rustix::io::Errno::NOENT);
    for directory in path.split(':').filter(|d| d.starts_with('/')) {
        let Err(error) = nix::unistd::execve(&text(&format!("{directory}/{program}"))?, &argv, &env);
        if error != nix::errno::Errno::ENOENT {
            worst = error.into();
        }
    }
    Err(worst)
}
