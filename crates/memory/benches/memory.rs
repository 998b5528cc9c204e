//! What memory costs: keeping and finding among 10,000 memories of one owner beside 10,000 of others, against plain SQL on
//! a file of the same kind, in one process and one run.
//!
//! Plain SQL is what is left without owners, quotas, a schema of arguments and ranking: one insert in one transaction, one
//! question to the index of words. Prints the middle and the 99th percentile and the ratio. Run with
//! `cargo bench -p cogward-memory`.

use std::{sync::Arc, time::Instant};

use cogward_memory::{Draft, Filter, Memory, MemoryOptions, Question, Subject, sqlite::SqliteMemory};
use cogward_model::{
    RunId, SystemClock, SystemEntropy,
    memory::{MemoryQuota, MemoryScope},
};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

const ITEMS: usize = 10_000;
const ASKED: usize = 500;
const DIMENSIONS: usize = 384;

fn text(n: usize) -> String {
    format!("note {n}: the customer of branch {} prefers letters in language {} and colour {}", n % 97, n % 31, n % 13)
}

fn vector(n: usize) -> Vec<f64> {
    (0..DIMENSIONS).map(|at| f64::from(u32::try_from((n * 31 + at * 17) % 101).unwrap_or(1)) - 50.5).collect()
}

fn by(user: &str) -> Option<Subject> {
    let run = RunId::new(&SystemClock, &SystemEntropy);
    Some(Subject { tenant: "acme".parse().ok()?, run, user: Some(user.into()), agent: "claims".parse().ok()? })
}

/// The middle and the 99th percentile, in microseconds.
fn spread(mut spans: Vec<f64>) -> (f64, f64) {
    spans.sort_by(f64::total_cmp);
    let at = |percent: usize| spans.get((spans.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(f64::NAN);
    (at(50), at(99))
}

fn told(what: &str, ours: Vec<f64>, plain: Option<Vec<f64>>) {
    let (p50, p99) = spread(ours);
    match plain.map(spread) {
        Some((base, base99)) => println!(
            "{what:<24} {p50:>9.0} µs  p99 {p99:>9.0} µs   plain {base:>9.0} µs  p99 {base99:>9.0} µs   ratio {:>5.2}",
            p50 / base
        ),
        None => println!("{what:<24} {p50:>9.0} µs  p99 {p99:>9.0} µs"),
    }
}

async fn plain(path: &std::path::Path) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging()
        .connect()
        .await?;
    sqlx::raw_sql("CREATE VIRTUAL TABLE notes USING fts5 (body)").execute(&mut connection).await?;
    Ok(connection)
}

async fn measure() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let options = MemoryOptions {
        tenant: "acme".parse()?,
        name: "notes".parse()?,
        scope: MemoryScope::AgentAndUser,
        dimensions: u32::try_from(DIMENSIONS).ok(),
        quota: MemoryQuota { items: Some(20_000), mib: Some(512), ttl_seconds: None },
    };
    let store = Arc::new(SqliteMemory::new(dir.path().join("memory.db")));
    let memory = Memory::new(options, store, Arc::new(SystemClock), Arc::new(SystemEntropy))?;
    let mut connection = plain(&dir.path().join("plain.db")).await?;
    let (ann, bob) = (by("ann").ok_or("a subject")?, by("bob").ok_or("a subject")?);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..ITEMS {
        let start = Instant::now();
        memory.remember(ann.clone(), Draft { text: text(n), embedding: Some(vector(n)), ..Draft::default() }).await?;
        ours.push(start.elapsed().as_secs_f64() * 1e6);
        memory.remember(bob.clone(), Draft { text: text(n + 7), ..Draft::default() }).await?;
        let start = Instant::now();
        sqlx::query("INSERT INTO notes (body) VALUES ($1)").bind(text(n)).execute(&mut connection).await?;
        theirs.push(start.elapsed().as_secs_f64() * 1e6);
    }
    told("keep", ours, Some(theirs));

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..ASKED {
        let query = format!("branch {} language", n % 97);
        let start = Instant::now();
        let question = Question { query: Some(query), ..Question::default() };
        let found = memory.recall(ann.clone(), question).await?;
        ours.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(found.len(), 10);
        let start = Instant::now();
        let asked = format!("\"branch\" OR \"{}\" OR \"language\"", n % 97);
        let sql = "SELECT body FROM notes WHERE notes MATCH $1 ORDER BY rank LIMIT 10";
        let found: Vec<String> = sqlx::query_scalar(sql).bind(asked).fetch_all(&mut connection).await?;
        theirs.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(found.len(), 10);
    }
    told("find by words", ours, Some(theirs));

    let mut ours = Vec::new();
    for n in 0..ASKED / 10 {
        let start = Instant::now();
        let question = Question { embedding: Some(vector(n)), ..Question::default() };
        assert_eq!(memory.recall(ann.clone(), question).await?.len(), 10);
        ours.push(start.elapsed().as_secs_f64() * 1e6);
    }
    told("find by vector", ours, None);

    let mut ours = Vec::new();
    for _ in 0..ASKED {
        let start = Instant::now();
        memory.list(ann.clone(), Filter::default(), None, None).await?;
        ours.push(start.elapsed().as_secs_f64() * 1e6);
    }
    told("list", ours, None);
    connection.close().await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}
