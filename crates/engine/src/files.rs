//! The directory of a run on the host.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cogward_model::{RunId, content::GivenInput};

use crate::given::{StartInput, UPLOADED};

/// What the agent reads on its standard input.
const INPUT: &str = "input";
/// The directory of the files that a run was given.
const INPUTS: &str = "inputs";
/// What they are.
const INPUTS_FILE: &str = "inputs.json";

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
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(INPUT))?;
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
        fs::read(self.dir(run).join(INPUT))
    }

    /// Takes over what was uploaded for a run, durable. Each upload is used once.
    pub(crate) fn take_inputs(&self, run: RunId, given: &[StartInput]) -> io::Result<Vec<GivenInput>> {
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let dir = self.dir(run);
        let place = dir.join(INPUTS);
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        let mut taken = Vec::with_capacity(given.len());
        for input in given {
            fs::rename(input.upload.join(UPLOADED), place.join(input.name.as_str()))?;
            // What is left of it says only what it was; the next start of the plane would remove it as well.
            let _ = fs::remove_dir_all(&input.upload);
            taken.push(GivenInput { name: input.name.clone(), content: input.content });
        }
        sync_dir(&place)?;
        let text = serde_json::to_vec(&taken)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(INPUTS_FILE))?;
        file.write_all(&text)?;
        file.sync_all()?;
        sync_dir(&dir)?;
        Ok(taken)
    }

    /// What a run was given, and where each of it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn inputs(&self, run: RunId) -> io::Result<Vec<(GivenInput, PathBuf)>> {
        let place = self.dir(run).join(INPUTS);
        let text = match fs::read(self.dir(run).join(INPUTS_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let given: Vec<GivenInput> = serde_json::from_slice(&text)?;
        Ok(given.into_iter().map(|input| (input.clone(), place.join(input.name.as_str()))).collect())
    }

    /// Removes what an attempt to launch left, and keeps what the run was given.
    pub(crate) fn reset(&self, run: RunId) -> io::Result<()> {
        self.input(run)?;
        let dir = self.dir(run);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if [INPUT, INPUTS, INPUTS_FILE].iter().any(|kept| entry.file_name() == *kept) {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        sync_dir(&dir)
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
