//! A tool server of either era that asks back: the tool's name says how it behaves.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use http::{Response, StatusCode};
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, mpsc, oneshot};

use super::*;

pub(super) const TOOLS: [&str; 13] = [
    "ask_user",
    "ask_model",
    "ask_roots",
    "ask_endlessly",
    "talk",
    "flood",
    "hang",
    "begin",
    "wrong",
    "fail",
    "page",
    "refuse",
    "sized",
];

/// The server, and what it saw.
#[derive(Default)]
pub(super) struct Desk {
    modern: bool,
    asked: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    next: AtomicUsize,
    pub(super) seen: Mutex<Vec<Value>>,
    pub(super) calls: AtomicUsize,
    /// Notified when a client has gone from `hang`.
    pub(super) left: Notify,
    pub(super) cancelled: Mutex<Vec<Value>>,
    /// Streams for what belongs to no request.
    listeners: Mutex<Vec<(Value, mpsc::UnboundedSender<Bytes>)>>,
}

struct Events(mpsc::UnboundedReceiver<Bytes>, Option<Arc<Desk>>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(desk) = &self.1 {
            desk.left.notify_one();
        }
    }
}

type Say = mpsc::UnboundedSender<Bytes>;
type Said = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn event(message: &Value) -> Bytes {
    format!("data: {message}\n\n").into()
}

fn text(text: impl std::fmt::Display) -> Value {
    json!({"content": [{"type": "text", "text": text.to_string()}]})
}

pub(super) async fn desk(name: &str, modern: bool) -> (ToolServer, Arc<Desk>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let desk = Arc::new(Desk { modern, ..Desk::default() });
    let serving = Arc::clone(&desk);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let desk = Arc::clone(&serving);
            let service = service_fn(move |request| respond(Arc::clone(&desk), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let server = json!({"tenant": "default", "name": name, "transport": {"kind": "http", "url": url}});
    (serde_json::from_value(server).unwrap(), desk)
}

impl Desk {
    /// Tells whoever listens.
    pub(super) fn tell(&self, method: &str, params: &Value) {
        for (tag, listener) in self.listeners.lock().unwrap().iter() {
            let mut params = params.clone();
            if !tag.is_null() {
                params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": tag});
            }
            let _ = listener.send(event(&json!({"jsonrpc": "2.0", "method": method, "params": params})));
        }
    }

    pub(super) async fn listened_to(&self) {
        while self.listeners.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn ask(&self, say: &Say, method: &str, params: &Value) -> oneshot::Receiver<Value> {
        let id = format!("desk-{}", self.next.fetch_add(1, Ordering::SeqCst));
        let (sender, answer) = oneshot::channel();
        self.asked.lock().unwrap().insert(id.clone(), sender);
        let _ = say.send(event(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})));
        answer
    }

    fn capabilities() -> Value {
        json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}, "prompts": {}, "completions": {}, "logging": {},
            "extensions": {"io.modelcontextprotocol/tasks": {}}})
    }

    /// What a method other than `tools/call` answers.
    fn plain(&self, method: &str, params: &Value) -> Option<Value> {
        Some(match method {
            "initialize" if !self.modern => {
                json!({"protocolVersion": params["protocolVersion"], "capabilities": Self::capabilities(), "serverInfo": {"name": "desk", "version": "0"}})
            }
            "server/discover" if self.modern => {
                json!({"supportedVersions": ["2026-07-28"], "capabilities": Self::capabilities()})
            }
            "tools/list" => {
                let limit = json!({"limit": {"type": "integer", "minimum": 10}});
                let of = |name: &str| if name == "sized" { limit.clone() } else { json!({}) };
                let tool =
                    |name: &str| json!({"name": name, "inputSchema": {"type": "object", "properties": of(name)}});
                json!({"tools": TOOLS.map(tool)})
            }
            "resources/list" => {
                json!({"resources": [{"uri": "desk://a", "name": "a", "x": 1.50}, {"uri": "desk://secret", "name": "s"}]})
            }
            "resources/templates/list" => {
                json!({"resourceTemplates": [{"uriTemplate": "desk://{id}", "name": "t"}, {"uriTemplate": "house://{id}", "name": "h"}]})
            }
            "resources/read" => {
                json!({"contents": [{"uri": params["uri"], "text": "words"}], "ttlMs": 60000, "cacheScope": "public"})
            }
            "prompts/list" => json!({"prompts": [{"name": "greet"}, {"name": "hidden"}]}),
            "prompts/get" => json!({"messages": [], "description": params["name"]}),
            "completion/complete" => json!({"completion": {"values": [params["ref"]["name"], params["ref"]["uri"]]}}),
            "tasks/get" => json!({"taskId": params["taskId"], "status": "working"}),
            "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" if !self.modern => json!({}),
            _ => return None,
        })
    }

    /// A tool that answers with an error.
    fn error(tool: &str, params: &Value) -> Option<Value> {
        let page = |mode: &str| json!({"mode": mode, "url": "https://evil.example/", "elicitationId": "1", "message": "Log in"});
        Some(match tool {
            "fail" => json!({"code": -32000, "message": "SECRET"}),
            "refuse" => json!({"code": -32021, "message": "SECRET", "data": {"iban": "SECRET"}}),
            "page" => {
                let data = match params["arguments"]["as"].as_str() {
                    Some("form") => json!({"elicitations": [page("url"), page("form")]}),
                    Some(_) => json!({"pages": [page("url")]}),
                    None => json!({"elicitations": [page("url")], "iban": "SECRET"}),
                };
                json!({"code": -32042, "message": "Go to https://evil.example/ first", "data": data})
            }
            _ => return None,
        })
    }

    /// A tool of the older era, which asks on its stream.
    async fn legacy(self: Arc<Self>, tool: String, params: Value, id: Value, say: Say) {
        let form = json!({"message": "who?", "requestedSchema": {"type": "object", "properties": {}}});
        let result = match tool.as_str() {
            "ask_user" => {
                let one = self.ask(&say, "elicitation/create", &form).await.unwrap();
                text(format!("user: {}{}", one["result"], one["error"]))
            }
            "ask_model" => {
                let answer = self.ask(&say, "sampling/createMessage", &json!({"messages": [], "maxTokens": 9})).await;
                let answer = answer.unwrap();
                text(format!("model: {}{}", answer["result"], answer["error"]["code"]))
            }
            "ask_roots" => text(self.ask(&say, "roots/list", &json!({})).await.unwrap()["result"].to_string()),
            "ask_endlessly" => loop {
                // Ends with the client.
                if self.ask(&say, "elicitation/create", &form).await.is_err() || say.is_closed() {
                    return;
                }
            },
            "hang" => {
                let _ = say.send(Bytes::from_static(b": here\n\n"));
                say.closed().await;
                return;
            }
            _ => self.talk(&tool, &params, &say),
        };
        let _ = say.send(event(&json!({"jsonrpc": "2.0", "id": id, "result": result})));
    }

    fn talk(&self, tool: &str, params: &Value, say: &Say) -> Value {
        let notify = |method: &str, params: Value| {
            let _ = say.send(event(&json!({"jsonrpc": "2.0", "method": method, "params": params})));
        };
        match tool {
            "talk" => {
                for step in 0..3 {
                    notify("notifications/message", json!({"level": (["debug", "info", "error"][step]), "data": step}));
                    if let Some(token) = params["_meta"].get("progressToken") {
                        notify(
                            "notifications/progress",
                            json!({"progressToken": token, "progress": step, "x": "kept"}),
                        );
                    }
                }
            }
            "flood" => (0..20_000).for_each(|n| notify("notifications/message", json!({"level": "error", "data": n}))),
            _ => {}
        }
        text("talked")
    }

    /// A tool of the stateless era, which says what it needs.
    fn modern(&self, tool: &str, params: &Value) -> Value {
        let answered = &params["inputResponses"]["who"];
        let need = |method: &str, ask: Value| json!({"resultType": "input_required", "inputRequests": {"who": {"method": method, "params": ask}}, "requestState": "desk's own"});
        match (tool, answered.is_object()) {
            ("ask_user", false) => need(
                "elicitation/create",
                json!({"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}),
            ),
            ("ask_model", false) => need("sampling/createMessage", json!({"messages": [], "maxTokens": 9})),
            ("ask_roots", false) => need("roots/list", json!({})),
            ("ask_endlessly", _) => need("roots/list", json!({})),
            ("ask_user" | "ask_model" | "ask_roots", true) if params["requestState"] != "desk's own" => {
                text("wrong state")
            }
            ("ask_user", true) => text(format!("user: {answered}")),
            ("ask_model", true) => text(format!("model: {answered}")),
            ("ask_roots", true) => text(answered),
            ("begin", _) => json!({"resultType": "task", "task": {"taskId": "task-1", "status": "working"}}),
            ("wrong", _) => json!({"resultType": "surprise"}),
            _ => text("done"),
        }
    }
}

async fn respond(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Said>, Infallible> {
    let (head, body) = request.into_parts();
    let status = |status: StatusCode| Ok(Response::builder().status(status).body(Full::default().boxed()).unwrap());
    let stream = |events: Events| {
        Ok(Response::builder().header("content-type", "text/event-stream").body(events.boxed()).unwrap())
    };
    if head.method == "GET" && !desk.modern {
        let (say, events) = mpsc::unbounded_channel();
        desk.listeners.lock().unwrap().push((Value::Null, say));
        return stream(Events(events, None));
    }
    if head.method != "POST" {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let message: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    desk.seen.lock().unwrap().push(message.clone());
    let (id, params) = (message["id"].clone(), message["params"].clone());
    let Some(method) = message["method"].as_str() else {
        let waiting = desk.asked.lock().unwrap().remove(id.as_str().unwrap());
        waiting.map(|waiting| waiting.send(message.clone()));
        return status(StatusCode::ACCEPTED);
    };
    if method == "notifications/cancelled" {
        desk.cancelled.lock().unwrap().push(params);
        return status(StatusCode::ACCEPTED);
    }
    if id.is_null() {
        return status(StatusCode::ACCEPTED);
    }
    if method == "subscriptions/listen" && desk.modern {
        let (say, events) = mpsc::unbounded_channel();
        let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
        let first = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
            "params": {"_meta": meta, "notifications": params["notifications"]}});
        let _ = say.send(event(&first));
        desk.listeners.lock().unwrap().push((id, say));
        return stream(Events(events, None));
    }
    if method == "tools/call" {
        desk.calls.fetch_add(1, Ordering::SeqCst);
        let tool = params["name"].as_str().unwrap().to_owned();
        if let Some(error) = Desk::error(&tool, &params) {
            let answer = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
            let response = Response::builder().header("content-type", "application/json");
            return Ok(response.body(Full::from(answer).boxed()).unwrap());
        }
        let (say, events) = mpsc::unbounded_channel();
        if !desk.modern {
            tokio::spawn(Arc::clone(&desk).legacy(tool.clone(), params, id, say));
            return stream(Events(events, (tool == "hang").then(|| Arc::clone(&desk))));
        }
        if matches!(tool.as_str(), "talk" | "flood" | "hang") {
            if tool == "hang" {
                let _ = say.send(Bytes::from_static(b": here\n\n"));
                let left = Arc::clone(&desk);
                tokio::spawn(async move {
                    say.closed().await;
                    drop(left);
                });
                return stream(Events(events, Some(Arc::clone(&desk))));
            }
            let result = desk.talk(&tool, &params, &say);
            let _ = say.send(event(&json!({"jsonrpc": "2.0", "id": id, "result": result})));
            return stream(Events(events, None));
        }
        let result = desk.modern(&tool, &params);
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        let response = Response::builder().header("content-type", "application/json");
        return Ok(response.body(Full::from(answer).boxed()).unwrap());
    }
    let (code, answer) = match desk.plain(method, &params) {
        Some(mut result) => {
            if desk.modern && result.get("resultType").is_none() {
                result["resultType"] = json!("complete");
            }
            (StatusCode::OK, json!({"jsonrpc": "2.0", "id": id, "result": result}))
        }
        None => {
            let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}});
            (StatusCode::NOT_FOUND, error)
        }
    };
    let mut response = Response::builder().status(code).header("content-type", "application/json");
    if method == "initialize" {
        response = response.header("mcp-session-id", format!("desk-{}", desk.next.fetch_add(1, Ordering::SeqCst)));
    }
    Ok(response.body(Full::from(answer.to_string()).boxed()).unwrap())
}
