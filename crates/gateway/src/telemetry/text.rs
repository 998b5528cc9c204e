//! The JSON side of OTLP: the same check and the same change as on the binary side.

use cogward_model::limits::TELEMETRY_REQUEST_BYTES_MAX;
use serde_json::{Map, Value, json};

use super::{Export, GROUPS_MAX, Invalid, OURS, Signal};
use crate::json;

/// Reads an export; gives it with the plane's own attributes, and how many items it has.
///
/// # Errors
/// [`Invalid`] for whatever is not an export of this signal.
pub(super) fn read(signal: Signal, bytes: &[u8], ours: &[(&'static str, String)]) -> Result<Export, Invalid> {
    // Values take many times the room of their text.
    if bytes.len() > TELEMETRY_REQUEST_BYTES_MAX {
        return Err(Invalid::TooLong);
    }
    json::check(bytes).map_err(|_| Invalid::Form)?;
    let mut export: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| Invalid::Form)?;
    let (groups, scopes, named) = match signal {
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
    };
    if export.keys().any(|key| key != groups) {
        return Err(Invalid::Form);
    }
    let mut items = 0;
    for (number, group) in list(export.get_mut(groups))?.enumerate() {
        if number >= GROUPS_MAX {
            return Err(Invalid::TooMany);
        }
        let group = group.as_object_mut().ok_or(Invalid::Form)?;
        for scope in list(group.get_mut(scopes))? {
            let scope = scope.as_object_mut().ok_or(Invalid::Form)?;
            for item in list(scope.get_mut(named))? {
                let item = item.as_object().ok_or(Invalid::Form)?;
                id(item, "traceId", 32)?;
                id(item, "spanId", 16)?;
                items += 1;
            }
        }
        resource(group, ours)?;
    }
    let bytes = serde_json::to_vec(&export).map_err(|_| Invalid::Form)?;
    Ok(Export { bytes, items })
}

fn resource(group: &mut Map<String, Value>, ours: &[(&'static str, String)]) -> Result<(), Invalid> {
    let resource = group.entry("resource").or_insert_with(|| Value::Object(Map::new()));
    if resource.is_null() {
        *resource = Value::Object(Map::new());
    }
    let resource = resource.as_object_mut().ok_or(Invalid::Form)?;
    let attributes = resource.entry("attributes").or_insert_with(|| Value::Array(Vec::new()));
    let attributes = attributes.as_array_mut().ok_or(Invalid::Form)?;
    for attribute in attributes.iter() {
        attribute.get("key").and_then(Value::as_str).ok_or(Invalid::Form)?;
    }
    attributes.retain(|pair| !pair.get("key").and_then(Value::as_str).is_some_and(|key| key.starts_with(OURS)));
    attributes.extend(ours.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})));
    Ok(())
}

/// The items of a list that may be left out.
fn list(value: Option<&mut Value>) -> Result<impl Iterator<Item = &mut Value>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok([].iter_mut()),
        Some(Value::Array(items)) => Ok(items.iter_mut()),
        Some(_) => Err(Invalid::Form),
    }
}

/// An id is hexadecimal here, whatever the rules of JSON for bytes.
fn id(item: &Map<String, Value>, name: &str, length: usize) -> Result<(), Invalid> {
    match item.get(name) {
        None => Ok(()),
        Some(Value::String(text)) if text.is_empty() => Ok(()),
        Some(Value::String(text)) if text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
        Some(_) => Err(Invalid::Form),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours() -> Vec<(&'static str, String)> {
        vec![("cogward.run.id", "run-1".to_owned())]
    }

    #[test]
    fn the_agent_s_word_on_who_it_is_does_not_count() {
        let sent = json!({"resourceSpans": [
            {"resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "a"}},
                {"key": "cogward.run.id", "value": {"stringValue": "forged"}}
            ]}, "scopeSpans": [{"spans": [{"traceId": "0af7651916cd43dd8448eb211c80319c", "name": "x"}, {}]}]},
            {"scopeSpans": []}
        ]});
        let export = read(Signal::Traces, sent.to_string().as_bytes(), &ours()).unwrap();
        let kept: Value = serde_json::from_slice(&export.bytes).unwrap();
        assert_eq!(export.items, 2);
        for group in kept["resourceSpans"].as_array().unwrap() {
            let attributes = group["resource"]["attributes"].as_array().unwrap();
            let said: Vec<_> = attributes.iter().filter(|pair| pair["key"] == "cogward.run.id").collect();
            assert_eq!(said, [&json!({"key": "cogward.run.id", "value": {"stringValue": "run-1"}})]);
        }
        assert_eq!(kept["resourceSpans"][0]["resource"]["attributes"][0]["key"], "service.name");
    }

    #[test]
    fn what_is_not_an_export_of_the_signal_is_refused() {
        assert!(read(Signal::Logs, br#"{}"#, &[]).is_ok());
        for bad in [
            r#"[]"#,
            r#"{"resourceSpans": []}"#,
            r#"{"resourceLogs": {}}"#,
            r#"{"resourceLogs": [1]}"#,
            r#"{"resourceLogs": [{"scopeLogs": [[]]}]}"#,
            r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [1]}]}]}"#,
            r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "xyz"}]}]}]}"#,
            r#"{"resourceLogs": [{"resource": {"attributes": [{"k": 1}]}}]}"#,
            r#"{"resourceLogs": [], "resourceLogs": []}"#,
        ] {
            assert!(read(Signal::Logs, bad.as_bytes(), &[]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in r#"[\[\]{}":,a-z0-9]{0,80}"#) {
            let _ = read(Signal::Traces, &bytes, &ours());
            let _ = read(Signal::Metrics, text.as_bytes(), &ours());
        }
    }
}
