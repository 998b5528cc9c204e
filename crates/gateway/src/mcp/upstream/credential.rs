//! How the plane shows a tool server over HTTP who it is. Nothing of it comes from an agent.

use std::sync::Arc;

use cogward_model::UpstreamName;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use zeroize::Zeroizing;

use super::UpstreamError;
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

/// What is put into each request.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    fixed: Arc<Vec<(HeaderName, HeaderValue)>>,
}

impl Credentials {
    /// The one header of a registration without more to say: a bearer token, unless the header has another name.
    pub(super) fn single(name: Option<&str>, secret: Option<&Credential>) -> Result<Self, String> {
        let Some(secret) = secret else { return Ok(Self::default()) };
        let (name, text) = match name {
            None => (header::AUTHORIZATION, Zeroizing::new(format!("Bearer {}", secret.expose()))),
            Some(name) => (header_name("`credential_header`", name)?, Zeroizing::new(secret.expose().to_owned())),
        };
        Ok(Self { fixed: Arc::new(vec![(name, header_value(&text)?)]) })
    }

    /// Puts them into a request, in place of whatever stands there.
    pub(super) async fn put(&self, _server: &UpstreamName, headers: &mut HeaderMap) -> Result<(), UpstreamError> {
        for (name, value) in self.fixed.iter() {
            headers.insert(name.clone(), value.clone());
        }
        Ok(())
    }

    /// The server does not take them. Whether there may be others.
    pub(super) fn renew(&self) -> bool {
        false
    }
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
