//! Requests to a Qdrant: bounded in size and time, to the one host that the operator named.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::store::StoreError;

/// Longest answer: two hundred memories with their words.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// A client of one Qdrant.
pub(super) struct Rest {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    api_key: Option<HeaderValue>,
}

impl Rest {
    pub(super) fn new(url: &str, api_key: Option<Zeroizing<String>>) -> Result<Self, String> {
        let url = url::Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(
                "the URL of a Qdrant has no user, no query and no fragment: its key is the credential".to_owned()
            );
        }
        let here = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => return Err("the URL has no host".to_owned()),
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err("the URL begins with https://, or with http:// when it is on this host".to_owned());
        }
        let api_key = api_key.map(|key| {
            let mut value = HeaderValue::from_str(key.trim_end_matches(['\r', '\n']))
                .map_err(|_| "the credential has characters that cannot stand in a header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_WAIT));
        let crypto = rustls::crypto::aws_lc_rs::default_provider();
        // A customer's own authority is in the system's store; where there is none the public ones remain.
        let tls = match HttpsConnectorBuilder::new().with_provider_and_native_roots(crypto.clone()) {
            Ok(builder) => builder,
            Err(_) => HttpsConnectorBuilder::new()
                .with_provider_and_webpki_roots(crypto)
                .map_err(|error| format!("TLS cannot be used: {error}"))?,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(tls.https_or_http().enable_http1().wrap_connector(tcp));
        Ok(Self { client, base: url.as_str().trim_end_matches('/').to_owned(), api_key: api_key.transpose()? })
    }

    /// A request and its answer, whatever its status. What is not JSON is nothing.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), StoreError> {
        // A search and a scroll are posts too, and doing one of them twice harms nobody.
        let changes = method == Method::PUT || path.contains("/delete");
        let failed = |cause: String, sent: bool| StoreError::Unavailable { cause, sent: sent && changes };
        let uri: Uri =
            format!("{}/{path}", self.base).parse().map_err(|_| failed("its URL is none".to_owned(), false))?;
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header("api-key", key);
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| failed("a request cannot be made".to_owned(), false))?;
        let answer = tokio::time::timeout(ANSWER_WAIT, async {
            let answer = self.client.request(request).await.map_err(|error| {
                let sent = !error.is_connect();
                failed(if sent { "the connection broke off" } else { "there is no connection" }.to_owned(), sent)
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| {
                let long = error.is::<LengthLimitError>();
                failed(if long { "its answer is too long" } else { "the connection broke off" }.to_owned(), true)
            })?;
            Ok((status, serde_json::from_slice(&body.to_bytes()).unwrap_or_default()))
        });
        answer.await.unwrap_or_else(|_| Err(failed("it did not answer in time".to_owned(), true)))
    }
}
