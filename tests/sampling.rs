//! A tool server that wants a model, and an agent whose client cannot be asked: the plane makes the model call, under the
//! grant and the budget of the run, where the manifest says so, and refuses it everywhere else.

use std::fs;

use anyhow::{Context, Result};
use cogward_testkit::{Agent, MAY_ASK, Plane};
use serde_json::{Value, json};

/// One call of each era, of a client that cannot be asked anything.
const CLIENT: &str = r#"
import json, os, urllib.error, urllib.request
def rpc(headers, body):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    try:
        r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, **body}).encode(), h), timeout=60)
    except urllib.error.HTTPError as error:
        return json.loads(error.read()), None
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = [l[5:] for l in t.splitlines() if l.startswith("data:") and "jsonrpc" in l][-1]
    return json.loads(t), r.headers.get("mcp-session-id")
def said(answer):
    return answer["result"]["content"][0]["text"] if "result" in answer else answer["error"]["message"]
def stateless(arguments):
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "think"}
    return said(rpc(headers, {"method": "tools/call", "params": {"name": "think", "arguments": arguments, "_meta": meta}})[0])
revision = {"mcp-protocol-version": "2025-11-25"}
_, s = rpc(revision, {"method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
def session(arguments):
    return said(rpc({"mcp-session-id": s, **revision}, {"method": "tools/call", "params": {"name": "think", "arguments": arguments}})[0])
def ask(text, most=20, **more):
    return {"sample": {"messages": [{"role": "user", "content": {"type": "text", "text": text}}], "maxTokens": most, **more}}
out = []
"#;

struct World {
    plane: Plane,
}

impl World {
    fn open() -> Result<Self> {
        let plane = Plane::start(env!("CARGO_BIN_EXE_cogward"))?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/hostile-mcp/server.py");
        let (file, state) = (plane.scratch().join("scenes.json"), plane.scratch().join("state"));
        let think = json!({"name": "think", "inputSchema": {"type": "object"}});
        fs::write(&file, json!([[think]]).to_string())?;
        let add = ["tool-server", "add", "mind", "--approve-tools", "--reason", "test", "--sandbox", "none", "--stdio"];
        let paths = [file, state].map(|path| path.to_string_lossy().into_owned());
        plane.ok(add.into_iter().chain(["--", "/usr/bin/python3", program, &paths[0], &paths[1]]))?;
        plane.add_scripted(&json!({"steps": [], "default": {"reply": {"text": "it is seven"}}}).to_string())?;
        Ok(Self { plane })
    }

    fn agent(&self, name: &str, grant: &str, source: &str, changes: &[(&str, &str)]) -> Result<(Value, Vec<Value>)> {
        let permissions = format!("    tools:\n      - {{server: mind, allow: [think]{grant}}}\n{MAY_ASK}");
        let source = format!("{CLIENT}{source}\nprint(json.dumps(out))\n");
        let run = self.plane.launch(&Agent { name, source: &source, permissions: &permissions, changes })?;
        Ok((self.plane.output(&run)?, self.plane.leaves(&run)?))
    }
}

const GRANT: &str = ", sampling: demo-model";

#[test]
fn the_plane_asks_the_model_in_the_place_of_a_client_that_cannot_be_asked() -> Result<()> {
    let world = World::open()?;
    let source = "out += [session(ask('how many?')), stateless(ask('how many?'))]";
    let (seen, leaves) = world.agent("asks", GRANT, source, &[])?;
    for at in 0..2 {
        let answer: Value = serde_json::from_str(seen[at].as_str().context("a text")?)?;
        assert_eq!(answer["content"], json!({"type": "text", "text": "it is seven"}), "{seen:#}");
        assert_eq!((&answer["role"], &answer["stopReason"]), (&json!("assistant"), &json!("endTurn")));
    }
    // Decided as a question of the server, and as a model call of the run that is paid for.
    let of = |kind: &str| leaves.iter().filter(|leaf| leaf["type"] == kind).cloned().collect::<Vec<_>>();
    let (asked, decided, done) = (of("sampling.decided"), of("model.call.decided"), of("model.call.completed"));
    assert_eq!((asked.len(), decided.len(), done.len()), (2, 2, 2), "{leaves:#?}");
    assert!(asked.iter().all(|leaf| leaf["decision"] == "permit" && leaf["answered_by"] == "demo-model"));
    assert!(decided.iter().all(|leaf| leaf["decision"] == "permit" && leaf["model"] == "demo-model"));
    assert!(decided.iter().zip(&asked).all(|(call, question)| call["refs"][0] == question["id"]), "{leaves:#?}");
    assert!(done.iter().all(|leaf| leaf["used"]["tokens"].as_u64().is_some_and(|tokens| tokens > 0)), "{done:#?}");
    Ok(())
}

#[test]
fn a_tool_server_gets_no_model_that_the_manifest_does_not_give_it_and_none_beyond_the_budget() -> Result<()> {
    let world = World::open()?;
    let source = "out += [session(ask('how many?')), stateless(ask('how many?'))]";
    let (seen, leaves) = world.agent("without", "", source, &[])?;
    assert!(!seen.to_string().contains("it is seven"), "{seen:#}");
    assert!(leaves.iter().all(|leaf| leaf["type"] != "model.call.decided"), "{leaves:#?}");
    // What is not a text, or offers the model tools, is not carried; and a budget holds for it as for any call.
    let source = "
picture = [{'role': 'user', 'content': {'type': 'image', 'data': '', 'mimeType': 'image/png'}}]
out += [session({'sample': {'messages': picture, 'maxTokens': 9}}), session(ask('x', tools=[])), session(ask('x' * 3000))]";
    let small = [("tokens: 100000", "tokens: 300")];
    let (seen, leaves) = world.agent("bounded", GRANT, source, &small)?;
    assert!(seen[0].as_str().is_some_and(|said| said.contains("else than texts")), "{seen:#}");
    assert!(seen[1].as_str().is_some_and(|said| said.contains("offers tools")), "{seen:#}");
    assert!(seen[2].as_str().is_some_and(|said| said.contains("budget_exceeded")), "{seen:#}");
    let calls: Vec<_> = leaves.iter().filter(|leaf| leaf["type"] == "model.call.decided").collect();
    assert_eq!(calls.len(), 1, "{leaves:#?}");
    assert_eq!(calls[0]["code"], "budget_exceeded");
    // A model that the agent may not use is none for its servers either.
    let manifest = world.plane.write_agent(&Agent {
        name: "other",
        source: "",
        permissions: &format!("    tools:\n      - {{server: mind, allow: [think], sampling: other-model}}\n{MAY_ASK}"),
        changes: &[],
    })?;
    let refused = world.plane.cli(["agent", "register", "-f", &manifest.to_string_lossy()])?;
    assert!(refused.code() != 0 && refused.stderr.contains("model-not-permitted"), "{}", refused.stderr);
    Ok(())
}
