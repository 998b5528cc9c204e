//! A credential that the agent never has, and every way to get it that was thought of.

use std::io::Write;

use cogward_model::event::EventType;

use super::rig::{HOST, OTHER, PLACEHOLDER, Rig, SECRET, ok};
use crate::{NoticeKind, egress::tests::field};

fn with(headers: &str) -> String {
    format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n")
}

#[tokio::test]
async fn the_host_gets_the_secret_and_nobody_else_sees_it() {
    let rig = Rig::new(|_| ok("fine")).await;
    rig.store();
    let mut agent = rig.agent(HOST).await;
    let answer = agent.ask(&with(&format!("Authorization: Bearer {PLACEHOLDER}\r\nAccept-Encoding: gzip\r\n"))).await;
    assert_eq!(answer.body, "fine", "{}", answer.all());
    let parts = "Range: bytes=9-\r\nIf-Range: \"a\"\r\nAccept-Charset: utf-16\r\n";
    let asked = with(&format!("Authorization: Bearer {PLACEHOLDER}\r\n{parts}"));
    assert_eq!(agent.ask(&asked).await.body, "fine");
    let heard = rig.heard().pop().unwrap().to_lowercase();
    assert!(!heard.contains("range") && !heard.contains("charset"), "a part of the answer cannot be watched: {heard}");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x:{PLACEHOLDER}"));
    assert_eq!(agent.ask(&with(&format!("Authorization: Basic {basic}\r\n"))).await.body, "fine");
    let heard = rig.heard();
    assert!(heard[0].contains(&format!("authorization: Bearer {SECRET}\r\n")), "{}", heard[0]);
    assert!(heard[0].contains("accept-encoding: identity\r\n"), "{}", heard[0]);
    let filled = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x:{SECRET}"));
    assert!(heard[2].contains(&format!("authorization: Basic {filled}\r\n")), "{}", heard[2]);
    rig.ledger.completed(3).await;
    assert_eq!(field(&rig.decided()[0], "credential"), "github");
    assert!(!rig.told().contains(SECRET) && !answer.all().contains(SECRET));
}

#[tokio::test]
async fn a_placeholder_anywhere_else_is_a_finding_and_goes_nowhere() {
    let rig = Rig::new(|_| ok("fine")).await;
    rig.store();
    let encoded = PLACEHOLDER.replace(':', "%3A");
    for (count, (host, request)) in [
        (HOST, with(&format!("X-Api-Key: {PLACEHOLDER}\r\n"))),
        (HOST, with(&format!("User-Agent: {PLACEHOLDER}\r\n"))),
        (HOST, with(&format!("Authorization: Bearer {PLACEHOLDER} {PLACEHOLDER}\r\n"))),
        (HOST, with("Authorization: Bearer cogward-placeholder:gitlab\r\n")),
        (HOST, with("Authorization: Bearer Cogward-Placeholder:github\r\n")),
        (HOST, format!("GET /v1/x?t={PLACEHOLDER} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
        (HOST, format!("GET /v1/{encoded} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")),
        (HOST, format!("GET /v1/x HTTP/1.1\r\nHost: evil.example\r\nX-A: {PLACEHOLDER}\r\n\r\n")),
        (OTHER, format!("GET / HTTP/1.1\r\nHost: {OTHER}\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\r\n")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut agent = rig.agent(host).await;
        let answer = agent.ask(&request).await;
        assert_eq!(answer.status, 403, "{request}: {}", answer.all());
        assert!(answer.body.contains("\"code\":\"credential_misused\""), "{request}: {}", answer.all());
        let findings = rig.ledger.of(EventType::SecurityFinding);
        assert_eq!(findings.len(), count + 1, "{request}");
        assert_eq!(field(&findings[count], "severity"), "high");
        assert_eq!(rig.notices(count + 1).await.last(), Some(&NoticeKind::CredentialMisused));
    }
    assert_eq!(rig.heard().len(), 0);
    let block = rig.decided().pop().unwrap();
    assert_eq!((field(&block, "code"), field(&block, "severity")), ("credential_misused".into(), "high".into()));
}

#[tokio::test]
async fn a_placeholder_in_clear_is_refused_too() {
    let rig = Rig::new(|_| ok("fine")).await;
    rig.store();
    let mut stream = tokio::net::TcpStream::connect(rig.proxy).await.unwrap();
    let request = format!(
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nConnection: close\r\n\
         Authorization: Bearer {PLACEHOLDER}\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("credential_misused"), "{answer}");
}

#[tokio::test]
async fn a_credential_of_another_host_or_none_is_not_sent() {
    let rig = Rig::new(|_| ok("fine")).await;
    let request = with(&format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
    for host in [None, Some(OTHER)] {
        if let Some(host) = host {
            rig.store_for(host, "authorization");
        }
        let answer = rig.agent(HOST).await.ask(&request).await;
        assert_eq!(answer.status, 502, "{}", answer.all());
        assert!(answer.body.contains("\"rule\":\"egress.credential\""), "{}", answer.all());
    }
    rig.store();
    assert_eq!(rig.agent(HOST).await.ask(&request).await.status, 200);
    let tenant = "default".parse().unwrap();
    assert!(rig.gateway.upstreams().remove_egress_credential(&tenant, &"github".parse().unwrap()));
    assert_eq!(rig.agent(HOST).await.ask(&request).await.status, 502, "taken back");
    assert_eq!(rig.heard().len(), 1);
}

/// What the agent gets of an answer that holds what the host was sent.
async fn echoed(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (Rig, String) {
    let rig = Rig::new(answer).await;
    rig.store();
    let mut agent = rig.agent(HOST).await;
    agent.send(&with(&format!("Authorization: Bearer {PLACEHOLDER}\r\nConnection: close\r\n"))).await;
    let all = agent.rest().await;
    (rig, all)
}

fn authorization(request: &str) -> &str {
    request.split("authorization: Bearer ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or("none")
}

#[tokio::test]
async fn a_secret_that_comes_back_does_not_reach_the_agent() {
    type Answer = fn(&str) -> String;
    let answers: [(&str, Answer); 5] = [
        ("a header", |r| format!("HTTP/1.1 200 OK\r\nX-Echo: {}\r\nContent-Length: 0\r\n\r\n", authorization(r))),
        ("a redirect", |r| {
            format!("HTTP/1.1 302 Found\r\nLocation: /?{}\r\nContent-Length: 0\r\n\r\n", authorization(r))
        }),
        ("the body", |r| ok(&format!("{{\"headers\": \"{}\"}}", authorization(r)))),
        ("an error page", |r| ok(r).replace("200 OK", "400 Bad Request")),
        ("base64", |r| {
            ok(&base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD,
                format!("you sent: {}", authorization(r)),
            ))
        }),
    ];
    for (what, answer) in answers {
        let (rig, all) = echoed(answer).await;
        assert_eq!(authorization(&rig.heard()[0]), SECRET, "{what}: it was sent");
        assert!(!all.contains(&SECRET[..12]), "{what}: {all}");
        assert_eq!(rig.notices(1).await, [NoticeKind::CredentialEchoed], "{what}");
        while rig.ledger.of(EventType::SecurityFinding).is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(field(&rig.ledger.of(EventType::SecurityFinding)[0], "finding"), "egress.credential_echoed");
        rig.ledger.completed(1).await;
    }
}

#[tokio::test]
async fn a_secret_in_small_pieces_is_found_too() {
    let (_rig, all) = echoed(|request| {
        let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for piece in format!("before {} after", authorization(request)).as_bytes().chunks(3) {
            text.push_str(&format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)));
        }
        text + "0\r\n\r\n"
    })
    .await;
    assert!(all.contains("200 OK") && !all.contains("ghp"), "{all}");
}

#[tokio::test]
async fn an_encoded_answer_of_such_a_host_is_refused() {
    for coding in [
        "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
        "Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\nConnection: close\r\n\r\nxyz",
    ] {
        let (_rig, all) = echoed(move |_| format!("HTTP/1.1 200 OK\r\n{coding}")).await;
        assert!(all.starts_with("HTTP/1.1 502") && !all.contains("xyz"), "{coding}: {all}");
        assert!(all.contains("egress.echo"), "{coding}: {all}");
    }
    let (_rig, all) =
        echoed(|_| "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n".into()).await;
    assert!(all.starts_with("HTTP/1.1 200") && all.contains("xyz"), "{all}");
}

#[tokio::test]
async fn nothing_of_it_is_in_the_log() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (rig, _) = echoed(|request| ok(authorization(request))).await;
    rig.notices(1).await;
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("egress finding"), "{text}");
    assert!(!text.contains(SECRET) && !text.contains(&SECRET[..12]));
}
