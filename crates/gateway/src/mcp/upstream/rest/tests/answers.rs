//! Answers that are too long, of another kind, from elsewhere, or that give away what they were sent.

use super::{rig::Does, *};

const SECRET: &str = "sk-Live_4f9c2b7a1e8d6350";

async fn answering(does: Vec<Does>) -> Api {
    Api::start(move |_| does.clone(), json!({"credential": {"kind": "header", "name": "X-Api-Key"}}), Some(SECRET))
        .await
}

#[tokio::test]
async fn what_did_not_go_well_is_said() {
    let api = answering(answer(404, "application/problem+json", b"{\"title\":\"no such invoice\"}")).await;
    let said = api.refused("getInvoice", json!({"id": "1"})).await;
    assert_eq!(said, "HTTP 404 Not Found.\n{\"title\":\"no such invoice\"}");
    let slow =
        b"HTTP/1.1 429 x\r\nretry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nslow".to_vec();
    let api = answering(vec![Does::Says(slow)]).await;
    assert!(api.refused("getInvoice", json!({"id": "1"})).await.contains("wait 7 seconds"));
    for status in [401, 502, 503, 504] {
        let api = answering(answer(status, "text/plain", b"no")).await;
        let error = api.call("deleteInvoice", json!({"id": "1"})).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    let long = "ä".repeat(80_000);
    let api = answering(answer(500, "text/html", long.as_bytes())).await;
    let said = api.refused("getInvoice", json!({"id": "1"})).await;
    assert!(said.len() < 70_000 && said.ends_with("(the rest is left out)"), "{}", said.len());
}

#[tokio::test]
async fn text_and_nothing_are_answers() {
    let api = answering(answer(200, "text/plain; charset=utf-8", "Rechnung für 5 €".as_bytes())).await;
    let result = api.call("get_invoices_id_document", json!({"id": "1"})).await.unwrap();
    assert_eq!((&result["isError"], &result["content"][0]["text"]), (&json!(false), &json!("Rechnung für 5 €")));
    let api = answering(vec![Does::Says(b"HTTP/1.1 204 x\r\n\r\n".to_vec())]).await;
    let result = api.call("deleteInvoice", json!({"id": "1"})).await.unwrap();
    assert_eq!((&result["isError"], &result["content"][0]["text"]), (&json!(false), &json!("HTTP 204 No Content.")));
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_promised_is_no_result() {
    for body in
        ["{\"left_cents\": \"much\"}", "{}", "[1]", "7", "{\"left_cents\": 1, \"left_cents\": 2}", "not json", "{"]
    {
        let api = answering(answer(200, "application/json", body.as_bytes())).await;
        let said = api.refused("payInvoice", json!({"id": "1", "body": {"amount_cents": 1}})).await;
        assert!(
            said.starts_with("HTTP 200 OK. Its answer is not what the document promises") && said.ends_with(body),
            "{said}"
        );
    }
    let api = answering(vec![Does::Says(b"HTTP/1.1 204 x\r\n\r\n".to_vec())]).await;
    assert!(
        api.refused("payInvoice", json!({"id": "1", "body": {"amount_cents": 1}})).await.contains("answered nothing")
    );
}

#[tokio::test]
async fn a_redirect_leads_nowhere() {
    let other = Api::start(|_| json_answer(200, &json!({})), json!({}), None).await;
    for (status, to) in [
        (301, format!("http://{}/invoices/1", other.address)),
        (307, "//169.254.169.254/latest".into()),
        (308, "/other".into()),
    ] {
        let head = format!("HTTP/1.1 {status} x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        let api = answering(vec![Does::Says(head.into_bytes())]).await;
        let said = api.refused("payInvoice", json!({"id": "1", "body": {"amount_cents": 1}})).await;
        assert!(said.contains("not followed") && !said.contains(&to), "{said}");
        assert_eq!(api.seen().len(), 1);
    }
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn a_long_answer_is_not_read_to_its_end() {
    let head = |more: &str| format!("HTTP/1.1 200 x\r\ncontent-type: application/json\r\n{more}\r\n").into_bytes();
    let huge = vec![Does::Says(head("content-length: 1000000000\r\n")), Does::Waits];
    assert!(answering(huge).await.refused("getInvoice", json!({"id": "1"})).await.contains("was not read"));
    let endless = vec![Does::Says(head("")), Does::SaysForEver(vec![b' '; 64 * 1024])];
    assert!(answering(endless).await.refused("getInvoice", json!({"id": "1"})).await.contains("was dropped"));
    let endless = vec![
        Does::Says(b"HTTP/1.1 500 x\r\ncontent-type: text/plain\r\n\r\n".to_vec()),
        Does::SaysForEver(vec![b'a'; 64 * 1024]),
    ];
    assert!(answering(endless).await.refused("getInvoice", json!({"id": "1"})).await.contains("left out"));
    // One that does not go on, and one that never begins.
    let stuck = vec![Does::Says(head("content-length: 10\r\n")), Does::Waits];
    assert!(matches!(
        answering(stuck).await.call("deleteInvoice", json!({"id": "1"})).await,
        Err(UpstreamError::TimedOut { .. })
    ));
    let mute = vec![Does::Waits];
    assert!(matches!(
        answering(mute).await.call("deleteInvoice", json!({"id": "1"})).await,
        Err(UpstreamError::TimedOut { .. })
    ));
    // Deep enough to hurt whoever reads it.
    let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    let api = answering(answer(200, "application/json", deep.as_bytes())).await;
    let result = api.call("searchCustomers", json!({"body": {"name": "x"}})).await.unwrap();
    assert!(result.get("structuredContent").is_none());
}

#[tokio::test]
async fn a_credential_that_stands_where_an_answer_is_cut_is_found() {
    for before in 64 * 1024 - SECRET.len()..=64 * 1024 {
        let body = format!("{}{SECRET} and more", "a".repeat(before));
        let api = answering(answer(400, "text/plain", body.as_bytes())).await;
        let said = api.refused("getInvoice", json!({"id": "1"})).await;
        assert!(said.contains("held the credential") && !said.contains(&SECRET[..4]), "{before}");
    }
}

#[tokio::test]
async fn what_is_neither_json_nor_text_is_not_handed_on() {
    for (media, cause) in [
        ("application/pdf", "application/pdf"),
        ("image/png", "image/png"),
        ("text/event-stream", "event-stream"),
        ("", "``"),
    ] {
        let api = answering(answer(200, media, b"%PDF-1.7")).await;
        assert!(api.refused("deleteInvoice", json!({"id": "1"})).await.contains(cause), "{media}");
    }
    let api = answering(vec![Does::Says(b"HTTP/1.1 200 x\r\ncontent-length: 1\r\n\r\na".to_vec())]).await;
    assert!(api.refused("deleteInvoice", json!({"id": "1"})).await.contains("does not say what it is"));
    let api = answering(answer(200, "text/plain", &[0xff, 0xfe])).await;
    assert!(api.refused("deleteInvoice", json!({"id": "1"})).await.contains("UTF-8"));
    let packed =
        b"HTTP/1.1 200 x\r\ncontent-type: text/plain\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na".to_vec();
    assert!(
        answering(vec![Does::Says(packed)])
            .await
            .refused("deleteInvoice", json!({"id": "1"}))
            .await
            .contains("compressed")
    );
}

#[tokio::test]
async fn a_credential_that_comes_back_is_dropped() {
    let encoded = STANDARD.encode(SECRET);
    for (status, body) in [
        (200, format!("{{\"headers\": {{\"X-Api-Key\": \"{SECRET}\"}}}}")),
        (400, format!("bad key {SECRET}")),
        (200, format!("x{encoded}")),
        (200, SECRET.replace('_', "%5F")),
    ] {
        let api = answering(answer(status, "text/plain", body.as_bytes())).await;
        let said = api.refused("deleteInvoice", json!({"id": "1"})).await;
        assert!(said.contains("held the credential") && !said.contains(SECRET) && !said.contains(&encoded), "{said}");
    }
    // In the address, as an error that quotes it would have it.
    let query = json!({"credential": {"kind": "query", "name": "key"}});
    let quoted = answer(404, "text/html", format!("GET /base/invoices/1?key={SECRET} not found").as_bytes());
    let api = Api::start(move |_| quoted.clone(), query, Some(SECRET)).await;
    assert!(!api.refused("getInvoice", json!({"id": "1"})).await.contains("sk-Live"));
    assert!(api.seen()[0].contains(SECRET));
    // Nobody is there.
    let gone = transport("http://127.0.0.1:1/");
    let mut gone = gone;
    gone["credential"] = json!({"kind": "query", "name": "key"});
    let client = Arc::new(registered(gone, Some(SECRET)));
    assert!(!format!("{:?}", client.made_from()).contains(SECRET));
}
