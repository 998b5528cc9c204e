//! Request states: what a stateless client hands back when it answers what its request still needed.
//!
//! A state is sealed under a key that only this plane has, for one run, one request and a short time, and is taken
//! once. A tool server's own state travels inside it, so an agent sees neither that nor what it could change of it. A
//! state that was made before the plane was started again is refused, and the request begins anew.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_model::{Digest, Entropy, RunId, SystemEntropy};
use tokio::time::Instant;

use super::{relay::Resume, waits::Awaited};

/// How long a state is good: a person may have to be found.
pub(super) const STATE_AGE: Duration = Duration::from_secs(600);
/// States of a run that are not yet used.
const OPEN_MAX: usize = 256;
/// Longest state of a tool server.
const INNER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the number of a state.
const NUMBER_LEN: usize = 16;
/// Bytes of a digest.
const DIGEST_LEN: usize = 32;

/// The states of one run.
#[derive(Debug, Default)]
pub(super) struct States {
    key: OnceLock<[u8; 32]>,
    open: Mutex<HashMap<u128, Open>>,
}

/// A state that was given out.
#[derive(Debug)]
struct Open {
    until: Instant,
    waits: Waits,
}

/// What waits for a state to come back.
#[derive(Debug)]
enum Waits {
    /// Nothing in the plane: the tool server has a state of its own. What it asked, by the digests of its keys.
    Server(Vec<Digest>),
    /// A call in the plane.
    Call(Resume),
    /// A call that a person has to approve, which is not made yet.
    Approval(Box<Awaited>),
}

/// What stands in a state beside what it is bound to; the first byte of it.
const OWN: u8 = 0;
const INNER: u8 = 1;
const APPROVAL: u8 = 2;

/// A state that came back in time, for the first time, with its own request.
pub(super) enum Taken {
    /// The call goes on.
    Waiting(Resume),
    /// The tool server is asked again, with its own state, and told what it asked, by the digests of its keys.
    Inner(Option<String>, Vec<Digest>),
    /// The call is decided again, with the approval that it waits for.
    Approval(Box<Awaited>),
}

/// Why a state is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    #[error("the request state is not one of this plane for this agent")]
    Forged,
    #[error("the request state belongs to another request")]
    Other,
    #[error("the request state has expired or was used before")]
    Spent,
}

impl States {
    /// A state for the request with `digest`, with a tool server's state inside, for answers to what it `asked`.
    pub(super) fn seal(
        &self,
        run: RunId,
        digest: &[u8; 32],
        inner: Option<&str>,
        asked: Vec<Digest>,
    ) -> Option<String> {
        let kind = if inner.is_some() { INNER } else { OWN };
        self.give(run, digest, (kind, inner.unwrap_or_default()), Waits::Server(asked), STATE_AGE)
    }

    /// A state for a request whose call waits in the plane.
    pub(super) fn wait(&self, run: RunId, digest: &[u8; 32], resume: Resume) -> Option<String> {
        self.give(run, digest, (OWN, ""), Waits::Call(resume), STATE_AGE)
    }

    /// A state for a request that waits for an approval, good for so long.
    pub(super) fn await_approval(
        &self,
        run: RunId,
        digest: &[u8; 32],
        awaited: Awaited,
        good_for: Duration,
    ) -> Option<String> {
        let bound = awaited.bound();
        self.give(run, digest, (APPROVAL, &bound), Waits::Approval(Box::new(awaited)), good_for)
    }

    fn give(
        &self,
        run: RunId,
        digest: &[u8; 32],
        (kind, inner): (u8, &str),
        waits: Waits,
        good_for: Duration,
    ) -> Option<String> {
        if inner.len() > INNER_BYTES_MAX {
            return None;
        }
        let mut number = [0; NUMBER_LEN];
        SystemEntropy.fill(&mut number);
        let mut plain = Vec::with_capacity(NUMBER_LEN + DIGEST_LEN + 1 + inner.len());
        plain.extend_from_slice(&number);
        plain.extend_from_slice(digest);
        plain.push(kind);
        plain.extend_from_slice(inner.as_bytes());
        let mut nonce = [0; NONCE_LEN];
        SystemEntropy.fill(&mut nonce);
        let aad = Aad::from(run.to_string().into_bytes());
        self.key().seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain).ok()?;
        let mut open = self.open();
        let now = Instant::now();
        if open.len() >= OPEN_MAX {
            open.retain(|_, state| state.until > now);
        }
        if open.len() >= OPEN_MAX {
            // The oldest is given up: its request has to begin anew.
            let oldest = open.iter().min_by_key(|(_, state)| state.until).map(|(number, _)| *number);
            oldest.and_then(|number| open.remove(&number));
        }
        open.insert(u128::from_be_bytes(number), Open { until: now + good_for, waits });
        Some(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &plain].concat()))
    }

    /// Takes a state that came with the request that has `digest`.
    pub(super) fn take(&self, run: RunId, digest: &[u8; 32], state: &str) -> Result<Taken, StateError> {
        let mut sealed = URL_SAFE_NO_PAD.decode(state).map_err(|_| StateError::Forged)?;
        let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or(StateError::Forged)?;
        let aad = Aad::from(run.to_string().into_bytes());
        let plain = self
            .key()
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, rest)
            .map_err(|_| StateError::Forged)?;
        let (number, rest) = plain.split_first_chunk::<NUMBER_LEN>().ok_or(StateError::Forged)?;
        let (bound, rest) = rest.split_first_chunk::<DIGEST_LEN>().ok_or(StateError::Forged)?;
        let (kind, inner) = rest.split_first().ok_or(StateError::Forged)?;
        // A state that is shown with another request stays good for its own.
        if verify_slices_are_equal(bound, digest).is_err() {
            return Err(StateError::Other);
        }
        let inner = std::str::from_utf8(inner).map_err(|_| StateError::Forged)?;
        let open = self.open().remove(&u128::from_be_bytes(*number)).ok_or(StateError::Spent)?;
        match open.waits {
            _ if open.until <= Instant::now() => Err(StateError::Spent),
            Waits::Call(resume) => Ok(Taken::Waiting(resume)),
            Waits::Server(asked) => Ok(Taken::Inner((*kind == INNER).then(|| inner.to_owned()), asked)),
            Waits::Approval(awaited) if *kind == APPROVAL && awaited.bound() == inner => Ok(Taken::Approval(awaited)),
            Waits::Approval(_) => Err(StateError::Forged),
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u128, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self) -> Key<'_> {
        let key = self.key.get_or_init(|| {
            let mut key = [0; 32];
            SystemEntropy.fill(&mut key);
            key
        });
        Key(key)
    }
}

/// The key of a run's states; a new schedule for each use, of which there are few.
struct Key<'a>(&'a [u8; 32]);

/// A state cannot be sealed or opened; nobody learns more.
struct Unsealed;

impl Key<'_> {
    fn schedule(&self) -> Result<LessSafeKey, Unsealed> {
        UnboundKey::new(&AES_256_GCM, self.0).map(LessSafeKey::new).map_err(|_| Unsealed)
    }

    fn seal_in_place_append_tag(&self, nonce: Nonce, aad: Aad<Vec<u8>>, plain: &mut Vec<u8>) -> Result<(), Unsealed> {
        self.schedule()?.seal_in_place_append_tag(nonce, aad, plain).map_err(|_| Unsealed)
    }

    fn open_in_place<'b>(
        &self,
        nonce: Nonce,
        aad: Aad<Vec<u8>>,
        sealed: &'b mut [u8],
    ) -> Result<&'b mut [u8], Unsealed> {
        self.schedule()?.open_in_place(nonce, aad, sealed).map_err(|_| Unsealed)
    }
}

/// The request that a state belongs to: its method, what it is on, and its arguments as they were sent.
pub(super) fn request_digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut all = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        all.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        all.update(part);
    }
    all.finish().as_ref().try_into().unwrap_or([0; 32])
}

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock};

    use super::*;

    fn run() -> RunId {
        Id::new(&SystemClock, &SystemEntropy)
    }

    fn inner(taken: Result<Taken, StateError>) -> Result<Option<String>, StateError> {
        taken.map(|taken| match taken {
            Taken::Inner(inner, _) => inner,
            Taken::Waiting(_) => Some("waits".to_owned()),
            Taken::Approval(awaited) => Some(awaited.approval.id.to_string()),
        })
    }

    fn awaited(seconds: u64) -> Awaited {
        let id = Id::new(&SystemClock, &SystemEntropy);
        let expires = cogward_model::Timestamp::from_unix_micros(seconds * 1_000_000);
        let approval = cogward_model::decision::ApprovalRef { id, role: "finance".to_owned(), expires };
        Awaited { approval, round: 0, more: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_waits_for_an_approval_is_bound_to_that_and_good_once() {
        let (states, run, other) = (States::default(), run(), run());
        let (digest, wrong) = (request_digest(&[b"a"]), request_digest(&[b"b"]));
        let (first, hour) = (awaited(1), Duration::from_secs(3_600));
        let id = first.approval.id.to_string();
        let state = states.await_approval(run, &digest, first, hour).unwrap();
        assert!(!state.contains(&id));
        assert_eq!(inner(states.take(other, &digest, &state)), Err(StateError::Forged), "another run");
        assert_eq!(inner(states.take(run, &wrong, &state)), Err(StateError::Other), "other arguments");
        for end in 0..state.len() {
            assert_eq!(inner(states.take(run, &digest, &state[..end])), Err(StateError::Forged), "cut at {end}");
        }
        // As long as the approval, not as a question to a user.
        tokio::time::advance(STATE_AGE * 2).await;
        assert_eq!(inner(states.take(run, &digest, &state)), Ok(Some(id)));
        assert_eq!(inner(states.take(run, &digest, &state)), Err(StateError::Spent), "played again");
        let late = states.await_approval(run, &digest, awaited(1), hour).unwrap();
        tokio::time::advance(hour).await;
        assert_eq!(inner(states.take(run, &digest, &late)), Err(StateError::Spent), "too late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_good_once_for_its_run_its_request_and_its_time() {
        let (states, run, other) = (States::default(), run(), run());
        let (digest, wrong) = (request_digest(&[b"tools/call", b"a"]), request_digest(&[b"tools/calla", b""]));
        let state = states.seal(run, &digest, Some("upstream's own"), vec![]).unwrap();
        assert!(!state.contains("upstream"));
        assert_eq!(inner(states.take(other, &digest, &state)), Err(StateError::Forged), "another run");
        assert_eq!(inner(States::default().take(run, &digest, &state)), Err(StateError::Forged), "another plane");
        assert_eq!(inner(states.take(run, &wrong, &state)), Err(StateError::Other));
        assert_eq!(inner(states.take(run, &digest, &state)), Ok(Some("upstream's own".to_owned())));
        assert_eq!(inner(states.take(run, &digest, &state)), Err(StateError::Spent), "used before");
        let late = states.seal(run, &digest, None, vec![]).unwrap();
        tokio::time::advance(STATE_AGE).await;
        assert_eq!(inner(states.take(run, &digest, &late)), Err(StateError::Spent), "too late");
    }

    #[tokio::test]
    async fn no_byte_of_a_state_can_be_changed() {
        let (states, run) = (States::default(), run());
        let digest = request_digest(&[b"x"]);
        let state = states.seal(run, &digest, Some("inner"), vec![]).unwrap();
        for place in 0..state.len() {
            let mut forged = state.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let taken = inner(states.take(run, &digest, &forged));
            // The last character carries bits that mean nothing.
            assert!(taken == Err(StateError::Forged) || place + 1 == state.len(), "{place}");
        }
        for bad in ["", "A", "not base64!", &"A".repeat(100), &format!("{state}-TAMPERED")] {
            assert_eq!(inner(states.take(run, &digest, bad)), Err(StateError::Forged), "{bad}");
        }
    }

    #[tokio::test]
    async fn states_are_bounded_and_the_oldest_goes_first() {
        let (states, run) = (States::default(), run());
        let digest = request_digest(&[b"x"]);
        let first = states.seal(run, &digest, None, vec![]).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let rest: Vec<String> = (0..OPEN_MAX).map(|_| states.seal(run, &digest, None, vec![]).unwrap()).collect();
        assert_eq!(inner(states.take(run, &digest, &first)), Err(StateError::Spent));
        assert_eq!(inner(states.take(run, &digest, &rest[OPEN_MAX - 1])), Ok(None));
        assert!(states.seal(run, &digest, Some(&"x".repeat(INNER_BYTES_MAX + 1)), vec![]).is_none());
    }
}
