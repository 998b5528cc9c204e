//! The author's side: files to a tar stream, the same bytes for the same files wherever they are.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use aws_lc_rs::digest::{Context, SHA256};
use cogward_model::{Digest, manifest::Manifest};
use tar::{Builder, EntryType, Header};

use super::{
    contents::{ContentError, Contents, Limits, Summary, finish, shown},
    oci::{self, OciError},
    walk::{Visit, WalkError, walk},
};

/// What was packed.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its size and digest.
    pub summary: Summary,
    /// Its entries, for [`super::check`].
    pub contents: Contents,
}

/// Why a package cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A directory cannot be read, or holds what a package cannot.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The image cannot be read.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The name of the manifest is not a plain file name.
    #[error("the manifest must be a file whose name ends with `.yaml` or `.yml`")]
    ManifestName,
    /// The receiver is gone, or its disk is full.
    #[error("the package cannot be written")]
    Write(#[source] io::Error),
}

impl From<ContentError> for PackError {
    fn from(error: ContentError) -> Self {
        Self::Walk(WalkError::Content(error))
    }
}

/// Whether a manifest can be the first entry of a package under this name.
pub(crate) fn is_manifest_name(name: &str) -> bool {
    name.len() <= 100
        && (name.ends_with(".yaml") || name.ends_with(".yml"))
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'\\')
}

/// Writes the package of a manifest as a tar stream: first the manifest itself, then its files.
/// Write to [`io::sink`] to know the digest without sending.
///
/// `base` is the directory of the manifest, to which its paths are relative.
///
/// # Errors
/// [`PackError`] when something cannot be read, cannot be in a package, or cannot be written.
pub fn pack(
    base: &Path,
    (name, text): (&str, &[u8]),
    manifest: &Manifest,
    limits: Limits,
    out: impl Write,
) -> Result<Packed, PackError> {
    if !is_manifest_name(name) {
        return Err(PackError::ManifestName);
    }
    let mut emit = Emit { tar: Builder::new(out), contents: Contents::new(limits) };
    emit.append(name, EntryType::Regular, 0o644, text.len() as u64, None, text)?;
    let package = &manifest.spec.package;
    if let Some(directory) = &package.directory {
        walk(&base.join(directory), "code", &mut emit)?;
    }
    if !package.layers.is_empty() {
        emit.directory("layers")?;
    }
    for (number, layer) in package.layers.iter().enumerate() {
        walk(&base.join(&layer.directory), &format!("layers/{number}"), &mut emit)?;
    }
    if let Some(layout) = &package.oci_layout {
        oci::emit(&base.join(layout), limits, &mut emit)?;
    }
    let mut out = emit.tar.into_inner().map_err(PackError::Write)?;
    out.flush().map_err(PackError::Write)?;
    Ok(Packed { summary: emit.contents.summary(), contents: emit.contents })
}

struct Emit<W: Write> {
    tar: Builder<W>,
    contents: Contents,
}

impl<W: Write> Emit<W> {
    fn append(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
        target: Option<&str>,
        data: impl Read,
    ) -> Result<(), PackError> {
        append(&mut self.tar, path, (kind, mode, size), target, data).map_err(PackError::Write)
    }
}

/// Adds an entry of which nothing depends on who packs it, when or where.
pub(crate) fn append<W: Write>(
    tar: &mut Builder<W>,
    path: &str,
    (kind, mode, size): (EntryType, u32, u64),
    target: Option<&str>,
    data: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    // What the old header cannot hold goes into an extension before it.
    let mut long: Vec<(&str, &[u8])> = Vec::new();
    if header.set_path(path).is_err() {
        long.push(("path", path.as_bytes()));
        header.set_path("long")?;
    }
    if let Some(target) = target
        && header.set_link_name_literal(target).is_err()
    {
        long.push(("linkpath", target.as_bytes()));
        header.set_link_name_literal("long")?;
    }
    if !long.is_empty() {
        tar.append_pax_extensions(long)?;
    }
    header.set_cksum();
    tar.append(&header, data)
}

impl<W: Write> Visit for Emit<W> {
    type Error = PackError;

    fn directory(&mut self, path: &str) -> Result<(), PackError> {
        self.contents.add_directory(path)?;
        self.append(path, EntryType::Directory, 0o755, 0, None, io::empty())
    }

    fn file(&mut self, path: &str, executable: bool, size: u64, data: &mut dyn Read) -> Result<(), PackError> {
        self.contents.place_for(path)?;
        self.contents.room_for(size)?;
        let mut reader = Hashing::new(data.take(size));
        let mode = if executable { 0o755 } else { 0o644 };
        let written = self.append(path, EntryType::Regular, mode, size, None, &mut reader);
        if let Some(source) = reader.failed {
            return Err(WalkError::Io { path: shown(path), source }.into());
        }
        written?;
        if reader.read != size {
            return Err(WalkError::Changed { path: shown(path) }.into());
        }
        Ok(self.contents.add_file(path, executable, size, reader.digest())?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), PackError> {
        self.contents.add_link(path, target)?;
        self.append(path, EntryType::Symlink, 0o777, 0, Some(target), io::empty())
    }
}

/// Hashes what is read through it, and keeps its error apart from those of the writer.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Context,
    pub(crate) read: u64,
    pub(crate) failed: Option<io::Error>,
}

impl<R> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Context::new(&SHA256), read: 0, failed: None }
    }

    pub(crate) fn digest(self) -> Digest {
        finish(self.hash)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.hash.update(buffer.get(..count).unwrap_or_default());
                self.read += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(kind.into())
            }
        }
    }
}

/// The digest and the size of what a reader holds.
pub(crate) fn hash_all(mut reader: impl Read, mut sink: impl Write) -> io::Result<(Digest, u64)> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0_u8; 128 * 1024];
    let mut total = 0_u64;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok((finish(hash), total)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = buffer.get(..count).unwrap_or_default();
        hash.update(read);
        sink.write_all(read)?;
        total += count as u64;
    }
}
