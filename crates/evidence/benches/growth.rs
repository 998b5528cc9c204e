//! What an append, a proof, a start and the memory cost as the log grows: flat, or it is a fault.
//!
//! `cargo bench -p cogward-evidence --bench growth`; `BENCH_LEAVES=10000000` goes on to ten million leaves, which
//! needs some 20 GB of disk and a quarter of an hour.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a measurement, not the product"
)]

mod measured;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use cogward_evidence::{Evidence, EvidenceOptions, IndexError, SearchError};
use cogward_model::{Id, RunId, SystemClock, SystemEntropy, TenantName};
use measured::{cpu, event};

/// The appends and proofs that are counted at each size.
const COUNTED: usize = 20_000;
const PROOFS: u64 = 400;
/// Appends are not waited for one by one; after so many the log has caught up.
const TOGETHER: usize = 1_000;

/// What the thread of the index used.
fn index_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_index = tasks
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == "ledger-index"));
    let nanos = |stat: String| stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    Duration::from_nanos(of_index.filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok()).map(nanos).sum())
}

/// Memory that is this process's own, in MiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(count).unwrap())
}

/// Appends until there are `target` leaves.
async fn grow(evidence: &Evidence, tenant: &TenantName, run: RunId, size: &mut usize, target: usize) {
    while *size < target {
        evidence.note(event(run, *size)).unwrap();
        *size += 1;
        if size.is_multiple_of(TOGETHER) {
            evidence.checkpoint(tenant).await.unwrap();
        }
    }
    evidence.checkpoint(tenant).await.unwrap();
}

/// Waits until the index has all leaves: how much of it is missing is what a proof says.
async fn indexed(evidence: &Evidence, tenant: &TenantName) {
    loop {
        match evidence.prove_leaf(tenant, 0).await {
            Ok(_) => return,
            Err(SearchError::Index(IndexError::Behind { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// CPU and p50 of a proof, in microseconds: that a leaf is in the log, or that an older state is its beginning.
async fn proofs(evidence: &Evidence, tenant: &TenantName, size: usize, consistency: bool) -> (f64, u128) {
    let (used, mut times) = (cpu(), Vec::new());
    for n in 0..PROOFS {
        // Spread over the log by a step that has no divisor in common with its size.
        let leaf = n * 7_368_787 % u64::try_from(size - 1).unwrap();
        let start = Instant::now();
        if consistency {
            evidence.prove_consistency(tenant, leaf + 1, None).await.unwrap();
        } else {
            evidence.prove_leaf(tenant, leaf).await.unwrap();
        }
        times.push(start.elapsed().as_micros());
    }
    times.sort_unstable();
    (micros(cpu() - used, times.len()), times[times.len() / 2])
}

/// Milliseconds until a plane's ledger is open.
fn start(options: EvidenceOptions) -> f64 {
    let start = Instant::now();
    let opened = Evidence::open(options).unwrap();
    let took = start.elapsed();
    drop(opened);
    took.as_secs_f64() * 1e3
}

fn bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes(&entry.path()),
        found => found.map_or(0, |found| found.len()),
    };
    entries.map(of).sum()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let most: usize = std::env::var("BENCH_LEAVES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = Id::new(&SystemClock, &SystemEntropy);
    let tenant = "acme".parse().unwrap();
    let options = || EvidenceOptions::new(dir.path());
    println!(
        "{:<10} {:>9} {:>9} {:>10} {:>8} {:>12} {:>8} {:>8} {:>10} {:>10} {:>9}",
        "leaves",
        "append us",
        "index us",
        "leaf us",
        "p50 us",
        "consistent",
        "p50 us",
        "MiB",
        "start ms",
        "all ms",
        "disk MiB"
    );
    let mut size = 0_usize;
    for target in [1_000, 100_000, 10_000_000].into_iter().filter(|target| *target <= most) {
        let evidence = Evidence::open(options()).unwrap();
        let counted = COUNTED.min(target);
        grow(&evidence, &tenant, run, &mut size, target - counted).await;
        if size > 0 {
            indexed(&evidence, &tenant).await;
        }
        let (used, by_index) = (cpu(), index_cpu());
        grow(&evidence, &tenant, run, &mut size, target).await;
        indexed(&evidence, &tenant).await;
        let by_index = index_cpu() - by_index;
        let append = (cpu() - used).saturating_sub(by_index);
        let leaf = proofs(&evidence, &tenant, size, false).await;
        let consistent = proofs(&evidence, &tenant, size, true).await;
        let memory = memory();
        drop(evidence);
        let from_snapshot = start(options());
        let snapshot = dir.path().join("snapshot");
        let kept = fs::read(&snapshot).ok();
        let _there = fs::remove_file(&snapshot);
        let all = start(EvidenceOptions { snapshot_bytes: u64::MAX, ..options() });
        if let Some(kept) = kept {
            fs::write(&snapshot, kept).unwrap();
        }
        println!(
            "{target:<10} {:>9.1} {:>9.1} {:>10.0} {:>8} {:>12.0} {:>8} {memory:>8} {from_snapshot:>10.0} {all:>10.0} {:>9}",
            micros(append, counted),
            micros(by_index, counted),
            leaf.0,
            leaf.1,
            consistent.0,
            consistent.1,
            bytes(dir.path()) / (1 << 20),
        );
    }
}
