//! Limits that a manifest may ask for beyond its profile's: input and output.

use cogward_model::manifest::Resources;

use super::runner::Probe;
use crate::cgroup::{Cgroup, Hosts};

/// The mechanism of `ioReadMibPerSecond`.
pub const IO_READ: &str = "io-read";
/// The mechanism of `ioWriteMibPerSecond`.
pub const IO_WRITE: &str = "io-write";

/// Their probes. Each sets a rule on the disk of the working directory, which the plane makes its data directory.
pub const PROBES: [Probe; 2] = [
    Probe::new(
        IO_READ,
        "hand the plane the cgroup controller `io` (version 2; systemd: Delegate=yes) or `blkio` (version 1), and keep \
         its data directory on a disk of this host; or leave `ioReadMibPerSecond` out",
        || tried(Resources { io_read_mib_per_second: Some(1), ..Resources::default() }, "read"),
    ),
    Probe::new(
        IO_WRITE,
        "use control groups of version 2 and hand the plane the controller `io`, and keep its data directory on a disk \
         of this host; or leave `ioWriteMibPerSecond` out",
        || tried(Resources { io_write_mib_per_second: Some(1), ..Resources::default() }, "write"),
    ),
];

fn tried(limits: Resources, what: &str) -> Result<String, String> {
    let hosts = Hosts::read().map_err(|e| e.to_string())?;
    let name = format!("cogward-probe-{}", std::process::id());
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    let beside = crate::driver::Overhead { memory_mib: 0, pids: 1 };
    let mut group = Cgroup::create_for(&hosts, &name, &limits, beside, &[here]).map_err(|e| e.to_string())?;
    let kind = group.kind();
    group.remove();
    Ok(format!("{kind}: a limit of what is {what} was set on the disk of the working directory"))
}
