//! Real MCP servers behind a real plane, in the sandbox that tool servers are started in: what an agent gets through the
//! plane is what a client gets from the server directly.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Map, Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The client that is used both ways.
const CLIENT: &str = include_str!("fixtures/real-servers/client.py");

/// A real server, and how a plane gets it.
#[derive(Default)]
struct Server {
    name: &'static str,
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// Options of `tool-server add`.
    options: Vec<String>,
}

/// A program of the packages from npm, with the folder that it sees.
fn from_npm(name: &'static str, arguments: &[&str]) -> Result<Server> {
    let packages = Path::new(ROOT).join("tests/fixtures/mcp-servers/node_modules");
    let program = packages.join(format!("@modelcontextprotocol/server-{name}/dist/index.js"));
    ensure!(program.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", program.display());
    let (packages, program) = (packages.canonicalize()?, program.canonicalize()?);
    let command = ["/usr/bin/node".to_owned(), program.to_string_lossy().into_owned()];
    let command = command.into_iter().chain(arguments.iter().map(|a| (*a).to_owned())).collect();
    Ok(Server { name, command, options: mount(&packages), ..Default::default() })
}

/// A program of the packages from PyPI, with its environment, which is all that it sees.
fn from_pypi(name: &'static str, arguments: &[&str]) -> Result<Server> {
    let home = std::env::var("HOME").context("HOME is set")?;
    let venv = PathBuf::from(home).join(".cache/cogward/venvs/mcp-servers");
    let program = venv.join(format!("bin/mcp-server-{name}"));
    ensure!(program.exists(), "{} is missing: run scripts/setup-tests.sh, as `make test` does", program.display());
    let command = std::iter::once(program.to_string_lossy().into_owned());
    let command = command.chain(arguments.iter().map(|a| (*a).to_owned())).collect();
    // What Python compiles it cannot keep there.
    let env = vec![("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
    Ok(Server { name, command, env, options: mount(&venv) })
}

fn mount(path: &Path) -> Vec<String> {
    vec!["--mount".to_owned(), path.to_string_lossy().into_owned()]
}

fn writable(path: &Path) -> Vec<String> {
    vec!["--mount-writable".to_owned(), path.to_string_lossy().into_owned()]
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({"method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

impl Server {
    /// What a client gets that starts the server itself.
    fn directly(&self, steps: &[Value]) -> Result<Vec<Value>> {
        let url = self.command.first().filter(|first| first.starts_with("http://"));
        let output = Command::new("/usr/bin/python3")
            .args(["-c", CLIENT])
            .args(if url.is_some() { &[] } else { self.command.as_slice() })
            .env_clear()
            .env("STEPS", Value::from(steps).to_string())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .envs(url.map(|url| ("MCP_SERVER_URL", url)))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_str::<Vec<Value>>(&said)?)
    }

    /// Adds it with its default sandbox: all that it defines waits for a person; then approves it one by one. Gives its
    /// tools.
    fn add(&self, plane: &Plane) -> Result<Vec<String>> {
        let mut args: Vec<String> = ["tool-server", "add", self.name, "--reason", "test"].map(str::to_owned).to_vec();
        args.extend(self.options.iter().cloned());
        for (name, value) in &self.env {
            args.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        match self.command.first().filter(|first| first.starts_with("http://")) {
            Some(url) => args.extend(["--url".to_owned(), url.clone()]),
            None => args.extend(["--stdio", "--"].map(str::to_owned).into_iter().chain(self.command.iter().cloned())),
        }
        plane.ok(args)?;
        let mut all = self.defined(plane, "quarantined")?;
        for one in &all {
            plane.ok(["tool", "approve", self.name, one, "--reason", "test"])?;
        }
        // What is no tool has its kind before its name.
        all.retain(|name| !name.contains(':'));
        Ok(all)
    }

    /// The names of all that it defines, which is in this state.
    fn defined(&self, plane: &Plane, state: &str) -> Result<Vec<String>> {
        let listed = plane.json(["tool", "list", self.name])?;
        let listed = listed.as_array().context("a list")?;
        ensure!(!listed.is_empty() && listed.iter().all(|t| t["state"] == state), "{listed:#?}");
        Ok(listed.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect())
    }

    /// What an agent gets that may use all of it.
    fn through(&self, plane: &Plane, tools: &[String], steps: &[Value]) -> Result<(Vec<Value>, String)> {
        let permissions = format!(
            "    tools:\n      - {{server: {}, allow: {}, resources: [\"*\"], prompts: [\"*\"]}}\n",
            self.name,
            json!(tools)
        );
        let steps = Value::from(steps).to_string();
        let run = plane.launch(&Agent {
            name: self.name,
            source: &CLIENT.replace(r#"json.load(open("steps.json"))"#, &format!("json.loads({})", json!(steps))),
            permissions: &permissions,
            changes: &[],
        })?;
        let found = plane.output(&run)?;
        Ok((found.as_array().with_context(|| format!("a list: {found:#}"))?.clone(), run))
    }

    /// The same steps both ways, with what the server keeps set back between; gives what the agent got.
    fn agrees(&self, steps: &[Value], reset: impl Fn() -> Result<()>) -> Result<Vec<Value>> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        reset()?;
        let direct = self.directly(steps)?;
        reset()?;
        let tools = self.add(&plane)?;
        let (through, run) = self.through(&plane, &tools, steps)?;
        compare(steps, &direct, &through)?;
        self.unchanged(&plane)?;
        let calls = steps.iter().filter(|step| step["method"] == "tools/call").count();
        let leaves = plane.leaves(&run)?;
        ensure!(count(&leaves, "tool.call.decided", Some("permit")) >= calls, "{leaves:#?}");
        Ok(through)
    }

    /// Nothing of what was approved has changed by being used.
    fn unchanged(&self, plane: &Plane) -> Result<()> {
        for tool in self.defined(plane, "approved")? {
            let diff = plane.json(["tool", "diff", self.name, &tool])?;
            let lines = diff["lines"].as_array().with_context(|| format!("{tool}: {diff:#}"))?;
            ensure!(lines.iter().all(|line| line["change"] == "same"), "{tool}: {lines:#?}");
        }
        Ok(())
    }
}

fn compare(steps: &[Value], direct: &[Value], through: &[Value]) -> Result<()> {
    assert_eq!((direct.len(), through.len()), (steps.len(), steps.len()));
    for ((step, direct), through) in steps.iter().zip(direct).zip(through) {
        let (direct, through) = (normal(direct), normal(through));
        ensure!(direct == through, "{step}\ndirectly: {direct:#}\nthrough:  {through:#}");
    }
    Ok(())
}

/// What only the stateless revision says in a result, which the plane speaks to servers that can.
const STATELESS: [&str; 4] = ["resultType", "ttlMs", "cacheScope", "io.modelcontextprotocol/serverInfo"];

/// Without what differs from one time to the next: times of day, hashes of commits, ids of sessions.
fn normal(value: &Value) -> Value {
    match value {
        // Which level it is, is chance.
        Value::Object(members) if members.contains_key("level") && members.contains_key("data") => {
            let data = value["data"].as_str().and_then(|data| data.split_once("message")).unwrap_or_default();
            json!({ "data": constant(data.1) })
        }
        Value::Object(members) => {
            let members = members.iter().filter(|(name, _)| !STATELESS.contains(&name.as_str()));
            let members = members.map(|(name, value)| (name.clone(), normal(value)));
            Value::Object(members.filter(|(name, value)| name != "_meta" || *value != json!({})).collect::<Map<_, _>>())
        }
        // The plane lists in an order of its own.
        Value::Array(items) if items.iter().all(|item| item["name"].is_string()) => {
            let mut items: Vec<_> = items.iter().map(normal).collect();
            items.sort_by_key(|item| item["name"].to_string());
            Value::Array(items)
        }
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::String(text) => Value::String(constant(text)),
        other => other.clone(),
    }
}

fn constant(text: &str) -> String {
    let id = |word: &&str| word.len() == 36 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let words = text.split(' ').map(|word| if id(&word) { "~" } else { word });
    let text: String = words.collect::<Vec<_>>().join(" ");
    // A time is digits with `:` between them, a hash is seven or more hexadecimal digits, of which one is a digit.
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != ':');
    let word = |word: &str| {
        let (body, end) = match word.char_indices().next_back() {
            Some((at, last)) if !last.is_ascii_alphanumeric() && last != ':' => word.split_at(at),
            _ => (word, ""),
        };
        let time =
            body.len() >= 4 && body.contains(':') && body.chars().all(|c| c.is_ascii_digit() || c == ':' || c == 'T');
        let hash = body.len() >= 7
            && body.chars().all(|c| c.is_ascii_hexdigit())
            && body.contains(|c: char| c.is_ascii_digit());
        if time || hash { format!("~{end}") } else { word.to_owned() }
    };
    words.map(word).collect()
}

fn text(outcome: &Value) -> &str {
    outcome["result"]["content"][0]["text"].as_str().unwrap_or_default()
}

/// An empty folder of its own, outside what sandboxes see.
fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("cogward-real").tempdir()?)
}

#[test]
fn the_filesystem_server() -> Result<()> {
    let home = folder()?;
    let files = home.path().join("files");
    let path = |name: &str| files.join(name).to_string_lossy().into_owned();
    let mut server = from_npm("filesystem", &[path("").trim_end_matches('/')])?;
    server.options.extend(writable(&files));
    let reset = || -> Result<()> {
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        fs::create_dir_all(files.join("deep"))?;
        fs::write(files.join("a.txt"), "one\ntwo\nthree\n")?;
        Ok(fs::write(files.join("deep/b.txt"), "bytes \u{e9}\n")?)
    };
    reset()?;
    let steps = [
        json!({"method": "tools/list"}),
        call("read_text_file", json!({"path": path("a.txt")})),
        call("read_text_file", json!({"path": path("a.txt"), "head": 2})),
        call("read_multiple_files", json!({"paths": [path("a.txt"), path("deep/b.txt"), path("none")]})),
        call("write_file", json!({"path": path("new.txt"), "content": "written \u{1f600}\n"})),
        call(
            "edit_file",
            json!({"path": path("a.txt"), "edits": [{"oldText": "two", "newText": "zwei"}], "dryRun": false}),
        ),
        call("create_directory", json!({"path": path("more/of/it")})),
        call("move_file", json!({"source": path("new.txt"), "destination": path("more/moved.txt")})),
        call("list_directory", json!({"path": path("")})),
        call("directory_tree", json!({"path": path("")})),
        call("search_files", json!({"path": path(""), "pattern": "**/*.txt"})),
        call("list_allowed_directories", json!({})),
        // What it refuses, it refuses in its own words.
        call("read_text_file", json!({"path": "/etc/shadow"})),
        call("read_text_file", json!({"path": path("none")})),
    ];
    let got = server.agrees(&steps, reset)?;
    assert_eq!(text(&got[1]), "one\ntwo\nthree\n");
    assert_eq!(fs::read_to_string(files.join("more/moved.txt"))?, "written \u{1f600}\n");
    assert_eq!(fs::read_to_string(files.join("a.txt"))?, "one\nzwei\nthree\n");
    assert!(got[12]["result"]["isError"] == true && text(&got[12]).contains("denied"), "{}", got[12]);
    Ok(())
}

#[test]
fn the_memory_server() -> Result<()> {
    let home = folder()?;
    let kept = home.path().join("kept");
    let mut server = from_npm("memory", &[])?;
    server.options.extend(writable(&kept));
    server.env = vec![("MEMORY_FILE_PATH", kept.join("memory.jsonl").to_string_lossy().into_owned())];
    let entity = |name: &str| json!({"name": name, "entityType": "person", "observations": ["exists"]});
    let steps = [
        json!({"method": "tools/list"}),
        call("create_entities", json!({"entities": [entity("Ada"), entity("Bo")]})),
        call("create_relations", json!({"relations": [{"from": "Ada", "to": "Bo", "relationType": "knows"}]})),
        call("add_observations", json!({"observations": [{"entityName": "Bo", "contents": ["likes tea"]}]})),
        call("search_nodes", json!({"query": "tea"})),
        call("open_nodes", json!({"names": ["Ada"]})),
        call("delete_entities", json!({"entityNames": ["Ada"]})),
        call("read_graph", json!({})),
        json!({"method": "resources/list"}),
        json!({"method": "resources/read", "params": {"uri": "memory://knowledge-graph"}}),
    ];
    let reset = || -> Result<()> {
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        Ok(fs::create_dir(&kept)?)
    };
    reset()?;
    let got = server.agrees(&steps, reset)?;
    assert_eq!(got[7]["result"]["structuredContent"]["entities"][0]["observations"], json!(["exists", "likes tea"]));
    assert!(fs::read_to_string(kept.join("memory.jsonl"))?.contains("likes tea"));
    Ok(())
}

#[test]
fn the_git_server() -> Result<()> {
    let home = folder()?;
    let repository = home.path().join("repository");
    let place = repository.to_string_lossy().into_owned();
    let mut server = from_pypi("git", &["--repository", &place])?;
    server.options.extend(writable(&repository));
    // In its sandbox it is another user, and git asks whose a repository is.
    server.env.push(("GIT_CONFIG_GLOBAL", format!("{place}/.git/settings")));
    let git = |args: &[&str]| -> Result<()> {
        let mut command = Command::new("git");
        command.args(["-C", &place]).args(args).env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z");
        let done = command.env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z").output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    let reset = || -> Result<()> {
        if repository.exists() {
            fs::remove_dir_all(&repository)?;
        }
        fs::create_dir(&repository)?;
        git(&["init", "--quiet", "--initial-branch", "main"])?;
        fs::write(repository.join(".git/settings"), "[safe]\n\tdirectory = *\n")?;
        git(&["config", "user.name", "Ada"])?;
        git(&["config", "user.email", "ada@example.com"])?;
        fs::write(repository.join("claim.txt"), "240.00\n")?;
        git(&["add", "claim.txt"])?;
        git(&["commit", "--quiet", "--message", "The claim"])?;
        Ok(fs::write(repository.join("claim.txt"), "245.00\n")?)
    };
    reset()?;
    let with = |more: Value| {
        let mut arguments = json!({"repo_path": place});
        for (name, value) in more.as_object().into_iter().flatten() {
            arguments[name] = value.clone();
        }
        arguments
    };
    let steps = [
        json!({"method": "tools/list"}),
        call("git_status", with(json!({}))),
        call("git_diff_unstaged", with(json!({}))),
        call("git_add", with(json!({"files": ["claim.txt"]}))),
        call("git_diff_staged", with(json!({"context_lines": 0}))),
        call("git_create_branch", with(json!({"branch_name": "paid"}))),
        call("git_checkout", with(json!({"branch_name": "paid"}))),
        call("git_commit", with(json!({"message": "Paid"}))),
        call("git_branch", with(json!({"branch_type": "local"}))),
        call("git_show", with(json!({"revision": "main"}))),
        call("git_checkout", with(json!({"branch_name": "nowhere"}))),
    ];
    let got = server.agrees(&steps, reset)?;
    assert!(text(&got[2]).contains("+245.00"), "{}", got[2]);
    let log = Command::new("git").args(["-c", "safe.directory=*", "-C", &place, "log", "--format=%s %an"]).output()?;
    assert_eq!(String::from_utf8_lossy(&log.stdout), "Paid Ada\nThe claim Ada\n");
    Ok(())
}

#[test]
fn the_time_server() -> Result<()> {
    let server = from_pypi("time", &["--local-timezone", "UTC"])?;
    let steps = [
        json!({"method": "tools/list"}),
        call("convert_time", json!({"source_timezone": "UTC", "time": "12:30", "target_timezone": "Asia/Tokyo"})),
        call("get_current_time", json!({"timezone": "Europe/Zurich"})),
        call("get_current_time", json!({"timezone": "Nowhere/None"})),
    ];
    let got = server.agrees(&steps, || Ok(()))?;
    assert!(text(&got[1]).contains("T21:30:00+09:00"), "{}", got[1]);
    Ok(())
}

/// A web server on the loopback; what was asked of it.
fn web() -> Result<(String, Arc<Mutex<Vec<String>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(match stream.try_clone() {
                Ok(stream) => stream,
                Err(_) => return,
            })
            .lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, kind, body) = match path.as_str() {
                "/robots.txt" => ("200 OK", "text/plain", "User-agent: *\nDisallow: /private\n"),
                "/claim.html" => {
                    ("200 OK", "text/html", "<html><body><h1>Claim 17</h1><p>A <b>leak</b>, 240.00</p></body></html>")
                }
                "/claim.json" => ("200 OK", "application/json", "{\"claim\": 17}"),
                _ => ("404 Not Found", "text/plain", "nothing"),
            };
            if let Ok(mut all) = all.lock() {
                all.push(path);
            }
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len());
            drop(stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()));
        }
    });
    Ok((address, asked))
}

#[test]
fn the_fetch_server() -> Result<()> {
    let (site, asked) = web()?;
    let mut server = from_pypi("fetch", &["--allow-private-ips"])?;
    server.options.extend(["--network".to_owned(), "host".to_owned()]);
    let page = |path: &str| format!("{site}{path}");
    let steps = [
        json!({"method": "tools/list"}),
        json!({"method": "prompts/list"}),
        call("fetch", json!({"url": page("/claim.html")})),
        call("fetch", json!({"url": page("/claim.html"), "raw": true})),
        call("fetch", json!({"url": page("/claim.json"), "max_length": 5})),
        call("fetch", json!({"url": page("/private/claim.html")})),
        call("fetch", json!({"url": page("/none")})),
        json!({"method": "prompts/get", "params": {"name": "fetch", "arguments": {"url": page("/claim.html")}}}),
    ];
    let got = server.agrees(&steps, || Ok(()))?;
    assert!(text(&got[2]).contains("Claim 17"), "{}", got[2]);
    assert_eq!(got[5]["result"]["isError"], true, "{}", got[5]);
    let asked = asked.lock().map(|asked| asked.clone()).unwrap_or_default();
    assert!(asked.iter().any(|path| path == "/robots.txt") && !asked.iter().any(|path| path.starts_with("/private")));

    // Without the network of the host it reaches nothing of it.
    let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
    let confined = from_pypi("fetch", &["--allow-private-ips"])?;
    let tools = confined.add(&plane)?;
    let (got, _) = confined.through(&plane, &tools, &[call("fetch", json!({"url": page("/claim.html")}))])?;
    assert!(got[0]["result"]["isError"] == true && !got[0].to_string().contains("Claim 17"), "{}", got[0]);
    Ok(())
}

/// What the reference server of MCP has, but for what is different each time.
fn everything() -> Vec<Value> {
    let resource = "demo://resource/dynamic/text/1";
    let completion = |name: &str, value: &str| {
        json!({"method": "completion/complete", "params": {
            "ref": {"type": "ref/prompt", "name": "completable-prompt"}, "argument": {"name": name, "value": value}}})
    };
    vec![
        json!({"method": "logging/setLevel", "params": {"level": "debug"}}),
        call("echo", json!({"message": "caf\u{e9} \u{1f600} <!-- & -->"})),
        call("get-sum", json!({"a": 2, "b": 40})),
        call("get-tiny-image", json!({})),
        call("get-structured-content", json!({"location": "New York"})),
        call("get-annotated-message", json!({"messageType": "error", "includeImage": true})),
        call("get-resource-links", json!({"count": 3})),
        call("get-resource-reference", json!({"resourceType": "Text", "resourceId": 2})),
        json!({"method": "resources/read", "params": {"uri": "demo://resource/dynamic/text/none"}}),
        json!({"method": "resources/list"}),
        json!({"method": "resources/templates/list"}),
        json!({"method": "resources/read", "params": {"uri": "demo://resource/static/document/features.md"}}),
        json!({"method": "resources/read", "params": {"uri": resource}}),
        json!({"method": "prompts/list"}),
        json!({"method": "prompts/get", "params": {"name": "simple-prompt"}}),
        json!({"method": "prompts/get", "params": {"name": "args-prompt", "arguments": {"city": "Bern"}}}),
        json!({"method": "prompts/get", "params": {"name": "args-prompt"}}),
        completion("department", "E"),
        // It goes on step by step, and can be called off.
        json!({"method": "tools/call", "progress": true,
            "params": {"name": "trigger-long-running-operation", "arguments": {"duration": 0.4, "steps": 4}}}),
        json!({"method": "tools/call", "progress": true, "cancel": true,
            "params": {"name": "trigger-long-running-operation", "arguments": {"duration": 60, "steps": 300}}}),
        // What belongs to no request.
        json!({"method": "resources/subscribe", "params": {"uri": resource}}),
        call("toggle-subscriber-updates", json!({})),
        json!({"wait": "notifications/resources/updated"}),
        call("toggle-subscriber-updates", json!({})),
        json!({"method": "resources/unsubscribe", "params": {"uri": resource}}),
        call("toggle-simulated-logging", json!({})),
        json!({"wait": "notifications/message", "containing": "level"}),
        call("toggle-simulated-logging", json!({})),
        json!({"method": "ping"}),
    ]
}

fn held(got: &[Value]) {
    assert_eq!(text(&got[2]), "The sum of 2 and 40 is 42.");
    assert_eq!(got[18]["progress"].as_array().map(Vec::len), Some(4), "{}", got[18]);
    assert_eq!(got[19]["cancelled"].as_array().map(Vec::len), Some(1), "{}", got[19]);
    assert_eq!(got[22]["uri"], "demo://resource/dynamic/text/1");
    assert!(got[26]["level"].is_string() && got[26]["data"].is_string(), "{}", got[26]);
}

#[test]
fn the_everything_server() -> Result<()> {
    let server = from_npm("everything", &["stdio"])?;
    held(&server.agrees(&everything(), || Ok(()))?);
    Ok(())
}

/// The same server over streamable HTTP; it ends with its standard input.
struct OverHttp {
    process: Child,
    said: Arc<Mutex<String>>,
    url: String,
}

impl OverHttp {
    fn start() -> Result<Self> {
        let program = from_npm("everything", &["streamableHttp"])?.command;
        let inside = Path::new(ROOT).join("tests/fixtures/real-servers/inside.cjs");
        let mut process = Command::new(program.first().context("a program")?)
            .arg("--require")
            .arg(&inside)
            .args(program.iter().skip(1))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("its output")?);
        let port = loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                bail!("the server did not come up");
            }
            if let Some(port) = line.strip_prefix("PORT ") {
                break port.trim().to_owned();
            }
        };
        let said: Arc<Mutex<String>> = Arc::default();
        let all = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut part = [0_u8; 4096];
            while let Ok(count @ 1..) = lines.read(&mut part) {
                if let Ok(mut all) = all.lock() {
                    all.push_str(&String::from_utf8_lossy(&part[..count]));
                }
            }
        });
        Ok(Self { process, said, url: format!("http://127.0.0.1:{port}/mcp") })
    }

    fn said(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }
}

impl Drop for OverHttp {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn the_everything_server_over_streamable_http() -> Result<()> {
    let http = OverHttp::start()?;
    let server = Server { name: "everything", command: vec![http.url.clone()], ..Default::default() };
    held(&server.agrees(&everything(), || Ok(()))?);
    // One session of the client itself, one of the plane, one of the run, which is ended with the run.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let said = http.said();
        let found = |before: &str| said.lines().filter_map(|line| line.strip_prefix(before)).collect::<BTreeSet<_>>();
        let sessions = found("Session initialized with ID: ");
        let ended = found("Received session termination request for session ");
        if sessions.len() >= 3 && !ended.is_empty() && ended.is_subset(&sessions) {
            break;
        }
        ensure!(Instant::now() < until, "{said}");
        std::thread::park_timeout(Duration::from_millis(30));
    }
    Ok(())
}
