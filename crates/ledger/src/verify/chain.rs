//! The keys of a log that were replaced: from the one that the reader knows to the present one.

use std::{io, path::Path};

use super::{Finding, What, log_finding, read_text};
use crate::{
    key_chain::{Entry, KEYS_FILE, KEYS_FILE_BYTES_MAX, KeyChain, STATEMENTS_MAX, statement_in},
    note::VerifyingKey,
};

/// The keys of a log as its pack tells them.
#[derive(Debug, Clone)]
pub struct Keys {
    /// In their order.
    pub chain: KeyChain,
    entries: Vec<Entry>,
}

/// Reads the statements of a pack, if it has any. They have to lead to `own`, the key that lies beside them.
///
/// # Errors
/// They are not a chain, or lead to another key.
pub fn keys_in(dir: &Path, own: &VerifyingKey) -> Result<Keys, Finding> {
    read(dir, own, true)
}

/// The same for a log whose statements are leaves of another one: the plane log's are in that of the tenant `default`.
pub(super) fn keys_of_plane(dir: &Path, own: &VerifyingKey) -> Result<Keys, Finding> {
    read(dir, own, false)
}

fn read(dir: &Path, own: &VerifyingKey, in_own_log: bool) -> Result<Keys, Finding> {
    if dir.join(KEYS_FILE).symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(Keys { chain: KeyChain::new(own.clone()), entries: Vec::new() });
    }
    let bad = |detail: String| log_finding(What::Key, format!("{KEYS_FILE}: {detail}"));
    let text = read_text(dir, KEYS_FILE, KEYS_FILE_BYTES_MAX, What::Key)?;
    let lines = text.strip_suffix('\n').ok_or_else(|| bad("no whole line".to_owned()))?;
    if lines.split('\n').nth(2 * STATEMENTS_MAX).is_some() {
        return Err(bad("there are too many lines".to_owned()));
    }
    let entries: Result<Vec<Entry>, _> = lines.split('\n').map(serde_json::from_str).collect();
    let entries = entries.map_err(|error| bad(error.to_string()))?;
    let first = entries.first().ok_or_else(|| bad("it is empty".to_owned()))?;
    let mut chain = KeyChain::starting_at(&first.statement).map_err(|error| bad(error.to_string()))?;
    for Entry { leaf, statement } in &entries {
        chain
            .push(in_own_log.then_some(*leaf), statement)
            .map_err(|error| bad(format!("the statement of leaf {leaf}: {error}")))?;
    }
    if chain.present() != own {
        return Err(bad("it does not lead to the key in the pack".to_owned()));
    }
    Ok(Keys { chain, entries })
}

impl Keys {
    /// The key by which the checkpoint is to be opened, and the number of the one that the reader knows where that
    /// is a past one.
    pub(crate) fn follow<'a>(&'a self, given: Option<&'a VerifyingKey>) -> (&'a VerifyingKey, Option<u64>) {
        let present = self.chain.present();
        let Some(given) = given else { return (present, None) };
        match self.chain.generation_of(given) {
            Some(generation) if generation < self.chain.generation() => (present, Some(generation)),
            _ => (given, None),
        }
    }

    /// The keys, the present one as the reader knows it: who gave one kind alone did not ask for the other.
    pub(super) fn known_as(&self, key: &VerifyingKey) -> KeyChain {
        if self.entries.is_empty() { KeyChain::new(key.clone()) } else { self.chain.clone() }
    }

    /// Whether the leaves say just what the statements of the pack say.
    pub(super) fn compare(&self, origin: &str, leaves: &[(u64, Vec<u8>)]) -> Result<(), Finding> {
        let bad = |leaf, detail: &str| Err(Finding { leaf: Some(leaf), what: What::Key, detail: detail.to_owned() });
        let (mut entries, mut last) = (self.entries.iter().peekable(), None);
        for (leaf, bytes) in leaves {
            let Some(statement) = statement_in(bytes, origin) else { continue };
            match entries.peek() {
                Some(entry) if entry.leaf == *leaf && entry.statement == statement => drop(entries.next()),
                // A crash says a statement twice; it need not be told twice.
                _ if last.as_ref() == Some(&statement) => {}
                Some(entry) if entry.leaf < *leaf => {
                    return bad(entry.leaf, "it does not say what the pack says of its key");
                }
                _ => return bad(*leaf, "the key was replaced or revoked here, and the pack is not signed accordingly"),
            }
            last = Some(statement);
        }
        match entries.next() {
            Some(entry) => bad(entry.leaf, "it does not say what the pack says of its key"),
            None => Ok(()),
        }
    }
}
