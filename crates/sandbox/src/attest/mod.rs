//! The proof of a run: what is in force around it, read from the kernel and from outside of the sandbox.
//!
//! The first look is taken when the sandbox is complete and its agent held; a control that is not found then ends the
//! launch. Later looks find what somebody on the host has changed since: a limit that was raised, a process that was
//! moved out of its groups, an interface that was put into the network namespace, another mount.
//!
//! Landlock is not looked for. The kernel shows a process's rules to nobody and lets nobody take them away; the agent's
//! process has proved them from inside before its first instruction, and only its descendants have its filters.

pub mod keeper;
mod package;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use cogward_model::{Digest, attestation::Check, violation::Violation};
use serde::{Deserialize, Serialize};

pub use self::package::Declared;
use self::process::Status;
pub use self::process::Window;
use crate::{cgroup::Cgroup, native::Uids};

/// Names of the namespaces below `/proc/<pid>/ns`.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];
/// Threads of one process that are looked at, its first one among them. Threads have what their process has and can
/// only lose more, and the supervisor does not answer while it looks.
const THREADS_MAX: usize = 64;
/// Most findings of one control that are told.
const FINDINGS_MAX: usize = 4;

/// A look at a sandbox from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// What was read.
    pub facts: Facts,
    /// Each control, and whether it is in force.
    pub checks: Vec<Check>,
    /// Processes that were looked at.
    pub processes: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What was refused so far.
    #[serde(default)]
    pub violations: Vec<Violation>,
}

impl Attestation {
    /// The first control that is not in force.
    #[must_use]
    pub fn gone(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.holds)
    }
}

/// What does not change while a sandbox is as it was made. Unknown fields are of a newer supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Digest of the system-call filter that the agent's process has given itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Digest>,
    /// Programs in it, as the kernel counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<u32>,
    /// Digest of the mount table as seen inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Digest>,
    /// Mounts in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_points: Option<u64>,
    /// What the package was found to be mounted from: `erofs`, `erofs-loop` or `directory`; absent where it is not
    /// looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The SHA-256 of the image of the package that was mounted, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_image: Option<Digest>,
    /// The namespaces, by the numbers that the kernel gives them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<String, u64>,
    /// Interfaces in the network namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// First uid on the host, and how many are the run's own.
    pub uids: (u32, u32),
    /// The limits of the control groups as the kernel has them.
    pub limits: BTreeMap<String, String>,
}

/// What a look is held against.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The run's groups.
    pub cgroup: &'a Cgroup,
    /// The run's uids.
    pub uids: Uids,
    /// Its init, on the host.
    pub init: i32,
    /// Digest of the filter that the agent's process has installed, and of how many programs it is.
    pub filter: (Digest, u32),
    /// What of the sandbox comes from the package.
    pub package: &'a Declared,
    /// The facts of the first look, once there was one.
    pub first: Option<&'a Facts>,
    /// Which of the host's other processes are looked at this time.
    pub window: &'a Window,
    /// Whether it was given the host's network.
    pub hosts_network: bool,
}

/// The digest of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0_u8; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

/// Findings of one control.
struct Control {
    name: &'static str,
    found: Vec<String>,
    more: usize,
}

impl Control {
    fn new(name: &'static str) -> Self {
        Self { name, found: Vec::new(), more: 0 }
    }

    fn must(&mut self, holds: bool, found: impl FnOnce() -> String) {
        if holds {
        } else if self.found.len() < FINDINGS_MAX {
            self.found.push(found());
        } else {
            self.more += 1;
        }
    }

    fn check(self) -> Check {
        if self.found.is_empty() {
            return Check::held(self.name);
        }
        let more = if self.more > 0 { format!(" and {} more", self.more) } else { String::new() };
        Check::gone(self.name, self.found.join("; ") + &more)
    }
}

/// Looks at everything. `None` when the sandbox is at its end: its init has gone while it was looked at.
pub fn look(subject: &Subject<'_>) -> Option<Attestation> {
    let begun = Instant::now();
    let (mut namespaces, unreadable) = namespaces_of(subject.init);
    if subject.hosts_network {
        namespaces.remove("net");
    }
    let mut facts = Facts {
        filter: Some(subject.filter.0),
        filters: Some(subject.filter.1),
        uids: subject.uids.range(),
        limits: subject.cgroup.limits_in_force(),
        namespaces,
        ..Facts::default()
    };
    let mut checks = vec![
        own_namespaces(&facts, unreadable, subject.hosts_network),
        mounts(subject.init, &mut facts, subject.first),
        package(subject.init, subject.package, &mut facts),
        limits(&facts, subject.first),
    ];
    if !subject.hosts_network {
        checks.insert(1, network(subject.init, &mut facts));
    }
    let inside = placed(subject, &facts, &mut checks);
    restricted(subject, &facts, &inside, &mut checks);
    process::lives(subject.init).then(|| Attestation {
        facts,
        checks,
        processes: inside.len() as u64,
        took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        violations: Vec::new(),
    })
}

/// The namespaces of a process. Without root those of a process that cannot be dumped are not shown, which is told.
fn namespaces_of(pid: i32) -> (BTreeMap<String, u64>, bool) {
    let mut found = BTreeMap::new();
    let mut denied = false;
    for name in NAMESPACES {
        match process::namespace(pid, name) {
            Ok(number) => drop(found.insert(name.to_owned(), number)),
            Err(error) => denied |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    (found, denied && !rustix::process::geteuid().is_root())
}

fn own_namespaces(facts: &Facts, unreadable: bool, hosts_network: bool) -> Check {
    let mut control = Control::new("namespaces of its own");
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    for name in NAMESPACES.into_iter().filter(|name| !hosts_network || *name != "net") {
        match (facts.namespaces.get(name), process::namespace(own, name)) {
            (Some(inside), Ok(outside)) => control.must(*inside != outside, || format!("{name} is the host's")),
            (None, _) if unreadable => {}
            _ => control.must(false, || format!("{name} cannot be read")),
        }
    }
    control.check()
}

fn network(init: i32, facts: &mut Facts) -> Check {
    let mut control = Control::new("loopback only, no route out");
    match process::read(init, "net/dev") {
        Ok(text) => {
            facts.interfaces = process::interfaces(&text);
            let alone = process::loopback_only(&facts.interfaces, |file| process::read(init, file).ok());
            control.must(alone, || format!("its interfaces are {}", facts.interfaces.join(", ")));
        }
        Err(error) => control.must(false, || format!("its interfaces cannot be read: {error}")),
    }
    match process::read(init, "net/route") {
        Ok(v4) => {
            // A kernel without IPv6 has no such file.
            let v6 = process::read(init, "net/ipv6_route").unwrap_or_default();
            let out = process::routes_out(&v4, &v6);
            control.must(out == 0, || format!("{out} routes leave it"));
        }
        Err(error) => control.must(false, || format!("its routes cannot be read: {error}")),
    }
    control.check()
}

fn mounts(init: i32, facts: &mut Facts, first: Option<&Facts>) -> Check {
    let mut control = Control::new("mount table as it was made");
    match process::read(init, "mountinfo") {
        Ok(text) => {
            facts.mounts = Some(sha256(text.as_bytes()));
            facts.mount_points = Some(text.lines().count() as u64);
            control.must(!text.is_empty(), || "it is empty".to_owned());
            control.must(first.is_none_or(|first| first.mounts == facts.mounts), || "it has changed".to_owned());
        }
        Err(error) => control.must(false, || format!("it cannot be read: {error}")),
    }
    control.check()
}

/// The package is where it was declared to be from, in its mounts as the kernel tells of them.
fn package(init: i32, declared: &Declared, facts: &mut Facts) -> Check {
    let mut control = Control::new("package from where it was declared to be");
    match process::read(init, "mountinfo") {
        Ok(table) => {
            let found = declared.found(&table);
            found.wrong.into_iter().for_each(|wrong| control.must(false, || wrong));
            (facts.package, facts.package_image) = (Some(found.from.to_owned()), declared.image());
        }
        Err(error) => control.must(false, || format!("its mounts cannot be read: {error}")),
    }
    control.check()
}

fn limits(facts: &Facts, first: Option<&Facts>) -> Check {
    let mut control = Control::new("limits of its control groups");
    control.must(!facts.limits.is_empty(), || "there are none".to_owned());
    if let Some(first) = first {
        let files: BTreeSet<&String> = first.limits.keys().chain(facts.limits.keys()).collect();
        for file in files {
            let (was, is) = (first.limits.get(file), facts.limits.get(file));
            let said = |value: Option<&String>| value.map_or("none", String::as_str).to_owned();
            control.must(was == is, || format!("{file} was {} and is {}", said(was), said(is)));
        }
    }
    control.check()
}

/// Who is inside and where: by namespace, group and descent. What init or the agent has made is found wherever it was
/// moved to; who was in neither place and has entered a namespace from outside is found among the host's processes, of
/// which each look takes some.
fn placed(subject: &Subject<'_>, facts: &Facts, checks: &mut Vec<Check>) -> Vec<i32> {
    let mut inside = Vec::new();
    let mut strangers = Control::new("nobody else in its namespaces");
    let (pids, net) = (facts.namespaces.get("pid"), facts.namespaces.get("net"));
    // At the first look nobody has had the time to enter or to leave, and a start does not wait for a look at every
    // process of the host: the groups, into which the first process of the run was cloned, have them all.
    let mut candidates: BTreeSet<i32> = subject.cgroup.members().into_iter().flat_map(|(_, members)| members).collect();
    if subject.first.is_some() {
        candidates.extend(process::descendants(subject.init));
        candidates.extend(subject.window.turn());
    }
    for pid in candidates {
        if pids.is_some() && process::namespace(pid, "pid").ok().as_ref() == pids {
            inside.push(pid);
        } else if net.is_some() && process::namespace(pid, "net").ok().as_ref() == net {
            strangers.must(!process::lives(pid), || format!("process {pid} of the host is in its network namespace"));
        }
    }
    // After the processes: one that was made meanwhile is in neither list, one that was moved is in the first only.
    let groups = subject.cgroup.members();
    let mut outside = Control::new("every process in its control groups");
    for (group, members) in &groups {
        for pid in inside.iter().filter(|pid| !members.contains(pid)) {
            outside.must(!process::lives(*pid), || format!("process {pid} is not in {group}"));
        }
        for pid in members {
            if pids.is_some() && !inside.contains(pid) {
                let elsewhere = process::namespace(*pid, "pid").is_ok_and(|found| Some(&found) != pids);
                strangers.must(!elsewhere, || format!("process {pid} of the host is in {group}"));
            }
        }
    }
    if pids.is_none() {
        inside = groups.into_iter().flat_map(|(_, members)| members).collect::<BTreeSet<_>>().into_iter().collect();
    }
    checks.extend([outside.check(), strangers.check()]);
    inside
}

/// What the processes may, by their threads.
fn restricted(subject: &Subject<'_>, facts: &Facts, inside: &[i32], checks: &mut Vec<Check>) {
    let mut filter = Control::new("system-call filter on every process");
    let mut privileges = Control::new("no_new_privs on every process");
    let mut capabilities = Control::new("no capabilities on any process");
    let mut uids = Control::new("uids of its own range");
    let mut spaces = Control::new("every process in its namespaces");
    let (base, count) = facts.uids;
    for pid in inside {
        for thread in process::threads(*pid).into_iter().take(THREADS_MAX) {
            let Some(status) = Status::of(*pid, thread) else { continue };
            let Ok(status) = status else {
                privileges.must(false, || format!("the status of thread {thread} is not whole"));
                continue;
            };
            if *pid != subject.init {
                let whole = status.seccomp == 2 && status.filters >= subject.filter.1;
                filter.must(whole, || format!("thread {thread}: mode {}, {} filters", status.seccomp, status.filters));
            }
            privileges.must(status.no_new_privs, || format!("thread {thread} may gain privileges"));
            capabilities.must(status.capabilities == 0, || format!("thread {thread}: {:x}", status.capabilities));
            let own = status.uids.iter().all(|uid| uid.checked_sub(base).is_some_and(|above| above < count));
            uids.must(own, || format!("thread {thread} has uids {:?}", status.uids));
        }
        for (name, wanted) in &facts.namespaces {
            // One that has ended meanwhile has none.
            if let Ok(found) = process::namespace(*pid, name) {
                spaces.must(found == *wanted, || format!("process {pid} is in another {name} namespace"));
            }
        }
    }
    if let Some(first) = subject.first {
        spaces.must(first.namespaces == facts.namespaces, || "they are not those of the launch".to_owned());
    }
    checks.extend([filter, privileges, capabilities, uids, spaces].map(Control::check));
}
