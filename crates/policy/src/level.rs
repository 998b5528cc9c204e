//! The four levels of policy, from the widest to the narrowest: plane, tenant, tier of a tenant, agent.
//!
//! A level has at most one active version. The strictest verdict over the levels holds, so a lower level can
//! narrow what a higher one allows and never widen it.

pub use cogward_model::policy_scope::PolicyScope;
use cogward_model::{AgentName, TenantName, manifest::Tier};
use serde::{Deserialize, Serialize};

/// The kind of a level, ordered from the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelKind {
    /// Everything.
    Plane,
    /// One tenant.
    Tenant,
    /// One environment tier of a tenant.
    Tier,
    /// One agent.
    Agent,
}

impl LevelKind {
    /// Every kind, from the widest.
    pub const ALL: [Self; 4] = [Self::Plane, Self::Tenant, Self::Tier, Self::Agent];

    /// The kind of a place.
    #[must_use]
    pub fn of(scope: &PolicyScope) -> Self {
        match scope {
            PolicyScope::Plane => Self::Plane,
            PolicyScope::Tenant(_) => Self::Tenant,
            PolicyScope::Tier(..) => Self::Tier,
            PolicyScope::Agent(..) => Self::Agent,
        }
    }

    /// The word used in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plane => "plane",
            Self::Tenant => "tenant",
            Self::Tier => "tier",
            Self::Agent => "agent",
        }
    }
}

/// The places that judge an agent, from the widest.
#[must_use]
pub fn above(tenant: &TenantName, tier: Tier, agent: &AgentName) -> [PolicyScope; 4] {
    [
        PolicyScope::Plane,
        PolicyScope::Tenant(tenant.clone()),
        PolicyScope::Tier(tenant.clone(), tier),
        PolicyScope::Agent(tenant.clone(), agent.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_from_the_widest() {
        let above = above(&"acme".parse().unwrap(), Tier::Production, &"claims".parse().unwrap());
        let kinds: Vec<LevelKind> = above.iter().map(LevelKind::of).collect();
        assert_eq!(kinds, LevelKind::ALL);
        assert!(kinds.is_sorted());
        assert!(above.iter().all(|scope| scope.level() == LevelKind::of(scope).as_str()));
    }
}
