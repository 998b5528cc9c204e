//! Which versions of the machine monitor are used.
//!
//! Older ones let a guest's root write out of bounds of a device (CVE-2026-5747) or their jailer follow links of the
//! jailed user's as root (CVE-2026-1386). A version that is not known to be free of both is refused.

use std::{
    fmt,
    io::{self, Read},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Time for a program to say its version.
const SAYING_MAX: Duration = Duration::from_secs(2);

/// A release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
    /// The third.
    pub patch: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why a version is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// What it says of itself is no release: `1.14.4`, with or without a `v`. A development build is none.
    #[error("`{0}` is not a released version")]
    NotRelease(String),
    /// It is known to be open to what later ones mend.
    #[error("version {0} is open to CVE-2026-5747 and CVE-2026-1386: 1.14.4, 1.15.1 or a later one is needed")]
    Vulnerable(Version),
    /// The program did not say it.
    #[error("it does not say its version: {0}")]
    Silent(String),
    /// Its interface is not known.
    #[error("version {0} is of another interface than that of version 1")]
    Unknown(Version),
}

impl Version {
    /// A version that may be used.
    pub fn accepted(text: &str) -> Result<Self, VersionError> {
        let version =
            Self::parse(text).ok_or_else(|| VersionError::NotRelease(text.chars().take(40).collect::<String>()))?;
        match (version.major, version.minor, version.patch) {
            (1, 14, 4..) | (1, 15, 1..) | (1, 16.., _) => Ok(version),
            (0 | 1, ..) => Err(VersionError::Vulnerable(version)),
            _ => Err(VersionError::Unknown(version)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| {
            let plain = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| plain)
        });
        let version = Self { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
        numbers.next().is_none().then_some(version)
    }

    /// Out of the first line that `program --version` prints, such as `Jailer v1.14.4`.
    pub fn of_program(name: &str, printed: &str) -> Result<Self, VersionError> {
        let line = printed.lines().next().unwrap_or_default();
        let said =
            line.split_once(' ').filter(|(word, _)| word.eq_ignore_ascii_case(name)).map(|(_, rest)| rest.trim());
        Self::accepted(said.unwrap_or(line))
    }
}

/// Asks a program for its version. One that does not answer soon has none.
pub fn of(program: &Path, name: &str) -> Result<Version, VersionError> {
    let printed = printed(program).map_err(|e| VersionError::Silent(e.to_string()))?;
    Version::of_program(name, &printed)
}

fn printed(program: &Path) -> io::Result<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let said = first_bytes(&mut child);
    let _ = child.kill();
    let _ = child.wait();
    said
}

fn first_bytes(child: &mut std::process::Child) -> io::Result<String> {
    let mut stdout = child.stdout.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    let until = Instant::now() + SAYING_MAX;
    let mut bytes = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&stdout, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) if left.is_zero() => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut chunk = [0; 256];
        let count = stdout.read(&mut chunk)?;
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if count == 0 || bytes.contains(&b'\n') || bytes.len() > 1024 {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_that_hangs_or_babbles_has_no_version() {
        let dir = tempfile::tempdir().unwrap();
        let program = |text: &str| {
            let path = dir.path().join("program");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert!(of(&program("echo Jailer v1.16.0; exec sleep 1000"), "jailer").is_ok());
        for bad in ["exec sleep 1000", "exec yes x | tr -d '\\n'", "exit 0", "exit 1", "echo Jailer v1.13.0"] {
            of(&program(bad), "jailer").unwrap_err();
        }
        of(&dir.path().join("none"), "jailer").unwrap_err();
    }

    #[test]
    fn only_releases_without_the_known_holes_are_used() {
        for good in ["1.14.4", "v1.14.5", "1.14.40", "1.15.1", "1.16.0", "1.17.3", "v1.100.0"] {
            assert!(Version::accepted(good).is_ok(), "{good}");
        }
        for old in ["0.25.0", "1.0.0", "1.7.0", "1.13.1", "1.14.0", "1.14.3", "v1.15.0"] {
            assert!(matches!(Version::accepted(old), Err(VersionError::Vulnerable(_))), "{old}");
        }
        for none in ["", "1.14", "1.16.0-dev", "1.14.4.1", "1..4", "1.16.x", "+1.16.0", "1.16. 0", "99999.1.1"] {
            assert!(matches!(Version::accepted(none), Err(VersionError::NotRelease(_))), "{none}");
        }
        assert!(matches!(Version::accepted("2.0.0"), Err(VersionError::Unknown(_))));
    }

    #[test]
    fn a_program_says_its_version_on_its_first_line() {
        let version = Version { major: 1, minor: 14, patch: 4 };
        assert_eq!(Version::of_program("jailer", "Jailer v1.14.4\n"), Ok(version));
        assert_eq!(Version::of_program("firecracker", "Firecracker v1.14.4\n\nexited with 0\n"), Ok(version));
        assert!(Version::of_program("jailer", "Firecracker v1.14.4\n").is_err());
        assert!(Version::of_program("jailer", "").is_err());
    }
}
