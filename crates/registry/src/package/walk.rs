//! Reading a directory without ever following a link.
//!
//! Every step is relative to an open directory and refuses links (`O_NOFOLLOW`), so a directory that
//! is swapped for a link while it is read gives an error and not somebody else's files.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, readlinkat, statat};

use super::contents::{ContentError, shown};

/// Directories within directories: far more than any package has.
const DEPTH_MAX: u32 = 64;
/// Entries of one directory that are read at once.
const DIRECTORY_ENTRIES_MAX: usize = 200_000;

/// Why a directory cannot be read into a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// An entry cannot be in a package.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Neither a file, a directory nor a link.
    #[error("`{path}` is {kind}; only files, directories and links can be sent")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A program that would run with another's rights.
    #[error("`{path}` has the set-user-id or set-group-id bit: remove it with `chmod ug-s`")]
    SetId {
        /// The path.
        path: String,
    },
    /// It cannot be read.
    #[error("`{path}` cannot be read")]
    Io {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It changed while it was read.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// The path.
        path: String,
    },
}

impl WalkError {
    pub(crate) fn io(path: &str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: shown(path), source: source.into() }
    }
}

/// What is done with each entry, parents first, in the order of their names.
pub(crate) trait Visit {
    /// The error of the visitor.
    type Error: From<WalkError>;
    fn directory(&mut self, path: &str) -> Result<(), Self::Error>;
    fn file(&mut self, path: &str, executable: bool, size: u64, data: &mut dyn Read) -> Result<(), Self::Error>;
    fn link(&mut self, path: &str, target: &str) -> Result<(), Self::Error>;
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Visits a directory and all below it; `path` is what the directory is called in the package.
pub(crate) fn walk<V: Visit>(directory: &Path, path: &str, visit: &mut V) -> Result<(), V::Error> {
    let opened = open(directory, READ | OFlags::DIRECTORY, Mode::empty())
        .map_err(|e| WalkError::io(&directory.display().to_string(), e))?;
    visit.directory(path)?;
    inside(&opened, path, 0, visit)
}

fn inside<V: Visit>(directory: &OwnedFd, path: &str, depth: u32, visit: &mut V) -> Result<(), V::Error> {
    if depth > DEPTH_MAX {
        return Err(WalkError::from(ContentError::Path { path: shown(path), why: "it is nested too deep" }).into());
    }
    for name in names(directory, path)? {
        let below = format!("{path}/{name}");
        entry(directory.as_fd(), &name, &below, depth, visit)?;
    }
    Ok(())
}

fn names(directory: &OwnedFd, path: &str) -> Result<Vec<String>, WalkError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|e| WalkError::io(path, e))? {
        let entry = entry.map_err(|e| WalkError::io(path, e))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() >= DIRECTORY_ENTRIES_MAX {
            return Err(ContentError::TooMany(DIRECTORY_ENTRIES_MAX as u64).into());
        }
        let Ok(name) = std::str::from_utf8(name) else {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            return Err(ContentError::Path { path: shown(&path), why: "its name is not UTF-8" }.into());
        };
        names.push(name.to_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn entry<V: Visit>(
    directory: BorrowedFd<'_>,
    name: &str,
    path: &str,
    depth: u32,
    visit: &mut V,
) -> Result<(), V::Error> {
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| WalkError::io(path, e))?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let below = openat(directory, name, READ | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(|e| WalkError::io(path, e))?;
            visit.directory(path)?;
            inside(&below, path, depth + 1, visit)
        }
        FileType::RegularFile => {
            // Not blocking, in case it has become a pipe; then looked at again, because it may have.
            let file =
                openat(directory, name, READ | OFlags::NOFOLLOW, Mode::empty()).map_err(|e| WalkError::io(path, e))?;
            let found = fstat(&file).map_err(|e| WalkError::io(path, e))?;
            if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
                return Err(WalkError::Changed { path: shown(path) }.into());
            }
            if found.st_mode & 0o6000 != 0 {
                return Err(WalkError::SetId { path: shown(path) }.into());
            }
            let size = u64::try_from(found.st_size).unwrap_or(0);
            visit.file(path, found.st_mode & 0o100 != 0, size, &mut File::from(file))
        }
        FileType::Symlink => {
            let target = readlinkat(directory, name, Vec::new()).map_err(|e| WalkError::io(path, e))?;
            let target = target.into_string().map_err(|_| {
                WalkError::from(ContentError::Path { path: shown(path), why: "its target is not UTF-8" })
            })?;
            visit.link(path, &target)
        }
        other => Err(WalkError::Kind { path: shown(path), kind: kind(other) }.into()),
    }
}

fn kind(found: FileType) -> &'static str {
    match found {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    }
}
