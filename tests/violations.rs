//! What an agent tries and what somebody on the host takes away from its sandbox: refused or found, counted, recorded,
//! and answered as the manifest says. On the real binary.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::Value;

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// Tries a system call by its number, says so, and stays.
fn tries(number: u32) -> String {
    format!(
        "import ctypes, time\nprint('before', flush=True)\nctypes.CDLL(None).syscall({number}, 0, 0, 0, 0, 0)\n\
         while True:\n    print('goes on', flush=True)\n    time.sleep(1)\n"
    )
}

const MOUNT: u32 = 165;
const BPF: u32 = 321;

fn violations(leaves: &[Value]) -> Vec<&Value> {
    leaves.iter().filter(|leaf| leaf["type"] == "sandbox.violation").collect()
}

fn at(leaves: &[Value], kind: &str) -> Result<usize> {
    leaves.iter().position(|leaf| leaf["type"] == kind).with_context(|| format!("no leaf {kind}"))
}

/// The receipt of the command that a leaf records.
fn receipt(plane: &Plane, leaf: &Value) -> Result<Value> {
    plane.json(["operation", "show", leaf["operation"].as_str().context("an operation")?])
}

/// A watcher of events that is connected: it has seen one.
struct Watching(std::process::Child, PathBuf);

impl Watching {
    fn begin(plane: &Plane) -> Result<Self> {
        let path = plane.scratch().join("events");
        let child = plane.command(["event", "watch"]).stdout(fs::File::create(&path)?).spawn()?;
        let watching = Self(child, path);
        plane.register(&Agent { name: "nothing", source: "pass\n", permissions: "", changes: &[] })?;
        for _ in 0..20 {
            plane.ok(["run", "start", "nothing", "--reason", "an event to be seen", "--wait"])?;
            if !watching.seen()?.is_empty() {
                return Ok(watching);
            }
        }
        anyhow::bail!("the watcher sees nothing")
    }

    fn seen(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.1)?)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_that_tries_to_mount_is_killed_where_its_manifest_says_so() -> Result<()> {
    let plane = plane()?;
    let watching = Watching::begin(&plane)?;
    let run = plane.launch(&Agent {
        name: "mounter",
        source: &tries(MOUNT),
        permissions: "",
        changes: &[("    resources:", "    onViolation: kill\n    resources:")],
    })?;
    let ended = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(ended["state"], "killed");
    let cause = ended["fail_cause"].as_str().context("a cause")?;
    assert!(cause.starts_with("spec.sandbox.onViolation: ") && cause.contains("mount"), "{cause}");
    assert_eq!(ended["violations"][0]["object"], "mount");
    assert_eq!(ended["violations"][0]["severity"], "high");
    assert_eq!(ended["violations"][0]["total"], 1);
    let leaves = plane.leaves(&run)?;
    let tried = violations(&leaves);
    assert_eq!(tried.len(), 1, "{tried:#?}");
    for (field, wanted) in
        [("layer", "seccomp"), ("action", "deny"), ("object", "mount"), ("severity", "high"), ("verdict", "killed")]
    {
        assert_eq!(tried[0][field], wanted, "{field}");
    }
    assert!(tried[0]["act"].as_str().is_some_and(|act| act.starts_with("agent:mounter@")), "{}", tried[0]);
    let killed = &leaves[at(&leaves, "run.killed")?];
    assert_eq!(killed["rule"], "spec.sandbox.onViolation");
    assert!(at(&leaves, "sandbox.violation")? < at(&leaves, "run.killed")?);
    let operation = receipt(&plane, killed)?;
    assert_eq!(
        (&operation["verb"], &operation["state"], &operation["requested_by"]),
        (&"kill".into(), &"done".into(), &"plane".into())
    );
    let effective = operation["receipt"]["effective_us"].as_u64().context("a measured time")?;
    assert!(effective > 0 && effective < 10_000_000, "{effective} µs");
    // What a person sees.
    let shown = plane.ok(["run", "show", &run])?;
    assert!(shown.contains("1 x seccomp deny mount (high)") && shown.contains("in force at "), "{shown}");
    let told = "seccomp deny mount (high, killed, 1 so far)";
    plane.run_until(&run, |_| watching.seen().is_ok_and(|events| events.contains(told)))?;
    Ok(())
}

#[test]
fn an_agent_that_tries_bpf_is_suspended_where_its_manifest_says_so_and_an_operator_decides() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "prober",
        source: &tries(BPF),
        permissions: "",
        changes: &[("    resources:", "    onViolation: suspend\n    resources:")],
    })?;
    plane.run_until(&run, |r| r["state"] == "suspended")?;
    let leaves = plane.leaves(&run)?;
    let tried = violations(&leaves);
    assert_eq!((&tried[0]["object"], &tried[0]["verdict"]), (&"bpf".into(), &"suspended".into()));
    assert_eq!(leaves[at(&leaves, "run.suspended")?]["rule"], "spec.sandbox.onViolation");
    let operation = receipt(&plane, &leaves[at(&leaves, "run.suspended")?])?;
    assert_eq!((&operation["verb"], &operation["requested_by"]), (&"suspend".into(), &"plane".into()));
    plane.ok(["run", "resume", &run, "--reason", "looked at it"])?;
    plane.said(&run, "goes on")?;
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    Ok(())
}

#[test]
fn ten_thousand_refused_calls_are_counted_exactly_in_a_few_leaves() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "flooder",
        source: "import ctypes\ncall = ctypes.CDLL(None).syscall\nfor _ in range(10_000): call(165, 0, 0, 0, 0, 0)\n\
                 for n in range(2_000): call(1_000 + n)\nprint('done')\n",
        permissions: "",
        changes: &[],
    })?;
    let ended = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(ended["state"], "succeeded", "{}", plane.logs(&run, "stderr"));
    let leaves = plane.leaves(&run)?;
    let mounts: Vec<&Value> = violations(&leaves).into_iter().filter(|v| v["object"] == "mount").collect();
    assert!(mounts.len() <= 60, "{} leaves", mounts.len());
    let told: u64 = mounts.iter().filter_map(|v| v["count"].as_u64()).sum();
    assert_eq!(told, 10_000);
    assert!(mounts.iter().all(|v| v["verdict"] == "deny"));
    assert!(violations(&leaves).len() < 400, "{} leaves of 12,000 refusals", violations(&leaves).len());
    let closed = leaves.last().context("a last leaf")?;
    assert_eq!((&closed["type"], &closed["violations_total"]), (&"run.closed".into(), &12_000.into()));
    assert_eq!(
        (&closed["violations"][0]["object"], &closed["violations"][0]["total"]),
        (&"mount".into(), &10_000.into())
    );
    let totals = ended["violations"].as_array().context("totals")?;
    assert_eq!(totals.iter().filter_map(|v| v["total"].as_u64()).sum::<u64>(), 12_000);
    Ok(())
}

/// When the plane dies and comes back makes no difference to the count, nor does what it had heard by then.
#[test]
fn counts_outlive_the_plane() -> Result<()> {
    let mut plane = plane()?;
    let run = plane.launch(&Agent {
        name: "patient",
        source: "import ctypes, time\ncall = ctypes.CDLL(None).syscall\nfor _ in range(5): call(165, 0, 0, 0, 0, 0)\n\
                 print('five', flush=True)\ntime.sleep(1)\nfor _ in range(200): call(165, 0, 0, 0, 0, 0)\n\
                 print('all', flush=True)\ntime.sleep(600)\n",
        permissions: "",
        changes: &[],
    })?;
    plane.said(&run, "five")?;
    plane.kill_9()?;
    plane.up()?;
    plane.said(&run, "all")?;
    plane.run_until(&run, |r| r["violations"][0]["total"].as_u64().is_some_and(|total| total >= 5))?;
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    plane.run_until(&run, |r| r["ended"].is_string())?;
    let leaves = plane.leaves(&run)?;
    let closed = leaves.last().context("a last leaf")?;
    assert_eq!((&closed["type"], &closed["violations_total"]), (&"run.closed".into(), &205.into()));
    let adopted =
        leaves.iter().find(|l| l["occasion"] == "adopted").context("a look at the run that was taken over")?;
    assert_eq!((&adopted["unchanged"], &adopted["proof"]), (&true.into(), &leaves[1]["proof"]));
    Ok(())
}

#[test]
fn asking_the_proxy_for_metadata_is_a_grave_violation_and_an_undeclared_host_is_not() -> Result<()> {
    let plane = plane()?;
    let source = r#"
import socket, time
def ask(target):
    s = socket.create_connection(("127.0.0.1", 3128), timeout=30)
    s.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    print(target, s.recv(4096).split(b"\r\n")[0].decode(), flush=True)
    s.close()
ask("pypi.org:443")
ask("169.254.169.254:80")
while True: time.sleep(1)
"#;
    let deny = plane.launch(&Agent { name: "curious", source, permissions: "", changes: &[] })?;
    plane.said(&deny, "169.254.169.254:80 ")?;
    let running = plane.run_until(&deny, |r| r["violations"].as_array().is_some_and(|v| v.len() == 2))?;
    assert_eq!(running["state"], "running");
    let leaves = plane.leaves(&deny)?;
    let found: Vec<(&str, &str, &str)> = violations(&leaves)
        .iter()
        .map(|v| {
            (
                v["action"].as_str().unwrap_or(""),
                v["severity"].as_str().unwrap_or(""),
                v["verdict"].as_str().unwrap_or(""),
            )
        })
        .collect();
    assert_eq!(found, [("undeclared", "warning", "deny"), ("inside-address", "high", "deny")]);
    assert_eq!(violations(&leaves)[0]["object"], "pypi.org:443");
    // One decision each, and the security event beside it.
    assert_eq!(cogward_testkit::count(&leaves, "egress.decided", Some("block")), 2);
    plane.ok(["run", "kill", &deny, "--reason", "enough"])?;

    let strict = plane.launch(&Agent {
        name: "hardened-curious",
        source,
        permissions: "",
        changes: &[("    resources:", "    profile: hardened\n    resources:")],
    })?;
    let ended = plane.run_until(&strict, |r| r["ended"].is_string())?;
    assert_eq!(ended["state"], "killed", "hardened kills unless the manifest says otherwise");
    assert!(ended["fail_cause"].as_str().is_some_and(|c| c.contains("169.254.169.254")), "{}", ended["fail_cause"]);
    Ok(())
}

const STAYS: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

fn group(run: &str, file: &str) -> Result<PathBuf> {
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)?.flatten() {
            let path = entry.path();
            if path.ends_with(format!("cogward-{run}")) && path.join(file).exists() {
                return Ok(path);
            }
            if entry.file_type()?.is_dir() {
                open.push(path);
            }
        }
    }
    anyhow::bail!("no control group of {run} has {file}")
}

#[test]
fn the_proof_of_a_run_is_its_first_leaf_and_is_looked_for_again() -> Result<()> {
    let plane = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &["--attest-every", "1"])?;
    let run = plane.launch(&Agent { name: "sleeper", source: STAYS, permissions: "", changes: &[] })?;
    plane.said(&run, "up")?;
    let first = plane.run(&run)?["attested"]["at"].clone();
    plane.run_until(&run, |r| r["attested"]["at"] != first && r["attested"]["holds"] == true)?;
    plane.run_until(&run, |_| {
        plane.leaves(&run).is_ok_and(|l| cogward_testkit::count(&l, "sandbox.attested", None) >= 2)
    })?;
    let leaves = plane.leaves(&run)?;
    assert_eq!(leaves[0]["type"], "run.requested");
    let proof = &leaves[1];
    assert_eq!(
        (&proof["type"], &proof["occasion"], &proof["holds"]),
        (&"sandbox.attested".into(), &"launch".into(), &true.into())
    );
    assert_eq!((&leaves[2]["type"], &leaves[2]["proof"]), (&"run.started".into(), &proof["proof"]));
    let facts = &proof["facts"];
    assert_eq!(facts["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(facts["namespaces"].as_object().context("namespaces")?.len(), 7);
    for digest in [&proof["policy"], &proof["proof"], &facts["filter"], &facts["mounts"]] {
        assert!(digest.as_str().is_some_and(|d| d.starts_with("sha256:")), "{proof:#}");
    }
    assert!(
        proof["checks"].as_array().is_some_and(|c| c.len() > 8 && c.iter().all(|c| c["holds"] == true)),
        "{proof:#}"
    );
    // Anybody can compute it from the leaf.
    let text = plane.scratch().join("facts.json");
    fs::write(&text, facts.to_string())?;
    let sum = std::process::Command::new("sha256sum").arg(&text).output()?.stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(proof["proof"], format!("sha256:{sum}"));
    let again = leaves.iter().skip(3).find(|l| l["type"] == "sandbox.attested").context("a second look")?;
    assert_eq!((&again["unchanged"], &again["proof"], &again["facts"]), (&true.into(), &proof["proof"], &Value::Null));

    // Somebody on the host takes a limit away.
    fs::write(group(&run, "pids.max")?.join("pids.max"), "max")?;
    let ended = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(ended["state"], "killed");
    let cause = ended["fail_cause"].as_str().context("a cause")?;
    assert!(
        cause.starts_with("sandbox.attestation: not in force: limits of its control groups: pids.max was "),
        "{cause}"
    );
    assert_eq!(ended["attested"]["holds"], false);
    let leaves = plane.leaves(&run)?;
    assert_eq!(leaves[at(&leaves, "run.killed")?]["rule"], "sandbox.attestation");
    let last = leaves.iter().rfind(|l| l["type"] == "sandbox.attested").context("the last look")?;
    assert_eq!((&last["holds"], &last["facts"]["limits"]["pids.max"]), (&false.into(), &"max".into()));
    let shown = plane.ok(["run", "show", &run])?;
    assert!(shown.contains("NOT in force at ") && shown.contains("NOT IN FORCE"), "{shown}");
    Ok(())
}

#[test]
fn a_supervisor_that_is_stopped_cannot_prove_its_run_and_loses_it() -> Result<()> {
    let plane = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &["--attest-every", "1"])?;
    let run = plane.launch(&Agent { name: "orphan", source: STAYS, permissions: "", changes: &[] })?;
    plane.said(&run, "up")?;
    let directory = plane.data_dir().join("runs").join(&run);
    let supervisor = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*directory.to_string_lossy())
        })
        .context("the supervisor")?;
    ensure!(std::process::Command::new("kill").args(["-STOP", &supervisor.to_string()]).status()?.success());
    let ended = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(ended["state"], "killed");
    assert!(ended["fail_cause"].as_str().is_some_and(|c| c.starts_with("sandbox.attestation: ")), "{ended:#}");
    Ok(())
}
