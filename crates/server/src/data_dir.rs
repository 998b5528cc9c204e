//! The directory of a plane: ours alone, one plane at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Others may enter it.
    #[error("others may enter {}: run `chmod 700 {}`", path.display(), path.display())]
    Loose {
        /// The directory.
        path: PathBuf,
    },
    /// Another plane runs on it.
    #[error("another plane runs on {}: stop it, or name another directory with --data-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("the data directory {} cannot be used", path.display())]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open data directory; the lock is held as long as this is.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DataDirError + '_ {
    |source| DataDirError::Io { path: path.to_owned(), source }
}

impl DataDir {
    pub(crate) fn open(root: &Path) -> Result<Self, DataDirError> {
        match fs::symlink_metadata(root) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o700).recursive(true).create(root).map_err(failed(root))?;
            }
            Err(error) => return Err(failed(root)(error)),
        }
        // Absolute: supervisors outlive our working directory.
        let root = fs::canonicalize(root).map_err(failed(root))?;
        let found = fs::metadata(&root).map_err(failed(&root))?;
        if !found.is_dir() {
            return Err(failed(&root)(io::ErrorKind::NotADirectory.into()));
        }
        if found.mode() & 0o077 != 0 {
            return Err(DataDirError::Loose { path: root });
        }
        let path = root.join("plane.lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::Locked { path: root }),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        let dir = Self { root, _lock: lock };
        for sub in ["runs", "packages", "images", "exports", "staging"] {
            let path = dir.root.join(sub);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path)(error)),
                _ => {}
            }
        }
        // What an earlier plane was in the middle of is of no use to anyone.
        for sub in ["exports", "staging"] {
            dir.empty(&dir.root.join(sub))?;
        }
        Ok(dir)
    }

    fn empty(&self, path: &Path) -> Result<(), DataDirError> {
        for entry in fs::read_dir(path).map_err(failed(path))? {
            let entry = entry.map_err(failed(path))?.path();
            let gone = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
            gone.map_err(failed(&entry))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes where the plane is, for the command line on this host.
    pub(crate) fn write_address(&self, address: SocketAddr, outside: Option<SocketAddr>) -> Result<(), DataDirError> {
        let (path, new) = (self.join("plane.json"), self.join("plane.json.new"));
        let mut text = json!({ "listen": address.to_string(), "pid": std::process::id() });
        if let Some(outside) = outside {
            text["mcp"] = outside.to_string().into();
        }
        let text = text.to_string();
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(failed(&path))
    }

    pub(crate) fn remove_address(&self) {
        // Not there any more is as good.
        let _ = fs::remove_file(self.join("plane.json"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_fresh_directory_is_ours_alone_and_taken_once() {
        let parent = tempfile::TempDir::new().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked { .. })));
        drop(dir);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused_with_the_fix() {
        let parent = tempfile::TempDir::new().unwrap();
        let path = parent.path().join("loose");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
