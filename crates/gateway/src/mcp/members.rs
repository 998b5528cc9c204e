//! An object of JSON as its members in their order, each value untouched.
//!
//! What the plane has to change in a message (a name, a token, a hint for caches) is changed here, and everything
//! else goes on byte for byte: unknown fields, numbers as they were written, the order.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of an object.
#[derive(Debug, Default, Clone)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Members<'a> {
    /// Reads an object. `None` when it is something else.
    pub(super) fn read(object: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(object).ok()
    }

    /// The value of a member, as it stands.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The value of a member that is a text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// Replaces a member where it stands, or adds it at the end. `value` is JSON.
    pub(super) fn set(&mut self, name: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// Keeps some of them.
    pub(super) fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        self.0.retain(|(key, value)| keep(key, value));
    }

    /// The members, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The object as JSON.
    pub(super) fn json(&self) -> Bytes {
        let mut text = self.bare();
        text.insert(0, '{');
        text.push('}');
        text.into()
    }

    /// The members as JSON, without the braces around them.
    pub(super) fn bare(&self) -> String {
        let length = self.0.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
        let mut text = String::with_capacity(length + 2);
        for (place, (key, value)) in self.0.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            text.push_str(&quoted(key));
            text.push(':');
            text.push_str(value);
        }
        text
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, Cow::Borrowed(value.get())));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_changed_stays_byte_for_byte() {
        let object = br#"{ "b" : 1.50, "a":[1 ,2], "k\u0041":{"x":null} }"#;
        let mut members = Members::read(object).unwrap();
        members.set("a", r#""new""#);
        members.set("z", "7");
        members.retain(|key, _| key != "b");
        assert_eq!(members.json(), r#"{"a":"new","kA":{"x":null},"z":7}"#);
        assert!(Members::read(b"[1]").is_none() && Members::read(b"7").is_none());
    }

    proptest! {
        #[test]
        fn an_object_means_the_same_afterwards(
            object in proptest::collection::btree_map("[a-z\"\\\\\u{7f}-\u{ff}]{0,6}", "[a-z\"\n]{0,6}", 0..6)
        ) {
            let text = serde_json::to_vec(&object).unwrap();
            let again: std::collections::BTreeMap<String, String> =
                serde_json::from_slice(&Members::read(&text).unwrap().json()).unwrap();
            prop_assert_eq!(object, again);
        }
    }
}
