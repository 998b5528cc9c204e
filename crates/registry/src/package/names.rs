//! Names that the old tar header cannot hold, from the extension entry before it.

use std::io::{self, Read};

use tar::{Entry, EntryType};

/// Which extensions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Only what [`super::pack`] writes; everything else is refused.
    Ours,
    /// What image builders write: more keys, which are skipped unless they would change how the
    /// entry is read, and the older form of long names.
    Images,
}

/// Why an extension is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error("an extension in it {0}")]
    Malformed(&'static str),
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// The names that count instead of those in the next header.
#[derive(Debug, Default)]
pub(crate) struct LongNames {
    pub(crate) path: Option<String>,
    pub(crate) target: Option<String>,
}

impl Dialect {
    /// An extension holds one or two paths; images add attributes.
    fn bytes_max(self) -> u64 {
        match self {
            Self::Ours => 8 * 1024,
            Self::Images => 1024 * 1024,
        }
    }
}

impl LongNames {
    /// Reads the entry if it is an extension; says whether it was one.
    pub(crate) fn absorb<R: Read>(&mut self, entry: &mut Entry<'_, R>, dialect: Dialect) -> Result<bool, NameError> {
        let kind = entry.header().entry_type();
        let images = dialect == Dialect::Images;
        match kind {
            EntryType::XHeader => {}
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XGlobalHeader if images => {}
            _ => return Ok(false),
        }
        if entry.header().entry_size()? > dialect.bytes_max() {
            return Err(NameError::Malformed("is too long"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        match kind {
            EntryType::XHeader => self.records(&bytes, dialect)?,
            EntryType::GNULongName => self.path = Some(text(bytes.strip_suffix(b"\0").unwrap_or(&bytes))?),
            EntryType::GNULongLink => self.target = Some(text(bytes.strip_suffix(b"\0").unwrap_or(&bytes))?),
            _ => {}
        }
        Ok(true)
    }

    /// Each record: its length in decimal, a space, `key=value`, a line break.
    fn records(&mut self, mut rest: &[u8], dialect: Dialect) -> Result<(), NameError> {
        let malformed = || NameError::Malformed("is malformed");
        while !rest.is_empty() {
            let space = rest.iter().take(8).position(|b| *b == b' ').ok_or_else(malformed)?;
            let length = rest.get(..space).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
            let length: usize = length.ok_or_else(malformed)?;
            let (record, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
            let record = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(malformed)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
            let (key, value) = record.split_at_checked(equals).ok_or_else(malformed)?;
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"path" => self.path = Some(text(value)?),
                b"linkpath" => self.target = Some(text(value)?),
                // Their entries have another size than their header says.
                b"size" => return Err(NameError::Malformed("changes a size")),
                _ if key.starts_with(b"GNU.sparse.") => return Err(NameError::Malformed("is of a sparse file")),
                _ if dialect == Dialect::Ours => return Err(NameError::Malformed("is not one for a long name")),
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }
}

/// A name as text.
pub(crate) fn text(bytes: &[u8]) -> Result<String, NameError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| NameError::Malformed("or a name is not UTF-8"))
}
