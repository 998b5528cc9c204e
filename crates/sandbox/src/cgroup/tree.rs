//! One directory of a control group hierarchy.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Pid;

use super::{CgroupError, wait_priority};

/// A group.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes it. One that is there already is taken only when it is empty; one with processes is another run's.
    pub fn create(path: &Path) -> Result<Self, CgroupError> {
        match fs::create_dir(path) {
            Ok(()) => Ok(Self { path: path.to_owned() }),
            // Controllers of version 2, and those of version 1 that are mounted together, share one directory.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && Self::at(path.to_owned()).processes().is_empty() => {
                Ok(Self { path: path.to_owned() })
            }
            Err(source) => Err(CgroupError::Failed { what: format!("creating {}", path.display()), source }),
        }
    }

    /// One that exists.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, what: &str, file: &str, source: io::Error) -> CgroupError {
        CgroupError::Failed { what: format!("{what} {}", self.path.join(file).display()), source }
    }

    /// Writes a value. The file must exist: a control that is not there is an error, never skipped.
    pub fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        fs::OpenOptions::new()
            .write(true)
            .open(self.path.join(file))
            .and_then(|mut f| f.write_all(value.as_bytes()))
            .map_err(|e| self.failed("writing", file, e))
    }

    /// Writes a value where the kernel has the file.
    pub fn write_if_there(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        if self.path.join(file).exists() { self.write(file, value) } else { Ok(()) }
    }

    /// Opens a file for reading.
    pub fn open(&self, file: &str) -> Result<File, CgroupError> {
        File::open(self.path.join(file)).map_err(|e| self.failed("opening", file, e))
    }

    /// A file that is one number.
    pub fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// The number after `name` in a file of such lines.
    pub fn field(&self, file: &str, name: &str) -> Option<u64> {
        field(&fs::read_to_string(self.path.join(file)).ok()?, name)
    }

    /// The processes in it; one that has died and is not yet reaped does not count.
    pub fn processes(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
    }

    /// Waits until a field of `cgroup.events` has a value.
    pub fn wait_field(&self, name: &str, wanted: u64, most: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + most;
        while self.field("cgroup.events", name) != Some(wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.failed("waiting for", name, io::Error::from(io::ErrorKind::TimedOut)));
            }
            self.wait_change(name, wanted, left);
        }
        Ok(())
    }

    /// Waits until a version 1 freezer has frozen everything.
    pub fn wait_frozen(&self, most: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + most;
        loop {
            let state = fs::read_to_string(self.path.join("freezer.state")).unwrap_or_default();
            if state.trim() == "FROZEN" {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failed("waiting for", "freezer.state", io::Error::from(io::ErrorKind::TimedOut)));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Waits until a field of `cgroup.events` may have a value, at most so long.
    pub fn wait_change(&self, name: &str, wanted: u64, most: Duration) {
        let Ok(mut file) = self.open("cgroup.events") else {
            std::thread::sleep(most);
            return;
        };
        let mut text = String::new();
        let read = io::Read::read_to_string(&mut file, &mut text);
        // The poll reports what changes after this read, so no change is missed between the two.
        if read.is_ok() && field(&text, name) != Some(wanted) {
            wait_priority(&file, most);
        }
    }

    /// Removes it, if nothing is in it. The last of its processes may still be on their way out.
    pub fn remove(&self) {
        for _ in 0..20 {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(2)),
                _ => return,
            }
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_matched_whole() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        assert_eq!(field(text, "oom_kill"), Some(7));
        assert_eq!(field(text, "oom"), None);
    }

    #[test]
    fn a_control_that_is_missing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let group = Directory::at(dir.path().to_owned());
        assert!(group.write("memory.max", "1").is_err());
        assert!(!dir.path().join("memory.max").exists());
        group.write_if_there("memory.swap.max", "0").unwrap();
    }
}
