//! Time stamps (RFC 3161) of the plane log: what was asked for, what came back, and where it is kept.
//!
//! An answer is taken only for a checkpoint that this plane signed and that its log still contains, and only when it answers
//! a request of ours. It is kept for ever, each beside the note that it is over: `plane/timestamps/SIZE.N.tsr` and
//! `SIZE.checkpoint`, so that `openssl ts -verify` can be run on the two files at any time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cogward_ledger::{
    Hash,
    note::{Checkpoint, NOTE_BYTES_MAX, NoteError},
    plane::{Anchor, PlaneLeaf},
    tile_proof::TiledLog,
    tiles::{TILE_WIDTH, TilePath},
    timestamp::{TIMESTAMP_BYTES_MAX, TimestampError, TimestampRequest, Timestamped, imprint},
};
use cogward_model::{TenantName, Timestamp};

use crate::{
    durable,
    plane::{LogName, PlaneKeys},
    publish::{self, PublishedCheckpoint},
    read::on_a_thread,
    record::Evidence,
    witnessed::{CosignError, root_at},
};

/// Where the time stamps are, below the plane log's directory.
const DIR: &str = "timestamps";
/// Within it: requests that went out by file, by their nonces.
const ASKED_DIR: &str = "asked";
/// Requests by file that may be unanswered at once; the oldest is forgotten.
const ASKED_MAX: usize = 64;
/// Time stamps of one checkpoint.
const ANSWERS_MAX: u32 = 64;
/// Bundles of the plane log in which a tenant's leaf is looked for: a million checkpoints.
const BUNDLES_MAX: usize = 4_096;

/// A request that waits for its answer.
#[derive(Debug, Clone)]
pub struct TimestampAsk {
    /// The checkpoint that is to be stamped.
    pub checkpoint: Arc<PublishedCheckpoint>,
    /// When it was asked, by the host's clock.
    pub asked: Timestamp,
    request: TimestampRequest,
}

impl TimestampAsk {
    /// What goes to the authority.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        self.request.to_der()
    }
}

/// A time stamp of a checkpoint of the plane log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampedCheckpoint {
    /// Leaves of the plane log.
    pub size: u64,
    /// When, as the authority says.
    pub time: Timestamp,
    /// Milliseconds by which the host's clock was ahead of the authority's, behind when negative; 0 when what the answer
    /// took and the digits of its time explain the difference. `None` for one that an earlier plane took in.
    pub offset_ms: Option<i64>,
    /// The SHA-256 of the note.
    pub note_digest: Hash,
    /// The SHA-256 of the answer.
    pub answer_digest: Hash,
    /// Whether it had been taken in before.
    pub known: bool,
    number: u32,
}

/// Why there is no time stamp.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    /// There is nothing to be stamped.
    #[error("the plane log is not published yet")]
    Empty,
    /// The answer is none to a request of ours.
    #[error("the answer is not taken: {0}")]
    Answer(#[from] TimestampError),
    /// No request with its nonce went out, or it was answered.
    #[error("the answer is not taken: this plane made no such request, or forgot it")]
    Unasked,
    /// The request is for a checkpoint that is not one of this log.
    #[error("the checkpoint is not one of this plane log: {0}")]
    Note(#[from] NoteError),
    /// The plane log was another one when it was asked.
    #[error("the checkpoint of {0} leaves is not one of this plane log")]
    OtherLog(u64),
    /// There are as many as may be.
    #[error("the checkpoint of {0} leaves has {ANSWERS_MAX} time stamps")]
    Enough(u64),
    /// The plane log could not be read.
    #[error(transparent)]
    Log(#[from] CosignError),
    /// A file could not be read or written.
    #[error("the time stamp could not be kept")]
    Io(#[from] io::Error),
    /// Reading was interrupted.
    #[error(transparent)]
    Read(#[from] crate::read::ReadError),
}

/// The newest time stamp.
#[derive(Default)]
pub(crate) struct Timestamps(Mutex<Option<TimestampedCheckpoint>>);

/// The tenant's part of a time stamp, for a pack.
pub(crate) struct StampedAnchor {
    pub(crate) anchor: Anchor,
    pub(crate) answer: Vec<u8>,
}

fn dir_of(dir: &Path) -> PathBuf {
    LogName::Plane.dir(dir).join(DIR)
}

fn note_file(dir: &Path, size: u64) -> PathBuf {
    dir.join(format!("{size}.checkpoint"))
}

fn answer_file(dir: &Path, size: u64, number: u32) -> PathBuf {
    dir.join(format!("{size}.{number}.tsr"))
}

/// `SIZE.N.tsr`
fn name_of(name: &str) -> Option<(u64, u32)> {
    let (size, number) = name.strip_suffix(".tsr")?.split_once('.')?;
    let found: (u64, u32) = (size.parse().ok()?, number.parse().ok()?);
    (name == format!("{}.{}.tsr", found.0, found.1)).then_some(found)
}

/// How far the clock was ahead, in milliseconds, when an answer says `stamped` and came between `asked` and `received`.
/// What the way took is no difference, nor what the digits of the time and its accuracy leave open.
fn offset_ms(asked: Timestamp, received: Timestamp, stamped: &Timestamped) -> i64 {
    let (accuracy, exact) = stamped.within;
    let time = stamped.time.unix_micros();
    // The true time of the stamp is between these two, by its own clock.
    let (first, last) = (time.saturating_sub(accuracy), time.saturating_add(accuracy).saturating_add(exact));
    let millis = |micros: u64| i64::try_from(micros / 1_000).unwrap_or(i64::MAX);
    if last < asked.unix_micros() {
        millis(asked.unix_micros() - last)
    } else if first > received.unix_micros() {
        -millis(first - received.unix_micros())
    } else {
        0
    }
}

fn text_of(path: &Path) -> Result<Option<String>, io::Error> {
    let bytes = durable::read(path, NOTE_BYTES_MAX as u64 + 64)?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())).transpose()
}

impl Evidence {
    /// Finds the newest time stamp that earlier planes kept. One that cannot be believed is passed over.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn restore_timestamps(&self) -> io::Result<()> {
        let dir = dir_of(&self.shared.dir);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().to_str().and_then(name_of));
        }
        names.sort_unstable();
        let newest = names.iter().rev().find_map(|(size, number)| self.kept(&dir, *size, *number));
        *self.shared.timestamps.0.lock().unwrap_or_else(PoisonError::into_inner) = newest;
        Ok(())
    }

    fn kept(&self, dir: &Path, size: u64, number: u32) -> Option<TimestampedCheckpoint> {
        let note = text_of(&note_file(dir, size)).ok().flatten()?;
        let of = self.shared.keyring.plane().log.open_own(&note).ok()?;
        let answer = durable::read(&answer_file(dir, size, number), TIMESTAMP_BYTES_MAX as u64).ok().flatten()?;
        let stamped = Timestamped::read(&answer).ok()?;
        let note_digest = imprint(note.as_bytes());
        (of.size == size && stamped.imprint == note_digest).then(|| TimestampedCheckpoint {
            size,
            time: stamped.time,
            offset_ms: None,
            note_digest,
            answer_digest: imprint(&answer),
            known: true,
            number,
        })
    }

    /// The newest time stamp.
    #[must_use]
    pub fn timestamp(&self) -> Option<TimestampedCheckpoint> {
        self.shared.timestamps.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the newest time stamp is over a checkpoint that the plane log's present key signed, too. If not, packs go
    /// without it: their readers are given the present key.
    #[must_use]
    pub fn timestamp_is_of_present_key(&self) -> bool {
        let Some(newest) = self.timestamp() else { return true };
        let note = text_of(&note_file(&dir_of(&self.shared.dir), newest.size)).ok().flatten();
        let keys = self.shared.keyring.plane().log.key();
        note.is_none_or(|note| Checkpoint::open(&note, keys.verifying()).is_ok())
    }

    /// A request for a time stamp of the newest checkpoint of the plane log; `None` before there is one.
    #[must_use]
    pub fn timestamp_ask(&self) -> Option<TimestampAsk> {
        let checkpoint = self.published(&LogName::Plane).filter(|published| published.size > 0)?;
        let request = TimestampRequest::new(checkpoint.note.as_bytes(), &*self.shared.entropy);
        Some(TimestampAsk { checkpoint, asked: self.shared.clock.now(), request })
    }

    /// The same, remembered on the disk until its answer is brought back as a file.
    ///
    /// # Errors
    /// See [`StampError`].
    pub async fn timestamp_ask_by_file(&self) -> Result<TimestampAsk, StampError> {
        let ask = self.timestamp_ask().ok_or(StampError::Empty)?;
        let dir = dir_of(&self.shared.dir).join(ASKED_DIR);
        let text = format!("{}\n{}", ask.asked, ask.checkpoint.note);
        let path = dir.join(ask.request.nonce());
        on_a_thread(move || {
            durable::directory(&dir)?;
            let mut older = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                // It begins with when it was asked.
                older.push((text_of(&path).ok().flatten().unwrap_or_default(), path));
            }
            older.sort_unstable();
            let too_many = (older.len() + 1).saturating_sub(ASKED_MAX);
            for (_, path) in older.iter().take(too_many) {
                fs::remove_file(path)?;
            }
            Ok::<_, StampError>(durable::replace(&path, text.as_bytes())?)
        })
        .await?;
        Ok(ask)
    }

    /// Takes the answer to a request.
    ///
    /// # Errors
    /// See [`StampError`]; then nothing is kept.
    pub async fn add_timestamp(
        &self,
        ask: &TimestampAsk,
        answer: Vec<u8>,
    ) -> Result<TimestampedCheckpoint, StampError> {
        let received = self.shared.clock.now();
        let stamped = ask.request.answered(&answer)?;
        let (evidence, ask) = (self.clone(), ask.clone());
        on_a_thread(move || evidence.keep_timestamp(&ask, received, &stamped, &answer)).await
    }

    /// Takes an answer that came as a file: it must be one to a request of [`Evidence::timestamp_ask_by_file`].
    ///
    /// # Errors
    /// See [`StampError`].
    pub async fn import_timestamp(&self, answer: Vec<u8>) -> Result<TimestampedCheckpoint, StampError> {
        // A nonce of ours has so many digits; nothing else is the name of a file.
        let nonce = Timestamped::read(&answer)?.nonce.filter(|nonce| nonce.len() == 32).ok_or(StampError::Unasked)?;
        let path = dir_of(&self.shared.dir).join(ASKED_DIR).join(&nonce);
        let text = text_of(&path)?.ok_or(StampError::Unasked)?;
        let (asked, note) = text.split_once('\n').ok_or(StampError::Unasked)?;
        let asked = asked.parse().map_err(|_| StampError::Unasked)?;
        let of = self.shared.keyring.plane().log.open_own(note)?;
        let request = TimestampRequest::again(note.as_bytes(), &nonce).ok_or(StampError::Unasked)?;
        let checkpoint = Arc::new(PublishedCheckpoint { size: of.size, note: note.to_owned() });
        let taken = self.add_timestamp(&TimestampAsk { checkpoint, asked, request }, answer).await?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(taken),
        }
    }

    fn keep_timestamp(
        &self,
        ask: &TimestampAsk,
        received: Timestamp,
        stamped: &Timestamped,
        answer: &[u8],
    ) -> Result<TimestampedCheckpoint, StampError> {
        let (size, note) = (ask.checkpoint.size, &ask.checkpoint.note);
        let published = self.published(&LogName::Plane).map_or(0, |published| published.size);
        let of = self.shared.keyring.plane().log.open_own(note)?;
        if of.size != size || size == 0 || size > published || root_at(&self.shared.dir, size, published)? != of.root {
            return Err(StampError::OtherLog(size));
        }
        let dir = dir_of(&self.shared.dir);
        durable::directory(&dir)?;
        // One at a time: the number of a file is given once.
        let mut newest = self.shared.timestamps.0.lock().unwrap_or_else(PoisonError::into_inner);
        match durable::read(&note_file(&dir, size), NOTE_BYTES_MAX as u64)? {
            None => durable::replace(&note_file(&dir, size), note.as_bytes())?,
            Some(there) if there == note.as_bytes() => {}
            // The same size is signed once; this is a note of before the log's second key.
            Some(_) => return Err(StampError::OtherLog(size)),
        }
        let mut free = None;
        for number in 0..ANSWERS_MAX {
            match durable::read(&answer_file(&dir, size, number), TIMESTAMP_BYTES_MAX as u64)? {
                Some(there) if there == answer => {
                    free = Some((number, true));
                    break;
                }
                Some(_) => {}
                None => {
                    free = Some((number, false));
                    break;
                }
            }
        }
        let (number, known) = free.ok_or(StampError::Enough(size))?;
        if !known {
            durable::replace(&answer_file(&dir, size, number), answer)?;
        }
        let taken = TimestampedCheckpoint {
            size,
            time: stamped.time,
            offset_ms: Some(offset_ms(ask.asked, received, stamped)),
            note_digest: imprint(note.as_bytes()),
            answer_digest: imprint(answer),
            known,
            number,
        };
        if newest.as_ref().is_none_or(|newest| (newest.size, newest.time) <= (size, taken.time)) {
            *newest = Some(taken.clone());
        }
        Ok(taken)
    }

    /// The newest time stamp with a leaf of this tenant, about no more than `leaves`, in what it is over. `None` when there is none, or when the tiles of
    /// the plane log are not there: a pack is whole without.
    pub(crate) async fn stamped_anchor(&self, tenant: &TenantName, leaves: u64) -> Option<StampedAnchor> {
        let newest = self.timestamp()?;
        let published = self.published(&LogName::Plane)?.size;
        let (evidence, tenant) = (self.clone(), tenant.clone());
        let found = on_a_thread(move || evidence.find_stamped(&tenant, leaves, &newest, published)).await;
        found.unwrap_or_else(|error: StampError| {
            tracing::warn!(%error, "a pack goes without its time stamp");
            None
        })
    }

    fn find_stamped(
        &self,
        tenant: &TenantName,
        leaves: u64,
        newest: &TimestampedCheckpoint,
        published: u64,
    ) -> Result<Option<StampedAnchor>, StampError> {
        let (size, dir) = (newest.size, dir_of(&self.shared.dir));
        let unreadable = |_| StampError::OtherLog(size);
        let origin = self.origin(&LogName::Tenant(tenant.clone())).map_err(unreadable)?;
        let keys = self.shared.keyring.plane();
        let tiles = publish::tiles_dir(&self.shared.dir, &LogName::Plane);
        let leaf = match self.shared.anchors.newest_before(tenant, size, leaves) {
            Some(leaf) => Some(leaf),
            None => last_leaf(&tiles, keys, &origin, (size, leaves), published)?,
        };
        let Some(leaf) = leaf else { return Ok(None) };
        let (Some(note), Some(opens)) = (text_of(&note_file(&dir, size))?, keys.disclosure(&origin, leaf.size)) else {
            return Ok(None);
        };
        let path = answer_file(&dir, size, newest.number);
        let Some(answer) = durable::read(&path, TIMESTAMP_BYTES_MAX as u64)? else { return Ok(None) };
        let mut log = TiledLog::new(size, |tile| publish::read_hashes(&tiles, tile, published));
        let proof = log.inclusion(leaf.seq).map_err(CosignError::from)?;
        let disclosure = opens.as_str().to_owned();
        let anchor = Anchor { leaf: leaf.to_bytes(), disclosure, index: leaf.seq, proof, note };
        // What is wrong here would make a pack that does not verify out of one that does.
        if imprint(anchor.note.as_bytes()) != newest.note_digest {
            return Err(StampError::OtherLog(size));
        }
        if anchor.verify_earlier(&origin, keys.log.key().verifying()).is_err() {
            // Signed by the key before alone, which readers of the pack do not ask here: until the next one is stamped.
            return Ok(None);
        }
        Ok(Some(StampedAnchor { anchor, answer }))
    }
}

/// The last leaf of a tenant among the first `size` of the plane log, out of its bundles, from the end on.
fn last_leaf(
    tiles: &Path,
    keys: &PlaneKeys,
    origin: &str,
    (size, leaves): (u64, u64),
    published: u64,
) -> io::Result<Option<PlaneLeaf>> {
    let bundles = (0..size.div_ceil(TILE_WIDTH as u64)).rev().take(BUNDLES_MAX);
    for tile in bundles.filter_map(|index| TilePath::of(None, index, published)) {
        let bytes = publish::read_tile(tiles, &tile)?;
        let mut rest = bytes.as_slice();
        let mut found = None;
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let split = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)));
            let (leaf, behind) = split.ok_or(io::ErrorKind::InvalidData)?;
            rest = behind;
            let leaf = PlaneLeaf::from_bytes(leaf).ok_or(io::ErrorKind::InvalidData)?;
            let is_ours = leaf.seq < size
                && leaf.size <= leaves
                && keys.disclosure(origin, leaf.size).is_some_and(|opens| opens.commitment() == leaf.log);
            found = if is_ours { Some(leaf) } else { found };
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_an_answer_is_no_difference_of_clocks() {
        let at = |micros: u64| Timestamp::from_unix_micros(1_000_000_000_000 + micros);
        let stamped = |micros, within| Timestamped {
            imprint: [0; 32],
            time: at(micros),
            within,
            policy: String::new(),
            serial: String::new(),
            nonce: None,
        };
        let (asked, received) = (at(5_400_000), at(5_900_000));
        // Whole seconds: 5 s means anything up to 6 s.
        assert_eq!(offset_ms(asked, received, &stamped(5_000_000, (0, 1_000_000))), 0);
        assert_eq!(offset_ms(asked, received, &stamped(4_000_000, (0, 1_000_000))), 400);
        assert_eq!(offset_ms(asked, received, &stamped(4_000_000, (400_000, 1_000_000))), 0);
        assert_eq!(offset_ms(asked, received, &stamped(6_000_000, (0, 1_000_000))), -100);
        assert_eq!(offset_ms(asked, received, &stamped(5_500_000, (0, 1))), 0);
        assert_eq!(offset_ms(asked, received, &stamped(3_605_900_000, (0, 1))), -3_600_000);
        assert_eq!(offset_ms(at(3_600_000_000), at(3_600_500_000), &stamped(0, (0, 1_000_000))), 3_599_000);
    }

    #[test]
    fn only_names_of_ours_are_time_stamps() {
        assert_eq!(name_of("1200.0.tsr"), Some((1_200, 0)));
        for name in
            ["1200.checkpoint", "01200.0.tsr", "1200.00.tsr", "+1200.0.tsr", "1200.tsr", "1200.0.1.tsr", "asked"]
        {
            assert_eq!(name_of(name), None, "{name}");
        }
    }
}
