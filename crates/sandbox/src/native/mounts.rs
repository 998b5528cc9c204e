//! What a sandbox sees of file systems.
//!
//! Two halves, on both sides of the change of uid. [`Sources::open`] runs as the uid of the plane, which owns the
//! data directory with mode 0700: it clones every mount that comes from the host, as descriptors, and makes it
//! read-only. [`build`] runs as the sandbox's own root, whose files a fresh tmpfs takes: it attaches them below a
//! new root and moves there. Nothing of the host's tree is reachable afterwards.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
    },
};

use cogward_model::limits::RUN_INPUT_BYTES_MAX;

use super::{
    AGENT_UID, At, Stage, Uids,
    landlock::Grants,
    network, template,
    tree::{self, Tree},
};
use crate::{
    image::{Attached, top_level},
    service::{Network, Shown},
    spec::{INPUT_FILE, LATE_FILE_BYTES_MAX, LaunchSpec, Root},
    storage::{INPUTS, SKILLS},
};

/// A file whose only purpose is that Landlock must refuse it: everyone may read it as far as its mode goes.
pub const PROBE_FILE: &str = "/run/landlock-probe";

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Parts of the host's `/etc` without which programs of its `/usr` do not work; none holds a secret.
const ETC_TREES: [&str; 4] = ["ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted", "alternatives"];
const ETC_FILES: [&str; 2] = ["ld.so.cache", "localtime"];
/// Largest file that is copied from the host's `/etc`.
const ETC_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Mounts cloned from the host and the place of each, and copied files.
#[derive(Debug)]
pub struct Sources {
    run_dir: OwnedFd,
    trees: Vec<(String, OwnedFd)>,
    devices: Vec<(String, OwnedFd)>,
    links: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    /// The directory that the workspace begins with.
    template: Option<OwnedFd>,
    grants: Grants,
}

impl Sources {
    /// Clones what the run may see, in the mount namespace of the run, which is cut off from the host's first. Only
    /// before the uid changes: afterwards the plane's directories are closed.
    ///
    /// `package` is a mount of the image that the package comes from, where the launch names one.
    pub fn open(spec: &LaunchSpec, uids: Uids, package: Option<BorrowedFd<'_>>) -> Result<Self, Stage> {
        // Before the first clone: one of a mount that still belongs to the host's would get what is mounted there later.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).at("private mounts")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let run_dir = rustix::fs::open(&spec.run_dir, flags, Mode::empty()).at("run directory")?;
        let mut sources = Self {
            run_dir,
            trees: Vec::new(),
            devices: Vec::new(),
            links: Vec::new(),
            files: Vec::new(),
            template: None,
            grants: grants_of(spec),
        };
        sources.package(spec, uids, package)?;
        for input in &spec.storage.inputs {
            sources.input(&input.source, &format!("{INPUTS}/{}", input.name), uids)?;
        }
        for device in DEVICES {
            let fd = clone_tree(&Path::new("/dev").join(device)).at("device nodes")?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            super::sys::mount_add_attributes(fd.as_fd(), attributes.bits().into(), false).at("device nodes")?;
            sources.devices.push((device.to_owned(), fd));
        }
        Ok(sources)
    }

    /// The root and what is mounted of the package: out of its image, as far as it is of the package and there is one.
    fn package(&mut self, spec: &LaunchSpec, uids: Uids, mount: Option<BorrowedFd<'_>>) -> Result<(), Stage> {
        let attached = match (&spec.package_image, mount) {
            (Some(image), Some(mount)) => {
                Some(Attached::at(image, mount, self.run_dir.as_fd()).at("image of the package")?)
            }
            (None, None) => None,
            _ => return Err(Stage::new("image of the package", &"it was declared and not mounted, or not declared")),
        };
        let from = Origin(attached.as_ref());
        match &spec.root {
            Root::HostUsr => self.host_usr()?,
            Root::Image { dir } => self.image(dir, spec, uids, from)?,
        }
        for mount in &spec.mounts {
            from.readable(&mount.source, uids)?;
            self.tree(&mount.source, mount.at.trim_start_matches('/'), true, from)?;
        }
        if let Some(template) = &spec.storage.from {
            from.readable(template, uids)?;
            let stage = format!("workspace from {}", template.display());
            self.template = Some(from.directory(template).at(&stage)?);
        }
        attached.map_or(Ok(()), |attached| attached.detach().at("image of the package"))
    }

    fn tree(&mut self, source: &Path, at: &str, execute: bool, from: Origin<'_>) -> Result<(), Stage> {
        let stage = || format!("mount of {}", source.display());
        let fd = from.tree(source).at(&stage())?;
        tree::make_read_only(fd.as_fd(), true).at(&stage())?;
        let place = format!("/{at}");
        if execute {
            self.grants.execute.push(place)
        } else {
            self.grants.read.push(place)
        }
        self.trees.push((at.to_owned(), fd));
        Ok(())
    }

    /// A file or a directory that the run is given: it can be read and nothing else.
    fn input(&mut self, source: &Path, at: &str, uids: Uids) -> Result<(), Stage> {
        let stage = format!("input {at}");
        let found = std::fs::symlink_metadata(source).at(&stage)?;
        if found.is_dir() {
            Origin(None).readable(source, uids)?;
        } else if !found.is_file() || (matches!(uids, Uids::OwnRange { .. }) && found.mode() & 0o004 == 0) {
            return Err(Stage::new(stage, &"it is neither a file nor a directory that the agent could read"));
        }
        self.tree(source, at, false, Origin(None))?;
        if let Some((_, fd)) = self.trees.last() {
            let no_execution = MountAttrFlags::MOUNT_ATTR_NOEXEC.bits();
            super::sys::mount_add_attributes(fd.as_fd(), no_execution.into(), true).at(&stage)?;
        }
        Ok(())
    }

    fn host_usr(&mut self) -> Result<(), Stage> {
        self.tree(Path::new("/usr"), "usr", true, Origin(None))?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            if Path::new("/usr").join(name).is_dir() {
                self.links.push((name.to_owned(), format!("usr/{name}")));
            }
        }
        for name in ETC_TREES {
            let source = Path::new("/etc").join(name);
            if source.is_dir() {
                self.tree(&source, &format!("etc/{name}"), false, Origin(None))?;
            }
        }
        for name in ETC_FILES {
            let source = Path::new("/etc").join(name);
            if source.metadata().is_ok_and(|m| m.is_file() && m.len() <= ETC_FILE_BYTES_MAX) {
                self.files.push((format!("etc/{name}"), std::fs::read(&source).at("files of /etc")?));
            }
        }
        let names = format!("root:x:0:0::/:/bin/sh\nagent:x:{AGENT_UID}:{AGENT_UID}::/work:/bin/sh\n");
        let groups = format!("root:x:0:\nagent:x:{AGENT_UID}:\n");
        let hosts_own = |name: &str| {
            let known = std::fs::read_to_string(Path::new("/etc").join(name)).ok();
            known.filter(|text| self.grants.any_port && text.len() as u64 <= ETC_FILE_BYTES_MAX)
        };
        let (hosts, resolv) = (hosts_own("hosts"), hosts_own("resolv.conf"));
        let resolving = if self.grants.any_port { "files dns" } else { "files" };
        let switch = format!("passwd: files\ngroup: files\nhosts: {resolving}\n");
        let generated = [
            ("passwd", names.as_str()),
            ("group", groups.as_str()),
            ("hosts", hosts.as_deref().unwrap_or("127.0.0.1 localhost\n::1 localhost\n")),
            ("nsswitch.conf", switch.as_str()),
            ("resolv.conf", resolv.as_deref().unwrap_or("# The plane resolves names.\n")),
        ];
        self.files.extend(generated.map(|(name, text)| (format!("etc/{name}"), text.as_bytes().to_vec())));
        self.grants.read.push("/etc".to_owned());
        Ok(())
    }

    /// Shows each top-level entry of an image by itself, so that the root above them is always ours.
    fn image(&mut self, dir: &Path, spec: &LaunchSpec, uids: Uids, from: Origin<'_>) -> Result<(), Stage> {
        from.readable(dir, uids)?;
        let ours = ["proc", "dev", "sys", "tmp", "run", "work"];
        let directory = from.directory(dir).at("image")?;
        for (name, target) in top_level(directory.as_fd()).at("image")? {
            let covered = spec.mounts.iter().any(|m| m.at.split('/').nth(1) == Some(name.as_str()));
            let inputs = name == INPUTS && !spec.storage.inputs.is_empty();
            if ours.contains(&name.as_str()) || covered || inputs {
                continue;
            }
            match target {
                Some(target) => self.links.push((name, target)),
                None => self.tree(&dir.join(&name), &name, true, from)?,
            }
        }
        Ok(())
    }
}

/// Where what a launch names on the host is taken from: the image of the package, as far as it is of the package.
#[derive(Clone, Copy)]
struct Origin<'a>(Option<&'a Attached<'a>>);

impl Origin<'_> {
    fn of_package<'p>(&self, source: &'p Path) -> Option<(&Attached<'_>, &'p Path)> {
        self.0.and_then(|image| Some((image, image.inside(source)?)))
    }

    /// A detached mount of a directory, or of a file of the host.
    fn tree(&self, source: &Path) -> io::Result<OwnedFd> {
        match self.of_package(source) {
            Some((image, inside)) => image.clone_of(inside),
            None => clone_tree(source),
        }
    }

    /// A directory, to be read.
    fn directory(&self, source: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.of_package(source) {
            Some((image, inside)) => image.open(inside, flags),
            None => Ok(rustix::fs::open(source, flags, Mode::empty())?),
        }
    }

    /// Refuses a directory that the agent could not enter, with a sentence instead of the agent's own confusion.
    fn readable(&self, source: &Path, uids: Uids) -> Result<(), Stage> {
        let stage = format!("mount of {}", source.display());
        let mode = match self.of_package(source) {
            Some((image, inside)) => image.stat(inside).at(&stage)?.st_mode,
            None => std::fs::symlink_metadata(source).at(&stage)?.mode(),
        };
        if FileType::from_raw_mode(mode) != FileType::Directory {
            return Err(Stage::new(stage, &"it is not a directory"));
        }
        if matches!(uids, Uids::OwnRange { .. }) && mode & 0o005 != 0o005 {
            return Err(Stage::new(stage, &format!("the agent could not read it: its mode is {:o}", mode & 0o7777)));
        }
        Ok(())
    }
}

impl Sources {
    /// The run's directory, on which the new root is mounted while it is built.
    pub fn run_dir(&self) -> &OwnedFd {
        &self.run_dir
    }

    /// Bytes of the files that [`Sources::furnish`] writes.
    pub fn payload(&self, spec: &LaunchSpec) -> usize {
        spec.files.iter().chain(&self.files).map(|(_, bytes)| bytes.len()).sum()
    }

    /// Fills a root with what comes from the host and with the files of the run.
    pub fn furnish(&self, spec: &LaunchSpec, tree: &Tree) -> Result<(), Stage> {
        for (at, fd) in &self.trees {
            let stage = format!("mount at /{at}");
            if !tree.has(at) {
                place_for(tree, at, fd).at(&stage)?;
            }
            tree.attach(fd.as_fd(), at).at(&stage)?;
        }
        for (at, target) in &self.links {
            if !tree.has(at) {
                tree.link(at, target).at("links of the root")?;
            }
        }
        tree.directory("etc").at("files of /etc")?;
        for (at, bytes) in &self.files {
            tree.file(at, bytes).at("files of /etc")?;
        }
        tree.directory("run/cogward").at("files of /run/cogward")?;
        for (name, bytes) in &spec.files {
            tree.file(&format!("run/cogward/{name}"), bytes).at("files of /run/cogward")?;
        }
        Ok(())
    }

    /// Copies what the workspace begins with, if there is something.
    pub fn copy_template(&self, work: BorrowedFd<'_>) -> Result<(), Stage> {
        let stage = "workspace.from: copying it into the workspace";
        self.template.as_ref().map_or(Ok(()), |from| template::copy(from.as_fd(), work).at(stage))
    }

    /// Attaches the device nodes below `/dev` of a tree.
    pub fn attach_devices(&self, tree: &Tree) -> Result<(), Stage> {
        devices(tree, &self.devices, &mut Grants::default())
    }
}

/// A detached copy of the mounts at `source`.
pub fn clone_tree(source: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, source, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// What is left of the build for the processes of the sandbox.
#[derive(Debug)]
pub struct Built {
    /// The workspace, for the supervisor.
    pub work: OwnedFd,
    /// The standard input of the agent.
    pub stdin: OwnedFd,
    /// What Landlock grants.
    pub grants: Grants,
    /// Where an input that comes late is written to: the file, and standard input.
    pub late: Option<[OwnedFd; 2]>,
}

/// Builds the root and moves into it.
pub fn build(
    spec: &LaunchSpec,
    mut sources: Sources,
    disk: Option<BorrowedFd<'_>>,
    shown: &[Shown],
) -> Result<Built, Stage> {
    let late = if spec.late_input { LATE_FILE_BYTES_MAX + RUN_INPUT_BYTES_MAX } else { 0 };
    let size = (sources.payload(spec) + spec.stdin.len() + late + 4 * 1024 * 1024).to_string();
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = tree::file_system("tmpfs", &[("size", &size), ("nr_inodes", "2048"), ("mode", "755")], plain)
        .at("root file system")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&root, "", &sources.run_dir, "", flags).at("root file system")?;
    let tree = Tree::new(root);

    sources.furnish(spec, &tree)?;
    let mut grants = std::mem::take(&mut sources.grants);
    for top in [INPUTS, SKILLS] {
        // So that an agent can look what is there; the directory itself is ours and holds nothing else.
        let inside = |at: &String| at.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
        if sources.trees.iter().any(|(at, _)| inside(at)) {
            grants.read.push(format!("/{top}"));
        }
    }
    tree.file(PROBE_FILE.trim_start_matches('/'), b"").at("files of /run")?;
    grants.read.push("/run/cogward".to_owned());

    let dev = workspaces(spec, &tree, disk, &mut grants)?;
    // After the places that can be written to, below which some of them are.
    show(shown, &tree, &mut grants)?;
    devices(&tree, &sources.devices, &mut grants)?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
    super::sys::mount_add_attributes(dev.as_fd(), read_only.into(), false).at("device nodes")?;
    tree.directory("proc").at("proc")?;
    let options = [("subset", "pid"), ("hidepid", "invisible")];
    let proc = tree::file_system("proc", &options, plain | MountAttrFlags::MOUNT_ATTR_NOEXEC).at("proc")?;
    tree.attach(proc.as_fd(), "proc").at("proc")?;
    grants.read.push("/proc".to_owned());

    let (stdin, late_stdin) = standard_input(&tree, &spec.stdin, spec.late_input).at("standard input")?;
    let late_file = spec.late_input.then(|| writable(&tree, &format!("run/cogward/{INPUT_FILE}"))).transpose();
    let late = late_file.at("files of /run/cogward")?.zip(late_stdin).map(|(file, stdin)| [file, stdin]);
    let work = tree.open("work", OFlags::RDONLY | OFlags::DIRECTORY).at("workspace")?;
    sources.copy_template(work.as_fd())?;
    rustix::process::fchdir(tree.root()).at("move into the root")?;
    rustix::process::pivot_root(".", ".").at("move into the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).at("move into the root")?;
    rustix::process::chdir("/").at("move into the root")?;
    tree::make_read_only(tree.root(), false).at("read-only root")?;
    Ok(Built { work, stdin, grants, late })
}

/// What Landlock grants before anything is mounted. A program of the operator's has no door, and where it has the host's
/// network, no rule for ports.
fn grants_of(spec: &LaunchSpec) -> Grants {
    let connect = if spec.service.is_none() { network::PORTS.to_vec() } else { Vec::new() };
    let any_port = spec.service.as_ref().is_some_and(|service| service.network == Network::Host);
    Grants { connect, any_port, ..Grants::default() }
}

/// Attaches the paths of the host that a program of the operator's is shown.
fn show(shown: &[Shown], tree: &Tree, grants: &mut Grants) -> Result<(), Stage> {
    for Shown { at, writable, mount } in shown {
        let stage = format!("mount at /{at}");
        if !tree.has(at) {
            place_for(tree, at, mount).at(&stage)?;
        }
        tree.attach(mount.as_fd(), at).at(&stage)?;
        if *writable { &mut grants.write } else { &mut grants.execute }.push(format!("/{at}"));
    }
    Ok(())
}

/// What a mount is attached to: something of its own kind.
fn place_for(tree: &Tree, at: &str, mount: &OwnedFd) -> io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
    if kind == FileType::Directory {
        return tree.directory(at);
    }
    if let Some((above, _)) = at.rsplit_once('/') {
        tree.directory(above)?;
    }
    tree.file(at, b"")
}

/// The bounded places that can be written to. All but a workspace on disk are memory of the run's cgroup.
/// Answers with `/dev`, which the caller fills and then makes read-only.
fn workspaces(
    spec: &LaunchSpec,
    tree: &Tree,
    disk: Option<BorrowedFd<'_>>,
    grants: &mut Grants,
) -> Result<OwnedFd, Stage> {
    let owner = AGENT_UID.to_string();
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mib = spec.resources.workspace_mib;
    tree.directory("dev").at("device nodes")?;
    let dev = tree::file_system(
        "tmpfs",
        &[("size", "64k"), ("nr_inodes", "64"), ("mode", "755")],
        plain | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .at("device nodes")?;
    tree.attach(dev.as_fd(), "dev").at("device nodes")?;
    let small = mib.min(64);
    // The root of the workspace is an inode as well, and not one of the agent's.
    let (inodes, few) = (spec.resources.inodes().saturating_add(1), (small * 256).max(1024));
    for (at, mib, inodes, mode) in
        [("work", mib, inodes, "700"), ("tmp", small, few, "1777"), ("dev/shm", small, few, "1777")]
    {
        tree.directory(at).at("workspace")?;
        grants.write.push(format!("/{at}"));
        if let (Some(disk), "work") = (disk, at) {
            tree.attach(disk, at).at("workspace on disk")?;
            continue;
        }
        let (size, inodes) = (format!("{mib}m"), inodes.to_string());
        let options =
            [("size", size.as_str()), ("nr_inodes", &inodes), ("mode", mode), ("uid", &owner), ("gid", &owner)];
        // Landlock grants no execution here; without this a loader (`ld.so program`) could still map code from it.
        let fd = tree::file_system("tmpfs", &options, plain | MountAttrFlags::MOUNT_ATTR_NOEXEC).at("workspace")?;
        tree.attach(fd.as_fd(), at).at("workspace")?;
    }
    Ok(dev)
}

fn devices(tree: &Tree, nodes: &[(String, OwnedFd)], grants: &mut Grants) -> Result<(), Stage> {
    for (name, fd) in nodes {
        let at = format!("dev/{name}");
        tree.file(&at, b"").at("device nodes")?;
        tree.attach(fd.as_fd(), &at).at("device nodes")?;
        grants.nodes.push(format!("/{at}"));
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        tree.link(&format!("dev/{name}"), target).at("device nodes")?;
    }
    Ok(())
}

/// The input as a file that has no name and lies on a file system that becomes read-only; and, when it comes late,
/// what it will be written through.
pub fn standard_input(tree: &Tree, bytes: &[u8], late: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let name = "run/stdin";
    tree.file(name, bytes)?;
    let fd = tree.open(name, OFlags::RDONLY)?;
    let late = late.then(|| writable(tree, name)).transpose()?;
    let run = tree.open("run", OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::fs::unlinkat(&run, "stdin", rustix::fs::AtFlags::empty())?;
    Ok((fd, late))
}

/// A file of the root, open for writing through a mount of its own that no process can reach by a path: the root
/// becomes read-only, and a mount with a file that is open for writing could not.
fn writable(tree: &Tree, path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Tree::new(open_tree(tree.root(), "", flags)?).open(path, OFlags::WRONLY)
}
