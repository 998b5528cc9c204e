//! Schemas of OpenAPI to one JSON Schema (2020-12) for each tool.
//!
//! References are kept, as references to the tool's own `$defs`: nothing is written out, so a document that refers to
//! itself a thousand times over does not grow, and a type that contains itself is one. What a schema says that is no
//! validation (examples, `x-` members, discriminators) is left behind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    bounds::{DEPTH_MAX, SCHEMAS_MAX},
    document::Document,
    error::shown,
};

/// Taken as they are.
const PLAIN: [&str; 25] = [
    "type",
    "enum",
    "const",
    "title",
    "description",
    "default",
    "format",
    "multipleOf",
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
    "dependentRequired",
    "minContains",
    "maxContains",
    "deprecated",
    "contentEncoding",
];
/// One schema each.
const SCHEMA: [&str; 10] = [
    "items",
    "additionalProperties",
    "propertyNames",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Lists of schemas.
const LISTS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Schemas by name.
const NAMED: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
/// What changes what a reference means.
const IDENTITIES: [&str; 5] = ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"];

/// For which way a schema is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What is sent: without what is read only.
    Request,
    /// What comes back: without what is write only.
    Response,
}

/// Reads the schemas of one tool and collects what they refer to.
pub(crate) struct Schemas<'d> {
    document: &'d Document,
    way: Way,
    /// Names in `$defs`, by pointer into the document.
    names: BTreeMap<String, String>,
    taken: BTreeSet<String>,
    /// The number that the next name of the same beginning gets: references of one name are many in hostile documents.
    numbers: BTreeMap<String, usize>,
    open: Vec<String>,
    seen: usize,
}

impl<'d> Schemas<'d> {
    pub(crate) fn new(document: &'d Document, way: Way) -> Self {
        Self {
            document,
            way,
            names: BTreeMap::new(),
            taken: BTreeSet::new(),
            numbers: BTreeMap::new(),
            open: Vec::new(),
            seen: 0,
        }
    }

    /// One schema.
    pub(crate) fn read(&mut self, schema: &Value) -> Result<Value, String> {
        self.at(schema, 0)
    }

    /// All that was referred to, for `$defs`.
    pub(crate) fn definitions(&mut self) -> Result<Map<String, Value>, String> {
        let mut all = BTreeMap::new();
        while let Some(pointer) = self.open.pop() {
            let Some(name) = self.names.get(&pointer).cloned() else { continue };
            let target = self.document.pointed(&pointer)?;
            if !matches!(target, Value::Object(_) | Value::Bool(_)) {
                return Err(format!("`{}` is no schema", shown(&pointer)));
            }
            self.document.resolve(target)?;
            all.insert(name, self.at(target, 0)?);
        }
        Ok(all.into_iter().collect())
    }

    fn at(&mut self, schema: &Value, depth: usize) -> Result<Value, String> {
        self.seen += 1;
        self.document.spend(1)?;
        if self.seen > SCHEMAS_MAX {
            return Err(format!("it has more than {SCHEMAS_MAX} schemas"));
        }
        if depth > DEPTH_MAX {
            return Err(format!("a schema of it is nested deeper than {DEPTH_MAX}"));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err("a schema of it is neither an object nor a truth value".to_owned()),
        };
        if let Some(identity) = IDENTITIES.iter().find(|key| map.contains_key(**key)) {
            return Err(format!("a schema of it has `{identity}`"));
        }
        let mut out = Map::new();
        if let Some(reference) = map.get("$ref") {
            out.insert("$ref".to_owned(), self.reference(reference)?.into());
            if self.document.is_3_0() {
                return Ok(Value::Object(out));
            }
        }
        for key in PLAIN {
            if let Some(value) = map.get(key) {
                self.document.spend(weight(value))?;
                out.insert(key.to_owned(), value.clone());
            }
        }
        for key in SCHEMA {
            if let Some(value) = map.get(key) {
                out.insert(key.to_owned(), self.at(value, depth + 1)?);
            }
        }
        for key in LISTS {
            let Some(value) = map.get(key) else { continue };
            let list = value.as_array().ok_or_else(|| format!("`{key}` of a schema of it is no list"))?;
            let list: Result<Vec<_>, _> = list.iter().map(|part| self.at(part, depth + 1)).collect();
            out.insert(key.to_owned(), Value::Array(list?));
        }
        for key in NAMED {
            let Some(value) = map.get(key) else { continue };
            let members = value.as_object().ok_or_else(|| format!("`{key}` of a schema of it is no object"))?;
            let mut read = BTreeMap::new();
            for (name, part) in members {
                let is_other_way = key == "properties" && self.other_way(part);
                match self.way {
                    Way::Response if is_other_way => {}
                    // Left out, it would be a member that nothing is said of, and most schemas take those.
                    Way::Request if is_other_way => drop(read.insert(name.clone(), Value::Bool(false))),
                    _ => drop(read.insert(name.clone(), self.at(part, depth + 1)?)),
                }
            }
            out.insert(key.to_owned(), Value::Object(read.into_iter().collect()));
        }
        if let Some(required) = map.get("required").and_then(Value::as_array) {
            let members = map.get("properties").and_then(Value::as_object);
            let dropped = |name: &Value| {
                let member = name.as_str().and_then(|name| members.and_then(|members| members.get(name)));
                member.is_some_and(|member| self.other_way(member))
            };
            let kept: Vec<_> = required.iter().filter(|name| name.is_string() && !dropped(name)).cloned().collect();
            out.insert("required".to_owned(), Value::Array(kept));
        }
        exclusive(&mut out, "exclusiveMinimum", "minimum");
        exclusive(&mut out, "exclusiveMaximum", "maximum");
        if map.get("nullable") == Some(&Value::Bool(true)) {
            return Ok(nullable(out));
        }
        Ok(Value::Object(out))
    }

    /// Whether a member goes the other way only.
    fn other_way(&self, member: &Value) -> bool {
        let key = if self.way == Way::Request { "readOnly" } else { "writeOnly" };
        let resolved = self.document.resolve(member).unwrap_or(member);
        [member, resolved].iter().any(|schema| schema.get(key) == Some(&Value::Bool(true)))
    }

    fn reference(&mut self, reference: &Value) -> Result<String, String> {
        // To follow one costs more than to copy a value.
        self.document.spend(8)?;
        let pointer = self.document.pointer(reference)?;
        if let Some(name) = self.names.get(&pointer) {
            return Ok(format!("#/$defs/{name}"));
        }
        self.document.pointed(&pointer)?;
        let last = pointer.rsplit('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
        let base: String = last.chars().take(64).map(plain).collect();
        let base = if base.is_empty() { "schema".to_owned() } else { base };
        let mut name = base.clone();
        if self.taken.contains(&name) {
            let number = self.numbers.entry(base.clone()).or_insert(1);
            while self.taken.contains(&name) {
                *number += 1;
                name = format!("{base}_{number}");
            }
        }
        self.taken.insert(name.clone());
        self.names.insert(pointer.clone(), name.clone());
        self.open.push(pointer);
        Ok(format!("#/$defs/{name}"))
    }
}

/// How many values there are in one, texts by their length.
fn weight(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 1 + map.iter().map(|(name, value)| name.len() / 64 + weight(value)).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 64,
        _ => 1,
    }
}

/// OpenAPI 3.0: a truth value beside the bound.
fn exclusive(out: &mut Map<String, Value>, key: &str, bound: &str) {
    match out.get(key) {
        Some(Value::Bool(true)) => {
            out.remove(key);
            if let Some(value) = out.remove(bound) {
                out.insert(key.to_owned(), value);
            }
        }
        Some(Value::Bool(false)) => {
            out.remove(key);
        }
        _ => {}
    }
}

/// OpenAPI 3.0: null is taken as well.
fn nullable(mut out: Map<String, Value>) -> Value {
    let Some(kind) = out.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return json!({ "anyOf": [Value::Object(out), { "type": "null" }] });
    };
    out.insert("type".to_owned(), json!([kind, "null"]));
    if let Some(Value::Array(values)) = out.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    Value::Object(out)
}
