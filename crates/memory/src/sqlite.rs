//! The store that is built in: one SQLite file for each memory, in the plane's data directory.
//!
//! Full text is SQLite's FTS5, which is asked for words of letters and digits, each in quotes, in the part of the index
//! that belongs to the owner. Vectors are compared one by one, exactly: the quota bounds how many there are.

use std::{
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use cogward_model::{Timestamp, id::MemoryId};
use futures_util::TryStreamExt;
use sqlx::{
    ConnectOptions, Connection, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    embedding::Embedding,
    item::{Filter, Item},
    owner::{Column, Owner, Space},
    store::{MemoryStore, Pending, Quota, StoreError, Usage, Whose},
};

/// How long a statement waits for a lock on the file.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Readers of one memory.
const READERS_MAX: u32 = 2;
/// Largest file of one memory, of all its owners together, in bytes: its disk is that of the evidence.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Bytes of a page of it.
const PAGE_BYTES: u64 = 4_096;
/// Expired memories that are removed in one step: whoever writes waits for no more.
const SWEPT_AT_ONCE: i64 = 1_000;

/// The code of SQLite for a file that may not grow.
const FULL: &str = "13";

/// The tables. `seq` never comes back: what the index of words says of a forgotten row is of no other.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS memory (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    tenant TEXT NOT NULL,
    store TEXT NOT NULL,
    scope TEXT NOT NULL,
    agent TEXT NOT NULL,
    subject TEXT,
    run TEXT NOT NULL,
    body TEXT NOT NULL,
    kind TEXT,
    tags TEXT NOT NULL,
    embedding BLOB,
    written INTEGER NOT NULL,
    expires INTEGER,
    bytes INTEGER NOT NULL,
    UNIQUE (owner, id)
) STRICT;
CREATE INDEX IF NOT EXISTS memory_newest ON memory (owner, written);
CREATE INDEX IF NOT EXISTS memory_expired ON memory (expires) WHERE expires IS NOT NULL;
CREATE INDEX IF NOT EXISTS memory_owned_expired ON memory (owner, expires) WHERE expires IS NOT NULL;
CREATE INDEX IF NOT EXISTS memory_sizes ON memory (owner, tenant, store, scope, agent, subject, run, bytes);
CREATE INDEX IF NOT EXISTS memory_of ON memory (tenant, store, subject);
CREATE VIRTUAL TABLE IF NOT EXISTS memory_words USING fts5 (
    owner, body, content = 'memory', content_rowid = 'seq', tokenize = 'unicode61 remove_diacritics 0'
);
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
CREATE TRIGGER IF NOT EXISTS memory_kept AFTER INSERT ON memory BEGIN
    INSERT INTO memory_words (rowid, owner, body) VALUES (new.seq, new.owner, new.body);
END;
CREATE TRIGGER IF NOT EXISTS memory_gone AFTER DELETE ON memory BEGIN
    INSERT INTO memory_words (memory_words, rowid, owner, body) VALUES ('delete', old.seq, old.owner, old.body);
END;
";

/// What is read of a memory.
const COLUMNS: &str = "m.id, m.body, m.kind, m.tags, m.written, m.expires";

/// A file of memories; opened when it is first used.
#[derive(Debug)]
pub struct SqliteMemory {
    path: PathBuf,
    open: OnceCell<Open>,
}

#[derive(Debug)]
struct Open {
    readers: SqlitePool,
    writer: Mutex<SqliteConnection>,
}

impl SqliteMemory {
    /// The file at `path`, which is made with its directory, for the plane's user alone.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: OnceCell::new() }
    }

    async fn open(&self) -> Result<&Open, StoreError> {
        self.open.get_or_try_init(|| open(&self.path)).await
    }

    async fn fetch(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<Item>, StoreError> {
        let rows = query.build().fetch_all(&self.open().await?.readers).await.map_err(failed)?;
        rows.iter().map(item).collect()
    }
}

async fn open(path: &Path) -> Result<Open, StoreError> {
    private_file(path).map_err(|error| StoreError::Unusable(format!("its file cannot be made: {error}")))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // What was forgotten is overwritten, and not only unlinked.
        .pragma("secure_delete", "on")
        .pragma("page_size", PAGE_BYTES.to_string())
        .pragma("max_page_count", (FILE_BYTES_MAX / PAGE_BYTES).to_string())
        .busy_timeout(BUSY_WAIT)
        .disable_statement_logging();
    let mut writer = options.connect().await.map_err(failed)?;
    sqlx::raw_sql(SCHEMA).execute(&mut writer).await.map_err(failed)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .connect_with(options.pragma("query_only", "on"))
        .await
        .map_err(failed)?;
    Ok(Open { readers, writer: Mutex::new(writer) })
}

fn private_file(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
    }
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn failed(error: sqlx::Error) -> StoreError {
    // The text of a database error can quote what was written.
    let cause = match &error {
        sqlx::Error::Database(database) if database.code().as_deref() == Some(FULL) => {
            return StoreError::Full("its file, or the disk that it is on, is full");
        }
        sqlx::Error::Database(database) => {
            format!("SQLite error {}", database.code().as_deref().unwrap_or("without a code"))
        }
        sqlx::Error::Io(io) => format!("its file: {}", io.kind()),
        sqlx::Error::PoolTimedOut => "it is busy".to_owned(),
        _ => "it gave something that cannot be read".to_owned(),
    };
    StoreError::Unavailable { cause, sent: false }
}

fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.unix_micros()).unwrap_or(i64::MAX)
}

fn item(row: &SqliteRow) -> Result<Item, StoreError> {
    let broken = |what: &str| StoreError::Unavailable { cause: format!("a row has no {what}"), sent: false };
    let id: String = row.try_get(0).map_err(failed)?;
    let tags: String = row.try_get(3).map_err(failed)?;
    let at = |micros: i64| Timestamp::from_unix_micros(micros.max(0).unsigned_abs());
    Ok(Item {
        id: id.parse::<MemoryId>().map_err(|_| broken("id"))?,
        text: row.try_get(1).map_err(failed)?,
        kind: row.try_get(2).map_err(failed)?,
        tags: serde_json::from_str(&tags).map_err(|_| broken("tags"))?,
        embedding: None,
        written: at(row.try_get(4).map_err(failed)?),
        expires: row.try_get::<Option<i64>, _>(5).map_err(failed)?.map(at),
    })
}

/// All conditions of an owner: the key, and each of them by itself.
fn only(query: &mut QueryBuilder<Sqlite>, owner: &Owner) {
    query.push("m.owner = ").push_bind(owner.key());
    and_all(query, &owner.conditions());
}

fn and_all(query: &mut QueryBuilder<Sqlite>, conditions: &[(Column, String)]) {
    for (column, value) in conditions {
        query.push(" AND m.").push(column.name()).push(" = ").push_bind(value.clone());
    }
}

fn alive(query: &mut QueryBuilder<Sqlite>, now: Timestamp) {
    query.push(" AND (m.expires IS NULL OR m.expires > ").push_bind(micros(now)).push(")");
}

/// Removes some of what has expired; how many.
async fn expired(
    whose: impl Fn(&mut QueryBuilder<Sqlite>),
    now: Timestamp,
    writer: &mut SqliteConnection,
) -> Result<u64, StoreError> {
    let mut query = QueryBuilder::new("DELETE FROM memory WHERE seq IN (SELECT m.seq FROM memory m WHERE ");
    whose(&mut query);
    query.push(" AND m.expires IS NOT NULL AND m.expires <= ").push_bind(micros(now));
    query.push(" LIMIT ").push_bind(SWEPT_AT_ONCE).push(")");
    Ok(query.build().execute(writer).await.map_err(failed)?.rows_affected())
}

fn meant(query: &mut QueryBuilder<Sqlite>, filter: &Filter) {
    if let Some(kind) = &filter.kind {
        query.push(" AND m.kind = ").push_bind(kind.clone());
    }
    for tag in &filter.tags {
        query
            .push(" AND EXISTS (SELECT 1 FROM json_each(m.tags) AS t WHERE t.value = ")
            .push_bind(tag.clone())
            .push(")");
    }
}

/// What the index of words is asked for: nothing but letters and digits comes from anybody.
fn matching(owner: &Owner, words: &[String]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.chars().filter(|c| c.is_alphanumeric()).collect::<String>())
        .filter(|word| !word.is_empty())
        .map(|word| format!("\"{word}\""))
        .collect();
    format!("owner : \"{}\" AND body : ({})", owner.key(), words.join(" OR "))
}

impl MemoryStore for SqliteMemory {
    fn ready<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Option<Timestamp>, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new("SELECT max(m.written) FROM memory m WHERE true");
            and_all(&mut query, &space.conditions());
            let row = query.build().fetch_one(&self.open().await?.readers).await.map_err(failed)?;
            let newest: Option<i64> = row.try_get(0).map_err(failed)?;
            Ok(newest.map(|micros| Timestamp::from_unix_micros(micros.max(0).unsigned_abs())))
        })
    }

    fn put<'a>(
        &'a self,
        owner: &'a Owner,
        item: &'a Item,
        replaces: bool,
        quota: Quota,
    ) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut writer = self.open().await?.writer.lock().await;
            // What has expired counts until it is gone: else a loop of short-lived memories would fill the disk. It is
            // removed first, for good, whatever comes of the rest.
            let gone = |query: &mut QueryBuilder<Sqlite>| only(query, owner);
            while expired(gone, item.written, &mut writer).await? >= SWEPT_AT_ONCE.unsigned_abs() {}
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
            if replaces {
                let mut old = QueryBuilder::new("DELETE FROM memory AS m WHERE ");
                only(&mut old, owner);
                alive(&mut old, item.written);
                old.push(" AND m.id = ").push_bind(item.id.to_string());
                if old.build().execute(&mut *tx).await.map_err(failed)?.rows_affected() == 0 {
                    return Err(StoreError::Missing);
                }
            }
            let mut used = QueryBuilder::new("SELECT count(*), coalesce(sum(m.bytes), 0) FROM memory m WHERE ");
            only(&mut used, owner);
            let used = used.build().fetch_one(&mut *tx).await.map_err(failed)?;
            let number = |at: usize| used.try_get::<i64, _>(at).map(|n| n.max(0).unsigned_abs()).map_err(failed);
            if number(0)? >= quota.items {
                return Err(StoreError::Full("there are as many memories as there may be"));
            }
            if number(1)?.saturating_add(item.bytes()) > quota.bytes {
                return Err(StoreError::Full("its memories are as large as they may be"));
            }
            let mut query = QueryBuilder::new("INSERT INTO memory (id, owner, ");
            let written = owner.written();
            for (column, _) in &written {
                query.push(column.name()).push(", ");
            }
            query.push("body, kind, tags, embedding, written, expires, bytes) VALUES (");
            query.push_bind(item.id.to_string()).push(", ").push_bind(owner.key()).push(", ");
            for (_, value) in written {
                query.push_bind(value).push(", ");
            }
            let tags = serde_json::to_string(&item.tags).unwrap_or_else(|_| "[]".to_owned());
            query.push_bind(item.text.clone()).push(", ").push_bind(item.kind.clone()).push(", ").push_bind(tags);
            query.push(", ").push_bind(item.embedding.as_ref().map(Embedding::to_bytes));
            query.push(", ").push_bind(micros(item.written)).push(", ").push_bind(item.expires.map(micros));
            query.push(", ").push_bind(i64::try_from(item.bytes()).unwrap_or(i64::MAX)).push(")");
            query.build().execute(&mut *tx).await.map_err(failed)?;
            tx.commit().await.map_err(failed)
        })
    }

    fn get<'a>(
        &'a self,
        owner: &'a Owner,
        id: MemoryId,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Item>, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM memory m WHERE "));
            only(&mut query, owner);
            alive(&mut query, now);
            query.push(" AND m.id = ").push_bind(id.to_string());
            Ok(self.fetch(query).await?.pop())
        })
    }

    fn by_words<'a>(
        &'a self,
        owner: &'a Owner,
        words: &'a [String],
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!(
                "SELECT {COLUMNS} FROM memory_words w JOIN memory m ON m.seq = w.rowid WHERE memory_words MATCH "
            ));
            query.push_bind(matching(owner, words)).push(" AND ");
            only(&mut query, owner);
            alive(&mut query, now);
            meant(&mut query, filter);
            query.push(" ORDER BY m.written DESC LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
            self.fetch(query).await
        })
    }

    fn by_vector<'a>(
        &'a self,
        owner: &'a Owner,
        vector: &'a Embedding,
        filter: &'a Filter,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS}, m.embedding FROM memory m WHERE "));
            only(&mut query, owner);
            alive(&mut query, now);
            meant(&mut query, filter);
            // In the order of the index: each memory of the owner once, of which there are as many as the quota says.
            query.push(" AND m.embedding IS NOT NULL ORDER BY m.written DESC");
            let mut nearest: Vec<(f64, Item)> = Vec::with_capacity(limit.saturating_add(1));
            let built = query.build();
            let mut rows = built.fetch(&self.open().await?.readers);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                let bytes: &[u8] = row.try_get(6).map_err(failed)?;
                let Some(likeness) = Embedding::from_bytes(bytes).and_then(|other| vector.cosine(&other)) else {
                    // Of other dimensions: the operator changed them.
                    continue;
                };
                let place = nearest.partition_point(|(known, _)| *known >= likeness);
                if place < limit {
                    nearest.insert(place, (likeness, item(&row)?));
                    nearest.truncate(limit);
                }
            }
            Ok(nearest.into_iter().map(|(_, item)| item).collect())
        })
    }

    fn list<'a>(
        &'a self,
        owner: &'a Owner,
        filter: &'a Filter,
        before: Option<Timestamp>,
        limit: usize,
        now: Timestamp,
    ) -> Pending<'a, Result<Vec<Item>, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM memory m WHERE "));
            only(&mut query, owner);
            alive(&mut query, now);
            meant(&mut query, filter);
            if let Some(before) = before {
                query.push(" AND m.written < ").push_bind(micros(before));
            }
            query.push(" ORDER BY m.written DESC LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
            self.fetch(query).await
        })
    }

    fn delete<'a>(&'a self, owner: &'a Owner, id: MemoryId, now: Timestamp) -> Pending<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new("DELETE FROM memory AS m WHERE ");
            only(&mut query, owner);
            alive(&mut query, now);
            query.push(" AND m.id = ").push_bind(id.to_string());
            let mut writer = self.open().await?.writer.lock().await;
            Ok(query.build().execute(&mut *writer).await.map_err(failed)?.rows_affected() > 0)
        })
    }

    fn forget<'a>(&'a self, space: &'a Space, whose: &'a Whose) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new("DELETE FROM memory AS m WHERE true");
            and_all(&mut query, &space.conditions());
            if let Whose::User(user) = whose {
                query.push(" AND m.subject = ").push_bind(user.clone());
            }
            let open = self.open().await?;
            let mut writer = open.writer.lock().await;
            let forgotten = query.build().execute(&mut *writer).await.map_err(failed)?.rows_affected();
            // What the log of the database has of it goes as well. That needs a moment without readers.
            let mut quiet = Vec::new();
            for _ in 0..READERS_MAX {
                quiet.push(open.readers.acquire().await.map_err(failed)?);
            }
            let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *writer).await.map_err(failed)?;
            let busy: i64 = row.try_get(0).map_err(failed)?;
            if busy != 0 {
                let cause = "it is forgotten, but something holds the file, so its log still has it: forget again";
                return Err(StoreError::Unavailable { cause: cause.to_owned(), sent: true });
            }
            Ok(forgotten)
        })
    }

    fn sweep<'a>(&'a self, space: &'a Space, now: Timestamp) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut swept = 0;
            loop {
                let of_space = |query: &mut QueryBuilder<Sqlite>| {
                    query.push("true");
                    and_all(query, &space.conditions());
                };
                // Others may write in between.
                let mut writer = self.open().await?.writer.lock().await;
                let gone = expired(of_space, now, &mut writer).await?;
                swept += gone;
                if gone < SWEPT_AT_ONCE.unsigned_abs() {
                    return Ok(swept);
                }
            }
        })
    }

    fn usage<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Usage, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new("SELECT count(*), coalesce(sum(m.bytes), 0) FROM memory m WHERE true");
            and_all(&mut query, &space.conditions());
            let row = query.build().fetch_one(&self.open().await?.readers).await.map_err(failed)?;
            let number = |at: usize| row.try_get::<i64, _>(at).map(|n| n.max(0).unsigned_abs()).map_err(failed);
            Ok(Usage { items: number(0)?, bytes: Some(number(1)?) })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use super::*;
    use crate::conformance::{self, Bench};

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteMemory::new(dir.path().join("memory/acme/notes.db")));
        conformance::all(Bench { store, counts_bytes: true }).await;
    }

    #[tokio::test]
    async fn its_file_is_ours_alone_and_what_is_forgotten_is_not_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory/acme/notes.db");
        let store = SqliteMemory::new(path.clone());
        let space = Space::new("acme".parse().unwrap(), "notes".parse().unwrap());
        let subject = crate::Subject {
            tenant: "acme".parse().unwrap(),
            run: cogward_model::RunId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
            user: Some("ann".into()),
            agent: "x".parse().unwrap(),
        };
        let owner = Owner::of(space.clone(), cogward_model::memory::MemoryScope::User, subject).unwrap();
        let item = |text: &str, written| Item {
            id: MemoryId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
            text: text.to_owned(),
            kind: None,
            tags: std::collections::BTreeSet::new(),
            embedding: None,
            written: Timestamp::from_unix_micros(written),
            expires: None,
        };
        let quota = Quota { items: 10, bytes: 1_000 };
        store.put(&owner, &item("xylophone of ann", 1), false, quota).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(store.forget(&space, &Whose::User("ann".to_owned())).await.unwrap(), 1);
        for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let found = bytes.windows(9).any(|window| window == b"xylophone");
            assert!(!found, "what was forgotten is still in the file");
        }
    }

    #[test]
    fn nothing_but_words_reaches_the_index() {
        let owner = Owner::of(
            Space::new("acme".parse().unwrap(), "notes".parse().unwrap()),
            cogward_model::memory::MemoryScope::Tenant,
            crate::Subject {
                tenant: "acme".parse().unwrap(),
                run: cogward_model::RunId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy),
                user: None,
                agent: "x".parse().unwrap(),
            },
        )
        .unwrap();
        let asked = matching(&owner, &["tea\" OR owner:\"".to_owned(), "\"".to_owned(), "ä1".to_owned()]);
        assert_eq!(asked, format!("owner : \"{}\" AND body : (\"teaORowner\" OR \"ä1\")", owner.key()));
    }
}
