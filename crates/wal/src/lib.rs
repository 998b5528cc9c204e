//! The one durable append path: segments of checksummed frames, one write and one `fdatasync` a batch.
//!
//! The invariant: what [`Wal::commit`] has acknowledged is found again by [`Wal::open`], in order,
//! byte for byte. What it refuses: to go on after any write or sync error (the page may be gone
//! from the cache, so a retry could acknowledge what is not on the disk), to open a directory that
//! another process holds, and to step over damage. A tail that a crash has torn is reported with
//! its place; only the caller knows whether something signed lies behind it, so only the caller cuts it.
//!
//! The crate knows nothing of what the frames mean. It is synchronous: one thread owns the log.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod frame;
mod log;
mod reader;
mod recovery;
mod segment;

pub use frame::{FRAME_BYTES_MAX, Frame, Position};
pub use log::{Options, Wal, WalError};
pub use reader::{ReadError, WalReader};
pub use recovery::{OpenError, Start, Torn};
pub use segment::Segments;
