//! Opening the ledger: the whole log is read, checked against what was signed, and only then used.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, mpsc},
};

use cogward_ledger::{
    Hash,
    leaf::{Parsed, is_hash_text, leaf_hash},
    note::{Checkpoint, NOTE_BYTES_MAX, NoteError, VerifyingKey},
    plane::PlaneLeaf,
};
use cogward_model::{
    Clock, Entropy, RunId, SystemClock, SystemEntropy, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
};
use cogward_wal::{Frame, Position, Torn, Wal};
use tokio::sync::{Semaphore, watch};

use crate::{
    checkpoint, durable, frames,
    keys::{Keyring, KeyringError},
    plane::{self, Anchors, LogName, Place, PlaneLog},
    pool::Pool,
    publish::{self, Publish, Published},
    queue::{Item, Queue},
    read::Progress,
    record::{Evidence, Health, RECORDS_IN_FLIGHT_MAX, Shared},
    sequencer::Sequencer,
    tenant_log::TenantLog,
    witnessed::Witnesses,
};

/// How the ledger is opened.
pub struct EvidenceOptions {
    /// Its directory; made when it is not there.
    pub dir: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, salts, keys and nonces.
    pub entropy: Arc<dyn Entropy>,
    /// Agents stop when fewer bytes than this are free.
    pub low_water_bytes: u64,
    /// The sizes of the write-ahead log's files.
    pub wal: cogward_wal::Options,
}

impl EvidenceOptions {
    /// The usual ones: the host's clock and randomness, 256 MiB kept free.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            low_water_bytes: 256 * 1024 * 1024,
            wal: cogward_wal::Options::default(),
        }
    }
}

/// Why the ledger is not opened. The plane must not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be read or made.
    #[error("the ledger's files could not be read or made")]
    Io(#[from] io::Error),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The log's files are damaged or held by another process.
    #[error(transparent)]
    Wal(#[from] cogward_wal::OpenError),
    /// The torn tail could not be cut.
    #[error(transparent)]
    Cut(#[from] cogward_wal::WalError),
    /// The log ends before a checkpoint that was signed.
    #[error("rollback detected: the log of tenant {tenant} has {leaves} leaves, its signed checkpoint covers {signed}")]
    Rollback {
        /// Whose log.
        tenant: TenantName,
        /// What is there.
        leaves: u64,
        /// What was signed.
        signed: u64,
    },
    /// The log has another content than the one that was signed.
    #[error("rollback detected: the log of tenant {tenant} is not the one whose {signed} leaves were signed")]
    Rewritten {
        /// Whose log.
        tenant: TenantName,
        /// What was signed.
        signed: u64,
    },
    /// The file with the last checkpoint is not one of the tenant's key.
    #[error("the last checkpoint of tenant {tenant} cannot be believed: {source}")]
    Checkpoint {
        /// Whose.
        tenant: TenantName,
        /// Why.
        source: NoteError,
    },
    /// The plane log ends before its signed checkpoint, or is another one.
    #[error("rollback detected: the plane log of {leaves} leaves is not the one whose {signed} leaves were signed")]
    PlaneRollback {
        /// What is there.
        leaves: u64,
        /// What was signed.
        signed: u64,
    },
    /// The file with the plane log's last checkpoint is not one of its key.
    #[error("the last checkpoint of the plane log cannot be believed: {0}")]
    PlaneCheckpoint(NoteError),
    /// The plane log holds another checkpoint of a tenant than the one on the disk.
    #[error("the checkpoint of tenant {tenant} over {signed} leaves is not the one in the plane log")]
    OtherCheckpoint {
        /// Whose log.
        tenant: TenantName,
        /// What was signed.
        signed: u64,
    },
    /// A leaf does not fit to the one before it.
    #[error("the ledger is damaged in {at}: {what}")]
    Damaged {
        /// Where.
        at: Position,
        /// What does not fit.
        what: &'static str,
    },
    /// The threads could not be started.
    #[error("the ledger's threads could not be started")]
    Threads(#[source] io::Error),
}

impl Evidence {
    /// Opens the ledger and starts its threads. Reads the whole log once.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: EvidenceOptions) -> Result<Self, OpenError> {
        let EvidenceOptions { dir, clock, entropy, low_water_bytes, wal: wal_options } = options;
        durable::directory(&dir)?;
        let keyring = Keyring::open(&dir, Arc::clone(&entropy))?;
        let mut recovery = Recovery { signed: signed(&dir, &keyring)?, ..Recovery::default() };
        recovery.know_plane(&dir, &keyring)?;
        let mut wal = Wal::open(&dir.join("wal"), wal_options, &mut |frame| recovery.frame(frame))?;
        recovery.check()?;
        let torn = wal.torn();
        // Everything that was signed is before the tail: what is cut was never acknowledged.
        wal.cut_torn_tail()?;
        recovery.progress.advance(wal.end(), std::iter::empty());
        let entropy: Arc<dyn Entropy> = Arc::new(Pool::new(entropy));
        let shared = Arc::new(Shared {
            dir,
            clock,
            entropy,
            keyring,
            queue: Queue::default(),
            health: watch::Sender::new(Health::Ok),
            failed: AtomicBool::new(false),
            progress: recovery.progress,
            permits: Semaphore::new(RECORDS_IN_FLIGHT_MAX),
            anchors: recovery.anchors,
            published: Published::default(),
            witnesses: Witnesses::default(),
        });
        for job in &recovery.first {
            // What was signed in the last moments of an earlier plane is not in the plane log yet.
            if let LogName::Tenant(tenant) = &job.log {
                let origin = shared.keyring.tenant(tenant)?.signing.verifying().origin().to_owned();
                plane::submit(&shared, tenant, &origin, job.size, job.root, &job.note);
            }
        }
        if let Some(torn) = torn {
            note_recovery(&shared, torn);
        }
        let (checkpoints, jobs) = mpsc::channel();
        let sequencer = Sequencer {
            shared: Arc::clone(&shared),
            wal,
            logs: recovery.logs,
            plane: recovery.plane,
            plane_at: std::time::Instant::now(),
            last_time: recovery.last_time,
            checkpoints,
            published: HashMap::new(),
            batch: Default::default(),
            clock_held: false,
            batch_time: None,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let beside = Arc::clone(&shared);
        let (tiles, published) = mpsc::channel();
        let checkpointer = thread("ledger-sign")
            .spawn(move || checkpoint::run(&beside, &jobs, &tiles, low_water_bytes))
            .map_err(OpenError::Threads)?;
        let (beside, first) = (Arc::clone(&shared), recovery.first);
        let publisher = thread("ledger-tiles")
            .spawn(move || publish::run(&beside, &published, first))
            .map_err(OpenError::Threads)?;
        let sequencer = thread("ledger").spawn(move || sequencer.run()).map_err(OpenError::Threads)?;
        Ok(Self::new(shared, [sequencer, checkpointer, publisher]))
    }
}

fn note_recovery(shared: &Shared, torn: Torn) {
    tracing::warn!(at = %torn.at, bytes = torn.bytes, "a torn tail was cut; nothing of it was acknowledged");
    let event = Event::new(EventType::LedgerRecovered, TenantName::default_tenant(), Attribution::plane())
        .public("segment", torn.at.segment)
        .public("offset", torn.at.offset)
        .public("cut_bytes", torn.bytes);
    match shared.prepare(&event, shared.mint()) {
        Ok(append) => drop(shared.queue.push(Item::Append(Box::new(append)))),
        Err(error) => tracing::error!(%error, "the recovery could not be recorded"),
    }
}

/// The last checkpoint of every tenant that has one.
fn signed(dir: &Path, keyring: &Keyring) -> Result<HashMap<TenantName, Signed>, OpenError> {
    let tenants = dir.join("tenants");
    durable::directory(&tenants)?;
    let mut found = HashMap::new();
    for entry in fs::read_dir(&tenants)? {
        let name = entry?.file_name();
        let Some(tenant) = name.to_str().and_then(|name| name.parse::<TenantName>().ok()) else { continue };
        let log = LogName::Tenant(tenant.clone());
        let Some(note) = durable::read(&checkpoint::path(dir, &log), NOTE_BYTES_MAX as u64)? else { continue };
        let keys = keyring.tenant(&tenant)?;
        let signed = Signed::open(note, keys.signing.verifying());
        let signed = signed.map_err(|source| OpenError::Checkpoint { tenant: tenant.clone(), source })?;
        found.insert(tenant, signed);
    }
    Ok(found)
}

/// A checkpoint as it lies on the disk.
struct Signed {
    size: u64,
    root: Hash,
    note: String,
}

impl Signed {
    fn open(note: Vec<u8>, key: &VerifyingKey) -> Result<Self, NoteError> {
        let note = String::from_utf8(note).map_err(|_| NoteError::Form("not text"))?;
        let Checkpoint { size, root, .. } = Checkpoint::open_older(&note, key)?;
        Ok(Self { size, root, note })
    }

    fn published(&self, log: LogName, end: Position) -> Publish {
        Publish { log, size: self.size, root: self.root, note: self.note.clone(), end }
    }
}

/// What the log tells while it is read.
#[derive(Default)]
struct Recovery {
    signed: HashMap<TenantName, Signed>,
    plane_signed: Option<Signed>,
    plane: PlaneLog,
    /// The commitments under which the plane log holds the tenants' last checkpoints.
    sought: HashMap<String, TenantName>,
    anchors: Anchors,
    /// The signed states, in the order of the log: what is published first.
    first: Vec<Publish>,
    plane_wrong: Option<OpenError>,
    logs: HashMap<TenantName, TenantLog>,
    last_time: Timestamp,
    last_time_text: String,
    progress: Progress,
    /// Where the frames of the next leaf begin.
    leaf_at: Option<Position>,
    wrong: Option<OpenError>,
}

impl Recovery {
    fn frame(&mut self, frame: Frame<'_>) {
        if frame.kind == frames::PLANE {
            if self.plane_wrong.is_none()
                && let Err(error) = self.plane_leaf(&frame)
            {
                self.plane_wrong = Some(error);
            }
            return;
        }
        let leaf_at = *self.leaf_at.get_or_insert(frame.position);
        if self.wrong.is_some() || frame.kind != frames::LEAF {
            return;
        }
        self.leaf_at = None;
        if let Err(error) = self.leaf(leaf_at, frame) {
            self.wrong = Some(error);
        }
    }

    fn leaf(&mut self, leaf_at: Position, frame: Frame<'_>) -> Result<(), OpenError> {
        let damaged = |what| OpenError::Damaged { at: frame.position, what };
        let (name, bytes) = frames::split_text(frame.payload).ok_or(damaged("a leaf without a tenant"))?;
        let leaf = Parsed::from_bytes(bytes).map_err(|_| damaged("not a leaf"))?;
        let tenant: TenantName = name.parse().map_err(|_| damaged("not a tenant"))?;
        if leaf.chain.time != self.last_time_text {
            let time: Timestamp = leaf.chain.time.parse().map_err(|_| damaged("not a time"))?;
            self.last_time = self.last_time.max(time);
            self.last_time_text = leaf.chain.time.to_owned();
        }
        let log = self.logs.entry(tenant.clone()).or_default();
        if leaf.body.tenant != name || leaf.chain.seq != log.tree.size() {
            return Err(damaged("a leaf is not where it belongs"));
        }
        if !is_hash_text(leaf.chain.prev, log.last().as_ref()) {
            return Err(damaged("a leaf does not follow the one before"));
        }
        let run = match (leaf.body.run, leaf.body.run_seq) {
            (Some(run), Some(seq)) => Some((run.parse::<RunId>().map_err(|_| damaged("not a run"))?, seq)),
            _ => None,
        };
        log.push(leaf_hash(bytes), run, leaf.body.kind == EventType::RunClosed.as_str());
        if let Some(signed) = self.signed.get(&tenant)
            && signed.size == log.tree.size()
        {
            if signed.root != log.tree.root() {
                return Err(OpenError::Rewritten { tenant, signed: signed.size });
            }
            log.checkpointed = signed.size;
            self.first.push(signed.published(LogName::Tenant(tenant.clone()), frame.end));
        }
        if let Some((run, _)) = run {
            self.progress.advance(frame.end, std::iter::once((tenant, run, leaf_at)));
        }
        Ok(())
    }

    /// Whether every signed checkpoint was reached.
    fn check(&mut self) -> Result<(), OpenError> {
        if let Some(error) = self.wrong.take() {
            return Err(error);
        }
        for (tenant, signed) in &self.signed {
            let leaves = self.logs.get(tenant).map_or(0, |log| log.tree.size());
            if leaves < signed.size {
                return Err(OpenError::Rollback { tenant: tenant.clone(), leaves, signed: signed.size });
            }
        }
        if let Some(error) = self.plane_wrong.take() {
            return Err(error);
        }
        let (leaves, signed) = (self.plane.tree.size(), self.plane_signed.as_ref().map_or(0, |signed| signed.size));
        if leaves < signed { Err(OpenError::PlaneRollback { leaves, signed }) } else { Ok(()) }
    }

    /// What was signed of the plane log, and under which names it holds the tenants' last checkpoints.
    fn know_plane(&mut self, dir: &Path, keyring: &Keyring) -> Result<(), OpenError> {
        let note = durable::read(&checkpoint::path(dir, &LogName::Plane), NOTE_BYTES_MAX as u64)?;
        let signed = note.map(|note| Signed::open(note, keyring.plane().signing.verifying())).transpose();
        self.plane_signed = signed.map_err(OpenError::PlaneCheckpoint)?;
        for (tenant, signed) in &self.signed {
            let keys = keyring.tenant(tenant)?;
            if let Some(opens) = keyring.plane().disclosure(keys.signing.verifying().origin(), signed.size) {
                self.sought.insert(opens.commitment(), tenant.clone());
            }
        }
        Ok(())
    }

    fn plane_leaf(&mut self, frame: &Frame<'_>) -> Result<(), OpenError> {
        let damaged = |what| OpenError::Damaged { at: frame.position, what };
        let (name, bytes) = frames::split_text(frame.payload).ok_or(damaged("a leaf without a tenant"))?;
        let leaf = PlaneLeaf::from_bytes(bytes).ok_or(damaged("not a leaf of the plane log"))?;
        if !name.is_empty() || leaf.seq != self.plane.tree.size() {
            return Err(damaged("a leaf of the plane log is not where it belongs"));
        }
        if leaf.time != self.last_time_text {
            let time: Timestamp = leaf.time.parse().map_err(|_| damaged("not a time"))?;
            self.last_time = self.last_time.max(time);
        }
        self.plane.tree.push(leaf_hash(bytes));
        let (size, root) = (self.plane.tree.size(), self.plane.tree.root());
        if let Some(signed) = &self.plane_signed
            && signed.size == size
        {
            if signed.root != root {
                return Err(OpenError::PlaneRollback { leaves: size, signed: signed.size });
            }
            self.plane.checkpointed = size;
            self.first.push(signed.published(LogName::Plane, frame.end));
        }
        if let Some(tenant) = self.sought.get(&leaf.log).cloned() {
            if self.signed.get(&tenant).is_some_and(|signed| (signed.size, signed.root) != (leaf.size, leaf.root)) {
                return Err(OpenError::OtherCheckpoint { tenant, signed: leaf.size });
            }
            self.anchors.placed(&tenant, Place { index: leaf.seq, leaf });
        }
        Ok(())
    }
}
