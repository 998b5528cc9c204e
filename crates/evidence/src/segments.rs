//! Where every reader gets the segments of the write-ahead log from: this disk, or for released ones the archive.
//!
//! A released segment is brought here when somebody reads it, and no byte of it is used before all of them have the
//! digest that its signed manifest names. It has no name on this disk while it is read, so nobody changes it in
//! between; a few are kept open, and the one that was read longest ago goes first.

use std::{
    collections::VecDeque,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aws_lc_rs::digest;
use cogward_ledger::archive::{Name, Walk};
use cogward_model::Timestamp;
use cogward_wal::{Position, WalReader};

use crate::{
    archive::Place,
    durable,
    log_keys::LogKeys,
    open::OpenError,
    released::{Release, read_all},
};

/// Released segments that are kept open after they were read.
const FETCHED_MAX: usize = 2;

/// A released segment cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} of the write-ahead log is only in the archive, and cannot be read there: {why}")]
pub struct Unfetched {
    /// Which.
    pub segment: u64,
    /// Why.
    pub why: String,
    /// Whether the archive gave other bytes than were put there.
    pub lies: bool,
}

/// The released segment that could not be read, when that is what an error comes from.
#[must_use]
pub fn unfetched<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Unfetched> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref::<Unfetched>()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// How far others are behind whom a segment may go: nobody of them needs an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The segment in which the flushed snapshot ends.
    pub(crate) snapshot: AtomicU64,
    /// That in which the flushed mark of the tiles is.
    pub(crate) tiles: AtomicU64,
    /// That in which the index is.
    pub(crate) index: AtomicU64,
    /// Whether what the start passed over was read again.
    pub(crate) scrubbed: AtomicBool,
    /// Somebody waits for a newer snapshot.
    pub(crate) wants_snapshot: AtomicBool,
    /// Somebody waits for a newer mark.
    pub(crate) wants_mark: AtomicBool,
}

/// The segments of a plane.
pub(crate) struct Segments {
    dir: PathBuf,
    place: Option<Arc<dyn Place>>,
    state: Mutex<State>,
    /// Held while one is brought here.
    fetching: Mutex<()>,
    /// Where the logs stood at the beginning of the first segment that was here at the start.
    edges: Walk,
    pub(crate) passed: Passed,
}

struct State {
    /// The first segment that is here.
    first: u64,
    released: Vec<Release>,
    fetched: VecDeque<(u64, Arc<File>)>,
}

fn file_of(dir: &Path, index: u64) -> PathBuf {
    dir.join("wal").join(format!("{index:016x}.seg"))
}

/// The first segment that is on the disk.
fn first_here(dir: &Path) -> io::Result<Option<u64>> {
    let entries = match fs::read_dir(dir.join("wal")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut first = None::<u64>;
    for entry in entries {
        let name = entry?.file_name();
        let index = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(index) = index.and_then(|index| u64::from_str_radix(index, 16).ok()) {
            first = Some(first.map_or(index, |first| first.min(index)));
        }
    }
    Ok(first)
}

impl Segments {
    /// What is here and what was released. A segment that is missing and was not released is a loss.
    pub(crate) fn open(dir: &Path, log: &LogKeys, place: Option<Arc<dyn Place>>) -> Result<Arc<Self>, OpenError> {
        let here = first_here(dir)?;
        let (released, edges) = read_all(dir, log, here.unwrap_or(u64::MAX))?;
        let known = released.len() as u64;
        let first = match here {
            Some(first) if first > known && known == 0 => return Err(OpenError::FirstGone { first }),
            Some(first) if first > known => return Err(OpenError::Gone { from: known, to: first - 1 }),
            None if known > 0 => return Err(OpenError::AllGone { released: known }),
            here => here.unwrap_or(0),
        };
        let fetched = dir.join("fetched");
        // What a plane that was killed had brought here and not yet read.
        match fs::remove_dir_all(&fetched) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(Arc::new(Self {
            dir: dir.to_path_buf(),
            place,
            state: Mutex::new(State { first, released, fetched: VecDeque::new() }),
            fetching: Mutex::default(),
            edges,
            passed: Passed::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first segment that is on this disk.
    pub(crate) fn first(&self) -> u64 {
        self.state().first
    }

    /// Where it begins.
    pub(crate) fn first_at(&self) -> Position {
        Position { segment: self.first(), offset: 0 }
    }

    /// How many segments were released.
    pub(crate) fn released(&self) -> u64 {
        self.state().released.len() as u64
    }

    /// The release of a segment that is not here any more.
    pub(crate) fn gone(&self, index: u64) -> Option<Release> {
        let state = self.state();
        (index < state.first).then(|| state.released.get(usize::try_from(index).ok()?).cloned()).flatten()
    }

    /// The release of a segment, whether or not its file is still here.
    pub(crate) fn release_of(&self, index: u64) -> Option<Release> {
        self.state().released.get(usize::try_from(index).ok()?).cloned()
    }

    /// From where on leaves of this time and later are, as far as the releases tell.
    pub(crate) fn since(&self, time: Timestamp) -> Position {
        let state = self.state();
        let before = state.released.iter().take_while(|release| release.until < time).count() as u64;
        Position { segment: before.min(state.first), offset: 0 }
    }

    /// The time of the last leaf that is not here any more.
    pub(crate) fn gone_until(&self) -> Option<Timestamp> {
        self.gone(self.first().checked_sub(1)?).map(|release| release.until)
    }

    /// Where the logs stood at the beginning of the first segment that was here at the start, by signed manifests.
    pub(crate) fn edges(&self) -> &Walk {
        &self.edges
    }

    /// A reader of the frames between two places.
    pub(crate) fn reader(self: &Arc<Self>, from: Position, to: Position) -> WalReader {
        WalReader::new(Arc::clone(self) as Arc<dyn cogward_wal::Segments>, from, to)
    }

    /// A release was written down: the segment may go.
    pub(crate) fn add(&self, release: Release) {
        self.state().released.push(release);
    }

    /// Removes what was released and is still here.
    pub(crate) fn unlink(&self) -> io::Result<()> {
        loop {
            let index = {
                let mut state = self.state();
                if state.first >= state.released.len() as u64 {
                    return Ok(());
                }
                // Whoever opens it from now on gets it from the archive.
                state.first += 1;
                state.first - 1
            };
            match fs::remove_file(file_of(&self.dir, index)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.state().first = index;
                    return Err(error);
                }
                _ => File::open(self.dir.join("wal"))?.sync_all()?,
            }
        }
    }

    /// Gives back the space of what nobody reads at the moment; whether there was any.
    pub(crate) fn forget_fetched(&self) -> bool {
        !std::mem::take(&mut self.state().fetched).is_empty()
    }

    fn known(&self, index: u64) -> Option<Arc<File>> {
        let mut state = self.state();
        let at = state.fetched.iter().position(|(of, _)| *of == index)?;
        let found = state.fetched.remove(at)?;
        let file = Arc::clone(&found.1);
        state.fetched.push_back(found);
        Some(file)
    }

    fn fetch(&self, release: &Release) -> io::Result<Arc<File>> {
        let _one = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.known(release.segment) {
            return Ok(file);
        }
        let segment = release.segment;
        let failed = |why: String, lies| io::Error::other(Unfetched { segment, why, lies });
        let place = self.place.as_deref();
        let place = place.ok_or_else(|| failed("the plane was started without --archive".to_owned(), false))?;
        {
            let mut state = self.state();
            while state.fetched.len() >= FETCHED_MAX {
                state.fetched.pop_front();
            }
        }
        let file = self.nameless(segment)?;
        // A store is asked by a thread of its own: whoever reads may be within a runtime, where nothing may block.
        let brought = std::thread::scope(|scope| {
            let work = || brought(place, release, &file);
            std::thread::Builder::new()
                .name("ledger-fetch".to_owned())
                .spawn_scoped(scope, work)?
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("reading the archive was interrupted")))
        });
        match brought.map_err(|error| failed(format!("{}: {error}", place.shown()), false))? {
            true => {}
            false => {
                tracing::error!(
                    segment,
                    archive = place.shown(),
                    "the archive gives back other bytes than were put there"
                );
                return Err(failed(format!("{} gives back other bytes than were put there", place.shown()), true));
            }
        }
        tracing::info!(segment, "a released segment was read back from the archive");
        let file = Arc::new(file);
        self.state().fetched.push_back((segment, Arc::clone(&file)));
        Ok(file)
    }

    /// A file that has no name any more: it is gone when the last reader is.
    fn nameless(&self, segment: u64) -> io::Result<File> {
        let dir = self.dir.join("fetched");
        durable::directory(&dir)?;
        let path = dir.join(format!("{segment:016x}.seg"));
        let _old = fs::remove_file(&path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Brings a segment into the file; whether it is the one that its manifest names.
fn brought(place: &dyn Place, release: &Release, mut file: &File) -> io::Result<bool> {
    let name = Name::Segment { index: release.segment, digest: release.sha256 };
    let mut object = place.open(&name.to_string())?.take(release.bytes.saturating_add(1));
    let (mut context, mut buffer, mut bytes) = (digest::Context::new(&digest::SHA256), vec![0; 256 * 1024], 0_u64);
    loop {
        let read = match object.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(read);
        bytes += read.len() as u64;
        file.write_all(read)?;
    }
    Ok(bytes == release.bytes && context.finish().as_ref() == release.sha256)
}

impl cogward_wal::Segments for Segments {
    fn open(&self, index: u64) -> io::Result<Arc<File>> {
        if let Some(release) = self.gone(index) {
            return self.known(index).map_or_else(|| self.fetch(&release), Ok);
        }
        match File::open(file_of(&self.dir, index)) {
            // It may have been released this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.gone(index) {
                Some(release) => self.fetch(&release),
                None => Err(error),
            },
            found => found.map(Arc::new),
        }
    }
}

impl Passed {
    /// The first segment that somebody still needs here.
    pub(crate) fn needed(&self) -> u64 {
        let all = [&self.snapshot, &self.tiles, &self.index];
        all.iter().map(|passed| passed.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Has the snapshot and the mark of the tiles go on, where they are what a segment waits for.
    pub(crate) fn wake(&self, segment: u64) {
        self.wants_snapshot.store(self.snapshot.load(Ordering::Acquire) <= segment, Ordering::Release);
        self.wants_mark.store(self.tiles.load(Ordering::Acquire) <= segment, Ordering::Release);
    }
}
