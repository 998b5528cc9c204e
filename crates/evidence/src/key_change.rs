//! Replacing and revoking the keys of a log: the order of the steps, and what a start makes good.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use cogward_ledger::{
    key_chain::{Entry, KeyChain, Why},
    note::{Checkpoint, NOTE_BYTES_MAX, Note, SignError},
};
use cogward_model::{
    TenantName, Timestamp,
    event::{Attribution, Event, EventType},
    id::{EventId, OperatorId},
};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint, durable,
    keys::{KeyringError, TenantKeys},
    log_keys::{LogKeys, Turned},
    plane::LogName,
    read::{ReadError, on_a_thread},
    record::{Evidence, RecordError, Shared},
};

const DAY_MICROS: u64 = 86_400_000_000;
/// Longest time for which the key before signs along.
pub const OVERLAP_DAYS_MAX: u32 = 366;

/// A change of a log's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyChange {
    /// A new key takes the place of the present one.
    Rotate {
        /// For so many days the old one signs along; then it is destroyed.
        overlap_days: u32,
    },
    /// The signatures of a past key do not count any more, from a size on.
    Revoke {
        /// The key's number.
        generation: u64,
        /// Up to this size they do; without it, what witnesses saw.
        size: Option<u64>,
        /// Why.
        why: Why,
    },
}

/// A change that one operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// The event that recorded it.
    pub id: EventId,
    /// What.
    #[serde(rename = "what")]
    pub change: KeyChange,
    /// Who asked.
    pub by: OperatorId,
    /// The name then.
    pub by_name: String,
    /// When.
    pub at: Timestamp,
}

/// The keys of a log as they are.
#[derive(Debug, Clone)]
pub struct KeyState {
    /// The log's name to the world.
    pub origin: String,
    /// All keys that it had.
    pub chain: Arc<KeyChain>,
    /// The one that still signs along, and until when.
    pub retiring: Option<(u64, Timestamp)>,
    /// By generation: the token that a key is in, as its label and serial number name it.
    pub tokens: BTreeMap<u64, String>,
    /// The statements, as packs have them.
    pub statements: Vec<Entry>,
    /// What another operator has to confirm.
    pub request: Option<KeyRequest>,
}

/// Why the keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyChangeError {
    /// The key before still signs along.
    #[error("the key before signs along until {0}; then, or once it is revoked, the next one can take over")]
    Overlap(Timestamp),
    /// What was changed last is not in the log yet.
    #[error("the last change is not recorded yet")]
    Unsettled,
    /// Only a past key is revoked.
    #[error("key {0} is not a past key of the log; the present one is replaced first")]
    NotPast(u64),
    /// A key cannot count for more than it did.
    #[error("the key's signatures count up to {most} leaves, not to {size}")]
    Size {
        /// Wanted.
        size: u64,
        /// The most that is possible.
        most: u64,
    },
    /// It is not what was asked for, or not any more.
    #[error("this change does not wait to be confirmed")]
    Asked,
    /// The overlap is too long.
    #[error("the key before signs along for at most {OVERLAP_DAYS_MAX} days")]
    Days,
    /// The statement could not be signed.
    #[error("the statement could not be signed: {0}")]
    Unsigned(#[from] SignError),
    /// The statement would not be believed.
    #[error("the statement would not be believed: {0}")]
    Chain(String),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// The log could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A thread was interrupted.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The keys of one log, whichever.
pub(crate) enum OfLog<'a> {
    Plane(&'a LogKeys),
    Tenant(Arc<TenantKeys>),
}

impl std::ops::Deref for OfLog<'_> {
    type Target = LogKeys;

    fn deref(&self) -> &LogKeys {
        match self {
            Self::Plane(keys) => keys,
            Self::Tenant(keys) => &keys.log,
        }
    }
}

impl Shared {
    pub(crate) fn keys_of(&self, log: &LogName) -> Result<OfLog<'_>, KeyringError> {
        Ok(match log {
            LogName::Plane => OfLog::Plane(&self.keyring.plane().log),
            LogName::Tenant(tenant) => OfLog::Tenant(self.keyring.tenant(tenant)?),
        })
    }
}

/// In whose log the statements about a log are.
fn told_in(log: &LogName) -> TenantName {
    match log {
        LogName::Plane => TenantName::default_tenant(),
        LogName::Tenant(tenant) => tenant.clone(),
    }
}

/// The largest size of which the disk has a signed checkpoint: no larger one was given to anybody.
fn signed_size(dir: &Path, log: &LogName) -> io::Result<u64> {
    let note = durable::read(&checkpoint::path(dir, log), NOTE_BYTES_MAX as u64)?;
    let Some(note) = note else { return Ok(0) };
    let text = String::from_utf8(note).map_err(io::Error::other)?;
    let note = Note::parse(&text).map_err(io::Error::other)?;
    Checkpoint::from_text(note.text).map(|checkpoint| checkpoint.size).map_err(io::Error::other)
}

/// Statements about logs, by the log's origin, with the leaves that they were found in.
pub(crate) type Found = BTreeMap<String, Vec<(String, u64)>>;

/// Compares what the end of the log says of keys with the key files. A statement that they do not have came after them.
pub(crate) fn compare(shared: &Shared, found: &Found, tenants: &[TenantName]) -> Result<(), KeyringError> {
    let logs = tenants.iter().cloned().map(LogName::Tenant).chain([LogName::Plane]);
    for log in logs {
        let keys = shared.keys_of(&log)?;
        for (statement, leaf) in found.get(keys.origin()).into_iter().flatten() {
            keys.recorded(statement, *leaf)?;
        }
    }
    Ok(())
}

impl Evidence {
    /// The keys of a log.
    ///
    /// # Errors
    /// They are not usable.
    pub fn key_state(&self, log: &LogName) -> Result<KeyState, KeyringError> {
        let keys = self.shared.keys_of(log)?;
        let record = keys.record();
        Ok(KeyState {
            origin: keys.origin().to_owned(),
            chain: keys.chain(),
            retiring: record.retire.map(|retire| (retire.generation, Timestamp::from_unix_micros(retire.at_us))),
            statements: keys.entries(),
            tokens: keys.tokens(),
            request: record.request,
        })
    }

    /// Records that an operator wants the keys changed, and keeps that until another one confirms it. What was
    /// asked for before is forgotten.
    ///
    /// # Errors
    /// The change is not possible as things are, or could not be recorded.
    pub async fn ask_key_change(
        &self,
        log: &LogName,
        (change, by, by_name): (KeyChange, OperatorId, String),
        event: Event,
    ) -> Result<KeyRequest, KeyChangeError> {
        let _one = self.shared.key_changes.lock().await;
        let change = self.possible(log, change)?;
        let (kind, generation) = match &change {
            KeyChange::Rotate { .. } => ("rotate", self.shared.keys_of(log)?.chain().generation() + 1),
            KeyChange::Revoke { generation, .. } => ("revoke", *generation),
        };
        let event = event.public("log", self.origin(log)?).public("change", kind).public("generation", generation);
        let event = match &change {
            KeyChange::Rotate { overlap_days } => event.public("overlap_days", u64::from(*overlap_days)),
            KeyChange::Revoke { size, why, .. } => event.public("size", *size).public("why", why.as_str()),
        };
        let leaf = self.record(event).await?;
        let request = KeyRequest { id: leaf.id, change, by, by_name, at: self.shared.clock.now() };
        let (evidence, log, kept) = (self.clone(), log.clone(), request.clone());
        on_a_thread(move || Ok::<_, KeyChangeError>(evidence.shared.keys_of(&log)?.asked(Some(kept))?)).await?;
        Ok(request)
    }

    /// The change with everything that was left open, when it is possible now.
    fn possible(&self, log: &LogName, change: KeyChange) -> Result<KeyChange, KeyChangeError> {
        let keys = self.shared.keys_of(log)?;
        match change {
            KeyChange::Rotate { overlap_days } if overlap_days > OVERLAP_DAYS_MAX => Err(KeyChangeError::Days),
            KeyChange::Rotate { overlap_days } => match keys.record().retire {
                Some(retire) => Err(KeyChangeError::Overlap(Timestamp::from_unix_micros(retire.at_us))),
                None => Ok(KeyChange::Rotate { overlap_days }),
            },
            KeyChange::Revoke { generation, size, why } => {
                let most = keys.chain().counts_up_to(generation).ok_or(KeyChangeError::NotPast(generation))?;
                match size.or_else(|| self.witnessed_size(log)) {
                    Some(wanted) if size.is_some() && wanted > most => Err(KeyChangeError::Size { size: wanted, most }),
                    found => Ok(KeyChange::Revoke { generation, size: Some(found.unwrap_or(most).min(most)), why }),
                }
            }
        }
    }

    /// The largest size of a log that enough witnesses saw; `None` on a plane that asks no witnesses.
    fn witnessed_size(&self, log: &LogName) -> Option<u64> {
        let policy = self.witnesses();
        if !policy.needs_witnesses() {
            return None;
        }
        let seen = self.shared.quorum().map_or(0, |seen| seen.size);
        Some(match log {
            LogName::Plane => seen,
            LogName::Tenant(tenant) => self.shared.anchors.seen(tenant, seen),
        })
    }

    /// Replaces or revokes a key, as asked for. When this has answered, the statement is a leaf and the log is
    /// signed by the present key.
    ///
    /// # Errors
    /// See [`KeyChangeError`]. What got as far as the key files is carried on by [`Evidence::settle_keys`].
    pub async fn change_keys(
        &self,
        log: &LogName,
        (request, change): (EventId, KeyChange),
        event: Event,
    ) -> Result<KeyState, KeyChangeError> {
        let one = self.shared.key_changes.lock().await;
        // Looked at again under the lock: what two people agreed on happens once, and nothing else happens.
        let waiting = self.shared.keys_of(log)?.record().request;
        if waiting.is_none_or(|waiting| waiting.id != request || waiting.change != change) {
            return Err(KeyChangeError::Asked);
        }
        let change = self.possible(log, change)?;
        let now = self.shared.clock.now();
        let (evidence, of) = (self.clone(), log.clone());
        let (turned, answer) = on_a_thread(move || {
            let keys = evidence.shared.keys_of(&of)?;
            let (turned, event) = match change {
                KeyChange::Rotate { overlap_days } => {
                    let entropy = &*evidence.shared.entropy;
                    let retire_at_us = now.unix_micros().saturating_add(u64::from(overlap_days) * DAY_MICROS);
                    let signed = || signed_size(&evidence.shared.dir, &of);
                    (keys.rotate(entropy, (now, retire_at_us), signed)?, event)
                }
                KeyChange::Revoke { generation, size, why } => {
                    let turned = keys.revoke((generation, size.unwrap_or(0), why), now)?;
                    (turned, event.public("why", why.as_str()))
                }
            };
            let told = told(event, keys.origin(), &turned);
            // In the queue before anybody can ask for a checkpoint by the new key.
            let answer = evidence.submit(&told, evidence.shared.mint(), false)?;
            Ok::<_, KeyChangeError>((turned, answer))
        })
        .await?;
        let leaf = answer.await.unwrap_or_else(|_| Err(self.shared.failure()))?;
        self.settle(log, turned.statement, leaf.seq).await?;
        self.sign(log).await?;
        drop(one);
        self.retire_keys().await?;
        Ok(self.key_state(log)?)
    }

    async fn settle(&self, log: &LogName, statement: String, leaf: u64) -> Result<(), KeyChangeError> {
        let (evidence, log) = (self.clone(), log.clone());
        on_a_thread(move || Ok::<_, KeyChangeError>(evidence.shared.keys_of(&log)?.recorded(&statement, leaf)?)).await
    }

    async fn sign(&self, log: &LogName) -> Result<(), RecordError> {
        match log {
            LogName::Plane => self.plane_checkpoint().await.map(drop),
            LogName::Tenant(tenant) => self.checkpoint(tenant).await.map(drop),
        }
    }

    /// The logs that ever had their key replaced.
    fn changed_logs(&self) -> Result<Vec<LogName>, KeyringError> {
        let dir = self.shared.dir.join("keys");
        let failed = |source| KeyringError::Io { path: dir.clone(), source };
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".chain")) else { continue };
            match name.parse() {
                Ok(tenant) => logs.push(LogName::Tenant(tenant)),
                Err(_) if name == "plane.log" => logs.push(LogName::Plane),
                Err(_) => {}
            }
        }
        Ok(logs)
    }

    /// Carries on what a plane that was killed had begun: statements that are not leaves yet become leaves, and
    /// keys whose time is over are destroyed. For every start, before anything is served.
    ///
    /// # Errors
    /// See [`KeyChangeError`].
    pub async fn settle_keys(&self) -> Result<(), KeyChangeError> {
        {
            let _one = self.shared.key_changes.lock().await;
            for log in self.changed_logs()? {
                for statement in self.shared.keys_of(&log)?.unrecorded() {
                    let event = about(&statement, told_in(&log))
                        .public("log", self.origin(&log)?)
                        .public("statement", statement.as_str());
                    let leaf = self.record(event).await?;
                    self.settle(&log, statement, leaf.seq).await?;
                }
            }
        }
        self.retire_keys().await
    }

    /// Destroys the keys whose time is over.
    ///
    /// # Errors
    /// See [`KeyChangeError`]; then it is tried again.
    pub async fn retire_keys(&self) -> Result<(), KeyChangeError> {
        let _one = self.shared.key_changes.lock().await;
        for log in self.changed_logs()? {
            let Some(generation) = self.shared.keys_of(&log)?.due(self.shared.clock.now()) else { continue };
            // What lies on the disk must not need the key that goes.
            self.sign(&log).await?;
            let (evidence, of) = (self.clone(), log.clone());
            on_a_thread(move || Ok::<_, KeyChangeError>(evidence.shared.keys_of(&of)?.destroy(generation)?)).await?;
            let event = Event::new(EventType::LedgerKeyRetired, told_in(&log), Attribution::plane())
                .public("log", self.origin(&log)?)
                .public("generation", generation);
            self.record(event).await?;
            let (evidence, of) = (self.clone(), log.clone());
            on_a_thread(move || Ok::<_, KeyChangeError>(evidence.shared.keys_of(&of)?.retired()?)).await?;
        }
        Ok(())
    }

    /// What lies beside `log.vkey` as `keys.jsonl`: the statements that led to the key, as far as they are among the
    /// first `size` leaves of the log. `None` when there are none.
    ///
    /// # Errors
    /// The keys are not usable.
    pub fn key_statements(&self, log: &LogName, size: u64) -> Result<Option<String>, KeyringError> {
        let entries = self.shared.keys_of(log)?.entries().into_iter();
        // Those about the plane log are leaves of another one.
        let told: Vec<Entry> = entries.filter(|entry| *log == LogName::Plane || entry.leaf < size).collect();
        Ok(lines(&told))
    }
}

/// Statements as a file.
pub(crate) fn lines(entries: &[Entry]) -> Option<String> {
    let line = |entry| serde_json::to_string(entry).map(|line| line + "\n").unwrap_or_default();
    (!entries.is_empty()).then(|| entries.iter().map(line).collect())
}

fn told(event: Event, origin: &str, turned: &Turned) -> Event {
    let until = turned.retire.map(|retire| Timestamp::from_unix_micros(retire.at_us).to_string());
    event
        .public("log", origin)
        .public("statement", turned.statement.as_str())
        .public("generation", turned.generation)
        .public("size", turned.size)
        .public("until", until)
}

/// The event for a statement of which nothing else is known any more.
fn about(statement: &str, tenant: TenantName) -> Event {
    let is_rotation = statement.starts_with("cogward.dev/key-rotation@");
    let kind = if is_rotation { EventType::LedgerKeyRotated } else { EventType::LedgerKeyRevoked };
    Event::new(kind, tenant, Attribution::plane())
}
