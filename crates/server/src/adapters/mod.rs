//! The engine's and the gateways' ports over the crates that do the work.

pub(crate) mod approvals;
mod gateways;
mod ledger;
pub(crate) mod memories;
mod refusals;
mod sandboxes;
mod skills;
pub(crate) mod tool_processes;

pub(crate) use gateways::{JournalNotices, RunGateways};
pub(crate) use ledger::PlaneLedger;
pub(crate) use memories::PlaneMemories;
pub(crate) use sandboxes::HostSandboxes;
pub(crate) use tool_processes::HostToolProcesses;
