//! Whether the verifiable index of a whole log is what its leaves give: the part that only who has all leaves can check.
//!
//! Apart from the verification of the log itself, which it takes for granted: run that first. What it costs is bounded for each
//! range, whatever the leaves say: a plane is held to the number of roots that it may make, and to the number of keys.

use std::path::Path;

use serde::Serialize;

use crate::{
    leaf::{Parsed, hash_text},
    map::{Claim, Kind, Map, RANGE_LEAVES, is_affordable, key, values},
    note::Checkpoint,
    verify::{CHECKPOINT_FILE, Finding, What},
    whole::leaves,
};

/// Keys of the leaves of one range at most: a leaf of a plane has six, and one for each approval.
const RANGE_KEYS_MAX: u64 = 16 * RANGE_LEAVES;

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Indexed {
    /// Roots that were made anew and compared.
    pub claims: u64,
    /// The first leaf that no root covers.
    pub covered: u64,
}

/// What a `ledger.index` has to say of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    root: String,
    entries: u64,
    first_time: String,
    last_time: String,
}

impl Claimed {
    fn of(map: &Map, times: &[String]) -> Self {
        let time = |time: Option<&String>| time.cloned().unwrap_or_default();
        let (first_time, last_time) = (time(times.first()), time(times.last()));
        Self { root: hash_text(&map.root()), entries: map.len(), first_time, last_time }
    }
}

/// Makes the map of every range anew and compares it with what the log says.
///
/// # Errors
/// The first `ledger.index` that is not what the leaves give.
pub fn check(dir: &Path, checkpoint: &Checkpoint) -> Result<Indexed, Finding> {
    let mut found = Indexed { claims: 0, covered: 0 };
    // The open range and the one before, whose root may be told a little late.
    let (mut open, mut before) = (Map::default(), Map::default());
    let mut roots: Vec<Claimed> = Vec::new();
    let (mut times, mut times_before) = (Vec::<String>::new(), Vec::<String>::new());
    // Keys of the open range, and over how many leaves the roots were that had to be made of it and of the one before.
    let (mut keys, mut spent, mut spent_before) = (0_u64, 0_u64, 0_u64);
    leaves(dir, checkpoint.size, |index, leaf| {
        let bad = |what, detail: &str| Finding { leaf: Some(index), what, detail: detail.to_owned() };
        if index > 0 && index.is_multiple_of(RANGE_LEAVES) {
            roots.push(Claimed::of(&open, &times));
            before = std::mem::take(&mut open);
            times_before = std::mem::take(&mut times);
            spent_before = std::mem::take(&mut spent);
            keys = 0;
        }
        let time = Parsed::from_bytes(leaf).map_err(|error| bad(What::Form, &error.to_string()))?.chain.time.to_owned();
        times.push(time);
        let parsed = values(leaf).map_err(|error| bad(What::Form, &error.to_string()))?;
        keys += parsed.len() as u64;
        if keys > RANGE_KEYS_MAX {
            return Err(bad(What::Index, "the leaves of its range have more keys than those of a plane can have"));
        }
        for (kind, value) in &parsed {
            open.add(key(*kind, value), index);
        }
        // The name of an agent or of a tool server may be this, too.
        if !parsed.iter().any(|(kind, value)| *kind == Kind::Type && value == "ledger.index") {
            return Ok(());
        }
        let claim = Claim::of(leaf).ok_or_else(|| bad(What::Index, "it is of another form"))?;
        if claim.to > index {
            return Err(bad(What::Index, "it speaks of leaves that come behind it"));
        }
        let range = claim.from / RANGE_LEAVES;
        let count = usize::try_from(claim.to - claim.from).unwrap_or(usize::MAX);
        let afford = |spent: &mut u64| {
            let leaves = claim.to - claim.from;
            let room = is_affordable(*spent, leaves);
            *spent = spent.saturating_add(leaves);
            room.then_some(()).ok_or_else(|| bad(What::Index, "there are more roots of its range than a plane makes"))
        };
        let wanted = match usize::try_from(range).ok().and_then(|range| roots.get(range)) {
            Some(sealed) if claim.to - claim.from == RANGE_LEAVES => sealed.clone(),
            None => {
                afford(&mut spent)?;
                Claimed::of(&open.before(claim.to), times.get(..count).unwrap_or_default())
            }
            Some(_) if range + 1 == index / RANGE_LEAVES => {
                afford(&mut spent_before)?;
                Claimed::of(&before.before(claim.to), times_before.get(..count).unwrap_or_default())
            }
            Some(_) => return Err(bad(What::Index, "it speaks of a part of a range that was closed long before")),
        };
        let said = Claimed {
            root: claim.root,
            entries: claim.entries,
            first_time: claim.first_time,
            last_time: claim.last_time,
        };
        if said != wanted {
            return Err(bad(What::Index, "it is not what the leaves give"));
        }
        found.claims += 1;
        if claim.from <= found.covered {
            found.covered = found.covered.max(claim.to);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The signed checkpoint of a pack that was verified before.
///
/// # Errors
/// It cannot be read.
pub fn checkpoint_of(dir: &Path, key: &crate::note::VerifyingKey) -> Result<Checkpoint, Finding> {
    let bad = |detail: String| Finding { leaf: None, what: What::Signature, detail };
    let note = std::fs::read_to_string(dir.join(CHECKPOINT_FILE)).map_err(|error| bad(error.to_string()))?;
    Checkpoint::open(&note, key).map_err(|error| bad(error.to_string()))
}
