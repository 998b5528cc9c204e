//! Verification of an exported log: everything from its own files, one bundle at a time.
//!
//! Order matters for the reader of the verdict: first the signature says which root counts, then
//! each leaf is compared with its hash in the tree, its place, its predecessor and its run, then the
//! root closes over all of them, and at the end an older checkpoint is looked for in it. The first
//! thing that is wrong is the verdict, however many threads looked for it.

mod against;
mod anchor;
mod bundle;
mod chain;
mod join;
mod runs;
mod stamp;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use cogward_model::Timestamp;
use serde::Serialize;

use crate::{
    note::{Checkpoint, KEYS_BYTES_MAX, NOTE_BYTES_MAX, VerifyingKey},
    policy::Policy,
    tiles::TILE_WIDTH,
};

pub use against::{Contradiction, contradiction};
pub use anchor::{PLANE_DIR, PLANE_DISCLOSURE_FILE, PLANE_LEAF_FILE, PLANE_PROOF_FILE};
pub use chain::{Keys, keys_in};
pub use stamp::{StampedLeaves, TIMESTAMP_DIR, TIMESTAMP_FILE};

/// The name of the file with the log's public key.
pub const KEY_FILE: &str = "log.vkey";
/// The name of the file with the signed checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// Largest entry bundle: a full one of the longest entries.
const BUNDLE_BYTES_MAX: usize = TILE_WIDTH * (2 + 65_535);

/// Which rule a log breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A file is not there or cannot be read.
    Missing,
    /// The public key is not one.
    Key,
    /// The checkpoint is not signed by the key.
    Signature,
    /// A leaf's bytes are not those that the tree was made of.
    Bytes,
    /// A leaf is not of the form that this verifier knows.
    Form,
    /// A leaf's number is not its place.
    Seq,
    /// A leaf does not name the hash of the one before.
    Prev,
    /// A leaf is earlier than the one before.
    Time,
    /// A leaf belongs to another tenant.
    Tenant,
    /// A run's chain is broken.
    RunChain,
    /// A tile above the leaves is not what the leaves give.
    Tile,
    /// The root over all leaves is not the signed one.
    Root,
    /// An older checkpoint says something else.
    Against,
    /// The checkpoint is not where the pack says it is in the plane log.
    Anchor,
    /// A time stamp is none, or not over the checkpoint beside it.
    Timestamp,
    /// The manifest of a pack is not signed, or not about what is in the pack.
    Manifest,
    /// The leaves of a pack are not all that it claims to be, or more.
    Scope,
    /// A disclosure opens nothing.
    Disclosure,
    /// The verifiable index is not what the leaves give, or does not prove what it should.
    Index,
}

impl What {
    /// The word in reports, the same as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Bytes => "bytes",
            Self::Form => "form",
            Self::Seq => "seq",
            Self::Prev => "prev",
            Self::Time => "time",
            Self::Tenant => "tenant",
            Self::RunChain => "run_chain",
            Self::Tile => "tile",
            Self::Root => "root",
            Self::Against => "against",
            Self::Anchor => "anchor",
            Self::Timestamp => "timestamp",
            Self::Manifest => "manifest",
            Self::Scope => "scope",
            Self::Disclosure => "disclosure",
            Self::Index => "index",
        }
    }
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}{}: {detail}", match leaf { Some(leaf) => format!("leaf {leaf}: "), None => String::new() }, what.as_str())]
pub struct Finding {
    /// The number of the leaf, when it is one.
    pub leaf: Option<u64>,
    /// The rule.
    pub what: What,
    /// In words.
    pub detail: String,
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The log.
    pub origin: String,
    /// Leaves.
    pub leaves: u64,
    /// The signed root, in hex.
    pub root: String,
    /// Runs of which there are leaves.
    pub runs: u64,
    /// Runs that end with `run.closed`: their chains are complete.
    pub closed_runs: u64,
    /// Time of the first leaf.
    pub first_time: Option<String>,
    /// Time of the last leaf.
    pub last_time: Option<String>,
    /// The key that was used.
    pub key: String,
    /// Whether the key was given by the reader and not taken from the pack itself.
    pub key_pinned: bool,
    /// How often the key was replaced.
    pub generation: u64,
    /// The number of the key that the reader gave, when it is a past one: the statements led on from it.
    pub pinned_generation: Option<u64>,
    /// Whether that one was revoked.
    pub pinned_revoked: bool,
    /// The size of the older checkpoint that this log was compared with and contains.
    pub against: Option<u64>,
    /// Where the checkpoint is in the plane log, when the pack says so.
    pub anchored: Option<Anchored>,
    /// Which of the leaves an authority says were there when, if the pack has a time stamp.
    pub stamped: Option<StampedLeaves>,
}

/// A tenant's checkpoint in the plane log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anchored {
    /// The plane log.
    pub origin: String,
    /// The size of the plane log whose checkpoint covers it.
    pub size: u64,
    /// When it came into the plane log.
    pub time: String,
    /// The plane's key.
    pub key: String,
    /// Whether it was given by the reader and did not only come with the pack.
    pub key_pinned: bool,
    /// Signatures of the plane's checkpoint besides its own; nothing is said of them here.
    pub cosignatures: usize,
    /// Who of the reader's witnesses saw it, where the reader named any: they are enough by the reader's rule.
    pub seen: Option<Vec<Seen>>,
}

/// A witness that saw the plane's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The witness, by its name in the reader's policy.
    pub by: String,
    /// When.
    pub time: Timestamp,
}

/// What the reader of a log brings along.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The log's key, got from somewhere else than the pack.
    pub key: Option<&'a VerifyingKey>,
    /// The note of an older checkpoint of the same log, kept from before.
    pub against: Option<&'a str>,
    /// The plane log's key, got from somewhere else than the pack: there must be an anchor, by this key.
    pub plane_key: Option<&'a VerifyingKey>,
    /// Which witnesses must have seen the plane's checkpoint: there must be an anchor that they are enough for.
    pub witnesses: Option<&'a Policy>,
    /// Threads; one for each processor when it is 0.
    pub threads: usize,
    /// Runs that are held in memory at once, [`RUNS_MAX`] when it is 0. A log of more is walked more than once.
    pub runs_max: usize,
}

/// The usual bound of runs in memory: some 500 MB.
pub const RUNS_MAX: usize = 4_000_000;

fn log_finding(what: What, detail: impl Into<String>) -> Finding {
    Finding { leaf: None, what, detail: detail.into() }
}

fn read(dir: &Path, name: &str, bytes_max: usize) -> Result<Vec<u8>, Finding> {
    let mut bytes = Vec::new();
    read_into(dir, name, bytes_max, &mut bytes)?;
    Ok(bytes)
}

/// The same into a buffer that is used again.
fn read_into(dir: &Path, name: &str, bytes_max: usize, bytes: &mut Vec<u8>) -> Result<(), Finding> {
    bytes.clear();
    let missing = |error: io::Error| log_finding(What::Missing, format!("{name}: {error}"));
    let path = dir.join(name);
    // Whoever made the pack may want its verifier to wait for ever at a pipe.
    if !path.metadata().map_err(missing)?.is_file() {
        return Err(log_finding(What::Missing, format!("{name} is not a file")));
    }
    let file = File::open(path).map_err(missing)?;
    file.take(bytes_max as u64 + 1).read_to_end(bytes).map_err(missing)?;
    if bytes.len() > bytes_max {
        return Err(log_finding(What::Form, format!("{name} is longer than {bytes_max} bytes")));
    }
    Ok(())
}

fn read_text(dir: &Path, name: &str, bytes_max: usize, what: What) -> Result<String, Finding> {
    String::from_utf8(read(dir, name, bytes_max)?).map_err(|_| log_finding(what, format!("{name} is not text")))
}

/// The key that lies in the pack.
///
/// # Errors
/// It is not there or is not a key.
pub fn key_of(dir: &Path) -> Result<VerifyingKey, Finding> {
    key_in(dir, KEY_FILE)
}

fn key_in(dir: &Path, name: &str) -> Result<VerifyingKey, Finding> {
    let text = read_text(dir, name, KEYS_BYTES_MAX, What::Key)?;
    let lines = text.strip_suffix('\n').ok_or_else(|| log_finding(What::Key, format!("{name} has no whole line")))?;
    lines.parse().map_err(|error| log_finding(What::Key, format!("{name}: {error}")))
}

/// Verifies the log in `dir`, against `pinned` or else the key in the pack.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_dir(dir: &Path, pinned: Option<&VerifyingKey>) -> Result<Verified, Finding> {
    verify(dir, &Options { key: pinned, ..Options::default() })
}

/// Verifies the log in `dir` with what the reader brings along.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(dir: &Path, options: &Options<'_>) -> Result<Verified, Finding> {
    // The pack's own key is read in any case: a pack whose key is damaged is a damaged pack.
    let own = key_of(dir)?;
    let keys = keys_in(dir, &own)?;
    let (key, pinned_generation) = keys.follow(options.key);
    let note = read_text(dir, CHECKPOINT_FILE, NOTE_BYTES_MAX, What::Signature)?;
    let checkpoint = Checkpoint::open(&note, key).map_err(|e| log_finding(What::Signature, e.to_string()))?;
    if !own.includes(key) {
        return Err(log_finding(What::Key, format!("{KEY_FILE} in the pack is not the key that was given")));
    }
    // Every further key of the log must have signed, too.
    Checkpoint::open(&note, &own).map_err(|e| log_finding(What::Signature, e.to_string()))?;
    let (anchored, stamped) = anchor::check(dir, &checkpoint, &note, options)?.unzip();
    let older = options.against.map(|note| against::open(note, &keys.known_as(key))).transpose()?;
    let log = join::walk(dir, &checkpoint, older.as_ref(), options)?;
    keys.compare(&checkpoint.origin, &log.key_leaves)?;
    if let Some(older) = &older {
        against::compare(older, &checkpoint, log.older_root.as_ref())?;
    }
    let stamped = stamped.flatten().map(|stamped| stamped.compare(dir, checkpoint.size)).transpose()?;
    Ok(Verified {
        origin: checkpoint.origin,
        leaves: checkpoint.size,
        root: checkpoint.root.iter().map(|byte| format!("{byte:02x}")).collect(),
        runs: log.runs,
        closed_runs: log.closed_runs,
        first_time: log.first_time,
        last_time: log.last_time,
        key: key.to_string(),
        key_pinned: options.key.is_some(),
        generation: keys.chain.generation(),
        pinned_generation,
        pinned_revoked: pinned_generation.is_some_and(|generation| keys.chain.is_revoked(generation)),
        against: older.map(|older| older.size),
        anchored,
        stamped,
    })
}

#[cfg(test)]
mod tests;
