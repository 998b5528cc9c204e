//! A workspace on the host's disk: a file system of the run's own in an image file.
//!
//! Its size and its number of inodes are those of the file system, which is the only quota that no host has to be
//! set up for. The image is allocated whole before the run begins, so that a full disk of the host refuses the run
//! and never surprises it, and has no name any more once it is mounted: whatever dies, the kernel frees it with
//! its last user. The agent's bytes are page cache that can be written back, not memory that it holds.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use cogward_model::limits::DISK_RESERVE_BYTES;
use rustix::{
    fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, fstatvfs, openat, unlinkat},
    mount::MountAttrFlags,
};

use super::{At, Stage, loop_device, tree};

/// The name of the image, as long as it has one.
const IMAGE: &str = "workspace.img";
const BLOCK: u64 = 4_096;
const MIB: u64 = 1024 * 1024;
const MKE2FS: [&str; 2] = ["/usr/sbin/mke2fs", "/sbin/mke2fs"];
const STAGE: &str = "workspace on disk";

/// The same for a run, unless the host's disk would have less than what belongs to the evidence.
pub fn workspace_for(dir: &Path, mib: u32, inodes: u32, owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), Stage> {
    has_room(dir, image_size(mib, inodes)).at(STAGE)?;
    workspace(dir, mib, inodes, owner)
}

/// Whether the file system of a directory takes so many bytes and leaves what belongs to the evidence.
pub fn has_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let disk = rustix::fs::statvfs(dir)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(bytes) >= DISK_RESERVE_BYTES {
        return Ok(());
    }
    let mib = bytes.div_ceil(MIB);
    Err(io::Error::other(format!(
        "there is no room for {mib} MiB on the plane's disk, of which {DISK_RESERVE_BYTES} bytes stay free"
    )))
}

/// A file system of `mib` MiB and `inodes` inodes that belongs to a uid of the host, mounted nowhere yet.
///
/// The second descriptor holds what the file system has beyond its size; it lives as long as the run does.
pub fn workspace(dir: &Path, mib: u32, inodes: u32, owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), Stage> {
    let path = dir.join(IMAGE);
    let made = make(&path, mib, inodes, owner);
    // Its name goes in any case; the loop device holds the file.
    let _gone = std::fs::remove_file(&path);
    let mount = made?;
    let (mount, ballast) = fitted(mount, u64::from(mib) * MIB / BLOCK)?;
    Ok((mount, ballast))
}

fn make(path: &Path, mib: u32, inodes: u32, (uid, gid): (u32, u32)) -> Result<OwnedFd, Stage> {
    let image = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).at(STAGE)?;
    fallocate(&image, FallocateFlags::empty(), 0, image_size(mib, inodes)).at(STAGE)?;
    let program = MKE2FS
        .iter()
        .find(|p| Path::new(p).is_file())
        .ok_or_else(|| Stage::new(STAGE, &"there is no mke2fs on this host: install e2fsprogs"))?;
    let made = Command::new(program)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-N"])
        .arg(inodes.saturating_add(12).to_string())
        // No journal: nobody reads this file system after a crash.
        .args(["-O", "^has_journal,^resize_inode", "-E"])
        .arg(format!("root_owner={uid}:{gid},lazy_itable_init=1,nodiscard"))
        .arg(path)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .at(STAGE)?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(Stage::new(STAGE, &format!("mke2fs: {}", said.trim())));
    }
    let (device, name) = loop_device::attach(image.as_fd()).at("workspace on disk: loop device")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let options = [("source", name.as_str()), ("noinit_itable", "")];
    let mount = tree::file_system("ext4", &options, attributes).at("workspace on disk: mount")?;
    // The mount holds the device from here on, and the device the image.
    drop(device);
    let root = openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at(STAGE)?;
    unlinkat(&root, "lost+found", AtFlags::REMOVEDIR).at(STAGE)?;
    rustix::fs::fchmod(&root, Mode::from_raw_mode(0o700)).at(STAGE)?;
    Ok(mount)
}

/// The tables of the file system are beside what the agent may use: the inodes, two bitmaps for each 128 MiB, and what
/// the kernel keeps back for its own metadata, at most a fiftieth or 16 MiB.
fn image_size(mib: u32, inodes: u32) -> u64 {
    let wanted = u64::from(mib) * MIB;
    let tables = u64::from(inodes) * 288 + wanted / 1024 + (wanted / 40).min(20 * MIB) + 2 * MIB;
    (wanted + tables).next_multiple_of(BLOCK)
}

/// Takes away what the file system has beyond `blocks`, in a file without a name.
fn fitted(mount: OwnedFd, blocks: u64) -> Result<(OwnedFd, OwnedFd), Stage> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let ballast = openat(&mount, ".", flags, Mode::from_raw_mode(0o600)).at(STAGE)?;
    let free = || fstatvfs(&ballast).map(|s| s.f_bavail);
    let surplus = free().at(STAGE)?.checked_sub(blocks);
    let surplus = surplus.ok_or_else(|| Stage::new(STAGE, &"the file system is smaller than it was to be"))?;
    if surplus > 0 {
        fallocate(&ballast, FallocateFlags::empty(), 0, surplus * BLOCK).at(STAGE)?;
    }
    // The ballast's own tree takes blocks as well when it lies in many pieces: those are given back.
    let short = blocks.saturating_sub(free().at(STAGE)?);
    if short > 0 && short < surplus {
        rustix::fs::ftruncate(&ballast, (surplus - short) * BLOCK).at(STAGE)?;
    }
    Ok((mount, ballast))
}

/// Whether this host can do it, done once on a small scale.
pub fn probe(dir: &Path) -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only a plane that runs as root can mount a file system from an image".to_owned());
    }
    let failed = |e: io::Error| e.to_string();
    let (mount, _ballast) = workspace(dir, 1, 64, (65_534, 65_534)).map_err(|s| format!("{}: {}", s.stage, s.why))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = openat(&mount, "probe", flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
    let block = [b'x'; 64 * 1024];
    let mut written = 0;
    loop {
        match rustix::io::write(&file, &block) {
            Ok(count) => written += count as u64,
            Err(rustix::io::Errno::NOSPC) => break,
            Err(e) => return Err(failed(e.into())),
        }
        if written > 2 * MIB {
            return Err("a file system of 1 MiB took more than 2 MiB".to_owned());
        }
    }
    let _: io::Result<()> = File::from(file).set_len(0);
    debug_assert!(mount.as_raw_fd() > 2);
    Ok(format!("a file system of 1 MiB was made, mounted and filled with {written} bytes"))
}
