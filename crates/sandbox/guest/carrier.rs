//! How the guest reaches the host: a directory of Unix sockets, or the vsock of a machine. Nothing else.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::sockets::{self, Connecting};

/// The host, as a machine's vsock names it.
const HOST_CID: u32 = 2;

/// A door to the plane. The port is the one inside of the sandbox, and of the vsock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    name: &'static str,
    /// The port on which the agent finds it.
    pub port: u16,
}

/// The three doors.
pub const DOORS: [Door; 3] =
    [Door { name: "model", port: 28471 }, Door { name: "mcp", port: 28472 }, Door { name: "proxy", port: 3128 }];

/// A connection that is not a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// What the supervisor and the guest say to each other.
    Control = 28470,
    /// The agent's standard output, of a machine.
    Stdout = 28473,
    /// The agent's standard error, of a machine.
    Stderr = 28474,
}

/// The way to the host.
#[derive(Debug)]
pub enum Carrier {
    /// A directory of Unix sockets.
    Unix(String),
    /// The machine's vsock.
    Vsock,
    /// Unix sockets named by the ports of a vsock, below a directory that is held open: the same conversation where
    /// there is no vsock, such as in the tests of the driver.
    Ports(OwnedFd),
}

impl Carrier {
    /// Connects to a door, without waiting for it.
    pub fn door(&self, door: Door) -> io::Result<Connecting> {
        self.connect(door.name, door.port.into(), false)
    }

    /// Whether it carries on the end of one direction of a connection. A machine monitor does not.
    pub fn has_halves(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Connects to what is no door.
    pub fn line(&self, line: Line) -> io::Result<OwnedFd> {
        let name = match line {
            Line::Control => "control",
            Line::Stdout => "stdout",
            Line::Stderr => "stderr",
        };
        match self.connect(name, line as u32, true)? {
            Connecting::Begun(fd) => Ok(fd),
            Connecting::Busy => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        }
    }

    fn connect(&self, name: &str, port: u32, wait: bool) -> io::Result<Connecting> {
        match self {
            Self::Unix(directory) => sockets::connect_unix(&format!("{directory}/{name}.sock"), wait),
            Self::Vsock => sockets::connect_vsock(HOST_CID, port, wait),
            Self::Ports(directory) => {
                sockets::connect_unix(&format!("/proc/self/fd/{}/v.sock_{port}", directory.as_raw_fd()), wait)
            }
        }
    }
}
