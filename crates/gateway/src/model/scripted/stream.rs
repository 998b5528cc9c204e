//! A scripted stream: frames with pauses between them, cut where the script says.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::Value;
use tokio::time::{Sleep, sleep};

use crate::model::provider::UpstreamBroken;

/// One event of a stream.
pub(super) struct Event {
    bytes: Bytes,
    /// Whether it carries a piece of the answer, and not only its frame.
    piece: bool,
}

impl Event {
    /// An event without a name, as chat completions has them.
    pub(super) fn unnamed(data: &Value, piece: bool) -> Self {
        Self { bytes: format!("data: {data}\n\n").into(), piece }
    }

    /// An event whose name is the `type` in its data.
    pub(super) fn typed(data: &Value, piece: bool) -> Self {
        let name = data.get("type").and_then(Value::as_str).unwrap_or("message");
        Self { bytes: format!("event: {name}\ndata: {data}\n\n").into(), piece }
    }

    /// The end of a chat stream.
    pub(super) fn done() -> Self {
        Self { bytes: Bytes::from_static(b"data: [DONE]\n\n"), piece: false }
    }
}

/// The body.
pub(super) struct ScriptedStream {
    events: VecDeque<Event>,
    pause: Duration,
    paused: Option<Pin<Box<Sleep>>>,
    /// Pieces that may still be sent before the stream breaks off.
    left: Option<usize>,
}

impl ScriptedStream {
    pub(super) fn new(events: Vec<Event>, pause: Duration, cut_after: Option<usize>) -> Self {
        Self { events: events.into(), pause, paused: None, left: cut_after }
    }
}

impl Body for ScriptedStream {
    type Data = Bytes;
    type Error = UpstreamBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBroken>>> {
        let piece = self.events.front().is_some_and(|event| event.piece);
        if self.left == Some(0) && (piece || self.events.is_empty()) {
            self.left = None;
            self.events.clear();
            return Poll::Ready(Some(Err(UpstreamBroken("the script cuts it here".to_owned()))));
        }
        if piece && !self.pause.is_zero() {
            let pause = self.pause;
            let paused = self.paused.get_or_insert_with(|| Box::pin(sleep(pause)));
            ready!(paused.as_mut().poll(cx));
            self.paused = None;
        }
        if piece {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Poll::Ready(self.events.pop_front().map(|event| Ok(Frame::data(event.bytes))))
    }
}
