//! What only a machine's first process does: it makes the root that the agent sees, out of drives and memory.
//!
//! The kernel has unpacked an archive that holds this program, `/dev/null` and a few empty directories. Above it a new
//! root is put together as in the native sandbox (`src/native/mounts.rs`): the image's own directories, the package,
//! the workspace, small devices, nothing else. The archive cannot be reached afterwards, and the root is read-only.

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    },
    path::Path,
};

use crate::{
    AGENT_UID, At, Failed,
    config::{Config, Mount},
    sys::{self, BIND, MOUNT_READ_ONLY, MOVE, NO_DEVICES, NO_EXECUTION, NO_SET_UID, REMOUNT},
};

/// Where the kernel's own device nodes are, while the drives are attached.
const DEVICES: &str = "/dev";
/// Where the root is put together.
const NEW: &str = "/new";
/// Where the image's drive is attached.
const IMAGE: &str = "/image";
/// Top-level places that are never the image's.
const OURS: [&str; 6] = ["proc", "dev", "sys", "tmp", "run", "work"];
/// Device nodes of the agent: name, and minor number of the memory devices.
const NODES: [(&str, u64); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What the guest itself needs before it can speak.
pub fn attach_proc() -> Result<(), Failed> {
    fs::create_dir_all("/proc").at("proc")?;
    if Path::new("/proc/self").exists() {
        return Ok(());
    }
    sys::attach("proc", "/proc", "proc", NO_SET_UID | NO_DEVICES | NO_EXECUTION, "").at("proc")
}

/// Makes the root and moves there. Answers with the agent's standard input.
pub fn build(config: &Config) -> Result<OwnedFd, Failed> {
    let plain = NO_SET_UID | NO_DEVICES;
    for directory in [DEVICES, NEW, IMAGE] {
        fs::create_dir_all(directory).at("directories of the machine")?;
    }
    if !Path::new("/dev/full").exists() {
        sys::attach("devtmpfs", DEVICES, "devtmpfs", NO_SET_UID | NO_EXECUTION, "").at("devices of the machine")?;
    }
    let payload: usize = config.files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + config.stdin.len();
    let options = format!("mode=755,nr_inodes=4096,size={}", payload + 4 * 1024 * 1024);
    sys::attach("tmpfs", NEW, "tmpfs", plain, &options).at("root file system")?;

    for mount in &config.mounts {
        match mount {
            Mount::Root { device, kind } => image(config, device, kind)?,
            Mount::Package { device, kind, at } => {
                let place = directory(at)?;
                sys::attach(&node(device), &place, kind, plain | MOUNT_READ_ONLY, "").at("drive of a package")?;
            }
            Mount::Input { device, kind, at } => {
                let (place, flags) = (directory(at)?, plain | MOUNT_READ_ONLY | NO_EXECUTION);
                sys::attach(&node(device), &place, kind, flags, "").at("drive of an input")?;
            }
            Mount::Work { device, kind } => {
                let place = directory("/work")?;
                sys::attach(&node(device), &place, kind, plain | NO_EXECUTION, "").at("drive of the workspace")?;
                let _ = fs::remove_dir(format!("{place}/lost+found"));
                chown(&place, Some(AGENT_UID), Some(AGENT_UID)).at("drive of the workspace")?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).at("drive of the workspace")?;
            }
            Mount::Memory { .. } => {}
        }
    }
    devices()?;
    for mount in &config.mounts {
        if let Mount::Memory { at, mebibytes } = mount {
            let options = format!("mode=1777,nr_inodes=65536,size={mebibytes}m");
            sys::attach("tmpfs", &directory(at)?, "tmpfs", plain | NO_EXECUTION, &options).at("memory to write to")?;
        }
    }
    let dev = format!("{NEW}/dev");
    let read_only = BIND | REMOUNT | MOUNT_READ_ONLY;
    sys::attach("", &dev, "", read_only | NO_SET_UID | NO_EXECUTION, "").at("device nodes")?;
    let proc = directory("/proc")?;
    let options = "hidepid=invisible,subset=pid";
    sys::attach("proc", &proc, "proc", plain | NO_EXECUTION, options).at("proc")?;
    let stdin = files(config)?;
    sys::set_host_name("cogward").at("host name")?;

    // Nothing of the kernel's own nodes, such as those of the drives, stays within reach.
    let _ = sys::detach(DEVICES);
    std::env::set_current_dir(NEW).at("move into the root")?;
    sys::attach(".", "/", "", MOVE, "").at("move into the root")?;
    sys::enter_root().at("move into the root")?;
    std::env::set_current_dir("/").at("move into the root")?;
    sys::attach("", "/", "", read_only | plain, "").at("read-only root")?;
    Ok(stdin)
}

fn node(device: &str) -> String {
    format!("{DEVICES}/{device}")
}

/// A directory of the new root, and those above it.
fn directory(at: &str) -> Result<String, Failed> {
    let place = format!("{NEW}{at}");
    fs::create_dir_all(&place).at("directories of the root")?;
    Ok(place)
}

/// Shows each top-level entry of the image by itself, so that the root above them is always ours.
fn image(config: &Config, device: &str, kind: &str) -> Result<(), Failed> {
    let read_only = MOUNT_READ_ONLY | NO_SET_UID | NO_DEVICES;
    sys::attach(&node(device), IMAGE, kind, read_only, "").at("drive of the image")?;
    for entry in fs::read_dir(IMAGE).at("image")? {
        let entry = entry.at("image")?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let covered = config.mounts.iter().any(|mount| match mount {
            Mount::Package { at, .. } | Mount::Input { at, .. } => at.split('/').nth(1) == Some(name),
            _ => false,
        });
        if OURS.contains(&name) || covered || name == "lost+found" {
            continue;
        }
        let found = entry.file_type().at("image")?;
        if found.is_symlink() {
            let target = fs::read_link(entry.path()).at("image")?;
            symlink(target, format!("{NEW}/{name}")).at("image")?;
        } else if found.is_dir() {
            let place = directory(&format!("/{name}"))?;
            sys::attach(&format!("{IMAGE}/{name}"), &place, "", BIND, "").at("image")?;
            sys::attach("", &place, "", BIND | REMOUNT | read_only, "").at("image")?;
        }
    }
    Ok(())
}

fn devices() -> Result<(), Failed> {
    let place = directory("/dev")?;
    sys::attach("tmpfs", &place, "tmpfs", NO_SET_UID | NO_EXECUTION, "mode=755,size=64k,nr_inodes=64")
        .at("device nodes")?;
    for (name, minor) in NODES {
        let path = format!("{place}/{name}");
        sys::character_device(&path, 1, minor).at("device nodes")?;
        // Whatever the umask was.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).at("device nodes")?;
    }
    for (name, target) in LINKS {
        symlink(target, format!("{place}/{name}")).at("device nodes")?;
    }
    Ok(())
}

/// The files of the run, and its input as a file without a name.
fn files(config: &Config) -> Result<OwnedFd, Failed> {
    let place = directory("/run/cogward")?;
    for (name, bytes) in &config.files {
        write(&format!("{place}/{name}"), bytes)?;
    }
    let path = format!("{NEW}/run/stdin");
    write(&path, &config.stdin)?;
    let stdin = fs::File::open(&path).at("standard input")?;
    fs::remove_file(&path).at("standard input")?;
    Ok(stdin.into())
}

fn write(path: &str, bytes: &[u8]) -> Result<(), Failed> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(path);
    file.and_then(|mut file| file.write_all(bytes)).at("files of /run/cogward")
}
