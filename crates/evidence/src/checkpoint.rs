//! Signing checkpoints and watching the space: the thread beside the sequencer, off the path of events.
//!
//! The last signed checkpoint of each tenant is in a file of its own, flushed before anyone is given
//! it. At start the log must reach it: that is what makes a log that was rolled back visible.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cogward_ledger::{
    Hash,
    note::{Checkpoint, NOTE_BYTES_MAX},
};
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
};
use cogward_wal::Position;
use tokio::sync::oneshot;

use crate::{
    durable,
    plane::{self, LogName},
    publish::Publish,
    queue::Item,
    record::{Health, RecordError, Shared},
    snapshot::Taken,
    unsigned,
};

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A tenant's log, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// Leaves.
    pub size: u64,
    /// The C2SP signed note.
    pub note: String,
    /// Where the write-ahead log ended then: everything that was signed is before it.
    pub(crate) end: Position,
}

/// One log state to sign.
pub(crate) struct Job {
    pub(crate) log: LogName,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) end: Position,
    pub(crate) reply: Option<oneshot::Sender<Result<SignedCheckpoint, RecordError>>>,
}

/// What the thread that signs does, in this order.
pub(crate) enum Work {
    Sign(Job),
    /// Keeps a snapshot of what was handed over to be signed before it.
    Keep(Box<Taken>),
}

/// The file of a log's last checkpoint.
pub(crate) fn path(dir: &Path, log: &LogName) -> PathBuf {
    log.dir(dir).join("checkpoint")
}

/// Works until the sequencer is gone.
pub(crate) fn run(
    shared: &Arc<Shared>,
    work: &mpsc::Receiver<Work>,
    tiles: &mpsc::Sender<Publish>,
    low_water_bytes: u64,
) {
    let mut look_at = Instant::now();
    // What could not be written because the disk was full, or signed because a token does not answer: the newest of
    // each log.
    let mut waiting: HashMap<LogName, Job> = HashMap::new();
    let mut snapshot: Option<JoinHandle<()>> = None;
    loop {
        if Instant::now() >= look_at {
            look_at = Instant::now() + LOOK_EVERY;
            look(shared, low_water_bytes);
            for (_, job) in std::mem::take(&mut waiting) {
                if let Err(RecordError::NoSpace | RecordError::Unsigned(_)) = sign(shared, tiles, &job) {
                    waiting.insert(job.log.clone(), job);
                }
            }
            unsigned::look(shared);
        }
        match work.recv_timeout(look_at.saturating_duration_since(Instant::now())) {
            Ok(Work::Sign(mut job)) => {
                let signed = sign(shared, tiles, &job);
                let full = matches!(signed, Err(RecordError::NoSpace));
                let later = full || matches!(signed, Err(RecordError::Unsigned(_)));
                if let Some(reply) = job.reply.take() {
                    let _gone = reply.send(signed);
                }
                if full {
                    look(shared, low_water_bytes);
                }
                if later {
                    waiting.insert(job.log.clone(), job);
                } else {
                    waiting.remove(&job.log);
                }
            }
            // While a log waits to be signed, the snapshot before is the one that a start would believe.
            Ok(Work::Keep(taken)) if waiting.is_empty() && shared.check().is_ok() => match taken.write() {
                Ok(writing) => snapshot = Some(writing),
                Err(error) => tracing::warn!(%error, "a snapshot could not be written"),
            },
            Ok(Work::Keep(_)) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Some(writing) = snapshot {
        let _ended = writing.join();
    }
}

fn sign(shared: &Shared, tiles: &mpsc::Sender<Publish>, job: &Job) -> Result<SignedCheckpoint, RecordError> {
    shared.check()?;
    let keys = shared.keys_of(&job.log).map_err(|error| shared.fail(&error))?;
    let _same_key = keys.while_signing();
    let signing = keys.key();
    let path = path(&shared.dir, &job.log);
    // The plane log speaks of a checkpoint by its bytes: the same state is signed once.
    let there = durable::read(&path, NOTE_BYTES_MAX as u64).ok().flatten().and_then(|b| String::from_utf8(b).ok());
    let same = there.filter(|note| {
        let opened = Checkpoint::open(note, signing.verifying());
        opened.is_ok_and(|of| (of.size, of.root) == (job.size, job.root))
    });
    let is_new = same.is_none();
    let signed = same.map_or_else(|| signing.signed_checkpoint(job.size, &job.root), Ok);
    let note = shared.unsigned.told(&job.log, signed)?;
    // An empty log has nothing that could be lost.
    if job.size > 0 && is_new {
        path.parent()
            .map_or(Ok(()), durable::directory)
            .and_then(|()| durable::replace(&path, note.as_bytes()))
            .map_err(|error| match error.kind() {
                // The older checkpoint is still in place and the leaves are in the log, which has its
                // segments written ahead: nothing is lost, and nothing was acknowledged that is not there.
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RecordError::NoSpace,
                _ => shared.fail(&error),
            })?;
    }
    shared.newest.told(&job.log, job.size, job.root);
    if let LogName::Tenant(tenant) = &job.log {
        plane::submit(shared, tenant, signing.verifying().origin(), job.size, job.root, &note);
    }
    let publish = Publish { log: job.log.clone(), size: job.size, root: job.root, note: note.clone(), end: job.end };
    // Whoever writes tiles ends after this thread.
    let _ended = tiles.send(publish);
    Ok(SignedCheckpoint { size: job.size, note, end: job.end })
}

/// Compares the free space with the mark, and says so once when it crosses it.
fn look(shared: &Shared, low_water_bytes: u64) {
    let free = || rustix::fs::statvfs(&shared.dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    // A disk that cannot be asked is taken to be full.
    let mut space = free().unwrap_or_else(|| {
        tracing::warn!("the free space of the ledger's disk cannot be asked");
        0
    });
    // What was brought here to be read goes before agents stop.
    if space < low_water_bytes && shared.segments.forget_fetched() {
        space = free().unwrap_or(space);
    }
    let free = space;
    let before = shared.health.borrow().clone();
    // A quarter more before agents may go on: otherwise one file more or less would flap.
    let enough = low_water_bytes.saturating_add(low_water_bytes / 4);
    let (now, kind) = match before {
        Health::Ok if free < low_water_bytes => (Health::LowSpace { free }, EventType::LedgerLowSpace),
        Health::LowSpace { .. } if free >= enough => (Health::Ok, EventType::LedgerSpaceRestored),
        _ => return,
    };
    shared.health.send_if_modified(|health| {
        // The sequencer may have failed in between, and that stays.
        let stays = matches!(health, Health::Failed { .. } | Health::Unsigned { .. });
        if !stays {
            *health = now;
        }
        !stays
    });
    let event = Event::new(kind, TenantName::default_tenant(), Attribution::plane())
        .public("free_bytes", free)
        .public("low_water_bytes", low_water_bytes);
    match shared.prepare(&event, shared.mint()) {
        Ok(append) => drop(shared.queue.push(Item::Append(Box::new(append)))),
        Err(error) => tracing::error!(%error, "the state of the disk could not be recorded"),
    }
}
