//! The bars of the design, measured; asserted far above them, for a loaded machine.

use std::time::{Duration, Instant};

use crate::rig::{python, run};

pub const TESTS: &[crate::Test] = &[("starting_and_killing_are_fast", figures)];

fn figures() {
    run(async {
        let mut memory = vec![];
        let (mut launches, mut starts, mut kills, mut told, mut freezes) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..std::env::var("COGWARD_TIMING_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(15) {
            let rig = python("print('up', flush=True)\nimport time\nwhile True: time.sleep(9)");
            tokio::time::sleep(Duration::from_millis(60)).await;
            let begin = Instant::now();
            let run = rig.held().await;
            launches.push(begin.elapsed());
            run.start().await.unwrap();
            rig.until("up").await;
            starts.push(begin.elapsed());
            memory.push(private_kib(run.supervisor()));
            freezes.push(Duration::from_micros(run.suspend().await.unwrap()));
            run.resume().await.unwrap();
            let begin = Instant::now();
            let report = run.kill().await.unwrap();
            told.push(begin.elapsed());
            assert!(report.empty);
            kills.push(Duration::from_micros(report.micros));
            run.wait().await;
        }
        for (what, times) in [
            ("launch to held", &mut launches),
            ("launch to python's first line", &mut starts),
            ("freeze", &mut freezes),
            ("kill, command to empty", &mut kills),
            ("kill, as the plane sees it", &mut told),
        ] {
            times.sort();
            println!("{what:<32} p50 {:>9.2?}  p99 {:>9.2?}", times[times.len() / 2], times[times.len() * 99 / 100]);
        }
        memory.sort_unstable();
        println!("supervisor, memory of its own     p50 {} KiB", memory[memory.len() / 2]);
        assert!(launches[launches.len() / 2] < Duration::from_millis(500));
        assert!(told[told.len() / 2] < Duration::from_millis(500));
    });
}

/// Memory of a process that it shares with none.
fn private_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field =
        |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    field("Private_Clean:").unwrap() + field("Private_Dirty:").unwrap()
}
