//! The drives that are kept between runs: whole on the disk before they have their name, and not for ever.
//!
//! Each run has links of its own to what it uses, so what is removed here is gone when the last run that has it is. The
//! time of the last access says when one was last used; a run sets it.

use std::{
    fs::{self, File, FileTimes},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use cogward_model::{Clock as _, SystemClock};

/// How long a drive is kept that no run has used.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most bytes of all kept drives, as the disk has them; those that were not used for longest go first.
const KEPT_BYTES_MAX: u64 = 128 * 1024 * 1024 * 1024;
/// What was used so recently may be about to be linked to, or is still being made.
const IN_USE: Duration = Duration::from_secs(3600);

/// The time of the plane's clock, as files have it.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(SystemClock.now().unix_micros())
}

/// Whether it is there; it is then in use from now on.
pub fn is_kept(path: &Path) -> bool {
    let used = || -> io::Result<bool> {
        let file = File::open(path)?;
        file.set_times(FileTimes::new().set_accessed(now()))?;
        Ok(file.metadata()?.is_file())
    };
    used().unwrap_or(false)
}

/// Makes one under another name and gives it its own once the disk has it whole, also when two runs make the same. What
/// has not been used for long goes, so that there is room.
pub fn store(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let kept = path.parent().unwrap_or(path);
    sweep(kept, now(), KEPT_BYTES_MAX);
    let temporary = kept.join(format!(".{}.new", std::process::id()));
    // Of a supervisor that died and had this number.
    let _ = fs::remove_file(&temporary);
    let made = make(&temporary).and_then(|()| {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o444))?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(kept)?.sync_all()
    });
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made
}

/// Removes what was not used for long, and then the longest unused until the rest fits. What cannot be removed stays:
/// the disk's own bounds hold in any case.
fn sweep(kept: &Path, now: SystemTime, most: u64) {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(kept).into_iter().flatten().flatten() {
        let Ok(file) = entry.metadata() else { continue };
        let used = file.accessed().into_iter().chain(file.created()).max();
        if let Some(used) = used.filter(|_| file.is_file()) {
            found.push((used, file.blocks().saturating_mul(512), entry.path()));
        }
    }
    found.sort();
    let mut bytes: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
    for (used, size, path) in found {
        let unused = now.duration_since(used).unwrap_or_default();
        let begun = path.extension().is_some_and(|kind| kind == "new");
        let goes = unused > IN_USE && (begun || unused > UNUSED_MAX || bytes > most);
        if goes && fs::remove_file(&path).is_ok() {
            bytes = bytes.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &Path, name: &str, unused: Duration) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, vec![7; 64 * 1024]).unwrap();
        let used = now() - unused;
        File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(used)).unwrap();
        path
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// As at a later time: when a file was made cannot be set back.
    fn sweep_in(directory: &Path, later: Duration, most: u64) -> Vec<String> {
        sweep(directory, now() + later, most);
        let entries = fs::read_dir(directory).unwrap();
        let mut left: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        left
    }

    #[test]
    fn what_no_run_has_used_for_long_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.ext4", "b.ext4", ".7.new"] {
            file(dir.path(), name, Duration::ZERO);
        }
        assert_eq!(sweep_in(dir.path(), Duration::ZERO, u64::MAX).len(), 3, "one that is being made stays");
        assert_eq!(sweep_in(dir.path(), DAY, u64::MAX), ["a.ext4", "b.ext4"], "what was never finished goes");
        let used = File::open(dir.path().join("b.ext4")).unwrap();
        used.set_times(FileTimes::new().set_accessed(now() + 20 * DAY)).unwrap();
        assert_eq!(sweep_in(dir.path(), 29 * DAY, u64::MAX).len(), 2);
        assert_eq!(sweep_in(dir.path(), 31 * DAY, u64::MAX), ["b.ext4"]);
        assert!(sweep_in(dir.path(), 51 * DAY, u64::MAX).is_empty());
    }

    #[test]
    fn all_together_have_a_bound_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.ext4", "b.ext4", "c.ext4"] {
            file(dir.path(), name, Duration::ZERO);
        }
        // The order of use is not the order of names.
        let used = File::open(dir.path().join("a.ext4")).unwrap();
        used.set_times(FileTimes::new().set_accessed(now() + DAY)).unwrap();
        assert_eq!(sweep_in(dir.path(), 2 * DAY, 2 * 64 * 1024), ["a.ext4", "c.ext4"]);
        assert_eq!(sweep_in(dir.path(), DAY, 0), ["a.ext4"], "a run may be about to link to it");
    }

    #[test]
    fn a_drive_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        let failed = store(&path, |temporary| {
            fs::write(temporary, b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.is_err() && fs::read_dir(dir.path()).unwrap().next().is_none());
        assert!(!is_kept(&path));
        // What a dead supervisor of the same number has left is not in the way.
        fs::write(dir.path().join(format!(".{}.new", std::process::id())), b"left").unwrap();
        store(&path, |temporary| fs::File::create_new(temporary).map(drop)).unwrap();
        assert!(is_kept(&path) && fs::read_dir(dir.path()).unwrap().count() == 1);
    }
}
