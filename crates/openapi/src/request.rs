//! A call as a request: what is sent, below an address that is not known here.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{
    ArgumentError, Operation,
    arguments::{Written, members, written},
    bounds::{HEADER_BYTES_MAX, TARGET_BYTES_MAX},
    encode::{is_dots, push, stays_in_segment},
    operation::{BODY, Form},
    parameter::{Parameter, Place, Style},
    template::Part,
};

/// A request to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The method.
    pub method: &'static str,
    /// Path and query, below the address of the API; begins with `/`.
    pub target: String,
    /// Headers, none of which is the plane's own.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Payload>,
}

/// A body and its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The media type.
    pub media: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Operation {
    /// The request that a call makes. `arguments` is a JSON object.
    ///
    /// # Errors
    /// [`ArgumentError`] when they cannot be sent; nothing of them is in it but names that the document has.
    pub fn plan_request(&self, arguments: &str) -> Result<Planned, ArgumentError> {
        let mut given = members(arguments).ok_or(ArgumentError::NoObject)?;
        let mut in_path: BTreeMap<&str, String> = BTreeMap::new();
        let mut query = String::new();
        let mut headers = Vec::new();
        for parameter in &self.parameters {
            let value = match given.remove(&parameter.argument) {
                Some(raw) => value(parameter, raw)?,
                None => None,
            };
            let Some(value) = value else {
                if parameter.required {
                    return Err(ArgumentError::Missing(parameter.argument.clone()));
                }
                continue;
            };
            match parameter.place {
                Place::Path => {
                    in_path.insert(&parameter.name, segment(parameter, value)?);
                }
                Place::Query => add_query(&mut query, parameter, value)?,
                Place::Header => headers.push((parameter.name.clone(), header(parameter, value)?)),
            }
        }
        let body = self.payload(given.remove(BODY).filter(|_| self.body.is_some()))?;
        if !given.is_empty() {
            return Err(ArgumentError::Unknown);
        }
        let mut target = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => target.push_str(text),
                Part::Place(name) => {
                    let value = in_path.get(name.as_str()).ok_or_else(|| ArgumentError::Missing(name.clone()))?;
                    target.push_str(value);
                }
            }
        }
        // Values that were each harmless may together be `..`.
        if target.split('/').any(is_dots) {
            let name = in_path.keys().next().copied().unwrap_or_default();
            return Err(ArgumentError::wrong(name, "would lead to another path"));
        }
        if !query.is_empty() {
            target.push('?');
            target.push_str(&query);
        }
        if target.len() > TARGET_BYTES_MAX {
            return Err(ArgumentError::TooLong);
        }
        Ok(Planned { method: self.method.as_str(), target, headers, body })
    }

    fn payload(&self, given: Option<&RawValue>) -> Result<Option<Payload>, ArgumentError> {
        let Some(body) = &self.body else { return Ok(None) };
        let Some(raw) = given else {
            return if body.required { Err(ArgumentError::Missing(BODY.to_owned())) } else { Ok(None) };
        };
        let bytes = match body.form {
            // The bytes that were judged.
            Form::Json => raw.get().as_bytes().to_vec(),
            Form::Text => {
                let text: Option<String> = serde_json::from_str(raw.get()).ok();
                text.ok_or_else(|| ArgumentError::wrong(BODY, "is no text"))?.into_bytes()
            }
            Form::Fields => fields(raw)?.into_bytes(),
        };
        Ok(Some(Payload { media: body.media.clone(), bytes }))
    }
}

/// What a parameter holds; nothing for null.
fn value(parameter: &Parameter, raw: &RawValue) -> Result<Option<Written>, ArgumentError> {
    if parameter.style == Style::Json {
        return Ok(Some(Written::One(raw.get().to_owned())));
    }
    written(&parameter.argument, raw)
}

/// A value in the path. It stays within its segment and is not nothing.
fn segment(parameter: &Parameter, value: Written) -> Result<String, ArgumentError> {
    let wrong = |why| Err(ArgumentError::wrong(&parameter.argument, why));
    // `k,v` or, exploded, `k=v`.
    let (texts, signs) = match value {
        Written::One(text) => (vec![text], [","; 2]),
        Written::List(items) => (items, [","; 2]),
        Written::Members(members) => {
            let exploded = parameter.style == Style::Simple { explode: true };
            let flat = members.into_iter().flat_map(|(key, value)| [key, value]).collect();
            (flat, [",", if exploded { "=" } else { "," }])
        }
    };
    // An empty element would be no element, or an element more, to whoever reads it.
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return wrong("is empty, which no path can say");
    }
    if !texts.iter().all(|text| stays_in_segment(text)) {
        return wrong(
            "holds `/`, `\\`, `?`, `#`, `;` or a control character, in clear, escaped or by another name, which no part of a path may",
        );
    }
    let mut out = String::new();
    for (text, sign) in texts.iter().zip(signs.iter().cycle()) {
        if !out.is_empty() {
            out.push_str(sign);
        }
        push(&mut out, text);
    }
    Ok(out)
}

fn add_query(query: &mut String, parameter: &Parameter, value: Written) -> Result<(), ArgumentError> {
    let wrong = |why| Err(ArgumentError::wrong(&parameter.argument, why));
    let mut add = |name: &str, member: Option<&str>, values: &[String]| {
        if !query.is_empty() {
            query.push('&');
        }
        push(query, name);
        if let Some(member) = member {
            query.push_str("%5B");
            push(query, member);
            query.push_str("%5D");
        }
        query.push('=');
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                query.push(',');
            }
            push(query, value);
        }
    };
    let nul = |text: &String| text.contains('\0');
    let name = parameter.name.as_str();
    match (parameter.style, value) {
        (_, Written::One(text)) if nul(&text) => return wrong("holds a NUL"),
        (_, Written::List(items)) if items.iter().any(nul) => return wrong("holds a NUL"),
        (_, Written::Members(members)) if members.iter().any(|(key, value)| nul(key) || nul(value)) => {
            return wrong("holds a NUL");
        }
        (Style::DeepObject, Written::Members(members)) => {
            for (key, value) in members {
                if key.is_empty() || key.contains(['[', ']']) {
                    return wrong("has a member whose name cannot be sent");
                }
                add(name, Some(&key), &[value]);
            }
        }
        (Style::DeepObject, _) => return wrong("is no object"),
        (_, Written::One(text)) => add(name, None, &[text]),
        (_, Written::List(items)) if items.is_empty() => {}
        (Style::Form { explode: true }, Written::List(items)) => {
            for item in items {
                add(name, None, &[item]);
            }
        }
        (_, Written::List(items)) => add(name, None, &items),
        (Style::Form { explode: true }, Written::Members(_)) => {
            return wrong("is an object, whose members would be parameters of their own");
        }
        (_, Written::Members(members)) if members.is_empty() => {}
        (_, Written::Members(members)) => {
            let flat: Vec<String> = members.into_iter().flat_map(|(key, value)| [key, value]).collect();
            add(name, None, &flat);
        }
    }
    Ok(())
}

/// A value in a header: printed ASCII alone, so that nothing else begins in it.
fn header(parameter: &Parameter, value: Written) -> Result<String, ArgumentError> {
    let wrong = |why| Err(ArgumentError::wrong(&parameter.argument, why));
    let comma = |text: &String| text.contains(',');
    let text = match value {
        Written::One(text) => text,
        Written::List(items) if items.iter().any(comma) => return wrong("has an element with a comma"),
        Written::List(items) => items.join(","),
        Written::Members(members) if members.iter().any(|(key, value)| comma(key) || comma(value)) => {
            return wrong("has a member with a comma");
        }
        Written::Members(members) => {
            let sign = if parameter.style == (Style::Simple { explode: true }) { "=" } else { "," };
            members.iter().map(|(key, value)| format!("{key}{sign}{value}")).collect::<Vec<_>>().join(",")
        }
    };
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || text.trim() != text {
        return wrong("holds what no header can: use printed ASCII without spaces around it");
    }
    if text.len() > HEADER_BYTES_MAX {
        return wrong("is too long for a header");
    }
    Ok(text)
}

/// A form: each member one field, a list as many.
fn fields(raw: &RawValue) -> Result<String, ArgumentError> {
    let members = members(raw.get()).ok_or_else(|| ArgumentError::wrong(BODY, "is no object"))?;
    let mut out = String::new();
    for (name, value) in members {
        let values = match written(BODY, value)? {
            None => continue,
            Some(Written::One(text)) => vec![text],
            Some(Written::List(items)) => items,
            Some(Written::Members(_)) => {
                return Err(ArgumentError::wrong(BODY, "has an object in it, which no field can hold"));
            }
        };
        for value in values {
            if !out.is_empty() {
                out.push('&');
            }
            push(&mut out, &name);
            out.push('=');
            push(&mut out, &value);
        }
    }
    Ok(out)
}
