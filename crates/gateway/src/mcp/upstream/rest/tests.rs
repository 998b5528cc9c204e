//! APIs that answer as a test wants, byte for byte, and what becomes of it.

mod answers;
mod rig;

use std::sync::atomic::{AtomicUsize, Ordering};

use cogward_model::upstream::ToolServer;
use serde_json::{Value, json};

use self::rig::{Api, answer, json_answer};
use super::{
    super::{Timeouts, ToolServerClient, UpstreamError},
    *,
};

const INVOICES: &str = include_str!("../../../../../../tests/fixtures/openapi/invoices.yaml");

fn registered(transport: Value, secret: Option<&str>) -> ToolServerClient {
    let server = json!({"tenant": "default", "name": "api", "transport": transport});
    let server: ToolServer = serde_json::from_value(server).unwrap();
    ToolServerClient::new(server, secret.map(|secret| Credential::new(Zeroizing::new(secret.to_owned()))))
}

fn transport(url: &str) -> Value {
    json!({"kind": "openapi", "url": url, "document": {"text": INVOICES}})
}

async fn why(transport: Value, secret: Option<&str>) -> String {
    match registered(transport, secret).tools().await {
        Err(UpstreamError::Unusable { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_document_is_a_tool_server() {
    let client = registered(transport("https://api.invoices.example/v2"), None);
    let tools = client.tools().await.unwrap();
    let from = client.made_from().unwrap();
    assert_eq!((from.title.as_str(), from.operations, tools.iter().count()), ("Invoices", 9, 9));
    assert_eq!(from.left_out.len(), 4);
    let pay = tools.get(&"payInvoice".parse().unwrap()).unwrap();
    assert!(pay.schema().check(br#"{"id":"1","body":{"amount_cents":5}}"#).await.is_ok());
    assert!(pay.schema().check(br#"{"id":"1","body":{"amount_cents":0}}"#).await.is_err());
    assert!(pay.schema().check(br#"{"id":"1","body":{"amount_cents":5},"x":1}"#).await.is_err());
    assert!(pay.shape().at(&["body".into(), "amount_cents".into()]).is_some(), "policies can name it");
    let create = tools.get(&"createInvoice".parse().unwrap()).unwrap();
    assert!(create.shape().at(&["body".into(), "customer".into(), "name".into()]).is_some());
}

#[tokio::test]
async fn what_is_approved_is_known_by_the_address_and_not_by_the_document() {
    let of = |transport: Value| {
        let server = json!({"tenant": "default", "name": "api", "transport": transport});
        crate::pins::identity(&serde_json::from_value(server).unwrap())
    };
    let one = transport("https://a.example");
    let mut other = one.clone();
    other["document"] = json!({"text": "{}", "include": ["x"]});
    other["credential"] = json!({"kind": "basic"});
    assert_eq!(of(one.clone()), of(other));
    assert_ne!(of(one), of(transport("https://b.example")));
}

#[tokio::test]
async fn a_registration_that_cannot_work_says_what_to_mend() {
    let url = "https://a.example";
    let with = |more: Value| {
        let mut all = transport(url);
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for (transport, secret, cause) in [
        (transport(""), None, "the document says `https://api.invoices.example/v2`"),
        (transport("http://10.0.0.1/"), None, "only for a loopback"),
        (transport("https://user:pw@a.example"), None, "no user"),
        (transport("https://a.example/v1?x=1"), None, "neither a query"),
        (transport("https://a.example/v1#x"), None, "neither a query"),
        (transport("ftp://a.example"), None, "https://"),
        (with(json!({"document": {"text": "openapi: 2"}})), None, "version"),
        (with(json!({"document": {"text": ""}})), None, "nothing in it"),
        (with(json!({"document": {"text": INVOICES, "include": ["nobody"]}})), None, "`nobody`"),
        (with(json!({"document": {"text": INVOICES, "digest": format!("sha256:{}", "0".repeat(64))}})), None, "digest"),
        (with(json!({"credential": {"kind": "basic"}})), None, "there is none"),
        (with(json!({"credential": {"kind": "header", "name": "host"}})), Some("s3cret"), "cannot be `host`"),
        (
            with(json!({"credential": {"kind": "header", "name": "x-key"}})),
            Some("s3cret\r\nx: y"),
            "cannot stand in a header",
        ),
    ] {
        let said = why(transport, secret).await;
        assert!(said.contains(cause) && !said.contains("s3cret"), "{cause}: {said}");
    }
}

#[tokio::test]
async fn a_tool_that_could_never_be_called_is_named() {
    for bad in
        ["maximum: 100, default: 20}", "maximum: 100, pattern: \"(\", default: 20}", "maximum: many, default: 20}"]
    {
        let mut with = transport("https://a.example");
        let text = INVOICES.replace("maximum: 100, default: 20}", bad);
        with["document"] = json!({ "text": text });
        let client = registered(with, None);
        let unusable: Vec<_> = client.unusable().into_iter().map(|tool| tool.what).collect();
        let wanted: &[&str] = if text == INVOICES { &[] } else { &["listInvoices"] };
        assert_eq!(unusable, wanted, "{bad}");
        assert_eq!(client.tools().await.unwrap().iter().count(), 9);
    }
}

#[tokio::test]
async fn a_call_is_one_request_to_the_operators_address() {
    let api = Api::start(|_| json_answer(200, &json!({"left_cents": 5})), json!({}), None).await;
    let result = api
        .call("payInvoice", json!({"id": "2026-1", "Idempotency-Key": "k", "body": {"amount_cents": 250}}))
        .await
        .unwrap();
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["isError"], false);
    assert_eq!(result["structuredContent"], json!({"left_cents": 5}));
    assert_eq!(result["content"], json!([{"type": "text", "text": "{\"left_cents\":5}"}]));
    let seen = api.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("POST /base/invoices/2026-1/payments HTTP/1.1\r\n"), "{}", seen[0]);
    let lower = seen[0].to_ascii_lowercase();
    for header in
        ["idempotency-key: k", "content-type: application/json", "accept-encoding: identity", "user-agent: cogward/"]
    {
        assert!(lower.contains(header), "{lower}");
    }
    assert!(!lower.contains("authorization"));
    assert!(seen[0].ends_with("{\"amount_cents\":250}"));
    // What cannot be sent is told to the model, and is no request.
    let result = api.call("getInvoice", json!({"id": "../admin"})).await.unwrap();
    assert_eq!(result["isError"], true);
    assert!(result["content"][0]["text"].as_str().unwrap().contains("`id`"));
    assert!(api.call("nobody", json!({})).await.is_err());
    assert_eq!(api.seen().len(), 1);
}

#[tokio::test]
async fn the_credential_is_sent_where_the_operator_said() {
    let ok = |_: usize| json_answer(200, &json!({"items": []}));
    for (place, secret, head) in [
        (json!({}), "t0ken-of-the-api", "authorization: Bearer t0ken-of-the-api"),
        (json!({"credential": {"kind": "basic"}}), "user:passw0rd", "authorization: Basic dXNlcjpwYXNzdzByZA=="),
        (json!({"credential": {"kind": "header", "name": "X-Api-Key"}}), "k3y", "x-api-key: k3y"),
        (
            json!({"credential": {"kind": "query", "name": "api key"}}),
            "k3y&x=1",
            "GET /base/invoices?limit=2&api%20key=k3y%26x%3D1 ",
        ),
        (json!({"headers": {"x-a": "{id}", "x-b": "{key}"}}), r#"{"id":"me","key":"k3y"}"#, "x-b: k3y"),
    ] {
        let api = Api::start(ok, place, Some(secret)).await;
        let result = api.call("listInvoices", json!({"limit": 2})).await.unwrap();
        assert_eq!(result["isError"], false, "{result}");
        assert!(api.seen()[0].contains(head), "{head}: {}", api.seen()[0]);
        // Nothing of the request is shown to anybody.
        assert!(!format!("{:?}", api.client.made_from()).contains("k3y"));
    }
}

#[tokio::test]
async fn what_http_lets_be_asked_twice_is_asked_twice_and_nothing_else() {
    let broken = |_: usize| vec![rig::Does::Hang];
    let api = Api::start(broken, json!({}), None).await;
    assert!(matches!(
        api.call("getInvoice", json!({"id": "1"})).await,
        Err(UpstreamError::Unavailable { sent: true, .. })
    ));
    assert_eq!(api.seen().len(), 2);
    assert!(api.call("payInvoice", json!({"id": "1", "body": {"amount_cents": 1}})).await.is_err());
    assert_eq!(api.seen().len(), 3, "a payment is never made twice");
    let turn = Arc::new(AtomicUsize::new(0));
    let busy = move |_: usize| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => answer(503, "text/plain", b"later"),
        _ => json_answer(200, &json!({"items": []})),
    };
    let api = Api::start(busy, json!({}), None).await;
    assert_eq!(api.call("listInvoices", json!({})).await.unwrap()["isError"], false);
}
