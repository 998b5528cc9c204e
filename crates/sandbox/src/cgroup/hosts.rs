//! Where on this host control groups can be made.
//!
//! Always below the group this process is in, so that the limits of the plane itself hold for its runs too.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::CgroupError;

/// What the host offers, as its own files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    v1: Vec<(String, PathBuf)>,
    v2: Option<PathBuf>,
    v2_controllers: Vec<String>,
}

/// Which versions carry a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Version 1 only.
    V1,
    /// Limits by version 1, kill and freeze by version 2.
    V1WithCore,
    /// Version 2 only.
    V2,
}

impl Kind {
    /// The word for evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1WithCore => "v1+v2",
            Self::V2 => "v2",
        }
    }
}

/// The directories below which the groups of runs are made.
#[derive(Debug)]
pub struct Places {
    /// For the memory limit.
    pub memory: PathBuf,
    /// For the limit of processes.
    pub pids: PathBuf,
    /// For the processor limit.
    pub cpu: PathBuf,
    /// For the core files of version 2.
    pub core: Option<PathBuf>,
    /// For the version 1 freezer.
    pub freezer: Option<PathBuf>,
    /// For limits of what is read and written.
    pub io: Option<PathBuf>,
}

impl Places {
    /// Each of them, some more than once.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let required = [&self.memory, &self.pids, &self.cpu].into_iter();
        required.chain(&self.core).chain(&self.freezer).chain(&self.io).map(PathBuf::as_path)
    }
}

/// The group that this process moves to so that version 2 lets its own group have children with limits.
const LEAF: &str = "cogward-plane";

/// The controllers without which no limit can be set.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

impl Hosts {
    /// Reads the host's hierarchies and where this process is in them.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut hosts = Self::parse(&mounts, &own);
        if let Some(v2) = &hosts.v2 {
            // The root of a hierarchy lists what exists; below it, what the parent has let through.
            let text = fs::read_to_string(base_of(v2).join("cgroup.controllers")).unwrap_or_default();
            hosts.v2_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(hosts)
    }

    fn parse(mounts: &str, own: &str) -> Self {
        let mut hosts = Self { v1: Vec::new(), v2: None, v2_controllers: Vec::new() };
        for line in mounts.lines() {
            // "36 35 98:0 /root /mount/point rw shared:1 - type source options"
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first()) else { continue };
            match *kind {
                "cgroup2" => {
                    let path = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
                    hosts.v2.get_or_insert(below(point, root, path));
                }
                "cgroup" => {
                    for controller in right.get(2).unwrap_or(&"").split(',') {
                        if !matches!(controller, "memory" | "pids" | "cpu" | "freezer" | "blkio") {
                            continue;
                        }
                        let path = own.lines().find_map(|l| {
                            let mut parts = l.splitn(3, ':').skip(1);
                            let named = parts.next()?.split(',').any(|c| c == controller);
                            parts.next().filter(|_| named)
                        });
                        if !hosts.v1.iter().any(|(c, _)| c == controller) {
                            hosts.v1.push((controller.to_owned(), below(point, root, path.unwrap_or("/"))));
                        }
                    }
                }
                _ => {}
            }
        }
        hosts
    }

    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.v1.iter().find(|(c, _)| c == controller).map(|(_, path)| path.clone())
    }

    /// Which versions would carry a run.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if NEEDED.iter().all(|c| self.v2_controllers.iter().any(|have| have == c)) {
            return Kind::V2;
        }
        match &self.v2 {
            Some(v2) if writable(&base_of(v2)) => Kind::V1WithCore,
            _ => Kind::V1,
        }
    }

    /// The directories that the groups of a run will be.
    ///
    /// # Errors
    /// As [`Hosts::places`].
    pub fn groups(&self, name: &str) -> Result<Vec<PathBuf>, CgroupError> {
        let mut groups: Vec<PathBuf> = self.places()?.all().map(|base| base.join(name)).collect();
        groups.sort();
        groups.dedup();
        Ok(groups)
    }

    /// Where the groups of runs go. For version 2 this may move the processes of the plane one level down.
    ///
    /// # Errors
    /// [`CgroupError::Missing`] names the controller that this process cannot use.
    pub fn places(&self) -> Result<Places, CgroupError> {
        if self.kind() == Kind::V2
            && let Some(v2) = &self.v2
        {
            let base = base_of(v2);
            delegate(&base, v2)?;
            enable_io(&base);
            return Ok(Places {
                memory: base.clone(),
                pids: base.clone(),
                cpu: base.clone(),
                core: Some(base.clone()),
                freezer: None,
                io: Some(base),
            });
        }
        let usable = |controller: &str| match self.v1(controller) {
            Some(path) if writable(&path) => Ok(path),
            Some(path) => Err(CgroupError::Missing(format!(
                "the cgroup controller `{controller}` is at {} and this process may not make groups there",
                path.display()
            ))),
            None => Err(CgroupError::Missing(format!("there is no cgroup controller `{controller}`"))),
        };
        let core = self.v2.as_deref().map(base_of).filter(|base| writable(base));
        let freezer = if core.is_some() { None } else { Some(usable("freezer")?) };
        let io = usable("blkio").ok();
        Ok(Places { memory: usable("memory")?, pids: usable("pids")?, cpu: usable("cpu")?, core, freezer, io })
    }
}

/// The group of the plane: our own, or the one above when we have already moved to the leaf.
fn base_of(own: &Path) -> PathBuf {
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == LEAF) => parent.to_owned(),
        _ => own.to_owned(),
    }
}

/// Lets children of `base` have limits. A group that has processes cannot, except the root: they move to a leaf.
fn delegate(base: &Path, own: &Path) -> Result<(), CgroupError> {
    let failed = |what: &str, source| CgroupError::Failed { what: format!("{what} {}", base.display()), source };
    let wanted = "+memory +pids +cpu";
    let enabled = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
    if NEEDED.iter().all(|c| enabled.split_whitespace().any(|have| have == *c)) {
        return Ok(());
    }
    // Only the root of the hierarchy has no type.
    if base.join("cgroup.type").exists() && base == own {
        let leaf = base.join(LEAF);
        match fs::create_dir(&leaf) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("making a leaf below", e)),
            _ => {}
        }
        // More than once: a process may fork while the others move.
        for _ in 0..5 {
            for pid in fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default().lines() {
                // One that has ended meanwhile is none that would be in the way.
                let _ = fs::write(leaf.join("cgroup.procs"), pid);
            }
            if fs::write(base.join("cgroup.subtree_control"), wanted).is_ok() {
                return Ok(());
            }
        }
    }
    fs::write(base.join("cgroup.subtree_control"), wanted).map_err(|e| failed("enabling limits below", e))
}

/// Lets children of `base` limit and count what is read and written, where this process was handed that. A run that
/// has such a limit is refused where it was not.
fn enable_io(base: &Path) {
    let has = |file: &str| {
        let text = fs::read_to_string(base.join(file)).unwrap_or_default();
        text.split_whitespace().any(|controller| controller == "io")
    };
    if has("cgroup.controllers") && !has("cgroup.subtree_control") {
        let _ = fs::write(base.join("cgroup.subtree_control"), "+io");
    }
}

/// The place of `path` (in the hierarchy) when `root` of the hierarchy is mounted at `point`.
fn below(point: &str, root: &str, path: &str) -> PathBuf {
    let relative = match root {
        "/" => Some(path),
        root => path.strip_prefix(root),
    };
    // Outside of what is mounted, as in a container with the host's names: the mount itself is the closest.
    let joined = Path::new(point).join(relative.unwrap_or("").trim_start_matches('/'));
    if joined.is_dir() && !path.contains("..") { joined } else { PathBuf::from(point) }
}

fn writable(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 25 0:26 / /nowhere/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:27 / /nowhere/memory rw,relatime shared:5 - cgroup cgroup rw,memory
33 25 0:28 / /nowhere/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 25 0:29 / /nowhere/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found_by_controller() {
        let hosts = Hosts::parse(HYBRID, "4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n");
        assert_eq!(hosts.v1("memory").unwrap(), Path::new("/nowhere/memory"));
        assert_eq!(hosts.v1("cpu").unwrap(), Path::new("/nowhere/cpu"));
        assert!(hosts.v1("pids").is_none() && hosts.v2.is_some());
    }

    #[test]
    fn without_a_controller_the_host_is_refused_by_name() {
        let hosts = Hosts::parse(HYBRID, "0::/\n");
        let error = hosts.places().unwrap_err().to_string();
        assert!(error.contains("freezer") || error.contains("memory"), "{error}");
    }

    #[test]
    fn a_plane_that_moved_to_its_leaf_finds_its_group_again() {
        assert_eq!(base_of(Path::new("/x/unit/cogward-plane")), Path::new("/x/unit"));
        assert_eq!(base_of(Path::new("/x/unit")), Path::new("/x/unit"));
    }

    #[test]
    fn version_2_delegation_enables_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        delegate(dir.path(), dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(text, "+memory +pids +cpu");
    }
}
