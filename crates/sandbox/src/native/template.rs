//! The files that a workspace begins with.
//!
//! They are copied and not laid under the workspace: a copy has the same meaning in memory and on disk, as root and
//! without, needs no overlay mount inside of the sandbox, and what the agent changes counts against its quota from
//! the first byte, as what it finds there does.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fstat, mkdirat, openat, openat2,
    readlinkat, symlinkat,
};

use super::AGENT_UID;

/// Far more than a package can have.
const DEPTH_MAX: u32 = 80;

const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies what is in `from` into `to`. Everything belongs to the agent then; links are kept as text.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    below(from, to, 0)
}

fn below(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("it is nested too deep"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(kind.st_mode) {
            FileType::Directory => {
                let source = openat2(from, name, READ | OFlags::DIRECTORY, Mode::empty(), INSIDE)?;
                mkdirat(to, name, Mode::from_raw_mode(0o755))?;
                let target = openat2(to, name, READ | OFlags::DIRECTORY, Mode::empty(), INSIDE)?;
                below(source.as_fd(), target.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => file(openat2(from, name, READ, Mode::empty(), INSIDE)?, to, name)?,
            FileType::Symlink => symlinkat(&readlinkat(from, name, Vec::new())?, to, name)?,
            _ => return Err(io::Error::other("it holds something that is neither a file, a directory nor a link")),
        }
        let (uid, gid) = (Uid::from_raw(AGENT_UID), Gid::from_raw(AGENT_UID));
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn file(source: OwnedFd, to: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    let executable = fstat(&source)?.st_mode & 0o100 != 0;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    fchmod(&target, Mode::from_raw_mode(if executable { 0o755 } else { 0o644 }))?;
    io::copy(&mut File::from(source), &mut File::from(target)).map(drop)
}
