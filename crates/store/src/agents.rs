//! Registered agents.

use cogward_model::{AgentName, TenantName, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// A registered agent. Its fields follow the newest version that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its name, unique within the tenant.
    pub name: AgentName,
    /// The team that runs it.
    pub owner: String,
    /// The person who is accountable for it.
    pub sponsor: String,
    /// Where its cost is booked.
    pub cost_centre: String,
    /// When it was first registered.
    pub created: Timestamp,
    /// The operator who registered it first.
    pub created_by: String,
}

fn row(row: &SqliteRow) -> Result<AgentRow, StoreError> {
    Ok(AgentRow {
        tenant: rows::typed(row, "tenant")?,
        name: rows::typed(row, "name")?,
        owner: row.try_get("owner")?,
        sponsor: row.try_get("sponsor")?,
        cost_centre: row.try_get("cost_centre")?,
        created: rows::time(row, "created")?,
        created_by: row.try_get("created_by")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    name: &AgentName,
) -> Result<Option<AgentRow>, StoreError> {
    let found = sqlx::query(
        "SELECT tenant, name, owner, sponsor, cost_centre, created, created_by FROM agents WHERE tenant = $1 AND name = $2",
    )
    .bind(tenant.as_str())
    .bind(name.as_str())
    .fetch_optional(connection)
    .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// The agent of that name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn agent(&self, tenant: &TenantName, name: &AgentName) -> Result<Option<AgentRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, name).await
    }

    /// The agents of a tenant by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn agents(&self, tenant: &TenantName, page: &PageRequest) -> Result<Page<AgentRow>, StoreError> {
        let found = sqlx::query(
            "SELECT tenant, name, owner, sponsor, cost_centre, created, created_by FROM agents
             WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |a: &AgentRow| a.name.to_string()))
    }
}

impl Tx {
    /// The agent of that name, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn agent(&mut self, tenant: &TenantName, name: &AgentName) -> Result<Option<AgentRow>, StoreError> {
        get(self.connection(), tenant, name).await
    }

    /// Adds an agent, or brings owner, sponsor and cost centre of a known one up to date.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such tenant.
    pub async fn agent_put(&mut self, agent: &AgentRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO agents (tenant, name, owner, sponsor, cost_centre, created, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant, name) DO UPDATE SET
                 owner = excluded.owner, sponsor = excluded.sponsor, cost_centre = excluded.cost_centre",
        )
        .bind(agent.tenant.as_str())
        .bind(agent.name.as_str())
        .bind(&agent.owner)
        .bind(&agent.sponsor)
        .bind(&agent.cost_centre)
        .bind(rows::micros(agent.created))
        .bind(&agent.created_by)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Agent, &agent.name))?;
        Ok(())
    }
}
