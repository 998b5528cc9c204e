//! Requests that two readers could read differently, and requests that are for somebody else.

use super::rig::{HOST, OTHER, Rig, ok};

#[tokio::test]
async fn no_request_in_the_tunnel_gets_to_another_name() {
    let rig = Rig::new(|_| ok("fine")).await;
    for (request, status, rule) in [
        ("GET /v1/x HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {OTHER}\r\n\r\n"), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}:8443\r\n\r\n"), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}.\r\n\r\n"), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: user@{HOST}\r\n\r\n"), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nHost: evil.example\r\n\r\n"), 403, "egress.host_header"),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}, evil.example\r\n\r\n"), 403, "egress.host_header"),
        ("GET /v1/x HTTP/1.1\r\nAccept: */*\r\n\r\n".to_owned(), 403, "egress.host_header"),
        (format!("GET https://evil.example/v1/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 400, "egress.form"),
        (format!("GET https://{HOST}/v1/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 400, "egress.form"),
        (format!("GET /v1/x HTTP/1.0\r\nHost: {HOST}\r\n\r\n"), 400, "egress.form"),
        (
            format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            400,
            "egress.upgrade",
        ),
        (format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: h2c\r\n\r\n"), 400, "egress.upgrade"),
        (format!("GET /v1/{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(9_000)), 400, "egress.form"),
        (format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 403, "permissions.egress.inspect"),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 403, "permissions.egress.inspect"),
    ] {
        let mut agent = rig.agent(HOST).await;
        let answer = agent.ask(&request).await;
        let shown: String = request.chars().take(100).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.all());
        assert!(answer.body.contains(&format!("\"rule\":\"{rule}\"")), "{shown}: {}", answer.all());
        assert_eq!(rig.ledger.rules("block").last().unwrap(), rule, "{shown}");
    }
    assert_eq!((rig.heard().len(), rig.connections()), (0, 0), "nothing was dialled");
    assert!(rig.ledger.rules("permit").is_empty());
}

#[tokio::test]
async fn no_header_asks_for_another_method_or_path() {
    let rig = Rig::new(|_| ok("fine")).await;
    for (header, sent) in [
        ("X-HTTP-Method", "DELETE"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X_HTTP_Method_Override", "DELETE"),
        ("x-method-override", "PUT"),
        ("X-Original-Method", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Original-URI", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-Original-Host", "evil.example"),
        ("X-Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Prefix", "/admin"),
        ("X_Forwarded_Uri", "/admin"),
        ("Forwarded", "host=evil.example"),
    ] {
        let request = format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{header}: {sent}\r\nContent-Length: 0\r\n\r\n");
        let answer = rig.agent(HOST).await.ask(&request).await;
        assert_eq!(answer.status, 403, "{header}: {}", answer.all());
        assert!(answer.body.contains("\"rule\":\"egress.form\""), "{header}: {}", answer.all());
        assert_eq!(rig.ledger.rules("block").last().unwrap(), "egress.form", "{header}");
    }
    assert_eq!((rig.heard().len(), rig.connections()), (0, 0), "nothing was dialled");
}

#[tokio::test]
async fn what_is_not_strictly_http_is_refused_and_recorded() {
    let rig = Rig::new(|_| ok("fine")).await;
    let host = format!("Host: {HOST}\r\n");
    for (what, request) in [
        ("two lengths", format!("POST /v1/x HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")),
        ("a list of lengths", format!("POST /v1/x HTTP/1.1\r\n{host}Content-Length: 3, 4\r\n\r\nabcd")),
        ("a signed length", format!("POST /v1/x HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\nabc")),
        ("a folded header", format!("GET /v1/x HTTP/1.1\r\n{host}X-A: b\r\n folded\r\n\r\n")),
        ("a space before the colon", format!("GET /v1/x HTTP/1.1\r\n{host}X-A : b\r\n\r\n")),
        (
            "chunked is not last",
            format!("POST /v1/x HTTP/1.1\r\n{host}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ),
        ("an unknown coding", format!("POST /v1/x HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("a control character", format!("GET /v1/x HTTP/1.1\r\n{host}X-A: b\0c\r\n\r\n")),
        ("a space in the path", format!("GET /v1/a b HTTP/1.1\r\n{host}\r\n")),
        ("an unknown version", format!("GET /v1/x HTTP/3.7\r\n{host}\r\n")),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("no HTTP", "SSH-2.0-client\r\n\r\n".to_owned()),
        ("a head without end", format!("GET /v1/x HTTP/1.1\r\n{host}X-A: {}\r\n\r\n", "a".repeat(100_000))),
        ("headers without number", format!("GET /v1/x HTTP/1.1\r\n{host}{}\r\n", "X-A: b\r\n".repeat(200))),
    ] {
        let before = rig.decided().len();
        let mut agent = rig.agent(HOST).await;
        // The other side may close while the rest is still on its way.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut agent.stream, request.as_bytes()).await;
        let head = agent.head().await;
        let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        // The preface of HTTP/2 gets no answer in HTTP/1.1.
        assert!(matches!(status, 400 | 414 | 431) || (head.is_empty() && what.contains("HTTP/2")), "{what}: {head}");
        for _ in 0..100_000 {
            if rig.decided().len() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.decided().len(), before + 1, "{what}: recorded");
        assert_eq!(rig.ledger.rules("block").last().unwrap(), "egress.form", "{what}");
    }
    assert_eq!(rig.heard().len(), 0);
}

#[tokio::test]
async fn a_request_within_a_request_is_never_a_request() {
    let smuggled = format!("GET /admin HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let rig = Rig::new(|_| ok("fine")).await;
    for lengths in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"]
    {
        let before = rig.heard().len();
        let mut agent = rig.agent(HOST).await;
        let request = format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{lengths}\r\n0\r\n\r\n{smuggled}");
        let answer = agent.ask(&request).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
        // By RFC 9112, 6.3 the chunks count, the length goes, and nothing more is read on this connection.
        assert_eq!(agent.rest().await, "", "{lengths}");
        let heard = rig.heard();
        assert_eq!(heard.len(), before + 1, "{heard:?}");
        let last = heard.last().unwrap().to_ascii_lowercase();
        assert!(!last.contains("content-length: 5") && !last.contains("/admin"), "{last}");
    }
    // With a length that both readers agree on, what follows is the next request and is decided as one.
    let mut agent = rig.agent(HOST).await;
    let first = format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    let answer = agent.ask(&format!("{first}{smuggled}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(agent.answer().await.status, 403);
    assert!(!rig.heard().concat().contains("/admin"));
}
