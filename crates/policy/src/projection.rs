//! Arguments, from their raw bytes, as the values that policies read: only the needed parts, never a wrong value.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserializer as _,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    ask::ASK_BYTES_MAX,
    path::Paths,
    shape::{Field, Kind, Shape},
    value::{Decimal, NumberError, Record, VALUE_DEPTH_MAX, Value, whole},
};

/// The most elements of a list that a policy reads.
const ELEMENTS_MAX: usize = 1024;

/// Why arguments cannot be shown to the policies that read them. The call is blocked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// Not JSON, not an object, or a member twice.
    #[error("the arguments are not one JSON object without repeated members")]
    Malformed,
    /// A value of another type than the tool's schema says.
    #[error("the argument `{0}` is not {1}, as the tool's schema says")]
    WrongType(String, &'static str),
    /// A number that policies cannot carry exactly.
    #[error("the number in the argument `{0}` cannot be read by policy: {1}")]
    Number(String, NumberError),
    /// A rule reads it, it is there, and the tool's schema gives it no type: the rule would see nothing.
    #[error("a policy reads the argument `{0}`, and the tool's schema does not say what it is")]
    NotOffered(String),
    /// Nested too deeply, or too long a list.
    #[error("the argument `{0}` is too large to be read by policy")]
    TooLarge(String),
}

impl Shape {
    /// The parts of raw arguments that are read.
    ///
    /// # Errors
    /// When a part that is read has no exact value, or is there and has no type; the call must then be blocked.
    pub fn project(&self, raw: &str, paths: &Paths) -> Result<Record, ProjectionError> {
        record(raw, self.fields(), paths, &mut Walk { at: Vec::new(), left: ASK_BYTES_MAX })
    }
}

/// Where a projection is, and how much of a record is left for it: a longer one could not be recorded, and a pattern
/// would be matched against it.
struct Walk {
    at: Vec<String>,
    left: usize,
}

impl Walk {
    fn here(&self) -> String {
        self.at.join(".")
    }

    fn wrong(&self, wanted: &'static str) -> ProjectionError {
        ProjectionError::WrongType(self.here(), wanted)
    }

    fn take(&mut self, bytes: usize) -> Result<(), ProjectionError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| ProjectionError::TooLarge(self.here()))?;
        Ok(())
    }
}

fn record(
    raw: &str,
    fields: &BTreeMap<String, Field>,
    paths: &Paths,
    walk: &mut Walk,
) -> Result<Record, ProjectionError> {
    let members = members(raw).map_err(|_| ProjectionError::Malformed)?;
    let mut read = Record::new();
    for (name, member) in members {
        let whole = paths.is_whole();
        let Some(below) = (if whole { Some(paths) } else { paths.below(&name) }) else { continue };
        let Some(field) = fields.get(name.as_ref()) else {
            // What is named is looked for under its name; what is taken as a whole is what the schema offers of it.
            if whole || member.get() == "null" {
                continue;
            }
            walk.at.push(name.into_owned());
            return Err(ProjectionError::NotOffered(walk.here()));
        };
        // An optional member that is null is a member that is not there.
        if member.get() == "null" && !field.required {
            continue;
        }
        walk.at.push(name.clone().into_owned());
        let value = value(member.get(), &field.kind, below, walk)?;
        walk.at.pop();
        read.insert(name.into_owned(), value);
    }
    Ok(read)
}

fn value(raw: &str, kind: &Kind, paths: &Paths, walk: &mut Walk) -> Result<Value, ProjectionError> {
    if walk.at.len() > VALUE_DEPTH_MAX {
        return Err(ProjectionError::TooLarge(walk.here()));
    }
    if !matches!(kind, Kind::Set(_) | Kind::Record(_)) {
        walk.take(raw.len())?;
    }
    match kind {
        Kind::Bool => match raw {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(walk.wrong("true or false")),
        },
        Kind::Text => serde_json::from_str(raw).map(Value::Text).map_err(|_| walk.wrong("text")),
        Kind::Long => match whole(raw) {
            Ok(number) => Ok(Value::Long(number)),
            Err(NumberError::NotANumber | NumberError::TooFine) => Err(walk.wrong("a whole number")),
            Err(error) => Err(ProjectionError::Number(walk.here(), error)),
        },
        Kind::Decimal => match raw.parse::<Decimal>() {
            Ok(number) => Ok(Value::Decimal(number)),
            Err(NumberError::NotANumber) => Err(walk.wrong("a number")),
            Err(error) => Err(ProjectionError::Number(walk.here(), error)),
        },
        Kind::Record(fields) => record(raw, fields, paths, walk).map(Value::Record).map_err(|error| match error {
            ProjectionError::Malformed => walk.wrong("an object"),
            other => other,
        }),
        Kind::Set(element) => {
            let elements = elements(raw).map_err(|_| walk.wrong("a list"))?;
            if elements.len() > ELEMENTS_MAX {
                return Err(ProjectionError::TooLarge(walk.here()));
            }
            let mut everything = Paths::default();
            everything.add([]);
            walk.at.push("[]".to_owned());
            let values: Result<Vec<Value>, _> =
                elements.into_iter().map(|raw| value(raw.get(), element, &everything, walk)).collect();
            walk.at.pop();
            Ok(Value::Set(values?))
        }
    }
}

/// The members of an object in their order; a repeated name is an error.
pub(crate) fn members(raw: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all: Self::Value = Vec::new();
            let mut seen = std::collections::HashSet::new();
            while let Some(name) = map.next_key_seed(Name)? {
                if !seen.insert(name.clone()) {
                    return Err(A::Error::custom("a member is repeated"));
                }
                all.push((name, map.next_value()?));
            }
            Ok(all)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(raw);
    let all = reader.deserialize_map(Members)?;
    reader.end()?;
    Ok(all)
}

/// The elements of a list.
pub(crate) fn elements(raw: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    struct Elements;
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<&'de RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = list.next_element()? {
                all.push(element);
            }
            Ok(all)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(raw);
    let all = reader.deserialize_seq(Elements)?;
    reader.end()?;
    Ok(all)
}

/// A member name, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
