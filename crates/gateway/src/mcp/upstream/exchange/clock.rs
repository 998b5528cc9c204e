//! How long an exchange may take: silence is bounded, a person who is asked has time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// An exchange lasts at most so many times the limit for silence.
const PATIENCE: u32 = 10;
/// How long one request of the server may stay open: a person may have to answer it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(600);

/// How long an exchange may still take.
pub(super) struct Clock {
    pub(super) silence: Duration,
    pub(super) silent_until: Instant,
    end: Instant,
    /// The server waits, or waited when this was looked at last.
    asked: bool,
    asks: Option<Arc<OpenAsks>>,
}

/// Requests of the server that nobody has answered yet.
#[derive(Debug, Default)]
struct OpenAsks {
    open: AtomicUsize,
    answered: Notify,
}

/// One of them.
#[derive(Debug)]
pub(in crate::mcp::upstream) struct OpenAsk(Arc<OpenAsks>);

impl Drop for OpenAsk {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.answered.notify_one();
    }
}

impl Clock {
    pub(super) fn begin(silence: Duration) -> Self {
        let now = Instant::now();
        Self {
            silence,
            silent_until: now + silence,
            end: now + silence.saturating_mul(PATIENCE),
            asked: false,
            asks: None,
        }
    }

    /// The server showed that it is at work.
    pub(super) fn heard(&mut self) {
        let patience = if self.waits() { ANSWERED_WITHIN } else { self.silence };
        self.silent_until = Instant::now() + patience;
    }

    /// From the answer on, the server's time counts again.
    pub(super) fn settle(&mut self) {
        if self.asked && !self.waits() {
            self.asked = false;
            self.heard();
        }
    }

    pub(super) fn ask(&mut self) -> OpenAsk {
        let asks = self.asks.get_or_insert_default();
        asks.open.fetch_add(1, Ordering::AcqRel);
        self.asked = true;
        self.silent_until = Instant::now() + ANSWERED_WITHIN;
        // Whoever is asked has time, and the server has its own after that.
        self.end = self.end.max(self.silent_until + self.silence);
        OpenAsk(Arc::clone(asks))
    }

    fn waits(&self) -> bool {
        self.asks.as_ref().is_some_and(|asks| asks.open.load(Ordering::Acquire) > 0)
    }

    pub(super) fn until(&self) -> Instant {
        self.silent_until.min(self.end)
    }

    /// When the last open request of the server has been answered.
    pub(super) async fn answered(&self) {
        let Some(asks) = self.asks.as_ref().filter(|_| self.waits()) else { return std::future::pending().await };
        loop {
            asks.answered.notified().await;
            if !self.waits() {
                return;
            }
        }
    }
}
