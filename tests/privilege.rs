//! The units of `deploy/systemd` give what a plane needs and nothing else: agents run under exactly the capabilities
//! that they name, and not without one of them. systemd is not needed for it: groups, mounts and capabilities are made
//! by hand as it would make them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};

const EXE: &str = env!("CARGO_BIN_EXE_cogward");
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd");
/// A uid that nothing runs as.
const ORDINARY: u32 = 54_322;

fn unit(name: &str) -> Result<String> {
    fs::read_to_string(Path::new(DEPLOY).join(name)).with_context(|| name.to_owned())
}

fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The capabilities of a unit, as `setpriv` names them.
fn capabilities(unit: &str) -> Result<Vec<String>> {
    let named = setting(unit, "CapabilityBoundingSet").context("the unit bounds its capabilities")?;
    named
        .split_whitespace()
        .map(|name| Ok(name.strip_prefix("CAP_").with_context(|| name.to_owned())?.to_ascii_lowercase()))
        .collect()
}

/// A place for a plane, as a unit makes it: control groups of its own, a read-only system, bounded capabilities.
struct Place {
    dir: tempfile::TempDir,
    groups: Vec<PathBuf>,
}

impl Place {
    fn new(name: &str, owner: Option<u32>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cogward-unit").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(dir.path().join("data"))?;
        fs::set_permissions(dir.path().join("data"), fs::Permissions::from_mode(0o700))?;
        // The program, where every uid can execute it.
        let program = dir.path().join("cogward");
        fs::hard_link(EXE, &program).or_else(|_| fs::copy(EXE, &program).map(drop))?;
        let groups = delegated(&format!("cogward-unit-{name}-{}", std::process::id()))?;
        if let Some(uid) = owner {
            chown(dir.path().join("data"), Some(uid), Some(uid))?;
            for group in &groups {
                chown(group, Some(uid), Some(uid))?;
                for file in ["cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads"] {
                    if group.join(file).exists() {
                        chown(group.join(file), Some(uid), Some(uid))?;
                    }
                }
            }
        }
        Ok(Self { dir, groups })
    }

    /// Starts a plane in it. What is between is a shell that becomes the plane, so its process is the plane's.
    fn plane(&self, setpriv: &str) -> Result<Plane> {
        let (dir, program) = (self.dir.path(), self.dir.path().join("start"));
        let groups: String =
            self.groups.iter().map(|g| format!("echo $$ > '{}/cgroup.procs'\n", g.display())).collect();
        let script = format!(
            "#!/bin/sh\nset -e\nif [ \"$1\" != serve ]; then exec '{EXE}' \"$@\"; fi\n{groups}exec unshare --mount \
             --propagation private /bin/sh -ec 'mount --bind \"$0/data\" \"$0/data\"; mount -o remount,bind,ro /; exec \
             setpriv --no-new-privs --inh-caps=-all {setpriv} \"$0/cogward\" \"$@\"' '{}' \"$@\"\n",
            dir.display()
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Plane::start_in(program, &dir.join("data"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for group in &self.groups {
            for below in fs::read_dir(group).into_iter().flatten().flatten() {
                let _gone = fs::remove_dir(below.path());
            }
            let _gone = fs::remove_dir(group);
        }
    }
}

/// Control groups of a name in every hierarchy of version 1, and of version 2 beside them. On version 2 alone the plane
/// stays in the group of the test, as root may: a group that has processes has no children with limits.
fn delegated(name: &str) -> Result<Vec<PathBuf>> {
    let (mounts, own) = (fs::read_to_string("/proc/self/mountinfo")?, fs::read_to_string("/proc/self/cgroup")?);
    let mut groups = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).context("a mount point")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        // A new group of `cpuset` takes no process before it has processors, and nothing here needs one.
        let used = ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio"];
        if kind != "cgroup2" && !(kind == "cgroup" && options.split(',').any(|option| used.contains(&option))) {
            continue;
        }
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let ours =
                if kind == "cgroup2" { controllers.is_empty() } else { options.split(',').any(|o| o == controllers) };
            ours.then(|| path.trim_start_matches('/'))
        });
        let base = Path::new(point).join(path.unwrap_or_default());
        let base = if base.is_dir() { base } else { PathBuf::from(point) };
        groups.push((kind.to_owned(), base.join(name)));
    }
    if groups.iter().all(|(kind, _)| kind == "cgroup2") {
        return Ok(Vec::new());
    }
    for (_, group) in &groups {
        fs::create_dir(group).with_context(|| group.display().to_string())?;
    }
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

/// Runs agents through everything that a plane does to them, over a restart; says which step failed.
fn lifecycle(plane: &mut Plane) -> Result<()> {
    let private =
        "import os\nos.umask(0o077)\nopen(os.environ['COGWARD_OUTPUT_FILE'], 'w').write('{\"kept\": true}')\n";
    let waits = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
    plane.register(&Agent { name: "private", source: private, permissions: "", changes: &[] })?;
    let run = plane.start_run("private")?;
    ensure!(plane.output(&run)?["kept"] == true, "a private output file is read");
    let live = plane.launch(&Agent { name: "waits", source: waits, permissions: "", changes: &[] })?;
    plane.said(&live, "up")?;
    for verb in ["suspend", "resume"] {
        plane.ok(["run", verb, &live, "--reason", "test"])?;
    }
    plane.kill_9()?;
    plane.up()?;
    plane.run_until(&live, |run| run["state"] == "running")?;
    let killed = plane.json(["run", "kill", &live, "--reason", "test", "--yes"])?;
    let text = killed.to_string();
    ensure!(text.contains("\"tree_empty\":true") || text.contains("killed"), "{killed:#}");
    let asked = plane.start_run("waits")?;
    plane.said(&asked, "up")?;
    plane.ok(["run", "cancel", &asked, "--reason", "test", "--timeout", "30"])?;
    plane.run_until(&asked, |run| run["state"] == "cancelled")?;
    Ok(())
}

fn bounding_set(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("a bounding set")?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

fn as_argument(capabilities: &[String]) -> String {
    let added: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    format!("--bounding-set=-all{added}")
}

#[test]
fn as_root_a_plane_runs_agents_with_the_capabilities_of_its_unit() -> Result<()> {
    let capabilities = capabilities(&unit("cogward.service")?)?;
    let place = Place::new("whole", None)?;
    let mut plane = place.plane(&as_argument(&capabilities))?;
    let held = bounding_set(plane.pid().context("it runs")?)?;
    assert_eq!(held.count_ones() as usize, capabilities.len(), "{held:x}: the plane has what the unit says, no more");
    lifecycle(&mut plane)
}

#[test]
fn as_root_a_plane_needs_each_capability_of_its_unit() -> Result<()> {
    let all = capabilities(&unit("cogward.service")?)?;
    assert!(!all.is_empty());
    for without in &all {
        let fewer: Vec<String> = all.iter().filter(|name| *name != without).cloned().collect();
        let place = Place::new(without, None)?;
        let mut plane = place.plane(&as_argument(&fewer))?;
        assert!(lifecycle(&mut plane).is_err(), "CAP_{} is in the unit and not needed", without.to_ascii_uppercase());
    }
    Ok(())
}

#[test]
fn as_an_ordinary_user_a_plane_runs_agents_without_any_capability() -> Result<()> {
    let unit = unit("cogward-rootless.service")?;
    assert_eq!(capabilities(&unit)?, Vec::<String>::new());
    assert!(setting(&unit, "User").is_some_and(|user| user != "root"));
    let place = Place::new("ordinary", Some(ORDINARY))?;
    let user = format!("--reuid={ORDINARY} --regid={ORDINARY} --clear-groups {}", as_argument(&[]));
    let mut plane = place.plane(&user)?;
    assert_eq!(bounding_set(plane.pid().context("it runs")?)?, 0);
    lifecycle(&mut plane)
}

#[test]
fn the_units_leave_runs_alone_and_nothing_out_that_sandboxes_need() -> Result<()> {
    for name in ["cogward.service", "cogward-rootless.service"] {
        let unit = unit(name)?;
        for (setting_name, wanted) in [
            ("KillMode", "process"),
            ("Delegate", "yes"),
            ("DelegateSubgroup", "cogward-plane"),
            ("OOMPolicy", "continue"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("StateDirectoryMode", "0700"),
        ] {
            assert_eq!(setting(&unit, setting_name), Some(wanted), "{name}: {setting_name}");
        }
        // Each of these would make sandboxes impossible, or hide from the plane what they refuse.
        for broken in [
            "ProtectProc",
            "ProcSubset",
            "ProtectKernelTunables",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "PrivateUsers",
            "RestrictNamespaces",
            "SystemCallFilter",
            "RestrictAddressFamilies",
            "MemoryDenyWriteExecute",
            "AmbientCapabilities",
        ] {
            assert_eq!(setting(&unit, broken), None, "{name}: {broken}");
        }
    }
    Ok(())
}

#[test]
fn systemd_reads_the_units_as_they_are_meant() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for name in ["cogward.service", "cogward-rootless.service"] {
        // The program and the user need not be on the host that tests.
        let text = unit(name)?.replace("/usr/bin/cogward", "/usr/bin/true").replace("User=cogward", "User=nobody");
        let file = dir.path().join(name);
        fs::write(&file, text)?;
        let done = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file)
            .env("SYSTEMD_LOG_LEVEL", "warning")
            .output()
            .context("systemd-analyze is needed: scripts/setup-tests.sh installs it")?;
        let said = String::from_utf8_lossy(&done.stderr);
        // Of a unit of its own only; systemd before 254 does not know the subgroup, and the plane makes it then.
        let faults: Vec<_> = said.lines().filter(|l| l.contains(name) && !l.contains("DelegateSubgroup")).collect();
        assert!(done.status.success() && faults.is_empty(), "{said}");
    }
    Ok(())
}
