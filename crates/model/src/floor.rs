//! Floors: the weakest sandbox profile that is accepted for a tier.
//!
//! The plane has one for each tier, a tenant may have its own, and the stricter of both holds: a tenant can only raise
//! what the plane demands. Nothing in here reads anything; the rules are these few lines, so that registration and
//! every start cannot differ.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::{Profile, Tier};

/// Where a floor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FloorSource {
    /// Nobody has set one: what cogward comes with.
    Default,
    /// An operator, for the whole plane.
    Plane,
    /// An operator, for the tenant.
    Tenant,
}

impl FloorSource {
    /// The word on the wire and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Plane => "plane",
            Self::Tenant => "tenant",
        }
    }
}

impl fmt::Display for FloorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The floor that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// The weakest profile that is accepted.
    pub profile: Profile,
    /// Where it comes from.
    pub source: FloorSource,
}

impl Floor {
    /// What holds when nobody has set anything: `hardened` for production, `standard` elsewhere.
    #[must_use]
    pub const fn default_of(tier: Tier) -> Self {
        let profile = match tier {
            Tier::Development | Tier::Staging => Profile::Standard,
            Tier::Production => Profile::Hardened,
        };
        Self { profile, source: FloorSource::Default }
    }

    /// The stricter of what the plane and the tenant demand.
    #[must_use]
    pub fn effective(tier: Tier, plane: Option<Profile>, tenant: Option<Profile>) -> Self {
        let demanded = match plane {
            Some(profile) => Self { profile, source: FloorSource::Plane },
            None => Self::default_of(tier),
        };
        match tenant {
            Some(profile) if profile > demanded.profile => Self { profile, source: FloorSource::Tenant },
            _ => demanded,
        }
    }

    /// Whether a version with this profile is accepted.
    #[must_use]
    pub fn admits(self, profile: Profile) -> bool {
        profile >= self.profile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Vec<Option<Profile>> {
        Profile::ALL.into_iter().map(Some).chain([None]).collect()
    }

    #[test]
    fn a_tenant_never_lowers_what_the_plane_demands() {
        for tier in Tier::ALL {
            for plane in choices() {
                let alone = Floor::effective(tier, plane, None);
                for tenant in choices() {
                    let both = Floor::effective(tier, plane, tenant);
                    assert!(both.profile >= alone.profile, "{tier:?} {plane:?} {tenant:?}");
                    assert!(tenant.is_none_or(|own| both.profile >= own));
                    // Nothing is demanded that neither of them demands.
                    assert!(both.profile == alone.profile || Some(both.profile) == tenant);
                }
            }
        }
    }

    #[test]
    fn production_is_hardened_until_somebody_decides_otherwise() {
        assert_eq!(Floor::default_of(Tier::Production).profile, Profile::Hardened);
        assert!(!Floor::default_of(Tier::Production).admits(Profile::Standard));
        assert!(Floor::default_of(Tier::Development).admits(Profile::Standard));
        // What is weaker than `standard` is nowhere accepted unless an operator says so.
        assert!(Tier::ALL.into_iter().all(|tier| !Floor::default_of(tier).admits(Profile::Container)));
        let lowered = Floor::effective(Tier::Production, Some(Profile::Standard), None);
        assert!(lowered.admits(Profile::Standard) && lowered.source == FloorSource::Plane);
    }

    #[test]
    fn a_stronger_profile_is_always_accepted() {
        for profile in Profile::ALL {
            for stronger in Profile::ALL.into_iter().filter(|p| *p >= profile) {
                assert!(Floor { profile, source: FloorSource::Plane }.admits(stronger));
            }
        }
    }
}
