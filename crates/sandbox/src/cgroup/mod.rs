//! The limits of a run, and the handle by which all its processes are frozen, killed and counted.
//!
//! Version 2 alone when it has the controllers; otherwise version 1 for the limits, with a version 2 hierarchy
//! beside it for kill and freeze when there is one (these are core files there), else the version 1 freezer.
//! Limits are not optional: a host where they cannot be set cannot run an agent.

mod hosts;
mod io;
mod proof;
mod tree;

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cogward_model::{RunId, manifest::Resources};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

pub use hosts::Hosts;
pub use proof::not_as_asked;
use tree::Directory;

use crate::driver::Overhead;

/// Why limits cannot be set here.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host does not offer it to this process.
    #[error("{0}")]
    Missing(String),
    /// An operation on a control group failed.
    #[error("{what}: {source}")]
    Failed {
        /// The operation.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
}

/// What the kernel counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes killed because memory ran out.
    pub out_of_memory: u64,
    /// Forks refused because of the limit of processes.
    pub forks_refused: u64,
}

/// The control groups of one run.
#[derive(Debug)]
pub struct Cgroup {
    kind: hosts::Kind,
    memory: Directory,
    pids: Directory,
    cpu: Directory,
    /// Where version 2's core files are, if anywhere.
    core: Option<Directory>,
    freezer: Option<Directory>,
    /// Where what is read and written is limited or counted: always with version 2, with version 1 where it is limited.
    io: Option<Directory>,
    oom: Option<OwnedFd>,
    events: Vec<File>,
    frozen: bool,
}

/// How long freezing may take before it counts as failed.
const FREEZE_MAX: Duration = Duration::from_secs(5);
/// How long killing may take before the report says that the run is not empty.
const KILL_MAX: Duration = Duration::from_secs(10);

/// The name of a run's control groups: only ours have it, so leftovers are found by it.
#[must_use]
pub fn name_of(run: RunId) -> String {
    format!("cogward-{run}")
}

impl Cgroup {
    /// Makes the groups of a run and sets its limits.
    ///
    /// # Errors
    /// [`CgroupError`] with what is missing; whatever was made before is removed again.
    pub fn create(hosts: &Hosts, name: &str, limits: &Resources, beside: Overhead) -> Result<Self, CgroupError> {
        Self::create_for(hosts, name, limits, beside, &[])
    }

    /// As [`Cgroup::create`], for a run that reads and writes in these places; limits of input and output are set on
    /// the disks that they are on.
    ///
    /// # Errors
    /// [`CgroupError`] with what is missing; whatever was made before is removed again.
    pub fn create_for(
        hosts: &Hosts,
        name: &str,
        limits: &Resources,
        beside: Overhead,
        used: &[PathBuf],
    ) -> Result<Self, CgroupError> {
        let mut places = hosts.places()?;
        if hosts.kind() != hosts::Kind::V2 && !io::is_limited(limits) {
            places.io = None;
        }
        let made = Self::make(hosts.kind(), &places, name).and_then(|mut group| {
            group.limit(limits, beside).and_then(|()| group.limit_io(limits, used)).and_then(|()| group.watch())?;
            Ok(group)
        });
        if made.is_err() {
            // One that is another run's has processes, and stays.
            places.all().for_each(|base| Directory::at(base.join(name)).remove());
        }
        made
    }

    fn make(kind: hosts::Kind, places: &hosts::Places, name: &str) -> Result<Self, CgroupError> {
        let make = |base: &Path| Directory::create(&base.join(name));
        Ok(Self {
            kind,
            memory: make(&places.memory)?,
            pids: make(&places.pids)?,
            cpu: make(&places.cpu)?,
            core: places.core.as_deref().map(make).transpose()?,
            freezer: places.freezer.as_deref().map(make).transpose()?,
            io: places.io.as_deref().map(make).transpose()?,
            oom: None,
            events: Vec::new(),
            frozen: false,
        })
    }

    /// Sets the limits of the run, with room for what the driver needs beside the agent.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when the kernel does not take one.
    pub fn limit(&self, limits: &Resources, beside: Overhead) -> Result<(), CgroupError> {
        let memory = (u64::from(limits.memory_mib) + u64::from(beside.memory_mib)) * 1024 * 1024;
        let memory = memory.to_string();
        let sockets = (u64::from(limits.memory_mib / 4).clamp(4, 256) * 1024 * 1024).to_string();
        let pids = (limits.pids + beside.pids).to_string();
        let quota = u64::from(limits.cpu_millis) * 100;
        self.pids.write("pids.max", &pids)?;
        match self.kind {
            hosts::Kind::V2 => {
                self.memory.write("memory.max", &memory)?;
                self.memory.write_if_there("memory.swap.max", "0")?;
                self.memory.write_if_there("memory.oom.group", "0")?;
                self.cpu.write("cpu.max", &format!("{quota} 100000"))
            }
            hosts::Kind::V1 | hosts::Kind::V1WithCore => {
                self.memory.write("memory.limit_in_bytes", &memory)?;
                self.memory.write_if_there("memory.memsw.limit_in_bytes", &memory)?;
                // Version 1 counts what waits in TCP and UDP sockets apart, and only where a limit is set. Without one
                // an agent could fill what the whole host has for it by sending to itself.
                self.memory.write("memory.kmem.tcp.limit_in_bytes", &sockets)?;
                self.cpu.write("cpu.cfs_period_us", "100000")?;
                self.cpu.write("cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }

    fn limit_io(&self, limits: &Resources, used: &[PathBuf]) -> Result<(), CgroupError> {
        if !io::is_limited(limits) {
            return Ok(());
        }
        let disks = io::disks_of(used)?;
        if disks.is_empty() {
            return Err(CgroupError::Missing("no disk is named that could be limited".to_owned()));
        }
        match (self.kind, &self.io) {
            (hosts::Kind::V2, Some(group)) => io::limit_v2(group, limits, &disks),
            (hosts::Kind::V2, None) => io::limit_v2(&self.memory, limits, &disks),
            (_, group) => io::limit_v1(group.as_ref(), limits, &disks),
        }
    }

    /// Opens what wakes a poll when a limit is reached.
    fn watch(&mut self) -> Result<(), CgroupError> {
        let mut files = vec![self.pids.open("pids.events")?];
        if self.kind == hosts::Kind::V2 {
            files.push(self.memory.open("memory.events")?);
        } else {
            let failed = |source: rustix::io::Errno| CgroupError::Failed {
                what: "watching memory.oom_control".to_owned(),
                source: source.into(),
            };
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
            let file = self.memory.open("memory.oom_control")?;
            use std::os::fd::AsRawFd as _;
            let line = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
            self.memory.write("cgroup.event_control", &line)?;
            self.oom = Some(event);
        }
        // The first read arms them: a poll reports changes since.
        for file in &mut files {
            let _ = std::io::Read::read(file, &mut [0; 256]);
        }
        self.events = files;
        Ok(())
    }

    /// A directory that `clone3` can put a process into as it makes it.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when it cannot be opened.
    pub fn clone_target(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(core) = &self.core else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(core.path(), flags, Mode::empty());
        opened.map(Some).map_err(|e| CgroupError::Failed { what: "opening the cgroup".to_owned(), source: e.into() })
    }

    /// Puts a process that was cloned into [`Cgroup::clone_target`] into the other groups.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when one of them does not take it.
    pub fn attach(&self, pid: Pid) -> Result<(), CgroupError> {
        let text = pid.as_raw_nonzero().to_string();
        match self.kind {
            hosts::Kind::V2 => Ok(()),
            _ => self.all().filter(|d| !self.is_core(d)).try_for_each(|d| d.write("cgroup.procs", &text)),
        }
    }

    fn is_core(&self, directory: &Directory) -> bool {
        self.core.as_ref().is_some_and(|core| core.path() == directory.path())
    }

    /// Every distinct group of the run.
    fn all(&self) -> impl Iterator<Item = &Directory> {
        let mut seen: Vec<&Path> = Vec::new();
        [
            Some(&self.memory),
            Some(&self.pids),
            Some(&self.cpu),
            self.core.as_ref(),
            self.freezer.as_ref(),
            self.io.as_ref(),
        ]
        .into_iter()
        .flatten()
        .filter(move |directory| {
            let new = !seen.contains(&directory.path());
            seen.push(directory.path());
            new
        })
    }

    /// Descriptors that a poll must watch, with the events that matter on them.
    pub fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let files = self.events.iter().map(|f| (f.as_fd(), PollFlags::PRI));
        files.chain(self.oom.iter().map(|f| (f.as_fd(), PollFlags::IN)))
    }

    /// Whether a limit can be reached without waking a poll: version 1 does not announce refused forks.
    #[must_use]
    pub fn counts_silently(&self) -> bool {
        self.kind != hosts::Kind::V2
    }

    /// Reads the counters and arms the watch again.
    pub fn counters(&mut self) -> Counters {
        if let Some(event) = &self.oom {
            let _ = rustix::io::read(event, &mut [0_u8; 8]);
        }
        let out_of_memory = match self.kind {
            hosts::Kind::V2 => self.memory.field("memory.events", "oom_kill"),
            _ => self.memory.field("memory.oom_control", "oom_kill"),
        };
        for file in &mut self.events {
            // A poll compares with what this descriptor read last.
            let _ = std::io::Seek::rewind(file).and_then(|()| std::io::Read::read(file, &mut [0; 256]));
        }
        Counters {
            out_of_memory: out_of_memory.unwrap_or_default(),
            forks_refused: self.pids.field("pids.events", "max").unwrap_or_default(),
        }
    }

    /// Processor time in microseconds and the largest memory in bytes, as far as this host counts them.
    #[must_use]
    pub fn usage(&self) -> (Option<u64>, Option<u64>) {
        let cpu = self.core.as_ref().and_then(|core| core.field("cpu.stat", "usage_usec"));
        let cpu = cpu.or_else(|| Some(self.cpu.number("cpuacct.usage")? / 1000));
        let peak = match self.kind {
            hosts::Kind::V2 => self.memory.number("memory.peak"),
            _ => self.memory.number("memory.max_usage_in_bytes"),
        };
        (cpu, peak)
    }

    /// Bytes read from and written to disks, where this host counts them.
    #[must_use]
    pub fn io(&self) -> (Option<u64>, Option<u64>) {
        match (&self.io, self.kind) {
            (None, _) => (None, None),
            (Some(group), hosts::Kind::V2) => io::counted_v2(group),
            (Some(group), _) => io::counted_v1(group),
        }
    }

    /// Freezes every process of the run and waits until they are.
    ///
    /// # Errors
    /// [`CgroupError::Failed`]; the group is thawed again then.
    pub fn freeze(&mut self) -> Result<(), CgroupError> {
        self.frozen = true;
        let frozen = match (&self.core, &self.freezer) {
            (Some(core), _) => core.write("cgroup.freeze", "1").and_then(|()| core.wait_field("frozen", 1, FREEZE_MAX)),
            (None, Some(v1)) => v1.write("freezer.state", "FROZEN").and_then(|()| v1.wait_frozen(FREEZE_MAX)),
            (None, None) => Err(CgroupError::Missing("no freezer".to_owned())),
        };
        if frozen.is_err() {
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when the kernel does not take it.
    pub fn thaw(&mut self) -> Result<(), CgroupError> {
        self.frozen = false;
        match (&self.core, &self.freezer) {
            (Some(core), _) => core.write("cgroup.freeze", "0"),
            (None, Some(v1)) => v1.write("freezer.state", "THAWED"),
            (None, None) => Ok(()),
        }
    }

    /// Sends a signal to every process but `except`. They are frozen meanwhile, so no process id can change hands.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when they cannot be frozen or thawed.
    pub fn signal_all(&mut self, signal: Signal, except: Pid) -> Result<(), CgroupError> {
        if !self.frozen {
            self.freeze()?;
        }
        for pid in self.processes().into_iter().filter(|pid| *pid != except) {
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = pidfd_send_signal(&pidfd, signal);
            }
        }
        self.thaw()
    }

    /// The processes of the run.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        self.core.as_ref().unwrap_or(&self.pids).processes()
    }

    /// Kills everything and waits until every group is seen empty. `reap` is called while it waits.
    pub fn kill(&mut self, mut reap: impl FnMut()) -> (u32, bool) {
        let processes = u32::try_from(self.processes().len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + KILL_MAX;
        let mut pause = Duration::from_micros(200);
        loop {
            match self.core.as_ref().map(|core| core.write("cgroup.kill", "1")) {
                Some(Ok(())) => {}
                _ => self.kill_each(),
            }
            reap();
            if self.is_empty() {
                return (processes, true);
            }
            if Instant::now() >= deadline {
                return (processes, false);
            }
            // Woken early by the change to "not populated", where there is such a thing.
            match &self.core {
                Some(core) => core.wait_change("populated", 0, pause),
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Without `cgroup.kill`: freeze, so that nothing forks away, kill each, thaw so that they can die.
    fn kill_each(&mut self) {
        let _ = self.freeze();
        for pid in self.processes() {
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        let _ = self.thaw();
    }

    /// Whether no group of the run has a process.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all().all(|directory| directory.processes().is_empty())
    }

    /// Removes the groups. A group that still has processes stays, and is found by [`sweep`].
    pub fn remove(&mut self) {
        self.events.clear();
        self.oom = None;
        for directory in self.all() {
            directory.remove();
        }
    }

    /// `v1`, `v1+v2` or `v2`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind.as_str()
    }
}

/// Kills and removes what a run whose supervisor is gone has left in `groups`. Answers with the processes killed.
///
/// The groups are those that its supervisor wrote down before it made them: a plane that was started again may be
/// in another group itself and would look in the wrong place. Only directories of the run's own name are touched.
#[must_use]
pub fn sweep(groups: &[PathBuf], name: &str) -> u32 {
    let mut killed = 0;
    let found = || groups.iter().filter(|path| path.ends_with(name) && path.join("cgroup.procs").is_file());
    for path in found() {
        let directory = Directory::at(path.clone());
        // A frozen version 1 group would keep its dead.
        let _ = directory.write_if_there("freezer.state", "THAWED");
        let deadline = Instant::now() + KILL_MAX;
        let mut left = directory.processes();
        killed += u32::try_from(left.len()).unwrap_or_default();
        while !left.is_empty() && Instant::now() < deadline {
            if directory.write("cgroup.kill", "1").is_err() {
                for pid in &left {
                    if let Ok(pidfd) = pidfd_open(*pid, PidfdFlags::empty()) {
                        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(1));
            left = directory.processes();
        }
    }
    found().for_each(|path| Directory::at(path.clone()).remove());
    killed
}

/// Waits for `PRI` on a file of a control group.
fn wait_priority(file: &File, most: Duration) {
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    let _ = poll(&mut fds, Timespec::try_from(most).ok().as_ref());
}
