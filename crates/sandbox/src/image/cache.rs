//! The images of the plane's packages: each made once, found again by the package's digest.
//!
//! `<images>/<digest of the package>/` holds `image.erofs` and `image.json`, which says what its bytes are. Both are
//! made in a directory of another name, flushed, and get their name together: what a crash leaves is never used, and
//! the next start removes it.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cogward_model::{Digest, Entropy, SystemEntropy};
use serde::{Deserialize, Serialize};

use super::{ImageError, PackageImage, maker, mount, step};

const IMAGE: &str = "image.erofs";
const DESCRIPTION: &str = "image.json";
/// What is kept beside an image, at most.
const DESCRIPTION_BYTES_MAX: u64 = 4096;
const BUILDING: &str = ".building-";
/// All images together; what was not used for the longest time goes first.
const ALL_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// One that was used within this time may be about to be mounted.
const IN_USE: Duration = Duration::from_secs(600);

/// Whether the files below a path are the package; what is wrong otherwise.
pub type Verify<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// What is kept beside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// The package.
    package: Digest,
    /// The SHA-256 of the image.
    image: Digest,
    /// Its length.
    bytes: u64,
    /// The program that made it.
    maker: String,
}

/// What this plane has seen of a package's image.
type Slot = Arc<Mutex<Option<Description>>>;

/// The images below one directory. One plane at a time has it.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
    seen: Mutex<HashMap<Digest, Slot>>,
}

impl Images {
    /// Those below a directory, which must exist with mode 0700.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, seen: Mutex::default() }
    }

    /// The image of a package whose files are in `of`: made, when there is none; as the plane has made it, otherwise.
    ///
    /// The first time in the life of this plane the content of the image is verified through a mount, so what counts is
    /// what the kernel will show, and neither the program that made it nor what is written beside it has to be
    /// believed. Later only the bytes count, which the supervisor compares before it mounts them. Callers of one package wait for each
    /// other; blocks as long as an image takes.
    ///
    /// # Errors
    /// [`ImageError`]; nothing half made is left then.
    pub fn prepare(&self, package: Digest, of: &Path, verify: Verify<'_>) -> Result<PackageImage, ImageError> {
        let slot = Arc::clone(self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(package).or_default());
        let mut seen = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.directory.join(package.hex());
        let file = place.join(IMAGE);
        let there = file.symlink_metadata().is_ok() && place.join(DESCRIPTION).symlink_metadata().is_ok();
        let description = match seen.take() {
            // Not hashed here: the supervisor does, right before it mounts it.
            Some(known) if there => known,
            Some(_) | None if !there => self.build(package, of, &place, verify)?,
            _ => self.known(package, &place, verify)?,
        };
        // So that what is used stays.
        touch(&place.join(DESCRIPTION));
        *seen = Some(description.clone());
        Ok(PackageImage { file, digest: description.image, bytes: description.bytes, of: of.to_owned() })
    }

    /// An image that an earlier plane has made.
    fn known(&self, package: Digest, place: &Path, verify: Verify<'_>) -> Result<Description, ImageError> {
        let changed = |what| ImageError::Changed(what, place.to_owned());
        let text = read_small(&place.join(DESCRIPTION)).map_err(step("what is kept beside it"))?;
        let described: Description =
            serde_json::from_slice(&text).map_err(|_| changed("its description cannot be read"))?;
        if described.package != package {
            return Err(changed("its description is of another package"));
        }
        let mut file = open(&place.join(IMAGE)).map_err(step("its file"))?;
        if mount::digest(&mut file).map_err(step("its file"))? != (described.image, described.bytes) {
            return Err(changed("its bytes are others"));
        }
        holds(&file, verify)?;
        Ok(described)
    }

    fn build(&self, package: Digest, of: &Path, place: &Path, verify: Verify<'_>) -> Result<Description, ImageError> {
        let program = maker::program()?;
        let mut random = [0_u8; 8];
        SystemEntropy.fill(&mut random);
        let building = Building(self.directory.join(format!("{BUILDING}{:016x}", u64::from_le_bytes(random))));
        fs::DirBuilder::new().mode(0o700).create(&building.0).map_err(step("its directory"))?;
        let image = building.0.join(IMAGE);
        maker::make(program, of, &image)?;
        let mut file = open(&image).map_err(step("its file"))?;
        holds(&file, verify)?;
        let (digest, bytes) = mount::digest(&mut file).map_err(step("its file"))?;
        let maker = maker::version(program).unwrap_or_default();
        let description = Description { package, image: digest, bytes, maker };
        let text = serde_json::to_vec_pretty(&description).map_err(|e| step("what is kept beside it")(e.into()))?;
        write_new(&building.0.join(DESCRIPTION), &text).map_err(step("what is kept beside it"))?;
        flush(&building.0).map_err(step("its flush"))?;
        self.make_room(bytes).map_err(step("room for it"))?;
        // What is there is half of one, or was taken apart by hand.
        remove(place).map_err(step("what is left of an earlier one"))?;
        fs::rename(&building.0, place).map_err(step("its name"))?;
        flush(&self.directory).map_err(step("its flush"))?;
        Ok(description)
    }

    /// Removes what was not used for the longest time, until so many bytes more are within the bound.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let place = entry?.path();
            let (Ok(image), Ok(described)) = (place.join(IMAGE).metadata(), place.join(DESCRIPTION).metadata()) else {
                continue;
            };
            let unused = described.modified()?.elapsed().unwrap_or_default();
            all.push((unused, image.len(), place));
        }
        let mut total = bytes + all.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        all.sort_unstable_by(|a, b| b.cmp(a));
        for (unused, bytes, place) in all {
            if total <= ALL_BYTES_MAX || unused < IN_USE {
                break;
            }
            // A mount of it lives on without its name.
            remove(&place)?;
            total -= bytes;
        }
        Ok(())
    }

    /// Removes what a crash left half made, and the images of packages that are not there any more. Only at start.
    ///
    /// # Errors
    /// When the directory cannot be read or something in it cannot be removed.
    pub fn sweep(&self, packages: &Path) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(BUILDING) || !packages.join(&name).is_dir() {
                remove(&entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// A directory that goes unless it got its name.
struct Building(PathBuf);

impl Drop for Building {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(%error, "half an image is left behind; the next start removes it");
        }
    }
}

/// Whether what the kernel shows of an image is the package.
fn holds(image: &fs::File, verify: Verify<'_>) -> Result<(), ImageError> {
    let mounted = mount::mount(image.as_fd()).map_err(step("its mount"))?;
    verify(&mounted.path()).map_err(ImageError::Content)
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(open(path)?, DESCRIPTION_BYTES_MAX), &mut text)?;
    Ok(text)
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    io::Write::write_all(&mut file, text)?;
    file.sync_all()
}

fn flush(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

/// Whatever it is; a link goes, and not what it leads to.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Says that it was used. Nothing but the order in which images go depends on it.
fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
}

#[cfg(test)]
mod tests;
