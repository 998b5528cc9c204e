//! The proof, in a pack, that its checkpoint is in the plane log.

use std::{io, path::Path};

use super::{Anchored, Finding, KEY_FILE, What, chain::keys_of_plane, key_in, log_finding, read, read_text};
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

/// Checks the anchor of a pack that has one, and says which size of the plane log it is in.
pub(super) fn check(dir: &Path, checkpoint: &Checkpoint, note: &str) -> Result<Option<Anchored>, Finding> {
    let plane = dir.join(PLANE_DIR);
    // A link that leads nowhere is something, too.
    if plane.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let key = key_in(&plane, KEY_FILE)?;
    let _led_to_it = keys_of_plane(&plane, &key)?;
    let of = |what| move |error: AnchorError| log_finding(what, format!("{PLANE_DIR}: {error}"));
    let leaf = read(&plane, PLANE_LEAF_FILE, PLANE_LEAF_BYTES_MAX)?;
    let disclosure = read_text(&plane, PLANE_DISCLOSURE_FILE, PLANE_LEAF_BYTES_MAX, What::Anchor)?;
    let proof = read_text(&plane, PLANE_PROOF_FILE, NOTE_BYTES_MAX + 8 * 1_024, What::Anchor)?;
    let anchor = Anchor::from_parts(leaf, disclosure, &proof).map_err(of(What::Anchor))?;
    let (leaf, found) = anchor.verify(&checkpoint.origin, note, &key).map_err(of(What::Anchor))?;
    Ok(Some(Anchored { origin: found.origin, size: found.size, time: leaf.time, key: key.to_string() }))
}
