//! Arguments that a tool's definition wants repeated in headers (`x-mcp-header`, revision 2026-07-28).
//!
//! Whoever routes or decides by such a header must be able to rely on it, so a header that is missing,
//! doubled or different from the argument is refused. A definition that uses the mark wrongly is not
//! offered at all, as the revision has it.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{
    endpoint::{decoded, single},
    upstream::wire::header_value,
};

const MARK: &str = "x-mcp-header";
/// Most marked arguments of a tool.
const MIRRORED_MAX: usize = 64;

/// One argument that is repeated in a header.
#[derive(Debug)]
pub(super) struct Mirrored {
    header: HeaderName,
    path: Vec<String>,
}

/// The marked arguments of an input schema.
pub(super) fn mirrored(schema: &str) -> Result<Vec<Mirrored>, String> {
    // Nearly no tool has one, and its absence is seen without reading the schema.
    if !schema.contains(MARK) {
        return Ok(Vec::new());
    }
    let schema: Value = serde_json::from_str(schema).map_err(|_| "its schema is not JSON".to_owned())?;
    let mut found: Vec<Mirrored> = Vec::new();
    // A path as long as only `properties` led here; after anything else a mark is out of place.
    let mut open: Vec<(&Value, Option<Vec<String>>)> = vec![(&schema, Some(Vec::new()))];
    while let Some((node, path)) = open.pop() {
        if let Value::Array(list) = node {
            open.extend(list.iter().map(|part| (part, None)));
        }
        let Value::Object(map) = node else { continue };
        if let Some(mark) = map.get(MARK).and_then(Value::as_str) {
            let path = path.clone().filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| format!("`{MARK}` stands where no single argument is meant"))?;
            if !matches!(map.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
                return Err(format!("`{MARK}` is on something else than a text, an integer or a truth value"));
            }
            let header = (!mark.is_empty()).then(|| format!("mcp-param-{mark}").parse::<HeaderName>().ok()).flatten();
            let header = header.ok_or_else(|| format!("`{MARK}` is not a header name"))?;
            if found.iter().any(|other| other.header == header) || found.len() >= MIRRORED_MAX {
                return Err(format!("`{MARK}` gives one name twice, or is there too often"));
            }
            found.push(Mirrored { header, path });
        }
        for (key, value) in map {
            match (key.as_str(), value.as_object(), &path) {
                ("properties", Some(properties), Some(path)) => open.extend(properties.iter().map(|(name, part)| {
                    let mut path = path.clone();
                    path.push(name.clone());
                    (part, Some(path))
                })),
                // Properties that are reached otherwise: their names are not keywords.
                ("properties", Some(properties), None) => open.extend(properties.values().map(|part| (part, None))),
                _ => open.push((value, None)),
            }
        }
    }
    Ok(found)
}

/// The headers that repeat the arguments, for a server that wants them.
pub(super) fn headers(mirrored: &[Mirrored], arguments: &Value) -> Vec<(HeaderName, HeaderValue)> {
    let said = mirrored.iter().filter_map(|Mirrored { header, path }| {
        let value = path.iter().try_fold(arguments, |value, name| value.get(name))?;
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return None,
        };
        Some((header.clone(), header_value(&text)?))
    });
    said.collect()
}

/// Checks that the headers repeat the arguments.
pub(super) fn agree(mirrored: &[Mirrored], headers: &HeaderMap, arguments: &Value) -> Result<(), String> {
    for Mirrored { header, path } in mirrored {
        let value = path.iter().try_fold(arguments, |value, name| value.get(name)).filter(|value| !value.is_null());
        let sent = single(headers, header)?;
        let same = match (value, sent) {
            (None, None) => true,
            (Some(value), Some(sent)) => {
                let sent = decoded(sent).ok_or_else(|| format!("`{header}` is not as the revision encodes it"))?;
                match value {
                    Value::String(text) => *text == sent,
                    Value::Bool(truth) => truth.to_string() == sent,
                    // 42 and 42.0 are one integer.
                    Value::Number(number) => {
                        sent == number.to_string()
                            || sent.parse::<f64>().is_ok_and(|sent| number.as_f64().is_some_and(|n| sent == n))
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if !same {
            return Err(format!("`{header}` is not the argument of the body"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn marked() -> Vec<Mirrored> {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "x-mcp-header": {"type": "string"}
        }});
        mirrored(&schema.to_string()).unwrap()
    }

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_header_repeats_its_argument_or_is_refused() {
        let both = json!({"region": "us", "deep": {"n": 42}});
        for (sent, arguments, agrees) in [
            (headers(&[("mcp-param-region", "us"), ("mcp-param-n", "42")]), &both, true),
            (headers(&[("mcp-param-region", "=?base64?dXM=?="), ("mcp-param-n", "42.0")]), &both, true),
            (headers(&[("mcp-param-region", "us")]), &both, false),
            (headers(&[("mcp-param-region", "eu"), ("mcp-param-n", "42")]), &both, false),
            (headers(&[("mcp-param-region", "us"), ("mcp-param-region", "us"), ("mcp-param-n", "42")]), &both, false),
            (headers(&[]), &json!({"region": null}), true),
            (headers(&[("mcp-param-region", "us")]), &json!({}), false),
        ] {
            assert_eq!(agree(&marked(), &sent, arguments).is_ok(), agrees, "{sent:?}");
        }
    }

    #[test]
    fn a_mark_out_of_place_is_found() {
        let mark = |name: &str| json!({"type": "string", "x-mcp-header": name});
        for schema in [
            json!({"type": "object", "x-mcp-header": "A"}),
            json!({"properties": {"a": mark("")}}),
            json!({"properties": {"a": mark("a b")}}),
            json!({"properties": {"a": mark("A"), "b": mark("a")}}),
            json!({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}),
            json!({"properties": {"a": {"type": "array", "items": mark("A")}}}),
            json!({"anyOf": [{"properties": {"a": mark("A")}}]}),
        ] {
            assert!(mirrored(&schema.to_string()).is_err(), "{schema}");
        }
    }
}
