use serde_json::{Value as Json, json};

use super::*;
use crate::obligation::{REDACTED, redactions};

#[test]
fn an_answer_says_nothing_of_a_redacted_field_in_any_of_its_forms() {
    let rule = redactions("result.customer.iban").unwrap();
    let raw = json!({
        "structuredContent": { "customer": { "iban": "DE-SECRET", "name": "Ada" } },
        "content": [
            { "type": "text", "text": "{\"customer\": {\"iban\": \"DE-SECRET\", \"name\": \"Ada\"}}" },
            { "type": "text", "text": "The IBAN is DE-SECRET" },
            { "type": "text", "text": "\"DE-SECRET\"" },
            { "type": "image", "data": "REUtU0VDUkVU", "mimeType": "image/png" },
            { "type": "resource", "resource": { "uri": "x:y", "text": "DE-SECRET", "blob": "DE-SECRET" } },
            { "type": "text", "text": "{\"customer\":{\"iban\":\"DE-SECRET\"},\"customer\":{}}" },
        ],
        "isError": false,
    });
    let raw = raw.to_string();
    let clean = apply_result(&rule, &raw).unwrap().unwrap();
    assert!(!clean.contains("SECRET") && !clean.contains("REUtU0VDUkVU"), "{clean}");
    assert!(clean.contains("Ada") && clean.contains("isError"));
    let clean: Json = serde_json::from_str(&clean).unwrap();
    assert_eq!(clean["structuredContent"], json!({ "customer": { "iban": "[redacted]", "name": "Ada" } }));
    assert_eq!(apply_result(&[], &raw), Ok(None));
    assert!(apply_result(&rule, r#"{"content":[],"content":[{"type":"text","text":"x"}]}"#).is_err());
}

/// What an agent sees of an answer.
fn seen(rule: &str, raw: &Json) -> Json {
    let raw = raw.to_string();
    let clean = apply_result(&redactions(rule).unwrap(), &raw).unwrap().unwrap_or(raw);
    assert!(!clean.contains("SECRET"), "{clean}");
    serde_json::from_str(&clean).unwrap()
}

fn text(text: &str) -> Json {
    json!({ "type": "text", "text": text })
}

#[test]
fn a_wrapper_of_the_server_hides_nothing() {
    let customers = json!({ "customers": [{ "iban": "DE-SECRET", "name": "Ada" }] });
    // As the Python SDK answers for a tool that gives a text: the text, and once more as `result`.
    let wrapped = json!({
        "content": [text(&customers.to_string())],
        "structuredContent": { "result": customers.to_string() },
    });
    let clean = seen("result.customers.iban", &wrapped);
    let shown: Json = serde_json::from_str(clean["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(shown, json!({ "customers": [{ "iban": REDACTED, "name": "Ada" }] }));
    assert_eq!(clean.get("structuredContent"), None);
    assert_eq!(clean["content"][1], text(WITHHELD));
    for inner in [
        json!({ "result": customers }),
        json!({ "data": { "result": [customers] } }),
        json!({ "result": "The IBAN is DE-SECRET" }),
        json!({ "customers": customers.to_string() }),
        json!({ "customers": [customers.to_string(), [["DE-SECRET"]]] }),
        json!({ "customers": 7, "note": "DE-SECRET" }),
        json!([customers.to_string()]),
        json!([{ "iban": "DE-SECRET" }]),
        json!("DE-SECRET"),
    ] {
        seen("result.customers.iban", &json!({ "content": [], "structuredContent": inner }));
        // The same in a text that is JSON.
        seen("result.customers.iban", &json!({ "content": [text(&inner.to_string())] }));
    }
    let bare = json!({ "structuredContent": { "result": { "iban": "DE-SECRET" } } });
    assert_eq!(seen("result.iban", &bare), json!({ "content": [text(WITHHELD)] }));
    // Of two paths, one that leads nowhere is enough: what it means may be elsewhere.
    let half = json!({ "structuredContent": { "iban": "DE-SECRET", "result": { "ssn": "SECRET" } } });
    assert_eq!(seen("result.iban, result.ssn", &half), json!({ "content": [text(WITHHELD)] }));
}

#[test]
fn an_answer_that_has_no_such_field_where_it_would_be_is_shown() {
    for structured in [
        json!({ "customers": [] }),
        json!({ "customers": null, "total": 0 }),
        json!({ "customers": [{ "name": "Ada" }] }),
        json!({ "customers": [[], [{ "name": "Ada" }]], "total": 2 }),
    ] {
        let answer = json!({ "structuredContent": structured, "isError": false });
        assert_eq!(seen("result.customers.iban", &answer), answer);
    }
}

#[test]
fn nothing_beside_the_parts_that_are_redacted_is_shown() {
    let answer = json!({
        "content": [
            { "type": "text", "text": "{\"iban\":\"DE-SECRET\"}", "_meta": { "x": "DE-SECRET" }, "title": "DE-SECRET" },
            { "type": "resource_link", "uri": "x:DE-SECRET", "name": "DE-SECRET", "description": "DE-SECRET" },
            { "type": "resource", "resource": { "uri": "x:DE-SECRET", "text": "{\"iban\":\"DE-SECRET\",\"a\":1}" } },
            { "type": "resource", "resource": { "uri": "x:y", "blob": "U0VDUkVU" }, "text": "DE-SECRET" },
            { "kind": "DE-SECRET" },
        ],
        "structuredContent": { "iban": "DE-SECRET" },
        "structured_content": { "iban": "DE-SECRET" },
        "_meta": { "iban": "DE-SECRET" },
        "isError": "DE-SECRET",
        "resultType": "DE-SECRET",
        "toolResult": "DE-SECRET",
    });
    let clean = seen("result.iban", &answer);
    let keys: Vec<&String> = clean.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["content", "structuredContent"]);
    assert_eq!(clean["content"][2], text(r#"{"iban":"[redacted]","a":1}"#));
    let kinds: Vec<&Json> = clean["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["text"; 5]);
}
