//! A stream of events towards an agent: what waits in it is bounded, and the newest of it can be had again.
//!
//! Whoever writes waits for a reader that is slow. One that went away is not waited for: in the era with sessions it
//! may come back and ask for what it missed, so questions and results are kept for a while and notices as far as there
//! is room for them; in the stateless era its leaving ends the request.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use cogward_model::limits::STREAM_WAITING_BYTES_MAX;
use http::{HeaderName, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::{
    body::{AgentBody, BrokenStream},
    rooms::Held,
    run::RunContext,
};

/// How often an open stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client is told to wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 1_000;
/// Events that are kept for a client that comes back.
const KEPT_MAX: usize = 256;

/// Room for a message that is longer than what a stream may hold anyway.
pub(super) async fn room(run: &RunContext, length: usize) -> Option<Held> {
    if length <= STREAM_WAITING_BYTES_MAX {
        return None;
    }
    run.answers.take(length).await
}

/// A stream that is written to on one side and read on the other.
#[derive(Debug)]
pub(super) struct EventLog {
    /// Its number, where its events have ids.
    number: Option<u64>,
    state: Mutex<State>,
    /// There is room again, or the reader left.
    read: Notify,
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Bytes>,
    /// The place of the first event that is still there.
    first: u64,
    /// The place that is read next.
    next: u64,
    /// Bytes that are not read.
    waiting: usize,
    /// Bytes that are read and kept.
    kept: usize,
    ended: bool,
    /// Counts the readers: only the last one reads.
    reader: u64,
    /// The last reader that is let go when it has read what is there.
    parted: u64,
    attached: bool,
    waker: Option<Waker>,
}

/// What becomes of an event that finds no room and no reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// It is dropped.
    Notice,
    /// It is kept.
    Needed,
}

impl EventLog {
    /// A stream whose events cannot be had again.
    pub(super) fn passing(place: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self { number: None, state: Mutex::default(), read: Notify::new(), _place: place })
    }

    /// A stream whose events have ids.
    pub(super) fn numbered(number: u64, place: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self { number: Some(number), state: Mutex::default(), read: Notify::new(), _place: place })
    }

    /// Says where a client that is cut off can go on, before there is anything to say.
    pub(super) fn prime(&self) {
        let Some(number) = self.number else { return };
        let mut state = self.state();
        let place = state.end();
        state.push(format!("id: {number}-{place}\nretry: {RETRY_MS}\ndata: \n\n").into());
    }

    /// Writes a message when there is room for it, with the room that it takes elsewhere. False when nobody will ever read it.
    pub(super) async fn write(&self, message: &[u8], weight: Weight, mut room: Option<Held>) -> bool {
        loop {
            let read = self.read.notified();
            {
                let mut state = self.state();
                if state.ended {
                    return false;
                }
                let full = state.waiting > 0 && state.waiting + message.len() > STREAM_WAITING_BYTES_MAX;
                let crowded = state.events.len() > KEPT_MAX && state.unread() > KEPT_MAX as u64;
                match (full || crowded, state.attached, weight) {
                    (false, ..) | (true, false, Weight::Needed) => {
                        let event = Held::bind(room.take(), self.event(&state, message).into());
                        state.push(event);
                        return true;
                    }
                    (true, false, Weight::Notice) => return false,
                    (true, true, _) => {}
                }
            }
            read.await;
        }
    }

    /// Writes a notice if there is room for it now.
    pub(super) fn try_write(&self, message: &[u8]) -> bool {
        let mut state = self.state();
        let full = state.waiting + message.len() > STREAM_WAITING_BYTES_MAX || state.unread() > KEPT_MAX as u64;
        if state.ended || full {
            return false;
        }
        let event = self.event(&state, message);
        state.push(event.into());
        true
    }

    /// Writes the last message, with the room that it takes, and ends the stream.
    pub(super) fn finish(&self, message: &[u8], room: Option<Held>) {
        let mut state = self.state();
        if !state.ended {
            let event = Held::bind(room, self.event(&state, message).into());
            state.push(event);
        }
        state.end_now();
    }

    /// Ends the stream without a last message.
    pub(super) fn end(&self) {
        self.state().end_now();
        self.read.notify_waiters();
    }

    /// Lets the reader go when it has read what is there. It comes back for the rest.
    pub(super) fn part(&self) {
        let mut state = self.state();
        state.parted = state.reader;
        state.waker.take().into_iter().for_each(Waker::wake);
    }

    /// When everything that will ever be written has been read.
    pub(super) async fn drained(&self) {
        loop {
            let read = self.read.notified();
            {
                let state = self.state();
                if state.ended && state.unread() == 0 {
                    return;
                }
            }
            read.await;
        }
    }

    /// When nobody reads it any more.
    pub(super) async fn left(&self) {
        loop {
            let read = self.read.notified();
            {
                let state = self.state();
                if !state.attached && state.reader > 0 {
                    return;
                }
            }
            read.await;
        }
    }

    /// Reads it from where it is read next, or after an event that was the last that came through. A reader before
    /// this one reads no more.
    pub(super) fn body(self: &Arc<Self>, after: Option<u64>) -> Response<AgentBody> {
        let generation = {
            let mut state = self.state();
            if let Some(after) = after {
                state.go_back(after.saturating_add(1));
            }
            state.reader += 1;
            state.attached = true;
            state.waker.take().into_iter().for_each(Waker::wake);
            state.reader
        };
        let mut pulse = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let body = Reading { log: Arc::clone(self), generation, pulse };
        let mut response = Response::new(body.boxed());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        response
    }

    fn event(&self, state: &State, message: &[u8]) -> Vec<u8> {
        let mut event = Vec::with_capacity(message.len() + 40);
        if let Some(number) = self.number {
            event.extend_from_slice(format!("id: {number}-{}\n", state.end()).as_bytes());
        }
        event.extend_from_slice(b"data: ");
        // Line breaks can only stand between the tokens of a message, where a blank is the same.
        event.extend(message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        event.extend_from_slice(b"\n\n");
        event
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The place after the last event.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn unread(&self) -> u64 {
        self.end().saturating_sub(self.next)
    }

    fn push(&mut self, event: Bytes) {
        self.waiting += event.len();
        self.events.push_back(event);
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn end_now(&mut self) {
        self.ended = true;
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn take(&mut self, keep: bool) -> Option<Bytes> {
        let event =
            usize::try_from(self.next.checked_sub(self.first)?).ok().and_then(|at| self.events.get(at))?.clone();
        self.next += 1;
        self.waiting = self.waiting.saturating_sub(event.len());
        self.kept += event.len();
        let most = if keep { STREAM_WAITING_BYTES_MAX } else { 0 };
        while self.first < self.next && (self.kept > most || self.events.len() > KEPT_MAX) {
            self.first += 1;
            self.kept -= self.events.pop_front().map_or(0, |oldest| oldest.len()).min(self.kept);
        }
        Some(event)
    }

    /// Reads again from a place, as far as it is still there.
    fn go_back(&mut self, place: u64) {
        let place = place.clamp(self.first, self.end());
        let (from, to) = (self.next.min(place), self.next.max(place));
        let at = |place: u64| usize::try_from(place - self.first).unwrap_or(usize::MAX);
        let bytes: usize = self.events.iter().take(at(to)).skip(at(from)).map(Bytes::len).sum();
        if place < self.next {
            self.waiting += bytes;
            self.kept = self.kept.saturating_sub(bytes);
        } else {
            self.waiting = self.waiting.saturating_sub(bytes);
            self.kept += bytes;
        }
        self.next = place;
    }
}

/// One reader of a stream.
struct Reading {
    log: Arc<EventLog>,
    generation: u64,
    pulse: Interval,
}

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = BrokenStream;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenStream>>> {
        {
            let mut state = self.log.state();
            if state.reader != self.generation {
                return Poll::Ready(None);
            }
            if let Some(event) = state.take(self.log.number.is_some()) {
                drop(state);
                self.log.read.notify_waiters();
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if state.ended || state.parted == self.generation {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
        }
        self.pulse.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.log.state();
        if state.reader == self.generation {
            state.attached = false;
            state.waker = None;
        }
        drop(state);
        self.log.read.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
