//! Lifecycle authority, from outside: the real binary, real sandboxes, a plane that is killed.

use anyhow::Result;
use cogward_testkit::{Agent, MAY_ASK, Plane, count};

const COUNTER: &str = "
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.02)
";

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

fn counter(plane: &Plane) -> Result<String> {
    let run = plane.launch(&Agent { name: "counter", source: COUNTER, permissions: "", changes: &[] })?;
    plane.said(&run, "\n3\n")?;
    Ok(run)
}

fn last(plane: &Plane, run: &str) -> u64 {
    plane.logs(run, "stdout").lines().filter_map(|l| l.parse().ok()).max().unwrap_or(0)
}

#[test]
fn a_suspended_agent_stands_still_and_a_resumed_one_goes_on() -> Result<()> {
    let plane = plane()?;
    let run = counter(&plane)?;
    plane.ok(["run", "suspend", &run, "--reason", "look at it"])?;
    assert_eq!(plane.run(&run)?["state"], "suspended");
    let (before, _) = (last(&plane, &run), plane.json(["run", "list"])?);
    assert_eq!(last(&plane, &run), before, "nothing is written while frozen");
    plane.ok(["run", "resume", &run, "--reason", "go on"])?;
    plane.said(&run, &format!("\n{}\n", before + 20))?;
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    plane.run_until(&run, |r| r["ended"].is_string())?;
    let leaves = plane.leaves(&run)?;
    for kind in ["run.requested", "run.started", "run.suspended", "run.resumed", "run.killed", "run.closed"] {
        assert_eq!(count(&leaves, kind, None), 1, "{kind}");
    }
    Ok(())
}

#[test]
fn a_killed_run_is_dead_and_stays_dead() -> Result<()> {
    let plane = plane()?;
    let run = counter(&plane)?;
    let receipt = plane.json(["run", "kill", &run, "--reason", "stop it"])?;
    assert_eq!(plane.run(&run)?["state"], "killed", "{receipt}");
    for verb in ["suspend", "resume", "cancel", "kill"] {
        let again = plane.cli(["run", verb, &run, "--reason", "again"])?;
        assert_eq!(again.code(), 5, "{verb}: {}", again.stderr);
    }
    Ok(())
}

#[test]
fn a_state_is_not_changed_without_a_reason() -> Result<()> {
    let plane = plane()?;
    let run = counter(&plane)?;
    assert_eq!(plane.cli(["run", "kill", &run])?.code(), 2);
    assert_eq!(plane.run(&run)?["state"], "running");
    Ok(())
}

#[test]
fn a_cancelled_agent_may_clean_up_and_one_that_ignores_it_is_killed() -> Result<()> {
    let plane = plane()?;
    let polite = plane.launch(&Agent {
        name: "polite",
        source: "import signal, sys, time\n\
                 def end(*_):\n    print('cleaned up', flush=True)\n    sys.exit(0)\n\
                 signal.signal(signal.SIGTERM, end)\nprint('ready', flush=True)\ntime.sleep(600)\n",
        permissions: "",
        changes: &[],
    })?;
    plane.said(&polite, "ready")?;
    plane.ok(["run", "cancel", &polite, "--reason", "not needed"])?;
    let run = plane.run_until(&polite, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "cancelled");
    assert!(plane.logs(&polite, "stdout").contains("cleaned up"));

    let stubborn = plane.launch(&Agent {
        name: "stubborn",
        source: "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                 subprocess.Popen(['python3', '-c', 'import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'], start_new_session=True)\n\
                 print('ready', flush=True)\ntime.sleep(600)\n",
        permissions: "",
        changes: &[],
    })?;
    plane.said(&stubborn, "ready")?;
    plane.ok(["run", "cancel", &stubborn, "--reason", "not needed"])?;
    let run = plane.run_until(&stubborn, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "killed", "the grace period ended: {run}");
    Ok(())
}

#[test]
fn an_agent_outlives_a_plane_that_is_killed_and_is_adopted_again() -> Result<()> {
    let mut plane = plane()?;
    let run = counter(&plane)?;
    plane.kill_9()?;
    plane.up()?;
    let before = last(&plane, &run);
    plane.said(&run, &format!("\n{}\n", before + 10))?;
    assert_eq!(plane.run(&run)?["state"], "running");
    assert_eq!(count(&plane.leaves(&run)?, "run.adopted", None), 1);
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    assert_eq!(plane.run(&run)?["state"], "killed");
    Ok(())
}

#[test]
fn an_agent_goes_on_calling_its_model_after_the_plane_was_killed() -> Result<()> {
    let mut plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
    let run = plane.launch(&Agent {
        name: "caller",
        source: "
import json, os, time, urllib.request
n = 0
while True:
    body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60) as r:
            json.load(r)
        n += 1
        print('call', n, flush=True)
    except OSError as e:
        print('retry', e, flush=True)
    time.sleep(0.05)
",
        permissions: MAY_ASK,
        changes: &[],
    })?;
    plane.said(&run, "call 3\n")?;
    plane.kill_9()?;
    plane.up()?;
    let used = plane.run(&run)?["usage"]["tokens"].as_u64().unwrap_or(0);
    assert!(used > 0, "what was used before the crash still counts");
    let calls = plane.run(&run)?["usage"]["model_calls"].as_u64().unwrap_or(0);
    assert!(calls >= 3, "and so do the calls: {calls}");
    let refused = count(&plane.leaves(&run)?, "model.call.decided", Some("block"));
    assert_eq!(refused, 0, "a call that comes while the plane starts waits for it");
    let before = plane.logs(&run, "stdout").matches("call ").count();
    plane.said(&run, &format!("call {}\n", before + 3))?;
    plane.ok(["run", "suspend", &run, "--reason", "look"])?;
    plane.kill_9()?;
    plane.up()?;
    assert_eq!(plane.run(&run)?["state"], "suspended", "a restart does not wake it");
    plane.ok(["run", "kill", &run, "--reason", "enough"])?;
    Ok(())
}

#[test]
fn a_run_that_ended_while_the_plane_was_down_is_closed_at_its_start() -> Result<()> {
    let mut plane = plane()?;
    let run = plane.launch(&Agent {
        name: "brief",
        source: "import time\nprint('ready', flush=True)\ntime.sleep(1)\nprint('{\"answer\": 42}')\n",
        permissions: "",
        changes: &[],
    })?;
    plane.said(&run, "ready")?;
    plane.kill_9()?;
    plane.up()?;
    let run = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], "{\"answer\": 42}");
    Ok(())
}

#[test]
fn a_drained_plane_comes_back_with_its_estate() -> Result<()> {
    let mut plane = plane()?;
    let run = counter(&plane)?;
    assert!(plane.stop()?.success());
    plane.up()?;
    assert_eq!(plane.run(&run)?["state"], "running");
    Ok(())
}

#[test]
fn a_run_ends_at_its_wall_clock_limit() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "slow",
        source: COUNTER,
        permissions: "",
        changes: &[("wallClockSeconds: 120", "wallClockSeconds: 2")],
    })?;
    let run = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "failed");
    assert!(run["fail_cause"].as_str().unwrap_or_default().contains("wallClockSeconds"), "{run}");
    Ok(())
}

/// Prints its input and its own id, and stays.
const READER: &str = "import json, os, sys, time\n\
    print(os.environ['COGWARD_RUN_ID'], open('/run/cogward/token').read(), flush=True)\n\
    print(json.load(open('/run/cogward/input.json')), sys.stdin.read(), flush=True)\ntime.sleep(600)\n";

#[test]
fn runs_begin_in_sandboxes_that_were_made_before_and_each_is_used_once() -> Result<()> {
    let mut plane = plane()?;
    plane.register(&Agent { name: "reader", source: READER, permissions: "", changes: &[] })?;
    let warm = plane.json(["agent", "warm", "reader", "--count", "2", "--reason", "a peak"])?;
    assert_eq!(warm["count"], 2, "{warm}");
    let ready = |plane: &Plane, wanted: u64| -> Result<()> {
        for _ in 0..600 {
            if plane.json(["agent", "warm", "reader"])?["ready"] == wanted {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("there are never {wanted} ready: {}", plane.log())
    };
    ready(&plane, 2)?;
    assert_eq!(plane.json(["run", "list"])?.as_array().map(Vec::len), Some(0), "a spare is no run");
    let made: Vec<_> = std::fs::read_dir(plane.data_dir().join("runs"))?.flatten().map(|d| d.file_name()).collect();
    let mut used = Vec::new();
    for input in ["{\"n\": 1}", "{\"n\": 2}"] {
        let file = plane.scratch().join("input.json");
        std::fs::write(&file, input)?;
        let file = file.to_string_lossy().into_owned();
        let run = plane.json(["run", "start", "reader", "--input", file.as_str()])?;
        let run = run["id"].as_str().unwrap_or_default().to_owned();
        let n = &input[6..7];
        plane.said(&run, &format!("{run} {run}\n{{'n': {n}}} {input}\n"))?;
        assert_eq!(count(&plane.leaves(&run)?, "run.started", None), 1);
        used.push(run);
    }
    assert!(made.iter().all(|name| used.iter().any(|run| name.to_str() == Some(run))), "{made:?} {used:?}");
    ready(&plane, 2)?;
    // A killed plane's spares are of no use to the next: they are ended, and made anew.
    let of = |plane: &Plane| -> Result<Vec<_>> {
        let all = std::fs::read_dir(plane.data_dir().join("runs"))?.flatten().map(|d| d.file_name());
        Ok(all.filter(|name| !used.iter().any(|run| name.to_str() == Some(run))).collect())
    };
    let before = of(&plane)?;
    plane.kill_9()?;
    plane.up()?;
    ready(&plane, 2)?;
    assert!(of(&plane)?.iter().all(|name| !before.contains(name)));
    plane.ok(["agent", "warm", "reader", "--count", "0"])?;
    ready(&plane, 0)?;
    for run in &used {
        plane.ok(["run", "kill", run, "--reason", "enough"])?;
    }
    assert_eq!(plane.cli(["agent", "warm", "reader", "--count", "33"])?.code(), 2);
    assert_eq!(plane.cli(["agent", "warm", "nobody", "--count", "1"])?.code(), 3);
    Ok(())
}
