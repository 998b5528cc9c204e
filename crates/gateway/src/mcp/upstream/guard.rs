//! Requests to addresses that nobody typed in: what a tool server's own documents name.
//!
//! A name is looked up once, every address of it is checked, and the address that was checked is the one that is
//! dialled. Only HTTPS, except where the tool server itself is on this host and the document stays on it. No redirect
//! is followed, and an answer is short.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_rustls::ConfigBuilderExt as _;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{egress::address, mcp::is_loopback};

/// Time for all of one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Addresses of one name that are looked at; a name with more is refused.
const ADDRESSES_MAX: usize = 64;

/// Who may be asked.
#[derive(Clone)]
pub(super) struct Guard {
    /// The tool server is on this host, so that what it names may be too.
    local: bool,
    tls: Arc<ClientConfig>,
}

impl Guard {
    /// For the documents of the tool server at `uri`.
    pub(super) fn of(uri: &Uri) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| format!("TLS cannot be used: {error}"))?;
        let mut tls = builder.with_webpki_roots().with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { local: uri.host().is_some_and(is_loopback), tls: Arc::new(tls) })
    }

    /// Whether a URL may be asked at all, before anything is looked up.
    pub(super) fn allows(&self, uri: &Uri) -> Result<(), String> {
        let host = uri.host().unwrap_or_default();
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || host.is_empty() {
            return Err("it names no host, or a user".to_owned());
        }
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTP && self.local && is_loopback(host) => Ok(()),
            _ => Err("it is not https".to_owned()),
        }
    }

    /// Sends one request and reads its answer.
    pub(super) async fn ask(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String> {
        self.allows(request.uri())?;
        let asked = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        asked.map_err(|_| format!("it did not answer within {} s", PATIENCE.as_secs()))?
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String> {
        let (mut head, body) = request.into_parts();
        let uri = std::mem::take(&mut head.uri);
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.dial(&host, port).await?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let value = authority.parse().map_err(|_| "its host cannot stand in a header".to_owned())?;
        head.headers.insert(header::HOST, value);
        head.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse().unwrap_or_default();
        let request = Request::from_parts(head, Full::new(body));
        if !secure {
            return answered(TokioIo::new(stream), request).await;
        }
        let name = ServerName::try_from(host).map_err(|_| "its host is not a name".to_owned())?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        answered(TokioIo::new(stream.map_err(|error| format!("TLS: {error}"))?), request).await
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(|_| "its host has no address".to_owned())?;
        let found: Vec<SocketAddr> = found.take(ADDRESSES_MAX + 1).collect();
        if found.is_empty() || found.len() > ADDRESSES_MAX {
            return Err("its host has no address, or too many".to_owned());
        }
        // One address that is refused refuses the name: somebody prepared it.
        for address in &found {
            let here = self.local && is_loopback(host) && address.ip().is_loopback();
            if let Err(why) = address::check(address.ip()).map_err(|why| why.to_string())
                && !here
            {
                return Err(format!("its host is {why}"));
            }
        }
        TcpStream::connect(found.as_slice()).await.map_err(|_| "no connection to it can be made".to_owned())
    }
}

/// Fetches a document that an operator named: HTTPS to an address that the internet can route, without redirects, short,
/// in bounded time. One on this host may be fetched in clear.
///
/// # Errors
/// Why there is none, in words.
pub async fn fetch_document(url: &str) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(|_| "it is not a URL".to_owned())?;
    let request = Request::get(&uri).header(header::ACCEPT, "application/json").body(Bytes::new());
    match Guard::of(&uri)?.ask(request.map_err(|_| "its URL cannot be asked".to_owned())?).await? {
        (StatusCode::OK, document) => Ok(document),
        (status, _) => Err(format!("status {status}")),
    }
}

async fn answered<I>(io: I, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let broken = |_| "the connection broke off".to_owned();
    let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|_| "its answer broke off, or is too long".to_owned())?.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(server: &str) -> Guard {
        Guard::of(&server.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_document_cannot_name_what_the_plane_must_not_ask() {
        let public = guard("https://tools.example/mcp");
        for url in ["http://tools.example/x", "http://127.0.0.1/x", "https://u:p@a.example/", "ftp://a.example/", "/x"]
        {
            assert!(public.allows(&url.parse().unwrap()).is_err(), "{url}");
        }
        let local = guard("http://127.0.0.1:7/mcp");
        assert!(local.allows(&"http://localhost:8/x".parse().unwrap()).is_ok());
        assert!(local.allows(&"http://10.0.0.1/x".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn an_address_inside_is_not_dialled_whatever_name_it_has() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let request = Request::get(format!("https://{host}:{port}/")).body(Bytes::new()).unwrap();
            let refused = guard("https://tools.example/mcp").ask(request).await.unwrap_err();
            assert!(refused.contains("loopback"), "{host}: {refused}");
        }
        let request = Request::get("https://169.254.169.254/latest/meta-data/").body(Bytes::new()).unwrap();
        let refused = guard("http://127.0.0.1:1/mcp").ask(request).await.unwrap_err();
        assert!(refused.contains("link-local"), "{refused}");
        assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none(), "nobody came");
    }
}
