//! Bodies of forwarded plain requests and answers: counted, bounded, and tied to the call they belong to.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use cogward_model::{
    action::{Amounts, Outcome},
    limits::{REQUEST_BODY_MS_MAX, REQUEST_BYTES_MAX},
};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Connect,
    host::HostPort,
    tunnel::{Counts, IDLE_MAX},
};
use crate::{
    body::BrokenStream,
    gate::{Admitted, public},
    run::RunContext,
};

/// Longest answer, in bytes. It is streamed, never held: the bound is against an endless one.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// One admitted request until it is settled. Dropped in the middle, its outcome is recorded as unknown.
pub(super) struct Account {
    admitted: Admitted<Connect>,
    counts: Arc<Counts>,
    peer: Option<SocketAddr>,
    status: Option<StatusCode>,
}

impl Account {
    pub(super) fn new(admitted: Admitted<Connect>, peer: Option<SocketAddr>) -> Self {
        Self { admitted, counts: Arc::default(), peer, status: None }
    }

    pub(super) fn target(&self) -> &HostPort {
        &self.admitted.target().target
    }

    pub(super) fn answered(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The whole answer went to the agent.
    fn completed(self) {
        let upstream_error = self.status.is_some_and(|s| s.is_client_error() || s.is_server_error());
        self.settle(&Outcome::Completed { used: Amounts::default(), estimated: false, upstream_error, result: None });
    }

    /// It ended in the middle.
    pub(super) fn broken(self, cause: &str) {
        self.settle(&Outcome::Broken { used: Amounts::default(), cause: cause.to_owned() });
    }

    fn settle(self, outcome: &Outcome) {
        let fields = vec![
            public("bytes_up", self.counts.up()),
            public("bytes_down", self.counts.down()),
            public("peer", self.peer.map(|peer| peer.to_string())),
            public("status", self.status.map(|status| u64::from(status.as_u16()))),
        ];
        self.admitted.settle_with(outcome, fields);
    }
}

/// The request's body, on its way up: bounded in size and in time altogether.
pub(super) struct RequestBody {
    inner: Incoming,
    counts: Arc<Counts>,
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, account: &Account) -> Self {
        Self {
            inner,
            counts: Arc::clone(&account.counts),
            left: REQUEST_BYTES_MAX,
            deadline: Box::pin(tokio::time::sleep(Duration::from_millis(REQUEST_BODY_MS_MAX))),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BrokenStream("the request body took too long".into()))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else { return Poll::Pending };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Buf::remaining);
                match self.left.checked_sub(size) {
                    Some(left) => {
                        self.left = left;
                        self.counts.add_up(size);
                        Some(Ok(frame))
                    }
                    None => {
                        Some(Err(BrokenStream(format!("the request body is longer than {REQUEST_BYTES_MAX} bytes"))))
                    }
                }
            }
            Some(Err(_)) => Some(Err(BrokenStream("the request body was broken off".into()))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The answer's body, on its way down. Its end settles the call.
pub(super) struct ResponseBody {
    inner: Incoming,
    // A body must be shareable between threads, an admitted call need not be: only `&mut` reaches it.
    account: Mutex<Option<Account>>,
    counts: Arc<Counts>,
    left: u64,
    idle: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming, account: Account, run: &RunContext) -> Self {
        Self {
            inner,
            counts: Arc::clone(&account.counts),
            account: Mutex::new(Some(account)),
            left: ANSWER_BYTES_MAX,
            idle: Box::pin(tokio::time::sleep(IDLE_MAX)),
            cut: Box::pin(run.cut_signal().clone().cancelled_owned()),
        }
    }

    fn take(&mut self) -> Option<Account> {
        self.account.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn break_off(&mut self, cause: &str) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        if let Some(account) = self.take() {
            account.broken(cause);
        }
        Poll::Ready(Some(Err(BrokenStream(cause.to_owned()))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return self.break_off("the run was stopped");
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Buf::remaining);
                let Some(left) = u64::try_from(size).ok().and_then(|size| self.left.checked_sub(size)) else {
                    return self.break_off("the answer is too long");
                };
                self.left = left;
                self.counts.add_down(size);
                self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.break_off("the upstream broke off"),
            Poll::Ready(None) => {
                if let Some(account) = self.take() {
                    account.completed();
                }
                Poll::Ready(None)
            }
            Poll::Pending if self.idle.as_mut().poll(cx).is_ready() => self.break_off("the upstream fell silent"),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let ended = self.inner.is_end_stream();
        match self.take() {
            Some(account) if ended => account.completed(),
            Some(account) => account.broken("the agent went away"),
            None => {}
        }
    }
}
