//! Connections to what the operator registered at a URL: TLS with the public roots, plain HTTP only to this host; no
//! redirects, no proxy from the environment. Which host it is, private or public, is the operator's word.

use std::time::Duration;

use bytes::Bytes;
use http::{Uri, uri::Scheme};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// Time to open a connection.
pub(in crate::mcp::upstream) const CONNECT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept. Common servers hang up after 5 s, and a request that crosses their end is lost.
const IDLE: Duration = Duration::from_secs(4);

pub(in crate::mcp::upstream) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client, and the URL that it is for.
pub(in crate::mcp::upstream) fn to(url: &str) -> Result<(HttpClient, Uri), String> {
    let uri: Uri = url.parse().map_err(|_| "`url` is not a URL".to_owned())?;
    let host = uri.host().unwrap_or_default();
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || host.is_empty() {
        return Err("`url` must name a host and no user".to_owned());
    }
    let plain = uri.scheme() == Some(&Scheme::HTTP);
    if !plain && uri.scheme() != Some(&Scheme::HTTPS) {
        return Err("`url` must start with https://, or with http:// when it is on this host".to_owned());
    }
    if plain && !crate::mcp::is_loopback(host) {
        return Err("`url` may be http:// only for a loopback address; use https://".to_owned());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| format!("TLS cannot be used: {error}"))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(tls);
    Ok((client, uri))
}
