//! What stands behind the gateway and before the loader: a server that answers at once, without thinking.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A text of a call from which on it is answered as a stream of events.
pub const AS_EVENTS: &str = "events:";
/// What follows the first part of a streamed completion comes so much later.
const REST_AFTER: Duration = Duration::from_millis(20);

type Body = BoxBody<Bytes, Infallible>;

pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_chat = request.uri().path().ends_with("/chat/completions");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let (body, kind): (Body, _) = if is_chat && message["stream"] == true {
        (streamed(), "text/event-stream")
    } else if is_chat {
        (Full::new(completion()).boxed(), "application/json")
    } else {
        let (text, kind) = called(&message);
        (Full::new(text).boxed(), kind)
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert("mcp-session-id", HeaderValue::from_static("bench"));
    Ok(response)
}

/// The answer to a message of MCP: a call's text comes back.
fn called(message: &serde_json::Value) -> (Bytes, &'static str) {
    let id = &message["id"];
    let text = message["params"]["arguments"]["text"].as_str().unwrap_or_default();
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}"#
                .to_owned()
        }
        "tools/list" => {
            r#"{"tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}]}"#
                .to_owned()
        }
        _ => format!(r#"{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}"#),
    };
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    match text.starts_with(AS_EVENTS) {
        true => (format!("event: message\ndata: {answer}\n\n").into(), "text/event-stream"),
        false => (answer.into(), "application/json"),
    }
}

fn completion() -> Bytes {
    let content = "a".repeat(800);
    let choice =
        format!(r#"{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}"#);
    let usage = r#"{"prompt_tokens":250,"completion_tokens":50,"total_tokens":300}"#;
    format!(r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{choice}],"usage":{usage}}}"#)
        .into()
}

/// One word at once, fifty and the usage later.
fn streamed() -> Body {
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{choices}]{usage}}}\n\n"
        )
    };
    let word = chunk(r#"{"index":0,"delta":{"content":"word "},"finish_reason":null}"#, "");
    let end = chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "");
    let usage = chunk("", r#","usage":{"prompt_tokens":250,"completion_tokens":50,"total_tokens":300}"#);
    let rest = word.repeat(50) + &end + &usage + "data: [DONE]\n\n";
    let parts = [(Duration::ZERO, Bytes::from(word)), (REST_AFTER, Bytes::from(rest))];
    let frames = stream::unfold(parts.into_iter(), |mut parts| async move {
        let (after, part) = parts.next()?;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        Some((Ok(Frame::data(part)), parts))
    });
    BodyExt::boxed(StreamBody::new(frames))
}
