//! The schema, step by step. A step that was released never changes; the next one corrects it.

use cogward_model::Timestamp;
use sqlx::{Connection, Row, SqliteConnection};

use crate::{OpenError, rows::micros};

/// Every step in its order; the number is its place, from 1.
const STEPS: &[(&str, &str)] = &[
    ("0001_state", include_str!("../migrations/0001_state.sql")),
    ("0002_floors", include_str!("../migrations/0002_floors.sql")),
    ("0003_operator_rotation", include_str!("../migrations/0003_operator_rotation.sql")),
    ("0004_warm", include_str!("../migrations/0004_warm.sql")),
    ("0005_credentials", include_str!("../migrations/0005_credentials.sql")),
    ("0006_policies", include_str!("../migrations/0006_policies.sql")),
    ("0007_approvals", include_str!("../migrations/0007_approvals.sql")),
    ("0008_tool_pins", include_str!("../migrations/0008_tool_pins.sql")),
    ("0009_outside", include_str!("../migrations/0009_outside.sql")),
    ("0010_issuer_names", include_str!("../migrations/0010_issuer_names.sql")),
    ("0011_four_eyes", include_str!("../migrations/0011_four_eyes.sql")),
    ("0012_redaction", include_str!("../migrations/0012_redaction.sql")),
    ("0013_ledger_seen", include_str!("../migrations/0013_ledger_seen.sql")),
];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    number  BIGINT NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL,
    applied BIGINT NOT NULL
)";

/// Applies the steps that are not applied yet, each with its mark in one transaction.
pub(crate) async fn apply(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), OpenError> {
    sqlx::query(TABLE).execute(&mut *connection).await?;
    let applied =
        sqlx::query("SELECT number, name FROM schema_migrations ORDER BY number").fetch_all(&mut *connection).await?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    for row in &applied {
        let (number, name): (i64, String) = (row.try_get("number")?, row.try_get("name")?);
        if number > known {
            return Err(OpenError::Newer { found: number, known });
        }
        let step = usize::try_from(number).ok().and_then(|n| STEPS.get(n.checked_sub(1)?));
        if step.is_none_or(|(known_name, _)| *known_name != name) {
            return Err(OpenError::Diverged { number });
        }
    }
    for (place, (name, sql)) in STEPS.iter().enumerate().skip(applied.len()) {
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_migrations (number, name, applied) VALUES ($1, $2, $3)")
            .bind(i64::try_from(place + 1).unwrap_or(i64::MAX))
            .bind(*name)
            .bind(micros(now))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
    }
    Ok(())
}
