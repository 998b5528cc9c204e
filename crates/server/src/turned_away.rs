//! What was turned away at the API before any handler saw it: credentials that are not valid, and commands of auditors.
//!
//! The first of a kind is a leaf at once, then sums, at most one leaf a minute of each kind: who guesses credentials does not
//! fill the ledger, and no refusal is left out of a sum. A kind names only what is registered here: an operator that the
//! credential claims to be of, or nobody, and a route as it is written in the table, never what was sent.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
    id::OperatorId,
};
use tokio::sync::Notify;

use crate::{
    events::by_operator,
    plane::{App, Plane},
};

/// Time between two leaves of the same kind.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked which sums are to be told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Kinds that are told apart; the others are counted together. More would take more operators than planes have.
const KINDS_MAX: usize = 4_096;

/// What was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// A credential, by the operator whose it claims to be, where there is such an operator.
    Login(Option<OperatorId>),
    /// A command of somebody who only reads: the method and the route.
    Role(OperatorId, String),
}

#[derive(Debug, Default)]
struct Count {
    total: u64,
    told: u64,
    /// When it was told last.
    told_at: Option<Instant>,
    /// Who it was, for the record.
    operator: Option<Operator>,
}

/// Counts by kind.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    counts: Mutex<HashMap<Kind, Count>>,
    more: Notify,
}

impl TurnedAway {
    fn add(&self, kind: Kind, operator: Option<&Operator>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if counts.len() < KINDS_MAX || counts.contains_key(&kind) { kind } else { Kind::Login(None) };
        let count = counts.entry(kind).or_default();
        count.total += 1;
        if count.operator.is_none() {
            count.operator = operator.cloned();
        }
        drop(counts);
        self.more.notify_one();
    }

    /// Counts a credential that is not valid, by the operator whose it claims to be.
    pub(crate) fn login(&self, claimed: Option<OperatorId>) {
        self.add(Kind::Login(claimed), None);
    }

    /// Counts a command of an operator who may only read.
    pub(crate) fn role(&self, operator: &Operator, method: &http::Method, route: &str) {
        self.add(Kind::Role(operator.id, format!("{method} {route}")), Some(operator));
    }

    /// What is not told yet: how many since, and how many in all. Of kinds that were told less than `TOLD_EVERY` ago only
    /// where all is to be told.
    fn due(&self, all: bool) -> Vec<(Kind, Option<Operator>, u64, u64)> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for (kind, count) in counts.iter_mut().filter(|(_, count)| count.total > count.told) {
            if !all && count.told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
                continue;
            }
            count.told_at = Some(Instant::now());
            due.push((kind.clone(), count.operator.clone(), count.total - count.told, count.total));
            count.told = count.total;
        }
        due.sort_by(|a, b| a.0.cmp(&b.0));
        due
    }

    /// Records what is not recorded yet and due, or all of it.
    pub(crate) fn tell(&self, plane: &Plane, all: bool) {
        for (kind, operator, count, total) in self.due(all) {
            let log = TenantName::default_tenant();
            let (event, name, rule) = match (&kind, &operator) {
                (Kind::Role(_, command), Some(operator)) => (
                    by_operator(EventType::OperatorCommandRefused, log.clone(), operator, None)
                        .public("command", command.as_str())
                        .public("decision", "block"),
                    "operator.command_refused",
                    "operator.role",
                ),
                (Kind::Login(claimed), _) => (refused_login(*claimed), "operator.login_refused", "credential"),
                // Not made: a role is counted with its operator.
                (Kind::Role(claimed, _), None) => {
                    (refused_login(Some(*claimed)), "operator.login_refused", "credential")
                }
            };
            let event = event.public("rule", rule).public("count", count).public("total", total);
            if let Err(error) = plane.evidence.note(event) {
                tracing::error!(%error, "what was turned away is not recorded");
            }
            let notice = JournalEvent::tenant(name, log).severity(Severity::Warning);
            plane.journal.publish(notice.detail(serde_json::json!({ "rule": rule, "count": count, "total": total })));
        }
    }
}

fn refused_login(claimed: Option<OperatorId>) -> Event {
    Event::new(EventType::OperatorLoginRefused, TenantName::default_tenant(), Attribution::plane())
        .public("basis", vec!["plane"])
        .public("operator", claimed.map(|id| id.to_string()))
}

/// Tells until the plane goes down.
pub(crate) async fn keep_telling(app: App) {
    loop {
        tokio::select! {
            () = app.closing.cancelled() => return,
            () = app.turned_away.more.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        app.turned_away.tell(&app, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_and_kinds_are_few() {
        let away = TurnedAway::default();
        for _ in 0..1_000 {
            away.login(None);
        }
        let counts =
            |away: &TurnedAway| away.due(true).into_iter().map(|(_, _, n, total)| (n, total)).collect::<Vec<_>>();
        assert_eq!(counts(&away), [(1_000, 1_000)]);
        assert!(counts(&away).is_empty());
        away.login(None);
        assert!(away.due(false).is_empty(), "within the minute");
        assert_eq!(counts(&away), [(1, 1_001)]);
        for n in 0..2 * KINDS_MAX as u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            away.login(Some(OperatorId::from_bytes(id)));
        }
        let due = away.due(true);
        assert_eq!(due.len(), KINDS_MAX);
        assert_eq!(due.iter().map(|(_, _, n, _)| n).sum::<u64>(), 2 * KINDS_MAX as u64);
    }
}
