//! What can go wrong, by what the caller could do about it.

use std::{fmt, path::PathBuf};

/// The kind of row that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Noun {
    /// A tenant.
    Tenant,
    /// An operator.
    Operator,
    /// An agent.
    Agent,
    /// A version of an agent.
    Version,
    /// A tool server.
    ToolServer,
    /// A tool of a tool server.
    Tool,
    /// A model provider.
    Provider,
    /// A credential for an inspected host.
    Credential,
    /// A trusted issuer of access tokens.
    Issuer,
    /// A sealed secret.
    Secret,
    /// A floor of sandbox profiles.
    Floor,
    /// A run.
    Run,
    /// An operation on a run.
    Operation,
    /// A version of a policy.
    Policy,
    /// A call that waits for a person.
    Approval,
    /// An erasure of values of the evidence.
    Redaction,
    /// A legal hold.
    Hold,
    /// The stored answer to a command.
    IdempotencyKey,
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tenant => "tenant",
            Self::Operator => "operator",
            Self::Agent => "agent",
            Self::Version => "version",
            Self::ToolServer => "tool server",
            Self::Tool => "tool",
            Self::Provider => "provider",
            Self::Credential => "credential",
            Self::Issuer => "issuer",
            Self::Secret => "secret",
            Self::Floor => "floor",
            Self::Run => "run",
            Self::Operation => "operation",
            Self::Policy => "policy version",
            Self::Approval => "approval",
            Self::Redaction => "redaction",
            Self::Hold => "hold",
            Self::IdempotencyKey => "idempotency key",
        })
    }
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be made or its mode cannot be set.
    #[error("the state database {} cannot be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A newer plane wrote this database.
    #[error("the state database has schema {found}, this plane knows up to {known}: start the newer version again")]
    Newer {
        /// The schema of the file.
        found: i64,
        /// The newest schema of this plane.
        known: i64,
    },
    /// A migration that was applied is not the one that this plane has under the same number.
    #[error("migration {number} of the state database is not the one that this plane knows")]
    Diverged {
        /// Its number.
        number: i64,
    },
    /// The database refused.
    #[error("the state database cannot be used")]
    Database(#[from] sqlx::Error),
}

/// Why a read or a change did not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Something with that key is there already.
    #[error("the {noun} `{key}` already exists")]
    Conflict {
        /// What.
        noun: Noun,
        /// Its key.
        key: String,
    },
    /// The change names something that is not there.
    #[error("the {noun} `{key}` does not exist, or names something that does not")]
    Missing {
        /// What was to be written.
        noun: Noun,
        /// Its key.
        key: String,
    },
    /// Someone else changed the row since it was read.
    #[error("the {noun} `{key}` was changed in the meantime")]
    Stale {
        /// What.
        noun: Noun,
        /// Its key.
        key: String,
    },
    /// A stored value is not one that the plane would have written.
    #[error("the column `{column}` holds a value that is not valid: {why}")]
    Corrupt {
        /// Where.
        column: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A value could not be written as JSON.
    #[error("a value cannot be written")]
    Encode(#[from] serde_json::Error),
    /// The database refused: disk full, input or output error, closed.
    #[error("the state database failed")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// Turns a violated constraint into its typed form.
    pub(crate) fn on_write(error: sqlx::Error, noun: Noun, key: impl fmt::Display) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_unique_violation() => Self::Conflict { noun, key: key.to_string() },
            Some(e) if e.is_foreign_key_violation() => Self::Missing { noun, key: key.to_string() },
            _ => Self::Database(error),
        }
    }
}
