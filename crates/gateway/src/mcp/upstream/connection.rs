//! A connection to a tool server, whatever carries it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cogward_model::UpstreamName;

use super::{
    RequestError, UpstreamError,
    exchange::{self, Flow, LogLevel, Peer, UpRequest},
    http, inside, stdio,
    wire::Offers,
};
use crate::{mcp::rpc, rooms::Room};

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) generation: u64,
    pub(super) link: Link,
    pub(super) offers: Offers,
    /// How much the server was told to say.
    pub(super) level: Arc<Mutex<Option<LogLevel>>>,
    pub(super) own: bool,
    /// Answers of a process that were its greeting.
    pub(super) greeted: u64,
}

#[derive(Clone)]
pub(super) enum Link {
    Stdio(Arc<stdio::Session>),
    Http(Arc<http::Session>),
    Inside(inside::Session),
}

impl Link {
    /// How many requests a process has answered.
    pub(super) fn answers(&self) -> u64 {
        match self {
            Self::Stdio(session) => session.answers(),
            Self::Http(_) | Self::Inside(_) => 0,
        }
    }
}

impl Connection {
    /// Sends a request of an agent.
    pub(super) async fn begin(
        &self,
        server: &UpstreamName,
        peer: Peer,
        request: &UpRequest<'_>,
        room: Option<Room>,
    ) -> Result<Flow, RequestError> {
        if let Some(level) = request.log_level.filter(|_| !self.offers.modern && self.offers.logging) {
            Box::pin(self.say(server, level)).await?;
        }
        Ok(match &self.link {
            Link::Stdio(session) => Flow::Stdio(session.begin(request, peer.can, room).await?),
            Link::Http(session) => Flow::Http(Box::new(session.begin(request, peer.can, room).await?)),
            Link::Inside(session) => Flow::Inside(session.begin(server, request, room)),
        })
    }

    /// Asks something for the plane itself.
    pub(super) async fn ask(&self, server: &UpstreamName, request: &UpRequest<'_>) -> Result<Bytes, RequestError> {
        let can = exchange::ClientCan::NONE;
        let flow = match &self.link {
            Link::Stdio(session) => Flow::Stdio(session.begin(request, can, None).await?),
            Link::Http(session) => Flow::Http(Box::new(session.begin(request, can, None).await?)),
            Link::Inside(session) => Flow::Inside(session.begin(server, request, None)),
        };
        Ok(flow.answer(server).await?)
    }

    /// Tells the server how much to say. In the session of all runs the chattiest wins; each run hears its own.
    pub(super) async fn say(&self, server: &UpstreamName, level: LogLevel) -> Result<(), RequestError> {
        {
            let mut known = self.level.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_some_and(|known| known == level || (!self.own && known < level)) {
                return Ok(());
            }
            *known = Some(level);
        }
        let params = rpc::to_json(&serde_json::json!({ "level": level.as_str() }));
        match self.ask(server, &UpRequest::plain("logging/setLevel", &params)).await {
            // Without its log it is still of use.
            Ok(_) | Err(RequestError::Failed(UpstreamError::Rejected { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether it was good for more than its greeting. Over HTTP a server that greets is there.
    pub(super) fn was_of_use(&self) -> bool {
        !matches!(self.link, Link::Stdio(_)) || self.link.answers() > self.greeted
    }

    pub(super) fn alive(&self) -> bool {
        match &self.link {
            Link::Stdio(session) => session.alive(),
            Link::Http(_) | Link::Inside(_) => true,
        }
    }
}
