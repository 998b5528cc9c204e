//! The plane as one process: its configuration, its wiring, a handler per route.
//!
//! [`start`] brings a plane up on a data directory in an order that keeps the promises of the rest:
//! the directory is ours alone, evidence that was committed is in the ledger, budgets are what they
//! were, runs are taken over, and only then gateways and the API open. [`Running::until`] serves and
//! drains. Everything that changes state goes through a crate that records it; this one only wires.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::expect_used))]

mod adapters;
mod archiving;
mod auth;
mod boot;
mod budgets;
mod catalogue;
mod commands;
mod cosigning;
mod data_dir;
mod described;
mod erasure;
mod events;
mod evidence_failed;
mod extract;
mod failure;
mod handlers;
mod http;
mod idempotency;
mod linger;
mod log_door;
mod outside;
mod pins;
mod plane;
mod policies;
mod policy_analysis;
mod routes;
mod seen;
mod split_view;
mod stamping;
mod turned_away;
mod upkeep;
mod witness;
mod witnessing;

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

pub use cogward_engine::Attesting;
use cogward_ledger::policy::Policy;
use cogward_sandbox::SandboxConfig;

pub use archiving::{ArchiveOptions, ArchivePlace, Lock, LockMode, S3Error, S3Options};
pub use boot::{ListenError, Running, ServeError, start};
pub use cogward_evidence::archive::{Options as ArchiveCheck, RestoreError, restore as restore_archive};
pub use cogward_evidence::{Added, TOKENS_MAX, TokenOptions, TokenUri, UriError, WitnessBook, WitnessError};
pub use cosigning::WitnessUrlError;
pub use data_dir::DataDirError;
pub use described::described;
pub use outside::OutsideOptions;
pub use stamping::{TimestampUrlError, Timestamping};
pub use witnessing::{WitnessOptions, WitnessServer};

/// Where and how a plane is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The directory that holds everything the plane keeps.
    pub data_dir: PathBuf,
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The program that is started as `<program> supervise <run dir>` for every run.
    pub supervisor_exe: PathBuf,
    /// Hosts that are dialled at exactly these addresses, without a look-up and without the check of addresses.
    pub egress_hosts: HashMap<String, Vec<SocketAddr>>,
    /// What carries the profiles that the kernel's own means do not.
    pub sandboxes: SandboxConfig,
    /// How often the sandboxes of runs are examined.
    pub attesting: Attesting,
    /// Whether whoever wrote a version of a policy may not approve it.
    pub four_eyes: bool,
    /// Where clients outside are let in; nowhere unless given.
    pub outside: Option<OutsideOptions>,
    /// A cvc5 that proves what changes of policies grant.
    pub policy_solver: Option<PathBuf>,
    /// Where the logs are given out as plain files; nowhere unless given.
    pub log_listen: Option<SocketAddr>,
    /// Who is asked to witness the plane log, and how many are enough.
    pub witnesses: Policy,
    /// Who is asked for time stamps of the plane log.
    pub timestamps: Timestamping,
    /// Where sealed segments of the ledger are archived.
    pub archive: ArchiveOptions,
    /// In which PKCS#11 tokens the keys of logs are; in files where there are none.
    pub tokens: TokenOptions,
}

/// Runs a plane until `shutdown` resolves, then drains it. Prints the credential of a first start, and
/// the address, on standard output.
///
/// # Errors
/// [`ServeError`] when it cannot come up.
pub async fn serve(options: ServeOptions, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let running = start(options).await?;
    announce(&running).map_err(ServeError::Output)?;
    running.until(shutdown).await
}

fn announce(running: &Running) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Some(credential) = running.credential() {
        writeln!(out, "operator credential: {}", credential.expose())?;
        writeln!(out, "  it is shown this once; `cogward login` keeps it for the command line")?;
    }
    writeln!(out, "cogward is up at http://{}", running.address())?;
    if let Some(address) = running.log_address() {
        writeln!(out, "logs are given out at http://{address}")?;
    }
    if let Some(url) = running.outside_url() {
        writeln!(out, "clients outside are let in at {url}")?;
    }
    out.flush()
}
