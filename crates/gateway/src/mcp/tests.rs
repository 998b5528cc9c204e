//! The MCP endpoint of a run over real sockets, in front of fake tool servers over both transports.

mod around;
mod calls;
mod desk;
mod eras;
mod fake;
mod hostile;
mod matrix;
mod pinned;
mod streams;
mod unread;

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cogward_budget::{Budgets, Scope};
use cogward_model::{
    Digest, Id, RunId, SystemClock, SystemEntropy, TenantName,
    action::Amounts,
    event::{Event, EventType, Value as Recorded},
    id::EventId,
    manifest::Manifest,
    upstream::ToolServer,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::upstream::Timeouts;
use crate::{
    Credential, FenceState, Gateway, RunGrant, RunListeners,
    gate::{Records, Unrecorded},
};

/// Evidence in memory.
#[derive(Default)]
struct Ledger {
    events: Mutex<Vec<Event>>,
    broken: AtomicBool,
}

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(std::future::ready(self.note(event)))
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Unrecorded("the disk is gone".into()));
        }
        self.events.lock().unwrap().push(event);
        Ok(Id::new(&SystemClock, &SystemEntropy))
    }
    fn stopped(&self) -> Option<String> {
        None
    }
}

impl Ledger {
    fn of(&self, kind: EventType) -> Vec<Event> {
        self.events.lock().unwrap().iter().filter(|e| e.kind == kind).cloned().collect()
    }

    /// Waits for the outcome of a call that nobody is there to hear.
    async fn outcome(&self) -> Event {
        loop {
            if let Some(event) = self.of(EventType::ToolCallCompleted).pop() {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn field(event: &Event, name: &str) -> Option<Recorded> {
    event.fields.iter().find(|f| f.name == name).map(|f| f.value.clone())
}

/// A plane with one tenant, and its ledger.
struct Plane {
    gateway: Gateway,
    ledger: Arc<Ledger>,
    budgets: Arc<Budgets>,
}

impl Plane {
    fn new(servers: Vec<ToolServer>) -> Self {
        Self::with_credential(servers, None)
    }

    fn with_credential(servers: Vec<ToolServer>, credential: Option<&str>) -> Self {
        Self::with(servers, credential, Duration::from_millis(1_500))
    }

    /// With so much time for a call.
    fn with(servers: Vec<ToolServer>, credential: Option<&str>, call: Duration) -> Self {
        let (ledger, budgets) = (Arc::new(Ledger::default()), Arc::new(Budgets::new()));
        let records = Arc::clone(&ledger) as Arc<dyn Records>;
        let gateway = Gateway::new(records, Arc::clone(&budgets), Arc::new(SystemClock));
        gateway.keep_pins(Arc::new(crate::testing::Trusting(Arc::clone(gateway.pins()))));
        let timeouts = Timeouts { start: Duration::from_secs(20), call };
        let credential = credential.map(|secret| Credential::new(Zeroizing::new(secret.to_owned())));
        for server in servers {
            gateway.upstreams().put_tool_server_with(server, credential.clone(), timeouts);
        }
        gateway.fence_plane(FenceState::Open);
        Self { gateway, ledger, budgets }
    }

    fn run(&self, tool_calls: u64) -> Agent {
        self.run_of(&crate::testing::manifest(), tool_calls)
    }

    fn run_of(&self, manifest: &Manifest, tool_calls: u64) -> Agent {
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let scope = Scope::run(run);
        self.budgets.open(scope.clone(), Amounts { tool_calls, ..Amounts::default() });
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap().into();
        let listeners = RunListeners { model: listen(), mcp: listen(), proxy: listen() };
        let address = listeners.mcp.local_addr().unwrap();
        let grant = RunGrant::new(run, manifest, Digest::from_bytes([7; 32]), None, vec![scope]);
        self.gateway.open_run(grant, listeners).unwrap();
        self.gateway.fence(run, FenceState::Open);
        Agent { run, address, http: Client::builder(TokioExecutor::new()).build_http(), session: None }
    }
}

/// What an agent's client does.
struct Agent {
    run: RunId,
    address: SocketAddr,
    http: Client<HttpConnector, Full<Bytes>>,
    session: Option<String>,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    /// The answer, also where it is the last message of a stream.
    fn json(&self) -> Value {
        if self.streamed() {
            return self.messages().pop().unwrap_or(Value::Null);
        }
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
    fn streamed(&self) -> bool {
        self.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream")
    }
    /// The messages of a stream.
    fn messages(&self) -> Vec<Value> {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
    /// The code of a protocol error.
    fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_default()
    }
    /// What a model reads: whether the call failed, and the text.
    fn said(&self) -> (bool, String) {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        let result = &self.json()["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        (result["isError"] == json!(true), text)
    }
}

impl Agent {
    async fn send(&self, method: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = Request::builder().method(method).uri(format!("http://{}/mcp", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    /// A message of the era with sessions.
    async fn post(&self, body: impl Into<Bytes>) -> Reply {
        let mut headers = vec![("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id", session));
        }
        self.send("POST", &headers, body).await
    }

    async fn ask(&self, method: &str, params: Value) -> Reply {
        self.post(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()).await
    }

    async fn greet(&mut self) -> &Self {
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let reply = self.ask("initialize", params).await;
        assert_eq!(reply.json()["result"]["protocolVersion"], "2025-11-25", "{:?}", reply.body);
        self.session = Some(reply.headers["mcp-session-id"].to_str().unwrap().to_owned());
        let initialized = self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(initialized.status, StatusCode::ACCEPTED);
        self
    }

    async fn call(&self, tool: &str, arguments: Value) -> Reply {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    async fn read(&self, path: &str) -> Reply {
        self.call("read_text_file", json!({"path": path})).await
    }

    /// A message of the stateless era, with headers that agree unless `headers` says otherwise.
    async fn stateless(&self, method: &str, mut params: Value, headers: &[(&str, &str)]) -> Reply {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}
        });
        let name = params["name"].as_str().unwrap_or_default().to_owned();
        let mut all =
            vec![("content-type", "application/json"), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        if !name.is_empty() {
            all.push(("mcp-name", &name));
        }
        all.retain(|(known, _)| !headers.iter().any(|(given, _)| given == known));
        all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
        self.send("POST", &all, json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string())
            .await
    }
}

fn tenant() -> TenantName {
    TenantName::default_tenant()
}

/// A manifest whose tools come from two servers.
fn two_servers() -> Manifest {
    let mut manifest = serde_json::to_value(crate::testing::manifest()).unwrap();
    manifest["spec"]["permissions"]["tools"] = json!([
        {"server": "files", "allow": ["read_text_file"]},
        {"server": "more-files", "allow": ["read_text_file", "list_directory"]}
    ]);
    serde_json::from_value(manifest).unwrap()
}
