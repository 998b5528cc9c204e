//! Whether a stored package is still what its digest says. Done before every run.

use std::{
    io::{self, Read},
    path::Path,
};

use cogward_model::Digest;

use super::{
    contents::{ContentError, Contents, Limits, Summary, shown},
    pack::hash_all,
    walk::{Visit, WalkError, walk},
};

/// Why a stored package cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is not there.
    #[error("the package {0} is not stored here")]
    Missing(Digest),
    /// Its files are others.
    #[error("the stored package {wanted} was changed: its files have the digest {found}")]
    Changed {
        /// The digest under which it is stored.
        wanted: Digest,
        /// The digest that its files have.
        found: Digest,
    },
    /// It holds what no package holds, or cannot be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// Reads all of a stored package and compares its digest.
///
/// # Errors
/// [`VerifyError`] when it is missing, changed or unreadable.
pub fn verify(packages: &Path, digest: Digest) -> Result<Summary, VerifyError> {
    verify_at(&packages.join(digest.hex()), digest)
}

/// The same of a package that is at another place, such as a mount of its image.
///
/// # Errors
/// As [`verify`].
pub fn verify_at(place: &Path, digest: Digest) -> Result<Summary, VerifyError> {
    contents_at(place, digest).map(|contents| contents.summary())
}

/// All that a package has, where it is what its digest says.
pub(super) fn contents_at(place: &Path, digest: Digest) -> Result<Contents, VerifyError> {
    let listing = match std::fs::read_dir(place) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(VerifyError::Missing(digest)),
        Err(e) => return Err(WalkError::io(&place.display().to_string(), e).into()),
    };
    let mut check = Check { contents: Contents::new(Limits::default()) };
    for entry in listing {
        let entry = entry.map_err(|e| WalkError::io(&place.display().to_string(), e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(|e| WalkError::io(&name, e))?;
        match name.as_str() {
            "package.json" => {}
            "code" | "layers" | "root" if kind.is_dir() => walk(&entry.path(), &name, &mut check)?,
            _ => {
                let why = "it does not belong here";
                return Err(WalkError::from(ContentError::Path { path: shown(&name), why }).into());
            }
        }
    }
    let found = check.contents.summary();
    if found.digest != digest {
        return Err(VerifyError::Changed { wanted: digest, found: found.digest });
    }
    Ok(check.contents)
}

struct Check {
    contents: Contents,
}

impl Visit for Check {
    type Error = WalkError;

    fn directory(&mut self, path: &str) -> Result<(), WalkError> {
        Ok(self.contents.add_directory(path)?)
    }

    fn file(&mut self, path: &str, executable: bool, _: u64, data: &mut dyn Read) -> Result<(), WalkError> {
        let (digest, size) = hash_all(data, io::sink()).map_err(|e| WalkError::io(path, e))?;
        Ok(self.contents.add_file(path, executable, size, digest)?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), WalkError> {
        Ok(self.contents.add_link(path, target)?)
    }
}
