//! Tenants.

use cogward_model::{TenantName, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// A part of the estate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its name.
    pub name: TenantName,
    /// When it was made.
    pub created: Timestamp,
    /// The operator who made it, or `plane`.
    pub created_by: String,
}

fn row(row: &SqliteRow) -> Result<TenantRow, StoreError> {
    Ok(TenantRow {
        name: rows::typed(row, "name")?,
        created: rows::time(row, "created")?,
        created_by: row.try_get("created_by")?,
    })
}

async fn get(connection: &mut SqliteConnection, name: &TenantName) -> Result<Option<TenantRow>, StoreError> {
    let found = sqlx::query("SELECT name, created, created_by FROM tenants WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The tenant of that name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn tenant(&self, name: &TenantName) -> Result<Option<TenantRow>, StoreError> {
        get(&mut *self.reader().await?, name).await
    }

    /// Tenants by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tenants(&self, page: &PageRequest) -> Result<Page<TenantRow>, StoreError> {
        let found = sqlx::query("SELECT name, created, created_by FROM tenants WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(page.after.as_deref().unwrap_or(""))
            .bind(page.fetch())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |t: &TenantRow| t.name.to_string()))
    }
}

impl Tx {
    /// The tenant of that name, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn tenant(&mut self, name: &TenantName) -> Result<Option<TenantRow>, StoreError> {
        get(self.connection(), name).await
    }

    /// Adds a tenant.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn tenant_insert(&mut self, tenant: &TenantRow) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO tenants (name, created, created_by) VALUES ($1, $2, $3)")
            .bind(tenant.name.as_str())
            .bind(rows::micros(tenant.created))
            .bind(&tenant.created_by)
            .execute(self.connection())
            .await
            .map_err(|e| StoreError::on_write(e, Noun::Tenant, &tenant.name))?;
        Ok(())
    }
}
