//! Exchanges with servers that break off, ask, say too much, or speak another era than was thought.

use std::sync::atomic::{AtomicUsize, Ordering};

use cogward_model::{Id, SystemClock, SystemEntropy, pin_name::OtherKind};
use serde_json::json;

use super::{
    exchange::{ClientCan, Exchange, Peer, Step, UpRequest},
    scripted::{Says, Server, event, greets, server},
    *,
};

const CALL: UpRequest<'static> =
    UpRequest { name: Some("t"), ..UpRequest::plain("tools/call", br#"{"name":"t","arguments":{}}"#) };

fn asked() -> Peer {
    Peer { run: Some(Id::new(&SystemClock, &SystemEntropy)), can: ClientCan::ELICIT_FORM }
}

async fn call(server: &Server, peer: Peer) -> Result<Exchange, UpstreamError> {
    server.client.begin(None, peer, CALL).await
}

/// The text of the result, or what went wrong.
async fn text(server: &Server) -> Result<String, String> {
    let mut exchange = call(server, Peer::PLANE).await.map_err(|error| error.to_string())?;
    loop {
        match exchange.next().await.map_err(|error| error.to_string())? {
            Step::Done(reply) => return Ok(String::from_utf8_lossy(&reply.result).into_owned()),
            _ => continue,
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_is_taken_up_after_its_last_event() {
    let server = server(json!({}), |seen| {
        // The greeting was the first request of the session, the call is the second.
        let done = event(&json!({"jsonrpc": "2.0", "id": 2, "result": {"a": 1}}));
        match (seen.method.as_str(), seen.asks()) {
            ("POST", "tools/call") => Says::Stream(vec!["id: e1\nretry: 20\ndata: \n\n".into(), "id: e2\nda".into()]),
            ("GET", _) if seen.header("last-event-id").is_some() => Says::Stream(vec![done]),
            _ => greets(seen).unwrap(),
        }
    })
    .await;
    let begun = std::time::Instant::now();
    let said = text(&server).await;
    let resumed = server.asked("GET").pop().unwrap();
    assert_eq!(resumed.header("last-event-id"), Some("e1"), "an event that was not whole does not count");
    assert_eq!(resumed.header("mcp-session-id"), Some("s1"));
    assert!(begun.elapsed() >= Duration::from_millis(20), "the wait that the server wants");
    assert_eq!(said.unwrap(), r#"{"a":1}"#);
}

#[tokio::test]
async fn a_stream_without_ids_that_ends_early_is_not_sent_again_and_one_that_never_answers_is_given_up() {
    let broken = server(json!({}), |seen| match seen.asks() {
        "tools/call" => Says::Stream(vec![": hello\n\n".into()]),
        _ => greets(seen).unwrap(),
    })
    .await;
    assert!(text(&broken).await.unwrap_err().contains("broke off"));
    assert_eq!(broken.asked("tools/call").len(), 1, "it may have had its effect");
    let endless = server(json!({}), |seen| match (seen.method.as_str(), seen.asks()) {
        ("POST", "tools/call") | ("GET", _) => Says::Stream(vec!["id: e1\nretry: 1\ndata: \n\n".into()]),
        _ => greets(seen).unwrap(),
    })
    .await;
    assert!(text(&endless).await.unwrap_err().contains("broke off"));
    assert!(endless.asked("GET").len() <= 6, "{}", endless.asked("GET").len());
}

#[tokio::test]
async fn what_answers_another_request_is_no_answer() {
    let server = server(json!({}), |seen| match seen.asks() {
        "tools/call" => Says::Json(json!({"jsonrpc": "2.0", "id": 999, "result": {}})),
        _ => greets(seen).unwrap(),
    })
    .await;
    assert!(text(&server).await.unwrap_err().contains("something else than what was asked"));
}

#[tokio::test]
async fn a_question_reaches_whoever_asked_and_the_answer_the_server() {
    let server = server(json!({}), |seen| match seen.asks() {
        "tools/call" => {
            let (feed, fed) = tokio::sync::mpsc::unbounded_channel();
            let ask = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}});
            feed.send(event(&ask)).unwrap();
            std::mem::forget(feed);
            Says::Fed(fed)
        }
        _ => greets(seen).unwrap(),
    })
    .await;
    let mut exchange = call(&server, asked()).await.unwrap();
    let Step::Ask(ask) = exchange.next().await.unwrap() else { panic!("it asks") };
    ask.answer.answer(Ok(br#"{"action":"decline"}"#));
    let answer = server.answer().await;
    assert_eq!((&answer["id"], &answer["result"]["action"]), (&json!("q"), &json!("decline")));
    let greeted = server.asked("initialize");
    let capabilities: Vec<_> = greeted.iter().map(|seen| &seen.message["params"]["capabilities"]).collect();
    assert_eq!(capabilities, [&json!({}), &json!({"elicitation": {"form": {}}})], "a session of its own");
    drop(exchange);
    let cancelled = server.until("notifications/cancelled").await;
    let id = server.asked("tools/call").pop().unwrap().message["id"].clone();
    assert_eq!(cancelled.message["params"]["requestId"], id);
}

#[tokio::test]
async fn who_cannot_be_asked_is_not_and_asking_without_end_is() {
    let asks = |seen: &super::scripted::Seen| match seen.asks() {
        "tools/call" => {
            let ask = |n: u32| event(&json!({"jsonrpc": "2.0", "id": n, "method": "elicitation/create", "params": {}}));
            let mut pieces: Vec<_> = (0..40).map(ask).collect();
            pieces.push(event(&seen.result(&json!({"content": []}))));
            Says::Stream(pieces)
        }
        _ => greets(seen).unwrap(),
    };
    let declining = server(json!({}), asks).await;
    assert!(text(&declining).await.unwrap_err().contains("asks back without end"));
    assert_eq!(declining.answer().await["error"]["code"], -32601);
}

#[tokio::test]
async fn only_what_the_operator_marked_is_sent_twice() {
    for (limits, sent) in [(json!({}), 1), (json!({"idempotent": ["t"]}), 2), (json!({"idempotent": ["u"]}), 1)] {
        let count = AtomicUsize::new(0);
        let server = server(limits, move |seen| match seen.asks() {
            "tools/call" if count.fetch_add(1, Ordering::SeqCst) == 0 => Says::Status(503),
            "tools/call" => Says::Json(seen.result(&json!({"content": []}))),
            _ => greets(seen).unwrap(),
        })
        .await;
        assert_eq!(text(&server).await.is_ok(), sent == 2);
        assert_eq!(server.asked("tools/call").len(), sent);
    }
}

#[tokio::test]
async fn as_many_requests_are_under_way_as_the_operator_allows() {
    let server = server(json!({"concurrency": 1}), |seen| match seen.asks() {
        "tools/call" => {
            let (feed, fed) = tokio::sync::mpsc::unbounded_channel();
            std::mem::forget(feed);
            Says::Fed(fed)
        }
        _ => greets(seen).unwrap(),
    })
    .await;
    let first = call(&server, Peer::PLANE).await.unwrap();
    let busy = call(&server, Peer::PLANE).await.unwrap_err();
    assert!(matches!(busy, UpstreamError::Busy { .. }) && !busy.effect_possible(), "{busy}");
    assert_eq!(server.asked("tools/call").len(), 1);
    drop(first);
    assert!(call(&server, Peer::PLANE).await.is_ok());
}

#[tokio::test]
async fn a_stateless_server_is_spoken_to_without_a_session_and_found_out_again_when_it_changes() {
    let modern = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let now = Arc::clone(&modern);
    let server = server(json!({}), move |seen| match (seen.asks(), now.load(Ordering::SeqCst)) {
        ("server/discover", true) => {
            Says::Json(seen.result(&json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})))
        }
        ("tools/call", false) if seen.header("mcp-method").is_some() => {
            let data = json!({"supported": ["2025-11-25"], "requested": "2026-07-28"});
            Says::Refused(json!({"jsonrpc": "2.0", "id": seen.message["id"], "error": {"code": -32022, "message": "no", "data": data}}))
        }
        ("tools/call", _) => Says::Json(seen.result(&json!({"content": []}))),
        _ => greets(seen).unwrap(),
    })
    .await;
    text(&server).await.unwrap();
    let called = server.asked("tools/call").pop().unwrap();
    assert_eq!(called.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!((called.header("mcp-method"), called.header("mcp-name")), (Some("tools/call"), Some("t")));
    assert_eq!(called.header("mcp-session-id"), None);
    assert_eq!(called.message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
    assert!(server.asked("initialize").is_empty());
    modern.store(false, Ordering::SeqCst);
    text(&server).await.unwrap();
    assert_eq!(server.asked("initialize").len(), 1);
    assert_eq!(server.asked("tools/call").pop().unwrap().header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn pages_without_end_are_given_up() {
    let server = server(json!({}), |seen| match seen.asks() {
        "prompts/list" => Says::Json(seen.result(&json!({"prompts": [], "nextCursor": "more"}))),
        _ => greets(seen).unwrap(),
    })
    .await;
    assert!(server.client.list(OtherKind::Prompt).await.unwrap_err().to_string().contains("more than 100 pages"));
}

#[tokio::test]
async fn a_change_is_heard_and_the_list_read_again() {
    let (feed, fed) = tokio::sync::mpsc::unbounded_channel();
    let fed = std::sync::Mutex::new(Some(fed));
    let listed = AtomicUsize::new(0);
    let server = server(json!({}), move |seen| match (seen.method.as_str(), seen.asks()) {
        ("GET", _) => fed.lock().unwrap().take().map_or(Says::Status(405), Says::Fed),
        ("POST", "prompts/list") => {
            let name = format!("p{}", listed.fetch_add(1, Ordering::SeqCst));
            Says::Json(seen.result(&json!({"prompts": [{"name": name}]})))
        }
        ("POST", "resources/subscribe" | "resources/unsubscribe") => Says::Json(seen.result(&json!({}))),
        _ => greets(seen).unwrap(),
    })
    .await;
    let names = async || {
        server
            .client
            .list(OtherKind::Prompt)
            .await
            .unwrap()
            .items()
            .iter()
            .map(|item| item.name.key().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!((names().await, names().await), (vec!["p0".to_owned()], vec!["p0".to_owned()]));
    let what = watch::WatchFor { prompts: true, uris: vec!["a:b".into()], ..Default::default() };
    let mut watch = server.client.watch(Peer::PLANE, what).await.unwrap();
    let note =
        |method: &str, params: serde_json::Value| event(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    feed.send(note("notifications/resources/updated", json!({"uri": "a:other"}))).unwrap();
    feed.send(note("notifications/message", json!({"level": "error", "data": "of another run, perhaps"}))).unwrap();
    feed.send(note("notifications/resources/updated", json!({"uri": "a:b"}))).unwrap();
    feed.send(note("notifications/prompts/list_changed", json!({}))).unwrap();
    assert!(matches!(watch.next().await, Some(watch::UpEvent::ResourceUpdated(uri)) if uri == "a:b"));
    assert!(matches!(watch.next().await, Some(watch::UpEvent::PromptsChanged)));
    assert_eq!(names().await, ["p1"]);
    drop(watch);
    assert_eq!(server.until("resources/unsubscribe").await.message["params"]["uri"], "a:b");
}

/// One line that is too long takes only its own call with it.
#[tokio::test]
async fn a_line_that_is_too_long_ends_only_its_request() {
    let program = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    if m["method"] == "initialize":
        r = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
    elif m["method"] == "server/discover":
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    else:
        r = {"content": [], "pad": "x" * (17 * 1024 * 1024 if m["params"]["arguments"].get("long") else 1)}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;
    let transport = json!({"kind": "stdio", "command": "/usr/bin/python3", "args": ["-c", program], "sandbox": "none"});
    let client = Arc::new(super::client(transport, None));
    let ask = async |arguments: &str| {
        let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
        let request = UpRequest { name: Some("t"), ..UpRequest::plain("tools/call", params.as_bytes()) };
        client.begin(None, Peer::PLANE, request).await?.next().await
    };
    let error = ask(r#"{"long":true}"#).await.unwrap_err();
    assert!(matches!(&error, UpstreamError::Protocol { cause, .. } if cause.contains("longer than")), "{error}");
    let processes = client.generations.load(Ordering::SeqCst);
    assert!(matches!(ask("{}").await, Ok(Step::Done(_))));
    assert_eq!(client.generations.load(Ordering::SeqCst), processes, "the same process goes on");
}

/// What a process answers that cannot be read fails its request at once, and nobody waits for the limit of time.
#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_its_request_at_once() {
    let program = r#"
import json, sys
print("a banner, as some servers have it", flush=True)
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    n = m["id"]
    if m["method"] == "initialize":
        print(json.dumps({"level": "info", "msg": "another one"}), flush=True)
        print(json.dumps({"jsonrpc": "2.0", "id": n, "result": {"protocolVersion": "2025-11-25", "capabilities": {}}}), flush=True)
    elif m["method"] == "server/discover":
        print('{"jsonrpc":"2.0","error":{"code":-1,"code":-2,"message":"no"}}', flush=True)
    else:
        say = m["params"]["arguments"]["say"]
        print(say.replace("@", str(n)), flush=True)
"#;
    let transport = json!({"kind": "stdio", "command": "/usr/bin/python3", "args": ["-c", program], "sandbox": "none"});
    let patient = Timeouts { start: Duration::from_secs(60), call: Duration::from_secs(60) };
    let client = Arc::new(super::client(transport, None).with_timeouts(patient));
    let begun = std::time::Instant::now();
    for unreadable in [
        r#"{"jsonrpc":"2.0","id":@,"result":{"a":1,"a":2}}"#,
        r#"{"result":{"a":1,"a":2},"jsonrpc":"2.0","id":@}"#,
        r#"{"jsonrpc":"2.0","id":@,"result":{"content":["#,
        r#"{"jsonrpc":"2.0","id":"@","result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
    ] {
        let params = json!({"name": "t", "arguments": {"say": unreadable}}).to_string();
        let request = UpRequest { name: Some("t"), ..UpRequest::plain("tools/call", params.as_bytes()) };
        let said = client.begin(None, Peer::PLANE, request).await.unwrap().next().await;
        assert!(
            matches!(&said, Err(UpstreamError::Protocol { cause, .. }) if cause.contains("cannot be read")),
            "{unreadable}: {said:?}"
        );
    }
    assert!(begun.elapsed() < PROBE, "something was waited for: {:?}", begun.elapsed());
    assert_eq!(client.generations.load(Ordering::SeqCst), 1, "the same process goes on");
}

/// A server over HTTP that reads a request whole and hangs up on those that it is told to, by their number.
async fn hangs_up(on: &'static [usize]) -> (Arc<ToolServerClient>, Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let seen: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                loop {
                    let (mut bytes, mut part) = (Vec::new(), [0_u8; 4096]);
                    let body = loop {
                        let read = stream.read(&mut part).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&part[..read]);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length =
                            head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                        if body.len() >= length.unwrap_or(0) {
                            break body.to_owned();
                        }
                    };
                    let message: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                    let asks = message["method"].as_str().unwrap_or("").to_owned();
                    let number = {
                        let mut all = all.lock().unwrap();
                        all.push(asks.clone());
                        all.len()
                    };
                    if on.contains(&number) {
                        return;
                    }
                    let result = match asks.as_str() {
                        "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}),
                        "tools/list" => json!({"tools": []}),
                        _ => json!({"content": []}),
                    };
                    let (status, body) = match asks.as_str() {
                        "server/discover" => ("404 Not Found", String::new()),
                        _ if message["id"].is_null() => ("202 Accepted", String::new()),
                        _ => ("200 OK", json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()),
                    };
                    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nmcp-session-id: s1\r\n");
                    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (Arc::new(super::client(json!({"kind": "http", "url": url}), None)), seen)
}

#[tokio::test]
async fn a_server_that_hangs_up_one_connection_is_not_left_alone() {
    // 1 asks what it speaks, 2 greets, 3 says so, 4 lists; each is hung up on once.
    for number in [&[1_usize], &[2], &[3]] {
        let (client, seen) = hangs_up(number).await;
        let listed = client.tools().await;
        assert!(listed.is_ok(), "{number:?}: {listed:?} {:?}", seen.lock().unwrap());
    }
    // A call may have had an effect: it is lost, and only it.
    let (client, seen) = hangs_up(&[5]).await;
    client.tools().await.unwrap();
    let call = async || client.begin(None, Peer::PLANE, CALL).await?.next().await;
    let lost = call().await.unwrap_err();
    assert!(matches!(lost, UpstreamError::Unavailable { sent: true, .. }), "{lost}");
    assert!(matches!(call().await, Ok(Step::Done(_))));
    let calls = seen.lock().unwrap().iter().filter(|asks| *asks == "tools/call").count();
    assert_eq!(calls, 2, "nothing is sent twice by itself");
    // One that hangs up on every greeting is.
    let (client, _) = hangs_up(&[2, 3]).await;
    let refused = client.tools().await.unwrap_err();
    assert!(matches!(refused, UpstreamError::Unavailable { .. }), "{refused}");
    assert!(matches!(client.tools().await, Err(UpstreamError::Resting { .. })));
}

/// Sessions that end, one after the other, are no failures of the server.
#[tokio::test]
async fn sessions_that_end_again_and_again_are_begun_again_without_a_rest() {
    let calls = AtomicUsize::new(0);
    let server = server(json!({}), move |seen| match seen.asks() {
        // Each session is good for one call.
        "tools/call" if calls.fetch_add(1, Ordering::SeqCst) % 2 == 1 => Says::Status(404),
        "tools/call" => Says::Json(seen.result(&json!({"content": []}))),
        _ => greets(seen).unwrap(),
    })
    .await;
    for peer in [Peer::PLANE, asked()] {
        for n in 0..8 {
            let mut exchange = call(&server, peer).await.unwrap();
            loop {
                match exchange.next().await {
                    Ok(Step::Done(_)) => break,
                    Ok(_) => {}
                    Err(error) => panic!("call {n}: {error}"),
                }
            }
        }
    }
}

/// Whoever goes away while a server starts has not seen it fail.
#[tokio::test]
async fn a_start_that_nobody_waits_for_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let program = r#"
import json, os, sys, time
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    while not os.path.exists(sys.argv[1]): time.sleep(0.005)
    r = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "tools": []}
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
"#;
    let args = json!(["-c", program, gate]);
    let transport = json!({"kind": "stdio", "command": "/usr/bin/python3", "args": args, "sandbox": "none"});
    let client = super::client(transport, None);
    for _ in 0..4 {
        assert!(tokio::time::timeout(Duration::from_millis(50), client.tools()).await.is_err(), "the gate is closed");
    }
    std::fs::write(&gate, "open").unwrap();
    let listed = client.tools().await;
    assert!(listed.is_ok(), "{listed:?}");
}
