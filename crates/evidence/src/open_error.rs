//! Why a ledger is not opened.

use std::io;

use cogward_ledger::note::NoteError;
use cogward_model::TenantName;
use cogward_wal::Position;

use crate::{keys::KeyringError, plane::LogName};

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
    /// A log ends before what the state of the plane saw of it on the disk.
    #[error(
        "rollback detected: {log} has {leaves} leaves, and `state.db` has seen {seen} of them on the disk; `evidence` is older \
         than the state, or its end was cut. Restore `evidence` and `state.db` from one backup, both"
    )]
    Lost {
        /// Which log.
        log: LogName,
        /// What is there.
        leaves: u64,
        /// What was there.
        seen: u64,
    },
    /// A log has another content than the one that the state of the plane saw.
    #[error(
        "rollback detected: {log} is not the one whose {size} leaves `state.db` has seen. Restore `evidence` and `state.db` \
         from one backup, both"
    )]
    Replaced {
        /// Which log.
        log: LogName,
        /// Where it was compared.
        size: u64,
    },
    /// A leaf does not fit to the one before it.
    #[error("the ledger is damaged in {at}: {what}")]
    Damaged {
        /// Where.
        at: Position,
        /// What does not fit.
        what: &'static str,
    },
    /// The log does not begin at its beginning.
    #[error(
        "the write-ahead log begins with segment {first}: segments 0 to {} are not there. If they were archived, \
         `cogward evidence archive restore` brings them back; move them into `evidence/wal`", first.saturating_sub(1)
    )]
    FirstGone {
        /// The first segment that is there.
        first: u64,
    },
    /// Segments are gone whose release is not recorded here.
    #[error(
        "segments {from} to {to} of the write-ahead log are not there, and that they were released is not recorded: \
         `cogward evidence archive restore` brings them back; move them into `evidence/wal`"
    )]
    Gone {
        /// The first of them.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Early segments were released, and all others are gone.
    #[error("rollback detected: {released} segments were released, and of the write-ahead log nothing is there")]
    AllGone {
        /// How many.
        released: u64,
    },
    /// What shows that a segment was released is not there or not believed.
    #[error("segment {segment} of the write-ahead log was released, but {detail}")]
    Released {
        /// Which.
        segment: u64,
        /// Why.
        detail: String,
    },
    /// All of the log must be read, and a part of it is only in the archive.
    #[error("all of the log must be read, because there is no snapshot of it that can be believed: {0}")]
    Early(#[source] cogward_wal::ReadError),
    /// The threads could not be started.
    #[error("the ledger's threads could not be started")]
    Threads(#[source] io::Error),
}
