//! What is known of the logs from elsewhere, at start: the state of the plane remembers how far each log was on the disk.
//!
//! The ledger's own checkpoints can be removed with what they signed. The state lies in another file and was only told of
//! leaves that were flushed, so a log that does not reach what it saw, or has another root there, was rolled back or replaced.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use cogward_ledger::{Hash, text::base64_hash};
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
};
use cogward_wal::Torn;

use crate::{
    OpenError, checkpoint,
    plane::LogName,
    queue::Item,
    record::{Evidence, RecordError, Shared},
};

/// Checkpoint files that one finding names; the count says how many there are.
const NAMED_MAX: usize = 16;

/// What was seen of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Leaves that were on the disk.
    pub size: u64,
    /// The newest signed state: its size, and its root in base64.
    pub signed: Option<(u64, String)>,
}

/// What was seen of all logs.
#[derive(Debug, Clone, Default)]
pub struct SeenLogs {
    tenants: HashMap<TenantName, Seen>,
    plane: Option<Seen>,
}

impl SeenLogs {
    /// Adds what was seen of a log.
    pub fn insert(&mut self, log: LogName, seen: Seen) {
        match log {
            LogName::Plane => self.plane = Some(seen),
            LogName::Tenant(tenant) => drop(self.tenants.insert(tenant, seen)),
        }
    }

    pub(crate) fn tenant(&self, tenant: &TenantName) -> Option<&Seen> {
        self.tenants.get(tenant)
    }

    pub(crate) fn plane(&self) -> Option<&Seen> {
        self.plane.as_ref()
    }

    /// The same for a part of the log, which need not reach as far: the roots alone.
    pub(crate) fn roots(&self) -> Self {
        let roots = |seen: &Seen| Seen { size: 0, ..seen.clone() };
        let tenants = self.tenants.iter().map(|(tenant, seen)| (tenant.clone(), roots(seen))).collect();
        Self { tenants, plane: self.plane.as_ref().map(roots) }
    }

    /// Whether every log reaches what was seen of it.
    pub(crate) fn reached(
        &self,
        tenant_leaves: impl Fn(&TenantName) -> u64,
        plane_leaves: u64,
    ) -> Result<(), OpenError> {
        for (tenant, seen) in &self.tenants {
            let leaves = tenant_leaves(tenant);
            if leaves < seen.size {
                return Err(OpenError::Lost { log: LogName::Tenant(tenant.clone()), leaves, seen: seen.size });
            }
        }
        match &self.plane {
            Some(seen) if plane_leaves < seen.size => {
                Err(OpenError::Lost { log: LogName::Plane, leaves: plane_leaves, seen: seen.size })
            }
            _ => Ok(()),
        }
    }
}

impl Seen {
    /// Refuses a log that has another root at the size that was seen with one.
    pub(crate) fn holds(
        &self,
        log: impl FnOnce() -> LogName,
        size: u64,
        root: impl FnOnce() -> Hash,
    ) -> Result<(), OpenError> {
        match &self.signed {
            Some((signed, seen)) if *signed == size && *seen != base64_hash(&root()) => {
                Err(OpenError::Replaced { log: log(), size })
            }
            _ => Ok(()),
        }
    }
}

/// The newest signed state of every log.
#[derive(Debug, Default)]
pub(crate) struct NewestSigned(Mutex<HashMap<LogName, (u64, Hash)>>);

impl NewestSigned {
    pub(crate) fn told(&self, log: &LogName, size: u64, root: Hash) {
        if size > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(log.clone(), (size, root));
        }
    }
}

impl Evidence {
    /// The newest signed state of every log, each with its leaves on the disk: what a start may hold the ledger to.
    #[must_use]
    pub fn signed_states(&self) -> Vec<(LogName, Seen)> {
        let newest = self.shared.newest.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = |(size, root): &(u64, Hash)| Seen { size: *size, signed: Some((*size, base64_hash(root))) };
        let mut states: Vec<_> = newest.iter().map(|(log, state)| (log.clone(), seen(state))).collect();
        states.sort_by(|a, b| a.0.cmp(&b.0));
        states
    }

    /// Signs every log that has news: at a clean stop, so that the state can be told of all of it.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub async fn sign_all(&self) -> Result<(), RecordError> {
        for (log, _) in self.signed_states() {
            if let LogName::Tenant(tenant) = log {
                self.checkpoint(&tenant).await?;
            }
        }
        Ok(())
    }
}

/// Says that a torn tail was cut. Where a file with a last checkpoint is missing, nothing proves that none of it was signed.
pub(crate) fn note_recovery(shared: &Shared, torn: Torn, is_proven: bool) {
    if is_proven {
        tracing::warn!(at = %torn.at, bytes = torn.bytes, "a torn tail was cut; it is above every signed checkpoint");
    } else {
        tracing::warn!(
            at = %torn.at,
            bytes = torn.bytes,
            "a torn tail was cut; a file with a last checkpoint is missing, so it cannot be said whether any of it was signed"
        );
    }
    let event = Event::new(EventType::LedgerRecovered, TenantName::default_tenant(), Attribution::plane())
        .public("segment", torn.at.segment)
        .public("offset", torn.at.offset)
        .public("cut_bytes", torn.bytes);
    match shared.prepare(&event, shared.mint()) {
        Ok(append) => drop(shared.queue.push(Item::Append(Box::new(append)))),
        Err(error) => tracing::error!(%error, "the recovery could not be recorded"),
    }
}

/// Says which logs have leaves and no file with their last checkpoint, although there was one. Then nothing of the ledger
/// itself shows whether its end was cut.
pub(crate) fn note_missing_checkpoints(shared: &Arc<Shared>, missing: &[LogName], seen: &SeenLogs) {
    let mut proven = Vec::new();
    for log in missing {
        let file = checkpoint::path(&shared.dir, log);
        tracing::warn!(
            file = %file.display(),
            "{log} has leaves and the file with its last checkpoint is missing: whether its end was cut cannot be seen from it"
        );
        let known = match log {
            LogName::Plane => seen.plane(),
            LogName::Tenant(tenant) => seen.tenant(tenant),
        };
        if known.is_some_and(|seen| seen.signed.is_some()) {
            proven.push(log.to_string());
        }
    }
    if proven.is_empty() {
        return;
    }
    let detail = format!(
        "the file with the last checkpoint was removed: {}{}",
        proven.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", "),
        if proven.len() > NAMED_MAX { ", and more" } else { "" },
    );
    finding(shared, "checkpoint_missing", detail);
}

/// Records something that somebody should look into, found while the ledger was opened.
pub(crate) fn finding(shared: &Arc<Shared>, finding: &'static str, detail: String) {
    shared.alarms.raise(finding, detail.clone());
    let event = Event::new(EventType::SecurityFinding, TenantName::default_tenant(), Attribution::plane())
        .public("basis", vec!["plane"])
        .public("finding", finding)
        .public("detail", detail);
    match shared.prepare(&event, shared.mint()) {
        Ok(append) => drop(shared.queue.push(Item::Append(Box::new(append)))),
        Err(error) => tracing::error!(%error, finding, "a finding could not be recorded"),
    }
}
