//! Runs: one execution of a version each.

use cogward_model::{
    AgentName, Digest, RunId, TenantName, Timestamp, VersionLabel, outside::OutsideClient, run::RunState,
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// One run. What is fixed at its start comes first, what changes follows from `state` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// The tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The label of the version.
    pub version: VersionLabel,
    /// The version's digest: what really runs.
    pub digest: Digest,
    /// What it is to achieve.
    pub goal: String,
    /// The user for whom it acts.
    pub subject: Option<String>,
    /// The operator who started it.
    pub created_by: String,
    /// Why it was started.
    pub reason: Option<String>,
    /// The digest of its input.
    pub input_digest: Option<Digest>,
    /// When it was asked for.
    pub created: Timestamp,
    /// The client outside that acts in it; none for a run in a sandbox.
    pub outside: Option<OutsideClient>,

    /// Where it is in its life.
    pub state: RunState,
    /// Where it is to be: what was commanded, whether or not it is reached yet.
    pub desired: RunState,
    /// Counts the commands that its gateways must obey; grows with each.
    pub fence_epoch: u64,
    /// Counts the writes of this row; [`Tx::run_put`] refuses a row that was read before the last one.
    pub revision: u64,
    /// The host identity of its processes; `None` once it has ended. No two live runs share one.
    pub uid_slot: Option<u32>,
    /// When the agent's first instruction ran.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The exit code of the agent.
    pub exit_code: Option<i32>,
    /// The signal that ended the agent.
    pub exit_signal: Option<i32>,
    /// Why it failed, in one sentence.
    pub fail_cause: Option<String>,
    /// What it used up, as JSON.
    pub usage_json: Option<String>,
}

/// Which runs a list shows. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this tenant.
    pub tenant: Option<TenantName>,
    /// Of this agent.
    pub agent: Option<AgentName>,
    /// In this state.
    pub state: Option<RunState>,
}

fn row(row: &SqliteRow) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        id: rows::typed(row, "id")?,
        tenant: rows::typed(row, "tenant")?,
        agent: rows::typed(row, "agent")?,
        version: rows::typed(row, "version")?,
        digest: rows::typed(row, "digest")?,
        goal: row.try_get("goal")?,
        subject: row.try_get("subject")?,
        created_by: row.try_get("created_by")?,
        reason: row.try_get("reason")?,
        input_digest: rows::typed_or_null(row, "input_digest")?,
        created: rows::time(row, "created")?,
        outside: rows::json_or_null(row, "outside")?,
        state: rows::typed(row, "state")?,
        desired: rows::typed(row, "desired")?,
        fence_epoch: rows::number(row, "fence_epoch")?,
        revision: rows::number(row, "revision")?,
        uid_slot: rows::number_or_null(row, "uid_slot")?,
        started: rows::time_or_null(row, "started")?,
        ended: rows::time_or_null(row, "ended")?,
        exit_code: rows::number_or_null(row, "exit_code")?,
        exit_signal: rows::number_or_null(row, "exit_signal")?,
        fail_cause: row.try_get("fail_cause")?,
        usage_json: row.try_get("usage_json")?,
    })
}

async fn get(connection: &mut SqliteConnection, id: RunId) -> Result<Option<RunRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM runs WHERE id = $1").bind(id.to_string()).fetch_optional(connection).await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The run of that id.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn run(&self, id: RunId) -> Result<Option<RunRow>, StoreError> {
        get(&mut *self.reader().await?, id).await
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn runs(&self, filter: &RunFilter, page: &PageRequest) -> Result<Page<RunRow>, StoreError> {
        let found = sqlx::query(
            "SELECT * FROM runs
             WHERE (CAST($1 AS TEXT) IS NULL OR tenant = $1)
               AND (CAST($2 AS TEXT) IS NULL OR agent = $2)
               AND (CAST($3 AS TEXT) IS NULL OR state = $3)
               AND (CAST($4 AS TEXT) IS NULL OR id < $4)
             ORDER BY id DESC LIMIT $5",
        )
        .bind(filter.tenant.as_ref().map(TenantName::as_str))
        .bind(filter.agent.as_ref().map(AgentName::as_str))
        .bind(filter.state.map(RunState::as_str))
        .bind(page.after.as_deref())
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |r: &RunRow| r.id.to_string()))
    }

    /// Every run that has not ended, oldest first: what a restarted plane adopts and reconciles.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn runs_live(&self) -> Result<Vec<RunRow>, StoreError> {
        let found = sqlx::query(
            "SELECT * FROM runs WHERE state IN ('starting', 'running', 'suspended', 'stopping') ORDER BY id",
        )
        .fetch_all(&mut *self.reader().await?)
        .await?;
        found.iter().map(row).collect()
    }
}

impl Store {
    /// Every run whose end is not recorded yet, oldest first. A run that was killed is final at once and
    /// is among these until its processes are seen to be gone.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn runs_unclosed(&self) -> Result<Vec<RunRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM runs WHERE uid_slot IS NOT NULL ORDER BY id")
            .fetch_all(&mut *self.reader().await?)
            .await?;
        found.iter().map(row).collect()
    }
}

/// Runs of clients outside that are not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutsideRuns {
    /// Of one agent.
    pub of_agent: u64,
    /// Of its tenant.
    pub of_tenant: u64,
    /// Of all.
    pub of_plane: u64,
}

impl Tx {
    /// The run of that id, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn run(&mut self, id: RunId) -> Result<Option<RunRow>, StoreError> {
        get(self.connection(), id).await
    }

    /// The lowest slot below `slots` that no live run has; `None` when all are taken.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn run_free_slot(&mut self, slots: u32) -> Result<Option<u32>, StoreError> {
        let taken = sqlx::query("SELECT uid_slot FROM runs WHERE uid_slot IS NOT NULL ORDER BY uid_slot")
            .fetch_all(self.connection())
            .await?;
        let mut free = 0_u32;
        for row in &taken {
            let slot: u32 = rows::number(row, "uid_slot")?;
            if slot != free {
                break;
            }
            free = free.saturating_add(1);
        }
        Ok((free < slots).then_some(free))
    }

    /// The last run of a client outside, and whether it is over.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn run_last_of(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
        client: &OutsideClient,
    ) -> Result<Option<RunRow>, StoreError> {
        let found = sqlx::query(
            "SELECT * FROM runs WHERE tenant = $1 AND agent = $2 AND outside_key = $3 ORDER BY id DESC LIMIT 1",
        )
        .bind(tenant.as_str())
        .bind(agent.as_str())
        .bind(client.key())
        .fetch_optional(self.connection())
        .await?;
        found.as_ref().map(row).transpose()
    }

    /// How many runs of clients outside are not closed.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn runs_outside(&mut self, tenant: &TenantName, agent: &AgentName) -> Result<OutsideRuns, StoreError> {
        let found = sqlx::query(
            "SELECT COUNT(*) AS everyone, COALESCE(SUM(tenant = $1), 0) AS of_tenant,
                 COALESCE(SUM(tenant = $1 AND agent = $2), 0) AS own FROM runs
             WHERE uid_slot IS NOT NULL AND outside_key IS NOT NULL",
        )
        .bind(tenant.as_str())
        .bind(agent.as_str())
        .fetch_one(self.connection())
        .await?;
        Ok(OutsideRuns {
            of_agent: rows::number(&found, "own")?,
            of_tenant: rows::number(&found, "of_tenant")?,
            of_plane: rows::number(&found, "everyone")?,
        })
    }

    /// Adds a run.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id or the slot is taken, [`StoreError::Missing`] when there is no
    /// such version: what is not registered does not run.
    pub async fn run_insert(&mut self, run: &RunRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO runs (id, tenant, agent, version, digest, goal, subject, created_by, reason, input_digest,
                 created, state, desired, fence_epoch, revision, uid_slot, started, ended, exit_code, exit_signal,
                 fail_cause, usage_json, outside, outside_key)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24)",
        )
        .bind(run.id.to_string())
        .bind(run.tenant.as_str())
        .bind(run.agent.as_str())
        .bind(run.version.as_str())
        .bind(run.digest.to_string())
        .bind(&run.goal)
        .bind(&run.subject)
        .bind(&run.created_by)
        .bind(&run.reason)
        .bind(run.input_digest.map(|d| d.to_string()))
        .bind(rows::micros(run.created))
        .bind(run.state.as_str())
        .bind(run.desired.as_str())
        .bind(rows::signed(run.fence_epoch))
        .bind(rows::signed(run.revision))
        .bind(run.uid_slot.map(i64::from))
        .bind(run.started.map(rows::micros))
        .bind(run.ended.map(rows::micros))
        .bind(run.exit_code.map(i64::from))
        .bind(run.exit_signal.map(i64::from))
        .bind(&run.fail_cause)
        .bind(&run.usage_json)
        .bind(run.outside.as_ref().map(serde_json::to_string).transpose()?)
        .bind(run.outside.as_ref().map(OutsideClient::key))
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Run, run.id))?;
        Ok(())
    }

    /// Writes what changes in a run, and counts `revision` up in the row that was given.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the run was written since it was read,
    /// [`StoreError::Conflict`] when the slot is taken.
    pub async fn run_put(&mut self, run: &mut RunRow) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET state = $3, desired = $4, fence_epoch = $5, revision = revision + 1, uid_slot = $6,
                 started = $7, ended = $8, exit_code = $9, exit_signal = $10, fail_cause = $11, usage_json = $12
             WHERE id = $1 AND revision = $2",
        )
        .bind(run.id.to_string())
        .bind(rows::signed(run.revision))
        .bind(run.state.as_str())
        .bind(run.desired.as_str())
        .bind(rows::signed(run.fence_epoch))
        .bind(run.uid_slot.map(i64::from))
        .bind(run.started.map(rows::micros))
        .bind(run.ended.map(rows::micros))
        .bind(run.exit_code.map(i64::from))
        .bind(run.exit_signal.map(i64::from))
        .bind(&run.fail_cause)
        .bind(&run.usage_json)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Run, run.id))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Stale { noun: Noun::Run, key: run.id.to_string() });
        }
        run.revision = run.revision.saturating_add(1);
        Ok(())
    }
}
