//! The arguments of a call as texts for a request.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::ArgumentError;

/// One value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    One(String),
    List(Vec<String>),
    Members(Vec<(String, String)>),
}

/// The members of an object.
pub(crate) fn members(text: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(text).ok()
}

/// A value that is a text, a number, a truth value, or a list or object of those. Nothing for null.
pub(crate) fn written(argument: &str, value: &RawValue) -> Result<Option<Written>, ArgumentError> {
    let deep = || ArgumentError::wrong(argument, "holds more than a list or an object of plain values");
    let text = value.get();
    Ok(Some(match text.as_bytes().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| deep())?;
            let items: Option<Vec<_>> = items.into_iter().map(plain).collect();
            Written::List(items.ok_or_else(deep)?)
        }
        Some(b'{') => {
            let members = members(text).ok_or_else(deep)?;
            let members: Option<Vec<_>> = members.into_iter().map(|(key, value)| Some((key, plain(value)?))).collect();
            Written::Members(members.ok_or_else(deep)?)
        }
        Some(b'n') => return Ok(None),
        _ => Written::One(plain(value).ok_or_else(deep)?),
    }))
}

/// A text as it reads, a number or a truth value as it is written.
fn plain(value: &RawValue) -> Option<String> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(text.to_owned()),
    }
}
