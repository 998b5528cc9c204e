//! The erasures that the log tells of, carried out again at start.
//!
//! Who puts an old copy of the vault back has keys again that were destroyed. The log still says which: a key
//! that it names and that is there is destroyed again before anybody can read with it, and that is recorded.

use std::collections::{BTreeMap, BTreeSet};

use cogward_ledger::leaf::Parsed;
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
    id::RedactionId,
};
use serde::Deserialize;

use crate::{
    data_keys::key_name,
    kept::walk_needed,
    read::{ReadError, on_a_thread},
    record::Evidence,
    redact::{EraseError, plan_again},
};

/// Behind the type of a leaf about an erasure are its version, the number of its values and its place: no more bytes
/// than these. All others are passed over by a look at their ends.
const TAIL_BYTES: usize = 512;

/// Whether a leaf may be one that names destroyed keys.
fn may_be_erasure(leaf: &[u8]) -> bool {
    let tail = leaf.get(leaf.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
    let kinds = [EventType::RedactionExecuted, EventType::RetentionExecuted];
    kinds.iter().any(|kind| tail.windows(kind.as_str().len()).any(|part| part == kind.as_str().as_bytes()))
}

fn is_erasure(kind: &str) -> bool {
    kind == EventType::RedactionExecuted.as_str() || kind == EventType::RetentionExecuted.as_str()
}

/// What a leaf about an erasure says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    redaction: RedactionId,
    keys: Vec<String>,
    /// The one value that it was about.
    only: Option<(u64, String)>,
}

#[derive(Deserialize)]
struct Leaf {
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    redaction: RedactionId,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    leaf: Option<u64>,
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    commitments: Vec<String>,
}

/// What had come back and is gone again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replayed {
    /// The erasures that the log says were carried out.
    pub executed: BTreeSet<RedactionId>,
    /// The keys that had come back, by tenant and erasure.
    pub returned: BTreeMap<(TenantName, RedactionId), usize>,
}

impl Evidence {
    /// Destroys again what the log says was destroyed and what is there all the same, and records it. For the start,
    /// before anything is read.
    ///
    /// # Errors
    /// See [`EraseError`]; then the plane must not start.
    pub async fn replay_erasures(&self) -> Result<Replayed, EraseError> {
        let evidence = self.clone();
        let replayed = on_a_thread(move || evidence.destroy_again()).await?;
        for ((tenant, redaction), keys) in &replayed.returned {
            tracing::warn!(%tenant, %redaction, keys, "keys that had been destroyed were back, and are destroyed again");
            let event = Event::new(EventType::RedactionReplayed, tenant.clone(), Attribution::plane())
                .public("basis", vec!["plane"])
                .public("redaction", redaction.to_string())
                .public("returned_keys", *keys as u64);
            self.record(event).await?;
        }
        Ok(replayed)
    }

    fn destroy_again(&self) -> Result<Replayed, EraseError> {
        let mut replayed = Replayed::default();
        let mut by_tenant: BTreeMap<TenantName, Vec<Told>> = BTreeMap::new();
        self.erasures(|tenant, body| {
            let Body { redaction, keys, leaf, field, .. } = body;
            replayed.executed.insert(redaction);
            by_tenant.entry(tenant).or_default().push(Told { redaction, keys, only: leaf.zip(field) });
        })?;
        for (tenant, told) in by_tenant {
            let keys = self.shared.keyring.tenant(&tenant)?;
            let named: BTreeMap<&str, usize> = told
                .iter()
                .enumerate()
                .flat_map(|(n, one)| one.keys.iter().map(move |key| (key.as_str(), n)))
                .collect();
            let mut back: BTreeMap<usize, Vec<_>> = BTreeMap::new();
            for key in keys.data.select(&mut |key| named.contains_key(key_name(&key.id).as_str()))? {
                if let Some(n) = named.get(key_name(&key.id).as_str()) {
                    back.entry(*n).or_default().push(key);
                }
            }
            for (n, found) in back {
                let Some(one) = told.get(n) else { continue };
                let plan = plan_again(found, one.only.clone());
                // What shares the key is sealed again, but not what another erasure took since.
                let gone = if one.only.is_some() { self.erased_commitments(&tenant)? } else { BTreeSet::new() };
                let destroyed = self.destroy_now(&tenant, one.redaction, &plan, &gone)?;
                *replayed.returned.entry((tenant.clone(), one.redaction)).or_default() += destroyed;
            }
        }
        Ok(replayed)
    }

    /// What the log says was erased, by commitment.
    fn erased_commitments(&self, tenant: &TenantName) -> Result<BTreeSet<String>, EraseError> {
        let mut gone = BTreeSet::new();
        self.erasures(|of, body| {
            if of == *tenant {
                gone.extend(body.commitments);
            }
        })?;
        Ok(gone)
    }

    /// Shows every leaf about an erasure, from the beginning of the log: what was passed over would come back.
    fn erasures(&self, mut visit: impl FnMut(TenantName, Body)) -> Result<(), EraseError> {
        let shared = &self.shared;
        walk_needed(&shared.dir, &shared.segments, (None, shared.progress.end()), |at, of, leaf, _| {
            let damaged = || ReadError::Damaged(at);
            if may_be_erasure(leaf) && is_erasure(Parsed::from_bytes(leaf).map_err(|_| damaged())?.body.kind) {
                let body = serde_json::from_slice::<Leaf>(leaf).map_err(|_| damaged())?.body;
                visit(of.parse().map_err(|_| damaged())?, body);
            }
            Ok::<_, EraseError>(true)
        })
    }
}
