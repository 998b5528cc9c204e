//! The plane's side: a tar stream from outside, taken as hostile.
//!
//! Entries are written below a fresh staging directory. Links are written last, when nothing is
//! written any more, so no path of the stream can lead through one. Everything that could mean two
//! things (hard links, sparse files, extensions other than long names) is refused.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use cogward_model::{Digest, Entropy, SystemEntropy, limits::MANIFEST_BYTES_MAX};
use tar::{Archive, Entry, EntryType};

use super::{
    contents::{ContentError, Contents, Limits, Summary, shown},
    names::{Dialect, LongNames, NameError, text},
    pack::{hash_all, is_manifest_name},
    verify::{VerifyError, verify},
};

const STAGING: &str = ".incoming-";

/// Why a stream is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// An entry cannot be in a package.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The stream is not a tar stream as `pack` writes it.
    #[error("the package stream is malformed: {0}")]
    Malformed(String),
    /// An entry is of a kind that a package does not have.
    #[error("`{path}` is {kind}; a package has only files, directories and links")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// It cannot be written here.
    #[error("the package cannot be stored")]
    Store(#[source] io::Error),
}

/// Why a package cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// A package of that digest is there and its files are not those of the digest any more.
    #[error("the package that is stored under this digest was changed; remove it and register again")]
    Damaged(#[source] VerifyError),
    /// It cannot be written.
    #[error("the package cannot be stored")]
    Store(#[source] io::Error),
}

/// A package that was received and is not kept yet; removed when dropped.
#[derive(Debug)]
pub struct Staged {
    directory: Option<PathBuf>,
    packages: PathBuf,
    contents: Contents,
    summary: Summary,
    manifest_name: String,
    manifest: Vec<u8>,
}

/// Takes a package stream into a staging directory below `packages`.
///
/// # Errors
/// [`ReceiveError`] when the stream is malformed, breaks a bound, or cannot be written. Nothing is left.
pub fn receive(stream: impl Read, packages: &Path, limits: Limits) -> Result<Staged, ReceiveError> {
    let mut random = [0_u8; 8];
    SystemEntropy.fill(&mut random);
    let directory = packages.join(format!("{STAGING}{:016x}", u64::from_le_bytes(random)));
    DirBuilder::new().mode(0o700).create(&directory).map_err(ReceiveError::Store)?;
    let mut staged = Staged {
        directory: Some(directory.clone()),
        packages: packages.to_owned(),
        contents: Contents::new(limits),
        summary: Contents::new(limits).summary(),
        manifest_name: String::new(),
        manifest: Vec::new(),
    };
    let mut archive = Archive::new(stream);
    let mut long = LongNames::default();
    for entry in archive.entries().map_err(malformed)?.raw(true) {
        let mut entry = entry.map_err(malformed)?;
        if long.absorb(&mut entry, Dialect::Ours)? {
            continue;
        }
        staged.take(&mut entry, std::mem::take(&mut long), &directory)?;
    }
    if staged.manifest_name.is_empty() {
        return Err(ReceiveError::Malformed("there is no manifest in it".into()));
    }
    for (path, target) in staged.contents.links() {
        symlink(target, directory.join(path)).map_err(ReceiveError::Store)?;
    }
    staged.summary = staged.contents.summary();
    Ok(staged)
}

impl From<NameError> for ReceiveError {
    fn from(error: NameError) -> Self {
        Self::Malformed(error.to_string().chars().take(200).collect())
    }
}

fn malformed(error: io::Error) -> ReceiveError {
    ReceiveError::Malformed(error.to_string().chars().take(200).collect())
}

impl Staged {
    fn take<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        long: LongNames,
        directory: &Path,
    ) -> Result<(), ReceiveError> {
        let header = entry.header();
        let kind = header.entry_type();
        let path = match long.path {
            Some(path) => path,
            None => text(&header.path_bytes())?,
        };
        let mode = header.mode().map_err(malformed)?;
        let size = header.entry_size().map_err(malformed)?;
        if mode & 0o7000 != 0 {
            return Err(ReceiveError::Kind { path: shown(&path), kind: "a file with the set-id or sticky bit" });
        }
        if self.manifest_name.is_empty() {
            return self.take_manifest(entry, kind, path, size);
        }
        match kind {
            EntryType::Regular => {
                self.contents.place_for(&path)?;
                self.contents.room_for(size)?;
                let executable = mode & 0o100 != 0;
                let mode = if executable { 0o755 } else { 0o644 };
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(directory.join(&path))
                    .map_err(ReceiveError::Store)?;
                // What the process's mask took away, and nothing else.
                file.set_permissions(Permissions::from_mode(mode)).map_err(ReceiveError::Store)?;
                let (digest, read) = copy(entry, &mut file, &path)?;
                if read != size {
                    return Err(ReceiveError::Malformed(format!("it ends within `{}`", shown(&path))));
                }
                Ok(self.contents.add_file(&path, executable, size, digest)?)
            }
            EntryType::Directory => {
                let path = path.strip_suffix('/').unwrap_or(&path);
                self.contents.add_directory(path)?;
                let made = directory.join(path);
                DirBuilder::new().mode(0o755).create(&made).map_err(ReceiveError::Store)?;
                fs::set_permissions(&made, Permissions::from_mode(0o755)).map_err(ReceiveError::Store)
            }
            EntryType::Symlink => {
                let target = match long.target {
                    Some(target) => target,
                    None => text(&entry.header().link_name_bytes().unwrap_or_default())?,
                };
                Ok(self.contents.add_link(&path, &target)?)
            }
            other => Err(ReceiveError::Kind { path: shown(&path), kind: noun(other) }),
        }
    }

    fn take_manifest<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        path: String,
        size: u64,
    ) -> Result<(), ReceiveError> {
        if kind != EntryType::Regular || !is_manifest_name(&path) {
            return Err(ReceiveError::Malformed("the manifest must be its first entry".into()));
        }
        if size > MANIFEST_BYTES_MAX as u64 {
            return Err(ReceiveError::Malformed(format!("the manifest has more than {MANIFEST_BYTES_MAX} bytes")));
        }
        entry.read_to_end(&mut self.manifest).map_err(malformed)?;
        if self.manifest.len() as u64 != size {
            return Err(ReceiveError::Malformed("it ends within the manifest".into()));
        }
        self.manifest_name = path;
        Ok(())
    }

    /// The file name of the manifest, as its author has it.
    #[must_use]
    pub fn manifest_name(&self) -> &str {
        &self.manifest_name
    }

    /// The manifest as it was sent.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The entries, for [`super::check`].
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The size and the digest.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Makes it durable under its digest and gives its directory. Keeping what is there already is fine,
    /// as long as what is there is still what its digest says.
    ///
    /// # Errors
    /// [`KeepError`] when it cannot be written, or the one that is there was changed.
    pub fn keep(mut self) -> Result<PathBuf, KeepError> {
        let Some(staging) = self.directory.clone() else {
            return Err(KeepError::Store(io::ErrorKind::NotFound.into()));
        };
        let place = self.packages.join(self.summary.digest.hex());
        if place.exists() {
            verify(&self.packages, self.summary.digest).map_err(KeepError::Damaged)?;
            return Ok(place);
        }
        let described = serde_json::to_vec_pretty(&self.summary).map_err(|e| KeepError::Store(e.into()))?;
        write_description(&staging.join("package.json"), &described).map_err(KeepError::Store)?;
        let handle = fs::File::open(&staging).map_err(KeepError::Store)?;
        // One flush for all files instead of one for each: a package has up to 200,000.
        rustix::fs::syncfs(&handle).map_err(|e| KeepError::Store(e.into()))?;
        match fs::rename(&staging, &place) {
            Ok(()) => self.directory = None,
            // Somebody else registered the same files at the same time.
            Err(_) if place.exists() => {
                verify(&self.packages, self.summary.digest).map_err(KeepError::Damaged)?;
                return Ok(place);
            }
            Err(error) => return Err(KeepError::Store(error)),
        }
        fs::File::open(&self.packages).and_then(|d| d.sync_all()).map_err(KeepError::Store)?;
        Ok(place)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory
            && let Err(error) = fs::remove_dir_all(directory)
        {
            tracing::warn!(%error, "a staging directory is left behind; the next start removes it");
        }
    }
}

fn write_description(path: &Path, text: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text)
}

/// Removes what a crash left behind. Only at start, when nothing is being received.
///
/// # Errors
/// When the directory cannot be read or an entry cannot be removed.
pub fn sweep(packages: &Path) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(packages)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn copy(entry: impl Read, file: &mut fs::File, path: &str) -> Result<(Digest, u64), ReceiveError> {
    copy_to_disk(entry, file).map_err(|error| match error {
        CopyError::Disk(error) => ReceiveError::Store(error),
        CopyError::Stream(error) => ReceiveError::Malformed(format!("`{}` cannot be read: {error}", shown(path))),
    })
}

/// Which side of a copy failed.
pub(crate) enum CopyError {
    /// What is read.
    Stream(io::Error),
    /// What is written.
    Disk(io::Error),
}

/// Copies and hashes; an error of the stream is told from one of the disk.
pub(crate) fn copy_to_disk(mut entry: impl Read, file: &mut fs::File) -> Result<(Digest, u64), CopyError> {
    struct Disk<'f>(&'f mut fs::File, Option<io::Error>);
    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes).map_err(|error| {
                let kind = error.kind();
                self.1 = Some(error);
                kind.into()
            })
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let mut disk = Disk(file, None);
    hash_all(&mut entry, &mut disk).map_err(|error| match disk.1 {
        Some(failed) => CopyError::Disk(failed),
        None => CopyError::Stream(error),
    })
}

pub(crate) fn noun(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a named pipe",
        EntryType::GNUSparse | EntryType::Continuous => "a sparse file",
        _ => "an extension that is not used here",
    }
}
