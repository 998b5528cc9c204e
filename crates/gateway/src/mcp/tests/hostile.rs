//! What an agent or a web page may try at the endpoint.

use super::*;

const JSON: (&str, &str) = ("content-type", "application/json");
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn another_origin_or_host_is_not_answered() {
    let plane = Plane::new(vec![]);
    let agent = plane.run(5);
    for extra in [("origin", "http://evil.example"), ("origin", "null"), ("host", "evil.example")] {
        assert_eq!(agent.send("POST", &[JSON, extra], PING).await.status, StatusCode::FORBIDDEN, "{extra:?}");
    }
}

#[tokio::test]
async fn a_session_of_another_run_is_none() {
    let plane = Plane::new(vec![]);
    let (mut one, mut two) = (plane.run(5), plane.run(5));
    one.greet().await;
    two.session = one.session.clone();
    assert_eq!(two.ask("ping", json!({})).await.status, StatusCode::NOT_FOUND);
    let session = one.session.clone().unwrap();
    assert_eq!(two.send("DELETE", &[("mcp-session-id", &session)], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(one.ask("ping", json!({})).await.status, StatusCode::OK);
    one.session = None;
    assert_eq!(one.ask("ping", json!({})).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn malformed_messages_are_protocol_errors() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}1{}}}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let smuggled = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_text_file","name":"write_file","arguments":{"path":"x"}}}"#;
    let arguments = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":"x","p\u0061th":"y"}}}"#;
    for (body, code) in [
        ("{", -32700),
        ("", -32700),
        (deep.as_str(), -32700),
        (smuggled, -32700),
        (arguments, -32700),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["read_text_file",{"path":"x"}]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, -32602),
    ] {
        let reply = agent.post(body.to_owned()).await;
        assert_eq!(reply.code(), code, "{body}: {:?}", reply.body);
    }
    assert!(plane.ledger.of(EventType::ToolCallDecided).is_empty());
}

#[tokio::test]
async fn a_huge_body_and_a_wrong_media_type_are_refused() {
    let plane = Plane::new(vec![]);
    let agent = plane.run(5);
    assert_eq!(
        agent.send("POST", &[("content-type", "text/plain")], PING).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let accept = ("accept", "text/html");
    assert_eq!(agent.send("POST", &[JSON, accept], PING).await.status, StatusCode::NOT_ACCEPTABLE);
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 9000000\r\n\r\n",
        agent.address
    );
    let mut stream = tokio::net::TcpStream::connect(agent.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413", "before any of it is sent");
}

#[tokio::test]
async fn headers_that_disagree_with_the_body_are_refused() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let agent = plane.run(5);
    let call = || json!({"name": "read_text_file", "arguments": {"path": "x"}});
    for headers in [
        &[("mcp-method", "tools/list")][..],
        &[("mcp-method", "")],
        &[("mcp-name", "list_directory")],
        &[("mcp-name", "")],
        &[("mcp-name", "=?base64?***?=")],
        &[("mcp-name", "read_text_file"), ("mcp-name", "read_text_file")],
        &[("mcp-protocol-version", "")],
        &[("mcp-protocol-version", "2025-11-25")],
    ] {
        let reply = agent.stateless("tools/call", call(), headers).await;
        assert_eq!((reply.status, reply.code()), (StatusCode::BAD_REQUEST, -32020), "{headers:?} {:?}", reply.body);
    }
    let listed = json!({"name": "list_directory", "arguments": {"path": "x"}});
    for header in [&[][..], &[("mcp-param-path", "y")]] {
        assert_eq!(agent.stateless("tools/call", listed.clone(), header).await.code(), -32020, "{header:?}");
    }
    assert!(!agent.stateless("tools/call", listed, &[("mcp-param-path", "x")]).await.said().0);
    let encoded = agent.stateless("tools/call", call(), &[("mcp-name", "=?base64?cmVhZF90ZXh0X2ZpbGU=?=")]).await;
    assert_eq!(encoded.status, StatusCode::OK);
    assert_eq!(plane.ledger.of(EventType::ToolCallDecided).len(), 2);
}

#[tokio::test]
async fn an_unknown_revision_is_answered_with_the_known_ones() {
    let plane = Plane::new(vec![]);
    let agent = plane.run(5);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "1900-01-01", "io.modelcontextprotocol/clientCapabilities": {}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}}).to_string();
    let headers = [JSON, ("mcp-protocol-version", "1900-01-01"), ("mcp-method", "server/discover")];
    let reply = agent.send("POST", &headers, body).await;
    assert_eq!((reply.status, reply.code()), (StatusCode::BAD_REQUEST, -32022));
    assert_eq!(reply.json()["error"]["data"]["supported"][0], "2026-07-28");
    let bare = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
    let headers = [JSON, ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    assert_eq!(agent.send("POST", &headers, bare.to_string()).await.code(), -32602, "capabilities are missing");
}
