//! An inspected host with a certificate of a test root, a run that may reach it, and a client inside the run.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cogward_budget::{Budgets, Scope};
use cogward_model::{
    Digest, Id, RunId, SystemClock, SystemEntropy,
    action::Amounts,
    event::{Event, EventType},
    upstream::EgressCredential,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use crate::{
    Credential, FenceState, Gateway, InspectionKey, Notice, NoticeKind, Notices, Records, RunGrant, RunListeners,
    egress::{EgressOptions, tests::Ledger},
    testing::manifest,
};

pub(super) const HOST: &str = "api.example.com";
/// Inspected too, without a credential.
pub(super) const OTHER: &str = "other.example.com";
pub(super) const SECRET: &str = "ghp_Sup3rS3cretValue/+0123456789";
pub(super) const PLACEHOLDER: &str = "cogward-placeholder:github";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A root and what it signs.
pub(super) struct Root {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Root {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pair = KeyPair::generate().unwrap();
        let der = params.self_signed(&pair).unwrap().der().clone();
        Self { issuer: Issuer::new(params, pair), der }
    }

    pub(super) fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![HOST.to_owned(), OTHER.to_owned()]).unwrap();
        change(&mut params);
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }

    pub(super) fn client(&self) -> ClientConfig {
        trusting(self.der.clone())
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(super) fn trusting(root: CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Vec<Notice>>);

impl Notices for Seen {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}

pub(super) struct Rig {
    pub(super) gateway: Gateway,
    pub(super) ledger: Arc<Ledger>,
    pub(super) run: RunId,
    pub(super) proxy: SocketAddr,
    authority: String,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    seen: Arc<Seen>,
}

pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Rig {
    /// A host that answers each request with what `answer` makes of it.
    pub(super) async fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let root = Root::new();
        let server = root.server(|_| {});
        Self::with(&root, server, answer).await
    }

    /// A host with this certificate, and a plane that trusts `root`.
    pub(super) async fn with(
        root: &Root,
        server: Arc<ServerConfig>,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let (heard, connections) = (Arc::default(), Arc::default());
        let upstream = serve(server, Arc::new(answer), Arc::clone(&heard), Arc::clone(&connections)).await;
        let seen: Arc<Seen> = Arc::default();
        let options = EgressOptions {
            static_hosts: [HOST, OTHER, "plain.example.com"].map(|host| (host.to_owned(), vec![upstream])).into(),
            inspection_key: Some(InspectionKey::new(Zeroizing::new([3; 32]))),
            upstream_tls: Some(Arc::new(root.client())),
            notices: Some(Arc::clone(&seen) as Arc<dyn Notices>),
            ..EgressOptions::default()
        };
        let mut manifest = manifest();
        manifest.spec.permissions.egress = serde_json::from_value(serde_json::json!([
            {"host": HOST, "port": 443, "inspect": {
                "methods": ["GET", "POST", "HEAD"], "paths": ["/v1/*"], "credential": {"name": "github"}}},
            {"host": OTHER, "port": 443, "inspect": {"methods": ["GET"], "paths": ["/*"]}},
            {"host": "plain.example.com", "port": 80, "protocol": "http"},
        ]))
        .unwrap();
        let (ledger, budgets) = (Arc::new(Ledger::default()), Arc::new(Budgets::new()));
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        budgets.open(Scope::run(run), Amounts { connections: 1_000, egress_bytes: 1 << 30, ..Amounts::default() });
        let records = Arc::clone(&ledger) as Arc<dyn Records>;
        let gateway = Gateway::with_egress(records, budgets, Arc::new(SystemClock), options);
        let grant = RunGrant::new(run, &manifest, Digest::from_bytes([7; 32]), None, vec![Scope::run(run)]);
        let authority = gateway.authority_pem(&grant).unwrap().unwrap();
        let listener = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().into();
        let listeners = RunListeners { model: listener(), mcp: listener(), proxy: listener() };
        let proxy = listeners.proxy.local_addr().unwrap();
        gateway.open_run(grant, listeners).unwrap();
        gateway.fence_plane(FenceState::Open);
        gateway.fence(run, FenceState::Open);
        Self { gateway, ledger, run, proxy, authority, heard, connections, seen }
    }

    /// Stores the credential of [`HOST`].
    pub(super) fn store(&self) {
        self.store_for(HOST, "authorization");
    }

    pub(super) fn store_for(&self, host: &str, header: &str) {
        let config = EgressCredential {
            tenant: "default".parse().unwrap(),
            name: "github".parse().unwrap(),
            host: host.to_owned(),
            port: 443,
            header: header.to_owned(),
        };
        let secret = Credential::new(Zeroizing::new(SECRET.to_owned()));
        self.gateway.upstreams().put_egress_credential(config, secret);
    }

    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    pub(super) fn decided(&self) -> Vec<Event> {
        self.ledger.of(EventType::EgressDecided)
    }

    /// Waits until so many findings were told.
    pub(super) async fn notices(&self, count: usize) -> Vec<NoticeKind> {
        for _ in 0..200_000 {
            let kinds: Vec<NoticeKind> = self.seen.0.lock().unwrap().iter().map(|n| n.kind).collect();
            if kinds.len() >= count {
                return kinds;
            }
            tokio::task::yield_now().await;
        }
        panic!("no {count} notices")
    }

    /// Everything that was recorded or told, as text.
    pub(super) fn told(&self) -> String {
        let kinds = [EventType::EgressDecided, EventType::EgressCompleted, EventType::SecurityFinding];
        let events: Vec<Event> = kinds.into_iter().flat_map(|kind| self.ledger.of(kind)).collect();
        format!("{events:?} {:?}", self.seen.0.lock().unwrap())
    }

    /// What a program inside trusts.
    pub(super) fn trust(&self) -> ClientConfig {
        trusting(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap())
    }

    /// A tunnel, not yet TLS.
    pub(super) async fn tunnel(&self, host: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
        stream.write_all(connect.as_bytes()).await.unwrap();
        let head = head_of(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream
    }

    /// A program inside that has agreed on TLS with what it takes for the host.
    pub(super) async fn agent(&self, host: &str) -> Agent {
        let stream = self.tunnel(host).await;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.trust()));
        Agent { stream: connector.connect(name, stream).await.unwrap() }
    }
}

pub(super) struct Agent {
    pub(super) stream: TlsStream<TcpStream>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn all(&self) -> String {
        format!("{}{}", self.head, self.body)
    }
}

impl Agent {
    pub(super) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(super) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    pub(super) async fn head(&mut self) -> String {
        tokio::time::timeout(PATIENCE, head_of(&mut self.stream)).await.unwrap()
    }

    pub(super) async fn byte(&mut self) -> Option<u8> {
        tokio::time::timeout(PATIENCE, self.stream.read_u8()).await.unwrap().ok()
    }

    pub(super) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = if status == 100 { Vec::new() } else { body_of(&mut self.stream, &head).await };
        Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// Everything until the end, however it comes.
    pub(super) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }
}

async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).to_string()
}

/// A body by its length or its chunks, decoded.
async fn body_of(stream: &mut (impl AsyncRead + Unpin), head: &str) -> Vec<u8> {
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let Ok(byte) = stream.read_u8().await else { return body };
                line.push(byte);
            }
            let Ok(size) = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16) else { return body };
            let mut chunk = vec![0; size + 2];
            if stream.read_exact(&mut chunk).await.is_err() || size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    body.resize(length.unwrap_or(0), 0);
    let _ = stream.read_exact(&mut body).await;
    body
}

async fn serve(
    config: Arc<ServerConfig>,
    answer: Arc<dyn Fn(&str) -> String + Send + Sync>,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
            let (heard, connections) = (Arc::clone(&heard), Arc::clone(&connections));
            tokio::spawn(async move {
                let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                connections.fetch_add(1, Ordering::AcqRel);
                loop {
                    let head = head_of(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    let body = body_of(&mut stream, &head).await;
                    let request = head + &String::from_utf8_lossy(&body);
                    let said = answer(&request);
                    heard.lock().unwrap().push(request);
                    if stream.write_all(said.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    if said.contains("Connection: close") {
                        let _ = stream.shutdown().await;
                        return;
                    }
                }
            });
        }
    });
    address
}
