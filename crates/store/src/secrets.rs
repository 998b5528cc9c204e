//! Sealed secrets. This crate keeps the sealed text and cannot open it.

use cogward_model::Timestamp;
use sqlx::{Row, sqlite::SqliteRow};

use crate::{Store, StoreError, Tx, rows};

/// A sealed secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its name; bound into the seal, so that rows cannot be swapped.
    pub name: String,
    /// The sealed text.
    pub sealed: String,
    /// When it was written.
    pub updated: Timestamp,
}

impl std::fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRow").field("name", &self.name).finish_non_exhaustive()
    }
}

fn row(row: &SqliteRow) -> Result<SecretRow, StoreError> {
    Ok(SecretRow { name: row.try_get("name")?, sealed: row.try_get("sealed")?, updated: rows::time(row, "updated")? })
}

impl Store {
    /// The sealed secret of that name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn secret(&self, name: &str) -> Result<Option<SecretRow>, StoreError> {
        let found = sqlx::query("SELECT name, sealed, updated FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.as_ref().map(row).transpose()
    }

    /// Whether anything is sealed: then the key that seals must be there too.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn secrets_exist(&self) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT name FROM secrets LIMIT 1").fetch_optional(&mut *self.reader().await?).await?;
        Ok(found.is_some())
    }
}

impl Tx {
    /// Keeps a sealed secret, in place of the one of the same name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn secret_put(&mut self, secret: &SecretRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO secrets (name, sealed, updated) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, updated = excluded.updated",
        )
        .bind(&secret.name)
        .bind(&secret.sealed)
        .bind(rows::micros(secret.updated))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Removes a sealed secret; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn secret_delete(&mut self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM secrets WHERE name = $1").bind(name).execute(self.connection()).await?;
        Ok(done.rows_affected() == 1)
    }
}
