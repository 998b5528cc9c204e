//! The guest: the first process of a sandbox that our launcher is not the parent of.
//!
//! In a container of an OCI runtime, or in a machine, it does what init does in the native sandbox: it makes the
//! three listeners of the agent and carries each connection to its door, checks from inside that the sandbox holds,
//! starts the agent when it is told to, says how it ended, and dies with the supervisor's connection. The agent has
//! another uid and no end of any of its descriptors but the listeners' far side; nothing that the agent sends is
//! looked at. `src/driver/guest.rs` is the other side of what is said here.
//!
//! It is one static program without a crate, built by `build.rs` and carried inside of the product's binary.

#![deny(unsafe_code, unused_must_use, missing_docs, missing_debug_implementations)]
#![deny(clippy::dbg_macro, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, dead_code, missing_docs))]

mod agent;
mod carrier;
mod check;
mod config;
mod forward;
mod machine;
mod records;
mod serve;
mod sockets;
mod sys;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::Duration,
};

use carrier::{Carrier, Line};
use config::Config;
use records::{Records, encode};

/// The uid and gid of the agent.
const AGENT_UID: u32 = 1000;
/// Time for the supervisor to take note of a failure before everything is gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// A step that failed, and what the system answered.
#[derive(Debug)]
pub struct Failed {
    stage: String,
    why: String,
}

impl Failed {
    fn new(stage: &str, why: &dyn std::fmt::Display) -> Self {
        Self { stage: stage.to_owned(), why: why.to_string().chars().take(500).collect() }
    }

    fn payload(&self) -> Vec<u8> {
        format!("{}\0{}", self.stage, self.why).into_bytes()
    }
}

/// Names the step that an error belongs to.
trait At<T> {
    fn at(self, stage: &str) -> Result<T, Failed>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, stage: &str) -> Result<T, Failed> {
        self.map_err(|e| Failed::new(stage, &e))
    }
}

/// How it was started.
#[derive(Debug)]
enum Role {
    /// In a container, with the directory of its carrier.
    Container(String),
    /// By the kernel of a machine.
    Machine,
    /// As by the kernel of a machine, with a directory in the place of its vsock.
    Conformance(String),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // A kernel passes on to its first process whatever it does not know itself: there, only the name counts.
    let role = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["/machine", ..] => Role::Machine,
        [_, "unix", directory] => Role::Container((*directory).to_owned()),
        [_, "machine", directory] => Role::Conformance((*directory).to_owned()),
        _ => {
            eprintln!("this program is started by cogward, as the first process of a sandbox");
            return ExitCode::from(2);
        }
    };
    // Whatever the runtime left open, before anything of our own is.
    if !sys::is_first() || sys::close_all_but(&[]).is_err() || sys::set_not_dumpable().is_err() {
        eprintln!("cogward guest: it is not the first process of a sandbox");
        return ExitCode::from(2);
    }
    // Whatever it was started with: what it makes is for the agent to see.
    sys::plain_umask();
    let (carrier, is_machine) = match role {
        Role::Container(directory) => (Carrier::Unix(directory), false),
        Role::Machine => (Carrier::Vsock, true),
        Role::Conformance(directory) => match File::open(&directory) {
            Ok(opened) => (Carrier::Ports(opened.into()), true),
            Err(error) => {
                eprintln!("cogward guest: {directory}: {error}");
                return ExitCode::from(2);
            }
        },
    };
    // A machine begins with nothing attached.
    if is_machine && let Err(failed) = machine::attach_proc() {
        eprintln!("cogward guest: {}: {}", failed.stage, failed.why);
        return end(is_machine);
    }
    let mut control = match carrier.line(Line::Control) {
        Ok(fd) => File::from(fd),
        Err(error) => {
            eprintln!("cogward guest: control connection: {error}");
            return end(is_machine);
        }
    };
    if let Err(failed) = run(carrier, is_machine, &mut control) {
        let _ = control.write_all(&encode("failed", &failed.payload()));
        linger(&mut control);
    }
    end(is_machine)
}

fn run(carrier: Carrier, is_machine: bool, control: &mut File) -> Result<(), Failed> {
    let Some(config) = configure(control)? else { return Ok(()) };
    let stdin = if is_machine { Some(machine::build(&config)?) } else { None };
    let guest = serve::Guest::begin(&config, carrier, control, is_machine, stdin)?;
    guest.serve().at("guest")
}

/// The whole configuration; `None` when the supervisor is gone.
fn configure(control: &mut File) -> Result<Option<Config>, Failed> {
    let (mut config, mut records, mut total) = (Config::default(), Records::default(), 0);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = control.read(&mut chunk).at("control connection")?;
        total += count;
        if count == 0 {
            return Ok(None);
        }
        if total > config::BYTES_MAX {
            return Err(Failed::new("configuration", &"it is larger than 24 MiB"));
        }
        records.push(chunk.get(..count).unwrap_or_default());
        if config::read(&mut config, &mut records).map_err(|why| Failed::new("configuration", &why.0))? {
            return Ok(Some(config));
        }
    }
}

/// Waits until the supervisor has closed the connection, for a while.
fn linger(control: &mut File) {
    let mut fds = [sys::PollFd { fd: std::os::fd::AsRawFd::as_raw_fd(&control.as_fd()), events: sys::IN, revents: 0 }];
    let mut chunk = [0; 4096];
    while matches!(sys::wait(&mut fds, Some(FAREWELL)), Ok(n) if n > 0)
        && matches!(control.read(&mut chunk), Ok(n) if n > 0)
    {}
}

/// The end of this process is the end of its sandbox.
fn end(is_machine: bool) -> ExitCode {
    if is_machine {
        sys::power_off();
    }
    ExitCode::FAILURE
}
