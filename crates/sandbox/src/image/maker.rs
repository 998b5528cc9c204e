//! Makes an image of a directory, the same bytes for the same files.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    ImageError,
    limited::{self, Limits},
    step,
};
use crate::native::disk;

/// The program is looked for here, and nowhere else.
const MAKERS: [&str; 4] = ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs", "/bin/mkfs.erofs", "/sbin/mkfs.erofs"];
const BLOCK: u64 = 4096;
/// Entries of a directory that becomes an image: what a package can have, and a few that describe it.
const ENTRIES_MAX: u64 = 200_100;
/// Bytes of all files of it together: what a package can have, and its description.
const BYTES_MAX: u64 = 4_097 * 1024 * 1024;
/// Directories within directories of it: more than a package can have.
const DEPTH_MAX: usize = 80;
/// Longest name in an image: one byte less than file systems take, because some versions of the program cut the last one off.
const NAME_MAX: usize = 254;
/// Time for making an image: far more than a package of the largest size takes.
const TIME_MAX: Duration = Duration::from_secs(300);
/// Memory of the program that makes one. Version 1.5 takes 0.93 GB for as many entries as a package can have.
const MEMORY_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Where the program is.
pub fn program() -> Result<&'static Path, ImageError> {
    MAKERS.iter().map(Path::new).find(|path| path.is_file()).ok_or(ImageError::NoMaker)
}

/// Makes the image of `source` in a new file, and flushes it. What belongs to the evidence stays free on the disk.
pub fn make(program: &Path, source: &Path, image: &Path) -> Result<(), ImageError> {
    let most = size(source)?;
    disk::has_room(image.parent().unwrap_or(image), most).map_err(step("its room"))?;
    make_within(program, source, image, most)
}

/// The same of a small directory, on whatever disk it is.
pub fn make_unbounded_by_room(program: &Path, source: &Path, image: &Path) -> Result<(), ImageError> {
    make_within(program, source, image, size(source)?)
}

fn make_within(program: &Path, source: &Path, image: &Path, most: u64) -> Result<(), ImageError> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(image).map_err(step("its file"))?;
    let mut command = Command::new(program);
    command
        .args(["--quiet", "--all-root", "-T0", "-U", "00000000-0000-0000-0000-000000000000"])
        // No extended attributes: they are nothing of a package.
        .arg("-x-1")
        .arg(image)
        .arg(source);
    let limits = Limits { time: TIME_MAX, memory: MEMORY_MAX, file: most };
    limited::run(command, limits).map_err(|e| ImageError::Failed(e.to_string()))?;
    fs::File::open(image).and_then(|file| file.sync_all()).map_err(step("its flush"))
}

/// The most bytes that an image of a directory has. Refuses what is no package, before a program reads it.
fn size(source: &Path) -> Result<u64, ImageError> {
    let refuse = |why: String| Err(ImageError::Source(why));
    let read = step("a directory of the package");
    let (mut entries, mut bytes, mut total) = (0_u64, 0_u64, 1024 * 1024);
    let mut open: Vec<(PathBuf, usize)> = vec![(source.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            return refuse("it is nested too deep".to_owned());
        }
        // An entry of a directory takes twelve bytes and its name, and no name goes over the end of a block.
        let mut names = 2 * BLOCK;
        for entry in fs::read_dir(&directory).map_err(&read)? {
            let entry = entry.map_err(&read)?;
            let found = entry.metadata().map_err(&read)?;
            let kind = found.file_type();
            let name = entry.file_name().len();
            if name > NAME_MAX {
                return refuse("it holds a name of more than 254 bytes".to_owned());
            }
            entries += 1;
            names += 2 * (name as u64 + 12);
            if kind.is_file() {
                bytes = bytes.saturating_add(found.len());
                total += found.len().div_ceil(BLOCK).saturating_mul(BLOCK);
            } else if kind.is_symlink() {
                total += found.len() + BLOCK;
            } else if kind.is_dir() {
                open.push((entry.path(), depth + 1));
            } else {
                return refuse("it holds something that is neither a file, a directory nor a link".to_owned());
            }
            if found.mode() & 0o7000 != 0 {
                return refuse("it holds a file with a set-id or sticky bit".to_owned());
            }
            // The inode, and what is lost at the end of a block.
            total += 256;
            if entries > ENTRIES_MAX || bytes > BYTES_MAX {
                return refuse("it has more than 200,000 entries or 4 GiB".to_owned());
            }
        }
        total += names;
    }
    Ok(total.next_multiple_of(BLOCK))
}

/// What the program says of itself.
pub fn version(program: &Path) -> io::Result<String> {
    let said = Command::new(program).arg("--version").env_clear().output()?;
    let line = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_owned();
    Ok(line.chars().filter(|c| !c.is_control()).take(100).collect())
}
