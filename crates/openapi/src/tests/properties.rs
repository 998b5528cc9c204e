//! Whatever the arguments are, the request has the form that the document gave it.

use proptest::prelude::*;

use super::*;
use crate::encode::decoded;

fn operation() -> Operation {
    let parameter = |name: &str, place: &str, style: &str| json!({"name": name, "in": place, "required": place == "path", "style": style, "schema": {}});
    let parameters = json!([
        parameter("id", "path", "simple"),
        parameter("part", "path", "simple"),
        parameter("q", "query", "form"),
        parameter("deep", "query", "deepObject"),
        parameter("X-Note", "header", "simple"),
    ]);
    one(
        "/v/{id}/x-{part}",
        json!({"post": {"parameters": parameters, "requestBody": {"content": {"application/json": {}}}}}),
    )
}

/// Texts with what attacks are made of.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        proptest::sample::select(vec![
            "/", "\\", ".", "..", "%", "%2e", "%2f", "%252f", "%5c", "?", "#", "&", "=", ";", "\r", "\n", "\0", "@",
            ":", "//", "%00", "a",
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn plain() -> impl Strategy<Value = Value> {
    prop_oneof![texts().prop_map(Value::from), any::<i64>().prop_map(Value::from), any::<bool>().prop_map(Value::from)]
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => plain(),
        1 => proptest::collection::vec(plain(), 0..3).prop_map(Value::from),
        1 => proptest::collection::vec((texts(), plain()), 0..3).prop_map(|all| Value::Object(all.into_iter().collect())),
        1 => Just(Value::Null),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_request_has_the_form_of_its_operation(id in values(), part in values(), q in values(), deep in values(), note in values(), body in values()) {
        let arguments = json!({"id": id, "part": part, "q": q, "deep": deep, "X-Note": note, "body": body});
        let Ok(planned) = operation().plan_request(&arguments.to_string()) else { return Ok(()) };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%/,=&?".contains(&b);
        prop_assert!(planned.target.bytes().all(allowed), "{}", planned.target);
        let (path, query) = planned.target.split_once('?').unwrap_or((&planned.target, ""));
        prop_assert!(!query.contains(['?', '/', '#']));
        // However often it is decoded on the way, it has its three segments and none leads away.
        let mut bytes = path.as_bytes().to_vec();
        for _ in 0..6 {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let segments: Vec<_> = text.split(['/', '\\']).collect();
            prop_assert_eq!(segments.len(), 4, "{}", text);
            prop_assert_eq!((segments[0], segments[1]), ("", "v"));
            prop_assert!(segments[3].starts_with("x-"));
            for segment in &segments {
                prop_assert!(!matches!(segment.split(';').next(), Some("." | "..")), "{}", text);
            }
            prop_assert!(!text.contains(|c: char| c.is_ascii_control()));
            bytes = decoded(&bytes);
        }
        // Each parameter of the query is one that the document has.
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split('=').next().unwrap_or_default();
            prop_assert!(name == "q" || (name.starts_with("deep%5B") && name.ends_with("%5D")), "{}", pair);
            prop_assert_eq!(pair.matches('=').count(), 1);
        }
        for (name, value) in &planned.headers {
            prop_assert_eq!(name, "X-Note");
            prop_assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b)));
        }
        if let Some(body) = planned.body {
            prop_assert_eq!(serde_json::from_slice::<Value>(&body.bytes).unwrap(), arguments["body"].clone());
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, &Selection::default());
    }

    /// A document in which one value is something else.
    #[test]
    fn no_value_out_of_place_makes_the_reader_panic(at in any::<prop::sample::Index>(), other in values()) {
        let mut document: Value = crate::source::value(INVOICES.as_bytes()).unwrap();
        let mut pointers = Vec::new();
        collect(&document, String::new(), &mut pointers);
        let pointer = at.get(&pointers).clone();
        if let Some(value) = document.pointer_mut(&pointer) {
            *value = other;
        }
        let _ = import(&document);
    }
}

fn collect(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                collect(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
            }
        }
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                collect(value, format!("{at}/{place}"), all);
            }
        }
        _ => {}
    }
    all.push(at);
}
