//! Approvals: a call waits for a person, runs exactly once when it is allowed, and not at all otherwise.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Reads what to call from a file, through the tool server; says each answer on its output.
pub const DRIVEN: &str = r#"
import json, os, sys, time, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=60)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:"))
    return json.loads(t), r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
def call(name, arguments):
    a = rpc("tools/call", {"name": name, "arguments": arguments}, s)[0]
    if "error" in a: return True, a["error"]["message"]
    r = a["result"]
    return bool(r.get("isError")), "".join(c.get("text", "") for c in r["content"])
done = 0
while True:
    try:
        bad, text = call("read_text_file", {"path": "DIRECTORY/todo.json"})
    except OSError:  # the plane is killed in the middle
        time.sleep(0.2)
        continue
    todo = {"n": 0} if bad else json.loads(text)
    if todo["n"] > done:
        done = todo["n"]
        if todo["tool"] == "end": break
        bad, text = call(todo["tool"], todo["arguments"])
        print(json.dumps({"n": done, "bad": bad, "text": text}), flush=True)
    time.sleep(0.05)
"#;

/// A plane with a real tool server on a directory, and an agent that does what the test writes there.
struct Desk {
    plane: Plane,
    files: PathBuf,
    run: String,
    asked: u64,
}

/// What the agent got.
#[derive(Debug)]
struct Got {
    bad: bool,
    text: String,
}

impl Desk {
    fn open() -> Result<Self> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let server = format!(
            "{ROOT}/tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
        );
        ensure!(Path::new(&server).exists(), "{server} is missing: run scripts/setup-tests.sh, as `make test` does");
        let files = plane.scratch().join("files");
        fs::create_dir_all(&files)?;
        let dir = files.to_string_lossy().into_owned();
        let add = [
            "tool-server",
            "add",
            "files",
            "--approve-tools",
            "--reason",
            "test",
            "--sandbox",
            "none",
            "--stdio",
            "--",
        ];
        plane.ok(add.into_iter().chain(["/usr/bin/node", server.as_str(), dir.as_str()]))?;
        let mut desk = Self { plane, files, run: String::new(), asked: 0 };
        desk.write_todo(&json!({ "n": 0 }))?;
        desk.run = desk.start("clerk", "default")?;
        Ok(desk)
    }

    fn start(&self, name: &str, tenant: &str) -> Result<String> {
        let source = DRIVEN.replace("DIRECTORY", &self.files.to_string_lossy());
        let tenant = format!("  tenant: {tenant}");
        let manifest = self.plane.write_agent(&Agent {
            name,
            source: &source,
            permissions: "    tools:\n      - {server: files, allow: [read_text_file, write_file]}\n",
            changes: &[
                ("toolCalls: 1000, wallClockSeconds: 120", "toolCalls: 100000, wallClockSeconds: 600"),
                ("  tenant: default", &tenant),
            ],
        })?;
        self.plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        self.plane.start_run(name)
    }

    fn write_todo(&self, todo: &Value) -> Result<()> {
        let next = self.files.join("todo.next");
        fs::write(&next, serde_json::to_vec(todo)?)?;
        Ok(fs::rename(next, self.files.join("todo.json"))?)
    }

    /// Has the agent make one call, and gives what it got.
    fn call(&mut self, tool: &str, arguments: Value) -> Result<Got> {
        self.asked += 1;
        self.write_todo(&json!({ "n": self.asked, "tool": tool, "arguments": arguments }))?;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let out = self.plane.logs(&self.run, "stdout");
            let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.into_iter().find(|line| line["n"] == self.asked) {
                let text = line["text"].as_str().unwrap_or_default().to_owned();
                return Ok(Got { bad: line["bad"] == true, text });
            }
            if Instant::now() > until {
                let err = self.plane.logs(&self.run, "stderr");
                bail!("no answer to {tool}\n{out}\n{err}\n{}", self.plane.log());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// A write that must not have happened yet, or has.
    fn write(&mut self, name: &str, content: &str) -> Result<Got> {
        let path = self.files.join(name).to_string_lossy().into_owned();
        self.call("write_file", json!({ "path": path, "content": content }))
    }

    fn wrote(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.files.join(name)).ok()
    }

    /// Writes, approves and activates a policy of the default tenant.
    fn policy(&self, text: &str) -> Result<()> {
        let file = self.plane.scratch().join("policy.cedar");
        fs::write(&file, text)?;
        let level = ["--level", "tenant:default", "--reason", "test"];
        let file = file.to_string_lossy();
        let put = self.plane.json(["policy", "put", &file].into_iter().chain(level))?;
        let digest = put["digest"].as_str().context("a digest")?.to_owned();
        self.plane.ok(["policy", "approve", &digest].into_iter().chain(level))?;
        self.plane.ok(["policy", "activate", &digest].into_iter().chain(level)).map(drop)
    }

    fn approvals(&self, state: &str) -> Result<Vec<Value>> {
        let list = self.plane.json(["approval", "list", "--state", state])?;
        Ok(list.as_array().context("a list")?.clone())
    }

    fn pending(&self) -> Result<String> {
        let list = self.approvals("pending")?;
        ensure!(list.len() == 1, "one approval waits: {list:#?}");
        Ok(list[0]["id"].as_str().context("an id")?.to_owned())
    }

    /// An operator with roles: its credential.
    fn operator(&self, name: &str, roles: &[&str]) -> Result<String> {
        let mut args = vec!["operator", "add", name, "--reason", "test"];
        for role in roles {
            args.extend(["--role", role]);
        }
        Ok(self.plane.ok(args)?.trim().to_owned())
    }

    fn by(&self, token: &str, args: &[&str]) -> Result<(i32, String)> {
        let done = self.plane.command(args).env("COGWARD_TOKEN", token).output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok((done.status.code().unwrap_or(-1), said))
    }

    /// The decisions of the run about writing.
    fn decisions(&self) -> Result<Vec<Value>> {
        let mut leaves = self.plane.leaves(&self.run)?;
        leaves.retain(|leaf| leaf["type"] == "tool.call.decided" && leaf["tool"] == "files/write_file");
        Ok(leaves)
    }
}

fn writes_need(role: &str, more: &str) -> String {
    format!(
        "@id(\"all\") permit (principal, action, resource);\n\
         @id(\"writes\") @escalate(\"{role}\") @reason(\"files of the customer are changed\") {more}\n\
         forbid (principal, action, resource) when {{ false }};\n"
    )
    .replace(
        "forbid (principal, action, resource) when { false };",
        "permit (principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"files/write_file\");",
    )
}

#[test]
fn a_call_waits_runs_exactly_once_when_it_is_allowed_and_is_asked_anew_after() -> Result<()> {
    let mut desk = Desk::open()?;
    assert!(!desk.write("before.txt", "no policy yet")?.bad, "what cogward comes with permits it");
    desk.policy(&writes_need("finance", "@expires(\"15m\")"))?;
    let finance = desk.operator("fin", &["finance"])?;

    // Told at once which approval it waits for; nothing is written; the same call is the same question.
    let first = desk.write("claim.txt", "240.00")?;
    assert!(first.bad && first.text.contains("approval_required"), "{first:?}");
    let id = desk.pending()?;
    assert!(first.text.contains(&id) && first.text.contains("finance"), "{first:?}");
    assert!(desk.write("claim.txt", "240.00")?.text.contains(&id));
    assert_eq!(desk.pending()?, id);
    assert_eq!(desk.wrote("claim.txt"), None);

    // The person who answers reads the exact arguments.
    let shown = desk.plane.json(["approval", "show", &id])?;
    assert_eq!((&shown["role"], &shown["object"]), (&"finance".into(), &"files/write_file".into()), "{shown:#}");
    assert_eq!(shown["reason"], "files of the customer are changed");
    assert!(shown["arguments"].as_str().is_some_and(|text| text.contains("240.00")), "{shown:#}");

    // Whoever does not have the role is refused, and changes nothing.
    let (code, said) = desk.by(desk.plane.token(), &["approval", "approve", &id, "--reason", "x"])?;
    assert!(code == 4 && said.contains("`finance`"), "{said}");
    assert_eq!(desk.pending()?, id);
    let (code, said) = desk.by(&finance, &["approval", "approve", &id, "--reason", "checked with the customer"])?;
    assert_eq!(code, 0, "{said}");
    // Answered once.
    let (code, said) = desk.by(&finance, &["approval", "deny", &id, "--reason", "x"])?;
    assert!(code == 5 && said.contains("approval_closed"), "{said}");
    assert_eq!(desk.wrote("claim.txt"), None, "an approval does nothing by itself");

    // Other arguments are another call.
    let other = desk.write("claim.txt", "9240.00")?;
    assert!(other.bad && !other.text.contains(&id), "{other:?}");
    // The call itself runs once, and the next time it is asked anew.
    let second = desk.write("claim.txt", "240.00")?;
    assert!(!second.bad, "{second:?}");
    assert_eq!(desk.wrote("claim.txt").as_deref(), Some("240.00"));
    fs::remove_file(desk.files.join("claim.txt"))?;
    let third = desk.write("claim.txt", "240.00")?;
    assert!(third.bad && third.text.contains("approval_required") && !third.text.contains(&id), "{third:?}");
    assert_eq!(desk.wrote("claim.txt"), None);
    let consumed = desk.approvals("consumed")?;
    assert_eq!(consumed.len(), 1);
    assert_eq!((&consumed[0]["id"], &consumed[0]["answered"]["by"]), (&id.clone().into(), &"fin".into()));

    // The record of the call names the approval; each decision can be made again.
    let decisions = desk.decisions()?;
    let permitted: Vec<_> =
        decisions.iter().filter(|d| d["policy_verdict"] == "escalate" && d["decision"] == "permit").collect();
    assert_eq!(permitted.len(), 1, "{decisions:#?}");
    assert!(permitted[0]["approval"].to_string().contains(&id), "{:#}", permitted[0]);
    for decision in &decisions {
        let event = decision["id"].as_str().context("an id")?;
        let explained = desk.plane.json(["policy", "explain", "--decision", event, "--run", &desk.run])?;
        assert_eq!(explained["agrees"], true, "{explained:#}\n{decision:#}");
    }
    Ok(())
}

#[test]
fn a_rule_reads_the_arguments_of_an_approved_tool_and_an_argument_that_is_none_is_refused() -> Result<()> {
    let mut desk = Desk::open()?;
    let text = |condition: &str| {
        format!(
            "@id(\"all\") permit (principal, action, resource);\n\
             @id(\"no-secrets\")\n\
             forbid (principal, action == Cogward::Action::\"tool:files/write_file\", resource) when {{ {condition} }};\n"
        )
    };
    let file = desk.plane.scratch().join("wrong.cedar");
    for (condition, named) in
        [("context.arguments.pfad like \"*secret*\"", "pfad"), ("context.arguments.path > 7", "wrong.cedar:3")]
    {
        fs::write(&file, text(condition))?;
        let put = ["policy", "put", &file.to_string_lossy(), "--level", "tenant:default", "--reason", "x"];
        let refused = desk.plane.cli(put)?;
        assert!(refused.code() == 4 && refused.stderr.contains("policy_invalid"), "{}", refused.stderr);
        assert!(refused.stderr.contains(named), "{named}: {}", refused.stderr);
    }
    desk.policy(&text("context.arguments.path like \"*secret*\""))?;
    let blocked = desk.write("secret.txt", "1")?;
    assert!(
        blocked.bad && blocked.text.contains("policy_blocked") && blocked.text.contains("no-secrets"),
        "{blocked:?}"
    );
    assert_eq!(desk.wrote("secret.txt"), None);
    assert!(!desk.write("open.txt", "1")?.bad);
    for decision in desk.decisions()? {
        let event = decision["id"].as_str().context("an id")?;
        let explained = desk.plane.json(["policy", "explain", "--decision", event, "--run", &desk.run])?;
        assert_eq!(explained["agrees"], true, "{explained:#}\n{decision:#}");
    }
    Ok(())
}

#[test]
fn a_call_that_was_denied_stays_denied_and_one_that_nobody_answered_expires() -> Result<()> {
    let mut desk = Desk::open()?;
    desk.policy(&writes_need("finance", "@expires(\"2s\")"))?;
    let finance = desk.operator("fin", &["finance"])?;
    let mine = desk.write("late.txt", "1")?;
    assert!(mine.text.contains("approval_required"), "{mine:?}");
    let late = desk.pending()?;
    let until = Instant::now() + Duration::from_secs(30);
    while desk.approvals("expired")?.is_empty() {
        ensure!(Instant::now() < until, "it does not expire");
    }
    let (code, said) = desk.by(&finance, &["approval", "approve", &late, "--reason", "too late"])?;
    assert!(code == 5 && said.contains("approval_closed"), "{said}");
    // Told once that it expired; then the same call is a new question.
    let expired = desk.write("late.txt", "1")?;
    assert!(expired.bad && expired.text.contains("approval_expired"), "{expired:?}");
    assert!(desk.write("late.txt", "1")?.text.contains("approval_required"));
    assert_eq!(desk.wrote("late.txt"), None);

    desk.policy(&writes_need("finance", "@expires(\"15m\")"))?;
    let asked = desk.write("never.txt", "1")?;
    assert!(asked.text.contains("approval_required"), "{asked:?}");
    let all = desk.approvals("pending")?;
    let never = all.iter().find(|a| asked.text.contains(a["id"].as_str().unwrap_or("-"))).context("it waits")?;
    let never = never["id"].as_str().context("an id")?.to_owned();
    let (code, said) = desk.by(&finance, &["approval", "deny", &never, "--reason", "not this customer"])?;
    assert_eq!(code, 0, "{said}");
    for _ in 0..2 {
        let denied = desk.write("never.txt", "1")?;
        assert!(denied.bad && denied.text.contains("approval_denied"), "{denied:?}");
    }
    assert_eq!(desk.wrote("never.txt"), None);
    assert!(desk.plane.json(["approval", "show", &never])?["arguments"].is_null(), "what was refused is forgotten");

    // An agent cannot flood the people who answer.
    let full = (0..40).find_map(|n| {
        let got = desk.write(&format!("flood-{n}.txt"), "1");
        got.map(|got| got.text.contains("throttled").then_some(n)).transpose()
    });
    assert!(full.transpose()?.is_some(), "40 questions at once");
    assert!(desk.approvals("pending")?.len() <= 32);
    // A run that ends closes what it waits for.
    desk.write("open.txt", "1")?;
    assert!(!desk.approvals("pending")?.is_empty());
    desk.plane.ok(["run", "kill", &desk.run, "--reason", "over"])?;
    desk.plane.run_until(&desk.run, |run| run["ended"].is_string())?;
    let until = Instant::now() + Duration::from_secs(30);
    while !desk.approvals("pending")?.is_empty() {
        ensure!(Instant::now() < until, "approvals of a run that ended still wait");
    }
    Ok(())
}

#[test]
fn four_eyes_keep_whoever_started_the_run_or_is_its_user_from_approving() -> Result<()> {
    let mut desk = Desk::open()?;
    let own = desk.plane.json(["operator", "list"])?[0]["id"].as_str().context("an id")?.to_owned();
    desk.plane.ok(["operator", "roles", &own, "--role", "finance", "--reason", "test"])?;
    let starter = desk.plane.token().to_owned();
    let (fin, eve) = (desk.operator("fin", &["finance"])?, desk.operator("eve", &["finance"])?);
    let answer = |desk: &Desk, who: &str, word: &str, id: &str| desk.by(who, &["approval", word, id, "--reason", "x"]);

    // Without four eyes the one who started it may say yes; that yes is worth nothing once they are asked for.
    desk.policy(&writes_need("finance", ""))?;
    assert!(desk.write("early.txt", "1")?.bad);
    let early = desk.pending()?;
    assert_eq!(answer(&desk, &starter, "approve", &early)?.0, 0);
    desk.policy(&writes_need("finance", "@four_eyes"))?;
    let again = desk.write("early.txt", "1")?;
    assert!(again.bad && again.text.contains("approval_required") && !again.text.contains(&early), "{again:?}");
    assert_eq!(desk.wrote("early.txt"), None);

    // Whoever started the run has the role, and is refused; the other one is not.
    let id = desk.pending()?;
    assert_eq!(desk.plane.json(["approval", "show", &id])?["four_eyes"], true);
    let (code, said) = answer(&desk, &starter, "approve", &id)?;
    assert!(code == 4 && said.contains("four eyes") && said.contains("started the run"), "{said}");
    assert_eq!(desk.pending()?, id, "nothing changed");
    assert_eq!(answer(&desk, &eve, "approve", &id)?.0, 0);
    assert!(!desk.write("early.txt", "1")?.bad);
    assert_eq!(desk.wrote("early.txt").as_deref(), Some("1"));

    // A no narrows: anybody with the role may say it.
    assert!(desk.write("denied.txt", "1")?.bad);
    let id = desk.pending()?;
    assert_eq!(answer(&desk, &starter, "deny", &id)?.0, 0);
    assert!(desk.write("denied.txt", "1")?.text.contains("approval_denied"));

    // The user for whom a run acts is its requester, whoever started it.
    desk.plane.ok(["run", "kill", &desk.run, "--reason", "test"])?;
    let started = desk.plane.json(["run", "start", "clerk", "--as", "fin", "--reason", "test"])?;
    desk.run = started["id"].as_str().context("an id")?.to_owned();
    assert!(desk.write("mine.txt", "1")?.bad);
    let waiting = desk.approvals("pending")?;
    let mine = waiting.iter().find(|one| one["run"] == desk.run).context("an approval of this run")?;
    let id = mine["id"].as_str().context("an id")?.to_owned();
    let (code, said) = answer(&desk, &fin, "approve", &id)?;
    assert!(code == 4 && said.contains("four eyes") && said.contains("is the user"), "{said}");
    assert_eq!(answer(&desk, &starter, "approve", &id)?.0, 4);
    assert_eq!(answer(&desk, &eve, "approve", &id)?.0, 0);
    assert!(!desk.write("mine.txt", "1")?.bad);
    Ok(())
}

#[test]
fn tenants_do_not_see_each_others_approvals_and_a_restart_loses_none() -> Result<()> {
    let mut desk = Desk::open()?;
    desk.policy(&writes_need("finance", ""))?;
    let finance = desk.operator("fin", &["finance"])?;
    desk.plane.ok(["tenant", "create", "retail", "--reason", "test"])?;
    assert!(desk.write("claim.txt", "1")?.text.contains("approval_required"));
    let id = desk.pending()?;
    for command in [
        vec!["approval", "show", &id, "--tenant", "retail"],
        vec!["approval", "approve", &id, "--tenant", "retail", "--reason", "x"],
        vec!["approval", "deny", &id, "--tenant", "retail", "--reason", "x"],
    ] {
        let (code, said) = desk.by(&finance, &command)?;
        assert_eq!(code, 3, "{command:?}: {said}");
    }
    assert_eq!(desk.plane.json(["approval", "list", "--tenant", "retail"])?, Value::Array(Vec::new()));
    assert_eq!(desk.pending()?, id);

    // Approved, and the plane is killed before it is used: it stands, and is used once.
    let (code, said) = desk.by(&finance, &["approval", "approve", &id, "--reason", "fine"])?;
    assert_eq!(code, 0, "{said}");
    desk.plane.kill_9()?;
    desk.plane.up()?;
    let used = desk.write("claim.txt", "1")?;
    assert!(!used.bad, "{used:?}");
    assert_eq!(desk.wrote("claim.txt").as_deref(), Some("1"));
    assert!(desk.write("claim.txt", "1")?.text.contains("approval_required"));
    Ok(())
}
