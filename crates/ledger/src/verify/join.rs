//! The walk over the log: bundles are looked at on all processors, and joined in their order.

use std::{path::Path, sync::mpsc, thread};

use crate::{
    Hash,
    key_chain::STATEMENTS_MAX,
    leaf::is_hash_text,
    note::Checkpoint,
    tiles::{HashTiles, TILE_WIDTH, TileSink},
    tree::{Frontier, empty_root},
};

use super::{
    Finding, Options, RUNS_MAX, What,
    bundle::{Part, Problem, Reader, Rule},
    log_finding, read,
    runs::Runs,
};

/// Bundles that a thread may be ahead of the joining: bounds the memory.
const AHEAD: usize = 8;

/// Leaves about keys that are kept until the end: those of the log itself, and in one log those of the plane log.
const KEY_LEAVES_MAX: usize = 4 * STATEMENTS_MAX;

/// What the walk tells of a log that holds.
pub(super) struct Walked {
    pub(super) runs: u64,
    pub(super) closed_runs: u64,
    pub(super) first_time: Option<String>,
    pub(super) last_time: Option<String>,
    /// The root at the size of the older checkpoint, when the log is as long.
    pub(super) older_root: Option<Hash>,
    /// The leaves about keys of logs, in their order.
    pub(super) key_leaves: Vec<(u64, Vec<u8>)>,
}

/// Walks the log as often as its runs need.
pub(super) fn walk(
    dir: &Path,
    checkpoint: &Checkpoint,
    older: Option<&Checkpoint>,
    options: &Options<'_>,
) -> Result<Walked, Finding> {
    let runs_max = if options.runs_max == 0 { RUNS_MAX } else { options.runs_max };
    let log = once(dir, checkpoint, older, options.threads, Runs::new(runs_max))?;
    let (mut runs, mut closed_runs) = log.runs.count();
    for part in 1..1_u64 << log.runs.bits {
        let more = once(dir, checkpoint, older, options.threads, log.runs.other(part))?;
        let (found, closed) = more.runs.count();
        (runs, closed_runs) = (runs + found, closed_runs + closed);
    }
    let Log { first_time, last_time, older_root, key_leaves, .. } = log;
    let text = |time: Option<Box<str>>| time.map(String::from);
    Ok(Walked { runs, closed_runs, first_time: text(first_time), last_time: text(last_time), older_root, key_leaves })
}

fn once<'a>(
    dir: &'a Path,
    checkpoint: &Checkpoint,
    older: Option<&Checkpoint>,
    threads: usize,
    runs: Runs,
) -> Result<Log<'a>, Finding> {
    let size = checkpoint.size;
    let older = older.map(|older| older.size);
    let bundles = size.div_ceil(TILE_WIDTH as u64);
    let mut log = Log::new(dir, checkpoint.tenant(), older, runs);
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        given => given,
    };
    let threads = threads.min(usize::try_from(bundles).unwrap_or(usize::MAX)).max(1);
    thread::scope(|scope| {
        let mut parts = Vec::with_capacity(threads);
        for worker in 0..threads {
            let (send, receive) = mpsc::sync_channel(AHEAD);
            let work = move || {
                let mut reader = Reader::new(dir, size, older);
                for bundle in (worker as u64..bundles).step_by(threads) {
                    // Nobody takes it any more: something was wrong before.
                    if send.send(reader.part(bundle)).is_err() {
                        return;
                    }
                }
            };
            let started = thread::Builder::new().spawn_scoped(scope, work);
            started.map_err(|error| log_finding(What::Missing, format!("a thread: {error}")))?;
            parts.push(receive);
        }
        for (bundle, parts) in (0..bundles).zip(parts.iter().cycle()) {
            let part = parts.recv().map_err(|_| log_finding(What::Missing, "a thread ended by a defect"))?;
            log.take(bundle, (size - bundle * TILE_WIDTH as u64).min(TILE_WIDTH as u64), part)?;
        }
        Ok(())
    })?;
    log.finish(checkpoint)?;
    Ok(log)
}

/// What is known of the log so far.
struct Log<'a> {
    above: Compare<'a>,
    older_root: Option<Hash>,
    /// Over the roots of the full bundles.
    tree: Frontier,
    tiles: HashTiles,
    /// The root over the last bundle, when it is not full.
    rest: Option<Hash>,
    prev: Option<Hash>,
    /// Whose log it is, by its signed name.
    tenant: Box<str>,
    first_time: Option<Box<str>>,
    last_time: Option<Box<str>>,
    runs: Runs,
    key_leaves: Vec<(u64, Vec<u8>)>,
}

impl<'a> Log<'a> {
    fn new(dir: &'a Path, tenant: &str, older: Option<u64>, runs: Runs) -> Self {
        Self {
            above: Compare { dir, wrong: None },
            // Every log begins as the empty one.
            older_root: (older == Some(0)).then(empty_root),
            tree: Frontier::default(),
            tiles: HashTiles::above_leaves(),
            rest: None,
            prev: None,
            tenant: tenant.into(),
            first_time: None,
            last_time: None,
            runs,
            key_leaves: Vec::new(),
        }
    }

    /// Takes the next bundle of `width` leaves.
    fn take(&mut self, bundle: u64, width: u64, part: Part) -> Result<(), Finding> {
        let first = bundle * TILE_WIDTH as u64;
        let mut wrong = part.problem;
        // A problem within the bundle may lie behind one that only shows here, or before it.
        let mut found = |problem: Problem| {
            if wrong.as_ref().is_none_or(|before| (problem.leaf, problem.rule) < (before.leaf, before.rule)) {
                wrong = Some(problem);
            }
        };
        if let Some(ends) = part.ends {
            if !is_hash_text(ends.prev.as_deref(), self.prev.as_ref()) {
                let detail = "chain.prev is not the hash of the leaf before";
                found(Problem::of_leaf(first, Rule::Prev, What::Prev, detail));
            }
            if self.last_time.as_ref().is_some_and(|last| ends.first_time < *last) {
                found(Problem::of_leaf(first, Rule::Time, What::Time, "it is earlier than the leaf before"));
            }
            if self.tenant != ends.tenant {
                let detail = "it belongs to another tenant than the log";
                found(Problem::of_leaf(first, Rule::Tenant, What::Tenant, detail));
            }
            self.prev = Some(ends.last);
            self.first_time.get_or_insert(ends.first_time);
            self.last_time = Some(ends.last_time);
        }
        for run in &part.runs {
            if let Err(detail) = self.runs.take(run) {
                found(Problem::of_leaf(run.leaf, Rule::Run, What::RunChain, detail));
            }
        }
        if let Some(Problem { finding, .. }) = wrong {
            return Err(finding);
        }
        self.key_leaves.extend(part.key_leaves);
        if let Some((leaf, _)) = self.key_leaves.get(KEY_LEAVES_MAX) {
            let detail = "there are more leaves about keys than a log can have".to_owned();
            return Err(Finding { leaf: Some(*leaf), what: What::Key, detail });
        }
        if let Some(older) = &part.older {
            self.older_root = Some(self.tree.root_over(older));
        }
        if width < TILE_WIDTH as u64 {
            self.rest = Some(part.root);
            return Ok(());
        }
        self.tree.push(part.root);
        self.tiles.push(part.root, &mut self.above)
    }

    /// Looks at the tiles above the leaves and at the root.
    fn finish(&mut self, checkpoint: &Checkpoint) -> Result<(), Finding> {
        self.tiles.finish(&mut self.above)?;
        if let Some(finding) = self.above.wrong.take() {
            return Err(finding);
        }
        let root = self.rest.as_ref().map_or_else(|| self.tree.root(), |rest| self.tree.root_over(rest));
        if root != checkpoint.root {
            return Err(log_finding(What::Root, "the root over all leaves is not the one in the signed checkpoint"));
        }
        Ok(())
    }
}

/// Compares the tiles above the leaves with the files; those of the leaves were compared one by one.
struct Compare<'a> {
    dir: &'a Path,
    /// The first that is not what the leaves give: said when all leaves hold.
    wrong: Option<Finding>,
}

impl TileSink for Compare<'_> {
    type Error = Finding;

    fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), Finding> {
        if self.wrong.is_none() {
            self.wrong = match read(self.dir, path, TILE_WIDTH * 32) {
                Ok(file) if file == bytes => None,
                Ok(_) => Some(log_finding(What::Tile, format!("{path} is not what the leaves give"))),
                Err(finding) => Some(finding),
            };
        }
        Ok(())
    }
}
