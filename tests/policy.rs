//! Policies: written, refused, approved, activated, applied at once, explained; and never half.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane, count};
use serde_json::{Value, json};

const SCRIPT: &str = r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#;

/// Asks its model again and again, and says how each ended.
const ASKS: &str = r#"
import json, os, time, urllib.request, urllib.error
while True:
    body = json.dumps({"model": "demo-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}).encode()
    q = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, {"content-type": "application/json", "authorization": "Bearer x"})
    try:
        urllib.request.urlopen(q, timeout=60).read()
        print("permit", flush=True)
    except urllib.error.HTTPError as e:
        print(e.code, e.read().decode().replace("\n", " ")[:400], flush=True)
    except OSError:
        pass  # the plane is killed in the middle
    time.sleep(0.02)
"#;

const COMMANDS: &str = "@id(\"commands\") permit (principal is Cogward::Operator, action, resource);\n";
const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";
const NO_MODELS: &str = "@id(\"no-models\") @advice(\"Ask the desk\") forbid (principal, action == Cogward::Action::\"model_call\", resource);\n";

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

fn file(plane: &Plane, text: &str) -> Result<String> {
    let path = plane.scratch().join("policy.cedar");
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Writes and approves a version; gives its digest.
fn approved(plane: &Plane, level: &str, text: &str) -> Result<String> {
    let put = plane.json(["policy", "put", &file(plane, text)?, "--level", level, "--reason", "test"])?;
    let digest = put["digest"].as_str().context("a digest")?.to_owned();
    plane.ok(["policy", "approve", &digest, "--level", level, "--reason", "test"])?;
    Ok(digest)
}

fn activate(plane: &Plane, level: &str, version: &str) -> Result<()> {
    plane.ok(["policy", "activate", version, "--level", level, "--reason", "test"]).map(drop)
}

fn applied(plane: &Plane) -> Result<Value> {
    Ok(plane.json(["policy", "status"])?["gateways"][0].clone())
}

/// Lines that a run has written after `from`, at least one.
fn next_lines(plane: &Plane, run: &str, from: usize) -> Result<Vec<String>> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let lines: Vec<String> = plane.logs(run, "stdout").lines().map(str::to_owned).collect();
        if lines.len() > from + 1 {
            // The last one may be half.
            return Ok(lines[from..lines.len() - 1].to_vec());
        }
        ensure!(Instant::now() < until, "{run} says nothing more: {}", plane.log());
        std::thread::park_timeout(Duration::from_millis(30));
    }
}

fn lines(plane: &Plane, run: &str) -> usize {
    plane.logs(run, "stdout").lines().count()
}

#[test]
fn a_text_with_faults_is_refused_with_all_of_them_and_changes_nothing() -> Result<()> {
    let plane = plane()?;
    let before = applied(&plane)?;
    let text = "permit (principal, action, resource);\n\
                @ecalate(\"finance\") permit (principal, action, resource);\n\
                forbid (principal, action == Cogward::Action::\"fly\", resource);\n";
    for verb in ["check", "put"] {
        let path = file(&plane, text)?;
        let mut command = vec!["policy", verb, path.as_str(), "--level", "plane"];
        if verb == "put" {
            command.extend(["--reason", "x"]);
        }
        let refused = plane.cli(command)?;
        assert_eq!(refused.code(), 4, "{}", refused.stderr);
        for part in ["policy_invalid", "policy.cedar:2", "ecalate", "fix: "] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    }
    let broken = plane.cli(["policy", "check", &file(&plane, "permit (principal, action, resource")?])?;
    assert!(broken.code() == 4 && broken.stderr.contains("policy.cedar:1"), "{}", broken.stderr);
    // A command waits for nobody, and nothing asks for a token: such a rule would not do what it says.
    for (text, said) in [
        (
            "@escalate(\"boss\") permit (principal, action == Cogward::Action::\"operator_command\", resource);",
            "waits for nobody",
        ),
        ("@escalate(\"boss\") permit (principal, action, resource);", "waits for nobody"),
        ("forbid (principal, action == Cogward::Action::\"token\", resource);", "nothing asks for `token`"),
    ] {
        let path = file(&plane, text)?;
        let refused = plane.cli(["policy", "put", &path, "--level", "plane", "--reason", "x"])?;
        assert!(refused.code() == 4 && refused.stderr.contains(said), "{text}: {}", refused.stderr);
    }
    assert_eq!(plane.json(["policy", "list"])?, json!([]));
    assert_eq!(applied(&plane)?, before);
    // A level that is none, and a tenant that is not there.
    assert_eq!(plane.cli(["policy", "list", "--level", "tenant"])?.code(), 2);
    assert_eq!(plane.cli(["policy", "check", &file(&plane, ALL)?, "--level", "tenant:nobody"])?.code(), 3);
    Ok(())
}

#[test]
fn a_version_is_approved_then_activated_and_every_step_is_evidence() -> Result<()> {
    let plane = plane()?;
    let path = file(&plane, ALL)?;
    let put = plane.json(["policy", "put", &path, "--level", "tenant:default", "--reason", "first"])?;
    assert_eq!((&put["state"], &put["number"]), (&"draft".into(), &1.into()), "{put:#}");
    let again = plane.json(["policy", "put", &path, "--level", "tenant:default", "--reason", "second"])?;
    assert_eq!(
        (&again["digest"], &again["number"], &again["written"]["reason"]),
        (&put["digest"], &1.into(), &"first".into())
    );
    let level = ["--level", "tenant:default", "--reason", "x"];
    let early = plane.cli(["policy", "activate", "1"].into_iter().chain(level))?;
    assert!(early.code() == 5 && early.stderr.contains("policy_not_approved"), "{}", early.stderr);
    plane.ok(["policy", "approve", "1"].into_iter().chain(level))?;
    plane.ok(["policy", "activate", "1"].into_iter().chain(level))?;
    let shown = plane.json(["policy", "show", "active", "--level", "tenant:default"])?;
    assert_eq!((&shown["state"], &shown["text"], &shown["digest"]), (&"active".into(), &ALL.into(), &put["digest"]));

    // Somebody activated something else in between: not overwritten.
    let stale = plane.cli(["policy", "activate", "1", "--if-revision", "0"].into_iter().chain(level))?;
    assert!(stale.code() == 5 && stale.stderr.contains("precondition_failed"), "{}", stale.stderr);
    plane.ok(["policy", "deactivate"].into_iter().chain(level))?;
    let levels = plane.json(["policy", "list"])?;
    assert_eq!((&levels[0]["revision"], &levels[0]["active"]), (&2.into(), &Value::Null), "{levels:#}");
    let listed = plane.json(["policy", "list", "--level", "tenant:default"])?;
    assert_eq!(listed[0]["state"], "superseded");

    for kind in ["policy.version_added", "policy.approved", "policy.activated", "policy.deactivated"] {
        let leaves = exported(&plane, kind)?;
        assert_eq!(leaves.len(), 1, "{kind}");
        assert_eq!(leaves[0]["level"], "tenant:default");
        let digest = if kind == "policy.deactivated" { &leaves[0]["before"] } else { &leaves[0]["policy_digest"] };
        assert_eq!(digest, &put["digest"], "{kind}");
    }
    Ok(())
}

#[test]
fn a_version_that_nobody_could_undo_is_not_activated_and_commands_are_decided() -> Result<()> {
    let plane = plane()?;
    let tools = "@id(\"tools\") permit (principal is Cogward::AgentVersion, action, resource);\n";
    let locks = approved(&plane, "plane", tools)?;
    let refused = plane.cli(["policy", "activate", &locks, "--reason", "x"])?;
    assert!(refused.code() == 5 && refused.stderr.contains("policy_locks_out"), "{}", refused.stderr);
    assert_eq!(applied(&plane)?["levels"][0]["built_in"], true);

    // Nor one that lets it be undone for an hour.
    let now = cogward_model::Clock::now(&cogward_model::SystemClock).unix_micros() / 1_000;
    let an_hour = format!(
        "{tools}permit (principal is Cogward::Operator, action, resource) when {{ context.time.epoch_ms < {} }};\n",
        now + 3_600_000
    );
    let locks = approved(&plane, "plane", &an_hour)?;
    let refused = plane.cli(["policy", "activate", &locks, "--reason", "x"])?;
    assert!(refused.code() == 5 && refused.stderr.contains("policy_locks_out"), "{}", refused.stderr);

    // Roles: the one who may release, and the one who may not.
    let by_role = format!(
        "{tools}@id(\"release\") permit (principal in Cogward::Role::\"release\", action, resource);\n\
         @id(\"desk\") permit (principal is Cogward::Operator, action == Cogward::Action::\"run_command\", resource);\n"
    );
    let version = approved(&plane, "plane", &by_role)?;
    let own = plane.json(["operator", "list"])?[0]["id"].as_str().context("an id")?.to_owned();
    assert_eq!(plane.cli(["policy", "activate", &version, "--reason", "x"])?.code(), 5, "not without the role");
    plane.ok(["operator", "roles", &own, "--role", "release", "--reason", "test"])?;
    let desk = plane.ok(["operator", "add", "desk", "--reason", "test"])?.trim().to_owned();
    activate(&plane, "plane", &version)?;
    let by_desk = |args: &[&str]| -> Result<(i32, String)> {
        let done = plane.command(args).env("COGWARD_TOKEN", &desk).output()?;
        Ok((done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stderr).into_owned()))
    };
    for command in [
        vec!["tenant", "create", "retail", "--reason", "x"],
        vec!["policy", "deactivate", "--reason", "x"],
        vec!["operator", "roles", "--role", "release", "--reason", "x"],
        vec!["floor", "set", "development", "hardened", "--reason", "x"],
    ] {
        let (code, said) = by_desk(&command)?;
        assert!(code == 4 && said.contains("policy_blocked"), "{command:?}: {said}");
    }
    assert_eq!(by_desk(&["operator", "list"])?.0, 0, "reading is not a command");
    // Refused commands are evidence, and can be decided again.
    let refused = exported(&plane, "operator.command_refused")?;
    assert_eq!(refused.len(), 4, "{refused:#?}");
    assert_eq!(refused[0]["command"], "tenant.create");
    let id = refused[0]["id"].as_str().context("an id")?;
    let told = plane.json(["policy", "explain", "--decision", id])?;
    assert_eq!((&told["agrees"], &told["again"]["verdict"]), (&true.into(), &"block".into()), "{told:#}");
    // The desk starts and stops runs; a level below cannot keep it from stopping them.
    plane.register(&Agent {
        name: "sleeper",
        source: "import time\ntime.sleep(600)\n",
        permissions: "",
        changes: &[],
    })?;
    let run = plane.start_run("sleeper")?;
    let frozen = "@id(\"frozen\") forbid (principal, action == Cogward::Action::\"run_command\", resource);\n";
    let tenant = approved(&plane, "tenant:default", &format!("{ALL}{frozen}"))?;
    activate(&plane, "tenant:default", &tenant)?;
    let (code, said) = by_desk(&["run", "start", "sleeper", "--reason", "x"])?;
    assert!(code == 4 && said.contains("policy_blocked") && said.contains("frozen"), "{said}");
    let (code, said) = by_desk(&["run", "kill", &run, "--reason", "x"])?;
    assert_eq!(code, 0, "{said}");
    Ok(())
}

#[test]
fn what_is_activated_holds_for_the_next_call_and_the_way_back_too() -> Result<()> {
    let plane = plane()?;
    plane.add_scripted(SCRIPT)?;
    let run = plane.launch(&Agent {
        name: "asker",
        source: ASKS,
        permissions: MAY_ASK,
        changes: &[("tokens: 100000", "tokens: 100000000"), ("wallClockSeconds: 120", "wallClockSeconds: 600")],
    })?;
    plane.said(&run, "permit")?;
    let open = approved(&plane, "tenant:default", ALL)?;
    let shut = approved(&plane, "tenant:default", &format!("{ALL}{NO_MODELS}"))?;
    let first = applied(&plane)?["generation"].as_u64().context("a generation")?;
    for round in 0..3 {
        activate(&plane, "tenant:default", &shut)?;
        let from = lines(&plane, &run);
        // One call may have been decided before; of those that began after it, every one is refused.
        let told = next_lines(&plane, &run, from + 1)?;
        for line in &told {
            assert!(line.starts_with("403") && line.contains("policy_blocked"), "round {round}: {line}");
        }
        assert!(told[0].contains("no-models"), "it names the rule: {}", told[0]);
        activate(&plane, "tenant:default", &open)?;
        let from = lines(&plane, &run);
        for line in next_lines(&plane, &run, from + 1)? {
            assert_eq!(line, "permit", "round {round}");
        }
    }
    let status = applied(&plane)?;
    assert_eq!(status["generation"].as_u64(), Some(first + 6));
    assert_eq!(status["current"], true);

    // Every decision can be made again: permitted and blocked.
    let leaves = plane.leaves(&run)?;
    let of = |verdict: &str| leaves.iter().find(|leaf| leaf["policy_verdict"] == verdict).cloned();
    for verdict in ["permit", "block"] {
        let leaf = of(verdict).with_context(|| format!("no {verdict}"))?;
        let id = leaf["id"].as_str().context("an id")?;
        let told = plane.json(["policy", "explain", "--decision", id, "--run", &run])?;
        assert_eq!((&told["agrees"], &told["again"]["verdict"]), (&true.into(), &verdict.into()), "{told:#}");
        let whole = plane.json(["policy", "explain", "--decision", id])?;
        assert_eq!(whole["agrees"], true, "found without its run, too");
    }
    assert!(count(&leaves, "model.call.decided", Some("block")) > 0);

    // What another version would have said of the same calls.
    let simulated =
        plane.json(["policy", "simulate", "--version", &shut, "--level", "tenant:default", "--run", &run])?;
    let changes = simulated["changes"].as_array().context("changes")?;
    assert_eq!(changes.len(), 1, "{simulated:#}");
    assert_eq!((&changes[0]["from"], &changes[0]["to"]), (&"permit".into(), &"block".into()), "{simulated:#}");
    assert!(simulated["examples"].as_array().is_some_and(|list| !list.is_empty()));
    let same = plane.json(["policy", "simulate", "--version", &open, "--level", "tenant:default", "--run", &run])?;
    let back = same["changes"].as_array().context("changes")?;
    assert!(back.iter().all(|change| change["to"] == "permit"), "{same:#}");
    Ok(())
}

#[test]
fn a_kill_around_an_activation_leaves_the_one_version_or_the_other() -> Result<()> {
    let mut plane = plane()?;
    let one = approved(&plane, "plane", &format!("{ALL}// one\n"))?;
    let two = approved(&plane, "plane", &format!("{ALL}// two\n"))?;
    activate(&plane, "plane", &one)?;
    for round in 0..4_u64 {
        let wanted = if round % 2 == 0 { &two } else { &one };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let activating = scope.spawn(|| {
                let mut command = plane.command(["policy", "activate", wanted.as_str(), "--reason", "x"]);
                let ended = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
                stop.store(true, Ordering::Release);
                ended.map(|status| status.success())
            });
            // At another moment each time, from before it is sent to after it is answered.
            let moment = Instant::now() + Duration::from_millis(round * 15);
            while Instant::now() < moment && !stop.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let pid = plane.pid().context("a plane")?;
            nix_kill(pid)?;
            let _whether_it_was_answered = activating.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
            Ok(())
        })?;
        plane.kill_9()?;
        plane.up()?;
        let active = plane.json(["policy", "show", "active"])?["digest"].as_str().context("a digest")?.to_owned();
        assert!(active == one || active == two, "{active}");
        let status = applied(&plane)?;
        assert_eq!((&status["levels"][0]["digest"], &status["current"]), (&active.into(), &true.into()), "{status:#}");
        activate(&plane, "plane", wanted)?;
    }
    Ok(())
}

fn nix_kill(pid: u32) -> Result<()> {
    let ended = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    ensure!(ended.success(), "kill");
    Ok(())
}

/// The leaves of the tenant `default` with a type, as an auditor exports them.
fn exported(plane: &Plane, kind: &str) -> Result<Vec<Value>> {
    let pack = tempfile(plane)?;
    plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
    let (mut found, mut folders) = (Vec::new(), vec![pack]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            // Leaves are JSON texts, framed by the ledger.
            for (at, _) in text.match_indices('{') {
                let mut leaf = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
                if let Some(Ok(leaf)) = leaf.next()
                    && leaf["type"] == kind
                {
                    found.push(leaf);
                }
            }
        }
    }
    Ok(found)
}

/// A name below the scratch directory that is not there yet.
fn tempfile(plane: &Plane) -> Result<std::path::PathBuf> {
    let mut number = 0;
    loop {
        let path = plane.scratch().join(format!("pack-{number}"));
        if !path.exists() {
            return Ok(path);
        }
        number += 1;
    }
}

#[test]
fn a_stored_version_that_cannot_be_used_blocks_its_level_and_can_be_replaced() -> Result<()> {
    let mut plane = plane()?;
    plane.add_scripted(SCRIPT)?;
    plane.register(&Agent { name: "asker", source: ASKS, permissions: MAY_ASK, changes: &[] })?;
    let good = approved(&plane, "plane", &format!("{ALL}// good\n"))?;
    activate(&plane, "plane", &good)?;
    let run = plane.start_run("asker")?;
    plane.said(&run, "permit")?;
    plane.kill_9()?;
    // As a disk, or somebody with access to it, would: another text under the digest that was activated.
    let state = plane.data_dir().join("state.db");
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"update policy_versions set text = text || 'permit'\"); c.commit()";
    let changed = std::process::Command::new("/usr/bin/python3").args(["-c", script]).arg(&state).status()?;
    ensure!(changed.success(), "the state was not changed");
    plane.up()?;
    let status = applied(&plane)?;
    assert!(status["levels"][0]["unusable"].is_string(), "{status:#}");
    assert_eq!(plane.json(["plane", "show"])?["policies_unusable"][0], "plane");
    assert!(plane.ok(["doctor", "--remote", "-o", "json"])?.contains("policy plane"));
    // Nothing is permitted to the agent, and only the ways out to operators.
    let from = lines(&plane, &run);
    for line in next_lines(&plane, &run, from + 1)? {
        assert!(line.starts_with("403") && line.contains("policy_blocked"), "{line}");
    }
    for command in [
        vec!["tenant", "create", "retail", "--reason", "x"],
        vec!["run", "start", "asker", "--reason", "x"],
        vec!["operator", "add", "eve", "--reason", "x"],
    ] {
        let refused = plane.cli(&command)?;
        assert!(refused.code() == 4 && refused.stderr.contains("policy_blocked"), "{command:?}: {}", refused.stderr);
    }
    let again = plane.cli(["policy", "activate", &good, "--reason", "x"])?;
    assert!(again.code() == 4 && again.stderr.contains("policy_invalid"), "{}", again.stderr);
    let other = approved(&plane, "plane", &format!("{ALL}// other\n"))?;
    // What another version grants cannot be told from one that cannot be read.
    let careful = plane.cli(["policy", "activate", &other, "--if-grants-nothing", "--reason", "x"])?;
    assert!(careful.code() == 4 && careful.stderr.contains("cannot be used"), "{}", careful.stderr);
    let diff = plane.cli(["policy", "diff", &other])?;
    assert!(diff.code() == 4 && diff.stderr.contains("--against"), "{}", diff.stderr);
    activate(&plane, "plane", &other)?;
    let from = lines(&plane, &run);
    assert!(next_lines(&plane, &run, from + 1)?.iter().all(|line| line == "permit"));
    assert!(applied(&plane)?["levels"][0]["unusable"].is_null());
    plane.ok(["run", "kill", &run, "--reason", "over"]).map(drop)
}

#[test]
fn four_eyes_keep_an_author_from_approving_and_say_when_nobody_can() -> Result<()> {
    let plane = Plane::start_serving(env!("CARGO_BIN_EXE_cogward"), &["--policy-four-eyes"])?;
    let put = plane.json(["policy", "put", &file(&plane, &format!("{COMMANDS}{ALL}"))?, "--reason", "x"])?;
    let digest = put["digest"].as_str().context("a digest")?.to_owned();
    let alone = plane.cli(["policy", "approve", &digest, "--reason", "x"])?;
    assert!(alone.code() == 4 && alone.stderr.contains("policy_four_eyes"), "{}", alone.stderr);
    assert!(alone.stderr.contains("operator add"), "{}", alone.stderr);
    assert_eq!(plane.json(["policy", "status"])?["four_eyes"], true);
    let other = plane.ok(["operator", "add", "eve", "--reason", "x"])?.trim().to_owned();
    let audit = plane.ok(["operator", "add", "audit", "--auditor", "--reason", "x"])?.trim().to_owned();
    let by = |token: &str, args: &[&str]| -> Result<i32> {
        let done = plane.command(args).env("COGWARD_TOKEN", token).output()?;
        Ok(done.status.code().unwrap_or(-1))
    };
    assert_eq!(by(&audit, &["policy", "approve", &digest, "--reason", "x"])?, 4, "an auditor changes nothing");
    assert_eq!(by(&other, &["policy", "approve", &digest, "--reason", "x"])?, 0);
    activate(&plane, "plane", &digest)?;
    // To take it away is a change that nobody else has seen.
    let away = plane.cli(["policy", "deactivate", "--reason", "x"])?;
    assert!(away.code() == 4 && away.stderr.contains("policy_four_eyes"), "{}", away.stderr);
    assert_eq!(by(&other, &["policy", "deactivate", "--reason", "x"])?, 4);
    assert_eq!(plane.json(["policy", "list"])?[0]["active"], digest.as_str());
    let shown = plane.json(["policy", "show", &digest])?;
    assert_eq!((&shown["written"]["by"], &shown["approved"]["by"]), (&"operator".into(), &"eve".into()));
    // An operator that was revoked is nobody, and the last one is not revoked.
    let list = plane.json(["operator", "list"])?;
    let id = |name: &str| {
        list.as_array().and_then(|l| l.iter().find(|o| o["name"] == name)?["id"].as_str()).map(str::to_owned)
    };
    plane.ok(["operator", "revoke", &id("eve").context("eve")?, "--reason", "left"])?;
    assert_eq!(by(&other, &["policy", "status"])?, 4);
    let last = plane.cli(["operator", "revoke", &id("operator").context("operator")?, "--reason", "x"])?;
    assert!(last.code() == 5 && last.stderr.contains("in_use"), "{}", last.stderr);
    Ok(())
}
