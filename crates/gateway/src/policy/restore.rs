//! The history as it was: what each record says that its call added, and how the call ended.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use cogward_model::{AgentName, RunId, TenantName, Timestamp, id::EventId};
use cogward_policy::Tracker as Declared;

use super::{
    active::tracker,
    history::{Added, Ended, History, Who},
};

/// Names that are kept before it is looked whose are still needed.
const NAMES_MAX: usize = 262_144;

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
    /// What that name can be read from again, for what is carried to the next start.
    pub name: Option<Arc<str>>,
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
    pub(super) history: &'a History,
    pub(super) open: HashMap<EventId, Open>,
    /// From what the names of users can be read again, the newest of each.
    pub(super) names: HashMap<(TenantName, Arc<str>), Arc<str>>,
}

/// A call that has not ended yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) who: Who,
    pub(super) added: Added,
    pub(super) time: Timestamp,
}

impl History {
    /// Begins to rebuild it. Nothing may be decided before everything was read.
    #[must_use]
    pub fn restoring(&self) -> Restoring<'_> {
        Restoring { history: self, open: HashMap::new(), names: HashMap::new() }
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
            Ok(added) => {
                if let (Some(user), Some(name)) = (&who.user, &earlier.name) {
                    self.names.insert((who.tenant.clone(), Arc::clone(user)), Arc::clone(name));
                    if self.names.len() > NAMES_MAX {
                        let history = self.history;
                        self.names.retain(|(tenant, user), _| history.counts_for(tenant, user));
                    }
                }
                self.open.insert(earlier.decision, Open { who, added, time: earlier.time });
            }
            // More than there is room for: what is not known must not be taken for nothing.
            Err(_) => self.history.lose(earlier.tenant),
        }
    }

    /// A call ended.
    pub fn ended(&mut self, decision: EventId, how: Ended, time: Timestamp) {
        if let Some(open) = self.open.remove(&decision) {
            self.history.ended(&open.who, &open.added, how, time);
        }
    }
}
