//! The line to the client of one request: nothing said yet, a stream, or silence until it comes back.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    body::{self, AgentBody},
    mcp::{
        answer::{Answer, Shape},
        caller::{Caller, Era, level},
        members::Members,
        question::Question,
        rpc,
        session::Answered,
        state::STATE_AGE,
        stream::{EventLog, Weight, room},
    },
    rooms::Held,
    run::RunContext,
};

/// How long a client with a session waits in silence: then the answer comes in a stream, which shows that it is alive
/// and can be taken up again.
const PATIENCE: Duration = Duration::from_millis(150);
/// How long an answer is kept for a client that was cut off.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// The revision from which on clients come back for the rest of a stream that was closed in between.
const RESUMES: &str = "2025-11-25";
/// How often a client may come back without the answer that was asked for.
const AGAIN_MAX: usize = 16;
/// The key of a question in `inputRequests`.
const KEY: &str = "question";

/// Why a request does not go on.
#[derive(Debug)]
pub(super) enum Parted {
    Cut,
    CalledOff,
}

/// Wakes a call that waits for the next request of its client.
#[derive(Debug)]
pub(in crate::mcp) struct Resume(oneshot::Sender<Resumed>);

/// The next request.
#[derive(Debug)]
pub(in crate::mcp) struct Resumed {
    caller: Caller,
    responses: Option<Bytes>,
    first: oneshot::Sender<Response<AgentBody>>,
}

impl Resume {
    /// Goes on with a call; the answer, or the stream that it comes in.
    pub(in crate::mcp) async fn with(self, caller: Caller, responses: Option<Bytes>) -> Response<AgentBody> {
        let (first, answer) = oneshot::channel();
        if self.0.send(Resumed { caller, responses, first }).is_err() {
            return broken();
        }
        answer.await.unwrap_or_else(|_| broken())
    }
}

/// What is there of the way to the client.
enum Out {
    First(oneshot::Sender<Response<AgentBody>>),
    Stream { log: Arc<EventLog>, number: Option<u64> },
    Silent,
}

/// The line.
pub(super) struct Line {
    pub(super) run: Arc<RunContext>,
    pub(super) caller: Caller,
    shape: Shape,
    out: Out,
    off: Option<CancellationToken>,
    patience: Instant,
}

impl Line {
    pub(super) fn new(
        run: Arc<RunContext>,
        caller: Caller,
        shape: Shape,
        first: oneshot::Sender<Response<AgentBody>>,
    ) -> Self {
        let off = match &caller.era {
            Era::Session(session) => session.begin(caller.id.get()),
            Era::Stateless => None,
        };
        Self { run, caller, shape, out: Out::First(first), off, patience: Instant::now() + PATIENCE }
    }

    /// Waits for something, as long as the run may go on and the client wants it.
    pub(super) async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Parted> {
        tokio::pin!(work);
        let cut = self.run.cut_signal().clone();
        loop {
            let stateless = self.caller.is_stateless();
            let hurries = !stateless && self.caller.streams && matches!(self.out, Out::First(_));
            tokio::select! {
                biased;
                () = cut.cancelled() => return Err(Parted::Cut),
                value = &mut work => return Ok(value),
                () = gone(&mut self.out, self.off.as_ref(), stateless) => return Err(Parted::CalledOff),
                () = sleep_until(self.patience), if hurries => {}
            }
            // Where there is no place for a stream the client has to wait.
            if self.stream().is_none() {
                self.caller.streams = false;
            }
        }
    }

    /// The stream to the client, opened if it is not yet.
    pub(super) fn stream(&mut self) -> Option<Arc<EventLog>> {
        if let Out::Stream { log, .. } = &self.out {
            return Some(Arc::clone(log));
        }
        if !self.caller.streams || !matches!(self.out, Out::First(_)) {
            return None;
        }
        let place = self.run.mcp.stream_place()?;
        let (number, log) = match &self.caller.era {
            Era::Session(session) => {
                let (number, log) = session.open_stream(place);
                // Clients of older revisions take an event without data for a broken message.
                if session.agreed.revision == RESUMES {
                    log.prime();
                }
                (Some(number), log)
            }
            Era::Stateless => (None, EventLog::passing(Some(place))),
        };
        let body = log.body(None);
        if let Out::First(first) = std::mem::replace(&mut self.out, Out::Stream { log: Arc::clone(&log), number }) {
            // Nobody is there to read it any more: the stream learns that when the body is dropped.
            let _ = first.send(body);
        }
        Some(log)
    }

    /// The server lets its client come back for the rest, and so does the plane, where the client knows that.
    pub(super) fn away(&mut self) {
        let knows = matches!(&self.caller.era, Era::Session(session) if session.agreed.revision == RESUMES);
        if let Some(log) = if knows { self.stream() } else { None } {
            log.part();
        }
    }

    /// Passes progress on, under the token that the client gave.
    pub(super) async fn progress(&mut self, params: &Bytes) -> Result<(), Parted> {
        let Some(token) = self.caller.token.as_deref().map(|token| token.get().to_owned()) else { return Ok(()) };
        let Some(mut members) = Members::read(params) else { return Ok(()) };
        members.set("progressToken", token);
        let message = rpc::asking(None, "notifications/progress", &members.json());
        self.notice(&message).await
    }

    /// Passes on what a server logs, as far as the client wants to hear it.
    pub(super) async fn log(&mut self, params: &Bytes) -> Result<(), Parted> {
        let Some(members) = Members::read(params) else { return Ok(()) };
        let said = members.text("level").and_then(|text| level(&text).ok());
        let wanted = match (said, self.caller.level()) {
            (Some(said), Some(wanted)) => said >= wanted,
            // A session that never said anything leaves it to its servers; a stateless request wants nothing.
            (Some(_), None) => !self.caller.is_stateless(),
            (None, _) => false,
        };
        if !wanted {
            return Ok(());
        }
        self.notice(&rpc::asking(None, "notifications/message", params)).await
    }

    async fn notice(&mut self, message: &[u8]) -> Result<(), Parted> {
        let Some(log) = self.stream() else { return Ok(()) };
        let run = Arc::clone(&self.run);
        let write = async { log.write(message, Weight::Notice, room(&run, message.len()).await).await };
        self.wait(write).await.map(|_| ())
    }

    /// Answers a stateless request with a question, and waits for the request that answers it.
    pub(super) async fn ask_next(&mut self, question: &Question, digest: &[u8; 32]) -> Result<Answered, Parted> {
        for _ in 0..AGAIN_MAX {
            let (resume, resumed) = oneshot::channel();
            let run = self.run.grant.run;
            let Some(state) = self.run.mcp.states.wait(run, digest, Resume(resume)) else {
                return Err(Parted::CalledOff);
            };
            let result = format!(
                r#"{{"resultType":"input_required","inputRequests":{{"{KEY}":{}}},"requestState":"{state}"}}"#,
                question.request()
            );
            self.send(Answer::Result { bytes: result.into(), typed: true, room: None });
            let cut = self.run.cut_signal().clone();
            let resumed = tokio::select! {
                biased;
                () = cut.cancelled() => return Err(Parted::Cut),
                resumed = timeout(STATE_AGE, resumed) => resumed,
            };
            // Too late, or given up for a newer one.
            let Ok(Ok(Resumed { caller, responses, first })) = resumed else { return Err(Parted::CalledOff) };
            self.caller = caller;
            self.out = Out::First(first);
            let answer = responses.as_deref().and_then(Members::read);
            let answer = answer.as_ref().and_then(|answers| answers.get(KEY));
            if let Some(answer) = answer {
                return Ok(Ok(Bytes::copy_from_slice(answer.as_bytes())));
            }
        }
        Err(Parted::CalledOff)
    }

    /// Sends the answer, and keeps it for a while for a client that was cut off.
    pub(super) async fn deliver(mut self, answer: Answer) {
        let session = match &self.caller.era {
            Era::Session(session) => Some(Arc::clone(session)),
            Era::Stateless => None,
        };
        if let Some(session) = &session {
            session.over(self.caller.id.get());
        }
        let stream = match &self.out {
            Out::Stream { log, number: Some(number) } => Some((Arc::clone(log), *number)),
            _ => None,
        };
        self.send(answer);
        if let (Some(session), Some((log, number))) = (session, stream) {
            let cut = self.run.cut_signal().clone();
            tokio::select! {
                () = cut.cancelled() => {}
                _ = timeout(KEPT_FOR, log.drained()) => {}
            }
            session.close_stream(number);
        }
    }

    fn send(&mut self, answer: Answer) {
        let out = std::mem::replace(&mut self.out, Out::Silent);
        let (status, message, room) = answer.message(&self.caller, self.shape);
        match out {
            Out::First(first) => {
                let _ = first.send(body::json(status, Held::bind(room, message)));
            }
            Out::Stream { log, .. } => log.finish(&message, room),
            Out::Silent => {}
        }
    }
}

/// When the client does not want its answer any more: it said so, or in the stateless era it left.
async fn gone(out: &mut Out, off: Option<&CancellationToken>, stateless: bool) {
    match (out, off) {
        (Out::First(first), None) if stateless => first.closed().await,
        (Out::Stream { log, .. }, None) if stateless => log.left().await,
        (_, Some(off)) => off.cancelled().await,
        _ => std::future::pending().await,
    }
}

/// The answer to a request whose task broke off.
pub(super) fn broken() -> Response<AgentBody> {
    let text = "cogward: the call broke off inside the plane";
    body::json(StatusCode::INTERNAL_SERVER_ERROR, rpc::error(None, rpc::INTERNAL_ERROR, text, None))
}
