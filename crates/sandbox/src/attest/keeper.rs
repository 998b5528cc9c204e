//! The same look at a sandbox that another program made inside of a keeper: see `driver/oci`.
//!
//! Below the keeper the namespaces are that program's own, so who belongs to the run is told by its groups and by
//! descent: the keeper is the first process of its process namespace, and who loses a parent in there is given to it.
//! What holds inside is that program's to promise; the guest has checked it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    Attestation, Control, Facts, limits, mounts, namespaces_of, network,
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
    /// The uid on the host of the agent's processes, where they are processes of the host.
    pub agent: Option<u32>,
    /// The facts of the first look, once there was one.
    pub first: Option<&'a Facts>,
}

/// Looks at everything. `None` when the sandbox is at its end.
pub fn look(subject: &Kept<'_>) -> Option<Attestation> {
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
    let mut checks = vec![apart.check()];
    checks.push(network(subject.keeper, &mut facts));
    checks.push(mounts(subject.keeper, &mut facts, subject.first));
    checks.push(limits(&facts, subject.first));

    let mut spaces = Control::new("namespaces as they were made");
    if let Some(first) = subject.first {
        spaces.must(first.namespaces == facts.namespaces, || "they are not those of the launch".to_owned());
    }
    let mut outside = Control::new("every process in its control groups");
    let mut uids = Control::new("uids of its own range");
    let own = |status: &Status| status.uids.iter().all(|uid| is_within(*uid, facts.uids));
    let theirs = descendants(subject.keeper);
    // After the processes: one that was made meanwhile is in neither list, one that was moved is in the first only.
    let groups = subject.cgroup.members();
    for (group, members) in &groups {
        for pid in theirs.iter().filter(|pid| !members.contains(pid)) {
            outside.must(!process::lives(*pid), || format!("process {pid} is not in {group}"));
        }
    }
    let inside: BTreeSet<i32> = groups.into_iter().flat_map(|(_, members)| members).chain(theirs).collect();
    let mut filter = Control::new("system-call filter on every thread of the agent");
    let mut privileges = Control::new("no_new_privs on every thread of the agent");
    let mut capabilities = Control::new("no capabilities on any thread of the agent");
    for pid in &inside {
        for thread in process::threads(*pid) {
            let Some(status) = Status::of(*pid, thread) else { continue };
            let Ok(status) = status else {
                uids.must(false, || format!("the status of thread {thread} is not whole"));
                continue;
            };
            uids.must(own(&status), || format!("thread {thread} has uids {:?}", status.uids));
            if subject.agent.is_some_and(|agent| status.uids.contains(&agent)) {
                filter.must(status.seccomp == 2, || format!("thread {thread}: mode {}", status.seccomp));
                privileges.must(status.no_new_privs, || format!("thread {thread} may gain privileges"));
                capabilities.must(status.capabilities == 0, || format!("thread {thread}: {:x}", status.capabilities));
            }
        }
    }
    checks.extend([spaces, outside].map(Control::check));
    // Without a user namespace of its own the keeper is the host's root, and so is a jailer until it has made its jail.
    if subject.own.contains(&"user") {
        checks.push(uids.check());
    }
    if subject.agent.is_some() {
        checks.extend([filter, privileges, capabilities].map(Control::check));
    }
    process::lives(subject.keeper).then(|| Attestation {
        facts,
        checks,
        processes: inside.len() as u64,
        took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        violations: Vec::new(),
    })
}

fn is_within(uid: u32, (base, count): (u32, u32)) -> bool {
    uid.checked_sub(base).is_some_and(|above| above < count)
}

/// A process and everything that has it for an ancestor.
fn descendants(of: i32) -> BTreeSet<i32> {
    let parents: BTreeMap<i32, i32> =
        process::all().into_iter().filter_map(|pid| Some((pid, process::parent(pid)?))).collect();
    let mut found = BTreeSet::from([of]);
    loop {
        let before = found.len();
        found.extend(
            parents.iter().filter(|(_, parent)| found.contains(*parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        // As many rounds as there are generations.
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_its_child_are_found_and_a_stranger_is_not() {
        let script = "sleep 60 & echo $!; wait";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        let (first, second) = (i32::try_from(child.id()).unwrap(), line.trim().parse::<i32>().unwrap());
        assert_eq!(descendants(first), BTreeSet::from([first, second]));
        for pid in [second, first] {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
        }
        child.wait().unwrap();
    }
}
