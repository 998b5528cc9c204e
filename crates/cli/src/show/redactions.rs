//! Redactions, legal holds, retention.

use cogward_api::{Answered, Hold, Redaction, Retained, Retention};
use cogward_model::redaction::{ErasureScope, HoldScope, HoldState, RedactionState};

use super::{Show, time};
use crate::output::{Cell, Tone};

fn who(by: &Answered) -> Cell {
    format!("{} at {}: {}", by.by, by.at, by.reason).into()
}

fn erased(scope: Option<&ErasureScope>) -> String {
    match scope {
        None => String::new(),
        Some(ErasureScope::Subject(person)) => person.clone(),
        Some(ErasureScope::Run(run)) => run.to_string(),
        Some(ErasureScope::Field { leaf, name }) => format!("{name} of leaf {leaf}"),
    }
}

fn kept(scope: Option<&HoldScope>) -> String {
    match scope {
        None => String::new(),
        Some(HoldScope::Subject(person)) => person.clone(),
        Some(HoldScope::Run(run)) => run.to_string(),
        Some(HoldScope::Agent(agent)) => agent.to_string(),
        Some(HoldScope::Window { from, until: None }) => format!("from {from}"),
        Some(HoldScope::Window { from, until: Some(until) }) => format!("from {from} until {until}"),
    }
}

impl Show for Redaction {
    const PLURAL: &'static str = "redactions";
    const HEAD: &'static [&'static str] = &["ID", "STATE", "SCOPE", "WHAT", "GROUND", "VALUES", "REQUESTED BY", "AT"];
    fn row(&self) -> Vec<Cell> {
        let tone = match self.state {
            RedactionState::Requested | RedactionState::Approved | RedactionState::Executing => Tone::Warn,
            RedactionState::Denied => Tone::Bad,
            RedactionState::Executed => Tone::Good,
        };
        vec![
            Cell::from(&self.id),
            Cell::toned(self.state.as_str(), tone),
            self.kind.as_str().into(),
            erased(self.scope.as_ref()).into(),
            self.ground.as_str().into(),
            self.values.into(),
            self.requested.by.as_str().into(),
            time(self.requested.at),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).take(6).collect();
        all.push(("REQUESTED", who(&self.requested)));
        let answer = if self.state == RedactionState::Denied { "DENIED" } else { "APPROVED" };
        all.extend(self.answered.as_ref().map(|by| (answer, who(by))));
        all.extend(self.executed.as_ref().map(|by| ("EXECUTED", who(by))));
        all
    }
}

impl Show for Hold {
    const PLURAL: &'static str = "legal holds";
    const HEAD: &'static [&'static str] = &["ID", "STATE", "SCOPE", "WHAT", "REQUESTED BY", "AT"];
    fn row(&self) -> Vec<Cell> {
        let tone = match self.state {
            HoldState::Requested | HoldState::Releasing => Tone::Warn,
            HoldState::Placed => Tone::Good,
            HoldState::Released => Tone::Plain,
        };
        vec![
            Cell::from(&self.id),
            Cell::toned(self.state.as_str(), tone),
            self.kind.as_str().into(),
            kept(self.scope.as_ref()).into(),
            self.requested.by.as_str().into(),
            time(self.requested.at),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).take(4).collect();
        all.push(("REQUESTED", who(&self.requested)));
        let steps = [("PLACED", &self.placed), ("RELEASE ASKED", &self.releasing), ("RELEASED", &self.released)];
        all.extend(steps.into_iter().filter_map(|(step, by)| Some((step, who(by.as_ref()?)))));
        all
    }
}

impl Show for Retained {
    const PLURAL: &'static str = "runs with values that are due";
    const HEAD: &'static [&'static str] = &["RUN", "AGENT", "KEPT DAYS", "VALUES"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.run), Cell::from(&self.agent), u64::from(self.retention_days).into(), self.values.into()]
    }
    fn name(&self) -> String {
        self.run.to_string()
    }
}

impl Show for Retention {
    const PLURAL: &'static str = "retentions";
    const HEAD: &'static [&'static str] = &["TENANT", "VALUES", "HELD", "RUNS"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.tenant), self.values.into(), self.held.into(), (self.runs.len() as u64).into()]
    }
    fn name(&self) -> String {
        self.redactions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
