//! How the plane shows a tool server over HTTP who it is. Nothing of it comes from an agent.

use std::{collections::BTreeMap, sync::Arc};

use cogward_model::{UpstreamName, upstream::OAuthClient};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use zeroize::Zeroizing;

use super::{UpstreamError, oauth::Tokens};
use crate::upstreams::Credential;

/// Headers that requests have of their own.
const TAKEN: [&str; 12] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "last-event-id",
    "upgrade",
];

/// Headers that a registration may name.
const HEADERS_MAX: usize = 16;

/// What is put into each request.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    fixed: Arc<Vec<(HeaderName, HeaderValue)>>,
    tokens: Option<Arc<Tokens>>,
}

impl Credentials {
    /// As the registration says: tokens, headers of their own, or one header with the credential.
    pub(super) fn of(
        url: &str,
        header: Option<&str>,
        headers: &BTreeMap<String, String>,
        oauth: Option<OAuthClient>,
        secret: Option<Credential>,
    ) -> Result<Self, String> {
        let mut fixed = filled(headers, secret.as_ref())?;
        if let Some(config) = oauth {
            if header.is_some() || fixed.iter().any(|(name, _)| *name == header::AUTHORIZATION) {
                return Err("with `oauth`, no other header carries the credential".to_owned());
            }
            let secret = secret.ok_or("with `oauth`, a credential is needed")?;
            return Ok(Self { fixed: Arc::new(fixed), tokens: Some(Tokens::new(url, config, secret)?) });
        }
        let Some(secret) = secret.filter(|_| headers.is_empty() || header.is_some()) else {
            return Ok(Self { fixed: Arc::new(fixed), tokens: None });
        };
        let (name, text) = match header {
            None => (header::AUTHORIZATION, Zeroizing::new(format!("Bearer {}", secret.expose()))),
            Some(name) => (header_name("`credential_header`", name)?, Zeroizing::new(secret.expose().to_owned())),
        };
        fixed.push((name, header_value(&text)?));
        Ok(Self { fixed: Arc::new(fixed), tokens: None })
    }

    /// Puts them into a request, in place of whatever stands there.
    pub(super) async fn put(&self, server: &UpstreamName, headers: &mut HeaderMap) -> Result<(), UpstreamError> {
        for (name, value) in self.fixed.iter() {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(tokens) = &self.tokens {
            headers.insert(header::AUTHORIZATION, tokens.header(server).await?);
        }
        Ok(())
    }

    /// The server does not take them. Whether there may be others.
    pub(super) fn renew(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.forget())
    }
}

/// The headers of a registration with the credential in its places.
fn filled(
    headers: &BTreeMap<String, String>,
    secret: Option<&Credential>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    if headers.len() > HEADERS_MAX {
        return Err(format!("`headers` has more than {HEADERS_MAX}"));
    }
    let mut all = Vec::with_capacity(headers.len());
    for (name, template) in headers {
        let name = header_name("a name in `headers`", name)?;
        let text = fill(template, secret).map_err(|why| format!("the header `{name}`: {why}"))?;
        all.push((name, header_value(&text)?));
    }
    Ok(all)
}

/// A template with what it names in its places. What comes out is never part of an error.
fn fill(template: &str, secret: Option<&Credential>) -> Result<Zeroizing<String>, String> {
    let mut out = Zeroizing::new(String::new());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("`{` without `}`")?;
        out.push_str(before);
        let secret = secret.ok_or("it names a credential, and there is none")?;
        if name == "secret" {
            out.push_str(secret.expose());
        } else {
            let members = serde_json::from_str::<BTreeMap<String, String>>(secret.expose());
            let members = members.map_err(|_| "it names a member, and the credential is no JSON object of texts")?;
            let mut members: Vec<_> = members.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
            let at = members.iter().position(|(key, _)| key == name);
            let at = at.ok_or("it names a member that the credential does not have")?;
            out.push_str(&members.swap_remove(at).1);
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn header_name(what: &str, name: &str) -> Result<HeaderName, String> {
    let parsed = name.parse::<HeaderName>().map_err(|_| format!("{what} is not a header name"))?;
    if TAKEN.contains(&parsed.as_str()) || parsed.as_str().starts_with("mcp-param-") {
        return Err(format!("{what} cannot be `{parsed}`"));
    }
    Ok(parsed)
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "the credential cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(headers: &[(&str, &str)], secret: Option<&str>) -> Result<Vec<(String, String)>, String> {
        let headers = headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let secret = secret.map(|secret| Credential::new(Zeroizing::new(secret.to_owned())));
        let made = Credentials::of("https://a.example/mcp", None, &headers, None, secret)?;
        assert!(made.fixed.iter().all(|(_, value)| value.is_sensitive()));
        Ok(made.fixed.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect())
    }

    #[test]
    fn templates_are_filled_with_the_credential_or_its_members() {
        let one = made(&[("X-Api-Key", "key={secret}")], Some("s3cret")).unwrap();
        assert_eq!(one, [("x-api-key".to_owned(), "key=s3cret".to_owned())]);
        let both = r#"{"id":"me","key":"s3cret"}"#;
        let two = made(&[("x-id", "{id}"), ("x-key", "{id}:{key}"), ("x-tenant", "t1")], Some(both)).unwrap();
        assert_eq!(two.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["me", "me:s3cret", "t1"]);
    }

    #[test]
    fn what_cannot_be_filled_is_refused_and_tells_no_secret() {
        for (headers, secret) in [
            (&[("x-key", "{secret}")][..], None),
            (&[("x-key", "{other}")], Some("s3cret")),
            (&[("x-key", "{other}")], Some(r#"{"key":"s3cret"}"#)),
            (&[("x-key", "{secret")], Some("s3cret")),
            (&[("x-key", "{secret}")], Some("s3cret\r\nx-other: y")),
            (&[("Mcp-Session-Id", "{secret}")], Some("s3cret")),
            (&[("mcp-param-x", "{secret}")], Some("s3cret")),
            (&[("Host", "{secret}")], Some("s3cret")),
            (&[("a b", "{secret}")], Some("s3cret")),
        ] {
            let why = made(headers, secret).unwrap_err();
            assert!(!why.contains("s3cret"), "{why}");
        }
    }
}
