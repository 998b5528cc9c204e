//! Runs agents under profile `standard`: the launcher, the supervisor of each run, and the probes of the host.
//!
//! The plane calls [`launch`] and [`adopt`]; the program itself calls [`supervisor_main`] when it is started in
//! the role `supervise`, before it has a second thread. What profile `standard` enforces is written down in
//! `docs/sandbox.md` and attacked in `tests/launch.rs`.
//!
//! One rule holds everywhere: a control that is asked for is in force and proven, or the agent does not run.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod cgroup;
pub mod connect;
pub mod doctor;
pub mod handle;
mod native;
pub mod protocol;
pub mod spec;
mod supervisor;

pub use connect::{AdoptError, Adopted, LaunchError, adopt, launch};
pub use doctor::{HostReport, Missing};
pub use handle::{CommandError, Listeners, Supervised};
pub use spec::{Enforcement, Exit, ExitCause, KillReport, LaunchSpec, ReadOnlyMount, Root, Usage, Violation};
pub use supervisor::supervisor_main;
