//! The history as it was: what each record says that its call added, and how the call ended.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use cogward_model::{AgentName, RunId, TenantName, Timestamp, id::EventId};
use cogward_policy::Tracker as Declared;

use super::{
    active::tracker,
    history::{Added, Ended, History, Who},
};

/// What a decision left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier<'a> {
    /// The decision.
    pub decision: EventId,
    /// Whose.
    pub tenant: &'a TenantName,
    /// The run.
    pub run: RunId,
    /// Whether that run lives on.
    pub lives: bool,
    /// The agent.
    pub agent: &'a AgentName,
    /// The user for whom it acted; none also for one whose key was destroyed: the counts of before are nobody's.
    pub subject: Option<&'a str>,
    /// What it added to which counts; none when that cannot be read any more.
    pub added: Option<&'a BTreeMap<String, i64>>,
    /// The labels of what it read.
    pub labels: &'a [String],
    /// When.
    pub time: Timestamp,
}

/// Rebuilds the history of a plane from its records, in their order.
#[derive(Debug)]
pub struct Restoring<'a> {
    history: &'a History,
    open: HashMap<EventId, (Who, Added)>,
}

impl History {
    /// Begins to rebuild it. Nothing may be decided before everything was read.
    #[must_use]
    pub fn restoring(&self) -> Restoring<'_> {
        Restoring { history: self, open: HashMap::new() }
    }
}

impl Restoring<'_> {
    /// A call was let through.
    pub fn decided(&mut self, earlier: &Earlier<'_>) {
        let Some(added) = earlier.added else {
            tracing::error!(tenant = %earlier.tenant, decision = %earlier.decision, "a count cannot be read");
            return self.history.lose(earlier.tenant);
        };
        let who = Who {
            tenant: earlier.tenant.clone(),
            run: earlier.run,
            user: earlier.subject.map(Arc::from),
            agent: earlier.agent.clone(),
        };
        if earlier.lives {
            self.history.reads(&who, earlier.labels);
        }
        let mut adds = Vec::with_capacity(added.len());
        for (key, amount) in added {
            // A key is a tracker without its name.
            let Ok(declared) = Declared::parse(&format!("t = {key}")) else {
                tracing::error!(tenant = %earlier.tenant, decision = %earlier.decision, "a count is not known here");
                return self.history.lose(earlier.tenant);
            };
            let tracker = tracker(&declared);
            if earlier.lives || !who.is_of_run(&tracker) {
                adds.push((tracker, *amount));
            }
        }
        if adds.is_empty() {
            return;
        }
        match self.history.book(&who, adds, earlier.time) {
            Ok(booked) => drop(self.open.insert(earlier.decision, (who, booked))),
            // More than there is room for: what is not known must not be taken for nothing.
            Err(_) => self.history.lose(earlier.tenant),
        }
    }

    /// A call ended.
    pub fn ended(&mut self, decision: EventId, how: Ended, time: Timestamp) {
        if let Some((who, added)) = self.open.remove(&decision) {
            self.history.ended(&who, &added, how, time);
        }
    }
}
