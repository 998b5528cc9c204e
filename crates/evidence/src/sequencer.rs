//! The sequencer: the one thread that gives leaves their order and waits for the disk.
//!
//! A batch is everything that waits. Its leaves get their places in memory, go into the write-ahead
//! log with one flush for all tenants, and only after that flush is anybody told. New data keys are
//! flushed first: a leaf whose values nobody could ever open again would be a loss that looks like none.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use cogward_ledger::leaf::leaf_hash;
use cogward_model::{
    RunId, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
    id::EventId,
};
use cogward_wal::{Position, Wal};
use tokio::sync::oneshot;

use crate::{
    checkpoint::{Job, Work},
    frames,
    plane::{LogName, PlaneLog},
    queue::{Append, Item},
    record::{LeafRef, RecordError, Shared},
    snapshot::{Image, PlaneImage, Snapshots},
    tenant_log::TenantLog,
};

/// Checkpoints are signed this often while there is news.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// A batch is flushed when it is this long, so that its first waiter does not wait for its last.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A clock that goes back by less is held without a record: time services do that all day.
const STEP_MICROS: u64 = 50_000;
/// A clock that is further ahead than the time that passed was set, or the host slept.
const AHEAD_MICROS: u64 = 1_000_000;

/// Everything the thread owns.
pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) wal: Wal,
    pub(crate) logs: HashMap<TenantName, TenantLog>,
    pub(crate) plane: PlaneLog,
    /// When the plane log may be signed again.
    pub(crate) plane_at: Instant,
    pub(crate) last_time: Timestamp,
    pub(crate) checkpoints: mpsc::Sender<Work>,
    /// Leaves of outbox events that the store has not yet been told of.
    pub(crate) published: HashMap<EventId, LeafRef>,
    pub(crate) batch: Batch,
    pub(crate) clock_held: bool,
    /// The clock's last word, and when by a clock that nobody sets.
    pub(crate) clock_read: Option<(Timestamp, Instant)>,
    /// The time of the batch: one for all its leaves, read when the first of them came.
    pub(crate) batch_time: Option<Arc<str>>,
    pub(crate) snapshots: Snapshots,
}

/// What is in the write-ahead log's buffer and not acknowledged.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: usize,
    /// All that was written since the start.
    written: u64,
    replies: Vec<(oneshot::Sender<Result<LeafRef, RecordError>>, LeafRef)>,
    runs: Vec<(TenantName, RunId, Position)>,
    leaf: Vec<u8>,
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        // Nobody may wait for a thread that is gone, whatever ended it.
        if std::thread::panicking() {
            self.shared.fail(&std::io::Error::other("the sequencer ended by a defect"));
        }
        self.shared.queue.close();
    }
}

impl Sequencer {
    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut items = VecDeque::new();
        let mut checkpoint_at = Instant::now() + CHECKPOINT_EVERY;
        loop {
            self.shared.queue.take(checkpoint_at.saturating_duration_since(Instant::now()), &mut items);
            let mut stop = false;
            for item in items.drain(..) {
                match item {
                    Item::Append(append) => self.append(*append),
                    Item::Checkpoint(tenant, reply) => {
                        self.commit();
                        self.checkpoint(&tenant, Some(reply));
                    }
                    Item::PlaneCheckpoint(reply) => {
                        self.commit();
                        self.plane_checkpoint(Some(reply));
                    }
                    Item::Plane(submitted) => self.anchor(*submitted),
                    Item::Forget(ids) => ids.iter().for_each(|id| drop(self.published.remove(id))),
                    Item::Stop => stop = true,
                }
            }
            self.commit();
            if stop || Instant::now() >= checkpoint_at {
                checkpoint_at = Instant::now() + CHECKPOINT_EVERY;
                let news = self.logs.iter().filter(|(_, log)| log.tree.size() > log.checkpointed);
                let news: Vec<_> = news.map(|(tenant, _)| tenant.clone()).collect();
                news.iter().for_each(|tenant| self.checkpoint(tenant, None));
                self.snapshot();
            }
            self.plane_tick(stop);
            if stop {
                return;
            }
        }
    }

    fn append(&mut self, mut append: Append) {
        let reply = append.reply.take();
        match self.place(&append) {
            Ok(leaf) => {
                if append.once {
                    self.published.insert(append.id, leaf.clone());
                }
                if let Some(reply) = reply {
                    self.batch.replies.push((reply, leaf));
                }
            }
            Err(error) => {
                if let Some(reply) = reply {
                    let _gone = reply.send(Err(error));
                } else {
                    tracing::error!(%error, event = %append.id, "a note could not be recorded");
                }
            }
        }
        if self.batch.bytes >= BATCH_BYTES_MAX {
            self.commit();
        }
    }

    fn place(&mut self, append: &Append) -> Result<LeafRef, RecordError> {
        self.shared.check()?;
        if append.once
            && let Some(leaf) = self.published.get(&append.id)
        {
            return Ok(leaf.clone());
        }
        let time = self.time();
        let log = self.logs.entry(append.tenant.clone()).or_default();
        let place = log.place(append.body.run, &time).ok_or(RecordError::RunClosed)?;
        let mut leaf = std::mem::take(&mut self.batch.leaf);
        leaf.clear();
        append.body.assemble(&place, &mut leaf);
        let written = self.write(append, &leaf);
        let hash = leaf_hash(&leaf);
        self.batch.leaf = leaf;
        let position = written?;
        let Some(log) = self.logs.get_mut(&append.tenant) else { return Err(RecordError::RunClosed) };
        let run = append.body.run.map(|run| (run, place.run_seq));
        log.push(hash, run, append.kind == EventType::RunClosed);
        log.last_at = position;
        if let Some(run) = append.body.run {
            self.batch.runs.push((append.tenant.clone(), run, position));
        }
        Ok(LeafRef { tenant: append.tenant.clone(), seq: place.seq, id: append.id })
    }

    /// Puts a leaf and what is sealed for it into the batch.
    fn write(&mut self, append: &Append, leaf: &[u8]) -> Result<Position, RecordError> {
        let mut first = None;
        let mut put = |kind, parts: &[&[u8]]| {
            self.batch.bytes += parts.iter().map(|part| part.len()).sum::<usize>();
            let position = self.wal.append(kind, parts).map_err(|error| self.shared.fail(&error))?;
            first.get_or_insert(position);
            Ok::<_, RecordError>(())
        };
        for sealed in &append.sealed {
            put(frames::SEALED, &[sealed])?;
        }
        put(frames::LEAF, &[&frames::tenant_prefix(append.tenant.as_str()), leaf])?;
        Ok(first.unwrap_or_default())
    }

    /// The time of the next leaf: the clock's, but never earlier than the leaf before.
    pub(crate) fn time(&mut self) -> Arc<str> {
        if let Some(time) = &self.batch_time {
            return Arc::clone(time);
        }
        let time = self.next_time().to_string().into();
        Arc::clone(self.batch_time.insert(time))
    }

    fn next_time(&mut self) -> Timestamp {
        let (now, read_at) = (self.shared.clock.now(), Instant::now());
        let before = self.clock_read.replace((now, read_at));
        if now >= self.last_time {
            (self.last_time, self.clock_held) = (now, false);
            let ahead = before.map_or(0, |(time, at)| {
                let passed = u64::try_from(read_at.duration_since(at).as_micros()).unwrap_or(u64::MAX);
                now.micros_since(time).saturating_sub(passed)
            });
            if ahead >= AHEAD_MICROS {
                tracing::warn!(micros = ahead, "the host's clock went ahead of the time that passed");
                self.stepped("ahead_us", ahead, now);
            }
            return now;
        }
        let back = self.last_time.micros_since(now);
        if back >= STEP_MICROS && !self.clock_held {
            self.clock_held = true;
            tracing::warn!(micros = back, "the host's clock went back; the ledger's time waits for it");
            self.stepped("back_us", back, now);
        }
        self.last_time
    }

    /// Records that the clock was set.
    fn stepped(&mut self, way: &'static str, micros: u64, clock: Timestamp) {
        let step = Event::new(EventType::TimeStepped, TenantName::default_tenant(), Attribution::plane())
            .public(way, micros)
            .public("clock", clock.to_string());
        match self.shared.prepare(&step, self.shared.mint()) {
            Ok(append) => self.append(append),
            Err(error) => tracing::error!(%error, "the clock's step could not be recorded"),
        }
    }

    /// Flushes the batch and tells everyone in it.
    fn commit(&mut self) {
        let flushed = self.shared.check().and_then(|()| {
            self.shared.keyring.save().map_err(|error| self.shared.fail(&error))?;
            self.wal.commit().map_err(|error| self.shared.fail(&error))
        });
        if let Ok(end) = &flushed {
            self.shared.progress.advance(*end, self.batch.runs.drain(..));
        }
        self.batch.written += self.batch.bytes as u64;
        self.batch.bytes = 0;
        self.batch_time = None;
        self.batch.runs.clear();
        for (reply, leaf) in self.batch.replies.drain(..) {
            let _gone = reply.send(match &flushed {
                Ok(_) => Ok(leaf),
                Err(error) => Err(error.clone()),
            });
        }
    }

    /// Keeps what a start would otherwise have to read the log for, once it has grown enough. Only called when
    /// the batch is empty and every log was handed over to be signed.
    fn snapshot(&mut self) {
        if let Some(start) = self.wal.start()
            && self.snapshots.are_due(self.batch.written)
        {
            // Of an empty log nothing is signed.
            let logs = self.logs.iter().filter(|(_, log)| log.tree.size() > 0);
            let tenants = logs.map(|(tenant, log)| (tenant.clone(), log.image())).collect();
            let schema = self.shared.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if self.plane.tree.size() > self.plane.checkpointed {
                self.plane_checkpoint(None);
            }
            let plane = PlaneImage::new(&self.plane.tree, self.shared.anchors.newest());
            let image = Image::new(start, self.last_time, schema, tenants, plane, self.shared.progress.image());
            let taken = self.snapshots.take(image, self.batch.written);
            // That it is not there is told where it signs.
            let _ended = self.checkpoints.send(Work::Keep(Box::new(taken)));
        }
    }

    /// Hands the log's state over to be signed. Only called when the batch is empty: what is signed is durable.
    fn checkpoint(
        &mut self,
        tenant: &TenantName,
        reply: Option<oneshot::Sender<Result<crate::SignedCheckpoint, RecordError>>>,
    ) {
        if let Err(error) = self.shared.check() {
            if let Some(reply) = reply {
                let _gone = reply.send(Err(error));
            }
            return;
        }
        // A tenant without leaves has an empty log, and no state of it is made by asking.
        let (size, root) = match self.logs.get_mut(tenant) {
            Some(log) => {
                log.checkpointed = log.tree.size();
                (log.tree.size(), log.tree.root())
            }
            None => (0, cogward_ledger::tree::empty_root()),
        };
        let job = Job { log: LogName::Tenant(tenant.clone()), size, root, end: self.wal.end(), reply };
        // It ends after this one: that it is not there means that it broke.
        if self.checkpoints.send(Work::Sign(job)).is_err() {
            let _told = self.shared.fail(&std::io::Error::other("the thread that signs checkpoints ended"));
        }
    }
}
