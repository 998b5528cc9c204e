//! What goes over the streams of a tool server's process: requests, and what is heard of each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cogward_model::UpstreamName;
use serde::{Deserialize, de::IgnoredAny};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::line;
use crate::{
    mcp::{
        rpc::{self, Message},
        upstream::{
            RequestError, UpstreamError,
            answer::{Answerer, Route},
            exchange::{Ask, AskMethod, ClientCan, Heard, UpRequest},
            hub::{Hub, Origin},
            token_of, wire,
        },
    },
    rooms::{Held, Room},
};

/// Steps of an exchange that wait for whoever asked. Of more, progress and log are lost and requests declined.
const HEARD_WAITING_MAX: usize = 64;

/// What every message says of itself.
const MARK: &[u8] = br#""jsonrpc""#;

/// A running server. Dropping it ends the process and all that it started.
pub(in crate::mcp::upstream) struct Session {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the session and the tasks of its streams have in common.
pub(in crate::mcp::upstream) struct Shared {
    pub(super) server: UpstreamName,
    hub: Arc<Hub>,
    origin: Origin,
    modern: AtomicBool,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    /// Answers that were of use.
    answers: AtomicU64,
    outgoing: mpsc::Sender<Vec<u8>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    calls: BTreeMap<u64, Call>,
    /// Why the server is gone.
    over: Option<String>,
}

impl Waiting {
    /// The call that waits, if there is exactly one.
    fn only(&mut self) -> Option<Call> {
        if self.calls.len() == 1 { self.calls.pop_first().map(|(_, call)| call) } else { None }
    }
}

type Answer = Result<(Bytes, Option<Held>), UpstreamError>;

/// A call that waits for its answer.
struct Call {
    answer: oneshot::Sender<Answer>,
    /// Where whoever asked wants to hear more than the answer.
    heard: Option<mpsc::Sender<Heard>>,
    room: Option<Room>,
}

/// A request that waits. Dropped before its answer, it is taken out of the table, and the server is told.
pub(in crate::mcp::upstream) struct Pending {
    shared: Arc<Shared>,
    id: u64,
    answer: oneshot::Receiver<Answer>,
    heard: Option<mpsc::Receiver<Heard>>,
    answered: bool,
}

impl Drop for Pending {
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

impl Pending {
    /// What comes next; can be given up at any point and called again.
    pub(in crate::mcp::upstream) async fn next(&mut self) -> Result<Heard, UpstreamError> {
        let answer = &mut self.answer;
        let answer = match &mut self.heard {
            None => answer.await,
            // What was said before the answer is handed on before it.
            Some(heard) => tokio::select! {
                biased;
                Some(heard) = heard.recv() => return Ok(heard),
                answer = answer => answer,
            },
        };
        self.answered = true;
        match answer {
            Ok(answer) => answer.map(|(result, room)| Heard::Answer(result, room)),
            Err(_) => Err(self.shared.gone(self.shared.over(), true)),
        }
    }
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        Self { shared, _stop: stop.drop_guard() }
    }

    /// Whether it is spoken to in the stateless revision from here on.
    pub(in crate::mcp::upstream) fn set_modern(&self, modern: bool) {
        self.shared.modern.store(modern, Ordering::Release);
    }

    pub(in crate::mcp::upstream) fn alive(&self) -> bool {
        !self.shared.over_already()
    }

    /// How many requests it has answered so far.
    pub(in crate::mcp::upstream) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// When the process is gone.
    pub(in crate::mcp::upstream) async fn ended(&self) {
        self.shared.stopped().await;
    }

    pub(in crate::mcp::upstream) async fn begin(
        &self,
        request: &UpRequest<'_>,
        can: ClientCan,
        room: Option<Room>,
    ) -> Result<Pending, RequestError> {
        let shared = &self.shared;
        let modern = shared.modern.load(Ordering::Acquire);
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let more = shared.origin.is_some() || request.progress;
        let (heard, hears) = if more { Some(mpsc::channel(HEARD_WAITING_MAX)) } else { None }.unzip();
        {
            let mut waiting = shared.waiting();
            if let Some(cause) = &waiting.over {
                return Err(RequestError::NotTaken(shared.gone(cause.clone(), false)));
            }
            waiting.calls.insert(id, Call { answer, heard, room });
        }
        let mut pending = Pending { shared: Arc::clone(shared), id, answer: answered, heard: hears, answered: false };
        let message = line(wire::message(modern, id, request, can));
        let queued = tokio::select! {
            () = shared.stop.cancelled() => false,
            sent = shared.outgoing.send(message) => sent.is_ok(),
        };
        if !queued {
            pending.answered = true;
            return Err(RequestError::NotTaken(shared.gone(shared.over(), false)));
        }
        Ok(pending)
    }

    pub(in crate::mcp::upstream) async fn notify(&self, method: &'static str) -> Result<(), UpstreamError> {
        let sent = self.shared.outgoing.send(line(rpc::request(None, method, b"{}"))).await;
        sent.map_err(|_| self.shared.gone(self.shared.over(), false))
    }
}

impl Shared {
    pub(super) fn new(
        server: &UpstreamName,
        hub: &Arc<Hub>,
        origin: Origin,
        outgoing: mpsc::Sender<Vec<u8>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            server: server.clone(),
            hub: Arc::clone(hub),
            origin,
            modern: AtomicBool::new(false),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            answers: AtomicU64::new(0),
            outgoing,
            stop,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, cause: String, sent: bool) -> UpstreamError {
        UpstreamError::Unavailable { server: self.server.clone(), cause, sent }
    }

    fn over(&self) -> String {
        self.waiting().over.clone().unwrap_or_else(|| "its process ended".to_owned())
    }

    pub(super) fn over_already(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Ends the session; the first cause stays. Everyone who waits is told.
    pub(super) fn end(&self, cause: &str) {
        let calls = {
            let mut waiting = self.waiting();
            waiting.over.get_or_insert_with(|| cause.to_owned());
            std::mem::take(&mut waiting.calls)
        };
        self.stop.cancel();
        drop(calls);
    }

    /// Gives up the answer to one call whose line is longer than anything that is taken.
    pub(super) fn too_long(&self, start: &[u8], max: usize) -> bool {
        let Some(call) = answered_id(start).and_then(|id| self.waiting().calls.remove(&id)) else { return false };
        let cause = format!("its answer is longer than {max} bytes");
        let _ = call.answer.send(Err(UpstreamError::Protocol { server: self.server.clone(), cause }));
        true
    }

    /// Fails the request that a line answers which cannot be read, so that nobody waits for it in vain. False when
    /// it cannot be known whose it is.
    fn unreadable(&self, line: &[u8], cause: &str) -> bool {
        let call = match lenient(line) {
            Lenient::Answer(id) => self.waiting().calls.remove(&id),
            // It says that it is a message, and only one request can be meant.
            Lenient::Message => self.waiting().only(),
            Lenient::Other => None,
        };
        let Some(call) = call else { return false };
        let cause = format!("its answer cannot be read: {cause}");
        let _ = call.answer.send(Err(UpstreamError::Protocol { server: self.server.clone(), cause }));
        true
    }

    /// One line from the server. False when it is not a message.
    pub(super) fn take(self: &Arc<Self>, line: &Bytes) -> bool {
        let message = match Message::parse(line) {
            Ok(message) => message,
            Err(error) => return self.unreadable(line, &error.to_string()),
        };
        if let Some(method) = &message.method {
            let params = message.params.map_or(Bytes::from_static(b"{}"), |raw| line.slice_ref(raw.get().as_bytes()));
            match message.id {
                Some(id) => self.asked(id, method, params),
                None => self.told(method, params),
            }
            return true;
        }
        let Some(id) = message.id.and_then(|id| id.get().parse::<u64>().ok()) else {
            return self.unreadable(line, "it does not say what it answers");
        };
        // An answer that comes after its call was given up is not garbage.
        let Some(call) = self.waiting().calls.remove(&id) else { return true };
        self.answers.fetch_add(1, Ordering::Relaxed);
        let outcome = match (message.result, message.error) {
            (Some(result), _) => self.held(&call, line.slice_ref(result.get().as_bytes())),
            (None, Some(error)) => Err(UpstreamError::rejected(&self.server, &error)),
            (None, None) => return false,
        };
        let _ = call.answer.send(outcome);
        true
    }

    /// The server wants something. In a process of a run's own it belongs to what that run has under way for the
    /// longest time; in the one of all, to nobody.
    fn asked(self: &Arc<Self>, id: &serde_json::value::RawValue, method: &str, params: Bytes) {
        let route = Route::Stdio(Arc::clone(self));
        if method == "ping" {
            return route.pong(id);
        }
        match (AskMethod::of(method), self.oldest()) {
            (Some(method), Some(call)) => {
                let ask = Ask { method, params, answer: Answerer::new(id, route) };
                // Where there is no room for it, dropping it declines.
                let _ = call.try_send(Heard::Ask(ask));
            }
            _ => route.refuse(id),
        }
    }

    fn told(self: &Arc<Self>, method: &str, params: Bytes) {
        match method {
            "notifications/progress" => {
                let token = token_of(&params);
                let call = token.and_then(|id| self.waiting().calls.get(&id)?.heard.clone());
                if let Some(call) = call {
                    let _ = call.try_send(Heard::Progress(params));
                }
            }
            "notifications/message" if self.origin.is_some() => match self.oldest() {
                Some(call) => {
                    let _ = call.try_send(Heard::Log(params));
                }
                None => self.hub.take(self.origin, method, &params),
            },
            // In the process of all runs nobody knows whose it is.
            "notifications/message" => {}
            method => self.hub.take(self.origin, method, &params),
        }
    }

    fn oldest(&self) -> Option<mpsc::Sender<Heard>> {
        self.origin?;
        self.waiting().calls.values().find_map(|call| call.heard.clone())
    }

    /// One reader serves the answers of all runs, so it waits for none of them: an answer for which its run has no
    /// room is lost to that run.
    fn held(&self, call: &Call, result: Bytes) -> Answer {
        let Some(room) = &call.room else { return Ok((result, None)) };
        match room.try_take(result.len()) {
            Some(held) => Ok((result, Some(held))),
            None => Err(UpstreamError::NoRoom { server: self.server.clone() }),
        }
    }

    /// Says something that nobody waits for. A server that asks faster than it reads gets no answer.
    pub(in crate::mcp::upstream) fn reply(&self, message: Bytes) {
        let _ = self.outgoing.try_send(line(message.to_vec()));
    }
}

/// What can still be said of a line that is not a message as MCP has it.
#[derive(Debug, PartialEq, Eq)]
enum Lenient {
    /// It answers this request.
    Answer(u64),
    /// It says that it is a message.
    Message,
    /// Something else, such as a banner.
    Other,
}

/// Reads what a broken line answers: its members need not be right, nor its end be there.
fn lenient(line: &[u8]) -> Lenient {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        jsonrpc: Option<String>,
        #[serde(default)]
        id: Option<u64>,
        #[serde(default)]
        method: Option<IgnoredAny>,
    }
    let line = line.trim_ascii_start();
    if !line.starts_with(b"{") {
        return Lenient::Other;
    }
    match serde_json::from_slice::<Head>(line) {
        // What the server asks or tells answers nothing.
        Ok(Head { method: Some(_), .. }) => Lenient::Other,
        Ok(Head { id: Some(id), .. }) => Lenient::Answer(id),
        Ok(head) if head.jsonrpc.is_some() => Lenient::Message,
        Ok(_) => Lenient::Other,
        Err(_) => match answered_id(line) {
            Some(id) => Lenient::Answer(id),
            None if line.windows(MARK.len()).any(|part| part == MARK) => Lenient::Message,
            None => Lenient::Other,
        },
    }
}

/// Which call a line answers of which only the start is there. Servers write the id first or last; where it is
/// last it cannot be known.
fn answered_id(start: &[u8]) -> Option<u64> {
    let text = start.trim_ascii_start().strip_prefix(b"{")?;
    let mut text = std::str::from_utf8(text.get(..text.len().min(128))?).ok()?;
    for _ in 0..2 {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix(r#""id""#) {
            let digits = rest.trim_start().strip_prefix(':')?.trim_start();
            let end = digits.find(|c: char| !c.is_ascii_digit())?;
            return digits.get(..end)?.parse().ok();
        }
        text = text.strip_prefix(r#""jsonrpc""#)?.trim_start().strip_prefix(':')?.trim_start();
        text = text.strip_prefix(r#""2.0""#)?.trim_start().strip_prefix(',')?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_answer_is_too_long_is_seen_from_its_start() {
        assert_eq!(answered_id(br#"{"jsonrpc":"2.0","id":17,"result":{"#), Some(17));
        assert_eq!(answered_id(br#" { "id" : 3 , "jsonrpc":"2.0""#), Some(3));
        for text in [
            r#"{"result":{"id":4}"#,
            r#"{"jsonrpc":"2.0","id":"4","#,
            r#"{"jsonrpc":"2.0","id":4"#,
            "[",
            "",
            "{\"id\":é",
        ] {
            assert_eq!(answered_id(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn whose_answer_cannot_be_read_is_still_seen() {
        use Lenient::{Answer, Message, Other};
        for (line, found) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"a":1,"a":2}}"#, Answer(7)),
            (r#"{"result":{"a":1,"a":2},"jsonrpc":"2.0","id":7}"#, Answer(7)),
            (r#"{"jsonrpc":"1.0","id":7,"result":{}}"#, Answer(7)),
            (r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#, Answer(7)),
            (r#"{"jsonrpc":"2.0","id":7,"result":{"a":"#, Answer(7)),
            (r#"{"jsonrpc":"2.0","id":7,"id":8,"result":{}}"#, Answer(7)),
            // Whose it is cannot be known, or it is nobody's.
            (r#"{"result":{"a":,"jsonrpc":"2.0","id":7}"#, Message),
            (r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, Message),
            (r#"{"jsonrpc":"2.0","result":{}}"#, Message),
            (r#"{"jsonrpc":"2.0","method":"x","id":7,"result":{}}"#, Other),
            (r#"{"level":"info","message":"started"}"#, Other),
            ("Server running on stdio", Other),
            ("[1]", Other),
            ("", Other),
        ] {
            assert_eq!(lenient(line.as_bytes()), found, "{line}");
        }
    }
}
