//! JSON from agents and upstreams is checked before anything else reads it: bounded depth, and no
//! object with the same key twice. Two parsers may read a duplicate key differently, and then what
//! was judged is not what is forwarded.

use std::{borrow::Cow, collections::HashSet, fmt};

use cogward_model::limits::JSON_DEPTH_MAX;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// Keys of an object that are compared one by one.
const FEW_MAX: usize = 8;

/// Why some bytes are not JSON that we take.
#[derive(Debug, thiserror::Error)]
#[error("not acceptable JSON: {0}")]
pub struct JsonError(String);

/// Checks that `bytes` are one JSON value, nested at most [`JSON_DEPTH_MAX`] deep, without duplicate keys.
///
/// # Errors
/// [`JsonError`] with the position and cause; it never quotes the bytes.
pub fn check(bytes: &[u8]) -> Result<(), JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let cause = match error.classify() {
            serde_json::error::Category::Data => error.to_string(),
            serde_json::error::Category::Syntax => format!("a syntax error at line {line} column {column}"),
            serde_json::error::Category::Eof => "it ends too early".to_owned(),
            serde_json::error::Category::Io => "it cannot be read".to_owned(),
        };
        JsonError(cause)
    })
}

/// The keys of an object. Few are compared one by one, which is what most objects need; of many the time for
/// each must not grow with their number.
#[derive(Default)]
struct Seen<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Seen<'de> {
    /// False when it is there already.
    fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < FEW_MAX {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {JSON_DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = Seen::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if !seen.insert(key) {
                return Err(de::Error::custom("an object has the same key twice"));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duplicate_key_is_refused_however_it_is_spelt() {
        for bad in [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"x":{"k":1,"k":1}}]"#] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check(br#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#).is_ok());
    }

    #[test]
    fn depth_and_rest_are_bounded() {
        assert!(check(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
        assert!(check("[".repeat(65).as_bytes()).is_err());
        assert!(check("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(check(b"{} {}").is_err());
        assert!(check(b"").is_err());
        assert!(check(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_duplicate_is_found_among_few_and_among_many() {
        for n in [1, FEW_MAX - 1, FEW_MAX, FEW_MAX + 1, 10_000] {
            let keys = |last: usize| -> String {
                let all: Vec<String> = (0..n).chain([last]).map(|key| format!("\"k{key}\":0")).collect();
                format!("{{{}}}", all.join(","))
            };
            assert!(check(keys(n).as_bytes()).is_ok(), "{n}");
            for twice in [0, n / 2, n - 1] {
                assert!(check(keys(twice).as_bytes()).is_err(), "{n}, {twice} twice");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = check(&bytes);
        }
    }
}
