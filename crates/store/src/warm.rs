//! How many sandboxes of a version are kept ready.

use cogward_model::{AgentName, TenantName, VersionLabel};

use crate::{Noun, Store, StoreError, Tx, VersionRow, rows, versions};

impl Store {
    /// Versions of which sandboxes are to be ready, with how many, in a stable order.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn warm(&self) -> Result<Vec<(VersionRow, u32)>, StoreError> {
        let found = sqlx::query(
            "SELECT v.*, w.count AS warm_count FROM warm w
             JOIN versions v ON v.tenant = w.tenant AND v.agent = w.agent AND v.label = w.label
             WHERE w.count > 0 ORDER BY v.tenant, v.agent, v.label",
        )
        .fetch_all(&mut *self.reader().await?)
        .await?;
        found.iter().map(|row| Ok((versions::row(row)?, rows::number(row, "warm_count")?))).collect()
    }

    /// How many sandboxes of one version are to be ready.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn warm_of(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        label: &VersionLabel,
    ) -> Result<u32, StoreError> {
        let found = sqlx::query("SELECT count FROM warm WHERE tenant = $1 AND agent = $2 AND label = $3")
            .bind(tenant.as_str())
            .bind(agent.as_str())
            .bind(label.as_str())
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.as_ref().map_or(Ok(0), |row| rows::number(row, "count"))
    }
}

impl Tx {
    /// Sets how many sandboxes of a version are to be ready; none is zero.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such version.
    pub async fn warm_put(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
        label: &VersionLabel,
        count: u32,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO warm (tenant, agent, label, count) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant, agent, label) DO UPDATE SET count = excluded.count",
        )
        .bind(tenant.as_str())
        .bind(agent.as_str())
        .bind(label.as_str())
        .bind(i64::from(count))
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Version, label))?;
        Ok(())
    }
}
