//! Answers to commands, kept so that a command that is sent twice takes effect once.

use cogward_model::{Digest, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Store, StoreError, Tx, rows};

/// The answer to one command. Written in the transaction of the command itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// The operator who sent it; keys of different operators are different keys.
    pub operator: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// The digest of method, path and body: the same key with another request is refused.
    pub request_digest: Digest,
    /// The HTTP status that was answered.
    pub status: u16,
    /// The body that was answered.
    pub response: String,
    /// When.
    pub created: Timestamp,
}

fn row(row: &SqliteRow) -> Result<IdempotencyRow, StoreError> {
    Ok(IdempotencyRow {
        operator: row.try_get("operator")?,
        key: row.try_get("key")?,
        request_digest: rows::typed(row, "request_digest")?,
        status: rows::number(row, "status")?,
        response: row.try_get("response")?,
        created: rows::time(row, "created")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    operator: &str,
    key: &str,
) -> Result<Option<IdempotencyRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM idempotency WHERE operator = $1 AND key = $2")
        .bind(operator)
        .bind(key)
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The answer that this operator was given for this key.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn idempotency(&self, operator: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        get(&mut *self.reader().await?, operator, key).await
    }
}

impl Tx {
    /// The answer that this operator was given for this key, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn idempotency(&mut self, operator: &str, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        get(self.connection(), operator, key).await
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key was used: the transaction must not be committed.
    pub async fn idempotency_insert(&mut self, answer: &IdempotencyRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO idempotency (operator, key, request_digest, status, response, created)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&answer.operator)
        .bind(&answer.key)
        .bind(answer.request_digest.to_string())
        .bind(i64::from(answer.status))
        .bind(&answer.response)
        .bind(rows::micros(answer.created))
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::IdempotencyKey, &answer.key))?;
        Ok(())
    }

    /// Forgets answers from before `oldest`; gives how many.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn idempotency_purge(&mut self, oldest: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM idempotency WHERE created < $1")
            .bind(rows::micros(oldest))
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected())
    }
}
