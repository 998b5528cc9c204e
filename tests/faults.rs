//! What goes wrong: hostile agents, dying upstreams, a full disk, two planes. For each a clear
//! error and a record, and nothing beside it is touched.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, MAY_ASK, Plane, count};
use serde_json::Value;

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

#[test]
fn a_fork_bomb_ends_in_its_own_sandbox() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "forker",
        source: "
import json, os, time
made = 0
try:
    while made < 5000:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        made += 1
except OSError as e:
    print(json.dumps({'made': made, 'error': str(e)}), flush=True)
os._exit(0)
",
        permissions: "",
        changes: &[],
    })?;
    let seen = plane.output(&run)?;
    assert!(seen["made"].as_u64().unwrap_or(u64::MAX) < 40, "{seen}");
    plane.ok(["run", "list"])?;
    Ok(())
}

#[test]
fn a_full_workspace_and_too_much_memory_hurt_only_the_agent() -> Result<()> {
    let plane = plane()?;
    let filler = plane.launch(&Agent {
        name: "filler",
        source: "
import json
written = 0
try:
    for n in range(1000):
        with open('/work/big%d' % n, 'wb', buffering=0) as f:
            for _ in range(16):
                written += f.write(b'x' * 65536)
except OSError as e:
    print(json.dumps({'written': written, 'error': e.errno}))
",
        permissions: "",
        changes: &[],
    })?;
    let seen = plane.output(&filler)?;
    assert_eq!(seen["error"], 28, "ENOSPC: {seen}");
    assert!(seen["written"].as_u64().unwrap_or(u64::MAX) <= 8 << 20, "{seen}");

    let eater = plane.launch(&Agent {
        name: "eater",
        source: "
import time
hold = []
while True:
    hold.append(bytearray(8 << 20))
",
        permissions: "",
        changes: &[],
    })?;
    let run = plane.run_until(&eater, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "failed", "{run}");
    Ok(())
}

#[test]
fn an_agent_that_floods_its_output_is_bounded_and_counted() -> Result<()> {
    let plane = plane()?;
    let run = plane.launch(&Agent {
        name: "flooder",
        source: "
import sys
for _ in range(3000):
    sys.stdout.write('x' * 8191 + '\\n')
print('the end')
",
        permissions: "",
        changes: &[],
    })?;
    let run = plane.run_until(&run, |r| r["ended"].is_string())?;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["output"], "the end", "the last line is the output however much came before");
    let kept = plane.logs(run["id"].as_str().unwrap_or_default(), "stdout").len();
    assert!(kept <= 5 << 20, "{kept} bytes kept");
    Ok(())
}

#[test]
fn an_agent_that_floods_its_gateways_blocks_nobody_else() -> Result<()> {
    let plane = plane()?;
    plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
    let hostile = plane.launch(&Agent {
        name: "hostile",
        source: "
import os, socket, time
held = []
for port in (28471, 28472, 3128):
    for i in range(30):
        try:
            s = socket.create_connection(('127.0.0.1', port), timeout=2)
            s.sendall(b'POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 999999999999\\r\\n' if i % 2 else b'\\x00\\xff' * 4000)
            held.append(s)
        except OSError:
            pass
print('holding', len(held), flush=True)
time.sleep(600)
",
        permissions: MAY_ASK,
        changes: &[],
    })?;
    plane.said(&hostile, "holding")?;
    let other = plane.launch(&Agent {
        name: "other",
        source: "
import json, os, urllib.request
body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
r = urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=30)
print(json.dumps({'status': r.status}))
",
        permissions: MAY_ASK,
        changes: &[],
    })?;
    assert_eq!(plane.output(&other)?["status"], 200);
    plane.ok(["run", "kill", &hostile, "--reason", "it floods"])?;
    Ok(())
}

/// A tool server that misbehaves as its one tool is told to.
const MOODY: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": m["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "moody", "version": "1"}}
    elif m["method"] == "tools/list":
        r = {"tools": [{"name": "act", "inputSchema": {"type": "object", "properties": {"mood": {"type": "string"}}}}]}
    elif m["method"] == "tools/call":
        mood = m["params"]["arguments"].get("mood")
        if mood == "die": os._exit(1)
        if mood == "garbage": print("\x00 this is not JSON {{{", flush=True)
        if mood == "huge": print("[" * 100000, flush=True)
        r = {"content": [{"type": "text", "text": "well"}]}
    else:
        r = {}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;

#[test]
fn a_tool_server_that_dies_or_talks_garbage_is_an_answer_to_the_agent() -> Result<()> {
    let plane = plane()?;
    let server = plane.scratch().join("moody.py");
    fs::write(&server, MOODY)?;
    plane.add_stdio("moody", &["/usr/bin/python3", &server.to_string_lossy()])?;
    let run = plane.launch(&Agent {
        name: "caller",
        source: r#"
import json, os, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=90)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:"))
    return json.loads(t)["result"], r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
print(json.dumps([rpc("tools/call", {"name": "act", "arguments": {"mood": m}}, s)[0] for m in ("fine", "die", "fine", "garbage", "fine", "huge", "fine")]))
"#,
        permissions: "    tools:\n      - {server: moody, allow: [act]}\n",
        changes: &[],
    })?;
    let answers = plane.output(&run)?;
    assert_eq!(answers[1]["isError"], true, "{answers:#}");
    for fine in [0, 2, 4, 6] {
        assert_ne!(answers[fine]["isError"], true, "the server is used again: {answers:#}");
    }
    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 7);
    assert_eq!(count(&leaves, "tool.call.completed", None), 7);
    Ok(())
}

#[test]
fn two_planes_on_one_directory_are_one_too_many() -> Result<()> {
    let plane = plane()?;
    let second = plane.cli(["serve", "--listen", "127.0.0.1:0", "--data-dir", &plane.data_dir().to_string_lossy()])?;
    assert_ne!(second.code(), 0);
    assert!(second.stderr.contains("another plane"), "{}", second.stderr);
    plane.ok(["run", "list"])?;
    Ok(())
}

#[test]
fn the_api_is_not_for_other_hosts_or_strangers() -> Result<()> {
    let plane = plane()?;
    let refused = plane.cli(["serve", "--listen", "0.0.0.0:0", "--data-dir", "/nonexistent/x"])?;
    assert_ne!(refused.code(), 0, "no TLS, so no address but loopback");
    assert_eq!(plane.http("GET", "/api/v1/runs", &[], b"")?.0, 401);
    assert_eq!(plane.http("GET", "/api/v1/runs", &[("authorization", "Bearer cwo_x")], b"")?.0, 401);
    let bearer = format!("Bearer {}", plane.token());
    assert_eq!(plane.http("GET", "/api/v1/runs", &[("authorization", &bearer)], b"")?.0, 200);
    let foreign = [("authorization", bearer.as_str()), ("origin", "http://evil.example")];
    assert_eq!(plane.http("GET", "/api/v1/runs", &foreign, b"")?.0, 403);
    let (status, body) = plane.http(
        "POST",
        "/api/v1/runs",
        &[("authorization", &bearer), ("content-type", "application/json")],
        b"{\"tenant\":",
    )?;
    assert_eq!(status, 400, "{body}");
    assert!(serde_json::from_str::<Value>(&body)?["code"].is_string(), "{body}");
    Ok(())
}

/// Mounts a small tmpfs, gives it to `test`, and takes it away.
fn on_a_small_disk(test: impl FnOnce(&std::path::Path) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=640m,mode=0700", "tmpfs"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .status()?;
    ensure!(mounted.success(), "this test mounts a tmpfs: run it as root, as `make test` does");
    let result = test(dir.path());
    let unmounted = Command::new("umount").arg("-l").arg(dir.path()).status()?;
    ensure!(unmounted.success(), "umount");
    result
}

#[test]
fn a_full_disk_stops_agents_and_never_the_audit() -> Result<()> {
    on_a_small_disk(|disk| {
        let mut plane = Plane::start_in(env!("CARGO_BIN_EXE_cogward"), &disk.join("data"))?;
        plane.add_scripted(r#"{"steps": [], "default": {"reply": {"text": "yes"}}}"#)?;
        let run = plane.launch(&Agent {
            name: "caller",
            source: r#"
import json, os, time, urllib.error, urllib.request
body = json.dumps({'model': 'demo-model', 'max_tokens': 10, 'messages': [{'role': 'user', 'content': 'hello'}]}).encode()
n = 0
while True:
    try:
        with urllib.request.urlopen(urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body, {'content-type': 'application/json'}), timeout=60) as r:
            json.load(r); n += 1; print('call', n, flush=True)
    except urllib.error.HTTPError as e:
        print('status', e.code, flush=True)
    except OSError as e:
        print('error', e, flush=True)
    time.sleep(0.05)
"#,
            permissions: MAY_ASK,
            changes: &[("tokens: 100000", "tokens: 100000000"), ("costUsd: \"1.00\"", "costUsd: \"1000\"")],
        })?;
        plane.said(&run, "call 3\n")?;
        let ballast = disk.join("ballast");
        // Ends when nothing fits any more; the handle must be gone too, or removing it frees nothing.
        drop(std::io::copy(&mut std::io::repeat(0), &mut fs::File::create(&ballast)?));
        plane.run_until(&run, |r| r["state"] == "suspended" || r["ended"].is_string()).context("agents stop")?;
        let ready = plane.http("GET", "/readyz", &[], b"")?;
        assert_ne!(ready.0, 200, "{}", ready.1);
        fs::remove_file(&ballast)?;
        plane.run_until(&run, |r| r["state"] == "running" || r["ended"].is_string())?;
        plane.ok(["run", "kill", &run, "--reason", "enough"])?;
        let export = tempfile::tempdir()?;
        let pack = export.path().join("pack");
        plane.ok(["evidence", "export", &pack.to_string_lossy()])?;
        let verified = Command::new(plane.verifier()).arg(&pack).output()?;
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        plane.kill_9()?;
        plane.up()?;
        Ok(())
    })
}
