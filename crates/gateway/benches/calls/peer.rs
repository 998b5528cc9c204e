//! Another gateway, in the same run, by the same load and before the same upstream.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use tokio::runtime::Runtime;

use crate::load::{Work, load, percentile};

/// Another gateway, as `BENCH_PEER` names it.
pub struct Peer {
    name: String,
    process: std::process::Child,
    address: SocketAddr,
}

impl Peer {
    pub fn start(upstream: &str) -> Option<Self> {
        use std::io::BufRead;
        let wanted = std::env::var("BENCH_PEER").ok()?;
        let (name, command) = wanted.split_once('|').expect("BENCH_PEER is NAME|COMMAND");
        let mut words = command.split_whitespace();
        let mut process = std::process::Command::new(words.next().expect("a command"))
            .args(words)
            .arg(upstream)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        std::io::BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("the peer prints its address first");
        Some(Self { name: name.to_owned(), process, address })
    }

    /// CPU seconds of it and of the processes that it has started.
    fn cpu(&self) -> f64 {
        let of = |task: &Path| -> f64 {
            let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
        };
        let (mut open, mut all) = (vec![self.process.id()], 0.0);
        while let Some(pid) = open.pop() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                all += of(&task.path());
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        all
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The peer beside the direct call: the median round by ratio.
pub fn measure(peer: &Peer, loader: &Runtime, direct: SocketAddr, time: Duration, rounds: usize) {
    for connections in [1, 32, 256] {
        let run = |address| {
            loader
                .block_on(async { tokio::spawn(load(vec![address], Work::TOOL, connections, time)).await })
                .expect("load")
        };
        let mut rows: Vec<_> = (0..rounds)
            .map(|_| {
                let (base, base_rate) = run(direct);
                let before = peer.cpu();
                let (through, rate) = run(peer.address);
                let spent = (peer.cpu() - before) * 1e6 / through.len() as f64;
                let [d50, g50] = [&base, &through].map(|all| percentile(all, 50));
                (rate / base_rate, rate, d50, g50, percentile(&through, 99), spent)
            })
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, rate, d50, g50, g99, spent) = rows[rows.len() / 2];
        println!(
            "{:<32} {connections:>5} {rate:>8.0} {ratio:>8.4} {g50:>7} {g99:>7} {:>8} {:>8.1} {spent:>9.0}",
            format!("tools/call, {}", peer.name),
            g50 as i64 - d50 as i64,
            g99 as f64 / g50 as f64
        );
    }
}
