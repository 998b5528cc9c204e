//! The proof, in a pack, that its checkpoint is in the plane log.

use std::{io, path::Path};

use cogward_model::Timestamp;

use super::{
    Anchored, Finding, KEY_FILE, Options, Seen, What,
    chain::keys_of_plane,
    key_in, log_finding, read, read_text,
    stamp::{self, Stamped},
};
use crate::{
    note::{Checkpoint, NOTE_BYTES_MAX, Note, VerifyingKey},
    plane::{Anchor, AnchorError, PLANE_LEAF_BYTES_MAX},
    policy::Policy,
};

/// The directory of a pack with the proof that the checkpoint is in the plane log.
pub const PLANE_DIR: &str = "plane";
/// In it: the leaf of the plane log.
pub const PLANE_LEAF_FILE: &str = "leaf.json";
/// In it: what opens the leaf to the log of the pack.
pub const PLANE_DISCLOSURE_FILE: &str = "disclosure";
/// In it: the path to the plane's checkpoint, and that checkpoint (C2SP tlog-proof).
pub const PLANE_PROOF_FILE: &str = "checkpoint.tlog-proof";

/// Checks the anchor of a pack that has one, and its time stamp: which size of the plane log it is in, who saw that, and
/// what is stamped. A reader who brings a key of the plane log, or witnesses, wants an anchor.
pub(super) fn check(
    dir: &Path,
    checkpoint: &Checkpoint,
    note: &str,
    options: &Options<'_>,
) -> Result<Option<(Anchored, Option<Stamped>)>, Finding> {
    let plane = dir.join(PLANE_DIR);
    // A link that leads nowhere is something, too.
    if plane.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        if options.plane_key.is_some() || options.witnesses.is_some() {
            let detail = format!("there is no {PLANE_DIR}/ in the pack: nothing shows that it was in the plane log");
            return Err(log_finding(What::Missing, detail));
        }
        return Ok(None);
    }
    let own = key_in(&plane, KEY_FILE)?;
    let keys = keys_of_plane(&plane, &own)?;
    let given = match (options.plane_key, options.witnesses.map(Policy::logs)) {
        (Some(key), _) => Some(key),
        (None, None | Some([])) => None,
        (None, Some(logs)) => {
            let known = |log: &&VerifyingKey| own.includes(log) || keys.chain.generation_of(log).is_some();
            let other = || log_finding(What::Key, format!("{PLANE_DIR}: it is none of the logs of the policy"));
            Some(logs.iter().find(known).ok_or_else(other)?)
        }
    };
    let (key, _) = keys.follow(given);
    if !own.includes(key) {
        let detail = format!("{PLANE_DIR}/{KEY_FILE} in the pack is not the key of the plane log that was given");
        return Err(log_finding(What::Key, detail));
    }
    let anchor = read_anchor(&plane)?;
    let (leaf, found) = anchor.verify(&checkpoint.origin, note, &own).map_err(wrong)?;
    let signed = Note::parse(&anchor.note).map_err(|error| wrong(AnchorError::Note(error)))?;
    let seen = options.witnesses.map(|policy| seen(policy, &signed)).transpose()?;
    let stamped = stamp::check(&plane, checkpoint, &own)?;
    let anchored = Anchored {
        cosignatures: signed.signatures.iter().filter(|line| line.name != found.origin).count(),
        origin: found.origin,
        size: found.size,
        time: leaf.time,
        key: own.to_string(),
        key_pinned: given.is_some(),
        seen,
    };
    Ok(Some((anchored, stamped)))
}

/// Who of the reader's witnesses saw the plane's checkpoint. Too few are a finding.
fn seen(policy: &Policy, note: &Note<'_>) -> Result<Vec<Seen>, Finding> {
    let judged = policy.judge(note);
    if !judged.quorum {
        let by: Vec<&str> = judged.by.iter().map(|(name, _)| name.as_str()).collect();
        let by = if by.is_empty() { "none of them".to_owned() } else { by.join(", ") };
        let detail = format!("{PLANE_DIR}: too few of the witnesses that you named saw it: {by}");
        return Err(log_finding(What::Anchor, detail));
    }
    let time = |seconds: u64| Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000));
    Ok(judged.by.into_iter().map(|(by, seconds)| Seen { by, time: time(seconds) }).collect())
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
