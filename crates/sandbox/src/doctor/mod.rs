//! What this host can enforce, found out by doing it.
//!
//! A file that exists or a call that is accepted proves little: user namespaces can be made on hosts where nothing
//! can be mounted in them, and a directory left by root once made a doctor call a host fit that was not. So each
//! mechanism is exercised in a throw-away process with a time limit; one that hangs is missing.

mod drivers;
mod environment;
mod kernels;
mod limits;
mod pod;
mod probes;
mod reasons;
mod runner;
mod versions;

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use cogward_model::manifest::{Medium, Profile, Resources};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

pub use self::{environment::Environment, kernels::KnownBad, pod::Pod};
use self::{environment::Facts, runner::Probe};
use crate::{
    config::SandboxConfig,
    profile::{Controls, PROFILES},
};

/// Argument that stands in the place of the run directory: `cogward supervise --probe`.
pub const PROBE_ROLE: &str = "--probe";
/// Time for the process that probes. It bounds its probes itself, and well below this.
const PROBE_MAX: Duration = Duration::from_secs(120);
/// Profiles that need a driver of their own, and the mechanism by which each is probed.
const DRIVERS: [&str; 3] = ["container", "gvisor", "microvm"];
/// Largest report.
const REPORT_BYTES_MAX: u64 = 256 * 1024;

/// What a host can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Release of the kernel.
    pub kernel: String,
    /// Whether the probes ran as root.
    pub root: bool,
    /// Each mechanism.
    pub checks: Vec<Check>,
    /// Each profile.
    pub profiles: Vec<ProfileReport>,
    /// What kind of place it is.
    pub environment: Environment,
    /// What would hold inside a restricted pod.
    pub pod: Pod,
}

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, such as `landlock`.
    pub mechanism: String,
    /// Whether it worked.
    pub ok: bool,
    /// What was done and seen, or why it did not work.
    pub detail: String,
    /// What makes it work, when it did not.
    pub fix: Option<String>,
    /// How long the probe took, in microseconds.
    pub micros: u64,
}

/// One profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// The profile.
    pub profile: Profile,
    /// Whether all it needs is there.
    pub enforceable: bool,
    /// What is not.
    pub missing: Vec<Missing>,
}

/// A mechanism that a profile needs and the host lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{mechanism}: {why}")]
pub struct Missing {
    /// The mechanism.
    pub mechanism: String,
    /// Why it does not work.
    pub why: String,
    /// What makes it work.
    pub fix: String,
}

/// The host could not be probed. Nothing may be launched then.
#[derive(Debug, thiserror::Error)]
#[error("the host could not be probed: {what}")]
pub struct ProbeError {
    what: &'static str,
    source: io::Error,
}

impl HostReport {
    /// Whether a profile can be enforced, whole.
    ///
    /// # Errors
    /// What is missing; also when the report does not speak of the profile.
    pub fn require(&self, profile: Profile) -> Result<(), Vec<Missing>> {
        match self.profiles.iter().find(|p| p.profile == profile) {
            Some(found) if found.enforceable && found.missing.is_empty() => Ok(()),
            Some(found) => Err(found.missing.clone()),
            None => Err(vec![Missing {
                mechanism: "probe".to_owned(),
                why: format!("this host was not probed for profile `{}`", profile.as_str()),
                fix: "probe the host again with this version".to_owned(),
            }]),
        }
    }

    /// Whether the limits that a manifest asks for beyond its profile's can be enforced.
    ///
    /// # Errors
    /// What is missing; also when the report does not speak of it.
    pub fn require_limits(&self, resources: &Resources) -> Result<(), Vec<Missing>> {
        let asked = [
            (limits::IO_READ, resources.io_read_mib_per_second.is_some()),
            (limits::IO_WRITE, resources.io_write_mib_per_second.is_some()),
        ];
        let missing: Vec<Missing> =
            asked.into_iter().filter(|(_, asked)| *asked).filter_map(|(name, _)| missing(&self.checks, name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// Whether a workspace can be where a manifest wants it.
    ///
    /// # Errors
    /// What is missing; also when the report does not speak of it.
    pub fn require_workspace(&self, medium: Medium) -> Result<(), Vec<Missing>> {
        match medium {
            Medium::Memory => Ok(()),
            Medium::Disk => missing(&self.checks, probes::WORKSPACE_DISK).map_or(Ok(()), |m| Err(vec![m])),
        }
    }

    /// Whether packages are mounted from images of their own here.
    ///
    /// # Errors
    /// What is missing. They are mounted from their directories then.
    pub fn require_package_images(&self) -> Result<(), Missing> {
        missing(&self.checks, probes::PACKAGE_IMAGE).map_or(Ok(()), Err)
    }

    fn new(checks: Vec<Check>, environment: Environment, pod: Pod) -> Self {
        let needs = |profile| Controls::of(profile).needs.iter();
        let missing = |profile| -> Vec<Missing> { needs(profile).filter_map(|name| missing(&checks, name)).collect() };
        let profiles = PROFILES.map(|profile| {
            let missing = missing(profile);
            ProfileReport { profile, enforceable: missing.is_empty(), missing }
        });
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: rustix::process::geteuid().is_root(),
            checks,
            profiles: profiles.to_vec(),
            environment,
            pod,
        }
    }
}

/// What is missing of a mechanism; a mechanism that was not probed is.
fn missing(checks: &[Check], name: &str) -> Option<Missing> {
    match checks.iter().find(|check| check.mechanism == name) {
        Some(check) if check.ok => None,
        Some(check) => Some(Missing {
            mechanism: check.mechanism.clone(),
            why: check.detail.clone(),
            fix: check.fix.clone().unwrap_or_default(),
        }),
        None if DRIVERS.contains(&name) => Some(Missing {
            mechanism: name.to_owned(),
            why: format!("nothing is configured to carry profile `{name}` (`--sandbox-config`)"),
            fix: "name one in the file that `cogward serve --sandbox-config FILE` reads".to_owned(),
        }),
        None => Some(Missing {
            mechanism: name.to_owned(),
            why: "it was not probed".to_owned(),
            fix: "probe the host again".to_owned(),
        }),
    }
}

/// Every probe. Profiles say by name which of them they need; those of another driver are added here.
fn table() -> Vec<Probe> {
    [probes::PROBES.as_slice(), limits::PROBES.as_slice()].concat()
}

/// Probes the host in a process of its own, started as `exe supervise --probe` with an empty environment.
///
/// It asks for the disks of the root directory; see [`probe_at`].
///
/// # Errors
/// As [`probe_at`].
pub fn probe(exe: &Path) -> Result<HostReport, ProbeError> {
    probe_at(exe, Path::new("/"))
}

/// As [`probe`], where runs read and write below `place`: limits of input and output are tried on its disk.
///
/// Blocks for a few tenths of a second; an asynchronous caller gives it a thread that may block.
///
/// # Errors
/// [`ProbeError`] when the process could not be started, hung, or did not report.
pub fn probe_at(exe: &Path, place: &Path) -> Result<HostReport, ProbeError> {
    probe_with(exe, place, &SandboxConfig::default())
}

/// As [`probe_at`], and every driver that is configured: each by a sandbox of it, which takes up to a second.
///
/// # Errors
/// As [`probe_at`].
pub fn probe_with(exe: &Path, place: &Path, config: &SandboxConfig) -> Result<HostReport, ProbeError> {
    let failed = |what| move |source| ProbeError { what, source };
    let mut child = std::process::Command::new(exe)
        .args(["supervise", PROBE_ROLE])
        .env_clear()
        .current_dir(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("the probe could not be started"))?;
    let report = configure(&mut child, config).and_then(|()| read_report(&mut child));
    if report.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    report.map_err(failed("the probe did not report"))
}

/// Tells the process which drivers there are; the end of its input is the end of that.
fn configure(child: &mut std::process::Child, config: &SandboxConfig) -> io::Result<()> {
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    stdin.write_all(&serde_json::to_vec(config)?)
}

/// What the process is told; nothing is a host without drivers.
fn configured() -> io::Result<SandboxConfig> {
    let mut text = Vec::new();
    io::stdin().lock().take(REPORT_BYTES_MAX).read_to_end(&mut text)?;
    if text.is_empty() { Ok(SandboxConfig::default()) } else { Ok(serde_json::from_slice(&text)?) }
}

fn read_report(child: &mut std::process::Child) -> io::Result<HostReport> {
    let stdout = child.stdout.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    let mut stdout = stdout.take(REPORT_BYTES_MAX);
    let deadline = Instant::now() + PROBE_MAX;
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stdout.get_ref(), PollFlags::IN)];
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            // A signal of the plane, such as the end of another of its children, or nothing yet.
            Err(rustix::io::Errno::INTR) | Ok(0) => continue,
            other => other?,
        };
        let mut chunk = [0; 4096];
        match stdout.read(&mut chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(0) => return Ok(serde_json::from_slice(&bytes)?),
            Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
}

/// The role `supervise --probe`: does every probe and writes the report to standard output.
pub(crate) fn probe_main() -> ExitCode {
    if !crate::native::sys::is_single_threaded() {
        return ExitCode::FAILURE;
    }
    let Ok(config) = configured() else { return ExitCode::FAILURE };
    report(table(), &config)
}

/// As the role does, with a mechanism whose probe never answers, for a test of the time limit.
#[doc(hidden)]
#[must_use]
pub fn probe_main_that_hangs(mechanism: &str) -> ExitCode {
    let hangs = |probe: Probe| match probe.mechanism == mechanism {
        true => Probe {
            most: Duration::from_millis(300),
            run: || loop {
                std::thread::sleep(Duration::from_secs(3_600));
            },
            ..probe
        },
        false => probe,
    };
    report(table().into_iter().map(hangs).collect(), &SandboxConfig::default())
}

fn report(probes: Vec<Probe>, config: &SandboxConfig) -> ExitCode {
    let facts = Facts::read();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut checks = runner::all(probes, &facts);
    checks.extend(drivers::all(config));
    let report = HostReport::new(checks, Environment::of(&facts, &release), Pod::tried(&facts));
    match serde_json::to_writer(io::stdout().lock(), &report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mechanism: &str, ok: bool) -> Check {
        Check { mechanism: mechanism.into(), ok, detail: "why".into(), fix: Some("how".into()), micros: 1 }
    }

    fn report_of(checks: Vec<Check>) -> HostReport {
        HostReport::new(checks, Environment::default(), Pod::default())
    }

    #[test]
    fn a_limit_that_was_asked_for_needs_its_mechanism_and_no_other() {
        let asked = Resources { io_read_mib_per_second: Some(5), ..Resources::default() };
        assert!(report_of(vec![]).require_limits(&Resources::default()).is_ok());
        assert!(report_of(vec![check(limits::IO_READ, true)]).require_limits(&asked).is_ok());
        for checks in [vec![], vec![check(limits::IO_READ, false), check(limits::IO_WRITE, true)]] {
            let missing = report_of(checks).require_limits(&asked).unwrap_err();
            assert_eq!(missing.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), [limits::IO_READ]);
        }
    }

    #[test]
    fn a_workspace_on_disk_is_refused_where_it_was_not_seen_to_work() {
        assert!(report_of(vec![]).require_workspace(Medium::Memory).is_ok());
        assert!(report_of(vec![check(probes::WORKSPACE_DISK, true)]).require_workspace(Medium::Disk).is_ok());
        for checks in [vec![], vec![check(probes::WORKSPACE_DISK, false)]] {
            let missing = report_of(checks).require_workspace(Medium::Disk).unwrap_err();
            assert_eq!(missing.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), ["workspace-disk"]);
        }
    }

    #[test]
    fn every_mechanism_is_probed_once_and_every_need_is_probed() {
        let names: Vec<_> = table().iter().map(|probe| probe.mechanism).collect();
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        for profile in [Profile::Standard, Profile::Hardened] {
            assert!(Controls::of(profile).needs.iter().all(|need| names.contains(need)));
        }
        assert!(table().iter().all(|probe| !probe.fix.is_empty()));
    }

    #[test]
    fn one_missing_mechanism_refuses_the_profile_and_names_it() {
        for profile in PROFILES {
            let needs = Controls::of(profile).needs;
            for missing in needs {
                let checks = needs.iter().map(|name| check(name, name != missing)).collect();
                let refused = report_of(checks).require(profile).unwrap_err();
                assert_eq!(refused.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), [*missing]);
            }
        }
    }

    #[test]
    fn a_mechanism_that_was_not_probed_is_missing() {
        for profile in PROFILES {
            let needs = Controls::of(profile).needs;
            assert_eq!(report_of(vec![]).require(profile).unwrap_err().len(), needs.len());
            let checks = needs.iter().map(|name| check(name, true)).collect();
            assert!(report_of(checks).require(profile).is_ok());
        }
    }

    #[test]
    fn what_only_hardened_needs_leaves_standard_alone() {
        let standard = Controls::of(Profile::Standard).needs;
        let report = report_of(standard.iter().map(|name| check(name, true)).collect());
        assert!(report.require(Profile::Standard).is_ok());
        let missing = report.require(Profile::Hardened).unwrap_err();
        assert_eq!(missing.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), ["landlock-scopes"]);
    }
}
