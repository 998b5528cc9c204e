//! Takes the declared outputs out of a workspace whose run has ended.
//!
//! The agent made this tree, so everything in it is hostile: no link of it is followed, nothing of it is opened
//! that is not a file or a directory, every file is bounded before a byte of it is read. An output is kept whole
//! or not at all, because half a result with a digest would be worse than none. It happens also after a kill
//! and after the memory ran out, for what is there then may be what explains it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use cogward_model::{
    Digest,
    content::{Artifact, Content, ContentKind, NAME_BYTES_MAX, NotKept, Tree, TreeError, TreeLimits, shown},
    limits::{CONTENT_ENTRIES_MAX, DISK_RESERVE_BYTES},
    manifest::Output,
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat},
    io::Errno,
};

use crate::storage::ARTIFACTS_DIR;

/// Time for all outputs of a run. At 100 MB a second it is enough for the largest that can be declared.
const COLLECT_MAX: Duration = Duration::from_secs(600);
const CHUNK: usize = 256 * 1024;

/// Lookups stay in the workspace, on its file system, and follow no link of any kind.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Why an output is not kept, with the path that is in the way.
struct Refused(NotKept, Option<String>);

impl Refused {
    fn at(reason: NotKept, path: &str) -> Self {
        Self(reason, Some(shown(path)))
    }
}

impl From<TreeError> for Refused {
    fn from(error: TreeError) -> Self {
        let reason = match &error {
            TreeError::TooMany(_) => NotKept::TooMany,
            TreeError::TooLarge(_) => NotKept::TooLarge,
            TreeError::TooDeep(_) => NotKept::TooDeep,
            TreeError::Path { .. } => NotKept::BadName,
            _ => NotKept::Changed,
        };
        Self(reason, Some(error.to_string()))
    }
}

/// Takes every output into `<run_dir>/artifacts`, of all together no more than `most` bytes: holes and paths that are
/// declared twice make no more of a workspace than it could hold. `meanwhile` is called often, so that the supervisor
/// answers.
pub fn collect(
    work: &OwnedFd,
    outputs: &[Output],
    most: u64,
    run_dir: &Path,
    meanwhile: &mut dyn FnMut(),
) -> Vec<Artifact> {
    if outputs.is_empty() {
        return Vec::new();
    }
    let place = run_dir.join(ARTIFACTS_DIR);
    let made = DirBuilder::new().mode(0o700).create(&place).map_err(|error| kept_where(&error));
    let deadline = Instant::now() + COLLECT_MAX;
    let mut collector = Collector { deadline, left: most, buffer: vec![0; CHUNK], meanwhile };
    let artifacts = outputs
        .iter()
        .map(|output| {
            let target = place.join(output.name.as_str());
            let taken = match &made {
                Ok(()) => collector.output(work, output, &target),
                Err(reason) => Err(Refused(*reason, None)),
            };
            let (content, refused, detail) = match taken {
                Ok(content) => (Some(content), None, None),
                Err(Refused(reason, detail)) => {
                    // What was copied of it is not it.
                    let _gone = fs::remove_dir_all(&target).or_else(|_| fs::remove_file(&target));
                    (None, Some(reason), detail)
                }
            };
            Artifact { name: output.name.clone(), required: output.required, content, refused, detail }
        })
        .collect();
    // On disk before the end of the run is: where that is, all is there.
    if let Ok(handle) = File::open(&place)
        && let Err(error) = rustix::fs::syncfs(&handle)
    {
        eprintln!("cogward supervise: {ARTIFACTS_DIR}: {error}");
    }
    artifacts
}

/// What is said of outputs whose workspace cannot be read from outside.
pub fn none(outputs: &[Output]) -> Vec<Artifact> {
    let refused = Some(NotKept::Unreadable);
    let unread = |output: &Output| Artifact {
        name: output.name.clone(),
        required: output.required,
        content: None,
        refused,
        detail: None,
    };
    outputs.iter().map(unread).collect()
}

struct Collector<'a> {
    deadline: Instant,
    /// Bytes that may still be written, for outputs that are not kept in the end as well.
    left: u64,
    buffer: Vec<u8>,
    meanwhile: &'a mut dyn FnMut(),
}

impl Collector<'_> {
    fn output(&mut self, work: &OwnedFd, output: &Output, target: &Path) -> Result<Content, Refused> {
        let path = output.below_work().ok_or(Refused(NotKept::BadName, None))?;
        let limits = TreeLimits { entries: CONTENT_ENTRIES_MAX, bytes: u64::from(output.max_mib) * 1024 * 1024 };
        let mut tree = Tree::new(limits);
        let opened = openat2(work, path, READ, Mode::empty(), INSIDE).map_err(|e| not_opened(e, path))?;
        let found = fstat(&opened).map_err(|e| unread(e, path))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {
                let (digest, bytes) = self.copy(opened, &found, path, tree.room(), target)?;
                Ok(Content { kind: ContentKind::File, digest, bytes, entries: 1 })
            }
            FileType::Directory => {
                self.directory(opened, "", target, &mut tree)?;
                let digest = sha256(tree.listing().as_bytes());
                Ok(Content { kind: ContentKind::Directory, digest, bytes: tree.bytes(), entries: tree.entries() })
            }
            _ => Err(Refused::at(NotKept::NotAFile, path)),
        }
    }

    /// Everything below an open directory; `above` is its path in the output, empty for the output itself.
    fn directory(&mut self, opened: OwnedFd, above: &str, target: &Path, tree: &mut Tree) -> Result<(), Refused> {
        DirBuilder::new().mode(0o700).create(target).map_err(|e| Refused(kept_where(&e), None))?;
        for name in self.names(&opened, above, tree.places())? {
            self.turn()?;
            let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
            tree.place_for(&path)?;
            // Looked at before it is opened: the opening of a pipe or a device may do something.
            let found = statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| unread(e, &path))?;
            let kind = FileType::from_raw_mode(found.st_mode);
            match kind {
                FileType::Directory | FileType::RegularFile => {}
                FileType::Symlink => return Err(Refused::at(NotKept::Link, &path)),
                _ => return Err(Refused::at(NotKept::NotAFile, &path)),
            }
            let entry = openat2(&opened, &name, READ, Mode::empty(), INSIDE).map_err(|e| not_opened(e, &path))?;
            let found = fstat(&entry).map_err(|e| unread(e, &path))?;
            if FileType::from_raw_mode(found.st_mode) != kind {
                return Err(Refused::at(NotKept::Changed, &path));
            }
            let below = target.join(&name);
            if kind == FileType::Directory {
                tree.add_directory(&path)?;
                self.directory(entry, &path, &below, tree)?;
            } else {
                let (digest, size) = self.copy(entry, &found, &path, tree.room(), &below)?;
                tree.add_file(&path, found.st_mode & 0o100 != 0, size, digest)?;
            }
        }
        Ok(())
    }

    /// The names in a directory, sorted; one more than there is room for is enough to know that there are too many.
    fn names(&mut self, directory: &OwnedFd, above: &str, places: u64) -> Result<Vec<String>, Refused> {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(|e| unread(e, above))? {
            let entry = entry.map_err(|e| unread(e, above))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() as u64 >= places {
                return Err(Refused::at(NotKept::TooMany, above));
            }
            if names.len() % 1_024 == 0 {
                self.turn()?;
            }
            match std::str::from_utf8(name) {
                Ok(name) if name.len() <= NAME_BYTES_MAX => names.push(name.to_owned()),
                _ => return Err(Refused::at(NotKept::BadName, &String::from_utf8_lossy(name))),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn copy(
        &mut self,
        source: OwnedFd,
        before: &Stat,
        path: &str,
        room: u64,
        target: &Path,
    ) -> Result<(Digest, u64), Refused> {
        let size = u64::try_from(before.st_size).unwrap_or(u64::MAX);
        if size > room {
            // Also a file that is all holes: what it would be when it is read counts.
            return Err(Refused(NotKept::TooLarge, Some(format!("`{}` has {size} bytes", shown(path)))));
        }
        if before.st_nlink > 1 {
            // Each of its names would become a file of its own.
            return Err(Refused(NotKept::Link, Some(format!("`{}` has {} names", shown(path), before.st_nlink))));
        }
        let Some(left) = self.left.checked_sub(size) else {
            let why = format!("`{}`: all outputs together have more bytes than the workspace", shown(path));
            return Err(Refused(NotKept::TooLarge, Some(why)));
        };
        self.left = left;
        if !has_room(target, size) {
            return Err(Refused(NotKept::NoSpace, None));
        }
        let executable = before.st_mode & 0o100 != 0;
        let mode = if executable { 0o700 } else { 0o600 };
        let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(target);
        let mut target = made.map_err(|e| Refused(kept_where(&e), None))?;
        let mut source = File::from(source);
        let (mut hash, mut read) = (Context::new(&SHA256), 0_u64);
        loop {
            self.turn()?;
            let chunk = match source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => self.buffer.get(..count).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unread(e, path)),
            };
            read = read.saturating_add(chunk.len() as u64);
            if read > size {
                return Err(Refused::at(NotKept::Changed, path));
            }
            hash.update(chunk);
            target.write_all(chunk).map_err(|e| Refused(kept_where(&e), None))?;
        }
        let after = fstat(source.as_fd()).map_err(|e| unread(e, path))?;
        let times = |s: &Stat| (s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec);
        if read != size || times(before) != times(&after) {
            return Err(Refused::at(NotKept::Changed, path));
        }
        Ok((finish(hash), size))
    }

    fn turn(&mut self) -> Result<(), Refused> {
        (self.meanwhile)();
        if Instant::now() >= self.deadline { Err(Refused(NotKept::TooSlow, None)) } else { Ok(()) }
    }
}

/// Whether the host's disk takes a file and leaves what belongs to the evidence.
fn has_room(target: &Path, size: u64) -> bool {
    let above = target.parent().unwrap_or(target);
    rustix::fs::statvfs(above)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= size.saturating_add(DISK_RESERVE_BYTES))
}

/// Reads one small file of the workspace whole.
pub fn read_small(work: BorrowedFd<'_>, name: &str, most: usize) -> Result<Option<Vec<u8>>, NotKept> {
    let opened = match openat2(work, name, READ, Mode::empty(), INSIDE) {
        Ok(opened) => opened,
        Err(e) => match not_opened(e, name).0 {
            NotKept::Missing => return Ok(None),
            reason => return Err(reason),
        },
    };
    let found = fstat(&opened).map_err(|_| NotKept::Unreadable)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(NotKept::NotAFile);
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    File::from(opened).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|_| NotKept::Unreadable)?;
    if bytes.len() > most { Err(NotKept::TooLarge) } else { Ok(Some(bytes)) }
}

fn not_opened(error: Errno, path: &str) -> Refused {
    match error {
        Errno::NOENT | Errno::NOTDIR => Refused(NotKept::Missing, None),
        Errno::LOOP => Refused::at(NotKept::Link, path),
        // A socket cannot be opened; a mount cannot be there.
        Errno::NXIO | Errno::XDEV => Refused::at(NotKept::NotAFile, path),
        error => unread(error, path),
    }
}

fn unread(error: impl Into<io::Error>, path: &str) -> Refused {
    Refused(NotKept::Unreadable, Some(format!("`{}`: {}", shown(path), error.into())))
}

/// What an error on the host's side means.
fn kept_where(error: &io::Error) -> NotKept {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NotKept::NoSpace,
        _ => NotKept::Unreadable,
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(bytes);
    finish(hash)
}

fn finish(hash: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Digest::from_bytes(bytes)
}

#[cfg(test)]
mod tests;
