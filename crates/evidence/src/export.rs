//! The evidence pack: one tenant's log as C2SP tlog-tiles, with all that an auditor needs to check it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cogward_ledger::{
    key_chain::{Entry, KEYS_FILE, statement_in},
    leaf::leaf_hash,
    plane::Anchor,
    tiles::{EntryBundles, HashTiles, TileSink},
    verify::{
        CHECKPOINT_FILE, KEY_FILE, PLANE_DIR, PLANE_DISCLOSURE_FILE, PLANE_LEAF_FILE, PLANE_PROOF_FILE, TIMESTAMP_DIR,
        TIMESTAMP_FILE,
    },
};
use cogward_model::TenantName;
use cogward_wal::Position;
use serde::Serialize;

use crate::{
    checkpoint::SignedCheckpoint,
    key_change,
    keys::KeyringError,
    plane::{AnchorFailure, LogName},
    read::{ReadError, on_a_thread, walk},
    record::{Evidence, RecordError},
    stamped::StampedAnchor,
};

pub(crate) const VERIFIER: &str = include_str!("../../../scripts/verify.py");
/// What it asks for beside itself: keys that were replaced, the place in the plane log and time stamps.
pub(crate) const BESIDE_VERIFIER: [(&str, &str); 2] = [
    ("verify_keys.py", include_str!("../../../scripts/verify_keys.py")),
    ("verify_plane.py", include_str!("../../../scripts/verify_plane.py")),
];
/// In every leaf about keys.
const KEY_EVENTS: &[u8] = b"ledger.key.";
const README: &str = include_str!("export/README.txt");

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportSummary {
    /// Where to.
    pub dir: PathBuf,
    /// How many leaves.
    pub leaves: u64,
    /// The signed checkpoint over them.
    pub checkpoint: String,
    /// The log's public key.
    pub key: String,
}

/// Why nothing usable was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is something in the directory already.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// A file could not be written.
    #[error("the pack could not be written")]
    Io(#[from] io::Error),
    /// The log could not be signed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The checkpoint cannot be shown to be in the plane log.
    #[error(transparent)]
    Anchor(#[from] AnchorFailure),
    /// The log has fewer leaves than were signed.
    #[error("the log holds {found} of {signed} signed leaves")]
    Short {
        /// Read.
        found: u64,
        /// Signed.
        signed: u64,
    },
}

/// Writes tiles below a directory.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn write(&self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)
    }

    fn anchor(&self, dir: &str, anchor: &Anchor) -> io::Result<()> {
        self.write(&format!("{dir}/{PLANE_LEAF_FILE}"), 0o644, &anchor.leaf)?;
        self.write(&format!("{dir}/{PLANE_DISCLOSURE_FILE}"), 0o644, anchor.disclosure.as_bytes())?;
        self.write(&format!("{dir}/{PLANE_PROOF_FILE}"), 0o644, anchor.tlog_proof().as_bytes())
    }
}

impl TileSink for Files {
    type Error = ExportError;

    fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        Ok(self.write(path, 0o644, bytes)?)
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

impl Evidence {
    /// Writes the tenant's whole log up to now into `dest`, which must be empty or not there.
    ///
    /// No personal value is in it: the commitments are, what opens them is not.
    ///
    /// # Errors
    /// See [`ExportError`]; what was written so far is of no use and says so, because the checkpoint comes last.
    pub async fn export(&self, tenant: &TenantName, dest: &Path) -> Result<ExportSummary, ExportError> {
        let signed = self.checkpoint(tenant).await?;
        let anchor = self.anchor(tenant, &signed).await?;
        let anchor = match anchor {
            Some(anchor) => Some((anchor, self.stamped_anchor(tenant, signed.size).await)),
            None => None,
        };
        let (evidence, tenant, dest) = (self.clone(), tenant.clone(), dest.to_path_buf());
        on_a_thread(move || evidence.write_pack(&tenant, dest, signed, anchor)).await
    }

    fn write_pack(
        &self,
        tenant: &TenantName,
        dest: PathBuf,
        signed: SignedCheckpoint,
        anchor: Option<(Anchor, Option<StampedAnchor>)>,
    ) -> Result<ExportSummary, ExportError> {
        make_dir(&dest)?;
        if fs::read_dir(&dest)?.next().is_some() {
            return Err(ExportError::NotEmpty(dest));
        }
        let key = self.verifying_key(tenant)?;
        let mut files = Files { dir: dest };
        let (mut tiles, mut bundles, mut found) = (HashTiles::default(), EntryBundles::default(), 0);
        let (origin, mut statements) = (self.origin(&LogName::Tenant(tenant.clone()))?, Vec::new());
        walk(&self.shared.segments, (Position::default(), signed.end), |_, of, leaf, _| {
            if of == tenant.as_str() && found < signed.size {
                tiles.push(leaf_hash(leaf), &mut files)?;
                // Few leaves are about keys, and most are not worth reading for it.
                if leaf.windows(KEY_EVENTS.len()).any(|part| part == KEY_EVENTS)
                    && let Some(statement) = statement_in(leaf, &origin)
                {
                    statements.push(Entry { leaf: found, statement });
                }
                bundles.push(leaf, &mut files)?;
                found += 1;
            }
            Ok::<_, ExportError>(found < signed.size)
        })?;
        if found < signed.size {
            return Err(ExportError::Short { found, signed: signed.size });
        }
        tiles.finish(&mut files)?;
        bundles.finish(&mut files)?;
        let keys = self.verifying_keys(&LogName::Tenant(tenant.clone()))?;
        files.write(KEY_FILE, 0o644, keys.as_bytes())?;
        if let Some(statements) = key_change::lines(&statements) {
            files.write(KEYS_FILE, 0o644, statements.as_bytes())?;
        }
        if let Some((anchor, stamped)) = anchor {
            files.anchor(PLANE_DIR, &anchor)?;
            files.write(&format!("{PLANE_DIR}/{KEY_FILE}"), 0o644, self.verifying_keys(&LogName::Plane)?.as_bytes())?;
            if let Some(statements) = self.key_statements(&LogName::Plane, 0)? {
                files.write(&format!("{PLANE_DIR}/{KEYS_FILE}"), 0o644, statements.as_bytes())?;
            }
            if let Some(StampedAnchor { anchor, answer }) = stamped {
                let dir = format!("{PLANE_DIR}/{TIMESTAMP_DIR}");
                files.anchor(&dir, &anchor)?;
                // Once more by itself: `openssl ts -verify` wants the bytes that are stamped, and nothing else.
                files.write(&format!("{dir}/{CHECKPOINT_FILE}"), 0o644, anchor.note.as_bytes())?;
                files.write(&format!("{dir}/{TIMESTAMP_FILE}"), 0o644, &answer)?;
            }
        }
        files.write("verify.py", 0o755, VERIFIER.as_bytes())?;
        for (name, script) in BESIDE_VERIFIER {
            files.write(name, 0o644, script.as_bytes())?;
        }
        files.write("README.txt", 0o644, README.as_bytes())?;
        files.write(CHECKPOINT_FILE, 0o644, signed.note.as_bytes())?;
        File::open(&files.dir)?.sync_all()?;
        Ok(ExportSummary { dir: files.dir, leaves: found, checkpoint: signed.note, key })
    }
}
