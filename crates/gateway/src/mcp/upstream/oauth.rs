//! Tokens that the plane gets for itself from a tool server's authorisation server (OAuth 2.1, client credentials).
//!
//! Where the operator names no token endpoint it is found by the server's own documents (RFC 9728, RFC 8414), which
//! may lead nowhere inside, and whose issuer and resource must be who was asked. A token is got by one caller while
//! the others wait, is kept until shortly before its end, and is never printed. What acts for a user (token exchange)
//! would be another source beside this one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use cogward_model::{
    Clock as _, Entropy as _, SystemClock, SystemEntropy, UpstreamName,
    upstream::{ClientAuthentication, OAuthClient},
};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{UpstreamError, guard::Guard};
use crate::{mcp::rpc, upstreams::Credential};

/// A token is renewed so long before its end.
const SKEW: Duration = Duration::from_secs(30);
/// How long a token is kept that does not say how long it holds.
const HOLDS: Duration = Duration::from_secs(300);
/// A token is kept for at most so long, whatever it says.
const HOLDS_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long a signed assertion holds, in seconds.
const ASSERTION_SECONDS: u64 = 60;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Where tokens for one tool server come from.
pub(super) struct Tokens {
    config: OAuthClient,
    secret: Credential,
    key: Option<EcdsaKeyPair>,
    guard: Guard,
    resource: String,
    server: Uri,
    known: Mutex<Option<Token>>,
    getting: tokio::sync::Mutex<Option<Place>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

/// Where tokens are asked for, and who says so.
#[derive(Debug, Clone)]
struct Place {
    endpoint: Uri,
    audience: String,
}

impl Tokens {
    pub(super) fn new(url: &str, config: OAuthClient, secret: Credential) -> Result<Arc<Self>, String> {
        let server: Uri = url.parse().map_err(|_| "`url` is not a URL".to_owned())?;
        let guard = Guard::of(&server)?;
        let mut place = None;
        if let Some(endpoint) = &config.token_endpoint {
            let uri: Uri = endpoint.parse().map_err(|_| "`token_endpoint` is not a URL".to_owned())?;
            guard.allows(&uri).map_err(|why| format!("`token_endpoint` cannot be used: {why}"))?;
            place = Some(Place { endpoint: uri, audience: endpoint.clone() });
        }
        let key = match &config.authentication {
            ClientAuthentication::PrivateKeyJwt { .. } => {
                let wrong = "the credential is not a private key for ES256 in PKCS #8 PEM";
                let der =
                    PrivatePkcs8KeyDer::from_pem_slice(secret.expose().as_bytes()).map_err(|_| wrong.to_owned())?;
                let der = der.secret_pkcs8_der();
                Some(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| wrong.to_owned())?)
            }
            ClientAuthentication::SecretBasic | ClientAuthentication::SecretPost => None,
        };
        let resource =
            config.resource.clone().unwrap_or_else(|| url.split(['?', '#']).next().unwrap_or(url).to_owned());
        Ok(Arc::new(Self {
            config,
            secret,
            key,
            guard,
            resource,
            server,
            known: Mutex::default(),
            getting: tokio::sync::Mutex::new(place),
        }))
    }

    /// The header of a request, with a token that holds.
    pub(super) async fn header(&self, server: &UpstreamName) -> Result<HeaderValue, UpstreamError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let mut place = self.getting.lock().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let got = async {
            let at = match &*place {
                Some(at) => at.clone(),
                None => place.insert(self.discover().await?).clone(),
            };
            self.get(&at).await
        };
        // Seldom: in a box it takes no room in every request.
        let token = Box::pin(got).await.map_err(|why| UpstreamError::Unavailable {
            server: server.clone(),
            cause: format!("no token for it can be had: {why}"),
            sent: false,
        })?;
        let header = token.header.clone();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(header)
    }

    /// The token is not taken any more. Whether there was one.
    pub(super) fn forget(&self) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn known(&self) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|token| token.until > Instant::now()).map(|token| token.header.clone())
    }

    /// Finds the token endpoint by the documents of the tool server and of the issuer that it names.
    async fn discover(&self) -> Result<Place, String> {
        #[derive(Deserialize)]
        struct Resource {
            resource: String,
            #[serde(default)]
            authorization_servers: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Issuer {
            issuer: String,
            token_endpoint: String,
        }
        let places = well_known(&self.server, &["oauth-protected-resource"]);
        let found: Resource = self.document(&places).await.map_err(|why| format!("its resource metadata: {why}"))?;
        if !covers(&found.resource, &self.server) {
            return Err("its resource metadata are of another resource".to_owned());
        }
        let issuer = found.authorization_servers.first().ok_or("its resource metadata name no authorisation server")?;
        let uri: Uri = issuer.parse().map_err(|_| "its authorisation server is not a URL".to_owned())?;
        let places = well_known(&uri, &["oauth-authorization-server", "openid-configuration"]);
        let metadata: Issuer =
            self.document(&places).await.map_err(|why| format!("its authorisation server: {why}"))?;
        if metadata.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err("its authorisation server says that it is another".to_owned());
        }
        let endpoint: Uri =
            metadata.token_endpoint.parse().map_err(|_| "its token endpoint is not a URL".to_owned())?;
        if endpoint.scheme() != uri.scheme() || endpoint.authority() != uri.authority() {
            return Err("its token endpoint is at another origin than its issuer".to_owned());
        }
        Ok(Place { endpoint, audience: metadata.issuer })
    }

    /// The first of some documents that is there.
    async fn document<T: for<'de> Deserialize<'de>>(&self, places: &[String]) -> Result<T, String> {
        let mut last = "it has none".to_owned();
        for place in places {
            let request = Request::get(place).header(header::ACCEPT, "application/json").body(Bytes::new());
            let request = request.map_err(|_| "its URL cannot be asked".to_owned())?;
            match self.guard.ask(request).await {
                Ok((StatusCode::OK, body)) => {
                    return serde_json::from_slice(&body).map_err(|_| "it is not such a document".to_owned());
                }
                Ok((status, _)) => last = format!("status {status}"),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn get(&self, place: &Place) -> Result<Token, String> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            #[serde(default)]
            token_type: String,
            #[serde(default)]
            expires_in: Option<u64>,
        }
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }
        let mut form = vec![("grant_type", "client_credentials".to_owned()), ("resource", self.resource.clone())];
        if !self.config.scopes.is_empty() {
            form.push(("scope", self.config.scopes.join(" ")));
        }
        let mut request = Request::post(place.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        match &self.config.authentication {
            ClientAuthentication::SecretBasic => {
                let both =
                    Zeroizing::new(format!("{}:{}", encoded(&self.config.client_id), encoded(self.secret.expose())));
                let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(both.as_bytes())));
                let mut value = value.map_err(|_| "the credential cannot stand in a header".to_owned())?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            ClientAuthentication::SecretPost => {
                form.push(("client_id", self.config.client_id.clone()));
                form.push(("client_secret", self.secret.expose().to_owned()));
            }
            ClientAuthentication::PrivateKeyJwt { key_id } => {
                form.push(("client_id", self.config.client_id.clone()));
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                form.push(("client_assertion_type", kind.to_owned()));
                form.push(("client_assertion", self.assertion(&place.audience, key_id.as_deref())?));
            }
        }
        let body: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let request = request.body(Bytes::from(body.join("&"))).map_err(|_| "it cannot be asked".to_owned())?;
        let (status, body) = self.guard.ask(request).await?;
        if status != StatusCode::OK {
            // Only its code: its words may repeat what was sent.
            let code = serde_json::from_slice::<Refused>(&body).map(|refused| rpc::shown(&refused.error, 64));
            return Err(format!("it answered with status {status} ({})", code.as_deref().unwrap_or("no reason")));
        }
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| "it answered with no token".to_owned())?;
        let secret = Zeroizing::new(granted.access_token);
        if !granted.token_type.eq_ignore_ascii_case("bearer") || secret.is_empty() || secret.len() > TOKEN_BYTES_MAX {
            return Err("its token is not a bearer token that can be used".to_owned());
        }
        let text = Zeroizing::new(format!("Bearer {}", *secret));
        let mut header = HeaderValue::from_str(&text).map_err(|_| "its token cannot stand in a header".to_owned())?;
        header.set_sensitive(true);
        let holds = granted.expires_in.map_or(HOLDS, Duration::from_secs).min(HOLDS_MAX);
        // One that holds shorter than the margin is used for half of its time.
        let holds = holds.checked_sub(SKEW).unwrap_or_default().max(holds / 2);
        Ok(Token { header, until: Instant::now() + holds })
    }

    /// A signed statement of who asks (RFC 7523).
    fn assertion(&self, audience: &str, key_id: Option<&str>) -> Result<String, String> {
        let key = self.key.as_ref().ok_or("there is no key")?;
        let mut random = [0_u8; 16];
        SystemEntropy.fill(&mut random);
        let now = SystemClock.now().unix_millis() / 1_000;
        let mut head = serde_json::json!({"alg": "ES256", "typ": "JWT"});
        if let Some(id) = key_id {
            head["kid"] = id.into();
        }
        let claims = serde_json::json!({
            "iss": self.config.client_id, "sub": self.config.client_id, "aud": audience,
            "jti": URL_SAFE_NO_PAD.encode(random), "iat": now, "exp": now + ASSERTION_SECONDS
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature =
            key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| "the key does not sign".to_owned())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}

/// Where a document about a URL may be: with its path, and without.
fn well_known(uri: &Uri, names: &[&str]) -> Vec<String> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Vec::new() };
    let path = uri.path().trim_end_matches('/');
    let mut places = Vec::new();
    for name in names {
        if !path.is_empty() {
            places.push(format!("{scheme}://{authority}/.well-known/{name}{path}"));
        }
        places.push(format!("{scheme}://{authority}/.well-known/{name}"));
    }
    places
}

/// Whether a resource is the server, or what the server is part of.
fn covers(resource: &str, server: &Uri) -> bool {
    let Ok(resource) = resource.parse::<Uri>() else { return false };
    let (all, part) = (resource.path().trim_end_matches('/'), server.path().trim_end_matches('/'));
    let within = part.strip_prefix(all).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.scheme() == server.scheme() && resource.authority() == server.authority() && within
}

/// As a form has it.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                for half in [byte >> 4, byte & 15] {
                    out.push(HEX.get(usize::from(half)).copied().map_or('0', char::from));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
