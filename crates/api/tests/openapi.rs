//! The checked-in description is the one that the code makes, and it is whole.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use cogward_api::{ROUTES, openapi};
use serde_json::Value;

#[test]
fn the_checked_in_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/cogward.v1.json");
    let current = openapi::document_text();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == current,
        "openapi/cogward.v1.json is stale: run `UPDATE_OPENAPI=1 cargo nextest run -p cogward-api` and review the diff"
    );
}

fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("$ref", Value::String(target)) = (name.as_str(), value) {
                    into.push(target.clone());
                }
                references(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, into)),
        _ => {}
    }
}

#[test]
fn every_reference_points_at_a_schema() {
    let document = openapi::document();
    let mut targets = Vec::new();
    references(&document, &mut targets);
    assert!(targets.len() > 100);
    for target in targets {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
}

#[test]
fn every_route_is_described_with_its_problems_and_parameters() {
    let document = openapi::document();
    for route in ROUTES {
        // A parameter that stands for the rest of a path has no mark of its own in the description.
        let operation = &document["paths"][route.path.replace("{*", "{")][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["operationId"], route.operation_id);
        for code in route.problems() {
            let answer = &operation["responses"][code.status().to_string()];
            assert!(answer["description"].as_str().unwrap().contains(code.as_str()), "{} {code}", route.operation_id);
        }
        for name in route.path_parameters() {
            let known = operation["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name);
            assert!(known, "{} {name}", route.operation_id);
        }
    }
}

#[test]
fn requests_refuse_unknown_fields_and_responses_have_no_credential() {
    let document = openapi::document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in ["RunStart", "Reason", "TenantCreate", "ToolServerPut", "ProviderPut"] {
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
    for name in ["ToolServer", "Provider"] {
        assert!(schemas[name]["properties"].get("credential").is_none(), "{name}");
    }
}
