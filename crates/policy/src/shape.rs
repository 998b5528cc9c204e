//! The arguments of one tool as policies see them, from its JSON Schema (2020-12).
//!
//! Keywords of a schema hold together, so each one that gives a type gives a sound one; the rest only narrows. What has
//! no single type is left out, with the reason, and a policy that names it is told that reason.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::value::DECIMAL_KEY;

/// The deepest nesting that is offered, with references followed.
const DEPTH_MAX: usize = 12;

/// The most schemas that are looked at for one tool.
const SCHEMAS_MAX: usize = 4096;

/// The most parts that are named as left out; the rest is left out without a reason of its own.
const LEFT_OUT_MAX: usize = 256;

/// The type of one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number of 64 bits.
    Long,
    /// A number with up to four decimal places.
    Decimal,
    /// Text.
    Text,
    /// A list, seen as a set.
    Set(Box<Kind>),
    /// A record.
    Record(BTreeMap<String, Field>),
}

/// One member of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its type.
    pub kind: Kind,
    /// Whether it is always there.
    pub required: bool,
}

/// A part of the arguments that policies cannot read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Where.
    pub path: String,
    /// Why, as one sentence without a full stop.
    pub why: String,
}

/// The arguments of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    fields: BTreeMap<String, Field>,
    left_out: Vec<LeftOut>,
}

/// A type, and whether null is taken in its place.
struct Typed {
    kind: Kind,
    nullable: bool,
}

struct Reader<'a> {
    document: &'a Json,
    seen: usize,
    left_out: Vec<LeftOut>,
}

impl Shape {
    /// Reads the input schema of a tool. What cannot be typed is left out and said.
    ///
    /// ```
    /// # use cogward_policy::Shape;
    /// let schema = serde_json::json!({
    ///     "type": "object",
    ///     "properties": { "amount": { "type": "integer" }, "memo": { "anyOf": [{ "type": "string" }, { "type": "null" }] } },
    ///     "required": ["amount"],
    /// });
    /// let shape = Shape::of(&schema);
    /// assert!(shape.fields()["amount"].required && !shape.fields()["memo"].required);
    /// ```
    #[must_use]
    pub fn of(input_schema: &Json) -> Self {
        let mut reader = Reader { document: input_schema, seen: 0, left_out: Vec::new() };
        let fields = match reader.typed(input_schema, "", 0) {
            Ok(Typed { kind: Kind::Record(fields), .. }) => fields,
            Ok(_) => {
                reader.leave_out("", "the arguments are not an object");
                BTreeMap::new()
            }
            Err(why) => {
                reader.leave_out("", why);
                BTreeMap::new()
            }
        };
        Self { fields, left_out: reader.left_out }
    }

    /// What policies can read.
    #[must_use]
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        &self.fields
    }

    /// What they cannot.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The type of what is at a path; a list on the way stands for its elements.
    #[must_use]
    pub fn at<'a>(&'a self, steps: &[String]) -> Option<&'a Kind> {
        let (last, above) = steps.split_last()?;
        let mut fields = &self.fields;
        for step in above {
            fields = match elements_of(&fields.get(step)?.kind) {
                Kind::Record(inner) => inner,
                _ => return None,
            };
        }
        fields.get(last).map(|field| &field.kind)
    }

    /// Why a path is not offered, when it or what it is in was left out.
    #[must_use]
    pub fn why_not(&self, path: &str) -> Option<&str> {
        let covers = |left_out: &&LeftOut| {
            left_out.path.is_empty()
                || path == left_out.path
                || path.strip_prefix(&left_out.path).is_some_and(|rest| rest.starts_with('.'))
        };
        self.left_out.iter().find(covers).map(|left_out| left_out.why.as_str())
    }

    /// What two tools of one name have in common, for a level that sees both.
    #[must_use]
    pub fn in_common(&self, other: &Self) -> Self {
        let mut left_out = self.left_out.clone();
        left_out.extend(other.left_out.iter().filter(|one| !self.left_out.contains(one)).cloned());
        let fields = common(&self.fields, &other.fields, "", &mut left_out);
        left_out.truncate(LEFT_OUT_MAX);
        Self { fields, left_out }
    }
}

fn elements_of(kind: &Kind) -> &Kind {
    match kind {
        Kind::Set(element) => elements_of(element),
        other => other,
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn common(
    left: &BTreeMap<String, Field>,
    right: &BTreeMap<String, Field>,
    path: &str,
    left_out: &mut Vec<LeftOut>,
) -> BTreeMap<String, Field> {
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let mut fields = BTreeMap::new();
    for name in names {
        let here = below(path, name);
        let kind = match (left.get(name), right.get(name)) {
            (Some(a), Some(b)) => match (&a.kind, &b.kind) {
                (Kind::Record(a), Kind::Record(b)) => Some(Kind::Record(common(a, b, &here, left_out))),
                (a, b) => (a == b).then(|| a.clone()),
            },
            _ => None,
        };
        let required = |fields: &BTreeMap<String, Field>| fields.get(name).is_some_and(|field| field.required);
        match kind {
            Some(kind) => {
                fields.insert(name.clone(), Field { kind, required: required(left) && required(right) });
            }
            None if left_out.len() < LEFT_OUT_MAX => left_out.push(LeftOut {
                path: here,
                why: "tenants have tools of this name whose arguments differ in it".to_owned(),
            }),
            None => {}
        }
    }
    fields
}

impl<'a> Reader<'a> {
    fn leave_out(&mut self, path: &str, why: &str) {
        if self.left_out.len() < LEFT_OUT_MAX {
            self.left_out.push(LeftOut { path: path.to_owned(), why: why.to_owned() });
        }
    }

    /// The type of a schema, or why it has none.
    fn typed(&mut self, schema: &'a Json, path: &str, depth: usize) -> Result<Typed, &'static str> {
        self.seen += 1;
        if self.seen > SCHEMAS_MAX {
            return Err("the tool's schema is too large to be offered whole");
        }
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply, or contains itself");
        }
        let Some(schema) = schema.as_object() else { return Err("the schema says nothing of its type") };
        if let Some(types) = schema.get("type") {
            return self.by_type(schema, types, path, depth);
        }
        if schema.contains_key("properties") {
            return self.record(schema, path, depth).map(|kind| Typed { kind, nullable: false });
        }
        if let Some(values) = schema.get("enum").and_then(Json::as_array) {
            return by_values(values);
        }
        if let Some(value) = schema.get("const") {
            return by_values(std::slice::from_ref(value));
        }
        if let Some(reference) = schema.get("$ref") {
            let target = self.target(reference)?;
            return self.typed(target, path, depth + 1);
        }
        if let Some(branches) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array) {
            return self.one_of(branches, path, depth);
        }
        let all = schema.get("allOf").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        match all {
            [] => Err("the schema says nothing of its type"),
            [one] => self.typed(one, path, depth + 1),
            _ => Err("it has to satisfy several schemas at once"),
        }
    }

    fn by_type(
        &mut self,
        schema: &'a Map<String, Json>,
        types: &'a Json,
        path: &str,
        depth: usize,
    ) -> Result<Typed, &'static str> {
        let mut names: BTreeSet<&str> = match types {
            Json::String(one) => BTreeSet::from([one.as_str()]),
            Json::Array(several) => several.iter().filter_map(Json::as_str).collect(),
            _ => return Err("the schema says nothing of its type"),
        };
        let nullable = names.remove("null");
        if names.contains("number") {
            names.remove("integer");
        }
        let mut names = names.into_iter();
        let kind = match (names.next(), names.next()) {
            (Some(one), None) => match one {
                "string" => Kind::Text,
                "integer" => Kind::Long,
                "number" => Kind::Decimal,
                "boolean" => Kind::Bool,
                "array" => self.list(schema, path, depth)?,
                "object" => self.record(schema, path, depth)?,
                _ => return Err("its type is none of JSON Schema"),
            },
            (None, _) => return Err("it is always null"),
            _ => return Err("it can have several types"),
        };
        Ok(Typed { kind, nullable })
    }

    fn list(&mut self, schema: &'a Map<String, Json>, path: &str, depth: usize) -> Result<Kind, &'static str> {
        if schema.contains_key("prefixItems") {
            return Err("it is a list whose places have types of their own");
        }
        let items = schema.get("items").ok_or("it is a list, and the schema says nothing of its elements")?;
        let element = self.typed(items, path, depth + 1)?;
        if element.nullable {
            return Err("it is a list whose elements can be null");
        }
        Ok(Kind::Set(Box::new(element.kind)))
    }

    fn record(&mut self, schema: &'a Map<String, Json>, path: &str, depth: usize) -> Result<Kind, &'static str> {
        let properties = schema.get("properties").and_then(Json::as_object);
        if properties.is_none() && depth > 0 {
            return Err("it is an object, and the schema says nothing of its members");
        }
        let required: BTreeSet<&str> =
            schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let mut fields = BTreeMap::new();
        for (name, member) in properties.into_iter().flatten() {
            let here = below(path, name);
            if !is_offered(name) {
                self.leave_out(&here, "its name cannot be written in a policy");
                continue;
            }
            match self.typed(member, &here, depth + 1) {
                Ok(Typed { kind, nullable }) => {
                    let required = required.contains(name.as_str()) && !nullable;
                    fields.insert(name.clone(), Field { kind, required });
                }
                Err(why) => self.leave_out(&here, why),
            }
        }
        Ok(Kind::Record(fields))
    }

    /// Branches that are all of one type, or one of them and null.
    fn one_of(&mut self, branches: &'a [Json], path: &str, depth: usize) -> Result<Typed, &'static str> {
        let is_null = |branch: &Json| {
            branch.get("type").is_some_and(|kind| kind == "null") || branch.get("const").is_some_and(Json::is_null)
        };
        let mut nullable = false;
        let mut found: Option<Kind> = None;
        for branch in branches {
            if is_null(branch) {
                nullable = true;
                continue;
            }
            let typed = self.typed(branch, path, depth + 1)?;
            nullable |= typed.nullable;
            match &found {
                None => found = Some(typed.kind),
                Some(kind) if *kind == typed.kind && !matches!(kind, Kind::Record(_)) => {}
                Some(_) => return Err("it can have several types"),
            }
        }
        found.map(|kind| Typed { kind, nullable }).ok_or("it is always null")
    }

    /// What a reference inside the document names.
    fn target(&self, reference: &Json) -> Result<&'a Json, &'static str> {
        const OUTSIDE: &str = "it refers to a schema outside of the tool's own";
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).ok_or(OUTSIDE)?;
        if pointer.contains('%') || !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err("it refers to a schema by a name that is not a path");
        }
        self.document.pointer(pointer).ok_or("it refers to a schema that does not exist")
    }
}

fn by_values(values: &[Json]) -> Result<Typed, &'static str> {
    let nullable = values.iter().any(Json::is_null);
    let mut others = values.iter().filter(|value| !value.is_null()).peekable();
    if others.peek().is_none() {
        return Err("it is always null");
    }
    let others: Vec<&Json> = others.collect();
    let kind = if others.iter().all(|value| value.is_string()) {
        Kind::Text
    } else if others.iter().all(|value| value.is_i64()) {
        Kind::Long
    } else if others.iter().all(|value| value.is_number()) {
        Kind::Decimal
    } else if others.iter().all(|value| value.is_boolean()) {
        Kind::Bool
    } else {
        return Err("it can have several types");
    };
    Ok(Typed { kind, nullable })
}

/// A name that can stand in a schema and in a policy.
fn is_offered(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name != DECIMAL_KEY
        && !name.starts_with("__")
        && !name.chars().any(|c| c.is_control() || c == '"' || c == '\\')
}

#[cfg(test)]
mod tests;
