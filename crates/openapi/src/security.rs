//! What credential a document asks for, in words for the operator. Nothing is done by it: how the credential is sent is
//! the operator's word.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{document::Document, error::shown};

/// What the schemes say that are asked for by the document or an operation.
pub(crate) fn wanted(document: &Document, operations: &BTreeSet<String>) -> Vec<String> {
    let schemes = document.root().pointer("/components/securitySchemes").and_then(Value::as_object);
    let mut all = BTreeSet::new();
    for (name, scheme) in schemes.into_iter().flatten() {
        if operations.contains(name)
            && let Ok(scheme) = document.resolve(scheme)
        {
            all.insert(format!("{}: {}", shown(name), words(scheme)));
        }
    }
    all.into_iter().collect()
}

/// The names of the schemes that a list of requirements has.
pub(crate) fn named(security: Option<&Value>) -> impl Iterator<Item = String> {
    let alternatives = security.and_then(Value::as_array).into_iter().flatten();
    alternatives.filter_map(Value::as_object).flat_map(|all| all.keys().cloned())
}

fn words(scheme: &Value) -> String {
    let text = |key: &str| scheme.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("in"), text("scheme").to_ascii_lowercase().as_str()) {
        ("apiKey", "header", _) => format!("a key in the header `{}`", shown(text("name"))),
        ("apiKey", "query", _) => format!("a key in the query parameter `{}`", shown(text("name"))),
        ("apiKey", _, _) => "a key in a cookie, which is not sent".to_owned(),
        ("http", _, "bearer") => "a bearer token".to_owned(),
        ("http", _, "basic") => "a user and a password (basic)".to_owned(),
        ("http", _, other) => format!("the scheme `{}`, which is not known", shown(other)),
        ("oauth2", _, _) => "tokens of an authorisation server (OAuth 2)".to_owned(),
        ("openIdConnect", _, _) => "tokens of an identity provider (OpenID Connect)".to_owned(),
        ("mutualTLS", _, _) => "a certificate of the client, which is not sent".to_owned(),
        _ => "something that is not known".to_owned(),
    }
}
