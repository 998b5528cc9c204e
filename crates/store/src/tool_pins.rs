//! Definitions of tools, resources, templates and prompts: as they are offered, and as they were approved. What becomes
//! of them is decided by [`cogward_model::pin`]. What is no tool has its kind before its name, and so a `:` in it.

use std::collections::BTreeSet;

use cogward_model::{
    DataLabel, Digest, TenantName, Timestamp, ToolName, UpstreamName,
    pin::{Pin, PinState},
    pin_name::PinName,
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{Noun, Page, PageRequest, Store, StoreError, Tx, rows};

/// One tool of one server, or something else that it defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPinRow {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its server.
    pub server: UpstreamName,
    /// What it is.
    pub tool: PinName,
    /// The identity of the server that all of this is about.
    pub upstream: Digest,
    /// Whether it may be used.
    pub pin: Pin,
    /// The definition that is offered, or was last: the text that the server sent.
    pub definition: String,
    /// The definition that was approved last: the text that is served.
    pub approved_definition: Option<String>,
    /// The operator who approved it.
    pub approved_by: Option<String>,
    /// When.
    pub approved: Option<Timestamp>,
    /// Why it was approved or blocked.
    pub reason: Option<String>,
    /// The labels of its data, set by an operator.
    pub labels: BTreeSet<DataLabel>,
    /// Whether an operator said that a call may be sent twice without harm.
    pub idempotent: bool,
    /// When the definition that is offered was first seen.
    pub seen: Timestamp,
    /// Counts its changes from 1; the ETag of the resource.
    pub revision: u64,
}

/// A tool that agents can be given, with what policies have to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedTool {
    /// Its server.
    pub server: UpstreamName,
    /// Its name.
    pub tool: ToolName,
    /// The pin.
    pub digest: Digest,
    /// The approved definition, a JSON object; its `inputSchema` is what arguments are checked against.
    pub definition: String,
    /// The labels of its data.
    pub labels: BTreeSet<DataLabel>,
    /// Whether a call may be sent twice without harm.
    pub idempotent: bool,
}

fn truth(row: &SqliteRow, column: &'static str) -> Result<bool, StoreError> {
    rows::number::<u8>(row, column).map(|number| number == 1)
}

fn row(row: &SqliteRow) -> Result<ToolPinRow, StoreError> {
    let cause: Option<String> = row.try_get("cause")?;
    Ok(ToolPinRow {
        tenant: rows::typed(row, "tenant")?,
        server: rows::typed(row, "server")?,
        tool: rows::typed(row, "tool")?,
        upstream: rows::typed(row, "upstream")?,
        pin: Pin {
            state: rows::word(row, "state")?,
            cause: cause.is_some().then(|| rows::word(row, "cause")).transpose()?,
            offered: truth(row, "offered")?,
            digest: rows::typed(row, "digest")?,
            approved: rows::typed_or_null(row, "approved_digest")?,
        },
        definition: row.try_get("definition")?,
        approved_definition: row.try_get("approved_definition")?,
        approved_by: row.try_get("approved_by")?,
        approved: rows::time_or_null(row, "approved")?,
        reason: row.try_get("reason")?,
        labels: rows::json(row, "labels")?,
        idempotent: truth(row, "idempotent")?,
        seen: rows::time(row, "seen")?,
        revision: rows::number(row, "revision")?,
    })
}

async fn get(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    server: &UpstreamName,
    tool: &PinName,
) -> Result<Option<ToolPinRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM tool_pins WHERE tenant = $1 AND server = $2 AND tool = $3")
        .bind(tenant.as_str())
        .bind(server.as_str())
        .bind(tool.to_string())
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(row).transpose()
}

async fn of_server(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    server: &UpstreamName,
) -> Result<Vec<ToolPinRow>, StoreError> {
    let found = sqlx::query("SELECT * FROM tool_pins WHERE tenant = $1 AND server = $2 ORDER BY tool")
        .bind(tenant.as_str())
        .bind(server.as_str())
        .fetch_all(connection)
        .await?;
    found.iter().map(row).collect()
}

impl Store {
    /// One tool.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn tool_pin(
        &self,
        tenant: &TenantName,
        server: &UpstreamName,
        tool: &PinName,
    ) -> Result<Option<ToolPinRow>, StoreError> {
        get(&mut *self.reader().await?, tenant, server, tool).await
    }

    /// All tools of a server by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tool_pins(&self, tenant: &TenantName, server: &UpstreamName) -> Result<Vec<ToolPinRow>, StoreError> {
        of_server(&mut *self.reader().await?, tenant, server).await
    }

    /// A page of the tools of a server by name.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tool_pins_page(
        &self,
        tenant: &TenantName,
        server: &UpstreamName,
        page: &PageRequest,
    ) -> Result<Page<ToolPinRow>, StoreError> {
        let found = sqlx::query(
            "SELECT * FROM tool_pins WHERE tenant = $1 AND server = $2 AND tool > $3 ORDER BY tool LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(server.as_str())
        .bind(page.after.as_deref().unwrap_or(""))
        .bind(page.fetch())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let items = found.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, page, |pin: &ToolPinRow| pin.tool.to_string()))
    }

    /// How many tools are in which state, by server: approved or not, offered or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tool_counts(
        &self,
        tenant: &TenantName,
    ) -> Result<Vec<(UpstreamName, PinState, bool, u32)>, StoreError> {
        let found = sqlx::query(
            "SELECT server, state, offered, COUNT(*) AS count FROM tool_pins
             WHERE tenant = $1 AND INSTR(tool, ':') = 0 GROUP BY server, state, offered",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let count = |row: &SqliteRow| {
            let (server, state) = (rows::typed(row, "server")?, rows::word(row, "state")?);
            Ok((server, state, truth(row, "offered")?, rows::number(row, "count")?))
        };
        found.iter().map(count).collect()
    }

    /// The names of all tools of a tenant that are offered or approved, and of nothing else.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tool_names(&self, tenant: &TenantName) -> Result<Vec<(UpstreamName, ToolName)>, StoreError> {
        let found = sqlx::query(
            "SELECT server, tool FROM tool_pins WHERE tenant = $1 AND INSTR(tool, ':') = 0 ORDER BY server, tool",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        found.iter().map(|row| Ok((rows::typed(row, "server")?, rows::typed(row, "tool")?))).collect()
    }

    /// Every approved tool of a tenant, whether its server offers it at the moment or not.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn approved_tools(&self, tenant: &TenantName) -> Result<Vec<ApprovedTool>, StoreError> {
        let found = sqlx::query(
            "SELECT server, tool, approved_digest, approved_definition, labels, idempotent FROM tool_pins
             WHERE tenant = $1 AND state = 'approved' AND INSTR(tool, ':') = 0 ORDER BY server, tool",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *self.reader().await?)
        .await?;
        let tool = |row: &SqliteRow| {
            Ok(ApprovedTool {
                server: rows::typed(row, "server")?,
                tool: rows::typed(row, "tool")?,
                digest: rows::typed(row, "approved_digest")?,
                definition: row.try_get("approved_definition")?,
                labels: rows::json(row, "labels")?,
                idempotent: truth(row, "idempotent")?,
            })
        };
        found.iter().map(tool).collect()
    }
}

impl Tx {
    /// One tool, as this transaction sees it.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or the row is not readable.
    pub async fn tool_pin(
        &mut self,
        tenant: &TenantName,
        server: &UpstreamName,
        tool: &PinName,
    ) -> Result<Option<ToolPinRow>, StoreError> {
        get(self.connection(), tenant, server, tool).await
    }

    /// All tools of a server, as this transaction sees them.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed or a row is not readable.
    pub async fn tool_pins(
        &mut self,
        tenant: &TenantName,
        server: &UpstreamName,
    ) -> Result<Vec<ToolPinRow>, StoreError> {
        of_server(self.connection(), tenant, server).await
    }

    /// Writes a tool; gives the new revision. The one in `pin` is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such server.
    pub async fn tool_pin_put(&mut self, pin: &ToolPinRow) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO tool_pins (tenant, server, tool, upstream, state, cause, offered, digest, definition,
                 approved_digest, approved_definition, approved_by, approved, reason, labels, idempotent, seen, revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1)
             ON CONFLICT (tenant, server, tool) DO UPDATE SET upstream = excluded.upstream, state = excluded.state,
                 cause = excluded.cause, offered = excluded.offered, digest = excluded.digest,
                 definition = excluded.definition, approved_digest = excluded.approved_digest,
                 approved_definition = excluded.approved_definition, approved_by = excluded.approved_by,
                 approved = excluded.approved, reason = excluded.reason, labels = excluded.labels,
                 idempotent = excluded.idempotent, seen = excluded.seen, revision = tool_pins.revision + 1
             RETURNING revision",
        )
        .bind(pin.tenant.as_str())
        .bind(pin.server.as_str())
        .bind(pin.tool.to_string())
        .bind(pin.upstream.to_string())
        .bind(pin.pin.state.as_str())
        .bind(pin.pin.cause.map(|cause| cause.as_str()))
        .bind(i64::from(pin.pin.offered))
        .bind(pin.pin.digest.to_string())
        .bind(&pin.definition)
        .bind(pin.pin.approved.map(|digest| digest.to_string()))
        .bind(&pin.approved_definition)
        .bind(&pin.approved_by)
        .bind(pin.approved.map(rows::micros))
        .bind(&pin.reason)
        .bind(serde_json::to_string(&pin.labels)?)
        .bind(i64::from(pin.idempotent))
        .bind(rows::micros(pin.seen))
        .fetch_one(self.connection())
        .await
        .map_err(|e| StoreError::on_write(e, Noun::Tool, format!("{}/{}", pin.server, pin.tool)))?;
        rows::number(&row, "revision")
    }

    /// Forgets a tool; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn tool_pin_delete(
        &mut self,
        tenant: &TenantName,
        server: &UpstreamName,
        tool: &PinName,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tool_pins WHERE tenant = $1 AND server = $2 AND tool = $3")
            .bind(tenant.as_str())
            .bind(server.as_str())
            .bind(tool.to_string())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets all tools of a server; says how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn tool_pins_delete(&mut self, tenant: &TenantName, server: &UpstreamName) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM tool_pins WHERE tenant = $1 AND server = $2")
            .bind(tenant.as_str())
            .bind(server.as_str())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected())
    }
}
