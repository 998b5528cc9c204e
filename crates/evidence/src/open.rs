//! Opening the ledger: the whole log is read, checked against what was signed, and only then used.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use cogward_ledger::{
    Hash,
    key_chain::{REVOKED, ROTATED, statement_of},
    leaf::{Parsed, is_hash_text, leaf_hash},
    note::{Checkpoint, NOTE_BYTES_MAX, NoteError},
    plane::PlaneLeaf,
};
use cogward_model::{Clock, Entropy, RunId, SystemClock, SystemEntropy, TenantName, Timestamp, event::EventType};
use cogward_wal::{Frame, Position, Start, Torn, Wal};
use tokio::sync::{Semaphore, watch};

use crate::{
    alarms::Alarms,
    archive, checkpoint, durable, frames, index, key_change,
    keys::{Keyring, KeyringError},
    log_keys::LogKeys,
    open_error::OpenError,
    plane::{self, Anchors, LogName, Place, PlaneLog},
    pool::Pool,
    publish::{self, Publish, Published},
    queue::Queue,
    read::Progress,
    record::{Evidence, Health, RECORDS_IN_FLIGHT_MAX, Shared},
    seen::{self, NewestSigned, SeenLogs},
    segments::Segments,
    sequencer::Sequencer,
    snapshot::{self, Known, Snapshots},
    tenant_log::TenantLog,
    token::TokenOptions,
    vault_check::SealedWith,
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
    /// Whether an event that is not what the schema says is refused. Builds for tests are: elsewhere what the
    /// schema does not know is committed and not shown.
    pub strict: bool,
    /// The log is read from a snapshot on at the next start, once it has grown by so many bytes.
    pub snapshot_bytes: u64,
    /// How far the logs were on the disk, as it is known from elsewhere: a ledger that does not reach it is not opened.
    pub seen: SeenLogs,
    /// Tokens that keys of logs are in; without them they are in files.
    pub tokens: TokenOptions,
    /// Where segments are read that were released.
    pub archive: Option<Arc<dyn archive::Place>>,
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
            seen: SeenLogs::default(),
            tokens: TokenOptions::default(),
            archive: None,
        }
    }
}

impl Evidence {
    /// Opens the ledger and starts its threads. Reads the log once, from the last snapshot that can be believed on.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: EvidenceOptions) -> Result<Self, OpenError> {
        let EvidenceOptions {
            dir,
            clock,
            entropy,
            low_water_bytes,
            wal: wal_options,
            strict,
            snapshot_bytes,
            tokens,
            archive,
            seen,
        } = options;
        let seen = Arc::new(seen);
        durable::directory(&dir)?;
        let keyring = Keyring::open(&dir, Arc::clone(&entropy), &tokens)?;
        let segments = Segments::open(&dir, &keyring.plane().log, archive)?;
        let mut snapshots = Snapshots::new(&dir, &*entropy, snapshot_bytes, &segments)?;
        let Recovered { mut wal, recovery, torn, passed_over } =
            recover(&dir, wal_options, &snapshots, &SignedStates::read(&dir, &keyring, Arc::clone(&seen))?, &segments)?;
        let missing = recovery.without_checkpoint();
        // Everything that was signed, or that the state has seen, is before the tail.
        wal.cut_torn_tail()?;
        recovery.progress.advance(wal.end(), std::iter::empty());
        snapshots.read_at_start(recovery.bytes);
        let entropy: Arc<dyn Entropy> = Arc::new(Pool::new(entropy));
        let (index, asks) = index::Handle::new(&dir);
        let alarms = Alarms::open(&dir)?;
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
            segments,
            anchors: recovery.anchors,
            published: Published::default(),
            witnesses: Witnesses::default(),
            timestamps: Default::default(),
            unsigned: Default::default(),
            key_changes: Default::default(),
            alarms,
            seen: Arc::clone(&seen),
            newest: recovery.signed.newest(),
        });
        let tenants: Vec<_> = recovery.logs.keys().cloned().collect();
        key_change::compare(&shared, &recovery.key_statements, &tenants)?;
        for job in &recovery.first {
            // What was signed in the last moments of an earlier plane is not in the plane log yet.
            if let LogName::Tenant(tenant) = &job.log {
                let origin = shared.keyring.tenant(tenant)?.log.origin().to_owned();
                plane::submit(&shared, tenant, &origin, job.size, job.root, &job.note);
            }
        }
        if let Some(torn) = torn {
            seen::note_recovery(&shared, torn, missing.is_empty());
        }
        seen::note_missing_checkpoints(&shared, &missing, &seen);
        recovery.sealed_with.check(&shared);
        match passed_over {
            Some((until, roots)) => snapshot::scrub(&shared, until, roots),
            None => shared.segments.passed.scrubbed.store(true, Ordering::Release),
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
            clock_read: None,
            batch_time: None,
            snapshots,
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
        let indexer = index::spawn(Arc::clone(&shared), asks).map_err(OpenError::Threads)?;
        Ok(Self::new(shared, indexer, [sequencer, checkpointer, publisher]))
    }
}

/// Where the part of the log ends that was not read, and the edges that it must give.
type PassedOver = (Position, HashMap<LogName, (u64, Hash)>);

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
    signed: &SignedStates,
    segments: &Arc<Segments>,
) -> Result<Recovered, OpenError> {
    let read = |start: Option<Start>, mut recovery: Recovery| {
        if start.is_none() {
            // What was released comes back from the archive, once, and one segment at a time.
            let mut early = segments.reader(Position::default(), segments.first_at());
            while let Some(frame) = early.next_frame().map_err(OpenError::Early)? {
                recovery.frame(frame);
            }
        }
        let wal = Wal::open_from(&dir.join("wal"), options, start, &mut |frame| recovery.frame(frame))?;
        recovery.check()?;
        Ok(Recovered { torn: wal.torn(), wal, recovery, passed_over: None })
    };
    let known = snapshot::known(dir, snapshots.key(), signed, segments).unwrap_or_else(|why| {
        tracing::warn!(why, "the snapshot is not believed: all of the log is read");
        None
    });
    if let Some(Known { start, recovery }) = known {
        let (passed_over, ends) = (Some((start.at, recovery.edges())), start.at.segment);
        match read(Some(start), recovery) {
            Ok(recovered) => {
                segments.passed.snapshot.store(ends, Ordering::Release);
                return Ok(Recovered { passed_over, ..recovered });
            }
            Err(OpenError::Wal(cogward_wal::OpenError::Held)) => return Err(cogward_wal::OpenError::Held.into()),
            Err(error) => tracing::warn!(%error, "the log does not follow from its snapshot: all of it is read"),
        }
    }
    read(None, Recovery { signed: signed.clone(), ..Recovery::default() })
}

/// What was signed of every log, as it lies on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct SignedStates {
    tenants: HashMap<TenantName, Signed>,
    plane: Option<Signed>,
    /// The commitments under which the plane log holds the tenants' last checkpoints.
    sought: HashMap<String, TenantName>,
    /// What is known from elsewhere.
    seen: Arc<SeenLogs>,
}

impl SignedStates {
    fn read(dir: &Path, keyring: &Keyring, seen: Arc<SeenLogs>) -> Result<Self, OpenError> {
        let note = durable::read(&checkpoint::path(dir, &LogName::Plane), NOTE_BYTES_MAX as u64)?;
        let plane =
            note.map(|note| Signed::open(note, &keyring.plane().log, OpenError::PlaneCheckpoint)).transpose()?;
        let mut states = Self { plane, seen, ..Self::default() };
        let tenants = dir.join("tenants");
        durable::directory(&tenants)?;
        for entry in fs::read_dir(&tenants)? {
            let name = entry?.file_name();
            let Some(tenant) = name.to_str().and_then(|name| name.parse::<TenantName>().ok()) else { continue };
            let log = LogName::Tenant(tenant.clone());
            let Some(note) = durable::read(&checkpoint::path(dir, &log), NOTE_BYTES_MAX as u64)? else { continue };
            let keys = keyring.tenant(&tenant)?;
            let wrong = |source| OpenError::Checkpoint { tenant: tenant.clone(), source };
            let signed = Signed::open(note, &keys.log, wrong)?;
            if let Some(opens) = keyring.plane().disclosure(keys.log.origin(), signed.size) {
                states.sought.insert(opens.commitment(), tenant.clone());
            }
            states.tenants.insert(tenant, signed);
        }
        Ok(states)
    }

    pub(crate) fn tenant(&self, tenant: &TenantName) -> Option<&Signed> {
        self.tenants.get(tenant)
    }

    pub(crate) fn plane(&self) -> Option<&Signed> {
        self.plane.as_ref()
    }

    /// What was signed last, as it goes on from here.
    fn newest(&self) -> NewestSigned {
        let newest = NewestSigned::default();
        for (tenant, signed) in &self.tenants {
            newest.told(&LogName::Tenant(tenant.clone()), signed.size, signed.root);
        }
        if let Some(signed) = &self.plane {
            newest.told(&LogName::Plane, signed.size, signed.root);
        }
        newest
    }

    /// Whose checkpoint a leaf of the plane log holds, where it is the last that was signed.
    pub(crate) fn anchored(&self, leaf: &PlaneLeaf) -> Result<Option<&TenantName>, OpenError> {
        let Some(tenant) = self.sought.get(&leaf.log) else { return Ok(None) };
        match self.tenants.get(tenant) {
            Some(signed) if (signed.size, signed.root) != (leaf.size, leaf.root) => {
                Err(OpenError::OtherCheckpoint { tenant: tenant.clone(), signed: leaf.size })
            }
            _ => Ok(Some(tenant)),
        }
    }
}

/// A checkpoint as it lies on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    note: String,
}

impl Signed {
    fn open(note: Vec<u8>, keys: &LogKeys, wrong: impl Fn(NoteError) -> OpenError) -> Result<Self, OpenError> {
        let note = String::from_utf8(note).map_err(|_| wrong(NoteError::Form("not text")))?;
        if keys.is_behind(&note) {
            return Err(KeyringError::Behind(keys.origin().to_owned()).into());
        }
        let Checkpoint { size, root, .. } = keys.open_own(&note).map_err(wrong)?;
        Ok(Self { size, root, note })
    }

    pub(crate) fn published(&self, log: LogName, end: Position) -> Publish {
        Publish { log, size: self.size, root: self.root, note: self.note.clone(), end }
    }
}

fn named_schema(leaf: &[u8]) -> Option<String> {
    let leaf: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    leaf.get("body")?.get("digest")?.as_str().map(str::to_owned)
}

/// What the log tells while it is read.
#[derive(Default)]
pub(crate) struct Recovery {
    signed: SignedStates,
    pub(crate) plane: PlaneLog,
    pub(crate) anchors: Anchors,
    /// The signed states, in the order of the log: what is published first.
    pub(crate) first: Vec<Publish>,
    plane_wrong: Option<OpenError>,
    pub(crate) logs: HashMap<TenantName, TenantLog>,
    last_time: Timestamp,
    last_time_text: String,
    progress: Progress,
    /// The digest of the schema that was named last.
    schema: Option<String>,
    /// What values were sealed with.
    sealed_with: SealedWith,
    /// What the leaves say of keys.
    key_statements: key_change::Found,
    /// Where the frames of the next leaf begin.
    leaf_at: Option<Position>,
    wrong: Option<OpenError>,
    /// Bytes that were read.
    bytes: u64,
}

impl Recovery {
    /// What a snapshot tells, but for the logs.
    pub(crate) fn known(
        signed: SignedStates,
        last_time: Timestamp,
        schema: Option<String>,
        progress: Progress,
    ) -> Self {
        Self { signed, last_time, schema, progress, ..Self::default() }
    }

    /// What only compares roots: the log before a snapshot.
    pub(crate) fn of_roots(seen: &SeenLogs) -> Self {
        let signed = SignedStates { seen: Arc::new(seen.roots()), ..SignedStates::default() };
        Self { signed, ..Self::default() }
    }

    /// The logs with leaves whose last checkpoint is not there.
    fn without_checkpoint(&self) -> Vec<LogName> {
        let tenants = self.logs.iter().filter(|(name, log)| log.tree.size() > 0 && self.signed.tenant(name).is_none());
        let plane = self.plane.tree.size() > 0 && self.signed.plane().is_none();
        let mut missing: Vec<_> = tenants.map(|(name, _)| LogName::Tenant(name.clone())).collect();
        missing.extend(plane.then_some(LogName::Plane));
        missing.sort();
        missing
    }

    /// What every log is now, so far as it was read.
    pub(crate) fn edges(&self) -> HashMap<LogName, (u64, Hash)> {
        let tenants = self.logs.iter().map(|(tenant, log)| (LogName::Tenant(tenant.clone()), &log.tree));
        let all = tenants.chain(std::iter::once((LogName::Plane, &self.plane.tree)));
        all.map(|(log, tree)| (log, (tree.size(), tree.root()))).collect()
    }

    pub(crate) fn frame(&mut self, frame: Frame<'_>) {
        self.bytes += frame.payload.len() as u64;
        if frame.kind == frames::PLANE {
            if self.plane_wrong.is_none()
                && let Err(error) = self.plane_leaf(&frame)
            {
                self.plane_wrong = Some(error);
            }
            return;
        }
        let leaf_at = *self.leaf_at.get_or_insert(frame.position);
        if frame.kind == frames::SEALED {
            self.sealed_with.sealed(frame.payload);
        }
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
        if (leaf.body.kind == ROTATED || leaf.body.kind == REVOKED)
            && let Some((log, statement)) = statement_of(bytes)
        {
            self.key_statements.entry(log).or_default().push((statement, leaf.chain.seq));
        }
        if let Some(seen) = self.signed.seen.tenant(&tenant) {
            seen.holds(|| LogName::Tenant(tenant.clone()), log.tree.size(), || log.tree.root())?;
        }
        if let Some(signed) = self.signed.tenant(&tenant)
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
    pub(crate) fn check(&mut self) -> Result<(), OpenError> {
        if let Some(error) = self.wrong.take() {
            return Err(error);
        }
        for (tenant, signed) in &self.signed.tenants {
            let leaves = self.logs.get(tenant).map_or(0, |log| log.tree.size());
            if leaves < signed.size {
                return Err(OpenError::Rollback { tenant: tenant.clone(), leaves, signed: signed.size });
            }
        }
        if let Some(error) = self.plane_wrong.take() {
            return Err(error);
        }
        let (leaves, signed) = (self.plane.tree.size(), self.signed.plane().map_or(0, |signed| signed.size));
        if leaves < signed {
            return Err(OpenError::PlaneRollback { leaves, signed });
        }
        let leaves_of = |tenant: &TenantName| self.logs.get(tenant).map_or(0, |log| log.tree.size());
        self.signed.seen.reached(leaves_of, leaves)
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
        if let Some(seen) = self.signed.seen.plane() {
            seen.holds(|| LogName::Plane, size, || root)?;
        }
        if let Some(signed) = self.signed.plane()
            && signed.size == size
        {
            if signed.root != root {
                return Err(OpenError::PlaneRollback { leaves: size, signed: signed.size });
            }
            self.plane.checkpointed = size;
            self.first.push(signed.published(LogName::Plane, frame.end));
        }
        if let Some(tenant) = self.signed.anchored(&leaf)?.cloned() {
            self.anchors.placed(&tenant, Place { index: leaf.seq, leaf });
        }
        Ok(())
    }
}
