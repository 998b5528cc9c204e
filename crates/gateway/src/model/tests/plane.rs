//! A plane with one run, an upstream that misbehaves on demand, and an agent without manners.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use cogward_budget::{Budgets, Scope};
use cogward_model::{
    Digest, Id, RunId, SystemClock, SystemEntropy,
    action::Amounts,
    event::{Event, EventType, Value as Recorded},
    id::EventId,
    manifest::Manifest,
    upstream::Provider,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use crate::{
    Credential, FenceState, Gateway, Records, RunGrant, RunListeners, body::BrokenStream, gate::Unrecorded,
    model::provider::ProviderTimeouts,
};

/// Every behaviour of the upstream is a model.
const MODELS: &[&str] =
    &["plain", "echo", "stream", "held", "cut", "hang", "silent", "garbage", "throttled", "nousage", "denied", "html"];

pub(in crate::model) struct Ledger {
    pub events: Mutex<Vec<Event>>,
    completed: watch::Sender<usize>,
}

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move { self.note(event) })
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        let completed = event.kind == EventType::ModelCallCompleted;
        self.events.lock().unwrap().push(event);
        if completed {
            self.completed.send_modify(|count| *count += 1);
        }
        Ok(Id::new(&SystemClock, &SystemEntropy))
    }
    fn stopped(&self) -> Option<String> {
        None
    }
}

impl Ledger {
    /// Waits until `count` calls have ended; gives the last one's fields.
    pub(in crate::model) async fn ended(&self, count: usize) -> Event {
        self.completed.subscribe().wait_for(|completed| *completed >= count).await.unwrap();
        self.of(EventType::ModelCallCompleted).pop().unwrap()
    }
    pub(in crate::model) fn of(&self, kind: EventType) -> Vec<Event> {
        self.events.lock().unwrap().iter().filter(|event| event.kind == kind).cloned().collect()
    }
}

pub(super) fn field(event: &Event, name: &str) -> Recorded {
    event.fields.iter().find(|field| field.name == name).map_or(Recorded::Null, |field| field.value.clone())
}

/// What a provider saw.
#[derive(Debug, Clone)]
pub(in crate::model) struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

pub(in crate::model) struct Fake {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Each permit lets a held stream send one more event.
    pub release: Arc<Semaphore>,
    /// Tokens that it billed.
    pub billed: Arc<Mutex<u64>>,
}

type FakeBody = BoxBody<Bytes, BrokenStream>;

impl Fake {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            release: Arc::new(Semaphore::new(0)),
            billed: Arc::default(),
        };
        let (seen, release, billed) = (Arc::clone(&fake.seen), Arc::clone(&fake.release), Arc::clone(&fake.billed));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (seen, release, billed) = (Arc::clone(&seen), Arc::clone(&release), Arc::clone(&billed));
                let service = service_fn(move |request: Request<Incoming>| {
                    answer(request, Arc::clone(&seen), Arc::clone(&release), Arc::clone(&billed))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }
}

fn chunk(text: &str) -> String {
    let value =
        json!({"id": "c", "model": "real-7b", "choices": [{"index": 0, "delta": {"content": text}}], "usage": null});
    format!("data: {value}\n\n")
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    release: Arc<Semaphore>,
    billed: Arc<Mutex<u64>>,
) -> Result<Response<FakeBody>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    let model = body["model"].as_str().unwrap().to_owned();
    let path = head.uri.path_and_query().unwrap().to_string();
    seen.lock().unwrap().push(Seen { path: path.clone(), headers: head.headers, body: body.clone() });
    let usage_asked = body["stream_options"]["include_usage"] == true;
    let whole = |status: u16, text: String| {
        let body = Full::from(text).map_err(|never| match never {}).boxed();
        Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
    };
    Ok(match model.as_str() {
        "plain" if path.contains("messages") => whole(
            200,
            json!({"type": "message", "model": "real-7b", "usage": {"input_tokens": 7, "output_tokens": 3}})
                .to_string(),
        ),
        "plain" if path.contains("responses") => whole(
            200,
            json!({"object": "response", "model": "real-7b", "usage": {"input_tokens": 7, "output_tokens": 3}})
                .to_string(),
        ),
        "plain" => {
            let usage = json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10});
            whole(200, json!({"id": "x",   "model": "real-7b", "choices": [], "usage": usage}).to_string())
        }
        // As dear as a legal answer can be.
        "echo" => {
            let (input, output) = (bytes.len() as u64, body["max_tokens"].as_u64().unwrap());
            *billed.lock().unwrap() += input + output;
            whole(200, json!({"usage": {"prompt_tokens": input, "completion_tokens": output}}).to_string())
        }
        "nousage" => whole(200, json!({"id": "x", "choices": []}).to_string()),
        "garbage" => whole(200, "<html>hello</html>".into()),
        "html" => whole(503, "<html>down</html>".into()),
        "denied" => whole(401, json!({"error": {"message": "Incorrect API key provided: sk-pla...cret"}}).to_string()),
        "throttled" => {
            let mut response = whole(429, json!({"error": {"message": "slow down", "type": "rate"}}).to_string());
            response.headers_mut().insert("retry-after", 7.into());
            response
        }
        "hang" => std::future::pending().await,
        name => {
            let mut events: Vec<Result<String, ()>> = vec![Ok(chunk("Hel")), Ok(chunk("lo"))];
            if name == "cut" {
                events.push(Err(()));
            } else {
                if usage_asked {
                    let usage = json!({"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13});
                    events.push(Ok(format!("data: {}\n\n", json!({"id": "c", "choices": [], "usage": usage}))));
                }
                events.push(Ok("data: [DONE]\n\n".into()));
            }
            let (held, silent) = (matches!(name, "held" | "cut"), name == "silent");
            let stream = futures_util::stream::unfold((events.into_iter(), 0), move |(mut events, sent)| {
                let release = Arc::clone(&release);
                async move {
                    if held && sent > 0 {
                        release.acquire().await.unwrap().forget();
                    }
                    if silent && sent > 0 {
                        std::future::pending::<()>().await;
                    }
                    let event = events.next()?;
                    let frame = event.map(|text| http_body::Frame::data(Bytes::from(text)));
                    Some((frame.map_err(|()| BrokenStream("cut".into())), (events, sent + 1)))
                }
            });
            let body = BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(stream)))));
            Response::builder().header("content-type", "text/event-stream; charset=utf-8").body(body).unwrap()
        }
    })
}

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<http_body::Frame<Bytes>, BrokenStream>> + Send>>;

/// A boxed body must be shareable between threads, which an unfolded stream is not.
struct SyncStream(Mutex<Frames>);

impl futures_util::Stream for SyncStream {
    type Item = Result<http_body::Frame<Bytes>, BrokenStream>;
    fn poll_next(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(cx)
    }
}

pub(in crate::model) struct Plane {
    pub gateway: Gateway,
    pub ledger: Arc<Ledger>,
    pub budgets: Arc<Budgets>,
    pub scope: Scope,
    pub run: RunId,
    pub fake: Fake,
    pub model: SocketAddr,
    pub agent: Client<HttpConnector, Full<Bytes>>,
}

pub(in crate::model) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Result<Bytes, hyper::Error>,
}

impl Answer {
    pub(in crate::model) fn json(&self) -> Value {
        serde_json::from_slice(self.body.as_ref().unwrap()).unwrap()
    }
    pub(in crate::model) fn text(&self) -> String {
        String::from_utf8(self.body.as_ref().unwrap().to_vec()).unwrap()
    }
}

impl Plane {
    /// A run with a token budget, whose scripted provider has `script`.
    pub(in crate::model) async fn with(tokens: u64, script: &str, timeouts: ProviderTimeouts) -> Self {
        let ledger = Arc::new(Ledger { events: Mutex::default(), completed: watch::Sender::new(0) });
        let budgets = Arc::new(Budgets::new());
        let records: Arc<dyn Records> = Arc::<Ledger>::clone(&ledger);
        let gateway = Gateway::new(records, Arc::clone(&budgets), Arc::new(SystemClock));
        let fake = Fake::start().await;
        let price = json!({"input_per_million": "1", "output_per_million": "2"});
        let mut models = Vec::new();
        let mut prices = serde_json::Map::new();
        for name in MODELS {
            models.push(json!({"provider": "up", "name": name, "maxOutputTokens": 256}));
            prices.insert((*name).to_owned(), price.clone());
        }
        models.push(json!({"provider": "up", "name": "free", "maxOutputTokens": 256}));
        models.push(json!({"provider": "gone", "name": "away", "maxOutputTokens": 256}));
        models.push(json!({"provider": "claude", "name": "claude", "maxOutputTokens": 256}));
        models.push(json!({"provider": "nowhere", "name": "nowhere", "maxOutputTokens": 256}));
        models.push(json!({"provider": "script", "name": "demo", "maxOutputTokens": 256}));
        let manifest: Manifest = serde_json::from_value(json!({
            "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
            "metadata": {"name": "asker", "tenant": "default", "version": "1", "owner": "t", "sponsor": "a@example.com", "costCentre": "c"},
            "spec": {
                "goal": "ask", "autonomy": "supervised",
                "package": {"directory": ".", "entrypoint": ["python3", "agent.py"]},
                "permissions": {"models": models},
                "budgets": {"run": {"tokens": 10000, "costUsd": "1.00", "toolCalls": 10, "wallClockSeconds": 60}}
            }
        }))
        .unwrap();
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let scope = Scope::run(run);
        budgets.open(scope.clone(), Amounts { tokens, cost: "100".parse().unwrap(), ..Amounts::default() });
        let add = |name: &str, shape: Value, prices: Value| {
            let provider: Provider =
                serde_json::from_value(json!({"tenant": "default", "name": name, "shape": shape, "prices": prices}))
                    .unwrap();
            let credential = Credential::new(Zeroizing::new("sk-planesecret".to_owned()));
            gateway.upstreams().put_provider_with(provider, Some(credential), timeouts).unwrap();
        };
        let base = format!("http://{}", fake.address);
        add("up", json!({"kind": "open_ai", "base_url": format!("{base}/v1")}), Value::Object(prices));
        add("claude", json!({"kind": "anthropic", "base_url": base}), json!({"claude": price, "plain": price}));
        add("script", json!({"kind": "scripted", "script": script}), json!({"demo": price}));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        add("nowhere", json!({"kind": "open_ai", "base_url": format!("http://{closed}")}), json!({"nowhere": price}));
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into();
        let listeners = RunListeners { model: listen(), mcp: listen(), proxy: listen() };
        let model = listeners.model.local_addr().unwrap();
        let grant = RunGrant::new(run, &manifest, Digest::from_bytes([7; 32]), None, vec![scope.clone()]);
        gateway.open_run(grant, listeners).unwrap();
        gateway.fence(run, FenceState::Open);
        gateway.fence_plane(FenceState::Open);
        let agent = Client::builder(TokioExecutor::new()).build_http();
        Self { gateway, ledger, budgets, scope, run, fake, model, agent }
    }

    pub(in crate::model) async fn start(tokens: u64) -> Self {
        let script = r#"{"default": {"reply": {"text": "ok"}}}"#;
        Self::with(tokens, script, ProviderTimeouts::default()).await
    }

    pub(in crate::model) fn request(&self, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::post(format!("http://{}{path}", self.model))
            .header("content-type", "application/json")
            .header("authorization", "Bearer sk-agent")
            .header("x-api-key", "sk-agent")
            .header("cookie", "a=b")
            .header("openai-organization", "org-agent")
            .header("anthropic-beta", "interleaved-thinking")
            .body(Full::new(body.into()))
            .unwrap()
    }

    pub(in crate::model) async fn open(&self, path: &str, body: &Value) -> Response<Incoming> {
        self.agent.request(self.request(path, body.to_string())).await.unwrap()
    }

    pub(in crate::model) async fn ask(&self, path: &str, body: &Value) -> Answer {
        let (head, body) = self.open(path, body).await.into_parts();
        let body = body.collect().await.map(|whole| whole.to_bytes());
        Answer { status: head.status, headers: head.headers, body }
    }

    pub(in crate::model) async fn chat(&self, model: &str) -> Answer {
        self.ask("/v1/chat/completions", &json!({"model": model, "messages": []})).await
    }

    pub(in crate::model) fn used(&self) -> Amounts {
        self.budgets.balance(&self.scope).used
    }

    pub(in crate::model) fn held(&self) -> Amounts {
        self.budgets.balance(&self.scope).held
    }

    pub(in crate::model) fn seen(&self) -> Vec<Seen> {
        self.fake.seen.lock().unwrap().clone()
    }
}
