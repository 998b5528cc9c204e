//! Versions of agents: immutable, found by label.

use cogward_model::{AgentName, Digest, TenantName, Timestamp, VersionLabel};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// One registered version. Never changed and never removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// The tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The label, used once.
    pub label: VersionLabel,
    /// The manifest as canonical JSON.
    pub manifest_json: String,
    /// The digest of `manifest_json`.
    pub manifest_digest: Digest,
    /// The digest of the package's files; the name of its directory in `packages/`.
    pub package_digest: Digest,
    /// The digest over both: the identity of the version.
    pub version_digest: Digest,
    /// The tier, as in the manifest.
    pub tier: String,
    /// When it was registered.
    pub created: Timestamp,
    /// The operator who registered it.
    pub created_by: String,
}

pub(crate) fn row(row: &SqliteRow) -> Result<VersionRow, StoreError> {
    Ok(VersionRow {
        tenant: rows::typed(row, "tenant")?,
        agent: rows::typed(row, "agent")?,
        label: rows::typed(row, "label")?,
        manifest_json: row.try_get("manifest_json")?,
        manifest_digest: rows::typed(row, "manifest_digest")?,
        package_digest: rows::typed(row, "package_digest")?,
        version_digest: rows::typed(row, "version_digest")?,
        tier: row.try_get("tier")?,
        created: rows::time(row, "created")?,
        created_by: row.try_get("created_by")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    agent: &AgentName,
    label: &VersionLabel,
) -> Result<Option<VersionRow>, StoreError> {
    let found = sqlx::query(
        "SELECT tenant, agent, label, manifest_json, manifest_digest, package_digest, version_digest, tier, created,
             created_by FROM versions WHERE tenant = $1 AND agent = $2 AND label = $3",
    )
    .bind(tenant.as_str())
    .bind(agent.as_str())
    .bind(label.as_str())
    .fetch_optional(connection)
    .await?;
    found.as_ref().map(row).transpose()
}

async fn latest(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    agent: &AgentName,
) -> Result<Option<VersionRow>, StoreError> {
    let found = sqlx::query(
        "SELECT tenant, agent, label, manifest_json, manifest_digest, package_digest, version_digest, tier, created,
             created_by FROM versions WHERE tenant = $1 AND agent = $2 ORDER BY created DESC, label DESC LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(agent.as_str())
    .fetch_optional(connection)
    .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The version of that label.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn version(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        label: &VersionLabel,
    ) -> Result<Option<VersionRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, agent, label).await
    }

    /// The version that was registered last.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn version_latest(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
    ) -> Result<Option<VersionRow>, StoreError> {
        latest(&mut *self.reader().await?, tenant, agent).await
    }

    /// The versions of an agent by label.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn versions(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        page: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        let found = sqlx::query(
            "SELECT tenant, agent, label, manifest_json, manifest_digest, package_digest, version_digest, tier, created,
                 created_by FROM versions WHERE tenant = $1 AND agent = $2 AND label > $3 ORDER BY label LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(agent.as_str())
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |v: &VersionRow| v.label.to_string()))
    }
}

impl Store {
    /// The versions of every agent, of one tenant or of all, in the order of tenant, agent and label.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn versions_of_all(
        &self,
        tenant: Option<&TenantName>,
        page: &PageRequest,
    ) -> Result<Page<VersionRow>, StoreError> {
        let after: Vec<&str> = page.after.as_deref().unwrap_or("").splitn(3, '/').collect();
        let part = |n: usize| after.get(n).copied().unwrap_or("");
        let found = sqlx::query(
            "SELECT tenant, agent, label, manifest_json, manifest_digest, package_digest, version_digest, tier, created,
                 created_by FROM versions WHERE (tenant, agent, label) > ($1, $2, $3) AND ($4 IS NULL OR tenant = $4)
             ORDER BY tenant, agent, label LIMIT $5",
        )
        .bind(part(0))
        .bind(part(1))
        .bind(part(2))
        .bind(tenant.map(TenantName::as_str))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |v: &VersionRow| format!("{}/{}/{}", v.tenant, v.agent, v.label)))
    }
}

impl Tx {
    /// The version of that label, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn version(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
        label: &VersionLabel,
    ) -> Result<Option<VersionRow>, StoreError> {
        get(self.connection(), tenant, agent, label).await
    }

    /// The version that was registered last, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn version_latest(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
    ) -> Result<Option<VersionRow>, StoreError> {
        latest(self.connection(), tenant, agent).await
    }

    /// Adds a version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the label was used, [`StoreError::Missing`] when there is no such agent.
    pub async fn version_insert(&mut self, version: &VersionRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO versions (tenant, agent, label, manifest_json, manifest_digest, package_digest,
                 version_digest, tier, created, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(version.tenant.as_str())
        .bind(version.agent.as_str())
        .bind(version.label.as_str())
        .bind(&version.manifest_json)
        .bind(version.manifest_digest.to_string())
        .bind(version.package_digest.to_string())
        .bind(version.version_digest.to_string())
        .bind(&version.tier)
        .bind(rows::micros(version.created))
        .bind(&version.created_by)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Version, format_args!("{}@{}", version.agent, version.label)))?;
        Ok(())
    }
}
