//! Memory on the real binary: agents that share a plane, a tenant and a store, and of which each finds only its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Value, json};

/// Does what its input says: a list of calls, and prints what each came to.
const CLIENT: &str = r#"
import json, os, sys, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=60)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:") and ('"result"' in l or '"error"' in l))
    m = json.loads(t)
    return m.get("result") or {"isError": True, "content": [{"text": json.dumps(m.get("error"))}]}, r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
def call(name, arguments):
    r = rpc("tools/call", {"name": name, "arguments": arguments}, s)[0]
    if r.get("isError"):
        return {"error": r["content"][0]["text"]}
    return r.get("structuredContent", r)
out = []
for name, arguments in json.loads(sys.stdin.read() or "[]"):
    out.append([t["name"] for t in rpc("tools/list", {}, s)[0]["tools"]] if name == "tools" else call(name, arguments))
print(json.dumps(out))
"#;

const GRANT: &str = "    tools:\n      - {server: notes, allow: [remember, recall, read, list, forget]}\n";

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

fn with_notes(flags: &[&str]) -> Result<Plane> {
    let plane = plane()?;
    let mut args = vec!["tool-server", "add", "notes", "--approve-tools", "--reason", "test", "--memory", "builtin"];
    args.extend(flags);
    plane.ok(args)?;
    Ok(plane)
}

fn agent(plane: &Plane, name: &str) -> Result<()> {
    plane.register(&Agent { name, source: CLIENT, permissions: GRANT, changes: &[] })
}

/// A run of an agent for a user, and what its calls came to.
fn acts(plane: &Plane, agent: &str, user: Option<&str>, calls: &Value) -> Result<(Vec<Value>, String)> {
    let input = plane.scratch().join("calls.json");
    fs::write(&input, calls.to_string())?;
    let input = input.to_string_lossy();
    let mut args = vec!["run", "start", agent, "--reason", "test", "--input", &input];
    args.extend(user.iter().flat_map(|user| ["--as", user]));
    let run = plane.json(args)?["id"].as_str().context("an id")?.to_owned();
    let out = plane.output(&run)?;
    Ok((out.as_array().with_context(|| format!("{out}"))?.clone(), run))
}

fn texts(answer: &Value) -> Vec<&str> {
    answer["memories"].as_array().into_iter().flatten().filter_map(|memory| memory["text"].as_str()).collect()
}

fn refusal(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_default()
}

#[test]
fn two_agents_and_two_users_find_only_their_own() -> Result<()> {
    let plane = with_notes(&[])?;
    for name in ["claims", "letters"] {
        agent(&plane, name)?;
    }
    let shown = plane.json(["tool-server", "show", "notes"])?;
    assert_eq!(shown["transport"]["scope"], "agent+user");
    assert_eq!(shown["tools"]["approved"], 5);
    let mut ids = Vec::new();
    let pairs = [("claims", "ann"), ("claims", "bob"), ("letters", "ann"), ("letters", "bob")];
    for (agent, user) in pairs {
        let text = format!("{agent} knows that {user} drinks tea");
        let calls = json!([["remember", {"text": text, "kind": "fact", "tags": ["drink"]}], ["tools", {}]]);
        let (out, run) = acts(&plane, agent, Some(user), &calls)?;
        ids.push(out[0]["id"].as_str().with_context(|| format!("{out:?}"))?.to_owned());
        assert_eq!(out[1].as_array().map(Vec::len), Some(5));
        let leaves = plane.leaves(&run)?;
        assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 1, "{leaves:#?}");
        assert_eq!(count(&leaves, "tool.call.completed", None), 1);
        // What was remembered is in the record as other arguments are: sealed, and not to be read here.
        assert!(!json!(leaves).to_string().contains("drinks tea"), "{leaves:#?}");
    }
    for (place, (agent, user)) in pairs.iter().enumerate() {
        let other = &ids[(place + 1) % ids.len()];
        let calls = json!([
            ["recall", {"query": "tea"}], ["list", {}], ["read", {"id": ids[place]}], ["read", {"id": other}],
            ["forget", {"id": other}], ["remember", {"text": "mine now", "id": other}], ["read", {"id": "mem_nothing"}],
        ]);
        let (out, _) = acts(&plane, agent, Some(user), &calls)?;
        let own = format!("{agent} knows that {user} drinks tea");
        assert_eq!(texts(&out[0]), [own.as_str()], "{out:?}");
        assert_eq!(texts(&out[1]), [own.as_str()], "{out:?}");
        assert_eq!(out[2]["text"], own.as_str());
        // Another's is what nobody's is: not there.
        for refused in &out[3..7] {
            assert_eq!(refusal(refused), "there is no such memory", "{out:?}");
        }
    }
    // No user, no memory: there is no bucket that all runs without one would share.
    let (out, _) = acts(&plane, "claims", None, &json!([["recall", {"query": "tea"}], ["remember", {"text": "x"}]]))?;
    assert!(out.iter().all(|answer| refusal(answer).contains("acts for nobody")), "{out:?}");
    assert_eq!(plane.json(["memory", "show", "notes"])?["items"], 4);
    Ok(())
}

#[test]
fn an_agent_can_neither_say_nor_widen_whose_memory_it_is() -> Result<()> {
    let plane = with_notes(&["--dimensions", "2"])?;
    agent(&plane, "claims")?;
    acts(&plane, "claims", Some("ann"), &json!([["remember", {"text": "a secret of ann", "embedding": [1, 0]}]]))?;
    let mut calls = vec![json!(["remember", {"text": "of bob", "embedding": [1, 0]}])];
    for field in
        ["owner", "tenant", "user", "subject", "agent", "run", "scope", "filter", "where", "must", "store", "_meta"]
    {
        for (tool, rest) in
            [("recall", json!({"query": "secret"})), ("list", json!({})), ("remember", json!({"text": "x"}))]
        {
            for value in [json!("ann"), json!({"key": "subject", "match": {"value": "ann"}}), json!(null)] {
                let mut arguments = rest.clone();
                arguments[field] = value;
                calls.push(json!([tool, arguments]));
            }
        }
    }
    let fields = calls.len();
    for arguments in [
        json!({"query": "secret\" OR owner : \"x"}),
        json!({"query": "*) OR (secret"}),
        json!({"query": "' OR 1=1 --"}),
        json!({"query": "secret", "tags": ["' OR 1=1 --"]}),
        json!({"query": "secret", "kind": "%"}),
        json!({"query": "secret", "limit": 51}),
        json!({"embedding": [1, 0, 0]}),
        json!({"embedding": []}),
        json!({"embedding": [0, 0]}),
        json!({"embedding": [1e300, 0]}),
        json!({"embedding": ["a", "b"]}),
        json!({"embedding": vec![1.0; 20_000]}),
        json!({"embedding": [1, 0]}),
        json!({"query": ["secret"]}),
        json!({}),
    ] {
        calls.push(json!(["recall", arguments]));
    }
    let (out, run) = acts(&plane, "claims", Some("bob"), &json!(calls))?;
    for (call, answer) in calls.iter().zip(&out).take(fields).skip(1) {
        assert!(!refusal(answer).is_empty(), "{call}: {answer}");
    }
    for (call, answer) in calls.iter().zip(&out) {
        assert!(!answer.to_string().contains("secret of ann"), "{call}: {answer}");
        assert!(texts(answer).iter().all(|text| *text == "of bob"), "{call}: {answer}");
    }
    // Arguments that the schema does not have reach nothing: they are refused before anything is done.
    let leaves = plane.leaves(&run)?;
    let permitted = count(&leaves, "tool.call.decided", Some("permit"));
    assert!((1..=calls.len() - fields + 1).contains(&permitted), "{permitted} of {} were let through", calls.len());
    assert_eq!(plane.json(["memory", "show", "notes"])?["items"], 2);
    Ok(())
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

#[test]
fn policies_rule_over_memory_as_over_any_tool() -> Result<()> {
    let plane = with_notes(&["--scope", "user"])?;
    agent(&plane, "claims")?;
    plane.ok(["tool", "label", "notes", "recall", "personal"])?;
    activate(
        &plane,
        "permit(principal, action, resource);\n\
         @id(\"keep-nothing-personal\")\n\
         forbid(principal, action == Cogward::Action::\"tool:notes/remember\", resource)\n\
           when { context.labels.contains(\"personal\") };\n\
         @id(\"no-plans\")\n\
         forbid(principal, action == Cogward::Action::\"tool:notes/remember\", resource)\n\
           when { context.arguments has kind && context.arguments.kind == \"plan\" };\n",
    )?;
    let calls = json!([
        ["remember", {"text": "before"}], ["remember", {"text": "a plan", "kind": "plan"}], ["recall", {"query": "before"}],
        ["remember", {"text": "after"}], ["list", {}],
    ]);
    let (out, _) = acts(&plane, "claims", Some("ann"), &calls)?;
    assert!(out[0]["id"].is_string(), "{out:?}");
    assert!(refusal(&out[1]).contains("no-plans"), "{out:?}");
    assert_eq!(texts(&out[2]), ["before"]);
    assert!(refusal(&out[3]).contains("keep-nothing-personal"), "{out:?}");
    assert_eq!(texts(&out[4]), ["before"]);
    Ok(())
}

/// One rule for all memories, whatever their servers are called.
#[test]
fn nothing_is_written_to_any_memory_after_personal_data_was_read() -> Result<()> {
    let plane = with_notes(&["--scope", "user"])?;
    plane.ok(["tool-server", "add", "diary", "--approve-tools", "--reason", "test", "--memory", "builtin"])?;
    let grants = GRANT.to_owned() + &GRANT.replace("    tools:\n", "").replace("notes", "diary");
    plane.register(&Agent { name: "claims", source: CLIENT, permissions: &grants, changes: &[] })?;
    plane.ok(["tool", "label", "notes", "recall", "personal"])?;
    activate(
        &plane,
        "permit(principal, action, resource);\n\
         @id(\"keep-nothing-personal\")\n\
         forbid(principal, action in Cogward::Action::\"memory\", resource)\n\
           when { context.operation == \"write\" && context.labels.contains(\"personal\") };\n\
         @id(\"three-a-run\") @track(\"kept = count of memory per run\")\n\
         forbid(principal, action in Cogward::Action::\"memory\", resource)\n\
           when { context.operation == \"delete\" && context.history.kept > 7 };\n",
    )?;
    let calls = json!([
        ["diary_remember", {"text": "before"}], ["notes_remember", {"text": "before"}],
        ["notes_recall", {"query": "before"}],
        ["diary_remember", {"text": "after"}], ["notes_remember", {"text": "after"}],
        ["diary_list", {}], ["diary_recall", {"query": "before"}], ["notes_list", {}],
        ["notes_read", {"id": "mem_00000000000000000000000000"}],
        ["notes_forget", {"id": "mem_00000000000000000000000000"}],
    ]);
    let (out, run) = acts(&plane, "claims", Some("ann"), &calls)?;
    assert!(out[0]["id"].is_string() && out[1]["id"].is_string(), "{out:?}");
    assert_eq!(texts(&out[2]), ["before"]);
    for refused in [&out[3], &out[4]] {
        assert!(refusal(refused).contains("keep-nothing-personal"), "{out:?}");
    }
    for read in [&out[5], &out[6], &out[7]] {
        assert_eq!(texts(read), ["before"], "reading is not writing: {out:?}");
    }
    assert!(refusal(&out[8]).contains("no such memory"), "{out:?}");
    assert!(refusal(&out[9]).contains("three-a-run"), "calls of memories are counted: {out:?}");
    // What was decided by the operation can be decided again.
    let leaves = plane.leaves(&run)?;
    let decided: Vec<&Value> = leaves.iter().filter(|leaf| leaf["type"] == "tool.call.decided").collect();
    assert_eq!(decided.len(), 10, "{decided:#?}");
    for leaf in decided {
        let id = leaf["id"].as_str().context("an id")?;
        let told = plane.json(["policy", "explain", "--decision", id, "--run", &run])?;
        assert_eq!(told["agrees"], true, "{told:#}");
    }
    // A rule that is about a memory store by another name than the schema has is refused when it is written.
    let file = plane.scratch().join("wrong.cedar");
    fs::write(&file, "forbid(principal, action == Cogward::Action::\"memory\", resource);\n")?;
    let refused = plane.cli(["policy", "check", &file.to_string_lossy()])?;
    assert!(refused.code() == 4 && refused.stderr.contains("action in Cogward::Action"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn what_is_kept_outlives_the_plane_and_is_forgotten_on_request_alone() -> Result<()> {
    let mut plane = with_notes(&["--scope", "user", "--quota-items", "2"])?;
    for name in ["claims", "letters"] {
        agent(&plane, name)?;
    }
    let keep = json!([["remember", {"text": "tea of one"}], ["remember", {"text": "tea of two"}], ["remember", {"text": "tea of three"}]]);
    let (out, _) = acts(&plane, "claims", Some("ann"), &keep)?;
    assert!(refusal(&out[2]).contains("the memory is full"), "{out:?}");
    let (out, _) = acts(&plane, "letters", Some("bob"), &json!([["remember", {"text": "tea of bob"}]]))?;
    assert!(out[0]["id"].is_string(), "the quota of one is the quota of another: {out:?}");
    plane.kill_9()?;
    plane.up()?;
    // Of the user, whatever the agent.
    let (out, _) = acts(&plane, "letters", Some("ann"), &json!([["recall", {"query": "tea"}]]))?;
    assert_eq!(texts(&out[0]).len(), 2, "{out:?}");
    let file = plane.data_dir().join("memory/default/notes.db");
    ensure!(file.exists(), "the memory is not where the documents say");
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    }

    let unreasoned = plane.cli(["memory", "forget", "--server", "notes", "--user", "ann", "--reason", " "])?;
    assert_ne!(unreasoned.code(), 0);
    let nobody = plane.json(["memory", "forget", "--server", "notes", "--user", "ANN", "--reason", "request 4711"])?;
    assert_eq!(nobody["forgotten"], 0);
    let forgotten =
        plane.json(["memory", "forget", "--server", "notes", "--user", "ann", "--reason", "request 4711"])?;
    assert_eq!(forgotten["forgotten"], 2);
    assert_eq!(plane.json(["memory", "show", "notes"])?["items"], 1);
    let (out, _) = acts(&plane, "claims", Some("ann"), &json!([["recall", {"query": "tea"}]]))?;
    assert_eq!(texts(&out[0]).len(), 0, "{out:?}");

    let export = plane.scratch().join("export");
    plane.ok(["evidence", "export", &export.to_string_lossy()])?;
    let mut kinds = Vec::new();
    let mut folders = vec![export];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
                kinds.extend(
                    ["memory.forget_requested", "memory.forgotten"]
                        .map(|kind| text.matches(&format!("\"{kind}\"")).count()),
                );
            }
        }
    }
    assert_eq!(kinds.iter().sum::<usize>(), 4, "two that were asked for and two that were done");

    let all = plane.json(["memory", "forget", "--server", "notes", "--everybody", "--reason", "end of the pilot"])?;
    assert_eq!(all["forgotten"], 1);
    Ok(())
}

#[test]
fn a_memory_that_cannot_be_kept_is_not_added() -> Result<()> {
    let plane = plane()?;
    let add = |flags: &[&str]| {
        let mut args = vec!["tool-server", "add", "notes", "--reason", "test"];
        args.extend(flags);
        plane.cli(args)
    };
    for (flags, says) in [
        (
            &["--memory", "pgvector", "--url", "postgres://u:secret@127.0.0.1/db"][..],
            "the password does not go into the URL",
        ),
        (&["--memory", "pgvector", "--url", "mysql://127.0.0.1/db"], "begins with `postgres://`"),
        (
            &["--memory", "pgvector", "--url", "postgres://u@127.0.0.1/db", "--table", "a;b"],
            "cannot be the name of a table",
        ),
        (&["--memory", "qdrant", "--url", "http://qdrant.example:6333"], "begins with https://"),
        (&["--memory", "qdrant", "--url", "http://127.0.0.1:1"], "there is no connection"),
        (&["--memory", "pgvector", "--url", "postgres://u@127.0.0.1:1/db"], "cannot be reached"),
        (&["--memory", "qdrant"], "--url"),
        (&["--memory", "builtin", "--url", "http://127.0.0.1"], "--url"),
        (&["--memory", "builtin", "--stdio", "--", "/bin/true"], "cannot be used with"),
        (&["--memory", "builtin", "--scope", "everybody"], "agent+user"),
        (&["--url", "http://127.0.0.1:1", "--scope", "user"], "--memory"),
    ] {
        let added = add(flags)?;
        assert_ne!(added.code(), 0, "{flags:?}");
        assert!(added.stderr.contains(says), "{flags:?}: {}", added.stderr);
        assert!(!added.stderr.contains("secret@"), "{}", added.stderr);
    }
    assert_eq!(plane.json(["tool-server", "list"])?.as_array().map(Vec::len), Some(0));
    let shown = plane.cli(["memory", "show", "notes"])?;
    assert_eq!(shown.code(), 3, "{}", shown.stderr);
    Ok(())
}

/// A store of a customer's, until it is dropped.
struct Customers {
    child: Child,
    /// What it said of where it is.
    at: String,
}

impl Customers {
    fn start(program: &str, args: &[&str]) -> Result<Self> {
        let set = std::env::var_os("COGWARD_TEST_MEMORY_PYTHON").map(PathBuf::from);
        let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/cogward/venvs/memory/bin/python"));
        let python = set.or_else(usual).context("no HOME")?;
        let program = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(program);
        let mut child = Command::new(&python)
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} is missing: scripts/setup-tests.sh makes it", python.display()))?;
        let mut at = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut at)?;
        ensure!(!at.trim().is_empty(), "the store of the customer does not come up");
        Ok(Self { child, at: at.trim().to_owned() })
    }
}

impl Drop for Customers {
    fn drop(&mut self) {
        // The one that is told by the end of its input stops what it started; the other is ended.
        drop(self.child.stdin.take());
        let until = Instant::now() + Duration::from_secs(5);
        while self.at.contains(':') && Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What must hold of a memory in a customer's store, credential and all.
fn is_kept_there(plane: &Plane, memory: &[&str]) -> Result<()> {
    let credential = plane.scratch().join("credential.txt");
    let add = |secret: Option<&str>| -> Result<cogward_testkit::Output> {
        let mut args = vec!["tool-server", "add", "notes", "--approve-tools", "--reason", "test", "--dimensions", "2"];
        args.extend(memory);
        let file = credential.to_string_lossy().into_owned();
        if let Some(secret) = secret {
            fs::write(&credential, secret)?;
            args.extend(["--credential-file", &file]);
        }
        plane.cli(args)
    };
    for wrong in [None, Some("wrong\n")] {
        let refused = add(wrong)?;
        assert_ne!(refused.code(), 0, "it is added with {wrong:?}");
        assert!(refused.stderr.contains("the store of the memory cannot be"), "{}", refused.stderr);
    }
    let added = add(Some("right\n"))?;
    ensure!(added.code() == 0, "{}{}", added.stdout, added.stderr);
    for name in ["claims", "letters"] {
        agent(plane, name)?;
    }
    let keep = json!([
        ["remember", {"text": "ann drinks tea", "embedding": [1, 0]}],
        ["remember", {"text": "for whoever is bob", "owner": "bob"}],
    ]);
    let (out, _) = acts(plane, "claims", Some("ann"), &keep)?;
    let id = out[0]["id"].as_str().with_context(|| format!("{out:?}"))?;
    assert!(!refusal(&out[1]).is_empty());
    let ask = json!([
        ["recall", {"query": "TEA"}], ["recall", {"embedding": [1, 0.1]}], ["list", {}], ["read", {"id": id}], ["forget", {"id": id}],
    ]);
    for (agent, user) in [("claims", "bob"), ("letters", "ann")] {
        let (out, _) = acts(plane, agent, Some(user), &ask)?;
        assert!(out[..3].iter().all(|answer| texts(answer).is_empty() && answer["memories"].is_array()), "{out:?}");
        assert!(out[3..].iter().all(|answer| refusal(answer) == "there is no such memory"), "{out:?}");
    }
    let (out, _) = acts(
        plane,
        "claims",
        Some("ann"),
        &json!([["recall", {"query": "TEA"}], ["recall", {"embedding": [1, 0.1]}]]),
    )?;
    assert!(out.iter().all(|answer| texts(answer) == ["ann drinks tea"]), "{out:?}");
    assert_eq!(plane.json(["memory", "show", "notes"])?["items"], 1);
    let forgotten =
        plane.json(["memory", "forget", "--server", "notes", "--user", "ann", "--reason", "request 4711"])?;
    assert_eq!(forgotten["forgotten"], 1);
    // The credential is nowhere but sealed.
    let shown = plane.json(["tool-server", "show", "notes"])?;
    assert!(shown["has_credential"] == true && !shown.to_string().contains("right"), "{shown}");
    Ok(())
}

#[test]
fn memory_is_kept_in_the_customers_postgresql() -> Result<()> {
    let plane = plane()?;
    let home = plane.scratch().join("pg");
    let database = Customers::start("postgres/server.py", &[&home.to_string_lossy()])?;
    let url = format!("postgres://plane@{}/postgres", database.at);
    is_kept_there(&plane, &["--memory", "pgvector", "--url", &url])
}

#[test]
fn memory_is_kept_in_the_customers_qdrant() -> Result<()> {
    let plane = plane()?;
    let engine = Customers::start("qdrant/server.py", &["--key", "right"])?;
    let url = format!("http://127.0.0.1:{}", engine.at);
    is_kept_there(&plane, &["--memory", "qdrant", "--url", &url])
}
