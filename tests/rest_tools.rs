//! OpenAPI documents as tools: a real plane, APIs over HTTP, and agents that call them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result, ensure};
use cogward_testkit::{Agent, Plane, count};
use serde_json::{Value, json};

const INVOICES: &str = include_str!("fixtures/openapi/invoices.yaml");
const KEY: &str = "sk-Live_4f9c2b7a1e8d6350";

/// Calls what its input names and gives the tools and the results.
const CALLER: &str = r#"
import json, os, urllib.request
def rpc(method, params, session=None):
    h = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    if session: h["mcp-session-id"] = session
    r = urllib.request.urlopen(urllib.request.Request(os.environ["MCP_SERVER_URL"], json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), h), timeout=60)
    t = r.read().decode()
    if r.headers.get("content-type", "").startswith("text/event-stream"):
        t = "".join(l[5:] for l in t.splitlines() if l.startswith("data:") and '"id"' in l)
    return json.loads(t), r.headers.get("mcp-session-id")
_, s = rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}})
tools = rpc("tools/list", {}, s)[0]["result"]["tools"]
found = []
for name, arguments in json.load(open("/run/cogward/input.json")):
    answer = rpc("tools/call", {"name": name, "arguments": arguments}, s)[0]
    found.append(answer.get("result") or answer)
print(json.dumps({"tools": tools, "found": found}))
"#;

fn plane() -> Result<Plane> {
    Plane::start(env!("CARGO_BIN_EXE_cogward"))
}

/// An API on a port of its own that notes what it is sent.
struct Api {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/v2", listener.local_addr()?);
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                thread::spawn(move || drop(serve(stream, &all)));
            }
        });
        Ok(Self { url, seen })
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

fn serve(mut stream: TcpStream, all: &Mutex<Vec<String>>) -> Result<()> {
    let mut bytes = Vec::new();
    let request = loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                break text;
            }
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "it ended");
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
    };
    let line = request.lines().next().unwrap_or_default().to_owned();
    if let Ok(mut all) = all.lock() {
        all.push(request.clone());
    }
    let invoice = json!({"id": "2026-1", "status": "open", "customer": {"id": 7, "name": "Bo"}, "lines": []});
    let (status, body) = match line.split(' ').collect::<Vec<_>>().as_slice() {
        ["GET", "/v2/invoices/2026-1", _] => (200, invoice),
        ["GET", path, _] if path.starts_with("/v2/invoices?") => (200, json!({"items": [invoice], "next": null})),
        ["POST", "/v2/invoices/2026-1/payments", _] => (200, json!({"left_cents": 0})),
        // It shows what it was sent, as careless ones do.
        ["DELETE", ..] => (400, json!({"request": request})),
        _ => (404, json!({"title": "not found"})),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(body.as_bytes())?)
}

fn scratch(plane: &Plane, name: &str, text: &str) -> Result<String> {
    let path = plane.scratch().join(name);
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Runs the caller, whose manifest lets it use `allow`, and gives what it saw.
fn calls(plane: &Plane, calls: &Value) -> Result<(Value, String)> {
    let input = scratch(plane, "input.json", &calls.to_string())?;
    let started = plane.json(["run", "start", "caller", "--input", &input, "--reason", "test", "--wait"])?;
    let run = started["id"].as_str().context("a run")?.to_owned();
    Ok((plane.output(&run)?, run))
}

fn register(plane: &Plane, server: &str, allow: &str) -> Result<()> {
    plane.register(&Agent {
        name: "caller",
        source: CALLER,
        permissions: &format!("    tools:\n      - {{server: {server}, allow: [{allow}]}}\n"),
        changes: &[],
    })
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[test]
fn a_document_becomes_tools_that_are_governed_like_any_other() -> Result<()> {
    let (mut plane, api) = (plane()?, Api::start()?);
    let (document, key) = (scratch(&plane, "invoices.yaml", INVOICES)?, scratch(&plane, "key", KEY)?);
    let add = |more: &[&str]| {
        let mut args = vec!["tool-server", "add", "invoices", "--openapi", &document, "--reason", "test"];
        args.extend(more);
        plane.cli(args)
    };
    // Where requests go is the operator's word; the document's is only told.
    let without = add(&[])?;
    assert_eq!(without.code(), 2, "{}", without.stderr);
    assert!(without.stderr.contains("https://api.invoices.example/v2"), "{}", without.stderr);
    let credential = ["--url", &api.url, "--credential-file", &key, "--credential-header", "X-Api-Key"];
    let added = add(&credential)?;
    assert_eq!(added.code(), 0, "{}", added.stderr);
    for said in [
        "`Invoices` 2.4 (sha256:",
        "9 tools",
        "a key in the header `X-Api-Key`",
        "Left out: GET /customers/export: it is deprecated",
        "Left out: GET /invoices, parameter `session`: cookies are not sent",
        "Left out: PUT /invoices/{id}/document: its body is none of JSON",
    ] {
        assert!(added.stderr.contains(said), "{said}: {}", added.stderr);
    }
    register(&plane, "invoices", "getInvoice, listInvoices, payInvoice, deleteInvoice")?;
    let (saw, _) = calls(&plane, &json!([["getInvoice", {"id": "2026-1"}]]))?;
    assert_eq!(saw["tools"], json!([]), "nothing before somebody has looked");
    assert!(api.seen().is_empty());
    let mut approve = credential.to_vec();
    approve.push("--approve-tools");
    assert_eq!(add(&approve)?.code(), 0);
    let shown = plane.json(["tool-server", "show", "invoices"])?;
    assert_eq!(shown["transport"]["kind"], "openapi");
    assert_eq!(shown["made_from"]["operations"], 9);
    assert!(shown["transport"]["document"]["digest"].is_string());
    assert!(shown["transport"]["document"].get("text").is_none() && !shown.to_string().contains(KEY), "{shown:#}");

    let policy = "@id(\"all\") permit (principal, action, resource);\n\
        @id(\"large\") forbid (principal, action == Cogward::Action::\"tool:invoices/payInvoice\", resource)\n\
        when { context.arguments.body.amount_cents > 100000 };\n";
    let policy = scratch(&plane, "policy.cedar", policy)?;
    let put = plane.json(["policy", "put", &policy, "--level", "tenant:default", "--reason", "test"])?;
    let digest = put["digest"].as_str().context("a digest")?;
    for verb in ["approve", "activate"] {
        plane.ok(["policy", verb, digest, "--level", "tenant:default", "--reason", "test"])?;
    }
    let asked = json!([
        ["getInvoice", {"id": "2026-1"}],
        ["listInvoices", {"status": ["open", "paid"], "filter": {"customer": "Bo & Co"}}],
        ["payInvoice", {"id": "2026-1", "body": {"amount_cents": 100_000}}],
        ["payInvoice", {"id": "2026-1", "body": {"amount_cents": 100_001}}],
        ["getInvoice", {"id": "../customers/7"}],
        ["getInvoice", {"id": "2026-1", "X-Api-Key": "mine"}],
        ["payInvoice", {"id": "2026-1", "body": {"amount_cents": "all"}}],
        ["getCustomer", {"customer_id": 7}],
        ["deleteInvoice", {"id": "2026-1"}],
        ["getInvoice", {"id": "none"}],
    ]);
    let (saw, run) = calls(&plane, &asked)?;
    let names: Vec<_> = saw["tools"].as_array().context("tools")?.iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["deleteInvoice", "getInvoice", "listInvoices", "payInvoice"]);
    let found = saw["found"].as_array().context("results")?;
    assert_eq!(found[0]["structuredContent"]["customer"]["name"], "Bo", "{}", found[0]);
    assert_eq!(found[1]["structuredContent"]["items"][0]["id"], "2026-1", "{}", found[1]);
    assert_eq!(found[2]["structuredContent"], json!({"left_cents": 0}));
    assert!(found[3].to_string().contains("large"), "the policy is named: {}", found[3]);
    assert!(found[4]["isError"] == true && text(&found[4]).contains("`id`"), "{}", found[4]);
    for (place, cause) in [(5, "tool.inputSchema"), (6, "tool.inputSchema"), (7, "getCustomer")] {
        assert!(found[place].to_string().contains(cause), "{}", found[place]);
    }
    assert!(text(&found[8]).contains("held the credential"), "{}", found[8]);
    assert!(text(&found[9]).starts_with("HTTP 404 Not Found."), "{}", found[9]);
    assert!(!saw.to_string().contains(KEY));
    let seen = api.seen();
    let lines: Vec<_> = seen.iter().map(|request| request.lines().next().unwrap_or_default()).collect();
    assert_eq!(
        lines,
        [
            "GET /v2/invoices/2026-1 HTTP/1.1",
            "GET /v2/invoices?filter%5Bcustomer%5D=Bo%20%26%20Co&status=open&status=paid HTTP/1.1",
            "POST /v2/invoices/2026-1/payments HTTP/1.1",
            "DELETE /v2/invoices/2026-1 HTTP/1.1",
            "GET /v2/invoices/none HTTP/1.1",
        ]
    );
    assert!(seen.iter().all(|request| request.contains(&format!("x-api-key: {KEY}\r\n"))));
    assert!(seen[2].ends_with("{\"amount_cents\": 100000}"), "as the agent wrote it: {}", seen[2]);
    let leaves = plane.leaves(&run)?;
    assert_eq!(count(&leaves, "tool.call.decided", Some("permit")), 6, "{leaves:#?}");
    assert!(count(&leaves, "tool.call.decided", Some("block")) >= 1);
    assert!(!serde_json::to_string(&leaves)?.contains(KEY));

    // It is all in the plane's own state.
    plane.stop()?;
    fs::remove_file(&document)?;
    plane.up()?;
    let (saw, _) = calls(&plane, &json!([["getInvoice", {"id": "2026-1"}]]))?;
    assert_eq!(saw["found"][0]["structuredContent"]["id"], "2026-1", "{saw:#}");
    assert!(!plane.log().contains(KEY));
    Ok(())
}

/// The same name and the same words for another request: no agent calls it before somebody has looked.
#[test]
fn a_document_that_changes_is_looked_at_again() -> Result<()> {
    let (plane, api) = (plane()?, Api::start()?);
    let add = |text: &str, more: &[&str]| -> Result<()> {
        let document = scratch(&plane, "invoices.yaml", text)?;
        let mut args =
            vec!["tool-server", "add", "invoices", "--openapi", &document, "--url", &api.url, "--reason", "test"];
        args.extend(more);
        plane.ok(args).map(drop)
    };
    add(INVOICES, &["--approve-tools"])?;
    register(&plane, "invoices", "getInvoice, listInvoices")?;
    let both = json!([["getInvoice", {"id": "2026-1"}], ["listInvoices", {"limit": 1}]]);
    let (saw, _) = calls(&plane, &both)?;
    assert_eq!(saw["tools"].as_array().map(Vec::len), Some(2));
    // What getInvoice reads now goes to the document's path, everything else as it was.
    let swapped = INVOICES.replace("/invoices/{id}:", "/archive/{id}:");
    ensure!(swapped != INVOICES, "the document is another");
    add(&swapped, &[])?;
    let tools = plane.json(["tool", "list", "invoices"])?;
    let state = |name: &str| {
        let mut tools = tools.as_array().into_iter().flatten();
        tools.find(|tool| tool["name"] == name).map(|tool| tool["state"].clone()).unwrap_or_default()
    };
    assert_ne!(state("getInvoice"), "approved", "{tools:#}");
    assert_eq!(state("listInvoices"), "approved");
    let before = api.seen().len();
    let (saw, _) = calls(&plane, &both)?;
    assert_eq!(saw["tools"].as_array().map(Vec::len), Some(1));
    assert!(saw["found"][1]["structuredContent"].is_object() && saw["found"][0].get("structuredContent").is_none());
    assert_eq!(api.seen().len(), before + 1);
    let diff = plane.ok(["tool", "diff", "invoices", "getInvoice"])?;
    assert!(diff.contains("/archive/{id}"), "{diff}");
    Ok(())
}

struct Served(Child, String);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn python() -> PathBuf {
    let given = std::env::var_os("COGWARD_TEST_FASTAPI").map(PathBuf::from);
    given.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/cogward/venvs/fastapi/bin/python")
    })
}

fn inventory(verb: &str) -> Command {
    let mut command = Command::new(python());
    command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/openapi/inventory.py"), verb]);
    command
}

/// An API whose document a framework wrote, served by that framework: it decodes a path before it looks for its route.
#[test]
fn an_api_of_a_framework_is_called_by_its_own_document() -> Result<()> {
    let made = inventory("document").output().context("FastAPI: scripts/setup-tests.sh installs it")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut child = inventory("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut port)?;
    let served = Served(child, format!("http://127.0.0.1:{}", port.trim()));
    let plane = plane()?;
    let document = scratch(&plane, "inventory.json", &String::from_utf8(made.stdout)?)?;
    let added = plane.cli([
        "tool-server",
        "add",
        "inventory",
        "--openapi",
        &document,
        "--url",
        &served.1,
        "--include",
        "read",
        "--include",
        "write",
        "--approve-tools",
        "--reason",
        "test",
    ])?;
    assert_eq!(added.code(), 0, "{}", added.stderr);
    let (list, read, put) = ("list_items_items_get", "read_item_items__key__get", "put_item_items__key__put");
    register(&plane, "inventory", &format!("{list}, {read}, {put}"))?;
    let nut =
        json!({"name": "nut", "unit": "box", "stock": 3, "parts": [{"name": "thread", "stock": 1}], "note": null});
    let (saw, _) = calls(
        &plane,
        &json!([
            [read, {"key": "a 1"}],
            [put, {"key": "ü&=+", "body": nut}],
            [list, {"unit": ["box"], "limit": 5, "x-trace": "t"}],
            [read, {"key": "a 1/secrets"}],
            [read, {"key": "a 1%2Fsecrets"}],
            [put, {"key": "x", "body": {"name": "", "stock": -1}}],
            [read, {"key": "none"}],
            [read, {"key": "a 1?secrets"}],
        ]),
    )?;
    let found = saw["found"].as_array().context("results")?;
    assert_eq!(found[0]["structuredContent"]["name"], "bolt", "{}", found[0]);
    assert_eq!(found[1]["structuredContent"]["parts"][0]["name"], "thread", "{}", found[1]);
    assert_eq!(found[2]["structuredContent"]["ü&=+"]["stock"], 3, "{}", found[2]);
    for refused in [&found[3], &found[4], &found[5], &found[7]] {
        assert!(refused["isError"] == true || refused["error"].is_object(), "{refused}");
        assert!(!refused.to_string().contains("\"secret\""), "{refused}");
    }
    assert!(text(&found[6]).contains("no such item"), "{}", found[6]);
    Ok(())
}
