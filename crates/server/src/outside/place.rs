//! Where an agent's endpoint is: what a token must be for, and what a proof must name. It is made from what the operator
//! says, never from what a request says.

use std::fmt;

use cogward_identity::access::canonical_uri;
use cogward_model::{AgentName, TenantName};

/// Where the metadata of a resource are (RFC 9728, section 3.1): this, before the path of the resource.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// Longest base.
const BASE_BYTES_MAX: usize = 256;

/// Why an address cannot be the one that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// It is no plain URL.
    #[error("it is not a plain URL in lower case: no user, no query, no fragment, no default port, no `/` at its end")]
    Form,
    /// Tokens would go over the network in clear.
    #[error("it is http, and its host is not this one: tokens would travel in clear")]
    Clear,
}

/// The base of all resources, as it is compared: scheme, authority and a path without a `/` at its end.
pub(crate) fn base_of(url: &str) -> Result<Base, BaseError> {
    let url = url.strip_suffix('/').unwrap_or(url);
    let (scheme, rest) = url.split_once("://").ok_or(BaseError::Form)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    // The form that is compared is the form that is given: else clients would be told another one than they use.
    let plain = canonical_uri(url).is_some_and(|canonical| {
        canonical == format!("{scheme}://{authority}{}", if path.is_empty() { "/" } else { path })
    });
    let simple = path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~'));
    let dots = path.split('/').any(|part| part == "." || part == "..") || path.contains("//") || path.ends_with('/');
    if !plain || !simple || dots || url.len() > BASE_BYTES_MAX {
        return Err(BaseError::Form);
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if scheme == "http" && !["127.0.0.1", "localhost", "[::1]"].contains(&host) {
        return Err(BaseError::Clear);
    }
    Ok(Base { origin: format!("{scheme}://{authority}"), authority: authority.to_owned(), path: path.to_owned() })
}

/// Where all endpoints are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Scheme and authority.
    pub(crate) origin: String,
    pub(crate) authority: String,
    path: String,
}

/// The endpoint of an agent, which may be there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tenant: TenantName,
    pub(crate) agent: AgentName,
    /// The resource (RFC 8707).
    pub(crate) resource: String,
    /// Where its metadata are.
    pub(crate) metadata: String,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Endpoint(Place),
    Metadata(Place),
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl Base {
    pub(crate) fn asked(&self, path: &str) -> Option<Asked> {
        match path.strip_prefix(WELL_KNOWN) {
            Some(path) => self.place(path).map(Asked::Metadata),
            None => self.place(path).map(Asked::Endpoint),
        }
    }

    /// Names are read as they are: an escaped letter is another text, and no name.
    fn place(&self, path: &str) -> Option<Place> {
        let mut parts = path.strip_prefix(&self.path)?.strip_prefix("/t/")?.split('/');
        let place = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next());
        let (tenant, "a", agent, "mcp", None) = place else { return None };
        let (tenant, agent): (TenantName, AgentName) = (tenant.parse().ok()?, agent.parse().ok()?);
        let path = format!("{}/t/{tenant}/a/{agent}/mcp", self.path);
        Some(Place {
            resource: format!("{}{path}", self.origin),
            metadata: format!("{}{WELL_KNOWN}{path}", self.origin),
            tenant,
            agent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_operator_s_and_safe_to_send_tokens_to() {
        for good in [
            "https://mcp.bank.example",
            "https://gw.bank.example:8443/agents/",
            "http://127.0.0.1:7422",
            "http://[::1]:9",
        ] {
            assert!(base_of(good).is_ok(), "{good}");
        }
        for bad in [
            "mcp.bank.example",
            "https://",
            "https://MCP.bank.example",
            "https://mcp.bank.example:443",
            "https://u@mcp.example",
            "https://mcp.example/?a=1",
            "https://mcp.example/#a",
            "https://mcp.example/a/../b",
            "https://mcp.example//a",
            "ftp://mcp.example",
            "https://mcp.example/%61",
        ] {
            assert_eq!(base_of(bad), Err(BaseError::Form), "{bad}");
        }
        for clear in [
            "http://mcp.bank.example",
            "http://10.0.0.1",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example:80",
        ] {
            let refused = base_of(clear);
            assert!(matches!(refused, Err(BaseError::Clear | BaseError::Form)), "{clear}");
        }
    }

    #[test]
    fn a_path_is_an_endpoint_or_nothing() {
        let base = base_of("https://gw.example/x").unwrap();
        let Some(Asked::Endpoint(place)) = base.asked("/x/t/retail/a/clerk/mcp") else { panic!() };
        assert_eq!(place.resource, "https://gw.example/x/t/retail/a/clerk/mcp");
        assert_eq!(place.metadata, "https://gw.example/.well-known/oauth-protected-resource/x/t/retail/a/clerk/mcp");
        assert_eq!(
            base.asked("/.well-known/oauth-protected-resource/x/t/retail/a/clerk/mcp"),
            Some(Asked::Metadata(place))
        );
        for none in [
            "/",
            "/mcp",
            "/t/retail/a/clerk/mcp",
            "/x/t/retail/a/clerk",
            "/x/t/retail/a/clerk/mcp/",
            "/x/t/retail/a/clerk/mcp/x",
            "/x/t/Retail/a/clerk/mcp",
            "/x/t/retail/a/../mcp",
            "/x/t/retail/a/cl%65rk/mcp",
            "/x/t//a/clerk/mcp",
            "/x/t/retail/b/clerk/mcp",
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/t/retail/a/clerk/mcp",
            "/xt/retail/a/clerk/mcp",
            "//x/t/retail/a/clerk/mcp",
        ] {
            assert_eq!(base.asked(none), None, "{none}");
        }
    }
}
