//! Freezing, ending, losing and finding again.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cogward_sandbox::{Adopted, ExitCause, adopt};

use crate::{
    Carrier,
    rig::{Rig, run},
};

pub const CHECKS: &[crate::Check] = &[
    ("a_frozen_agent_does_nothing_until_resumed", freeze),
    ("sigterm_lets_a_cooperative_agent_end_well", terminate),
    ("an_agent_that_ignores_sigterm_is_killed_with_its_whole_tree", stubborn),
    ("kill_ends_daemons_and_proves_it", kill),
    ("a_run_outlives_the_plane_and_is_adopted_again", adopted),
    ("a_killed_supervisor_leaves_no_process_even_when_frozen", supervisor_killed),
    ("a_kill_reaches_an_agent_whose_supervisor_stands_still", supervisor_stopped),
    ("the_wall_clock_ends_a_frozen_run", wall_clock),
    ("what_is_in_force_is_seen_from_outside_and_so_is_what_is_gone", attested),
    ("somebody_else_is_found_whatever_the_uid", strangers),
    ("a_kill_reaches_what_was_moved_out_of_its_groups", moved),
    ("no_crash_of_what_carries_an_agent_has_the_host_execute_anything", crashes),
];

const TICKER: &str = "import time\nfor n in range(100000):\n print(n, flush=True)\n time.sleep(0.005)";

fn freeze(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(TICKER);
        let run = rig.started().await;
        rig.until("3\n").await;
        let micros = run.suspend().await.unwrap();
        assert!(micros < 2_000_000, "{micros}");
        // Again, and it is frozen still.
        run.suspend().await.unwrap();
        assert!(run.start().await.is_err());
        // What was in the pipe is read before the two looks.
        run.usage().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = rig.log("stdout.log");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(rig.log("stdout.log"), before);
        run.resume().await.unwrap();
        let next = before.lines().count() + 5;
        rig.until(&format!("\n{next}\n")).await;
        run.suspend().await.unwrap();
        assert!(run.kill().await.unwrap().empty);
        assert_eq!(run.wait().await.cause, ExitCause::Killed);
    });
}

fn terminate(carrier: &Carrier) {
    run(async {
        for suspended in [false, true] {
            let mut rig = carrier.python(
                "import signal, sys, time\ndef end(*_):\n print('clean')\n open('/work/output', 'w').write('left')\n sys.exit(0)\n\
                 signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(9)",
            );
            rig.spec.grace = Duration::from_secs(10);
            let run = rig.started().await;
            rig.until("up").await;
            if suspended {
                run.suspend().await.unwrap();
            }
            run.terminate().await.unwrap();
            let exit = run.wait().await;
            assert_eq!((exit.code, exit.cause), (Some(0), ExitCause::Terminated), "{exit:?}");
            assert_eq!(exit.output.as_deref(), Some(&b"left"[..]));
            assert_eq!(rig.log("stdout.log"), "up\nclean\n");
        }
    });
}

/// Six daemons, each in a session of its own, none of which heeds SIGTERM.
const DAEMONS: &str = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
     for _ in range(6):\n if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n  open('/work/' + str(os.getpid()), 'w')\n  time.sleep(999)\n\
     while len(os.listdir('/work')) < 6: time.sleep(0.01)\nprint('up', flush=True)\ntime.sleep(999)";

fn stubborn(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let begin = Instant::now();
        run.terminate().await.unwrap();
        let exit = run.wait().await;
        assert!(begin.elapsed() >= rig.spec.grace);
        assert_eq!((exit.code, exit.cause), (None, ExitCause::GraceExpired), "{exit:?}");
        assert!(exit.empty);
        assert_eq!(rig.groups_left(), Vec::<PathBuf>::new());
    });
}

fn kill(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes >= 8, "{report:?}");
        assert!(report.micros < 3_000_000, "{report:?}");
        assert!(run.wait().await.empty);
        assert!(run.start().await.is_err() && run.kill().await.is_err());
        assert_eq!(rig.groups_left(), Vec::<PathBuf>::new());
    });
}

fn adopted(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(TICKER);
        let first = rig.started().await;
        let supervisor = first.supervisor();
        drop(first);
        rig.until("5\n").await;
        for _ in 0..2 {
            let Adopted::Alive(again) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
            assert_eq!(again.supervisor(), supervisor);
            assert_eq!(again.enforcement().profile, carrier.profile);
            assert!(again.take_listeners().is_some());
            again.suspend().await.unwrap();
            again.resume().await.unwrap();
        }
        let Adopted::Alive(last) = adopt(&rig.spec.run_dir).await.unwrap() else { panic!() };
        assert!(last.kill().await.unwrap().empty);
        assert_eq!(last.wait().await.cause, ExitCause::Killed);
    });
}

fn signal(supervisor: u32, signal: &str) {
    let status = std::process::Command::new("/bin/kill").args([signal, &supervisor.to_string()]).status();
    assert!(status.unwrap().success());
}

/// The processes of a run, by its control groups.
fn processes(rig: &Rig) -> Vec<String> {
    let groups = rig.groups_left();
    let texts = groups.iter().map(|group| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn supervisor_killed(carrier: &Carrier) {
    run(async {
        for frozen in [false, true] {
            let rig = carrier.python(DAEMONS);
            let run = rig.started().await;
            rig.until("up").await;
            if frozen {
                run.suspend().await.unwrap();
            }
            let supervisor = run.supervisor();
            // No plane is there to sweep: what ends the processes is the kernel.
            drop(run);
            assert!(processes(&rig).len() >= 8);
            signal(supervisor, "-9");
            for _ in 0..1_000 {
                if processes(&rig).is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(processes(&rig), Vec::<String>::new(), "frozen: {frozen}");
            assert!(matches!(adopt(&rig.spec.run_dir).await.unwrap(), Adopted::Lost));
            assert_eq!(rig.groups_left(), Vec::<PathBuf>::new(), "frozen: {frozen}");
        }
    });
}

fn supervisor_stopped(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        signal(run.supervisor(), "-STOP");
        let report = run.kill().await.unwrap();
        assert!(report.empty && report.processes > 1, "{report:?}");
        assert_eq!(run.wait().await.cause, ExitCause::SupervisorLost);
        assert_eq!(rig.groups_left(), Vec::<PathBuf>::new());
    });
}

fn wall_clock(carrier: &Carrier) {
    run(async {
        let mut rig = carrier.python(
            "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(99)",
        );
        rig.spec.wall_clock = Duration::from_millis(100);
        let run = rig.started().await;
        rig.until("up").await;
        run.suspend().await.unwrap();
        let exit = run.wait().await;
        assert_eq!((exit.code, exit.cause, exit.empty), (None, ExitCause::TimeExpired, true), "{exit:?}");
    });
}

/// The controls that are gone.
async fn gone(run: &cogward_sandbox::Supervised) -> Vec<String> {
    let found = run.attest().await.unwrap().unwrap();
    assert!(found.checks.len() >= 6 && found.processes >= 2, "{found:?}");
    found.checks.iter().filter(|check| !check.holds).map(|check| format!("{check:?}")).collect()
}

fn attested(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.held().await;
        assert!(run.proof().is_some_and(|proof| proof.gone().is_none()), "{:?}", run.proof());
        run.start().await.unwrap();
        rig.until("up").await;
        assert_eq!(gone(&run).await, Vec::<String>::new());
        let group = rig.groups_left().into_iter().find(|group| group.join("pids.max").exists()).unwrap();
        std::fs::write(group.join("pids.max"), "1000").unwrap();
        let found = gone(&run).await;
        assert!(found.len() == 1 && found[0].contains("limits"), "{found:?}");
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
    });
}

fn strangers(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        assert_eq!(gone(&run).await, Vec::<String>::new());
        let base = run.enforcement().uid_base;
        let first =
            *processes(&rig).iter().map(|pid| pid.parse::<i32>().unwrap()).collect::<Vec<_>>().iter().min().unwrap();
        let place = |id: u32| {
            for group in rig.groups_left() {
                std::fs::write(group.join("cgroup.procs"), id.to_string()).unwrap();
            }
        };
        // One of the host that has a uid of the run's range and is in its groups.
        let mut command = std::process::Command::new("/bin/sleep");
        let mut stranger = std::os::unix::process::CommandExt::uid(command.arg("600"), base + 7).spawn().unwrap();
        place(stranger.id());
        let found = gone(&run).await;
        assert!(found.iter().any(|check| check.contains("nobody else in its namespaces")), "{found:?}");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(gone(&run).await, Vec::<String>::new());
        // One that has entered its namespaces as well: beside the first process, which is no agent's.
        let mut entered = std::process::Command::new("nsenter")
            .args(["-t", &first.to_string(), "-p", "-n", "-i", "--", "/bin/sh", "-c", "echo $$; exec sleep 600"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(entered.stdout.take().unwrap()), &mut line).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", entered.id())).unwrap();
        place(children.trim().parse().unwrap());
        assert!(!gone(&run).await.is_empty());
        assert!(run.kill().await.unwrap().empty, "and it is killed with the others");
        entered.wait().unwrap();
        run.wait().await;
    });
}

fn moved(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let mut all: Vec<i32> = processes(&rig).iter().map(|pid| pid.parse().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        // The last one that was made, which is one of the agent's where they are processes of the host; of a machine
        // its monitor, which is the one after the keeper.
        let last = if carrier.is_machine() { all.iter().copied().nth(1) } else { all.iter().copied().max() };
        let last = last.unwrap().to_string();
        for group in rig.groups_left() {
            std::fs::write(group.parent().unwrap().join("cgroup.procs"), &last).unwrap();
        }
        let found = gone(&run).await;
        assert!(found.iter().any(|check| check.contains("every process in its control groups")), "{found:?}");
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
        let alive = std::fs::read_to_string(format!("/proc/{last}/status")).unwrap_or_default();
        assert!(alive.is_empty() || alive.contains("State:\tZ") || !alive.contains("python3"), "{alive}");
    });
}

/// A limit of 0 would not do: core(5). The sandbox's own init, which starts nothing but the agent, is not a parser of
/// anything that the agent says.
fn crashes(carrier: &Carrier) {
    run(async {
        let rig = carrier.python(DAEMONS);
        let run = rig.started().await;
        rig.until("up").await;
        let all: std::collections::BTreeSet<i32> = processes(&rig).iter().map(|pid| pid.parse().unwrap()).collect();
        assert!(all.len() >= 2, "{all:?}");
        let native = matches!(carrier.driver, cogward_sandbox::DriverSettings::Native);
        // Of a machine the keeper and the monitor: what is in it is not the host's.
        let most = if carrier.is_machine() { 2 } else { usize::MAX };
        for pid in all.into_iter().skip(usize::from(native)).take(most) {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            let found: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
            assert_eq!(found, ["1", "1"], "process {pid}: {line}");
        }
        assert!(run.kill().await.unwrap().empty);
        run.wait().await;
    });
}
