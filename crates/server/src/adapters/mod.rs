//! The engine's and the gateways' ports over the crates that do the work.

mod gateways;
mod ledger;
mod refusals;
mod sandboxes;

pub(crate) use gateways::{JournalNotices, RunGateways};
pub(crate) use ledger::PlaneLedger;
pub(crate) use sandboxes::HostSandboxes;
