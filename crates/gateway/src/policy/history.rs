//! What was done before: counts and sums that policies read, and the labels of data that was read.
//!
//! A decision and what it adds are one step under the lock of the tenant, which nothing awaits under. What is in
//! flight counts; what certainly had no effect is taken back. A call that is decided again after a restart finds
//! the same sums: each record says what its call added ([`super::restore`]).
//!
//! Memory is bounded: a window is kept in buckets, and a tenant has a bounded number of sums. When they are all in
//! use, a call that needs one more is blocked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use cogward_model::{AgentName, RunId, TenantName, Timestamp};

use super::window::{Edge, Sum};

/// Sums and sets of labels that one tenant may have.
const KEPT_MAX: usize = 32_768;

/// For whom something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// One run.
    Run,
    /// The user for whom runs act. A run without one counts for itself.
    User,
    /// All runs of an agent, whatever the version.
    Agent,
    /// All runs of a tenant.
    Tenant,
}

/// One thing that policies count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    /// The level and the canonical text of the tracker: what is the same in two versions of a set goes on.
    pub key: Arc<str>,
    /// For whom.
    pub per: Per,
    /// Over what time; for ever without one.
    pub within: Option<Duration>,
    /// Whether only what ended well counts, once it did.
    pub completed: bool,
}

/// Who acts, as the history knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The tenant.
    pub tenant: TenantName,
    /// The run.
    pub run: RunId,
    /// The user for whom it acts.
    pub user: Option<Arc<str>>,
    /// The agent.
    pub agent: AgentName,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    Run(RunId),
    User(Arc<str>),
    Agent(AgentName),
    Tenant,
}

impl Who {
    /// Whether a tracker counts for the run alone.
    pub(super) fn is_of_run(&self, tracker: &Tracker) -> bool {
        matches!(self.of(tracker.per), Whose::Run(_))
    }

    fn of(&self, per: Per) -> Whose {
        match per {
            Per::Run => Whose::Run(self.run),
            Per::User => self.user.clone().map_or(Whose::Run(self.run), Whose::User),
            Per::Agent => Whose::Agent(self.agent.clone()),
            Per::Tenant => Whose::Tenant,
        }
    }
}

/// Why the history cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// There is no room for one more sum.
    #[error("the plane keeps as many counts for this tenant as it can")]
    Full,
    /// What was counted before the last start cannot be read any more.
    #[error("what was counted before the last start cannot be read")]
    Unknown,
}

/// How a counted call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was answered, and not with an error.
    Well,
    /// It may have had its effect.
    Otherwise,
    /// It certainly had none.
    WithoutEffect,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) sums: HashMap<Arc<str>, Sum>,
    pub(super) labels: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) kept: HashMap<Whose, Kept>,
    pub(super) sums: usize,
    /// The latest moment that was seen: time does not go back here.
    pub(super) now: u64,
    pub(super) unknown: bool,
}

/// The history of a whole plane.
#[derive(Debug, Default)]
pub struct History {
    tenants: RwLock<HashMap<TenantName, Arc<Mutex<Tenant>>>>,
}

/// The history of a tenant while something is decided. Held for microseconds.
pub(crate) struct Step<'a> {
    who: &'a Who,
    tenant: MutexGuard<'a, Tenant>,
    now: u64,
}

/// What a call added. Not settled by anything: what is dropped has counted.
#[derive(Debug, Default)]
pub(crate) struct Added(pub(super) Vec<Mark>);

#[derive(Debug)]
pub(super) struct Mark {
    pub(super) whose: Whose,
    pub(super) tracker: Tracker,
    pub(super) amount: i64,
    pub(super) bucket: u64,
}

impl Added {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the record: each tracker with what was, or will be, added to it.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|mark| (&*mark.tracker.key, mark.amount))
    }
}

impl History {
    fn tenant(&self, name: &TenantName) -> Arc<Mutex<Tenant>> {
        if let Some(tenant) = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(tenant);
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(name.clone()).or_default())
    }

    /// Whether anything is counted for a user.
    pub(super) fn counts_for(&self, tenant: &TenantName, user: &Arc<str>) -> bool {
        let tenant = self.tenant(tenant);
        tenant.lock().unwrap_or_else(PoisonError::into_inner).kept.contains_key(&Whose::User(Arc::clone(user)))
    }

    /// Shows each tenant.
    pub(super) fn each<T>(&self, mut show: impl FnMut(&TenantName, &Tenant) -> T) -> Vec<T> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let shown = tenants.iter().map(|(name, tenant)| {
            let tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
            show(name, &tenant)
        });
        shown.collect()
    }

    /// Forgets everything. Only before anything is decided.
    pub fn clear(&self) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Puts a tenant's history into place.
    pub(super) fn put(&self, name: TenantName, tenant: Tenant) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(name, Arc::new(Mutex::new(tenant)));
    }

    /// Decides something in one step with what it adds.
    ///
    /// # Errors
    /// [`HistoryError::Unknown`]; nothing was decided.
    pub(crate) fn step<T>(
        &self,
        who: &Who,
        now: Timestamp,
        decide: impl FnOnce(&mut Step<'_>) -> T,
    ) -> Result<T, HistoryError> {
        let tenant = self.tenant(&who.tenant);
        // No code that can panic runs between the parts of a change, so a poisoned lock still holds whole sums.
        let mut tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if tenant.unknown {
            return Err(HistoryError::Unknown);
        }
        let now = tenant.at(now);
        Ok(decide(&mut Step { who, tenant, now }))
    }

    /// Takes back what a call added that was not recorded in the end.
    pub(crate) fn take_back(&self, who: &Who, added: Added) {
        let tenant = self.tenant(&who.tenant);
        tenant.lock().unwrap_or_else(PoisonError::into_inner).take_back(&added);
    }

    /// A call has ended that was recorded.
    pub(crate) fn ended(&self, who: &Who, added: &Added, how: Ended, now: Timestamp) {
        if added.is_empty() {
            return;
        }
        let tenant = self.tenant(&who.tenant);
        let mut tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        match how {
            Ended::WithoutEffect => tenant.take_back(added),
            Ended::Well => {
                let now = tenant.at(now);
                for mark in added.0.iter().filter(|mark| mark.tracker.completed) {
                    // Room was found for it when the call was decided; were it gone, "only after" stays closed.
                    if let Ok(sum) = tenant.sum(&mark.whose, &mark.tracker, now) {
                        sum.add(now, mark.amount);
                    }
                }
            }
            Ended::Otherwise => {}
        }
    }

    /// A call was let through that reads labelled data: its run has read it, for ever.
    pub(crate) fn reads<'l>(&self, who: &Who, labels: impl IntoIterator<Item = &'l String>) {
        let tenant = self.tenant(&who.tenant);
        let mut tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        tenant.kept.entry(Whose::Run(who.run)).or_default().labels.extend(labels.into_iter().cloned());
    }

    /// Forgets a run that has ended.
    pub fn forget_run(&self, tenant: &TenantName, run: RunId) {
        let tenant = self.tenant(tenant);
        let mut tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = tenant.kept.remove(&Whose::Run(run)) {
            tenant.sums -= kept.sums.len();
        }
    }

    /// What a tracker stands at for somebody at the last moment that was seen, for whoever looks into it; `None` for
    /// a text that is no tracker, and when what was counted is not known.
    #[must_use]
    pub fn value_of(
        &self,
        tenant: &TenantName,
        run: RunId,
        user: Option<&str>,
        agent: &AgentName,
        key: &str,
    ) -> Option<i64> {
        let declared = cogward_policy::Tracker::parse(&format!("t = {key}")).ok()?;
        let tracker = super::active::tracker(&declared);
        let who = Who { tenant: tenant.clone(), run, user: user.map(Arc::from), agent: agent.clone() };
        self.step(&who, Timestamp::default(), |step| step.value(&tracker, 0)).ok()
    }

    /// The labels of the data that a run has read.
    #[must_use]
    pub fn labels_of(&self, tenant: &TenantName, run: RunId) -> Vec<String> {
        let tenant = self.tenant(tenant);
        let tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = tenant.kept.get(&Whose::Run(run));
        kept.map(|kept| kept.labels.iter().cloned().collect()).unwrap_or_default()
    }

    /// What a tenant's records say of before cannot be read: nothing that reads its history is decided any more.
    pub(super) fn lose(&self, tenant: &TenantName) {
        self.tenant(tenant).lock().unwrap_or_else(PoisonError::into_inner).unknown = true;
    }

    /// Books what a record says that its call added.
    pub(super) fn book(&self, who: &Who, adds: Vec<(Tracker, i64)>, now: Timestamp) -> Result<Added, HistoryError> {
        self.step(who, now, |step| step.add(adds))?
    }
}

impl Step<'_> {
    /// What a tracker stands at, with what the call adds that is being decided.
    pub(crate) fn value(&mut self, tracker: &Tracker, adds: i64) -> i64 {
        let (now, whose) = (self.now, self.who.of(tracker.per));
        let sum = self.tenant.kept.get_mut(&whose).and_then(|kept| kept.sums.get_mut(&tracker.key));
        let edge = if tracker.completed { Edge::DoesNot } else { Edge::Counts };
        let before = sum.map_or(0, |sum| sum.value(now, edge));
        if tracker.completed { before } else { before.saturating_add(adds) }
    }

    /// The labels that the run has read.
    pub(crate) fn labels(&self) -> BTreeSet<String> {
        self.tenant.kept.get(&Whose::Run(self.who.run)).map(|kept| kept.labels.clone()).unwrap_or_default()
    }

    /// Whether labels can be kept for the run.
    pub(crate) fn has_room_for_labels(&mut self) -> bool {
        self.tenant.kept.contains_key(&Whose::Run(self.who.run)) || self.tenant.room(1, self.now)
    }

    /// Adds what the call adds: all of it or nothing.
    ///
    /// # Errors
    /// [`HistoryError::Full`].
    pub(crate) fn add(&mut self, adds: Vec<(Tracker, i64)>) -> Result<Added, HistoryError> {
        let mut added = Added(Vec::with_capacity(adds.len()));
        for (tracker, amount) in adds {
            let (whose, now) = (self.who.of(tracker.per), self.now);
            match self.tenant.sum(&whose, &tracker, now) {
                Ok(sum) => {
                    let bucket = if tracker.completed { 0 } else { sum.add(now, amount) };
                    added.0.push(Mark { whose, tracker, amount, bucket });
                }
                Err(full) => {
                    self.tenant.take_back(&added);
                    return Err(full);
                }
            }
        }
        Ok(added)
    }
}

impl Tenant {
    fn at(&mut self, now: Timestamp) -> u64 {
        self.now = self.now.max(now.unix_millis());
        self.now
    }

    /// The sum of a tracker, made if there is room for it.
    fn sum(&mut self, whose: &Whose, tracker: &Tracker, now: u64) -> Result<&mut Sum, HistoryError> {
        let known = self.kept.get(whose).is_some_and(|kept| kept.sums.contains_key(&tracker.key));
        if !known {
            if !self.room(1, now) {
                return Err(HistoryError::Full);
            }
            self.sums += 1;
        }
        let sums = &mut self.kept.entry(whose.clone()).or_default().sums;
        Ok(sums.entry(Arc::clone(&tracker.key)).or_insert_with(|| Sum::over(tracker.within)))
    }

    /// Whether so many more fit. Looks for what is empty before it says no.
    fn room(&mut self, more: usize, now: u64) -> bool {
        let fits = |tenant: &Self| tenant.sums + tenant.kept.len() + more <= KEPT_MAX;
        if !fits(self) {
            self.kept.retain(|_, kept| {
                kept.sums.retain(|_, sum| !sum.is_empty(now));
                !(kept.sums.is_empty() && kept.labels.is_empty())
            });
            self.sums = self.kept.values().map(|kept| kept.sums.len()).sum();
        }
        fits(self)
    }

    fn take_back(&mut self, added: &Added) {
        for mark in added.0.iter().filter(|mark| !mark.tracker.completed) {
            let sum = self.kept.get_mut(&mark.whose).and_then(|kept| kept.sums.get_mut(&mark.tracker.key));
            if let Some(sum) = sum {
                sum.take_back(mark.bucket, mark.amount);
            }
        }
    }
}

#[cfg(test)]
mod tests;
