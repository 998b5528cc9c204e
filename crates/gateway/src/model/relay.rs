//! A streamed answer: passed on as it comes, read for its usage, settled by a pump of its own.
//!
//! The agent sees whole events only, and an end only when the upstream sent one: everything else
//! closes the connection without an end, so that no client takes half an answer for a whole one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{
    Digest,
    limits::{AGENT_STALL_MS_MAX, FREE_ANSWER_BYTES_MAX, STREAM_EVENT_BYTES_MAX, STREAM_WAITING_BYTES_MAX},
};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};

use super::{
    call::{self, Answered, Charge},
    provider::{ModelCall, ProviderTimeouts, UpstreamBody},
    sse::{self, Block, Splitter},
    usage::Meter,
};
use crate::{FenceState, body::BrokenStream, gate::Admitted, rooms::Held, run::RunContext};

/// Pieces that wait for an agent that reads slowly; then the upstream waits too. Their bytes are bounded by
/// [`STREAM_WAITING_BYTES_MAX`], or by one piece.
const PIECES_WAITING_MAX: usize = 32;
/// How long an agent that may run is waited for to read on.
const AGENT_STALL_MAX: Duration = Duration::from_millis(AGENT_STALL_MS_MAX);
/// Longest stream.
const STREAM_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long the end of the upstream's body is waited for after the end of its answer.
const TAIL_WAIT: Duration = Duration::from_secs(1);

enum Piece {
    Data { bytes: Bytes, _room: OwnedSemaphorePermit },
    End,
    Broken(&'static str),
}

/// The body of a streamed answer towards an agent.
struct AgentStream {
    pieces: mpsc::Receiver<Piece>,
    over: bool,
}

impl Body for AgentStream {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(cx).map(|piece| match piece {
            // hyper asks for the next piece when it has written this one but for its own small buffer.
            Some(Piece::Data { bytes, .. }) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
                self.over = true;
                None
            }
            Some(Piece::Broken(why)) => {
                self.over = true;
                Some(Err(BrokenStream(why.to_owned())))
            }
            // A pump that ended without a word has not ended the answer.
            None => {
                self.over = true;
                Some(Err(BrokenStream("the relay ended early".to_owned())))
            }
        })
    }
}

/// Starts to pass a stream on; gives the answer's head and body towards the agent.
pub(super) fn start(
    admitted: Admitted<ModelCall>,
    response: Response<UpstreamBody>,
    timeouts: ProviderTimeouts,
) -> Response<crate::body::AgentBody> {
    let (head, body) = response.into_parts();
    let (agent, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let meter = Meter::new(admitted.target().wire);
    let pump = Pump {
        run: Arc::clone(admitted.run()),
        hide_usage: admitted.target().hide_usage,
        status: head.status,
        body,
        splitter: Splitter::default(),
        meter,
        digest: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
        bytes: 0,
        agent: Some(agent),
        waiting: Arc::new(Semaphore::new(STREAM_WAITING_BYTES_MAX)),
        large: None,
        deadline: None,
        timeouts,
    };
    tokio::spawn(pump.run(admitted));
    let mut answer = call::returned_body(&head, AgentStream { pieces, over: false }.boxed());
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

struct Pump {
    run: Arc<RunContext>,
    hide_usage: bool,
    status: StatusCode,
    body: UpstreamBody,
    splitter: Splitter,
    meter: Meter,
    digest: aws_lc_rs::digest::Context,
    bytes: u64,
    /// The agent, while it is there.
    agent: Option<mpsc::Sender<Piece>>,
    /// Room for the pieces that wait, in bytes.
    waiting: Arc<Semaphore>,
    /// Room for events that are larger than what a stream may hold anyway; taken once, when the first of them comes.
    large: Option<Held>,
    /// When to stop learning usage after the agent has gone.
    deadline: Option<Instant>,
    timeouts: ProviderTimeouts,
}

/// What happened next on the upstream.
enum Next {
    Piece(Bytes),
    Eof,
    AgentGone,
    Broken(&'static str),
}

impl Pump {
    async fn run(mut self, admitted: Admitted<ModelCall>) {
        loop {
            let block = match self.next().await {
                Next::AgentGone => {
                    self.agent_gone();
                    continue;
                }
                Next::Broken(cause) => return self.break_off(admitted, cause).await,
                Next::Piece(bytes) => {
                    self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                    if self.bytes > STREAM_BYTES_MAX {
                        return self.break_off(admitted, "the provider's answer is too long").await;
                    }
                    self.digest.update(&bytes);
                    if self.splitter.held() > FREE_ANSWER_BYTES_MAX && !self.make_room().await {
                        return self.break_off(admitted, "the run was stopped").await;
                    }
                    match self.splitter.feed(&bytes) {
                        Ok(Some(block)) => block,
                        Ok(None) => continue,
                        Err(_) => return self.break_off(admitted, "the provider sent an event that is too long").await,
                    }
                }
                Next::Eof => {
                    let rest = self.splitter.rest();
                    let kept = self.read(&Block::single(rest));
                    if !self.meter.ended {
                        return self.break_off(admitted, "the provider broke off its answer").await;
                    }
                    return self.finish(admitted, kept).await;
                }
            };
            let kept = self.read(&block);
            if self.meter.ended {
                return self.finish(admitted, kept).await;
            }
            for bytes in kept {
                self.data(bytes).await;
            }
        }
    }

    /// Waits for the next piece, against a stop of the run, the silence of the upstream, and the agent's leave.
    async fn next(&mut self) -> Next {
        let (patience, over) = match self.deadline {
            None => (self.timeouts.idle, "the provider stopped in the middle of its answer"),
            Some(deadline) => (
                deadline.saturating_duration_since(Instant::now()).min(self.timeouts.idle),
                "the agent left before the provider said what was used",
            ),
        };
        let gone = async {
            match &self.agent {
                Some(agent) => agent.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.run.cut_signal().cancelled() => Next::Broken("the run was stopped"),
            () = gone => Next::AgentGone,
            frame = timeout(patience, self.body.frame()) => match frame {
                Err(_) => Next::Broken(over),
                Ok(None) => Next::Eof,
                Ok(Some(Err(_))) => Next::Broken("the provider broke off its answer"),
                // Trailers carry nothing for the agent.
                Ok(Some(Ok(frame))) => Next::Piece(frame.into_data().unwrap_or_default()),
            },
        }
    }

    /// Reads events for their usage; gives what the agent may see of them.
    fn read(&mut self, block: &Block) -> Vec<Bytes> {
        let (meter, hide) = (&mut self.meter, self.hide_usage);
        block.retain(|event| {
            let only_usage = sse::data(event).is_some_and(|data| meter.read(&data));
            !(hide && only_usage)
        })
    }

    fn agent_gone(&mut self) {
        if self.agent.take().is_some() {
            self.deadline = Some(Instant::now() + self.timeouts.drain);
        }
    }

    /// An event that is larger than usual is put together twice: as it came, and as it goes on. False when the run
    /// was stopped first.
    async fn make_room(&mut self) -> bool {
        if self.large.is_none() {
            tokio::select! {
                biased;
                () = self.run.cut_signal().cancelled() => return false,
                held = self.run.answers.take(2 * STREAM_EVENT_BYTES_MAX) => self.large = held,
            }
        }
        self.large.is_some()
    }

    /// Hands bytes to the agent when those before them have gone on their way.
    async fn data(&mut self, bytes: Bytes) {
        let units = u32::try_from(bytes.len().clamp(1, STREAM_WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
        let room = loop {
            let gone = async {
                match &self.agent {
                    Some(agent) => agent.closed().await,
                    None => std::future::ready(()).await,
                }
            };
            let room = tokio::select! {
                biased;
                () = self.run.cut_signal().cancelled() => return,
                () = gone => return self.agent_gone(),
                room = timeout(AGENT_STALL_MAX, Arc::clone(&self.waiting).acquire_many_owned(units)) => room,
            };
            match room {
                Ok(Ok(room)) => break room,
                Ok(Err(_)) => return self.agent_gone(),
                // A suspended agent cannot read, and that is not its fault.
                Err(_) if self.run.fence.state() == FenceState::Held => {}
                Err(_) => return self.agent_gone(),
            }
        };
        self.deliver(Piece::Data { bytes, _room: room }).await;
    }

    /// Hands a piece to the agent; one that has gone or reads nothing at all is given up.
    async fn deliver(&mut self, piece: Piece) {
        let Some(agent) = self.agent.clone() else { return };
        let slot = loop {
            let slot = tokio::select! {
                biased;
                () = self.run.cut_signal().cancelled() => return,
                slot = timeout(AGENT_STALL_MAX, agent.reserve()) => slot,
            };
            match slot {
                Ok(Ok(slot)) => break slot,
                Ok(Err(_)) => return self.agent_gone(),
                // A suspended agent cannot read, and that is not its fault.
                Err(_) if self.run.fence.state() == FenceState::Held => {}
                Err(_) => return self.agent_gone(),
            }
        };
        slot.send(piece);
    }

    fn result(&mut self) -> Option<Digest> {
        let whole = self.digest.clone().finish();
        whole.as_ref().try_into().ok().map(Digest::from_bytes)
    }

    /// Settles, then lets the agent have the end: its next call finds the budget as it is.
    async fn finish(mut self, admitted: Admitted<ModelCall>, last: Vec<Bytes>) {
        let result = self.result();
        let answered = Answered {
            usage: self.meter.usage,
            seen: self.meter.events,
            failed: self.meter.failed,
            result,
            status: self.status,
            model: self.meter.model.take(),
        };
        call::completed(admitted, answered);
        for bytes in last {
            self.data(bytes).await;
        }
        self.deliver(Piece::End).await;
        // Read to its end the connection can be used again.
        let _ = timeout(TAIL_WAIT, async { while let Some(Ok(_)) = self.body.frame().await {} }).await;
    }

    async fn break_off(mut self, admitted: Admitted<ModelCall>, cause: &'static str) {
        call::broken(admitted, Charge::Seen(self.meter.final_usage(), self.meter.events), cause);
        // Dropped first: the upstream learns at once that nobody listens.
        drop(std::mem::replace(&mut self.body, http_body_util::Empty::new().map_err(|never| match never {}).boxed()));
        self.deliver(Piece::Broken(cause)).await;
    }
}
