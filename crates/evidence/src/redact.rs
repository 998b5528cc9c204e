//! Erasing: which values that concerns, the destruction of their keys, and the record of it.
//!
//! The order is what makes it hold. The keys are retired, so that nothing more is sealed under them; what was
//! sealed before is in the log when the queue is empty, and is found there; the caller writes down which keys
//! will go; they are destroyed; the caller records it. After a crash between any two of these steps the plan is
//! carried out again, from the retiring on, and finds the same values: they are in the log for good.

use std::{
    collections::{BTreeSet, HashMap},
    sync::PoisonError,
};

use cogward_ledger::leaf::Parsed;
use cogward_model::{
    AgentName, RunId, TenantName, Timestamp,
    event::Event,
    id::RedactionId,
    redaction::{ErasureScope, HoldScope},
};
use cogward_wal::Position;
use serde::{Deserialize, Serialize};

use crate::{
    data_keys::{Found, KeyFacts, KeyId, block_of, key_name},
    frames::split_text,
    index::Going,
    keys::{KeyringError, TenantKeys},
    read::{ReadError, on_a_thread, walk},
    record::{COUNTED, Evidence, RecordError},
    vault::{self, Openable, Sealed},
};

/// Commitments that one leaf about an erasure names; more of them take more leaves.
const COMMITMENTS_A_LEAF: usize = 500;
/// Keys that one leaf about an erasure names.
const KEYS_A_LEAF: usize = 300;
/// Values that are sealed again at once, in bytes.
const RESEAL_BYTES: usize = 8 * 1024 * 1024;

/// Why nothing is erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// There is no hidden value of that kind, or none that is left.
    #[error("the evidence has no hidden value there")]
    Nothing,
    /// The log has no such leaf.
    #[error("the log has no leaf {0}")]
    NoSuchLeaf(u64),
    /// The leaf has no such field.
    #[error("leaf {leaf} has no field `{field}`")]
    NoSuchField {
        /// The leaf.
        leaf: u64,
        /// The field.
        field: String,
    },
    /// The field is in clear in the log, for ever.
    #[error("`{field}` of leaf {leaf} is a public field; public fields cannot be redacted")]
    Public {
        /// The leaf.
        leaf: u64,
        /// The field.
        field: String,
    },
    /// Policies count by it.
    #[error("`{0}` is what policies count by; it names nobody and cannot be redacted")]
    Counted(&'static str),
    /// It was erased before.
    #[error("it was erased already by {0}")]
    Already(RedactionId),
    /// The log cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The keys cannot be read or destroyed.
    #[error(transparent)]
    Keys(#[from] KeyringError),
}

/// One value that is, or was, hidden behind a commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedValue {
    /// Its leaf.
    pub seq: u64,
    /// Its field.
    pub field: String,
    /// What stands in the leaf.
    pub commitment: String,
    /// The run of the leaf.
    pub run: Option<RunId>,
    /// The agent that acted.
    pub agent: Option<AgentName>,
    /// When it was recorded.
    pub time: Timestamp,
    key: KeyId,
    /// The keyed hash of the person's name.
    subject: [u8; 16],
}

/// Which keys go. Written down before the first of them is destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasurePlan {
    keys: Vec<KeyText>,
    /// The one value that goes, where its neighbours stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<(u64, String)>,
}

/// The identifier of a key in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct KeyText(KeyId);

impl From<KeyText> for String {
    fn from(key: KeyText) -> Self {
        format!("{:032x}", u128::from_be_bytes(key.0))
    }
}

impl TryFrom<String> for KeyText {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = u128::from_str_radix(&text, 16).map_err(|_| "not the identifier of a key")?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl ErasurePlan {
    fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.0).collect()
    }

    /// How many keys go.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

/// What is about to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The keys.
    pub plan: ErasurePlan,
    /// The values, in the order of the log.
    pub values: Vec<ErasedValue>,
}

impl Erasure {
    /// Takes the keys out that have a value which `keep` wants to stay, and all their values.
    pub fn without(&mut self, mut keep: impl FnMut(&ErasedValue) -> bool) {
        let kept: BTreeSet<KeyId> = self.values.iter().filter(|value| keep(value)).map(|value| value.key).collect();
        self.plan.keys.retain(|key| !kept.contains(&key.0));
        self.values.retain(|value| !kept.contains(&value.key));
    }
}

/// The events that say what was erased: as many as it takes, each from `base`, with its part of the values.
#[must_use]
pub fn executed(erasure: &Erasure, base: impl Fn() -> Event) -> Vec<Event> {
    let keys: Vec<String> = erasure.plan.keys.iter().map(|key| key_name(&key.0)).collect();
    let parts = erasure.values.len().div_ceil(COMMITMENTS_A_LEAF).max(keys.len().div_ceil(KEYS_A_LEAF)).max(1);
    (0..parts)
        .map(|part| {
            let values = page(&erasure.values, part, COMMITMENTS_A_LEAF);
            let fields: BTreeSet<String> = values.iter().map(|value| value.field.clone()).collect();
            base()
                .public("part", part as u64 + 1)
                .public("parts", parts as u64)
                .public("values", erasure.values.len() as u64)
                .public("leaves", ranges(values.iter().map(|value| value.seq)))
                .public("erased_fields", fields.into_iter().collect::<Vec<_>>())
                .public("commitments", values.iter().map(|value| value.commitment.clone()).collect::<Vec<_>>())
                .public("keys", page(&keys, part, KEYS_A_LEAF).to_vec())
        })
        .collect()
}

fn page<T>(all: &[T], number: usize, size: usize) -> &[T] {
    let from = number.saturating_mul(size).min(all.len());
    all.get(from..from.saturating_add(size).min(all.len())).unwrap_or_default()
}

/// Rising numbers as ranges: `3-5`, `9`.
fn ranges(numbers: impl Iterator<Item = u64>) -> Vec<String> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if number == *last || number == *last + 1 => *last = number,
            _ => found.push((number, number)),
        }
    }
    let text = |(from, to): (u64, u64)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    found.into_iter().map(text).collect()
}

impl Evidence {
    /// What an erasure of this would concern now. Nothing is changed.
    ///
    /// # Errors
    /// See [`EraseError`].
    pub async fn examine(&self, tenant: &TenantName, scope: &ErasureScope) -> Result<Erasure, EraseError> {
        let (evidence, tenant, scope) = (self.clone(), tenant.clone(), scope.clone());
        on_a_thread(move || {
            let keys = evidence.shared.keyring.tenant(&tenant)?;
            let plan = evidence.plan(&keys, &tenant, &scope)?;
            evidence.erasure(&keys, &tenant, plan)
        })
        .await
    }

    /// Finds what is to be erased and sees to it that nothing is added: what is recorded from now on has other keys.
    ///
    /// # Errors
    /// See [`EraseError`]. Nothing is destroyed in any case.
    pub async fn prepare_erasure(&self, tenant: &TenantName, scope: &ErasureScope) -> Result<Erasure, EraseError> {
        let (evidence, of, scope) = (self.clone(), tenant.clone(), scope.clone());
        let plan = on_a_thread(move || {
            let keys = evidence.shared.keyring.tenant(&of)?;
            evidence.retired(&keys, |evidence| evidence.plan(&keys, &of, &scope))
        })
        .await?;
        self.settled(tenant, plan).await
    }

    /// The same for a plan that was made before, of whose keys some may be destroyed already.
    ///
    /// # Errors
    /// See [`EraseError`].
    pub async fn prepare_again(&self, tenant: &TenantName, plan: ErasurePlan) -> Result<Erasure, EraseError> {
        let keys = self.shared.keyring.tenant(tenant)?;
        let plan = self.retired(&keys, |_| Ok(plan))?;
        self.settled(tenant, plan).await
    }

    /// Makes the plan and retires its keys: once this is back, whatever was sealed under one of them waits for its place
    /// in the log or has it.
    pub(crate) fn retired(
        &self,
        keys: &TenantKeys,
        plan: impl FnOnce(&Self) -> Result<ErasurePlan, EraseError>,
    ) -> Result<ErasurePlan, EraseError> {
        let plan = plan(self)?;
        let _none_is_sealed_now = self.shared.sealing.write().unwrap_or_else(PoisonError::into_inner);
        keys.data.retire(&plan.ids())?;
        Ok(plan)
    }

    /// Waits until everything that was sealed is in the log, and finds it there.
    pub(crate) async fn settled(&self, tenant: &TenantName, plan: ErasurePlan) -> Result<Erasure, EraseError> {
        self.checkpoint(tenant).await?;
        let (evidence, tenant) = (self.clone(), tenant.clone());
        on_a_thread(move || {
            let keys = evidence.shared.keyring.tenant(&tenant)?;
            evidence.erasure(&keys, &tenant, plan)
        })
        .await
    }

    /// Destroys the keys of a plan, durably. What is destroyed already stays so. Says how many keys were there.
    ///
    /// # Errors
    /// See [`EraseError`]; then it is to be repeated, at the next start at the latest.
    pub async fn destroy(&self, tenant: &TenantName, by: RedactionId, plan: &ErasurePlan) -> Result<usize, EraseError> {
        let (evidence, tenant, plan) = (self.clone(), tenant.clone(), plan.clone());
        on_a_thread(move || evidence.destroy_now(&tenant, by, &plan, &BTreeSet::new())).await
    }

    pub(crate) fn destroy_now(
        &self,
        tenant: &TenantName,
        by: RedactionId,
        plan: &ErasurePlan,
        // Commitments of values that must not be sealed again either.
        gone: &BTreeSet<String>,
    ) -> Result<usize, EraseError> {
        let keys = self.shared.keyring.tenant(tenant)?;
        if let Some((seq, field)) = &plan.only {
            for key in plan.ids() {
                if matches!(keys.data.find(&key)?, Found::Key(_)) {
                    self.reseal(&keys, tenant, key, (*seq, field), gone)?;
                }
            }
        }
        let going = Going { keys: plan.ids().into_iter().collect(), only: plan.only.clone() };
        let index = &self.shared.index;
        let before = index.times_anew();
        index.forget(tenant, going).map_err(|error| RecordError::Keys(error.to_string()))?;
        let destroyed = keys.data.destroy(&plan.ids(), by, plan.only.is_some())?;
        // What was read from the log between the two still had the keys.
        if index.times_anew() != before {
            index.forget_by_beginning_anew();
        }
        Ok(destroyed)
    }

    /// Seals again, under a new key, all that a key sealed but one value.
    fn reseal(
        &self,
        keys: &TenantKeys,
        tenant: &TenantName,
        old: KeyId,
        (seq, field): (u64, &str),
        gone: &BTreeSet<String>,
    ) -> Result<(), EraseError> {
        let broken = || RecordError::Keys("a value could not be sealed again".to_owned());
        let successor = keys.data.successor(&old)?.ok_or_else(broken)?;
        let (mut again, mut bytes): (Vec<(String, Vec<u8>)>, usize) = (Vec::new(), 0);
        self.under(keys, tenant, &|key| *key == old, |leaf, sealed| {
            let erased = leaf.body.get(&sealed.field).and_then(commitment).is_some_and(|text| gone.contains(text));
            if erased || (leaf.seq == seq && sealed.field == field) {
                return Ok(());
            }
            let (name, id) = (sealed.field.clone(), leaf.id);
            let Openable::With(key, sealed) = vault::key_of(keys, id, sealed)? else { return Ok(()) };
            // What does not open now is lost already; it must not keep the other from being erased.
            let Some(value) = sealed.open(&key, tenant.as_str(), id) else { return Ok(()) };
            let entropy = &*self.shared.entropy;
            let frame = vault::seal(&successor, entropy, tenant.as_str(), id, &name, &value).ok_or_else(broken)?;
            let (_, sealed) = split_text(&frame).ok_or_else(broken)?;
            bytes += sealed.len();
            again.push((id.to_owned(), sealed.to_vec()));
            if bytes >= RESEAL_BYTES {
                keys.resealed.add(block_of(&old), &again)?;
                (again, bytes) = (Vec::new(), 0);
            }
            Ok(())
        })?;
        keys.resealed.add(block_of(&old), &again)?;
        Ok(())
    }

    /// Whether a hold keeps this value.
    ///
    /// # Errors
    /// The tenant's keys cannot be read.
    pub fn is_held(&self, tenant: &TenantName, value: &ErasedValue, hold: &HoldScope) -> Result<bool, KeyringError> {
        Ok(match hold {
            HoldScope::Subject(person) => self.shared.keyring.tenant(tenant)?.data.subject_tag(person) == value.subject,
            HoldScope::Run(run) => value.run == Some(*run),
            HoldScope::Agent(agent) => value.agent.as_ref() == Some(agent),
            HoldScope::Window { from, until } => value.time >= *from && until.is_none_or(|until| value.time < until),
        })
    }

    /// The keys that seal what is to be erased.
    fn plan(&self, keys: &TenantKeys, tenant: &TenantName, scope: &ErasureScope) -> Result<ErasurePlan, EraseError> {
        let found = match scope {
            ErasureScope::Subject(person) => {
                let tag = keys.data.subject_tag(person);
                keys.data.select(&mut |key| key.subject == tag)?
            }
            ErasureScope::Run(run) => keys.data.select(&mut |key| key.run == Some(*run))?,
            ErasureScope::Field { leaf, name } => {
                let key = self.key_of_field(keys, tenant, *leaf, name)?;
                return Ok(ErasurePlan { keys: vec![KeyText(key)], only: Some((*leaf, name.clone())) });
            }
        };
        if found.is_empty() {
            return Err(EraseError::Nothing);
        }
        Ok(plan_of(found))
    }

    /// The key under which a field of a leaf is sealed now.
    fn key_of_field(&self, keys: &TenantKeys, tenant: &TenantName, seq: u64, field: &str) -> Result<KeyId, EraseError> {
        let mut answer = Err(EraseError::NoSuchLeaf(seq));
        let whole = (Position::default(), self.shared.progress.end());
        walk(&self.shared.segments, whole, |at, of, leaf, sealed| {
            if of != tenant.as_str() {
                return Ok(true);
            }
            let parsed = Parsed::from_bytes(leaf).map_err(|_| ReadError::Damaged(at))?;
            if parsed.chain.seq != seq {
                return Ok(parsed.chain.seq < seq);
            }
            let whole: serde_json::Value = serde_json::from_slice(leaf).map_err(|_| ReadError::Damaged(at))?;
            let named = || field.chars().take(64).collect::<String>();
            answer = match whole.get("body").and_then(|body| body.get(field)) {
                Some(_) if field == COUNTED => Err(EraseError::Counted(COUNTED)),
                None => Err(EraseError::NoSuchField { leaf: seq, field: named() }),
                Some(value) if commitment(value).is_none() => Err(EraseError::Public { leaf: seq, field: named() }),
                Some(_) => {
                    let frame = sealed.iter().find(|frame| Sealed::peek(frame).is_some_and(|(_, of)| of == field));
                    match frame.and_then(|frame| Sealed::parse(frame)) {
                        None => Err(EraseError::Nothing),
                        Some(sealed) => match vault::key_of(keys, parsed.body.id, sealed)? {
                            Openable::With(key, _) => Ok(key.id),
                            Openable::Erased(by) => Err(EraseError::Already(by)),
                            Openable::Never => Err(EraseError::Nothing),
                        },
                    }
                }
            };
            Ok::<_, EraseError>(false)
        })?;
        answer
    }

    /// The values that a plan concerns.
    pub(crate) fn erasure(
        &self,
        keys: &TenantKeys,
        tenant: &TenantName,
        plan: ErasurePlan,
    ) -> Result<Erasure, EraseError> {
        let ids: BTreeSet<KeyId> = plan.ids().into_iter().collect();
        let facts: HashMap<KeyId, KeyFacts> =
            keys.data.select(&mut |key| ids.contains(&key.id))?.into_iter().map(|key| (key.id, key)).collect();
        let mut values = Vec::new();
        self.under(keys, tenant, &|key| ids.contains(key), |leaf, sealed| {
            let wanted = plan.only.as_ref().is_none_or(|(seq, field)| leaf.seq == *seq && sealed.field == *field);
            if let Some(commitment) = leaf.body.get(&sealed.field).and_then(commitment)
                && wanted
            {
                values.push(ErasedValue {
                    seq: leaf.seq,
                    commitment: commitment.to_owned(),
                    run: leaf.run,
                    agent: leaf.agent(),
                    time: leaf.time,
                    subject: facts.get(&sealed.key_id).map_or([0; 16], |key| key.subject),
                    key: sealed.key_id,
                    field: sealed.field,
                });
            }
            Ok(())
        })?;
        Ok(Erasure { plan, values })
    }

    /// Shows every sealed value of a tenant, as it is sealed now, whose key is `wanted`; keys that are destroyed too.
    fn under(
        &self,
        keys: &TenantKeys,
        tenant: &TenantName,
        wanted: &dyn Fn(&KeyId) -> bool,
        mut visit: impl FnMut(&Seen<'_>, Sealed) -> Result<(), EraseError>,
    ) -> Result<(), EraseError> {
        let whole = (Position::default(), self.shared.progress.end());
        walk(&self.shared.segments, whole, |at, of, leaf, sealed| {
            let damaged = || EraseError::Read(ReadError::Damaged(at));
            if of != tenant.as_str() || sealed.is_empty() {
                return Ok(true);
            }
            let mut mine = Vec::new();
            for frame in sealed.drain(..) {
                let (id, field) = Sealed::peek(&frame).ok_or_else(damaged)?;
                if wanted(&id) {
                    mine.push(Sealed::parse(&frame).ok_or_else(damaged)?);
                } else if keys.data.is_resealed(&id)? {
                    let parsed = Parsed::from_bytes(leaf).map_err(|_| damaged())?;
                    let again = keys.resealed.find(block_of(&id), parsed.body.id, field)?;
                    mine.extend(again.filter(|again| wanted(&again.key_id)));
                }
            }
            if mine.is_empty() {
                return Ok(true);
            }
            let parsed = Parsed::from_bytes(leaf).map_err(|_| damaged())?;
            let whole: serde_json::Value = serde_json::from_slice(leaf).map_err(|_| damaged())?;
            let seen = Seen {
                seq: parsed.chain.seq,
                id: parsed.body.id,
                run: parsed.body.run.and_then(|run| run.parse().ok()),
                time: parsed.chain.time.parse().map_err(|_| damaged())?,
                body: whole.get("body").ok_or_else(damaged)?,
            };
            for sealed in mine {
                visit(&seen, sealed)?;
            }
            Ok::<_, EraseError>(true)
        })
    }
}

/// The plan to destroy these keys with all that they seal.
pub(crate) fn plan_of(keys: Vec<KeyFacts>) -> ErasurePlan {
    ErasurePlan { keys: keys.into_iter().map(|key| KeyText(key.id)).collect(), only: None }
}

/// The plan to destroy what a leaf about an erasure names, as far as it is there.
pub(crate) fn plan_again(keys: Vec<KeyFacts>, only: Option<(u64, String)>) -> ErasurePlan {
    ErasurePlan { only, ..plan_of(keys) }
}

/// A leaf with hidden values.
struct Seen<'a> {
    seq: u64,
    id: &'a str,
    run: Option<RunId>,
    time: Timestamp,
    body: &'a serde_json::Value,
}

impl Seen<'_> {
    fn agent(&self) -> Option<AgentName> {
        self.body.get("act")?.as_str()?.strip_prefix("agent:")?.split_once('@')?.0.parse().ok()
    }
}

fn commitment(value: &serde_json::Value) -> Option<&str> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.get("$c")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_short_as_they_can_be() {
        assert_eq!(ranges([3, 3, 4, 5, 9, 11, 12].into_iter()), ["3-5", "9", "11-12"]);
        assert!(ranges(std::iter::empty()).is_empty());
    }
}
