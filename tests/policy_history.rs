//! What policies count: it holds while calls come at once, over runs, and over a plane that is killed.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane, count};
use serde_json::Value;

const SCRIPT: &str = r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#;

/// Asks its model the same again and again from several threads, and says how each ended.
const ASKS: &str = r#"
import json, os, threading, time, urllib.request, urllib.error
lock = threading.Lock()
def say(what):
    with lock: print(json.dumps(what), flush=True)
def ask():
    while True:
        body = json.dumps({"model": "demo-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}).encode()
        q = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, {"content-type": "application/json", "authorization": "Bearer x"})
        try:
            urllib.request.urlopen(q, timeout=60).read()
            say({"status": 200})
        except urllib.error.HTTPError as e:
            error = json.loads(e.read()).get("error", {})
            say({"status": e.code, "code": error.get("code"), "approval": error.get("approval"), "text": error.get("message")})
        except OSError as e:
            say({"status": 0, "text": str(e)})
        time.sleep(0.1)
for _ in range(THREADS):
    threading.Thread(target=ask).start()
"#;

fn agent<'a>(source: &'a str) -> Agent<'a> {
    Agent {
        name: "asker",
        source,
        permissions: MAY_ASK,
        changes: &[("wallClockSeconds: 120", "wallClockSeconds: 600")],
    }
}

fn activate(plane: &Plane, text: &str) -> Result<()> {
    let path = plane.scratch().join("policy.cedar");
    fs::write(&path, text)?;
    let level = ["--level", "tenant:default", "--reason", "test"];
    let put = plane.json(["policy", "put", &path.to_string_lossy()].into_iter().chain(level))?;
    let digest = put["digest"].as_str().context("a digest")?.to_owned();
    plane.ok(["policy", "approve", &digest].into_iter().chain(level))?;
    plane.ok(["policy", "activate", &digest].into_iter().chain(level)).map(drop)
}

fn start_as(plane: &Plane, user: &str) -> Result<String> {
    let run = plane.json(["run", "start", "asker", "--as", user, "--reason", "test"])?;
    Ok(run["id"].as_str().context("an id")?.to_owned())
}

/// What a run has said so far, once it is as `enough` says.
fn said(plane: &Plane, run: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let out = plane.logs(run, "stdout");
        let lines: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if enough(&lines) {
            return Ok(lines);
        }
        ensure!(Instant::now() < until, "{run} said {lines:#?}\n{}\n{}", plane.logs(run, "stderr"), plane.log());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn ended(lines: &[Value], status: u64) -> usize {
    lines.iter().filter(|line| line["status"] == status).count()
}

#[test]
fn at_most_three_for_a_user_is_three_over_runs_and_a_plane_that_is_killed() -> Result<()> {
    let mut plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    plane.add_scripted(SCRIPT)?;
    activate(
        &plane,
        "@track(\"asked = count of model_call per user\")\n\
         @id(\"three\") permit (principal is Cogward::AgentVersion, action, resource) when { context.history.asked <= 3 };\n",
    )?;
    plane.register(&agent(&ASKS.replace("THREADS", "6")))?;
    let first = start_as(&plane, "ada")?;
    let lines = said(&plane, &first, |lines| ended(lines, 403) >= 12)?;
    assert_eq!(ended(&lines, 200), 3, "{lines:#?}");
    assert!(
        lines.iter().filter(|line| line["status"] == 403).all(|line| line["code"] == "policy_blocked"),
        "{lines:#?}"
    );

    plane.kill_9()?;
    plane.up()?;
    let before = said(&plane, &first, |_| true)?.len();
    let lines = said(&plane, &first, |lines| lines.len() > before + 12)?;
    assert_eq!(ended(&lines, 200), 3, "a restart gives nothing back: {lines:#?}");
    let leaves = plane.leaves(&first)?;
    assert_eq!(count(&leaves, "model.call.decided", Some("permit")), 3);

    let second = start_as(&plane, "ada")?;
    let lines = said(&plane, &second, |lines| ended(lines, 403) >= 6)?;
    assert_eq!(ended(&lines, 200), 0, "another run of the same user: {lines:#?}");
    let other = start_as(&plane, "bob")?;
    let lines = said(&plane, &other, |lines| ended(lines, 403) >= 6)?;
    assert_eq!(ended(&lines, 200), 3, "another user: {lines:#?}");
    Ok(())
}

#[test]
fn a_model_call_waits_for_a_person_and_runs_once() -> Result<()> {
    let mut plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    plane.add_scripted(SCRIPT)?;
    activate(
        &plane,
        "@id(\"ask\") @escalate(\"treasurer\") permit (principal, action == Cogward::Action::\"model_call\", resource);\n",
    )?;
    plane.register(&agent(&ASKS.replace("THREADS", "4")))?;
    let run = start_as(&plane, "ada")?;
    let lines = said(&plane, &run, |lines| ended(lines, 403) >= 8)?;
    assert_eq!(ended(&lines, 200), 0, "{lines:#?}");
    let told = lines.iter().find(|line| line["code"] == "approval_required").context("it is told to wait")?;
    let id = told["approval"]["id"].as_str().context("the approval's id")?.to_owned();
    assert_eq!(told["approval"]["role"], "treasurer");
    assert!(told["text"].as_str().is_some_and(|text| text.contains(&id)), "{told:#}");
    assert!(lines.iter().all(|line| line["approval"]["id"] == id.as_str()), "one question: {lines:#?}");

    plane.kill_9()?;
    plane.up()?;
    let token = plane.ok(["operator", "add", "tess", "--role", "treasurer", "--reason", "test"])?;
    let approve = ["approval", "approve", id.as_str(), "--reason", "fine"];
    let approved = plane.command(approve).env("COGWARD_TOKEN", token.trim()).output()?;
    ensure!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    let lines = said(&plane, &run, |lines| ended(lines, 200) >= 1)?;
    let after = lines.len() + 12;
    let lines = said(&plane, &run, |lines| lines.len() >= after)?;
    assert_eq!(ended(&lines, 200), 1, "an approval is for one call: {lines:#?}");
    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "model.call.decided", Some("permit")), 1);
    let permit = leaves.iter().find(|leaf| leaf["decision"] == "permit" && leaf["type"] == "model.call.decided");
    let permit = permit.context("the permit is recorded")?;
    assert_eq!(
        (&permit["approval"][0], &permit["policy_verdict"]),
        (&Value::from(id), &Value::from("escalate")),
        "{permit:#}"
    );
    Ok(())
}
