//! Durable events a second, beside the disk's own flush and SQLite, in one run: the ratios are what counts.
//!
//! `cargo bench -p cogward-evidence` (a few seconds a row, three rounds, the median round is printed).

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement, not the product")]

mod measured;

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use cogward_evidence::{
    Evidence, EvidenceOptions, LogName,
    archive::{Archive, Directory, DirectoryPlace, Options},
};
use cogward_model::{Id, SystemClock, SystemEntropy};
use measured::{cpu, event};
use sqlx::{
    Connection,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};

const ROUNDS: usize = 3;
const FOR: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Default)]
struct Row {
    per_second: f64,
    p50_us: u128,
    p99_us: u128,
    cpu_us: f64,
}

fn row(mut latencies: Vec<Duration>, took: Duration, cpu: Duration) -> Row {
    latencies.sort_unstable();
    let at = |part: usize| latencies.get(latencies.len() * part / 100).map_or(0, Duration::as_micros);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let count = latencies.len() as f64;
    Row {
        per_second: count / took.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
    }
}

fn raw(dir: &Path) -> Row {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("raw")).unwrap();
    let (block, size) = ([7_u8; 1024], 32 * 1024 * 1024_u64);
    (0..size / 1024).for_each(|n| file.write_all_at(&[0; 1024], n * 1024).unwrap());
    file.sync_all().unwrap();
    let (mut latencies, start, used) = (Vec::new(), Instant::now(), cpu());
    while start.elapsed() < FOR {
        let one = Instant::now();
        let at = latencies.len() as u64 * 1024 % size;
        file.write_all_at(&block, at).unwrap();
        file.sync_data().unwrap();
        latencies.push(one.elapsed());
    }
    row(latencies, start.elapsed(), cpu() - used)
}

async fn sqlite(dir: &Path) -> Row {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("events.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, body BLOB)")
        .execute(&mut connection)
        .await
        .unwrap();
    let body = vec![7_u8; 1024];
    let (mut latencies, start, used) = (Vec::new(), Instant::now(), cpu());
    while start.elapsed() < FOR {
        let one = Instant::now();
        sqlx::query("INSERT INTO events (body) VALUES ($1)").bind(&body).execute(&mut connection).await.unwrap();
        latencies.push(one.elapsed());
    }
    row(latencies, start.elapsed(), cpu() - used)
}

async fn ledger(dir: &Path, writers: usize) -> Row {
    let evidence = Evidence::open(EvidenceOptions::new(dir)).unwrap();
    // The first segments are made before the clock runs, as they are in a plane that is up.
    evidence.record(event(Id::new(&SystemClock, &SystemEntropy), 0)).await.unwrap();
    let (start, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..writers)
        .map(|n| {
            let evidence = evidence.clone();
            tokio::spawn(async move {
                let (run, mut latencies) = (Id::new(&SystemClock, &SystemEntropy), Vec::new());
                while start.elapsed() < FOR {
                    let one = Instant::now();
                    evidence.record(event(run, n)).await.unwrap();
                    latencies.push(one.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    row(latencies, start.elapsed(), cpu() - used)
}

fn median(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    rows.get(rows.len() / 2).copied().unwrap_or_default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let names = [
        "write + fdatasync, 1 KiB",
        "SQLite FULL, a row each",
        "ledger, 1 writer",
        "ledger, 64 writers",
        "ledger, 1,024 writers",
    ];
    let mut rounds: [Vec<Row>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        rounds[0].push(raw(dir.path()));
        rounds[1].push(sqlite(dir.path()).await);
        for (at, writers) in [(2, 1), (3, 64), (4, 1_024)] {
            rounds[at].push(ledger(&dir.path().join(format!("ledger-{writers}")), writers).await);
        }
    }
    let rows = rounds.map(median);
    println!(
        "{:<26} {:>10} {:>9} {:>9} {:>8} {:>10} {:>10}",
        "", "events/s", "p50 us", "p99 us", "CPU us", "x raw", "x SQLite"
    );
    for (name, row) in names.iter().zip(rows) {
        println!(
            "{name:<26} {:>10.0} {:>9} {:>9} {:>8.1} {:>10.2} {:>10.2}",
            row.per_second,
            row.p50_us,
            row.p99_us,
            row.cpu_us,
            row.per_second / rows[0].per_second,
            row.per_second / rows[1].per_second,
        );
    }
    verification().await;
}

/// How fast an exported log is verified, on one core.
async fn verification() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).unwrap();
    let run = Id::new(&SystemClock, &SystemEntropy);
    for n in 0..200_000 {
        if n % 1_000 == 0 {
            evidence.record(event(run, n)).await.unwrap();
        }
        evidence.note(event(run, n)).unwrap();
    }
    let (tenant, pack) = ("acme".parse().unwrap(), dir.path().join("pack"));
    let start = Instant::now();
    let summary = evidence.export(&tenant, &pack).await.unwrap();
    let exported = start.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let leaves = summary.leaves as f64;
    println!("\nexport {:.0} leaves/s", leaves / exported.as_secs_f64());
    let (archive, archived) = (dir.path().join("archive"), Instant::now());
    let segments = put_away(&evidence, &archive).await;
    let archived = archived.elapsed();
    // Nothing else is to be counted from here on.
    drop(evidence);
    let kept = std::fs::read_to_string(pack.join("checkpoint")).unwrap();
    for (name, threads, against) in
        [("verify, 1 thread", 1, None), ("verify, all processors", 0, None), ("verify --against", 0, Some(&*kept))]
    {
        let (start, used) = (Instant::now(), cpu());
        let options = cogward_ledger::verify::Options { threads, against, ..Default::default() };
        cogward_ledger::verify::verify(&pack, &options).unwrap();
        let (took, used) = (start.elapsed(), cpu() - used);
        println!(
            "{name}: {:.0} leaves/s, {:.0} leaves per CPU-second",
            leaves / took.as_secs_f64(),
            leaves / used.as_secs_f64()
        );
    }
    let (start, used) = (Instant::now(), cpu());
    let found = cogward_ledger::archive::verify(&Directory::new(&archive), &Options::default()).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let leaves = found.leaves as f64;
    println!("archive: {segments} segments, {:.0} leaves/s put there and read back", leaves / archived.as_secs_f64());
    println!(
        "archive, verify: {:.0} leaves/s, {:.0} leaves per CPU-second",
        leaves / start.elapsed().as_secs_f64(),
        leaves / (cpu() - used).as_secs_f64()
    );
}

/// Puts the sealed segments into a directory.
async fn put_away(evidence: &Evidence, to: &Path) -> u64 {
    let signed = evidence.plane_checkpoint().await.unwrap();
    evidence.until_published(&LogName::Plane, signed.size).await;
    let mut archive = Archive::open(evidence, Box::new(DirectoryPlace::new(to))).unwrap();
    while archive.step().unwrap().is_some() {
        archive.recorded().unwrap();
    }
    archive.stored()
}
