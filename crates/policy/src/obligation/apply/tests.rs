use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::obligation::{apply_result, caps, redactions};

fn capped(rule: &str, raw: &str) -> String {
    apply_arguments(&caps(rule).unwrap(), raw).unwrap().unwrap_or_else(|| raw.to_owned())
}

fn redacted(rule: &str, raw: &str) -> String {
    apply_arguments(&redactions(rule).unwrap(), raw).unwrap().unwrap_or_else(|| raw.to_owned())
}

#[test]
fn a_cap_holds_whatever_the_number_looks_like() {
    for (raw, want) in [
        (r#"{"limit":100}"#, r#"{"limit":100}"#),
        (r#"{"limit":101}"#, r#"{"limit":100}"#),
        (r#"{"limit":1e400}"#, r#"{"limit":100}"#),
        (r#"{"limit":-1e400}"#, r#"{"limit":-1e400}"#),
        (r#"{"limit":100.00001}"#, r#"{"limit":100}"#),
        (r#"{"limit":99.5}"#, r#"{"limit":99.5}"#),
        // A cap raises nothing, however fine or long the number is.
        (r#"{"limit":-0.00001}"#, r#"{"limit":-0.00001}"#),
        (r#"{"limit":-123456.7890123}"#, r#"{"limit":-123456.7890123}"#),
        (r#"{"limit":99.999999999999999999999}"#, r#"{"limit":99.999999999999999999999}"#),
        (
            r#"{"limit":0.00000000000000000000000000000000000000000000000000000000000000000001}"#,
            r#"{"limit":0.00000000000000000000000000000000000000000000000000000000000000000001}"#,
        ),
        (r#"{"limit":null}"#, r#"{"limit":100}"#),
        (r#"{"lim\u0069t":5000}"#, r#"{"lim\u0069t":100}"#),
        (" { \"a\" : [1, 2] , \"limit\" : 5000 } ", " { \"a\" : [1, 2] , \"limit\" : 100 } "),
        (r"{}", r#"{"limit":100}"#),
        (r#"{"q":"x"}"#, r#"{"limit":100,"q":"x"}"#),
    ] {
        assert_eq!(capped("arguments.limit=100", raw), want);
    }
    assert_eq!(capped("arguments.o.limit=5", r#"{"o":null}"#), r#"{"o":{"limit":5}}"#);
    assert_eq!(capped("arguments.o.limit=5", r#"{"o":[{"limit":9},{}]}"#), r#"{"o":[{"limit":5},{"limit":5}]}"#);
    assert_eq!(capped("arguments.o.p.limit=5", "{}"), r#"{"o":{"p":{"limit":5}}}"#);
    let both = capped("arguments.o.a=1, arguments.o.b=2", "{}");
    assert_eq!(serde_json::from_str::<Json>(&both).unwrap(), json!({ "o": { "a": 1, "b": 2 } }));
    assert_eq!(capped("arguments.a=7, arguments.a=5", r#"{"a":9}"#), r#"{"a":5}"#);
}

#[test]
fn a_cap_that_cannot_hold_blocks() {
    for raw in [r#"{"limit":"5000"}"#, r#"{"limit":true}"#, r#"{"limit":1,"limit":5000}"#, "[]", "", "{", "7"] {
        assert!(apply_arguments(&caps("arguments.limit=100").unwrap(), raw).is_err(), "{raw}");
    }
}

#[test]
fn a_redacted_argument_is_gone_and_the_rest_keeps_its_bytes() {
    assert_eq!(
        redacted("arguments.a.b", r#"{ "a": {"b": "secret", "c": 1.0e0}}"#),
        r#"{ "a": {"b": "[redacted]", "c": 1.0e0}}"#
    );
    assert_eq!(redacted("arguments.a", r#"{"a":{"b":"secret"}}"#), r#"{"a":null}"#);
    assert_eq!(
        redacted("arguments.a.b", r#"{"a":[{"b":1},[{"b":"x"}],3]}"#),
        r#"{"a":[{"b":null},[{"b":"[redacted]"}],3]}"#
    );
    assert_eq!(redacted("arguments.a, arguments.a.b", r#"{"a":{"b":1},"c":2}"#), r#"{"a":null,"c":2}"#);
    assert_eq!(redacted("arguments.a", r#"{"\u0061":"secret"}"#), r#"{"\u0061":"[redacted]"}"#);
    let twice = apply_arguments(&redactions("arguments.a").unwrap(), r#"{"a":"x","a":"y"}"#);
    assert_eq!(twice, Err(ApplyError::Malformed));
}

#[test]
fn lists_without_end_are_refused_and_overflow_nothing() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(apply_arguments(&redactions("arguments.a.b").unwrap(), &deep), Err(ApplyError::TooDeep));
    assert_eq!(apply_arguments(&caps("arguments.a.b=1").unwrap(), &deep), Err(ApplyError::TooDeep));
}

fn document() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "\\PC{0,6}".prop_map(Json::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|all| Json::Object(all.into_iter().collect())),
        ]
    })
}

/// What redaction means, said on a tree.
fn by_tree(value: &mut Json, steps: &[String]) {
    let Some((step, rest)) = steps.split_first() else {
        *value = if value.is_string() { json!(REDACTED) } else { json!(null) };
        return;
    };
    match value {
        Json::Object(members) => members.get_mut(step).into_iter().for_each(|member| by_tree(member, rest)),
        Json::Array(elements) => elements.iter_mut().for_each(|element| by_tree(element, steps)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn redaction_of_bytes_is_redaction_of_the_tree(
        members in proptest::collection::btree_map("[a-c]", document(), 0..4),
        path in proptest::collection::vec("[a-c]", 1..4),
        spaced: bool,
    ) {
        let mut tree = Json::Object(members.into_iter().collect());
        let raw = if spaced { serde_json::to_string_pretty(&tree).unwrap() } else { tree.to_string() };
        let rule = [Obligation::RedactArguments(Path::parse(&path.join(".")).unwrap())];
        let clean = apply_arguments(&rule, &raw).unwrap().unwrap_or(raw);
        by_tree(&mut tree, &path);
        prop_assert_eq!(serde_json::from_str::<Json>(&clean).unwrap(), tree);
    }

    #[test]
    fn no_bytes_panic(raw in "\\PC{0,80}") {
        let rules = redactions("arguments.a.b, result.a").unwrap().into_iter().chain(caps("arguments.a=1").unwrap());
        let rules: Vec<Obligation> = rules.collect();
        let _ = apply_arguments(&rules, &raw);
        let _ = apply_result(&rules, &raw);
    }

    #[test]
    fn a_capped_number_is_at_most_the_cap(number in any::<f64>().prop_filter("finite", |n| n.is_finite()), most: i32) {
        let raw = format!("{{\"n\":{number:e}}}");
        let rule = [Obligation::Cap { path: Path::parse("n").unwrap(), most: i64::from(most) }];
        let clean = apply_arguments(&rule, &raw).unwrap().unwrap_or(raw);
        let held = serde_json::from_str::<Json>(&clean).unwrap()["n"].as_f64().unwrap();
        prop_assert!(held <= f64::from(most), "{}", held);
    }
}
