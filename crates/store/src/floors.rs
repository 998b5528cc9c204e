//! Floors as operators have set them. What holds is decided by [`cogward_model::floor`].

use cogward_model::{
    TenantName, Timestamp,
    floor::{Floor, FloorSource},
    manifest::{Profile, Tier},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Store, StoreError, Tx, rows};

/// A floor that an operator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloorRow {
    /// For this tenant; for the whole plane when there is none.
    pub tenant: Option<TenantName>,
    /// For this tier.
    pub tier: Tier,
    /// The weakest profile that is accepted.
    pub profile: Profile,
    /// Why.
    pub reason: String,
    /// When it was set.
    pub updated: Timestamp,
    /// The operator who set it.
    pub set_by: String,
}

/// The floors that bear on one tenant, or on the plane alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloorRows(Vec<FloorRow>);

impl FloorRows {
    /// What holds for a tier, and the row it comes from when it is not the default.
    #[must_use]
    pub fn effective(&self, tier: Tier) -> (Floor, Option<&FloorRow>) {
        let of = |tenant: bool| self.0.iter().find(|row| row.tier == tier && row.tenant.is_some() == tenant);
        let (plane, tenant) = (of(false), of(true));
        let floor = Floor::effective(tier, plane.map(|row| row.profile), tenant.map(|row| row.profile));
        let from = match floor.source {
            FloorSource::Default => None,
            FloorSource::Plane => plane,
            FloorSource::Tenant => tenant,
        };
        (floor, from)
    }

    /// What the plane demands for a tier, whatever the tenant adds.
    #[must_use]
    pub fn of_plane(&self, tier: Tier) -> Floor {
        let plane = self.0.iter().find(|row| row.tier == tier && row.tenant.is_none());
        Floor::effective(tier, plane.map(|row| row.profile), None)
    }

    /// Where a floor comes from, for the person who met it: who set it, when and why.
    #[must_use]
    pub fn told(&self, tier: Tier) -> String {
        let (_, from) = self.effective(tier);
        match from {
            None => "it is the default of cogward".to_owned(),
            Some(FloorRow { tenant, reason, updated, set_by, .. }) => {
                let whose = tenant.as_ref().map_or("the plane".to_owned(), |name| format!("the tenant `{name}`"));
                let day = updated.to_string();
                format!("`{set_by}` set it for {whose} on {}: {reason}", day.get(..10).unwrap_or(&day))
            }
        }
    }
}

const PLANE: &str = "plane";

fn scope(tenant: Option<&TenantName>) -> String {
    tenant.map_or_else(|| PLANE.to_owned(), |name| format!("tenant/{name}"))
}

fn row(row: &SqliteRow) -> Result<FloorRow, StoreError> {
    let scope: String = row.try_get("scope")?;
    let corrupt = |why: String| StoreError::Corrupt { column: "scope", why };
    let tenant = match scope.strip_prefix("tenant/") {
        Some(name) => Some(name.parse().map_err(|_| corrupt(format!("`{scope}` names no tenant")))?),
        None if scope == PLANE => None,
        None => return Err(corrupt(format!("`{scope}` is neither the plane nor a tenant"))),
    };
    Ok(FloorRow {
        tenant,
        tier: rows::word(row, "tier")?,
        profile: rows::word(row, "profile")?,
        reason: row.try_get("reason")?,
        updated: rows::time(row, "updated")?,
        set_by: row.try_get("set_by")?,
    })
}

async fn bearing_on(connection: &mut SqliteConnection, tenant: Option<&TenantName>) -> Result<FloorRows, StoreError> {
    let found = sqlx::query("SELECT * FROM floors WHERE scope = $1 OR scope = $2 ORDER BY scope, tier")
        .bind(PLANE)
        .bind(scope(tenant))
        .fetch_all(connection)
        .await?;
    found.iter().map(row).collect::<Result<_, _>>().map(FloorRows)
}

impl Store {
    /// The floors that bear on a tenant; those of the plane alone without one.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn floors(&self, tenant: Option<&TenantName>) -> Result<FloorRows, StoreError> {
        bearing_on(&mut *self.reader().await?, tenant).await
    }
}

impl Tx {
    /// The floors that bear on a tenant, as this transaction sees them.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn floors(&mut self, tenant: Option<&TenantName>) -> Result<FloorRows, StoreError> {
        bearing_on(self.connection(), tenant).await
    }

    /// Sets a floor.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn floor_put(&mut self, floor: &FloorRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO floors (scope, tier, profile, reason, updated, set_by) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (scope, tier) DO UPDATE SET profile = excluded.profile, reason = excluded.reason,
                 updated = excluded.updated, set_by = excluded.set_by",
        )
        .bind(scope(floor.tenant.as_ref()))
        .bind(floor.tier.as_str())
        .bind(floor.profile.as_str())
        .bind(&floor.reason)
        .bind(rows::micros(floor.updated))
        .bind(&floor.set_by)
        .execute(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Floor, floor.tier.as_str()))?;
        Ok(())
    }

    /// Takes back what was set; says whether there was anything.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn floor_delete(&mut self, tenant: Option<&TenantName>, tier: Tier) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM floors WHERE scope = $1 AND tier = $2")
            .bind(scope(tenant))
            .bind(tier.as_str())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
