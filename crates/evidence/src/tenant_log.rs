//! One tenant's log as the sequencer knows it: its right edge and the ends of its runs.

use std::collections::{BTreeSet, HashMap};

use cogward_ledger::{Hash, leaf::Place, tree::Frontier};
use cogward_model::RunId;
use cogward_wal::Position;
use serde::{Deserialize, Serialize};

/// Closed runs whose end is still known, for an outcome that comes late.
const CLOSED_RUNS_MAX: usize = 65_536;

/// A tenant's log.
#[derive(Default)]
pub(crate) struct TenantLog {
    pub(crate) tree: Frontier,
    prev: Option<Hash>,
    runs: HashMap<RunId, RunEnd>,
    closed: BTreeSet<RunId>,
    /// Every closed run up to this one may be forgotten.
    forgotten: Option<RunId>,
    /// The size that was last handed over to be signed.
    pub(crate) checkpointed: u64,
    /// Where the frames of the last leaf begin.
    pub(crate) last_at: Position,
}

struct RunEnd {
    seq: u64,
    last: Hash,
}

/// What a snapshot keeps of a log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogImage {
    pub(crate) size: u64,
    subtrees: Vec<Hash>,
    pub(crate) prev: Option<Hash>,
    /// Segment and offset.
    pub(crate) last_at: (u64, u64),
    runs: Vec<(RunId, u64, Hash)>,
    closed: Vec<RunId>,
    forgotten: Option<RunId>,
}

impl TenantLog {
    /// What a snapshot keeps.
    pub(crate) fn image(&self) -> LogImage {
        LogImage {
            size: self.tree.size(),
            subtrees: self.tree.subtrees().to_vec(),
            prev: self.prev,
            last_at: (self.last_at.segment, self.last_at.offset),
            runs: self.runs.iter().map(|(run, end)| (*run, end.seq, end.last)).collect(),
            closed: self.closed.iter().copied().collect(),
            forgotten: self.forgotten,
        }
    }

    /// The log as a snapshot kept it, or `None` when that is no log.
    pub(crate) fn from_image(image: LogImage) -> Option<Self> {
        let LogImage { size, subtrees, prev, last_at: (segment, offset), runs, closed, forgotten } = image;
        Some(Self {
            tree: Frontier::from_parts(size, subtrees)?,
            prev,
            runs: runs.into_iter().map(|(run, seq, last)| (run, RunEnd { seq, last })).collect(),
            closed: closed.into_iter().collect(),
            forgotten,
            checkpointed: size,
            last_at: Position { segment, offset },
        })
    }

    /// Where the next leaf goes; `None` when its run is closed and forgotten.
    pub(crate) fn place<'a>(&self, run: Option<RunId>, time: &'a str) -> Option<Place<'a>> {
        let end = run.and_then(|run| self.runs.get(&run));
        if let (Some(run), None) = (run, end)
            && self.forgotten.is_some_and(|forgotten| run <= forgotten)
        {
            return None;
        }
        Some(Place {
            seq: self.tree.size(),
            prev: self.prev,
            time,
            run_seq: end.map_or(1, |end| end.seq + 1),
            run_prev: end.map(|end| end.last),
        })
    }

    /// Takes a leaf in at the place it was given.
    pub(crate) fn push(&mut self, hash: Hash, run: Option<(RunId, u64)>, closes: bool) {
        self.tree.push(hash);
        self.prev = Some(hash);
        let Some((run, seq)) = run else { return };
        self.runs.insert(run, RunEnd { seq, last: hash });
        if closes {
            self.closed.insert(run);
            if self.closed.len() > CLOSED_RUNS_MAX
                && let Some(oldest) = self.closed.pop_first()
            {
                self.runs.remove(&oldest);
                self.forgotten = self.forgotten.max(Some(oldest));
            }
        }
    }

    /// The hash of the last leaf.
    pub(crate) fn last(&self) -> Option<Hash> {
        self.prev
    }
}

#[cfg(test)]
mod tests {
    use cogward_model::{SystemClock, SystemEntropy};

    use super::*;

    #[test]
    fn a_run_goes_on_after_its_close_until_it_is_forgotten_and_never_starts_anew() {
        let mut log = TenantLog::default();
        let mut first = None;
        for n in 0..=CLOSED_RUNS_MAX {
            let run = RunId::new(&SystemClock, &SystemEntropy);
            let oldest = *first.get_or_insert(run);
            first = Some(oldest.min(run));
            assert_eq!(log.place(Some(run), "").unwrap().run_seq, 1);
            log.push([0; 32], Some((run, 1)), true);
            if n < CLOSED_RUNS_MAX {
                assert_eq!(log.place(Some(run), "").unwrap().run_seq, 2);
            }
        }
        assert!(log.place(first, "").is_none());
    }
}
