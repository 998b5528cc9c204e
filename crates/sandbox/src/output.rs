//! The output file of a run, taken out of a workspace that the agent made.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::spec::OUTPUT_BYTES_MAX;

/// Reads the output file out of the workspace. Only once no process of the run is left, so nothing changes below.
///
/// The agent made this tree: no link of it is followed, no pipe or device of it is opened for good.
pub fn collect(work: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let inside =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat2(work, name, flags, Mode::empty(), inside) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
    File::from(fd).take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > OUTPUT_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Some(bytes))
}
