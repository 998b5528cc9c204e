//! A tool server over HTTP that answers as a closure says.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Mutex};

use ::http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::*;

type Body = BoxBody<Bytes, Infallible>;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) headers: HeaderMap,
    pub(super) message: Value,
}

impl Seen {
    pub(super) fn asks(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// A result for it.
    pub(super) fn result(&self, result: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.message["id"], "result": result})
    }
}

/// What it answers.
pub(super) enum Says {
    Status(u16),
    Json(Value),
    /// With the status 400.
    Refused(Value),
    Session(&'static str, Value),
    /// Pieces of a stream, which ends after them.
    Stream(Vec<String>),
    /// Pieces that come through a channel.
    Fed(tokio::sync::mpsc::UnboundedReceiver<String>),
}

/// An event with a message.
pub(super) fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

pub(super) struct Server {
    pub(super) client: Arc<ToolServerClient>,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// What was asked, by method of JSON-RPC or of HTTP.
    pub(super) fn asked(&self, what: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.asks() == what || seen.method == what).cloned().collect()
    }

    /// Waits for an answer to what the server asked.
    pub(super) async fn answer(&self) -> Value {
        loop {
            let answered = |seen: &Seen| seen.message.get("result").or(seen.message.get("error")).is_some();
            if let Some(seen) = self.seen.lock().unwrap().iter().find(|seen| answered(seen)) {
                return seen.message.clone();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until something was asked.
    pub(super) async fn until(&self, what: &str) -> Seen {
        loop {
            if let Some(seen) = self.asked(what).pop() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(super) async fn server(limits: Value, says: impl Fn(&Seen) -> Says + Send + Sync + 'static) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let (says, all) = (Arc::new(says), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (says, all) = (Arc::clone(&says), Arc::clone(&all));
            let service = service_fn(move |request: Request<Incoming>| {
                let (says, all) = (Arc::clone(&says), Arc::clone(&all));
                answered(request, says, all)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let server = json!({"tenant": "default", "name": "s", "transport": {"kind": "http", "url": url}, "limits": limits});
    let timeouts = Timeouts { start: Duration::from_secs(5), call: Duration::from_secs(2) };
    let client = ToolServerClient::new(serde_json::from_value(server).unwrap(), None).with_timeouts(timeouts);
    Server { client: Arc::new(client), seen }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn answered(
    request: Request<Incoming>,
    says: Arc<dyn Fn(&Seen) -> Says + Send + Sync>,
    all: Arc<Mutex<Vec<Seen>>>,
) -> Answered {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let message = serde_json::from_slice(&body).unwrap_or_default();
        let seen = Seen { method: head.method.to_string(), headers: head.headers, message };
        all.lock().unwrap().push(seen.clone());
        let full = |bytes: String| Full::new(Bytes::from(bytes)).boxed();
        let response = Response::builder();
        Ok(match says(&seen) {
            Says::Status(status) => response.status(status).body(full(String::new())),
            Says::Json(value) => response.header("content-type", "application/json").body(full(value.to_string())),
            Says::Refused(value) => {
                response.status(400).header("content-type", "application/json").body(full(value.to_string()))
            }
            Says::Session(id, value) => response
                .header("content-type", "application/json")
                .header("mcp-session-id", id)
                .body(full(value.to_string())),
            Says::Stream(pieces) => response.header("content-type", "text/event-stream").body(full(pieces.concat())),
            Says::Fed(mut pieces) => {
                let stream = futures_util::stream::poll_fn(move |context| {
                    pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from(piece)))))
                });
                response.header("content-type", "text/event-stream").body(StreamBody::new(stream).boxed())
            }
        }
        .unwrap())
    })
}

/// The greeting of a server with sessions; what else there is to say is left to the test.
pub(super) fn greets(seen: &Seen) -> Option<Says> {
    Some(match (seen.method.as_str(), seen.asks()) {
        ("DELETE", _) => Says::Status(200),
        ("GET", _) if seen.header("last-event-id").is_none() => Says::Status(405),
        ("POST", "server/discover") => Says::Status(404),
        ("POST", "initialize") => {
            let offers = json!({"tools": {}, "resources": {"subscribe": true}, "prompts": {}});
            Says::Session("s1", seen.result(&json!({"protocolVersion": "2025-11-25", "capabilities": offers})))
        }
        ("POST", asks) if asks.starts_with("notifications/") => Says::Status(202),
        ("POST", "") => Says::Status(202),
        _ => return None,
    })
}
