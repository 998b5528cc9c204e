//! The time stamp in a pack: that a beginning of the log is in a checkpoint of the plane log, and that one is stamped.
//!
//! It need not be the newest: authorities are asked once an hour. What the leaf of the plane log says of this log then has
//! to follow from the leaves of the pack, so the time holds for all of them up to there.

use std::{io, path::Path};

use serde::Serialize;

use super::{CHECKPOINT_FILE, Finding, What, anchor, log_finding, read};
use crate::{
    Hash,
    note::{Checkpoint, NOTE_BYTES_MAX, VerifyingKey},
    tile_proof::{TileProofError, TiledLog},
    tiles::{TILE_WIDTH, TilePath},
    timestamp::{TIMESTAMP_BYTES_MAX, Timestamped, imprint},
};

/// Within the directory of the anchor: the time stamp and what it is over.
pub const TIMESTAMP_DIR: &str = "timestamp";
/// In it: the answer of the authority (RFC 3161).
pub const TIMESTAMP_FILE: &str = "checkpoint.tsr";

/// Leaves that were there at a time, as an authority says. Its signature is not checked here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StampedLeaves {
    /// How many, from the first on.
    pub leaves: u64,
    /// The size of the plane log whose checkpoint is stamped.
    pub size: u64,
    /// When.
    pub time: String,
    /// The authority's policy, dotted.
    pub policy: String,
    /// The authority's number of it, in hex.
    pub serial: String,
}

/// What was read, and the root that the leaves must have.
pub(super) struct Stamped {
    pub(super) report: StampedLeaves,
    root: Hash,
}

/// Checks the time stamp of a pack that has one; all but that its leaves are those.
pub(super) fn check(plane: &Path, now: &Checkpoint, key: &VerifyingKey) -> Result<Option<Stamped>, Finding> {
    let dir = plane.join(TIMESTAMP_DIR);
    if dir.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let anchor = anchor::read_anchor(&dir)?;
    let (leaf, found) = anchor.verify_earlier(&now.origin, key).map_err(anchor::wrong)?;
    if leaf.size == 0 || leaf.size > now.size {
        return Err(log_finding(What::Anchor, "what is stamped is not a beginning of this log"));
    }
    // Beside the proof as a file of its own, for `openssl ts -verify`.
    let note = read(&dir, CHECKPOINT_FILE, NOTE_BYTES_MAX)?;
    if note != anchor.note.as_bytes() {
        return Err(log_finding(What::Timestamp, "the stamped checkpoint is not the one of the proof"));
    }
    let wrong = |detail: String| log_finding(What::Timestamp, format!("{TIMESTAMP_FILE}: {detail}"));
    let answer = read(&dir, TIMESTAMP_FILE, TIMESTAMP_BYTES_MAX)?;
    let stamped = Timestamped::read(&answer).map_err(|error| wrong(error.to_string()))?;
    if stamped.imprint != imprint(&note) {
        return Err(wrong("it is not over the checkpoint beside it".to_owned()));
    }
    let report = StampedLeaves {
        leaves: leaf.size,
        size: found.size,
        time: stamped.time.to_string(),
        policy: stamped.policy,
        serial: stamped.serial,
    };
    Ok(Some(Stamped { report, root: leaf.root }))
}

impl Stamped {
    /// Whether the leaves of the pack give the root that was stamped. Behind the walk over them: then the tiles are known
    /// to follow from the leaves.
    pub(super) fn compare(self, dir: &Path, size: u64) -> Result<StampedLeaves, Finding> {
        let root = TiledLog::new(self.report.leaves, |tile| {
            let there = TilePath::of(tile.level, tile.index, size).unwrap_or(*tile);
            let mut bytes = read(dir, &there.to_string(), TILE_WIDTH * 32)?;
            bytes.truncate(tile.width * 32);
            Ok(bytes)
        });
        let root = { root }.whole().map_err(|error| match error {
            TileProofError::Read(finding) => finding,
            other => log_finding(What::Tile, other.to_string()),
        })?;
        if root == self.root {
            return Ok(self.report);
        }
        Err(log_finding(
            What::Anchor,
            format!("the first {} leaves are not those that were stamped", self.report.leaves),
        ))
    }
}
