use serde_json::json;

use super::*;

async fn check(schema: &Value, arguments: &Value) -> Result<(), SchemaError> {
    ToolSchema::compile(&schema.to_string()).check(arguments.to_string().as_bytes()).await
}

#[tokio::test]
async fn a_violation_names_the_path_and_never_the_value() {
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}}});
    match check(&schema, &json!({"a": {"b": "s3cret"}})).await {
        Err(SchemaError::Broken { at, why }) => {
            assert_eq!(at, "/a/b");
            assert!(!why.contains("s3cret") && why.contains("integer"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(check(&schema, &json!({"a": {"b": 1}})).await, Ok(()));
}

#[tokio::test]
async fn older_drafts_and_recursion_into_the_value_are_understood() {
    let tree = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "additionalProperties": false});
    assert_eq!(check(&tree, &json!({"children": [{"children": []}]})).await, Ok(()));
    assert!(check(&tree, &json!({"children": [{"x": 1}]})).await.is_err());
}

#[tokio::test]
async fn schemas_made_to_hurt_are_unusable_not_skipped() {
    let mut long = serde_json::Map::new();
    for k in 0..1_000 {
        long.insert(format!("d{k}"), json!({"properties": {"x": {"$ref": format!("#/$defs/d{}", k + 1)}}}));
    }
    long.insert("d1000".into(), json!({}));
    for (name, schema) in [
        ("loop", json!({"type": "object", "allOf": [{"$ref": "#"}]})),
        (
            "two-step loop",
            json!({"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        ("network", json!({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}})),
        ("file", json!({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}})),
        ("nowhere", json!({"type": "object", "$ref": "#/$defs/none"})),
        ("identity", json!({"type": "object", "properties": {"a": {"$id": "http://x/", "$ref": "#/b"}}})),
        ("not an object", json!({"type": "string"})),
        ("list of schemas", json!([])),
        ("path", json!({"type": "object", "$ref": "#/$defs/d0", "$defs": long})),
        ("broken", json!({"type": "object", "properties": {"a": {"type": 7}}})),
    ] {
        let verdict = check(&schema, &json!({})).await;
        assert!(matches!(verdict, Err(SchemaError::Unusable(_))), "{name}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_schema_bomb_is_never_lit() {
    let mut defs = serde_json::Map::new();
    for k in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", k + 1)});
        defs.insert(format!("d{k}"), json!({"allOf": [next, next]}));
    }
    // 2^40 visits for one small argument; it is permitted by each of them, so nothing ends early.
    defs.insert("d40".into(), json!({"not": {"required": ["never"]}}));
    let schema = json!({"type": "object", "$ref": "#/$defs/d0", "$defs": defs});
    assert!(matches!(check(&schema, &json!({})).await, Err(SchemaError::Unusable(_))));
}

#[tokio::test]
async fn a_pattern_that_backtracks_ends() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+(?=b)$"}}});
    assert!(check(&schema, &json!({"a": "a".repeat(64)})).await.is_err());
}

#[tokio::test]
async fn a_wide_value_under_a_plain_schema_is_checked() {
    let schema = json!({"type": "object", "properties": {"rows": {"type": "array", "items": {"type": "integer"}}}});
    assert_eq!(check(&schema, &json!({"rows": vec![1; 200_000]})).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_ran_out_of_time_takes_the_tool_from_nobody_for_good() {
    let text = r#"{"type":"array","items":{"type":"string","pattern":"^a*$"}}"#;
    let schema = ToolSchema::compile(&format!(r#"{{"type":"object","properties":{{"a":{text}}}}}"#));
    // So much that it is checked aside.
    let arguments = json!({ "a": vec!["a"; 1_000] }).to_string();
    let slow = schema.0.as_ref().unwrap();
    assert_eq!(schema.check(arguments.as_bytes()).await, Ok(()));
    *slow.resting() = Some(Instant::now() + REST);
    assert_eq!(schema.check(arguments.as_bytes()).await, Err(SchemaError::TooCostly));
    tokio::time::advance(REST).await;
    assert_eq!(schema.check(arguments.as_bytes()).await, Ok(()));
}
