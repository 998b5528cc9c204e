//! Operations: what was commanded on a run, by whom and why, and what came of it.

use std::{fmt, str::FromStr};

use cogward_model::{RunId, Timestamp, id::OperationId};
use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Recorded; its effects are being made.
    Pending,
    /// Its effects are there; the receipt says so.
    Done,
    /// Its effects could not be made; the receipt says why.
    Failed,
}

impl OperationState {
    /// The word used in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of an operation state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an operation state")]
pub struct ParseOperationStateError(String);

impl FromStr for OperationState {
    type Err = ParseOperationStateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pending" => Ok(Self::Pending),
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed),
            other => Err(ParseOperationStateError(other.chars().take(32).collect())),
        }
    }
}

/// One command on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// Its id; also the id of the work that makes it true.
    pub id: OperationId,
    /// The run.
    pub run: RunId,
    /// What was commanded: `start`, or a verb of the lifecycle.
    pub verb: String,
    /// Why.
    pub reason: Option<String>,
    /// Who commanded it.
    pub actor: String,
    /// How far it is.
    pub state: OperationState,
    /// When it was commanded.
    pub created: Timestamp,
    /// When it was done or failed.
    pub finished: Option<Timestamp>,
    /// What was done, with its measured times, as JSON.
    pub receipt_json: Option<String>,
}

fn row(row: &SqliteRow) -> Result<OperationRow, StoreError> {
    Ok(OperationRow {
        id: rows::typed(row, "id")?,
        run: rows::typed(row, "run")?,
        verb: row.try_get("verb")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        state: rows::typed(row, "state")?,
        created: rows::time(row, "created")?,
        finished: rows::time_or_null(row, "finished")?,
        receipt_json: row.try_get("receipt")?,
    })
}

async fn get(connection: &mut SqliteConnection, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    let found =
        sqlx::query("SELECT * FROM operations WHERE id = $1").bind(id.to_string()).fetch_optional(connection).await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The operation of that id.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn operation(&self, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
        get(&mut *self.reader().await?, id).await
    }

    /// The operations on a run, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn operations(&self, run: RunId, page: &PageRequest) -> Result<Page<OperationRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM operations WHERE run = $1 AND id > $2 ORDER BY id LIMIT $3")
            .bind(run.to_string())
            .bind(page.after.as_deref().unwrap_or(""))
            .bind(page.fetch())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |o: &OperationRow| o.id.to_string()))
    }

    /// The operations that were commanded last, latest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn operations_latest(&self, limit: u32) -> Result<Vec<OperationRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM operations ORDER BY id DESC LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reader().await?)
            .await?;
        found.iter().map(row).collect()
    }

    /// Every operation whose effects are not made yet, oldest first: what a restarted plane continues.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn operations_pending(&self) -> Result<Vec<OperationRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM operations WHERE state = 'pending' ORDER BY id")
            .fetch_all(&mut *self.reader().await?)
            .await?;
        found.iter().map(row).collect()
    }
}

impl Tx {
    /// The operation of that id, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn operation(&mut self, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
        get(self.connection(), id).await
    }

    /// Adds an operation.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such run.
    pub async fn operation_insert(&mut self, operation: &OperationRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO operations (id, run, verb, reason, actor, state, created, finished, receipt)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(operation.id.to_string())
        .bind(operation.run.to_string())
        .bind(&operation.verb)
        .bind(&operation.reason)
        .bind(&operation.actor)
        .bind(operation.state.as_str())
        .bind(rows::micros(operation.created))
        .bind(operation.finished.map(rows::micros))
        .bind(&operation.receipt_json)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Operation, operation.id))?;
        Ok(())
    }

    /// Ends a pending operation with its receipt.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it was ended before, or is not there.
    pub async fn operation_finish(
        &mut self,
        id: OperationId,
        state: OperationState,
        at: Timestamp,
        receipt_json: Option<&str>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE operations SET state = $2, finished = $3, receipt = $4 WHERE id = $1 AND state = 'pending'",
        )
        .bind(id.to_string())
        .bind(state.as_str())
        .bind(rows::micros(at))
        .bind(receipt_json)
        .execute(self.connection())
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Stale { noun: Noun::Operation, key: id.to_string() });
        }
        Ok(())
    }
}
