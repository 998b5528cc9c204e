//! The directory of a run on the host.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cogward_model::RunId;

/// Where runs have their files: `<data dir>/runs`.
#[derive(Debug, Clone)]
pub struct RunFiles {
    root: PathBuf,
}

impl RunFiles {
    /// Runs under `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of a run.
    #[must_use]
    pub fn dir(&self, run: RunId) -> PathBuf {
        self.root.join(run.to_string())
    }

    /// Makes the directory of a new run with its input, durable.
    pub(crate) fn create(&self, run: RunId, input: &[u8]) -> io::Result<()> {
        let dir = self.dir(run);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join("input"))?;
        file.write_all(input)?;
        file.sync_all()?;
        sync_dir(&dir)?;
        sync_dir(&self.root)
    }

    /// Puts the input of a run into the directory that its sandbox was made with, durable.
    pub(crate) fn give_input(&self, run: RunId, input: &[u8]) -> io::Result<()> {
        let path = self.dir(run).join("input");
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
        file.write_all(input)?;
        file.sync_all()
    }

    /// The input of a run, as it was given.
    pub(crate) fn input(&self, run: RunId) -> io::Result<Vec<u8>> {
        fs::read(self.dir(run).join("input"))
    }

    /// Removes what an attempt to launch left, and keeps the input.
    pub(crate) fn reset(&self, run: RunId) -> io::Result<()> {
        let input = self.input(run)?;
        self.remove(run)?;
        self.create(run, &input)
    }

    /// Removes the directory of a run.
    pub(crate) fn remove(&self, run: RunId) -> io::Result<()> {
        match fs::remove_dir_all(self.dir(run)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The runs that have a directory; what is not named like a run is left alone.
    pub(crate) fn list(&self) -> io::Result<Vec<RunId>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            if let Some(run) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                runs.push(run);
            }
        }
        Ok(runs)
    }

    /// How long ago the directory of a run was made or last added to.
    pub(crate) fn age(&self, run: RunId) -> Option<std::time::Duration> {
        fs::metadata(self.dir(run)).ok()?.modified().ok()?.elapsed().ok()
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
