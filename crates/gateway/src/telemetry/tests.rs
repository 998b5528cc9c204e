//! The endpoint as an SDK meets it.

use std::io::Write as _;

use cogward_budget::{Budgets, Scope};
use cogward_model::{Digest, Id, RunId, SystemClock, SystemEntropy};
use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{wire::tests::trace, *};
use crate::{
    FenceState, Gateway, RunGrant, RunListeners,
    testing::{Nowhere, manifest},
};

struct Plane {
    gateway: Gateway,
    run: RunId,
    model: std::net::SocketAddr,
    dir: tempfile::TempDir,
}

fn plane(accepts: bool) -> Plane {
    let dir = tempfile::tempdir().unwrap();
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    let gateway = Gateway::new(Arc::new(Nowhere), Arc::new(Budgets::new()), Arc::new(SystemClock));
    let mut grant = RunGrant::new(run, &manifest(), Digest::from_bytes([7; 32]), None, vec![Scope::run(run)]);
    if accepts {
        grant = grant.with_telemetry(dir.path().join(FILE));
    }
    let listener = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().into();
    let listeners = RunListeners { model: listener(), mcp: listener(), proxy: listener() };
    let model = listeners.model.local_addr().unwrap();
    gateway.open_run(grant, listeners).unwrap();
    gateway.fence_plane(FenceState::Open);
    gateway.fence(run, FenceState::Open);
    Plane { gateway, run, model, dir }
}

impl Plane {
    /// Status, head and body of an answer.
    async fn send(&self, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.model).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        // One that is refused early may not be read to its end.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, head, answer.get(end + 4..).unwrap_or_default().to_vec())
    }

    fn kept(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(lines(&self.dir.path().join(FILE)).unwrap()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
const JSON: &str = "content-type: application/json; charset=utf-8\r\n";

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn exports_are_kept_with_the_run_s_name_whatever_the_agent_says_it_is() {
    let plane = plane(true);
    let forged = trace(&[("cogward.run.id", "someone-else"), ("service.name", "mine")]);
    assert_eq!(plane.send("/otlp/v1/traces", PROTOBUF, &forged).await.0, 200);
    let gzip = format!("{PROTOBUF}content-encoding: gzip\r\n");
    assert_eq!(plane.send("/otlp/v1/traces", &gzip, &packed(&forged)).await.0, 200);
    let (status, head, body) =
        plane.send("/otlp/v1/logs", JSON, br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{}]}]}]}"#).await;
    assert_eq!((status, &body[..]), (200, &b"{}"[..]), "{head}");
    let kept = plane.kept();
    assert_eq!(
        kept.iter().map(|line| line["signal"].as_str().unwrap()).collect::<Vec<_>>(),
        ["traces", "traces", "logs"]
    );
    for line in &kept[..2] {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(line["otlp_protobuf"].as_str().unwrap()).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("someone-else") && text.contains(&plane.run.to_string()) && text.contains("mine"));
    }
    let said = kept[2]["otlp_json"].to_string();
    assert!(said.contains(&plane.run.to_string()) && said.contains("cogward.tenant"), "{said}");
    let count = plane.gateway.telemetry(plane.run).unwrap();
    assert_eq!(count, TelemetryCount { exports: 3, items: 4, dropped: 0 });
}

#[tokio::test]
async fn what_is_no_export_leaves_nothing() {
    let plane = plane(true);
    let good = trace(&[]);
    let gzip = format!("{PROTOBUF}content-encoding: gzip\r\n");
    let bomb = packed(&vec![0; 64 * 1024 * 1024]);
    assert!(bomb.len() < TELEMETRY_REQUEST_BYTES_MAX);
    let large = vec![0; TELEMETRY_REQUEST_BYTES_MAX + 1];
    for (what, path, headers, body, wanted) in [
        ("a path", "/otlp/v1/profiles", PROTOBUF, &good[..], 404),
        ("a path above", "/otlp/v1/../traces", PROTOBUF, &good, 404),
        ("no type", "/otlp/v1/traces", "", &good, 415),
        ("text", "/otlp/v1/traces", "content-type: text/plain\r\n", &good, 415),
        (
            "another packing",
            "/otlp/v1/traces",
            "content-type: application/json\r\ncontent-encoding: zstd\r\n",
            &good,
            415,
        ),
        ("not gzip", "/otlp/v1/traces", &gzip, &good, 400),
        ("a torn gzip", "/otlp/v1/traces", &gzip, &packed(&good)[..20], 400),
        ("a bomb", "/otlp/v1/traces", &gzip, &bomb, 413),
        ("too long", "/otlp/v1/traces", PROTOBUF, &large, 413),
        ("another signal", "/otlp/v1/logs", PROTOBUF, &good, 400),
        ("not protobuf", "/otlp/v1/traces", PROTOBUF, b"{}", 400),
        ("not JSON", "/otlp/v1/traces", JSON, &good, 400),
    ] {
        let (status, head, _) = plane.send(path, headers, body).await;
        assert_eq!(status, wanted, "{what}: {head}");
    }
    assert!(plane.kept().is_empty());
    assert_eq!(plane.gateway.telemetry(plane.run), Some(TelemetryCount::default()));
}

#[tokio::test]
async fn a_run_that_accepts_none_has_nothing_there() {
    let plane = plane(false);
    assert_eq!(plane.send("/otlp/v1/traces", PROTOBUF, &trace(&[])).await.0, 404);
    assert_eq!(plane.gateway.telemetry(plane.run), None);
    assert!(!plane.dir.path().join(FILE).exists());
}

#[tokio::test]
async fn a_flood_is_slowed_down_and_the_room_has_an_end() {
    let plane = plane(true);
    let mut statuses = Vec::new();
    for _ in 0..TELEMETRY_BURST + 40 {
        let (status, head, _) = plane.send("/otlp/v1/traces", PROTOBUF, &trace(&[])).await;
        assert_eq!(status == 429, head.contains("retry-after: "), "{head}");
        statuses.push(status);
    }
    assert!(statuses.iter().take(TELEMETRY_BURST as usize).all(|status| *status == 200));
    assert!(statuses.contains(&429));

    let full = self::plane(true);
    let big = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":""#;
    let big = [&big[..], &vec![b'x'; 900_000], br#""}}]}]}]}"#].concat();
    let mut partial = 0;
    for _ in 0..24 {
        let (status, _, body) = full.send("/otlp/v1/logs", JSON, &big).await;
        assert_eq!(status, 200);
        partial += u64::from(String::from_utf8_lossy(&body).contains(r#""rejectedLogRecords":"1""#));
    }
    let count = full.gateway.telemetry(full.run).unwrap();
    assert_eq!((count.items + count.dropped, count.dropped), (24, partial));
    assert!(
        partial > 0 && std::fs::metadata(full.dir.path().join(FILE)).unwrap().len() <= RUN_TELEMETRY_BYTES_MAX as u64
    );
}
