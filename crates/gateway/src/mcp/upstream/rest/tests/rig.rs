//! An API that says bytes.

use std::sync::Mutex;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    super::super::exchange::{Peer, Step, UpRequest},
    *,
};

/// One thing that it does on a connection.
#[derive(Debug, Clone)]
pub(super) enum Does {
    Says(Vec<u8>),
    /// Says it until nobody listens.
    SaysForEver(Vec<u8>),
    /// Ends the connection.
    Hang,
    /// Says nothing more and stays.
    Waits,
}

pub(super) struct Api {
    pub(super) client: Arc<ToolServerClient>,
    pub(super) address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

/// A whole answer.
pub(super) fn answer(status: u16, media: &str, body: &[u8]) -> Vec<Does> {
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n", body.len());
    vec![Does::Says([head.as_bytes(), body].concat())]
}

pub(super) fn json_answer(status: u16, body: &Value) -> Vec<Does> {
    answer(status, "application/json", body.to_string().as_bytes())
}

impl Api {
    pub(super) async fn start(
        does: impl Fn(usize) -> Vec<Does> + Send + Sync + 'static,
        more: Value,
        secret: Option<&str>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (does, all) = (Arc::new(does), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&does), Arc::clone(&all)));
            }
        });
        let mut transport = transport(&format!("http://{address}/base/"));
        transport.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let timeouts = Timeouts { start: std::time::Duration::from_secs(5), call: std::time::Duration::from_secs(2) };
        let client = Arc::new(registered(transport, secret).with_timeouts(timeouts));
        Self { client, address, seen }
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) async fn call(&self, tool: &str, arguments: Value) -> Result<Value, UpstreamError> {
        let params = json!({"name": tool, "arguments": arguments}).to_string();
        let request = UpRequest { name: Some(tool), ..UpRequest::plain("tools/call", params.as_bytes()) };
        let mut exchange = self.client.begin(None, Peer::PLANE, request).await?;
        match exchange.next().await? {
            Step::Done(reply) => Ok(serde_json::from_slice(&reply.result).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// The text of what came of a call, which has to be an error of the tool.
    pub(super) async fn refused(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await.unwrap();
        assert_eq!(result["isError"], true, "{result}");
        assert!(result.get("structuredContent").is_none());
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

async fn serve(mut stream: TcpStream, does: Arc<impl Fn(usize) -> Vec<Does>>, all: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = request(&mut stream).await {
        let turn = {
            let mut all = all.lock().unwrap();
            all.push(request);
            all.len()
        };
        for step in does(turn) {
            match step {
                Does::Says(bytes) => drop(stream.write_all(&bytes).await),
                Does::SaysForEver(bytes) => while stream.write_all(&bytes).await.is_ok() {},
                Does::Hang => return,
                Does::Waits => std::future::pending().await,
            }
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
}
