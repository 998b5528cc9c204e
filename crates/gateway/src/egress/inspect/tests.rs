//! Inspected hosts as an agent meets them: real TLS on both sides, byte by byte, well-meaning and not.

mod attacks;
mod credentials;
mod rig;
mod tls;

use tokio::io::AsyncWriteExt;

use self::rig::{HOST, Rig, ok};
use crate::egress::tests::field;

#[tokio::test]
async fn each_request_is_decided_and_recorded_by_itself() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut agent = rig.agent(HOST).await;
    for (request, status, rule) in [
        ("GET /v1/models?limit=3 HTTP/1.1", 200, "permissions.egress.inspect"),
        ("POST /v1/x HTTP/1.1", 200, "permissions.egress.inspect"),
        ("DELETE /v1/models HTTP/1.1", 403, "permissions.egress.inspect"),
        ("GET /admin HTTP/1.1", 403, "permissions.egress.inspect"),
        ("GET /v1/../admin HTTP/1.1", 403, "permissions.egress.inspect"),
        ("GET /v1/%2e%2e/admin HTTP/1.1", 403, "permissions.egress.inspect"),
        ("GET /v1/again HTTP/1.1", 200, "permissions.egress.inspect"),
    ] {
        let answer = agent.ask(&format!("{request}\r\nHost: {HOST}\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.all());
        if status == 200 {
            assert_eq!(answer.body, "fine");
        } else {
            assert!(answer.body.contains(&format!("\"rule\":\"{rule}\"")), "{request}: {}", answer.all());
        }
    }
    let heard = rig.heard();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[0].starts_with("GET /v1/models?limit=3 HTTP/1.1\r\n"), "the query goes on: {}", heard[0]);
    assert_eq!(rig.connections(), 1, "one connection for the three");
    let decided = rig.decided();
    assert_eq!(decided.len(), 7);
    let first = &decided[0];
    assert_eq!((field(first, "method").as_str(), field(first, "host").as_str()), ("GET", HOST));
    assert_eq!(field(first, "path"), "/v1/models");
    for sealed in ["path", "query"] {
        let sealed = first.fields.iter().find(|f| f.name == sealed).unwrap();
        assert_eq!(sealed.class, cogward_model::event::FieldClass::Confidential);
    }
    assert_eq!(field(first, "query"), "limit=3");
    assert!(decided[1].fields.iter().all(|f| f.name != "query"), "there was none");
    let ended = rig.ledger.completed(3).await;
    assert_eq!((field(&ended[0], "status"), field(&ended[0], "outcome")), ("200".into(), "ok".into()));
}

#[tokio::test]
async fn a_path_is_recorded_to_its_end() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut agent = rig.agent(HOST).await;
    let long = format!("/v1/{}/pay-5000", "a".repeat(4_000));
    let answer = agent.ask(&format!("GET {long} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert_eq!(answer.status, 200, "{}", answer.all());
    assert_eq!(field(&rig.decided()[0], "path"), long);
    // Of one that is too long to be decided there is the digest.
    let longer = format!("/v1/{}", "a".repeat(9_000));
    let answer = agent.ask(&format!("GET {longer} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(answer.status != 200, "{}", answer.all());
    assert_eq!(field(&rig.decided()[1], "path"), crate::mcp::sha256(longer.as_bytes()).to_string());
}

#[tokio::test]
async fn bodies_are_streamed_both_ways_and_headers_of_one_hop_or_of_ours_stay_here() {
    let rig = Rig::new(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 1\r\nX-Cogward-Code: x\r\nTrailer: t\r\n\r\n\
         5\r\nhello\r\n0\r\nt: 1\r\n\r\n"
            .into()
    })
    .await;
    let mut agent = rig.agent(HOST).await;
    let answer = agent
        .ask(&format!(
            "POST /v1/x HTTP/1.1\r\nHost: {HOST}:443\r\nTransfer-Encoding: chunked\r\nX-Mine: 1\r\nX-Cogward-Run: forged\r\n\
             Proxy-Authorization: Basic eA==\r\nConnection: X-Named\r\nX-Named: 1\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n\
             3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        ))
        .await;
    let answer = if answer.status == 100 { agent.answer().await } else { answer };
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{}", answer.all());
    assert!(!answer.head.contains("x-cogward") && !answer.head.contains("keep-alive"), "{}", answer.head);
    let heard = rig.heard().concat().to_ascii_lowercase();
    assert!(heard.contains(&format!("host: {HOST}\r\n")) && heard.contains("x-mine: 1\r\n"), "{heard}");
    for gone in ["x-cogward", "proxy-", "x-named", "te:", "connection:", "expect", "trailer"] {
        assert!(!heard.contains(&format!("\r\n{gone}")), "{gone}: {heard}");
    }
    assert!(heard.contains("abc") && heard.contains("defg"), "{heard}");
}

#[tokio::test]
async fn a_stream_of_events_arrives_before_it_ends_and_a_cut_breaks_it_off() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 d\r\ndata: first\n\n\r\n";
    let rig = Rig::new(move |_| begun.into()).await;
    let mut agent = rig.agent(HOST).await;
    agent.send(&format!("GET /v1/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    let head = agent.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: first") {
        seen.push(agent.byte().await.unwrap());
    }
    assert_eq!(rig.gateway.in_flight(rig.run), 1);
    rig.gateway.cut(rig.run);
    let rest = agent.rest().await;
    assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
    let ended = rig.ledger.completed(1).await;
    assert_eq!((field(&ended[0], "outcome"), field(&ended[0], "status")), ("unknown".into(), "200".into()));
}

#[tokio::test]
async fn a_connection_that_the_host_closed_between_two_requests_is_opened_again() {
    let rig = Rig::new(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".into()).await;
    let mut agent = rig.agent(HOST).await;
    for _ in 0..3 {
        let answer = agent.ask(&format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
        assert_eq!(answer.body, "ok", "{}", answer.all());
    }
    assert_eq!(rig.connections(), 3);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let rig = Rig::new(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf".into()).await;
    let mut agent = rig.agent(HOST).await;
    agent.send(&format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(agent.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(agent.rest().await, "half");
    let ended = rig.ledger.completed(1).await;
    assert_eq!(field(&ended[0], "outcome"), "unknown");
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_its_body_is_settled() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut agent = rig.agent(HOST).await;
    agent.send(&format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nhalf")).await;
    agent.stream.shutdown().await.unwrap();
    drop(agent);
    let ended = rig.ledger.completed(1).await;
    assert_eq!(field(&ended[0], "outcome"), "unknown");
    assert_eq!(rig.gateway.in_flight(rig.run), 0);
}

#[tokio::test]
async fn a_client_that_is_too_slow_is_cut_off() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut agent = rig.agent(HOST).await;
    agent.send("GET /v1/x HT").await;
    // From here on time passes when nothing else happens.
    tokio::time::pause();
    let rest = agent.rest().await;
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    assert_eq!(rig.heard().len(), 0);
}
