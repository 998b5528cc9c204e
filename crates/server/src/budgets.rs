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
                count(tallies.entry(run).or_default(), kind, *permitted);
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
        kind if kind == EventType::ToolCallDecided.as_str() => &mut tally.tool_calls,
        kind if kind == EventType::ModelCallDecided.as_str() => &mut tally.model_calls,
        kind if kind == EventType::EgressDecided.as_str() => &mut tally.connections,
        _ => return,
    };
    *counter += 1;
}
