//! A store in a customer's PostgreSQL, with pgvector where there are vectors.
//!
//! Every statement has the owner's conditions as bound parameters. Beside that each transaction says for whom it is
//! (`cogward.*` settings, for this transaction alone), and row level security on the table that we make holds every row
//! against it: a statement that forgot its conditions would still find nothing of anybody else.

mod table;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use cogward_model::{Timestamp, id::MemoryId};
use sqlx::{
    ConnectOptions, Executor, PgPool, Postgres, QueryBuilder, Row, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use self::table::{Names, OURS};
use crate::{
    embedding::Embedding,
    item::{Filter, Item},
    owner::{Column, Owner, Space, digest},
    store::{MemoryStore, Pending, Quota, StoreError, Usage, Whose},
};

/// Connections to one database.
const CONNECTIONS_MAX: u32 = 4;
/// How long one is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a statement may run, in milliseconds; the database ends it.
const STATEMENT_MS_MAX: u32 = 20_000;

/// How a database is used.
#[derive(Debug)]
pub struct PgOptions<'a> {
    /// Where it is, without a password.
    pub url: &'a str,
    /// The table.
    pub table: Option<&'a str>,
    /// The table is there; what its columns are called.
    pub existing: Option<&'a BTreeMap<String, String>>,
    /// Numbers in a vector.
    pub dimensions: Option<u32>,
}

/// A table of memories in PostgreSQL; connected when first used.
pub struct PgvectorMemory {
    connect: PgConnectOptions,
    pool: OnceCell<PgPool>,
    names: Names,
    make: bool,
    dimensions: Option<u32>,
}

impl std::fmt::Debug for PgvectorMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgvectorMemory").field("table", &self.names.whole()).finish_non_exhaustive()
    }
}

/// Who a transaction is for, as the row level security has it.
#[derive(Clone, Copy)]
enum Act<'a> {
    Owner(&'a Owner),
    Operator(&'a Space),
}

impl PgvectorMemory {
    /// A table in a database.
    ///
    /// # Errors
    /// What of the options cannot be.
    pub fn new(options: &PgOptions<'_>, password: Option<Zeroizing<String>>) -> Result<Self, String> {
        let url = url::Url::parse(options.url).map_err(|error| format!("the URL cannot be read: {error}"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("the URL of a PostgreSQL begins with `postgres://`".to_owned());
        }
        if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
            return Err("the password does not go into the URL: it is the credential".to_owned());
        }
        // Parameters of the URL name files and sockets of the plane's host, which are not the tenant's to use.
        if let Some((name, _)) = url.query_pairs().find(|(name, _)| name != "sslrootcert") {
            let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
            return Err(format!("the parameter `{name}` of the URL is not taken; `sslrootcert` is"));
        }
        if url.username().is_empty() || url.path().len() < 2 || !url.has_host() {
            return Err("the URL names a user, a host and a database: `postgres://USER@HOST/DATABASE`".to_owned());
        }
        let mut connect = PgConnectOptions::from_url(&url).map_err(|_| "the URL cannot be read".to_owned())?;
        // A database that is elsewhere shows who it is; nothing is sent to it in clear.
        let host = connect.get_host();
        if connect.get_socket().is_some() || host.starts_with('/') {
            // The database would take the plane's own user of the host for who asks.
            return Err("a socket of the host is not used: say `127.0.0.1`".to_owned());
        }
        if !matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]") {
            connect = connect.ssl_mode(PgSslMode::VerifyFull);
        }
        // Always said: else it would be the one in the plane's own environment or in a file of its user.
        let password = password.as_ref().map_or("", |password| password.trim_end_matches(['\r', '\n']));
        connect = connect.password(password);
        connect = connect
            .application_name("cogward")
            .options([("statement_timeout", STATEMENT_MS_MAX.to_string())])
            .disable_statement_logging();
        let names = Names::new(options.table, options.existing)?;
        let (make, dimensions) = (options.existing.is_none(), options.dimensions);
        Ok(Self { connect, pool: OnceCell::new(), names, make, dimensions })
    }

    async fn pool(&self) -> Result<&PgPool, StoreError> {
        let open = || async {
            let pool = PgPoolOptions::new()
                .max_connections(CONNECTIONS_MAX)
                .acquire_timeout(CONNECT_WAIT)
                .connect_lazy_with(self.connect.clone());
            if self.make {
                self.make_table(&pool).await?;
            }
            self.look_at(&pool).await?;
            Ok(pool)
        };
        self.pool.get_or_try_init(open).await
    }

    async fn make_table(&self, pool: &PgPool) -> Result<(), StoreError> {
        let mut tx = pool.begin().await.map_err(failed)?;
        // Two planes that begin at once make it one after the other.
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(lock_of(&[&self.names.whole()]))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(self.names.schema(self.dimensions)))).await.map_err(unusable)?;
        tx.commit().await.map_err(failed)
    }

    /// Whether the table has what is asked of it, and whether its second lock holds for us.
    async fn look_at(&self, pool: &PgPool) -> Result<(), StoreError> {
        let vector = self.dimensions.is_some();
        let columns: Vec<&str> =
            OURS.into_iter().filter(|name| *name != "embedding" || vector).map(|name| self.names.of(name)).collect();
        let sql = format!("SELECT {} FROM {} LIMIT 0", columns.join(", "), self.names.whole());
        sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.map_err(unusable)?;
        let sql = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
        let passes: Option<bool> = sqlx::query_scalar(sql).fetch_optional(pool).await.map_err(failed)?;
        if passes != Some(false) {
            tracing::warn!(
                table = self.names.whole(),
                "the database's role passes row level security: only the conditions of the statements hold; give it a role \
                 of its own"
            );
        }
        Ok(())
    }

    /// A transaction for somebody.
    async fn begin(&self, act: Act<'_>) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut tx = self.pool().await?.begin().await.map_err(failed)?;
        let (who, conditions) = match act {
            Act::Owner(owner) => ("owner", owner.conditions()),
            Act::Operator(space) => ("operator", space.conditions()),
        };
        let value = |column: Column| {
            conditions.iter().find(|(known, _)| *known == column).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        sqlx::query(
            "SELECT set_config('cogward.act', $1, true), set_config('cogward.tenant', $2, true),
                set_config('cogward.store', $3, true), set_config('cogward.scope', $4, true),
                set_config('cogward.agent', $5, true), set_config('cogward.subject', $6, true),
                set_config('cogward.run', $7, true)",
        )
        .bind(who)
        .bind(value(Column::Tenant))
        .bind(value(Column::Store))
        .bind(value(Column::Scope))
        .bind(value(Column::Agent))
        .bind(value(Column::Subject))
        .bind(value(Column::Run))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        Ok(tx)
    }

    fn select(&self) -> QueryBuilder<Postgres> {
        let of = |name| self.names.of(name);
        QueryBuilder::new(format!(
            "SELECT {}, {}, {}, {}, {}, {} FROM {}",
            of("id"),
            of("body"),
            of("kind"),
            of("tags"),
            of("written"),
            of("expires"),
            self.names.whole()
        ))
    }

    fn delete_from(&self) -> QueryBuilder<Postgres> {
        QueryBuilder::new(format!("DELETE FROM {}", self.names.whole()))
    }

    /// The conditions of an owner or a space, compared byte for byte whatever the column's own order is.
    fn only(&self, query: &mut QueryBuilder<Postgres>, conditions: Vec<(Column, String)>) {
        for (place, (column, value)) in conditions.into_iter().enumerate() {
            query.push(if place == 0 { " WHERE " } else { " AND " });
            query.push(self.names.of(column.name())).push(" = ").push_bind(value).push(" COLLATE \"C\"");
        }
    }

    fn alive(&self, query: &mut QueryBuilder<Postgres>, now: Timestamp) {
        let expires = self.names.of("expires");
        query.push(format!(" AND ({expires} IS NULL OR {expires} > ")).push_bind(micros(now)).push(")");
    }

    fn meant(&self, query: &mut QueryBuilder<Postgres>, filter: &Filter) {
        if let Some(kind) = &filter.kind {
            query.push(" AND ").push(self.names.of("kind")).push(" = ").push_bind(kind.clone()).push(" COLLATE \"C\"");
        }
        if !filter.tags.is_empty() {
            let tags: Vec<String> = filter.tags.iter().cloned().collect();
            query.push(" AND ").push(self.names.of("tags")).push(" @> ").push_bind(tags);
        }
    }

    fn is(&self, query: &mut QueryBuilder<Postgres>, id: MemoryId) {
        query.push(" AND ").push(self.names.of("id")).push(" = ").push_bind(id.to_string());
    }

    async fn fetch(&self, act: Act<'_>, mut query: QueryBuilder<Postgres>) -> Result<Vec<Item>, StoreError> {
        let mut tx = self.begin(act).await?;
        let rows = query.build().fetch_all(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        rows.iter().map(item).collect()
    }

    async fn change(&self, act: Act<'_>, mut query: QueryBuilder<Postgres>) -> Result<u64, StoreError> {
        let mut tx = self.begin(act).await?;
        let changed = query.build().execute(&mut *tx).await.map_err(failed)?.rows_affected();
        tx.commit().await.map_err(|error| sent(failed(error)))?;
        Ok(changed)
    }
}

/// The number of a lock that nobody else takes by accident.
fn lock_of(texts: &[&str]) -> i64 {
    let key = digest(std::iter::once("cogward-memory").chain(texts.iter().copied()));
    i64::from_str_radix(key.get(..15).unwrap_or("0"), 16).unwrap_or_default()
}

fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.unix_micros()).unwrap_or(i64::MAX)
}

/// What failed, without what was written: the text of a database error can quote it.
fn failed(error: sqlx::Error) -> StoreError {
    let cause = match &error {
        sqlx::Error::Database(database) => {
            format!("PostgreSQL error {}", database.code().as_deref().unwrap_or("without a code"))
        }
        sqlx::Error::Io(io) => format!("the connection: {}", io.kind()),
        sqlx::Error::Tls(tls) => format!("TLS: {tls}"),
        sqlx::Error::PoolTimedOut => "no connection was to be had in time".to_owned(),
        _ => "it answered with something that cannot be read".to_owned(),
    };
    StoreError::Unavailable { cause, sent: false }
}

fn sent(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { cause, .. } => StoreError::Unavailable { cause, sent: true },
        other => other,
    }
}

/// What is wrong with the table or our rights to it: nothing of agents is in these texts.
fn unusable(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => StoreError::Unusable(database.message().to_owned()),
        other => failed(other),
    }
}

fn item(row: &PgRow) -> Result<Item, StoreError> {
    let broken = |what: &str| StoreError::Unavailable { cause: format!("a row has no {what}"), sent: false };
    let id: String = row.try_get(0).map_err(failed)?;
    let at = |micros: i64| Timestamp::from_unix_micros(micros.max(0).unsigned_abs());
    Ok(Item {
        id: id.parse::<MemoryId>().map_err(|_| broken("id"))?,
        text: row.try_get(1).map_err(failed)?,
        kind: row.try_get(2).map_err(failed)?,
        tags: row.try_get::<Vec<String>, _>(3).map_err(failed)?.into_iter().collect(),
        embedding: None,
        written: at(row.try_get(4).map_err(failed)?),
        expires: row.try_get::<Option<i64>, _>(5).map_err(failed)?.map(at),
    })
}

/// A vector as pgvector reads it. Numbers that were checked, and nothing else.
fn vector_text(vector: &Embedding) -> String {
    let numbers: Vec<String> = vector.numbers().iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(","))
}

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl MemoryStore for PgvectorMemory {
    fn ready<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Option<Timestamp>, StoreError>> {
        Box::pin(async move {
            let mut query =
                QueryBuilder::new(format!("SELECT max({}) FROM {}", self.names.of("written"), self.names.whole()));
            self.only(&mut query, space.conditions());
            let mut tx = self.begin(Act::Operator(space)).await?;
            let newest: Option<i64> = query.build_query_scalar().fetch_one(&mut *tx).await.map_err(failed)?;
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
            let mut tx = self.begin(Act::Owner(owner)).await?;
            // Of one owner one after the other: else two could both find room for the last.
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(lock_of(&[&self.names.whole(), &owner.key()]))
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            let mut gone = self.delete_from();
            self.only(&mut gone, owner.conditions());
            let expires = self.names.of("expires");
            gone.push(format!(" AND {expires} IS NOT NULL AND {expires} <= ")).push_bind(micros(item.written));
            gone.build().execute(&mut *tx).await.map_err(failed)?;
            if replaces {
                let mut old = self.delete_from();
                self.only(&mut old, owner.conditions());
                self.alive(&mut old, item.written);
                self.is(&mut old, item.id);
                if old.build().execute(&mut *tx).await.map_err(failed)?.rows_affected() == 0 {
                    return Err(StoreError::Missing);
                }
            }
            let bytes = self.names.of("bytes");
            let mut used = QueryBuilder::new(format!(
                "SELECT count(*), coalesce(sum({bytes}), 0)::bigint FROM {}",
                self.names.whole()
            ));
            // What has expired counts until it is removed, as it takes its room until then.
            self.only(&mut used, owner.conditions());
            let (items, size): (i64, i64) = used.build_query_as().fetch_one(&mut *tx).await.map_err(failed)?;
            if items.max(0).unsigned_abs() >= quota.items {
                return Err(StoreError::Full("there are as many memories as there may be"));
            }
            if size.max(0).unsigned_abs().saturating_add(item.bytes()) > quota.bytes {
                return Err(StoreError::Full("its memories are as large as they may be"));
            }
            let written = owner.written();
            let mut query = QueryBuilder::new(format!("INSERT INTO {} (", self.names.whole()));
            for (column, _) in &written {
                query.push(self.names.of(column.name())).push(", ");
            }
            let mut rest = vec!["id", "body", "kind", "tags", "written", "expires", "bytes"];
            if item.embedding.is_some() {
                rest.push("embedding");
            }
            let rest: Vec<&str> = rest.into_iter().map(|name| self.names.of(name)).collect();
            query.push(rest.join(", ")).push(") VALUES (");
            for (_, value) in written {
                query.push_bind(value).push(", ");
            }
            let tags: Vec<String> = item.tags.iter().cloned().collect();
            query.push_bind(item.id.to_string()).push(", ").push_bind(item.text.clone()).push(", ");
            query.push_bind(item.kind.clone()).push(", ").push_bind(tags).push(", ");
            query.push_bind(micros(item.written)).push(", ").push_bind(item.expires.map(micros)).push(", ");
            query.push_bind(i64::try_from(item.bytes()).unwrap_or(i64::MAX));
            if let Some(vector) = &item.embedding {
                query.push(", ").push_bind(vector_text(vector)).push("::vector");
            }
            query.push(")");
            query.build().execute(&mut *tx).await.map_err(failed)?;
            tx.commit().await.map_err(|error| sent(failed(error)))
        })
    }

    fn get<'a>(
        &'a self,
        owner: &'a Owner,
        id: MemoryId,
        now: Timestamp,
    ) -> Pending<'a, Result<Option<Item>, StoreError>> {
        Box::pin(async move {
            let mut query = self.select();
            self.only(&mut query, owner.conditions());
            self.alive(&mut query, now);
            self.is(&mut query, id);
            Ok(self.fetch(Act::Owner(owner), query).await?.pop())
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
            let mut query = self.select();
            self.only(&mut query, owner.conditions());
            self.alive(&mut query, now);
            self.meant(&mut query, filter);
            // Words of letters and digits: the database makes its own syntax of them, which then says "any of them".
            let words: Vec<&str> =
                words.iter().map(String::as_str).filter(|word| word.chars().all(char::is_alphanumeric)).collect();
            query.push(format!(" AND to_tsvector('simple', {}) @@ ", self.names.of("body")));
            query
                .push("replace(plainto_tsquery('simple', ")
                .push_bind(words.join(" "))
                .push(")::text, '&', '|')::tsquery");
            query.push(format!(" ORDER BY {} DESC LIMIT ", self.names.of("written"))).push_bind(at_most(limit));
            self.fetch(Act::Owner(owner), query).await
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
            let embedding = self.names.of("embedding");
            let mut query = self.select();
            self.only(&mut query, owner.conditions());
            self.alive(&mut query, now);
            self.meant(&mut query, filter);
            query.push(format!(" AND {embedding} IS NOT NULL ORDER BY {embedding} <=> "));
            query.push_bind(vector_text(vector)).push("::vector");
            query.push(format!(", {} DESC LIMIT ", self.names.of("written"))).push_bind(at_most(limit));
            self.fetch(Act::Owner(owner), query).await
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
            let written = self.names.of("written");
            let mut query = self.select();
            self.only(&mut query, owner.conditions());
            self.alive(&mut query, now);
            self.meant(&mut query, filter);
            if let Some(before) = before {
                query.push(format!(" AND {written} < ")).push_bind(micros(before));
            }
            query.push(format!(" ORDER BY {written} DESC LIMIT ")).push_bind(at_most(limit));
            self.fetch(Act::Owner(owner), query).await
        })
    }

    fn delete<'a>(&'a self, owner: &'a Owner, id: MemoryId, now: Timestamp) -> Pending<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut query = self.delete_from();
            self.only(&mut query, owner.conditions());
            self.alive(&mut query, now);
            self.is(&mut query, id);
            Ok(self.change(Act::Owner(owner), query).await? > 0)
        })
    }

    fn forget<'a>(&'a self, space: &'a Space, whose: &'a Whose) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut query = self.delete_from();
            self.only(&mut query, space.conditions());
            if let Whose::User(user) = whose {
                // No database keeps a zero byte in a text, so nothing was written for such a user.
                if user.contains('\0') {
                    return Ok(0);
                }
                query.push(" AND ").push(self.names.of("subject")).push(" = ").push_bind(user.clone());
                query.push(" COLLATE \"C\"");
            }
            self.change(Act::Operator(space), query).await
        })
    }

    fn sweep<'a>(&'a self, space: &'a Space, now: Timestamp) -> Pending<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut query = self.delete_from();
            self.only(&mut query, space.conditions());
            query.push(" AND ").push(self.names.of("expires")).push(" <= ").push_bind(micros(now));
            self.change(Act::Operator(space), query).await
        })
    }

    fn usage<'a>(&'a self, space: &'a Space) -> Pending<'a, Result<Usage, StoreError>> {
        Box::pin(async move {
            let mut query = QueryBuilder::new(format!(
                "SELECT count(*), coalesce(sum({}), 0)::bigint FROM {}",
                self.names.of("bytes"),
                self.names.whole()
            ));
            self.only(&mut query, space.conditions());
            let mut tx = self.begin(Act::Operator(space)).await?;
            let (items, bytes): (i64, i64) = query.build_query_as().fetch_one(&mut *tx).await.map_err(failed)?;
            Ok(Usage { items: items.max(0).unsigned_abs(), bytes: Some(bytes.max(0).unsigned_abs()) })
        })
    }
}
