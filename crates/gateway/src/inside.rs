//! Tool servers that are part of the plane: a port, since what they keep is not this crate's to know.
//!
//! Such a server has no process and no connection of its own. To agents it is like any other: granted in the manifest,
//! pinned, judged, bounded and recorded; it is asked in the words of MCP, and answers in them. What sets it apart is that
//! it is told for whom a call is made, by the plane, so that an agent can neither say nor see it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{limits::RESPONSE_BYTES_MAX, upstream::ToolServer};

use crate::{
    policy::Who,
    rooms::{Held, Room},
    tool_process::Pending,
    upstreams::Credential,
};

/// How long an answer waits for room that its own run, or its tenant, does not give back.
const ROOM_WAIT: Duration = Duration::from_secs(20);

/// One such server, as one tenant has added it.
pub trait InsideServer: Send + Sync + fmt::Debug {
    /// What there is to ask it.
    fn offers(&self) -> InsideOffers;

    /// Answers one request. Dropping the future gives it up.
    ///
    /// `request` is `tools/list` and what follows from the offers; the answer is a whole JSON-RPC result.
    fn answer(&self, request: InsideRequest) -> Pending<'static, Result<Bytes, InsideError>>;
}

/// Where the servers inside come from.
pub trait InsideServers: Send + Sync {
    /// The server of a configuration, or why there cannot be one; none where it is not a part of the plane.
    fn make(
        &self,
        server: &ToolServer,
        credential: Option<&Credential>,
    ) -> Option<Result<Arc<dyn InsideServer>, String>>;
}

/// What a server inside offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InsideOffers {
    /// `tools/list` and `tools/call`.
    pub tools: bool,
    /// `resources/list`, `resources/templates/list` and `resources/read`.
    pub resources: bool,
}

/// A request to a server inside, which was admitted or is the plane's own.
#[derive(Debug, Clone)]
pub struct InsideRequest {
    /// For whom; none where the plane itself wants to know what there is.
    pub who: Option<Arc<Who>>,
    /// Its method.
    pub method: &'static str,
    /// A JSON object, as it was judged.
    pub params: Bytes,
    /// Room for the answer: asked for before anything large is read or made.
    pub room: AnswerRoom,
}

/// The room of one answer; none is taken for what is the plane's own.
#[derive(Debug, Clone, Default)]
pub struct AnswerRoom {
    room: Option<Room>,
    held: Arc<Mutex<Option<Held>>>,
}

impl AnswerRoom {
    pub(crate) fn new(room: Option<Room>) -> Self {
        Self { room, held: Arc::default() }
    }

    /// Waits until an answer may be as long as answers can be. Whoever makes one of more than some tens of KiB has to ask:
    /// what an agent does not read counts against its run and its tenant, also while it is made.
    ///
    /// # Errors
    /// [`InsideError::NoRoom`] when there is none for a while: the agent does not read what it was answered before.
    pub async fn large(&self) -> Result<(), InsideError> {
        let is_held = self.held().is_some();
        if !is_held && let Some(held) = self.take(RESPONSE_BYTES_MAX).await? {
            *self.held() = Some(held);
        }
        Ok(())
    }

    /// What the whole answer takes, which is so long. `None` where no room is taken.
    pub(crate) async fn finish(&self, length: usize) -> Result<Option<Held>, InsideError> {
        let held = self.held().take();
        match held {
            Some(mut held) => {
                held.shrink(length);
                Ok(Some(held))
            }
            None => self.take(length).await,
        }
    }

    async fn take(&self, bytes: usize) -> Result<Option<Held>, InsideError> {
        let Some(room) = &self.room else { return Ok(None) };
        let taken = tokio::time::timeout(ROOM_WAIT, room.take(bytes)).await;
        taken.ok().flatten().map(Some).ok_or(InsideError::NoRoom)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a server inside did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InsideError {
    /// The request is wrong: a JSON-RPC code, and what to mend.
    #[error("{message} ({code})")]
    Rejected {
        /// The code.
        code: i64,
        /// What to mend; the agent reads it.
        message: String,
    },
    /// What it keeps cannot be reached.
    #[error("{cause}")]
    Unavailable {
        /// What was seen.
        cause: String,
        /// Whether the request may have had an effect.
        sent: bool,
    },
    /// There is no room for its answer, which is not its fault.
    #[error("there is no room for the answer")]
    NoRoom,
    /// What it keeps answered with something that cannot be used.
    #[error("{0}")]
    Protocol(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::House;

    #[tokio::test(start_paused = true)]
    async fn room_is_taken_before_an_answer_is_made_and_waiting_for_it_ends() {
        let house = House::new(6 * RESPONSE_BYTES_MAX, 2 * RESPONSE_BYTES_MAX);
        let room = house.of(&"acme".parse().unwrap());
        let free = house.free();
        let (one, two, three) = (
            AnswerRoom::new(Some(room.clone())),
            AnswerRoom::new(Some(room.clone())),
            AnswerRoom::new(Some(room.clone())),
        );
        one.large().await.unwrap();
        one.large().await.unwrap();
        two.large().await.unwrap();
        assert_eq!(free - house.free(), 2 * RESPONSE_BYTES_MAX, "once each");
        // Whoever does not read its answers waits, and not for ever.
        assert_eq!(three.large().await, Err(InsideError::NoRoom));
        assert_eq!(three.finish(1).await.err(), Some(InsideError::NoRoom));
        // What is given up takes nothing; what is answered takes what it is long.
        drop(two);
        let held = one.finish(10 * 1024).await.unwrap();
        assert_eq!(free - house.free(), 10 * 1024);
        drop(held);
        assert_eq!(free, house.free());
        AnswerRoom::default().large().await.unwrap();
    }
}
