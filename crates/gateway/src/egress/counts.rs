//! What a connection has carried, and what it still may.
//!
//! How much a connection will carry nobody knows when it is opened. Where a budget limits the bytes, they are reserved
//! in instalments, each of them decided and recorded before a byte of it is forwarded, and what of the last is not used
//! is given back at the end. Where no budget does, they are only counted.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use cogward_model::{
    action::{Action, Amounts, Outcome},
    limits::{EGRESS_INSTALMENT_BYTES_MAX, EGRESS_INSTALMENT_BYTES_MIN},
};
use http_body::Frame;

use super::Connect;
use crate::{
    Inner,
    body::BrokenStream,
    gate::{Admitted, Call, First, Governed},
    run::RunContext,
};

/// What is asked for when a connection is opened.
pub(super) fn first(limited: bool) -> Amounts {
    let egress_bytes = if limited { EGRESS_INSTALMENT_BYTES_MIN } else { 0 };
    Amounts { egress_bytes, ..unused() }
}

/// What a connection uses up that carried nothing.
pub(super) fn unused() -> Amounts {
    Amounts { connections: 1, ..Amounts::default() }
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent.
    Up,
    /// To the agent.
    Down,
}

/// No more bytes are allowed. The refusal is recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct Spent;

/// Bytes that went through; also right when the connection ended in the middle.
#[derive(Default)]
pub struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    allowance: Option<Allowance>,
}

/// The bytes of a connection that a budget limits.
struct Allowance {
    inner: Arc<Inner>,
    run: Arc<RunContext>,
    first: First,
    first_bytes: u64,
    action: Action,
    /// Reserved and not yet forwarded.
    left: AtomicU64,
    closed: AtomicBool,
    /// The instalment after the first; what is left belongs to the last of them.
    current: Mutex<Option<Admitted<More>>>,
    /// One direction asks for the next while the other waits for the same. Its size.
    asking: tokio::sync::Mutex<u64>,
}

/// More bytes on a connection that is open.
struct More(Action);

impl Governed for More {
    fn action(&self) -> Action {
        self.0.clone()
    }
}

impl Counts {
    /// Of an admitted connection.
    pub(super) fn of(inner: &Arc<Inner>, admitted: &Admitted<Connect>) -> Self {
        let run = Arc::clone(admitted.run());
        let first_bytes = admitted.reserved().egress_bytes;
        let allowance = inner.gate.limits_egress_bytes(&run).then(|| Allowance {
            inner: Arc::clone(inner),
            run,
            first: admitted.first(),
            first_bytes,
            action: admitted.action().clone(),
            left: AtomicU64::new(first_bytes),
            closed: AtomicBool::new(false),
            current: Mutex::default(),
            asking: tokio::sync::Mutex::new(EGRESS_INSTALMENT_BYTES_MIN),
        });
        Self { up: AtomicU64::new(0), down: AtomicU64::new(0), allowance }
    }

    /// Bytes from the agent.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes to the agent.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Counts what was forwarded.
    pub fn moved(&self, way: Way, bytes: usize) {
        let count = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        count.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes leave to forward up to `bytes`; says how many of them, at least one.
    ///
    /// # Errors
    /// [`Spent`] when the budget has no more.
    pub async fn take(&self, bytes: usize) -> Result<usize, Spent> {
        match self.try_take(bytes) {
            Some(allowed) => Ok(allowed),
            None => match &self.allowance {
                Some(allowance) => allowance.next(bytes).await,
                None => Ok(bytes),
            },
        }
    }

    /// Takes leave to forward all of `bytes`, which cannot go in parts, and counts them.
    ///
    /// # Errors
    /// [`Spent`] when the budget does not reach for all; what it had is used up.
    pub async fn take_whole(&self, way: Way, bytes: usize) -> Result<(), Spent> {
        let mut rest = bytes;
        while rest > 0 {
            rest = rest.saturating_sub(self.take(rest).await?);
        }
        self.moved(way, bytes);
        Ok(())
    }

    fn try_take(&self, bytes: usize) -> Option<usize> {
        match &self.allowance {
            Some(allowance) => allowance.try_take(bytes),
            None => Some(bytes),
        }
    }

    /// Ends the connection's account: settles what was asked for after its first instalment, and says what the
    /// connection used up with the first. What comes later is refused.
    pub(super) fn close(&self) -> Amounts {
        let egress_bytes = match &self.allowance {
            Some(allowance) => allowance.close(),
            None => self.up().saturating_add(self.down()),
        };
        Amounts { egress_bytes, ..unused() }
    }
}

impl Allowance {
    fn try_take(&self, bytes: usize) -> Option<usize> {
        let asked = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left > 0).then(|| left.saturating_sub(asked)));
        before.ok().map(|left| usize::try_from(left.min(asked)).unwrap_or(bytes))
    }

    async fn next(&self, bytes: usize) -> Result<usize, Spent> {
        let mut size = self.asking.lock().await;
        loop {
            // The other direction may have asked meanwhile.
            if let Some(allowed) = self.try_take(bytes) {
                return Ok(allowed);
            }
            if self.closed.load(Ordering::Acquire) {
                return Err(Spent);
            }
            // The one before is used up to its last byte.
            settle(self.replace(None), 0);
            let worst = Amounts { egress_bytes: *size, ..Amounts::default() };
            let call = Call { target: More(self.action.clone()), worst, objection: None, fields: Vec::new() };
            let more = self.inner.gate.admit_more(&self.run, self.first, call).await.map_err(|_| Spent)?;
            let granted = more.reserved().egress_bytes;
            *size = size.saturating_mul(2).min(EGRESS_INSTALMENT_BYTES_MAX);
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::Acquire) {
                drop(current);
                settle(Some(more), granted);
                return Err(Spent);
            }
            *current = Some(more);
            self.left.store(granted, Ordering::Release);
        }
    }

    fn replace(&self, next: Option<Admitted<More>>) -> Option<Admitted<More>> {
        std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    /// Bytes of the first instalment that were used.
    fn close(&self) -> u64 {
        let (last, left) = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            self.closed.store(true, Ordering::Release);
            (current.take(), self.left.swap(0, Ordering::AcqRel))
        };
        match last {
            Some(last) => {
                settle(Some(last), left);
                self.first_bytes
            }
            None => self.first_bytes.saturating_sub(left),
        }
    }
}

fn settle(instalment: Option<Admitted<More>>, left: u64) {
    let Some(instalment) = instalment else { return };
    let reserved = instalment.reserved();
    let used = Amounts { egress_bytes: reserved.egress_bytes.saturating_sub(left), ..Amounts::default() };
    instalment.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
}

type Asking = Pin<Box<dyn Future<Output = Result<usize, Spent>> + Send>>;

/// Data of a body that goes on as far as it is allowed.
pub(super) struct Allowed {
    counts: Arc<Counts>,
    way: Way,
    rest: Bytes,
    // A body must be shareable between threads, what it waits for need not be: only `&mut` reaches it.
    asking: Mutex<Option<Asking>>,
}

impl Allowed {
    pub(super) fn new(counts: Arc<Counts>, way: Way) -> Self {
        Self { counts, way, rest: Bytes::new(), asking: Mutex::default() }
    }

    /// Whether there is data that has not gone on yet.
    pub(super) fn waits(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Data behind what is there, which is nothing.
    pub(super) fn put(&mut self, data: Bytes) {
        self.rest = data;
    }

    /// The next of it that may go on.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BrokenStream>> {
        let asking = self.asking.get_mut().unwrap_or_else(PoisonError::into_inner);
        let at_once = if asking.is_none() { self.counts.try_take(self.rest.len()) } else { None };
        let allowed = match at_once {
            Some(allowed) => Ok(allowed),
            None => {
                let future = asking.get_or_insert_with(|| {
                    let (counts, bytes) = (Arc::clone(&self.counts), self.rest.len());
                    Box::pin(async move { counts.take(bytes).await })
                });
                let Poll::Ready(allowed) = future.as_mut().poll(cx) else { return Poll::Pending };
                *asking = None;
                allowed
            }
        };
        let Ok(allowed) = allowed else {
            self.rest = Bytes::new();
            return Poll::Ready(Err(BrokenStream(super::plain::SPENT.to_owned())));
        };
        let now = self.rest.split_to(allowed.min(self.rest.len()));
        self.counts.moved(self.way, now.len());
        Poll::Ready(Ok(Frame::data(now)))
    }
}

#[cfg(test)]
mod tests;
