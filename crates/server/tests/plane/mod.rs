//! A plane in this process and a client that sends exactly the bytes it is told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use cogward_server::{Running, ServeOptions, start};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Plane {
    home: TempDir,
    address: SocketAddr,
    credential: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), cogward_server::ServeError>>,
}

pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Plane {
    pub async fn start() -> Self {
        let home = TempDir::new().unwrap();
        let running = Self::up(&home).await;
        let credential = running.credential().unwrap().expose().to_owned();
        Self::serving(home, running, credential)
    }

    async fn up(home: &TempDir) -> Running {
        let options = ServeOptions {
            data_dir: home.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            supervisor_exe: "/bin/false".into(),
            egress_hosts: std::collections::HashMap::new(),
            sandboxes: cogward_sandbox::SandboxConfig::default(),
            attesting: cogward_server::Attesting::default(),
            four_eyes: false,
            outside: None,
            policy_solver: None,
            log_listen: None,
            witnesses: Default::default(),
            timestamps: Default::default(),
            archive: Default::default(),
            tokens: Default::default(),
        };
        start(options).await.unwrap()
    }

    fn serving(home: TempDir, running: Running, credential: String) -> Self {
        let address = running.address();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(running.until(async {
            let _ = stopped.await;
        }));
        Self { home, address, credential, stop, server }
    }

    /// Drains this plane and brings another one up on its directory.
    pub async fn restart(self) -> Self {
        let Self { home, credential, stop, server, .. } = self;
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        // What the first plane spawned holds its directory until it has seen the end.
        let running = tokio::time::timeout(PATIENCE, async {
            loop {
                let options = ServeOptions {
                    data_dir: home.path().join("data"),
                    listen: "127.0.0.1:0".parse().unwrap(),
                    supervisor_exe: "/bin/false".into(),
                    egress_hosts: std::collections::HashMap::new(),
                    sandboxes: cogward_sandbox::SandboxConfig::default(),
                    attesting: cogward_server::Attesting::default(),
                    four_eyes: false,
                    outside: None,
                    policy_solver: None,
                    log_listen: None,
                    witnesses: Default::default(),
                    timestamps: Default::default(),
                    archive: Default::default(),
                    tokens: Default::default(),
                };
                match start(options).await {
                    Ok(running) => return running,
                    Err(cogward_server::ServeError::DataDir(_)) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let running = running.await.expect("the plane comes back");
        assert!(running.credential().is_none());
        Self::serving(home, running, credential)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn credential(&self) -> String {
        self.credential.clone()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// As the operator.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(method, path, Some(&self.credential), headers, body).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        credential: Option<&str>,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = self.head(method, path, credential, headers, Some(body.len()));
        // A server that refuses early closes early: what it said is read all the same.
        let _ = stream.write_all(head.as_bytes()).await;
        let (mut reader, mut writer) = stream.split();
        let send = async {
            let _ = writer.write_all(body).await;
        };
        let mut bytes = Vec::new();
        let receive = async {
            let _ = reader.read_to_end(&mut bytes).await;
        };
        tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.expect("an answer");
        parse(&bytes)
    }

    fn head(
        &self,
        method: &str,
        path: &str,
        credential: Option<&str>,
        headers: &[(&str, &str)],
        length: Option<usize>,
    ) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        if let Some(credential) = credential {
            head.push_str(&format!("authorization: Bearer {credential}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    /// Opens an event stream; returns when the plane has begun to answer.
    pub async fn watch(&self, path: &str, headers: &[(&str, &str)]) -> Watch {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = self.head("GET", path, Some(&self.credential), headers, None);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut watch = Watch { stream, buffer: Vec::new() };
        while !watch.buffer.windows(4).any(|w| w == b"\r\n\r\n") {
            watch.more().await;
        }
        let text = String::from_utf8_lossy(&watch.buffer).into_owned();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        watch
    }
}

pub struct Watch {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Watch {
    async fn more(&mut self) {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        assert!(read.expect("the stream goes on").unwrap() > 0, "the stream ended");
    }

    /// The first events that have not been given out.
    pub async fn events(&mut self, count: usize) -> Vec<Value> {
        loop {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            let found: Vec<Value> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .filter_map(|data| serde_json::from_str::<Value>(data).ok())
                // What the plane's own start left in the queue may come first.
                .filter(|event| event["type"] == "tenant.created")
                .collect();
            if found.len() >= count {
                return found.into_iter().take(count).collect();
            }
            self.more().await;
        }
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let raw = &bytes[end + 4..];
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v.eq_ignore_ascii_case("chunked"));
    let body = if chunked { unchunked(raw) } else { raw.to_vec() };
    Answer { status, headers, body }
}

fn unchunked(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&raw[end + 2..end + 2 + size]);
        raw = &raw[end + 2 + size + 2..];
    }
}
