//! Budgets and counts as they were: every reservation is in the ledger, and so is every settlement, and every record
//! says what its call added to what policies count.

use std::collections::{BTreeMap, HashMap, HashSet};

use cogward_budget::{Budgets, Scope};
use cogward_evidence::{DecidedOrCompleted, Evidence, Kept, ReadError};
use cogward_gateway::{
    Tally,
    policy::{Earlier, Ended, History, Restoring},
};
use cogward_model::{RunId, action::Amounts, event::EventType};

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
    let mut tallies: HashMap<RunId, Tally> = HashMap::new();
    let mut open: HashMap<String, (Amounts, Vec<Scope>)> = HashMap::new();
    let mut runs: HashSet<Scope> = HashSet::new();
    let mut restoring = history.restoring();
    evidence.replay_decisions(&mut |leaf| match leaf {
        DecidedOrCompleted::Decided { kind, permitted, id, run, reserved, budget, .. } => {
            count_again(&mut restoring, leaf, live);
            if let Some(run) = run.filter(|run| live.contains(run)) {
                // A further instalment of bytes on a connection is no connection.
                let more = reserved.egress_bytes > 0 && reserved.connections == 0;
                if !(*permitted && more) {
                    count(tallies.entry(run).or_default(), kind, *permitted);
                }
            }
            let scopes: Vec<Scope> = budget.iter().map(|name| Scope::from_record(name)).collect();
            if *reserved == Amounts::default() || scopes.is_empty() {
                return;
            }
            for scope in &scopes {
                budgets.charge(scope, *reserved);
                if scope.kind() == "run" {
                    runs.insert(scope.clone());
                }
            }
            open.insert(id.to_string(), (*reserved, scopes));
        }
        DecidedOrCompleted::Completed { time, used, refs, outcome, .. } => {
            let ended = match outcome.as_deref() {
                Some("ok") => Ended::Well,
                // As the gate settles it: nothing is charged for what certainly was not carried out.
                Some("unknown") if *used == Amounts::default() => Ended::WithoutEffect,
                _ => Ended::Otherwise,
            };
            for decision in refs {
                restoring.ended(*decision, ended, *time);
                let Some((reserved, scopes)) = open.remove(&decision.to_string()) else { continue };
                for scope in &scopes {
                    // What came out may be more than was reserved; it is booked as it was.
                    budgets.refund(scope, reserved.saturating_sub(*used));
                    budgets.charge(scope, used.saturating_sub(reserved));
                }
            }
        }
    })?;
    let live: HashSet<Scope> = live.iter().map(|run| Scope::run(*run)).collect();
    for ended in runs.difference(&live) {
        budgets.close(ended);
    }
    Ok(tallies)
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
        Id, SystemClock, SystemEntropy, TenantName,
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
