//! The face of the ledger: an event goes in, and the answer means that it is on the disk.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use cogward_ledger::leaf::{self, EncodeError};
use cogward_model::{
    Clock, Entropy, TenantName,
    event::{Attribution, Event, EventType, FieldClass},
    id::EventId,
};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    checkpoint::SignedCheckpoint,
    data_keys::{Purpose, Sealing, day},
    index,
    keys::{Keyring, KeyringError, TenantKeys},
    plane::Anchors,
    publish::Published,
    queue::{Append, Item, Queue},
    read::Progress,
    segments::Segments,
    stamped::Timestamps,
    unsigned::Unsigned,
    vault,
    witnessed::Witnesses,
};

/// Callers of [`Evidence::record`] that wait at once; the rest queue before they encode.
pub(crate) const RECORDS_IN_FLIGHT_MAX: usize = 16_384;

/// Where an event is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRef {
    /// Whose log.
    pub tenant: TenantName,
    /// Its number in it.
    pub seq: u64,
    /// The event.
    pub id: EventId,
}

/// Why an event is not in the ledger.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The event itself cannot become a leaf.
    #[error("the event cannot be recorded")]
    Encode(#[from] EncodeError),
    /// The tenant's keys could not be made or read.
    #[error("the tenant's keys are not usable: {0}")]
    Keys(String),
    /// Too much waits for the disk.
    #[error("too many events wait for the disk")]
    Busy,
    /// The run was closed long ago, its chain is complete.
    #[error("the run's chain is closed")]
    RunClosed,
    /// The checkpoint did not fit on the disk; it is written when there is space. Nothing is lost.
    #[error("the disk is full, so the newest checkpoint is not written yet")]
    NoSpace,
    /// The key of the log does not sign: it is in a token that does not answer. It is tried again; nothing is lost.
    #[error("the log cannot be signed now: {0}")]
    Unsigned(Arc<str>),
    /// An earlier write failed; nothing is recorded until the plane is started again.
    #[error("the ledger cannot be written: {0}")]
    Failed(Arc<str>),
}

/// Whether evidence can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ok,
    /// It can, but the disk is nearly full: agents must stop, the audit goes on.
    LowSpace {
        /// Bytes left.
        free: u64,
    },
    /// It can, but nothing of it was signed for a while: agents must stop, the audit goes on.
    Unsigned {
        /// Why not.
        why: Arc<str>,
    },
    /// It cannot, for the life of this process.
    Failed {
        /// The first error.
        why: Arc<str>,
    },
}

/// What all threads of the ledger share.
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) keyring: Keyring,
    pub(crate) queue: Queue,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) failed: AtomicBool,
    pub(crate) progress: Progress,
    pub(crate) permits: Semaphore,
    /// Whether an event that is not what the schema says is refused.
    pub(crate) strict: bool,
    /// The digest of the schema that the log named last.
    pub(crate) schema: Mutex<Option<String>>,
    /// Read from the sealing of an event until it waits for its place; written while keys are retired. So every
    /// value under a retired key is in the log once the queue is empty.
    pub(crate) sealing: RwLock<()>,
    pub(crate) index: index::Handle,
    pub(crate) segments: Arc<Segments>,
    pub(crate) anchors: Anchors,
    pub(crate) published: Published,
    pub(crate) witnesses: Witnesses,
    pub(crate) timestamps: Timestamps,
    pub(crate) unsigned: Unsigned,
    /// Held while the keys of a log are changed.
    pub(crate) key_changes: tokio::sync::Mutex<()>,
}

impl Shared {
    /// Stops the ledger; the first cause stays.
    pub(crate) fn fail(&self, why: &dyn std::error::Error) -> RecordError {
        let mut text = why.to_string();
        let mut source = why.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        if !self.failed.swap(true, Ordering::AcqRel) {
            tracing::error!(cause = %text, "the ledger cannot be written any more");
            self.health.send_replace(Health::Failed { why: text.into() });
        }
        self.failure()
    }

    pub(crate) fn failure(&self) -> RecordError {
        let why = match &*self.health.borrow() {
            Health::Failed { why } => Arc::clone(why),
            // Between the flag and the message there is a moment.
            _ => "a write failed".into(),
        };
        RecordError::Failed(why)
    }

    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if self.failed.load(Ordering::Acquire) { Err(self.failure()) } else { Ok(()) }
    }

    /// Everything about an event that needs no order: its body, its commitments, their sealing.
    pub(crate) fn prepare(&self, event: &Event, id: EventId) -> Result<Append, RecordError> {
        self.check()?;
        if self.strict {
            let checked = cogward_ledger::schema::schema().check(event);
            let told = checked.inspect_err(|error| tracing::error!(%error, "an event is not what the schema says"));
            told.map_err(EncodeError::from)?;
        }
        let body = leaf::encode(event, &id, &*self.entropy)?;
        let keys = self.keyring.tenant(&event.tenant).map_err(|error: KeyringError| {
            tracing::error!(%error, "a tenant's keys are not usable");
            RecordError::Keys(error.to_string())
        })?;
        let mut sealed = Vec::with_capacity(body.committed.len());
        let id_text = id.to_string();
        let today = day(self.clock.now());
        for committed in &body.committed {
            let frame = data_key(&keys, event, &committed.field, committed.class, today)
                .and_then(|key| {
                    let (entropy, tenant) = (&*self.entropy, event.tenant.as_str());
                    vault::seal(&key, entropy, tenant, &id_text, &committed.field, &committed.disclosure)
                })
                .ok_or_else(|| RecordError::Keys("a value could not be sealed".to_owned()))?;
            sealed.push(frame);
        }
        Ok(Append { tenant: event.tenant.clone(), id, kind: event.kind, body, sealed, once: false, reply: None })
    }

    pub(crate) fn mint(&self) -> EventId {
        leaf::mint_id(&*self.clock, &*self.entropy)
    }
}

/// What a call added to the counts that policies read: amounts, and nobody's name. Without it nothing that counts can be
/// decided after a restart, so it is the tenant's and no erasure takes it along.
pub(crate) const COUNTED: &str = "history";

/// The key for a field: that of the person whom it is about, in this run, today. What belongs to nobody and no run is
/// the tenant's.
fn data_key(
    keys: &TenantKeys,
    event: &Event,
    field: &str,
    class: FieldClass,
    today: u32,
) -> Option<Arc<vault::DataKey>> {
    let by = event.by.subject.as_deref();
    let person = if field == "sub" { by } else { event.about.as_deref().or(by) };
    if field == COUNTED {
        let purpose = Purpose { class: Sealing::Confidential, subject: None, run: None };
        return keys.data.sealing(purpose, today);
    }
    let (class, subject) = match class {
        FieldClass::Personal => (Sealing::Personal, person),
        // What a customer's business was outside of any run, an operator's going does not take along.
        FieldClass::Confidential | FieldClass::Public => {
            (Sealing::Confidential, person.filter(|_| event.run.is_some()))
        }
    };
    keys.data.sealing(Purpose { class, subject, run: event.run }, today)
}

/// The ledger. Clones are the same one; dropping the last writes what waits and ends its threads.
#[derive(Clone)]
pub struct Evidence {
    pub(crate) shared: Arc<Shared>,
    _threads: Arc<Threads>,
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// The threads of the ledger; they end when the last handle is dropped.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    sequencer: Option<JoinHandle<()>>,
    checkpointer: Option<JoinHandle<()>>,
    publisher: Option<JoinHandle<()>>,
    indexer: Option<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The index may be waiting for a record of its own: it ends while there is still a sequencer.
        self.shared.index.stop();
        if let Some(indexer) = self.indexer.take() {
            let _ended = indexer.join();
        }
        let _full = self.shared.queue.push(Item::Stop);
        // Each holds the channel of the next: they end one after the other.
        for thread in [self.sequencer.take(), self.checkpointer.take(), self.publisher.take()].into_iter().flatten() {
            let _ended = thread.join();
        }
    }
}

impl Evidence {
    pub(crate) fn new(
        shared: Arc<Shared>,
        indexer: JoinHandle<()>,
        [sequencer, checkpointer, publisher]: [JoinHandle<()>; 3],
    ) -> Self {
        let threads = Threads {
            shared: Arc::clone(&shared),
            sequencer: Some(sequencer),
            checkpointer: Some(checkpointer),
            publisher: Some(publisher),
            indexer: Some(indexer),
        };
        Self { shared, _threads: Arc::new(threads) }
    }

    /// Records an event. The answer comes when its leaf is on the disk.
    ///
    /// Dropping the future does not take the event back.
    ///
    /// # Errors
    /// See [`RecordError`]; then the event's effect must not happen.
    pub async fn record(&self, event: Event) -> Result<LeafRef, RecordError> {
        // Held until the answer: this bounds what waits.
        let _permit = self.shared.permits.acquire().await.map_err(|_| self.shared.failure())?;
        let answer = self.submit(&event, self.shared.mint(), false)?;
        answer.await.unwrap_or_else(|_| Err(self.shared.failure()))
    }

    /// Records an event behind everything before it, without waiting. It is on the disk no later than
    /// the next [`Evidence::record`] that is answered, and after about 100 ms in any case.
    ///
    /// # Errors
    /// See [`RecordError`]; then it is not recorded.
    pub fn note(&self, event: Event) -> Result<EventId, RecordError> {
        let id = self.shared.mint();
        let _sealing = self.shared.sealing.read().unwrap_or_else(PoisonError::into_inner);
        let append = self.shared.prepare(&event, id)?;
        self.shared.queue.push(Item::Append(Box::new(append))).map_err(|_| RecordError::Busy)?;
        Ok(id)
    }

    pub(crate) fn submit(
        &self,
        event: &Event,
        id: EventId,
        once: bool,
    ) -> Result<oneshot::Receiver<Result<LeafRef, RecordError>>, RecordError> {
        let _sealing = self.shared.sealing.read().unwrap_or_else(PoisonError::into_inner);
        let mut append = self.shared.prepare(event, id)?;
        let (reply, answer) = oneshot::channel();
        (append.once, append.reply) = (once, Some(reply));
        self.shared.queue.push(Item::Append(Box::new(append))).map_err(|_| RecordError::Busy)?;
        Ok(answer)
    }

    /// Signs what the tenant's log is now, all that was accepted before included.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn checkpoint(&self, tenant: &TenantName) -> Result<SignedCheckpoint, RecordError> {
        self.shared.check()?;
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Item::Checkpoint(tenant.clone(), reply)).map_err(|_| RecordError::Busy)?;
        answer.await.unwrap_or_else(|_| Err(self.shared.failure()))
    }

    /// Names the schema that records are held to from here on, unless it is the one that the log named last.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn declare_schema(&self) -> Result<Option<LeafRef>, RecordError> {
        let schema = cogward_ledger::schema::schema();
        let known = |shared: &Shared| shared.schema.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known(&self.shared).as_deref() == Some(schema.digest()) {
            return Ok(None);
        }
        let event = Event::new(EventType::LedgerSchema, TenantName::default_tenant(), Attribution::plane())
            .public("version", schema.version())
            .public("digest", schema.digest());
        let leaf = self.record(event).await?;
        *self.shared.schema.lock().unwrap_or_else(PoisonError::into_inner) = Some(schema.digest().to_owned());
        Ok(Some(leaf))
    }

    /// Whether evidence can be written, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The tenant's public key, in the form that `cogward-verify --key` takes.
    ///
    /// # Errors
    /// The keys are not usable.
    pub fn verifying_key(&self, tenant: &TenantName) -> Result<String, KeyringError> {
        Ok(self.shared.keyring.tenant(tenant)?.log.key().verifying().to_string())
    }
}
