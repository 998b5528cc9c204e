//! The life of runs: the only crate that changes a run's state.
//!
//! Intent is data. Every command is one transaction (state, desired state, fence epoch, operation,
//! evidence), durable in the ledger before its effect begins; then idempotent effects make it true
//! and a second transaction records what was measured. Effects are level-triggered: they bring a run
//! to the state that was committed last, so a repeated, late or concurrent one does no harm. A plane
//! that was killed at any step converges at its next start, see `recover`.
//!
//! A fence that was closed for good is never opened again, whatever was under way: see `live`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::expect_used))]

mod attest;
mod close;
mod command;
mod contract;
mod engine;
mod errors;
mod events;
mod files;
mod given;
mod health;
mod live;
mod outside;
mod plan;
pub mod ports;
mod receipt;
mod recover;
mod run_task;
mod start;
mod trust;
mod violations;
mod warm;

pub use attest::Attesting;
pub use command::{Command, Order};
pub use contract::{MCP_PORT, MODEL_PORT, OUTPUT_FILE, PROXY_PORT};
pub use engine::{Engine, EngineOptions};
pub use errors::{CommandError, RecoverError, StartError, WarmError};
pub use files::RunFiles;
pub use given::{StartInput, UPLOADED};
pub use outside::Outside;
pub use receipt::{Receipt, Step};
pub use recover::RecoveryReport;
pub use start::{Claim, StartRun, Started};
pub use violations::SecurityWatch;
pub use warm::WARM_MAX;

#[cfg(test)]
mod tests;
