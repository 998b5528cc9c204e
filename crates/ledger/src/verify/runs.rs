//! The chains of runs over the whole log, in bounded memory.
//!
//! A run may go on after its close, so no run can be forgotten. When there are more than fit, only
//! those of one part are followed in this walk over the log, and the others in further walks. The
//! parts are chosen by a hash with a key of this process, so that no log can be made to fill one.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::{Hash, leaf::is_hash_text};

use super::bundle::RunPart;

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) seq: u64,
    pub(super) last: Hash,
    pub(super) closed: bool,
}

impl Run {
    /// Whether a leaf that says this of its place follows here.
    pub(super) fn follow(&self, seq: Option<u64>, prev: Option<&str>) -> Result<(), &'static str> {
        if seq != self.seq.checked_add(1) {
            return Err("run_seq does not follow the one before");
        }
        if !is_hash_text(prev, Some(&self.last)) {
            return Err("run_prev is not the hash of the run's leaf before");
        }
        Ok(())
    }
}

/// The runs of one part.
pub(super) struct Runs {
    known: HashMap<Box<str>, Run>,
    hasher: RandomState,
    /// The part is chosen by so many bits of the hash.
    pub(super) bits: u32,
    /// Which one is followed.
    part: u64,
    max: usize,
}

impl Runs {
    pub(super) fn new(max: usize) -> Self {
        Self { known: HashMap::new(), hasher: RandomState::new(), bits: 0, part: 0, max }
    }

    /// The same division, another part of it.
    pub(super) fn other(&self, part: u64) -> Self {
        // It was divided finely enough by the first walk; this one is not divided again.
        Self { known: HashMap::new(), hasher: self.hasher.clone(), bits: self.bits, part, max: usize::MAX }
    }

    fn is_mine(&self, id: &str) -> bool {
        self.hasher.hash_one(id) & ((1 << self.bits) - 1) == self.part
    }

    /// Takes the leaves of a run in one bundle.
    pub(super) fn take(&mut self, run: &RunPart) -> Result<(), String> {
        if !self.is_mine(&run.id) {
            return Ok(());
        }
        let broken = |detail: &str| Err(format!("{}: {detail}", run.id));
        match self.known.get_mut(&run.id) {
            None if run.seq != Some(1) || run.prev.is_some() => {
                broken("its first leaf here is not the first of the run")
            }
            None => {
                self.known.insert(run.id.clone(), run.end);
                self.divide();
                Ok(())
            }
            Some(known) => match known.follow(run.seq, run.prev.as_deref()) {
                Ok(()) => {
                    *known = Run { closed: known.closed || run.end.closed, ..run.end };
                    Ok(())
                }
                Err(detail) => broken(detail),
            },
        }
    }

    /// Keeps half of the runs, while there are too many.
    fn divide(&mut self) {
        while self.known.len() > self.max && self.bits < 32 {
            self.bits += 1;
            let (hasher, mask) = (&self.hasher, (1_u64 << self.bits) - 1);
            self.known.retain(|id, _| hasher.hash_one(id) & mask == 0);
        }
    }

    pub(super) fn count(&self) -> (u64, u64) {
        (self.known.len() as u64, self.known.values().filter(|run| run.closed).count() as u64)
    }
}
