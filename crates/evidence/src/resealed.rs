//! Values that were sealed again: those that shared a key with one that was erased.
//!
//! One field of one leaf is erased by destroying the key of its person, run and day; what else that key sealed
//! is opened before, sealed under a new key and kept in `vault/<tenant>/<thirty days>.resealed`, one entry behind
//! the other: `{length u32, length of the event's id u8, the id, as behind the tenant in the log}`. The file is
//! flushed before the old key is destroyed. A later entry for the same value takes the place of an earlier one.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cogward_wal::FRAME_BYTES_MAX;

use crate::{data_keys::append, durable, frames::split_text, keys::KeyringError, vault::Sealed};

/// Files whose entries are found without reading them.
const FILES_MAX: usize = 8;

/// The values of a tenant that were sealed again.
pub(crate) struct Resealed {
    dir: PathBuf,
    files: Mutex<HashMap<u32, Index>>,
}

/// Where the entry of an event's field lies.
type Index = HashMap<(String, String), (u64, usize)>;

impl Resealed {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, files: Mutex::default() }
    }

    fn path(&self, block: u32) -> PathBuf {
        self.dir.join(format!("{block}.resealed"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Index>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index<'a>(&self, files: &'a mut HashMap<u32, Index>, block: u32) -> io::Result<&'a mut Index> {
        if !files.contains_key(&block) {
            let index = self.load(block)?;
            if files.len() >= FILES_MAX {
                files.clear();
            }
            files.insert(block, index);
        }
        files.get_mut(&block).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads where the entries are, and cuts what a crash left behind the last whole one.
    fn load(&self, block: u32) -> io::Result<Index> {
        let path = self.path(block);
        let Some(bytes) = durable::read(&path, u64::MAX)? else { return Ok(Index::new()) };
        let (mut index, mut rest, mut at) = (Index::new(), &bytes[..], 0);
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let Some((entry, behind)) = behind.split_at_checked(length).filter(|_| length > 0) else { break };
            if let Some((event, sealed)) = split_text(entry)
                && let Some(sealed) = Sealed::parse(sealed)
            {
                index.insert((event.to_owned(), sealed.field), (at + 4, length));
            }
            (rest, at) = (behind, at + 4 + length as u64);
        }
        if !rest.is_empty() {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(at).and_then(|()| file.sync_all())?;
        }
        Ok(index)
    }

    /// The value as it is sealed now, if it was sealed again.
    pub(crate) fn find(&self, block: u32, event: &str, field: &str) -> Result<Option<Sealed>, KeyringError> {
        let path = self.path(block);
        let failed = |source| KeyringError::Io { path: path.clone(), source };
        let mut files = self.lock();
        let index = self.index(&mut files, block).map_err(failed)?;
        let Some((at, length)) = index.get(&(event.to_owned(), field.to_owned())).copied() else { return Ok(None) };
        let mut entry = vec![0; length];
        File::open(&path).and_then(|file| file.read_exact_at(&mut entry, at)).map_err(failed)?;
        Ok(split_text(&entry).and_then(|(_, sealed)| Sealed::parse(sealed)))
    }

    /// Adds values, durably. Each is the event's id and what would stand behind the tenant in the log.
    pub(crate) fn add(&self, block: u32, values: &[(String, Vec<u8>)]) -> Result<(), KeyringError> {
        if values.is_empty() {
            return Ok(());
        }
        let path = self.path(block);
        let failed = |source| KeyringError::Io { path: path.clone(), source };
        let mut files = self.lock();
        // A tail that a crash left must not stand before them.
        self.index(&mut files, block).map_err(failed)?;
        let mut bytes = Vec::new();
        for (event, sealed) in values {
            let length = 1 + event.len() + sealed.len();
            let (Ok(id), Ok(whole)) = (u8::try_from(event.len()), u32::try_from(length)) else {
                return Err(failed(io::ErrorKind::InvalidInput.into()));
            };
            if length > FRAME_BYTES_MAX {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            bytes.extend_from_slice(&whole.to_le_bytes());
            bytes.push(id);
            bytes.extend_from_slice(event.as_bytes());
            bytes.extend_from_slice(sealed);
        }
        // Before: what an append that failed left behind is found and cut by whoever comes next.
        files.remove(&block);
        append(&self.dir, &path, None, &bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use cogward_ledger::commitment::Disclosure;
    use cogward_model::{SystemEntropy, event::Value};

    use super::*;
    use crate::vault::{self, DataKey};

    fn sealed(key: &DataKey, event: &str, field: &str, value: &str) -> (String, Vec<u8>) {
        let disclosure = Disclosure::new(&[0; 16], field, &Value::from(value)).unwrap();
        let frame = vault::seal(key, &SystemEntropy, "acme", event, field, &disclosure).unwrap();
        (event.to_owned(), split_text(&frame).unwrap().1.to_vec())
    }

    #[test]
    fn the_last_entry_of_a_value_counts_and_a_torn_one_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (DataKey::new([1; 16], &[5; 32]).unwrap(), DataKey::new([2; 16], &[6; 32]).unwrap());
        let again = || Resealed::new(dir.path().join("acme"));
        again().add(7, &[sealed(&one, "evt_1", "args", "a"), sealed(&one, "evt_2", "args", "b")]).unwrap();
        let path = dir.path().join("acme/7.resealed");
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let resealed = again();
            resealed.add(7, &[sealed(&two, "evt_2", "args", "b")]).unwrap();
            let found = again().find(7, "evt_2", "args").unwrap().unwrap();
            assert_eq!(found.key_id, [2; 16], "cut at {cut}");
            assert!(found.open(&two, "acme", "evt_2").is_some());
        }
        // A disk that was full left a part, and the same plane goes on.
        std::fs::write(&path, &whole).unwrap();
        let resealed = again();
        assert!(resealed.find(7, "evt_1", "args").unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        assert!(resealed.add(7, &[sealed(&two, "evt_1", "args", "a")]).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..30]].concat()).unwrap();
        resealed.add(7, &[sealed(&two, "evt_4", "args", "d")]).unwrap();
        for event in ["evt_1", "evt_2", "evt_4"] {
            assert!(again().find(7, event, "args").unwrap().is_some(), "{event}");
        }
        assert!(again().find(7, "evt_3", "args").unwrap().is_none());
        assert!(again().find(8, "evt_2", "args").unwrap().is_none());
    }
}
