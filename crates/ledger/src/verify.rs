//! Verification of an exported log: everything from its own files, one bundle at a time.
//!
//! Order matters for the reader of the verdict: first the signature says which root counts, then
//! each leaf is compared with its hash in the tree, its place, its predecessor and its run, and at
//! the end the root closes over all of them. The first thing that is wrong is the verdict.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::Serialize;

use crate::{
    Hash,
    canonical::is_canonical,
    leaf::{Parsed, is_hash_text, leaf_hash},
    note::{Checkpoint, NOTE_BYTES_MAX, VerifyingKey},
    tiles::{self, HashTiles, TILE_WIDTH, TileSink},
    tree::Frontier,
};

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
}

fn log_finding(what: What, detail: impl Into<String>) -> Finding {
    Finding { leaf: None, what, detail: detail.into() }
}

fn read(dir: &Path, name: &str, bytes_max: usize) -> Result<Vec<u8>, Finding> {
    let missing = |error: io::Error| log_finding(What::Missing, format!("{name}: {error}"));
    let mut bytes = Vec::new();
    let path = dir.join(name);
    // Whoever made the pack may want its verifier to wait for ever at a pipe.
    if !path.metadata().map_err(missing)?.is_file() {
        return Err(log_finding(What::Missing, format!("{name} is not a file")));
    }
    let file = File::open(path).map_err(missing)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(missing)?;
    if bytes.len() > bytes_max {
        return Err(log_finding(What::Form, format!("{name} is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn read_text(dir: &Path, name: &str, bytes_max: usize, what: What) -> Result<String, Finding> {
    String::from_utf8(read(dir, name, bytes_max)?).map_err(|_| log_finding(what, format!("{name} is not text")))
}

/// The key that lies in the pack.
///
/// # Errors
/// It is not there or is not a key.
pub fn key_of(dir: &Path) -> Result<VerifyingKey, Finding> {
    let text = read_text(dir, KEY_FILE, 1_024, What::Key)?;
    let line = text.strip_suffix('\n').ok_or_else(|| log_finding(What::Key, format!("{KEY_FILE} is not one line")))?;
    line.parse().map_err(|error| log_finding(What::Key, format!("{KEY_FILE}: {error}")))
}

/// Verifies the log in `dir`, against `pinned` or else the key in the pack.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_dir(dir: &Path, pinned: Option<&VerifyingKey>) -> Result<Verified, Finding> {
    // The pack's own key is read in any case: a pack whose key is damaged is a damaged pack.
    let own = key_of(dir)?;
    let key = pinned.unwrap_or(&own);
    let note = read_text(dir, CHECKPOINT_FILE, NOTE_BYTES_MAX, What::Signature)?;
    let checkpoint = Checkpoint::open(&note, key).map_err(|e| log_finding(What::Signature, e.to_string()))?;
    if own != *key {
        return Err(log_finding(What::Key, format!("{KEY_FILE} in the pack is not the key that was given")));
    }
    let mut walk = Walk::default();
    let mut above = Compare { dir };
    let bundles = checkpoint.size.div_ceil(TILE_WIDTH as u64);
    for bundle in 0..bundles {
        let width = usize::try_from(checkpoint.size - bundle * TILE_WIDTH as u64).unwrap_or(usize::MAX).min(TILE_WIDTH);
        walk.bundle(dir, bundle, width, &mut above)?;
    }
    walk.tiles.finish(&mut above)?;
    if walk.tree.root() != checkpoint.root {
        return Err(log_finding(What::Root, "the root over all leaves is not the one in the signed checkpoint"));
    }
    Ok(Verified {
        origin: checkpoint.origin,
        leaves: checkpoint.size,
        root: checkpoint.root.iter().map(|byte| format!("{byte:02x}")).collect(),
        runs: walk.runs.len() as u64,
        closed_runs: walk.runs.values().filter(|run| run.closed).count() as u64,
        first_time: walk.first_time,
        last_time: walk.last_time,
        key: key.to_string(),
        key_pinned: pinned.is_some(),
    })
}

/// Compares the tiles above the leaves with the files; those of the leaves were compared one by one.
struct Compare<'a> {
    dir: &'a Path,
}

impl TileSink for Compare<'_> {
    type Error = Finding;

    fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), Finding> {
        if path.starts_with("tile/0/") || read(self.dir, path, TILE_WIDTH * 32)? == bytes {
            return Ok(());
        }
        Err(log_finding(What::Tile, format!("{path} is not what the leaves give")))
    }
}

struct Run {
    seq: u64,
    last: Hash,
    closed: bool,
}

/// What is known of the leaves so far.
#[derive(Default)]
struct Walk {
    tree: Frontier,
    tiles: HashTiles,
    prev: Option<Hash>,
    tenant: Option<String>,
    first_time: Option<String>,
    last_time: Option<String>,
    /// Keyed by the run's identifier; the only thing that grows, by a few words a run.
    runs: HashMap<Box<str>, Run>,
}

impl Walk {
    fn bundle(&mut self, dir: &Path, index: u64, width: usize, above: &mut Compare<'_>) -> Result<(), Finding> {
        let name = tiles::path("entries", index, width);
        let entries = read(dir, &name, BUNDLE_BYTES_MAX)?;
        let tile_name = tiles::path("0", index, width);
        let tile = read(dir, &tile_name, TILE_WIDTH * 32)?;
        let (hashes, rest) = tile.as_chunks::<32>();
        if hashes.len() != width || !rest.is_empty() {
            return Err(log_finding(What::Tile, format!("{tile_name} does not hold {width} hashes")));
        }
        let mut entries = entries.as_slice();
        for expected in hashes {
            let seq = self.tree.size();
            let finding = |what, detail: String| Finding { leaf: Some(seq), what, detail };
            let entry = entries
                .split_first_chunk::<2>()
                .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
            let Some((leaf, rest)) = entry else {
                return Err(finding(What::Bytes, format!("{name} ends within this leaf")));
            };
            entries = rest;
            let hash = leaf_hash(leaf);
            if hash != *expected {
                return Err(finding(
                    What::Bytes,
                    format!("its bytes do not have the hash that {tile_name} holds for it"),
                ));
            }
            self.leaf(seq, leaf, hash).map_err(|(what, detail)| finding(what, detail))?;
            self.tree.push(hash);
            self.tiles.push(hash, above)?;
        }
        if !entries.is_empty() {
            return Err(log_finding(What::Bytes, format!("{name} has bytes behind its last leaf")));
        }
        Ok(())
    }

    fn leaf(&mut self, seq: u64, bytes: &[u8], hash: Hash) -> Result<(), (What, String)> {
        if !is_canonical(bytes) {
            return Err((What::Form, "it is not canonical JSON".to_owned()));
        }
        let leaf = Parsed::from_bytes(bytes).map_err(|error| (What::Form, error.to_string()))?;
        let (body, chain) = (&leaf.body, &leaf.chain);
        if body.v != 1 {
            return Err((What::Form, format!("version {} is not known to this verifier", body.v)));
        }
        if chain.seq != seq {
            return Err((What::Seq, format!("it says that it is leaf {}", chain.seq)));
        }
        if !is_hash_text(chain.prev, self.prev.as_ref()) {
            return Err((What::Prev, "chain.prev is not the hash of the leaf before".to_owned()));
        }
        // Leaves of one batch have one time: it is read once.
        if self.last_time.as_deref() != Some(chain.time) {
            if chain.time.parse::<cogward_model::Timestamp>().is_err() {
                return Err((What::Time, "chain.time is not a time".to_owned()));
            }
            // Text order is time order, given that the form is always the same.
            if self.last_time.as_deref().is_some_and(|last| chain.time < last) {
                return Err((What::Time, "it is earlier than the leaf before".to_owned()));
            }
        }
        if *self.tenant.get_or_insert_with(|| body.tenant.to_owned()) != body.tenant {
            return Err((What::Tenant, "it belongs to another tenant than the leaves before".to_owned()));
        }
        self.run(body, hash)?;
        self.prev = Some(hash);
        self.first_time.get_or_insert_with(|| chain.time.to_owned());
        let last = self.last_time.get_or_insert_default();
        last.clear();
        last.push_str(chain.time);
        Ok(())
    }

    fn run(&mut self, body: &crate::leaf::ParsedBody<'_>, hash: Hash) -> Result<(), (What, String)> {
        let Some(id) = body.run else {
            if body.run_prev.is_some() || body.run_seq.is_some() {
                return Err((What::RunChain, "it has a place in a run and names none".to_owned()));
            }
            return Ok(());
        };
        let broken = |detail: &str| Err((What::RunChain, format!("{id}: {detail}")));
        let closed = body.kind == "run.closed";
        match self.runs.get_mut(id) {
            None if body.run_seq != Some(1) || body.run_prev.is_some() => {
                broken("its first leaf here is not the first of the run")
            }
            None => {
                self.runs.insert(id.into(), Run { seq: 1, last: hash, closed });
                Ok(())
            }
            Some(run) => {
                if body.run_seq != Some(run.seq + 1) {
                    return broken("run_seq does not follow the one before");
                }
                if !is_hash_text(body.run_prev, Some(&run.last)) {
                    return broken("run_prev is not the hash of the run's leaf before");
                }
                *run = Run { seq: run.seq + 1, last: hash, closed: run.closed || closed };
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
