//! A tool server as a process: one JSON message per line on its stdin and stdout.
//!
//! It is started without a shell, with no environment but its own, confined as the operator has said
//! ([`crate::tool_process`]), and ends as a whole. Its lines are bounded, what is not a message is counted and refused, and its standard error
//! is read and mostly thrown away so that it can never block.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{TenantName, UpstreamName, limits::RESPONSE_BYTES_MAX, upstream::Confinement};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Reply, RequestError, UpstreamError};
use crate::{
    mcp::rpc::{self, Message},
    rooms::Room,
    tool_process::{self, ProcessControl, ServerProcess, ServerProcesses, ServerProgram, StartError},
    upstreams::Credential,
};

/// Messages waiting to be written.
const OUTGOING_MAX: usize = 16;
/// Lines that are no messages before the server is given up: some print a banner first.
const GARBAGE_MAX: u32 = 64;
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
    pub(super) async fn start(&self, server: &UpstreamName) -> Result<Session, UpstreamError> {
        let ServerProcess { stdin, stdout, stderr, control } =
            self.processes.start(&self.program).await.map_err(|error| match error {
                StartError::Refused(cause) => UpstreamError::Unusable { server: server.clone(), cause },
                error @ StartError::Failed(_) => {
                    UpstreamError::Unavailable { server: server.clone(), cause: error.to_string(), sent: false }
                }
            })?;
        let stop = CancellationToken::new();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let shared = Arc::new(Shared {
            server: server.clone(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            changes: AtomicU64::new(0),
            outgoing,
            stop: stop.clone(),
        });
        tokio::spawn(write(stdin, queue, stop.clone()));
        tokio::spawn(read(stdout, Arc::clone(&shared)));
        let secret = self.program.credential.as_ref().map(|(_, secret)| secret.clone());
        let tail = tokio::spawn(drain(stderr, secret));
        tokio::spawn(oversee(control, Arc::clone(&shared), tail));
        Ok(Session { shared, _stop: stop.drop_guard() })
    }
}

/// A running server. Dropping it ends the process and all that it started.
pub(super) struct Session {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    server: UpstreamName,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    changes: AtomicU64,
    outgoing: mpsc::Sender<Vec<u8>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, Call>,
    /// Why the server is gone.
    over: Option<String>,
}

/// A call that waits for its answer.
struct Call {
    answer: oneshot::Sender<Result<Reply, UpstreamError>>,
    room: Option<Room>,
}

/// Takes a call out of the table when nobody waits for it any more, and tells the server.
struct Ask<'a> {
    shared: &'a Shared,
    id: u64,
    answered: bool,
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.shared.waiting().calls.remove(&self.id);
        let params = format!(r#"{{"requestId":{},"reason":"cancelled"}}"#, self.id);
        // Only a courtesy: when the queue is full the server is not reading anyway.
        let _ = self.shared.outgoing.try_send(line(rpc::request(None, "notifications/cancelled", params.as_bytes())));
    }
}

impl Session {
    pub(super) fn alive(&self) -> bool {
        !self.shared.stop.is_cancelled()
    }

    pub(super) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Acquire)
    }

    pub(super) async fn request(
        &self,
        method: &'static str,
        params: &[u8],
        room: Option<&Room>,
    ) -> Result<Reply, RequestError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if let Some(cause) = &waiting.over {
                return Err(RequestError::NotTaken(self.shared.gone(cause.clone(), false)));
            }
            waiting.calls.insert(id, Call { answer, room: room.cloned() });
        }
        let mut ask = Ask { shared: &self.shared, id, answered: false };
        let message = line(rpc::request(Some(id), method, params));
        let queued = tokio::select! {
            () = self.shared.stop.cancelled() => false,
            sent = self.shared.outgoing.send(message) => sent.is_ok(),
        };
        if !queued {
            ask.answered = true;
            let cause = self.shared.over();
            return Err(RequestError::NotTaken(self.shared.gone(cause, false)));
        }
        let outcome = answered.await;
        ask.answered = true;
        match outcome {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.shared.gone(self.shared.over(), true).into()),
        }
    }

    pub(super) async fn notify(&self, method: &'static str) -> Result<(), UpstreamError> {
        let sent = self.shared.outgoing.send(line(rpc::request(None, method, b"{}"))).await;
        sent.map_err(|_| self.shared.gone(self.shared.over(), false))
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, cause: String, sent: bool) -> UpstreamError {
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent }
    }

    fn over(&self) -> String {
        self.waiting().over.clone().unwrap_or_else(|| "its process ended".to_owned())
    }

    /// Ends the session; the first cause stays. Everyone who waits is told.
    fn end(&self, cause: &str) {
        let calls = {
            let mut waiting = self.waiting();
            waiting.over.get_or_insert_with(|| cause.to_owned());
            std::mem::take(&mut waiting.calls)
        };
        self.stop.cancel();
        drop(calls);
    }

    /// One line from the server. False when it is not a message.
    fn take(&self, line: &Bytes) -> bool {
        let Ok(message) = Message::parse(line) else { return false };
        if let Some(method) = &message.method {
            match message.id {
                Some(id) if method == "ping" => self.reply(rpc::result(id, b"{}")),
                Some(id) => {
                    let text = "the plane offers no such method to tool servers";
                    self.reply(rpc::error(Some(id), rpc::METHOD_NOT_FOUND, text, None));
                }
                None if method == "notifications/tools/list_changed" => {
                    self.changes.fetch_add(1, Ordering::AcqRel);
                }
                None => {}
            }
            return true;
        }
        let id = message.id.and_then(|id| id.get().parse::<u64>().ok());
        // An answer that comes after its call was given up is not garbage.
        let Some(call) = id.and_then(|id| self.waiting().calls.remove(&id)) else { return id.is_some() };
        let outcome = match (message.result, message.error) {
            (Some(result), _) => self.held(&call, line.slice_ref(result.get().as_bytes())),
            (None, Some(error)) => Err(UpstreamError::Rejected {
                server: self.server.clone(),
                code: error.code,
                message: rpc::shown(&error.message, 1_000),
            }),
            (None, None) => return false,
        };
        let _ = call.answer.send(outcome);
        true
    }

    /// One reader serves the answers of all runs, so it waits for none of them: an answer for which its run has no
    /// room is lost to that run.
    fn held(&self, call: &Call, result: Bytes) -> Result<Reply, UpstreamError> {
        let Some(room) = &call.room else { return Ok(Reply { result, room: None }) };
        match room.try_take(result.len()) {
            Some(held) => Ok(Reply { result, room: Some(held) }),
            None => Err(UpstreamError::NoRoom { server: self.server.clone() }),
        }
    }

    fn reply(&self, message: Bytes) {
        // A server that asks faster than it reads gets no answer.
        let _ = self.outgoing.try_send(line(message.to_vec()));
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
            () = shared.stop.cancelled() => return,
            next = next_line(&mut reader, RESPONSE_BYTES_MAX) => next,
        };
        match next {
            Ok(Some(line)) if line.is_empty() || shared.take(&line) => {}
            Ok(Some(_)) => {
                garbage += 1;
                if garbage > GARBAGE_MAX {
                    return shared.end(&format!("it wrote more than {GARBAGE_MAX} lines that are no messages"));
                }
            }
            Ok(None) => return shared.end("it closed its output"),
            Err(cause) => return shared.end(&cause),
        }
    }
}

/// The next line without its end, or `None` at the end of the stream.
async fn next_line<R: AsyncBufRead + Unpin>(reader: &mut R, max: usize) -> Result<Option<Bytes>, String> {
    let mut line = Vec::new();
    loop {
        let part = reader.fill_buf().await.map_err(|error| format!("its output cannot be read: {error}"))?;
        if part.is_empty() {
            return if line.is_empty() { Ok(None) } else { Err("it ended in the middle of a line".to_owned()) };
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(part.len());
        if line.len() + taken > max {
            return Err(format!("it wrote a line longer than {max} bytes"));
        }
        line.extend_from_slice(part.get(..taken).unwrap_or_default());
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(Some(line.into()));
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
        () = shared.stop.cancelled() => {
            // Its stdin is closed by now, which asks it to end.
            tokio::time::timeout(Duration::from_millis(END_MS), control.ended()).await.ok()
        }
    };
    // Also what it started itself, which may hold its pipes open.
    let killed = control.kill().await;
    let ended = by_itself.unwrap_or(killed);
    drop(control);
    let asked = shared.stop.is_cancelled();
    shared.end(&format!("its process ended ({ended})"));
    let tail = tokio::time::timeout(Duration::from_millis(END_MS), tail).await;
    let tail = tail.ok().and_then(Result::ok).unwrap_or_default();
    if asked {
        tracing::debug!(server = %shared.server, %ended, tail, "tool server ended");
    } else {
        tracing::warn!(server = %shared.server, %ended, tail, "tool server ended by itself");
    }
}
