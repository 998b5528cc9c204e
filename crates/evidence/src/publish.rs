//! The logs as C2SP tlog-tiles on the disk, written behind the checkpoints and off the path of events.
//!
//! Everything here follows from the write-ahead log and can be thrown away: a `log` directory that is
//! removed while the plane is down is written anew. The invariant: a checkpoint is shown only once every
//! tile that it needs is in place. Tiles are not flushed one by one; a mark, flushed behind all of them once a minute,
//! says from where they are written again after a crash.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use cogward_ledger::{
    Hash,
    leaf::leaf_hash,
    tiles::{EntryBundles, HashTiles, TILE_WIDTH, TilePath, TileSink},
};
use cogward_model::TenantName;
use cogward_wal::Position;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    durable, frames,
    plane::LogName,
    record::{Evidence, Health, Shared},
};

/// The mark from which tiles are written again.
const MARK_FILE: &str = "tiles.mark";
/// How often the mark is moved.
const MARK_EVERY: Duration = Duration::from_secs(60);
/// Largest mark: a line for each of some hundred thousand tenants.
const MARK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Logs whose unfinished tiles are kept in memory; others are read again when they grow.
const WRITERS_MAX: usize = 64;
/// After a failure the next attempt waits so long, or for news.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Largest file of a log: a bundle of the longest entries.
const TILE_BYTES_MAX: u64 = (TILE_WIDTH * (2 + 65_535)) as u64;

/// A signed state whose tiles are to be written.
pub(crate) struct Publish {
    pub(crate) log: LogName,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) note: String,
    pub(crate) end: Position,
}

/// A checkpoint all of whose tiles are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedCheckpoint {
    /// Leaves.
    pub size: u64,
    /// The signed note.
    pub note: String,
}

/// What is published.
pub(crate) struct Published {
    logs: Mutex<HashMap<LogName, Arc<PublishedCheckpoint>>>,
    /// How often something was published.
    changes: watch::Sender<u64>,
}

impl Default for Published {
    fn default() -> Self {
        Self { logs: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Published {
    /// Wakes who waits for news.
    pub(crate) fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn get(&self, log: &LogName) -> Option<Arc<PublishedCheckpoint>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).get(log).map(Arc::clone)
    }

    fn set(&self, log: &LogName, size: u64, note: String) {
        let checkpoint = Arc::new(PublishedCheckpoint { size, note });
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).insert(log.clone(), checkpoint);
        self.tell();
    }
}

/// Where a log's checkpoint and tiles are.
pub(crate) fn tiles_dir(dir: &Path, log: &LogName) -> PathBuf {
    log.dir(dir).join("log")
}

/// A tile as it is at some size: out of its own file, or out of the fuller one that took its place.
pub(crate) fn read_tile(dir: &Path, tile: &TilePath) -> io::Result<Vec<u8>> {
    let found = durable::read(&dir.join(tile.to_string()), TILE_BYTES_MAX)?;
    if let Some(bytes) = found {
        return Ok(bytes);
    }
    let full = TilePath { width: TILE_WIDTH, ..*tile };
    let mut bytes = durable::read(&dir.join(full.to_string()), TILE_BYTES_MAX)?.ok_or(io::ErrorKind::NotFound)?;
    if tile.level.is_some() {
        bytes.truncate(tile.width * 32);
    }
    Ok(bytes)
}

/// A tile of hashes as it was at a size that need not have been published itself: out of what is there at
/// the size that is.
pub(crate) fn read_hashes(dir: &Path, tile: &TilePath, published: u64) -> io::Result<Vec<u8>> {
    let fuller = TilePath::of(tile.level, tile.index, published);
    match (read_tile(dir, tile), fuller) {
        (Err(error), Some(fuller)) if error.kind() == io::ErrorKind::NotFound && fuller.width >= tile.width => {
            let mut bytes = read_tile(dir, &fuller)?;
            bytes.truncate(tile.width * 32);
            Ok(bytes)
        }
        (found, _) => found,
    }
}

#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("a tile could not be read or written")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wal(#[from] cogward_wal::ReadError),
    #[error("the tiles of {0} are not those of the log")]
    Damaged(LogName),
}

/// Where the tiles of all logs stand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Mark {
    segment: u64,
    offset: u64,
    /// The sizes of the logs there, by tenant; the plane log has the empty name.
    logs: HashMap<String, u64>,
}

struct Writer {
    files: Files,
    hashes: HashTiles,
    entries: EntryBundles,
    /// The size whose unfinished tiles are on the disk.
    finished: u64,
}

struct Files {
    dir: PathBuf,
    /// Parts of tiles whose whole is there: needed until a newer checkpoint is shown.
    parts: Vec<PathBuf>,
}

impl Files {
    fn drop_parts(&mut self) -> io::Result<()> {
        for part in self.parts.drain(..) {
            match fs::remove_dir_all(part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl TileSink for Files {
    type Error = io::Error;

    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        put(&self.dir.join(path), bytes)?;
        if !path.contains(".p/") {
            self.parts.push(self.dir.join(format!("{path}.p")));
        }
        Ok(())
    }
}

/// Puts a file into its place whole; it is not flushed.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let written = match fs::write(&beside, bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), durable::directory).and_then(|()| fs::write(&beside, bytes))
        }
        other => other,
    };
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))
}

impl Writer {
    fn open(dir: PathBuf, size: u64) -> Option<Self> {
        let read = |tile: &TilePath| read_tile(&dir, tile).ok();
        let (hashes, entries) = (HashTiles::restore(size, read)?, EntryBundles::restore(size, read)?);
        Some(Self { files: Files { dir, parts: Vec::new() }, hashes, entries, finished: size })
    }

    fn push(&mut self, leaf: &[u8]) -> io::Result<()> {
        self.hashes.push(leaf_hash(leaf), &mut self.files)?;
        self.entries.push(leaf, &mut self.files)
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.finished != self.hashes.size() {
            self.hashes.finish(&mut self.files)?;
            self.entries.finish(&mut self.files)?;
            self.finished = self.hashes.size();
        }
        Ok(())
    }
}

/// Everything that the thread owns.
struct Publisher<'a> {
    shared: &'a Shared,
    at: Position,
    sizes: HashMap<String, u64>,
    writers: HashMap<String, Writer>,
    mark_at: Instant,
    moved: bool,
}

/// Writes tiles until the thread that signs is gone. `first` is what was signed by earlier planes.
pub(crate) fn run(shared: &Shared, jobs: &mpsc::Receiver<Publish>, first: Vec<Publish>) {
    let mut publisher = Publisher {
        shared,
        at: Position::default(),
        sizes: HashMap::new(),
        writers: HashMap::new(),
        mark_at: Instant::now() + MARK_EVERY,
        moved: false,
    };
    publisher.return_to_mark();
    let mut waiting: HashMap<LogName, Publish> = HashMap::new();
    let mut rebuilt = false;
    let mut next = first;
    loop {
        for job in next.drain(..).chain(jobs.try_iter()) {
            let newer = waiting.get(&job.log).is_none_or(|old| old.size <= job.size);
            if newer {
                waiting.insert(job.log.clone(), job);
            }
        }
        // On a disk that is nearly full the space belongs to the log itself.
        let has_space = *shared.health.borrow() == Health::Ok;
        if has_space && let Err(error) = publisher.publish(&mut waiting) {
            publisher.return_to_mark();
            tracing::warn!(%error, "tiles are not written yet");
            if matches!(error, PublishError::Damaged(_)) && !rebuilt {
                // Once in the life of a process: what is wrong twice is not cured by writing it a third time.
                rebuilt = true;
                publisher.start_over();
            }
        }
        match jobs.recv_timeout(RETRY_AFTER) {
            Ok(job) => next.push(job),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Publisher<'_> {
    /// Back to what the mark says.
    fn return_to_mark(&mut self) {
        let bytes = durable::read(&self.shared.dir.join(MARK_FILE), MARK_BYTES_MAX).ok().flatten();
        // Without a mark, or with one that is none, everything is written anew.
        let mark: Mark = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        self.at = Position { segment: mark.segment, offset: mark.offset };
        // A mark of another log than this one would be beyond its end.
        if self.at > self.shared.progress.end() {
            self.start_over();
        } else {
            (self.sizes, self.moved) = (mark.logs, false);
            self.writers.clear();
            self.shared.segments.passed.tiles.store(mark.segment, Ordering::Release);
        }
    }

    fn start_over(&mut self) {
        (self.at, self.moved) = (Position::default(), false);
        // Nothing more is released before the tiles are there again.
        self.shared.segments.passed.tiles.store(0, Ordering::Release);
        self.sizes.clear();
        self.writers.clear();
    }

    fn publish(&mut self, waiting: &mut HashMap<LogName, Publish>) -> Result<(), PublishError> {
        let mut ends: Vec<(Position, LogName)> = waiting.values().map(|job| (job.end, job.log.clone())).collect();
        ends.sort();
        for (end, log) in ends {
            self.advance(end)?;
            let Some(job) = waiting.get(&log) else { continue };
            self.show(job)?;
            waiting.remove(&log);
        }
        if self.writers.len() > WRITERS_MAX {
            for (name, mut writer) in std::mem::take(&mut self.writers) {
                writer.finish()?;
                self.sizes.insert(name, writer.finished);
            }
        }
        if Instant::now() >= self.mark_at || self.shared.segments.passed.wants_mark.swap(false, Ordering::AcqRel) {
            self.mark_at = Instant::now() + MARK_EVERY;
            self.mark()?;
        }
        Ok(())
    }

    /// Takes in every leaf up to `end`.
    fn advance(&mut self, end: Position) -> Result<(), PublishError> {
        if end <= self.at {
            return Ok(());
        }
        let mut reader = self.shared.segments.reader(self.at, end);
        while let Some(frame) = reader.next_frame()? {
            let name = frames::split_text(frame.payload);
            let (name, leaf) = name.ok_or(cogward_wal::ReadError::Damaged(frame.position))?;
            if frame.kind == frames::LEAF || frame.kind == frames::PLANE {
                self.writer(name)?.push(leaf)?;
            }
        }
        (self.at, self.moved) = (end, true);
        Ok(())
    }

    fn writer(&mut self, name: &str) -> Result<&mut Writer, PublishError> {
        if !self.writers.contains_key(name) {
            let log = log_name(name)?;
            let dir = tiles_dir(&self.shared.dir, &log);
            let size = self.sizes.get(name).copied().unwrap_or(0);
            let writer = Writer::open(dir, size).ok_or(PublishError::Damaged(log))?;
            self.writers.insert(name.to_owned(), writer);
        }
        // It is there now; saying so without an `expect` needs the error of a case that is not.
        self.writers.get_mut(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    /// Finishes a log's tiles and then shows its checkpoint.
    fn show(&mut self, job: &Publish) -> Result<(), PublishError> {
        let name = match &job.log {
            LogName::Plane => "",
            LogName::Tenant(tenant) => tenant.as_str(),
        };
        let dir = tiles_dir(&self.shared.dir, &job.log);
        let writer = self.writer(name)?;
        if writer.hashes.size() > job.size {
            // Signed late, on a disk that was full: the newer one is on its way.
            return Ok(());
        }
        if writer.hashes.size() != job.size || writer.hashes.root() != job.root {
            return Err(PublishError::Damaged(job.log.clone()));
        }
        writer.finish()?;
        if job.size > 0 {
            put(&dir.join("checkpoint"), job.note.as_bytes())?;
        }
        writer.files.drop_parts()?;
        self.shared.published.set(&job.log, job.size, job.note.clone());
        Ok(())
    }

    /// Moves the mark to here, behind a flush of everything.
    fn mark(&mut self) -> Result<(), PublishError> {
        if !self.moved {
            return Ok(());
        }
        for (name, writer) in &mut self.writers {
            writer.finish()?;
            self.sizes.insert(name.clone(), writer.finished);
        }
        rustix::fs::syncfs(fs::File::open(&self.shared.dir)?).map_err(io::Error::from)?;
        let mark = Mark { segment: self.at.segment, offset: self.at.offset, logs: self.sizes.clone() };
        let bytes = serde_json::to_vec(&mark).map_err(io::Error::other)?;
        durable::replace(&self.shared.dir.join(MARK_FILE), &bytes)?;
        self.shared.segments.passed.tiles.store(self.at.segment, Ordering::Release);
        self.moved = false;
        Ok(())
    }
}

fn log_name(name: &str) -> Result<LogName, PublishError> {
    if name.is_empty() {
        return Ok(LogName::Plane);
    }
    let tenant: Result<TenantName, _> = name.parse();
    tenant.map(LogName::Tenant).map_err(|_| io::Error::from(io::ErrorKind::InvalidData).into())
}

/// A file of a published log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFile {
    /// The newest checkpoint: it changes.
    Checkpoint(Arc<PublishedCheckpoint>),
    /// A tile or bundle.
    Tile {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether it is full, so that it stays.
        full: bool,
    },
}

impl Evidence {
    /// A file of a log as C2SP tlog-tiles names it: `checkpoint`, `tile/…`. `None` when the log has no such file.
    ///
    /// The entries of the plane log are nobody's to read here: they are about all tenants.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn log_file(&self, log: &LogName, path: &str) -> io::Result<Option<LogFile>> {
        let Some(checkpoint) = self.shared.published.get(log) else { return Ok(None) };
        if path == "checkpoint" {
            return Ok(Some(LogFile::Checkpoint(checkpoint)));
        }
        let Some(tile) = TilePath::parse(path).filter(|tile| tile.is_in(checkpoint.size)) else { return Ok(None) };
        if *log == LogName::Plane && tile.level.is_none() {
            return Ok(None);
        }
        // The path is written anew from its numbers: nothing that came from outside reaches the file system.
        let bytes = durable::read(&tiles_dir(&self.shared.dir, log).join(tile.to_string()), TILE_BYTES_MAX)?;
        Ok(bytes.map(|bytes| LogFile::Tile { bytes, full: tile.is_full() }))
    }

    /// Waits until at least `size` leaves of a log are published. Without a bound of its own: on a full disk
    /// nothing is published.
    pub async fn until_published(&self, log: &LogName, size: u64) -> Arc<PublishedCheckpoint> {
        let mut changes = self.shared.published.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(published) = self.shared.published.get(log).filter(|published| published.size >= size) {
                return published;
            }
            // The sender lives as long as the ledger, which `self` holds.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until enough witnesses saw at least `size` leaves of the plane log. Without a bound of its own.
    pub(crate) async fn until_witnessed(&self, size: u64) {
        let mut changes = self.shared.published.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.shared.quorum().is_some_and(|quorum| quorum.size >= size) {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is published, as it changes: a number that grows.
    #[must_use]
    pub fn publications(&self) -> watch::Receiver<u64> {
        self.shared.published.changes.subscribe()
    }

    /// The newest checkpoint of a log that is published with its tiles.
    #[must_use]
    pub fn published(&self, log: &LogName) -> Option<Arc<PublishedCheckpoint>> {
        self.shared.published.get(log)
    }
}
