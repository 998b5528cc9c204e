//! The index's file: SQLite, one writer, readers that open it for one question.
//!
//! What is indexed and up to which place in the log is written in one transaction, so a crash leaves an index that is
//! only older. Terms are keyed hashes: the file names no person, agent or tool.

use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cogward_ledger::Hash;
use cogward_model::TenantName;
use cogward_wal::Position;
use sqlx::{
    Connection, QueryBuilder, Row, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::vault::KEY_ID_BYTES;

/// The version of the file's form: another one is made anew.
const FORM: i64 = 2;
/// Rows of one statement.
const ROWS: usize = 1_000;

const SCHEMA: &str = "
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), plane TEXT NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL);
CREATE TABLE log (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, sealed INTEGER NOT NULL);
CREATE TABLE leaf (log INTEGER NOT NULL, seq INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    time INTEGER NOT NULL, PRIMARY KEY (log, seq)) WITHOUT ROWID;
CREATE TABLE term (log INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (log, key, seq)) WITHOUT ROWID;
CREATE TABLE tile (log INTEGER NOT NULL, level INTEGER NOT NULL, n INTEGER NOT NULL, hashes BLOB NOT NULL,
    PRIMARY KEY (log, level, n)) WITHOUT ROWID;
CREATE TABLE claim (log INTEGER NOT NULL, first INTEGER NOT NULL, until INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (log, first, until)) WITHOUT ROWID;
";

/// Why the index gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file.
    #[error("the index could not be read or written")]
    Database(#[from] sqlx::Error),
    /// The file's directory.
    #[error("the index's file could not be made or removed")]
    Io(#[from] io::Error),
    /// It does not say what the log says; it is made anew.
    #[error("the index was not what the log gives ({0}); it is being made anew, ask again in a while")]
    Damaged(&'static str),
    /// It does not reach that far yet.
    #[error("the index is current up to leaf {current} of {wanted}; ask again in a while")]
    Behind {
        /// Leaves in the index.
        current: u64,
        /// Leaves that are needed.
        wanted: u64,
    },
    /// Its thread has ended.
    #[error("the ledger is being closed")]
    Closed,
}

/// One log in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogRow {
    pub(crate) id: i64,
    pub(crate) size: u64,
    /// Up to where whole ranges have their root in the log.
    pub(crate) sealed: u64,
}

/// What is added to one log at once.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub(crate) size: u64,
    pub(crate) sealed: u64,
    pub(crate) leaves: Vec<(u64, Position, u64)>,
    pub(crate) terms: Vec<([u8; KEY_ID_BYTES], u64)>,
    pub(crate) tiles: Vec<(u32, u64, Vec<u8>)>,
    pub(crate) claims: Vec<(u64, u64, u64)>,
}

/// The writer's connection, or a reader's.
pub(crate) struct Table {
    connection: SqliteConnection,
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &sqlx::sqlite::SqliteRow, at: usize) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(at)?).unwrap_or(0))
}

/// The file and those that SQLite puts beside it.
pub(super) fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        file.into()
    })
}

/// Removes the index.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    files(path).iter().try_for_each(|file| match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

impl Table {
    /// Opens the index for writing, made when there is none. `None`: it is of another form or another plane.
    pub(crate) async fn open(path: &Path, plane: &str) -> Result<Option<Self>, IndexError> {
        // SQLite would make it readable by others; what it makes beside it gets the same mode.
        drop(std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?);
        // Not `FULL`: what the host's power takes is indexed again.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("wal_autocheckpoint", "4000")
            .pragma("cache_size", "-16384")
            .pragma("secure_delete", "ON")
            .busy_timeout(Duration::from_secs(5));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let form: i64 = sqlx::query("PRAGMA user_version").fetch_one(&mut connection).await?.try_get(0)?;
        let tables: i64 =
            sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await?.try_get(0)?;
        if form == 0 && tables == 0 {
            let mut tx = connection.begin().await?;
            sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO state VALUES (1, ?, 0, 0)").bind(plane).execute(&mut *tx).await?;
            sqlx::raw_sql("PRAGMA user_version = 2").execute(&mut *tx).await?;
            tx.commit().await?;
        } else if form != FORM {
            return Ok(None);
        }
        let row = sqlx::query("SELECT plane FROM state WHERE one = 1").fetch_optional(&mut connection).await?;
        match row {
            Some(row) if row.try_get::<String, _>(0)? == plane => Ok(Some(Self { connection })),
            _ => Ok(None),
        }
    }

    /// Closes the file and waits for it.
    pub(crate) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "the evidence index was not closed well");
        }
    }

    /// Opens the index to ask it.
    pub(crate) async fn read(path: &Path) -> Result<Self, IndexError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .pragma("query_only", "ON")
            .busy_timeout(Duration::from_secs(5));
        Ok(Self { connection: SqliteConnection::connect_with(&options).await? })
    }

    /// The place in the log up to which it is indexed.
    pub(crate) async fn position(&mut self) -> Result<Position, IndexError> {
        let row =
            sqlx::query("SELECT segment, offset FROM state WHERE one = 1").fetch_one(&mut self.connection).await?;
        Ok(Position { segment: unsigned(&row, 0)?, offset: unsigned(&row, 1)? })
    }

    /// A tenant's log.
    pub(crate) async fn log(&mut self, tenant: &str) -> Result<Option<LogRow>, IndexError> {
        let row = sqlx::query("SELECT id, size, sealed FROM log WHERE tenant = ?").bind(tenant);
        let row = row.fetch_optional(&mut self.connection).await?;
        row.map(|row| Ok(LogRow { id: row.try_get(0)?, size: unsigned(&row, 1)?, sealed: unsigned(&row, 2)? }))
            .transpose()
    }

    /// The tenants whose logs have a whole range without its root.
    pub(crate) async fn unsealed(&mut self, range: u64) -> Result<Vec<TenantName>, IndexError> {
        let rows = sqlx::query("SELECT tenant FROM log WHERE size - sealed >= ? LIMIT 100").bind(signed(range));
        let rows = rows.fetch_all(&mut self.connection).await?;
        Ok(rows.iter().filter_map(|row| row.try_get::<String, _>(0).ok()?.parse().ok()).collect())
    }

    /// Adds to the logs and moves on, all at once.
    pub(crate) async fn add(
        &mut self,
        end: Position,
        logs: impl Iterator<Item = (&TenantName, &Added)>,
    ) -> Result<(), IndexError> {
        let mut tx = self.connection.begin().await?;
        for (tenant, added) in logs {
            let log: i64 = sqlx::query(
                "INSERT INTO log (tenant, size, sealed) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tenant) DO UPDATE SET size = ?2, sealed = ?3 RETURNING id",
            )
            .bind(tenant.as_str())
            .bind(signed(added.size))
            .bind(signed(added.sealed))
            .fetch_one(&mut *tx)
            .await?
            .try_get(0)?;
            for rows in added.leaves.chunks(ROWS) {
                let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO leaf (log, seq, segment, offset, time) ");
                insert.push_values(rows, |mut row, (seq, at, time)| {
                    row.push_bind(log).push_bind(signed(*seq)).push_bind(signed(at.segment));
                    row.push_bind(signed(at.offset)).push_bind(signed(*time));
                });
                insert.build().execute(&mut *tx).await?;
            }
            for rows in added.terms.chunks(ROWS) {
                let mut insert = QueryBuilder::<Sqlite>::new("INSERT OR IGNORE INTO term (log, key, seq) ");
                insert.push_values(rows, |mut row, (key, seq)| {
                    row.push_bind(log).push_bind(key.as_slice()).push_bind(signed(*seq));
                });
                insert.build().execute(&mut *tx).await?;
            }
            for (level, number, hashes) in &added.tiles {
                sqlx::query("INSERT OR REPLACE INTO tile (log, level, n, hashes) VALUES (?, ?, ?, ?)")
                    .bind(log)
                    .bind(*level)
                    .bind(signed(*number))
                    .bind(hashes.as_slice())
                    .execute(&mut *tx)
                    .await?;
            }
            for (first, until, seq) in &added.claims {
                sqlx::query("INSERT OR REPLACE INTO claim (log, first, until, seq) VALUES (?, ?, ?, ?)")
                    .bind(log)
                    .bind(signed(*first))
                    .bind(signed(*until))
                    .bind(signed(*seq))
                    .execute(&mut *tx)
                    .await?;
            }
        }
        sqlx::query("UPDATE state SET segment = ?, offset = ? WHERE one = 1")
            .bind(signed(end.segment))
            .bind(signed(end.offset))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// The first `width` hashes of a tile.
    pub(crate) async fn tile(&mut self, log: i64, level: u32, n: u64, width: usize) -> Result<Vec<Hash>, IndexError> {
        let row = sqlx::query("SELECT hashes FROM tile WHERE log = ? AND level = ? AND n = ?")
            .bind(log)
            .bind(level)
            .bind(signed(n))
            .fetch_optional(&mut self.connection)
            .await?;
        let bytes: Vec<u8> = match row {
            Some(row) => row.try_get(0)?,
            None => Vec::new(),
        };
        let hashes = bytes.as_chunks::<32>().0.get(..width);
        hashes.map(<[Hash]>::to_vec).ok_or(IndexError::Damaged("a tile is not there"))
    }

    /// Where a leaf stands, and its time.
    pub(crate) async fn leaf(&mut self, log: i64, seq: u64) -> Result<Option<(Position, u64)>, IndexError> {
        let row =
            sqlx::query("SELECT segment, offset, time FROM leaf WHERE log = ? AND seq = ?").bind(log).bind(signed(seq));
        let row = row.fetch_optional(&mut self.connection).await?;
        row.map(|row| {
            let at = Position { segment: unsigned(&row, 0)?, offset: unsigned(&row, 1)? };
            Ok((at, unsigned(&row, 2)?))
        })
        .transpose()
    }

    /// The leaves of a part of the log that have all terms, in order, with their places.
    pub(crate) async fn find(
        &mut self,
        log: i64,
        terms: &[[u8; KEY_ID_BYTES]],
        (from, to): (u64, u64),
        limit: usize,
    ) -> Result<Vec<(u64, Position)>, IndexError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT l.seq, l.segment, l.offset FROM ");
        let first = if terms.is_empty() { "l" } else { "t0" };
        for n in 0..terms.len() {
            query.push(format!("term t{n} CROSS JOIN "));
        }
        query.push("leaf l WHERE l.log = ").push_bind(log);
        for (n, term) in terms.iter().enumerate() {
            query.push(format!(" AND t{n}.log = ")).push_bind(log);
            query.push(format!(" AND t{n}.key = ")).push_bind(term.as_slice());
            query.push(format!(" AND t{n}.seq = {}", if n == 0 { "l.seq" } else { "t0.seq" }));
        }
        query.push(format!(" AND {first}.seq >= ")).push_bind(signed(from));
        query.push(format!(" AND {first}.seq < ")).push_bind(signed(to));
        query.push(format!(" ORDER BY {first}.seq LIMIT ")).push_bind(signed(limit as u64));
        let rows = query.build().fetch_all(&mut self.connection).await?;
        rows.iter()
            .map(|row| {
                let at = Position { segment: unsigned(row, 1)?, offset: unsigned(row, 2)? };
                Ok((unsigned(row, 0)?, at))
            })
            .collect()
    }

    /// Says no more that these leaves have a term, nor do the file's free pages.
    pub(crate) async fn forget(
        &mut self,
        log: i64,
        term: &[u8; KEY_ID_BYTES],
        leaves: &[u64],
    ) -> Result<(), IndexError> {
        let mut tx = self.connection.begin().await?;
        for seq in leaves {
            sqlx::query("DELETE FROM term WHERE log = ? AND key = ? AND seq = ?")
                .bind(log)
                .bind(term.as_slice())
                .bind(signed(*seq))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.connection).await?;
        Ok(())
    }

    /// The first and the last leaf with a term.
    pub(crate) async fn ends(&mut self, log: i64, term: &[u8; KEY_ID_BYTES]) -> Result<Option<(u64, u64)>, IndexError> {
        let ends = "SELECT (SELECT min(seq) FROM term WHERE log = ?1 AND key = ?2) AS first,
                    (SELECT max(seq) FROM term WHERE log = ?1 AND key = ?2) AS last";
        let row = sqlx::query(ends).bind(log).bind(term.as_slice()).fetch_one(&mut self.connection).await?;
        let end =
            |at: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(at)?.and_then(|n| u64::try_from(n).ok()));
        Ok(end(0)?.zip(end(1)?))
    }

    /// The roots in the log: first leaf, first behind, the leaf that holds it; the longest of each range.
    pub(crate) async fn claims(&mut self, log: i64) -> Result<Vec<(u64, u64, u64)>, IndexError> {
        let rows = sqlx::query("SELECT first, max(until), seq FROM claim WHERE log = ? GROUP BY first ORDER BY first");
        let rows = rows.bind(log).fetch_all(&mut self.connection).await?;
        rows.iter().map(|row| Ok((unsigned(row, 0)?, unsigned(row, 1)?, unsigned(row, 2)?))).collect()
    }

    /// How many leaves the roots are over that the log has of a range, all together.
    pub(crate) async fn claimed(&mut self, log: i64, first: u64) -> Result<u64, IndexError> {
        let sum = sqlx::query("SELECT coalesce(sum(until - first), 0) FROM claim WHERE log = ? AND first = ?");
        let row = sum.bind(log).bind(signed(first)).fetch_one(&mut self.connection).await?;
        Ok(unsigned(&row, 0)?)
    }
}

/// Whether the file itself is broken, and not only busy or the disk full.
pub(crate) fn is_broken(error: &IndexError) -> bool {
    match error {
        IndexError::Damaged(_) => true,
        IndexError::Database(error) => {
            let code =
                error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<u32>().ok());
            // SQLITE_ERROR: a table is not there. SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_CONSTRAINT: a row is there twice.
            code.is_some_and(|code| matches!(code & 0xff, 1 | 11 | 19 | 26))
                || matches!(error, sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. })
        }
        _ => false,
    }
}
