//! The comparison with a checkpoint that somebody kept: what the holder of the key cannot take back.

use crate::{Hash, key_chain::KeyChain, note::Checkpoint};

use super::{Finding, What, log_finding};

/// Reads the older note; it must be signed by a key that the log had then, or it says nothing about this log.
pub(super) fn open(note: &str, keys: &KeyChain) -> Result<Checkpoint, Finding> {
    keys.open_kept(note).map_err(|error| log_finding(What::Against, format!("the older checkpoint: {error}")))
}

/// Whether the log has the older checkpoint's tree as its beginning; `root` is its own root at that size.
pub(super) fn compare(older: &Checkpoint, now: &Checkpoint, root: Option<&Hash>) -> Result<(), Finding> {
    if older.size > now.size {
        let detail = format!("this log has {} leaves, the older checkpoint covers {}", now.size, older.size);
        return Err(log_finding(What::Against, detail));
    }
    if root != Some(&older.root) {
        let detail = format!("the first {} leaves of this log are not those of the older checkpoint", older.size);
        return Err(log_finding(What::Against, detail));
    }
    Ok(())
}

/// What two checkpoints that cannot both be true show, in words for the reader of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// The log is shorter than one that was signed.
    Shorter,
    /// Two histories.
    Rewritten,
}

/// Which of the two a pair of notes of one key shows, once the verdict was [`What::Against`].
/// `None` when one of them is not a note of a key that the log had then: then it shows nothing.
#[must_use]
pub fn contradiction(older: &str, now: &str, keys: &KeyChain) -> Option<Contradiction> {
    let (older, now) = (keys.open_kept(older).ok()?, keys.open_kept(now).ok()?);
    Some(if older.size > now.size { Contradiction::Shorter } else { Contradiction::Rewritten })
}
