//! A real plane in this process, on a free port: what the API refuses, and how.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

mod plane;

use cogward_api::{IDEMPOTENCY_KEY, ROUTES, routes::RequestBody};
use plane::{Answer, Plane};
use serde_json::{Value, json};

/// A path of the table with names that could be there.
fn example(path: &str) -> String {
    path.replace("{tenant}", "default")
        .replace("{agent}", "nobody")
        .replace("{version}", "1.0.0")
        .replace("{tool_server}", "files")
        .replace("{tool}", "read_text_file")
        .replace("{provider}", "openai")
        .replace("{credential}", "github")
        .replace("{issuer}", "corp")
        .replace("{tier}", "staging")
        .replace("{operator}", "opr_01K00000000000000000000000")
        .replace("{run}", "run_01K00000000000000000000000")
        .replace("{operation}", "op_01K00000000000000000000000")
        .replace("{policy_level}", "tenant:default")
        .replace("{policy_version}", &format!("sha256:{}", "0".repeat(64)))
        .replace("{approval}", "apr_01K00000000000000000000000")
        .replace("{redaction}", "red_01K00000000000000000000000")
        .replace("{hold}", "hld_01K00000000000000000000000")
        .replace("{input}", "claims.csv")
        .replace("{artifact}", "report.pdf")
        .replace("{*file}", "checkpoint")
}

fn is_problem(answer: &Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status);
    assert!(problem["instance"].as_str().is_some_and(|i| i.starts_with('/')), "{problem}");
    problem
}

#[tokio::test]
async fn nobody_gets_past_a_protected_route_without_a_credential() {
    let plane = Plane::start().await;
    let mut protected = 0;
    for route in ROUTES {
        let path = example(route.path);
        for credential in [
            None,
            Some("cwo_nonsense"),
            Some("cwo_01K00000000000000000000000_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ] {
            let answer = plane.send(route.method.as_str(), &path, credential, &[], b"").await;
            if route.authenticated {
                is_problem(&answer, 401, "unauthenticated");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
                protected += 1;
            } else {
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            }
        }
    }
    assert!(protected > 60);
}

#[tokio::test]
async fn every_route_answers_an_operator_with_what_the_table_says() {
    let plane = Plane::start().await;
    for route in ROUTES {
        if route.operation_id == "watch_events" {
            continue;
        }
        let answer = plane.ask(route.method.as_str(), &example(route.path), &[], b"").await;
        let may: Vec<u16> =
            route.problems().iter().map(|code| code.status()).chain(route.success.iter().copied()).collect();
        assert!(may.contains(&answer.status), "{}: {} {}", route.operation_id, answer.status, answer.text());
        assert!(answer.status < 500, "{}: {}", route.operation_id, answer.text());
    }
}

#[tokio::test]
async fn malformed_bodies_are_refused_alike_everywhere() {
    let plane = Plane::start().await;
    let json_type = ("content-type", "application/json");
    for route in ROUTES.iter().filter(|r| matches!(r.request, RequestBody::Json(_))) {
        let path = example(route.path);
        let method = route.method.as_str();
        for body in [&b"{"[..], b"[]", b"\"x\"", b"{\"surprise\": 1}", b"\xff\xfe", b"{\"reason\": 7}"] {
            let answer = plane.ask(method, &path, &[json_type], body).await;
            is_problem(&answer, 400, "invalid_request");
        }
        let answer = plane.ask(method, &path, &[("content-type", "text/plain")], b"{}").await;
        is_problem(&answer, 415, "unsupported_media_type");
        let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(9 << 20));
        let answer = plane.ask(method, &path, &[json_type], large.as_bytes()).await;
        is_problem(&answer, 413, "payload_too_large");
    }
}

/// Clients that read an answer only when they have sent everything.
#[tokio::test]
async fn a_client_that_sends_to_the_end_is_told_that_it_was_too_much() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let plane = Plane::start().await;
    for (credential, wanted) in [(plane.credential(), 413), ("cwo_nonsense".to_owned(), 401)] {
        let mut stream = tokio::net::TcpStream::connect(plane.address()).await.unwrap();
        let body = vec![b'x'; 40 << 20];
        let head = format!(
            "POST /api/v1/runs HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {credential}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            plane.address(),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{answer}");
    }
}

#[tokio::test]
async fn unknown_paths_methods_names_and_queries_are_problems() {
    let plane = Plane::start().await;
    is_problem(&plane.ask("GET", "/api/v1/nothing", &[], b"").await, 404, "route_not_found");
    is_problem(&plane.ask("GET", "/", &[], b"").await, 404, "route_not_found");
    let answer = plane.ask("DELETE", "/api/v1/runs", &[], b"").await;
    is_problem(&answer, 405, "method_not_allowed");
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")));
    for path in [
        "/api/v1/runs/nonsense",
        "/api/v1/tenants/NOT-A-NAME/agents",
        "/api/v1/tenants/%00/agents",
        "/api/v1/runs?limit=many",
        "/api/v1/runs?surprise=1",
        "/api/v1/runs?state=flying",
        "/api/v1/events?cursor=nonsense",
    ] {
        is_problem(&plane.ask("GET", path, &[], b"").await, 400, "invalid_request");
    }
    is_problem(&plane.ask("GET", "/api/v1/tenants/nowhere/agents", &[], b"").await, 404, "not_found");
    is_problem(&plane.ask("GET", &example("/api/v1/runs/{run}"), &[], b"").await, 404, "not_found");
}

#[tokio::test]
async fn a_page_of_another_site_cannot_command_the_plane() {
    let plane = Plane::start().await;
    let credential = plane.credential();
    for headers in [
        &[("host", "evil.example")][..],
        &[("host", "evil.example:80")],
        &[("host", "127.0.0.1:1")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
    ] {
        let answer = plane.send("GET", "/api/v1/plane", Some(&credential), headers, b"").await;
        is_problem(&answer, 403, "forbidden");
    }
    let own = format!("http://{}", plane.address());
    assert_eq!(plane.ask("GET", "/api/v1/plane", &[("origin", &own)], b"").await.status, 200);
}

#[tokio::test]
async fn a_command_that_is_sent_twice_takes_effect_once() {
    let plane = Plane::start().await;
    let headers = [("content-type", "application/json"), (IDEMPOTENCY_KEY, "k-1")];
    let first = plane.ask("POST", "/api/v1/tenants", &headers, b"{\"name\":\"acme\"}").await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = plane.ask("POST", "/api/v1/tenants", &headers, b"{\"name\":\"acme\"}").await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    let other = plane.ask("POST", "/api/v1/tenants", &headers, b"{\"name\":\"other\"}").await;
    is_problem(&other, 409, "idempotency_conflict");
    let without = plane.ask("POST", "/api/v1/tenants", &headers[..1], b"{\"name\":\"acme\"}").await;
    is_problem(&without, 409, "already_exists");
    for key in ["", "with space", &"k".repeat(200)] {
        let headers = [("content-type", "application/json"), (IDEMPOTENCY_KEY, key)];
        let answer = plane.ask("POST", "/api/v1/tenants", &headers, b"{\"name\":\"x\"}").await;
        is_problem(&answer, 400, "invalid_request");
    }
}

#[tokio::test]
async fn a_lifecycle_command_needs_a_reason() {
    let plane = Plane::start().await;
    let path = example("/api/v1/runs/{run}/kill");
    for (headers, body) in [
        (&[][..], &b""[..]),
        (&[("content-type", "application/json")], b"{}"),
        (&[("content-type", "application/json")], b"{\"reason\": \"  \"}"),
    ] {
        is_problem(&plane.ask("POST", &path, headers, body).await, 400, "reason_required");
    }
    let body = json!({ "reason": "a test" }).to_string();
    let answer = plane.ask("POST", &path, &[("content-type", "application/json")], body.as_bytes()).await;
    is_problem(&answer, 404, "not_found");
    let answer = plane.ask("DELETE", "/api/v1/tenants/default/tool-servers/files", &[], b"").await;
    is_problem(&answer, 400, "reason_required");
}

#[tokio::test]
async fn what_is_not_registered_does_not_run_and_the_refusal_is_evidence() {
    let plane = Plane::start().await;
    let body = json!({ "tenant": "default", "agent": "nobody" }).to_string();
    let answer = plane.ask("POST", "/api/v1/runs", &[("content-type", "application/json")], body.as_bytes()).await;
    let problem = is_problem(&answer, 404, "not_found");
    assert_eq!(problem["rule"], "registry.registered");
    let pack = plane.ask("GET", "/api/v1/tenants/default/evidence/export", &[], b"").await;
    assert_eq!(pack.status, 200);
    assert!(pack.body.windows(11).any(|w| w == b"run.refused"));
}

#[tokio::test]
async fn a_provider_keeps_its_key_to_itself() {
    let plane = Plane::start().await;
    let json_type = ("content-type", "application/json");
    let path = "/api/v1/tenants/default/providers/openai";
    let body = json!({
        "shape": { "kind": "open_ai", "base_url": "https://api.openai.example/v1" },
        "prices": { "m": { "input_per_million": "1.00", "output_per_million": "2.00" } },
        "credential": "sk-very-secret",
    });
    let made = plane.ask("PUT", path, &[json_type], body.to_string().as_bytes()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["has_credential"], true);
    let tag = made.header("etag").unwrap().to_owned();
    let read = plane.ask("GET", path, &[], b"").await;
    assert!(!read.text().contains("sk-very-secret") && !made.text().contains("sk-very-secret"));
    // On disk it is sealed, in the ledger it is not at all.
    for file in ["state.db", "state.db-wal", "journal.db", "journal.db-wal"] {
        let bytes = std::fs::read(plane.data_dir().join(file)).unwrap_or_default();
        assert!(!bytes.windows(14).any(|w| w == b"sk-very-secret"), "{file}");
    }
    let stale = plane.ask("PUT", path, &[json_type, ("if-match", "\"7\"")], body.to_string().as_bytes()).await;
    is_problem(&stale, 412, "precondition_failed");
    let fresh = plane.ask("PUT", path, &[json_type, ("if-match", &tag)], body.to_string().as_bytes()).await;
    assert_eq!(fresh.status, 200);
}

#[tokio::test]
async fn a_tool_server_that_cannot_be_reached_or_used_is_not_added() {
    let plane = Plane::start().await;
    let path = "/api/v1/tenants/default/tool-servers/files";
    let put = async |transport: Value| {
        let body = json!({ "transport": transport }).to_string();
        plane.ask("PUT", path, &[("content-type", "application/json")], body.as_bytes()).await
    };
    let relative = put(json!({ "kind": "stdio", "command": "node" })).await;
    is_problem(&relative, 400, "invalid_request");
    let gone = put(json!({ "kind": "stdio", "command": "/bin/false", "sandbox": "none" })).await;
    is_problem(&gone, 502, "upstream_unavailable");
    let plain = put(json!({ "kind": "http", "url": "http://tools.example/mcp" })).await;
    is_problem(&plain, 400, "invalid_request");
    is_problem(&plane.ask("GET", path, &[], b"").await, 404, "not_found");
}

#[tokio::test]
async fn a_stream_that_is_no_package_is_refused() {
    let plane = Plane::start().await;
    let path = "/api/v1/tenants/default/agents";
    let tar = ("content-type", cogward_api::TAR);
    is_problem(&plane.ask("POST", path, &[tar], b"not a tar stream at all").await, 422, "package_invalid");
    is_problem(
        &plane.ask("POST", path, &[("content-type", "application/json")], b"{}").await,
        415,
        "unsupported_media_type",
    );
    let left: Vec<_> = std::fs::read_dir(plane.data_dir().join("packages")).unwrap().collect();
    assert!(left.is_empty());
}

#[tokio::test]
async fn the_description_and_the_probes_are_open_and_say_little() {
    let plane = Plane::start().await;
    let description = plane.send("GET", "/openapi.json", None, &[], b"").await;
    assert_eq!(description.json()["openapi"], "3.1.0");
    assert_eq!(plane.send("GET", "/readyz", None, &[], b"").await.json(), json!({ "ready": true }));
    assert_eq!(plane.send("GET", "/healthz", None, &[], b"").await.text(), "ok\n");
}

#[tokio::test]
async fn a_plane_comes_back_with_what_it_knew() {
    let plane = Plane::start().await;
    let credential = plane.credential();
    let headers = [("content-type", "application/json")];
    assert_eq!(plane.ask("POST", "/api/v1/tenants", &headers, b"{\"name\":\"acme\"}").await.status, 201);
    let plane = plane.restart().await;
    let answer = plane.send("GET", "/api/v1/tenants", Some(&credential), &[], b"").await;
    let names: Vec<_> = answer.json()["items"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["acme", "default"]);
    let who = plane.send("GET", "/api/v1/whoami", Some(&credential), &[], b"").await;
    assert_eq!(who.json()["name"], "operator");
}

#[tokio::test]
async fn lists_go_on_where_they_ended() {
    let plane = Plane::start().await;
    let headers = [("content-type", "application/json")];
    for n in 0..5 {
        let body = json!({ "name": format!("t{n}") }).to_string();
        assert_eq!(plane.ask("POST", "/api/v1/tenants", &headers, body.as_bytes()).await.status, 201);
    }
    let (mut seen, mut path) = (Vec::new(), "/api/v1/tenants?limit=2".to_owned());
    loop {
        let page = plane.ask("GET", &path, &[], b"").await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/tenants?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["default", "t0", "t1", "t2", "t3", "t4"]);
}

#[tokio::test]
async fn an_event_stream_resumes_without_a_gap() {
    let plane = Plane::start().await;
    let headers = [("content-type", "application/json")];
    let mut stream = plane.watch("/api/v1/events", &[]).await;
    for n in 0..6 {
        let body = json!({ "name": format!("t{n}") }).to_string();
        assert_eq!(plane.ask("POST", "/api/v1/tenants", &headers, body.as_bytes()).await.status, 201);
    }
    let first: Vec<Value> = stream.events(3).await;
    drop(stream);
    let cursor = first[2]["cursor"].as_str().unwrap().to_owned();
    let mut stream = plane.watch("/api/v1/events", &[(cogward_api::LAST_EVENT_ID, &cursor)]).await;
    let rest = stream.events(3).await;
    let tenants: Vec<_> = first.iter().chain(&rest).map(|e| e["tenant"].as_str().unwrap()).collect();
    assert_eq!(tenants, ["t0", "t1", "t2", "t3", "t4", "t5"]);
    assert!(first.iter().all(|e| e["type"] == "tenant.created"));
    // A stream ends when the plane does, and its cursor is good for the next one.
    let plane = plane.restart().await;
    let cursor = rest[0]["cursor"].as_str().unwrap();
    let mut stream = plane.watch(&format!("/api/v1/events?cursor={cursor}&tenant=t5"), &[]).await;
    assert_eq!(stream.events(1).await[0]["tenant"], "t5");
    let expired = plane.ask("GET", "/api/v1/events?cursor=c1ffffffff00000000000000ff", &[], b"").await;
    is_problem(&expired, 410, "cursor_expired");
}
