//! One model provider: where it is, its credential, and the pooled connections to it.
//!
//! [`ProviderClient::send`] takes only an admitted call, so nothing leaves that was not decided,
//! reserved and recorded. What the agent sent as authorization is not even a parameter here.

use std::{fmt, time::Duration};

use super::scripted::Script;
use crate::{
    gate::{Admitted, Governed},
    policy::Content,
    rooms::Held,
    upstreams::Credential,
};
use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    action::{Action, ModelWire},
    upstream::{Price, Provider, ProviderShape},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// The version of Anthropic's API that is asked for when the agent names none.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// Idle connections that are kept to one provider.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Most that is read at once from a provider, and so the longest piece of a stream and the longest head.
const READ_BYTES_MAX: usize = 64 * 1024;
/// How long an idle connection is kept.
const IDLE_CONNECTION_KEPT: Duration = Duration::from_secs(60);

/// How long a provider is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderTimeouts {
    /// To connect.
    pub connect: Duration,
    /// From the request to the head of the answer; an unstreamed answer is computed in this time.
    pub head: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// For the rest of a stream whose agent has gone, to learn what it used.
    pub drain: Duration,
}

impl Default for ProviderTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(600),
            idle: Duration::from_secs(120),
            drain: Duration::from_secs(30),
        }
    }
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the provider cannot be used: {0}")]
pub struct ProviderError(pub String);

/// An upstream's answer broke off.
#[derive(Debug, thiserror::Error)]
#[error("the provider's answer broke off: {0}")]
pub(super) struct UpstreamBroken(pub String);

pub(super) type UpstreamBody = BoxBody<Bytes, UpstreamBroken>;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// No connection: the provider has certainly not seen the request.
    #[error("the provider cannot be reached")]
    Unreachable,
    /// The request may have been carried out.
    #[error("the provider closed the connection without an answer")]
    NoAnswer,
    /// Likewise.
    #[error("the provider did not answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// A model call, ready to be forwarded once it is admitted.
pub struct ModelCall {
    pub(super) provider: UpstreamName,
    pub(super) model: String,
    pub(super) wire: ModelWire,
    pub(super) streaming: bool,
    pub(super) body: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) beta: bool,
    pub(super) price: Price,
    pub(super) hide_usage: bool,
    /// The room that the body takes, given back with it.
    pub(super) room: Option<Held>,
}

impl fmt::Debug for ModelCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelCall({}/{}, {} bytes)", self.provider, self.model, self.body.len())
    }
}

impl Governed for ModelCall {
    fn action(&self) -> Action {
        Action::ModelCall {
            provider: self.provider.clone(),
            model: self.model.clone(),
            wire: self.wire,
            streaming: self.streaming,
        }
    }

    fn content(&self) -> Content<'_> {
        Content { body: Some(&self.body), ..Content::default() }
    }
}

/// A model provider.
pub struct ProviderClient {
    provider: Provider,
    timeouts: ProviderTimeouts,
    backend: Backend,
}

enum Backend {
    Http(Box<Http>),
    Scripted(Box<Script>),
}

struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: Uri,
    credential: Option<(HeaderName, HeaderValue)>,
}

impl ProviderClient {
    /// Checks the configuration. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`ProviderError`]: a base URL that is neither `https` nor `http` to a loopback address, a
    /// credential that cannot stand in a header, a script with an error (with its path).
    pub fn new(
        provider: Provider,
        credential: Option<Credential>,
        timeouts: ProviderTimeouts,
    ) -> Result<Self, ProviderError> {
        let backend = match &provider.shape {
            ProviderShape::OpenAi { base_url } | ProviderShape::Anthropic { base_url } => {
                let key = credential.map(|secret| authorization(&provider.shape, &secret)).transpose()?;
                let client = client(timeouts.connect)?;
                Backend::Http(Box::new(Http { client, base: base(base_url)?, credential: key }))
            }
            ProviderShape::Scripted { script } => {
                let script = Script::parse(script).map_err(|error| ProviderError(error.to_string()))?;
                Backend::Scripted(Box::new(script))
            }
        };
        Ok(Self { provider, timeouts, backend })
    }

    /// What a model costs.
    #[must_use]
    pub fn price(&self, model: &str) -> Option<Price> {
        self.provider.prices.get(model).copied()
    }

    /// How long it is waited for.
    #[must_use]
    pub fn timeouts(&self) -> ProviderTimeouts {
        self.timeouts
    }

    /// Whether it understands a wire.
    #[must_use]
    pub fn speaks(&self, wire: ModelWire) -> bool {
        match self.provider.shape {
            ProviderShape::OpenAi { .. } => matches!(wire, ModelWire::OpenAiChat | ModelWire::OpenAiResponses),
            ProviderShape::Anthropic { .. } => wire == ModelWire::AnthropicMessages,
            ProviderShape::Scripted { .. } => true,
        }
    }

    /// The member that limits the output in a wire. OpenAI's newer models refuse `max_tokens`; servers
    /// that imitate it may know nothing else, and a limit that is not understood limits nothing.
    pub(super) fn limit_word(&self, wire: ModelWire) -> &'static str {
        match (wire, &self.backend) {
            (ModelWire::OpenAiResponses, _) => "max_output_tokens",
            (ModelWire::OpenAiChat, Backend::Http(http)) if is_openai(&http.base) => "max_completion_tokens",
            (ModelWire::OpenAiChat | ModelWire::AnthropicMessages, _) => "max_tokens",
        }
    }

    /// Forwards an admitted call and waits for the head of the answer.
    pub(super) async fn send(&self, call: &Admitted<ModelCall>) -> Result<Response<UpstreamBody>, SendError> {
        let answered = async {
            match &self.backend {
                Backend::Http(http) => http.send(call.target()).await,
                Backend::Scripted(script) => Ok(script.answer(call.run().grant.run, call.target()).await),
            }
        };
        let head = self.timeouts.head;
        tokio::time::timeout(head, answered).await.unwrap_or(Err(SendError::Slow(head)))
    }
}

impl fmt::Debug for ProviderClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderClient({}/{})", self.provider.tenant, self.provider.name)
    }
}

impl Http {
    async fn send(&self, call: &ModelCall) -> Result<Response<UpstreamBody>, SendError> {
        let path = match (call.wire, call.beta) {
            (ModelWire::OpenAiChat, _) => "/chat/completions",
            (ModelWire::OpenAiResponses, _) => "/responses",
            (ModelWire::AnthropicMessages, false) => "/v1/messages",
            (ModelWire::AnthropicMessages, true) => "/v1/messages?beta=true",
        };
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = join(&self.base, path).ok_or(SendError::Unreachable)?;
        let headers = request.headers_mut();
        headers.clone_from(&call.headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("cogward/", env!("CARGO_PKG_VERSION"))));
        if call.wire == ModelWire::AnthropicMessages {
            headers.entry("anthropic-version").or_insert(ANTHROPIC_VERSION);
        }
        if let Some((name, value)) = &self.credential {
            headers.insert(name, value.clone());
        }
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(|body| {
                body.map_err(|error| {
                    tracing::debug!(%error, "a provider's answer broke off");
                    UpstreamBroken("the connection to the provider was lost".to_owned())
                })
                .boxed()
            })),
            Err(error) => {
                tracing::debug!(%error, "a provider did not answer");
                Err(if error.is_connect() { SendError::Unreachable } else { SendError::NoAnswer })
            }
        }
    }
}

fn client(connect: Duration) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, ProviderError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Without it a small request can wait 40 ms for a delayed ACK.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    let crypto = rustls::crypto::aws_lc_rs::default_provider();
    // A customer's own authority is in the system's store; where there is none the public ones remain.
    let tls = match HttpsConnectorBuilder::new().with_provider_and_native_roots(crypto.clone()) {
        Ok(builder) => builder,
        Err(_) => HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(crypto)
            .map_err(|error| ProviderError(format!("TLS cannot be set up: {error}")))?,
    };
    let https = tls.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_CONNECTION_KEPT)
        .http1_max_buf_size(READ_BYTES_MAX)
        .build(https))
}

fn authorization(shape: &ProviderShape, secret: &Credential) -> Result<(HeaderName, HeaderValue), ProviderError> {
    let (name, text) = match shape {
        ProviderShape::Anthropic { .. } => {
            (HeaderName::from_static("x-api-key"), zeroize::Zeroizing::new(secret.expose().to_owned()))
        }
        ProviderShape::OpenAi { .. } | ProviderShape::Scripted { .. } => {
            (header::AUTHORIZATION, zeroize::Zeroizing::new(format!("Bearer {}", secret.expose())))
        }
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| ProviderError("its credential has characters that cannot stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn base(url: &str) -> Result<Uri, ProviderError> {
    let refuse = |why: &str| ProviderError(format!("the base URL {why}"));
    let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| refuse("is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refuse("carries a credential; give it to the plane on its own"));
    }
    if uri.query().is_some() {
        return Err(refuse("has a query"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback(authority.host()) => Ok(uri),
        Some("http") => Err(refuse("is plain http to another machine; use https")),
        _ => Err(refuse("must start with https://")),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_openai(base: &Uri) -> bool {
    base.host().is_some_and(|host| {
        host == "api.openai.com" || host.ends_with(".api.openai.com") || host.ends_with(".openai.azure.com")
    })
}

fn join(base: &Uri, path: &str) -> Option<Uri> {
    let mut parts = base.clone().into_parts();
    let before = base.path().trim_end_matches('/');
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{before}{path}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_only_to_this_machine_and_no_credential_in_a_url() {
        for good in ["https://api.openai.com/v1", "http://127.0.0.1:9/v1/", "http://[::1]:9", "http://localhost:1"] {
            assert!(base(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/v1",
            "api.openai.com",
            "http://api.openai.com/v1",
            "http://127.0.0.1.example.com",
            "ftp://127.0.0.1",
            "https://user:secret@api.openai.com",
            "https://api.openai.com/v1?key=1",
            "http://10.0.0.1/",
        ] {
            let error = base(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn paths_go_under_the_base() {
        let under = |url: &str, path| join(&base(url).unwrap(), path).unwrap().to_string();
        assert_eq!(under("https://api.openai.com/v1/", "/responses"), "https://api.openai.com/v1/responses");
        assert_eq!(under("https://a.example", "/v1/messages?beta=true"), "https://a.example/v1/messages?beta=true");
    }
}
