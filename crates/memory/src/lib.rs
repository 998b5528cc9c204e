//! What agents keep and find again: one port for stores of memories, and the tools that agents reach it by.
//!
//! Every operation on a store takes an [`Owner`] first, and an owner can only be made from what the plane knows of a run:
//! its tenant, its agent, the user for whom it acts. There is no operation without one, no owner that stands for several,
//! and nothing that an agent sends becomes a part of one. What operators do (forgetting a user, counting) takes a
//! [`Space`], which no tool has.
//!
//! The rules that hold for every store are in [`Memory`]: bounds, quotas, time that never goes back, and how what is found
//! is ordered. A store only keeps and finds. [`sqlite`], [`pgvector`] and [`qdrant`] are three, and one suite is run over
//! all of them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

#[cfg(test)]
mod conformance;
mod embedding;
mod item;
mod memory;
mod moments;
mod owner;
pub mod pgvector;
pub mod qdrant;
pub mod sqlite;
mod store;
pub mod tools;
mod words;

pub use embedding::{DIMENSIONS_MAX, Embedding, EmbeddingError};
pub use item::{Draft, Filter, Invalid, Item};
pub use memory::{Found, Memory, MemoryError, MemoryOptions, Question};
pub use owner::{Column, Owner, OwnerError, Space, Subject};
pub use store::{MemoryStore, Pending, Quota, StoreError, Usage, Whose};
