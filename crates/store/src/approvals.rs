//! Calls that wait for a person. One row is the answer to one exact call of a run at a time.

use std::{fmt, str::FromStr};

use cogward_model::{
    AgentName, Digest, RunId, TenantName, Timestamp, VersionLabel,
    id::{ApprovalId, OperatorId},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Answerable, Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// Where an approval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApprovalState {
    /// Nobody has answered.
    Pending,
    /// Somebody allowed the call, and it was not made again yet.
    Approved,
    /// Somebody refused it.
    Denied,
    /// Nobody answered in time, it was not made again in time, or the run ended.
    Expired,
    /// The call was made; the approval is used up.
    Consumed,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Denied, Self::Expired, Self::Consumed];

    /// The word in the API and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
        }
    }
}

impl fmt::Display for ApprovalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not a state of approvals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state of an approval")]
pub struct ParseApprovalStateError(String);

impl FromStr for ApprovalState {
    type Err = ParseApprovalStateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| ParseApprovalStateError(text.chars().take(32).collect()))
    }
}

/// One call that waits, or waited, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRow {
    /// Its id.
    pub id: ApprovalId,
    /// Whose.
    pub tenant: TenantName,
    /// The run that asked.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// Its version.
    pub version: VersionLabel,
    /// The user for whom the run acts.
    pub subject: Option<String>,
    /// The digest of the exact call.
    pub request: Digest,
    /// What kind of call.
    pub action: String,
    /// What it is on.
    pub object: String,
    /// How long its arguments are, where it has some.
    pub arguments_bytes: Option<u64>,
    /// The level that decided.
    pub level: String,
    /// The rules that decided.
    pub rules: Vec<String>,
    /// The active versions, `level:digest`.
    pub policy: Vec<String>,
    /// Who may answer; anybody when empty.
    pub role: String,
    /// Whoever started the run, or for whom it acts, may not approve.
    pub four_eyes: bool,
    /// Why it is asked, as the rule says.
    pub reason: Option<String>,
    /// Where it is.
    pub state: ApprovalState,
    /// When it was asked.
    pub requested: Timestamp,
    /// Until when it can be answered and used.
    pub expires: Timestamp,
    /// Who answered.
    pub decided: Option<Answerable>,
    /// When it was used.
    pub consumed: Option<Timestamp>,
}

/// Which approvals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApprovalFilter {
    /// Of this tenant.
    pub tenant: Option<TenantName>,
    /// Of this run.
    pub run: Option<RunId>,
    /// In this state.
    pub state: Option<ApprovalState>,
}

/// What only one row has as long as it is the answer: a call may be asked of several roles. What was asked without four
/// eyes is no answer to a question with them.
fn slot(run: RunId, request: Digest, role: &str, four_eyes: bool) -> String {
    // No role has a `/`.
    let eyes = if four_eyes { "/four-eyes" } else { "" };
    format!("{run}/{request}/{role}{eyes}")
}

fn row(row: &SqliteRow) -> Result<ApprovalRow, StoreError> {
    let decided = match rows::time_or_null(row, "decided")? {
        None => None,
        Some(at) => Some(Answerable {
            name: row.try_get("decided_by")?,
            id: rows::typed::<OperatorId>(row, "decided_by_id")?,
            at,
            reason: row.try_get("decision_reason")?,
        }),
    };
    Ok(ApprovalRow {
        id: rows::typed(row, "id")?,
        tenant: rows::typed(row, "tenant")?,
        run: rows::typed(row, "run")?,
        agent: rows::typed(row, "agent")?,
        version: rows::typed(row, "version")?,
        subject: row.try_get("subject")?,
        request: rows::typed(row, "request")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        arguments_bytes: rows::number_or_null(row, "arguments_bytes")?,
        level: row.try_get("level")?,
        rules: rows::json(row, "rules")?,
        policy: rows::json(row, "policy")?,
        role: row.try_get("role")?,
        four_eyes: row.try_get::<i64, _>("four_eyes")? != 0,
        reason: row.try_get("reason")?,
        state: rows::typed(row, "state")?,
        requested: rows::time(row, "requested")?,
        expires: rows::time(row, "expires")?,
        decided,
        consumed: rows::time_or_null(row, "consumed")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    id: ApprovalId,
) -> Result<Option<ApprovalRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM approvals WHERE id = $1 AND tenant = $2")
        .bind(id.to_string())
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// An approval of a tenant.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn approval(&self, tenant: &TenantName, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, id).await
    }

    /// Approvals, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn approvals(
        &self,
        filter: &ApprovalFilter,
        page: &PageRequest,
    ) -> Result<Page<ApprovalRow>, StoreError> {
        // Above every id.
        let before = page.after.as_deref().unwrap_or("apr_~");
        let found = sqlx::query(
            "SELECT * FROM approvals WHERE id < $1 AND ($2 IS NULL OR tenant = $2) AND ($3 IS NULL OR run = $3)
                 AND ($4 IS NULL OR state = $4) ORDER BY id DESC LIMIT $5",
        )
        .bind(before)
        .bind(filter.tenant.as_ref().map(TenantName::as_str))
        .bind(filter.run.map(|run| run.to_string()))
        .bind(filter.state.map(ApprovalState::as_str))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |a: &ApprovalRow| a.id.to_string()))
    }

    /// An approval, whatever its tenant: for the plane itself, never for a request.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn approval_of_any(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM approvals WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.as_ref().map(row).transpose()
    }

    /// Those of a run that can still be answered or used.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn approvals_open(&self, run: RunId) -> Result<Vec<ApprovalRow>, StoreError> {
        let found =
            sqlx::query("SELECT * FROM approvals WHERE run = $1 AND state IN ('pending', 'approved') ORDER BY id")
                .bind(run.to_string())
                .fetch_all(&mut *self.reader().await?)
                .await?;
        found.iter().map(row).collect()
    }

    /// Those that can no longer be answered or used: their time is over at `now`, or their run has ended.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn approvals_over(&self, now: Timestamp, limit: u32) -> Result<Vec<ApprovalRow>, StoreError> {
        let found = sqlx::query(
            "SELECT a.* FROM approvals a JOIN runs r ON r.id = a.run WHERE a.state IN ('pending', 'approved')
                 AND (a.expires <= $1 OR r.ended IS NOT NULL) ORDER BY a.id LIMIT $2",
        )
        .bind(rows::micros(now))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.reader().await?)
        .await?;
        found.iter().map(row).collect()
    }
}

impl Tx {
    /// An approval of a tenant, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn approval(&mut self, tenant: &TenantName, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        get(self.connection(), tenant, id).await
    }

    /// The row that answers this exact call of a run for a role, if it was asked before and the answer still stands.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn approval_for(
        &mut self,
        run: RunId,
        request: Digest,
        role: &str,
        four_eyes: bool,
    ) -> Result<Option<ApprovalRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM approvals WHERE slot = $1")
            .bind(slot(run, request, role, four_eyes))
            .fetch_optional(self.connection())
            .await?;
        found.as_ref().map(row).transpose()
    }

    /// How many of a run and of its tenant wait.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approvals_waiting(&mut self, tenant: &TenantName, run: RunId) -> Result<(u64, u64), StoreError> {
        let found = sqlx::query(
            "SELECT COUNT(*) AS of_tenant, COALESCE(SUM(CASE WHEN run = $1 THEN 1 ELSE 0 END), 0) AS of_run
             FROM approvals WHERE state = 'pending' AND tenant = $2",
        )
        .bind(run.to_string())
        .bind(tenant.as_str())
        .fetch_one(self.connection())
        .await?;
        Ok((rows::number(&found, "of_run")?, rows::number(&found, "of_tenant")?))
    }

    /// How many a run has asked for altogether.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approvals_asked(&mut self, run: RunId) -> Result<u64, StoreError> {
        let found = sqlx::query("SELECT COUNT(*) AS asked FROM approvals WHERE run = $1")
            .bind(run.to_string())
            .fetch_one(self.connection())
            .await?;
        rows::number(&found, "asked")
    }

    /// Adds one that is the answer to its call from now on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the call has an answer.
    pub async fn approval_insert(&mut self, new: &ApprovalRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO approvals (id, slot, tenant, run, agent, version, subject, request, action, object,
                 arguments_bytes, level, rules, policy, role, reason, state, requested, expires, four_eyes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
        )
        .bind(new.id.to_string())
        .bind(slot(new.run, new.request, &new.role, new.four_eyes))
        .bind(new.tenant.as_str())
        .bind(new.run.to_string())
        .bind(new.agent.as_str())
        .bind(new.version.as_str())
        .bind(&new.subject)
        .bind(new.request.to_string())
        .bind(&new.action)
        .bind(&new.object)
        .bind(new.arguments_bytes.map(rows::signed))
        .bind(&new.level)
        .bind(serde_json::to_string(&new.rules)?)
        .bind(serde_json::to_string(&new.policy)?)
        .bind(&new.role)
        .bind(&new.reason)
        .bind(new.state.as_str())
        .bind(rows::micros(new.requested))
        .bind(rows::micros(new.expires))
        .bind(i64::from(new.four_eyes))
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Approval, new.id))?;
        Ok(())
    }

    /// Answers one that is pending; says whether it was.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approval_decide(
        &mut self,
        id: ApprovalId,
        approved: bool,
        by: &Answerable,
    ) -> Result<bool, StoreError> {
        let state = if approved { ApprovalState::Approved } else { ApprovalState::Denied };
        let done = sqlx::query(
            "UPDATE approvals SET state = $1, decided = $2, decided_by = $3, decided_by_id = $4, decision_reason = $5
             WHERE id = $6 AND state = 'pending'",
        )
        .bind(state.as_str())
        .bind(rows::micros(by.at))
        .bind(&by.name)
        .bind(by.id.to_string())
        .bind(&by.reason)
        .bind(id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Uses one up that is approved; says whether it was. The same call is asked anew after this.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approval_consume(&mut self, id: ApprovalId, at: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE approvals SET state = 'consumed', consumed = $1, slot = NULL WHERE id = $2 AND state = 'approved'",
        )
        .bind(rows::micros(at))
        .bind(id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Makes one approved again that was consumed and not used; not when the same call was asked anew since.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approval_give_back(&mut self, approval: &ApprovalRow) -> Result<bool, StoreError> {
        let slot = slot(approval.run, approval.request, &approval.role, approval.four_eyes);
        let done = sqlx::query(
            "UPDATE approvals SET state = 'approved', consumed = NULL, slot = $1 WHERE id = $2 AND state = 'consumed'
                 AND NOT EXISTS (SELECT 1 FROM approvals WHERE slot = $1)",
        )
        .bind(slot)
        .bind(approval.id.to_string())
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends one that is pending or approved; says whether it was. It stays the answer to its call until it was told.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approval_expire(&mut self, id: ApprovalId) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE approvals SET state = 'expired' WHERE id = $1 AND state IN ('pending', 'approved')")
                .bind(id.to_string())
                .execute(self.connection())
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// One that expired is the answer to its call no more: the next one is asked anew.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn approval_told(&mut self, id: ApprovalId) -> Result<(), StoreError> {
        sqlx::query("UPDATE approvals SET slot = NULL WHERE id = $1 AND state = 'expired'")
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
