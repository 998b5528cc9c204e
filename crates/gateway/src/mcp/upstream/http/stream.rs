//! Streams that are open without a request: of a session, and of a subscription in the stateless era.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_model::limits::STREAM_EVENT_BYTES_MAX;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::{Core, media_type};
use crate::mcp::{
    rpc::Message,
    upstream::{
        UpstreamError,
        answer::{Answerer, Route},
        exchange::{Ask, AskMethod, Heard},
        sse::Events,
    },
};

/// How long a session waits for its stream before it goes on without.
const MOMENT: Duration = Duration::from_secs(1);
/// The first wait before a stream of a session is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait before a stream of a session is opened again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Opens the stream of a session and keeps it open until `stop`, or until the server says that it has none.
pub(super) async fn listen(core: Arc<Core>, stop: CancellationToken) {
    let (opened, open) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut opened = Some(opened);
        let mut events = Events::new(STREAM_EVENT_BYTES_MAX);
        let mut wait = RETRY;
        loop {
            let last = events.last_id().map(str::to_owned);
            let response = tokio::select! {
                () = stop.cancelled() => return,
                response = core.get(last.as_deref()) => response,
            };
            drop(opened.take());
            if let Ok(response) = response {
                if response.status() == StatusCode::NOT_FOUND && core.id.is_some() {
                    core.lost.cancel();
                }
                if response.status() != StatusCode::OK || media_type(&response) != "text/event-stream" {
                    // It has no such stream, or the session is over.
                    return;
                }
                events.again();
                let heard = tokio::select! {
                    () = stop.cancelled() => return,
                    heard = follow(&core, response.into_body(), &mut events) => heard,
                };
                wait = if heard { RETRY } else { wait };
            }
            let pause = events.retry().unwrap_or(wait).clamp(Duration::from_millis(50), RETRY_MAX);
            wait = wait.saturating_mul(2).min(RETRY_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    // Either it is there, or it is not offered, or it has to come later.
    let _ = tokio::time::timeout(MOMENT, open).await;
}

/// Reads a stream to its end. Whether there was anything on it.
async fn follow(core: &Arc<Core>, mut body: Incoming, events: &mut Events) -> bool {
    let (mut ready, mut heard) = (Vec::new(), false);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(part) = frame.into_data() else { continue };
        heard = true;
        if events.feed(&part, &mut ready).is_err() {
            return heard;
        }
        for event in ready.drain(..) {
            aside(core, &event);
        }
    }
    heard
}

/// What came without a request. In a run's own session, a request of the server belongs to what that run has
/// under way for the longest time; elsewhere to nobody.
fn aside(core: &Arc<Core>, bytes: &Bytes) {
    let Ok(message) = Message::parse(bytes) else { return };
    let Some(method) = message.method else { return };
    let params = message.params.map_or(Bytes::from_static(b"{}"), |raw| bytes.slice_ref(raw.get().as_bytes()));
    let route = Route::Http(Arc::clone(core));
    let oldest = || core.calls().first_key_value().map(|(_, call)| call.clone());
    match (message.id, &*method) {
        (Some(id), "ping") => route.pong(id),
        (Some(id), method) => match (AskMethod::of(method), oldest()) {
            (Some(method), Some(call)) => {
                let ask = Heard::Ask(Ask { method, params, answer: Answerer::new(id, route) });
                // Where there is no room for it, dropping it declines.
                let _ = call.try_send(ask);
            }
            _ => route.refuse(id),
        },
        (None, "notifications/message") if core.origin.is_some() => match oldest() {
            Some(call) => {
                let _ = call.try_send(Heard::Log(params));
            }
            None => core.hub.take(core.origin, &method, &params),
        },
        // Of the session of all runs nobody knows whose it is.
        (None, "notifications/message") => {}
        (None, "notifications/progress") => {
            let token = crate::mcp::upstream::token_of(&params);
            let call = token.and_then(|id| core.calls().get(&id).cloned());
            if let Some(call) = call {
                let _ = call.try_send(Heard::Progress(params));
            }
        }
        (None, method) => core.hub.take(core.origin, method, &params),
    }
}

/// A subscription in the stateless era.
pub(in crate::mcp::upstream) struct Changes {
    core: Arc<Core>,
    body: Incoming,
}

impl Changes {
    pub(super) fn of(core: Arc<Core>, response: Response<Incoming>) -> Result<Self, UpstreamError> {
        if media_type(&response) != "text/event-stream" {
            return Err(core.protocol("it does not answer `subscriptions/listen` with a stream"));
        }
        Ok(Self { core, body: response.into_body() })
    }

    /// Hands on what is told until the stream ends. Whether there was anything on it.
    pub(in crate::mcp::upstream) async fn follow(self) -> bool {
        let mut events = Events::new(STREAM_EVENT_BYTES_MAX);
        follow(&self.core, self.body, &mut events).await
    }
}
