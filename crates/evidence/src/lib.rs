//! The living ledger: events go in, and are in it for good before the caller goes on.
//!
//! One thread, the sequencer, gives every event its place, writes the batch of all tenants with one
//! flush and only then wakes those who wait. The invariant: what [`Evidence::record`] has answered is
//! in the log after any crash, and the log never becomes shorter than a checkpoint that was signed.
//! It refuses everything after the first write error: the plane cannot act without evidence.
//!
//! Personal and confidential values are in the log only as salted commitments; what opens them is
//! sealed under keys that can be destroyed ([`vault`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod anchoring;
pub mod archive;
mod carried;
mod checkpoint;
mod data_keys;
mod durable;
mod export;
mod frames;
mod index;
mod judged;
mod kept;
mod key_change;
mod keys;
mod log_keys;
mod open;
mod outbox;
mod part;
mod plane;
mod pool;
mod prove;
mod publish;
mod queue;
mod read;
mod receipt;
mod record;
mod redact;
mod released;
mod replay;
mod resealed;
mod retention;
mod search;
mod segments;
mod sequencer;
mod snapshot;
mod stamped;
mod tenant_log;
mod token;
mod unsigned;
pub mod vault;
mod witness_book;
mod witnessed;

pub use carried::{Carried, Committed, Mark, SealedName};
pub use checkpoint::SignedCheckpoint;
pub use export::{ExportError, ExportSummary};
pub use index::IndexError;
pub use judged::{Judged, JudgedFilter};
pub use key_change::{KeyChange, KeyChangeError, KeyRequest, KeyState, OVERLAP_DAYS_MAX};
pub use keys::KeyringError;
pub use open::{EvidenceOptions, OpenError};
pub use outbox::DrainError;
pub use part::{Draft, Part, PartSummary, PolicyText, Window};
pub use plane::{AnchorFailure, LogName};
pub use publish::{LogFile, PublishedCheckpoint};
pub use read::{DecidedOrCompleted, Kept, Lasting, LeafView, ReadError};
pub use receipt::{ProvenLeaf, Receipt, ReceiptError};
pub use record::{Evidence, Health, LeafRef, RecordError};
pub use redact::{EraseError, ErasedValue, Erasure, ErasurePlan, executed};
pub use replay::Replayed;
pub use search::{Page, Query, SearchError, User};
pub use segments::{Unfetched, unfetched};
pub use stamped::{StampError, TimestampAsk, TimestampedCheckpoint};
pub use token::{TOKENS_MAX, TokenError, TokenOptions, TokenUri, UriError};
pub use witness_book::{Added, WitnessBook, WitnessError};
pub use witnessed::{CosignError, Cosigned, WitnessStatus};
