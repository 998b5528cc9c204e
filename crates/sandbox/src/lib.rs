//! Runs agents in sandboxes: the launcher, the supervisor of each run, and the probes of the host.
//!
//! The plane calls [`launch`] and [`adopt`]; the program itself calls [`supervisor_main`] when it is started in
//! the role `supervise`, before it has a second thread. What each profile enforces is in [`profile`] and
//! `docs/sandbox.md`, and attacked in `tests/launch`.
//!
//! One rule holds everywhere: a control that is asked for is in force and proven, or the agent does not run.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod attest;
pub mod battery;
mod cgroup;
pub mod config;
pub mod connect;
pub mod doctor;
mod driver;
pub mod handle;
pub mod image;
mod native;
pub mod profile;
pub mod protocol;
mod reports;
pub mod service;
pub mod spec;
pub mod storage;
mod supervisor;

pub use attest::Attestation;
pub use config::SandboxConfig;
pub use connect::{AdoptError, Adopted, LaunchError, adopt, launch};
pub use doctor::{HostReport, Missing};
pub use handle::{CommandError, Listeners, Streams, Supervised};
pub use image::{ImageError, Images, PackageImage};
pub use reports::Reports;
pub use spec::{
    DriverSettings, Enforcement, Exit, ExitCause, FirecrackerSettings, KillReport, LateInput, LaunchSpec,
    ReadOnlyMount, Root, RuntimeKind, Usage, Violation,
};
pub use supervisor::supervisor_main;
#[doc(hidden)]
pub use supervisor::supervisor_main_without;
