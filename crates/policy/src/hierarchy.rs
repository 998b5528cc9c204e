//! The versions that judge one principal, from the plane to the agent, and all that are active at one moment.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cogward_model::{AgentName, TenantName, manifest::Tier};

use crate::{
    ask::{Ask, Head},
    level::{self, LevelKind, PolicyScope},
    slice::Slice,
    track::Tracker,
    verdict::Decided,
    version::Version,
};

/// Slices that are kept per hierarchy; when there are more, all are made again.
pub const SLICES_MAX: usize = 4096;

/// Hierarchies that are kept.
const HIERARCHIES_MAX: usize = 4096;

/// Slices that are kept of all hierarchies together, some 8 KiB each.
pub const SLICES_OF_ALL_MAX: usize = 16 * 1024;

/// The stack of versions for one principal.
#[derive(Debug)]
pub struct Hierarchy {
    versions: Vec<Arc<Version>>,
    slices_max: usize,
    slices: RwLock<HashMap<Arc<Head>, Arc<Slice>>>,
    /// How many are kept of all hierarchies of one generation.
    kept: Arc<AtomicUsize>,
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let slices = self.slices.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.kept.fetch_sub(slices.len(), Ordering::Relaxed);
    }
}

/// Every active version of the plane at one moment. It is replaced whole.
#[derive(Debug)]
pub struct Active {
    generation: u64,
    versions: BTreeMap<PolicyScope, Arc<Version>>,
    hierarchies: RwLock<HashMap<(TenantName, Tier, AgentName), Arc<Hierarchy>>>,
    kept: Arc<AtomicUsize>,
    kept_max: usize,
}

impl Hierarchy {
    /// A stack; its order is that of the levels.
    #[must_use]
    pub fn new(versions: impl IntoIterator<Item = Arc<Version>>) -> Self {
        let mut versions: Vec<Arc<Version>> = versions.into_iter().collect();
        versions.sort_by_key(|version| LevelKind::of(version.level()));
        Self { versions, slices_max: SLICES_MAX, slices: RwLock::default(), kept: Arc::default() }
    }

    /// The versions, from the widest level.
    #[must_use]
    pub fn versions(&self) -> &[Arc<Version>] {
        &self.versions
    }

    /// Every tracker that has to be kept for this principal; one per key.
    #[must_use]
    pub fn trackers(&self) -> Vec<Arc<Tracker>> {
        let mut all: BTreeMap<String, Arc<Tracker>> = BTreeMap::new();
        for tracker in self.versions.iter().flat_map(|version| version.trackers()) {
            all.entry(tracker.key()).or_insert_with(|| Arc::clone(tracker));
        }
        all.into_values().collect()
    }

    /// What the stack says to a head; made once and kept.
    #[must_use]
    pub fn slice(&self, head: &Arc<Head>) -> Arc<Slice> {
        if let Some(slice) = self.slices.read().unwrap_or_else(PoisonError::into_inner).get(head) {
            return Arc::clone(slice);
        }
        let slice = Arc::new(Slice::of(&self.versions, head));
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        if slices.len() >= self.slices_max {
            self.kept.fetch_sub(slices.len(), Ordering::Relaxed);
            slices.clear();
        }
        if slices.insert(Arc::clone(head), Arc::clone(&slice)).is_none() {
            self.kept.fetch_add(1, Ordering::Relaxed);
        }
        slice
    }

    #[cfg(test)]
    pub(crate) fn keeping(mut self, slices_max: usize) -> Self {
        self.slices_max = slices_max;
        self
    }

    #[cfg(test)]
    pub(crate) fn slices(&self) -> usize {
        self.slices.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Decides one ask.
    #[must_use]
    pub fn decide(&self, ask: &Ask) -> Decided {
        self.slice(&ask.head).decide(&ask.facts)
    }
}

impl Active {
    /// The versions of one generation. Without a version for the plane, the built-in one is active.
    ///
    /// # Errors
    /// None in practice: the built-in version is a fixed text.
    pub fn new(generation: u64, versions: impl IntoIterator<Item = Arc<Version>>) -> Result<Self, crate::Findings> {
        let mut all: BTreeMap<PolicyScope, Arc<Version>> =
            versions.into_iter().map(|version| (version.level().clone(), version)).collect();
        if let Entry::Vacant(place) = all.entry(PolicyScope::Plane) {
            place.insert(Arc::new(Version::built_in()?));
        }
        Ok(Self {
            generation,
            versions: all,
            hierarchies: RwLock::default(),
            kept: Arc::default(),
            kept_max: SLICES_OF_ALL_MAX,
        })
    }

    /// Which one it is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The active version of each level.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<PolicyScope, Arc<Version>> {
        &self.versions
    }

    /// The versions that judge an agent.
    #[must_use]
    pub fn hierarchy(&self, tenant: &TenantName, tier: Tier, agent: &AgentName) -> Arc<Hierarchy> {
        let key = (tenant.clone(), tier, agent.clone());
        let full = self.kept.load(Ordering::Relaxed) >= self.kept_max;
        if let Some(hierarchy) =
            self.hierarchies.read().unwrap_or_else(PoisonError::into_inner).get(&key).filter(|_| !full)
        {
            return Arc::clone(hierarchy);
        }
        let stack = level::above(tenant, tier, agent);
        let mut hierarchy = Hierarchy::new(stack.iter().filter_map(|level| self.versions.get(level)).cloned());
        hierarchy.kept = Arc::clone(&self.kept);
        let hierarchy = Arc::new(hierarchy);
        let mut hierarchies = self.hierarchies.write().unwrap_or_else(PoisonError::into_inner);
        if full || hierarchies.len() >= HIERARCHIES_MAX {
            hierarchies.clear();
        }
        hierarchies.insert(key, Arc::clone(&hierarchy));
        hierarchy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Deed,
        slice::tests::{agent, facts},
    };

    #[test]
    fn all_hierarchies_together_keep_a_bounded_number_of_slices() {
        let mut active = Active::new(7, []).unwrap();
        active.kept_max = 20;
        let tenant: TenantName = "acme".parse().unwrap();
        for n in 0..200 {
            let name: AgentName = format!("agent{}", n % 7).parse().unwrap();
            let hierarchy = active.hierarchy(&tenant, Tier::Production, &name);
            let deed = Deed::Egress { host: format!("h{n}.example"), port: 443 };
            let principal = agent("acme", name.as_str(), Tier::Production);
            let head = Arc::new(Head { principal, deed, labels: Default::default() });
            let decided = hierarchy.decide(&Ask::new(head, facts()));
            assert_eq!(decided.rule(), "policy.plane.built-in");
            assert!((1..=20).contains(&active.kept.load(Ordering::Relaxed)), "{n}");
        }
        let kept = Arc::clone(&active.kept);
        drop(active);
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_plane_without_a_version_has_the_built_in_one_and_a_lower_level_stays_its_own() {
        let level: PolicyScope = "agent:acme/clerk".parse().unwrap();
        let version = Version::load(level, "forbid(principal, action, resource);").unwrap();
        let active = Active::new(1, [Arc::new(version)]).unwrap();
        let versions = |agent: &str| {
            active.hierarchy(&"acme".parse().unwrap(), Tier::Staging, &agent.parse().unwrap()).versions().len()
        };
        assert_eq!((active.generation(), versions("clerk"), versions("other")), (1, 2, 1));
    }
}
