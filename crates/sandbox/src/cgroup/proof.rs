//! What the kernel says of a run's groups: the limits that are in force, and who is in them.

use std::{collections::BTreeMap, collections::BTreeSet, fs, io::Read};

use cogward_model::manifest::Resources;

use super::Cgroup;

/// The files that hold a limit, in every version. What the kernel does not have is not there.
const LIMITS: [&str; 12] = [
    "memory.max",
    "memory.swap.max",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.kmem.tcp.limit_in_bytes",
    "pids.max",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "io.max",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
];
/// Most bytes of one of them that are read.
const LIMIT_BYTES_MAX: u64 = 4 * 1024;

impl Cgroup {
    /// The limits as the kernel has them now, by file. Not what was asked for.
    #[must_use]
    pub fn limits_in_force(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for directory in self.all() {
            for file in LIMITS {
                let Ok(open) = fs::File::open(directory.path().join(file)) else { continue };
                let mut text = String::new();
                if open.take(LIMIT_BYTES_MAX).read_to_string(&mut text).is_ok() && !text.trim().is_empty() {
                    found.insert(file.to_owned(), text.trim().replace('\n', "; "));
                }
            }
        }
        found
    }

    /// The process ids in each of the run's groups, by the group's path.
    #[must_use]
    pub fn members(&self) -> Vec<(String, BTreeSet<i32>)> {
        let members = self.all().map(|directory| {
            let processes = directory.processes().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            (directory.path().display().to_string(), processes)
        });
        members.collect()
    }
}

/// What of the limits is not as a run's resources ask for, with so much beside for what carries the sandbox. Input and
/// output are compared with what was found at the launch only: each kernel tells them in its own words.
pub fn not_as_asked(
    limits: &BTreeMap<String, String>,
    asked: &Resources,
    memory_mib: u32,
    pids: u32,
) -> Option<String> {
    let memory = (u64::from(asked.memory_mib) + u64::from(memory_mib)) * 1024 * 1024;
    let processes = u64::from(asked.pids) + u64::from(pids);
    let share = u64::from(asked.cpu_millis) * 100;
    let number = |file: &str| limits.get(file).and_then(|text| text.parse::<u64>().ok());
    let found_memory = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
    let found_share = match limits.get("cpu.max") {
        Some(text) => {
            text.split_once(' ').and_then(|(quota, period)| Some((quota.parse().ok()?, period.parse().ok()?)))
        }
        None => number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us")),
    };
    let wrong = |what: &str, found: &dyn std::fmt::Debug| Some(format!("the limit of {what} is {found:?}"));
    match (found_memory, number("pids.max"), found_share) {
        // Rounded down to pages.
        (Some(found), ..) if found > memory || memory - found >= 64 * 1024 => wrong("memory", &found_memory),
        (None, ..) => wrong("memory", &found_memory),
        (_, found, _) if found != Some(processes) => wrong("processes", &found),
        (.., found) if found != Some((share, 100_000_u64)) => wrong("processor time", &found),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
        lines.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn limits_are_compared_with_what_was_asked_for_in_both_versions() {
        let asked = Resources::default();
        let v2 = [("memory.max", "536870912"), ("pids.max", "129"), ("cpu.max", "100000 100000")];
        let v1 = [
            ("memory.limit_in_bytes", "536870912"),
            ("pids.max", "129"),
            ("cpu.cfs_quota_us", "100000"),
            ("cpu.cfs_period_us", "100000"),
        ];
        for whole in [&v2[..], &v1[..]] {
            assert_eq!(not_as_asked(&limits(whole), &asked, 0, 1), None);
            for left_out in 0..whole.len() {
                let mut part = whole.to_vec();
                part.remove(left_out);
                assert!(not_as_asked(&limits(&part), &asked, 0, 1).is_some(), "{part:?}");
                for loose in ["max", "-1", "9223372036854771712", "max 100000", "200000 100000"] {
                    let mut raised = whole.to_vec();
                    raised[left_out].1 = loose;
                    assert!(not_as_asked(&limits(&raised), &asked, 0, 1).is_some(), "{raised:?}");
                }
            }
        }
    }
}
