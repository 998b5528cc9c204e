//! Durable events a second through the gateway: what governed calls of many agents at once leave in the ledger.

use std::{net::SocketAddr, time::Duration};

use cogward_evidence::Evidence;
use tokio::runtime::Runtime;

use crate::{
    cpu,
    load::{Work, load, percentile},
    ours,
};

/// Prints a row for 1, 64 and 1,024 agents that call a tool. Events are counted by the log's own size.
pub fn measure(gw: &Runtime, loader: &Runtime, evidence: &Evidence, runs: &[SocketAddr], time: Duration) {
    let tenant = "default".parse().expect("a name");
    let size = || gw.block_on(evidence.checkpoint(&tenant)).expect("a checkpoint").size;
    println!(
        "\n{:<32} {:>8} {:>8} {:>8} {:>8} {:>12}",
        "durable events by tools/call", "events/s", "calls/s", "p50 us", "p99 us", "CPU us/event"
    );
    for writers in [1, 64, 1_024] {
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let (of, before, spent) = (runs.to_vec(), size(), ours(&cpu()));
            let (calls, rate) =
                loader.block_on(async { tokio::spawn(load(of, Work::TOOL, writers, time)).await }).expect("load");
            let (after, events) = (ours(&cpu()), size() - before);
            let spent = after[0] + after[1] - spent[0] - spent[1];
            let took = calls.len() as f64 / rate;
            rounds.push((
                events as f64 / took,
                rate,
                percentile(&calls, 50),
                percentile(&calls, 99),
                spent * 1e6 / events as f64,
            ));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (events, calls, p50, p99, cpu) = rounds[rounds.len() / 2];
        println!("{:<32} {events:>8.0} {calls:>8.0} {p50:>8} {p99:>8} {cpu:>12.0}", format!("{writers} agents"));
    }
}
