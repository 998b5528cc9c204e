//! A tool server as a process: one JSON message per line on its stdin and stdout.
//!
//! It is started without a shell, with no environment but its own, confined as the operator has said
//! ([`crate::tool_process`]), and ends as a whole. Its lines are bounded, what is not a message is counted and
//! refused, and its standard error is read and mostly thrown away so that it can never block.

mod session;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{TenantName, UpstreamName, limits::RESPONSE_BYTES_MAX, upstream::Confinement};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::session::{Pending, Session, Shared};
use super::{
    UpstreamError,
    hub::{Hub, Origin},
};
use crate::{
    mcp::rpc,
    tool_process::{self, ProcessControl, ServerProcess, ServerProcesses, ServerProgram, StartError},
    upstreams::Credential,
};

/// Messages waiting to be written.
const OUTGOING_MAX: usize = 16;
/// Lines that are no messages before the server is given up: some print a banner first.
const GARBAGE_MAX: u32 = 64;
/// What is kept of a line that is too long.
const LINE_START: usize = 128;
/// What is read of it beyond that, in bytes, to find its end.
const SKIPPED_MAX: usize = 16 * RESPONSE_BYTES_MAX;
/// What is kept of standard error, in bytes.
const STDERR_KEPT: usize = 4 * 1024;
/// Time to end by itself when its stdin is closed.
const END_MS: u64 = 1_000;

/// What is started.
pub(super) struct Program {
    program: ServerProgram,
    processes: Arc<dyn ServerProcesses>,
}

impl Program {
    pub(super) fn new(
        (tenant, server): (TenantName, UpstreamName),
        (command, args, env): (String, Vec<String>, BTreeMap<String, String>),
        credential_env: Option<String>,
        credential: Option<Credential>,
        confinement: Confinement,
    ) -> Result<Self, String> {
        if !Path::new(&command).is_absolute() {
            return Err("`command` is not an absolute path".to_owned());
        }
        if std::iter::once(&command).chain(&args).any(|text| text.contains('\0')) {
            return Err("`command` and `args` must not contain a zero byte".to_owned());
        }
        let wrong = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        if env.keys().chain(&credential_env).any(wrong) || env.values().any(|value| value.contains('\0')) {
            return Err("a variable in `env` has a name or value that cannot be set".to_owned());
        }
        let credential = match (credential_env, credential) {
            (Some(name), Some(secret)) if secret.expose().contains('\0') => {
                return Err(format!("the credential cannot stand in the variable `{name}`"));
            }
            (Some(name), Some(secret)) => Some((name, secret)),
            (None, Some(_)) => return Err("it has a credential, but no `credential_env` says where it goes".into()),
            (_, None) => None,
        };
        let program = ServerProgram { tenant, server, command, args, env, credential, confinement };
        Ok(Self { program, processes: tool_process::by_default() })
    }

    pub(super) fn start_by(&mut self, processes: Arc<dyn ServerProcesses>) {
        self.processes = processes;
    }

    /// Starts the process; it has not been greeted yet.
    pub(super) async fn start(
        &self,
        server: &UpstreamName,
        hub: &Arc<Hub>,
        origin: Origin,
    ) -> Result<Session, UpstreamError> {
        let ServerProcess { stdin, stdout, stderr, control } =
            self.processes.start(&self.program).await.map_err(|error| match error {
                StartError::Refused(cause) => UpstreamError::Unusable { server: server.clone(), cause },
                error @ StartError::Failed(_) => {
                    UpstreamError::Unavailable { server: server.clone(), cause: error.to_string(), sent: false }
                }
            })?;
        let stop = CancellationToken::new();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let shared = Arc::new(Shared::new(server, hub, origin, outgoing, stop.clone()));
        tokio::spawn(write(stdin, queue, stop.clone()));
        tokio::spawn(read(stdout, Arc::clone(&shared)));
        let secret = self.program.credential.as_ref().map(|(_, secret)| secret.clone());
        let tail = tokio::spawn(drain(stderr, secret));
        tokio::spawn(oversee(control, Arc::clone(&shared), tail));
        Ok(Session::new(shared, stop))
    }
}

/// A message as one line. Line breaks can only stand between its tokens, where a blank is the same.
fn line(mut message: Vec<u8>) -> Vec<u8> {
    for byte in &mut message {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    message.push(b'\n');
    message
}

async fn write(mut stdin: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = queue.recv() => next,
        };
        let Some(message) = next else { return };
        let written = tokio::select! {
            () = stop.cancelled() => return,
            written = stdin.write_all(&message) => written,
        };
        if written.is_err() {
            return;
        }
    }
}

async fn read(stdout: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut reader = BufReader::with_capacity(64 * 1024, stdout);
    let mut garbage = 0_u32;
    loop {
        let next = tokio::select! {
            () = shared.stopped() => return,
            next = next_line(&mut reader, RESPONSE_BYTES_MAX) => next,
        };
        match next {
            Ok(Line::Whole(line)) if line.is_empty() || shared.take(&line) => {}
            // Where it is known whose answer it was, only that call is lost.
            Ok(Line::TooLong(start)) if shared.too_long(&start, RESPONSE_BYTES_MAX) => {}
            Ok(Line::Whole(_)) => {
                garbage += 1;
                if garbage > GARBAGE_MAX {
                    return shared.end(&format!("it wrote more than {GARBAGE_MAX} lines that are no messages"));
                }
            }
            Ok(Line::TooLong(_)) => {
                return shared.end(&format!("it wrote a line longer than {RESPONSE_BYTES_MAX} bytes"));
            }
            Ok(Line::End) => return shared.end("it closed its output"),
            Err(cause) => return shared.end(&cause),
        }
    }
}

/// What is read from a server.
#[derive(Debug)]
enum Line {
    /// A line without its end.
    Whole(Bytes),
    /// The start of one that is longer than anything that is taken; the rest of it was skipped.
    TooLong(Vec<u8>),
    /// Nothing more comes.
    End,
}

async fn next_line<R: AsyncBufRead + Unpin>(reader: &mut R, max: usize) -> Result<Line, String> {
    let (mut line, mut skipped) = (Vec::new(), 0_usize);
    loop {
        let part = reader.fill_buf().await.map_err(|error| format!("its output cannot be read: {error}"))?;
        if part.is_empty() {
            return if line.is_empty() { Ok(Line::End) } else { Err("it ended in the middle of a line".to_owned()) };
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(part.len());
        if skipped > 0 || line.len() + taken > max {
            line.truncate(LINE_START);
            line.shrink_to_fit();
            skipped = skipped.saturating_add(taken.max(1));
            if skipped > SKIPPED_MAX {
                return Err(format!("it wrote a line longer than {max} bytes without end"));
            }
        } else {
            line.extend_from_slice(part.get(..taken).unwrap_or_default());
        }
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            if skipped > 0 {
                return Ok(Line::TooLong(line));
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(Line::Whole(line.into()));
        }
    }
}

/// Reads standard error to its end and keeps the last of it, without the credential.
async fn drain(mut stderr: impl AsyncRead + Unpin, secret: Option<Credential>) -> String {
    let mut kept: VecDeque<u8> = VecDeque::with_capacity(STDERR_KEPT);
    let mut part = [0_u8; 2048];
    while let Ok(count @ 1..) = stderr.read(&mut part).await {
        kept.extend(part.iter().take(count));
        let surplus = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..surplus);
    }
    let kept: Vec<u8> = kept.into();
    let text = String::from_utf8_lossy(&kept).replace(['\n', '\r', '\t'], " ");
    let text = match secret.as_ref().map(Credential::expose) {
        Some(secret) if !secret.is_empty() => text.replace(secret, "(credential)"),
        _ => text,
    };
    rpc::shown(&text, STDERR_KEPT)
}

async fn oversee(mut control: Box<dyn ProcessControl>, shared: Arc<Shared>, tail: tokio::task::JoinHandle<String>) {
    let by_itself = tokio::select! {
        ended = control.ended() => Some(ended),
        () = shared.stopped() => {
            // Its stdin is closed by now, which asks it to end.
            tokio::time::timeout(Duration::from_millis(END_MS), control.ended()).await.ok()
        }
    };
    // Also what it started itself, which may hold its pipes open.
    let killed = control.kill().await;
    let ended = by_itself.unwrap_or(killed);
    drop(control);
    let asked = shared.over_already();
    shared.end(&format!("its process ended ({ended})"));
    let tail = tokio::time::timeout(Duration::from_millis(END_MS), tail).await;
    let tail = tail.ok().and_then(Result::ok).unwrap_or_default();
    if asked {
        tracing::debug!(server = %shared.server, %ended, tail, "tool server ended");
    } else {
        tracing::warn!(server = %shared.server, %ended, tail, "tool server ended by itself");
    }
}
