//! The files of a version's skills, as they were registered.

use std::path::{Path, PathBuf};

use cogward_model::{
    Digest,
    manifest::{Manifest, skill_name},
};

use super::{
    check::code_root,
    verify::{VerifyError, contents_at},
};

/// One file of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillFile {
    /// The name of the skill.
    pub skill: String,
    /// Where it is within the skill.
    pub path: String,
    /// Where the plane has it.
    pub place: PathBuf,
    /// Its length, in bytes.
    pub size: u64,
    /// SHA-256 of it, which the package's digest covers.
    pub digest: Digest,
}

/// The files of all skills of a stored package, which is read whole and compared with its digest. Links are not among them.
///
/// # Errors
/// [`VerifyError`] when it is missing, changed or unreadable.
pub fn skill_files(packages: &Path, package: Digest, manifest: &Manifest) -> Result<Vec<SkillFile>, VerifyError> {
    let root = packages.join(package.hex());
    let contents = contents_at(&root, package)?;
    let mut files = Vec::new();
    for skill in &manifest.spec.package.skills {
        let folder = format!("{}/{}/", code_root(manifest), skill.trim_end_matches('/'));
        for (path, size, digest) in contents.files_below(&folder) {
            let place = root.join(format!("{folder}{path}"));
            files.push(SkillFile { skill: skill_name(skill).to_owned(), path: path.to_owned(), place, size, digest });
        }
    }
    Ok(files)
}
