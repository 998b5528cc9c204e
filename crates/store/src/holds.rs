//! Legal holds: what must not be erased, and who placed and released it.

use cogward_model::{
    TenantName,
    id::HoldId,
    redaction::{HoldScope, HoldState},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Answerable, Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// A legal hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// Its id.
    pub id: HoldId,
    /// Whose.
    pub tenant: TenantName,
    /// What kind of scope: `subject`, `run`, `agent`, `window`.
    pub kind: String,
    /// What it keeps; forgotten when it is released.
    pub scope: Option<HoldScope>,
    /// Why, in words; it stays.
    pub reason: String,
    /// Where it is.
    pub state: HoldState,
    /// Who asked for it.
    pub requested: Answerable,
    /// Who placed it.
    pub placed: Option<Answerable>,
    /// Who asked for its release.
    pub releasing: Option<Answerable>,
    /// Who released it.
    pub released: Option<Answerable>,
}

fn row(row: &SqliteRow) -> Result<HoldRow, StoreError> {
    let step = |column: &'static str| {
        let text: Option<String> = row.try_get(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|e| StoreError::Corrupt { column, why: e.to_string() }))
            .transpose()
    };
    let scope: Option<String> = row.try_get("scope")?;
    let scope = scope.map(|text| serde_json::from_str(&text)).transpose();
    Ok(HoldRow {
        id: rows::typed(row, "id")?,
        tenant: rows::typed(row, "tenant")?,
        kind: row.try_get("kind")?,
        scope: scope.map_err(|e| StoreError::Corrupt { column: "scope", why: e.to_string() })?,
        reason: row.try_get("reason")?,
        state: rows::word(row, "state")?,
        requested: rows::json(row, "requested")?,
        placed: step("placed")?,
        releasing: step("releasing")?,
        released: step("released")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    id: HoldId,
) -> Result<Option<HoldRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM holds WHERE id = $1 AND tenant = $2")
        .bind(id.to_string())
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

impl Store {
    /// A hold of a tenant.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn hold(&self, tenant: &TenantName, id: HoldId) -> Result<Option<HoldRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, id).await
    }

    /// The holds of a tenant, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn holds(&self, tenant: &TenantName, page: &PageRequest) -> Result<Page<HoldRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM holds WHERE id < $1 AND tenant = $2 ORDER BY id DESC LIMIT $3")
            .bind(page.after.as_deref().unwrap_or("hld_~"))
            .bind(tenant.as_str())
            .bind(page.fetch())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |hold: &HoldRow| hold.id.to_string()))
    }

    /// Every hold of a tenant that is in force.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn holds_in_force(&self, tenant: &TenantName) -> Result<Vec<HoldRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM holds WHERE tenant = $1 AND state <> 'released' ORDER BY id")
            .bind(tenant.as_str())
            .fetch_all(&mut *self.reader().await?)
            .await?;
        found.iter().map(row).collect()
    }
}

impl Tx {
    /// A hold, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn hold(&mut self, tenant: &TenantName, id: HoldId) -> Result<Option<HoldRow>, StoreError> {
        get(self.connection(), tenant, id).await
    }

    /// Adds a hold, or writes its next step.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such tenant.
    pub async fn hold_put(&mut self, hold: &HoldRow) -> Result<(), StoreError> {
        let step = |by: &Option<Answerable>| by.as_ref().map(serde_json::to_string).transpose();
        let (placed, releasing, released) = (step(&hold.placed)?, step(&hold.releasing)?, step(&hold.released)?);
        let scope = hold.scope.as_ref().map(serde_json::to_string).transpose()?;
        sqlx::query(
            "INSERT INTO holds (id, tenant, kind, scope, reason, state, requested, placed, releasing, released)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (id) DO UPDATE SET scope = excluded.scope, state = excluded.state, placed = excluded.placed,
                 releasing = excluded.releasing, released = excluded.released",
        )
        .bind(hold.id.to_string())
        .bind(hold.tenant.as_str())
        .bind(&hold.kind)
        .bind(scope)
        .bind(&hold.reason)
        .bind(hold.state.as_str())
        .bind(serde_json::to_string(&hold.requested)?)
        .bind(placed)
        .bind(releasing)
        .bind(released)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Hold, hold.id))?;
        Ok(())
    }
}
