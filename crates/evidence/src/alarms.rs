//! What somebody must look into, as long as it is so: shown with the state of the evidence, and not only once in a log.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest;

use crate::{durable, record::Evidence};

/// The directory with the notes of other histories, below that of the plane log.
const SPLIT_VIEW_DIR: &str = "split-view";
/// Files of other histories; a foreign note costs its sender a signature of our own key, so there are few.
const KEPT_MAX: usize = 64;
/// Alarms that are shown.
const ALARMS_MAX: usize = 64;

/// The alarms that stand.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<BTreeMap<String, String>>);

impl Alarms {
    /// The alarms that stand by what is on the disk.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let alarms = Self::default();
        let entries = match fs::read_dir(split_views(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(alarms),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                alarms.raise(path.display().to_string(), split_view(&path));
            }
        }
        Ok(alarms)
    }

    pub(crate) fn raise(&self, key: impl Into<String>, text: String) {
        let mut alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key.into();
        if alarms.len() < ALARMS_MAX || alarms.contains_key(&key) {
            alarms.insert(key, text);
        }
    }
}

fn split_views(dir: &Path) -> PathBuf {
    dir.join("plane").join(SPLIT_VIEW_DIR)
}

fn split_view(path: &Path) -> String {
    format!("split view: another history of the plane log was seen; {} has what is known of both", path.display())
}

impl Evidence {
    /// The alarms that stand, each in a sentence.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        self.shared.alarms.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Raises an alarm that stands until the process ends.
    pub fn raise_alarm(&self, key: &str, text: String) {
        self.shared.alarms.raise(key, text);
    }

    /// Keeps what is known of another history of the plane log, on the disk, and raises the alarm. It stands until
    /// somebody takes the file away. The same text is kept once.
    ///
    /// # Errors
    /// It could not be written; the alarm stands all the same until the process ends.
    pub fn keep_split_view(&self, text: &str) -> io::Result<PathBuf> {
        let dir = split_views(&self.shared.dir);
        let name: String = digest::digest(&digest::SHA256, text.as_bytes())
            .as_ref()
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        let path = dir.join(format!("{name}.txt"));
        self.shared.alarms.raise(path.display().to_string(), split_view(&path));
        durable::directory(&dir)?;
        if !path.exists() {
            if fs::read_dir(&dir)?.count() >= KEPT_MAX {
                return Err(io::Error::other("there are as many notes of other histories as are kept"));
            }
            durable::replace(&path, text.as_bytes())?;
        }
        Ok(path)
    }
}
