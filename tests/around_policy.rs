//! Ways round policy, on the real binary with a real tool server: a cap that puts in what a wider level forbids, and an
//! answer whose server wraps what is redacted.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Reads one file through the tool server, and says what it got of it.
const READS: &str = r#"
import json, os, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=60)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:"))
    return json.loads(t), r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
print(json.dumps(rpc("tools/call", {"name": "read_text_file", "arguments": {"path": "FILE"}}, s)[0]), flush=True)
"#;

const WIDE: &str = r#"@id("all") permit (principal, action, resource);
@id("few-lines") forbid (principal, action == Cogward::Action::"tool:files/read_text_file", resource)
when { context has arguments && context.arguments has head && context.arguments.head.greaterThan(decimal("5.0")) };
"#;

struct Desk {
    plane: Plane,
    file: String,
}

impl Desk {
    fn open(content: &str) -> Result<Self> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let server = format!(
            "{ROOT}/tests/fixtures/mcp-servers/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
        );
        ensure!(Path::new(&server).exists(), "{server} is missing: run scripts/setup-tests.sh, as `make test` does");
        let files = plane.scratch().join("files");
        fs::create_dir_all(&files)?;
        let file = files.join("customers.json");
        fs::write(&file, content)?;
        let add = ["tool-server", "add", "files", "--approve-tools", "--reason", "test", "--sandbox", "none"];
        let command = ["--stdio", "--", "/usr/bin/node", server.as_str(), &files.to_string_lossy()];
        plane.ok(add.into_iter().chain(command))?;
        Ok(Self { plane, file: file.to_string_lossy().into_owned() })
    }

    fn activate(&self, level: &str, text: &str) -> Result<()> {
        let path = self.plane.scratch().join("policy.cedar");
        fs::write(&path, text)?;
        let put = ["policy", "put", &path.to_string_lossy(), "--level", level, "--reason", "test"];
        let digest = self.plane.json(put)?["digest"].as_str().context("a digest")?.to_owned();
        self.plane.ok(["policy", "approve", &digest, "--level", level, "--reason", "test"])?;
        self.plane.ok(["policy", "activate", &digest, "--level", level, "--reason", "test"]).map(drop)
    }

    /// What an agent of this name gets when it reads the file.
    fn read_as(&self, name: &str) -> Result<Value> {
        let manifest = self.plane.write_agent(&Agent {
            name,
            source: &READS.replace("FILE", &self.file),
            permissions: "    tools:\n      - {server: files, allow: [read_text_file]}\n",
            changes: &[],
        })?;
        self.plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        let run = self.plane.start_run(name)?;
        self.plane.run_until(&run, |run| run["ended"].is_string())?;
        let out = self.plane.logs(&run, "stdout");
        let line = out.lines().next().with_context(|| self.plane.logs(&run, "stderr"))?;
        serde_json::from_str::<Value>(line).context("an answer")
    }
}

#[test]
fn a_cap_of_an_agent_does_not_make_the_call_that_the_plane_forbids() -> Result<()> {
    let desk = Desk::open("words")?;
    desk.activate("plane", WIDE)?;
    let before = desk.read_as("plain")?;
    ensure!(before["result"]["content"][0]["text"] == "words", "without a cap it may read: {before}");
    desk.activate(
        "agent:default/capped",
        "@id(\"cap\") @cap(\"arguments.head=1000\") permit (principal, action in Cogward::Action::\"tool_call\", resource);\n",
    )?;
    let after = desk.read_as("capped")?;
    let said = after["result"]["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(after["result"]["isError"] == true && said.contains("few-lines"), "{after}");
    desk.activate(
        "agent:default/careful",
        "@id(\"cap\") @cap(\"arguments.head=5\") permit (principal, action in Cogward::Action::\"tool_call\", resource);\n",
    )?;
    let careful = desk.read_as("careful")?;
    ensure!(careful["result"]["content"][0]["text"] == "words", "{careful}");
    Ok(())
}

#[test]
fn an_answer_that_wraps_what_is_redacted_does_not_show_it() -> Result<()> {
    let desk = Desk::open(r#"{"customers":[{"iban":"DE02SECRET","name":"Ada"}]}"#)?;
    // This server says each answer twice: as text, and in a member of its own.
    let plain = desk.read_as("plain")?;
    let wrapped = plain["result"]["structuredContent"].to_string();
    ensure!(wrapped.contains("DE02SECRET"), "the test has nothing to find: {plain}");
    desk.activate(
        "agent:default/redacted",
        "@id(\"iban\") @redact(\"result.customers.iban\") permit (principal, action in Cogward::Action::\"tool_call\", resource);\n",
    )?;
    let clean = desk.read_as("redacted")?;
    ensure!(!clean.to_string().contains("SECRET"), "{clean}");
    let text = clean["result"]["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(text.contains("[redacted]") && text.contains("Ada"), "{clean}");
    Ok(())
}

/// Asks the model once, and says how that went.
const ASKS: &str = r#"
import json, os, urllib.error, urllib.request
body = json.dumps({"model": "demo-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}).encode()
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, {"content-type": "application/json"})
try:
    print(json.dumps({"status": urllib.request.urlopen(request, timeout=60).status}), flush=True)
except urllib.error.HTTPError as e:
    print(json.dumps({"status": e.code, "said": e.read().decode()}), flush=True)
"#;

#[test]
fn labels_are_read_of_models_and_a_rule_about_labels_of_hosts_is_refused() -> Result<()> {
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let script = plane.scratch().join("script.json");
    fs::write(&script, r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
    let script = script.to_string_lossy().into_owned();
    let add = |labels: &[&str]| {
        let fixed = ["provider", "add", "scripted", "--script", &script, "--price", "demo-model=0.15,0.60"];
        let labels = labels.iter().flat_map(|label| ["--label", *label]);
        plane.ok(fixed.into_iter().chain(["--reason", "test"]).chain(labels)).map(drop)
    };
    add(&[])?;
    let path = plane.scratch().join("policy.cedar");
    let put = |text: &str| -> Result<cogward_testkit::Output> {
        fs::write(&path, text)?;
        let path = path.to_string_lossy();
        plane.cli(["policy", "put", &path, "--level", "tenant:default", "--reason", "test", "-o", "json"])
    };
    // It would never match, so whoever writes it is told, and it is not taken.
    for action in ["egress", "elicitation", "sampling"] {
        let text = format!(
            "@id(\"all\") permit (principal, action, resource);\n\
             @id(\"secret\") forbid (principal, action == Cogward::Action::\"{action}\", resource) when {{ resource.labels.contains(\"secret\") }};\n"
        );
        let refused = put(&text)?;
        let said = refused.stdout.clone() + &refused.stderr;
        ensure!(refused.code() != 0 && said.contains("hosts and tool servers do not"), "{action}: {said}");
    }
    let registered = put("@id(\"all\") permit (principal, action, resource);\n\
         @id(\"register\") forbid (principal, action == Cogward::Action::\"model_call\", resource)\n\
         unless { resource.labels.contains(\"registered\") };\n")?;
    ensure!(registered.code() == 0, "{}{}", registered.stdout, registered.stderr);
    let version: Value = serde_json::from_str(&registered.stdout)?;
    let digest = version["digest"].as_str().context("a digest")?;
    for command in ["approve", "activate"] {
        plane.ok(["policy", command, digest, "--level", "tenant:default", "--reason", "test"])?;
    }
    plane.register(&Agent {
        name: "asks",
        source: ASKS,
        permissions: "    models:\n      - {provider: scripted, name: demo-model, maxOutputTokens: 64}\n",
        changes: &[],
    })?;
    let ask = || -> Result<Value> {
        let run = plane.start_run("asks")?;
        plane.run_until(&run, |run| run["ended"].is_string())?;
        let out = plane.logs(&run, "stdout");
        Ok(serde_json::from_str(out.lines().next().with_context(|| plane.logs(&run, "stderr"))?)?)
    };
    let before = ask()?;
    ensure!(before["status"] == 403 && before.to_string().contains("policy.tenant.register"), "{before}");
    add(&["registered", "european"])?;
    let shown = plane.json(["provider", "show", "scripted"])?;
    ensure!(shown["labels"] == serde_json::json!(["european", "registered"]), "{shown:#}");
    let after = ask()?;
    ensure!(after["status"] == 200, "{after}");
    add(&["european"])?;
    ensure!(ask()?["status"] == 403, "the label was taken away");
    Ok(())
}
