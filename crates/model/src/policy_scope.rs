//! Where a policy belongs: the plane, a tenant, a tier of a tenant, or an agent.
//!
//! One text names each place, in paths, in the ledger and on the command line: `plane`, `tenant:retail`,
//! `tier:retail/production`, `agent:retail/clerk`. A lower place can only narrow what a higher one allows.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

use crate::{AgentName, TenantName, manifest::Tier};

/// A place that has policy of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyScope {
    /// Everything on the plane.
    Plane,
    /// What a tenant has.
    Tenant(TenantName),
    /// What a tenant runs in one tier.
    Tier(TenantName, Tier),
    /// One agent of a tenant, in all its versions.
    Agent(TenantName, AgentName),
}

impl PolicyScope {
    /// The level: `plane`, `tenant`, `tier` or `agent`.
    #[must_use]
    pub fn level(&self) -> &'static str {
        match self {
            Self::Plane => "plane",
            Self::Tenant(_) => "tenant",
            Self::Tier(..) => "tier",
            Self::Agent(..) => "agent",
        }
    }

    /// The tenant that it is in; none for the plane.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Plane => None,
            Self::Tenant(tenant) | Self::Tier(tenant, _) | Self::Agent(tenant, _) => Some(tenant),
        }
    }
}

impl fmt::Display for PolicyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plane => f.write_str("plane"),
            Self::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Self::Tier(tenant, tier) => write!(f, "tier:{tenant}/{}", tier.as_str()),
            Self::Agent(tenant, agent) => write!(f, "agent:{tenant}/{agent}"),
        }
    }
}

/// Why a text does not name a place of policies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a level of policy: use `plane`, `tenant:TENANT`, `tier:TENANT/TIER` or `agent:TENANT/AGENT`, where \
     TIER is development, staging or production"
)]
pub struct ParsePolicyScopeError(String);

impl FromStr for PolicyScope {
    type Err = ParsePolicyScopeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePolicyScopeError(text.chars().take(160).collect());
        if text == "plane" {
            return Ok(Self::Plane);
        }
        let (level, rest) = text.split_once(':').ok_or_else(refuse)?;
        let scope = match (level, rest.split_once('/')) {
            ("tenant", None) => Self::Tenant(rest.parse().map_err(|_| refuse())?),
            ("tier", Some((tenant, tier))) => {
                let tier = Tier::ALL.into_iter().find(|known| known.as_str() == tier).ok_or_else(refuse)?;
                Self::Tier(tenant.parse().map_err(|_| refuse())?, tier)
            }
            ("agent", Some((tenant, agent))) => {
                Self::Agent(tenant.parse().map_err(|_| refuse())?, agent.parse().map_err(|_| refuse())?)
            }
            _ => return Err(refuse()),
        };
        Ok(scope)
    }
}

impl Serialize for PolicyScope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyScope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for PolicyScope {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PolicyScope".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Where a policy belongs: `plane`, `tenant:TENANT`, `tier:TENANT/TIER` or `agent:TENANT/AGENT`.",
            "pattern": "^(plane|tenant:[a-z][a-z0-9-]{0,62}|tier:[a-z][a-z0-9-]{0,62}/(development|staging|production)|agent:[a-z][a-z0-9-]{0,62}/[a-z][a-z0-9-]{0,62})$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_one_text() {
        for text in ["plane", "tenant:retail", "tier:retail/production", "agent:retail/clerk"] {
            assert_eq!(text.parse::<PolicyScope>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "Plane",
            "plane:",
            "tenant",
            "tenant:",
            "tenant:A",
            "tenant:a:b",
            "tier:retail",
            "tier:retail:prod",
            "agent:retail",
            "agent:retail:clerk:1",
            "agent:retail:..",
            "run:x",
            "tenant:retail ",
            "tenant:re/tail",
        ] {
            assert!(bad.parse::<PolicyScope>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_place_knows_its_level_and_tenant() {
        let tier: PolicyScope = "tier:retail/staging".parse().unwrap();
        assert_eq!((tier.level(), tier.tenant().map(TenantName::as_str)), ("tier", Some("retail")));
        assert_eq!((PolicyScope::Plane.level(), PolicyScope::Plane.tenant()), ("plane", None));
    }
}
