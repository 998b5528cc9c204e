//! `spec.access`: who else may act as the agent, beside the code in its sandbox.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::UpstreamName;

/// Who may act as the agent from outside. Nobody, unless it is written here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// Clients outside the sandbox that may use the agent's tools through its MCP endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<OutsideGrant>,
}

impl Access {
    /// Whether nobody is let in.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.outside.is_empty()
    }

    /// Whether a client may act for a subject, by a token of an issuer.
    #[must_use]
    pub fn admits(&self, issuer: &UpstreamName, client: &str, subject: &str) -> bool {
        self.outside.iter().any(|grant| {
            grant.issuer == *issuer
                && grant.clients.iter().any(|known| known == client)
                && grant.subjects.as_ref().is_none_or(|subjects| subjects.iter().any(|known| known == subject))
        })
    }
}

/// Clients of one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutsideGrant {
    /// A trusted issuer of the tenant.
    pub issuer: UpstreamName,
    /// The clients, as the issuer names them in `client_id`.
    pub clients: Vec<String>,
    /// Those for whom they may act, as the issuer names them in `sub`; without it, whoever the issuer gives a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_who_is_not_named() {
        let grant = |subjects: Option<Vec<String>>| Access {
            outside: vec![OutsideGrant { issuer: "corp".parse().unwrap(), clients: vec!["ide".to_owned()], subjects }],
        };
        let (corp, other) = ("corp".parse().unwrap(), "other".parse().unwrap());
        assert!(!Access::default().admits(&corp, "ide", "alice"));
        assert!(grant(None).admits(&corp, "ide", "alice"));
        assert!(!grant(None).admits(&other, "ide", "alice"));
        assert!(!grant(None).admits(&corp, "IDE", "alice"));
        assert!(!grant(Some(Vec::new())).admits(&corp, "ide", "alice"), "an empty list is nobody");
        let named = grant(Some(vec!["alice".to_owned()]));
        assert!(named.admits(&corp, "ide", "alice") && !named.admits(&corp, "ide", "bob"));
    }
}
