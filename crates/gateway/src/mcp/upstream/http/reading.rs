//! The answer to one request over HTTP: a JSON body, or a stream of events that is taken up again where
//! it broke off.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use cogward_model::limits::RESPONSE_BYTES_MAX;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{Core, HEARD_WAITING_MAX, media_type};
use crate::{
    mcp::{
        rpc::{self, Message},
        upstream::{
            RequestError, UpstreamError,
            answer::{Answerer, Route},
            exchange::{Ask, AskMethod, Heard},
            sse::Events,
            taking::Taking,
        },
    },
    rooms::Room,
};

/// Time for the rest of a stream whose answer is already here, so that its connection can be used again.
const REST: Duration = Duration::from_millis(500);
/// How often a stream is taken up again that gives nothing.
const RESUMED_MAX: u32 = 5;
/// The wait before that, unless the server wants another.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait that the server may want before a stream is taken up again.
const RETRY_MAX: Duration = Duration::from_secs(30);

type Sending = Pin<Box<dyn Future<Output = Result<Response<Incoming>, RequestError>> + Send>>;

/// An answer on its way in. Each step can be given up and taken again.
pub(in crate::mcp::upstream) struct Reading {
    core: Arc<Core>,
    id: u64,
    source: Source,
    /// A JSON body as far as it is here.
    whole: BytesMut,
    events: Events,
    ready: VecDeque<Bytes>,
    said: usize,
    resumed: u32,
    taking: Taking,
    /// What comes for this request on the session's other stream.
    aside: Option<mpsc::Receiver<Heard>>,
    answer: Option<Bytes>,
    ended: bool,
}

enum Source {
    Sending(Sending),
    Json(Incoming),
    Events(Incoming),
    /// The rest of the stream is asked for.
    Resuming(Sending),
    Done,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.aside.is_some() {
            self.core.calls().remove(&self.id);
        }
        // In the stateless era the end of the connection says it.
        if !self.ended && !self.core.modern && tokio::runtime::Handle::try_current().is_ok() {
            let params = format!(r#"{{"requestId":{},"reason":"cancelled"}}"#, self.id);
            self.core.send_aside(rpc::request(None, "notifications/cancelled", params.as_bytes()).into());
        }
    }
}

impl Reading {
    /// From the head of an answer on.
    pub(super) fn of(
        core: Arc<Core>,
        id: u64,
        response: Response<Incoming>,
        room: Option<Room>,
    ) -> Result<Self, UpstreamError> {
        let mut reading = Self::bare(core, id, Source::Done, room);
        reading.head(response)?;
        Ok(reading)
    }

    /// From before it is sent, so that what the server asks meanwhile is heard.
    pub(super) fn sending(
        core: Arc<Core>,
        id: u64,
        body: Bytes,
        headers: Vec<(HeaderName, HeaderValue)>,
        room: Option<Room>,
    ) -> Self {
        let (heard, aside) = mpsc::channel(HEARD_WAITING_MAX);
        core.calls().insert(id, heard);
        let sender = Arc::clone(&core);
        let sending: Sending = Box::pin(async move { sender.post(body, &headers, 1).await });
        let mut reading = Self::bare(core, id, Source::Sending(sending), room);
        reading.aside = Some(aside);
        reading
    }

    /// What comes next.
    pub(in crate::mcp::upstream) async fn next(&mut self) -> Result<Heard, RequestError> {
        loop {
            if let Some(result) = &self.answer {
                let room = self.taking.finish(result.len()).await.ok_or_else(|| self.core.broken())?;
                self.ended = true;
                if let Source::Events(body) = std::mem::replace(&mut self.source, Source::Done) {
                    tokio::spawn(finish(body));
                }
                return Ok(Heard::Answer(self.answer.take().unwrap_or_default(), room));
            }
            if let Some(event) = self.ready.pop_front() {
                match self.event(&event)? {
                    Some(heard) => return Ok(heard),
                    None => continue,
                }
            }
            let here = self.whole.len() + self.events.waiting();
            self.taking.reach(here).await.ok_or_else(|| self.core.broken())?;
            let more = more(&mut self.source);
            let more = match &mut self.aside {
                None => more.await,
                Some(aside) => tokio::select! {
                    biased;
                    Some(heard) = aside.recv() => return Ok(heard),
                    more = more => more,
                },
            };
            match more {
                More::Head(response) => {
                    let response = response.inspect_err(|_| self.ended = true)?;
                    self.head(response)?;
                }
                More::Rest(response) => self.rest(response?)?,
                More::Json(Some(part)) => {
                    if self.whole.len() + part.len() > RESPONSE_BYTES_MAX {
                        return Err(self.too_long().into());
                    }
                    self.whole.extend_from_slice(&part);
                }
                More::Json(None) => {
                    let body = std::mem::take(&mut self.whole).freeze();
                    let answer = self.outcome(&body)?;
                    self.answer =
                        Some(answer.ok_or_else(|| self.protocol("it answered something else than what was asked"))?);
                    self.source = Source::Done;
                }
                More::Events(Some(part)) => {
                    let mut ready = Vec::new();
                    if self.events.feed(&part, &mut ready).is_err() {
                        return Err(self.too_long().into());
                    }
                    self.ready.extend(ready.into_iter().filter(|event| !event.is_empty()));
                }
                More::Events(None) => {
                    self.resume()?;
                    return Ok(Heard::Away);
                }
                More::Broken => return Err(self.core.broken().into()),
            }
        }
    }

    fn bare(core: Arc<Core>, id: u64, source: Source, room: Option<Room>) -> Self {
        Self {
            core,
            id,
            source,
            whole: BytesMut::new(),
            events: Events::new(RESPONSE_BYTES_MAX),
            ready: VecDeque::new(),
            said: 0,
            resumed: 0,
            taking: Taking::new(room),
            aside: None,
            answer: None,
            ended: false,
        }
    }

    fn head(&mut self, response: Response<Incoming>) -> Result<(), UpstreamError> {
        match media_type(&response).as_str() {
            "application/json" => {
                let body = response.into_body();
                if let Some(length) = body.size_hint().exact() {
                    self.taking.expect(length);
                }
                self.source = Source::Json(body);
                Ok(())
            }
            "text/event-stream" => {
                self.source = Source::Events(response.into_body());
                Ok(())
            }
            _ => {
                self.ended = true;
                Err(self.protocol("its answer is neither JSON nor an event stream"))
            }
        }
    }

    fn rest(&mut self, response: Response<Incoming>) -> Result<(), UpstreamError> {
        if response.status() != StatusCode::OK || media_type(&response) != "text/event-stream" {
            return Err(self.core.broken());
        }
        self.events.again();
        self.source = Source::Events(response.into_body());
        Ok(())
    }

    /// Takes the stream up again after its last event, if the server gave it an id.
    fn resume(&mut self) -> Result<(), UpstreamError> {
        let Some(last) = self.events.last_id().filter(|_| !self.core.modern).map(str::to_owned) else {
            return Err(self.core.broken());
        };
        self.resumed += 1;
        if self.resumed > RESUMED_MAX {
            return Err(self.core.broken());
        }
        let wait = self.events.retry().unwrap_or(RETRY).min(RETRY_MAX);
        let core = Arc::clone(&self.core);
        self.source = Source::Resuming(Box::pin(async move {
            tokio::time::sleep(wait).await;
            Ok(core.get(Some(&last)).await?)
        }));
        Ok(())
    }

    fn event(&mut self, event: &Bytes) -> Result<Option<Heard>, UpstreamError> {
        self.resumed = 0;
        if let Some(result) = self.outcome(event)? {
            self.answer = Some(result);
            return Ok(None);
        }
        self.said = self.said.saturating_add(event.len());
        if self.said > RESPONSE_BYTES_MAX {
            return Err(self.too_long());
        }
        Ok(heard(&self.core, event))
    }

    /// The result in a message, if it is the answer to this request.
    fn outcome(&mut self, bytes: &Bytes) -> Result<Option<Bytes>, UpstreamError> {
        let message = Message::parse(bytes).map_err(|error| self.protocol(&error.to_string()))?;
        let ours = message.id.and_then(|raw| raw.get().parse::<u64>().ok()) == Some(self.id);
        match (message.method, message.result, message.error) {
            (None, Some(result), _) if ours => Ok(Some(bytes.slice_ref(result.get().as_bytes()))),
            (None, None, Some(error)) if ours => {
                self.ended = true;
                Err(UpstreamError::rejected(&self.core.server, &error))
            }
            _ => Ok(None),
        }
    }

    fn too_long(&self) -> UpstreamError {
        self.protocol(&format!("its answer is longer than {RESPONSE_BYTES_MAX} bytes"))
    }

    fn protocol(&self, cause: &str) -> UpstreamError {
        self.core.protocol(cause)
    }
}

/// What a message within the stream of a request means to whoever asked.
fn heard(core: &Arc<Core>, bytes: &Bytes) -> Option<Heard> {
    let message = Message::parse(bytes).ok()?;
    let method = message.method?;
    let params = message.params.map_or(Bytes::from_static(b"{}"), |raw| bytes.slice_ref(raw.get().as_bytes()));
    match (message.id, &*method) {
        (Some(id), "ping") => Route::Http(Arc::clone(core)).pong(id),
        (Some(id), method) => match AskMethod::of(method).filter(|_| !core.modern) {
            Some(method) => {
                let answer = Answerer::new(id, Route::Http(Arc::clone(core)));
                return Some(Heard::Ask(Ask { method, params, answer }));
            }
            None => Route::Http(Arc::clone(core)).refuse(id),
        },
        (None, "notifications/progress") => return Some(Heard::Progress(params)),
        (None, "notifications/message") => return Some(Heard::Log(params)),
        (None, method) => core.hub.take(core.origin, method, &params),
    }
    None
}

enum More {
    Head(Result<Response<Incoming>, RequestError>),
    Rest(Result<Response<Incoming>, RequestError>),
    Json(Option<Bytes>),
    Events(Option<Bytes>),
    Broken,
}

async fn more(source: &mut Source) -> More {
    match source {
        Source::Sending(sending) => More::Head(sending.await),
        Source::Resuming(sending) => More::Rest(sending.await),
        Source::Json(body) => match part(body).await {
            Ok(part) => More::Json(part),
            Err(()) => More::Broken,
        },
        // A stream that breaks off can be taken up again like one that ends.
        Source::Events(body) => More::Events(part(body).await.unwrap_or(None)),
        Source::Done => More::Broken,
    }
}

async fn part(body: &mut Incoming) -> Result<Option<Bytes>, ()> {
    while let Some(frame) = body.frame().await {
        if let Ok(part) = frame.map_err(|_| ())?.into_data() {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

async fn finish(mut body: Incoming) {
    let rest = async {
        for _ in 0..16 {
            if !matches!(body.frame().await, Some(Ok(_))) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REST, rest).await;
}
