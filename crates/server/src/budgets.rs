//! Budgets as they were: every reservation is in the ledger, and so is every settlement.

use std::collections::{HashMap, HashSet};

use cogward_budget::{Budgets, Scope};
use cogward_evidence::{DecidedOrCompleted, Evidence, ReadError};
use cogward_gateway::Tally;
use cogward_model::{RunId, action::Amounts, event::EventType};

/// Books what the ledger says was reserved and used. A reservation without an outcome counts in full:
/// its effect may have happened. Says what each run that lives on was let do, and not, under earlier planes.
///
/// # Errors
/// [`ReadError`]; a plane that does not know its budgets must not admit anything.
pub(crate) fn restore(
    evidence: &Evidence,
    budgets: &Budgets,
    live: &HashSet<RunId>,
) -> Result<HashMap<RunId, Tally>, ReadError> {
    let mut tallies: HashMap<RunId, Tally> = HashMap::new();
    let mut open: HashMap<String, (Amounts, Vec<Scope>)> = HashMap::new();
    let mut runs: HashSet<Scope> = HashSet::new();
    evidence.replay_decisions(&mut |leaf| match leaf {
        DecidedOrCompleted::Decided { kind, permitted, id, run, reserved, budget, .. } => {
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
        DecidedOrCompleted::Completed { used, refs, .. } => {
            for decision in refs {
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
        let tallies = restore(&evidence, &budgets, &HashSet::from([run])).unwrap();
        let used = budgets.balance(&Scope::run(run)).used;
        assert_eq!((used.connections, used.egress_bytes), (2, 100 + 200 + 400 + 7), "what is not known counts in full");
        assert_eq!(tallies.get(&run).map(|tally| tally.connections), Some(2), "an instalment is no connection");
    }
}
