//! The key-encryption key of a plane: 32 random bytes in `keys/kek`, mode 0600, made at first start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cogward_model::Entropy;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KekError {
    /// The key is gone while there is something that only it can open.
    #[error(
        "{} is missing, and the state database holds secrets sealed under it: restore the file from its backup",
        path.display()
    )]
    Missing {
        /// Where it belongs.
        path: PathBuf,
    },
    /// Others can read or change it.
    #[error("{} must be {wanted}: {fix}", path.display())]
    Loose {
        /// The file or directory.
        path: PathBuf,
        /// What is asked of it.
        wanted: &'static str,
        /// The command that mends it.
        fix: String,
    },
    /// It is not 32 bytes.
    #[error("{} is damaged: it must be {KEY_BYTES} bytes; restore it from its backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or made.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store cannot say whether anything is sealed.
    #[error(transparent)]
    Store(#[from] cogward_store::StoreError),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KekError + '_ {
    move |source| KekError::File { path: path.to_owned(), source }
}

/// Reads the key; makes it when there is none and nothing is `sealed` yet.
pub(crate) fn load(keys: &Path, sealed: bool, entropy: &dyn Entropy) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
    match fs::symlink_metadata(keys) {
        Ok(found) if !found.is_dir() || found.mode() & 0o077 != 0 => {
            return Err(KekError::Loose {
                path: keys.to_owned(),
                wanted: "a directory of mode 0700",
                fix: format!("chmod 700 {}", keys.display()),
            });
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().mode(0o700).create(keys).map_err(failed(keys))?;
        }
        Err(e) => return Err(failed(keys)(e)),
    }
    let path = keys.join("kek");
    match fs::symlink_metadata(&path) {
        Ok(found) => {
            if !found.is_file() || found.mode() & 0o077 != 0 || found.uid() != own_uid()? {
                return Err(KekError::Loose {
                    path: path.clone(),
                    wanted: "a file of mode 0600 that belongs to the plane's user",
                    fix: format!("chmod 600 {}", path.display()),
                });
            }
            read(&path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && sealed => Err(KekError::Missing { path }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(keys, &path, entropy),
        Err(e) => Err(failed(&path)(e)),
    }
}

fn own_uid() -> Result<u32, KekError> {
    let own = Path::new("/proc/self");
    Ok(fs::metadata(own).map_err(failed(own))?.uid())
}

fn read(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
    let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
    let mut file = File::open(path).map_err(failed(path))?;
    let length = file.metadata().map_err(failed(path))?.len();
    if length != KEY_BYTES as u64 {
        return Err(KekError::Damaged { path: path.to_owned() });
    }
    file.read_exact(key.as_mut()).map_err(failed(path))?;
    Ok(key)
}

/// Written beside its place and renamed, so that a crash leaves a whole key or none.
fn make(keys: &Path, path: &Path, entropy: &dyn Entropy) -> Result<Zeroizing<[u8; KEY_BYTES]>, KekError> {
    let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
    entropy.fill(key.as_mut());
    let fresh = keys.join("kek.new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&fresh)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed(&fresh))?;
    file.write_all(key.as_ref()).and_then(|()| file.sync_all()).map_err(failed(&fresh))?;
    fs::rename(&fresh, path).map_err(failed(path))?;
    File::open(keys).and_then(|d| d.sync_all()).map_err(failed(keys))?;
    Ok(key)
}
