//! The frames between the plane and a supervisor: four bytes of length, then JSON.
//!
//! Both ends are this binary, but not the same build: an upgraded plane adopts supervisors of the one before.
//! Unknown fields are therefore ignored and [`Hello::protocol`] says what the supervisor speaks. A frame is
//! bounded; the run's output never travels here but as a file.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    attest::Attestation,
    spec::{Enforcement, Exit, KillReport, Usage, Violation},
};

/// Version of the frames.
pub const PROTOCOL: u32 = 2;
/// From this version on a supervisor can be asked for a proof. An earlier one would take the command for a fault.
pub const PROTOCOL_ATTESTS: u32 = 2;
/// Largest frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Name of the socket in the run directory.
pub const SOCKET: &str = "supervisor.sock";

/// Where a supervised run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The sandbox is complete; the agent waits before its first instruction.
    Held,
    /// The agent executes.
    Running,
    /// The agent is frozen.
    Suspended,
    /// The agent was asked to end.
    Stopping,
}

/// First frame to every client; the three listeners travel beside it when `listeners` is set, the three standard streams
/// of a program of the operator's when `streams` is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the frames.
    pub protocol: u32,
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// The run's phase, or why it could not be launched.
    pub outcome: Result<Phase, LaunchFailure>,
    /// What is in force, once the launch succeeded.
    pub enforcement: Option<Enforcement>,
    /// What was found in force when the sandbox was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Attestation>,
    /// Whether three descriptors came with this frame.
    pub listeners: bool,
    /// Whether they are the standard streams of a program of the operator's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub streams: bool,
}

/// Why a sandbox could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{stage}: {why}")]
pub struct LaunchFailure {
    /// What was being put in place.
    pub stage: String,
    /// What the system answered.
    pub why: String,
}

/// A command of the plane.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Take the input that the plane has put into the run directory.
    TakeInput,
    /// Let the agent execute.
    Start,
    /// Let a program of the operator's execute, with its secret in this variable of its environment.
    StartWith(Option<(String, String)>),
    /// Freeze it.
    Suspend,
    /// Thaw it.
    Resume,
    /// Ask it to end; it is killed after its grace period.
    Terminate,
    /// End it now.
    Kill,
    /// Say what it uses.
    Usage,
    /// Look from outside at what is in force.
    Attest,
    /// One of a newer plane, which is refused.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without what may be a secret.
        f.write_str(match self {
            Self::TakeInput => "TakeInput",
            Self::Start => "Start",
            Self::StartWith(_) => "StartWith(..)",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::Terminate => "Terminate",
            Self::Kill => "Kill",
            Self::Usage => "Usage",
            Self::Attest => "Attest",
            Self::Unknown => "Unknown",
        })
    }
}

/// A command with the number that its answer carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client.
    pub id: u64,
    /// The command.
    pub command: Command,
}

/// The answer to a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// Frozen, after this many microseconds.
    Frozen(u64),
    /// Killed.
    Killed(KillReport),
    /// Used so far.
    Usage(Usage),
    /// What was found in force.
    Attested(Box<Attestation>),
    /// The command does not apply, or failed.
    Refused(String),
}

/// Everything a supervisor sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// The first frame.
    Hello(Box<Hello>),
    /// The answer to the request of that number.
    Answer(u64, Answer),
    /// Something was refused.
    Violation(Violation),
    /// The run has ended; nothing follows. The output is in the run directory.
    Exit(Box<Exit>),
}

/// Bytes on the socket are not a frame.
#[derive(Debug, thiserror::Error)]
#[error("the peer sent bytes that are not a frame")]
pub struct NotAFrame;

/// A message as the bytes of a frame.
///
/// # Errors
/// [`NotAFrame`] when it is larger than a frame may be.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, NotAFrame> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|_| NotAFrame)?;
    let length = bytes.len().saturating_sub(4);
    if length > FRAME_BYTES_MAX {
        return Err(NotAFrame);
    }
    let prefix = u32::try_from(length).map_err(|_| NotAFrame)?.to_le_bytes();
    bytes.splice(..4, prefix);
    Ok(bytes)
}

/// Takes the first whole frame off `buffer`, if there is one.
///
/// # Errors
/// [`NotAFrame`] when the length is over the bound or the JSON is not the wanted message.
pub fn decode<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> Result<Option<T>, NotAFrame> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).map_err(|_| NotAFrame)?;
    if length > FRAME_BYTES_MAX {
        return Err(NotAFrame);
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(|_| NotAFrame)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// The path of the socket below an open directory: short, however long the directory's own path is.
#[must_use]
pub fn socket_path(dir: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_from_any_cut() {
        let mut stream = Vec::new();
        for id in 0..3 {
            stream.extend(encode(&Request { id, command: Command::Kill }).unwrap());
        }
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for byte in stream {
            buffer.push(byte);
            while let Some(request) = decode::<Request>(&mut buffer).unwrap() {
                seen.push(request.id);
            }
        }
        assert_eq!((seen, buffer.len()), (vec![0, 1, 2], 0));
    }

    #[test]
    fn a_command_of_a_newer_plane_is_one_that_is_not_known() {
        let bytes = encode(&serde_json::json!({ "id": 7, "command": "levitate" })).unwrap();
        let request = decode::<Request>(&mut bytes.clone()).unwrap().unwrap();
        assert_eq!((request.id, request.command), (7, Command::Unknown));
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_waited_for() {
        assert!(decode::<Request>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
        assert!(decode::<Request>(&mut vec![1, 0, 0, 0, b'{']).is_err());
    }
}
