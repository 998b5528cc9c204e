//! The layers of an image, put together without a file system.
//!
//! The tree is a map from path to entry; the bytes of files go one after the other into one spool
//! file that has no name. So nothing that a layer says (a link, a `..`, a hard link, an owner, a
//! device) can reach any other file of the machine.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
};

use cogward_model::{Entropy, SystemEntropy};
use tar::{Archive, Entry, EntryType};

use super::{
    contents::{ContentError, Limits, shown},
    names::{Dialect, LongNames, NameError, text},
    oci::OciError,
    pack::PackError,
    walk::{Visit, WalkError},
};

/// Links that lead to links: what the kernel takes.
const LINKS_MAX: u32 = 40;
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

#[derive(Debug, Clone)]
enum Node {
    Directory,
    File { executable: bool, offset: u64, size: u64 },
    Link { target: String },
}

/// The tree of an image while its layers are applied.
pub(crate) struct Image {
    nodes: BTreeMap<String, (Node, u32)>,
    spool: File,
    spooled: u64,
    layer: u32,
    seen: u64,
    limits: Limits,
}

impl From<NameError> for OciError {
    fn from(error: NameError) -> Self {
        Self::Layer(error.to_string().chars().take(200).collect())
    }
}

fn broken(error: io::Error) -> OciError {
    OciError::Layer(error.to_string().chars().take(200).collect())
}

impl Image {
    pub(crate) fn new(limits: Limits) -> io::Result<Self> {
        let mut random = [0_u8; 16];
        SystemEntropy.fill(&mut random);
        let path = std::env::temp_dir().join(format!("cogward-image-{:032x}", u128::from_le_bytes(random)));
        let spool = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(Self { nodes: BTreeMap::new(), spool, spooled: 0, layer: 0, seen: 0, limits })
    }

    /// Applies the next layer.
    pub(crate) fn apply(&mut self, layer: impl Read) -> Result<(), OciError> {
        self.layer += 1;
        let mut long = LongNames::default();
        let mut archive = Archive::new(layer);
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            if long.absorb(&mut entry, Dialect::Images)? {
                continue;
            }
            self.seen += 1;
            // Twice: layers may replace what others have.
            if self.seen > self.limits.entries.saturating_mul(2) {
                return Err(ContentError::TooMany(self.limits.entries).into());
            }
            self.take(&mut entry, std::mem::take(&mut long))?;
        }
        Ok(())
    }

    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>, long: LongNames) -> Result<(), OciError> {
        let header = entry.header();
        let kind = header.entry_type();
        let raw = match long.path {
            Some(path) => path,
            None => text(&header.path_bytes())?,
        };
        let Some(path) = plain(&raw)? else { return Ok(()) };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = self.resolve(parent)?;
        if name == OPAQUE {
            self.hide_below(&parent);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if !hidden.is_empty() && !hidden.starts_with(WHITEOUT) {
                self.hide(&joined(&parent, hidden));
            }
            return Ok(());
        }
        let path = joined(&parent, name);
        let node = match kind {
            EntryType::Directory => Node::Directory,
            EntryType::Regular | EntryType::Continuous => {
                let executable = header.mode().map_err(broken)? & 0o111 != 0;
                let size = header.entry_size().map_err(broken)?;
                self.spool(entry, executable, size)?
            }
            EntryType::Symlink => Node::Link { target: target(entry, long.target)? },
            EntryType::Link => {
                let raw = target(entry, long.target)?;
                let Some(other) = plain(&raw)? else {
                    return Err(OciError::Layer(format!("`{}` is a hard link to nothing", shown(&path))));
                };
                let (parent, name) = other.rsplit_once('/').unwrap_or(("", &other));
                let other = joined(&self.resolve(parent)?, name);
                match self.nodes.get(&other) {
                    Some((node @ (Node::File { .. } | Node::Link { .. }), _)) => node.clone(),
                    _ => return Err(OciError::Layer(format!("`{}` is a hard link to nothing", shown(&path)))),
                }
            }
            // The sandbox has its own devices; an image that brings some is not worse for it.
            EntryType::Char | EntryType::Block if path.starts_with("dev/") => return Ok(()),
            _ => {
                let problem = "is neither a file, a directory nor a link";
                return Err(OciError::Layer(format!("`{}` {problem}", shown(&path))));
            }
        };
        let keeps = matches!((&node, self.nodes.get(&path)), (Node::Directory, Some((Node::Directory, _))));
        if !keeps {
            self.remove(&path);
        }
        // What holds something of this layer is of this layer: an opaque mark above must not take it.
        let mut above = path.as_str();
        while let Some((up, _)) = above.rsplit_once('/') {
            if let Some((_, layer)) = self.nodes.get_mut(up) {
                *layer = self.layer;
            }
            above = up;
        }
        self.nodes.insert(path, (node, self.layer));
        Ok(())
    }

    fn spool<R: Read>(&mut self, entry: &mut Entry<'_, R>, executable: bool, size: u64) -> Result<Node, OciError> {
        let offset = self.spooled;
        let most = self.limits.bytes.saturating_mul(2);
        if offset.checked_add(size).is_none_or(|sum| sum > most) {
            return Err(ContentError::TooLarge(self.limits.bytes).into());
        }
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut left = size;
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match entry.read(buffer.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(OciError::Layer("it ends within a file".into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            self.spool.write_all(buffer.get(..count).unwrap_or_default()).map_err(OciError::Spool)?;
            left -= count as u64;
        }
        self.spooled += size;
        Ok(Node::File { executable, offset, size })
    }

    /// The directory that a path leads to within the image, through its links; directories that are
    /// not there are made, as every unpacker does.
    fn resolve(&mut self, path: &str) -> Result<String, OciError> {
        let mut todo: Vec<String> = path.split('/').rev().filter(|p| !p.is_empty()).map(str::to_owned).collect();
        let (mut here, mut links) = (String::new(), 0);
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                // The root is its own parent, as in a real one.
                ".." => {
                    here = here.rsplit_once('/').map_or(String::new(), |(up, _)| up.to_owned());
                    continue;
                }
                _ => {}
            }
            let next = joined(&here, &part);
            match self.nodes.get(&next) {
                Some((Node::Directory, _)) => here = next,
                Some((Node::Link { target }, _)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(OciError::Layer(format!("`{}` leads in a circle", shown(&next))));
                    }
                    if target.starts_with('/') {
                        here = String::new();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Some((Node::File { .. }, _)) => {
                    return Err(OciError::Layer(format!("`{}` is a file and not a directory", shown(&next))));
                }
                None => {
                    self.nodes.insert(next.clone(), (Node::Directory, self.layer));
                    here = next;
                }
            }
            if here.len() > 4_096 || todo.len() > 4_096 {
                return Err(OciError::Layer("a path in it is too long".into()));
            }
        }
        Ok(here)
    }

    /// Removes an entry and all below it.
    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        self.drain(path, |_| true);
    }

    /// Removes what earlier layers put at a path and below it.
    fn hide(&mut self, path: &str) {
        let layer = self.layer;
        if self.nodes.get(path).is_some_and(|(_, of)| *of < layer) {
            self.remove(path);
        } else {
            self.hide_below(path);
        }
    }

    /// Removes what earlier layers put below a directory.
    fn hide_below(&mut self, path: &str) {
        let layer = self.layer;
        self.drain(path, |of| of < layer);
    }

    fn drain(&mut self, path: &str, gone: impl Fn(u32) -> bool) {
        let from = if path.is_empty() { String::new() } else { format!("{path}/") };
        let paths: Vec<String> = self
            .nodes
            .range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded))
            .take_while(|(p, _)| p.starts_with(&from))
            .filter(|(_, (_, layer))| gone(*layer))
            .map(|(p, _)| p.clone())
            .collect();
        for path in paths {
            self.nodes.remove(&path);
        }
    }

    /// Visits the tree, below `root`. Who may read or run a file does not come from the image: the
    /// package has one owner, and no set-id bit.
    pub(crate) fn visit<V: Visit<Error = PackError>>(mut self, visit: &mut V) -> Result<(), PackError> {
        visit.directory("root")?;
        for (path, (node, _)) in std::mem::take(&mut self.nodes) {
            let path = format!("root/{path}");
            match node {
                Node::Directory => visit.directory(&path)?,
                Node::Link { target } => visit.link(&path, &target)?,
                Node::File { executable, offset, size } => {
                    self.spool.seek(SeekFrom::Start(offset)).map_err(|e| WalkError::io(&path, e))?;
                    visit.file(&path, executable, size, &mut (&self.spool).take(size))?;
                }
            }
        }
        Ok(())
    }
}

fn joined(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// A path of a layer without `./` and slashes at its ends; `None` for the root itself.
fn plain(path: &str) -> Result<Option<String>, OciError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(OciError::Layer(format!("`{}` leaves the image", shown(path))));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

fn target<R: Read>(entry: &Entry<'_, R>, long: Option<String>) -> Result<String, OciError> {
    match long {
        Some(target) => Ok(target),
        None => Ok(text(&entry.header().link_name_bytes().unwrap_or_default())?),
    }
}
