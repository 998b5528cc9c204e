//! The binary against a plane that answers what a test wants: exit codes, output, what goes over the wire.

#![allow(clippy::unwrap_used, clippy::panic)]

mod plane;

use cogward_api::ProblemCode;
use plane::{Answer, Plane, err, json, out, problem};
use serde_json::{Value, json as value};

const RUN: &str = "run_01KAMZ0000000000000000000A";
const OPERATION: &str = "op_01KAMZ0000000000000000000A";
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn run(state: &str) -> Value {
    value!({
        "id": RUN, "tenant": "default", "agent": "claims", "version": "1", "digest": DIGEST, "state": state,
        "autonomy": "supervised", "goal": "g", "created": "2026-11-23T02:00:00.000000Z",
        "usage": { "tokens": 12, "cost_usd": "0.000125" },
        "limits": { "tokens": 100, "cost_usd": "1.00", "tool_calls": 5, "connections": 9, "wall_clock_seconds": 60 },
        "output": "{\"done\": true}",
    })
}

fn operation(state: &str) -> Value {
    let mut operation = value!({
        "id": OPERATION, "verb": "kill", "run": RUN, "tenant": "default", "state": state, "requested_by": "op",
        "reason": "r", "requested": "2026-11-23T02:00:00.000000Z",
    });
    if state == "done" {
        operation["receipt"] = value!({
            "operation": OPERATION, "state": "killed", "requested": "2026-11-23T02:00:00.000000Z",
            "fenced_us": 312, "effective_us": 41_260, "processes": 3,
        });
    }
    operation
}

#[test]
fn every_problem_ends_with_its_exit_code_cause_rule_and_next_step() {
    for code in ProblemCode::ALL {
        let plane = Plane::new(move |_, _| problem(*code));
        let done = plane.cli(&format!("run show {RUN}"));
        let wanted = match code.status() {
            400 => 2,
            401 | 403 => 4,
            402 | 429 => 7,
            404 | 410 => 3,
            409 if matches!(
                code,
                ProblemCode::ProfileTooWeak
                    | ProblemCode::ProfileUnenforceable
                    | ProblemCode::ToolNotApproved
                    | ProblemCode::PolicyGrants
            ) =>
            {
                4
            }
            409 if *code == ProblemCode::SplitView => 9,
            409 | 412 => 5,
            422 if matches!(
                code,
                ProblemCode::ManifestInvalid
                    | ProblemCode::PackageInvalid
                    | ProblemCode::PolicyInvalid
                    | ProblemCode::NotRedactable
            ) =>
            {
                4
            }
            503 if *code == ProblemCode::NotReady => 8,
            _ => 1,
        };
        assert_eq!(done.status.code(), Some(wanted), "{code}");
        assert_eq!(out(&done), "", "{code}: nothing but data on standard output");
        let told = err(&done);
        assert!(told.starts_with(&format!("error: told by the plane [{code}]\n  rule: some.rule\n")), "{told}");
    }
}

#[test]
fn a_plane_that_is_not_there_is_8_with_the_command_that_starts_one() {
    let plane = Plane::scripted(vec![]);
    // A port that was just free; nothing listens on it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for line in ["run list", "event watch", "evidence checkpoint", "tenant create x"] {
        let done = plane.cli(&format!("{line} --plane http://{free}"));
        assert_eq!(done.status.code(), Some(8), "{line}: {}", err(&done));
        assert!(err(&done).contains("cogward serve"), "{}", err(&done));
    }
    assert!(plane.asked().is_empty());
}

#[test]
fn something_that_is_no_plane_is_told_apart() {
    let plane =
        Plane::new(|_, _| Answer { status: 502, kind: "text/html", body: b"<h1>bad</h1>".to_vec(), cut: false });
    assert_eq!(plane.cli("run list").status.code(), Some(8));
    let plane = Plane::new(|_, _| Answer { status: 200, kind: "text/html", body: b"<h1>hi</h1>".to_vec(), cut: false });
    assert_eq!(plane.cli("run list").status.code(), Some(1));
    // A redirect would carry the credential elsewhere.
    let plane = Plane::new(|_, _| Answer { status: 302, kind: "text/html", body: Vec::new(), cut: false });
    assert_eq!(plane.cli("run list").status.code(), Some(1));
    assert_eq!(plane.asked().len(), 1);
}

#[test]
fn lists_follow_the_cursor_to_the_end_or_the_limit() {
    let pages = |asked: &plane::Asked, _: usize| {
        let cursor = asked.line.contains("cursor=a%26b");
        json(200, value!({ "items": [run("running")], "next_cursor": if cursor { Value::Null } else { "a&b".into() } }))
    };
    let plane = Plane::new(pages);
    let done = plane.cli("run list --state running -o name");
    assert_eq!((done.status.code(), out(&done)), (Some(0), format!("{RUN}\n{RUN}\n")));
    let lines: Vec<_> = plane.asked().into_iter().map(|a| a.line).collect();
    assert_eq!(
        lines,
        ["GET /api/v1/runs?state=running&limit=200", "GET /api/v1/runs?state=running&limit=200&cursor=a%26b"]
    );

    let plane = Plane::new(pages);
    assert_eq!(out(&plane.cli("run list --limit 1 -o name")), format!("{RUN}\n"));
    assert_eq!(plane.asked()[0].line, "GET /api/v1/runs?limit=1");
}

#[test]
fn a_run_in_every_form() {
    let list = || Plane::new(|_, _| json(200, value!({ "items": [run("running")] })));
    assert_eq!(
        out(&list().cli("run list")),
        "RUN                             STATE    AGENT   VERSION  TENANT   TOKENS  COST       CREATED\n\
         run_01KAMZ0000000000000000000A  running  claims  1        default  12      $0.000125  2026-11-23T02:00:00Z\n"
    );
    let printed = out(&list().cli("run list -o jsonl"));
    assert_eq!(printed.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["usage"]["cost_usd"], "0.000125");
    assert!(serde_json::from_str::<Vec<Value>>(&out(&list().cli("run list -o json"))).is_ok());

    let plane = Plane::new(|_, _| json(200, value!({ "items": [] })));
    let done = plane.cli("run list");
    assert_eq!((out(&done).as_str(), err(&done).as_str()), ("", "There are no runs.\n"));

    let plane = Plane::new(|_, _| json(200, run("failed")));
    let shown = out(&plane.cli(&format!("run show {RUN}")));
    assert!(shown.contains("STATE        failed\n") && shown.contains("TOKENS       12 of 100\n"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colour where there is no terminal");
}

#[test]
fn a_command_carries_its_reason_credential_and_key_and_waits_for_the_receipt() {
    let plane = Plane::new(|asked, before| match (asked.line.starts_with("POST"), before) {
        (true, _) => json(202, operation("pending")),
        (false, 0) => json(200, operation("pending")),
        (false, _) => json(200, operation("done")),
    });
    let done = plane.cli_with(&format!("run kill {RUN} --reason x"), &[], b"");
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let told = out(&done);
    assert!(told.contains("FENCED AFTER     312 µs\n") && told.contains("EFFECTIVE AFTER  41.2 ms\n"), "{told}");

    let asked = plane.asked();
    assert_eq!(asked[0].line, format!("POST /api/v1/runs/{RUN}/kill"));
    assert_eq!(asked[0].header("authorization"), Some("Bearer cwo_test"));
    assert_eq!(asked[0].header("idempotency-key").map(str::len), Some(32));
    assert_eq!(serde_json::from_slice::<Value>(&asked[0].body).unwrap(), value!({ "reason": "x" }));
    assert_eq!(asked.len(), 3);
}

#[test]
fn a_broken_connection_repeats_a_command_with_the_same_key() {
    let plane = Plane::new(|_, before| match before {
        0 => Answer { cut: true, ..json(200, value!({})) },
        _ => json(200, operation("done")),
    });
    // The answer broke off after its head: whether the command was taken is not known.
    let done = plane.cli(&format!("run kill {RUN} --reason x"));
    let asked = plane.asked();
    let keys: Vec<_> = asked.iter().map(|a| a.header("idempotency-key")).collect();
    assert_eq!((done.status.code(), keys.len()), (Some(0), 2), "{}", err(&done));
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn many_runs_are_all_tried_and_more_than_ten_need_a_yes() {
    let other = RUN.replace("0A", "0B");
    let plane = Plane::new(move |asked, _| {
        if asked.line.contains("0A/") { problem(ProblemCode::BadTransition) } else { json(200, operation("done")) }
    });
    let done = plane.cli(&format!("run kill {RUN} {other} --reason x -o name"));
    assert_eq!((done.status.code(), out(&done)), (Some(5), format!("{OPERATION}\n")));
    assert!(err(&done).contains(RUN), "{}", err(&done));

    let eleven = [RUN; 11].join(" ");
    let plane = Plane::scripted(vec![]);
    assert_eq!(plane.cli(&format!("run kill {eleven} --reason x")).status.code(), Some(2));
    assert!(plane.asked().is_empty());
}

#[test]
fn a_wait_ends_with_the_run_and_its_outcome() {
    for (state, exit) in [("succeeded", 0), ("failed", 1), ("killed", 1), ("cancelled", 1)] {
        let plane = Plane::new(move |asked, before| match asked.line.as_str() {
            "POST /api/v1/runs" => json(201, run("starting")),
            line if line.starts_with("GET /api/v1/events") => Answer {
                status: 200,
                kind: "text/event-stream",
                body: format!(
                    "id: 7\nevent: run.started\ndata: {}\n\n",
                    value!({
                        "cursor": "7", "time": "2026-11-23T02:00:00.000000Z", "type": "run.started", "run": RUN,
                        "message": "it runs \u{1b}[2J",
                    })
                )
                .into_bytes(),
                cut: false,
            },
            _ if before < 1 => json(200, run("running")),
            _ => json(200, run(state)),
        });
        let done = plane.cli_with("run start claims --input - --wait", &[], b"{\"claim\": 17}");
        assert_eq!(done.status.code(), Some(exit), "{}", err(&done));
        assert_eq!(out(&done), "{\"done\": true}\n", "the run's output, and nothing else");
        assert!(err(&done).contains(&format!("{RUN} {state}: 12 tokens, $0.000125")), "{}", err(&done));
        assert!(!err(&done).contains('\u{1b}'));
        let asked = plane.asked();
        let body: Value = serde_json::from_slice(&asked[0].body).unwrap();
        assert_eq!(body, value!({ "tenant": "default", "agent": "claims", "input": "{\"claim\": 17}" }));
    }
}

#[test]
fn a_wait_that_is_over_is_124() {
    let plane = Plane::new(|asked, _| match asked.line.as_str() {
        "POST /api/v1/runs" => json(201, run("starting")),
        _ => json(200, run("running")),
    });
    let done = plane.cli("run start claims --wait --timeout 1");
    assert_eq!(done.status.code(), Some(124), "{}", err(&done));
    assert!(err(&done).contains("cogward run watch"), "{}", err(&done));
}

#[test]
fn events_go_on_after_the_last_one_when_the_stream_breaks() {
    let plane = Plane::new(|_, before| {
        let event = value!({
            "cursor": before.to_string(), "time": "2026-11-23T02:00:00.000000Z", "type": "plane.started", "message": "m",
        });
        Answer {
            status: 200,
            kind: "text/event-stream",
            body: format!(": hi\n\nid: c{before}\ndata: {event}\n\nid: lost\ndata: cut").into_bytes(),
            cut: before == 0,
        }
    });
    let done = plane.cli("event watch --tenant default --limit 2 -o jsonl");
    assert_eq!((done.status.code(), out(&done).lines().count()), (Some(0), 2), "{}", err(&done));
    let asked = plane.asked();
    assert_eq!(asked[0].line, "GET /api/v1/events?tenant=default");
    assert_eq!((asked[0].header("last-event-id"), asked[1].header("last-event-id")), (None, Some("c0")));
}

#[test]
fn a_credential_goes_in_by_file_or_input_only_and_never_out() {
    let server = value!({
        "tenant": "default", "name": "crm", "transport": { "kind": "http", "url": "https://crm.example/mcp" },
        "has_credential": true, "updated": "2026-11-23T02:00:00.000000Z",
    });
    let plane = Plane::new(move |asked, _| match asked.line.starts_with("PUT") {
        true => json(201, server.clone()),
        false => json(200, value!({ "items": [] })),
    });
    let line = "tool-server add crm --url https://crm.example/mcp --credential-file -";
    let done = plane.cli_with(line, &[], b"hunter2\n");
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let asked = plane.asked();
    assert_eq!(asked[0].line, "PUT /api/v1/tenants/default/tool-servers/crm");
    assert_eq!(serde_json::from_slice::<Value>(&asked[0].body).unwrap()["credential"], "hunter2");
    assert!(!out(&done).contains("hunter2") && !err(&done).contains("hunter2"));
}

#[test]
fn a_login_is_tried_kept_and_used() {
    let who = value!({ "operator": "opr_01KAMZ0000000000000000000A", "name": "first" });
    let plane = Plane::new(move |asked, _| match asked.header("authorization") {
        Some("Bearer good") => json(200, who.clone()),
        _ => problem(ProblemCode::Unauthenticated),
    });
    let none = [("COGWARD_TOKEN", "")];
    let wrong = plane.cli_with("login --credential-file -", &none, b"bad\n");
    assert_eq!(wrong.status.code(), Some(4));
    let file = plane.home.path().join(".config/cogward/context.json");
    assert!(!file.exists(), "what the plane refuses is not kept");
    assert_eq!(plane.cli_with("login --check", &none, b"").status.code(), Some(4));

    let right = plane.cli_with("login --credential-file -", &none, b"good\n");
    assert_eq!(right.status.code(), Some(0), "{}", err(&right));
    let unset = [("COGWARD_TOKEN", ""), ("COGWARD_URL", "")];
    let used = plane.cli_with("login --check -o name", &unset, b"");
    assert_eq!(out(&used), "opr_01KAMZ0000000000000000000A\n", "{}", err(&used));
    let shown = plane.cli_with("context show -o json", &unset, b"");
    assert!(out(&shown).contains(plane.url()) && !out(&shown).contains("good"), "{}", out(&shown));
    assert_eq!(plane.cli_with("context clear", &unset, b"").status.code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn an_export_that_breaks_off_leaves_nothing() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_path("checkpoint").unwrap();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, &b"note"[..]).unwrap();
    let whole = builder.into_inner().unwrap();
    for (cut, exit) in [(true, 1), (false, 0)] {
        let body = whole.clone();
        let plane = Plane::new(move |_, _| Answer { status: 200, kind: "application/x-tar", body: body.clone(), cut });
        let done = plane.cli("evidence export pack");
        assert_eq!(done.status.code(), Some(exit), "{}", err(&done));
        assert_eq!(plane.home.path().join("pack/checkpoint").exists(), !cut);
        assert_eq!(std::fs::read_dir(plane.home.path()).unwrap().count(), usize::from(!cut));
    }
}

#[test]
fn usage_is_2_and_help_is_0_on_standard_output() {
    let plane = Plane::scripted(vec![]);
    for line in
        ["run kill", "nonsense", "run list -o yaml", "serve --listen 0.0.0.0:0", "run list --plane http://10.0.0.1"]
    {
        let done = plane.cli(line);
        assert_eq!((done.status.code(), out(&done)), (Some(2), String::new()), "{line}");
    }
    for line in ["--help", "run start --help", "--version", "completions bash"] {
        let done = plane.cli(line);
        assert_eq!(done.status.code(), Some(0), "{line}");
        assert!(out(&done).contains("cogward"), "{line}");
    }
    assert!(out(&plane.cli("run kill --help")).contains("Example"));
}

#[test]
fn an_agent_from_init_is_packed_and_sent_with_its_manifest_first() {
    let registration = value!({
        "tenant": "default", "agent": "claims", "version": "0.1.0", "digest": DIGEST, "created": true,
    });
    let plane = Plane::new(move |_, _| json(201, registration.clone()));
    let made = plane.cli("agent init claims");
    assert_eq!(out(&made), "./agent.yaml\n./agent.py\n", "{}", err(&made));
    assert_eq!(plane.cli("agent init claims").status.code(), Some(5), "nothing is overwritten");

    let done = plane.cli("agent register -f agent.yaml --reason first -o name");
    assert_eq!((done.status.code(), out(&done).as_str()), (Some(0), "claims@0.1.0\n"), "{}", err(&done));
    let asked = plane.asked();
    assert_eq!(asked[0].line, "POST /api/v1/tenants/default/agents?reason=first");
    assert_eq!(asked[0].header("content-type"), Some("application/x-tar"));
    let mut sent = tar::Archive::new(asked[0].body.as_slice());
    let names: Vec<_> = sent.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names.first().map(String::as_str), Some("agent.yaml"));
    assert!(names.contains(&"code/agent.py".to_owned()), "{names:?}");
}

#[test]
fn faults_of_a_manifest_are_told_by_line_before_anything_is_sent() {
    let plane = Plane::scripted(vec![]);
    plane.cli("agent init claims");
    let file = plane.home.path().join("agent.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("  goal:", "  gaol:")).unwrap();
    let done = plane.cli("agent register -f agent.yaml");
    assert_eq!((done.status.code(), out(&done)), (Some(4), String::new()));
    let line = text.lines().position(|l| l.starts_with("  goal:")).unwrap() + 1;
    let told = err(&done);
    assert!(told.contains(&format!("agent.yaml:{line}:")) && told.contains("fix:"), "{told}");
    assert!(plane.asked().is_empty());

    std::fs::write(&file, text.replace("agent.py]", "gone.py]")).unwrap();
    assert_eq!(plane.cli("agent register -f agent.yaml").status.code(), Some(4), "its program is not in the package");
    assert_eq!(plane.cli("agent register -f nowhere.yaml").status.code(), Some(1));
    std::fs::write(&file, text.replace("directory: .  ", "directory: gone  ")).unwrap();
    let told = err(&plane.cli("agent register -f agent.yaml"));
    let line = text.lines().position(|l| l.starts_with("    directory:")).unwrap() + 1;
    assert!(told.contains(&format!("agent.yaml:{line}:")) && told.contains("gone"), "{told}");
    let layer = "layers: [{directory: gone, at: /opt/site}]";
    std::fs::write(&file, text.replace("    entrypoint:", &format!("    {layer}\n    entrypoint:"))).unwrap();
    let told = err(&plane.cli("agent register -f agent.yaml"));
    assert!(told.contains(": spec.package.layers[0].directory: ") && told.contains("gone"), "{told}");
    assert!(plane.asked().is_empty());
}

#[test]
fn a_refusal_by_the_plane_shows_its_findings_the_same_way() {
    let finding = cogward_api::Finding {
        file: "agent.yaml".into(),
        line: Some(12),
        column: Some(9),
        path: Some("spec.permissions.tools[0].server".into()),
        rule: "known-tool-server".into(),
        message: "no tool server `files` is registered".into(),
        fix: "cogward tool-server add files ...".into(),
    };
    let body = cogward_api::Problem::new(ProblemCode::ManifestInvalid, "1 fault").findings(vec![finding]);
    let body = serde_json::to_vec(&body).unwrap();
    let plane = Plane::new(move |_, _| Answer {
        status: 422,
        kind: "application/problem+json",
        body: body.clone(),
        cut: false,
    });
    plane.cli("agent init claims");
    let done = plane.cli("agent register -f agent.yaml");
    assert_eq!(done.status.code(), Some(4));
    let told = err(&done);
    let line = "  agent.yaml:12:9: spec.permissions.tools[0].server: no tool server `files` is registered [known-tool-server]\n";
    assert!(told.contains(line) && told.contains("    fix: cogward tool-server add files ...\n"), "{told}");
}

#[test]
fn doctor_reports_this_host_in_the_words_of_the_api() {
    let plane = Plane::scripted(vec![]);
    let done = plane.cli("doctor -o json");
    let report: cogward_api::Doctor = serde_json::from_slice(&done.stdout).unwrap();
    assert!(!report.kernel.is_empty() && report.checks.len() > 3);
    let standard = report.profiles.iter().find(|p| p.profile == "standard").unwrap();
    assert_eq!(done.status.code(), Some(if standard.enforceable { 0 } else { 4 }));
    assert!(plane.asked().is_empty(), "it looks at this host, without a plane");
}

#[test]
fn verify_attacks_real_sandboxes_without_a_plane() {
    let plane = Plane::scripted(vec![]);
    let enforceable = plane.cli("doctor").status.success();
    for profile in ["standard", "hardened"] {
        let done = plane.cli(&format!("verify sandbox --profile {profile} --format json"));
        if !enforceable {
            assert_eq!(done.status.code(), Some(4), "{}", err(&done));
            continue;
        }
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let failed: Vec<_> =
            report["attempts"].as_array().unwrap().iter().filter(|a| a["verdict"] != "refused").collect();
        assert_eq!(done.status.code(), Some(0), "{failed:#?}");
        assert!(report["profile"] == profile && report["attacks"].as_u64().unwrap() > 110, "{report}");
    }
    let refused = plane.cli("verify sandbox --profile gvisor");
    assert_eq!(refused.status.code(), Some(4), "a profile that nothing carries is never replaced by another");
    assert!(err(&refused).contains("--sandbox-config"), "{}", err(&refused));
    assert_eq!(plane.cli("verify sandbox --profile bare").status.code(), Some(2));
    assert!(plane.asked().is_empty());
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    use std::process::{Command, Stdio};
    let plane = Plane::new(|_, before| {
        // An endless stream: only the closed pipe ends the command.
        let event = value!({
            "cursor": before.to_string(), "time": "2026-11-23T02:00:00.000000Z", "type": "plane.started", "message": "m",
        });
        let body = format!("id: {before}\ndata: {event}\n\n").repeat(10_000).into_bytes();
        Answer { status: 200, kind: "text/event-stream", body, cut: false }
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_cogward"))
        .args(["event", "watch"])
        .env_clear()
        .env("HOME", plane.home.path())
        .env("COGWARD_URL", plane.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), err(&done)), (Some(0), String::new()));
}

#[test]
fn an_interrupt_ends_the_wait_with_130_and_not_the_run() {
    use std::process::{Command, Stdio};
    let (saw, seen) = std::sync::mpsc::channel();
    let plane = Plane::new(move |asked, _| match asked.line.as_str() {
        "POST /api/v1/runs" => json(201, run("starting")),
        _ => {
            // The test may have ended already.
            let _heard = saw.send(());
            json(200, run("running"))
        }
    });
    let child = Command::new(env!("CARGO_BIN_EXE_cogward"))
        .args(["run", "start", "claims", "--wait"])
        .env_clear()
        .env("HOME", plane.home.path())
        .env("COGWARD_URL", plane.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    seen.recv().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", err(&done));
    assert!(err(&done).contains(&format!("{RUN} goes on")), "{}", err(&done));
    assert!(!plane.asked().iter().any(|a| a.line.contains("cancel") || a.line.contains("kill")));
}
