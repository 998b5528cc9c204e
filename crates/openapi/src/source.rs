//! A document's bytes to a value: JSON, or the part of YAML that reads the same everywhere.
//!
//! Depth and number of values are bounded while reading. A key twice, and in YAML anchors, aliases, merge keys, tags and
//! several documents are refused: two readers could see two documents, and aliases grow without end.

use std::{cell::Cell, fmt};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{
    DocumentError,
    bounds::{DEPTH_MAX, DOCUMENT_BYTES_MAX, VALUES_MAX},
    error::shown,
};

/// Reads a document.
pub(crate) fn value(bytes: &[u8]) -> Result<Value, DocumentError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLarge(format!("is larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        DocumentError::Syntax { line, column: 1, why: "it is not UTF-8".to_owned() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json(text) } else { yaml(text) }
}

fn json(text: &str) -> Result<Value, DocumentError> {
    let left = Cell::new(VALUES_MAX);
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Strict { depth: 0, left: &left }.deserialize(&mut reader);
    read.and_then(|value| reader.end().map(|()| value)).map_err(|error| DocumentError::Syntax {
        line: error.line(),
        column: error.column(),
        why: match error.classify() {
            serde_json::error::Category::Data => shown(error.to_string().split(" at line ").next().unwrap_or_default()),
            serde_json::error::Category::Eof => "it ends too early".to_owned(),
            _ => "it is not JSON".to_owned(),
        },
    })
}

#[derive(Clone, Copy)]
struct Strict<'l> {
    depth: usize,
    left: &'l Cell<usize>,
}

impl Strict<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(de::Error::custom(format!("more than {VALUES_MAX} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("the key `{key}` is there twice")));
            }
            let value = members.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

fn yaml(text: &str) -> Result<Value, DocumentError> {
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Value> = None;
    let mut values = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| at(error.marker(), format!("it is not YAML: {}", error.info())))?;
        let refuse = |why: &str| Err(at(&span.start, why.to_owned()));
        if let Some(why) = exotic(&event) {
            return refuse(why);
        }
        values += 1;
        if values > 4 * VALUES_MAX {
            return refuse("it has too many values");
        }
        // A key, or a value with the key before it.
        let is_key = matches!(open.last(), Some(Open::Map(_, None)));
        let value = match event {
            Event::DocumentStart(_) if root.is_some() => return refuse("a second document begins here"),
            Event::Scalar(text, ..) if is_key => {
                if text == "<<" {
                    return refuse("a merge key (`<<`): write the fields out");
                }
                if let Some(Open::Map(map, key)) = open.last_mut() {
                    if map.contains_key(text.as_ref()) {
                        return refuse(&format!("the key `{}` is there twice", shown(&text)));
                    }
                    *key = Some(text.into_owned());
                }
                continue;
            }
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) | Event::MappingStart(..) if is_key => return refuse("a key that is no text"),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEPTH_MAX => {
                return refuse(&format!("nested deeper than {DEPTH_MAX}"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(map, _)) => Value::Object(map),
                None => return refuse("it is not YAML"),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key)) => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
            }
        }
    }
    root.ok_or_else(|| DocumentError::Syntax { line: 1, column: 1, why: "there is nothing in it".to_owned() })
}

fn at(marker: &Marker, why: String) -> DocumentError {
    DocumentError::Syntax { line: marker.line().max(1), column: marker.col() + 1, why }
}

fn exotic(event: &Event<'_>) -> Option<&'static str> {
    let (anchor, tagged) = match event {
        Event::Alias(_) => return Some("an alias (`*name`): write the value out"),
        Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
        Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
        _ => return None,
    };
    match (anchor, tagged) {
        (0, false) => None,
        (0, true) => Some("a tag (`!name`): an OpenAPI document has none"),
        _ => Some("an anchor (`&name`): write the value out where it is used"),
    }
}

/// The core schema of YAML 1.2.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let looks = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'))
        && text.bytes().any(|byte| byte.is_ascii_digit());
    if looks {
        let number = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = number.parse::<i64>() {
            return number.into();
        }
        if let Some(number) = number.parse::<f64>().ok().and_then(Number::from_f64) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_yaml_are_the_same() {
        let yaml = "a: 1\nb: [x, true, 1.5, '2', ~]\n200: {c: \"yes\"}\nd: |\n  text\ne: 2026-01-01\n";
        let json =
            json!({"a": 1, "b": ["x", true, 1.5, "2", null], "200": {"c": "yes"}, "d": "text\n", "e": "2026-01-01"});
        assert_eq!(value(yaml.as_bytes()).unwrap(), json);
        assert_eq!(value(json.to_string().as_bytes()).unwrap(), json);
        assert_eq!(value("\u{feff} {\"a\": \"\\ud83d\\ude00\"}".as_bytes()).unwrap(), json!({"a": "😀"}));
    }

    #[test]
    fn what_reads_differently_or_grows_is_refused() {
        for bad in [
            "a: &x 1\nb: *x\n",
            "a: &x [1]\n",
            "a: !!str 1\n",
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 2\n",
            "x: {<<: {a: 1}}\n",
            "? [a]\n: 1\n",
            "{\"a\": 1, \"a\": 2}",
            "{\"a\": 1, \"\\u0061\": 2}",
            "{\"a\": 1} {}",
            "{\"a\": 1e999}",
            "{",
            "",
            "- [",
        ] {
            assert!(value(bad.as_bytes()).is_err(), "{bad}");
        }
        // Nine lines that would be a billion values with aliases.
        let laughs = (1..9).fold("a0: &a0 [lol, lol]\n".to_owned(), |all, n| {
            format!("{all}a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
        });
        assert!(matches!(value(laughs.as_bytes()), Err(DocumentError::Syntax { line: 1, .. })));
        assert!(value(&[b'{', 0xff]).is_err());
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        for (open, close) in [("{\"a\": ", "}"), ("a: ", "")] {
            assert!(value(format!("{open}{}{close}", deep(DEPTH_MAX - 1)).as_bytes()).is_ok());
            assert!(value(format!("{open}{}{close}", deep(DEPTH_MAX)).as_bytes()).is_err());
            assert!(value(format!("{open}{}", "[".repeat(1_000_000)).as_bytes()).is_err());
        }
        assert!(matches!(value(&vec![b' '; DOCUMENT_BYTES_MAX + 1]), Err(DocumentError::TooLarge(_))));
        let many = format!("{{\"a\": [{}1]}}", "1,".repeat(VALUES_MAX));
        assert!(value(many.as_bytes()).is_err());
    }
}
