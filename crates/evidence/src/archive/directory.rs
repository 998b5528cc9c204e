//! An archive in a directory: another disk, a mount of other storage, a medium that is written once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use aws_lc_rs::digest;
use cogward_ledger::{
    Hash,
    archive::{Directory, Objects},
};

use crate::durable;

use super::{Content, Place};

/// A directory that takes objects.
#[derive(Debug, Clone)]
pub struct DirectoryPlace {
    directory: Directory,
}

impl DirectoryPlace {
    /// The archive below `dir`, which is made when it is not there.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { directory: Directory::new(dir) }
    }
}

impl Objects for DirectoryPlace {
    fn list(&self) -> io::Result<Vec<String>> {
        durable::directory(self.directory.root())?;
        self.directory.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.directory.open(name)
    }
}

impl Place for DirectoryPlace {
    fn put(&self, name: &str, content: &Content<'_>) -> io::Result<()> {
        let path = self.directory.path(name);
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        durable::directory(dir)?;
        let named = || File::open(dir).and_then(|dir| dir.sync_all());
        if path.symlink_metadata().is_ok() {
            // An attempt that was broken off may have named it and no more.
            named()?;
            return File::open(self.directory.root())?.sync_all();
        }
        let beside = path.with_extension("new");
        let written = write(&beside, content);
        if let Err(error) = written {
            // On a full disk the half of an object would take the space that the next attempt needs.
            let _gone = fs::remove_file(&beside);
            return Err(error);
        }
        fs::rename(&beside, &path)?;
        named()?;
        File::open(self.directory.root())?.sync_all()
    }

    fn shown(&self) -> String {
        self.directory.root().display().to_string()
    }
}

/// Read-only from the beginning: who changes an archive must mean it.
fn write(path: &std::path::Path, content: &Content<'_>) -> io::Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    match content {
        Content::File(from, bytes, _) => drop(io::copy(&mut File::open(from)?.take(*bytes), &mut file)?),
        Content::Bytes(bytes, _) => file.write_all(bytes)?,
    }
    file.sync_all()
}

/// The SHA-256 of all that comes.
pub(super) fn digest_of(mut from: impl Read) -> io::Result<Hash> {
    let (mut context, mut buffer) = (digest::Context::new(&digest::SHA256), vec![0_u8; 64 * 1024]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => context.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    context.finish().as_ref().try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}
