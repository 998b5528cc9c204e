//! The snapshot: what a start would otherwise have to read the whole log for.
//!
//! Beside the log, written again each time that it has grown enough: the right edge of each tenant's
//! tree, the ends of its runs, where the last leaf lies. It is believed only when it bears the mark of
//! a key of this plane, when every log in it is signed at least as far, when the last leaf of every log
//! is where it says, and when all that was signed since follows from it. In every other case the whole
//! log is read, and what that finds is the verdict: a snapshot can save time, it can excuse nothing.
//!
//! What is before the snapshot is read again in the background: damage there stops the ledger, too.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use aws_lc_rs::hmac;
use cogward_ledger::{Hash, leaf::leaf_hash, plane::PlaneLeaf, tree::Frontier};
use cogward_model::{Entropy, TenantName, Timestamp};
use cogward_wal::{Position, Start};
use serde::{Deserialize, Serialize};

use crate::{
    durable, frames,
    open::{Recovery, SignedStates},
    plane::{LogName, Place, PlaneLog},
    read::{Progress, SpansImage},
    record::Shared,
    segments::Segments,
    tenant_log::{LogImage, TenantLog},
};

const FORM: u64 = 2;
/// A snapshot of the greatest number of runs of many tenants is a part of this.
const BYTES_MAX: u64 = 512 * 1024 * 1024;
const KEY_BYTES: usize = 32;
const MARK_BYTES: usize = 32;
/// Frames that are read in the background before the thread pauses for a moment.
const SCRUB_FRAMES: u64 = 4_096;
const SCRUB_PAUSE: Duration = Duration::from_millis(20);

fn path(dir: &Path) -> PathBuf {
    dir.join("snapshot")
}

/// The key whose mark a snapshot bears: made once, of no use to anybody but this plane.
fn key(dir: &Path, entropy: &dyn Entropy) -> io::Result<hmac::Key> {
    let keys = dir.join("keys");
    durable::directory(&keys)?;
    let file = keys.join("snapshot.key");
    let bytes = match durable::read(&file, KEY_BYTES as u64)? {
        Some(bytes) if bytes.len() == KEY_BYTES => bytes,
        // A key that is damaged marks nothing any more; the snapshots that it marked are not believed.
        _ => {
            let mut bytes = vec![0; KEY_BYTES];
            entropy.fill(&mut bytes);
            durable::replace(&file, &bytes)?;
            bytes
        }
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// A key for something else that only this plane reads again.
pub(crate) fn derived_key(dir: &Path, entropy: &dyn Entropy, purpose: &[u8]) -> io::Result<hmac::Tag> {
    Ok(hmac::sign(&key(dir, entropy)?, purpose))
}

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    form: u64,
    /// Segment, offset and batch behind which the log must be read.
    start: (u64, u64, u64),
    last_time_us: u64,
    schema: Option<String>,
    tenants: Vec<(TenantName, LogImage)>,
    plane: PlaneImage,
    spans: SpansImage,
}

/// What a snapshot keeps of the plane log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaneImage {
    size: u64,
    subtrees: Vec<Hash>,
    /// The leaf with each tenant's newest checkpoint.
    newest: Vec<(TenantName, String)>,
}

impl PlaneImage {
    pub(crate) fn new(tree: &Frontier, newest: Vec<(TenantName, Place)>) -> Self {
        let text = |place: Place| String::from_utf8(place.leaf.to_bytes()).unwrap_or_default();
        let newest = newest.into_iter().map(|(tenant, place)| (tenant, text(place))).collect();
        Self { size: tree.size(), subtrees: tree.subtrees().to_vec(), newest }
    }
}

impl Image {
    pub(crate) fn new(
        start: Start,
        last_time: Timestamp,
        schema: Option<String>,
        tenants: Vec<(TenantName, LogImage)>,
        plane: PlaneImage,
        spans: SpansImage,
    ) -> Self {
        let start = (start.at.segment, start.at.offset, start.batch);
        Self { form: FORM, start, last_time_us: last_time.unix_micros(), schema, tenants, plane, spans }
    }

    /// The kept image, when it bears the mark and is of this form.
    fn read(dir: &Path, key: &hmac::Key) -> Option<Self> {
        let bytes = durable::read(&path(dir), BYTES_MAX).ok()??;
        let (mark, text) = bytes.split_at_checked(MARK_BYTES)?;
        hmac::verify(key, text, mark).ok()?;
        serde_json::from_slice(text).ok().filter(|image: &Self| image.form == FORM)
    }
}

/// What is known of the log up to a place, and believed.
pub(crate) struct Known {
    pub(crate) start: Start,
    pub(crate) recovery: Recovery,
}

/// The snapshot of this directory, when there is one.
///
/// # Errors
/// Why it is not believed. All is checked that can be without reading the log.
pub(crate) fn known(
    dir: &Path,
    key: &hmac::Key,
    signed: &SignedStates,
    segments: &Arc<Segments>,
) -> Result<Option<Known>, &'static str> {
    if !path(dir).exists() {
        return Ok(None);
    }
    let Image { start: (segment, offset, batch), last_time_us, schema, tenants, plane, spans, .. } =
        Image::read(dir, key).ok_or("it does not bear this plane's mark, or is of another form")?;
    let start = Start { at: Position { segment, offset }, batch };
    let last_time = Timestamp::from_unix_micros(last_time_us);
    let mut recovery = Recovery::known(signed.clone(), last_time, schema, Progress::from_image(spans));
    for (tenant, image) in tenants {
        let log = TenantLog::from_image(image).ok_or("a log in it is not one")?;
        // Signed at least as far: what is signed later must follow from here, which only the true edge lets it.
        let signed = signed.tenant(&tenant).filter(|signed| signed.size >= log.tree.size());
        let signed = signed.ok_or("a log is further than it was signed")?;
        if signed.size == log.tree.size() {
            if signed.root != log.tree.root() {
                return Err("a log is not the one that was signed");
            }
            recovery.first.push(signed.published(LogName::Tenant(tenant.clone()), start.at));
        }
        if !tail_is_there(segments, start.at, &tenant, &log) {
            return Err("the last leaf of a log is not where it says");
        }
        recovery.logs.insert(tenant, log);
    }
    let tree = Frontier::from_parts(plane.size, plane.subtrees).ok_or("the plane log in it is not one")?;
    recovery.plane = PlaneLog { tree, checkpointed: plane.size };
    if plane.size > 0 {
        let signed = signed.plane().filter(|signed| signed.size >= plane.size);
        let signed = signed.ok_or("the plane log is further than it was signed")?;
        if signed.size == plane.size {
            if signed.root != recovery.plane.tree.root() {
                return Err("the plane log is not the one that was signed");
            }
            recovery.first.push(signed.published(LogName::Plane, start.at));
        }
    }
    for (tenant, text) in plane.newest {
        let leaf = PlaneLeaf::from_bytes(text.as_bytes()).ok_or("a leaf of the plane log in it is not one")?;
        // That of an older checkpoint is of no use any more.
        let of = signed.anchored(&leaf).map_err(|_| "a leaf of the plane log is not of the last checkpoint")?;
        if of.is_some_and(|of| *of == tenant) {
            recovery.anchors.placed(&tenant, Place { index: leaf.seq, leaf });
        }
    }
    Ok(Some(Known { start, recovery }))
}

/// Whether the last leaf of a log lies where the snapshot says, and is the one that the edge ends with.
fn tail_is_there(segments: &Arc<Segments>, end: Position, tenant: &TenantName, log: &TenantLog) -> bool {
    let here = segments.first_at();
    if log.last_at < here {
        // It is in a segment that was released: the manifests of those say how the log ended there.
        let edge = segments.edges().edge(tenant.as_str());
        if edge
            .is_some_and(|(size, root, last)| (size, root) == (log.tree.size(), log.tree.root()) && last == log.last())
        {
            return true;
        }
    }
    // What was sealed for a leaf may end the segment before it.
    let mut reader = segments.reader(log.last_at.max(here), end);
    while let Ok(Some(frame)) = reader.next_frame() {
        if frame.kind == frames::LEAF {
            let leaf = frames::split_text(frame.payload).filter(|(name, _)| *name == tenant.as_str());
            return leaf.is_some_and(|(_, leaf)| log.last() == Some(leaf_hash(leaf)));
        }
    }
    false
}

/// When snapshots are taken.
pub(crate) struct Snapshots {
    dir: PathBuf,
    key: hmac::Key,
    /// Bytes of the log between two.
    every: u64,
    /// What was written when the last one was taken.
    taken: u64,
    /// Held by the one that is on its way to the disk.
    under_way: Arc<()>,
    segments: Arc<Segments>,
}

impl Snapshots {
    pub(crate) fn new(dir: &Path, entropy: &dyn Entropy, every: u64, segments: &Arc<Segments>) -> io::Result<Self> {
        let (key, segments) = (key(dir, entropy)?, Arc::clone(segments));
        Ok(Self { dir: dir.to_path_buf(), key, every: every.max(1), taken: 0, under_way: Arc::default(), segments })
    }

    pub(crate) fn key(&self) -> &hmac::Key {
        &self.key
    }

    /// Counts what was read at the start as grown: a log that was read in full is worth a snapshot.
    pub(crate) fn read_at_start(&mut self, bytes: u64) {
        self.taken = 0_u64.wrapping_sub(bytes);
    }

    pub(crate) fn are_due(&self, written: u64) -> bool {
        let grown = written.wrapping_sub(self.taken);
        let wanted = self.segments.passed.wants_snapshot.load(Ordering::Acquire);
        (wanted || grown >= self.every) && Arc::strong_count(&self.under_way) == 1
    }

    /// Takes one. It goes to the thread that signs, behind all that it must not be ahead of.
    pub(crate) fn take(&mut self, image: Image, written: u64) -> Taken {
        self.taken = written;
        self.segments.passed.wants_snapshot.store(false, Ordering::Release);
        Taken {
            image,
            file: path(&self.dir),
            key: self.key.clone(),
            segments: Arc::clone(&self.segments),
            _under_way: Arc::clone(&self.under_way),
        }
    }
}

/// A snapshot that is not on the disk yet.
///
/// One that is ahead of the last checkpoint of a log would not be believed by the next start. In its place there was
/// one that would have been; and where segments were released, reading everything takes the archive.
pub(crate) struct Taken {
    image: Image,
    file: PathBuf,
    key: hmac::Key,
    segments: Arc<Segments>,
    _under_way: Arc<()>,
}

impl Taken {
    /// Writes it, on a thread of its own. Only called when every log is signed at least as far.
    pub(crate) fn write(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("ledger-snapshot".into()).spawn(move || {
            let text = match serde_json::to_vec(&self.image) {
                Ok(text) => text,
                Err(error) => return tracing::error!(%error, "a snapshot could not be written"),
            };
            let bytes = [hmac::sign(&self.key, &text).as_ref(), &text].concat();
            // The one before stays in place: the next start reads more, and that is all.
            match durable::replace(&self.file, &bytes) {
                Ok(()) => self.segments.passed.snapshot.store(self.image.start.0, Ordering::Release),
                Err(error) => tracing::warn!(%error, "a snapshot could not be written"),
            }
        })
    }
}

/// Reads what a start passed over, in the background and with pauses, and stops the ledger when it is damaged.
pub(crate) fn scrub(shared: &Arc<Shared>, until: Position, roots: HashMap<LogName, (u64, Hash)>) {
    let (segments, shared) = (Arc::clone(&shared.segments), Arc::downgrade(shared));
    let work = move || {
        // Nothing is released while this reads, so nothing of it is far away.
        let read = match segments.first() {
            0 => read_again(&segments, until, &roots, &shared),
            _ => read_on(&segments, until, &roots, &shared),
        };
        match read {
            Err(error) => {
                if let Some(shared) = shared.upgrade() {
                    tracing::error!(%error, "the log before the snapshot is damaged");
                    let _failed = shared.fail(&io::Error::other(error));
                }
            }
            Ok(()) => segments.passed.scrubbed.store(true, Ordering::Release),
        }
    };
    // Without the thread the same is found when it is read or exported.
    if let Err(error) = std::thread::Builder::new().name("ledger-scrub".into()).spawn(work) {
        tracing::warn!(%error, "the log before the snapshot is not read again");
    }
}

/// Reads what is here behind released segments. It must go on where the signed manifests of those end; they
/// themselves are verified where they are.
fn read_on(
    segments: &Arc<Segments>,
    until: Position,
    roots: &HashMap<LogName, (u64, Hash)>,
    shared: &Weak<Shared>,
) -> Result<(), String> {
    let mut walk = segments.edges().clone();
    tracing::info!(segments = segments.first(), "segments are only in the archive, and are not read again here");
    let mut reader = segments.reader(segments.first_at(), until);
    for n in 1_u64.. {
        match reader.next_frame().map_err(|error| error.to_string())? {
            Some(frame) => walk.frame(frame.kind, frame.payload).map_err(|problem| {
                format!("{}: {}: {}", problem.log.unwrap_or_default(), problem.what.as_str(), problem.detail)
            })?,
            None => break,
        }
        if n.is_multiple_of(SCRUB_FRAMES) {
            std::thread::sleep(SCRUB_PAUSE);
            if shared.strong_count() == 0 {
                return Ok(());
            }
        }
    }
    let found = |log: &LogName| match log {
        LogName::Plane => walk.edge(""),
        LogName::Tenant(tenant) => walk.edge(tenant.as_str()),
    };
    let is = |log: &LogName, (size, root): &(u64, Hash)| match found(log) {
        Some((found, other, _)) => (found, other) == (*size, *root),
        None => *size == 0,
    };
    match roots.iter().find(|(log, edge)| !is(log, edge)) {
        Some((log, _)) => Err(format!("{log} is not the one that was signed")),
        None => Ok(()),
    }
}

fn read_again(
    segments: &Arc<Segments>,
    until: Position,
    roots: &HashMap<LogName, (u64, Hash)>,
    shared: &Weak<Shared>,
) -> Result<(), String> {
    let mut reader = segments.reader(Position::default(), until);
    let seen = shared.upgrade().map(|shared| Arc::clone(&shared.seen)).unwrap_or_default();
    let mut recovery = Recovery::of_roots(&seen);
    for n in 1_u64.. {
        match reader.next_frame().map_err(|error| error.to_string())? {
            Some(frame) => recovery.frame(frame),
            None => break,
        }
        if n.is_multiple_of(SCRUB_FRAMES) {
            std::thread::sleep(SCRUB_PAUSE);
            if shared.strong_count() == 0 {
                return Ok(());
            }
        }
    }
    recovery.check().map_err(|error| error.to_string())?;
    let found = recovery.edges();
    match roots.iter().find(|(log, edge)| found.get(log) != Some(edge)) {
        Some((log, _)) => Err(format!("{log} is not the one that was signed")),
        None => Ok(()),
    }
}
