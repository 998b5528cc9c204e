//! The PIN: read from its file when it is needed, and never tried again once a token refused it.
//!
//! A service that is started again and again must not lock a token. So what was refused is remembered on the disk: not
//! the PIN, but which state of its file that was.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{error::TokenError, uri::TokenUri};
use crate::durable;

/// Longest PIN.
const PIN_BYTES_MAX: u64 = 256;
/// Largest word about a PIN that was refused.
const MARK_BYTES_MAX: u64 = 256;

/// A PIN and the state of the file that it is from.
pub(super) struct Pin {
    pub(super) secret: AuthPin,
    state: String,
    mark: PathBuf,
}

/// Reads the PIN; `None` when it is the one that was refused.
pub(super) fn read(uri: &TokenUri, marks: &Path) -> Result<Option<Pin>, TokenError> {
    let wrong = |why: String| TokenError::PinFile { path: uri.pin_file.clone(), why };
    let io = |error: io::Error| wrong(error.to_string());
    let file = File::open(&uri.pin_file).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(wrong("it is not a file".to_owned()));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong("others may read it: chmod 600".to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong("it belongs to somebody else: chown it to the user of the plane".to_owned()));
    }
    let mark = marks.join(format!("{}.pin-refused", super::short_digest(&uri.to_string())));
    let state = format!("{} {} {} {} {}\n", found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len());
    if durable::read(&mark, MARK_BYTES_MAX).map_err(io)?.as_deref() == Some(state.as_bytes()) {
        return Ok(None);
    }
    let mut text = Zeroizing::new(String::with_capacity(PIN_BYTES_MAX as usize + 2));
    file.take(PIN_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    let pin = text.strip_suffix('\n').unwrap_or(&text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    if pin.is_empty() || pin.len() as u64 > PIN_BYTES_MAX || pin.contains(['\n', '\0']) {
        return Err(wrong("it does not hold one line with a PIN".to_owned()));
    }
    Ok(Some(Pin { secret: AuthPin::new(Box::from(pin)), state, mark }))
}

impl Pin {
    /// The token said no: no start tries this again.
    pub(super) fn refused(&self) {
        if let Err(error) = durable::replace(&self.mark, self.state.as_bytes()) {
            tracing::error!(%error, "it cannot be kept that the PIN of a token was refused");
        }
    }

    pub(super) fn taken(&self) {
        match fs::remove_file(&self.mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "an old mark of a refused PIN stays");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn uri(pin: &Path) -> TokenUri {
        format!("pkcs11:token=x?module-path=/m.so&pin-source=file:{}", pin.display()).parse().unwrap()
    }

    fn why(uri: &TokenUri, marks: &Path) -> String {
        read(uri, marks).err().unwrap().to_string()
    }

    #[test]
    fn a_refused_pin_is_refused_until_its_file_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        durable::replace(&path, b"4711\n").unwrap();
        let uri = uri(&path);
        let pin = read(&uri, dir.path()).unwrap().unwrap();
        assert!(!format!("{:?}", pin.secret).contains("4711"), "it is not printed");
        pin.refused();
        assert!(read(&uri, dir.path()).unwrap().is_none());
        durable::replace(&path, b"4712\n").unwrap();
        let pin = read(&uri, dir.path()).unwrap().unwrap();
        pin.refused();
        assert!(read(&uri, dir.path()).unwrap().is_none());
        durable::replace(&path, b"4713").unwrap();
        read(&uri, dir.path()).unwrap().unwrap().taken();
        assert!(read(&uri, dir.path()).unwrap().is_some());
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.ends_with("pin") || !fs::read_to_string(&path).unwrap().contains("4713"));
        }
    }

    #[test]
    fn a_file_that_others_read_or_that_holds_no_pin_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        assert!(why(&uri(&path), dir.path()).contains("cannot be used"));
        for (bytes, mode, wanted) in [
            (&b"1234"[..], 0o640, "chmod 600"),
            (b"1234", 0o604, "chmod 600"),
            (b"", 0o600, "one line"),
            (b"\n", 0o600, "one line"),
            (b"12\n34\n", 0o600, "one line"),
            (&[b'1'; 300], 0o600, "one line"),
            (&[0xff; 4], 0o600, "UTF-8"),
        ] {
            durable::replace(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(why(&uri(&path), dir.path()).contains(wanted), "{wanted}");
        }
        assert!(why(&uri(dir.path()), dir.path()).contains("not a file"));
    }
}
