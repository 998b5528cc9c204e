//! What is active at one moment: every version of every level, swapped as one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use cogward_model::{Digest, Timestamp, policy_scope::PolicyScope};
use cogward_policy::{Active, AskError, Deed, Facts, Findings, Head, Hierarchy, Tracker as Declared, Version};

use super::history::{Per, Tracker};
use crate::grant::RunGrant;

/// Heads that are kept for a run; when there are more, they are made again.
const HEADS_MAX: usize = 1_024;

/// Every active version of a plane, as the store has them.
#[derive(Debug, Default)]
pub struct PolicySet {
    /// The versions, one for a level. The plane has its built-in version when there is none for it here.
    pub versions: Vec<Arc<Version>>,
    /// Levels whose active version cannot be used, with the cause: nothing below them is permitted.
    pub unusable: BTreeMap<PolicyScope, String>,
}

/// Which versions the gateway applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveStatus {
    /// How often they were replaced since the start.
    pub generation: u64,
    /// When they were replaced last; none for those of the start.
    pub since: Option<Timestamp>,
    /// The version of each level that has one.
    pub versions: BTreeMap<PolicyScope, Digest>,
    /// Levels whose version cannot be used.
    pub unusable: BTreeMap<PolicyScope, String>,
}

/// The active versions of a gateway. What a call was decided by does not change under it.
#[derive(Debug)]
pub struct ActivePolicies(RwLock<Option<Arc<Current>>>);

/// The versions of one generation.
#[derive(Debug)]
pub(crate) struct Current {
    pub(super) active: Active,
    pub(super) unusable: BTreeMap<PolicyScope, String>,
    since: Option<Timestamp>,
}

impl Default for ActivePolicies {
    fn default() -> Self {
        // The built-in version is a fixed text; were it not to be read, nothing would be permitted.
        let current = Active::new(0, []).ok().map(|active| Current { active, unusable: BTreeMap::new(), since: None });
        Self(RwLock::new(current.map(Arc::new)))
    }
}

impl ActivePolicies {
    /// Replaces everything that is active, and gives the new generation. Calls that are being decided at this moment
    /// end under the old one, and say so in their records.
    ///
    /// # Errors
    /// [`Findings`]; then everything stays as it is.
    pub fn replace(&self, set: PolicySet, now: Timestamp) -> Result<u64, Findings> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.as_ref().map_or(0, |current| current.active.generation()) + 1;
        let active = Active::new(generation, set.versions)?;
        *current = Some(Arc::new(Current { active, unusable: set.unusable, since: Some(now) }));
        Ok(generation)
    }

    /// Takes everything away: nothing is permitted until something is active again.
    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Which versions are applied.
    #[must_use]
    pub fn status(&self) -> Option<ActiveStatus> {
        let current = self.current()?;
        let versions = current.active.versions().iter();
        Some(ActiveStatus {
            generation: current.active.generation(),
            since: current.since,
            versions: versions.map(|(scope, version)| (scope.clone(), version.digest())).collect(),
            unusable: current.unusable.clone(),
        })
    }

    pub(super) fn current(&self) -> Option<Arc<Current>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is active for one run, found once in a generation.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) current: Arc<Current>,
    pub(super) hierarchy: Arc<Hierarchy>,
    /// The versions as the records name them.
    pub(super) versions: Vec<String>,
    /// Every tracker that counts calls of this run, as the policies and as the history know it.
    pub(super) trackers: Vec<(Arc<Declared>, Tracker)>,
    /// The level because of which nothing is permitted to it.
    pub(super) unusable: Option<PolicyScope>,
}

/// What a run keeps between its calls.
#[derive(Debug, Default)]
pub(crate) struct RunPolicies {
    resolved: RwLock<Option<Arc<Resolved>>>,
    heads: Mutex<HashMap<Deed, Asking>>,
}

/// The head of a question, and how the records of its decisions begin.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) head: Arc<Head>,
    written: Arc<str>,
}

impl Asking {
    fn new(head: Head) -> Result<Self, AskError> {
        let written = head.to_json()?.into();
        Ok(Self { head: Arc::new(head), written })
    }

    /// What is recorded of the question with these facts.
    pub(super) fn record(&self, facts: &Facts) -> Result<String, AskError> {
        facts.asked(&self.written)
    }
}

impl RunPolicies {
    /// What is active for a run, in the generation that is given.
    pub(super) fn resolve(&self, current: Arc<Current>, grant: &RunGrant) -> Arc<Resolved> {
        let kept = self.resolved.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kept) = kept.filter(|kept| Arc::ptr_eq(&kept.current, &current)) {
            return kept;
        }
        let resolved = Arc::new(Resolved::of(current, grant));
        *self.resolved.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&resolved));
        resolved
    }

    /// The head of a question. `make` is asked when it is new, or its labels are not those of before.
    pub(super) fn head(
        &self,
        deed: Deed,
        is: impl Fn(&Head) -> bool,
        make: impl FnOnce(Deed) -> Head,
    ) -> Result<Asking, AskError> {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = heads.get(&deed).filter(|asking| is(&asking.head)) {
            return Ok(asking.clone());
        }
        if heads.len() >= HEADS_MAX {
            heads.clear();
        }
        let asking = Asking::new(make(deed.clone()))?;
        heads.insert(deed, asking.clone());
        Ok(asking)
    }
}

impl Resolved {
    fn of(current: Arc<Current>, grant: &RunGrant) -> Self {
        let hierarchy = current.active.hierarchy(&grant.tenant, grant.tier, &grant.agent);
        let levels = cogward_policy::level::above(&grant.tenant, grant.tier, &grant.agent);
        let unusable = levels.into_iter().find(|level| current.unusable.contains_key(level));
        if let Some(level) = &unusable {
            // Once for a run, and not for every call that is refused for it.
            let (run, why) = (&grant.run, current.unusable.get(level));
            tracing::error!(%run, %level, why, "nothing is permitted to the run: an active policy cannot be used");
        }
        let trackers = hierarchy.trackers().into_iter().map(|declared| {
            let tracker = tracker(&declared);
            (declared, tracker)
        });
        let trackers = trackers.collect();
        let versions = hierarchy.versions().iter();
        let versions = versions.map(|version| format!("{} {}", version.level(), version.digest())).collect();
        Self { current, hierarchy, versions, trackers, unusable }
    }

    /// The tracker of the history that a rule reads.
    pub(super) fn tracker(&self, declared: &Declared) -> Option<&Tracker> {
        let key = declared.key();
        self.trackers.iter().map(|(_, tracker)| tracker).find(|tracker| *tracker.key == *key)
    }
}

/// A declared tracker as the history counts it.
pub(super) fn tracker(declared: &Declared) -> Tracker {
    use cogward_policy::track::Per as Over;
    Tracker {
        key: declared.key().into(),
        per: match declared.per {
            Over::Run => Per::Run,
            Over::User => Per::User,
            Over::Agent => Per::Agent,
            Over::Tenant => Per::Tenant,
        },
        within: declared.within_s.map(std::time::Duration::from_secs),
        completed: declared.completed,
    }
}
