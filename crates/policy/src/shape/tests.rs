use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(member: Json) -> Result<Field, String> {
    let shape = Shape::of(&json!({ "type": "object", "properties": { "a": member }, "$defs": {
        "word": { "type": "string" },
        "tree": { "type": "object", "properties": { "left": { "$ref": "#/$defs/tree" }, "n": { "type": "integer" } } },
    }, "required": ["a"] }));
    shape.fields().get("a").cloned().ok_or_else(|| shape.why_not("a").unwrap_or("said nothing").to_owned())
}

#[test]
fn what_has_one_type_is_offered() {
    let is = |kind: Kind| Ok(Field { kind, required: true });
    let maybe = |kind: Kind| Ok(Field { kind, required: false });
    assert_eq!(of(json!({ "type": "string", "enum": ["x", "y"] })), is(Kind::Text));
    assert_eq!(of(json!({ "type": "integer" })), is(Kind::Long));
    assert_eq!(of(json!({ "type": "number" })), is(Kind::Decimal));
    assert_eq!(of(json!({ "type": ["integer", "number"] })), is(Kind::Decimal));
    assert_eq!(of(json!({ "type": "boolean" })), is(Kind::Bool));
    assert_eq!(of(json!({ "enum": ["x", "y"] })), is(Kind::Text));
    assert_eq!(of(json!({ "enum": [1, 2] })), is(Kind::Long));
    assert_eq!(of(json!({ "const": true })), is(Kind::Bool));
    assert_eq!(of(json!({ "$ref": "#/$defs/word" })), is(Kind::Text));
    assert_eq!(of(json!({ "allOf": [{ "$ref": "#/$defs/word" }], "default": "x" })), is(Kind::Text));
    assert_eq!(of(json!({ "type": "array", "items": { "type": "string" } })), is(Kind::Set(Box::new(Kind::Text))));
    assert_eq!(of(json!({ "type": ["string", "null"] })), maybe(Kind::Text));
    assert_eq!(of(json!({ "anyOf": [{ "type": "integer" }, { "type": "null" }] })), maybe(Kind::Long));
    assert_eq!(of(json!({ "oneOf": [{ "const": "x" }, { "type": "string" }] })), is(Kind::Text));
    assert_eq!(of(json!({ "enum": ["x", null] })), maybe(Kind::Text));
}

#[test]
fn what_has_not_is_left_out_with_a_reason() {
    for (member, why) in [
        (json!({}), "says nothing of its type"),
        (json!(true), "says nothing of its type"),
        (json!({ "type": "null" }), "always null"),
        (json!({ "type": ["string", "integer"] }), "several types"),
        (json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }), "several types"),
        (
            json!({ "oneOf": [{ "type": "object", "properties": {} }, { "type": "object", "properties": {} }] }),
            "several",
        ),
        (json!({ "enum": ["x", 1] }), "several types"),
        (json!({ "type": "array" }), "nothing of its elements"),
        (json!({ "type": "array", "prefixItems": [{ "type": "string" }] }), "places"),
        (json!({ "type": "array", "items": { "type": ["string", "null"] } }), "elements can be null"),
        (json!({ "type": "object" }), "nothing of its members"),
        (json!({ "$ref": "https://example.com/schema" }), "outside"),
        (json!({ "$ref": "#/$defs/none" }), "does not exist"),
        (json!({ "$ref": "#anchor" }), "not a path"),
        (json!({ "allOf": [{ "type": "string" }, { "maxLength": 3 }] }), "several schemas"),
    ] {
        let found = of(member.clone()).unwrap_err();
        assert!(found.contains(why), "{member}: {found}");
    }
}

#[test]
fn a_schema_that_contains_itself_ends_and_what_is_above_stays() {
    let field = of(json!({ "$ref": "#/$defs/tree" })).unwrap();
    let Kind::Record(members) = field.kind else { panic!("not a record") };
    assert_eq!(members.get("n").map(|n| &n.kind), Some(&Kind::Long));
    // Each level refers twice to the next: without a bound, two to the power of the depth.
    let mut defs = Map::new();
    for n in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        defs.insert(format!("d{n}"), json!({ "type": "object", "properties": { "a": next, "b": next } }));
    }
    let bomb = json!({ "type": "object", "$defs": defs, "properties": { "x": { "$ref": "#/$defs/d0" } } });
    let shape = Shape::of(&bomb);
    assert!(shape.left_out().len() <= LEFT_OUT_MAX);
}

#[test]
fn two_tools_of_one_name_offer_what_they_have_in_common() {
    let a = Shape::of(&json!({ "type": "object", "required": ["x", "r"], "properties": {
        "x": { "type": "string" }, "y": { "type": "string" }, "r": { "properties": { "a": { "type": "integer" } } } } }));
    let b = Shape::of(&json!({ "type": "object", "required": ["r"], "properties": {
        "x": { "type": "string" }, "y": { "type": "integer" },
        "r": { "properties": { "a": { "type": "integer" }, "b": { "type": "integer" } } } } }));
    let both = a.in_common(&b);
    assert_eq!(both.fields().keys().collect::<Vec<_>>(), ["r", "x"]);
    assert!(!both.fields()["x"].required && both.fields()["r"].required);
    assert!(both.why_not("y").unwrap().contains("differ") && both.why_not("r.b").is_some());
    assert_eq!(both.at(&["r".into(), "a".into()]), Some(&Kind::Long));
    assert_eq!(a.in_common(&a), a);
}

fn anything() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[a-z#/$]{0,8}".prop_map(Json::from),
        Just(json!("#/properties/a")),
        Just(json!("#")),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let key = prop_oneof![
            Just("type"),
            Just("properties"),
            Just("items"),
            Just("anyOf"),
            Just("allOf"),
            Just("$ref"),
            Just("enum"),
            Just("required"),
            Just("a"),
            Just("const"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|all| Json::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_schema_panics_or_runs_away(schema in anything()) {
        let shape = Shape::of(&schema);
        prop_assert!(shape.left_out().len() <= LEFT_OUT_MAX);
    }
}
