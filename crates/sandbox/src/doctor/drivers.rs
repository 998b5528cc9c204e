//! The drivers of a host, probed by the very thing: a sandbox of each that is configured.
//!
//! That a runtime is installed and says a version proves nothing about whether it makes a sandbox here. So one is made,
//! as for a run: its agent is held, checked from inside, started, frozen, let go on and asked to end.

use std::{
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use cogward_model::{
    Id, RunId, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid},
};

use super::{Check, versions};
use crate::{
    cgroup::{self, Hosts},
    config::SandboxConfig,
    driver::{Event, firecracker},
    native::sys,
    profile::Controls,
    spec::{DriverSettings, LaunchSpec, Root, UID_SLOTS},
    storage::Storage,
    supervisor::{self, Sandbox},
};

/// Time for the probe of one driver. One that takes longer hangs, and counts as missing.
const ONE_MAX: Duration = Duration::from_secs(25);
/// Time for one step of it.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Largest answer of a probe.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// One check for each profile whose driver is configured. The caller has a single thread.
pub fn all(config: &SandboxConfig) -> Vec<Check> {
    let configured = [Profile::Container, Profile::Gvisor, Profile::Microvm];
    configured.into_iter().filter_map(|profile| Some(one(profile, config.driver(profile)?))).collect()
}

fn one(profile: Profile, driver: DriverSettings) -> Check {
    let begin = Instant::now();
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    let result = isolated(run, |directory| match &driver {
        DriverSettings::Firecracker(settings) => firecracker::probe::probe(settings, run, directory),
        _ => live(run, profile, driver.clone(), directory),
    });
    let ok = result.is_ok();
    let fix =
        "install what the sandbox configuration names for it, or name another; docs/sandbox.md says what it needs";
    Check {
        mechanism: profile.as_str().to_owned(),
        ok,
        detail: result.unwrap_or_else(|why| why),
        fix: (!ok).then(|| fix.to_owned()),
        micros: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

/// Makes a sandbox and takes it through its life.
fn live(run: RunId, profile: Profile, driver: DriverSettings, directory: &Path) -> Result<String, String> {
    let begin = Instant::now();
    let spec = LaunchSpec {
        run,
        run_dir: directory.to_owned(),
        profile,
        driver,
        resources: Resources { memory_mib: 64, workspace_mib: 1, ..Resources::default() },
        root: Root::HostUsr,
        mounts: Vec::new(),
        package_image: None,
        argv: vec!["/bin/sleep".to_owned(), "60".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        files: Vec::new(),
        stdin: Vec::new(),
        late_input: false,
        // The last one: a plane begins at the other end.
        uid_slot: UID_SLOTS - 1,
        grace: Duration::from_secs(1),
        storage: Storage::default(),
        wall_clock: ONE_MAX,
        service: None,
    };
    spec.validate().map_err(|e| e.to_string())?;
    let mut sandbox =
        supervisor::launch(&spec, &Controls::of(profile)).map_err(|s| format!("{}: {}", s.stage, s.why))?;
    let lived = through(&mut sandbox);
    let Sandbox { carried, cgroup, .. } = &mut sandbox;
    let (_, empty) = carried.kill(cgroup, &mut supervisor::reap_all);
    carried.remove();
    cgroup.remove();
    lived?;
    if !empty {
        return Err("its processes could not be killed".to_owned());
    }
    let said = carried.enforcement();
    let runtime = said.runtime.as_ref().map_or(String::new(), |r| format!("{} {}: ", r.name, r.version));
    let (checks, took) = (said.self_checks.len(), begin.elapsed().as_millis());
    let warning = said.runtime.as_ref().and_then(|r| versions::warning(&r.name, &r.version));
    let warning = warning.map_or(String::new(), |why| format!(". Warning: {why}"));
    Ok(format!(
        "{runtime}a sandbox was held, passed {checks} checks from inside, ran, was frozen and ended; {took} ms{warning}"
    ))
}

fn through(Sandbox { carried, cgroup, .. }: &mut Sandbox) -> Result<(), String> {
    let failed = |what: &'static str| move |e: std::io::Error| format!("{what}: {e}");
    carried.start().map_err(failed("start"))?;
    carried.suspend(cgroup).map_err(failed("freezing"))?;
    carried.resume(cgroup).map_err(failed("thawing"))?;
    carried.terminate(cgroup).map_err(failed("ending"))?;
    let deadline = Instant::now() + STEP_MAX;
    let mut events = Vec::new();
    while Instant::now() < deadline {
        let ready = {
            let watched = carried.watched();
            let mut fds: Vec<_> = watched.iter().map(|w| PollFd::from_borrowed_fd(w.fd, w.flags)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            poll(&mut fds, Timespec::try_from(left).ok().as_ref()).map_err(|e| e.to_string())?;
            let ready = watched.iter().zip(&fds).find(|(_, fd)| !fd.revents().is_empty());
            ready.map(|(watched, _)| watched.token)
        };
        let Some(token) = ready else { continue };
        carried.turn(token, &mut events);
        if let Some(Event::Ended { code, signal }) = events.iter().find(|e| matches!(e, Event::Ended { .. })) {
            return match (code, signal) {
                (None, Some(15)) => Ok(()),
                other => Err(format!("its program ended in another way than it was asked to: {other:?}")),
            };
        }
        if events.contains(&Event::Gone) {
            return Err("it was gone before its program ended".to_owned());
        }
    }
    Err("its program did not end when it was asked to".to_owned())
}

/// Does a probe in a process and a directory of its own, and leaves neither behind.
fn isolated(run: RunId, probe: impl FnOnce(&Path) -> Result<String, String>) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let directory = std::env::temp_dir().join(format!("cogward-probe-{run}"));
    // Nobody else's, and not there before.
    std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|e| text(&e))?;
    let result = forked(&directory, probe);
    let name = cgroup::name_of(run);
    if let Ok(groups) = Hosts::read().map_err(|e| text(&e)).and_then(|h| h.groups(&name).map_err(|e| text(&e))) {
        let _ = cgroup::sweep(&groups, &name);
    }
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn forked(directory: &Path, probe: impl FnOnce(&Path) -> Result<String, String>) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| text(&e))?;
    let Some(child) = sys::fork().map_err(|e| text(&e))? else {
        drop(read);
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let attempt = std::panic::AssertUnwindSafe(|| probe(directory));
        let result = std::panic::catch_unwind(attempt).unwrap_or_else(|_| Err("the probe panicked".to_owned()));
        let bytes = serde_json::to_vec(&result).unwrap_or_default();
        let _ = std::fs::File::from(write).write_all(&bytes);
        sys::exit_now(0);
    };
    drop(write);
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    let answered = poll(&mut fds, Timespec::try_from(ONE_MAX).ok().as_ref());
    let mut bytes = Vec::new();
    if matches!(answered, Ok(1)) {
        let _ = std::fs::File::from(read).take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
    }
    if let Some(pid) = Pid::from_raw(child.as_raw()) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    serde_json::from_slice(&bytes).unwrap_or_else(|_| Err("the probe hung or died".to_owned()))
}
