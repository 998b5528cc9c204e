//! The same look at a sandbox that another program made inside of a keeper: see `driver/oci`.
//!
//! Below the keeper the namespaces are that program's own, so who belongs to the run is told by its groups and by
//! descent: the keeper is the first process of its process namespace, and who loses a parent in there is given to it.
//! What holds inside is that program's to promise; the guest has checked it.
//!
//! The carrier's own processes are not restricted as the agent's are. They are those that were there when the sandbox
//! was complete and its agent held, each by its number and the time at which it began; whoever comes later is not one
//! of them, whatever its uid.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Attestation, Control, Facts, Window, limits, mounts, namespaces_of, network,
    process::{self, Status},
};
use crate::{cgroup::Cgroup, native::Uids};

/// What a look is held against.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The run's groups.
    pub cgroup: &'a Cgroup,
    /// The run's uids.
    pub uids: Uids,
    /// The keeper, on the host: its namespaces, its mounts and its network are those that everything lives in.
    pub keeper: i32,
    /// Those of its namespaces that are the run's own, by their names below `/proc/<pid>/ns`.
    pub own: &'a [&'a str],
    /// What comes beside the carrier's own processes.
    pub others: Others,
    /// What the first look has found, once there was one.
    pub first: Option<&'a First>,
    /// Which of the host's other processes are looked at this time.
    pub window: &'a Window,
}

/// What may be in a sandbox beside its carrier's own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// The agent's processes, which are the host's and have this uid there.
    Agents(u32),
    /// Whatever the carrier makes: a kernel in user space has processes for the agent's.
    Carriers,
    /// Nobody: what the agent has is inside of a machine, which its monitor makes by itself.
    None,
}

/// What later looks are held against.
#[derive(Debug, Clone)]
pub struct First {
    /// The facts.
    pub facts: Facts,
    /// The carrier's own processes, and when each began.
    own: Vec<(i32, u64)>,
}

/// Looks at everything, and says what later looks are held against. `None` when the sandbox is at its end.
pub fn look(subject: &Kept<'_>) -> Option<(Attestation, First)> {
    let begun = Instant::now();
    let (namespaces, _) = namespaces_of(subject.keeper);
    let mut facts =
        Facts { uids: subject.uids.range(), limits: subject.cgroup.limits_in_force(), namespaces, ..Facts::default() };
    let mut apart = Control::new("namespaces of its own");
    let host = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    for name in subject.own {
        match (facts.namespaces.get(*name), process::namespace(host, name)) {
            (Some(inside), Ok(outside)) => apart.must(*inside != outside, || format!("{name} is the host's")),
            _ => apart.must(false, || format!("{name} cannot be read")),
        }
    }
    let first = subject.first.map(|first| &first.facts);
    let mut checks = vec![apart.check()];
    checks.push(network(subject.keeper, &mut facts));
    checks.push(mounts(subject.keeper, &mut facts, first));
    checks.push(limits(&facts, first));

    let mut spaces = Control::new("namespaces as they were made");
    if let Some(first) = first {
        spaces.must(first.namespaces == facts.namespaces, || "they are not those of the launch".to_owned());
    }
    checks.push(spaces.check());
    let inside = placed(subject, &facts, host, &mut checks);
    let own = match subject.first {
        Some(first) => first.own.clone(),
        None => carriers(subject, &inside),
    };
    restricted(subject, &facts, &own, &inside, &mut checks);
    process::lives(subject.keeper).then(|| {
        let found = Attestation {
            facts: facts.clone(),
            checks,
            processes: inside.len() as u64,
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            violations: Vec::new(),
        };
        (found, First { facts, own })
    })
}

/// Who is inside, and who should not be: in the run's groups or namespaces, and not made in there. Nobody can be made a
/// child of a process that has not made it, so descent tells the two apart, whatever the uid.
fn placed(subject: &Kept<'_>, facts: &Facts, host: i32, checks: &mut Vec<super::Check>) -> BTreeSet<i32> {
    let mut outside = Control::new("every process in its control groups");
    let mut strangers = Control::new("nobody else in its namespaces");
    let (pids, net) = (facts.namespaces.get("pid").copied(), facts.namespaces.get("net").copied());
    let hosts = process::namespace(host, "pid").ok();
    // Whoever has the number of one that has ended is the host's.
    let of_host = |pid: i32| process::namespace(pid, "pid").ok().is_none_or(|found| Some(found) == hosts);
    let mut theirs = process::descendants(subject.keeper);
    theirs.retain(|pid| !of_host(*pid));
    if subject.first.is_some() {
        for pid in subject.window.turn() {
            if theirs.contains(&pid) {
            } else if pids.is_some() && process::namespace(pid, "pid").ok() == pids {
                theirs.insert(pid);
            } else if net.is_some() && of_host(pid) && process::namespace(pid, "net").ok() == net {
                strangers
                    .must(!process::lives(pid), || format!("process {pid} of the host is in its network namespace"));
            }
        }
    }
    // After the processes: one that was made meanwhile is in neither list, one that was moved is in the first only.
    let groups = subject.cgroup.members();
    for (group, members) in &groups {
        for pid in theirs.iter().filter(|pid| !members.contains(pid)) {
            outside.must(!process::lives(*pid), || format!("process {pid} is not in {group}"));
        }
        for pid in members.iter().filter(|pid| !theirs.contains(pid)) {
            let made_there = process::is_below(*pid, subject.keeper);
            strangers.must(made_there, || format!("process {pid} of the host is in {group}"));
        }
    }
    checks.extend([outside, strangers].map(Control::check));
    groups.into_iter().flat_map(|(_, members)| members).chain(theirs).collect()
}

/// The carrier's own processes: all that there are while the agent is held, but the agent's.
fn carriers(subject: &Kept<'_>, inside: &BTreeSet<i32>) -> Vec<(i32, u64)> {
    let agents = |pid: i32| match subject.others {
        Others::Agents(uid) => {
            matches!(Status::of(pid, pid), Some(Ok(status)) if status.uids.iter().all(|found| *found == uid))
        }
        Others::Carriers | Others::None => false,
    };
    inside.iter().filter(|pid| !agents(**pid)).filter_map(|pid| Some((*pid, process::began(*pid)?))).collect()
}

/// What the processes may, by their threads.
fn restricted(
    subject: &Kept<'_>,
    facts: &Facts,
    own: &[(i32, u64)],
    inside: &BTreeSet<i32>,
    checks: &mut Vec<super::Check>,
) {
    let mut uids = Control::new("uids of its own range");
    let mut filter = Control::new("system-call filter on every thread of the agent");
    let mut privileges = Control::new("no_new_privs on every thread of the agent");
    let mut capabilities = Control::new("no capabilities on any thread of the agent");
    let mut alone = Control::new("no process but the carrier's own");
    for pid in inside {
        let carriers = own.iter().any(|(own, began)| own == pid && process::began(*pid) == Some(*began));
        // What a monitor may have made is below it, in a namespace further in.
        let beside = || process::namespace(*pid, "pid").ok().as_ref() == facts.namespaces.get("pid");
        if subject.others == Others::None && !carriers && beside() {
            alone.must(!process::lives(*pid), || format!("process {pid} came after the launch"));
        }
        for thread in process::threads(*pid).into_iter().take(super::THREADS_MAX) {
            let Some(status) = Status::of(*pid, thread) else { continue };
            let Ok(status) = status else {
                uids.must(false, || format!("the status of thread {thread} is not whole"));
                continue;
            };
            let wanted = |uid: &u32| match subject.others {
                Others::Agents(agent) if !carriers => *uid == agent,
                _ => is_within(*uid, facts.uids),
            };
            uids.must(status.uids.iter().all(wanted), || format!("thread {thread} has uids {:?}", status.uids));
            if matches!(subject.others, Others::Agents(_)) && !carriers {
                filter.must(status.seccomp == 2, || format!("thread {thread}: mode {}", status.seccomp));
                privileges.must(status.no_new_privs, || format!("thread {thread} may gain privileges"));
                capabilities.must(status.capabilities == 0, || format!("thread {thread}: {:x}", status.capabilities));
            }
        }
    }
    match subject.others {
        // Its keeper is the host's root, without a user namespace of its own, and so was its jailer.
        Others::None => checks.push(alone.check()),
        Others::Carriers => checks.push(uids.check()),
        Others::Agents(_) => checks.extend([uids, filter, privileges, capabilities].map(Control::check)),
    }
}

fn is_within(uid: u32, (base, count): (u32, u32)) -> bool {
    uid.checked_sub(base).is_some_and(|above| above < count)
}
