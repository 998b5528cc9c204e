//! The audit ledger as data: leaves, commitments, trees, checkpoints, tiles, and their verification.
//!
//! Everything here is a function of its arguments and of files it is told to read: no clock, no
//! network, no keys of its own. The invariant: [`verify::verify_dir`] says OK only when every byte of
//! every leaf is the one that the signed root covers, and otherwise names the first leaf that is not.
//! Stored bytes are hashed as they are and never written anew in order to be compared.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod archive;
pub mod canonical;
pub mod commitment;
pub mod cosign;
mod der;
pub mod extract;
pub mod key_chain;
pub mod leaf;
pub mod map;
pub mod map_check;
pub mod note;
pub mod pack;
pub mod plane;
pub mod policy;
pub mod proof;
pub mod proof_file;
pub mod sample;
mod scan;
pub mod schema;
pub mod stored;
pub mod text;
pub mod tile_proof;
pub mod tiles;
pub mod timestamp;
pub mod tree;
pub mod verify;
mod vkey;
pub mod whole;
pub mod witness;

/// A SHA-256.
pub type Hash = [u8; 32];
