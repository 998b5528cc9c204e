//! What the gate costs: `tools/call` and chat completions, direct and through the gateway with durable
//! evidence on, at 1, 32 and 256 connections, in both eras of MCP, in one process and one run.
//!
//! Prints ratios to the direct call and the gateway's own CPU per call (read from the kernel's account of
//! its threads), because those survive a noisy machine. Run with `cargo bench -p cogward-gateway`.
//!
//! `BENCH_PEER="NAME|COMMAND"` measures another MCP gateway in the same run, by the same load and before the same
//! upstream: the command gets the upstream's URL as its last argument, prints the address that it listens on
//! (`127.0.0.1:PORT`), and serves `/mcp` there until its standard input ends. Its processes count as its CPU.

mod durable;
mod load;
mod peer;
mod plane;
mod upstream;

use std::time::Instant;
use std::{collections::HashMap, fs, net::SocketAddr, os::unix::fs::FileExt, path::Path, sync::Arc, time::Duration};

use cogward_budget::{Budgets, Scope};
use cogward_evidence::{Evidence, EvidenceOptions};
use cogward_gateway::{FenceState, Gateway, RunGrant, RunListeners, policy::PolicySet};
use cogward_model::{
    Digest, Id, NanoUsd, RunId, SystemClock, SystemEntropy,
    action::Amounts,
    upstream::{Price, Provider, ProviderShape, ToolServer, ToolTransport},
};
use load::{Era, Work, load, percentile};
use peer::Peer;
use plane::{Ledger, Trusting, hundred_rules, manifest};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

fn runtime(name: &'static str, threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().expect("a runtime")
}

/// CPU seconds of this process by thread name.
fn cpu() -> HashMap<String, f64> {
    let mut by_name = HashMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos: f64 = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        *by_name.entry(read("comm").trim().to_owned()).or_insert(0.0) += nanos / 1e9;
    }
    by_name
}

/// What the gateway's workers and the ledger's threads used, in this order.
fn ours(cpu: &HashMap<String, f64>) -> [f64; 2] {
    let of = |names: &[&str]| -> f64 {
        cpu.iter().filter(|(name, _)| names.iter().any(|n| name.starts_with(n))).map(|(_, seconds)| seconds).sum()
    };
    [of(&["gw"]), of(&["ledger", "wal"])]
}

/// What the disk needs for one flush of 1 KiB in space that was written before, in microseconds.
fn flush(dir: &Path) -> u64 {
    let file = fs::File::create(dir.join("raw")).expect("a file");
    file.write_all_at(&vec![0; 1 << 20], 0).and_then(|()| file.sync_all()).expect("space");
    let mut times: Vec<u64> = (0..512_u64)
        .map(|n| {
            let begin = Instant::now();
            file.write_all_at(&[7; 1_024], n * 1_024).and_then(|()| file.sync_data()).expect("a flush");
            u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)
        })
        .collect();
    times.sort_unstable();
    percentile(&times, 50)
}

/// A run whose fence is open: where its models and its tools are reached.
fn open_run(gateway: &Gateway, budgets: &Budgets) -> (SocketAddr, SocketAddr) {
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    let scope = Scope::run(run);
    budgets.open(
        scope.clone(),
        Amounts { tokens: u64::MAX, cost: NanoUsd::MAX, tool_calls: u64::MAX, ..Amounts::default() },
    );
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("bind").into();
    let listeners = RunListeners { model: bind(), mcp: bind(), proxy: bind() };
    let addresses =
        (listeners.model.local_addr().expect("an address"), listeners.mcp.local_addr().expect("an address"));
    let grant = RunGrant::new(run, &manifest(), Digest::from_bytes([0; 32]), None, vec![scope]);
    gateway.open_run(grant, listeners).expect("open");
    gateway.fence(run, FenceState::Open);
    addresses
}

fn main() {
    let seconds: f64 = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let rounds = 3;
    let (up, gw, loader) = (runtime("up", 1), runtime("gw", 1), runtime("load", 1));
    let listener = up.block_on(TcpListener::bind("127.0.0.1:0")).expect("bind");
    let direct = listener.local_addr().expect("an address");
    up.spawn(upstream::serve(listener));

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let flush = flush(dir.path());
    let _in_gateway = gw.enter();
    let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).expect("evidence");
    let ledger = evidence.clone();
    let budgets = Arc::new(Budgets::new());
    let gateway = Gateway::new(Arc::new(Ledger(evidence)), Arc::clone(&budgets), Arc::new(SystemClock));
    gateway.keep_pins(Arc::new(Trusting(Arc::clone(gateway.pins()))));
    let tenant: cogward_model::TenantName = "default".parse().expect("a name");
    gateway.upstreams().put_tool_server(
        ToolServer {
            tenant: tenant.clone(),
            name: "echo".parse().expect("a name"),
            transport: ToolTransport::Http {
                url: format!("http://{direct}/mcp"),
                credential_header: None,
                headers: Default::default(),
                oauth: None,
            },
            limits: cogward_model::upstream::ToolServerLimits::default(),
        },
        None,
    );
    let price = Price { input_per_million: NanoUsd::from_nanos(1), output_per_million: NanoUsd::from_nanos(1) };
    gateway
        .upstreams()
        .put_provider(
            Provider {
                tenant,
                name: "fake".parse().expect("a name"),
                shape: ProviderShape::OpenAi { base_url: format!("http://{direct}/v1") },
                prices: [("m".to_owned(), price)].into(),
                labels: Default::default(),
            },
            None,
        )
        .expect("a provider");
    let (model, mcp) = open_run(&gateway, &budgets);
    gateway.fence_plane(FenceState::Open);

    println!(
        "{:<32} {:>5} {:>8} {:>8} {:>7} {:>7} {:>8} {:>8} {:>9} {:>9}",
        "", "conns", "calls/s", "x direct", "p50 us", "p99 us", "p50 +us", "p99/p50", "CPU us", "of ledger"
    );
    let time = Duration::from_secs_f64(seconds);
    let tool = |era, bytes, events| Work::Tool { era, bytes, events };
    let rows: [(&str, Work, SocketAddr, bool, &[usize]); 9] = [
        ("tools/call", Work::TOOL, mcp, false, &[1, 32]),
        ("tools/call, 100 rules", Work::TOOL, mcp, true, &[1, 32, 256]),
        ("stateless, 100 rules", tool(Era::Stateless, 32, false), mcp, true, &[1, 32, 256]),
        ("events, 100 rules", tool(Era::Session, 32, true), mcp, true, &[1, 32]),
        ("64 KiB, 100 rules", tool(Era::Session, 64 * 1_024, false), mcp, true, &[1, 32]),
        ("64 KiB, stateless, 100 rules", tool(Era::Stateless, 64 * 1_024, false), mcp, true, &[32]),
        ("chat completion, 1 KiB", Work::Chat, model, false, &[1, 32]),
        ("chat, 100 rules", Work::Chat, model, true, &[1, 32, 256]),
        ("chat, first part, 100 rules", Work::FirstPart, model, true, &[1, 32]),
    ];
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    for (name, work, governed, ruled, all_connections) in rows.into_iter().filter(|row| row.0.contains(&only)) {
        let set = if ruled { hundred_rules() } else { PolicySet::default() };
        gateway.policies().active().replace(set, cogward_model::Timestamp::default()).expect("policies");
        for &connections in all_connections {
            let mut rows = Vec::new();
            for _ in 0..rounds {
                let (base, base_rate) = loader
                    .block_on(async { tokio::spawn(load(vec![direct], work, connections, time)).await })
                    .expect("load");
                let before = ours(&cpu());
                let (through, rate) = loader
                    .block_on(async { tokio::spawn(load(vec![governed], work, connections, time)).await })
                    .expect("load");
                let after = ours(&cpu());
                let spent = [0, 1].map(|part| (after[part] - before[part]) * 1e6 / through.len() as f64);
                rows.push((
                    rate / base_rate,
                    base_rate,
                    rate,
                    percentile(&base, 50),
                    percentile(&base, 99),
                    percentile(&through, 50),
                    percentile(&through, 99),
                    spent,
                ));
            }
            // The median round by ratio: the machine is shared.
            rows.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (ratio, base_rate, rate, d50, d99, g50, g99, spent) = rows[rows.len() / 2];
            println!(
                "{:<32} {connections:>5} {base_rate:>8.0} {:>8} {d50:>7} {d99:>7} {:>8} {:>8.1}",
                format!("{name}, direct"),
                "1",
                "",
                d99 as f64 / d50 as f64
            );
            println!(
                "{:<32} {connections:>5} {rate:>8.0} {ratio:>8.3} {g50:>7} {g99:>7} {:>8} {:>8.1} {:>9.0} {:>9.0}",
                format!("{name}, governed"),
                g50 as i64 - d50 as i64,
                g99 as f64 / g50 as f64,
                spent[0] + spent[1],
                spent[1]
            );
        }
    }
    if "durable events".contains(&only) {
        gateway.policies().active().replace(hundred_rules(), cogward_model::Timestamp::default()).expect("policies");
        // A run has at most 256 connections.
        let runs: Vec<_> = (0..8).map(|_| open_run(&gateway, &budgets).1).collect();
        durable::measure(&gw, &loader, &ledger, &runs, time);
    }
    if let Some(peer) = Peer::start(&format!("http://{direct}/mcp")) {
        peer::measure(&peer, &loader, direct, time, rounds);
    }
    println!("one flush of the disk: p50 {flush} us; every governed call waits for one");
}
