//! Versions of policies and which of them is active. What a text means is for the policy crate; this one keeps it.

use cogward_model::{Digest, PolicyScope, Timestamp, id::OperatorId};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// Somebody who answers for something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Answerable {
    /// The operator's name at that time.
    pub name: String,
    /// The operator.
    pub id: OperatorId,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// One version of a level's policy. Immutable but for its approval and its first activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersionRow {
    /// The level.
    pub scope: PolicyScope,
    /// What names it: the digest of its text and level.
    pub digest: Digest,
    /// Its place among the level's versions, from 1.
    pub number: u64,
    /// The text.
    pub text: String,
    /// Who wrote it.
    pub written: Answerable,
    /// Who approved it.
    pub approved: Option<Answerable>,
    /// When it was active for the first time.
    pub first_active: Option<Timestamp>,
}

/// A new version, before it has its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicyVersion {
    /// The level.
    pub scope: PolicyScope,
    /// The digest of its text and level.
    pub digest: Digest,
    /// The text.
    pub text: String,
    /// Who writes it.
    pub written: Answerable,
}

/// What decides at a level now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPointerRow {
    /// The level.
    pub scope: PolicyScope,
    /// The active version; none when the level has no say any more.
    pub digest: Option<Digest>,
    /// Counts its changes from 1; the ETag of the resource.
    pub revision: u64,
    /// When it was set.
    pub updated: Timestamp,
    /// Who set it.
    pub updated_by: String,
    /// Why.
    pub reason: String,
}

const VERSION: &str = "SELECT * FROM policy_versions WHERE scope = $1 AND digest = $2";

fn version(row: &SqliteRow) -> Result<PolicyVersionRow, StoreError> {
    let approved = match rows::time_or_null(row, "approved")? {
        None => None,
        Some(at) => Some(Answerable {
            name: row.try_get("approved_by")?,
            id: rows::typed(row, "approved_by_id")?,
            at,
            reason: row.try_get("approval_reason")?,
        }),
    };
    Ok(PolicyVersionRow {
        scope: rows::typed(row, "scope")?,
        digest: rows::typed(row, "digest")?,
        number: rows::number(row, "number")?,
        text: row.try_get("text")?,
        written: Answerable {
            name: row.try_get("author")?,
            id: rows::typed(row, "author_id")?,
            at: rows::time(row, "created")?,
            reason: row.try_get("reason")?,
        },
        approved,
        first_active: rows::time_or_null(row, "first_active")?,
    })
}

fn pointer(row: &SqliteRow) -> Result<PolicyPointerRow, StoreError> {
    Ok(PolicyPointerRow {
        scope: rows::typed(row, "scope")?,
        digest: rows::typed_or_null(row, "digest")?,
        revision: rows::number(row, "revision")?,
        updated: rows::time(row, "updated")?,
        updated_by: row.try_get("updated_by")?,
        reason: row.try_get("reason")?,
    })
}

async fn version_of(
    connection: &mut SqliteConnection,
    scope: &PolicyScope,
    digest: Digest,
) -> Result<Option<PolicyVersionRow>, StoreError> {
    let found =
        sqlx::query(VERSION).bind(scope.to_string()).bind(digest.to_string()).fetch_optional(connection).await?;
    found.as_ref().map(version).transpose()
}

async fn pointer_of(
    connection: &mut SqliteConnection,
    scope: &PolicyScope,
) -> Result<Option<PolicyPointerRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM policy_active WHERE scope = $1")
        .bind(scope.to_string())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(pointer).transpose()
}

async fn active(connection: &mut SqliteConnection) -> Result<Vec<PolicyVersionRow>, StoreError> {
    let found = sqlx::query(
        "SELECT v.* FROM policy_versions v JOIN policy_active a ON a.scope = v.scope AND a.digest = v.digest
         ORDER BY v.scope",
    )
    .fetch_all(connection)
    .await?;
    found.iter().map(version).collect()
}

impl Store {
    /// A version of a level.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn policy_version(
        &self,
        scope: &PolicyScope,
        digest: Digest,
    ) -> Result<Option<PolicyVersionRow>, StoreError> {
        version_of(&mut *self.reader().await?, scope, digest).await
    }

    /// The version with this digest, whatever its level; a digest names one level.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn policy_version_by_digest(&self, digest: Digest) -> Result<Option<PolicyVersionRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM policy_versions WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.as_ref().map(version).transpose()
    }

    /// The versions of a level, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn policy_versions(
        &self,
        scope: &PolicyScope,
        page: &PageRequest,
    ) -> Result<Page<PolicyVersionRow>, StoreError> {
        let before = page.after.as_deref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(i64::MAX);
        let found =
            sqlx::query("SELECT * FROM policy_versions WHERE scope = $1 AND number < $2 ORDER BY number DESC LIMIT $3")
                .bind(scope.to_string())
                .bind(before)
                .bind(page.fetch())
                .fetch_all(&mut *self.reader().await?)
                .await?;
        let items = found.iter().map(version).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |v: &PolicyVersionRow| v.number.to_string()))
    }

    /// What decides at a level; none when nothing was ever activated there.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn policy_pointer(&self, scope: &PolicyScope) -> Result<Option<PolicyPointerRow>, StoreError> {
        pointer_of(&mut *self.reader().await?, scope).await
    }

    /// The levels that ever had a version, with what decides there now, by their text.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn policy_levels(
        &self,
        page: &PageRequest,
    ) -> Result<Page<(PolicyScope, Option<PolicyPointerRow>, u64)>, StoreError> {
        let found = sqlx::query(
            "SELECT v.level, v.versions, a.* FROM
                 (SELECT scope AS level, COUNT(*) AS versions FROM policy_versions WHERE scope > $1 GROUP BY scope) v
             LEFT JOIN policy_active a ON a.scope = v.level ORDER BY v.level LIMIT $2",
        )
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let each = |row: &SqliteRow| {
            let set: Option<String> = row.try_get("scope")?;
            let pointer = set.is_some().then(|| pointer(row)).transpose()?;
            Ok::<_, StoreError>((rows::typed(row, "level")?, pointer, rows::number(row, "versions")?))
        };
        let items = found.iter().map(each).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |(scope, _, _): &(PolicyScope, _, _)| scope.to_string()))
    }

    /// Every active version of the plane.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn policies_active(&self) -> Result<Vec<PolicyVersionRow>, StoreError> {
        active(&mut *self.reader().await?).await
    }
}

impl Tx {
    /// A version of a level, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn policy_version(
        &mut self,
        scope: &PolicyScope,
        digest: Digest,
    ) -> Result<Option<PolicyVersionRow>, StoreError> {
        version_of(self.connection(), scope, digest).await
    }

    /// Every active version of the plane, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn policies_active(&mut self) -> Result<Vec<PolicyVersionRow>, StoreError> {
        active(self.connection()).await
    }

    /// What decides at a level, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn policy_pointer(&mut self, scope: &PolicyScope) -> Result<Option<PolicyPointerRow>, StoreError> {
        pointer_of(self.connection(), scope).await
    }

    /// Adds a version; gives its number.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the level has this version.
    pub async fn policy_version_insert(&mut self, new: &NewPolicyVersion) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO policy_versions (scope, digest, number, text, author, author_id, reason, created)
             VALUES ($1, $2, (SELECT COALESCE(MAX(number), 0) + 1 FROM policy_versions WHERE scope = $1), $3, $4, $5,
                 $6, $7) RETURNING number",
        )
        .bind(new.scope.to_string())
        .bind(new.digest.to_string())
        .bind(&new.text)
        .bind(&new.written.name)
        .bind(new.written.id.to_string())
        .bind(&new.written.reason)
        .bind(rows::micros(new.written.at))
        .fetch_one(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Policy, new.digest))?;
        rows::number(&row, "number")
    }

    /// Approves a version that is not approved; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn policy_version_approve(
        &mut self,
        scope: &PolicyScope,
        digest: Digest,
        by: &Answerable,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE policy_versions SET approved = $1, approved_by = $2, approved_by_id = $3, approval_reason = $4
             WHERE scope = $5 AND digest = $6 AND approved IS NULL",
        )
        .bind(rows::micros(by.at))
        .bind(&by.name)
        .bind(by.id.to_string())
        .bind(&by.reason)
        .bind(scope.to_string())
        .bind(digest.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Makes a version of a level decide, or none; gives the pointer as it is then.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the level has no such version.
    pub async fn policy_point(
        &mut self,
        scope: &PolicyScope,
        digest: Option<Digest>,
        by: &Answerable,
    ) -> Result<PolicyPointerRow, StoreError> {
        let at = rows::micros(by.at);
        let row = sqlx::query(
            "INSERT INTO policy_active (scope, digest, revision, updated, updated_by, reason)
             VALUES ($1, $2, 1, $3, $4, $5)
             ON CONFLICT (scope) DO UPDATE SET digest = excluded.digest, revision = policy_active.revision + 1,
                 updated = excluded.updated, updated_by = excluded.updated_by, reason = excluded.reason
             RETURNING *",
        )
        .bind(scope.to_string())
        .bind(digest.map(|digest| digest.to_string()))
        .bind(at)
        .bind(&by.name)
        .bind(&by.reason)
        .fetch_one(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Policy, scope))?;
        if let Some(digest) = digest {
            sqlx::query(
                "UPDATE policy_versions SET first_active = COALESCE(first_active, $1) WHERE scope = $2 AND digest = $3",
            )
            .bind(at)
            .bind(scope.to_string())
            .bind(digest.to_string())
            .execute(self.connection())
            .await?;
        }
        pointer(&row)
    }
}
