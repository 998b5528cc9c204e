//! The closed loop that calls, directly or through a gateway.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::upstream::AS_EVENTS;

/// What is called, again and again.
#[derive(Clone, Copy)]
pub enum Work {
    /// A tool, with a text of so many bytes that comes back.
    Tool { era: Era, bytes: usize, events: bool },
    /// A chat completion.
    Chat,
    /// A chat completion as a stream; what is measured is when its first part comes.
    FirstPart,
}

/// A revision of MCP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2025-11-25, with a session.
    Session,
    /// 2026-07-28, without.
    Stateless,
}

impl Era {
    fn revision(self) -> &'static str {
        match self {
            Self::Session => "2025-11-25",
            Self::Stateless => "2026-07-28",
        }
    }
}

impl Work {
    pub const TOOL: Self = Self::Tool { era: Era::Session, bytes: 32, events: false };

    fn path(self) -> &'static str {
        if matches!(self, Self::Tool { .. }) { "/mcp" } else { "/v1/chat/completions" }
    }

    fn body(self) -> Bytes {
        let (era, bytes, events) = match self {
            Self::Tool { era, bytes, events } => (era, bytes, events),
            Self::Chat | Self::FirstPart => {
                let streamed = if matches!(self, Self::FirstPart) {
                    r#""stream":true,"stream_options":{"include_usage":true},"#
                } else {
                    ""
                };
                let content = "b".repeat(1_000);
                let messages = format!(r#"[{{"role":"user","content":"{content}"}}]"#);
                return format!(r#"{{"model":"m","max_tokens":64,{streamed}"messages":{messages}}}"#).into();
            }
        };
        let text = format!("{}{}", if events { AS_EVENTS } else { "" }, "0123456789abcdef".repeat(bytes / 16));
        let meta = match era {
            Era::Session => "",
            Era::Stateless => {
                r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#
            }
        };
        let params = format!(r#"{{"name":"echo","arguments":{{"text":"{text}"}}{meta}}}"#);
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#).into()
    }
}

struct Conn {
    sender: http1::SendRequest<Full<Bytes>>,
    address: SocketAddr,
    era: Era,
    session: Option<String>,
}

impl Conn {
    async fn open(address: SocketAddr, work: Work) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        let era = if let Work::Tool { era, .. } = work { era } else { Era::Session };
        let mut conn = Self { sender, address, era, session: None };
        if matches!(work, Work::Tool { era: Era::Session, .. }) {
            let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
            conn.post("/mcp", Bytes::from_static(hello.as_bytes())).await;
            let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            conn.post("/mcp", Bytes::from_static(ready.as_bytes())).await;
        }
        conn
    }

    /// When the first part of the answer came, and all of it.
    async fn post(&mut self, path: &str, body: Bytes) -> (Instant, Bytes) {
        let mut request = Request::post(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", self.era.revision());
        if self.era == Era::Stateless {
            request = request.header("mcp-method", "tools/call").header("mcp-name", "echo");
        }
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
        let (mut body, mut all, mut first) = (response.into_body(), Vec::new(), None);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.expect("a body").into_data() {
                first.get_or_insert_with(Instant::now);
                all.extend_from_slice(&data);
            }
        }
        assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&all));
        (first.unwrap_or_else(Instant::now), all.into())
    }
}

/// Closed loop over `connections`, spread over `addresses`; gives latencies in microseconds, sorted, and calls per second.
pub async fn load(addresses: Vec<SocketAddr>, work: Work, connections: usize, time: Duration) -> (Vec<u64>, f64) {
    // Opened before the clock starts: 256 handshakes are not what is measured.
    let mut opened = Vec::with_capacity(connections);
    for address in addresses.iter().cycle().take(connections) {
        opened.push(Conn::open(*address, work).await);
    }
    let (start, path, body) = (Instant::now(), work.path(), work.body());
    let call = |mut conn: Conn| {
        let body = body.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(100_000 / connections);
            while start.elapsed() < time {
                let sent = Instant::now();
                let (first, answer) = conn.post(path, body.clone()).await;
                let came = if matches!(work, Work::FirstPart) { first } else { Instant::now() };
                latencies.push(u64::try_from((came - sent).as_micros()).unwrap_or(u64::MAX));
                let refused = answer.windows(14).any(|window| window == b"\"isError\":true");
                assert!(!refused, "{}", String::from_utf8_lossy(&answer));
            }
            latencies
        })
    };
    let tasks: Vec<_> = opened.into_iter().map(call).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a worker"));
    }
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    all.sort_unstable();
    (all, rate)
}

pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
