//! The proof, in a pack, that its checkpoint is in the plane log.

use std::{io, path::Path};

use super::{
    Anchored, Finding, KEY_FILE, What,
    chain::keys_of_plane,
    key_in, log_finding, read, read_text,
    stamp::{self, Stamped},
};
use crate::{
    note::{Checkpoint, NOTE_BYTES_MAX},
    plane::{Anchor, AnchorError, PLANE_LEAF_BYTES_MAX},
};

/// The directory of a pack with the proof that the checkpoint is in the plane log.
pub const PLANE_DIR: &str = "plane";
/// In it: the leaf of the plane log.
pub const PLANE_LEAF_FILE: &str = "leaf.json";
/// In it: what opens the leaf to the log of the pack.
pub const PLANE_DISCLOSURE_FILE: &str = "disclosure";
/// In it: the path to the plane's checkpoint, and that checkpoint (C2SP tlog-proof).
pub const PLANE_PROOF_FILE: &str = "checkpoint.tlog-proof";

/// Checks the anchor of a pack that has one, and its time stamp: which size of the plane log it is in, and what is stamped.
pub(super) fn check(
    dir: &Path,
    checkpoint: &Checkpoint,
    note: &str,
) -> Result<Option<(Anchored, Option<Stamped>)>, Finding> {
    let plane = dir.join(PLANE_DIR);
    // A link that leads nowhere is something, too.
    if plane.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let key = key_in(&plane, KEY_FILE)?;
    let _led_to_it = keys_of_plane(&plane, &key)?;
    let (leaf, found) = read_anchor(&plane)?.verify(&checkpoint.origin, note, &key).map_err(wrong)?;
    let stamped = stamp::check(&plane, checkpoint, &key)?;
    let anchored = Anchored { origin: found.origin, size: found.size, time: leaf.time, key: key.to_string() };
    Ok(Some((anchored, stamped)))
}

/// Reads the three files of an anchor.
pub(super) fn read_anchor(dir: &Path) -> Result<Anchor, Finding> {
    let leaf = read(dir, PLANE_LEAF_FILE, PLANE_LEAF_BYTES_MAX)?;
    let disclosure = read_text(dir, PLANE_DISCLOSURE_FILE, PLANE_LEAF_BYTES_MAX, What::Anchor)?;
    let proof = read_text(dir, PLANE_PROOF_FILE, NOTE_BYTES_MAX + 8 * 1_024, What::Anchor)?;
    Anchor::from_parts(leaf, disclosure, &proof).map_err(wrong)
}

pub(super) fn wrong(error: AnchorError) -> Finding {
    log_finding(What::Anchor, format!("{PLANE_DIR}: {error}"))
}
