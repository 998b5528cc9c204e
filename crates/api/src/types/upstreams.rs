//! Tool servers and model providers. Their credentials go in and never come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use cogward_model::{
    DataLabel, TenantName, Timestamp, UpstreamName,
    upstream::{Price, ProviderShape, ToolServerLimits, ToolTransport},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ToolCounts;

/// A secret on its way to the plane, or on the way of a new one to its owner. It cannot be printed by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Credential(String);

impl Credential {
    /// Wraps the secret.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself; for sealing it and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret itself, given away.
    #[must_use]
    pub fn into_exposed(self) -> String {
        self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(not shown)")
    }
}

/// A registered MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolServer {
    /// The tenant whose agents may be given its tools.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.tools[].server`.
    pub name: UpstreamName,
    /// How it is reached.
    pub transport: ToolTransport,
    /// How it is treated, where the plane's own ways do not fit.
    #[serde(default, skip_serializing_if = "ToolServerLimits::is_default")]
    pub limits: ToolServerLimits,
    /// What its document gave, where its tools are made of an OpenAPI document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<MadeFrom>,
    /// Whether requests go to it: `closed`, `open` when it is left alone after failures, `half-open` when one may try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Whether the plane keeps a credential for it.
    pub has_credential: bool,
    /// How many of its tools are approved, and how many are not.
    #[serde(default)]
    pub tools: ToolCounts,
    /// When it was added or last replaced.
    pub updated: Timestamp,
}

/// What an OpenAPI document gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeFrom {
    /// What the document is called.
    pub title: String,
    /// The version that it says it is.
    pub version: String,
    /// How many of its operations are tools.
    pub operations: u64,
    /// What is not one, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What credentials it asks for, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
}

/// A part of an OpenAPI document that is not offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// What: an operation, or a part of one.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A tool server to be added or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolServerPut {
    /// How it is reached.
    pub transport: ToolTransport,
    /// How it is treated, where the plane's own ways do not fit.
    #[serde(default, skip_serializing_if = "ToolServerLimits::is_default")]
    pub limits: ToolServerLimits,
    /// The credential that the plane is to keep sealed and send to it. Without one, a kept one is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("writeOnly" = true))]
    pub credential: Option<Credential>,
    /// Approve the tools that it offers now, as they are. Without it new tools wait for `POST …/tools/{tool}/approve`.
    /// What an operator has blocked stays blocked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approve_tools: bool,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

/// A registered model provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provider {
    /// The tenant whose agents may be given its models.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.models[].provider`.
    pub name: UpstreamName,
    /// The wire it speaks.
    pub shape: ProviderShape,
    /// Prices of its models, by model.
    pub prices: BTreeMap<String, Price>,
    /// Labels that policies read of its models, as `resource.labels`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<DataLabel>,
    /// Whether the plane keeps a key for it.
    pub has_credential: bool,
    /// When it was added or last replaced.
    pub updated: Timestamp,
}

/// A model provider to be added or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderPut {
    /// The wire it speaks.
    pub shape: ProviderShape,
    /// Prices of its models, by model. A model without a price is refused: its cost could not be limited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, Price>,
    /// Labels that policies read of its models, as `resource.labels`: all of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 32))]
    pub labels: BTreeSet<DataLabel>,
    /// The key that the plane is to keep sealed and send to it. Without one, a kept one is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("writeOnly" = true))]
    pub credential: Option<Credential>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

/// A credential for one inspected host. The secret never comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressCredential {
    /// The tenant whose agents may use it.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.egress[].inspect.credential.name`.
    pub name: UpstreamName,
    /// The one host that it is sent to.
    pub host: String,
    /// The port of it.
    pub port: u16,
    /// The one header in which its placeholder is replaced.
    pub header: String,
    /// What an agent writes in its place.
    pub placeholder: String,
    /// When it was stored or last replaced.
    pub updated: Timestamp,
}

/// A credential to be stored or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressCredentialPut {
    /// The one host that it is sent to: an exact name, as manifests declare it.
    pub host: String,
    /// The port of it.
    #[serde(default = "https")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The one header in which its placeholder is replaced.
    #[serde(default = "authorization")]
    pub header: String,
    /// The secret that the plane is to keep sealed: what stands in the placeholder's place.
    #[schemars(extend("writeOnly" = true))]
    pub credential: Credential,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

fn https() -> u16 {
    443
}

fn authorization() -> String {
    "authorization".to_owned()
}

/// The reason of a command without a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonQuery {
    /// Why; goes into the evidence.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_not_printed() {
        let put = ToolServerPut {
            transport: ToolTransport::Http {
                url: "https://tools.example".into(),
                credential_header: None,
                headers: BTreeMap::new(),
                oauth: None,
            },
            limits: ToolServerLimits::default(),
            approve_tools: false,
            credential: Some(Credential::new("hunter2".into())),
            reason: None,
        };
        assert!(!format!("{put:?}").contains("hunter2"));
        assert_eq!(serde_json::to_value(&put).unwrap()["credential"], "hunter2");
    }
}
