//! Opening the ledger: the whole log is read, checked against what was signed, and only then used.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool, mpsc},
};

use cogward_ledger::{
    leaf::{Parsed, is_hash_text, leaf_hash},
    note::{Checkpoint, NOTE_BYTES_MAX, NoteError},
};
use cogward_model::{
    Clock, Entropy, RunId, SystemClock, SystemEntropy, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
};
use cogward_wal::{Frame, Position, Start, Torn, Wal};
use tokio::sync::{Semaphore, watch};

use crate::{
    checkpoint, durable, frames, index,
    keys::{Keyring, KeyringError},
    pool::Pool,
    queue::{Item, Queue},
    read::{Progress, SpansImage},
    record::{Evidence, Health, RECORDS_IN_FLIGHT_MAX, Shared},
    sequencer::Sequencer,
    snapshot::{self, Known, Snapshots},
    tenant_log::TenantLog,
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
    /// Whether an event that is not what the schema says is refused. Builds for tests are: elsewhere what the
    /// schema does not know is committed and not shown.
    pub strict: bool,
    /// The log is read from a snapshot on at the next start, once it has grown by so many bytes.
    pub snapshot_bytes: u64,
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
            strict: false,
            snapshot_bytes: 64 * 1024 * 1024,
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
    /// Opens the ledger and starts its threads. Reads the log once, from the last snapshot that can be believed on.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: EvidenceOptions) -> Result<Self, OpenError> {
        let EvidenceOptions { dir, clock, entropy, low_water_bytes, wal: wal_options, strict, snapshot_bytes } =
            options;
        durable::directory(&dir)?;
        let keyring = Keyring::open(&dir, Arc::clone(&entropy))?;
        let mut snapshots = Snapshots::new(&dir, &*entropy, snapshot_bytes)?;
        let Recovered { mut wal, recovery, torn, passed_over } =
            recover(&dir, wal_options, &snapshots, &signed(&dir, &keyring)?)?;
        // Everything that was signed is before the tail: what is cut was never acknowledged.
        wal.cut_torn_tail()?;
        recovery.progress.advance(wal.end(), std::iter::empty());
        snapshots.read_at_start(recovery.bytes);
        let entropy: Arc<dyn Entropy> = Arc::new(Pool::new(entropy));
        let (index, asks) = index::Handle::new(&dir);
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
            strict,
            schema: Mutex::new(recovery.schema),
            sealing: Default::default(),
            index,
        });
        if let Some(torn) = torn {
            note_recovery(&shared, torn);
        }
        if let Some((until, roots)) = passed_over {
            snapshot::scrub(&shared, until, roots);
        }
        let (checkpoints, jobs) = mpsc::channel();
        let sequencer = Sequencer {
            shared: Arc::clone(&shared),
            wal,
            logs: recovery.logs,
            last_time: recovery.last_time,
            checkpoints,
            published: HashMap::new(),
            batch: Default::default(),
            clock_held: false,
            clock_read: None,
            batch_time: None,
            snapshots,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let beside = Arc::clone(&shared);
        let checkpointer = thread("ledger-sign")
            .spawn(move || checkpoint::run(&beside, &jobs, low_water_bytes))
            .map_err(OpenError::Threads)?;
        let sequencer = thread("ledger").spawn(move || sequencer.run()).map_err(OpenError::Threads)?;
        let indexer = index::spawn(Arc::clone(&shared), asks).map_err(OpenError::Threads)?;
        Ok(Self::new(shared, sequencer, checkpointer, indexer))
    }
}

/// Where the part of the log ends that was not read, and the edges that it must give.
type PassedOver = (Position, HashMap<TenantName, (u64, cogward_ledger::Hash)>);

struct Recovered {
    wal: Wal,
    recovery: Recovery,
    torn: Option<Torn>,
    passed_over: Option<PassedOver>,
}

/// Reads the log from the snapshot on. If that is not believed, or anything does not fit to it, all of it:
/// what the whole log says is the verdict.
fn recover(
    dir: &Path,
    options: cogward_wal::Options,
    snapshots: &Snapshots,
    signed: &HashMap<TenantName, Checkpoint>,
) -> Result<Recovered, OpenError> {
    let read = |start: Option<Start>, mut recovery: Recovery| {
        let wal = Wal::open_from(&dir.join("wal"), options, start, &mut |frame| recovery.frame(frame))?;
        recovery.check()?;
        Ok(Recovered { torn: wal.torn(), wal, recovery, passed_over: None })
    };
    if let Some(Known { start, recovery }) = snapshot::known(dir, snapshots.key(), signed) {
        let roots = recovery.logs.iter().map(|(tenant, log)| (tenant.clone(), (log.tree.size(), log.tree.root())));
        let passed_over = Some((start.at, roots.collect()));
        match read(Some(start), recovery) {
            Ok(recovered) => return Ok(Recovered { passed_over, ..recovered }),
            Err(OpenError::Wal(cogward_wal::OpenError::Held)) => return Err(cogward_wal::OpenError::Held.into()),
            Err(error) => tracing::warn!(%error, "the log does not follow from its snapshot: all of it is read"),
        }
    }
    read(None, Recovery { signed: signed.clone(), ..Recovery::default() })
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
fn signed(dir: &Path, keyring: &Keyring) -> Result<HashMap<TenantName, Checkpoint>, OpenError> {
    let tenants = dir.join("tenants");
    durable::directory(&tenants)?;
    let mut found = HashMap::new();
    for entry in fs::read_dir(&tenants)? {
        let name = entry?.file_name();
        let Some(tenant) = name.to_str().and_then(|name| name.parse::<TenantName>().ok()) else { continue };
        let Some(note) = durable::read(&checkpoint::path(dir, &tenant), NOTE_BYTES_MAX as u64)? else { continue };
        let keys = keyring.tenant(&tenant)?;
        let opened = std::str::from_utf8(&note)
            .map_err(|_| NoteError::Form("not text"))
            .and_then(|note| Checkpoint::open(note, keys.signing.verifying()));
        let checkpoint = opened.map_err(|source| OpenError::Checkpoint { tenant: tenant.clone(), source })?;
        found.insert(tenant, checkpoint);
    }
    Ok(found)
}

fn named_schema(leaf: &[u8]) -> Option<String> {
    let leaf: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    leaf.get("body")?.get("digest")?.as_str().map(str::to_owned)
}

/// What the log tells while it is read.
#[derive(Default)]
pub(crate) struct Recovery {
    signed: HashMap<TenantName, Checkpoint>,
    logs: HashMap<TenantName, TenantLog>,
    last_time: Timestamp,
    last_time_text: String,
    progress: Progress,
    /// The digest of the schema that was named last.
    schema: Option<String>,
    /// Where the frames of the next leaf begin.
    leaf_at: Option<Position>,
    wrong: Option<OpenError>,
    /// Bytes that were read.
    bytes: u64,
}

impl Recovery {
    /// What a snapshot tells.
    pub(crate) fn known(
        signed: HashMap<TenantName, Checkpoint>,
        logs: HashMap<TenantName, TenantLog>,
        last_time: Timestamp,
        schema: Option<String>,
        spans: SpansImage,
    ) -> Self {
        let progress = Progress::from_image(spans);
        Self { signed, logs, last_time, schema, progress, ..Self::default() }
    }

    pub(crate) fn log(&self, tenant: &TenantName) -> Option<&TenantLog> {
        self.logs.get(tenant)
    }

    pub(crate) fn frame(&mut self, frame: Frame<'_>) {
        self.bytes += frame.payload.len() as u64;
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
        log.last_at = leaf_at;
        if leaf.body.kind == EventType::LedgerSchema.as_str() {
            self.schema = named_schema(bytes);
        }
        if let Some(signed) = self.signed.get(&tenant)
            && signed.size == log.tree.size()
        {
            if signed.root != log.tree.root() {
                return Err(OpenError::Rewritten { tenant, signed: signed.size });
            }
            log.checkpointed = signed.size;
        }
        if let Some((run, _)) = run {
            self.progress.advance(frame.end, std::iter::once((tenant, run, leaf_at)));
        }
        Ok(())
    }

    /// Whether every signed checkpoint was reached.
    pub(crate) fn check(&mut self) -> Result<(), OpenError> {
        if let Some(error) = self.wrong.take() {
            return Err(error);
        }
        for (tenant, signed) in &self.signed {
            let leaves = self.logs.get(tenant).map_or(0, |log| log.tree.size());
            if leaves < signed.size {
                return Err(OpenError::Rollback { tenant: tenant.clone(), leaves, signed: signed.size });
            }
        }
        Ok(())
    }
}
