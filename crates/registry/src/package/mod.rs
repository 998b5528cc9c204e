//! The package of a version: its files, under one digest.
//!
//! The author's side [`pack`]s the directories or the image that a manifest names into a tar stream;
//! the plane's side [`receive`]s it as hostile input into a staging directory, and [`Staged::keep`]s
//! it under its digest. Both sides put every entry through the same [`Contents`], which refuses what
//! could leave the package, and computes the digest; so the author can see the digest before sending,
//! and the plane can compute it again before every run ([`verify`]).
//!
//! What is in a package: `code/` from `package.directory`, or `root/` from `package.ociLayout`, and
//! `layers/N/`. A symbolic link is kept as text and is never followed outside the sandbox.

mod check;
mod contents;
mod image;
pub(crate) mod names;
mod oci;
pub(crate) mod pack;
pub(crate) mod receive;
mod skill;
mod verify;
pub(crate) mod walk;

pub use check::{check, skills};
pub use contents::{ContentError, Contents, Limits, Summary};
pub use oci::OciError;
pub use pack::{PackError, Packed, pack};
pub use receive::{KeepError, ReceiveError, Staged, receive, sweep};
pub use skill::{SkillFile, skill_files};
pub use verify::{VerifyError, verify, verify_at};
pub use walk::WalkError;

use cogward_model::Digest;

use crate::manifest::sha256;

/// The identity of a version: the digest over its manifest and its package.
#[must_use]
pub fn version_digest(manifest_json: &str, package: Digest) -> Digest {
    // Both parts have one text, and the first cannot hold a line break outside a string.
    let manifest = sha256(manifest_json.as_bytes());
    sha256(format!("{{\"manifest\":\"{manifest}\",\"package\":\"{package}\"}}").as_bytes())
}
