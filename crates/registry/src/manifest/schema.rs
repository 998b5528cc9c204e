//! The published JSON Schema, made from the model's own types.

use cogward_model::manifest::{API_VERSION, Manifest};
use serde_json::{Value, json};

/// The `$id` of the schema.
pub const SCHEMA_ID: &str = "https://cogward.dev/schemas/agent.v1alpha1.schema.json";

/// The JSON Schema (2020-12) of a manifest, as the file in `schemas/` holds it. For editors: the plane
/// itself checks more, and says more.
///
/// # Errors
/// Never; the signature is serde's.
pub fn schema_text() -> Result<String, serde_json::Error> {
    let mut schema = without_null(serde_json::to_value(schemars::schema_for!(Manifest))?);
    set(&mut schema, "", "$id", json!(SCHEMA_ID));
    set(&mut schema, "", "title", json!("cogward agent manifest"));
    set(&mut schema, "/properties/apiVersion", "const", json!(API_VERSION));
    set(&mut schema, "/properties/kind", "const", json!("Agent"));
    set(&mut schema, "/$defs/Package", "oneOf", json!([{ "required": ["directory"] }, { "required": ["ociLayout"] }]));
    set(&mut schema, "/$defs/Package/properties/entrypoint", "minItems", json!(1));
    set(&mut schema, "/$defs/Permissions/properties/memory", "maxItems", json!(0));
    for (field, least, most) in [
        ("/$defs/Resources/properties/cpuMillis", 50, 64_000),
        ("/$defs/Resources/properties/memoryMib", 16, 65_536),
        ("/$defs/Resources/properties/pids", 4, 4_096),
        ("/$defs/Resources/properties/workspaceMib", 1, 65_536),
        ("/$defs/Resources/properties/workspaceInodes", 64, 1_048_576),
        ("/$defs/Resources/properties/openFiles", 16, 65_536),
        ("/$defs/Input/properties/maxMib", 1, 4_096),
        ("/$defs/Output/properties/maxMib", 1, 4_096),
        ("/$defs/Sandbox/properties/graceSeconds", 0, 600),
        ("/$defs/EvidenceNeeds/properties/retentionDays", 1, 36_500),
        ("/$defs/EgressGrant/properties/port", 1, 65_535),
        ("/$defs/ModelGrant/properties/maxOutputTokens", 1, 1_000_000),
        ("/$defs/RunBudget/properties/connections", 0, 1_000_000_000),
        ("/$defs/RunBudget/properties/egressMib", 0, 1_048_576),
        ("/$defs/AgentBudget/properties/connections", 0, 1_000_000_000),
        ("/$defs/AgentBudget/properties/egressMib", 0, 1_048_576),
        ("/$defs/RunBudget/properties/wallClockSeconds", 1, 2_592_000),
    ] {
        set(&mut schema, field, "minimum", json!(least));
        set(&mut schema, field, "maximum", json!(most));
    }
    let mut text = serde_json::to_string_pretty(&sorted(schema))?;
    text.push('\n');
    Ok(text)
}

fn set(schema: &mut Value, at: &str, key: &str, value: Value) {
    if let Some(map) = schema.pointer_mut(at).and_then(Value::as_object_mut) {
        map.insert(key.to_owned(), value);
    }
}

/// A field is there with a value or is not there: the reader takes no `null` for an optional field.
fn without_null(value: Value) -> Value {
    let null = json!({ "type": "null" });
    match value {
        Value::Object(mut map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|c| *c != null);
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    map.extend(only);
                }
            }
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            Value::Object(map.into_iter().map(|(k, v)| (k, without_null(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_null).collect()),
        other => other,
    }
}

/// With sorted keys, whatever features the JSON crate was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(k, v)| (k, sorted(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
