//! The plane's own connection to an inspected host: verified TLS, HTTP/1.1, one request at a time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_rustls::ConfigBuilderExt;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::egress::{host::HostName, metered::RequestBody, plain::HEAD_BYTES_MAX};

/// How long the host may take to agree on TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a connection that was used before may take to be ready again.
const READY_MAX: Duration = Duration::from_millis(500);

/// Why there is no connection. Nothing was sent.
#[derive(Debug)]
pub(super) enum NoUpstream {
    /// The certificate is not the host's; what is wrong with it.
    Certificate(String),
    /// Anything else.
    Failed(&'static str),
}

/// A connection that takes requests, one after the other.
pub(super) struct Upstream {
    sender: SendRequest<RequestBody>,
    pub(super) peer: Option<SocketAddr>,
}

impl Upstream {
    /// Agrees on TLS with the host on a fresh connection.
    pub(super) async fn open(
        config: Arc<ClientConfig>,
        host: &HostName,
        stream: TcpStream,
        cut: CancellationToken,
    ) -> Result<Self, NoUpstream> {
        let peer = stream.peer_addr().ok();
        let name = ServerName::try_from(host.as_str().to_owned());
        let name = name.map_err(|_| NoUpstream::Failed("its name cannot be verified"))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                    Some(rustls::Error::InvalidCertificate(why)) => NoUpstream::Certificate(why.to_string()),
                    Some(rustls::Error::NoCertificatesPresented) => NoUpstream::Certificate("it shows none".into()),
                    _ => NoUpstream::Failed("it does not agree on TLS"),
                });
            }
            Err(_) => return Err(NoUpstream::Failed("it does not agree on TLS in time")),
        };
        let (sender, connection) = Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| NoUpstream::Failed("the connection could not be used"))?;
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "inspected host's connection ended");
                },
            }
        });
        Ok(Self { sender, peer })
    }

    /// The connection, if it takes another request.
    pub(super) async fn again(mut self) -> Option<Self> {
        match tokio::time::timeout(READY_MAX, self.sender.ready()).await {
            Ok(Ok(())) => Some(self),
            _ => None,
        }
    }

    /// Sends a request. What was not sent is given back.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, Option<Box<Request<RequestBody>>>> {
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut error| error.take_message().map(Box::new))
    }
}

/// Verifies as clients of the host system do, or by the roots that this program brings.
pub(super) fn client_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    // A customer's own authority is in the system's store; where there is none the public ones remain.
    let mut config = match builder()?.with_native_roots() {
        Ok(native) => native.with_no_client_auth(),
        Err(_) => builder()?.with_webpki_roots().with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
