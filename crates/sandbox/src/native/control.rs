//! What the init of a sandbox and its supervisor say to each other, over a `SOCK_SEQPACKET` pair.
//!
//! The pair exists before the sandbox does and no process but these two (and the agent's, until its `execve`)
//! ever holds an end, so a message needs no proof of its sender. Its end of file means: the other one is dead.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use cogward_model::Digest;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// What the sandbox says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSandbox {
    /// A step failed; the process that says so ends.
    Failed {
        /// The step.
        stage: String,
        /// What the system answered.
        why: String,
    },
    /// The three listeners and the workspace directory travel with this; and where a late input is written to.
    Listeners,
    /// The descriptor that refused system calls are reported on travels with this.
    Refusals,
    /// Everything is in force and checked; the agent waits.
    Held {
        /// The checks that were made.
        checks: Vec<String>,
        /// Instructions in the system-call filter.
        instructions: usize,
        /// System calls that it lets through.
        allowed: usize,
        /// Digest of its programs, in the order in which the kernel was given them.
        filter: Digest,
    },
    /// Init has given up its privileges, for good.
    Dropped,
    /// The program could not be executed.
    NotExecutable {
        /// What the system answered.
        why: String,
    },
    /// The agent's main process has ended.
    AgentEnded {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// What the supervisor says to init.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToInit {
    /// The uid and gid maps are written.
    Mapped,
    /// Init is in all its cgroups.
    Limited,
}

/// Most descriptors in one message.
const DESCRIPTORS_MAX: usize = 6;
/// Largest message between a supervisor and an init.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A connected pair; both ends are closed by `execve`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with descriptors.
pub fn send<T: Serialize>(to: BorrowedFd<'_>, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = serde_json::to_vec(message).map_err(io::Error::other)?;
    text.truncate(MESSAGE_BYTES_MAX);
    send_with(to, &text, descriptors)
}

/// Sends bytes with descriptors.
pub fn send_with(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// The next message and its descriptors; `None` at end of file.
pub fn receive<T: for<'de> Deserialize<'de>>(from: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0_u8; MESSAGE_BYTES_MAX];
    let (length, descriptors) = match receive_with(from, &mut bytes, RecvFlags::empty()) {
        // Said once by a peer that died with messages of ours unread; what it said before that is still there.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => receive_with(from, &mut bytes, RecvFlags::empty())?,
        other => other?,
    };
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
    Ok(Some((message, descriptors)))
}

/// Bytes and the descriptors that came with them.
pub fn receive_with(from: BorrowedFd<'_>, into: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from.as_fd(), &mut [IoSliceMut::new(into)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((got.bytes, descriptors))
}
