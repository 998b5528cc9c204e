//! The proof of a run: what is in force is found in force, and what somebody on the host takes away is found gone.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use cogward_sandbox::{Attestation, Supervised};

use crate::{
    Test,
    rig::{Rig, python, run},
};

pub const TESTS: &[Test] = &[
    ("attest::a_complete_sandbox_is_proven_before_its_agent_begins", proven),
    ("attest::nothing_that_an_agent_does_changes_its_proof", unchanged),
    ("attest::a_limit_that_is_raised_or_taken_is_found", limits),
    ("attest::a_process_that_is_moved_out_of_a_group_is_found_and_killed_all_the_same", moved),
    ("attest::an_interface_in_the_network_namespace_is_found", interface),
    ("attest::a_mount_is_found", mount),
    ("attest::somebody_who_enters_a_namespace_or_a_group_is_found", strangers),
    ("attest::a_look_is_quick", quick),
    ("attest::a_look_costs_no_more_on_a_host_that_is_full_of_processes", crowd),
    ("attest::the_first_process_has_the_host_execute_nothing_when_it_crashes", core_limit),
];

const SLEEPS: &str = "print('up', flush=True)\nimport time\ntime.sleep(600)\n";

fn gone(found: &Attestation) -> Vec<String> {
    found.checks.iter().filter(|check| !check.holds).map(|check| format!("{check:?}")).collect()
}

async fn look(run: &Supervised) -> Attestation {
    run.attest().await.unwrap().unwrap()
}

/// The control that is gone, and only it.
async fn missed(run: &Supervised, wanted: &str) -> String {
    let found = gone(&look(run).await);
    assert!(found.len() == 1 && found[0].contains(wanted), "{found:?}");
    found[0].clone()
}

/// The same of somebody who has entered from the host: found once all of the host's processes were looked at, some at
/// each look.
async fn missed_in_time(run: &Supervised, wanted: &str) -> String {
    let processes = fs::read_dir("/proc").unwrap().count();
    for _ in 0..processes / 256 + 2 {
        let found = gone(&look(run).await);
        if !found.is_empty() {
            assert!(found.len() == 1 && found[0].contains(wanted), "{found:?}");
            return found[0].clone();
        }
    }
    panic!("nobody was found among {processes} processes");
}

/// The run's processes, init first.
fn processes(rig: &Rig) -> Vec<String> {
    let group = rig.groups_left().into_iter().find(|group| group.join("pids.max").exists()).unwrap();
    let mut all: Vec<i32> =
        fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    all.sort_unstable();
    all.into_iter().map(|pid| pid.to_string()).collect()
}

fn group_with(rig: &Rig, file: &str) -> PathBuf {
    rig.groups_left().into_iter().find(|group| group.join(file).exists()).unwrap()
}

fn inside(init: &str, namespace: &str, command: &[&str]) {
    let done = Command::new("nsenter").args(["-t", init, namespace]).args(command).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn proven() {
    run(async {
        let rig = python(
            "import hashlib\nprint(hashlib.sha256(open('/proc/self/mountinfo', 'rb').read()).hexdigest(), flush=True)\nimport time\ntime.sleep(600)\n",
        );
        let run = rig.held().await;
        let proof = run.proof().unwrap().clone();
        assert_eq!(gone(&proof), Vec::<String>::new());
        assert_eq!((proof.checks.len(), proof.processes), (12, 2));
        let facts = &proof.facts;
        assert_eq!(facts.namespaces.len(), 7);
        for (name, number) in &facts.namespaces {
            let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
            assert!(!host.contains(&number.to_string()), "{name} is the host's");
        }
        assert_eq!((facts.interfaces.as_slice(), facts.filters), (&["lo".to_owned()][..], Some(2)));
        assert_eq!(facts.uids, (run.enforcement().uid_base, 65_536));
        let memory = facts.limits.get("memory.max").or(facts.limits.get("memory.limit_in_bytes")).unwrap();
        assert_eq!(memory, &(u64::from(rig.spec.resources.memory_mib) * 1024 * 1024).to_string());
        assert_eq!(facts.limits["pids.max"], (rig.spec.resources.pids + 1).to_string());
        // The same filter for every run of the profile, another one for another profile.
        let again = python(SLEEPS).held().await;
        assert_eq!(again.proof().unwrap().facts.filter, facts.filter);
        let mut other = python(SLEEPS);
        other.spec.profile = cogward_model::manifest::Profile::Hardened;
        let other = other.held().await;
        assert_ne!(other.proof().unwrap().facts.filter, facts.filter);
        for run in [again, other] {
            run.kill().await.unwrap();
        }
        // The mount table is the one that the agent sees.
        run.start().await.unwrap();
        let seen = facts.mounts.unwrap().to_string();
        rig.until(seen.rsplit(':').next().unwrap()).await;
        run.kill().await.unwrap();
    });
}

fn unchanged() {
    run(async {
        let rig = python(
            "import os, threading, time, subprocess\nfor _ in range(8): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
             for _ in range(5): subprocess.Popen(['/bin/sleep', '600'])\n\
             if os.fork() == 0:\n    os.setsid()\n    os.chdir('/work')\n    open('/work/x', 'w').write('x')\n    time.sleep(600)\n\
             import ctypes\nctypes.CDLL(None).prctl(15, b'x\\nCapEff:\\t0')\nprint('up', flush=True)\n\
             while True:\n    subprocess.run(['/bin/true'])\n",
        );
        let run = rig.held().await;
        let first = run.proof().unwrap().facts.clone();
        assert_eq!(look(&run).await.facts, first, "while it is held");
        run.start().await.unwrap();
        rig.until("up").await;
        // Processes come and go meanwhile.
        for _ in 0..50 {
            let found = look(&run).await;
            assert_eq!(gone(&found), Vec::<String>::new());
            assert_eq!(found.facts, first);
            assert!(found.processes >= 8, "{}", found.processes);
        }
        run.suspend().await.unwrap();
        assert_eq!(look(&run).await.facts, first, "while it is frozen");
        run.kill().await.unwrap();
        run.wait().await;
        assert!(run.attest().await.is_err());
    });
}

fn limits() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let memory = if rig.groups_left().iter().any(|g| g.join("memory.max").exists()) {
            "memory.max"
        } else {
            "memory.memsw.limit_in_bytes"
        };
        let group = group_with(&rig, "pids.max");
        let was = fs::read_to_string(group.join("pids.max")).unwrap();
        fs::write(group.join("pids.max"), "4000").unwrap();
        let told = missed(&run, "limits of its control groups").await;
        assert!(told.contains(&format!("pids.max was {} and is 4000", was.trim())), "{told}");
        fs::write(group.join("pids.max"), was.trim()).unwrap();
        assert_eq!(gone(&look(&run).await), Vec::<String>::new(), "and when it is put back it is there");
        let found = rig.groups_left().into_iter().find(|g| g.join(memory).exists());
        if let Some(group) = found {
            fs::write(group.join(memory), "4G").unwrap();
            missed(&run, memory).await;
        }
        run.kill().await.unwrap();
    });
}

fn moved() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let group = group_with(&rig, "pids.max");
        let agent = processes(&rig).pop().unwrap();
        // Out of one group: the limit of that one holds for it no more.
        fs::write(group.parent().unwrap().join("cgroup.procs"), &agent).unwrap();
        let told = missed(&run, "every process in its control groups").await;
        assert!(told.contains(&format!("process {agent} is not in")), "{told}");
        // Out of all of them, so that a kill of the groups does not reach it.
        for group in rig.groups_left() {
            fs::write(group.parent().unwrap().join("cgroup.procs"), &agent).unwrap();
        }
        missed(&run, "every process in its control groups").await;
        let report = run.kill().await.unwrap();
        assert!(report.empty, "{report:?}");
        assert!(!PathBuf::from(format!("/proc/{agent}/ns/pid")).exists(), "it is dead when the kill has answered");
    });
}

fn interface() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let init = processes(&rig).remove(0);
        // As the kernel puts it there with the module, and it can do nothing.
        inside(&init, "-n", &["ip", "link", "add", "tunl0", "type", "bridge"]);
        assert_eq!(gone(&look(&run).await), Vec::<String>::new());
        inside(&init, "-n", &["ip", "address", "add", "192.0.2.7/32", "dev", "tunl0"]);
        missed(&run, "loopback only, no route out").await;
        inside(&init, "-n", &["ip", "address", "flush", "dev", "tunl0"]);
        inside(&init, "-n", &["ip", "link", "set", "tunl0", "up"]);
        missed(&run, "loopback only, no route out").await;
        inside(&init, "-n", &["ip", "link", "delete", "tunl0"]);
        inside(&init, "-n", &["ip", "link", "add", "found0", "type", "bridge"]);
        let told = missed(&run, "loopback only, no route out").await;
        assert!(told.contains("lo, found0") || told.contains("found0, lo"), "{told}");
        inside(&init, "-n", &["ip", "address", "add", "192.0.2.1/24", "dev", "found0"]);
        inside(&init, "-n", &["ip", "link", "set", "found0", "up"]);
        let told = missed(&run, "loopback only, no route out").await;
        assert!(told.contains("leave it"), "{told}");
        run.kill().await.unwrap();
    });
}

fn mount() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let init = processes(&rig).remove(0);
        inside(&init, "-m", &["mount", "-t", "tmpfs", "found", "/work"]);
        missed(&run, "mount table as it was made").await;
        run.kill().await.unwrap();
    });
}

fn strangers() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let init = processes(&rig).remove(0);
        let mut entered = Command::new("nsenter").args(["-t", &init, "-n", "sleep", "600"]).spawn().unwrap();
        let joined = PathBuf::from(format!("/proc/{}/ns/net", entered.id()));
        let wanted = fs::read_link(format!("/proc/{init}/ns/net")).unwrap();
        while fs::read_link(&joined).unwrap() != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let told = missed_in_time(&run, "nobody else in its namespaces").await;
        assert!(told.contains(&format!("process {} of the host is in its network namespace", entered.id())), "{told}");
        entered.kill().unwrap();
        entered.wait().unwrap();
        assert_eq!(gone(&look(&run).await), Vec::<String>::new());
        // Somebody in its group uses up its limits.
        let group = group_with(&rig, "pids.max");
        let mut guest = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), guest.id().to_string()).unwrap();
        missed(&run, "nobody else in its namespaces").await;
        guest.kill().unwrap();
        guest.wait().unwrap();
        run.kill().await.unwrap();
    });
}

fn quick() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        let mut took = Vec::new();
        for _ in 0..50 {
            took.push(look(&run).await.took_us);
        }
        took.sort_unstable();
        println!("the look at the launch took {} µs", run.proof().unwrap().took_us);
        println!("a look takes {} µs at best, {} in the middle, {} at worst", took[0], took[25], took[49]);
        // Far above what it takes; the plane gives it ten seconds.
        assert!(took[25] < 1_000_000, "{took:?}");
        run.kill().await.unwrap();
        // Threads without end do not keep the supervisor from its commands.
        let mut rig = python(
            "import threading, time\nthreading.stack_size(65536)\n\
             for _ in range(3000): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
             print('up', flush=True)\ntime.sleep(600)\n",
        );
        rig.spec.resources.pids = 4_096;
        rig.spec.resources.memory_mib = 1_024;
        let run = rig.started().await;
        rig.until("up").await;
        let found = look(&run).await;
        assert_eq!(gone(&found), Vec::<String>::new());
        println!("with 3,000 threads it takes {} µs", found.took_us);
        run.kill().await.unwrap();
    });
}

fn crowd() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        // The quickest of many: whatever else the host does takes time from the others.
        let quickest = async || {
            let mut took = u64::MAX;
            for _ in 0..40 {
                took = took.min(look(&run).await.took_us);
            }
            took
        };
        let before = quickest().await;
        // As many as 200 sandboxes have, with their supervisors, many times over.
        let mut crowd: Vec<_> = (0..3_000).map(|_| Command::new("/bin/sleep").arg("600").spawn().unwrap()).collect();
        let after = quickest().await;
        for process in &mut crowd {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        println!("a look takes {before} µs, and {after} with 3,000 more processes on the host");
        assert!(after < before * 3 + 1_000, "{before} {after}");
        run.kill().await.unwrap();
    });
}

fn core_limit() {
    run(async {
        let rig = python(SLEEPS);
        let run = rig.started().await;
        rig.until("up").await;
        for pid in processes(&rig) {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{pid}");
        }
        run.kill().await.unwrap();
    });
}
