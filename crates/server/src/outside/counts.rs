//! What was refused at the door, as evidence: the first of a kind at once, then sums. No refusal is left out of a sum.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    TenantName, UpstreamName,
    event::{Attribution, Event, EventType},
};
use tokio::sync::Notify;

use crate::plane::Plane;

/// Time between two leaves of the same kind of refusal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What was refused: whose door, by which rule, and which issuer's token it was, where that is known.
pub(crate) type Kind = (TenantName, &'static str, Option<UpstreamName>);

/// Refusals by kind. Tenants and issuers are those that are registered, so there are few kinds.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    counts: Mutex<HashMap<Kind, Count>>,
    more: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    total: u64,
    told: u64,
}

impl Refusals {
    /// Counts one.
    pub(crate) fn add(&self, kind: Kind) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.entry(kind).or_default().total += 1;
        drop(counts);
        self.more.notify_one();
    }

    /// What is not told yet: how many since, and how many in all.
    fn due(&self) -> Vec<(Kind, u64, u64)> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for (kind, count) in counts.iter_mut().filter(|(_, count)| count.total > count.told) {
            due.push((kind.clone(), count.total - count.told, count.total));
            count.told = count.total;
        }
        due
    }

    /// Records what is not recorded yet.
    pub(crate) fn tell(&self, plane: &Plane) {
        for ((tenant, rule, issuer), count, total) in self.due() {
            let event = Event::new(EventType::OutsideRefused, tenant.clone(), Attribution::plane())
                .public("basis", vec!["outside"])
                .public("decision", "block")
                .public("rule", rule)
                .public("issuer", issuer.as_ref().map(ToString::to_string))
                .public("count", count)
                .public("total", total);
            if let Err(error) = plane.evidence.note(event) {
                tracing::error!(%error, "refusals of clients outside are not recorded");
            }
            let detail = serde_json::json!({ "rule": rule, "issuer": issuer, "count": count, "total": total });
            let notice = JournalEvent::tenant("outside.refused", tenant).severity(Severity::Warning);
            plane.journal.publish(notice.detail(detail));
        }
    }

    /// Tells until the plane goes down.
    pub(crate) async fn keep_telling(&self, plane: &Plane) {
        loop {
            tokio::select! {
                () = plane.closing.cancelled() => return,
                () = self.more.notified() => {}
            }
            self.tell(plane);
            tokio::select! {
                () = plane.closing.cancelled() => return,
                () = tokio::time::sleep(TOLD_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        let refusals = Refusals::default();
        let kind = (TenantName::default_tenant(), "token.exp", None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| refusals.add(kind.clone())));
            }
        });
        refusals.add((TenantName::default_tenant(), "token.aud", None));
        let mut due = refusals.due();
        due.sort_by_key(|(_, count, _)| *count);
        assert_eq!(due.iter().map(|(_, count, total)| (*count, *total)).collect::<Vec<_>>(), [(1, 1), (4_000, 4_000)]);
        assert!(refusals.due().is_empty());
        refusals.add(kind);
        assert_eq!(refusals.due().first().map(|(_, count, total)| (*count, *total)), Some((1, 4_001)));
    }
}
