//! One bundle of up to 256 leaves, looked at by itself: everything that needs no other bundle.
//!
//! What does need one (who comes before the first leaf, where its runs stood) is written down for
//! [`super::join`], which sees the bundles in order.

use std::{collections::HashMap, ops::Range, path::Path};

use crate::{
    Hash,
    key_chain::{REVOKED, ROTATED},
    leaf::{Parsed, is_hash_text, to_hash},
    tiles::{self, TILE_WIDTH},
    tree::Frontier,
};

use super::{BUNDLE_BYTES_MAX, Finding, What, log_finding, read_into, runs::Run};

/// The order in which the rules are looked at within one leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// Its bytes, its form and its number.
    Itself,
    /// Who comes before it.
    Prev,
    Time,
    Tenant,
    Run,
}

/// Something that is wrong, and where: the smallest place is the verdict.
pub(super) struct Problem {
    pub(super) leaf: u64,
    pub(super) rule: Rule,
    pub(super) finding: Finding,
}

impl Problem {
    pub(super) fn of_leaf(leaf: u64, rule: Rule, what: What, detail: impl Into<String>) -> Self {
        Self { leaf, rule, finding: Finding { leaf: Some(leaf), what, detail: detail.into() } }
    }
}

/// The leaves of one run in a bundle.
pub(super) struct RunPart {
    pub(super) id: Box<str>,
    /// The first of them, and what it says of its place.
    pub(super) leaf: u64,
    pub(super) seq: Option<u64>,
    pub(super) prev: Option<Box<str>>,
    /// The run behind the last of them.
    pub(super) end: Run,
}

/// What the bundle's first leaf says of the one before, and its last leaf to the one behind.
pub(super) struct Ends {
    pub(super) prev: Option<Box<str>>,
    pub(super) tenant: Box<str>,
    pub(super) first_time: Box<str>,
    pub(super) last_time: Box<str>,
    pub(super) last: Hash,
}

/// What one bundle gives.
#[derive(Default)]
pub(super) struct Part {
    /// None when there is no leaf that could be read.
    pub(super) ends: Option<Ends>,
    pub(super) runs: Vec<RunPart>,
    /// The root over its leaves.
    pub(super) root: Hash,
    /// The root over the first of them, up to the size of the older checkpoint.
    pub(super) older: Option<Hash>,
    /// The leaves about keys of logs.
    pub(super) key_leaves: Vec<(u64, Vec<u8>)>,
    /// The first thing that is wrong in it.
    pub(super) problem: Option<Problem>,
}

/// Reads bundles; each thread has one, for its buffers.
pub(super) struct Reader<'a> {
    dir: &'a Path,
    size: u64,
    older: Option<u64>,
    entries: Vec<u8>,
    tile: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(dir: &'a Path, size: u64, older: Option<u64>) -> Self {
        Self { dir, size, older, entries: Vec::new(), tile: Vec::new() }
    }

    /// Looks at a bundle.
    pub(super) fn part(&mut self, bundle: u64) -> Part {
        let mut part = Part::default();
        part.problem = self.fill(bundle, &mut part).err();
        part
    }

    fn fill(&mut self, bundle: u64, part: &mut Part) -> Result<(), Problem> {
        let first = bundle * TILE_WIDTH as u64;
        let width = usize::try_from(self.size - first).unwrap_or(usize::MAX).min(TILE_WIDTH);
        let before = |finding| Problem { leaf: first, rule: Rule::Itself, finding };
        let name = tiles::path("entries", bundle, width);
        read_into(self.dir, &name, BUNDLE_BYTES_MAX, &mut self.entries).map_err(before)?;
        let tile_name = tiles::path("0", bundle, width);
        read_into(self.dir, &tile_name, TILE_WIDTH * 32, &mut self.tile).map_err(before)?;
        let (hashes, rest) = self.tile.as_chunks::<32>();
        if hashes.len() != width || !rest.is_empty() {
            let detail = format!("{tile_name} does not hold {width} hashes");
            return Err(before(log_finding(What::Tile, detail)));
        }
        let mut places = Vec::with_capacity(width);
        // A leaf before the one whose bytes are wrong may be wrong in itself: that one is the first.
        let bytes = hash_leaves(&mut self.entries, hashes, &mut places, (first, &name, &tile_name));
        let mut leaves = Leaves { prev: None, runs: HashMap::new(), part };
        for (place, (seq, hash)) in places.into_iter().zip((first..).zip(hashes)) {
            let leaf = self.entries.get(place).unwrap_or_default();
            leaves.take(seq, leaf, hash)?;
        }
        bytes?;
        let older = self.older.and_then(|older| older.checked_sub(first)).filter(|older| *older > 0);
        let mut tree = Frontier::default();
        for hash in hashes {
            tree.push(*hash);
            if Some(tree.size()) == older {
                part.older = Some(tree.root());
            }
        }
        part.root = tree.root();
        Ok(())
    }
}

/// Compares each leaf's hash with the tile's, and says where the leaves lie.
fn hash_leaves(
    entries: &mut [u8],
    hashes: &[Hash],
    places: &mut Vec<Range<usize>>,
    (first, name, tile_name): (u64, &str, &str),
) -> Result<(), Problem> {
    let mut at = 0;
    for (seq, expected) in (first..).zip(hashes) {
        let wrong = |detail| Err(Problem::of_leaf(seq, Rule::Itself, What::Bytes, detail));
        let length = entries.get(at..).and_then(|rest| rest.first_chunk::<2>()).map(|l| u16::from_be_bytes(*l));
        let start = at + 2;
        let end = start + usize::from(length.unwrap_or_default());
        if length.is_none() || end > entries.len() {
            return wrong(format!("{name} ends within this leaf"));
        }
        // The second byte of the length becomes the zero that RFC 6962 puts before a leaf: nothing is copied.
        if let Some(byte) = entries.get_mut(start - 1) {
            *byte = 0;
        }
        let prefixed = entries.get(start - 1..end).unwrap_or_default();
        if to_hash(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, prefixed)) != *expected {
            return wrong(format!("its bytes do not have the hash that {tile_name} holds for it"));
        }
        places.push(start..end);
        at = end;
    }
    if at == entries.len() {
        return Ok(());
    }
    let finding = log_finding(What::Bytes, format!("{name} has bytes behind its last leaf"));
    Err(Problem { leaf: first + hashes.len() as u64, rule: Rule::Itself, finding })
}

/// The leaves of a bundle, in order.
struct Leaves<'a, 'p> {
    prev: Option<Hash>,
    /// Where in `part.runs` each run stands.
    runs: HashMap<&'a str, usize>,
    part: &'p mut Part,
}

impl<'a> Leaves<'a, '_> {
    fn take(&mut self, seq: u64, bytes: &'a [u8], hash: &Hash) -> Result<(), Problem> {
        let wrong = |rule, what, detail: &str| Err(Problem::of_leaf(seq, rule, what, detail));
        let leaf = match Parsed::from_canonical(bytes) {
            Ok(leaf) => leaf,
            Err(detail) => return wrong(Rule::Itself, What::Form, detail),
        };
        let (body, chain) = (&leaf.body, &leaf.chain);
        if body.v != 1 {
            let detail = format!("version {} is not known to this verifier", body.v);
            return wrong(Rule::Itself, What::Form, &detail);
        }
        if chain.seq != seq {
            return wrong(Rule::Itself, What::Seq, &format!("it says that it is leaf {}", chain.seq));
        }
        match (&self.prev, &mut self.part.ends) {
            (Some(prev), Some(ends)) => {
                if !is_hash_text(chain.prev, Some(prev)) {
                    return wrong(Rule::Prev, What::Prev, "chain.prev is not the hash of the leaf before");
                }
                // Leaves of one batch have one time: it is read once.
                if *ends.last_time != *chain.time {
                    if !is_time(chain.time) {
                        return wrong(Rule::Time, What::Time, "chain.time is not a time");
                    }
                    // Text order is time order, given that the form is always the same.
                    if *chain.time < *ends.last_time {
                        return wrong(Rule::Time, What::Time, "it is earlier than the leaf before");
                    }
                    ends.last_time = chain.time.into();
                }
                if *ends.tenant != *body.tenant {
                    return wrong(Rule::Tenant, What::Tenant, "it belongs to another tenant than the leaves before");
                }
                ends.last = *hash;
            }
            _ => {
                let (prev, tenant, time) = (chain.prev.map(Into::into), body.tenant.into(), chain.time);
                let (first_time, last_time) = (time.into(), time.into());
                self.part.ends = Some(Ends { prev, tenant, first_time, last_time, last: *hash });
                if !is_time(time) {
                    return wrong(Rule::Time, What::Time, "chain.time is not a time");
                }
            }
        }
        if body.kind == ROTATED || body.kind == REVOKED {
            self.part.key_leaves.push((seq, bytes.to_vec()));
        }
        self.prev = Some(*hash);
        self.run(seq, &leaf, hash)
    }

    fn run(&mut self, seq: u64, leaf: &Parsed<'a>, hash: &Hash) -> Result<(), Problem> {
        let body = &leaf.body;
        let wrong = |detail: String| Err(Problem::of_leaf(seq, Rule::Run, What::RunChain, detail));
        let Some(id) = body.run else {
            if body.run_prev.is_some() || body.run_seq.is_some() {
                return wrong("it has a place in a run and names none".to_owned());
            }
            return Ok(());
        };
        let closed = body.kind == "run.closed";
        let known = self.runs.get(id).and_then(|at| self.part.runs.get_mut(*at));
        let Some(known) = known else {
            let end = Run { seq: body.run_seq.unwrap_or_default(), last: *hash, closed };
            let prev = body.run_prev.map(Into::into);
            self.runs.insert(id, self.part.runs.len());
            self.part.runs.push(RunPart { id: id.into(), leaf: seq, seq: body.run_seq, prev, end });
            return Ok(());
        };
        match known.end.follow(body.run_seq, body.run_prev) {
            Ok(()) => {
                known.end = Run { seq: known.end.seq + 1, last: *hash, closed: known.end.closed || closed };
                Ok(())
            }
            Err(detail) => wrong(format!("{id}: {detail}")),
        }
    }
}

fn is_time(text: &str) -> bool {
    text.parse::<cogward_model::Timestamp>().is_ok()
}
