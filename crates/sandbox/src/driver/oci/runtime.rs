//! The commands of a runtime: each with an empty environment, a time limit, and its reason when it fails.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    native::{At, Stage},
    spec::RuntimeKind,
};

/// Time for one command. Far above what a loaded host needs.
const COMMAND_MAX: Duration = Duration::from_secs(10);
/// Longest reason that is passed on.
const REASON_CHARS_MAX: usize = 400;
/// Most bytes that are read of what a runtime wrote.
const SAID_BYTES_MAX: usize = 64 * 1024;

/// Where the keeper has what a runtime needs.
pub const RUNTIME: &str = "/runtime";
const STATE: &str = "/run/runtime";
const LOG: &str = "/run/runtime.log";
const PID: &str = "/run/pid";
const VERSION: &str = "/run/version";
/// The bundle.
pub const BUNDLE: &str = "/bundle";
/// The only container that this runtime will ever know.
const NAME: &str = "run";

/// The program of a runtime, refused when someone else than root could change it.
pub fn program(configured: &Path) -> Result<PathBuf, Stage> {
    let stage = || format!("runtime {}", configured.display());
    let path = fs::canonicalize(configured).at(&stage())?;
    let found = fs::metadata(&path).at(&stage())?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(Stage::new(stage(), &"it is not a program"));
    }
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(Stage::new(stage(), &"it does not belong to root alone"));
    }
    // The runtime is started as the run's own first uid.
    if found.mode() & 0o005 != 0o005 {
        return Err(Stage::new(stage(), &"others may not execute it"));
    }
    Ok(path)
}

/// A runtime in the keeper's own view of the file system.
#[derive(Debug)]
pub struct Commands<'a> {
    kind: RuntimeKind,
    platform: Option<&'a str>,
}

impl<'a> Commands<'a> {
    /// For a runtime of that kind.
    pub fn new(kind: RuntimeKind, platform: Option<&'a str>) -> Self {
        Self { kind, platform }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(RUNTIME);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(["--root", STATE, "--log", LOG]);
        match self.kind {
            // The control groups are the supervisor's, and everything that is started here is in them.
            RuntimeKind::Runsc => {
                command.args(["--network=none", "--ignore-cgroups", "--host-uds=open", "--log-format=text"]);
                command.args(self.platform.map(|platform| format!("--platform={platform}")));
            }
            RuntimeKind::Runc => {}
            RuntimeKind::Crun => drop(command.arg("--cgroup-manager=disabled")),
        }
        command
    }

    /// Makes the container and starts its first process. Answers with the process whose end is the container's.
    pub fn start(&self, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Result<Pid, Stage> {
        let mut create = self.command();
        create.args(["create", "--bundle", BUNDLE, "--pid-file", PID, NAME]);
        create.stdin(stdin).stdout(stdout).stderr(stderr);
        self.run(create, "create")?;
        let mut start = self.command();
        start.args(["start", NAME]);
        self.run(start, "start")?;
        let text = fs::read_to_string(PID).at("runtime: process id")?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Stage::new("runtime: process id", &"the runtime wrote none"))
    }

    /// Asks for the version; the answer is there once the child has ended.
    pub fn ask_version(&self) -> Result<Child, Stage> {
        let file = fs::File::create(VERSION).at("runtime version")?;
        let mut command = Command::new(RUNTIME);
        command.env_clear().arg("--version").stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        command.spawn().at("runtime version")
    }

    /// The first line of the answer, without the name.
    pub fn version(&self, mut asked: Child) -> Result<String, Stage> {
        wait(&mut asked, "version")?;
        let text = said(VERSION);
        let line = text.lines().next().unwrap_or_default();
        let version = line.rsplit(' ').next().unwrap_or_default();
        if version.is_empty() {
            return Err(Stage::new("runtime version", &"it does not say"));
        }
        Ok(version.chars().take(64).collect())
    }

    fn run(&self, mut command: Command, what: &str) -> Result<(), Stage> {
        let stage = format!("runtime {what}");
        let mut child = command.spawn().at(&stage)?;
        if wait(&mut child, what)? {
            return Ok(());
        }
        let log = said(LOG);
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a reason");
        let start = last.char_indices().rev().nth(REASON_CHARS_MAX).map_or(0, |(at, _)| at);
        let reason: String = last.get(start..).unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
        Err(Stage::new(stage, &reason))
    }
}

/// Waits for a command, and ends one that takes too long. Answers with whether it succeeded.
fn wait(child: &mut Child, what: &str) -> Result<bool, Stage> {
    let stage = format!("runtime {what}");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Stage::new(stage.clone(), &"it has no process id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).at(&stage)?;
    let deadline = Instant::now() + COMMAND_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Stage::new(stage, &"it did not end in time"));
            }
            Ok(_) => return Ok(child.wait().at(&stage)?.success()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).at(&stage),
        }
    }
}

/// What a runtime wrote to a file.
fn said(path: &str) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(SAID_BYTES_MAX)..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        for (mode, accepted) in [(0o755, true), (0o775, false), (0o757, false), (0o644, false), (0o700, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            // Who runs this test may not be root, whose programs alone are accepted.
            let owned = fs::metadata(&path).unwrap().uid() == 0;
            assert_eq!(program(&path).is_ok(), accepted && owned, "{mode:o}");
        }
        assert!(program(dir.path()).is_err() && program(&dir.path().join("missing")).is_err());
    }
}
