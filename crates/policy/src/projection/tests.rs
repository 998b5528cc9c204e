use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn shape() -> Shape {
    Shape::of(&json!({
        "type": "object",
        "properties": {
            "amount": { "type": "integer" },
            "rate": { "type": "number" },
            "memo": { "type": ["string", "null"] },
            "urgent": { "type": "boolean" },
            "tags": { "type": "array", "items": { "type": "string" } },
            "to": { "type": "object", "properties": { "iban": { "type": "string" }, "bic": { "type": "string" } } },
            "lines": { "type": "array", "items": { "type": "object", "properties": { "n": { "type": "integer" } } } },
            "loose": {},
        },
        "required": ["amount", "memo"],
    }))
}

fn paths(all: &[&str]) -> Paths {
    let mut paths = Paths::default();
    all.iter().for_each(|path| paths.add(path.split('.')));
    paths
}

fn project(raw: &str, read: &[&str]) -> Result<Json, ProjectionError> {
    shape().project(raw, &paths(read)).map(|record| serde_json::to_value(record).unwrap())
}

#[test]
fn only_what_is_read_is_taken() {
    let raw = r#" {"amount": 5, "memo":"x", "to" : {"iban":"DE1","bic":"X"}, "loose": [1,{"a":2}], "more": 1} "#;
    assert_eq!(project(raw, &["amount"]), Ok(json!({ "amount": 5 })));
    assert_eq!(project(raw, &["to.iban"]), Ok(json!({ "to": { "iban": "DE1" } })));
    assert_eq!(project(raw, &["to"]), Ok(json!({ "to": { "iban": "DE1", "bic": "X" } })));
    assert_eq!(project(raw, &[]), Ok(json!({})));
    let mut asked = Paths::default();
    asked.ask();
    assert!(!asked.is_empty() && shape().project(raw, &asked).unwrap().is_empty());
}

#[test]
fn what_a_rule_reads_and_no_type_is_known_of_is_not_passed_over() {
    for (raw, read, wrong) in [
        (r#"{"loose": "/etc/passwd"}"#, "loose", "loose"),
        (r#"{"more": 1}"#, "more", "more"),
        (r#"{"mor\u0065": 1}"#, "more.inner", "more"),
        (r#"{"to": {"iban": "DE1", "name": "x"}}"#, "to.name", "to.name"),
    ] {
        assert_eq!(project(raw, &[read]), Err(ProjectionError::NotOffered(wrong.to_owned())), "{raw}");
    }
    // What is not there, or null, is not there; of what is read as a whole there is what the schema offers.
    assert_eq!(project(r#"{"more": null}"#, &["more", "loose"]), Ok(json!({})));
    assert_eq!(project(r#"{"to": {"iban": "DE1", "name": "x"}}"#, &["to"]), Ok(json!({ "to": { "iban": "DE1" } })));
}

#[test]
fn values_are_exact_or_the_call_is_blocked() {
    for (raw, read, want) in [
        (r#"{"amount":5.0}"#, "amount", Ok(json!({ "amount": 5 }))),
        (r#"{"amount":1e3}"#, "amount", Ok(json!({ "amount": 1000 }))),
        (r#"{"amount":9223372036854775807}"#, "amount", Ok(json!({ "amount": i64::MAX }))),
        (r#"{"rate":1}"#, "rate", Ok(json!({ "rate": { "$decimal": "1.0000" } }))),
        (r#"{"rate":-0.25}"#, "rate", Ok(json!({ "rate": { "$decimal": "-0.2500" } }))),
        (r#"{"memo":null}"#, "memo", Ok(json!({}))),
        (r#"{"memo":"\u0041\n"}"#, "memo", Ok(json!({ "memo": "A\n" }))),
        (r#"{"m\u0065mo":"x"}"#, "memo", Ok(json!({ "memo": "x" }))),
        (r#"{"tags":["a","b"]}"#, "tags", Ok(json!({ "tags": ["a", "b"] }))),
        (r#"{"lines":[{"n":1},{"n":2}]}"#, "lines", Ok(json!({ "lines": [{ "n": 1 }, { "n": 2 }] }))),
    ] {
        assert_eq!(project(raw, &[read]), want, "{raw}");
    }
    for (raw, read) in [
        (r#"{"amount":9223372036854775808}"#, "amount"),
        (r#"{"amount":-9223372036854775809}"#, "amount"),
        (r#"{"amount":1e30}"#, "amount"),
        (r#"{"amount":5.5}"#, "amount"),
        (r#"{"amount":"5"}"#, "amount"),
        (r#"{"amount":null}"#, "amount"),
        (r#"{"rate":0.00001}"#, "rate"),
        (r#"{"rate":1e15}"#, "rate"),
        (r#"{"urgent":1}"#, "urgent"),
        (r#"{"tags":"a"}"#, "tags"),
        (r#"{"tags":["a",1]}"#, "tags"),
        (r#"{"to":"DE1"}"#, "to.iban"),
        (r#"{"to":{"iban":"DE1","iban":"DE2"}}"#, "to.iban"),
        (r#"{"amount":1,"amount":2}"#, "amount"),
        (r#"{"amount":1,"\u0061mount":2}"#, "amount"),
        (r#"{"amount":1,"other":2,"other":3}"#, "amount"),
        ("[]", "amount"),
        ("{\"amount\":1} x", "amount"),
        ("", "amount"),
        ("{\"memo\":\"\\ud800\"}", "memo"),
    ] {
        assert!(project(raw, &[read]).is_err(), "{raw}");
    }
    // What no policy reads decides nothing.
    assert_eq!(project(r#"{"amount":1,"rate":1e400}"#, &["amount"]), Ok(json!({ "amount": 1 })));
}

#[test]
fn what_is_too_large_is_refused() {
    let many = format!("{{\"tags\":[{}]}}", vec!["\"a\""; ELEMENTS_MAX + 1].join(","));
    assert_eq!(project(&many, &["tags"]), Err(ProjectionError::TooLarge("tags".into())));
    let long = format!("{{\"memo\":\"{}\",\"amount\":1}}", "a".repeat(ASK_BYTES_MAX));
    assert_eq!(project(&long, &["memo"]), Err(ProjectionError::TooLarge("memo".into())));
    assert_eq!(project(&long, &["amount"]), Ok(json!({ "amount": 1 })));
    let deep = format!("{{\"loose\":{}{},\"amount\":1}}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(project(&deep, &["amount"]), Ok(json!({ "amount": 1 })));
}

proptest! {
    #[test]
    fn an_integer_is_seen_as_it_is_or_not_at_all(number: i128) {
        let raw = format!("{{\"amount\":{number}}}");
        match i64::try_from(number) {
            Ok(number) => prop_assert_eq!(project(&raw, &["amount"]), Ok(json!({ "amount": number }))),
            Err(_) => prop_assert!(project(&raw, &["amount"]).is_err()),
        }
    }

    #[test]
    fn no_bytes_panic(raw in "[\\[\\]{}\":,a-z0-9.eE+-]{0,60}") {
        let _ = project(&raw, &["amount", "to.iban", "tags", "lines", "rate"]);
    }
}
