//! Model calls against an upstream that hangs, cuts, lies and throttles, and agents that go away.

pub(super) mod plane;

use std::time::Duration;

use bytes::Bytes;
use cogward_model::{action::Amounts, event::EventType, event::Value as Recorded};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use self::plane::{Plane, field};
use super::provider::ProviderTimeouts;

const CHAT: &str = "/v1/chat/completions";

fn stream(model: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn a_plain_call_is_metered_and_returned_byte_for_byte() {
    let plane = Plane::start(10_000).await;
    let answer = plane.chat("plain").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["model"], "real-7b");
    assert_eq!(plane.used(), Amounts { tokens: 10, cost: "0.000013".parse().unwrap(), ..Amounts::default() });
    assert_eq!(plane.held(), Amounts::default());
    let ended = plane.ledger.ended(1).await;
    assert_eq!(field(&ended, "tokens_in"), Recorded::Int(7));
    assert_eq!(field(&ended, "tokens_out"), Recorded::Int(3));
    assert_eq!(field(&ended, "model_answered"), Recorded::from("real-7b"));
    assert_eq!(field(&ended, "status"), Recorded::Int(200));
    assert_eq!(field(&ended, "estimated"), Recorded::Bool(false));
    let decided = plane.ledger.of(EventType::ModelCallDecided);
    assert_eq!(field(&decided[0], "provider"), Recorded::from("up"));
}

#[tokio::test]
async fn the_agents_credentials_and_headers_stay_behind_and_the_planes_go_out() {
    let plane = Plane::start(100_000).await;
    plane.chat("plain").await;
    plane.ask("/v1/messages?beta=true", &json!({"model": "claude", "max_tokens": 5, "messages": []})).await;
    let seen = plane.seen();
    assert_eq!(seen[0].path, "/v1/chat/completions");
    assert_eq!(seen[0].headers["authorization"], "Bearer sk-planesecret");
    assert_eq!(seen[1].path, "/v1/messages?beta=true");
    assert_eq!(seen[1].headers["x-api-key"], "sk-planesecret");
    assert_eq!(seen[1].headers["anthropic-version"], "2023-06-01");
    assert_eq!(seen[1].headers["anthropic-beta"], "interleaved-thinking");
    assert!(!seen[1].headers.contains_key("authorization"));
    for request in &seen {
        assert!(!request.headers.values().any(|value| value.to_str().unwrap().contains("agent")));
        assert!(!request.headers.contains_key("cookie"));
    }
}

#[tokio::test]
async fn the_output_limit_of_the_grant_goes_into_the_request() {
    let plane = Plane::start(100_000).await;
    plane.chat("plain").await;
    plane.ask(CHAT, &json!({"model": "plain", "max_tokens": 9999})).await;
    plane.ask(CHAT, &json!({"model": "plain", "max_completion_tokens": 9})).await;
    plane.ask("/v1/responses", &json!({"model": "plain", "input": "x"})).await;
    let seen = plane.seen();
    assert_eq!(seen[0].body["max_tokens"], 256);
    assert_eq!(seen[1].body["max_tokens"], 256);
    assert_eq!(seen[2].body, json!({"model": "plain", "max_completion_tokens": 9}));
    assert_eq!(seen[3].body["max_output_tokens"], 256);
    assert_eq!(plane.used().tokens, 40, "responses are metered as well");
}

#[tokio::test]
async fn a_stream_is_asked_for_usage_that_the_agent_sees_only_if_it_asked() {
    let plane = Plane::start(100_000).await;
    let answer = plane.ask(CHAT, &stream("stream")).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(plane.seen()[0].body["stream_options"], json!({"include_usage": true}));
    let text = answer.text();
    assert!(text.contains("Hel") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(!text.contains("prompt_tokens"), "{text}");
    assert_eq!(plane.used().tokens, 13);

    let mut asked = stream("stream");
    asked["stream_options"] = json!({"include_usage": true});
    assert!(plane.ask(CHAT, &asked).await.text().contains("prompt_tokens"));
    assert_eq!(plane.used().tokens, 26);
    assert_eq!(field(&plane.ledger.ended(2).await, "model_answered"), Recorded::from("real-7b"));
}

/// The upstream holds the second event until the agent has the first: a relay that waited would never end.
#[tokio::test]
async fn the_first_event_is_not_delayed() {
    let plane = Plane::start(100_000).await;
    let mut body = plane.open(CHAT, &stream("held")).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: ") && first.ends_with(b"\n\n"));
    plane.fake.release.add_permits(8);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn an_agent_that_leaves_in_the_middle_is_charged_what_was_used() {
    let plane = Plane::start(100_000).await;
    let agent = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let request: Request<Full<Bytes>> = plane.request(CHAT, stream("held").to_string());
    let mut body = agent.request(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop((body, agent));
    plane.fake.release.add_permits(8);
    let ended = plane.ledger.ended(1).await;
    assert_eq!(field(&ended, "outcome"), Recorded::from("ok"));
    assert_eq!(field(&ended, "estimated"), Recorded::Bool(false));
    assert_eq!((plane.used().tokens, plane.held()), (13, Amounts::default()));
}

#[tokio::test]
async fn a_stop_ends_the_stream_at_once_and_charges_the_worst() {
    let plane = Plane::start(100_000).await;
    let mut body = plane.open(CHAT, &stream("held")).await.into_body();
    body.frame().await.unwrap().unwrap();
    let held = plane.held();
    assert_eq!(plane.gateway.cut(plane.run).calls, 1);
    let rest = body.collect().await;
    assert!(rest.is_err(), "a cut stream has no end that a client could take for one");
    let ended = plane.ledger.ended(1).await;
    assert_eq!(field(&ended, "outcome"), Recorded::from("unknown"));
    assert_eq!(field(&ended, "cause"), Recorded::from("the run was stopped"));
    assert_eq!((plane.used(), plane.held()), (held, Amounts::default()));
}

#[tokio::test]
async fn a_stop_ends_a_plain_call_too() {
    let plane = Plane::start(100_000).await;
    let asked = plane.agent.request(plane.request(CHAT, json!({"model": "hang"}).to_string()));
    let asked = tokio::spawn(asked);
    while plane.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    plane.gateway.cut(plane.run);
    assert!(asked.await.unwrap().is_err());
    assert_eq!(field(&plane.ledger.ended(1).await, "outcome"), Recorded::from("unknown"));
    assert!(plane.used().tokens >= 256);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_off_for_the_agent_and_charged_in_full() {
    let plane = Plane::start(100_000).await;
    let mut body = plane.open(CHAT, &stream("cut")).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    plane.fake.release.add_permits(8);
    assert!(body.collect().await.is_err());
    let ended = plane.ledger.ended(1).await;
    assert_eq!(field(&ended, "outcome"), Recorded::from("unknown"));
    assert_eq!(field(&ended, "estimated"), Recorded::Bool(true));
    assert!(plane.used().tokens > 256);
}

#[tokio::test]
async fn an_upstream_that_falls_silent_or_hangs_is_given_up() {
    let short = ProviderTimeouts {
        head: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..ProviderTimeouts::default()
    };
    let plane = Plane::with(100_000, r#"{"default": {"reply": {"text": "ok"}}}"#, short).await;
    assert!(plane.ask(CHAT, &stream("silent")).await.body.is_err());
    let hung = plane.chat("hang").await;
    assert_eq!(hung.status, StatusCode::BAD_GATEWAY);
    assert!(hung.json()["error"]["message"].as_str().unwrap().contains("did not answer"));
    assert_eq!(field(&plane.ledger.ended(2).await, "outcome"), Recorded::from("unknown"));
    assert_eq!(plane.held(), Amounts::default());
}

#[tokio::test]
async fn garbage_is_not_passed_on() {
    let plane = Plane::start(100_000).await;
    let answer = plane.chat("garbage").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["error"]["code"], "upstream_unavailable");
    let answer = plane.ask(CHAT, &stream("garbage")).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn an_upstreams_own_errors_cost_nothing_and_reach_the_agent() {
    let plane = Plane::start(100_000).await;
    let answer = plane.chat("throttled").await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"7".parse().unwrap()));
    assert_eq!(answer.json()["error"]["message"], "slow down");
    assert!(!answer.headers.contains_key("x-should-retry"));
    let answer = plane.chat("html").await;
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].clone()),
        (StatusCode::SERVICE_UNAVAILABLE, "api_error".into())
    );
    assert_eq!(plane.used(), Amounts::default());
    assert_eq!(field(&plane.ledger.ended(2).await, "outcome"), Recorded::from("error"));
}

#[tokio::test]
async fn a_refused_credential_of_the_plane_is_not_shown_to_the_agent() {
    let plane = Plane::start(100_000).await;
    let answer = plane.chat("denied").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(!answer.text().contains("sk-"));
}

#[tokio::test]
async fn a_provider_that_is_not_there_costs_nothing() {
    let plane = Plane::start(100_000).await;
    let answer = plane.chat("nowhere").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!((plane.used(), plane.held()), (Amounts::default(), Amounts::default()));
}

#[tokio::test]
async fn without_usage_the_reservation_is_charged() {
    let plane = Plane::start(100_000).await;
    plane.chat("nousage").await;
    let ended = plane.ledger.ended(1).await;
    assert_eq!(field(&ended, "estimated"), Recorded::Bool(true));
    assert!(plane.used().tokens > 256 + 64);
}

#[tokio::test]
async fn what_is_not_declared_is_refused_alike_whether_it_exists_or_not() {
    let plane = Plane::start(100_000).await;
    // `claude-x` would be another model of a connected provider, `none` exists nowhere.
    for model in ["claude-x", "none"] {
        let answer = plane.chat(model).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(answer.headers["x-should-retry"], "false");
        let error = &answer.json()["error"];
        assert_eq!((&error["type"], &error["code"]), (&json!("permission_error"), &json!("not_declared")));
        let message = error["message"].as_str().unwrap().replace(model, "M");
        assert!(message.contains("permissions.models"), "{message}");
        assert!(message.contains("`undeclared/M` is not declared for asker@1"), "{message}");
    }
    let decided = plane.ledger.of(EventType::ModelCallDecided);
    assert!(decided.iter().all(|event| field(event, "provider") == Recorded::from("undeclared")));
    assert!(plane.seen().is_empty());
    let answer = plane.ask("/v1/messages", &json!({"model": "none", "max_tokens": 1, "messages": []})).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(
        (&answer.json()["type"], &answer.json()["error"]["type"]),
        (&json!("error"), &json!("permission_error"))
    );
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let plane = Plane::start(400).await;
    let cases = [
        (CHAT, json!({"model": "plain", "messages": ["x".repeat(400)]}), 402, "budget_exceeded"),
        (CHAT, json!({"model": "free"}), 403, "not_declared"),
        (CHAT, json!({"model": "away"}), 502, "upstream_unavailable"),
        (CHAT, json!({"model": "claude"}), 400, "invalid_request"),
        (CHAT, json!([]), 400, "invalid_request"),
        (CHAT, json!({"model": "plain", "web_search_options": {"a": 1}}), 403, "not_declared"),
        ("/v1/embeddings", json!({"model": "plain"}), 404, "not_found"),
    ];
    for (path, body, status, code) in cases {
        let answer = plane.ask(path, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
        assert_eq!(answer.json()["error"]["code"], code, "{body}");
    }
    assert!(plane.seen().is_empty());
    assert_eq!(plane.ledger.of(EventType::ModelCallDecided).len(), 6, "each refusal of a call is recorded");
    assert_eq!(plane.held(), Amounts::default());
    plane.gateway.fence(plane.run, crate::FenceState::Closed);
    assert_eq!(plane.chat("plain").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_list_of_models_is_the_grant() {
    let plane = Plane::start(400).await;
    let get = async |path: &str, anthropic: bool| {
        let mut request = Request::get(format!("http://{}{path}", plane.model)).body(Full::<Bytes>::default()).unwrap();
        if anthropic {
            request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
        }
        let (head, body) = plane.agent.request(request).await.unwrap().into_parts();
        let value: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        (head.status, value)
    };
    let (status, list) = get("/v1/models", false).await;
    assert_eq!((status, &list["object"], &list["data"][0]["id"]), (StatusCode::OK, &json!("list"), &json!("away")));
    let (_, list) = get("/v1/models", true).await;
    assert_eq!((&list["has_more"], &list["data"][0]["type"]), (&json!(false), &json!("model")));
    assert_eq!(get("/v1/models/plain", false).await.1["id"], "plain");
    assert_eq!(get("/v1/models/none", false).await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(CHAT, false).await.0, StatusCode::METHOD_NOT_ALLOWED);
}

/// What the upstream itself billed never passes the limit, although every answer is as dear as it may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_at_once_never_pass_the_budget() {
    let limit = 5_000;
    let plane = std::sync::Arc::new(Plane::start(limit).await);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let plane = std::sync::Arc::clone(&plane);
            tokio::spawn(async move { plane.chat("echo").await.status })
        })
        .collect();
    let mut answered = 0;
    for call in calls {
        match call.await.unwrap() {
            StatusCode::OK => answered += 1,
            status => assert!(matches!(status.as_u16(), 402 | 429), "{status}"),
        }
    }
    let billed = *plane.fake.billed.lock().unwrap();
    assert!(answered > 0 && billed <= limit, "{answered} answered, {billed} billed");
    assert_eq!((plane.used().tokens, plane.held()), (billed, Amounts::default()));
}

#[tokio::test]
async fn a_suspended_run_waits_and_an_agent_that_leaves_meanwhile_costs_nothing() {
    let plane = Plane::start(100_000).await;
    plane.gateway.fence(plane.run, crate::FenceState::Held);
    let patient = tokio::spawn(plane.agent.request(plane.request(CHAT, json!({"model": "plain"}).to_string())));
    let run = plane.gateway.context(plane.run).unwrap();
    // Each connection holds a slot, and so does the one that each of the three listeners waits for.
    let connected = async |count: usize| {
        while run.connections.available_permits() != cogward_model::limits::RUN_CONNECTIONS_MAX - 1 - count {
            tokio::task::yield_now().await;
        }
    };
    connected(1).await;
    let mut leaver = tokio::net::TcpStream::connect(plane.model).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: model\r\ncontent-length: 17\r\n\r\n");
    leaver.write_all(format!("{head}{}", json!({"model": "plain"})).as_bytes()).await.unwrap();
    connected(2).await;
    drop(leaver);
    connected(1).await;
    assert!(!patient.is_finished());
    plane.gateway.fence(plane.run, crate::FenceState::Open);
    assert_eq!(patient.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(plane.used().tokens, 10);
}

#[tokio::test]
async fn a_large_request_is_read_and_one_beyond_the_bound_is_refused() {
    let plane = Plane::start(100_000_000).await;
    let body = json!({"model": "plain", "messages": [{"role": "user", "content": "x".repeat(1024 * 1024)}]});
    assert_eq!(plane.ask(CHAT, &body).await.status, StatusCode::OK);
    let body = json!({"model": "plain", "messages": [{"role": "user", "content": "x".repeat(8 * 1024 * 1024)}]});
    // Refused before it is all sent, so the connection may break under a client that is still sending.
    if let Ok(answer) = plane.agent.request(plane.request(CHAT, body.to_string())).await {
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(plane.seen().len(), 1);
}

#[tokio::test]
async fn an_agent_cannot_make_the_plane_hold_all_that_its_connections_can_send() {
    use tokio::io::AsyncReadExt;
    let plane = Plane::start(100_000).await;
    // The plane says "continue" when it begins to take the body in.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: model\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        cogward_model::limits::REQUEST_BYTES_MAX
    );
    let mut taken = Vec::new();
    let connect = async || {
        let mut stream = tokio::net::TcpStream::connect(plane.model).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    for _ in 0..4 {
        let mut stream = connect().await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100");
        taken.push(stream);
    }
    let run = plane.gateway.context(plane.run).unwrap();
    assert_eq!(run.bodies.held(), cogward_model::limits::RUN_BODY_BYTES_MAX);
    let mut fifth = connect().await;
    let mut answer = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(200), fifth.read_exact(&mut answer)).await;
    assert!(early.is_err(), "it waits");
    taken.pop();
    fifth.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    drop((taken, fifth));
    while run.bodies.held() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(plane.chat("plain").await.status, StatusCode::OK, "and gives everything back");
}
