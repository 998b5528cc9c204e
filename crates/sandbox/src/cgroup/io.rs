//! Limits of what a run reads from and writes to disks, and the count of it.
//!
//! A limit is a rule per disk, so the disks are found out first, from the places that the run reads and writes. A place
//! that is on no disk (a network share, an overlay, memory) has nothing that a rule could be set on: a limit that was
//! asked for is refused then, not left out. What comes from the page cache is no input or output and is not counted.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cogward_model::manifest::Resources;

use super::{CgroupError, tree::Directory};

/// A disk, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disk {
    major: u64,
    minor: u64,
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Whether a run has such a limit.
pub fn is_limited(resources: &Resources) -> bool {
    resources.io_read_mib_per_second.is_some() || resources.io_write_mib_per_second.is_some()
}

/// The disks that these places are on.
pub fn disks_of(places: &[PathBuf]) -> Result<Vec<Disk>, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut disks = places.iter().map(|place| disk_of(place, &mounts)).collect::<Result<Vec<_>, _>>()?;
    disks.sort();
    disks.dedup();
    Ok(disks)
}

fn disk_of(place: &Path, mounts: &str) -> Result<Disk, CgroupError> {
    let failed = |source: io::Error| CgroupError::Failed { what: format!("looking at {}", place.display()), source };
    let of = |device: u64| Disk { major: rustix::fs::major(device).into(), minor: rustix::fs::minor(device).into() };
    let mut found = of(fs::metadata(place).map_err(failed)?.dev());
    if found.major == 0 {
        // A file system with a number of its own; the mount says whether a disk is behind it.
        let (kind, source) = mount_of(found, mounts).unwrap_or(("unknown", ""));
        if !source.starts_with("/dev/") {
            return Err(CgroupError::Missing(format!(
                "{} is on a file system of kind `{kind}`, behind which is no disk of this host that could be limited",
                place.display()
            )));
        }
        found = of(fs::metadata(source).map_err(failed)?.rdev());
    }
    // Rules are for whole disks; a partition belongs to the one above it.
    let own = PathBuf::from(format!("/sys/dev/block/{found}"));
    if own.join("partition").exists()
        && let Ok(path) = own.canonicalize()
        && let Some(above) = path.parent().and_then(|disk| fs::read_to_string(disk.join("dev")).ok())
        && let Some((major, minor)) = above.trim().split_once(':')
        && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
    {
        found = Disk { major, minor };
    }
    Ok(found)
}

/// Kind and source of the mount with that number.
fn mount_of(number: Disk, mounts: &str) -> Option<(&str, &str)> {
    let number = number.to_string();
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (left.split(' ').nth(2)? == number).then_some(())?;
        let mut words = right.split(' ');
        Some((words.next()?, words.next()?))
    })
}

/// Sets the rules of version 2.
pub fn limit_v2(group: &Directory, resources: &Resources, disks: &[Disk]) -> Result<(), CgroupError> {
    if !group.path().join("io.max").exists() {
        return Err(missing_v2());
    }
    for disk in disks {
        let mut rule = disk.to_string();
        for (word, limit) in [("rbps", resources.io_read_mib_per_second), ("wbps", resources.io_write_mib_per_second)] {
            if let Some(limit) = limit {
                rule.push_str(&format!(" {word}={}", bytes(limit)));
            }
        }
        group.write("io.max", &rule)?;
    }
    Ok(())
}

/// Sets the rules of version 1, which are for reading.
pub fn limit_v1(group: Option<&Directory>, resources: &Resources, disks: &[Disk]) -> Result<(), CgroupError> {
    let Some(group) = group else {
        return Err(CgroupError::Missing("there is no cgroup controller `blkio` that this process may use".to_owned()));
    };
    if resources.io_write_mib_per_second.is_some() {
        return Err(CgroupError::Missing(
            "control groups of version 1 do not limit what goes through the page cache, and that is how programs write"
                .to_owned(),
        ));
    }
    for disk in disks {
        if let Some(limit) = resources.io_read_mib_per_second {
            group.write("blkio.throttle.read_bps_device", &format!("{disk} {}", bytes(limit)))?;
        }
    }
    Ok(())
}

fn missing_v2() -> CgroupError {
    CgroupError::Missing("the cgroup controller `io` is not handed to this process".to_owned())
}

fn bytes(mib: u32) -> u64 {
    u64::from(mib) * 1024 * 1024
}

/// Bytes read and written, of version 2.
pub fn counted_v2(group: &Directory) -> (Option<u64>, Option<u64>) {
    let Ok(text) = fs::read_to_string(group.path().join("io.stat")) else { return (None, None) };
    let sum = |word: &str| {
        text.split_whitespace()
            .filter_map(|field| field.strip_prefix(word)?.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    };
    (Some(sum("rbytes=")), Some(sum("wbytes=")))
}

/// Bytes read, of version 1. It counts only under a limit, and writes only those that pass the page cache by, which
/// would mislead.
pub fn counted_v1(group: &Directory) -> (Option<u64>, Option<u64>) {
    let Ok(text) = fs::read_to_string(group.path().join("blkio.throttle.io_service_bytes")) else {
        return (None, None);
    };
    let reads = text.lines().filter_map(|line| line.split_once(" Read ")?.1.trim().parse::<u64>().ok());
    (Some(reads.fold(0, u64::saturating_add)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let group = Directory::at(dir.path().to_owned());
        (dir, group)
    }

    fn limits(read: Option<u32>, write: Option<u32>) -> Resources {
        Resources { io_read_mib_per_second: read, io_write_mib_per_second: write, ..Resources::default() }
    }

    const DISK: Disk = Disk { major: 8, minor: 16 };

    #[test]
    fn the_rules_are_in_the_words_of_the_kernel() {
        let (dir, group) = group();
        for file in ["io.max", "blkio.throttle.read_bps_device"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        limit_v2(&group, &limits(Some(2), Some(1)), &[DISK]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("io.max")).unwrap(), "8:16 rbps=2097152 wbps=1048576");
        limit_v1(Some(&group), &limits(Some(3), None), &[DISK]).unwrap();
        let rule = fs::read_to_string(dir.path().join("blkio.throttle.read_bps_device")).unwrap();
        assert_eq!(rule, "8:16 3145728");
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_refused_and_never_left_out() {
        let (_dir, group) = group();
        assert!(matches!(limit_v2(&group, &limits(Some(1), None), &[DISK]), Err(CgroupError::Missing(_))));
        assert!(matches!(limit_v1(None, &limits(Some(1), None), &[DISK]), Err(CgroupError::Missing(_))));
        let write = limit_v1(Some(&group), &limits(None, Some(1)), &[DISK]).unwrap_err().to_string();
        assert!(write.contains("version 1"), "{write}");
        assert!(limit_v1(Some(&group), &limits(Some(1), None), &[DISK]).is_err(), "the kernel's file is not there");
    }

    #[test]
    fn what_is_counted_is_summed_over_disks() {
        let (dir, group) = group();
        assert_eq!(counted_v2(&group), (None, None));
        assert_eq!(counted_v1(&group), (None, None));
        let stat = "8:16 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=9\n8:0 rbytes=20 wbytes=0 rios=1\n";
        fs::write(dir.path().join("io.stat"), stat).unwrap();
        assert_eq!(counted_v2(&group), (Some(120), Some(7)));
        let text = "254:0 Read 4218880\n254:0 Write 5\n8:0 Read 10\nTotal 4218895\n";
        fs::write(dir.path().join("blkio.throttle.io_service_bytes"), text).unwrap();
        assert_eq!(counted_v1(&group), (Some(4_218_890), None));
    }

    #[test]
    fn what_is_on_no_disk_is_said_to_be() {
        let error = disks_of(&["/proc".into()]).unwrap_err().to_string();
        assert!(error.contains("`proc`") && error.contains("no disk"), "{error}");
        let mounts = "29 1 0:23 / /data rw - btrfs /dev/sda2 rw\n";
        assert_eq!(mount_of(Disk { major: 0, minor: 23 }, mounts), Some(("btrfs", "/dev/sda2")));
        assert_eq!(mount_of(Disk { major: 0, minor: 2 }, mounts), None);
    }
}
