//! Single leaves with their proofs: what a partial pack and a proof of a run are made of.
//!
//! Each leaf is checked against the signed root by its own path, and against its neighbours where they are there. What
//! the leaves are *together* (a whole run, all of a window) is the business of [`Scope`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Hash,
    canonical::is_canonical,
    leaf::{Parsed, is_hash_text, leaf_hash},
    map::{Claim, Kind, MapProof, key, values},
    note::Checkpoint,
    proof::verify_inclusion,
    text::{base64_bytes, base64_hash, bytes_from_base64, from_base64},
    verify::{Finding, What},
};

/// Most hashes of a path: a log of 2^63 leaves has no longer one.
const PATH_MAX: usize = 64;

/// One leaf with its way to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafLine {
    /// Its number.
    pub index: u64,
    /// Its bytes, base64.
    pub leaf: String,
    /// From its sibling to the root, base64.
    pub proof: Vec<String>,
}

impl LeafLine {
    /// The line of a leaf.
    #[must_use]
    pub fn new(index: u64, leaf: &[u8], proof: &[Hash]) -> Self {
        Self { index, leaf: base64_bytes(leaf), proof: proof.iter().map(base64_hash).collect() }
    }

    /// The leaf's bytes, once its path leads to the root.
    ///
    /// # Errors
    /// It does not.
    pub fn open(&self, size: u64, root: &Hash) -> Result<Vec<u8>, Finding> {
        let bad = |what, detail: &str| Finding { leaf: Some(self.index), what, detail: detail.to_owned() };
        let leaf = bytes_from_base64(&self.leaf).ok_or_else(|| bad(What::Form, "its bytes are not base64"))?;
        let path: Option<Vec<Hash>> = self.proof.iter().take(PATH_MAX + 1).map(|hash| from_base64(hash)).collect();
        let path = path.ok_or_else(|| bad(What::Form, "its proof is not of hashes"))?;
        if !verify_inclusion(&leaf_hash(&leaf), self.index, size, &path, root) {
            return Err(bad(What::Bytes, "its proof does not lead from its bytes to the signed root"));
        }
        Ok(leaf)
    }
}

/// What the leaves are together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Scope {
    /// The leaves of one run, from its first on.
    Run {
        /// The run.
        run: String,
    },
    /// All leaves from a time on and before another; one leaf on either side may stand around them.
    Window {
        /// From this time on; the beginning of the log unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// Before this time; the end of the log unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// All leaves with a key, in whole ranges of the verifiable index.
    Key {
        /// What the key is of.
        of: Kind,
        /// Its value.
        value: String,
        /// The first leaf that is covered.
        from: u64,
        /// The first that is not.
        to: u64,
        /// Only those from this time on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// Only those before this time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    },
    /// Leaves that were drawn with an auditor's number.
    Sample {
        /// The auditor's number, as it was given.
        nonce: String,
        /// How many were asked for.
        count: u64,
        /// Drawn among the leaves before this one: what the checkpoint covers.
        of: u64,
    },
}

/// What the index says of a key in one range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeLine {
    /// The leaf of type `ledger.index` that holds the root of the range.
    pub claim: LeafLine,
    /// What it proves.
    pub map: MapProof,
}

/// What was found in the leaves so far.
#[derive(Debug)]
pub struct Extract {
    size: u64,
    root: Hash,
    scope: Scope,
    last: Option<(u64, Hash, String)>,
    tenant: String,
    run: Option<(u64, Hash)>,
    closed: bool,
    first_time: Option<String>,
    last_time: Option<String>,
    /// The leaves, for what refers to them.
    indexes: BTreeSet<u64>,
    /// Whether a leaf stood before the window, and whether one stood behind it.
    around: (bool, bool),
    /// Up to where the index covers the key.
    covered: Option<u64>,
    listed: BTreeSet<u64>,
    /// Leaves with the key that are not in the window.
    outside: BTreeSet<u64>,
    /// The first time and the last that the index covers.
    times: Option<(String, String)>,
}

/// A whole extract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Leaves that belong to what was asked for.
    pub leaves: u64,
    /// Whether nothing that belongs to it can be missing; a run that is not closed may have gone on.
    pub complete: bool,
    /// Time of the first.
    pub first_time: Option<String>,
    /// Time of the last.
    pub last_time: Option<String>,
}

impl Extract {
    /// Begins with a signed state of the log.
    #[must_use]
    pub fn new(checkpoint: &Checkpoint, scope: Scope) -> Self {
        let (size, root, tenant) = (checkpoint.size, checkpoint.root, checkpoint.tenant().to_owned());
        let (last, run, covered) = (None, None, None);
        let (first_time, last_time) = (None, None);
        let (indexes, listed, around) = (BTreeSet::new(), BTreeSet::new(), (false, false));
        Self {
            size,
            root,
            scope,
            last,
            tenant,
            run,
            closed: false,
            first_time,
            last_time,
            indexes,
            around,
            covered,
            listed,
            outside: BTreeSet::new(),
            times: None,
        }
    }

    /// The next leaf, which comes behind the one before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn leaf(&mut self, line: &LeafLine) -> Result<Vec<u8>, Finding> {
        let bytes = line.open(self.size, &self.root)?;
        let hash = leaf_hash(&bytes);
        self.place(line.index, &bytes, hash).map_err(|(what, detail)| Finding {
            leaf: Some(line.index),
            what,
            detail: detail.to_owned(),
        })?;
        Ok(bytes)
    }

    fn place(&mut self, index: u64, bytes: &[u8], hash: Hash) -> Result<(), (What, &'static str)> {
        if !is_canonical(bytes) {
            return Err((What::Form, "it is not canonical JSON"));
        }
        let leaf = Parsed::from_canonical(bytes).map_err(|detail| (What::Form, detail))?;
        if leaf.body.v != 1 {
            return Err((What::Form, "not a leaf of version 1"));
        }
        if leaf.chain.seq != index {
            return Err((What::Seq, "it says that it is another leaf"));
        }
        if leaf.chain.time.parse::<cogward_model::Timestamp>().is_err() {
            return Err((What::Time, "chain.time is not a time"));
        }
        if let Some((before, prev, time)) = &self.last {
            if index <= *before {
                return Err((What::Seq, "it does not come behind the leaf before"));
            }
            if index == before + 1 && !is_hash_text(leaf.chain.prev, Some(prev)) {
                return Err((What::Prev, "chain.prev is not the hash of the leaf before"));
            }
            if leaf.chain.time < time.as_str() {
                return Err((What::Time, "it is earlier than the leaf before"));
            }
        }
        if self.tenant != leaf.body.tenant {
            return Err((What::Tenant, "it belongs to another tenant than the log"));
        }
        self.belongs(index, &leaf, bytes, hash)?;
        self.last = Some((index, hash, leaf.chain.time.to_owned()));
        Ok(())
    }

    fn belongs(&mut self, index: u64, leaf: &Parsed<'_>, bytes: &[u8], hash: Hash) -> Result<(), (What, &'static str)> {
        match &self.scope {
            Scope::Run { run } => {
                if leaf.body.run != Some(run.as_str()) {
                    return Err((What::Scope, "it is not of the run"));
                }
                let (seq, prev) = match &self.run {
                    None => (0, None),
                    Some((seq, hash)) => (*seq, Some(hash)),
                };
                if leaf.body.run_seq != Some(seq + 1) || !is_hash_text(leaf.body.run_prev, prev) {
                    return Err((What::RunChain, "it does not follow the run's leaf before"));
                }
                self.run = Some((seq + 1, hash));
                self.closed |= leaf.body.kind == "run.closed";
            }
            Scope::Window { since, until } => {
                let gap = self.last.as_ref().is_some_and(|(before, ..)| index != before + 1);
                if gap || self.around.1 {
                    return Err((What::Scope, "the leaves of a window have no gap and end with it"));
                }
                if since.as_deref().is_some_and(|since| leaf.chain.time < since) {
                    if self.last.is_some() {
                        return Err((What::Scope, "it is before the window"));
                    }
                    self.around.0 = true;
                    return Ok(());
                }
                if until.as_deref().is_some_and(|until| leaf.chain.time >= until) {
                    self.around.1 = true;
                    // Both ends must be shown by what stands around, even where nothing is between.
                    self.around.0 |= index == 0;
                    return Ok(());
                }
                self.around.0 |= index == 0;
            }
            Scope::Key { of, value, from, to, since, until } => {
                if !(*from..*to).contains(&index) {
                    return Err((What::Scope, "it is outside of what the index covers"));
                }
                // The subject of a leaf is hidden: that it belongs to the key is in the map alone.
                let has = *of == Kind::Subject
                    || values(bytes).is_ok_and(|found| found.iter().any(|(kind, text)| kind == of && text == value));
                if !has {
                    return Err((What::Scope, "it does not have the key"));
                }
                // The index lists it, the window leaves it out: it is there to show its time.
                let early = since.as_deref().is_some_and(|since| leaf.chain.time < since);
                if early || until.as_deref().is_some_and(|until| leaf.chain.time >= until) {
                    self.outside.insert(index);
                    return Ok(());
                }
            }
            Scope::Sample { .. } => {}
        }
        self.indexes.insert(index);
        self.first_time.get_or_insert_with(|| leaf.chain.time.to_owned());
        self.last_time = Some(leaf.chain.time.to_owned());
        Ok(())
    }

    /// What the index says of the next range.
    ///
    /// # Errors
    /// It says nothing that holds.
    pub fn range(&mut self, line: &RangeLine) -> Result<(), Finding> {
        let bad = |detail: &str| Finding { leaf: Some(line.claim.index), what: What::Index, detail: detail.to_owned() };
        let Scope::Key { of, value, from, to, .. } = &self.scope else { return Err(bad("nobody asked for it")) };
        let leaf = line.claim.open(self.size, &self.root)?;
        let claim = Claim::of(&leaf).ok_or_else(|| bad("it is not a `ledger.index` of a known form"))?;
        if claim.to > line.claim.index {
            return Err(bad("it speaks of leaves that come behind it"));
        }
        if claim.from != self.covered.unwrap_or(*from) || claim.to > *to {
            return Err(bad("it is not the range that comes next"));
        }
        let (root, entries) = claim.tree(*of).ok_or_else(|| bad("its root is not a hash"))?;
        line.map.verify(&key(*of, value), &root, entries).map_err(bad)?;
        let inside = line.map.leaves.iter().all(|leaf| (claim.from..claim.to).contains(leaf));
        if !inside || !line.map.leaves.is_sorted_by(|a, b| a < b) {
            return Err(bad("its leaves are not in the range, in rising order"));
        }
        self.listed.extend(&line.map.leaves);
        self.covered = Some(claim.to);
        let first = self.times.take().map_or(claim.first_time, |(first, _)| first);
        self.times = Some((first, claim.last_time));
        Ok(())
    }

    /// Whether a leaf is among those that belong to what was asked for.
    #[must_use]
    pub fn has(&self, index: u64) -> bool {
        self.indexes.contains(&index)
    }

    /// The tenant of the log, and of every leaf.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// Something is missing.
    pub fn finish(self) -> Result<Extracted, Finding> {
        let bad = |what, detail: &str| Err(Finding { leaf: None, what, detail: detail.to_owned() });
        let complete = match &self.scope {
            Scope::Run { .. } => {
                if self.indexes.is_empty() {
                    return bad(What::Scope, "there is no leaf of the run");
                }
                self.closed
            }
            Scope::Window { .. } => {
                let ends_at = self.last.as_ref().map_or(0, |(last, ..)| last + 1);
                let begins = self.around.0 || self.size == 0;
                let ends = self.around.1 || ends_at == self.size;
                if !(begins && ends) {
                    return bad(What::Scope, "the leaves around the window are not there: some of it may be missing");
                }
                true
            }
            Scope::Key { from, to, since, until, .. } => {
                if self.covered.unwrap_or(*from) != *to {
                    return bad(What::Index, "the index does not cover all that was asked for");
                }
                if self.listed != self.indexes.union(&self.outside).copied().collect() {
                    return bad(What::Index, "the leaves are not those that the index lists");
                }
                // Leaves are in the order of their times: what is before the first one is earlier still.
                let (first, last) = self.times.as_ref().map_or(("", ""), |(first, last)| (first, last));
                if *from > 0 && since.as_deref().is_none_or(|since| first >= since) {
                    return bad(What::Index, "the window begins before what the index covers");
                }
                until.as_deref().is_none_or(|until| last >= until)
            }
            Scope::Sample { nonce, count, of } => {
                if *of != self.size {
                    return bad(What::Scope, "the sample was drawn from another number of leaves than were signed");
                }
                if crate::sample::draw(&self.root, nonce, self.size, *count) != self.indexes {
                    return bad(What::Scope, "the leaves are not those that the number draws");
                }
                true
            }
        };
        let Self { indexes, first_time, last_time, .. } = self;
        Ok(Extracted { leaves: indexes.len() as u64, complete, first_time, last_time })
    }
}
