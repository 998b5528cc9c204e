//! What this host can enforce, found out by doing it.
//!
//! A file that exists or a call that is accepted proves little: user namespaces can be made on hosts where nothing
//! can be mounted in them, and a directory left by root once made a doctor call a host fit that was not. So each
//! mechanism is exercised in a throw-away process with a time limit; one that hangs is missing.

mod drivers;
mod probes;

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use cogward_model::manifest::Profile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::{
    config::SandboxConfig,
    profile::{Controls, NATIVE, PROFILES},
};

/// Argument that stands in the place of the run directory: `cogward supervise --probe`.
pub const PROBE_ROLE: &str = "--probe";
/// Time for all probes together.
const PROBE_MAX: Duration = Duration::from_secs(90);
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

    fn new(checks: Vec<Check>) -> Self {
        let missing = |profile| -> Vec<Missing> {
            Controls::of(profile)
                .needs
                .iter()
                .filter_map(|name| match checks.iter().find(|c| c.mechanism == *name) {
                    Some(check) if check.ok => None,
                    Some(check) => Some(Missing {
                        mechanism: check.mechanism.clone(),
                        why: check.detail.clone(),
                        fix: check.fix.clone().unwrap_or_default(),
                    }),
                    None if !NATIVE.contains(&profile) => Some(Missing {
                        mechanism: (*name).to_owned(),
                        why: format!("no driver is configured for profile `{}`", profile.as_str()),
                        fix: "name one in the file that `cogward serve --sandbox-config FILE` reads".to_owned(),
                    }),
                    None => Some(Missing {
                        mechanism: (*name).to_owned(),
                        why: "it was not probed".to_owned(),
                        fix: "probe the host again".to_owned(),
                    }),
                })
                .collect()
        };
        let profiles = PROFILES.map(|profile| {
            let missing = missing(profile);
            ProfileReport { profile, enforceable: missing.is_empty(), missing }
        });
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: rustix::process::geteuid().is_root(),
            checks,
            profiles: profiles.to_vec(),
        }
    }
}

/// Probes the host in a process of its own, started as `exe supervise --probe` with an empty environment.
///
/// Blocks for a few tenths of a second; an asynchronous caller gives it a thread that may block.
///
/// # Errors
/// [`ProbeError`] when the process could not be started, hung, or did not report.
pub fn probe(exe: &Path) -> Result<HostReport, ProbeError> {
    probe_with(exe, &SandboxConfig::default())
}

/// The same, and every driver that is configured: each by a sandbox of it, which takes up to a second.
///
/// # Errors
/// As [`probe`].
pub fn probe_with(exe: &Path, config: &SandboxConfig) -> Result<HostReport, ProbeError> {
    let failed = |what| move |source| ProbeError { what, source };
    let mut child = std::process::Command::new(exe)
        .args(["supervise", PROBE_ROLE])
        .env_clear()
        .current_dir("/")
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
    let mut checks = probes::all();
    checks.extend(drivers::all(&config));
    let report = HostReport::new(checks);
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

    #[test]
    fn one_missing_mechanism_refuses_the_profile_and_names_it() {
        for profile in PROFILES {
            let needs = Controls::of(profile).needs;
            for missing in needs {
                let checks = needs.iter().map(|name| check(name, name != missing)).collect();
                let refused = HostReport::new(checks).require(profile).unwrap_err();
                assert_eq!(refused.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), [*missing]);
            }
        }
    }

    #[test]
    fn a_mechanism_that_was_not_probed_is_missing() {
        for profile in PROFILES {
            let needs = Controls::of(profile).needs;
            assert_eq!(HostReport::new(vec![]).require(profile).unwrap_err().len(), needs.len());
            let checks = needs.iter().map(|name| check(name, true)).collect();
            assert!(HostReport::new(checks).require(profile).is_ok());
        }
    }

    #[test]
    fn what_only_hardened_needs_leaves_standard_alone() {
        let standard = Controls::of(Profile::Standard).needs;
        let report = HostReport::new(standard.iter().map(|name| check(name, true)).collect());
        assert!(report.require(Profile::Standard).is_ok());
        let missing = report.require(Profile::Hardened).unwrap_err();
        assert_eq!(missing.iter().map(|m| m.mechanism.as_str()).collect::<Vec<_>>(), ["landlock-scopes"]);
    }
}
