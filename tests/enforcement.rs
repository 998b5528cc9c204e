//! What is not declared cannot be done: attacks from inside real sandboxes on the real binary.

use std::fs;

use anyhow::{Context, Result};
use cogward_testkit::{Agent, MAY_ASK, Plane, count};
use serde_json::Value;

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// A stdio MCP server in the standard library, with a tool that is declared and one that is not.
pub const FILES: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "files", "version": "1"}}
    elif m["method"] == "tools/list":
        schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"], "additionalProperties": False}
        r = {"tools": [{"name": n, "description": n, "inputSchema": schema} for n in ("read_text_file", "list_directory", "write_file")]}
    elif m["method"] == "tools/call":
        r = {"content": [{"type": "text", "text": "content of " + m["params"]["arguments"]["path"]}], "isError": False}
    else:
        r = {}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;

fn add_files(plane: &Plane) -> Result<()> {
    let server = plane.scratch().join("files.py");
    fs::write(&server, FILES)?;
    plane.add_stdio("files", &["/usr/bin/python3", &server.to_string_lossy()])
}

#[test]
fn everything_the_adversary_tries_is_refused_and_recorded() -> Result<()> {
    let plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "no"}}}"#)?;
    add_files(&plane)?;
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/adversary");
    plane.ok(["agent", "register", "-f", &format!("{examples}/agent.yaml")])?;
    let input = plane.scratch().join("input.json");
    let secret = plane.data_dir().join("state.db");
    fs::write(&input, serde_json::json!({ "secrets": [secret, "/etc/ssh/ssh_host_ed25519_key"] }).to_string())?;
    let started = plane.json([
        "run",
        "start",
        "adversary",
        "--input",
        &input.to_string_lossy(),
        "--reason",
        "attack",
        "--wait",
    ])?;
    let run = started["id"].as_str().context("an id")?;
    let out = plane.logs(run, "stdout");
    let attempts: Vec<Value> = out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    assert_eq!(attempts.iter().filter(|a| a["outcome"] == "refused").count(), 5, "{out}");
    assert!(attempts.iter().all(|a| a["outcome"] == "refused" || a["done"] == true), "{out}");
    let leaves = plane.leaves(run)?;
    assert_eq!(count(&leaves, "egress.decided", Some("block")), 1);
    assert_eq!(count(&leaves, "tool.call.decided", Some("block")), 1);
    assert!(count(&leaves, "model.call.decided", Some("block")) >= 1);
    let over = leaves.iter().find(|l| l["type"] == "model.call.decided" && l["decision"] == "block");
    assert_eq!(over.context("a refused model call")?["rule"], "budgets.run.tokens");
    let spent = plane.run(run)?["usage"]["tokens"].as_u64().unwrap_or(u64::MAX);
    assert!(spent <= 2_000, "{spent} of 2,000 tokens");
    Ok(())
}

#[test]
fn an_agent_in_profile_hardened_works_and_its_evidence_says_so() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "hardened",
        source: r#"
import socket, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:28471/v1/models", timeout=20)
except urllib.error.HTTPError as e:
    print("the plane answered", e.code)
for args in ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
    try:
        socket.socket(*args)
        print("ALLOWED", args)
    except PermissionError:
        print("refused")
"#,
        permissions: "",
        changes: &[("    resources:", "    profile: hardened\n    resources:")],
    })?;
    let ended = plane.run_until(&run, |r| r["state"] == "succeeded" || r["state"] == "failed")?;
    let said = plane.logs(&run, "stdout");
    assert_eq!(ended["state"], "succeeded", "{said} {}", plane.logs(&run, "stderr"));
    assert!(said.matches("refused").count() == 2 && !said.contains("ALLOWED"), "{said}");
    let leaves = plane.leaves(&run)?;
    let enforcement = leaves.iter().find(|l| l["enforcement"].is_object()).context("what was enforced")?;
    assert_eq!(enforcement["enforcement"]["profile"], "hardened");
    assert_eq!(enforcement["enforcement"]["landlock_abi"], 6);
    Ok(())
}

#[test]
fn an_unregistered_agent_or_version_does_not_run() -> Result<()> {
    let plane = plane()?;
    let nobody = plane.cli(["run", "start", "nobody", "--reason", "try"])?;
    assert_eq!(nobody.code(), 3, "{}", nobody.stderr);
    plane.register(&Agent { name: "known", source: "print(1)\n", permissions: "", changes: &[] })?;
    let version = plane.cli(["run", "start", "known", "--version", "2", "--reason", "try"])?;
    assert_eq!(version.code(), 3, "{}", version.stderr);
    Ok(())
}

#[test]
fn an_agent_for_users_does_not_run_without_one() -> Result<()> {
    let plane = plane()?;
    plane.register(&Agent {
        name: "delegate",
        source: "print(1)\n",
        permissions: "",
        changes: &[("autonomy: autonomous", "autonomy: user-delegated")],
    })?;
    let alone = plane.cli(["run", "start", "delegate", "--reason", "try"])?;
    assert_ne!(alone.code(), 0);
    assert!(alone.stderr.contains("--as"), "{}", alone.stderr);
    plane.ok(["run", "start", "delegate", "--as", "bo@example.com", "--reason", "for Bo", "--wait"])?;
    Ok(())
}

#[test]
fn the_agent_sees_nothing_of_the_host() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "looker",
        source: r#"
import json, os, socket
def can(f):
    try:
        return str(f())[:200]
    except Exception as e:
        return "refused: " + type(e).__name__
def family(f, t=socket.SOCK_STREAM):
    return can(lambda: socket.socket(f, t))
seen = {
    "env": sorted(os.environ),
    "fds": can(lambda: sorted(os.listdir("/proc/self/fd"))),
    "uid": os.getuid(),
    "pids": [p for p in os.listdir("/proc") if p.isdigit()],
    "hostname": socket.gethostname(),
    "root": can(lambda: sorted(os.listdir("/"))),
    "write /": can(lambda: open("/x", "w")),
    "write /app": can(lambda: open("/app/x", "w")),
    "write /usr": can(lambda: open("/usr/x", "w")),
    "write /work": can(lambda: open("/work/x", "w").write("x")),
    "shadow": can(lambda: open("/etc/shadow").read()),
    "data": can(lambda: os.listdir("DATA")),
    "packet": family(17, 3), "vsock": family(40), "alg": family(38), "raw": family(2, 3),
    "udp": can(lambda: socket.socket(2, 2).sendto(b"x", ("192.0.2.1", 53))),
    "interfaces": can(lambda: [n for _, n in socket.if_nameindex()]),
    "chroot": can(lambda: os.chroot("/work")),
    "setuid": can(lambda: os.setuid(0)),
    "unshare": can(lambda: os.unshare(os.CLONE_NEWUSER)) if hasattr(os, "unshare") else "refused: n/a",
}
print(json.dumps(seen))
"#
        .replace("DATA", &plane.data_dir().to_string_lossy())
        .as_str(),
        permissions: "",
        changes: &[],
    })?;
    let seen = plane.output(&run)?;
    for closed in [
        "write /",
        "write /app",
        "write /usr",
        "shadow",
        "data",
        "packet",
        "vsock",
        "alg",
        "raw",
        "udp",
        "chroot",
        "setuid",
        "unshare",
    ] {
        assert!(seen[closed].as_str().unwrap_or_default().starts_with("refused"), "{closed}: {seen:#}");
    }
    assert_eq!(seen["write /work"], "1");
    assert_ne!(seen["uid"], 0);
    let env = seen["env"].to_string();
    for ours in ["COGWARD_TOKEN\"", "CARGO", "OLDPWD", "SSH"] {
        assert!(!env.contains(ours), "{ours}: {env}");
    }
    assert!(!seen.to_string().contains(plane.token()));
    Ok(())
}

#[test]
fn no_secret_reaches_the_sandbox_the_ledger_or_the_logs() -> Result<()> {
    let plane = plane()?;
    let credential = plane.scratch().join("credential");
    fs::write(&credential, "sk-a-secret-of-the-bank\n")?;
    let server = plane.scratch().join("files.py");
    fs::write(&server, FILES)?;
    plane.ok([
        "tool-server",
        "add",
        "files",
        "--approve-tools",
        "--reason",
        "test",
        "--credential-file",
        &credential.to_string_lossy(),
        "--credential-env",
        "API_KEY",
        "--mount",
        &server.to_string_lossy(),
        "--stdio",
        "--",
        "/usr/bin/python3",
        &server.to_string_lossy(),
    ])?;
    let run = plane.launch(&Agent {
        name: "reader",
        source: r#"
import json, os, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=30)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:"))
    return json.loads(t)["result"], r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
names = [t["name"] for t in rpc("tools/list", {}, s)[0]["tools"]]
answer = rpc("tools/call", {"name": names[0], "arguments": {"path": "confidential-claim"}}, s)[0]
bad = rpc("tools/call", {"name": names[0], "arguments": {"path": 7}}, s)[0]
print(json.dumps({"names": names, "answer": answer["content"][0]["text"], "bad": bad}))
"#,
        permissions: "    tools:\n      - {server: files, allow: [read_text_file]}\n",
        changes: &[],
    })?;
    let output = plane.output(&run)?;
    assert_eq!(output["names"].as_array().context("names")?.len(), 1, "the list is filtered: {output}");
    assert_eq!(output["answer"], "content of confidential-claim");
    assert_eq!(output["bad"]["isError"], true, "arguments that break the schema: {output}");

    let export = plane.scratch().join("export");
    plane.ok(["evidence", "export", &export.to_string_lossy()])?;
    let mut haystack = plane.log().into_bytes();
    let mut folders = vec![export, plane.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                haystack.extend(fs::read(entry.path())?);
            }
        }
    }
    let contains = |needle: &str| haystack.windows(needle.len()).any(|w| w == needle.as_bytes());
    assert!(!contains("sk-a-secret-of-the-bank"), "the credential of an upstream is in a file");
    assert!(!contains(plane.token()), "the operator credential is in a file");
    assert!(!contains("confidential-claim\"") || !contains("\"args\":\"{"), "arguments are in clear in the ledger");
    Ok(())
}

#[test]
fn an_undeclared_model_is_refused_in_the_callers_dialect() -> Result<()> {
    let plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "no"}}}"#)?;
    let run = plane.launch(&Agent {
        name: "asker",
        source: r#"
import json, os, urllib.error, urllib.request
def post(base, path, body):
    try:
        r = urllib.request.urlopen(urllib.request.Request(os.environ[base] + path, json.dumps(body).encode(), {"content-type": "application/json", "anthropic-version": "2023-06-01"}), timeout=30)
        return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)
m = [{"role": "user", "content": "hi"}]
print(json.dumps([
    post("OPENAI_BASE_URL", "/chat/completions", {"model": "other", "messages": m}),
    post("ANTHROPIC_BASE_URL", "/v1/messages", {"model": "other", "max_tokens": 5, "messages": m}),
    post("OPENAI_BASE_URL", "/chat/completions", {"model": "demo-model", "messages": m}),
    post("ANTHROPIC_BASE_URL", "/v1/messages", {"model": "demo-model", "max_tokens": 5, "messages": m}),
]))
"#,
        permissions: MAY_ASK,
        changes: &[],
    })?;
    let answers = plane.output(&run)?;
    assert_eq!(answers[0][0], 403, "{answers:#}");
    assert!(answers[0][1]["error"]["message"].is_string(), "{answers:#}");
    assert_eq!(answers[1][0], 403);
    assert_eq!(answers[1][1]["type"], "error", "{answers:#}");
    assert_eq!((&answers[2][0], &answers[3][0]), (&Value::from(200), &Value::from(200)), "{answers:#}");
    Ok(())
}
