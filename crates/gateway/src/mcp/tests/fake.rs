//! A tool server with a mind of its own: the argument `path` says how it behaves.

use std::{
    convert::Infallible,
    io::{BufRead, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use super::*;

/// Length of a large answer.
pub(super) const LARGE: usize = 15 * 1000 * 1000;

pub(super) fn tools() -> Value {
    let path = json!({"type": "object", "properties": {"path": {"type": "string"}, "depth": {"type": "integer", "minimum": 0}}, "required": ["path"]});
    json!([
        {"name": "write_file", "description": "secret of the house", "inputSchema": path},
        {"name": "read_text_file", "inputSchema": path, "x-unknown": {"kept": 1.50}},
        {"name": "list_directory", "inputSchema": {"type": "object", "properties": {"path": {"type": "string", "x-mcp-header": "Path"}}}},
    ])
}

/// A large answer, made without the detour over a value.
fn large(id: &Value) -> String {
    let text = "x".repeat(LARGE);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#)
}

fn answer(request: &Value) -> Option<Value> {
    let id = request.get("id")?;
    let params = &request["params"];
    let result = match request["method"].as_str()? {
        "initialize" => {
            json!({"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "fake", "version": "0"}})
        }
        "tools/list" if params["cursor"] == "2" => json!({"tools": [tools()[2]]}),
        "tools/list" => json!({"tools": [tools()[0], tools()[1]], "nextCursor": "2"}),
        "tools/call" => match params["arguments"]["path"].as_str().unwrap_or_default() {
            "hang" => return None,
            "rpc-error" => {
                return Some(
                    json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32602, "message": "no\u{7} such file"}}),
                );
            }
            "not-a-result" => json!([1]),
            "failed" => json!({"content": [{"type": "text", "text": "it failed"}], "isError": true}),
            path => {
                json!({"content": [{"type": "text", "text": format!("{} of {path}", params["name"].as_str().unwrap_or_default())}], "x": 1})
            }
        },
        _ => return Some(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})),
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

/// The server over stdio: this test binary, started again.
pub(super) fn stdio(name: &str) -> ToolServer {
    let command = std::env::current_exe().unwrap();
    serde_json::from_value(json!({"tenant": "default", "name": name, "transport": {
        "kind": "stdio", "command": command,
        "args": ["--exact", "mcp::tests::fake::stdio_server", "--ignored", "--nocapture"],
        "env": {"COGWARD_FAKE": "1"}, "sandbox": "none"
    }}))
    .unwrap()
}

#[test]
#[ignore = "the other side of the stdio tests, started by them"]
fn stdio_server() {
    if std::env::var_os("COGWARD_FAKE").is_none() {
        return;
    }
    let mut lines = std::io::stdin().lock().lines();
    // The harness has begun a line of its own.
    let mut say = {
        let mut out = std::io::stdout();
        writeln!(out).unwrap();
        move |text: &str| {
            writeln!(out, "{text}").unwrap();
            out.flush().unwrap();
        }
    };
    while let Some(Ok(line)) = lines.next() {
        let request: Value = serde_json::from_str(&line).unwrap();
        let id = request["id"].clone();
        match request["params"]["arguments"]["path"].as_str().unwrap_or_default() {
            "die" => std::process::exit(3),
            "large" => {
                say(&large(&id));
                continue;
            }
            "garbage" => say("this is no message"),
            "garbage-without-end" => (0..100).for_each(|_| say("this is no message")),
            "half-a-line" => {
                print!("{{\"jsonrpc\":");
                std::io::stdout().flush().unwrap();
                std::process::exit(0);
            }
            "twice" => {
                say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"id":{id},"result":{{"content":[]}}}}"#));
                continue;
            }
            "asks-back" => {
                say(r#"{"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{}}"#);
                let declined: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                say(r#"{"jsonrpc":"2.0","id":"s2","method":"ping"}"#);
                let pong: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                let text = format!("{} {} {}", declined["id"], declined["error"]["code"], pong["result"]);
                say(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
                    .to_string());
                continue;
            }
            "environment" => {
                let mut names: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
                names.sort();
                let text = names.join(" ");
                say(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
                    .to_string());
                continue;
            }
            _ => {}
        }
        if let Some(answer) = answer(&request) {
            say(&answer.to_string());
        }
    }
}

/// The server over HTTP, with sessions that it forgets on request.
#[derive(Default)]
pub(super) struct HttpFake {
    pub(super) greeted: AtomicUsize,
    pub(super) calls: AtomicUsize,
    pub(super) stream: AtomicBool,
    pub(super) forget: AtomicBool,
    pub(super) seen: Mutex<Vec<HeaderMap>>,
}

pub(super) async fn http(name: &str) -> (ToolServer, Arc<HttpFake>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let fake = Arc::new(HttpFake::default());
    let serving = Arc::clone(&fake);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = Arc::clone(&serving);
            let service = service_fn(move |request| respond(Arc::clone(&fake), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let server = json!({"tenant": "default", "name": name, "transport": {"kind": "http", "url": url}});
    (serde_json::from_value(server).unwrap(), fake)
}

async fn respond(fake: Arc<HttpFake>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    fake.seen.lock().unwrap().push(head.headers.clone());
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Ok(response)
    };
    let session = format!("s{}", fake.greeted.load(Ordering::SeqCst));
    let greeting = body["method"] == "initialize";
    if !greeting && head.headers.get("mcp-session-id").is_none_or(|id| *id != *session) {
        return plain(StatusCode::NOT_FOUND);
    }
    if body["method"] == "tools/call" && fake.forget.swap(false, Ordering::SeqCst) {
        return plain(StatusCode::NOT_FOUND);
    }
    if body["method"] == "tools/call" {
        fake.calls.fetch_add(1, Ordering::SeqCst);
        match body["params"]["arguments"]["path"].as_str().unwrap_or_default() {
            "redirect" => {
                let moved = Response::builder().status(307).header("location", "http://127.0.0.1:1/");
                return Ok(moved.body(Full::default()).unwrap());
            }
            "hang" => std::future::pending::<()>().await,
            "half-a-stream" => {
                let events = Response::builder().header("content-type", "text/event-stream");
                return Ok(events.body(Full::from("data: {\"jsonrpc\":")).unwrap());
            }
            "large" => {
                let (kind, text) = match fake.stream.load(Ordering::SeqCst) {
                    true => ("text/event-stream", format!("data: {}\n\n", large(&body["id"]))),
                    false => ("application/json", large(&body["id"])),
                };
                return Ok(Response::builder().header("content-type", kind).body(Full::from(text)).unwrap());
            }
            "html" => {
                let page = Response::builder().header("content-type", "text/html");
                return Ok(page.body(Full::from("<html>")).unwrap());
            }
            "too-long" => {
                let long = Response::builder().header("content-type", "application/json");
                return Ok(long.body(Full::from(vec![b' '; 17 * 1024 * 1024])).unwrap());
            }
            _ => {}
        }
    }
    let Some(answer) = answer(&body) else { return plain(StatusCode::ACCEPTED) };
    let mut response = Response::builder();
    if greeting {
        let count = fake.greeted.fetch_add(1, Ordering::SeqCst) + 1;
        response = response.header("mcp-session-id", format!("s{count}"));
    }
    Ok(if fake.stream.load(Ordering::SeqCst) {
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
        let events = format!(": hi\n\nevent: message\ndata: {note}\n\nid: 1\ndata: {answer}\n\n");
        response.header("content-type", "text/event-stream").body(Full::from(events)).unwrap()
    } else {
        response.header("content-type", "application/json; charset=utf-8").body(Full::from(answer.to_string())).unwrap()
    })
}
