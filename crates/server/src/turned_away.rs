//! What was turned away at the API: credentials that are not valid, commands of auditors, and questions to the evidence that
//! were not answered.
//!
//! The first of a kind is a leaf at once, then sums, at most one leaf a minute of each kind: who guesses credentials does not
//! fill the ledger, and no refusal is left out of a sum. A kind names only what is registered here: an operator that the
//! credential claims to be of, or nobody, a tenant, and a route as it is written in the table, never what was sent.

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
    /// A question to the evidence: the route, the problem that was answered, and whose evidence it is.
    Read(OperatorId, &'static str, &'static str, Option<TenantName>),
}

impl Kind {
    /// What it is counted as when too many kinds are told apart.
    fn wider(self) -> Self {
        match self {
            Self::Login(_) | Self::Role(..) => Self::Login(None),
            // There are no more of these than operators and problems.
            Self::Read(operator, _, code, _) => Self::Read(operator, "", code, None),
        }
    }
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
        let kind = if counts.len() < KINDS_MAX || counts.contains_key(&kind) { kind } else { kind.wider() };
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

    /// Counts a question to the evidence that was answered with a problem.
    pub(crate) fn read(
        &self,
        operator: &Operator,
        route: &'static str,
        code: &'static str,
        tenant: Option<TenantName>,
    ) {
        self.add(Kind::Read(operator.id, route, code, tenant), Some(operator));
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
            let log = match &kind {
                Kind::Read(.., Some(tenant)) => tenant.clone(),
                _ => TenantName::default_tenant(),
            };
            let (event, name, rule) = match (&kind, &operator) {
                (Kind::Role(_, command), Some(operator)) => (
                    by_operator(EventType::OperatorCommandRefused, log.clone(), operator, None)
                        .public("command", command.as_str())
                        .public("decision", "block"),
                    "operator.command_refused",
                    "operator.role",
                ),
                (Kind::Login(claimed), _) => (refused_login(*claimed), "operator.login_refused", "credential"),
                (Kind::Read(_, route, code, _), Some(operator)) => (
                    by_operator(EventType::QueryFailed, log.clone(), operator, None)
                        .public("command", format!("GET {route}").trim_end())
                        .public("code", *code),
                    "evidence.query_failed",
                    *code,
                ),
                // Not made: both are counted with their operator.
                (Kind::Role(claimed, _) | Kind::Read(claimed, ..), None) => {
                    (refused_login(Some(*claimed)), "operator.login_refused", "credential")
                }
            };
            let event = if matches!(kind, Kind::Read(..)) { event } else { event.public("rule", rule) };
            let event = event.public("count", count).public("total", total);
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

    #[test]
    fn questions_that_fail_are_told_apart_as_long_as_they_are_few_and_never_as_somebodys_credential() {
        let away = TurnedAway::default();
        let id = OperatorId::from_bytes([7; 16]);
        let ask = |code, tenant: &str| away.add(Kind::Read(id, "/search", code, tenant.parse().ok()), None);
        for _ in 0..1_000 {
            ask("not_found", "acme");
        }
        ask("invalid_request", "acme");
        ask("not_found", "No Tenant");
        let due = |all| away.due(all).into_iter().map(|(kind, _, n, _)| (kind, n)).collect::<Vec<_>>();
        let of = |code, tenant: Option<&str>| Kind::Read(id, "/search", code, tenant.map(|name| name.parse().unwrap()));
        assert_eq!(
            due(false),
            [
                (of("invalid_request", Some("acme")), 1),
                (of("not_found", None), 1),
                (of("not_found", Some("acme")), 1_000)
            ]
        );
        // Of more tenants than are told apart all questions are in the sums, as this operator's.
        (0..2 * KINDS_MAX).for_each(|n| ask("not_found", &format!("t{n}")));
        let rest = due(true);
        assert_eq!(rest.iter().map(|(_, n)| n).sum::<u64>(), 2 * KINDS_MAX as u64);
        assert!(rest.iter().all(|(kind, _)| matches!(kind, Kind::Read(by, ..) if *by == id)));
        assert!(
            rest.len() <= KINDS_MAX + 1 && rest.iter().any(|(kind, _)| *kind == Kind::Read(id, "", "not_found", None))
        );
    }
}
