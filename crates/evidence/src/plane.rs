//! The plane log: which checkpoints of tenants it holds, and the proof of one for a tenant's pack.
//!
//! Every checkpoint of a tenant that says something new becomes one leaf, through the same sequencer and
//! write-ahead log as everything else. Whose it is can be said only with the plane's salt key.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use cogward_ledger::{
    Hash,
    commitment::{Disclosure, SALT_BYTES},
    leaf::leaf_hash,
    note::Checkpoint,
    plane::{self, Anchor, PlaneLeaf},
    proof::PassingPaths,
    tile_proof::{TileProofError, TiledLog},
    tree::Frontier,
};
use cogward_model::TenantName;
use cogward_wal::{Position, WalReader};
use tokio::sync::oneshot;

use crate::{
    checkpoint::SignedCheckpoint,
    frames,
    keys::KeyringError,
    log_keys::LogKeys,
    publish,
    queue::Item,
    read::{ReadError, on_a_thread},
    record::{Evidence, Health, RecordError, Shared},
};

/// Newest places of a tenant that are remembered: an export may be some seconds behind.
const PLACES_MAX: usize = 16;
/// How long an export waits for the tiles that its proof is made of, before it reads the log itself.
const TILES_MAX: Duration = Duration::from_secs(5);

/// How long an export waits for the witnesses of its newest checkpoint; then it goes without them, and says so.
const WITNESSES_MAX: Duration = Duration::from_secs(4);

/// One of the logs of a plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogName {
    /// The log of the tenants' checkpoints.
    Plane,
    /// A tenant's log.
    Tenant(TenantName),
}

impl LogName {
    /// Where its files are.
    pub(crate) fn dir(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Plane => dir.join("plane"),
            Self::Tenant(tenant) => dir.join("tenants").join(tenant.as_str()),
        }
    }
}

impl std::fmt::Display for LogName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plane => f.write_str("the plane log"),
            Self::Tenant(tenant) => write!(f, "the log of tenant {tenant}"),
        }
    }
}

/// The plane log's own keys.
pub(crate) struct PlaneKeys {
    pub(crate) log: LogKeys,
    pub(crate) salt: hmac::Key,
}

impl PlaneKeys {
    /// What opens the leaf of a tenant's checkpoint. Never the same for two sizes: leaves of one tenant
    /// have nothing in common.
    pub(crate) fn disclosure(&self, origin: &str, size: u64) -> Option<Disclosure> {
        let tag = hmac::sign(&self.salt, format!("{origin}\n{size}").as_bytes());
        let salt = tag.as_ref().first_chunk::<SALT_BYTES>()?;
        plane::disclosure(salt, origin).ok()
    }
}

/// The plane log as the sequencer knows it.
#[derive(Default)]
pub(crate) struct PlaneLog {
    pub(crate) tree: Frontier,
    /// The size that was last handed over to be signed.
    pub(crate) checkpointed: u64,
}

/// A checkpoint of a tenant on its way into the plane log.
pub(crate) struct Submitted {
    pub(crate) tenant: TenantName,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) checkpoint: Hash,
    pub(crate) log: String,
}

/// Where a tenant's checkpoint is in the plane log.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) leaf: PlaneLeaf,
}

/// Which checkpoints of tenants the plane log holds.
#[derive(Default)]
pub(crate) struct Anchors(Mutex<HashMap<TenantName, Known>>);

#[derive(Default)]
struct Known {
    /// The largest size that was submitted, and the digest of that checkpoint.
    submitted: u64,
    digest: Option<Hash>,
    places: VecDeque<Place>,
}

impl Anchors {
    /// Whether this checkpoint is to be submitted; then it counts as such. One of the same size is another one when
    /// another key has signed it.
    pub(crate) fn is_news(&self, tenant: &TenantName, size: u64, digest: Hash) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(tenant.clone()).or_default();
        let is_news = size > known.submitted || (size == known.submitted && known.digest != Some(digest));
        if is_news {
            (known.submitted, known.digest) = (size, Some(digest));
        }
        is_news
    }

    /// What was submitted could not be taken.
    fn refused(&self, tenant: &TenantName) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(tenant) {
            let last = known.places.back().map(|place| (place.leaf.size, place.leaf.checkpoint));
            (known.submitted, known.digest) = (last.map_or(0, |(size, _)| size), last.map(|(_, digest)| digest));
        }
    }

    /// A leaf is in its place.
    pub(crate) fn placed(&self, tenant: &TenantName, place: Place) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(tenant.clone()).or_default();
        if place.leaf.size >= known.submitted {
            (known.submitted, known.digest) = (place.leaf.size, Some(place.leaf.checkpoint));
        }
        known.places.push_back(place);
        if known.places.len() > PLACES_MAX {
            known.places.pop_front();
        }
    }

    /// The newest place of each tenant.
    pub(crate) fn newest(&self) -> Vec<(TenantName, Place)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(|(tenant, known)| Some((tenant.clone(), known.places.back()?.clone()))).collect()
    }

    /// The newest leaf of a tenant among the first `size` of the plane log, about no more than `leaves` of the tenant's,
    /// if it is remembered.
    pub(crate) fn newest_before(&self, tenant: &TenantName, size: u64, leaves: u64) -> Option<PlaneLeaf> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place =
            known.get(tenant)?.places.iter().rev().find(|place| place.index < size && place.leaf.size <= leaves)?;
        Some(place.leaf.clone())
    }

    /// The largest size of a tenant whose leaf is before a size of the plane log; 0 when there is none among the newest.
    pub(crate) fn seen(&self, tenant: &TenantName, size: u64) -> u64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = known.get(tenant).into_iter().flat_map(|known| &known.places);
        places.filter(|place| place.index < size).map(|place| place.leaf.size).max().unwrap_or(0)
    }

    fn place(&self, tenant: &TenantName, checkpoint: &Hash) -> Option<Place> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(tenant)?.places.iter().rev().find(|place| place.leaf.checkpoint == *checkpoint).cloned()
    }
}

/// Hands a signed checkpoint of a tenant over to the plane log, once.
pub(crate) fn submit(shared: &Shared, tenant: &TenantName, origin: &str, size: u64, root: Hash, note: &str) {
    let checkpoint = plane::checkpoint_digest(note);
    if size == 0 || !shared.anchors.is_news(tenant, size, checkpoint) {
        return;
    }
    let Some(opens) = shared.keyring.plane().disclosure(origin, size) else { return };
    let submitted = Submitted { tenant: tenant.clone(), size, root, checkpoint, log: opens.commitment() };
    if shared.queue.push(Item::Plane(Box::new(submitted))).is_err() {
        shared.anchors.refused(tenant);
    }
}

/// Why a checkpoint cannot be shown to be in the plane log.
#[derive(Debug, thiserror::Error)]
pub enum AnchorFailure {
    /// The plane log could not be signed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The checkpoint is not in the plane log, or no longer one of the newest.
    #[error("the checkpoint of {0} leaves is not among the newest in the plane log")]
    Unknown(u64),
    /// A tile could not be read.
    #[error("the tiles of the plane log cannot be read: {0}")]
    Tiles(#[from] TileProofError<std::io::Error>),
    /// Reading was interrupted.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The path of a leaf of the plane log, out of the write-ahead log: all of it is read, and next to nothing of it held.
fn passing_path(mut reader: WalReader, index: u64, size: u64) -> Result<Option<Vec<Hash>>, ReadError> {
    let Some(mut path) = PassingPaths::new(&[index], size) else { return Ok(None) };
    while let Some(frame) = reader.next_frame()? {
        if frame.kind == frames::PLANE {
            let (_, leaf) = frames::split_text(frame.payload).ok_or(ReadError::Damaged(frame.position))?;
            path.push(leaf_hash(leaf));
        }
    }
    Ok(path.finish().and_then(|mut paths| paths.pop()))
}

impl Evidence {
    /// Signs what the plane log is now.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn plane_checkpoint(&self) -> Result<SignedCheckpoint, RecordError> {
        self.shared.check()?;
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Item::PlaneCheckpoint(reply)).map_err(|_| RecordError::Busy)?;
        answer.await.unwrap_or_else(|_| Err(self.shared.failure()))
    }

    /// Every public key of a log, a line each.
    ///
    /// # Errors
    /// The keys are not usable.
    pub fn verifying_keys(&self, log: &LogName) -> Result<String, KeyringError> {
        Ok(self.shared.keys_of(log)?.key().verifying().lines())
    }

    /// The origin of a log: its name to the world.
    ///
    /// # Errors
    /// The keys are not usable.
    pub fn origin(&self, log: &LogName) -> Result<String, KeyringError> {
        Ok(self.shared.keys_of(log)?.origin().to_owned())
    }

    /// What shows that a tenant's newest checkpoint is in the plane log; `None` for an empty log.
    ///
    /// # Errors
    /// See [`AnchorFailure`].
    pub async fn anchor(
        &self,
        tenant: &TenantName,
        signed: &SignedCheckpoint,
    ) -> Result<Option<Anchor>, AnchorFailure> {
        if signed.size == 0 {
            return Ok(None);
        }
        // Behind everything that was submitted before: the leaf is in it.
        let plane = self.plane_checkpoint().await?;
        let digest = plane::checkpoint_digest(&signed.note);
        let place = self.shared.anchors.place(tenant, &digest).ok_or(AnchorFailure::Unknown(signed.size))?;
        if self.witnesses().needs_witnesses() {
            let _late = tokio::time::timeout(WITNESSES_MAX, self.until_witnessed(place.index + 1)).await;
        }
        // A checkpoint that enough witnesses saw is worth more than one that is a second newer.
        // One that the key before signed alone is not in force any more.
        let key = self.shared.keyring.plane().log.key();
        let seen = self.shared.quorum().filter(|seen| {
            let covers = seen.size > place.index && self.witnesses().needs_witnesses();
            covers && Checkpoint::open(&seen.note, key.verifying()).is_ok()
        });
        let (size, note) = seen.map_or((plane.size, plane.note), |seen| (seen.size, seen.note));
        // On a disk that is nearly full no tiles are written, and an auditor still gets the proof.
        let has_space = *self.shared.health.borrow() == Health::Ok;
        let written = self.until_published(&LogName::Plane, size);
        let tiled = has_space && tokio::time::timeout(TILES_MAX, written).await.is_ok();
        let origin = self.origin(&LogName::Tenant(tenant.clone()))?;
        let opens = self.shared.keyring.plane().disclosure(&origin, signed.size);
        let opens = opens.ok_or(AnchorFailure::Unknown(signed.size))?;
        let published = self.published(&LogName::Plane).map_or(0, |published| published.size);
        let (dir, index, end) = (self.shared.dir.clone(), place.index, plane.end);
        let segments = Arc::clone(&self.shared.segments);
        let proof = on_a_thread(move || {
            if tiled {
                let dir = publish::tiles_dir(&dir, &LogName::Plane);
                let mut tiles = TiledLog::new(size, |tile| publish::read_hashes(&dir, tile, published));
                return Ok::<_, AnchorFailure>(tiles.inclusion(index)?);
            }
            let proof = passing_path(segments.reader(Position::default(), end), index, size)?;
            proof.ok_or(AnchorFailure::Tiles(TileProofError::Range))
        });
        Ok(Some(Anchor {
            leaf: place.leaf.to_bytes(),
            disclosure: opens.as_str().to_owned(),
            index,
            proof: proof.await?,
            note,
        }))
    }
}

#[cfg(test)]
mod tests {
    use cogward_ledger::proof::verify_inclusion;
    use cogward_wal::{Options, Wal};

    use super::*;

    fn memory(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn a_proof_without_tiles_holds_nothing_of_a_long_plane_log() {
        const SIZE: u64 = 400_000;
        let dir = tempfile::tempdir().unwrap();
        let mut log = Wal::open(dir.path(), Options::default(), &mut |_| {}).unwrap();
        let mut tree = Frontier::default();
        for n in 0..SIZE {
            let leaf = n.to_be_bytes();
            if n % 8 == 0 {
                log.append(frames::LEAF, &[b"\x04acme", b"of a tenant: no leaf of the plane log"]).unwrap();
            }
            log.append(frames::PLANE, &[&[0], &leaf]).unwrap();
            tree.push(leaf_hash(&leaf));
            if n % 4_096 == 0 {
                log.commit().unwrap();
            }
        }
        let end = log.commit().unwrap();
        // From now on the peak counts anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS");
        for index in [0, 123_456, SIZE - 1] {
            let proof = passing_path(Wal::reader(dir.path(), Position::default(), end), index, SIZE).unwrap().unwrap();
            assert!(verify_inclusion(&leaf_hash(&index.to_be_bytes()), index, SIZE, &proof, &tree.root()), "{index}");
        }
        let more = memory("VmHWM").saturating_sub(before);
        // The hashes alone are 12.8 MB.
        assert!(more < 4 * 1024 * 1024, "{more} bytes");
        let reader = || Wal::reader(dir.path(), Position::default(), end);
        assert!(passing_path(reader(), SIZE, SIZE).unwrap().is_none());
        assert!(passing_path(reader(), 7, SIZE + 1).unwrap().is_none(), "it has fewer leaves");
    }
}
