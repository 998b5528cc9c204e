//! What protects a tool server from its callers and callers from it: how many requests are under way at once,
//! what may be sent twice, and a breaker that spares a server which fails again and again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cogward_model::{UpstreamName, upstream::ToolServerLimits};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{UpstreamError, exchange::UpRequest};

/// Failures in a row that open the breaker, and how long it stays open, unless the operator says otherwise.
const FAILURES: u32 = 10;
const OPEN: Duration = Duration::from_secs(15);
/// How often something harmless is sent once more.
const RETRIES: u32 = 1;
/// Methods that change nothing at the server by their definition.
const HARMLESS: [&str; 9] = [
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "tasks/get",
];

/// The limits of one server.
#[derive(Debug)]
pub(super) struct Limits {
    places: Option<Arc<Semaphore>>,
    retries: u32,
    idempotent: BTreeSet<String>,
    breaker: Arc<Breaker>,
}

impl Limits {
    pub(super) fn new(limits: &ToolServerLimits) -> Self {
        let places = limits.concurrency.map(|most| usize::try_from(most.max(1)).unwrap_or(Semaphore::MAX_PERMITS));
        let places = places.map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))));
        let breaker = limits.breaker.as_ref();
        let open = breaker.map_or(OPEN, |breaker| Duration::from_secs(u64::from(breaker.open_seconds)));
        let failures = breaker.map_or(FAILURES, |breaker| breaker.failures);
        Self {
            places,
            retries: limits.retries.map_or(RETRIES, u32::from),
            idempotent: limits.idempotent.iter().map(ToString::to_string).collect(),
            breaker: Arc::new(Breaker { failures, open, state: Mutex::new(State::Closed { failures: 0 }) }),
        }
    }

    /// Further tools that may be called twice, by the nature of their requests.
    pub(super) fn also_idempotent(&mut self, tools: BTreeSet<String>) {
        self.idempotent.extend(tools);
    }

    /// How often a request may be sent once more. What a server says of its own tools is not asked.
    pub(super) fn retries(&self, request: &UpRequest<'_>) -> u32 {
        let marked = || request.name.is_some_and(|name| self.idempotent.contains(name));
        let may = HARMLESS.contains(&request.method) || (request.method == "tools/call" && marked());
        if may { self.retries } else { 0 }
    }

    /// A place for one request.
    pub(super) async fn enter(&self, server: &UpstreamName, until: Instant) -> Result<Pass, UpstreamError> {
        let probe = self.breaker.enter(server)?;
        let mut pass = Pass { _place: None, breaker: Arc::clone(&self.breaker), probe, told: false };
        if let Some(places) = &self.places {
            let place = tokio::time::timeout_at(until, Arc::clone(places).acquire_owned()).await;
            let Ok(Ok(place)) = place else { return Err(UpstreamError::Busy { server: server.clone() }) };
            pass._place = Some(place);
        }
        Ok(pass)
    }

    /// How the breaker stands.
    pub(super) fn breaker(&self) -> BreakerState {
        match &*self.breaker.state() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if *until > Instant::now() => BreakerState::Open,
            State::Open { .. } | State::HalfOpen => BreakerState::HalfOpen,
        }
    }
}

/// Whether a server is spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go to it.
    Closed,
    /// None does, for a while.
    Open,
    /// One may, and decides.
    HalfOpen,
}

impl BreakerState {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

#[derive(Debug)]
struct Breaker {
    failures: u32,
    open: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One request is under way that decides.
    HalfOpen,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request pass, and says whether it is the one that decides.
    fn enter(&self, server: &UpstreamName) -> Result<bool, UpstreamError> {
        let mut state = self.state();
        let wait = match &*state {
            State::Closed { .. } => return Ok(false),
            State::Open { until } => until.saturating_duration_since(Instant::now()),
            State::HalfOpen => self.open,
        };
        if wait.is_zero() {
            *state = State::HalfOpen;
            return Ok(true);
        }
        Err(UpstreamError::Resting { server: server.clone(), wait })
    }

    fn well(&self) {
        *self.state() = State::Closed { failures: 0 };
    }

    fn badly(&self, probe: bool) {
        let mut state = self.state();
        match &mut *state {
            State::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if self.failures > 0 && *failures >= self.failures {
                    *state = State::Open { until: Instant::now() + self.open };
                }
            }
            // Those that were under way when it opened change nothing.
            State::HalfOpen if probe => *state = State::Open { until: Instant::now() + self.open },
            State::HalfOpen | State::Open { .. } => {}
        }
    }

    /// The request that was to decide was given up: the next one decides.
    fn undecided(&self) {
        let mut state = self.state();
        if matches!(&*state, State::HalfOpen) {
            *state = State::Open { until: Instant::now() };
        }
    }
}

/// The place of one request, kept to its end.
#[derive(Debug)]
pub(super) struct Pass {
    _place: Option<OwnedSemaphorePermit>,
    breaker: Arc<Breaker>,
    probe: bool,
    told: bool,
}

impl Pass {
    /// The server answered.
    pub(super) fn well(mut self) {
        self.told = true;
        self.breaker.well();
    }

    /// It did not end well; whether that is the server's fault, the error says.
    pub(super) fn failed(mut self, error: UpstreamError) -> UpstreamError {
        match error.is_fault() {
            Some(true) => {
                self.told = true;
                self.breaker.badly(self.probe);
            }
            Some(false) => {
                self.told = true;
                self.breaker.well();
            }
            None => {}
        }
        error
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.breaker.undecided();
        }
    }
}

#[cfg(test)]
mod tests {
    use cogward_model::upstream::BreakerLimits;

    use super::*;

    fn limits(failures: u32) -> Limits {
        let breaker = Some(BreakerLimits { failures, open_seconds: 10 });
        Limits::new(&ToolServerLimits { breaker, concurrency: Some(1), ..ToolServerLimits::default() })
    }

    fn server() -> UpstreamName {
        "s".parse().unwrap()
    }

    fn broken() -> UpstreamError {
        UpstreamError::Unavailable { server: server(), cause: String::new(), sent: true }
    }

    async fn enter(limits: &Limits) -> Result<Pass, UpstreamError> {
        limits.enter(&server(), Instant::now() + Duration::from_millis(10)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_again_and_again_is_spared_until_one_request_went_well() {
        let limits = limits(3);
        for _ in 0..3 {
            assert_eq!(limits.breaker(), BreakerState::Closed);
            enter(&limits).await.unwrap().failed(broken());
        }
        assert_eq!(limits.breaker(), BreakerState::Open);
        assert!(matches!(enter(&limits).await, Err(UpstreamError::Resting { .. })));
        tokio::time::advance(Duration::from_secs(11)).await;
        let probe = enter(&limits).await.unwrap();
        assert_eq!(limits.breaker(), BreakerState::HalfOpen);
        assert!(matches!(enter(&limits).await, Err(UpstreamError::Resting { .. })), "only one decides");
        probe.failed(broken());
        assert_eq!(limits.breaker(), BreakerState::Open);
        tokio::time::advance(Duration::from_secs(11)).await;
        drop(enter(&limits).await.unwrap());
        enter(&limits).await.unwrap().well();
        assert_eq!(limits.breaker(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer_and_waiting_for_a_place_is_bounded() {
        let limits = limits(1);
        let rejected = UpstreamError::Rejected { server: server(), code: 1, message: String::new(), data: None };
        enter(&limits).await.unwrap().failed(rejected);
        assert_eq!(limits.breaker(), BreakerState::Closed);
        let first = enter(&limits).await.unwrap();
        assert!(matches!(enter(&limits).await, Err(UpstreamError::Busy { .. })));
        drop(first);
        assert!(enter(&limits).await.is_ok());
    }

    #[test]
    fn only_what_changes_nothing_or_is_marked_is_sent_twice() {
        let limits = Limits::new(&ToolServerLimits {
            idempotent: ["look_up".parse().unwrap()].into(),
            ..ToolServerLimits::default()
        });
        let call = |name| UpRequest { name: Some(name), ..UpRequest::plain("tools/call", b"{}") };
        assert_eq!(limits.retries(&call("look_up")), 1);
        assert_eq!(limits.retries(&call("pay")), 0);
        assert_eq!(limits.retries(&UpRequest::plain("resources/read", b"{}")), 1);
        assert_eq!(limits.retries(&UpRequest::plain("tasks/cancel", b"{}")), 0);
    }
}
