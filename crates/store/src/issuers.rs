//! Authorization servers whose tokens are taken from clients outside.

use cogward_model::{TenantName, Timestamp, UpstreamName, outside::TrustedIssuer};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// A trusted issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRow {
    /// What it is.
    pub config: TrustedIssuer,
    /// Counts its changes from 1; the ETag of the resource.
    pub revision: u64,
    /// When it was first added.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// The operator who changed it last.
    pub updated_by: String,
}

fn row(row: &SqliteRow) -> Result<IssuerRow, StoreError> {
    Ok(IssuerRow {
        config: rows::json(row, "config")?,
        revision: rows::number(row, "revision")?,
        created: rows::time(row, "created")?,
        updated: rows::time(row, "updated")?,
        updated_by: row.try_get("updated_by")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    name: &UpstreamName,
) -> Result<Option<IssuerRow>, StoreError> {
    let found = sqlx::query(
        "SELECT config, revision, created, updated, updated_by FROM issuers WHERE tenant = $1 AND name = $2",
    )
    .bind(tenant.as_str())
    .bind(name.as_str())
    .fetch_optional(connection)
    .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The issuer of that name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn issuer(&self, tenant: &TenantName, name: &UpstreamName) -> Result<Option<IssuerRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, name).await
    }

    /// The issuers of a tenant by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn issuers(&self, tenant: &TenantName, page: &PageRequest) -> Result<Page<IssuerRow>, StoreError> {
        let found = sqlx::query(
            "SELECT config, revision, created, updated, updated_by FROM issuers
             WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |i: &IssuerRow| i.config.name.to_string()))
    }
}

impl Store {
    /// The issuer that a name was first given to, also when it was removed since.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn issuer_named(&self, tenant: &TenantName, name: &UpstreamName) -> Result<Option<String>, StoreError> {
        let found = sqlx::query_scalar("SELECT issuer FROM issuer_names WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name.as_str())
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        Ok(found)
    }
}

impl Tx {
    /// The issuer of that name, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn issuer(&mut self, tenant: &TenantName, name: &UpstreamName) -> Result<Option<IssuerRow>, StoreError> {
        get(self.connection(), tenant, name).await
    }

    /// Adds an issuer or replaces the one of the same name; gives the new revision.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such tenant.
    pub async fn issuer_put(&mut self, config: &TrustedIssuer, by: &str, at: Timestamp) -> Result<u64, StoreError> {
        sqlx::query("INSERT INTO issuer_names (tenant, name, issuer) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(config.tenant.as_str())
            .bind(config.name.as_str())
            .bind(config.issuer.as_str())
            .execute(self.connection())
            .await?;
        let row = sqlx::query(
            "INSERT INTO issuers (tenant, name, config, revision, created, updated, updated_by)
             VALUES ($1, $2, $3, 1, $4, $4, $5)
             ON CONFLICT (tenant, name) DO UPDATE SET config = excluded.config, updated = excluded.updated,
                 updated_by = excluded.updated_by, revision = issuers.revision + 1
             RETURNING revision",
        )
        .bind(config.tenant.as_str())
        .bind(config.name.as_str())
        .bind(serde_json::to_string(config)?)
        .bind(rows::micros(at))
        .bind(by)
        .fetch_one(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Issuer, &config.name))?;
        rows::number(&row, "revision")
    }

    /// Removes an issuer; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn issuer_delete(&mut self, tenant: &TenantName, name: &UpstreamName) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM issuers WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name.as_str())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
