//! The proxy as an agent meets it: over a socket, byte by byte, well-meaning and not.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cogward_budget::{Budgets, Scope};
use cogward_model::{
    Digest, Id, RunId, SystemClock, SystemEntropy,
    action::Amounts,
    event::{Event, EventType, Value},
    id::EventId,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};

use super::{
    host::HostPort,
    resolve::{FixedResolver, Lookup, Resolve},
    sni::tests::{hello_with, in_records, name_extension, real_hello},
    *,
};
use crate::{FenceState, Gateway, Records, RunGrant, RunListeners, gate::Unrecorded, testing::manifest};

pub(super) const HOST: &str = "api.example.com";

#[derive(Default)]
pub(super) struct Ledger {
    events: Mutex<Vec<Event>>,
    grown: Notify,
}

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move { self.note(event) })
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        self.events.lock().unwrap().push(event);
        self.grown.notify_waiters();
        Ok(Id::new(&SystemClock, &SystemEntropy))
    }
    fn stopped(&self) -> Option<String> {
        None
    }
}

pub(super) fn field(event: &Event, name: &str) -> String {
    let found = event.fields.iter().find(|f| f.name == name);
    match found.map(|f| &f.value) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

impl Ledger {
    pub(super) fn of(&self, kind: EventType) -> Vec<Event> {
        self.events.lock().unwrap().iter().filter(|e| e.kind == kind).cloned().collect()
    }

    pub(super) fn rules(&self, decision: &str) -> Vec<String> {
        let decided = self.of(EventType::EgressDecided);
        decided.iter().filter(|e| field(e, "decision") == decision).map(|e| field(e, "rule")).collect()
    }

    /// Waits until so many connections have ended.
    pub(super) async fn completed(&self, count: usize) -> Vec<Event> {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                let ended = self.of(EventType::EgressCompleted);
                if ended.len() >= count {
                    return ended;
                }
                grown.await;
            }
        })
        .await
        .unwrap()
    }
}

struct Counting(FixedResolver, Arc<AtomicUsize>);
impl Resolve for Counting {
    fn lookup(&self, target: &HostPort) -> Lookup {
        self.1.fetch_add(1, Ordering::AcqRel);
        self.0.lookup(target)
    }
}

pub(super) struct Plane {
    pub(super) gateway: Gateway,
    pub(super) ledger: Arc<Ledger>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) run: RunId,
    pub(super) proxy: SocketAddr,
    pub(super) lookups: Arc<AtomicUsize>,
}

/// A run that may reach `api.example.com` over TLS and `plain.example.com` in clear, both at `upstream`.
fn plane(upstream: SocketAddr) -> Plane {
    plane_with(upstream, Amounts { connections: 1_000_000, egress_bytes: u64::MAX, ..Amounts::default() })
}

pub(super) fn plane_with(upstream: SocketAddr, limits: Amounts) -> Plane {
    let table: HashMap<_, _> = [
        ("inside.example.com", vec!["10.0.0.7"]),
        ("mixed.example.com", vec!["1.1.1.1", "10.0.0.7"]),
        ("meta.example.com", vec!["169.254.169.254"]),
        ("localhost", vec!["127.0.0.1", "::1"]),
    ]
    .into_iter()
    .map(|(name, ips)| (name.to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect()))
    .collect();
    let lookups = Arc::new(AtomicUsize::new(0));
    let options = EgressOptions {
        static_hosts: [HOST, "plain.example.com"].map(|host| (host.to_owned(), vec![upstream])).into(),
        resolver: Arc::new(Counting(FixedResolver(table), Arc::clone(&lookups))),
        ..EgressOptions::default()
    };
    let mut manifest = manifest();
    manifest.spec.permissions.egress = serde_json::from_value(serde_json::json!([
        {"host": HOST, "port": 443},
        {"host": "plain.example.com", "port": 80, "protocol": "http"},
        {"host": "inside.example.com", "port": 443},
        {"host": "mixed.example.com", "port": 443},
        {"host": "meta.example.com", "port": 443},
        {"host": "localhost", "port": 443},
        {"host": "nowhere.example.com", "port": 443},
        // A manifest that names addresses gets nowhere with them.
        {"host": "169.254.169.254", "port": 80, "protocol": "http"},
        {"host": "127.0.0.1", "port": 443},
    ]))
    .unwrap();
    let (ledger, budgets) = (Arc::new(Ledger::default()), Arc::new(Budgets::new()));
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    budgets.open(Scope::run(run), limits);
    let gateway = Gateway::with_egress(
        Arc::clone(&ledger) as Arc<dyn Records>,
        Arc::clone(&budgets),
        Arc::new(SystemClock),
        options,
    );
    let grant = RunGrant::new(run, &manifest, Digest::from_bytes([7; 32]), None, vec![Scope::run(run)]);
    let listener = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().into();
    let listeners = RunListeners { model: listener(), mcp: listener(), proxy: listener() };
    let proxy = listeners.proxy.local_addr().unwrap();
    gateway.open_run(grant, listeners).unwrap();
    gateway.fence_plane(FenceState::Open);
    gateway.fence(run, FenceState::Open);
    Plane { gateway, ledger, budgets, run, proxy, lookups }
}

/// An upstream that gives what it reads on each connection, and sends it back.
pub(super) async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    all.extend_from_slice(&buffer[..read]);
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                let _ = stream.write_all(b"<end>").await;
                let _ = heard.send(all);
            });
        }
    });
    (address, hears)
}

/// An upstream that answers each connection with these bytes once it has read a head and `body` bytes.
pub(super) async fn canned(answer: &'static str, body: usize) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            let mut rest = vec![0; body];
            if stream.read_exact(&mut rest).await.is_ok() {
                let _ = heard.send(head + std::str::from_utf8(&rest).unwrap());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (address, hears)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

pub(super) async fn ask(proxy: SocketAddr, request: impl AsRef<[u8]>) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    (read_head(&mut stream).await, stream)
}

pub(super) async fn connect(proxy: SocketAddr, target: &str) -> (String, TcpStream) {
    ask(proxy, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await
}

pub(super) async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

pub(super) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn no_spelling_of_a_target_gets_around_the_declaration() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    for (target, expected, rule) in [
        ("evil.example.com:443", 403, "permissions.egress"),
        ("api.example.com:22", 403, "permissions.egress"),
        ("sub.api.example.com:443", 403, "permissions.egress"),
        ("api.example.com.:443", 400, "egress.host"),
        ("api.example.com.evil.com:443", 403, "permissions.egress"),
        ("2130706433:443", 403, "egress.host"),
        ("0x7f.1:443", 403, "egress.host"),
        ("127.1:443", 403, "egress.host"),
        ("0177.0.0.1:443", 403, "egress.host"),
        ("127.0.0.1:443", 403, "egress.host"),
        ("169.254.169.254:80", 403, "egress.host"),
        ("[::1]:443", 403, "egress.host"),
        ("[::ffff:169.254.169.254]:80", 403, "egress.host"),
        ("localhost:443", 403, "egress.address"),
        ("inside.example.com:443", 403, "egress.address"),
        ("mixed.example.com:443", 403, "egress.address"),
        ("meta.example.com:443", 403, "egress.address"),
        ("nowhere.example.com:443", 502, "egress.resolve"),
        ("user@api.example.com:443", 400, "egress.host"),
        ("api.example.com:443@evil.com:443", 400, "egress.host"),
        ("api_x.example.com:443", 400, "egress.host"),
    ] {
        let (head, _) = connect(plane.proxy, target).await;
        assert_eq!(status(&head), expected, "{target}: {head}");
        assert!(head.contains(&format!("(rule {rule})")), "{target}: {head}");
        assert_eq!(plane.ledger.rules("block").last().unwrap(), rule, "{target}");
    }
    assert_eq!(plane.ledger.rules("permit"), Vec::<String>::new());
    assert_eq!(plane.gateway.in_flight(plane.run), 0);
}

#[tokio::test]
async fn what_is_no_request_is_no_connection() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    for bad in [
        &b"CONNECT api.example.com\0.evil.com:443 HTTP/1.1\r\n\r\n"[..],
        b"CONNECT evil.com\0api.example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.example.com%00.evil.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.example.com HTTP/1.1\r\n\r\n",
        b"CONNECT http://api.example.com:443/ HTTP/1.1\r\n\r\n",
        b"CONNECT /api.example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.example.com:443:443 HTTP/1.1\r\n\r\n",
        b"CONNECT api.example.com:0443 HTTP/1.1\r\n\r\n",
        b"CONNECT \xc3\xa4pi.example.com:443 HTTP/1.1\r\n\r\n",
    ] {
        let (head, _) = ask(plane.proxy, bad).await;
        assert_eq!(status(&head), 400, "{}: {head}", String::from_utf8_lossy(bad));
    }
    assert_eq!(plane.ledger.rules("permit"), Vec::<String>::new());
}

#[tokio::test]
async fn a_password_before_the_host_is_not_recorded() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    for request in [
        "CONNECT user:hunter2@api.example.com:443 HTTP/1.1\r\n\r\n",
        "GET http://user:hunter2@plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n",
        "GET https://user:hunter2@api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    ] {
        let (head, mut stream) = ask(plane.proxy, request).await;
        assert_eq!(status(&head), 400);
        stream.shutdown().await.unwrap();
        assert!(!rest(&mut stream).await.contains("hunter2"));
    }
    assert_eq!(plane.ledger.rules("block").len(), 3);
    assert!(!format!("{:?}", plane.ledger.events.lock().unwrap()).contains("hunter2"));
}

#[tokio::test]
async fn a_name_that_is_not_declared_is_not_looked_up_and_a_stopped_run_looks_nothing_up() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    let (head, _) = connect(plane.proxy, "secret-in-a-name.evil.com:443").await;
    assert_eq!(status(&head), 403);
    assert_eq!(plane.lookups.load(Ordering::Acquire), 0);
    plane.gateway.fence(plane.run, FenceState::Closed);
    let (head, _) = connect(plane.proxy, "inside.example.com:443").await;
    assert!(head.contains("lifecycle_fence"), "{head}");
    assert_eq!(plane.lookups.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn a_tunnel_carries_everything_after_a_hello_for_its_host() {
    let (upstream, mut heard) = echo().await;
    let plane = plane(upstream);
    let hello = real_hello(HOST);
    let upper = hello_with(&name_extension(b"API.example.com"));
    for (count, sent) in [hello.clone(), in_records(&hello, 300), upper].into_iter().enumerate() {
        let (head, mut stream) = connect(plane.proxy, "API.example.com:443").await;
        assert_eq!(status(&head), 200, "{head}");
        // In segments of their own, so that the plane has to put them together.
        for piece in sent.chunks(97) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut echoed = vec![0; sent.len()];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, sent);
        stream.write_all(b"more").await.unwrap();
        // The end of what the agent says is passed on, and the upstream still answers.
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, "more<end>");
        assert_eq!(heard.recv().await.unwrap(), [&sent[..], b"more"].concat());
        let ended = plane.ledger.completed(count + 1).await;
        let ended = ended.last().unwrap();
        assert_eq!((field(ended, "outcome"), field(ended, "end")), ("ok".into(), "closed".into()));
        assert_eq!(field(ended, "bytes_up"), (sent.len() + 4).to_string());
        assert_eq!(field(ended, "bytes_down"), (sent.len() + 9).to_string());
    }
    assert_eq!(plane.ledger.rules("permit"), ["permissions.egress"; 3]);
}

#[tokio::test]
async fn nothing_of_a_wrong_hello_reaches_the_host() {
    let (upstream, mut heard) = echo().await;
    let plane = plane(upstream);
    let name = name_extension(HOST.as_bytes());
    let ech = [0xfe, 0x0d, 0, 1, 0];
    for (count, (what, sent, code)) in [
        ("another name", real_hello("evil.example.com"), "address_refused"),
        ("no name", hello_with(&[]), "address_refused"),
        ("a hidden name", hello_with(&[&name[..], &ech].concat()), "address_refused"),
        ("an address as name", hello_with(&name_extension(b"127.0.0.1")), "address_refused"),
        ("a NUL in the name", hello_with(&name_extension(b"api.example.com\0.evil.com")), "address_refused"),
        ("two names", hello_with(&[&name[..], &name].concat()), "invalid_request"),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_vec(), "invalid_request"),
        ("one plain byte", b"S".to_vec(), "invalid_request"),
        ("SSH after a hello's first bytes", b"\x16\x03\x01SSH-2.0".to_vec(), "invalid_request"),
    ]
    .into_iter()
    .enumerate()
    {
        let (head, mut stream) = connect(plane.proxy, "api.example.com:443").await;
        assert_eq!(status(&head), 200);
        stream.write_all(&sent).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(!answer.contains("<end>"), "{what}");
        assert_eq!(heard.recv().await.unwrap(), b"", "{what}");
        let ended = plane.ledger.completed(count + 1).await;
        assert_eq!(field(ended.last().unwrap(), "bytes_up"), "0", "{what}");
        let blocks = loop {
            let blocks = plane.ledger.of(EventType::EgressDecided);
            if blocks.len() == 2 * (count + 1) {
                break blocks;
            }
            tokio::task::yield_now().await;
        };
        let block = blocks.last().unwrap();
        assert_eq!((field(block, "rule"), field(block, "code")), ("egress.tls".into(), code.into()), "{what}");
    }
}

#[tokio::test]
async fn a_cut_ends_a_tunnel_in_the_middle() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    let (_, mut stream) = connect(plane.proxy, "api.example.com:443").await;
    let hello = real_hello(HOST);
    stream.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(plane.gateway.in_flight(plane.run), 1);
    assert_eq!(plane.gateway.cut(plane.run).calls, 1);
    assert_eq!(rest(&mut stream).await, "");
    let ended = plane.ledger.completed(1).await;
    assert_eq!((field(&ended[0], "outcome"), field(&ended[0], "end")), ("unknown".into(), "cut".into()));
    assert_eq!(plane.gateway.in_flight(plane.run), 0);
}

#[tokio::test]
async fn a_suspended_run_waits_and_goes_on() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    plane.gateway.fence(plane.run, FenceState::Held);
    let proxy = plane.proxy;
    let asked = tokio::spawn(async move { connect(proxy, "api.example.com:443").await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished() && plane.ledger.rules("permit").is_empty());
    plane.gateway.fence(plane.run, FenceState::Open);
    assert_eq!(status(&asked.await.unwrap().0), 200);
}

#[tokio::test]
async fn a_flood_of_tunnels_is_throttled_and_recovers() {
    let (upstream, _heard) = echo().await;
    let plane = plane(upstream);
    let mut open = Vec::new();
    for _ in 0..cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX {
        let (head, stream) = connect(plane.proxy, "api.example.com:443").await;
        assert_eq!(status(&head), 200);
        open.push(stream);
    }
    let (head, _) = connect(plane.proxy, "api.example.com:443").await;
    assert_eq!(status(&head), 429, "{head}");
    assert!(head.contains("retry-after"), "{head}");
    drop(open);
    plane.ledger.completed(cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX).await;
    assert_eq!(status(&connect(plane.proxy, "api.example.com:443").await.0), 200);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_said_and_settled() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gone = listener.local_addr().unwrap();
    drop(listener);
    let plane = plane(gone);
    let (head, _) = connect(plane.proxy, "api.example.com:443").await;
    assert_eq!(status(&head), 502, "{head}");
    let ended = plane.ledger.completed(1).await;
    assert_eq!(field(&ended[0], "outcome"), "unknown");
}

#[tokio::test]
async fn plain_http_is_forwarded_without_what_belongs_to_one_hop() {
    let (upstream, mut heard) =
        canned("HTTP/1.1 302 Found\r\nLocation: http://evil.com/\r\nContent-Length: 4\r\nX-Cogward-Code: x\r\nKeep-Alive: 1\r\n\r\ndone", 5)
            .await;
    let plane = plane(upstream);
    let (head, mut stream) = ask(
        plane.proxy,
        "POST http://Plain.example.com/a?b=c HTTP/1.1\r\nHost: plain.example.com:80\r\nContent-Length: 5\r\nX-Mine: 1\r\n\
         X-Cogward-Run: forged\r\nProxy-Authorization: Basic eA==\r\nConnection: X-Named, close\r\nX-Named: 1\r\nTE: trailers\r\n\r\nhello",
    )
    .await;
    assert_eq!(status(&head), 302, "{head}");
    assert!(head.contains("location: http://evil.com/") && !head.contains("x-cogward") && !head.contains("keep-alive"));
    assert_eq!(rest(&mut stream).await, "done");
    let got = heard.recv().await.unwrap().to_ascii_lowercase();
    assert!(got.starts_with("post /a?b=c http/1.1\r\n") && got.ends_with("\r\n\r\nhello"), "{got}");
    assert!(got.contains("host: plain.example.com\r\n") && got.contains("x-mine: 1\r\n"), "{got}");
    for gone in ["x-cogward", "proxy-", "x-named", "te:", "connection"] {
        assert!(!got.contains(gone), "{gone}: {got}");
    }
    let ended = plane.ledger.completed(1).await;
    let up = "POST /a?b=c HTTP/1.1\r\nHost: plain.example.com\r\nX-Mine: 1\r\n\r\nhello".len();
    let down = "HTTP/1.1 302 \r\nLocation: http://evil.com/\r\nContent-Length: 4\r\nX-Cogward-Code: x\r\nKeep-Alive: 1\r\n\r\ndone".len();
    let moved = (field(&ended[0], "bytes_up"), field(&ended[0], "bytes_down"));
    assert_eq!(moved, (up.to_string(), down.to_string()));
    assert_eq!((field(&ended[0], "status"), field(&ended[0], "outcome")), ("302".into(), "ok".into()));
}

#[tokio::test]
async fn plain_http_goes_only_where_it_says_and_only_where_it_is_declared() {
    let (upstream, _heard) = canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0).await;
    let plane = plane(upstream);
    for (request, expected, rule) in [
        ("GET http://plain.example.com/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", 400, "egress.host"),
        ("GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com:81\r\n\r\n", 400, "egress.host"),
        (
            "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nHost: evil.com\r\n\r\n",
            400,
            "egress.host",
        ),
        ("GET http://plain.example.com/ HTTP/1.0\r\n\r\n", 400, "egress.host"),
        ("GET http://evil.com/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", 403, "permissions.egress"),
        (
            "GET http://plain.example.com:8080/ HTTP/1.1\r\nHost: plain.example.com:8080\r\n\r\n",
            403,
            "permissions.egress",
        ),
        ("GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 403, "egress.host"),
        (
            "GET http://api.example.com:443/ HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
            403,
            "permissions.egress.protocol",
        ),
        ("GET https://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400, "egress.form"),
        ("GET / HTTP/1.1\r\nHost: plain.example.com\r\n\r\n", 400, "egress.form"),
        ("OPTIONS * HTTP/1.1\r\nHost: plain.example.com\r\n\r\n", 400, "egress.form"),
    ] {
        let (head, _) = ask(plane.proxy, request).await;
        assert_eq!(status(&head), expected, "{request}: {head}");
        assert!(head.contains(&format!("(rule {rule})")), "{request}: {head}");
    }
    assert_eq!(plane.ledger.rules("permit"), Vec::<String>::new());
}

#[tokio::test]
async fn each_request_in_a_plain_tunnel_is_decided() {
    let (upstream, mut heard) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0).await;
    let plane = plane(upstream);
    let (head, mut stream) = connect(plane.proxy, "plain.example.com:80").await;
    assert_eq!(status(&head), 200);
    assert_eq!(plane.ledger.rules("permit"), Vec::<String>::new(), "nothing is dialled yet");
    for permits in 1..=2 {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: plain.example.com\r\n\r\n").await.unwrap();
        assert_eq!(status(&read_head(&mut stream).await), 200);
        stream.read_exact(&mut [0; 2]).await.unwrap();
        assert!(heard.recv().await.unwrap().starts_with("GET /x HTTP/1.1\r\n"));
        assert_eq!(plane.ledger.rules("permit").len(), permits);
    }
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: evil.com\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut stream).await), 400);
    plane.gateway.cut(plane.run);
    rest(&mut stream).await;
    assert!(TcpStream::connect(plane.proxy).await.is_err(), "a run that was cut has no proxy any more");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let (upstream, _heard) = canned(chunked, 0).await;
    let plane = plane(upstream);
    let (head, mut stream) =
        ask(plane.proxy, "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n").await;
    assert_eq!(status(&head), 200);
    let body = rest(&mut stream).await;
    assert!(!body.contains("0\r\n\r\n"), "{body}");
    let ended = plane.ledger.completed(1).await;
    assert_eq!(field(&ended[0], "outcome"), "unknown");
}

#[tokio::test]
async fn garbage_from_a_plain_host_is_a_bad_gateway() {
    let (upstream, _heard) = canned("SSH-2.0-OpenSSH\r\n\r\n", 0).await;
    let plane = plane(upstream);
    let (head, _) = ask(plane.proxy, "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n").await;
    assert_eq!(status(&head), 502, "{head}");
    assert_eq!(field(&plane.ledger.completed(1).await[0], "outcome"), "unknown");
}

#[tokio::test]
async fn the_system_resolver_s_answer_is_checked_like_any() {
    let options = EgressOptions::default();
    let target = HostPort::parse("localhost", Some(443)).unwrap();
    let found: io::Result<Vec<SocketAddr>> = options.resolver.lookup(&target).await;
    assert!(found.is_ok_and(|all| all.iter().all(|a| address::check(a.ip()).is_err())));
}
