//! The side of a server inside the plane that exchanges see: see [`crate::inside`].

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{UpstreamName, limits::RESPONSE_BYTES_MAX};

use super::{
    RequestError, UpstreamError,
    exchange::{Heard, UpRequest},
    wire::Offers,
};
use crate::{
    inside::{AnswerRoom, InsideError, InsideRequest, InsideServer},
    rooms::Room,
    tool_process::Pending,
};

/// A server inside, as a connection has it.
#[derive(Clone)]
pub(super) struct Session {
    server: Arc<dyn InsideServer>,
}

/// A request that one is at.
pub(super) struct Answering {
    name: UpstreamName,
    answer: Option<Pending<'static, Result<Bytes, InsideError>>>,
    room: AnswerRoom,
    ready: Option<Bytes>,
}

impl Session {
    pub(super) fn new(server: Arc<dyn InsideServer>) -> Self {
        Self { server }
    }

    /// It speaks the stateless revision.
    pub(super) fn offers(&self) -> Offers {
        let offers = self.server.offers();
        Offers { tools: offers.tools, resources: offers.resources, modern: true, ..Offers::default() }
    }

    pub(super) fn begin(&self, name: &UpstreamName, request: &UpRequest<'_>, room: Option<Room>) -> Answering {
        let room = AnswerRoom::new(room);
        let request = InsideRequest {
            who: request.who.cloned(),
            method: request.method,
            params: Bytes::copy_from_slice(request.params),
            room: room.clone(),
        };
        Answering { name: name.clone(), answer: Some(self.server.answer(request)), room, ready: None }
    }
}

impl Answering {
    /// The answer; can be given up at any point and called again.
    pub(super) async fn next(&mut self) -> Result<Heard, RequestError> {
        let server = || self.name.clone();
        let said = |error| match error {
            InsideError::Rejected { code, message } => {
                UpstreamError::Rejected { server: server(), code, message, data: None }
            }
            InsideError::Unavailable { cause, sent } => UpstreamError::Unavailable { server: server(), cause, sent },
            InsideError::NoRoom => UpstreamError::NoRoom { server: server() },
            InsideError::Protocol(cause) => UpstreamError::Protocol { server: server(), cause },
        };
        if let Some(answer) = &mut self.answer {
            let answered = answer.as_mut().await;
            self.answer = None;
            self.ready = Some(answered.map_err(said)?);
        }
        let length = self.ready.as_ref().map_or(0, Bytes::len);
        if length > RESPONSE_BYTES_MAX {
            let cause = format!("its answer is longer than {RESPONSE_BYTES_MAX} bytes");
            return Err(UpstreamError::Protocol { server: server(), cause }.into());
        }
        let room = self.room.finish(length).await.map_err(said)?;
        Ok(Heard::Answer(self.ready.take().unwrap_or_default(), room))
    }
}
