//! From an image to a mount, and what is inside of one.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use cogward_model::Digest;
use rustix::{
    fs::{Dir, Mode, OFlags, ResolveFlags, Stat, openat2},
    mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree},
};

use super::{KIND, PackageImage};
use crate::native::{At, Stage, loop_device, tree};

const STAGE: &str = "image of the package";
/// The kernel's number of the file system.
const MAGIC: i64 = 0xE0F5_E1E2;
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How the kernel reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// The file itself (Linux 6.12 and later).
    File,
    /// A loop device of the file.
    Loop,
}

impl Backing {
    /// The word for evidence.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::File => "erofs",
            Self::Loop => "erofs-loop",
        }
    }
}

/// A mount of an image that is attached nowhere, or only for its owner.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) mount: OwnedFd,
    pub(crate) backing: Backing,
}

/// Opens the image of a run, makes sure that it is the one that was made, and mounts that very file.
pub(crate) fn open(image: &PackageImage) -> Result<Mounted, Stage> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(&image.file, flags, Mode::empty()).at(STAGE)?;
    let mut file = File::from(file);
    let changed = || Stage::new(STAGE, &"it is not the image that was made of the package: it was changed since");
    let before = identity(&file).at(STAGE)?;
    if before.1 != image.bytes || digest(&mut file).at(STAGE)? != (image.digest, image.bytes) {
        return Err(changed());
    }
    let mounted = mount(file.as_fd()).at("image of the package: mount")?;
    // Whoever wrote to it while it was read has left that mark, and cannot take it back.
    if identity(&file).at(STAGE)? != before {
        return Err(changed());
    }
    Ok(mounted)
}

/// What changes whenever the file does: when it was last changed, and its size.
fn identity(file: &File) -> io::Result<((i64, i64), u64)> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(((found.ctime(), found.ctime_nsec()), found.len()))
}

/// The digest and the length of a file, from its begin.
pub(crate) fn digest(file: &mut File) -> io::Result<(Digest, u64)> {
    let (mut hash, mut buffer, mut total) = (Context::new(&SHA256), vec![0_u8; 256 * 1024], 0);
    rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(buffer.get(..count).unwrap_or_default());
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut out = [0_u8; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Ok((Digest::from_bytes(out), total))
}

/// Mounts an image: of the file, where the kernel can, else of a loop device.
pub(crate) fn mount(file: BorrowedFd<'_>) -> io::Result<Mounted> {
    by_file(file).or_else(|first| {
        // What the kernel said of the file is more than what a host without loop devices says.
        by_loop(file).map_err(|second| io::Error::new(first.kind(), format!("{first}; by a loop device: {second}")))
    })
}

pub(super) fn by_file(file: BorrowedFd<'_>) -> io::Result<Mounted> {
    // By this name, which says nothing of the host, the mount is shown inside.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(Mounted { mount: mount_of(&source)?, backing: Backing::File })
}

pub(super) fn by_loop(file: BorrowedFd<'_>) -> io::Result<Mounted> {
    let (device, name) = loop_device::attach_read_only(file)?;
    let mount = mount_of(&name)?;
    // The mount holds the device from here on, and the device the file.
    drop(device);
    Ok(Mounted { mount, backing: Backing::Loop })
}

fn mount_of(source: &str) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = tree::file_system(KIND, &[("source", source), ("ro", "")], attributes)?;
    #[allow(clippy::allow_attributes, clippy::unnecessary_cast, reason = "its type differs between architectures")]
    let found = rustix::fs::fstatfs(&mount)?.f_type as i64;
    if found != MAGIC {
        return Err(io::Error::other("something else than an image was mounted"));
    }
    Ok(mount)
}

impl Mounted {
    /// A path that leads to the root of the mount in this process.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        format!("/proc/self/fd/{}", self.mount.as_raw_fd()).into()
    }
}

/// A mount in a mount namespace of one's own, out of which parts are cloned.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    image: &'a PackageImage,
    mount: BorrowedFd<'a>,
}

impl<'a> Attached<'a> {
    /// Attaches it on a directory: kernels before 6.15 clone only of what is attached.
    pub(crate) fn at(image: &'a PackageImage, mount: BorrowedFd<'a>, directory: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mount, "", directory, "", flags)?;
        Ok(Self { image, mount })
    }

    /// The same path in the image; `None` when it is not of the package.
    pub(crate) fn inside<'p>(&self, source: &'p Path) -> Option<&'p Path> {
        self.image.inside(source)
    }

    /// Opens something of the package. No part of the path is a link.
    pub(crate) fn open(&self, inside: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        Ok(openat2(self.mount, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), INSIDE)?)
    }

    /// What something of the package is.
    pub(crate) fn stat(&self, inside: &Path) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.open(inside, OFlags::PATH)?)?)
    }

    /// A mount of a directory of the package alone.
    pub(crate) fn clone_of(&self, inside: &Path) -> io::Result<OwnedFd> {
        let place = self.open(inside, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(&place, "", flags)?)
    }

    /// Takes it away again; what was cloned of it stays.
    pub(crate) fn detach(self) -> io::Result<()> {
        rustix::process::fchdir(self.mount)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        Ok(rustix::process::chdir("/")?)
    }
}

/// Entries of a directory, and where those that are links point; other kinds than directories and links are left out.
pub(crate) fn top_level(directory: BorrowedFd<'_>) -> io::Result<Vec<(String, Option<String>)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Ok(text) = std::str::from_utf8(name.to_bytes()) else { continue };
        if matches!(text, "." | "..") {
            continue;
        }
        let kind = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
        match rustix::fs::FileType::from_raw_mode(kind) {
            rustix::fs::FileType::Directory => found.push((text.to_owned(), None)),
            rustix::fs::FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                let target = std::ffi::OsStr::from_bytes(target.to_bytes()).to_string_lossy().into_owned();
                found.push((text.to_owned(), Some(target)));
            }
            _ => {}
        }
    }
    Ok(found)
}
