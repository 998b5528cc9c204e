//! The table of contents of a package: the rules for every entry, and the digest.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use cogward_model::{
    Digest,
    content::{Tree, TreeError, TreeLimits},
};

/// What a package may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, directories and links together.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 200_000, bytes: 4 * 1024 * 1024 * 1024 }
    }
}

/// Longest path in a package, in bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// What file systems take as one name.
const NAME_BYTES_MAX: usize = 255;
/// Directories within directories in a package.
const DEPTH_MAX: usize = 64;
/// Layers of a package.
const LAYERS_MAX: usize = 16;
/// The first line of what is hashed: another format will have another one.
const FORMAT: &str = "cogward-package-v1\n";

/// Why an entry cannot be in a package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There are too many.
    #[error("the package has more than {0} files, directories and links")]
    TooMany(u64),
    /// They are too large.
    #[error("the files of the package have more than {0} bytes together")]
    TooLarge(u64),
    /// The path is not one that a package can hold.
    #[error("`{path}` cannot be in a package: {why}")]
    Path {
        /// The path, shortened.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// The path is there twice.
    #[error("`{0}` is in the package twice")]
    Duplicate(String),
    /// Its directory was not there before it.
    #[error("`{0}` comes before its directory")]
    NoParent(String),
    /// The link leads out of the package.
    #[error("the link `{path}` to `{target}` cannot be in a package: {why}")]
    Link {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
        /// Why.
        why: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Directory,
    File { executable: bool, size: u64, digest: Digest },
    Link { target: String },
}

/// The size of a package and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Its identity.
    pub digest: Digest,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Every entry of a package.
#[derive(Debug, Clone)]
pub struct Contents {
    items: BTreeMap<String, Item>,
    bytes: u64,
    limits: Limits,
}

impl Contents {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { items: BTreeMap::new(), bytes: 0, limits }
    }

    /// Refuses a file before a byte of it is read.
    pub(crate) fn room_for(&self, size: u64) -> Result<(), ContentError> {
        if self.bytes.checked_add(size).is_none_or(|sum| sum > self.limits.bytes) {
            return Err(ContentError::TooLarge(self.limits.bytes));
        }
        Ok(())
    }

    /// Refuses a path that is not one, is there, or has no directory.
    pub(crate) fn place_for(&self, path: &str) -> Result<(), ContentError> {
        if self.items.len() as u64 >= self.limits.entries {
            return Err(ContentError::TooMany(self.limits.entries));
        }
        check_path(path).map_err(|why| ContentError::Path { path: shown(path), why })?;
        if self.items.contains_key(path) {
            return Err(ContentError::Duplicate(shown(path)));
        }
        match path.rsplit_once('/') {
            Some((parent, _)) if self.items.get(parent) != Some(&Item::Directory) => {
                Err(ContentError::NoParent(shown(path)))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn add_directory(&mut self, path: &str) -> Result<(), ContentError> {
        self.place_for(path)?;
        self.items.insert(path.to_owned(), Item::Directory);
        Ok(())
    }

    pub(crate) fn add_file(
        &mut self,
        path: &str,
        executable: bool,
        size: u64,
        digest: Digest,
    ) -> Result<(), ContentError> {
        self.place_for(path)?;
        self.room_for(size)?;
        if !path.contains('/') {
            return Err(ContentError::Path { path: shown(path), why: "this name is for a directory" });
        }
        self.bytes = self.bytes.saturating_add(size);
        self.items.insert(path.to_owned(), Item::File { executable, size, digest });
        Ok(())
    }

    pub(crate) fn add_link(&mut self, path: &str, target: &str) -> Result<(), ContentError> {
        self.place_for(path)?;
        check_link(path, target).map_err(|why| ContentError::Link { path: shown(path), target: shown(target), why })?;
        self.items.insert(path.to_owned(), Item::Link { target: target.to_owned() });
        Ok(())
    }

    /// The size and the digest: over one line for each entry, in the order of their paths.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut hash = Context::new(&SHA256);
        hash.update(FORMAT.as_bytes());
        for (path, item) in &self.items {
            // No path and no target holds a tab or a line break, so no two listings share a text.
            let line = match item {
                Item::Directory => format!("d\t{path}\n"),
                Item::File { executable, size, digest } => {
                    format!("f\t{}\t{}\t{size}\t{path}\n", if *executable { "x" } else { "-" }, digest.hex())
                }
                Item::Link { target } => format!("l\t{path}\t{target}\n"),
            };
            hash.update(line.as_bytes());
        }
        Summary { digest: finish(hash), entries: self.items.len() as u64, bytes: self.bytes }
    }

    /// Whether there is a file of that path, or a link.
    #[must_use]
    pub fn has_file(&self, path: &str) -> bool {
        matches!(self.items.get(path), Some(Item::File { .. } | Item::Link { .. }))
    }

    /// Whether there is an executable file of that path, or a link.
    #[must_use]
    pub fn has_program(&self, path: &str) -> bool {
        matches!(self.items.get(path), Some(Item::File { executable: true, .. } | Item::Link { .. }))
    }

    /// Whether there is a directory of that path, or a link.
    #[must_use]
    pub fn has_directory(&self, path: &str) -> bool {
        matches!(self.items.get(path), Some(Item::Directory | Item::Link { .. }))
    }

    /// Whether there is a directory of that path that is not a link, nor behind one.
    #[must_use]
    pub fn is_directory(&self, path: &str) -> bool {
        matches!(self.items.get(path), Some(Item::Directory))
    }

    /// Everything below a directory, by its path there, with the digest of its own.
    ///
    /// # Errors
    /// [`TreeError`] when it is nested deeper than what goes into a run may be.
    pub fn below(&self, directory: &str) -> Result<Tree, TreeError> {
        let mut tree = Tree::new(TreeLimits { entries: self.limits.entries, bytes: self.limits.bytes });
        let prefix = format!("{directory}/");
        for (path, item) in self.items.range(prefix.clone()..) {
            let Some(path) = path.strip_prefix(&prefix) else { break };
            match item {
                Item::Directory => tree.add_directory(path)?,
                Item::File { executable, size, digest } => tree.add_file(path, *executable, *size, *digest)?,
                Item::Link { target } => tree.add_link(path, target)?,
            }
        }
        Ok(tree)
    }

    /// The links, with their targets.
    /// The files below a directory, which ends with `/`, by their paths from there; links are none.
    pub(crate) fn files_below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, u64, Digest)> {
        let below = self
            .items
            .range(folder.to_owned()..)
            .map_while(move |(path, item)| Some((path.strip_prefix(folder)?, item)));
        below.filter_map(|(path, item)| match item {
            Item::File { size, digest, .. } => Some((path, *size, *digest)),
            _ => None,
        })
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.items.iter().filter_map(|(path, item)| match item {
            Item::Link { target } => Some((path.as_str(), target.as_str())),
            _ => None,
        })
    }

    /// How many layers there are.
    #[must_use]
    pub fn layers(&self) -> usize {
        (0..=LAYERS_MAX).take_while(|n| self.items.contains_key(&format!("layers/{n}"))).count()
    }
}

pub(crate) fn finish(hash: Context) -> Digest {
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Digest::from_bytes(bytes)
}

/// A path as it can stand in a message.
pub(crate) fn shown(path: &str) -> String {
    path.chars().take(200).flat_map(char::escape_debug).collect()
}

/// The directory of a package that a path is in: `code`, `root` or `layers/N`.
fn tree_of(path: &str) -> Option<&str> {
    let mut ends = path.match_indices('/').map(|(at, _)| at);
    let first = ends.next().unwrap_or(path.len());
    match path.get(..first)? {
        "code" | "root" => path.get(..first),
        "layers" => path.get(..ends.next().unwrap_or(path.len())),
        _ => None,
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > PATH_BYTES_MAX {
        return Err("its path is too long");
    }
    if path.chars().any(char::is_control) {
        return Err("its name holds a control character");
    }
    let mut parts = path.split('/');
    match parts.next() {
        Some("code" | "root") => {}
        Some("layers") => {
            let number = parts.next().map(str::parse::<usize>);
            let plain = |n: usize| path.split('/').nth(1) == Some(n.to_string().as_str());
            if !number.is_none_or(|n| n.is_ok_and(|n| n < LAYERS_MAX && plain(n))) {
                return Err("layers are numbered from 0 to 15");
            }
        }
        _ => return Err("only `code`, `layers` and `root` are at the top"),
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > NAME_BYTES_MAX) {
        return Err("a part of its path is empty, `.`, `..` or too long");
    }
    if path.split('/').count() > DEPTH_MAX {
        return Err("it is nested too deep");
    }
    Ok(())
}

/// Absolute targets are for the sandbox, whose root is its own; a relative one must stay in its tree.
fn check_link(path: &str, target: &str) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.chars().any(char::is_control) {
        return Err("its target is empty, too long or holds a control character");
    }
    let tree = tree_of(path).unwrap_or(path);
    let Some(mut depth) = path.get(tree.len()..).unwrap_or("").matches('/').count().checked_sub(1) else {
        return Err("a whole tree cannot be a link");
    };
    if target.starts_with('/') {
        return Ok(());
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or("it leads out of the package")?,
            _ => depth += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let mut contents = Contents::new(Limits { entries: 10, bytes: 100 });
        contents.add_directory("code").unwrap();
        contents.add_directory("code/sub").unwrap();
        contents
    }

    #[test]
    fn paths_that_leave_or_confuse_are_refused() {
        let mut contents = contents();
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "code/../x",
            "code/./x",
            "code//x",
            "code/",
            "../x",
            "other/x",
            "layers/16",
            "layers/01",
            "layers/x",
            "layers/+1",
            "code/a\nb",
            "code/a\tb",
            "cod",
            "code/a\0",
        ] {
            assert!(contents.add_directory(bad).is_err(), "{bad:?}");
        }
        assert!(contents.add_directory(&format!("code/{}", "a".repeat(256))).is_err());
        assert!(matches!(contents.add_directory("code/no/parent"), Err(ContentError::NoParent(_))));
        assert!(matches!(contents.add_directory("code/sub"), Err(ContentError::Duplicate(_))));
        assert!(contents.add_file("root", true, 1, Digest::from_bytes([0; 32])).is_err());
    }

    #[test]
    fn links_stay_in_their_tree() {
        let mut contents = contents();
        for bad in ["", "../../x", "../../../etc/passwd", "x/../../../y", "a\nb"] {
            assert!(contents.add_link("code/sub/link", bad).is_err(), "{bad:?}");
        }
        for (n, good) in ["../x", "x", "/usr/bin/python3", "..", "a/../../b"].into_iter().enumerate() {
            contents.add_link(&format!("code/sub/l{n}"), good).unwrap();
        }
        assert!(contents.add_link("root", "/").is_err());
        assert!(contents.add_link("code/l", "..").is_err());
    }

    #[test]
    fn limits_hold_at_the_edge() {
        let mut contents = contents();
        let zero = Digest::from_bytes([0; 32]);
        contents.add_file("code/a", false, 100, zero).unwrap();
        assert!(matches!(contents.add_file("code/b", false, 1, zero), Err(ContentError::TooLarge(100))));
        assert!(matches!(contents.room_for(u64::MAX), Err(ContentError::TooLarge(_))));
        for n in 0..7 {
            contents.add_directory(&format!("code/d{n}")).unwrap();
        }
        assert!(matches!(contents.add_directory("code/d9"), Err(ContentError::TooMany(10))));
    }

    #[test]
    fn everything_counts_for_the_digest_and_the_order_does_not() {
        let build = |steps: &[(&str, u8)]| {
            let mut contents = Contents::new(Limits::default());
            contents.add_directory("code").unwrap();
            for (path, kind) in steps {
                let digest = Digest::from_bytes([*kind; 32]);
                match kind {
                    0 => contents.add_directory(path).unwrap(),
                    1 => contents.add_link(path, "x").unwrap(),
                    2 => contents.add_link(path, "y").unwrap(),
                    3 => contents.add_file(path, true, 1, digest).unwrap(),
                    _ => contents.add_file(path, false, 1, digest).unwrap(),
                }
            }
            contents.summary().digest
        };
        assert_eq!(build(&[("code/a", 4), ("code/b", 3)]), build(&[("code/b", 3), ("code/a", 4)]));
        let all: Vec<_> = (0..6).map(|kind| build(&[("code/a", kind)])).chain([build(&[])]).collect();
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one), "{n}");
        }
    }
}
