//! Files that go into a run and come out of it: what one is, and the text that its digest is of.
//!
//! A single file has the SHA-256 of its bytes. A directory has the SHA-256 of a listing that anyone can write
//! again with `find` and `sha256sum`: one line for each entry, in the order of their paths. The plane, the
//! supervisor and the command line all put their entries through the same [`Tree`], so a path that could mean
//! two things, or leave its directory, is refused in one place.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ContentName, Digest};

/// The first line of a listing: another format will have another one.
pub const TREE_FORMAT: &str = "cogward-tree-v1\n";
/// Longest path in a directory, in bytes.
pub const PATH_BYTES_MAX: usize = 1_024;
/// What file systems take as one name.
pub const NAME_BYTES_MAX: usize = 255;
/// Directories within directories.
pub const DEPTH_MAX: usize = 32;

/// Whether something is one file or a directory of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// One file.
    File,
    /// A directory.
    Directory,
}

impl ContentKind {
    /// The word in the API and the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
        }
    }
}

/// What a file or a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Content {
    /// One file, or a directory of them.
    pub kind: ContentKind,
    /// The SHA-256 of the file, or of the directory's listing.
    pub digest: Digest,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files and directories below; 1 for a file.
    pub entries: u64,
}

/// An input as a run was given it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenInput {
    /// Its name in the manifest.
    pub name: ContentName,
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
}

/// What became of an output that the manifest declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Its name in the manifest.
    pub name: ContentName,
    /// Whether the run fails without it.
    pub required: bool,
    /// What was kept; none when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Why it was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<NotKept>,
    /// More about why, for people; it may name a path that the agent chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why an output was not kept. It is kept whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotKept {
    /// The agent left nothing there.
    Missing,
    /// It is, holds, or lies behind a symbolic link, or holds a file with more than one name.
    Link,
    /// It is or holds something that is neither a file nor a directory.
    NotAFile,
    /// It has more bytes than the manifest allows, or with the outputs before it more than the workspace.
    TooLarge,
    /// It has too many files and directories.
    TooMany,
    /// Its directories are nested too deep.
    TooDeep,
    /// A name in it is not UTF-8, holds a control character or is too long.
    BadName,
    /// It changed while it was read.
    Changed,
    /// It could not be read.
    Unreadable,
    /// It could not be read in time.
    TooSlow,
    /// The host has no room for it.
    NoSpace,
}

impl NotKept {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Missing,
        Self::Link,
        Self::NotAFile,
        Self::TooLarge,
        Self::TooMany,
        Self::TooDeep,
        Self::BadName,
        Self::Changed,
        Self::Unreadable,
        Self::TooSlow,
        Self::NoSpace,
    ];

    /// The word in the API and the evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Link => "link",
            Self::NotAFile => "not_a_file",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::TooDeep => "too_deep",
            Self::BadName => "bad_name",
            Self::Changed => "changed",
            Self::Unreadable => "unreadable",
            Self::TooSlow => "too_slow",
            Self::NoSpace => "no_space",
        }
    }
}

/// What a directory may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Files and directories together.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Why an entry cannot be in a directory that goes into or comes out of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// There are too many.
    #[error("there are more than {0} files and directories")]
    TooMany(u64),
    /// They are too large.
    #[error("the files have more than {0} bytes together")]
    TooLarge(u64),
    /// Directories are nested too deep.
    #[error("`{0}` is nested deeper than {DEPTH_MAX} directories")]
    TooDeep(String),
    /// The path is not one that can be taken.
    #[error("`{path}` cannot be taken: {why}")]
    Path {
        /// The path, shortened and escaped.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// The path is there twice.
    #[error("`{0}` is there twice")]
    Duplicate(String),
    /// Its directory was not there before it.
    #[error("`{0}` comes before its directory")]
    NoParent(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File { executable: bool, size: u64, digest: Digest },
    Link { target: String },
}

/// The entries of a directory, by their paths below it.
#[derive(Debug, Clone)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    bytes: u64,
    limits: TreeLimits,
}

impl Tree {
    /// An empty directory.
    #[must_use]
    pub fn new(limits: TreeLimits) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, limits }
    }

    /// Bytes that files may still have.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Entries that may still come.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.limits.entries.saturating_sub(self.entries.len() as u64)
    }

    /// Refuses a path that is not one, is there, has no directory, or is one too many.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn place_for(&self, path: &str) -> Result<(), TreeError> {
        if self.places() == 0 {
            return Err(TreeError::TooMany(self.limits.entries));
        }
        check_path(path)?;
        if self.entries.contains_key(path) {
            return Err(TreeError::Duplicate(shown(path)));
        }
        match path.rsplit_once('/') {
            Some((parent, _)) if self.entries.get(parent) != Some(&Entry::Directory) => {
                Err(TreeError::NoParent(shown(path)))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a file before a byte of it is read.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn room_for(&self, size: u64) -> Result<(), TreeError> {
        if size > self.room() { Err(TreeError::TooLarge(self.limits.bytes)) } else { Ok(()) }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn add_directory(&mut self, path: &str) -> Result<(), TreeError> {
        self.place_for(path)?;
        self.entries.insert(path.to_owned(), Entry::Directory);
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn add_file(&mut self, path: &str, executable: bool, size: u64, digest: Digest) -> Result<(), TreeError> {
        self.place_for(path)?;
        self.room_for(size)?;
        self.bytes = self.bytes.saturating_add(size);
        self.entries.insert(path.to_owned(), Entry::File { executable, size, digest });
        Ok(())
    }

    /// Adds a symbolic link. Only what is in a package may have one.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn add_link(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        self.place_for(path)?;
        if target.is_empty() || target.len() > PATH_BYTES_MAX || target.chars().any(char::is_control) {
            return Err(TreeError::Path { path: shown(path), why: "its target is not a path" });
        }
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
        Ok(())
    }

    /// Files and directories.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The text whose SHA-256 is the directory's digest. No path and no target holds a tab or a line break, so no
    /// two directories share a text.
    #[must_use]
    pub fn listing(&self) -> String {
        let mut text = String::with_capacity(TREE_FORMAT.len() + self.entries.len() * 128);
        text.push_str(TREE_FORMAT);
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => text.push_str(&format!("d\t{path}\n")),
                Entry::File { executable, size, digest } => {
                    let mark = if *executable { 'x' } else { '-' };
                    text.push_str(&format!("f\t{mark}\t{}\t{size}\t{path}\n", digest.hex()));
                }
                Entry::Link { target } => text.push_str(&format!("l\t{path}\t{target}\n")),
            }
        }
        text
    }
}

/// A path as it can stand in a message.
#[must_use]
pub fn shown(path: &str) -> String {
    path.chars().take(200).flat_map(char::escape_debug).collect()
}

fn check_path(path: &str) -> Result<(), TreeError> {
    let refuse = |why| Err(TreeError::Path { path: shown(path), why });
    if path.len() > PATH_BYTES_MAX {
        return refuse("its path is too long");
    }
    if path.chars().any(char::is_control) {
        return refuse("its name holds a control character");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > NAME_BYTES_MAX) {
        return refuse("a part of its path is empty, `.`, `..` or too long");
    }
    if path.split('/').count() > DEPTH_MAX {
        return Err(TreeError::TooDeep(shown(path)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new(TreeLimits { entries: 8, bytes: 100 });
        tree.add_directory("a").unwrap();
        tree
    }

    fn digest() -> Digest {
        Digest::from_bytes([7; 32])
    }

    #[test]
    fn paths_that_leave_or_confuse_are_refused() {
        let mut tree = tree();
        for bad in ["", "/", "/etc/passwd", "..", "a/../b", "a/./b", "a//b", "a/", "a\nb", "a\tb", "a\0", "a\u{1b}[2J"]
        {
            assert!(tree.add_directory(bad).is_err(), "{bad:?}");
            assert!(tree.add_file(bad, false, 1, digest()).is_err(), "{bad:?}");
        }
        assert!(tree.add_directory(&"n".repeat(256)).is_err());
        assert!(matches!(tree.add_directory(&vec!["d"; 33].join("/")), Err(TreeError::TooDeep(_))));
        assert!(matches!(tree.add_file("no/parent", false, 1, digest()), Err(TreeError::NoParent(_))));
        assert!(matches!(tree.add_directory("a"), Err(TreeError::Duplicate(_))));
        tree.add_file("a/f", false, 1, digest()).unwrap();
        assert!(matches!(tree.add_file("a/f/g", false, 1, digest()), Err(TreeError::NoParent(_))));
        tree.add_link("a/l", "../../etc").unwrap();
        assert!(matches!(tree.add_file("a/l/g", false, 1, digest()), Err(TreeError::NoParent(_))));
    }

    #[test]
    fn bytes_and_entries_have_a_bound() {
        let mut tree = tree();
        tree.add_file("f", false, 100, digest()).unwrap();
        assert_eq!(tree.add_file("g", false, 1, digest()), Err(TreeError::TooLarge(100)));
        assert_eq!(tree.room_for(u64::MAX), Err(TreeError::TooLarge(100)));
        for n in 0..6 {
            tree.add_directory(&format!("d{n}")).unwrap();
        }
        assert_eq!(tree.add_directory("d6"), Err(TreeError::TooMany(8)));
    }

    /// As the guide says it can be written by hand.
    #[test]
    fn a_listing_is_one_line_for_each_entry() {
        let mut tree = tree();
        tree.add_file("b.sh", true, 3, digest()).unwrap();
        tree.add_file("a/x", false, 0, digest()).unwrap();
        let hex = digest().hex();
        assert_eq!(tree.listing(), format!("cogward-tree-v1\nd\ta\nf\t-\t{hex}\t0\ta/x\nf\tx\t{hex}\t3\tb.sh\n"));
    }

    #[test]
    fn every_reason_has_one_word() {
        for reason in NotKept::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    proptest! {
        /// Whatever is taken is below its directory, and no two trees share a listing.
        #[test]
        fn what_is_taken_stays_inside(path in "[a-c./\\\\\u{0}-\u{1f} é]{0,12}") {
            let mut tree = Tree::new(TreeLimits { entries: 8, bytes: 8 });
            if tree.add_directory(&path).is_ok() {
                let walked = std::path::Path::new("/base").join(&path);
                prop_assert!(walked.starts_with("/base") && walked.components().count() == 3);
                prop_assert_eq!(tree.listing().lines().count(), 2);
            }
        }
    }
}
