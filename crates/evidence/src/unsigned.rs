//! Logs that cannot be signed for a while, because their keys are in a token that does not answer.
//!
//! Their leaves are durable and acknowledged as always, and nothing is lost. But what was not signed can still be
//! rewritten by whoever has the disk, and no witness sees it. So the time is measured, and after a minute agents are
//! held, as they are on a disk that is nearly full; the audit goes on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cogward_ledger::note::SignError;
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
};

use crate::{
    plane::LogName,
    queue::Item,
    record::{Evidence, Health, RecordError, Shared},
};

/// For so long a log may go unsigned before agents are held.
const UNSIGNED_MAX: Duration = Duration::from_secs(60);

/// Since when which logs could not be signed, and why not.
#[derive(Default)]
pub(crate) struct Unsigned {
    logs: Mutex<HashMap<LogName, (Instant, Arc<str>)>>,
    /// Since when agents are held for it.
    held: Mutex<Option<Instant>>,
}

impl Unsigned {
    /// Takes note of an attempt.
    pub(crate) fn told(&self, log: &LogName, signed: Result<String, SignError>) -> Result<String, RecordError> {
        let mut unsigned = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        match signed {
            Ok(note) => {
                if unsigned.remove(log).is_some() {
                    tracing::info!(%log, "the log is signed again");
                }
                Ok(note)
            }
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                let is_new = !unsigned.contains_key(log);
                if is_new {
                    tracing::error!(%log, %error, "the log cannot be signed; it is tried again");
                }
                let (_, last) = unsigned.entry(log.clone()).or_insert_with(|| (Instant::now(), Arc::clone(&why)));
                *last = Arc::clone(&why);
                Err(RecordError::Unsigned(why))
            }
        }
    }

    /// For how long the first of them is unsigned, why, and how many they are.
    fn longest(&self) -> Option<(Duration, Arc<str>, usize)> {
        let unsigned = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, why) = unsigned.values().min_by_key(|(since, _)| *since)?;
        Some((since.elapsed(), Arc::clone(why), unsigned.len()))
    }
}

/// Holds agents once a log was unsigned for too long, and lets them go on when all are signed.
pub(crate) fn look(shared: &Shared) {
    look_after(shared, UNSIGNED_MAX);
}

fn look_after(shared: &Shared, most: Duration) {
    let longest = shared.unsigned.longest();
    let mut held = shared.unsigned.held.lock().unwrap_or_else(PoisonError::into_inner);
    let (now, event) = match longest {
        Some((time, why, logs)) if held.is_none() && time >= most => {
            *held = Some(Instant::now());
            let event = Event::new(EventType::LedgerUnsigned, TenantName::default_tenant(), Attribution::plane())
                .public("count", logs as u64)
                .public("seconds", time.as_secs());
            (Health::Unsigned { why }, event)
        }
        None if held.is_some() => {
            let seconds = held.take().map_or(0, |since| since.elapsed().as_secs());
            let event = Event::new(EventType::LedgerSignedAgain, TenantName::default_tenant(), Attribution::plane())
                .public("seconds", seconds);
            // A disk that is full by now is seen by the next look.
            (Health::Ok, event)
        }
        _ => return,
    };
    shared.health.send_if_modified(|health| {
        // What failed stays; what waits for space waits for both.
        let may = matches!(health, Health::Ok | Health::Unsigned { .. });
        if may {
            *health = now;
        }
        may
    });
    drop(held);
    match shared.prepare(&event, shared.mint()) {
        Ok(append) => drop(shared.queue.push(Item::Append(Box::new(append)))),
        Err(error) => tracing::error!(%error, "the state of the keys could not be recorded"),
    }
}

impl Evidence {
    /// The tokens that keys of logs may be in.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.shared.keyring.tokens()
    }

    /// For how many seconds the log that was not signed for longest is unsigned; `None` when all are signed.
    #[must_use]
    pub fn unsigned_seconds(&self) -> Option<u64> {
        self.shared.unsigned.longest().map(|(time, ..)| time.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EvidenceOptions;

    #[test]
    fn agents_are_held_after_a_while_and_go_on_when_all_logs_are_signed() {
        let dir = tempfile::tempdir().unwrap();
        let options = EvidenceOptions { low_water_bytes: 0, strict: true, ..EvidenceOptions::new(dir.path()) };
        let evidence = Evidence::open(options).unwrap();
        let shared = &*evidence.shared;
        let gone = || Err(SignError::Device("the token is gone".to_owned()));
        let tenant = LogName::Tenant("acme".parse().unwrap());
        for log in [&tenant, &LogName::Plane] {
            assert!(
                matches!(shared.unsigned.told(log, gone()), Err(RecordError::Unsigned(why)) if why.contains("gone"))
            );
        }
        look_after(shared, UNSIGNED_MAX);
        assert_eq!((&*evidence.health().borrow(), evidence.unsigned_seconds()), (&Health::Ok, Some(0)));
        look_after(shared, Duration::ZERO);
        assert!(matches!(&*evidence.health().borrow(), Health::Unsigned { why } if why.contains("gone")));
        // One of two is not enough.
        shared.unsigned.told(&tenant, Ok("note".to_owned())).unwrap();
        look_after(shared, Duration::ZERO);
        assert!(matches!(&*evidence.health().borrow(), Health::Unsigned { .. }));
        shared.unsigned.told(&LogName::Plane, Ok("note".to_owned())).unwrap();
        look_after(shared, UNSIGNED_MAX);
        assert_eq!((&*evidence.health().borrow(), evidence.unsigned_seconds()), (&Health::Ok, None));
        // What cannot be written at all stays so.
        let failed = shared.unsigned.told(&tenant, gone());
        shared.fail(&std::io::Error::other("the disk"));
        look_after(shared, Duration::ZERO);
        assert!(failed.is_err() && matches!(&*evidence.health().borrow(), Health::Failed { .. }));
    }
}
