//! The place of one session with a tool server: one caller connects, the others wait for it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use std::sync::Arc;

use tokio::time::Instant;

use super::{Connection, ToolServerClient, UpstreamError, exchange::Peer};

/// The first wait after a failed start, doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A session, if there is one at the moment.
#[derive(Default)]
pub(super) struct Seat {
    current: Mutex<Option<Connection>>,
    /// When it may be tried again.
    connecting: tokio::sync::Mutex<Option<Instant>>,
    /// Starts in a row that failed, or that were followed by no answer.
    failures: AtomicU32,
}

impl Seat {
    /// Gives up a connection, unless there is another by now.
    pub(super) fn clear(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|connection| connection.generation == generation) {
            self.retire(&mut current);
        }
    }

    /// Takes leave of a connection. One that was of use did not fail, however it ended: a server may hang up.
    fn retire(&self, current: &mut Option<Connection>) {
        if current.take().is_some_and(|connection| connection.was_of_use()) {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn connected(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| connection.alive()).cloned()
    }
}

/// One start. Whoever wanted it may go away before it is over, as a client does that ends its session at once: then
/// the server did not fail.
struct Attempt<'a> {
    failures: &'a AtomicU32,
    before: u32,
    over: bool,
}

impl<'a> Attempt<'a> {
    fn of(failures: &'a AtomicU32) -> Self {
        Self { failures, before: failures.fetch_add(1, Ordering::Relaxed), over: false }
    }

    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Starts of a seat come one after the other.
            self.failures.store(self.before, Ordering::Relaxed);
        }
    }
}

impl ToolServerClient {
    /// The connection of a seat, made if there is none.
    pub(super) async fn connect_to(&self, seat: &Seat, peer: Peer) -> Result<Connection, UpstreamError> {
        match seat.connected() {
            Some(connection) => Ok(connection),
            // Seldom: in a box it takes no room in every call.
            None => Box::pin(self.establish(seat, peer)).await,
        }
    }

    async fn establish(&self, seat: &Seat, peer: Peer) -> Result<Connection, UpstreamError> {
        let mut not_before = seat.connecting.lock().await;
        if let Some(connection) = seat.connected() {
            return Ok(connection);
        }
        seat.retire(&mut seat.current.lock().unwrap_or_else(PoisonError::into_inner));
        let failed = seat.failures.load(Ordering::Relaxed) > 0;
        let wait = not_before.and_then(|at| at.checked_duration_since(Instant::now()));
        if let Some(wait) = wait.filter(|_| failed) {
            return Err(UpstreamError::Resting { server: self.name.clone(), wait });
        }
        // Counted before the attempt and cleared when the connection was of use, so that a server which starts well
        // and dies at once is not started without end.
        let attempt = Attempt::of(&seat.failures);
        let failures = attempt.before.min(10);
        if failures > 0 {
            *not_before = Some(Instant::now() + BACKOFF_FIRST.saturating_mul(1 << (failures - 1)).min(BACKOFF_MAX));
        }
        let started = tokio::time::timeout(self.timeouts.start, self.start(peer)).await;
        attempt.over();
        let (link, offers) = match started.unwrap_or_else(|_| Err(self.timed_out(self.timeouts.start))) {
            Ok(started) => started,
            Err(error) => {
                let wait = BACKOFF_FIRST.saturating_mul(1 << failures).min(BACKOFF_MAX);
                *not_before = Some(Instant::now() + wait);
                tracing::warn!(server = %self.name, %error, "tool server not started");
                return Err(error);
            }
        };
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let greeted = link.answers();
        let connection = Connection { generation, link, offers, level: Arc::default(), own: peer.own(), greeted };
        *seat.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }
}
