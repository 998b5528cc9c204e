//! Files on their way into a run and out of it: one file or one directory as a tar stream.
//!
//! The same form in both directions. Whoever sends [`pack`]s; whoever takes [`receive`]s, as from an enemy: every
//! path is below one name, nothing but files and directories is taken, all is bounded while it streams, and
//! the digest is of what was written. Both put every entry through [`Tree`], which has the rules.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use cogward_model::{
    Digest,
    content::{Content, ContentKind, Tree, TreeError, TreeLimits, shown},
};
use tar::{Archive, Builder, Entry, EntryType};

use crate::package::{
    WalkError,
    names::{Dialect, LongNames, NameError, text},
    pack::{Hashing, append},
    receive::{CopyError, copy_to_disk, noun},
    walk::{Visit, walk},
};

/// What the file or the directory is called in the stream.
const NAME: &str = "content";

/// Why something cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It cannot be read, or holds what cannot be sent.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// An entry is out of bounds.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It holds a link; only files and directories go into a run and out of it.
    #[error("`{0}` is a symbolic link; send what it points to")]
    Link(String),
    /// The receiver is gone, or its disk is full.
    #[error("it cannot be written")]
    Write(#[source] io::Error),
}

/// Why a stream is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// An entry is out of bounds.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The stream is not one as [`pack`] writes it.
    #[error("the stream is malformed: {0}")]
    Malformed(String),
    /// An entry is of a kind that is not taken.
    #[error("`{path}` is {kind}; only files and directories are taken")]
    Kind {
        /// The path.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// It cannot be written here.
    #[error("it cannot be stored")]
    Store(#[source] io::Error),
}

impl ReceiveError {
    /// Whether it was too much of what would have been taken.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Tree(TreeError::TooLarge(_) | TreeError::TooMany(_)))
    }
}

impl From<NameError> for ReceiveError {
    fn from(error: NameError) -> Self {
        malformed(&error)
    }
}

fn malformed(error: &dyn std::fmt::Display) -> ReceiveError {
    ReceiveError::Malformed(error.to_string().chars().take(200).collect())
}

/// Writes a file or a directory as a tar stream. Write to [`io::sink`] to know what it is without sending it.
///
/// # Errors
/// [`SendError`] when something cannot be read, cannot be sent, or cannot be written.
pub fn pack(source: &Path, limits: TreeLimits, out: impl Write) -> Result<Content, SendError> {
    let name = source.display().to_string();
    let found = fs::metadata(source).map_err(|e| WalkError::io(&name, e))?;
    let mut emit = Emit { tar: Builder::new(out), tree: Tree::new(limits), single: None };
    if found.is_dir() {
        walk(source, NAME, &mut emit)?;
    } else if found.is_file() {
        let mut file = File::open(source).map_err(|e| WalkError::io(&name, e))?;
        emit.file(NAME, found.permissions().mode() & 0o100 != 0, found.len(), &mut file)?;
    } else {
        return Err(WalkError::Kind { path: shown(&name), kind: "neither a file nor a directory" }.into());
    }
    let content = emit.content();
    let mut out = emit.tar.into_inner().map_err(SendError::Write)?;
    out.flush().map_err(SendError::Write)?;
    Ok(content)
}

struct Emit<W: Write> {
    tar: Builder<W>,
    tree: Tree,
    single: Option<(Digest, u64)>,
}

impl<W: Write> Emit<W> {
    fn content(&self) -> Content {
        described(&self.tree, self.single)
    }
}

/// What was sent or received.
fn described(tree: &Tree, single: Option<(Digest, u64)>) -> Content {
    match single {
        Some((digest, bytes)) => Content { kind: ContentKind::File, digest, bytes, entries: 1 },
        None => Content {
            kind: ContentKind::Directory,
            digest: crate::manifest::sha256(tree.listing().as_bytes()),
            bytes: tree.bytes(),
            entries: tree.entries(),
        },
    }
}

/// The path below the name; `None` for what has the name itself.
fn below(path: &str) -> Option<&str> {
    path.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('/'))
}

impl<W: Write> Visit for Emit<W> {
    type Error = SendError;

    fn directory(&mut self, path: &str) -> Result<(), SendError> {
        if let Some(path) = below(path) {
            self.tree.add_directory(path)?;
        }
        append(&mut self.tar, path, (EntryType::Directory, 0o755, 0), None, io::empty()).map_err(SendError::Write)
    }

    fn file(&mut self, path: &str, executable: bool, size: u64, data: &mut dyn Read) -> Result<(), SendError> {
        if let Some(path) = below(path) {
            self.tree.place_for(path)?;
        }
        self.tree.room_for(size)?;
        let mut reader = Hashing::new(data.take(size));
        let mode = if executable { 0o755 } else { 0o644 };
        let written = append(&mut self.tar, path, (EntryType::Regular, mode, size), None, &mut reader);
        if let Some(source) = reader.failed {
            return Err(WalkError::Io { path: shown(path), source }.into());
        }
        written.map_err(SendError::Write)?;
        if reader.read != size {
            return Err(WalkError::Changed { path: shown(path) }.into());
        }
        let digest = reader.digest();
        match below(path) {
            Some(path) => self.tree.add_file(path, executable, size, digest)?,
            None => self.single = Some((digest, size)),
        }
        Ok(())
    }

    fn link(&mut self, path: &str, _: &str) -> Result<(), SendError> {
        Err(SendError::Link(shown(path)))
    }
}

/// Takes a stream and writes it to `place`, which must not be there. What is there after an error is the caller's
/// to remove.
///
/// # Errors
/// [`ReceiveError`] when the stream is malformed, breaks a bound, or cannot be written.
pub fn receive(stream: impl Read, place: &Path, limits: TreeLimits) -> Result<Content, ReceiveError> {
    let mut archive = Archive::new(stream);
    let mut taking = Taking { place, tree: Tree::new(limits), single: None, begun: false };
    let mut long = LongNames::default();
    for entry in archive.entries().map_err(|e| malformed(&e))?.raw(true) {
        let mut entry = entry.map_err(|e| malformed(&e))?;
        if long.absorb(&mut entry, Dialect::Ours)? {
            continue;
        }
        taking.take(&mut entry, std::mem::take(&mut long))?;
    }
    if !taking.begun {
        return Err(ReceiveError::Malformed("there is nothing in it".into()));
    }
    Ok(described(&taking.tree, taking.single))
}

struct Taking<'p> {
    place: &'p Path,
    tree: Tree,
    single: Option<(Digest, u64)>,
    begun: bool,
}

impl Taking<'_> {
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>, long: LongNames) -> Result<(), ReceiveError> {
        let header = entry.header();
        let kind = header.entry_type();
        let path = match long.path {
            Some(path) => path,
            None => text(&header.path_bytes())?,
        };
        let mode = header.mode().map_err(|e| malformed(&e))?;
        let size = header.entry_size().map_err(|e| malformed(&e))?;
        if mode & 0o7000 != 0 {
            return Err(ReceiveError::Kind { path: shown(&path), kind: "a file with the set-id or sticky bit" });
        }
        match kind {
            EntryType::Directory => {
                let path = path.strip_suffix('/').unwrap_or(&path);
                let made = match self.target(path)? {
                    None => self.place.to_owned(),
                    Some(path) => {
                        self.tree.add_directory(path)?;
                        self.place.join(path)
                    }
                };
                self.begun = true;
                DirBuilder::new().mode(0o755).create(&made).map_err(ReceiveError::Store)?;
                fs::set_permissions(&made, Permissions::from_mode(0o755)).map_err(ReceiveError::Store)
            }
            EntryType::Regular => {
                let below = self.target(&path)?;
                if let Some(path) = below {
                    self.tree.place_for(path)?;
                }
                self.tree.room_for(size)?;
                let executable = mode & 0o100 != 0;
                let (digest, read) = self.file(entry, below, if executable { 0o755 } else { 0o644 })?;
                if read != size {
                    return Err(ReceiveError::Malformed(format!("it ends within `{}`", shown(&path))));
                }
                match below {
                    Some(path) => self.tree.add_file(path, executable, size, digest)?,
                    None => self.single = Some((digest, size)),
                }
                self.begun = true;
                Ok(())
            }
            EntryType::Symlink => Err(ReceiveError::Kind { path: shown(&path), kind: "a symbolic link" }),
            other => Err(ReceiveError::Kind { path: shown(&path), kind: noun(other) }),
        }
    }

    /// Where an entry goes: the thing itself, which is first and once, or something below it.
    fn target<'t>(&self, path: &'t str) -> Result<Option<&'t str>, ReceiveError> {
        if path == NAME && !self.begun {
            return Ok(None);
        }
        match below(path) {
            Some(path) if self.begun && self.single.is_none() => Ok(Some(path)),
            _ => Err(ReceiveError::Malformed(format!("`{}` is not in its place", shown(path)))),
        }
    }

    fn file<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        below: Option<&str>,
        mode: u32,
    ) -> Result<(Digest, u64), ReceiveError> {
        let place = below.map_or_else(|| self.place.to_owned(), |path| self.place.join(path));
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(place);
        let mut file = opened.map_err(ReceiveError::Store)?;
        // What the process's mask took away, and nothing else.
        file.set_permissions(Permissions::from_mode(mode)).map_err(ReceiveError::Store)?;
        copy_to_disk(entry, &mut file).map_err(|error| match error {
            CopyError::Disk(error) => ReceiveError::Store(error),
            CopyError::Stream(error) => malformed(&error),
        })
    }
}
