//! The supervisor of one run: a process of its own, with one thread, that outlives the plane.
//!
//! It makes the sandbox, keeps the descriptors, carries out commands, answers refused system calls, bounds the
//! logs and writes down the end. It is the only parent the sandbox has: when it dies, the sandbox dies. It holds
//! no secret and never reads what the agent writes as anything but bytes.

mod artifacts;
mod clients;
mod launch;
mod logs;
mod record;
mod serve;
mod violations;

use std::{fs, io, path::Path, process::ExitCode};

use cogward_model::manifest::Profile;
use rustix::fs::{FlockOperation, Mode, OFlags};

pub use launch::GROUPS_FILE;
pub(crate) use launch::{Sandbox, launch, reap_all};
pub use record::{EXIT_FILE, LATE_INPUT_FILE, OUTPUT_FILE};

use crate::{
    native::sys,
    profile::{Controls, LeftOut},
    protocol::LaunchFailure,
    spec::LaunchSpec,
};

/// File of the run directory that holds the launch, and the lock of its supervisor.
pub const SPEC_FILE: &str = "spec.json";
/// Largest launch that is read back.
const SPEC_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The role `supervise`: supervises the run whose `spec.json` is in `run_dir`, to its end.
///
/// Standard input is the plane's first connection. Must be called before the process has a second thread. With
/// `--probe` in the place of the directory the host is probed instead, for [`crate::doctor::probe`]; with `--attack`,
/// which does nothing outside of a sandbox, it is an attacker of [`crate::battery`].
pub fn supervisor_main(run_dir: &Path) -> ExitCode {
    supervise_with(run_dir, Controls::of)
}

/// The same, but one control is left out: what tests look for in the sandbox must then be found. Nothing in the
/// product calls this, and no launch, manifest or request can ask for it.
#[doc(hidden)]
pub fn supervisor_main_without(run_dir: &Path, left_out: LeftOut) -> ExitCode {
    supervise_with(run_dir, |profile| Controls { left_out: Some(left_out), ..Controls::of(profile) })
}

fn supervise_with(run_dir: &Path, controls: impl Fn(Profile) -> Controls) -> ExitCode {
    if run_dir == Path::new(crate::doctor::PROBE_ROLE) {
        return crate::doctor::probe_main();
    }
    if run_dir == Path::new(crate::battery::inside::ATTACK_ROLE) {
        return crate::battery::inside::main();
    }
    let first_client = match first_client() {
        Ok(fd) => fd,
        Err(error) => {
            eprintln!("cogward supervise: standard input: {error}");
            return ExitCode::FAILURE;
        }
    };
    match supervise(run_dir, first_client, controls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The plane has been told, as far as that was possible; this is for whoever reads the run directory.
            eprintln!("cogward supervise: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Standard input, under another number: what is closed later must not leave one of the standard numbers free.
fn first_client() -> io::Result<Option<std::os::fd::OwnedFd>> {
    // Taken before anything else is opened, so that the number cannot be anyone else's.
    let Some(stdin) = sys::inherited(0) else { return Ok(None) };
    let client = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::move_to_standard(&nothing, 0)?;
    // The number stays open; only who owned the old descriptor is forgotten.
    std::mem::forget(stdin);
    Ok(Some(client))
}

fn supervise(
    run_dir: &Path,
    first_client: Option<std::os::fd::OwnedFd>,
    controls: impl Fn(Profile) -> Controls,
) -> Result<(), LaunchFailure> {
    let failed = |stage: &str, why: &dyn std::fmt::Display| LaunchFailure { stage: stage.into(), why: why.to_string() };
    if !sys::is_single_threaded() {
        return Err(failed("supervisor", &"the process has more than one thread"));
    }
    sys::close_all_but(&first_client.iter().map(std::os::fd::AsFd::as_fd).collect::<Vec<_>>())
        .map_err(|e| failed("descriptors", &e))?;
    // Fails only when it already leads a session.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let _lock = lock(run_dir).map_err(|e| failed("lock of the run directory", &e))?;
    let mut clients = clients::Clients::listen(run_dir).map_err(|e| failed("supervisor socket", &e))?;
    if let Some(fd) = first_client {
        clients.adopt(fd);
    }
    let spec = match read_spec(run_dir) {
        Ok(spec) => spec,
        Err(why) => {
            let failure = failed(SPEC_FILE, &why);
            record::launch_failed(run_dir, &mut clients, &failure);
            return Err(failure);
        }
    };
    match launch::launch(&spec, &controls(spec.profile)) {
        Ok(sandbox) => {
            // Not before: the uid map of a child that is not dumpable can only be written by root.
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            serve::Supervisor::new(&spec, sandbox, clients).run();
            Ok(())
        }
        Err(stage) => {
            let failure = LaunchFailure { stage: stage.stage, why: stage.why };
            record::launch_failed(run_dir, &mut clients, &failure);
            Err(failure)
        }
    }
}

/// One supervisor for a run directory; held as long as this process lives.
fn lock(run_dir: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let fd = rustix::fs::open(run_dir.join(SPEC_FILE), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // A plane that asks whether this run has a supervisor holds the lock for a moment.
    for _ in 0..100 {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(5)),
            other => return Ok(other.map(|()| fd)?),
        }
    }
    Err(io::Error::other("another supervisor has this run"))
}

fn read_spec(run_dir: &Path) -> Result<LaunchSpec, String> {
    let path = run_dir.join(SPEC_FILE);
    let length = fs::metadata(&path).map_err(|e| e.to_string())?.len();
    if length > SPEC_BYTES_MAX {
        return Err("larger than 16 MiB".to_owned());
    }
    let bytes = fs::read(&path).map_err(|e| e.to_string())?;
    let spec: LaunchSpec = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    spec.validate().map_err(|e| e.to_string())?;
    Ok(spec)
}
