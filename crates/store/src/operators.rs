//! Operators: the people and programs that may command the plane.

use std::{fmt, str::FromStr};

use cogward_model::{RoleName, Timestamp, id::OperatorId};
use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Operator,
    /// Reads everything, changes nothing.
    Auditor,
}

impl Role {
    /// The word used in the API and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use `operator` or `auditor`")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "operator" => Ok(Self::Operator),
            "auditor" => Ok(Self::Auditor),
            other => Err(ParseRoleError(other.chars().take(32).collect())),
        }
    }
}

/// An operator credential; the credential itself is only there as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorRow {
    /// Its id.
    pub id: OperatorId,
    /// Its name, for records; used once.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Roles that policies name: who approves what.
    pub roles: Vec<RoleName>,
    /// The hash of its secret, in the form that the identity crate gives it.
    pub credential_hash: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// When its credential was replaced last.
    pub rotated: Option<Timestamp>,
    /// The hash of the credential before, and until when that one is valid too.
    pub previous: Option<(String, Timestamp)>,
}

impl fmt::Debug for OperatorRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorRow")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("role", &self.role)
            .field("roles", &self.roles)
            .field("created", &self.created)
            .field("revoked", &self.revoked)
            .field("rotated", &self.rotated)
            .finish_non_exhaustive()
    }
}

fn row(row: &SqliteRow) -> Result<OperatorRow, StoreError> {
    let previous: Option<String> = row.try_get("previous_hash")?;
    Ok(OperatorRow {
        id: rows::typed(row, "id")?,
        name: row.try_get("name")?,
        role: rows::typed(row, "role")?,
        roles: rows::json(row, "roles")?,
        credential_hash: row.try_get("credential_hash")?,
        created: rows::time(row, "created")?,
        revoked: rows::time_or_null(row, "revoked")?,
        rotated: rows::time_or_null(row, "rotated")?,
        previous: previous.zip(rows::time_or_null(row, "previous_until")?),
    })
}

async fn get(connection: &mut SqliteConnection, id: OperatorId) -> Result<Option<OperatorRow>, StoreError> {
    let found =
        sqlx::query("SELECT * FROM operators WHERE id = $1").bind(id.to_string()).fetch_optional(connection).await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The operator of that id, revoked or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn operator(&self, id: OperatorId) -> Result<Option<OperatorRow>, StoreError> {
        get(&mut *self.reader().await?, id).await
    }

    /// The operator of that name, revoked or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn operator_named(&self, name: &str) -> Result<Option<OperatorRow>, StoreError> {
        let mut reader = self.reader().await?;
        let found =
            sqlx::query("SELECT * FROM operators WHERE name = $1").bind(name).fetch_optional(&mut *reader).await?;
        found.as_ref().map(row).transpose()
    }

    /// Operators by id, which is by age.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn operators(&self, page: &PageRequest) -> Result<Page<OperatorRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM operators WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(page.after.as_deref().unwrap_or(""))
            .bind(page.fetch())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |o: &OperatorRow| o.id.to_string()))
    }
}

impl Tx {
    /// The operator of that id, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn operator(&mut self, id: OperatorId) -> Result<Option<OperatorRow>, StoreError> {
        get(self.connection(), id).await
    }

    /// Adds an operator.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn operator_insert(&mut self, operator: &OperatorRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO operators (id, name, role, credential_hash, created, revoked, rotated, previous_hash,
                 previous_until, roles) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(operator.id.to_string())
        .bind(&operator.name)
        .bind(operator.role.as_str())
        .bind(&operator.credential_hash)
        .bind(rows::micros(operator.created))
        .bind(operator.revoked.map(rows::micros))
        .bind(operator.rotated.map(rows::micros))
        .bind(operator.previous.as_ref().map(|(hash, _)| hash))
        .bind(operator.previous.as_ref().map(|(_, until)| rows::micros(*until)))
        .bind(serde_json::to_string(&operator.roles)?)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Operator, &operator.name))?;
        Ok(())
    }

    /// Sets the roles of an operator that is not revoked; says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn operator_roles_put(&mut self, id: OperatorId, roles: &[RoleName]) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE operators SET roles = $1 WHERE id = $2 AND revoked IS NULL")
            .bind(serde_json::to_string(roles)?)
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Operators that may change things and are not revoked.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn operators_writing(&mut self) -> Result<u64, StoreError> {
        let found =
            sqlx::query("SELECT COUNT(*) AS writing FROM operators WHERE role = 'operator' AND revoked IS NULL")
                .fetch_one(self.connection())
                .await?;
        rows::number(&found, "writing")
    }

    /// Revokes an operator; says whether it was still valid.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn operator_revoke(&mut self, id: OperatorId, at: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE operators SET revoked = $1 WHERE id = $2 AND revoked IS NULL")
            .bind(rows::micros(at))
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Replaces the credential of an operator that is not revoked; says whether there was one. The one before is kept
    /// until `previous_until`; without that, it is forgotten.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn operator_rotate(
        &mut self,
        id: OperatorId,
        credential_hash: &str,
        at: Timestamp,
        previous_until: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE operators SET previous_hash = CASE WHEN $1 IS NULL THEN NULL ELSE credential_hash END,
                 previous_until = $1, credential_hash = $2, rotated = $3 WHERE id = $4 AND revoked IS NULL",
        )
        .bind(previous_until.map(rows::micros))
        .bind(credential_hash)
        .bind(rows::micros(at))
        .bind(id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
