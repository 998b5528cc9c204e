//! The query index: where leaves are, what they can be found by, and the hashes that proofs are made of.
//!
//! A thread behind the sequencer reads what is committed and writes it into `index.db`, a few thousand leaves at a
//! time; nothing waits for it, and it never stops the ledger. The file is not the truth: it is made anew from the log
//! when it is missing, broken, of another form or found to say what the log does not. The same thread puts the
//! roots of the verifiable index into the logs, made from the leaves themselves and not from the file.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cogward_ledger::{
    Hash,
    leaf::leaf_hash,
    map::{Claim, RANGE_LEAVES},
    tree::Frontier,
};
use cogward_model::{TenantName, Timestamp, event::EventType};
use cogward_wal::Position;
use tokio::sync::oneshot;

use crate::{
    read::ReadError,
    record::{RecordError, Shared},
    segments::unfetched,
    vault::KEY_ID_BYTES,
};

mod forget;
mod leaves;
mod ranges;
mod table;
pub(crate) mod terms;

pub(crate) use self::{
    forget::Going,
    leaves::{Found, Leaves},
    ranges::maps,
    table::{LogRow, Table},
};
use table::Added;
pub use table::IndexError;
use terms::{Read, Term};

/// How often the log is looked at while nobody asks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Leaves that are added at once.
const BATCH_LEAVES: usize = 4_096;
/// Bytes that are read for it at most.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Logs whose right edge is remembered.
const EDGES_MAX: usize = 256;
/// After an error of the disk or the ledger it is left alone for so long.
const REST: Duration = Duration::from_secs(15);

/// What the thread is asked to do.
pub(crate) enum Ask {
    /// Go on to the end of the log, then say so.
    CatchUp(oneshot::Sender<()>),
    /// Make it anew from the log; answered when the old one is gone.
    Rebuild(&'static str, Option<oneshot::Sender<()>>),
    /// Put the root of the open range of a tenant into its log.
    Seal(TenantName, oneshot::Sender<Result<(), SealError>>),
    /// Go on to the end of the log, then say no more whose the leaves are whose persons go.
    Forget(TenantName, Going, oneshot::Sender<()>),
    /// End.
    Stop,
}

/// Why there is no root for the open range.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The side of the index that asks.
pub(crate) struct Handle {
    pub(crate) path: PathBuf,
    asks: Mutex<Option<mpsc::Sender<Ask>>>,
    /// How often it was made anew.
    anew: AtomicU64,
}

impl Handle {
    /// An index beside the log, whose thread is not started yet, and what it will be asked.
    pub(crate) fn new(dir: &Path) -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel();
        (Self { path: dir.join("index.db"), asks: Mutex::new(Some(sender)), anew: AtomicU64::new(0) }, receiver)
    }

    fn ask(&self, ask: Ask) -> bool {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.as_ref().is_some_and(|asks| asks.send(ask).is_ok())
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.ask(Ask::Stop);
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until everything that is committed now is indexed, but not longer than `patience`.
    pub(crate) async fn caught_up(&self, patience: Duration) {
        let (reply, answer) = oneshot::channel();
        if self.ask(Ask::CatchUp(reply)) {
            let _late = tokio::time::timeout(patience, answer).await;
        }
    }

    /// What was found does not fit to the log: the index is made anew.
    pub(crate) fn damaged(&self, what: &'static str) -> IndexError {
        tracing::warn!(what, "the evidence index is not what the log gives; it is made anew");
        self.ask(Ask::Rebuild(what, None));
        IndexError::Damaged(what)
    }

    /// The same for an error of the file itself.
    pub(crate) fn checked(&self, error: IndexError) -> IndexError {
        if table::is_broken(&error) { self.damaged("it cannot be read") } else { error }
    }

    /// Makes the index anew; answers when the old one is gone.
    pub(crate) async fn rebuild(&self) -> Result<(), IndexError> {
        let (reply, answer) = oneshot::channel();
        if !self.ask(Ask::Rebuild("an operator asked for it", Some(reply))) {
            return Err(IndexError::Closed);
        }
        answer.await.map_err(|_| IndexError::Closed)
    }

    /// How often it was made anew since the start.
    pub(crate) fn times_anew(&self) -> u64 {
        self.anew.load(Ordering::Acquire)
    }

    /// An index that was begun while keys went may know whose the leaves are: it is begun once more.
    pub(crate) fn forget_by_beginning_anew(&self) {
        self.ask(Ask::Rebuild("keys were destroyed while it was made", None));
    }

    /// Has it say no more whose the leaves are whose persons go, or removes it. Blocks.
    pub(crate) fn forget(&self, tenant: &TenantName, going: Going) -> Result<(), IndexError> {
        let (reply, answer) = oneshot::channel();
        if !self.ask(Ask::Forget(tenant.clone(), going, reply)) {
            return Err(IndexError::Closed);
        }
        answer.blocking_recv().map_err(|_| IndexError::Closed)
    }

    /// Puts the root of the tenant's open range into its log.
    pub(crate) async fn seal(&self, tenant: &TenantName) -> Result<(), SealError> {
        let (reply, answer) = oneshot::channel();
        if !self.ask(Ask::Seal(tenant.clone(), reply)) {
            return Err(IndexError::Closed.into());
        }
        answer.await.unwrap_or(Err(IndexError::Closed.into()))
    }
}

/// The unfinished tiles of a log.
#[derive(Default)]
struct Edge {
    size: u64,
    sealed: u64,
    levels: Vec<Vec<u8>>,
}

impl Edge {
    fn push(&mut self, leaf: Hash, full: &mut Vec<(u32, u64, Vec<u8>)>) {
        let (mut hash, mut count) = (leaf, self.size);
        self.size += 1;
        for level in 0.. {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(level) else { return };
            hashes.extend_from_slice(&hash);
            if hashes.len() < 256 * 32 {
                return;
            }
            let mut tree = Frontier::default();
            hashes.as_chunks::<32>().0.iter().for_each(|hash| tree.push(*hash));
            hash = tree.root();
            count /= 256;
            full.push((u32::try_from(level).unwrap_or(u32::MAX), count, std::mem::take(hashes)));
        }
    }

    fn unfinished(&self) -> impl Iterator<Item = (u32, u64, Vec<u8>)> {
        let there = self.levels.iter().enumerate().filter(|(_, hashes)| !hashes.is_empty());
        there.map(|(level, hashes)| {
            let level = u32::try_from(level).unwrap_or(u32::MAX);
            (level, (self.size >> (8 * level)) / 256, hashes.clone())
        })
    }
}

/// What stands in the index for the terms of one tenant, as far as it is known: each is a keyed hash.
type Tags = HashMap<(Term, String), [u8; KEY_ID_BYTES]>;

/// Everything that the thread owns.
struct Indexer {
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    waiting: VecDeque<Ask>,
    runtime: tokio::runtime::Runtime,
    table: Option<Table>,
    position: Position,
    edges: BTreeMap<TenantName, Edge>,
    stopping: bool,
    /// After an error: not before this.
    rests_until: Option<Instant>,
    seals_after: Option<Instant>,
}

/// Starts the thread.
pub(crate) fn spawn(shared: Arc<Shared>, asks: mpsc::Receiver<Ask>) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let indexer = Indexer {
        shared,
        asks,
        waiting: VecDeque::new(),
        runtime,
        table: None,
        position: Position::default(),
        edges: BTreeMap::new(),
        stopping: false,
        rests_until: None,
        seals_after: None,
    };
    std::thread::Builder::new().name("ledger-index".to_owned()).spawn(move || indexer.run())
}

impl Indexer {
    fn run(mut self) {
        // What agents wait for goes first. Without the right to say so it is as before.
        let _same = rustix::process::nice(5);
        while !self.stopping {
            match self.asks.recv_timeout(LOOK_EVERY) {
                Ok(ask) => self.waiting.push_back(ask),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            self.take();
            let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
            // Whoever asks does not wait for the rest to be over.
            if self.stopping || (rests && self.waiting.is_empty()) {
                continue;
            }
            self.rests_until = None;
            if let Err(error) = self.work() {
                tracing::warn!(error = &error as &dyn std::error::Error, "the evidence index is not current");
                if let SealError::Index(index) = &error
                    && table::is_broken(index)
                {
                    self.begin_anew("it could not be written");
                }
                self.rests_until = Some(Instant::now() + REST);
                self.edges.clear();
                self.shut();
                self.forget_by_removing();
                // Those who wait are told by what they then find.
                self.waiting.clear();
            }
        }
        self.shut();
    }

    /// Takes what was asked meanwhile.
    fn take(&mut self) {
        self.waiting.extend(self.asks.try_iter());
        self.stopping |= self.waiting.iter().any(|ask| matches!(ask, Ask::Stop));
        if self.waiting.iter().any(|ask| matches!(ask, Ask::Rebuild(..))) {
            let mut why = "";
            let mut told = Vec::new();
            for ask in std::mem::take(&mut self.waiting) {
                match ask {
                    Ask::Rebuild(cause, reply) => {
                        why = cause;
                        told.extend(reply);
                    }
                    other => self.waiting.push_back(other),
                }
            }
            self.begin_anew(why);
            for reply in told {
                let _gone = reply.send(());
            }
        }
    }

    /// What cannot be taken out of the index takes it along.
    fn forget_by_removing(&mut self) {
        let asked: Vec<Ask> = self.waiting.drain(..).filter(|ask| matches!(ask, Ask::Forget(..))).collect();
        if asked.is_empty() {
            return;
        }
        self.begin_anew("an erasure could not be carried out in it");
        // Without an answer the erasure fails, and is repeated.
        if table::files(&self.shared.index.path).iter().any(|file| file.exists()) {
            return;
        }
        for ask in asked {
            if let Ask::Forget(_, _, reply) = ask {
                let _gone = reply.send(());
            }
        }
    }

    /// Gives the file back, with what SQLite puts beside it: without that it would go on for a moment behind our back.
    fn shut(&mut self) {
        if let Some(table) = self.table.take() {
            self.runtime.block_on(table.close());
        }
    }

    fn begin_anew(&mut self, why: &str) {
        tracing::info!(why, "the evidence index is made anew from the log");
        self.shared.index.anew.fetch_add(1, Ordering::AcqRel);
        self.shut();
        self.edges.clear();
        self.position = Position::default();
        // Nothing more is released before it is there again.
        self.shared.segments.passed.index.store(0, Ordering::Release);
        if let Err(error) = table::remove(&self.shared.index.path) {
            tracing::warn!(%error, "the evidence index could not be removed");
        }
    }

    fn work(&mut self) -> Result<(), SealError> {
        self.open()?;
        self.catch_up()?;
        while let Some(ask) = self.waiting.pop_front() {
            match ask {
                Ask::CatchUp(reply) => {
                    let _gone = reply.send(());
                }
                Ask::Seal(tenant, reply) => {
                    let _gone = reply.send(self.seal_open(&tenant));
                }
                Ask::Forget(tenant, going, reply) => {
                    if let Err(error) = self.forget(&tenant, &going) {
                        self.waiting.push_front(Ask::Forget(tenant, going, reply));
                        return Err(error);
                    }
                    let _gone = reply.send(());
                }
                Ask::Rebuild(..) | Ask::Stop => {}
            }
        }
        if self.seals_after.is_none_or(|after| after <= Instant::now()) {
            self.seals_after = None;
            if let Err(error) = self.seal_ranges() {
                self.seals_after = Some(Instant::now() + REST);
                return Err(error);
            }
        }
        Ok(())
    }

    fn table(&mut self) -> Result<(&tokio::runtime::Runtime, &mut Table), IndexError> {
        let Self { runtime, table, .. } = self;
        table.as_mut().map(|table| (&*runtime, table)).ok_or(IndexError::Closed)
    }

    fn open(&mut self) -> Result<(), IndexError> {
        if self.table.is_some() {
            return Ok(());
        }
        let path = self.shared.index.path.clone();
        let plane = self.shared.keyring.plane_id().to_owned();
        for attempt in 0..2 {
            let opened = self.runtime.block_on(async {
                let Some(mut table) = Table::open(&path, &plane).await? else { return Ok(None) };
                let position = table.position().await?;
                Ok::<_, IndexError>(Some((table, position)))
            });
            match opened {
                Ok(Some((table, position))) if position <= self.shared.progress.end() => {
                    self.shared.segments.passed.index.store(position.segment, Ordering::Release);
                    (self.table, self.position) = (Some(table), position);
                    return Ok(());
                }
                // Longer than the log: it belongs to another one.
                Ok(_) if attempt == 0 => self.begin_anew("it is of another form, another plane or a longer log"),
                Err(error) if attempt == 0 && table::is_broken(&error) => self.begin_anew("it cannot be read"),
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        Err(IndexError::Damaged("it cannot be made anew"))
    }

    fn catch_up(&mut self) -> Result<(), SealError> {
        while !self.stopping && self.table.is_some() {
            let end = self.shared.progress.end();
            if self.position >= end {
                return Ok(());
            }
            if let Err(error) = self.batch(end) {
                let read = matches!(&error, SealError::Read(_)) && unfetched(&error).is_none();
                if read && self.position > Position::default() {
                    // The place is not one of this log; if the log itself is damaged, the next attempt says so.
                    self.begin_anew("its place in the log is not there");
                }
                return Err(error);
            }
            self.take();
            self.open()?;
        }
        Ok(())
    }

    /// Indexes the next leaves.
    fn batch(&mut self, end: Position) -> Result<(), SealError> {
        let mut reader = Leaves::new(&self.shared.segments, self.position, end).heads();
        let (mut found, mut logs) = (Found::default(), BTreeMap::<TenantName, (Added, Tags)>::new());
        let (mut count, mut bytes, mut position) = (0, 0, self.position);
        let (mut time, mut time_text) = (0, String::new());
        if self.edges.len() > EDGES_MAX {
            self.edges.clear();
        }
        while count < BATCH_LEAVES && bytes < BATCH_BYTES {
            if !reader.next(&mut found)? {
                position = end;
                break;
            }
            position = found.end;
            let damaged = || ReadError::Damaged(found.at);
            let tenant: TenantName = found.tenant.parse().map_err(|_| damaged())?;
            let keys = self.shared.keyring.tenant(&tenant).map_err(ReadError::Keys)?;
            let read = Read::from_bytes(&found.leaf).ok_or_else(damaged)?;
            if read.chain.time != time_text {
                time = read.chain.time.parse::<Timestamp>().map_err(|_| damaged())?.unix_micros();
                read.chain.time.clone_into(&mut time_text);
            }
            if !self.edges.contains_key(&tenant) {
                let edge = self.load(&tenant)?;
                self.edges.insert(tenant.clone(), edge);
            }
            let Some(edge) = self.edges.get_mut(&tenant) else { continue };
            if read.chain.seq != edge.size {
                return Err(IndexError::Damaged("it misses leaves").into());
            }
            let (added, tags) = logs.entry(tenant).or_default();
            let is_claim = read.kind() == EventType::LedgerIndexed.as_str();
            for (term, value) in read.terms(&keys, &found.sealed).map_err(ReadError::Keys)? {
                // Most leaves are found by what those before them are found by.
                let tag = tags.entry((term, value)).or_insert_with_key(|(term, value)| terms::tag(&keys, *term, value));
                added.terms.push((*tag, edge.size));
            }
            if is_claim && let Some(claim) = Claim::of(&found.leaf) {
                added.claims.push((claim.from, claim.to, edge.size));
                if claim.from == edge.sealed && claim.to - claim.from == RANGE_LEAVES {
                    edge.sealed = claim.to;
                }
            }
            added.leaves.push((edge.size, found.at, time));
            edge.push(leaf_hash(&found.leaf), &mut added.tiles);
            count += 1;
            bytes += found.leaf.len() + found.sealed.iter().map(Vec::len).sum::<usize>();
        }
        for (tenant, (added, _)) in &mut logs {
            if let Some(edge) = self.edges.get(tenant) {
                added.tiles.extend(edge.unfinished());
                (added.size, added.sealed) = (edge.size, edge.sealed);
            }
            added.terms.sort_unstable();
        }
        let (runtime, table) = self.table()?;
        runtime.block_on(table.add(position, logs.iter().map(|(tenant, (added, _))| (tenant, added))))?;
        self.position = position;
        self.shared.segments.passed.index.store(position.segment, Ordering::Release);
        Ok(())
    }

    fn load(&mut self, tenant: &TenantName) -> Result<Edge, IndexError> {
        let (runtime, table) = self.table()?;
        runtime.block_on(async {
            let Some(LogRow { id, size, sealed }) = table.log(tenant.as_str()).await? else {
                return Ok(Edge::default());
            };
            let mut edge = Edge { size, sealed, levels: Vec::new() };
            for level in 0_u32.. {
                let count = size >> (8 * level);
                if count == 0 {
                    break;
                }
                let width = usize::try_from(count % 256).unwrap_or(0);
                let hashes = match width {
                    0 => Vec::new(),
                    _ => table.tile(id, level, count / 256, width).await?.concat(),
                };
                edge.levels.push(hashes);
            }
            Ok(edge)
        })
    }
}
