//! Bringing segments back: all of an archive is verified on the way, or nothing is left.

use std::{
    cell::Cell,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use cogward_ledger::archive::{self, Finding, Name, Objects, Options, Verified};

use crate::durable;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The archive is not whole.
    #[error(transparent)]
    Archive(#[from] Finding),
    /// A file could not be written.
    #[error("a file could not be written")]
    Io(#[from] io::Error),
}

/// Reads an archive and keeps its segments on the way.
struct Keeping<'a> {
    from: &'a dyn Objects,
    wal: PathBuf,
    /// Why nothing more can be written: a full disk here is no damage there.
    failed: Rc<Cell<Option<io::Error>>>,
}

impl Objects for Keeping<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.from.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let object = self.from.open(name)?;
        let Some(Name::Segment { index, .. }) = Name::parse(name) else { return Ok(object) };
        let path = self.wal.join(format!("{index:016x}.seg"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(Both { object, file, failed: Rc::clone(&self.failed) }))
    }
}

/// What is read is written, too.
struct Both {
    object: Box<dyn Read>,
    file: File,
    failed: Rc<Cell<Option<io::Error>>>,
}

impl Read for Both {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.object.read(buffer)?;
        self.file.write_all(buffer.get(..read).unwrap_or_default()).map_err(|error| {
            let kind = error.kind();
            self.failed.set(Some(error));
            io::Error::from(kind)
        })?;
        Ok(read)
    }
}

/// Restores the segments of an archive below `dir`, which must be empty or not there. It appears whole or not at all.
///
/// # Errors
/// See [`RestoreError`]; then nothing was written.
pub fn restore(from: &dyn Objects, options: &Options<'_>, dir: &Path) -> Result<Verified, RestoreError> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(RestoreError::NotEmpty(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // `a/` and `a` are one place.
    let dir: PathBuf = dir.components().collect();
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name: OsString = dir.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.to_owned();
    name.push(".restoring");
    let beside = parent.join(name);
    if beside.symlink_metadata().is_ok() {
        return Err(RestoreError::NotEmpty(beside));
    }
    let restored = restore_into(from, options, &beside).and_then(|verified| {
        fs::rename(&beside, &dir)?;
        File::open(parent)?.sync_all()?;
        Ok(verified)
    });
    if restored.is_err() {
        let _gone = fs::remove_dir_all(&beside);
    }
    restored
}

fn restore_into(from: &dyn Objects, options: &Options<'_>, dir: &Path) -> Result<Verified, RestoreError> {
    let wal = dir.join("wal");
    durable::directory(&wal)?;
    let failed = Rc::default();
    let keeping = Keeping { from, wal: wal.clone(), failed: Rc::clone(&failed) };
    let verified = archive::verify(&keeping, options).map_err(|finding| match failed.take() {
        Some(error) => RestoreError::Io(error),
        None => RestoreError::Archive(finding),
    })?;
    for entry in fs::read_dir(&wal)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(&wal)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(verified)
}
