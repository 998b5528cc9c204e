//! Bodies of forwarded plain requests and answers: counted, bounded, and tied to the call they belong to.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cogward_model::{
    action::Outcome,
    limits::{REQUEST_BODY_MS_MAX, REQUEST_BYTES_MAX},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Connect,
    counts::{Allowed, Counts, Spent, Way},
    host::HostPort,
    tunnel::IDLE_MAX,
};
use crate::{
    Inner,
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
    pub(super) fn new(inner: &Arc<Inner>, admitted: Admitted<Connect>, peer: Option<SocketAddr>) -> Self {
        let counts = Arc::new(Counts::of(inner, &admitted));
        Self { admitted, counts, peer, status: None }
    }

    pub(super) fn target(&self) -> &HostPort {
        &self.admitted.target().target
    }

    /// Takes leave for the head of a request, as it goes out.
    pub(super) async fn request_head<B>(&self, request: &Request<B>) -> Result<(), Spent> {
        let path = request.uri().path_and_query().map_or(1, |path| path.as_str().len());
        let line = request.method().as_str().len() + path + LINE_BYTES;
        self.counts.take_whole(Way::Up, line + lengths(request.headers())).await
    }

    /// Takes leave for the head of an answer, as it came.
    pub(super) async fn answer_head<B>(&self, answer: &Response<B>) -> Result<(), Spent> {
        let line = answer.status().as_str().len() + LINE_BYTES;
        self.counts.take_whole(Way::Down, line + lengths(answer.headers())).await
    }

    pub(super) fn answered(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The whole answer went to the agent.
    fn completed(self) {
        let upstream_error = self.status.is_some_and(|s| s.is_client_error() || s.is_server_error());
        let used = self.counts.close();
        self.settle(&Outcome::Completed { used, estimated: false, upstream_error, result: None });
    }

    /// It ended in the middle.
    pub(super) fn broken(self, cause: &str) {
        let used = self.counts.close();
        self.settle(&Outcome::Broken { used, cause: cause.to_owned() });
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

/// What of the first line of a head, and of the empty one behind it, is not method, path or status.
const LINE_BYTES: usize = "  HTTP/1.1\r\n\r\n".len();

/// The bytes of headers, one on each line.
fn lengths(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// The request's body, on its way up: bounded in size and in time altogether.
pub(super) struct RequestBody {
    inner: Incoming,
    allowed: Allowed,
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, account: &Account) -> Self {
        Self {
            inner,
            allowed: Allowed::new(Arc::clone(&account.counts), Way::Up),
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
        if !self.allowed.waits() {
            let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else { return Poll::Pending };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Some(Err(BrokenStream("the request body was broken off".into())))),
                None => return Poll::Ready(None),
            };
            // Trailers go no further: nobody counts or watches them, and whoever reads a message may drop them.
            let Ok(data) = frame.into_data() else { return self.poll_frame(cx) };
            let Some(left) = self.left.checked_sub(data.len()) else {
                let why = format!("the request body is longer than {REQUEST_BYTES_MAX} bytes");
                return Poll::Ready(Some(Err(BrokenStream(why))));
            };
            self.left = left;
            self.allowed.put(data);
        }
        self.allowed.poll_next(cx).map(Some)
    }

    fn is_end_stream(&self) -> bool {
        !self.allowed.waits() && self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        if self.allowed.waits() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

/// The answer's body, on its way down. Its end settles the call.
pub(super) struct ResponseBody {
    inner: Incoming,
    // A body must be shareable between threads, an admitted call need not be: only `&mut` reaches it.
    account: Mutex<Option<Account>>,
    allowed: Allowed,
    left: u64,
    idle: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming, account: Account, run: &RunContext) -> Self {
        Self {
            inner,
            allowed: Allowed::new(Arc::clone(&account.counts), Way::Down),
            account: Mutex::new(Some(account)),
            left: ANSWER_BYTES_MAX,
            idle: Box::pin(tokio::time::sleep(IDLE_MAX)),
            cut: Box::pin(run.cut_signal().clone().cancelled_owned()),
        }
    }

    fn take(&mut self) -> Option<Account> {
        self.account.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        match self.allowed.poll_next(cx) {
            Poll::Ready(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Err(BrokenStream(why))) => self.break_off(&why),
            Poll::Pending => Poll::Pending,
        }
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
        if self.allowed.waits() {
            return self.poll_allowed(cx);
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                let Ok(data) = frame.into_data() else { return self.poll_frame(cx) };
                let Some(left) = u64::try_from(data.len()).ok().and_then(|size| self.left.checked_sub(size)) else {
                    return self.break_off("the answer is too long");
                };
                self.left = left;
                self.allowed.put(data);
                self.poll_allowed(cx)
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
        !self.allowed.waits() && self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        if self.allowed.waits() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let ended = self.is_end_stream();
        match self.take() {
            Some(account) if ended => account.completed(),
            Some(account) => account.broken("the agent went away"),
            None => {}
        }
    }
}
