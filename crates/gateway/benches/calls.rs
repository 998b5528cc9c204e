//! What the gate costs: `tools/call` and a chat completion, direct and through the gateway with durable
//! evidence on, at 1 and 32 connections, in one process and one run.
//!
//! Prints ratios to the direct call and the gateway's own CPU per call (read from the kernel's account of
//! its threads), because those survive a noisy machine. Run with `cargo bench -p cogward-gateway`.
//!
//! `BENCH_PEER="NAME|COMMAND"` measures another MCP gateway in the same run, by the same load and before the same
//! upstream: the command gets the upstream's URL as its last argument, prints the address that it listens on
//! (`127.0.0.1:PORT`), and serves `/mcp` there until its standard input ends. Its processes count as its CPU.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fs,
    future::Future,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cogward_budget::{Budgets, Scope};
use cogward_evidence::{Evidence, EvidenceOptions, Health};
use cogward_gateway::{
    FenceState, Gateway, PinKeeper, PinTable, Records, RunGrant, RunListeners,
    gate::Unrecorded,
    mcp::{Listed, ToolCatalogue, ToolDefinition},
    pins::{ServerPins, Unwritten},
    policy::PolicySet,
};
use cogward_model::{
    Digest, Id, NanoUsd, RunId, SystemClock, SystemEntropy, TenantName, UpstreamName,
    action::Amounts,
    event::Event,
    id::EventId,
    manifest::Manifest,
    pin_name::OtherKind,
    upstream::{Price, Provider, ProviderShape, ToolServer, ToolTransport},
};
use cogward_policy::Version;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1 as client, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"0123456789abcdef0123456789abcdef"}}}"#;
const ASK: &str = r#"{"model":"m","max_tokens":64,"messages":[{"role":"user","content":"PAD"}]}"#;

struct Ledger(Evidence);

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move { self.0.record(event).await.map(|leaf| leaf.id).map_err(|e| Unrecorded(e.to_string())) })
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        self.0.note(event).map_err(|e| Unrecorded(e.to_string()))
    }
    fn stopped(&self) -> Option<String> {
        match &*self.0.health().borrow() {
            Health::Ok => None,
            other => Some(format!("{other:?}")),
        }
    }
}

fn runtime(name: &'static str, threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().expect("a runtime")
}

/// An upstream that answers both wires at once, without thinking.
async fn upstream(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let answer: Bytes = if path.ends_with("/chat/completions") {
        Bytes::from(format!(
            r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":250,"completion_tokens":50,"total_tokens":300}}}}"#,
            "a".repeat(800)
        ))
    } else {
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = &message["id"];
        let result = match message["method"].as_str().unwrap_or_default() {
            "initialize" => r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}"#.to_owned(),
            "tools/list" => r#"{"tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}]}"#.to_owned(),
            _ => r#"{"content":[{"type":"text","text":"0123456789abcdef0123456789abcdef"}],"isError":false}"#.to_owned(),
        };
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
    };
    let mut response = Response::new(Full::new(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert("mcp-session-id", header::HeaderValue::from_static("bench"));
    Ok(response)
}

async fn serve_upstream(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service_fn(upstream)));
    }
}

struct Conn {
    sender: client::SendRequest<Full<Bytes>>,
    address: SocketAddr,
    session: Option<String>,
}

impl Conn {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        Self { sender, address, session: None }
    }

    async fn post(&mut self, path: &str, body: Bytes) -> Bytes {
        let mut request = Request::post(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25");
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        self.sender.ready().await.expect("ready");
        let request = request.body(Full::new(body)).expect("a request");
        let response = self.sender.send_request(request).await.expect("an answer");
        let status = response.status();
        if let Some(id) = response.headers().get("mcp-session-id") {
            self.session = id.to_str().ok().map(str::to_owned);
        }
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        body
    }
}

#[derive(Clone, Copy)]
enum Work {
    Tool,
    Model,
}

/// Closed loop over `connections`; gives latencies in microseconds, sorted, and calls per second.
async fn load(address: SocketAddr, work: Work, connections: usize, time: Duration) -> (Vec<u64>, f64) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            tokio::spawn(async move {
                let mut conn = Conn::open(address).await;
                let (path, body) = match work {
                    Work::Tool => {
                        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
                        conn.post("/mcp", Bytes::from_static(hello.as_bytes())).await;
                        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
                        conn.post("/mcp", Bytes::from_static(ready.as_bytes())).await;
                        ("/mcp", Bytes::from_static(CALL.as_bytes()))
                    }
                    Work::Model => ("/v1/chat/completions", Bytes::from(ASK.replace("PAD", &"b".repeat(1_000)))),
                };
                let mut latencies = Vec::with_capacity(100_000);
                let until = Instant::now() + time;
                while Instant::now() < until {
                    let sent = Instant::now();
                    let answer = conn.post(path, body.clone()).await;
                    latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                    debug_assert!(!answer.is_empty());
                    assert!(!answer.windows(14).any(|w| w == b"\"isError\":true"), "{}", String::from_utf8_lossy(&answer));
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a worker"));
    }
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    all.sort_unstable();
    (all, rate)
}

/// CPU seconds of this process by thread name.
fn cpu() -> HashMap<String, f64> {
    let mut by_name = HashMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos: f64 = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        *by_name.entry(read("comm").trim().to_owned()).or_insert(0.0) += nanos / 1e9;
    }
    by_name
}

/// What the gateway's workers and the ledger's threads used, in this order.
fn ours(cpu: &HashMap<String, f64>) -> [f64; 2] {
    let of = |names: &[&str]| -> f64 {
        cpu.iter().filter(|(name, _)| names.iter().any(|n| name.starts_with(n))).map(|(_, seconds)| seconds).sum()
    };
    [of(&["gw"]), of(&["ledger", "wal"])]
}

/// Another gateway, as `BENCH_PEER` names it.
struct Peer {
    name: String,
    process: std::process::Child,
    address: SocketAddr,
}

impl Peer {
    fn start(upstream: &str) -> Option<Self> {
        use std::io::BufRead;
        let wanted = std::env::var("BENCH_PEER").ok()?;
        let (name, command) = wanted.split_once('|').expect("BENCH_PEER is NAME|COMMAND");
        let mut words = command.split_whitespace();
        let mut process = std::process::Command::new(words.next().expect("a command"))
            .args(words)
            .arg(upstream)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        std::io::BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("the peer prints its address first");
        Some(Self { name: name.to_owned(), process, address })
    }

    /// CPU seconds of it and of the processes that it has started.
    fn cpu(&self) -> f64 {
        let of = |task: &Path| -> f64 {
            let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
        };
        let (mut open, mut all) = (vec![self.process.id()], 0.0);
        while let Some(pid) = open.pop() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                all += of(&task.path());
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        all
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The peer beside the direct call: the median round by ratio.
fn measure(peer: &Peer, loader: &Runtime, direct: SocketAddr, time: Duration, rounds: usize) {
    for connections in [1, 32] {
        let run = |address| {
            loader.block_on(async { tokio::spawn(load(address, Work::Tool, connections, time)).await }).expect("load")
        };
        let mut rows: Vec<_> = (0..rounds)
            .map(|_| {
                let (base, base_rate) = run(direct);
                let before = peer.cpu();
                let (through, rate) = run(peer.address);
                let spent = (peer.cpu() - before) * 1e6 / through.len() as f64;
                let [d50, g50] = [&base, &through].map(|all| percentile(all, 50));
                (rate / base_rate, rate, d50, g50, percentile(&through, 99), spent)
            })
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, rate, d50, g50, g99, spent) = rows[rows.len() / 2];
        println!(
            "{:<32} {connections:>5} {rate:>8.0} {ratio:>8.4} {g50:>7} {g99:>7} {:>8} {:>8.1} {spent:>9.0}",
            format!("tools/call, {}", peer.name),
            g50 as i64 - d50 as i64,
            g99 as f64 / g50 as f64
        );
    }
}

/// What the disk needs for one flush of 1 KiB in space that was written before, in microseconds.
fn flush(dir: &Path) -> u64 {
    let file = fs::File::create(dir.join("raw")).expect("a file");
    file.write_all_at(&vec![0; 1 << 20], 0).and_then(|()| file.sync_all()).expect("space");
    let mut times: Vec<u64> = (0..512_u64)
        .map(|n| {
            let begin = Instant::now();
            file.write_all_at(&[7; 1_024], n * 1_024).and_then(|()| file.sync_data()).expect("a flush");
            u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)
        })
        .collect();
    times.sort_unstable();
    percentile(&times, 50)
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// A hundred rules: a tenth of them can match any call and reads something, the others are about other tools.
fn hundred_rules() -> PolicySet {
    use std::fmt::Write;
    let mut text = String::from("permit(principal, action, resource);\n");
    for n in 0..99 {
        let _ = match n % 10 {
            0 => writeln!(
                text,
                "forbid(principal, action, resource) when {{ context.budget.calls < {n} && context.time.hour > 24 }};"
            ),
            5 => writeln!(
                text,
                "forbid(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"bank/t{n}\");"
            ),
            _ => writeln!(
                text,
                "permit(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"bank/t{n}\");"
            ),
        };
    }
    let level = "tenant:default".parse().expect("a level");
    let version = Version::load(level, &text).expect("a policy");
    PolicySet { versions: vec![Arc::new(version)], ..PolicySet::default() }
}

fn manifest() -> Manifest {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": "bench", "tenant": "default", "version": "1", "owner": "t", "sponsor": "s", "costCentre": "c"},
        "spec": {
            "goal": "bench", "autonomy": "autonomous",
            "package": {"directory": ".", "entrypoint": ["x"]},
            "permissions": {
                "tools": [{"server": "echo", "allow": ["echo"]}],
                "models": [{"provider": "fake", "name": "m", "maxOutputTokens": 64}]
            },
            "budgets": {"run": {"tokens": 1, "costUsd": "1", "toolCalls": 1, "wallClockSeconds": 1}}
        }
    }))
    .expect("a manifest")
}

/// The operator approved everything.
struct Trusting(Arc<PinTable>);

impl PinKeeper for Trusting {
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let served = catalogue.iter().filter_map(|tool| ToolDefinition::parse(tool.raw.get()).ok().flatten()).collect();
        let pins = ServerPins::new(Some(catalogue.digest()), served, BTreeMap::new(), HashMap::new());
        self.0.put(&tenant, &server, pins);
        Box::pin(std::future::ready(Ok(0)))
    }

    fn examine_entries(
        &self,
        _: TenantName,
        _: UpstreamName,
        _: OtherKind,
        _: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        Box::pin(std::future::ready(Err(Unwritten("only tools are called".to_owned()))))
    }
}

fn main() {
    let seconds: f64 = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let rounds = 3;
    let (up, gw, loader) = (runtime("up", 1), runtime("gw", 1), runtime("load", 1));
    let listener = up.block_on(TcpListener::bind("127.0.0.1:0")).expect("bind");
    let direct = listener.local_addr().expect("an address");
    up.spawn(serve_upstream(listener));

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let flush = flush(dir.path());
    let _in_gateway = gw.enter();
    let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).expect("evidence");
    let budgets = Arc::new(Budgets::new());
    let gateway = Gateway::new(Arc::new(Ledger(evidence)), Arc::clone(&budgets), Arc::new(SystemClock));
    gateway.keep_pins(Arc::new(Trusting(Arc::clone(gateway.pins()))));
    let tenant: cogward_model::TenantName = "default".parse().expect("a name");
    gateway.upstreams().put_tool_server(
        ToolServer {
            tenant: tenant.clone(),
            name: "echo".parse().expect("a name"),
            transport: ToolTransport::Http {
                url: format!("http://{direct}/mcp"),
                credential_header: None,
                headers: Default::default(),
                oauth: None,
            },
            limits: cogward_model::upstream::ToolServerLimits::default(),
        },
        None,
    );
    let price = Price { input_per_million: NanoUsd::from_nanos(1), output_per_million: NanoUsd::from_nanos(1) };
    gateway
        .upstreams()
        .put_provider(
            Provider {
                tenant,
                name: "fake".parse().expect("a name"),
                shape: ProviderShape::OpenAi { base_url: format!("http://{direct}/v1") },
                prices: [("m".to_owned(), price)].into(),
            },
            None,
        )
        .expect("a provider");
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    let scope = Scope::run(run);
    budgets.open(
        scope.clone(),
        Amounts { tokens: u64::MAX, cost: NanoUsd::MAX, tool_calls: u64::MAX, ..Amounts::default() },
    );
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("bind").into();
    let listeners = RunListeners { model: bind(), mcp: bind(), proxy: bind() };
    let (model, mcp) =
        (listeners.model.local_addr().expect("an address"), listeners.mcp.local_addr().expect("an address"));
    gateway
        .open_run(RunGrant::new(run, &manifest(), Digest::from_bytes([0; 32]), None, vec![scope]), listeners)
        .expect("open");
    gateway.fence_plane(FenceState::Open);
    gateway.fence(run, FenceState::Open);

    println!(
        "{:<32} {:>5} {:>8} {:>8} {:>7} {:>7} {:>8} {:>8} {:>9} {:>9}",
        "", "conns", "calls/s", "x direct", "p50 us", "p99 us", "p50 +us", "p99/p50", "CPU us", "of ledger"
    );
    let time = Duration::from_secs_f64(seconds);
    let (tool, chat) = (("tools/call", Work::Tool, mcp, false), ("chat completion, 1 KiB", Work::Model, model, false));
    let (tool_ruled, chat_ruled) =
        (("tools/call, 100 rules", Work::Tool, mcp, true), ("chat, 100 rules", Work::Model, model, true));
    for (name, work, governed, ruled) in [tool, tool_ruled, chat, chat_ruled] {
        let set = if ruled { hundred_rules() } else { PolicySet::default() };
        gateway.policies().active().replace(set, cogward_model::Timestamp::default()).expect("policies");
        for connections in [1, 32] {
            let mut rows = Vec::new();
            for _ in 0..rounds {
                let (base, base_rate) =
                    loader.block_on(async { tokio::spawn(load(direct, work, connections, time)).await }).expect("load");
                let before = ours(&cpu());
                let (through, rate) = loader
                    .block_on(async { tokio::spawn(load(governed, work, connections, time)).await })
                    .expect("load");
                let after = ours(&cpu());
                let spent = [0, 1].map(|part| (after[part] - before[part]) * 1e6 / through.len() as f64);
                rows.push((
                    rate / base_rate,
                    base_rate,
                    rate,
                    percentile(&base, 50),
                    percentile(&base, 99),
                    percentile(&through, 50),
                    percentile(&through, 99),
                    spent,
                ));
            }
            // The median round by ratio: the machine is shared.
            rows.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (ratio, base_rate, rate, d50, d99, g50, g99, spent) = rows[rows.len() / 2];
            println!(
                "{:<32} {connections:>5} {base_rate:>8.0} {:>8} {d50:>7} {d99:>7} {:>8} {:>8.1}",
                format!("{name}, direct"),
                "1",
                "",
                d99 as f64 / d50 as f64
            );
            println!(
                "{:<32} {connections:>5} {rate:>8.0} {ratio:>8.3} {g50:>7} {g99:>7} {:>8} {:>8.1} {:>9.0} {:>9.0}",
                format!("{name}, governed"),
                g50 as i64 - d50 as i64,
                g99 as f64 / g50 as f64,
                spent[0] + spent[1],
                spent[1]
            );
        }
    }
    if let Some(peer) = Peer::start(&format!("http://{direct}/mcp")) {
        measure(&peer, &loader, direct, time, rounds);
    }
    println!("one flush of the disk: p50 {flush} us; every governed call waits for one");
}
