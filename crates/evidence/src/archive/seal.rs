//! Making the manifest of a sealed segment: its leaves are gone over, and each log must lead to its signed checkpoint.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cogward_ledger::{
    Hash,
    archive::{Hex, LogPart, Manifest, Reached, Sealed, SegmentReader, Walk},
    note::Checkpoint,
    proof::verify_consistency,
    tile_proof::TiledLog,
};

use crate::{plane::LogName, publish};

use super::{Archive, ArchiveError};

/// The file of a segment.
pub(super) fn segment_file(dir: &Path, index: u64) -> PathBuf {
    dir.join("wal").join(format!("{index:016x}.seg"))
}

impl Archive {
    /// The signed manifest of a segment and the state of all logs behind it. `None` while the segment is written, or
    /// not all of it is covered by checkpoints that are published.
    pub(super) fn seal(&self, index: u64) -> Result<Option<(Vec<u8>, Walk)>, ArchiveError> {
        if index >= self.evidence.shared.progress.end().segment {
            return Ok(None);
        }
        let damaged = |detail: String| ArchiveError::Damaged { segment: index, detail };
        let file = fs::File::open(segment_file(&self.evidence.shared.dir, index))?;
        let bytes = file.metadata()?.len();
        let mut reader = SegmentReader::open(file, index, bytes).map_err(|error| damaged(error.to_string()))?;
        let mut walk = self.walk.clone();
        walk.begin();
        let from = reader.at();
        while let Some(frame) = reader.frame().map_err(|error| damaged(error.to_string()))? {
            walk.frame(frame.kind, frame.payload).map_err(|problem| {
                let of = problem.log.map(|log| format!("{log}: ")).unwrap_or_default();
                let leaf = problem.leaf.map(|leaf| format!("leaf {leaf}: ")).unwrap_or_default();
                damaged(format!("{of}{leaf}{}: {}", problem.what.as_str(), problem.detail))
            })?;
        }
        let to = reader.at();
        let sha256 = Hex(reader.finish().map_err(|error| damaged(error.to_string()))?);
        let sealed = Sealed { index, sha256, bytes, from, to };
        let mut logs = Vec::new();
        for (origin, reached) in walk.reached() {
            let Some(part) = self.part(&origin, &reached, index)? else { return Ok(None) };
            logs.push(part);
        }
        let log = &self.evidence.shared.keyring.plane().log;
        let _same_key = log.while_signing();
        let signing = log.key();
        let statements = log.record().statements.into_iter().skip(self.told).map(|kept| kept.statement).collect();
        let manifest = Manifest::new(signing.verifying(), self.made, self.newest, sealed, logs);
        let manifest = manifest.with_statements(statements).signed(&signing)?;
        let manifest = manifest.ok_or_else(|| damaged("its manifest would be too long".to_owned()))?;
        Ok(Some((manifest, walk)))
    }

    /// What a log has in the segment, with a checkpoint that covers it; `None` while there is none.
    fn part(&self, origin: &str, reached: &Reached, segment: u64) -> Result<Option<LogPart>, ArchiveError> {
        let damaged = |detail: String| ArchiveError::Damaged { segment, detail };
        let log = self.log_name(origin).ok_or_else(|| damaged(format!("{origin} is no log of this plane")))?;
        let shared = &self.evidence.shared;
        let signing = match &log {
            LogName::Plane => shared.keyring.plane().log.key(),
            LogName::Tenant(tenant) => shared.keyring.tenant(tenant)?.log.key(),
        };
        let Some(published) = self.evidence.published(&log).filter(|published| published.size >= reached.end) else {
            return Ok(None);
        };
        // One from before the second key is followed by one that has both.
        let Ok(signed) = Checkpoint::open(&published.note, signing.verifying()) else { return Ok(None) };
        let dir = publish::tiles_dir(&shared.dir, &log);
        let mut tiles = TiledLog::new(signed.size, |tile| publish::read_hashes(&dir, tile, published.size));
        let proof: Vec<Hash> = if reached.end == signed.size { Vec::new() } else { tiles.consistency(reached.end)? };
        if !verify_consistency(reached.end, &reached.root, signed.size, &signed.root, &proof) {
            let detail = format!("the {} leaves of {log} up to its end are not those that are signed", reached.end);
            return Err(damaged(detail));
        }
        Ok(Some(LogPart {
            log: origin.to_owned(),
            keys: signing.verifying().lines(),
            first: reached.first,
            end: reached.end,
            root: Hex(reached.root),
            last: Hex(reached.last),
            edge: reached.edge.iter().copied().map(Hex).collect(),
            checkpoint: published.note.clone(),
            proof: proof.into_iter().map(Hex).collect(),
        }))
    }
}
