//! The network of a sandbox: a loopback interface and three listeners, made by init in the fresh namespace.
//!
//! The listeners are handed to the plane as descriptors. The plane knows a run by the descriptor on which a
//! connection arrives; nothing the agent says takes part in that.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::sys;
use crate::spec::{MCP_PORT, MODEL_PORT, PROXY_PORT};

/// The ports, in the order in which the listeners are handed over.
pub const PORTS: [u16; 3] = [MODEL_PORT, MCP_PORT, PROXY_PORT];

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Brings loopback up.
pub fn loopback() -> io::Result<()> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::loopback_up(any.as_fd())
}

/// Brings loopback up and makes the listeners.
pub fn listeners() -> io::Result<Vec<OwnedFd>> {
    loopback()?;
    PORTS
        .iter()
        .map(|port| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port))?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        })
        .collect()
}
