//! The arguments of one tool as policies see them, from its JSON Schema.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// The type of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub kind: Kind,
    /// Whether it is always there.
    pub required: bool,
}

/// A part of the arguments that policies cannot read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where.
    pub path: String,
    /// Why, as one sentence without a full stop.
    pub why: String,
}

/// The arguments of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    fields: BTreeMap<String, Field>,
    left_out: Vec<LeftOut>,
}

impl Shape {
    /// Reads the input schema of a tool. What cannot be typed is left out and said.
    #[must_use]
    pub fn of(input_schema: &Json) -> Self {
        let required: Vec<&str> = input_schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let mut shape = Self::default();
        for (name, schema) in input_schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let kind = match schema.get("type").and_then(Json::as_str) {
                Some("string") => Kind::Text,
                Some("integer") => Kind::Long,
                Some("number") => Kind::Decimal,
                Some("boolean") => Kind::Bool,
                _ => {
                    shape.left_out.push(LeftOut { path: name.clone(), why: "it has no type of its own".into() });
                    continue;
                }
            };
            shape.fields.insert(name.clone(), Field { kind, required: required.contains(&name.as_str()) });
        }
        shape
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
}
