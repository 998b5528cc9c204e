//! A small file of settings, in the same bounded YAML as a manifest, as a value.

use serde_json::{Map, Number, Value};

use super::{
    fields::Sink,
    tree::{self, Kind, Node},
};
use crate::Findings;

/// Reads one. JSON is YAML. `file` is only for the findings.
///
/// # Errors
/// What YAML it is not.
///
/// ```
/// let value = cogward_registry::manifest::document("sandbox.yaml", b"gvisor: {runtime: /usr/bin/runsc}").unwrap();
/// assert_eq!(value["gvisor"]["runtime"], "/usr/bin/runsc");
/// ```
pub fn document(file: &str, bytes: &[u8]) -> Result<Value, Findings> {
    let mut sink = Sink::new(file);
    let root = tree::read(bytes, &mut sink);
    let (_, findings) = sink.into_parts();
    match root {
        Some(root) if findings.is_empty() => Ok(value(root)),
        _ => Err(findings),
    }
}

/// As deep as the tree, which is bounded.
fn value(node: Node) -> Value {
    match node.kind {
        Kind::Text(text) | Kind::Float(text) => Value::String(text),
        Kind::Bool(value) => Value::Bool(value),
        Kind::Int(text) => text.parse::<i64>().map_or(Value::String(text), |n| Value::Number(Number::from(n))),
        Kind::Null => Value::Null,
        Kind::List(items) => Value::Array(items.into_iter().map(value).collect()),
        Kind::Map(entries) => {
            Value::Object(entries.into_iter().map(|e| (e.key, value(e.value))).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_are_the_same() {
        let yaml = document("a", b"a: 1\nb: [x, true]\nc: {d: null}\n").unwrap();
        let json = document("a", br#"{"a": 1, "b": ["x", true], "c": {"d": null}}"#).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(yaml["b"][1], true);
    }

    #[test]
    fn what_a_manifest_may_not_have_it_may_not_have_either() {
        for text in ["a: &x 1\nb: *x\n", "a: 1\na: 2\n", "- [", "a: 1\n---\nb: 2\n"] {
            assert!(document("a", text.as_bytes()).is_err(), "{text}");
        }
    }
}
