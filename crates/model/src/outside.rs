//! Clients outside the sandbox: a developer's editor, an agent that somebody else runs.
//!
//! They come with an access token of an issuer that an operator trusts, and act within a run like every agent, with
//! the same gate. There is no sandbox of ours around them, and nothing here calls it one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TenantName, UpstreamName};

/// What stands in evidence where a run has its sandbox profile.
pub const PROFILE: &str = "outside";
/// How users begin who come from outside: no operator starts a run for one of them in their name.
pub const OUTSIDE_USERS: &str = "outside:";
/// The scope that a token must have to use the endpoint of an agent.
pub const SCOPE: &str = "cogward.mcp";

/// An authorization server whose tokens are taken for a tenant's agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedIssuer {
    /// The tenant whose agents may be reached with its tokens.
    pub tenant: TenantName,
    /// Its name in manifests, `spec.access.outside[].issuer`.
    pub name: UpstreamName,
    /// What its tokens say in `iss`, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub keys: IssuerKeys,
    /// Whether tokens that are bound to no key are taken for agents of tier development.
    #[serde(default)]
    pub bearer_in_development: bool,
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum IssuerKeys {
    /// The operator gave them: a JWKS document (RFC 7517), public keys alone.
    Given {
        /// The document.
        jwks: String,
    },
    /// The plane fetches them.
    Url {
        /// Where the JWKS document is; https.
        url: String,
    },
}

/// What holds an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// A key of the client, of which every request has a proof (RFC 9449).
    Dpop,
    /// Nothing: whoever has the token. Only where the operator takes it, and only in tier development.
    Bearer,
}

impl Binding {
    /// The word on the wire and in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dpop => "dpop",
            Self::Bearer => "bearer",
        }
    }
}

/// Who acts in a run from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct OutsideClient {
    /// The issuer, by its name in the tenant.
    pub issuer: UpstreamName,
    /// The client, as the issuer names it.
    pub client: String,
    /// For whom it acts, as the issuer names them; the client itself where it acts for nobody.
    pub subject: String,
    /// What holds its tokens.
    pub binding: Binding,
}

impl OutsideClient {
    /// What is the same for everyone of whom it is the same: not how its tokens are held.
    #[must_use]
    pub fn key(&self) -> String {
        serde_json::json!([self.issuer, self.client, self.subject]).to_string()
    }

    /// The user for whom it acts, told apart from those of other issuers; none where the client acts for itself.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        (self.subject != self.client).then(|| format!("{OUTSIDE_USERS}{}:{}", self.issuer, self.subject))
    }

    /// The client in one word, for records.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("outside:{}:{}", self.issuer, self.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(issuer: &str, client: &str, subject: &str) -> OutsideClient {
        let issuer = issuer.parse().unwrap();
        OutsideClient { issuer, client: client.to_owned(), subject: subject.to_owned(), binding: Binding::Dpop }
    }

    #[test]
    fn two_parties_never_have_one_key() {
        let all = [
            client("corp", "ide", "alice"),
            client("corp", "ide", "alice\""),
            client("corp", "ide\",\"alice", "x"),
            client("corp", "idealice", "x"),
            client("other", "ide", "alice"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| other.key() != one.key()));
        }
        let bearer = OutsideClient { binding: Binding::Bearer, ..client("corp", "ide", "alice") };
        assert_eq!(bearer.key(), client("corp", "ide", "alice").key(), "a stop holds for both");
    }

    #[test]
    fn users_of_two_issuers_are_two_users() {
        assert_eq!(client("corp", "ide", "alice").user().as_deref(), Some("outside:corp:alice"));
        assert_ne!(client("corp", "ide", "alice").user(), client("other", "ide", "alice").user());
        assert_eq!(client("corp", "robot", "robot").user(), None);
    }
}
