//! The journal's table: one SQLite file, read by several, written by one.

use std::{
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use cogward_model::{RunId, TenantName, Timestamp};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use crate::{Cursor, Entry, Filter, JournalOptions, Severity};

/// Why the journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database could not be opened or made.
    #[error("cannot open the journal `{path}`")]
    Database {
        /// The file.
        path: String,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A broken file could not be moved aside.
    #[error("cannot move the unreadable journal `{path}` aside")]
    MoveAside {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed.
    #[error("cannot read the journal")]
    Database(#[from] sqlx::Error),
    /// A row does not hold what the writer writes.
    #[error("the journal's row {0} is damaged")]
    Damaged(Cursor),
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS entry (
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, time_us INTEGER NOT NULL,
    tenant TEXT, run TEXT, kind TEXT NOT NULL, severity TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_by_run ON entry (run, epoch, seq) WHERE run IS NOT NULL;
CREATE TABLE IF NOT EXISTS mark (
    name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO mark (name, epoch, seq) VALUES ('opened', 0, 0), ('pruned', 0, 0);
";

#[derive(Clone)]
pub(crate) struct Table {
    pool: SqlitePool,
}

impl Table {
    /// Opens the file and begins a new epoch; the answer is the place before its first entry.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Cursor), OpenError> {
        match Self::try_open(path).await {
            Ok(opened) => Ok(opened),
            Err(source) if is_unreadable(&source) => {
                let aside = path.with_extension("unreadable");
                tracing::warn!(path = %path.display(), aside = %aside.display(), "the journal is unreadable; it is moved aside and a new one begins");
                let move_aside = |source| OpenError::MoveAside { path: path.display().to_string(), source };
                std::fs::rename(path, &aside).map_err(move_aside)?;
                for side in ["-wal", "-shm"] {
                    let mut file = path.as_os_str().to_owned();
                    file.push(side);
                    match std::fs::remove_file(&file) {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(move_aside(e)),
                        _ => {}
                    }
                }
                Self::try_open(path)
                    .await
                    .map_err(|source| OpenError::Database { path: path.display().to_string(), source })
            }
            Err(source) => Err(OpenError::Database { path: path.display().to_string(), source }),
        }
    }

    async fn try_open(path: &Path) -> Result<(Self, Cursor), sqlx::Error> {
        // SQLite would make it readable by others; what it makes beside it gets the same mode.
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        drop(file);
        // Not `FULL`: the journal may lose its newest rows with the host's power, the ledger may not.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        let row = sqlx::query("UPDATE mark SET epoch = epoch + 1 WHERE name = 'opened' RETURNING epoch")
            .fetch_one(&pool)
            .await?;
        let epoch = u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(u32::MAX);
        Ok((Self { pool }, Cursor { epoch, seq: 0 }))
    }

    pub(crate) async fn write(&self, entries: &[Entry]) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        for entry in entries {
            sqlx::query(
                "INSERT INTO entry (epoch, seq, time_us, tenant, run, kind, severity, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(i64::from(entry.cursor.epoch))
            .bind(signed(entry.cursor.seq))
            .bind(signed(entry.time.unix_micros()))
            .bind(entry.tenant.as_ref().map(TenantName::as_str))
            .bind(entry.run.map(|r| r.to_string()))
            .bind(entry.kind.as_ref())
            .bind(entry.severity.as_str())
            .bind(entry.detail.to_string())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await
    }

    /// Drops what is over the bounds, and remembers up to where, so that a reader's gap is told.
    pub(crate) async fn prune(&self, options: &JournalOptions, now: Timestamp) -> Result<u64, sqlx::Error> {
        let oldest = now.unix_micros().saturating_sub(u64::try_from(options.age_max.as_micros()).unwrap_or(u64::MAX));
        let mut tx = self.pool.begin().await?;
        let by_count = sqlx::query("SELECT epoch, seq FROM entry ORDER BY epoch DESC, seq DESC LIMIT 1 OFFSET ?")
            .bind(signed(options.rows_max))
            .fetch_optional(&mut *tx)
            .await?;
        // Times may go back with the host's clock: what is dropped is a prefix of the order, up to the first young row.
        let first_young = sqlx::query("SELECT epoch, seq FROM entry WHERE time_us >= ? ORDER BY epoch, seq LIMIT 1")
            .bind(signed(oldest))
            .fetch_optional(&mut *tx)
            .await?;
        let last_old =
            match first_young {
                Some(row) => sqlx::query(
                    "SELECT epoch, seq FROM entry WHERE (epoch, seq) < (?, ?) ORDER BY epoch DESC, seq DESC LIMIT 1",
                )
                .bind(row.try_get::<i64, _>(0)?)
                .bind(row.try_get::<i64, _>(1)?)
                .fetch_optional(&mut *tx)
                .await?,
                None => {
                    sqlx::query("SELECT epoch, seq FROM entry ORDER BY epoch DESC, seq DESC LIMIT 1")
                        .fetch_optional(&mut *tx)
                        .await?
                }
            };
        let place = |row: &SqliteRow| Some((row.try_get::<i64, _>(0).ok()?, row.try_get::<i64, _>(1).ok()?));
        let Some((epoch, seq)) = by_count.as_ref().and_then(place).max(last_old.as_ref().and_then(place)) else {
            return Ok(0);
        };
        let gone = sqlx::query("DELETE FROM entry WHERE (epoch, seq) <= (?, ?)")
            .bind(epoch)
            .bind(seq)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE mark SET epoch = ?, seq = ? WHERE name = 'pruned'")
            .bind(epoch)
            .bind(seq)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(gone.rows_affected())
    }

    /// The place up to which entries have been dropped.
    pub(crate) async fn pruned(&self) -> Result<Cursor, ReadError> {
        let row = sqlx::query("SELECT epoch, seq FROM mark WHERE name = 'pruned'").fetch_one(&self.pool).await?;
        Ok(cursor_of(&row)?)
    }

    /// Up to `limit` entries after `after`, and the place up to which the table was looked through.
    pub(crate) async fn page(&self, after: Cursor, filter: &Filter, limit: u32) -> Result<Vec<Entry>, ReadError> {
        let rows = sqlx::query(
            "SELECT epoch, seq, time_us, tenant, run, kind, severity, detail FROM entry
             WHERE (epoch, seq) > (?1, ?2) AND (?3 IS NULL OR tenant = ?3) AND (?4 IS NULL OR run = ?4)
             ORDER BY epoch, seq LIMIT ?5",
        )
        .bind(i64::from(after.epoch))
        .bind(signed(after.seq))
        .bind(filter.tenant.as_ref().map(TenantName::as_str))
        .bind(filter.run.map(|r| r.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(entry_of).collect()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn cursor_of(row: &SqliteRow) -> Result<Cursor, sqlx::Error> {
    Ok(Cursor {
        epoch: u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(u32::MAX),
        seq: u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0),
    })
}

fn entry_of(row: &SqliteRow) -> Result<Entry, ReadError> {
    let cursor = cursor_of(row)?;
    let damaged = || ReadError::Damaged(cursor);
    let tenant: Option<String> = row.try_get(3)?;
    let run: Option<String> = row.try_get(4)?;
    let detail: String = row.try_get(7)?;
    Ok(Entry {
        cursor,
        time: Timestamp::from_unix_micros(u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0)),
        tenant: tenant.map(|t| t.parse::<TenantName>()).transpose().map_err(|_| damaged())?,
        run: run.map(|r| r.parse::<RunId>()).transpose().map_err(|_| damaged())?,
        kind: row.try_get::<String, _>(5)?.into(),
        severity: Severity::from_word(row.try_get::<&str, _>(6)?),
        detail: serde_json::from_str(&detail).map_err(|_| damaged())?,
    })
}

/// Whether the file is no database of ours (SQLITE_NOTADB, SQLITE_CORRUPT and its kinds).
fn is_unreadable(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<u32>().ok()) else {
        return false;
    };
    matches!(code & 0xff, 11 | 26)
}
