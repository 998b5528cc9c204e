//! Connections and their bytes against budgets, over sockets and all at once.

use std::collections::HashSet;

use cogward_budget::Scope;
use cogward_model::event::EventType;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::{
        sni::tests::real_hello,
        tests::{HOST, Plane, ask, canned, connect, echo, field, plane_with, rest, status},
    },
    *,
};

const KIB: u64 = 1024;

fn limits(connections: u64, egress_bytes: u64) -> Amounts {
    Amounts { connections, egress_bytes, ..Amounts::default() }
}

fn used(plane: &Plane) -> (Amounts, Amounts) {
    let balance = plane.budgets.balance(&Scope::run(plane.run));
    (balance.used, balance.held)
}

/// Bytes of all connections, as their records say.
fn recorded(plane: &Plane) -> u64 {
    let ended = plane.ledger.of(EventType::EgressCompleted);
    let number = |event, name| field(event, name).parse::<u64>().unwrap_or(0);
    ended.iter().map(|event| number(event, "bytes_up") + number(event, "bytes_down")).sum()
}

#[tokio::test]
async fn forty_connections_at_once_do_not_pass_a_limit_of_ten() {
    let (upstream, _heard) = echo().await;
    let plane = plane_with(upstream, limits(10, u64::MAX));
    let answers = join_all((0..40).map(|_| connect(plane.proxy, "api.example.com:443"))).await;
    let opened = answers.iter().filter(|(head, _)| status(head) == 200).count();
    assert_eq!(opened, 10);
    assert_eq!(plane.ledger.rules("block"), ["budgets.run.connections"; 30]);
    let (used, held) = used(&plane);
    assert_eq!(used.connections + held.connections, 10);
    assert!(answers.iter().any(|(head, _)| head.contains("rule budgets.run.connections")), "the agent is told");
}

#[tokio::test]
async fn a_dial_that_fails_is_a_connection_too() {
    let plane = plane_with("127.0.0.1:1".parse().unwrap(), limits(2, u64::MAX));
    for wanted in ["egress.dial", "egress.dial", "budgets.run.connections"] {
        let (head, _) = connect(plane.proxy, "api.example.com:443").await;
        assert!(head.contains(&format!("(rule {wanted})")), "{head}");
    }
    assert_eq!(used(&plane).0.connections, 2);
}

#[tokio::test]
async fn eight_tunnels_at_once_carry_what_the_budget_has_to_the_byte() {
    let limit = 900 * KIB;
    let (upstream, mut heard) = echo().await;
    let plane = plane_with(upstream, limits(100, limit));
    let hello = real_hello(HOST);
    join_all((0..8).map(|_| async {
        let (head, stream) = connect(plane.proxy, "api.example.com:443").await;
        if status(&head) != 200 {
            return;
        }
        let (mut reads, mut writes) = stream.into_split();
        let sends = async {
            let _ = writes.write_all(&hello).await;
            let _ = writes.write_all(&vec![7; 400 * KIB as usize]).await;
            let _ = writes.shutdown().await;
        };
        let mut answered = Vec::new();
        let _ = tokio::join!(sends, reads.read_to_end(&mut answered));
    }))
    .await;
    let opened = plane.ledger.of(EventType::EgressDecided);
    let first = |event: &&cogward_model::event::Event| {
        field(event, "decision") == "permit" && !event.fields.iter().any(|f| f.name == "refs")
    };
    let connections = opened.iter().filter(first).count();
    let decided = opened.iter().filter(|event| field(event, "decision") == "permit").count();
    let ended = plane.ledger.completed(decided).await;
    let (used, held) = used(&plane);
    assert_eq!(held, Amounts::default(), "everything is settled");
    assert_eq!(used.connections, connections as u64);
    assert_eq!(used.egress_bytes, limit, "not one byte more, and none left over while some still wanted it");
    assert!(recorded(&plane) <= limit);
    assert!(ended.iter().any(|event| field(event, "end") == "budget"), "a tunnel that is cut short says why");
    let refused: HashSet<_> = plane.ledger.rules("block").into_iter().collect();
    assert_eq!(refused, HashSet::from(["budgets.run.egressMib".to_owned()]));
    drop(plane);
    let mut arrived = 0;
    while let Ok(bytes) = heard.try_recv() {
        arrived += bytes.len() as u64;
    }
    assert!(arrived <= limit);
}

#[tokio::test]
async fn what_of_an_instalment_is_not_used_is_given_back() {
    let (upstream, _heard) = echo().await;
    let plane = plane_with(upstream, limits(100, 10 * 1024 * KIB));
    let hello = real_hello(HOST);
    let (_, mut stream) = connect(plane.proxy, "api.example.com:443").await;
    stream.write_all(&hello).await.unwrap();
    stream.shutdown().await.unwrap();
    rest_bytes(&mut stream).await;
    plane.ledger.completed(1).await;
    let (used, held) = used(&plane);
    assert_eq!((used.egress_bytes, held.egress_bytes), (recorded(&plane), 0));
    assert_eq!(used.egress_bytes, 2 * hello.len() as u64 + "<end>".len() as u64);
}

async fn rest_bytes(stream: &mut tokio::net::TcpStream) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
}

#[tokio::test]
async fn bytes_are_counted_where_nothing_limits_them() {
    let (upstream, _heard) = echo().await;
    let plane = plane_with(upstream, limits(100, u64::MAX));
    let (_, mut stream) = connect(plane.proxy, "api.example.com:443").await;
    stream.write_all(&real_hello(HOST)).await.unwrap();
    stream.shutdown().await.unwrap();
    rest_bytes(&mut stream).await;
    plane.ledger.completed(1).await;
    assert_eq!(plane.ledger.of(EventType::EgressDecided).len(), 1, "and nothing is asked for in instalments");
    assert_eq!(used(&plane).0.egress_bytes, recorded(&plane));
}

/// An answer of plain HTTP that goes on for ever.
#[tokio::test]
async fn a_plain_answer_ends_where_the_budget_ends() {
    let limit = 700 * KIB;
    let answer: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n{}", "x".repeat(2_000_000)).into());
    let (upstream, _heard) = canned(answer, 0).await;
    let plane = plane_with(upstream, limits(100, limit));
    let (head, mut stream) =
        ask(plane.proxy, "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n").await;
    assert_eq!(status(&head), 200, "{head}");
    let body = rest(&mut stream).await;
    // What hyper has not written when it is told that the body broke off is lost.
    assert!(body.len() as u64 <= limit && !body.is_empty());
    let decided = plane.ledger.of(EventType::EgressDecided);
    assert!(decided.len() >= 3, "in instalments");
    plane.ledger.completed(decided.len() - 1).await;
    assert_eq!(used(&plane).0.egress_bytes, limit);
    assert_eq!(plane.ledger.rules("block"), ["budgets.run.egressMib"]);
}

#[tokio::test]
async fn the_eighth_and_later_requests_of_a_budget_that_is_used_up_are_refused() {
    let answer = "HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\ndone";
    let forwarded = "GET / HTTP/1.1\r\nHost: plain.example.com\r\n\r\n";
    let (upstream, _heard) = canned(answer, 0).await;
    // Heads count like bodies: in them as much can be carried away.
    let plane = plane_with(upstream, limits(100, 7 * (forwarded.len() + answer.len()) as u64));
    for number in 0..9 {
        let (head, mut stream) = ask(
            plane.proxy,
            "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert_eq!(status(&head) == 200, number < 7, "{number}: {head}");
        if number < 7 {
            assert_eq!(rest(&mut stream).await, "done");
            plane.ledger.completed(number + 1).await;
        }
    }
    assert_eq!(plane.ledger.rules("block"), ["budgets.run.egressMib"; 2]);
}
