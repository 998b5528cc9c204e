//! What one run has at its MCP endpoint: sessions of the older era, the names that its tools are shown under, the
//! lists that were served last, and what of its requests is not over yet.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cogward_model::{Digest, Entropy, RunId, SystemEntropy, UpstreamName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    can,
    endpoint::WITH_SESSIONS,
    listing::{Names, Served},
    quiet::Quiet,
    state::States,
    stream::EventLog,
    upstream::exchange::{ClientCan, LogLevel},
};
use crate::{gate::First, grant::RunGrant};

/// Ended sessions that are remembered; a client that goes on with an older one does itself no good.
const ENDED_MAX: usize = 64;
/// Sessions of which the plane holds something. Of one that holds nothing, nothing is lost.
const LIVE_MAX: usize = 256;
/// Streams that a run may have open at once.
const STREAMS_MAX: usize = 64;
/// Questions to the client of one session that wait for an answer.
const QUESTIONS_MAX: usize = 64;
/// Requests of one session that can be called off.
const CALLS_MAX: usize = 256;
/// Resources that one session may watch.
const WATCHED_MAX: usize = 256;
/// Tasks of a run that it may ask about; of the oldest it hears no more.
const TASKS_MAX: usize = 1_024;

/// The MCP side of a run.
#[derive(Debug)]
pub(crate) struct RunMcp {
    ended: Mutex<VecDeque<u128>>,
    live: Mutex<HashMap<u128, Arc<Session>>>,
    names: OnceLock<Names>,
    served: Mutex<Option<Arc<Served>>>,
    shown: Mutex<BTreeMap<&'static str, (Digest, Bytes)>>,
    tasks: Mutex<VecDeque<(String, TaskOwner)>>,
    streams: Arc<Semaphore>,
    pub(super) states: States,
    pub(super) quiet: Quiet,
    pub(super) serving: tokio::sync::Mutex<()>,
}

impl Default for RunMcp {
    fn default() -> Self {
        Self {
            ended: Mutex::default(),
            live: Mutex::default(),
            names: OnceLock::new(),
            served: Mutex::default(),
            shown: Mutex::default(),
            tasks: Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            states: States::default(),
            quiet: Quiet::default(),
            serving: tokio::sync::Mutex::default(),
        }
    }
}

/// Whose a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskOwner {
    pub(super) server: UpstreamName,
    /// The tool that began it.
    pub(super) tool: String,
    /// That call.
    pub(super) call: First,
}

/// What a client said when it opened a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The revision that is spoken.
    pub(super) revision: &'static str,
    /// What the client can be asked.
    pub(super) can: ClientCan,
}

/// What a client answered to a question: a result, or an error.
pub(super) type Answered = Result<Bytes, (i64, String)>;

/// A session, as far as there is something to hold of it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) agreed: Agreed,
    next: AtomicU64,
    held: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    level: Option<LogLevel>,
    questions: HashMap<u64, oneshot::Sender<Answered>>,
    calls: HashMap<String, CancellationToken>,
    streams: BTreeMap<u64, Arc<EventLog>>,
    watched: BTreeMap<String, DropGuard>,
    standing: Option<Arc<EventLog>>,
}

impl RunMcp {
    /// A new session. Its id carries what there is to know of it, so that a run that outlives its plane keeps its
    /// sessions: no client of today begins anew by itself. It says nothing about who its holder is, which is known
    /// from the listener, and is of no use in another run.
    pub(super) fn open_session(&self, run: RunId, agreed: Agreed) -> String {
        let mut random = [0_u8; 16];
        SystemEntropy.fill(&mut random);
        let random = u128::from_be_bytes(random);
        format!("{random:032x}{:02x}{:016x}", can::bits(agreed.can), check(run, agreed, random))
    }

    /// What was agreed on in a session of this run.
    pub(super) fn agreed(&self, run: RunId, id: &str) -> Option<(u128, Agreed)> {
        if !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) || id.len() != 50 {
            return None;
        }
        let (random, rest) = id.split_at_checked(32)?;
        let (can, given) = rest.split_at_checked(2)?;
        let (random, given) = (u128::from_str_radix(random, 16).ok()?, u64::from_str_radix(given, 16).ok()?);
        let can = can::from_bits(u8::from_str_radix(can, 16).ok()?);
        let mut all = WITH_SESSIONS.into_iter().map(|revision| Agreed { revision, can });
        let agreed = all.find(|agreed| check(run, *agreed, random) == given)?;
        (!self.ended().contains(&random)).then_some((random, agreed))
    }

    /// A session of this run, with what is held of it. `None` when there is none, or too much is held of others.
    pub(super) fn session(&self, run: RunId, id: &str) -> Option<Arc<Session>> {
        let (random, agreed) = self.agreed(run, id)?;
        let mut live = self.live();
        if let Some(session) = live.get(&random) {
            return Some(Arc::clone(session));
        }
        if live.len() >= LIVE_MAX {
            live.retain(|_, session| Arc::strong_count(session) > 1 || session.holds());
        }
        let session = Arc::new(Session { agreed, next: AtomicU64::new(1), held: Mutex::default() });
        if live.len() < LIVE_MAX {
            live.insert(random, Arc::clone(&session));
        }
        Some(session)
    }

    /// Ends a session, and what is under way in it. False when this run has no such session.
    pub(super) fn end_session(&self, run: RunId, id: &str) -> bool {
        let Some((random, _)) = self.agreed(run, id) else { return false };
        {
            let mut ended = self.ended();
            if ended.len() >= ENDED_MAX {
                ended.pop_front();
            }
            ended.push_back(random);
        }
        if let Some(session) = self.live().remove(&random) {
            session.end();
        }
        true
    }

    /// A place for a stream, if there is one left.
    pub(super) fn stream_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// The names of the granted tools.
    pub(super) fn names(&self, grant: &RunGrant) -> &Names {
        self.names.get_or_init(|| Names::of(grant.tools()))
    }

    /// The list that was served last.
    pub(super) fn served(&self) -> Option<Arc<Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_served(&self, served: Arc<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some(served);
    }

    /// The list of some kind that was shown last, if it came from the same sources.
    pub(super) fn shown(&self, kind: &str, sources: Digest) -> Option<Bytes> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(kind).filter(|(known, _)| *known == sources).map(|(_, list)| list.clone())
    }

    pub(super) fn set_shown(&self, kind: &'static str, sources: Digest, list: Bytes) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, (sources, list));
    }

    /// Keeps whose task an id is. False when the run has a task of that name from elsewhere.
    pub(super) fn own_task(&self, task: &str, owner: TaskOwner) -> bool {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        match tasks.iter().find(|(known, _)| known == task) {
            Some((_, known)) => *known == owner,
            None => {
                if tasks.len() >= TASKS_MAX {
                    tasks.pop_front();
                }
                tasks.push_back((task.to_owned(), owner));
                true
            }
        }
    }

    /// Whose a task of this run is.
    pub(super) fn task_owner(&self, task: &str) -> Option<TaskOwner> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().find(|(known, _)| known == task).map(|(_, owner)| owner.clone())
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, VecDeque<u128>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<u128, Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn holds(&self) -> bool {
        let kept = self.kept();
        kept.level.is_some()
            || kept.standing.is_some()
            || !(kept.questions.is_empty()
                && kept.calls.is_empty()
                && kept.streams.is_empty()
                && kept.watched.is_empty())
    }

    fn end(&self) {
        let kept = std::mem::take(&mut *self.kept());
        kept.calls.into_values().for_each(|call| call.cancel());
        kept.streams.into_values().chain(kept.standing).for_each(|stream| stream.end());
    }

    /// How much the client wants to hear.
    pub(super) fn level(&self) -> Option<LogLevel> {
        self.kept().level
    }

    pub(super) fn set_level(&self, level: LogLevel) {
        self.kept().level = Some(level);
    }

    /// A question to the client: the number that it is sent under, and where the answer comes.
    pub(super) fn question(&self) -> Option<(u64, oneshot::Receiver<Answered>)> {
        let (sender, answer) = oneshot::channel();
        let number = self.number();
        let mut kept = self.kept();
        kept.questions.retain(|_, question| !question.is_closed());
        if kept.questions.len() >= QUESTIONS_MAX {
            return None;
        }
        kept.questions.insert(number, sender);
        Some((number, answer))
    }

    /// The client answers. Each question is answered once; of another session there is none here.
    pub(super) fn answer(&self, number: u64, answered: Answered) -> bool {
        let question = self.kept().questions.remove(&number);
        question.is_some_and(|question| question.send(answered).is_ok())
    }

    /// Makes a request known under its id, so that the client can call it off.
    pub(super) fn begin(&self, id: &str) -> Option<CancellationToken> {
        let mut kept = self.kept();
        if kept.calls.len() >= CALLS_MAX {
            return None;
        }
        let token = CancellationToken::new();
        kept.calls.insert(id.to_owned(), token.clone());
        Some(token)
    }

    /// It is over.
    pub(super) fn over(&self, id: &str) {
        self.kept().calls.remove(id);
    }

    /// The client calls a request off.
    pub(super) fn call_off(&self, id: &str) {
        if let Some(token) = self.kept().calls.remove(id) {
            token.cancel();
        }
    }

    /// A new stream whose events can be had again, as long as it is kept here.
    pub(super) fn open_stream(&self, place: OwnedSemaphorePermit) -> (u64, Arc<EventLog>) {
        let number = self.number();
        let stream = EventLog::numbered(number, Some(place));
        self.kept().streams.insert(number, Arc::clone(&stream));
        (number, stream)
    }

    pub(super) fn close_stream(&self, number: u64) {
        self.kept().streams.remove(&number);
    }

    /// The stream that an event was of, and the event's place in it.
    pub(super) fn stream_after(&self, event: &str) -> Option<(Arc<EventLog>, u64)> {
        let (number, place) = event.split_once('-')?;
        let stream = Arc::clone(self.kept().streams.get(&number.parse().ok()?)?);
        Some((stream, place.parse().ok()?))
    }

    /// The stream for what belongs to no request. There is one; the one before it ends.
    pub(super) fn stand(&self, place: OwnedSemaphorePermit) -> Arc<EventLog> {
        let stream = EventLog::numbered(self.number(), Some(place));
        let before = self.kept().standing.replace(Arc::clone(&stream));
        if let Some(before) = before {
            before.end();
        }
        stream
    }

    /// The stream for what belongs to no request, if the client listens.
    pub(super) fn standing(&self) -> Option<Arc<EventLog>> {
        self.kept().standing.clone()
    }

    /// Nobody listens any more.
    pub(super) fn stands_no_more(&self, stream: &Arc<EventLog>) {
        let mut kept = self.kept();
        if kept.standing.as_ref().is_some_and(|standing| Arc::ptr_eq(standing, stream)) {
            kept.standing = None;
        }
    }

    /// Keeps a watch on a resource. False when there are too many.
    pub(super) fn watch(&self, uri: &str, watch: DropGuard) -> bool {
        let mut kept = self.kept();
        if kept.watched.len() >= WATCHED_MAX && !kept.watched.contains_key(uri) {
            return false;
        }
        kept.watched.insert(uri.to_owned(), watch);
        true
    }

    /// Gives a watch up.
    pub(super) fn unwatch(&self, uri: &str) {
        self.kept().watched.remove(uri);
    }
}

/// Ties an id to its run and to what was agreed on. No secret: a session has no power that its run does not have
/// without it.
fn check(run: RunId, agreed: Agreed, random: u128) -> u64 {
    let text = format!("{run} {} {} {random:032x}", agreed.revision, can::bits(agreed.can));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock};

    use super::*;

    fn of(revision: &'static str) -> Agreed {
        Agreed { revision, can: ClientCan::ROOTS }
    }

    #[test]
    fn a_session_outlives_its_plane_ends_once_and_is_nobody_elses() {
        let (one, two) = (Id::new(&SystemClock, &SystemEntropy), Id::new(&SystemClock, &SystemEntropy));
        let plane = RunMcp::default();
        let ids: Vec<String> = WITH_SESSIONS.iter().map(|revision| plane.open_session(one, of(revision))).collect();
        let next = RunMcp::default();
        let agreed = |run, id: &str| next.agreed(run, id).map(|(_, agreed)| agreed);
        for (id, revision) in ids.iter().zip(WITH_SESSIONS) {
            assert_eq!((agreed(one, id), agreed(two, id)), (Some(of(revision)), None));
        }
        let first = ids.first().unwrap();
        assert!(next.end_session(one, first) && !next.end_session(one, first));
        assert_eq!(agreed(one, first), None);
        let second = &ids[1];
        let more_capable = format!("{}{}{}", &second[..32], "3f", &second[34..]);
        for forged in [
            "",
            "x",
            &second[..49],
            &format!("{second}0"),
            &second.to_uppercase(),
            &"0".repeat(50),
            &"é".repeat(25),
            &more_capable,
        ] {
            assert_eq!(agreed(one, forged), None, "{forged}");
        }
        for _ in 0..2 * ENDED_MAX {
            assert!(next.end_session(one, &next.open_session(one, of(WITH_SESSIONS[0]))));
        }
        assert!(next.ended().len() <= ENDED_MAX);
    }

    #[test]
    fn what_is_held_of_sessions_is_bounded_and_idle_ones_are_forgotten_first() {
        let run = Id::new(&SystemClock, &SystemEntropy);
        let plane = RunMcp::default();
        let busy = plane.session(run, &plane.open_session(run, of(WITH_SESSIONS[0]))).unwrap();
        busy.set_level(LogLevel::Debug);
        for _ in 0..2 * LIVE_MAX {
            assert!(plane.session(run, &plane.open_session(run, of(WITH_SESSIONS[0]))).is_some());
        }
        assert!(plane.live().len() <= LIVE_MAX);
        drop(busy);
        assert!(plane.live().values().any(|session| session.level() == Some(LogLevel::Debug)));
    }

    #[test]
    fn a_question_is_answered_once_in_its_own_session() {
        let run = Id::new(&SystemClock, &SystemEntropy);
        let plane = RunMcp::default();
        let open = || plane.session(run, &plane.open_session(run, of(WITH_SESSIONS[0]))).unwrap();
        let (own, other) = (open(), open());
        let (number, mut answer) = own.question().unwrap();
        assert!(!other.answer(number, Ok(Bytes::from_static(b"{}"))));
        assert!(own.answer(number, Ok(Bytes::from_static(b"{}"))));
        assert!(!own.answer(number, Ok(Bytes::from_static(b"{\"forged\":true}"))));
        assert_eq!(answer.try_recv().unwrap(), Ok(Bytes::from_static(b"{}")));
        let open: Vec<_> = std::iter::from_fn(|| own.question()).take(2 * QUESTIONS_MAX).collect();
        assert_eq!(open.len(), QUESTIONS_MAX);
        drop(open);
        assert!(own.question().is_some(), "nobody waits for those any more");
    }

    #[test]
    fn a_task_belongs_to_the_server_that_named_it_first() {
        let plane = RunMcp::default();
        let call = First { decision: Id::new(&SystemClock, &SystemEntropy), approved: None };
        let of = |server: &str| TaskOwner { server: server.parse().unwrap(), tool: "slow".to_owned(), call };
        assert!(plane.own_task("t", of("one")) && plane.own_task("t", of("one")) && !plane.own_task("t", of("two")));
        assert_eq!((plane.task_owner("t"), plane.task_owner("x")), (Some(of("one")), None));
        (0..2 * TASKS_MAX).for_each(|n| assert!(plane.own_task(&n.to_string(), of("one"))));
        assert_eq!(plane.task_owner("t"), None);
    }
}
