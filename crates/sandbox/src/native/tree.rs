//! A file tree that is built through descriptors: no path of it is ever looked up through a symbolic link.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};

use super::sys;

/// The root of a tree that is being built.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// Lookups stay below the root and follow no link of any kind.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Tree {
    /// Builds below `root`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), INSIDE).is_ok()
    }

    /// Makes a directory and those above it; what is there already stays.
    pub fn directory(&self, path: &str) -> io::Result<()> {
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..].find('/').map_or(path.len(), |n| end + 1 + n);
            let part = &path[..end];
            let (parent, name) = self.parent(part)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Writes a file that everyone can read.
    pub fn file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat2(&parent, name, flags, Mode::from_raw_mode(0o444), INSIDE)?;
        std::fs::File::from(fd).write_all(bytes)
    }

    /// Writes a program that everyone can execute.
    pub fn program(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, bytes)?;
        let fd = self.open(path, OFlags::RDONLY)?;
        Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o555))?)
    }

    /// Makes a symbolic link.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(symlinkat(target, &parent, name)?)
    }

    /// Attaches a mount to what is at `path`.
    pub fn attach(&self, mount: BorrowedFd<'_>, path: &str) -> io::Result<()> {
        let at = openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(mount, "", &at, "", flags)?)
    }

    /// Opens what is at `path`.
    pub fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE)?)
    }

    fn parent<'p>(&self, path: &'p str) -> io::Result<(OwnedFd, &'p str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok((openat2(&self.root, parent, flags, Mode::empty(), INSIDE)?, name))
    }
}

/// A new file system that is not attached anywhere yet.
pub fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(&context, *key)?,
            value => fsconfig_set_string(&context, *key, value)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes a mount, and those below it when `recursive`, read-only without devices or set-uid programs.
pub fn make_read_only(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    sys::mount_add_attributes(mount, attributes.bits().into(), recursive)
}
