//! Authorization servers whose access tokens are taken from clients outside.

use cogward_model::{TenantName, Timestamp, UpstreamName, outside::IssuerKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A trusted issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Issuer {
    /// The tenant whose agents may be reached with its tokens.
    pub tenant: TenantName,
    /// Its name in manifests, `spec.access.outside[].issuer`.
    pub name: UpstreamName,
    /// What its tokens say in `iss`, byte for byte.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: IssuerKeys,
    /// Whether tokens that are bound to no key are taken for agents of tier development.
    pub bearer_in_development: bool,
    /// When it was added or last replaced.
    pub updated: Timestamp,
}

/// An issuer to be trusted, or whose keys are elsewhere now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerPut {
    /// What its tokens say in `iss`, byte for byte: an https URL. It cannot be changed under the same name.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// Where its keys come from.
    pub keys: IssuerKeys,
    /// Take tokens that are bound to no key, for agents of tier development alone. The evidence says so of each run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bearer_in_development: bool,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}
