//! Erasures of values of the evidence: who asked, who approved, and how far it is.

use cogward_model::{
    TenantName, Timestamp,
    id::{OperatorId, RedactionId},
    redaction::{ErasureScope, LegalGround, RedactionState},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Answerable, Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// An erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactionRow {
    /// Its id.
    pub id: RedactionId,
    /// Whose.
    pub tenant: TenantName,
    /// What kind of scope: `subject`, `run`, `field`.
    pub kind: String,
    /// What is to be erased; forgotten when it is over.
    pub scope: Option<ErasureScope>,
    /// On which ground.
    pub ground: LegalGround,
    /// Why, in words; it stays.
    pub reason: String,
    /// Where it is.
    pub state: RedactionState,
    /// How many values it concerned, as far as that was looked at.
    pub found: u64,
    /// When it was asked for.
    pub requested: Timestamp,
    /// By whom.
    pub requested_by: String,
    /// By whom.
    pub requested_by_id: OperatorId,
    /// Who approved or denied it.
    pub answered: Option<Answerable>,
    /// Who carried it out.
    pub executed: Option<Answerable>,
    /// Which keys go, while they go.
    pub plan: Option<String>,
}

fn maybe_json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| StoreError::Corrupt { column, why: e.to_string() }))
        .transpose()
}

fn row(row: &SqliteRow) -> Result<RedactionRow, StoreError> {
    Ok(RedactionRow {
        id: rows::typed(row, "id")?,
        tenant: rows::typed(row, "tenant")?,
        kind: row.try_get("kind")?,
        scope: maybe_json(row, "scope")?,
        ground: rows::typed(row, "ground")?,
        reason: row.try_get("reason")?,
        state: rows::word(row, "state")?,
        found: rows::number(row, "found")?,
        requested: rows::time(row, "requested")?,
        requested_by: row.try_get("requested_by")?,
        requested_by_id: rows::typed(row, "requested_by_id")?,
        answered: maybe_json(row, "answered")?,
        executed: maybe_json(row, "executed")?,
        plan: row.try_get("plan")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    id: RedactionId,
) -> Result<Option<RedactionRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM redactions WHERE id = $1 AND tenant = $2")
        .bind(id.to_string())
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// An erasure of a tenant.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn redaction(&self, tenant: &TenantName, id: RedactionId) -> Result<Option<RedactionRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, id).await
    }

    /// The erasures of a tenant, newest first; only those in a state, if one is named.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn redactions(
        &self,
        tenant: &TenantName,
        state: Option<RedactionState>,
        page: &PageRequest,
    ) -> Result<Page<RedactionRow>, StoreError> {
        // Above every id.
        let before = page.after.as_deref().unwrap_or("red_~");
        let found = sqlx::query(
            "SELECT * FROM redactions WHERE id < $1 AND tenant = $2 AND ($3 IS NULL OR state = $3) ORDER BY id DESC
                 LIMIT $4",
        )
        .bind(before)
        .bind(tenant.as_str())
        .bind(state.map(RedactionState::as_str))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |r: &RedactionRow| r.id.to_string()))
    }

    /// Those of all tenants that are not over, oldest first: for the start.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn redactions_open(&self) -> Result<Vec<RedactionRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM redactions WHERE state NOT IN ('denied', 'executed') ORDER BY id")
            .fetch_all(&mut *self.reader().await?)
            .await?;
        found.iter().map(row).collect()
    }

    /// How many were asked for in a tenant since a time.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn redactions_since(&self, tenant: &TenantName, since: Timestamp) -> Result<u64, StoreError> {
        let found = sqlx::query("SELECT COUNT(*) AS n FROM redactions WHERE tenant = $1 AND requested >= $2")
            .bind(tenant.as_str())
            .bind(rows::micros(since))
            .fetch_one(&mut *self.reader().await?)
            .await?;
        rows::number(&found, "n")
    }

    /// Puts what was deleted out of the files: the write-ahead log of the database is written over and emptied. What is
    /// deleted in the database itself is overwritten at once. Says whether no reader was in the way.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn scrub(&self) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        if writer.abandoned {
            // The next transaction cleans up first; this is repeated.
            return Ok(false);
        }
        let found = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut writer.connection).await?;
        Ok(found.try_get::<i64, _>(0)? == 0)
    }
}

impl Tx {
    /// An erasure, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn redaction(
        &mut self,
        tenant: &TenantName,
        id: RedactionId,
    ) -> Result<Option<RedactionRow>, StoreError> {
        get(self.connection(), tenant, id).await
    }

    /// Adds an erasure that was asked for.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such tenant.
    pub async fn redaction_insert(&mut self, new: &RedactionRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO redactions (id, tenant, kind, scope, ground, reason, state, found, requested, requested_by,
                 requested_by_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(new.id.to_string())
        .bind(new.tenant.as_str())
        .bind(&new.kind)
        .bind(new.scope.as_ref().map(serde_json::to_string).transpose()?)
        .bind(new.ground.as_str())
        .bind(&new.reason)
        .bind(new.state.as_str())
        .bind(rows::signed(new.found))
        .bind(rows::micros(new.requested))
        .bind(&new.requested_by)
        .bind(new.requested_by_id.to_string())
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Redaction, new.id))?;
        Ok(())
    }

    /// Answers one that was asked for; says whether it waited for an answer. What is denied forgets its scope.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn redaction_answer(
        &mut self,
        id: RedactionId,
        approved: bool,
        by: &Answerable,
    ) -> Result<bool, StoreError> {
        let state = if approved { RedactionState::Approved } else { RedactionState::Denied };
        let done = sqlx::query(
            "UPDATE redactions SET state = $1, answered = $2, scope = CASE WHEN $3 THEN scope END
             WHERE id = $4 AND state = 'requested'",
        )
        .bind(state.as_str())
        .bind(serde_json::to_string(by)?)
        .bind(approved)
        .bind(id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down which keys go, before they do; says whether it was approved.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn redaction_begin(&mut self, id: RedactionId, plan: &str, by: &Answerable) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE redactions SET state = 'executing', plan = $1, executed = $2 WHERE id = $3 AND state = 'approved'",
        )
        .bind(plan)
        .bind(serde_json::to_string(by)?)
        .bind(id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends one whose keys are gone, and forgets what it was about.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn redaction_end(&mut self, id: RedactionId, found: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE redactions SET state = 'executed', found = $1, scope = NULL, plan = NULL WHERE id = $2")
            .bind(rows::signed(found))
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Takes a person's name out of the runs that are over, their approvals and the answers that are kept for repeated
    /// commands; `instead` takes its place.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn forget_subject(
        &mut self,
        tenant: &TenantName,
        subject: &str,
        instead: &str,
    ) -> Result<(), StoreError> {
        let told = serde_json::to_string(subject)?;
        sqlx::query("UPDATE approvals SET subject = $1 WHERE tenant = $2 AND subject = $3 AND state NOT IN ('pending', 'approved')")
            .bind(instead)
            .bind(tenant.as_str())
            .bind(subject)
            .execute(self.connection())
            .await?;
        sqlx::query("UPDATE runs SET subject = $1 WHERE tenant = $2 AND subject = $3 AND ended IS NOT NULL")
            .bind(instead)
            .bind(tenant.as_str())
            .bind(subject)
            .execute(self.connection())
            .await?;
        sqlx::query("DELETE FROM idempotency WHERE instr(response, $1) > 0")
            .bind(told)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
