//! The memory of agents: where it is kept, whose it is, and how much of it there may be.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose memory a call reaches. The plane fills it in from the run; nothing that an agent sends has a part in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MemoryScope {
    /// What this agent knows of this user. A run that acts for nobody has none.
    #[default]
    #[serde(rename = "agent+user")]
    AgentAndUser,
    /// What all agents of the tenant know of this user. A run that acts for nobody has none.
    #[serde(rename = "user")]
    User,
    /// What this agent knows, whomever it acts for.
    #[serde(rename = "agent")]
    Agent,
    /// What all agents of the tenant know.
    #[serde(rename = "tenant")]
    Tenant,
    /// What one run knows: session memory.
    #[serde(rename = "run")]
    Run,
}

impl MemoryScope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::AgentAndUser, Self::User, Self::Agent, Self::Tenant, Self::Run];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AgentAndUser => "agent+user",
            Self::User => "user",
            Self::Agent => "agent",
            Self::Tenant => "tenant",
            Self::Run => "run",
        }
    }

    /// Whether it is kept apart by user.
    #[must_use]
    pub fn is_by_user(self) -> bool {
        matches!(self, Self::AgentAndUser | Self::User)
    }

    /// Whether it is kept apart by agent.
    #[must_use]
    pub fn is_by_agent(self) -> bool {
        matches!(self, Self::AgentAndUser | Self::Agent)
    }

    /// Whether it is kept apart by run.
    #[must_use]
    pub fn is_by_run(self) -> bool {
        self == Self::Run
    }
}

impl fmt::Display for MemoryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a memory is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MemoryBackend {
    /// In a file of its own in the plane's data directory.
    Builtin {},
    /// In a PostgreSQL database, with pgvector where there are vectors.
    Pgvector {
        /// `postgres://USER@HOST:PORT/DATABASE`, without a password: that is the credential.
        url: String,
        /// The table, with its schema or without: `cogward.memory` unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        /// The table is there and is not made. Its columns are named here where they are named otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        existing: Option<BTreeMap<String, String>>,
    },
    /// In a collection of a Qdrant.
    Qdrant {
        /// `https://...`, or `http://` to a loopback address.
        url: String,
        /// The collection: `cogward-memory` unless said. It is made if it is not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collection: Option<String>,
    },
}

impl MemoryBackend {
    /// Its kind, as it is written.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Builtin {} => "builtin",
            Self::Pgvector { .. } => "pgvector",
            Self::Qdrant { .. } => "qdrant",
        }
    }
}

/// How much one owner may keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryQuota {
    /// Memories; 10,000 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// Their size, vectors included, in MiB; 64 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mib: Option<u32>,
    /// How long a memory is kept at most, in seconds; without end unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

impl MemoryQuota {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_written_as_it_is_shown() {
        for scope in MemoryScope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(MemoryScope::default(), MemoryScope::AgentAndUser);
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        for text in [
            r#"{"kind":"builtin","path":"/etc"}"#,
            r#"{"kind":"pgvector","url":"postgres://h/d","password":"x"}"#,
            r#"{"kind":"redis","url":"redis://h"}"#,
        ] {
            assert!(serde_json::from_str::<MemoryBackend>(text).is_err(), "{text}");
        }
    }
}
