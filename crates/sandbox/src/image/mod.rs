//! The image of a package: an erofs file system in one file, made once, that sandboxes mount in the place of the
//! package's directory on the host.
//!
//! A sandbox with an image sees nothing of the host's directory: not its path, not its inodes, not the pages of its
//! files. Each run has a mount of its own, and with it pages of its own. What is in an image was read back through a
//! mount and has the digest of the package ([`Images::prepare`]); that it is still that image, byte for byte, the
//! supervisor makes sure of before each mount ([`open`]). The file system code of the kernel reads only what the plane
//! has made: images of others are never mounted.

mod cache;
mod limited;
mod maker;
mod mount;
mod probe;

use std::{
    io,
    path::{Path, PathBuf},
};

use cogward_model::Digest;
use serde::{Deserialize, Serialize};

pub use cache::{Images, Verify};
pub(crate) use mount::{Attached, Backing, Mounted, open, top_level};
pub(crate) use probe::probe;

/// The file system of an image.
pub(crate) const KIND: &str = "erofs";

/// An image that a run mounts in the place of a package's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageImage {
    /// Its file.
    pub file: PathBuf,
    /// The SHA-256 of its bytes: another file is refused.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// The directory that it was made of. What a launch names below it comes out of the image.
    pub of: PathBuf,
}

impl PackageImage {
    /// Where in the image a path of the host is; `None` when it is not of the package.
    pub(crate) fn inside<'p>(&self, source: &'p Path) -> Option<&'p Path> {
        source.strip_prefix(&self.of).ok()
    }
}

/// Why a package has no image that could be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no program that makes one.
    #[error("mkfs.erofs is not installed (package erofs-utils)")]
    NoMaker,
    /// The directory is not one that becomes an image.
    #[error("the package cannot become an image: {0}")]
    Source(String),
    /// The program failed; nothing of it is kept.
    #[error("the image of the package could not be made: {0}")]
    Failed(String),
    /// A file that is needed could not be made or read.
    #[error("the image of the package: {what}: {why}")]
    Io {
        /// The step.
        what: &'static str,
        /// Why. Not a source: it is in the text.
        why: io::Error,
    },
    /// The file is not the one that was made.
    #[error(
        "the image of the package is not the one that was made: {0}; remove its directory {1}, and it is made again"
    )]
    Changed(&'static str, PathBuf),
    /// What is in it is not the package.
    #[error("the image of the package does not hold the package: {0}")]
    Content(String),
}

fn step(what: &'static str) -> impl Fn(io::Error) -> ImageError {
    move |why| ImageError::Io { what, why }
}
