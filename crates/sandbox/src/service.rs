//! Programs of the operator's that the plane speaks with: the same sandbox as a run's, and another end to it.
//!
//! A tool server on this host is given no door to the plane. What it says comes over its standard streams, whose far ends
//! are the plane's alone; what it sees of the host beside `/usr` are the paths that the operator has named. It has no
//! run, so nobody adopts it: when the plane's connection is gone, so is everything that it has started.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::libc;
use rustix::{
    fs::{CWD, FileType, fstat},
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
    process::{Signal, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::native::{At, Stage, Uids, sys};

/// Most paths of the host that one program is shown.
pub const MOUNTS_MAX: usize = 32;
/// Largest secret with the name of its variable.
pub const SECRET_BYTES_MAX: usize = 32 * 1024;

/// What makes a launch that of a program of the operator's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its network.
    pub network: Network,
    /// What it sees of the host, at the same places.
    pub mounts: Vec<HostMount>,
}

/// The network of such a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A loopback interface of its own, and no port that it may connect to.
    #[default]
    None,
    /// The host's: it reaches whatever the plane's host reaches, loopback and metadata services included.
    Host,
}

/// A path of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMount {
    /// The path, outside and inside.
    pub path: PathBuf,
    /// Whether it may write below it. Nothing below a path that it may write to is executed.
    pub writable: bool,
}

impl Service {
    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.mounts.len() > MOUNTS_MAX {
            return Some("are more than 32");
        }
        let paths: Vec<&str> = self.mounts.iter().filter_map(|mount| mount.path.to_str()).collect();
        if paths.len() != self.mounts.len() || !paths.iter().all(|path| place_of(path)) {
            return Some("have a path that is not plain and absolute, or that belongs to the sandbox");
        }
        let twice = |(n, path): (usize, &&str)| paths.iter().skip(n + 1).any(|other| other == path);
        paths.iter().enumerate().any(twice).then_some("name a path twice")
    }
}

/// Whether something of the host can be shown there.
fn place_of(path: &str) -> bool {
    /// Made by the sandbox itself, with everything below.
    const CLOSED: [&str; 4] = ["proc", "dev", "sys", "inputs"];
    /// Made by the sandbox itself; places below them are free.
    const OPEN: [&str; 9] = ["usr", "etc", "run", "tmp", "work", "bin", "sbin", "lib", "lib64"];
    let Some(inside) = path.strip_prefix('/').filter(|_| path.len() <= 512) else { return false };
    let mut parts = inside.split('/');
    let plain = inside.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'));
    let top = parts.next().unwrap_or_default();
    let deeper = parts.next();
    plain
        && !CLOSED.contains(&top)
        && (deeper.is_some() || !OPEN.contains(&top))
        && (top, deeper) != ("run", Some("cogward"))
}

/// The paths as detached mounts, in the order in which they are attached: what is above before what is below it.
///
/// For the supervisor: whose a file is can be told otherwise only by who may do so on the host. What may be written to is
/// shown as if its owner were the program, and what that writes belongs to the owner; nothing else of the owner's is.
pub(crate) fn open(service: &Service, uids: Uids) -> Result<Vec<Shown>, Stage> {
    let mut mounts: Vec<&HostMount> = service.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.path.as_os_str().len());
    mounts.into_iter().map(|mount| shown(mount, uids).at(&format!("mount of {}", mount.path.display()))).collect()
}

/// A path of the host that is to be attached.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Its place below the root, without the slash.
    pub(crate) at: String,
    pub(crate) writable: bool,
    pub(crate) mount: OwnedFd,
}

fn shown(mount: &HostMount, uids: Uids) -> io::Result<Shown> {
    let HostMount { path, writable } = mount;
    let source = path.canonicalize()?;
    let found = source.metadata()?;
    let refuse = |why: &str| Err(io::Error::other(why));
    if *writable && !found.is_dir() {
        return refuse("only a directory can be written to");
    }
    let needed = if found.is_dir() { 0o005 } else { 0o004 };
    let ranged = matches!(uids, Uids::OwnRange { .. });
    if !found.is_dir() && !found.is_file() {
        return refuse("it is neither a directory nor a file");
    }
    if ranged && !writable && found.mode() & needed != needed {
        return refuse("the program could not read it: others may not, and it is none of its owner");
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // What is mounted below a path that is written to is not shown: it may have other owners, and another purpose.
    let below = if *writable { OpenTreeFlags::empty() } else { OpenTreeFlags::AT_RECURSIVE };
    let fd = open_tree(CWD, &source, flags | below | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?;
    // Nobody has put a link in its place since it was looked at.
    let same = fstat(&fd)?;
    if (same.st_dev, same.st_ino) != (found.dev(), found.ino()) || FileType::from_raw_mode(same.st_mode).is_symlink() {
        return refuse("it was changed while it was looked at");
    }
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    if *writable {
        let owner = match uids {
            Uids::OwnRange { .. } => Some(user_namespace((found.uid(), found.gid()), uids.agent_on_host())?),
            // It is the plane's own uid.
            Uids::Single { .. } => None,
        };
        let attributes = plain | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let done = sys::mount_of_its_own(fd.as_fd(), attributes.bits().into(), owner.as_ref().map(AsFd::as_fd), false);
        done.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => {
                io::Error::other("its file system cannot be shown as another owner's, which writing to it needs")
            }
            _ => error,
        })?;
    } else {
        let attributes = plain | MountAttrFlags::MOUNT_ATTR_RDONLY;
        sys::mount_of_its_own(fd.as_fd(), attributes.bits().into(), None, true)?;
    }
    let at = path.to_string_lossy().trim_start_matches('/').to_owned();
    Ok(Shown { at, writable: *writable, mount: fd })
}

/// A user namespace in which the files of one owner are another's. It lives as long as the mount that it is given to.
fn user_namespace(owner: (u32, u32), agent: (u32, u32)) -> io::Result<OwnedFd> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::clone_into(u64::from(libc::CLONE_NEWUSER.unsigned_abs()), None)? {
        sys::Side::Child => {
            drop(go);
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            let _ = std::fs::File::from(wait).read(&mut [0]);
            sys::exit_now(0)
        }
        sys::Side::Parent(pid, pidfd) => {
            let of = |file: &str| format!("/proc/{}/{file}", pid.as_raw_nonzero());
            let made = std::fs::write(of("uid_map"), format!("{} {} 1\n", owner.0, agent.0))
                .and_then(|()| std::fs::write(of("gid_map"), format!("{} {} 1\n", owner.1, agent.1)))
                .and_then(|()| Ok(std::fs::File::open(of("ns/user"))?.into()));
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            made
        }
    }
}

/// What an agent's process is sent when it is let go: one byte, and for a program of the operator's its secret.
pub(crate) fn start_message(secret: Option<&(String, String)>) -> io::Result<Vec<u8>> {
    let mut message = vec![b'1'];
    if let Some((name, value)) = secret {
        let text = format!("{name}={value}");
        let fits = text.len() <= SECRET_BYTES_MAX && !text.contains('\0') && !name.is_empty() && !name.contains('=');
        let length = u32::try_from(text.len()).ok().filter(|_| fits);
        let length = length.ok_or_else(|| io::Error::other("the secret cannot stand in a variable"))?;
        message.extend(length.to_le_bytes());
        message.extend(text.as_bytes());
    } else {
        message.extend(0_u32.to_le_bytes());
    }
    Ok(message)
}

/// The other end of it, after the first byte.
pub(crate) fn secret_from(start: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let mut file = std::fs::File::from(start.try_clone_to_owned()?);
    let mut length = [0_u8; 4];
    file.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 {
        return Ok(None);
    }
    if length > SECRET_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text)?;
    String::from_utf8(text).map(Some).map_err(io::Error::other)
}

/// Whether a program finds a path of the host without a mount: what is in `/usr`, and what of `/etc` is shown.
#[must_use]
pub fn is_shown_anyway(path: &Path) -> bool {
    let below = |top: &str| path.starts_with(top);
    ["/usr", "/proc", "/sys", "/dev"].into_iter().any(below)
        || ["/bin", "/sbin", "/lib", "/lib64"].into_iter().any(|top| below(top) && Path::new(top).is_symlink())
        || ["/etc/ssl/certs", "/etc/alternatives", "/etc/localtime"].into_iter().any(below)
        || ["/", "/etc", "/tmp", "/run", "/work", "/etc/hosts", "/etc/resolv.conf"]
            .into_iter()
            .any(|it| path == Path::new(it))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn only_plain_places_that_are_not_the_sandboxs_own_are_shown() {
        let fault = |paths: &[&str]| {
            let mounts = paths.iter().map(|path| HostMount { path: path.into(), writable: false }).collect();
            Service { mounts, ..Service::default() }.fault().is_some()
        };
        for path in ["/srv", "/srv/a", "/tmp/x", "/work/x/y", "/usr/local/x", "/etc/x", "/run/x", "/opt/a b"] {
            assert!(!fault(&[path]), "{path}");
        }
        for path in [
            "/",
            "",
            "srv",
            "/srv/",
            "/srv//a",
            "/srv/../etc",
            "/./srv",
            "/proc",
            "/proc/1",
            "/dev/sda",
            "/sys/kernel",
            "/usr",
            "/etc",
            "/tmp",
            "/work",
            "/run",
            "/run/cogward",
            "/run/cogward/x",
            "/lib64",
        ] {
            assert!(fault(&[path]), "{path}");
        }
        assert!(fault(&["/srv", "/a", "/srv"]) && !fault(&["/srv", "/srv/a"]));
        let many: Vec<String> = (0..=MOUNTS_MAX).map(|n| format!("/srv/{n}")).collect();
        assert!(fault(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    }

    #[test]
    fn a_secret_comes_through_the_pipe_whole_or_not_at_all() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let secret = ("TOKEN".to_owned(), "s\u{e9}cret=1".to_owned());
        for (given, wanted) in [(Some(&secret), Some("TOKEN=s\u{e9}cret=1".to_owned())), (None, None)] {
            let message = start_message(given).unwrap();
            rustix::io::write(&write, &message).unwrap();
            rustix::io::read(&read, &mut [0_u8]).unwrap();
            assert_eq!(secret_from(read.as_fd()).unwrap(), wanted);
        }
        for (name, value) in
            [("", "x".to_owned()), ("A=B", "x".to_owned()), ("A", "x\0y".to_owned()), ("A", "x".repeat(40_000))]
        {
            start_message(Some(&(name.to_owned(), value))).unwrap_err();
        }
        rustix::io::write(&write, &u32::MAX.to_le_bytes()).unwrap();
        secret_from(read.as_fd()).unwrap_err();
    }
}
