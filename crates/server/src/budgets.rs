//! Budgets and counts as they were: every reservation is in the ledger, and so is every settlement, and every record
//! says what its call added to what policies count.
//!
//! So that a start need not read all of it, what it comes to is carried from time to time ([`carry`]): made from the
//! records alone, by the same code, and never from what the plane has in memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use cogward_budget::{Budgets, Scope};
use cogward_evidence::{Carried, Committed, DecidedOrCompleted, Evidence, Kept, Mark, ReadError, SealedName};
use cogward_gateway::{
    Tally,
    policy::{
        Earlier, Ended, History, Restoring,
        carried::{HistoryImage, OPEN_FOR},
    },
};
use cogward_model::{RunId, TenantName, Timestamp, action::Amounts, event::EventType, id::EventId};
use serde::{Deserialize, Serialize};

const FORM: u64 = 1;

/// What the records up to some place come to.
struct Account<'h> {
    used: HashMap<Scope, Amounts>,
    open: HashMap<EventId, Held>,
    tallies: HashMap<RunId, Tally>,
    history: Restoring<'h>,
    /// Behind which record; none before the first.
    mark: Option<Mark>,
}

/// What a decision holds until its outcome.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    time: Timestamp,
    reserved: Amounts,
    scopes: Vec<Scope>,
}

/// An account as a text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    form: u64,
    used: Vec<(Scope, Amounts)>,
    open: Vec<(EventId, Held)>,
    tallies: Vec<(RunId, Tally)>,
    history: HistoryImage,
}

/// Why nothing was carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("it has no text: {0}")]
    Text(#[from] serde_json::Error),
    #[error("it cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// Books what the ledger says was reserved and used. A reservation without an outcome counts in full:
/// its effect may have happened. Says what each run that lives on was let do, and not, under earlier planes.
///
/// # Errors
/// [`ReadError`]; a plane that does not know its budgets must not admit anything.
pub(crate) fn restore(
    evidence: &Evidence,
    budgets: &Budgets,
    history: &History,
    live: &HashSet<RunId>,
) -> Result<HashMap<RunId, Tally>, ReadError> {
    let account = Account::read(evidence, evidence.committed(), history, live)?;
    for (scope, used) in account.used_by(live) {
        budgets.charge(scope, used);
    }
    Ok(account.tallies)
}

/// Keeps for the next start what the records up to `upto` come to. `live` are the runs that were not closed at some
/// moment after that place was looked up: a run that is missing there has ended.
///
/// # Errors
/// [`CarryError`]; the next start reads more.
pub(crate) fn carry(
    evidence: &Evidence,
    upto: Committed,
    live: &HashSet<RunId>,
    now: Timestamp,
) -> Result<(), CarryError> {
    let history = History::default();
    let account = Account::read(evidence, upto, &history, live)?;
    let Some(mark) = &account.mark else { return Ok(()) };
    let late = now.unix_micros().saturating_sub(OPEN_FOR.as_micros().try_into().unwrap_or(u64::MAX));
    let image = Image {
        form: FORM,
        used: account.used_by(live).map(|(scope, used)| (scope.clone(), used)).collect(),
        history: account.history.image(&|run| live.contains(&run), now),
        open: account
            .open
            .into_iter()
            .filter(|(_, held)| held.is_of(live) || held.time.unix_micros() >= late)
            .collect(),
        tallies: account.tallies.into_iter().filter(|(run, _)| live.contains(run)).collect(),
    };
    Ok(evidence.carry(mark, &serde_json::to_vec(&image)?)?)
}

impl Held {
    fn is_of(&self, live: &HashSet<RunId>) -> bool {
        self.scopes.iter().any(|scope| is_of(scope, live))
    }
}

/// Whether a scope is one of these runs.
fn is_of(scope: &Scope, live: &HashSet<RunId>) -> bool {
    scope.as_str().strip_prefix("run:").and_then(|run| run.parse().ok()).is_some_and(|run| live.contains(&run))
}

impl<'h> Account<'h> {
    /// What was carried and the records behind it, or all records.
    fn read(
        evidence: &Evidence,
        upto: Committed,
        history: &'h History,
        live: &HashSet<RunId>,
    ) -> Result<Self, ReadError> {
        let mut account = match evidence.carried().map(|carried| Self::resumed(evidence, carried, history, live)) {
            Some(Ok(account)) => account,
            none => {
                if let Some(Err(error)) = none {
                    tracing::warn!(
                        error,
                        "what was carried from the last plane is not used; all decisions are read again"
                    );
                    history.clear();
                }
                let history = history.restoring();
                Self { used: HashMap::new(), open: HashMap::new(), tallies: HashMap::new(), history, mark: None }
            }
        };
        let after = account.mark.take();
        account.mark = evidence.replay_decisions(after.as_ref(), upto, &mut |leaf| account.book(leaf, live))?;
        account.tallies.retain(|run, _| live.contains(run));
        Ok(account)
    }

    fn resumed(
        evidence: &Evidence,
        carried: Carried,
        history: &'h History,
        live: &HashSet<RunId>,
    ) -> Result<Self, String> {
        let image: Image = serde_json::from_slice(&carried.text).map_err(|error| error.to_string())?;
        if image.form != FORM {
            return Err("it is of another version".to_owned());
        }
        let mut unread = None;
        let mut names = |tenant: &TenantName, name: &str| {
            let name: SealedName = serde_json::from_str(name).ok()?;
            match evidence.open_name(tenant, &name) {
                Ok(Kept::Known(name)) => Some(name),
                Ok(Kept::Nothing | Kept::Lost) => None,
                Err(error) => {
                    unread = Some(error.to_string());
                    None
                }
            }
        };
        let history = history.resuming(image.history, &|run| live.contains(&run), &mut names);
        let history = history.map_err(|error| error.to_string())?;
        if let Some(error) = unread {
            return Err(error);
        }
        Ok(Self {
            used: image.used.into_iter().collect(),
            open: image.open.into_iter().collect(),
            tallies: image.tallies.into_iter().collect(),
            history,
            mark: Some(carried.upto),
        })
    }

    /// What was used, in scopes that go on.
    fn used_by<'a>(&'a self, live: &'a HashSet<RunId>) -> impl Iterator<Item = (&'a Scope, Amounts)> {
        let goes_on = |(scope, _): &(&Scope, &Amounts)| scope.kind() != "run" || is_of(scope, live);
        self.used.iter().filter(goes_on).map(|(scope, used)| (scope, *used))
    }

    fn book(&mut self, leaf: &DecidedOrCompleted, live: &HashSet<RunId>) {
        match leaf {
            DecidedOrCompleted::Decided { kind, permitted, id, run, reserved, budget, time, .. } => {
                count_again(&mut self.history, leaf, live);
                if let Some(run) = run.filter(|run| live.contains(run)) {
                    // A further instalment of bytes on a connection is no connection.
                    let more = reserved.egress_bytes > 0 && reserved.connections == 0;
                    if !(*permitted && more) {
                        count(self.tallies.entry(run).or_default(), kind, *permitted);
                    }
                }
                let scopes: Vec<Scope> = budget.iter().map(|name| Scope::from_record(name)).collect();
                if *reserved == Amounts::default() || scopes.is_empty() {
                    return;
                }
                for scope in &scopes {
                    let used = self.used.entry(scope.clone()).or_default();
                    *used = used.saturating_add(*reserved);
                }
                self.open.insert(*id, Held { time: *time, reserved: *reserved, scopes });
            }
            DecidedOrCompleted::Completed { time, used, refs, outcome, .. } => {
                let ended = match outcome.as_deref() {
                    Some("ok") => Ended::Well,
                    // As the gate settles it: nothing is charged for what certainly was not carried out.
                    Some("unknown") if *used == Amounts::default() => Ended::WithoutEffect,
                    _ => Ended::Otherwise,
                };
                for decision in refs {
                    self.history.ended(*decision, ended, *time);
                    let Some(Held { reserved, scopes, .. }) = self.open.remove(decision) else { continue };
                    for scope in &scopes {
                        // What came out may be more than was reserved; it is booked as it was.
                        let Some(booked) = self.used.get_mut(scope) else { continue };
                        *booked = booked
                            .saturating_sub(reserved.saturating_sub(*used))
                            .saturating_add(used.saturating_sub(reserved));
                    }
                }
            }
        }
    }
}

/// Books what a record says that its call added to what policies count.
fn count_again(restoring: &mut Restoring<'_>, leaf: &DecidedOrCompleted, live: &HashSet<RunId>) {
    let DecidedOrCompleted::Decided {
        permitted: true, id, tenant, run: Some(run), time, lasting: Some(lasting), ..
    } = leaf
    else {
        return;
    };
    let Some(agent) = &lasting.agent else { return };
    let nothing = BTreeMap::new();
    restoring.decided(&Earlier {
        decision: *id,
        tenant,
        run: *run,
        lives: live.contains(run),
        agent,
        subject: match &lasting.subject {
            Kept::Known(subject) => Some(subject),
            Kept::Nothing | Kept::Lost => None,
        },
        added: match &lasting.added {
            Kept::Known(added) => Some(added),
            Kept::Nothing => Some(&nothing),
            Kept::Lost => None,
        },
        name: lasting.name.as_ref().and_then(|name| serde_json::to_string(name).ok()).map(Into::into),
        labels: &lasting.labels,
        time: *time,
    });
}

fn count(tally: &mut Tally, kind: &str, permitted: bool) {
    let counter = match kind {
        _ if !permitted => &mut tally.refusals,
        kind if [EventType::ToolCallDecided, EventType::ResourceReadDecided, EventType::PromptGetDecided]
            .iter()
            .any(|decided| kind == decided.as_str()) =>
        {
            &mut tally.tool_calls
        }
        kind if kind == EventType::ModelCallDecided.as_str() => &mut tally.model_calls,
        kind if kind == EventType::EgressDecided.as_str() => &mut tally.connections,
        _ => return,
    };
    *counter += 1;
}

#[cfg(test)]
mod tests {
    use cogward_evidence::EvidenceOptions;
    use cogward_model::{
        Clock, Id, SystemClock, SystemEntropy, TenantName,
        event::{Attribution, Event, Value},
        id::EventId,
    };

    use super::*;

    fn amounts(connections: u64, egress_bytes: u64) -> Value {
        let parts = [("connections", connections), ("egress_bytes", egress_bytes)];
        Value::Map(parts.map(|(name, value)| (name.to_owned(), value.into())).into())
    }

    async fn decided(evidence: &Evidence, run: RunId, reserved: Value) -> EventId {
        let event = Event::new(EventType::EgressDecided, TenantName::default_tenant(), Attribution::plane())
            .run(run)
            .public("decision", "permit")
            .public("reserved", reserved)
            .public("budget", vec![Scope::run(run).to_string()]);
        evidence.record(event).await.unwrap().id
    }

    async fn completed(evidence: &Evidence, run: RunId, decision: EventId, used: Value) {
        let event = Event::new(EventType::EgressCompleted, TenantName::default_tenant(), Attribution::plane())
            .run(run)
            .public("refs", vec![decision.to_string()])
            .public("used", used);
        evidence.record(event).await.unwrap();
    }

    /// A connection that took three instalments and was open when the plane was killed, beside one that ended.
    #[tokio::test]
    async fn connections_and_their_bytes_are_known_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).unwrap();
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        decided(&evidence, run, amounts(1, 100)).await;
        let second = decided(&evidence, run, amounts(0, 200)).await;
        completed(&evidence, run, second, amounts(0, 200)).await;
        decided(&evidence, run, amounts(0, 400)).await;
        let other = decided(&evidence, run, amounts(1, 100)).await;
        completed(&evidence, run, other, amounts(1, 7)).await;

        let budgets = Budgets::new();
        let tallies = restore(&evidence, &budgets, &History::default(), &HashSet::from([run])).unwrap();
        let used = budgets.balance(&Scope::run(run)).used;
        assert_eq!((used.connections, used.egress_bytes), (2, 100 + 200 + 400 + 7), "what is not known counts in full");
        assert_eq!(tallies.get(&run).map(|tally| tally.connections), Some(2), "an instalment is no connection");
    }

    /// What is carried, with what came since, is what all records come to; and it is really used.
    #[tokio::test]
    async fn a_start_from_what_was_carried_is_as_one_from_all_records() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).unwrap();
        let (lives, ended): (RunId, RunId) =
            (Id::new(&SystemClock, &SystemEntropy), Id::new(&SystemClock, &SystemEntropy));
        let live = HashSet::from([lives]);
        let now = SystemClock.now();
        let seen = |used_carried: bool| {
            assert_eq!(evidence.carried().is_some(), used_carried);
            let budgets = Budgets::new();
            let tallies = restore(&evidence, &budgets, &History::default(), &live).unwrap();
            let used = [lives, ended].map(|run| budgets.balance(&Scope::run(run)).used);
            (used, tallies)
        };
        carry(&evidence, evidence.committed(), &live, now).unwrap();
        assert_eq!(seen(false).0, [Amounts::default(); 2], "of an empty log nothing is carried");

        let settled_later = decided(&evidence, lives, amounts(1, 100)).await;
        let never = decided(&evidence, lives, amounts(0, 50)).await;
        decided(&evidence, ended, amounts(1, 7)).await;
        let all = seen(false);
        carry(&evidence, evidence.committed(), &live, now).unwrap();
        assert_eq!(seen(true), all);
        assert_eq!(all.0[0].egress_bytes, 150);

        // Its reservation is in what was carried, its outcome behind it.
        completed(&evidence, lives, settled_later, amounts(1, 30)).await;
        decided(&evidence, lives, amounts(1, 1)).await;
        let used = seen(true).0;
        assert_eq!((used[0].connections, used[0].egress_bytes), (2, 30 + 50 + 1));
        carry(&evidence, evidence.committed(), &live, now).unwrap();
        assert_eq!(seen(true).0, used, "carried on from what was carried");

        // A day later the reservation of a run that goes on is still held, and one of a run that ended is not.
        let day_after = Timestamp::from_unix_micros(now.unix_micros() + 2 * 86_400_000_000);
        carry(&evidence, evidence.committed(), &live, day_after).unwrap();
        completed(&evidence, lives, never, amounts(0, 0)).await;
        assert_eq!(seen(true).0[0].egress_bytes, 30 + 1);

        // An old one is as good as a new one, and a wrong one would be seen.
        let carried = evidence.carried().unwrap();
        let text = String::from_utf8(carried.text).unwrap();
        assert!(text.contains("\"egress_bytes\":81"), "{text}");
        evidence.carry(&carried.upto, text.replace("\"egress_bytes\":81", "\"egress_bytes\":82").as_bytes()).unwrap();
        assert_eq!(seen(true).0[0].egress_bytes, 30 + 1 + 1);
        // One of a later version is not used, and all is read.
        evidence.carry(&carried.upto, text.replace("\"form\":1", "\"form\":2").as_bytes()).unwrap();
        assert_eq!(seen(true).0[0].egress_bytes, 30 + 1);
    }

    /// Names are carried as the records have them, so erasing a person takes the counts along in both.
    #[tokio::test]
    async fn counts_of_users_are_carried_under_their_sealed_names() {
        const KEY: &str = "count of tool_call per user within 3600s";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence");
        let evidence = Evidence::open(EvidenceOptions::new(path.clone())).unwrap();
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let tenant = TenantName::default_tenant();
        for subject in ["lovelace", "lovelace", "hopper"] {
            let by = Attribution {
                agent: Some(("reader".parse().unwrap(), "1".parse().unwrap())),
                subject: Some(subject.to_owned()),
            };
            let event = Event::new(EventType::ToolCallDecided, tenant.clone(), by)
                .run(run)
                .public("decision", "permit")
                .public("labels_read", vec!["personal"])
                .confidential("history", Value::Map([(KEY.to_owned(), Value::Int(1))].into()));
            evidence.record(event).await.unwrap();
        }
        let live = HashSet::from([run]);
        carry(&evidence, evidence.committed(), &live, SystemClock.now()).unwrap();
        let text = String::from_utf8(evidence.carried().unwrap().text).unwrap();
        assert!(!text.contains("lovelace") && !text.contains("hopper"), "{text}");

        let seen = || {
            let history = History::default();
            restore(&evidence, &Budgets::new(), &history, &live).unwrap();
            let agent = "reader".parse().unwrap();
            let of = |user| history.value_of(&tenant, run, Some(user), &agent, KEY).unwrap();
            (of("lovelace"), of("hopper"), history.labels_of(&tenant, run))
        };
        assert_eq!(seen(), (2, 1, vec!["personal".to_owned()]));
        let erasure = cogward_model::redaction::ErasureScope::Subject("lovelace".to_owned());
        let erasure = evidence.prepare_erasure(&tenant, &erasure).await.unwrap();
        evidence.destroy(&tenant, Id::new(&SystemClock, &SystemEntropy), &erasure.plan).await.unwrap();
        assert_eq!(seen(), (0, 1, vec!["personal".to_owned()]), "as it is without what was carried");
        std::fs::remove_file(path.join("carried")).unwrap();
        assert_eq!(seen(), (0, 1, vec!["personal".to_owned()]));
    }

    /// What was counted for a user before the plane was killed, with one call that had no effect and one in flight.
    #[tokio::test]
    async fn a_limit_that_policy_sets_survives_a_crash() {
        const KEY: &str = "count of tool_call per user within 3600s";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence");
        let evidence = Evidence::open(EvidenceOptions::new(path.clone())).unwrap();
        let (first, second): (RunId, RunId) =
            (Id::new(&SystemClock, &SystemEntropy), Id::new(&SystemClock, &SystemEntropy));
        let by = |subject: &str| Attribution {
            agent: Some(("reader".parse().unwrap(), "1".parse().unwrap())),
            subject: Some(subject.to_owned()),
        };
        let decide = async |run: RunId, subject: &str| {
            let added = Value::Map([(KEY.to_owned(), Value::Int(1))].into());
            let event = Event::new(EventType::ToolCallDecided, TenantName::default_tenant(), by(subject))
                .run(run)
                .public("decision", "permit")
                .public("labels_read", vec!["personal"])
                .confidential("history", added);
            evidence.record(event).await.unwrap().id
        };
        let end = async |run: RunId, decision: EventId, outcome: &str, used: Value| {
            let event = Event::new(EventType::ToolCallCompleted, TenantName::default_tenant(), by("ada"))
                .run(run)
                .public("refs", vec![decision.to_string()])
                .public("outcome", outcome)
                .public("used", used);
            evidence.record(event).await.unwrap();
        };
        let one = || Value::Map([("tool_calls".to_owned(), 1_u64.into())].into());
        let well = decide(first, "ada").await;
        end(first, well, "ok", one()).await;
        let without_effect = decide(second, "ada").await;
        end(second, without_effect, "unknown", Value::Map(Default::default())).await;
        decide(second, "ada").await;
        decide(second, "bob").await;
        drop(evidence);

        let evidence = Evidence::open(EvidenceOptions::new(path)).unwrap();
        let history = History::default();
        restore(&evidence, &Budgets::new(), &history, &HashSet::from([second])).unwrap();
        let tenant = TenantName::default_tenant();
        let agent = "reader".parse().unwrap();
        let seen = |run, user| history.value_of(&tenant, run, Some(user), &agent, KEY).unwrap();
        assert_eq!((seen(first, "ada"), seen(second, "ada"), seen(second, "bob"), seen(first, "eve")), (2, 2, 1, 0));
        assert_eq!(history.labels_of(&tenant, second), ["personal"]);
        assert!(history.labels_of(&tenant, first).is_empty(), "a run that has ended needs no labels");
    }
}
