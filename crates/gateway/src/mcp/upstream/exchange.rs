//! One request to a tool server from beginning to end: what the server says in between, what it asks,
//! and its result.
//!
//! Dropping an exchange before its end tells the server to stop. What is bounded here: the steps of one
//! exchange, what it asks back, how long it is silent and how long it lasts in all.

mod clock;
mod peer;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use cogward_model::{UpstreamName, limits::STREAM_EVENT_BYTES_MAX};
use serde::Deserialize;

use self::clock::Clock;
pub(super) use self::clock::OpenAsk;
pub(in crate::mcp) use self::peer::{ClientCan, LogLevel, Peer};
use super::{RequestError, ToolServerClient, UpstreamError, answer::Answerer, http, inside, limits::Pass, stdio};
use crate::{
    gate::{Admitted, Governed},
    policy::Who,
    rooms::{Held, Room},
};

/// Requests of the server within one exchange.
const ASKS_MAX: u32 = 32;
/// Steps of one exchange.
const STEPS_MAX: u32 = 10_000;
/// The wait before something is sent once more.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One request.
#[derive(Debug, Clone, Copy)]
pub(in crate::mcp) struct UpRequest<'a> {
    /// Its method.
    pub(in crate::mcp) method: &'static str,
    /// A JSON object without `_meta`.
    pub(in crate::mcp) params: &'a [u8],
    /// Further members of `_meta`, as JSON without the braces.
    pub(in crate::mcp) meta: &'a str,
    /// What `Mcp-Name` says: tool, prompt, URI or task.
    pub(in crate::mcp) name: Option<&'a str>,
    /// Headers that repeat arguments.
    pub(in crate::mcp) mirrored: &'a [(HeaderName, HeaderValue)],
    /// Whether progress is wanted.
    pub(in crate::mcp) progress: bool,
    /// How much it shall say.
    pub(in crate::mcp) log_level: Option<LogLevel>,
    /// For whom it is; set when it is begun.
    pub(in crate::mcp) who: Option<&'a Arc<Who>>,
}

impl<'a> UpRequest<'a> {
    /// A request of the plane's own.
    pub(super) const fn plain(method: &'static str, params: &'a [u8]) -> Self {
        Self { method, params, meta: "", name: None, mirrored: &[], progress: false, log_level: None, who: None }
    }
}

/// What comes next in an exchange.
#[derive(Debug)]
pub(in crate::mcp) enum Step {
    /// Parameters of `notifications/progress`, with the plane's own token.
    Progress(Bytes),
    /// Parameters of `notifications/message`.
    Log(Bytes),
    /// The server wants to know something first.
    Ask(Ask),
    /// The server takes its time, and says so by closing its stream until it is asked for the rest.
    Away,
    /// The result.
    Done(Reply),
    /// The result says what is missing (2026-07-28).
    InputRequired(Reply),
}

/// A result, as the server sent it.
#[derive(Debug)]
pub(in crate::mcp) struct Reply {
    /// The bytes.
    pub(in crate::mcp) result: Bytes,
    /// The room that they take.
    pub(in crate::mcp) room: Option<Held>,
    /// What kind of a result it says it is.
    pub(in crate::mcp) result_type: ResultType,
    /// Whether a tool says that it failed.
    pub(in crate::mcp) is_error: bool,
}

/// The `resultType` of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mcp) enum ResultType {
    /// It names none, as before 2026-07-28.
    Absent,
    /// It is whole.
    Complete,
    /// More input is needed.
    InputRequired,
    /// A task, whose result comes later.
    Task,
    /// Something that is not known here.
    Other,
}

/// A request of the server.
#[derive(Debug)]
pub(in crate::mcp) struct Ask {
    /// What is asked.
    pub(in crate::mcp) method: AskMethod,
    /// Its parameters.
    pub(in crate::mcp) params: Bytes,
    /// Where the answer goes.
    pub(in crate::mcp) answer: Answerer,
}

/// What a server may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mcp) enum AskMethod {
    /// A question to the user.
    Elicit,
    /// A model call.
    Sample,
    /// The roots of the client's file system.
    Roots,
}

impl AskMethod {
    pub(super) fn of(method: &str) -> Option<Self> {
        match method {
            "elicitation/create" => Some(Self::Elicit),
            "sampling/createMessage" => Some(Self::Sample),
            "roots/list" => Some(Self::Roots),
            _ => None,
        }
    }
}

/// What a transport hears next.
#[derive(Debug)]
pub(super) enum Heard {
    Progress(Bytes),
    Log(Bytes),
    Ask(Ask),
    /// The server closed its stream and will go on in another one.
    Away,
    Answer(Bytes, Option<Held>),
}

/// A request that is under way on a connection.
pub(super) enum Flow {
    Http(Box<http::Reading>),
    Stdio(stdio::Pending),
    Inside(inside::Answering),
    /// It is being sent once more.
    Opening(Pin<Box<dyn Future<Output = Result<Flow, RequestError>> + Send>>),
}

impl Flow {
    /// What comes next; can be given up at any point and called again.
    pub(super) async fn next(&mut self) -> Result<Heard, RequestError> {
        loop {
            match self {
                Self::Http(reading) => return reading.next().await,
                Self::Stdio(pending) => return Ok(pending.next().await?),
                Self::Inside(answering) => return answering.next().await,
                Self::Opening(opening) => {
                    let flow = opening.as_mut().await?;
                    *self = flow;
                }
            }
        }
    }

    /// The answer, and nothing of what comes before it.
    pub(super) async fn answer(mut self, server: &UpstreamName) -> Result<Bytes, UpstreamError> {
        for _ in 0..STEPS_MAX {
            match self.next().await.map_err(RequestError::into_inner)? {
                Heard::Answer(result, _) => return Ok(result),
                Heard::Ask(ask) => ask.answer.decline(),
                Heard::Progress(_) | Heard::Log(_) | Heard::Away => {}
            }
        }
        Err(endless(server))
    }
}

/// What it takes to send a request once more.
pub(super) struct Again {
    pub(super) client: Arc<ToolServerClient>,
    pub(super) peer: Peer,
    pub(super) room: Option<Room>,
    pub(super) request: Owned,
    pub(super) left: u32,
    pub(super) renewed: bool,
}

/// A request with its own bytes.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    method: &'static str,
    params: Bytes,
    meta: String,
    name: Option<String>,
    mirrored: Vec<(HeaderName, HeaderValue)>,
    progress: bool,
    log_level: Option<LogLevel>,
    who: Option<Arc<Who>>,
}

impl Owned {
    pub(super) fn of(request: &UpRequest<'_>) -> Self {
        Self {
            method: request.method,
            params: Bytes::copy_from_slice(request.params),
            meta: request.meta.to_owned(),
            name: request.name.map(str::to_owned),
            mirrored: request.mirrored.to_vec(),
            progress: request.progress,
            log_level: request.log_level,
            who: request.who.cloned(),
        }
    }

    pub(super) fn request(&self) -> UpRequest<'_> {
        UpRequest {
            method: self.method,
            params: &self.params,
            meta: &self.meta,
            name: self.name.as_deref(),
            mirrored: &self.mirrored,
            progress: self.progress,
            log_level: self.log_level,
            who: self.who.as_ref(),
        }
    }
}

/// A place for one request among those that are under way.
pub(in crate::mcp) struct Place {
    pass: Pass,
    clock: Clock,
}

/// A request that is under way.
pub(in crate::mcp) struct Exchange {
    server: UpstreamName,
    flow: Flow,
    again: Option<Box<Again>>,
    pass: Option<Pass>,
    clock: Clock,
    can: ClientCan,
    asks: u32,
    steps: u32,
    said: bool,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("steps", &self.steps).field("asks", &self.asks).finish_non_exhaustive()
    }
}

impl ToolServerClient {
    /// Waits for a place for a request.
    ///
    /// # Errors
    /// [`UpstreamError`] when there is none in time, or the server is spared.
    pub(in crate::mcp) async fn place(&self) -> Result<Place, UpstreamError> {
        let clock = Clock::begin(self.timeouts().call);
        let pass = self.limits().enter(self.name(), clock.silent_until).await?;
        Ok(Place { pass, clock })
    }

    /// Begins an admitted request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn open<A: Governed>(
        self: &Arc<Self>,
        admitted: &Admitted<A>,
        place: Place,
        peer: Peer,
        request: UpRequest<'_>,
    ) -> Result<Exchange, UpstreamError> {
        let run = admitted.run();
        let request = UpRequest { who: Some(&run.who), ..request };
        self.begin_at(place, Some(run.answers.clone()), peer, request).await
    }

    /// Begins a request.
    #[cfg(test)]
    pub(super) async fn begin(
        self: &Arc<Self>,
        room: Option<Room>,
        peer: Peer,
        request: UpRequest<'_>,
    ) -> Result<Exchange, UpstreamError> {
        self.begin_at(self.place().await?, room, peer, request).await
    }

    async fn begin_at(
        self: &Arc<Self>,
        Place { pass, clock }: Place,
        room: Option<Room>,
        peer: Peer,
        request: UpRequest<'_>,
    ) -> Result<Exchange, UpstreamError> {
        let retries = self.limits().retries(&request);
        // In a session of a run's own it turns out late that the session is over.
        let mut again = (retries > 0 || peer.own()).then(|| {
            let (request, room) = (Owned::of(&request), room.clone());
            Box::new(Again { client: Arc::clone(self), peer, room, request, left: retries, renewed: false })
        });
        let sent = tokio::time::timeout_at(clock.silent_until, self.send(peer, &request, room)).await;
        let flow = match sent {
            Ok(Ok(flow)) => flow,
            Ok(Err(error)) => match again.as_mut().and_then(|again| again.after(&RequestError::from(error.clone()))) {
                Some(flow) => flow,
                None => return Err(pass.failed(error)),
            },
            Err(_) => return Err(pass.failed(self.timed_out(clock.silence))),
        };
        let server = self.name().clone();
        Ok(Exchange { server, flow, again, pass: Some(pass), clock, can: peer.can, asks: 0, steps: 0, said: false })
    }
}

impl Again {
    /// One more attempt after an error that passes, if one is left; and once where nothing was looked at.
    fn after(&mut self, error: &RequestError) -> Option<Flow> {
        match error {
            RequestError::NotTaken(_) if !self.renewed => self.renewed = true,
            error if error.inner().passes() => self.left = self.left.checked_sub(1)?,
            _ => return None,
        }
        let (client, peer, room) = (Arc::clone(&self.client), self.peer, self.room.clone());
        let request = self.request.clone();
        let broken = matches!(error, RequestError::NotTaken(_));
        Some(Flow::Opening(Box::pin(async move {
            if broken {
                client.lost(peer);
            } else {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            client.send(peer, &request.request(), room).await.map_err(RequestError::Failed)
        })))
    }
}

impl Exchange {
    /// What comes next. Can be given up at any point and called again; not after the last step or an error.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(in crate::mcp) async fn next(&mut self) -> Result<Step, UpstreamError> {
        loop {
            let heard = match self.heard().await {
                Ok(heard) => heard,
                Err(error) => {
                    // Only what may be done twice is done twice, and never after the agent saw something of it.
                    let again = self.again.as_mut().filter(|_| !self.said);
                    if let Some(flow) = again.and_then(|again| again.after(&error)) {
                        self.flow = flow;
                        continue;
                    }
                    return Err(self.failed(error.into_inner()));
                }
            };
            self.steps += 1;
            self.clock.heard();
            let step = match heard {
                Heard::Answer(result, room) => return self.done(result, room),
                Heard::Progress(params) => Step::Progress(params),
                Heard::Log(params) => Step::Log(params),
                Heard::Away => Step::Away,
                Heard::Ask(mut ask) => {
                    self.asks += 1;
                    if self.asks > ASKS_MAX {
                        return Err(self.protocol("it asks back without end"));
                    }
                    if !self.can.asked() {
                        ask.answer.decline();
                        continue;
                    }
                    ask.answer.opened(self.clock.ask());
                    Step::Ask(ask)
                }
            };
            let too_long =
                matches!(&step, Step::Progress(params) | Step::Log(params) if params.len() > STREAM_EVENT_BYTES_MAX);
            if self.steps > STEPS_MAX || too_long {
                let error = endless(&self.server);
                return Err(self.failed(error));
            }
            self.said = true;
            return Ok(step);
        }
    }

    async fn heard(&mut self) -> Result<Heard, RequestError> {
        loop {
            self.clock.settle();
            let until = self.clock.until();
            tokio::select! {
                biased;
                heard = self.flow.next() => return heard,
                () = self.clock.answered() => {}
                () = tokio::time::sleep_until(until) => {
                    let after = self.clock.silence;
                    return Err(UpstreamError::TimedOut { server: self.server.clone(), after }.into());
                }
            }
        }
    }

    fn done(&mut self, result: Bytes, room: Option<Held>) -> Result<Step, UpstreamError> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(default, rename = "isError")]
            is_error: bool,
            #[serde(borrow, default, rename = "resultType")]
            kind: Option<std::borrow::Cow<'a, str>>,
        }
        let head: Head<'_> = match serde_json::from_slice(&result) {
            Ok(head) if result.first() == Some(&b'{') => head,
            _ => return Err(self.protocol("its answer is not a result")),
        };
        let result_type = match head.kind.as_deref() {
            None => ResultType::Absent,
            Some("complete") => ResultType::Complete,
            Some("input_required") => ResultType::InputRequired,
            Some("task") => ResultType::Task,
            Some(_) => ResultType::Other,
        };
        let reply = Reply { is_error: head.is_error, result_type, room, result };
        if let Some(pass) = self.pass.take() {
            pass.well();
        }
        Ok(match result_type {
            ResultType::InputRequired => Step::InputRequired(reply),
            _ => Step::Done(reply),
        })
    }

    fn protocol(&mut self, cause: &str) -> UpstreamError {
        let error = UpstreamError::Protocol { server: self.server.clone(), cause: cause.to_owned() };
        self.failed(error)
    }

    fn failed(&mut self, error: UpstreamError) -> UpstreamError {
        match self.pass.take() {
            Some(pass) => pass.failed(error),
            None => error,
        }
    }
}

fn endless(server: &UpstreamName) -> UpstreamError {
    let cause = "it says more and more and does not answer".to_owned();
    UpstreamError::Protocol { server: server.clone(), cause }
}
