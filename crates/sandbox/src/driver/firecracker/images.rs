//! The drives of a machine: read-only ones made once of a directory and kept, the workspace made for each run, and
//! the archive that the kernel begins with.
//!
//! Nothing here is ever attached on the host. What a machine has written, its kernel has written: to mount it would
//! hand the host's file system code to the agent.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{Mode, OFlags};

use super::kept::{is_kept, store};
use crate::{
    native::{AGENT_UID, At, Stage, disk, template},
    storage::InputMount,
};

/// The file system of every drive: what each kernel that is made for small machines has.
pub const KIND: &str = "ext4";
/// Programs that make one are looked for here, and nowhere else.
const MAKERS: [&str; 4] = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs", "/bin/mke2fs"];
/// Most entries of a directory that becomes a drive.
const ENTRIES_MAX: u64 = 2_000_000;
/// Most bytes of one.
const BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
const BLOCK: u64 = 4096;
/// What `mke2fs` puts into each file system.
const FOUND: &str = "lost+found";
/// Nothing that a small kernel may lack, and no journal: a machine's end is the end of its drives.
const FEATURES: &str = "^has_journal,^resize_inode,^metadata_csum,uninit_bg";

/// Where the maker of file systems is.
pub fn maker() -> io::Result<&'static Path> {
    let found = MAKERS.iter().map(Path::new).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other("mke2fs is not installed (package e2fsprogs)"))
}

/// The drive of a directory, out of `kept` or made anew. The directory must not change: packages never do.
pub fn of_directory(source: &Path, kept: &Path) -> Result<PathBuf, Stage> {
    let stage = format!("drive of {}", source.display());
    let found = fs::symlink_metadata(source).at(&stage)?;
    if !found.is_dir() {
        return Err(Stage::new(stage, &"it is not a directory"));
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(kept).at(&stage)?;
    // One file for each directory: its place, and what tells it from another that was at the same place.
    let mut place = DefaultHasher::new();
    source.hash(&mut place);
    let name = format!(
        "{:016x}-{}-{}-{}.{:09}.{KIND}",
        place.finish(),
        found.dev(),
        found.ino(),
        found.mtime(),
        found.mtime_nsec()
    );
    let image = kept.join(name);
    if !is_kept(&image) {
        store(&image, |temporary| make(source, temporary)).at(&stage)?;
    }
    Ok(image)
}

fn make(source: &Path, image: &Path) -> io::Result<()> {
    let Size { bytes, entries } = size(source)?;
    // Tables of inodes and of blocks, and room for directories.
    let inodes = entries + entries / 8 + 64;
    let total = bytes + bytes / 16 + inodes * 512 + 8 * 1024 * 1024;
    make_ext4(image, total, inodes, None, Some(source))?;
    if source.join(FOUND).exists() {
        return Ok(());
    }
    // The directory that a repair would fill is nothing of the package's.
    run(Command::new(maker()?.with_file_name("debugfs")).args(["-w", "-R", "rmdir lost+found"]).arg(image))
}

/// A workspace of so many MiB with room for so many files. It, and what it begins with, belongs to the agent.
///
/// What it begins with goes through a directory of the run, `staged`, which is removed again.
pub fn workspace(image: &Path, size: (u32, u32), from: Option<&Path>, staged: &Path) -> Result<(), Stage> {
    let filled = || -> io::Result<()> {
        // The file system has eleven files of its own.
        let (mebibytes, inodes) = (u64::from(size.0), u64::from(size.1) + 11);
        let beside = image.parent().unwrap_or(image);
        disk::has_room(beside, mebibytes * 1024 * 1024)?;
        let bytes = fitting(image, mebibytes * 1024 * 1024 / BLOCK, inodes)? * BLOCK;
        disk::has_room(beside, bytes)?;
        let Some(from) = from else {
            make_ext4(image, bytes, inodes, Some(AGENT_UID), None)?;
            return allocate(image);
        };
        fs::DirBuilder::new().mode(0o755).create(staged)?;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        template::copy(open(from)?.as_fd(), open(staged)?.as_fd())?;
        make_ext4(image, bytes, inodes, Some(AGENT_UID), Some(staged))?;
        allocate(image)
    };
    let done = filled();
    if from.is_some() {
        let _ = fs::remove_dir_all(staged);
    }
    done.at("drive of the workspace")
}

/// Takes its holes from the host's disk now, so that a full one refuses the run and never surprises it.
fn allocate(image: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(image)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, file.metadata()?.len())?)
}

/// Blocks of a file system in which so many are free, found by making it: what it keeps for itself depends on its size.
fn fitting(image: &Path, free: u64, inodes: u64) -> io::Result<u64> {
    // A few for directories; less than a MiB too many.
    let (few, spare) = (16, 64);
    let mut blocks = free + inodes / 16 + free / 32 + 512;
    for _ in 0..6 {
        make_ext4(image, blocks * BLOCK, inodes, None, None)?;
        let found = free_blocks(image);
        fs::remove_file(image)?;
        let found = found?;
        // Once attached, the kernel keeps a fiftieth, and at most so many, for what it has promised to write.
        let wanted = free + few + (blocks / 50).min(4096);
        if (wanted..=wanted + spare).contains(&found) {
            break;
        }
        blocks = (blocks + wanted).saturating_sub(found);
    }
    Ok(blocks)
}

/// What the superblock says: the number of free blocks is its fourth, and its mark is at 56.
fn free_blocks(image: &Path) -> io::Result<u64> {
    let mut superblock = [0_u8; 64];
    fs::File::open(image)?.read_exact_at(&mut superblock, 1024)?;
    match superblock {
        [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, .., 0x53, 0xef, _, _, _, _, _, _] => {
            Ok(u32::from_le_bytes([a, b, c, d]).into())
        }
        _ => Err(io::Error::other("mke2fs made no ext4")),
    }
}

fn make_ext4(image: &Path, bytes: u64, inodes: u64, owner: Option<u32>, content: Option<&Path>) -> io::Result<()> {
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(image)?;
    file.set_len(bytes.div_ceil(BLOCK) * BLOCK)?;
    drop(file);
    let mut command = Command::new(maker()?);
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", FEATURES, "-E"])
        // The file is new, so what is not written is zero already.
        .arg(format!(
            "lazy_itable_init=1,nodiscard{}",
            owner.map(|id| format!(",root_owner={id}:{id}")).unwrap_or_default()
        ))
        .args(["-m", "0", "-N"])
        .arg(inodes.to_string())
        .args(content.into_iter().flat_map(|source| [Path::new("-d"), source]))
        .arg(image);
    run(&mut command)
}

/// Runs one of the programs of e2fsprogs, or says the last line that it said.
fn run(command: &mut Command) -> io::Result<()> {
    let done = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {}", line.trim().chars().take(300).collect::<String>())))
}

#[derive(Debug, Default)]
struct Size {
    bytes: u64,
    entries: u64,
}

fn size(directory: &Path) -> io::Result<Size> {
    let mut size = Size::default();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let found = entry.metadata()?;
            size.entries += 1;
            size.bytes += if found.is_dir() { BLOCK } else { found.len().div_ceil(BLOCK) * BLOCK };
            if found.is_dir() {
                open.push(entry.path());
            }
            if size.entries > ENTRIES_MAX || size.bytes > BYTES_MAX {
                return Err(io::Error::other("it has more than 2,000,000 entries or 64 GiB"));
            }
        }
    }
    Ok(size)
}

/// The drive of files that are inputs by their names, and of empty directories for those that have drives of their own.
/// Made for one run, through a directory of it that is removed again.
pub fn of_inputs(image: &Path, staged: &Path, inputs: &[InputMount]) -> Result<(), Stage> {
    let stage = "drive of the inputs";
    let filled = || -> io::Result<()> {
        fs::DirBuilder::new().mode(0o755).create(staged)?;
        for input in inputs {
            let place = staged.join(input.name.to_string());
            if fs::symlink_metadata(&input.source)?.is_dir() {
                fs::DirBuilder::new().mode(0o755).create(place)?;
            } else {
                fs::copy(&input.source, &place)?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o444))?;
            }
        }
        make(staged, image)
    };
    let done = filled();
    let _ = fs::remove_dir_all(staged);
    done.at(stage)
}

/// A file that is kept beside the drives, so that each run can link to it: links do not reach other file systems.
pub fn keep(source: &Path, kept: &Path) -> Result<PathBuf, Stage> {
    let stage = format!("copy of {}", source.display());
    let source = source.canonicalize().at(&stage)?;
    let found = source.metadata().at(&stage)?;
    if !found.is_file() {
        return Err(Stage::new(stage, &"it is not a file"));
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(kept).at(&stage)?;
    let name = format!("{}-{}-{}-{}.{:09}", found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec());
    let copy = kept.join(name);
    if !is_kept(&copy) {
        store(&copy, |temporary| fs::copy(&source, temporary).map(drop)).at(&stage)?;
    }
    Ok(copy)
}

/// The archive that the kernel unpacks: the guest as `/machine`, `/dev/null`, and nothing else.
pub fn archive(guest: &[u8]) -> Vec<u8> {
    let mut archive = Archive { bytes: Vec::with_capacity(guest.len() + 2048), number: 1 };
    archive.add("dev", 0o040_755, (0, 0), &[]);
    archive.add("dev/null", 0o020_666, (1, 3), &[]);
    archive.add("dev/console", 0o020_600, (5, 1), &[]);
    archive.add("machine", 0o100_755, (0, 0), guest);
    archive.add("TRAILER!!!", 0, (0, 0), &[]);
    archive.bytes
}

/// The `newc` form of cpio, as the kernel documents it (`buffer-format.rst`).
struct Archive {
    bytes: Vec<u8>,
    number: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap_or_default();
        let name_length = u32::try_from(name.len() + 1).unwrap_or_default();
        let fields = [self.number, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0]
            .map(|n| format!("{n:08x}"));
        self.number += 1;
        self.bytes.extend_from_slice(b"070701");
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What e2fsprogs' own reader finds in an image.
    fn listed(image: &Path, request: &str) -> String {
        let output = Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(image).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_directory_becomes_a_drive_once() {
        let dir = tempfile::tempdir().unwrap();
        let (source, kept) = (dir.path().join("source"), dir.path().join("kept"));
        fs::create_dir_all(source.join("usr/bin")).unwrap();
        fs::write(source.join("usr/bin/program"), vec![7; 3_000_000]).unwrap();
        for n in 0..500 {
            fs::write(source.join(format!("usr/{n}")), b"small").unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", source.join("bin")).unwrap();
        let image = of_directory(&source, &kept).unwrap();
        assert_eq!(image.metadata().unwrap().mode() & 0o777, 0o444);
        assert!(listed(&image, "stat /usr/bin/program").contains("Size: 3000000"));
        assert!(listed(&image, "stat /bin").contains("symlink"));
        assert!(!listed(&image, "ls -p /").contains("lost+found"));
        let made = image.metadata().unwrap().modified().unwrap();
        assert_eq!(of_directory(&source, &kept).unwrap(), image);
        assert_eq!(image.metadata().unwrap().modified().unwrap(), made, "it was not made again");
        fs::write(source.join("more"), b"").unwrap();
        assert_ne!(of_directory(&source, &kept).unwrap(), image, "another directory is another drive");
        assert!(fs::read_dir(&kept).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.')));
    }

    #[test]
    fn what_is_no_directory_becomes_no_drive_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::write(dir.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        for name in ["file", "link", "none"] {
            of_directory(&dir.path().join(name), &kept).unwrap_err();
        }
        assert!(!kept.exists());
    }

    #[test]
    fn a_workspace_has_the_room_that_was_promised_and_belongs_to_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        for mebibytes in [1, 8, 64, 3000] {
            let image = dir.path().join(format!("{mebibytes}.ext4"));
            workspace(&image, (mebibytes, 100 * mebibytes), None, &dir.path().join("none")).unwrap();
            let statistics = listed(&image, "stats");
            let number = |name: &str| -> u64 {
                let line = statistics.lines().find(|l| l.starts_with(name)).unwrap();
                line.rsplit(' ').next().unwrap().parse().unwrap()
            };
            let promised = u64::from(mebibytes) * 256;
            let free = number("Free blocks:");
            let reserved = (number("Block count:") / 50).min(4096);
            assert!((promised..promised + 128).contains(&(free - reserved)), "{mebibytes}: {statistics}");
            // In whole blocks of the table of inodes, for each group.
            let (files, asked) = (number("Free inodes:"), u64::from(100 * mebibytes));
            assert!((asked..asked + asked / 50 + 128).contains(&files), "{mebibytes}: {statistics}");
            assert!(listed(&image, "stat /").contains("User:  1000"));
            let found = image.metadata().unwrap();
            assert!(found.blocks() * 512 >= found.len(), "it is allocated whole");
            fs::remove_file(&image).unwrap();
        }
    }

    #[test]
    fn a_workspace_that_the_disk_has_no_room_for_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = rustix::fs::statvfs(dir.path()).unwrap();
        // It would fit, and leave less than the reserve.
        let free = u32::try_from(disk.f_bavail * disk.f_frsize / (1024 * 1024)).unwrap();
        let image = dir.path().join("work.ext4");
        let refused = workspace(&image, (free - 1, 64), None, &dir.path().join("none")).unwrap_err();
        assert!(refused.why.contains("no room"), "{}", refused.why);
        assert!(!image.exists());
    }

    #[test]
    fn a_workspace_begins_with_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let (from, staged, image) = (dir.path().join("from"), dir.path().join("staged"), dir.path().join("work.ext4"));
        fs::create_dir_all(from.join("a")).unwrap();
        fs::write(from.join("a/file"), b"content").unwrap();
        workspace(&image, (1, 64), Some(&from), &staged).unwrap();
        let found = listed(&image, "stat /a/file");
        assert!(found.contains("User:  1000   Group:  1000") && found.contains("Size: 7"), "{found}");
        assert!(!staged.exists());
        // More than there is room for.
        fs::write(from.join("large"), vec![7; 8 << 20]).unwrap();
        fs::remove_file(&image).unwrap();
        workspace(&image, (1, 64), Some(&from), &staged).unwrap_err();
        assert!(!staged.exists());
    }

    #[test]
    fn the_archive_has_the_form_that_the_kernel_documents() {
        let archive = archive(b"#!guest");
        let (mut at, mut entries) = (0, Vec::new());
        while at < archive.len() {
            assert_eq!(archive[at..at + 6], *b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&archive[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (mode, length, device, name_length) = (field(1), field(6), (field(9), field(10)), field(11));
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_length]).unwrap().trim_end_matches('\0');
            let content = (at + 110 + name_length).next_multiple_of(4);
            entries.push((name.to_owned(), mode, device, archive[content..content + length].to_vec()));
            at = (content + length).next_multiple_of(4);
        }
        let expected = [
            ("dev", 0o040_755, (0, 0), &b""[..]),
            ("dev/null", 0o020_666, (1, 3), b""),
            ("dev/console", 0o020_600, (5, 1), b""),
            ("machine", 0o100_755, (0, 0), b"#!guest"),
            ("TRAILER!!!", 0, (0, 0), b""),
        ];
        let expected = expected.map(|(name, mode, device, content)| (name.to_owned(), mode, device, content.to_vec()));
        assert_eq!(entries, expected);
    }
}
