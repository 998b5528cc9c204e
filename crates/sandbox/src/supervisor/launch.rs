//! The supervisor's side of making a sandbox.

use std::{
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    cgroup::{self, Cgroup, Hosts},
    native::{
        self, Begun, Stage, Uids,
        control::{self, FromSandbox, ToInit},
        network, sys,
    },
    profile::Controls,
    spec::{Enforcement, LaunchSpec, Root},
};

/// Time from the clone to the held agent, at most. Far above what a loaded host needs.
const LAUNCH_MAX: Duration = Duration::from_secs(20);

/// File of the run directory that names the run's control groups, for whoever has to clean up after a lost run.
pub const GROUPS_FILE: &str = "cgroups.json";

/// A complete sandbox with a held agent.
#[derive(Debug)]
pub struct Sandbox {
    /// Its processes and descriptors.
    pub begun: Begun,
    /// Its limits.
    pub cgroup: Cgroup,
    /// The three listeners, in the order of [`native::network::PORTS`].
    pub listeners: Vec<TcpListener>,
    /// The workspace.
    pub work: OwnedFd,
    /// Where refused system calls are reported.
    pub refusals: OwnedFd,
    /// Where an input that is still to come is written to: the file, and standard input.
    pub late: Option<[OwnedFd; 2]>,
    /// What is in force.
    pub enforcement: Enforcement,
}

/// Makes it, or says which step failed. Nothing is left behind then.
pub fn launch(spec: &LaunchSpec, controls: &Controls) -> Result<Sandbox, Stage> {
    let hosts = Hosts::read().map_err(|e| Stage::new("cgroups", &e))?;
    let name = cgroup::name_of(spec.run);
    let groups = hosts.groups(&name).map_err(|e| Stage::new("cgroups", &e))?;
    let text = serde_json::to_vec(&groups).map_err(|e| Stage::new("cgroups", &e))?;
    std::fs::write(spec.run_dir.join(GROUPS_FILE), text).map_err(|e| Stage::new("run directory", &e))?;
    let mut cgroup = Cgroup::create(&hosts, &name, &spec.resources).map_err(|e| Stage::new("cgroups", &e))?;
    match complete(spec, controls, &cgroup) {
        Ok((begun, parts)) => Ok(Sandbox {
            begun,
            cgroup,
            listeners: parts.listeners,
            work: parts.work,
            refusals: parts.refusals,
            late: parts.late,
            enforcement: parts.enforcement,
        }),
        Err(stage) => {
            cgroup.kill(reap_all);
            cgroup.remove();
            Err(stage)
        }
    }
}

struct Parts {
    listeners: Vec<TcpListener>,
    work: OwnedFd,
    refusals: OwnedFd,
    late: Option<[OwnedFd; 2]>,
    enforcement: Enforcement,
}

fn complete(spec: &LaunchSpec, controls: &Controls, cgroup: &Cgroup) -> Result<(Begun, Parts), Stage> {
    let uids = Uids::of(spec.uid_slot);
    let target = cgroup.clone_target().map_err(|e| Stage::new("cgroups", &e))?;
    let begun = native::begin(spec, controls, uids, target.as_ref().map(AsFd::as_fd))?;
    // Init builds its root meanwhile; it forks the agent only after this.
    if let Err(error) = cgroup.attach(begun.pid) {
        // Of an init that has died, the reason it gave is the better one.
        let soon = Instant::now() + Duration::from_millis(100);
        return Err(match next(&begun, None, soon) {
            Ok((FromSandbox::Failed { stage, why }, _)) => Stage { stage, why },
            _ => Stage::new("cgroups", &error),
        });
    }
    let _ = control::send(begun.control.as_fd(), &ToInit::Limited, &[]);

    let deadline = Instant::now() + LAUNCH_MAX;
    let (mut listeners, mut work, mut refusals, mut late) = (Vec::new(), None, None::<OwnedFd>, None);
    let (checks, instructions, allowed) = loop {
        let (message, descriptors) = next(&begun, refusals.as_ref(), deadline)?;
        match message {
            FromSandbox::Failed { stage, why } => return Err(Stage { stage, why }),
            FromSandbox::Listeners => {
                let mut descriptors = descriptors.into_iter();
                listeners = descriptors.by_ref().take(network::PORTS.len()).map(TcpListener::from).collect();
                work = descriptors.next();
                late = descriptors.next().zip(descriptors.next()).map(|(file, stdin)| [file, stdin]);
            }
            FromSandbox::Refusals => refusals = descriptors.into_iter().next(),
            FromSandbox::Held { checks, instructions, allowed } => break (checks, instructions, allowed),
            FromSandbox::NotExecutable { .. } | FromSandbox::AgentEnded { .. } => {
                return Err(Stage::new("init", &"the agent's process ended before it was ready"));
            }
        }
    };
    let (Some(work), Some(refusals), 3) = (work, refusals, listeners.len()) else {
        return Err(Stage::new("init", &"the sandbox did not hand over all its descriptors"));
    };
    if spec.late_input != late.is_some() {
        return Err(Stage::new("init", &"the sandbox did not say where its input goes"));
    }
    let (uids, uid_base) = uids.describe();
    let enforcement = Enforcement {
        profile: spec.profile,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        namespaces: native::NAMESPACE_NAMES.map(str::to_owned).to_vec(),
        uids: uids.to_owned(),
        uid_base,
        landlock_abi: controls.landlock_abi,
        connect_ports: network::PORTS.to_vec(),
        seccomp_instructions: instructions,
        seccomp_allowed: allowed,
        cgroup: cgroup.kind().to_owned(),
        resources: spec.resources,
        root: match spec.root {
            Root::HostUsr => "host-usr",
            Root::Image { .. } => "image",
        }
        .to_owned(),
        self_checks: checks,
    };
    Ok((begun, Parts { listeners, work, refusals, late, enforcement }))
}

/// What the sandbox says next. The calls that it makes to see them refused are refused meanwhile.
fn next(begun: &Begun, refusals: Option<&OwnedFd>, deadline: Instant) -> Result<(FromSandbox, Vec<OwnedFd>), Stage> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&begun.control, PollFlags::IN)];
        fds.extend(refusals.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Err(Stage::new("init", &"the sandbox was not ready in time")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Stage::new("init", &e)),
        }
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            break;
        }
        if let Some(fd) = refusals {
            let refused = sys::seccomp_receive(fd.as_fd()).map_err(|e| Stage::new("refused calls", &e))?;
            if let Some(refused) = refused {
                sys::seccomp_refuse(fd.as_fd(), refused).map_err(|e| Stage::new("refused calls", &e))?;
            }
        }
    }
    match control::receive(begun.control.as_fd()).map_err(|e| Stage::new("init", &e))? {
        Some(message) => Ok(message),
        None => Err(Stage::new("init", &"the sandbox's init died")),
    }
}

/// Takes the status of every child that has ended.
pub fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}
