//! Who trusts whom.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::rig::{HOST, OTHER, Rig, Root, ok};
use crate::{
    NoticeKind,
    egress::{
        sni::tests::{hello_with, name_extension, real_hello},
        tests::field,
    },
};

#[tokio::test]
async fn a_host_whose_certificate_is_not_valid_gets_nothing() {
    let (root, stranger) = (Root::new(), Root::new());
    let long_ago = OffsetDateTime::from_unix_timestamp(1_600_000_000).unwrap();
    for (what, server) in [
        ("a root that nobody trusts", stranger.server(|_| {})),
        (
            "another name",
            root.server(|p| p.subject_alt_names = vec![rcgen::SanType::DnsName("evil.example".try_into().unwrap())]),
        ),
        ("expired", root.server(|p| p.not_after = long_ago)),
        ("not valid yet", root.server(|p| p.not_before = p.not_after - Duration::from_secs(1))),
    ] {
        let rig = Rig::with(&root, server, |_| ok("fine")).await;
        rig.store();
        let mut agent = rig.agent(HOST).await;
        let answer = agent
            .ask(&format!(
                "GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer cogward-placeholder:github\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status, 502, "{what}: {}", answer.all());
        assert!(answer.body.contains("\"rule\":\"egress.certificate\""), "{what}: {}", answer.all());
        assert_eq!(rig.heard().len(), 0, "{what}");
        assert_eq!(rig.notices(1).await, [NoticeKind::CertificateInvalid], "{what}");
        let ended = rig.ledger.completed(1).await;
        assert_eq!(field(&ended[0], "outcome"), "unknown", "{what}");
    }
}

#[tokio::test]
async fn a_client_that_trusts_only_the_real_authorities_is_told_apart() {
    let rig = Rig::new(|_| ok("fine")).await;
    let stream = rig.tunnel(HOST).await;
    let name = ServerName::try_from(HOST).unwrap();
    let pinned = TlsConnector::from(Arc::new(Root::new().client()));
    assert!(pinned.connect(name, stream).await.is_err());
    assert_eq!(rig.notices(1).await, [NoticeKind::AuthorityNotTrusted]);
    while rig.decided().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.ledger.rules("block"), ["egress.trust"]);
    assert!(rig.told().contains("SSL_CERT_FILE"), "{}", rig.told());
    assert_eq!(rig.connections(), 0);
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut only_h2 = rig.trust();
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    let stream = rig.tunnel(HOST).await;
    let name = ServerName::try_from(HOST).unwrap();
    assert!(TlsConnector::from(Arc::new(only_h2)).connect(name.clone(), stream).await.is_err());
    let mut both = rig.trust();
    both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = rig.tunnel(HOST).await;
    let agreed = TlsConnector::from(Arc::new(both)).connect(name, stream).await.unwrap();
    assert_eq!(agreed.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn nothing_of_a_wrong_hello_is_answered_with_a_certificate() {
    let rig = Rig::new(|_| ok("fine")).await;
    let name = name_extension(HOST.as_bytes());
    let ech = [0xfe, 0x0d, 0, 1, 0];
    for (count, (what, sent)) in [
        ("another inspected name", real_hello(OTHER)),
        ("another name", real_hello("evil.example.com")),
        ("no name", hello_with(&[])),
        ("a hidden name", hello_with(&[&name[..], &ech].concat())),
        ("plain HTTP", b"GET /v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_vec()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = rig.tunnel(HOST).await;
        stream.write_all(&sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() <= 7, "{what}: at most an alert: {answer:?}");
        while rig.decided().len() <= count {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.ledger.rules("block").last().unwrap(), "egress.tls", "{what}");
    }
    assert_eq!(rig.connections(), 0);
}

#[tokio::test]
async fn the_authority_of_a_run_is_forgotten_with_it() {
    let rig = Rig::new(|_| ok("fine")).await;
    let mut agent = rig.agent(HOST).await;
    assert_eq!(agent.ask(&format!("GET /v1/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.status, 200);
    assert_eq!(rig.gateway.inner.egress.inspection.known(), 1);
    rig.gateway.close_run(rig.run);
    assert_eq!(rig.gateway.inner.egress.inspection.known(), 0);
    assert_eq!(agent.rest().await, "");
}
