//! Permitted, refused, failed and broken-off calls, and what is recorded of each.

use super::*;

fn decision(ledger: &Ledger) -> Event {
    ledger.of(EventType::ToolCallDecided).pop().unwrap()
}

#[tokio::test]
async fn a_permitted_call_carries_its_bytes_and_leaves_two_records() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let arguments = "{ \"path\" :\n\"a\\u0041\", \"extra\": 1.50 }";
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"x-1","method":"tools/call","params":{{"name":"read_text_file","arguments":{arguments}}}}}"#
    );
    let reply = agent.post(body).await;
    assert_eq!(reply.json()["id"], "x-1");
    assert_eq!(reply.said(), (false, "read_text_file of aA".into()));
    assert_eq!(reply.json()["result"]["x"], 1, "what the plane does not know is kept");
    let decided = decision(&plane.ledger);
    assert_eq!(field(&decided, "decision"), Some("permit".into()));
    assert_eq!(field(&decided, "args"), Some(arguments.into()));
    assert!(matches!(field(&decided, "definition"), Some(Recorded::Text(text)) if text.starts_with("sha256:")));
    let outcome = plane.ledger.outcome().await;
    assert_eq!(field(&outcome, "outcome"), Some("ok".into()));
    assert!(field(&outcome, "result").is_some() && field(&outcome, "result_text").is_none());
}

#[tokio::test]
async fn arguments_that_are_not_to_be_kept_are_recorded_as_a_digest() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut manifest = crate::testing::manifest();
    (manifest.spec.evidence.keep_arguments, manifest.spec.evidence.keep_results) = (false, true);
    let mut agent = plane.run_of(&manifest, 5);
    agent.greet().await.read("a").await;
    assert!(
        matches!(field(&decision(&plane.ledger), "args"), Some(Recorded::Text(text)) if text.starts_with("sha256:"))
    );
    assert!(field(&plane.ledger.outcome().await, "result_text").is_some());
}

#[tokio::test]
async fn what_is_not_declared_is_refused_alike_whether_it_exists_or_not() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let mut texts = Vec::new();
    for name in ["write_file", "no_such_tool", "write_file\u{200b}", "", "../x"] {
        let (failed, text) = agent.call(name, json!({"path": "x"})).await.said();
        assert!(failed && text.contains("not_declared; rule permissions.tools"), "{text}");
        texts.push(text.replace(name, "NAME"));
    }
    assert_eq!(texts[0], texts[1]);
    let decided = plane.ledger.of(EventType::ToolCallDecided);
    assert_eq!(decided.len(), 5);
    assert!(decided.iter().all(|event| field(event, "decision") == Some("block".into())));
    assert_eq!(field(&decided[0], "tool"), Some("files/write_file".into()));
    assert_eq!(plane.budgets.balance(&Scope::run(agent.run)).used.tool_calls, 0);
}

#[tokio::test]
async fn arguments_that_break_the_schema_never_reach_the_server() {
    let (server, server_side) = fake::http("files").await;
    let plane = Plane::new(vec![server]);
    let mut agent = plane.run(5);
    agent.greet().await;
    for (arguments, at) in [
        (json!({}), "``"),
        (json!({"path": 7}), "`/path`"),
        (json!({"path": "x", "depth": -1}), "`/depth`"),
        (json!(["x"]), "`arguments`"),
        (json!("x"), "`arguments`"),
    ] {
        let (failed, text) = agent.call("read_text_file", arguments).await.said();
        assert!(failed && text.contains("invalid_request") && text.contains(at), "{text}");
    }
    assert_eq!(server_side.calls.load(Ordering::SeqCst), 0);
    assert_eq!(field(&decision(&plane.ledger), "code"), Some("invalid_request".into()));
    assert_eq!(plane.budgets.balance(&Scope::run(agent.run)).used.tool_calls, 0);
}

#[tokio::test]
async fn an_exhausted_budget_is_said_in_a_result() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(1);
    agent.greet().await;
    assert!(!agent.read("a").await.said().0);
    let (failed, text) = agent.read("a").await.said();
    assert!(failed && text.contains("budget_exceeded; rule budgets.run.toolCalls"), "{text}");
}

#[tokio::test]
async fn without_evidence_nothing_is_called_or_shown() {
    let (server, server_side) = fake::http("files").await;
    let plane = Plane::new(vec![server]);
    let mut agent = plane.run(5);
    agent.greet().await;
    plane.ledger.broken.store(true, Ordering::Release);
    assert_eq!(agent.ask("tools/list", json!({})).await.code(), -32603);
    let (failed, text) = agent.read("a").await.said();
    assert!(failed && text.contains("evidence_unavailable"), "{text}");
    assert_eq!(server_side.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_tool_that_fails_is_an_answer_and_counts() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    assert_eq!(agent.read("failed").await.said(), (true, "it failed".into()));
    assert_eq!(field(&plane.ledger.outcome().await, "outcome"), Some("error".into()));
    let (failed, text) = agent.read("rpc-error").await.said();
    assert!(failed && text.contains("-32602") && text.contains("no such file") && !text.contains('\u{7}'), "{text}");
    assert_eq!(plane.budgets.balance(&Scope::run(agent.run)).used.tool_calls, 2);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let (http, _) = fake::http("files").await;
    for server in [fake::stdio("files"), http] {
        let plane = Plane::new(vec![server]);
        let mut agent = plane.run(5);
        agent.greet().await;
        let (failed, text) = agent.read("hang").await.said();
        assert!(failed && text.contains("did not answer within 1.5 s"), "{text}");
        let outcome = plane.ledger.outcome().await;
        assert_eq!(field(&outcome, "outcome"), Some("unknown".into()));
        assert_eq!(plane.budgets.balance(&Scope::run(agent.run)).used.tool_calls, 1, "its effect may have happened");
        assert_eq!(agent.read("b").await.said(), (false, "read_text_file of b".into()), "the next call works");
    }
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_is_noticed_at_once_and_started_again() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(9);
    agent.greet().await;
    for how in ["die", "half-a-line", "garbage-without-end"] {
        let (failed, text) = agent.read(how).await.said();
        assert!(failed && text.contains("upstream_unavailable") && text.contains("may have had its effect"), "{text}");
        assert!(!text.contains("did not answer within"), "{text}");
        let answered = loop {
            let (failed, text) = agent.read("after").await.said();
            match failed && text.contains("is tried again in") {
                true => tokio::time::sleep(Duration::from_millis(20)).await,
                false => break (failed, text),
            }
        };
        assert_eq!(answered, (false, "read_text_file of after".into()));
    }
}

#[tokio::test]
async fn garbage_between_messages_is_skipped_and_wrong_messages_refused() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(9);
    agent.greet().await;
    assert_eq!(agent.read("garbage").await.said(), (false, "read_text_file of garbage".into()));
    assert!(
        agent.read("twice").await.said().1.contains("cannot be read"),
        "a double key is no answer, and not waited for"
    );
    assert!(agent.read("not-a-result").await.said().1.contains("not a result"));
    assert_eq!(agent.read("asks-back").await.said(), (false, r#""s1" -32601 {}"#.into()));
}

#[tokio::test]
async fn a_stdio_server_gets_no_environment_of_the_plane() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    assert_eq!(agent.greet().await.read("environment").await.said().1, "COGWARD_FAKE LANG PATH");
}

#[tokio::test]
async fn a_cut_breaks_off_what_is_in_flight_and_charges_it() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let (gateway, run) = (plane.gateway.clone(), agent.run);
    let cut = async {
        while gateway.in_flight(run) == 0 {
            tokio::task::yield_now().await;
        }
        gateway.cut(run)
    };
    let request = Request::post(format!("http://{}/mcp", agent.address))
        .header("content-type", "application/json")
        .header("mcp-session-id", agent.session.clone().unwrap())
        .body(Full::from(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":"hang"}}}"#))
        .unwrap();
    let (report, reply) = tokio::join!(cut, agent.http.request(request));
    assert_eq!(report.calls, 1);
    assert!(reply.is_err(), "the connection is gone");
    let outcome = plane.ledger.outcome().await;
    assert_eq!(field(&outcome, "cause"), Some("the run was cut".into()));
    assert_eq!(plane.budgets.balance(&Scope::run(run)).used.tool_calls, 1);
}

#[tokio::test]
async fn an_agent_that_goes_away_does_not_take_the_outcome_with_it() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let (gateway, run) = (plane.gateway.clone(), agent.run);
    let gone = async {
        while gateway.in_flight(run) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = gone => {}
        _ = agent.read("left-alone") => {}
    }
    drop(agent);
    assert_eq!(field(&plane.ledger.outcome().await, "outcome"), Some("ok".into()));
}

#[tokio::test]
async fn a_stopped_run_neither_lists_nor_calls() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    plane.gateway.fence_plane(FenceState::Closed);
    assert!(
        agent.ask("tools/list", json!({})).await.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("lifecycle_fence")
    );
    for tool in ["read_text_file", "write_file"] {
        let (failed, text) = agent.call(tool, json!({"path": "x"})).await.said();
        assert!(failed && text.contains("lifecycle_fence; rule lifecycle.plane"), "{text}");
    }
}

#[tokio::test]
async fn http_servers_answer_in_json_or_a_stream_and_may_forget_their_session() {
    let (server, server_side) = fake::http("files").await;
    let plane = Plane::new(vec![server]);
    let mut agent = plane.run(9);
    agent.greet().await;
    assert_eq!(agent.read("a").await.said(), (false, "read_text_file of a".into()));
    server_side.stream.store(true, Ordering::SeqCst);
    assert_eq!(agent.read("b").await.said(), (false, "read_text_file of b".into()));
    server_side.forget.store(true, Ordering::SeqCst);
    assert_eq!(agent.read("c").await.said(), (false, "read_text_file of c".into()));
    assert_eq!((server_side.greeted.load(Ordering::SeqCst), server_side.calls.load(Ordering::SeqCst)), (2, 3));
    for (path, cause) in [
        ("redirect", "redirects"),
        ("html", "neither JSON nor"),
        ("half-a-stream", "broke off"),
        ("too-long", "longer than"),
    ] {
        let (failed, text) = agent.read(path).await.said();
        assert!(failed && text.contains(cause), "{text}");
    }
    let seen = server_side.seen.lock().unwrap();
    let in_session = |headers: &&HeaderMap| headers.contains_key("mcp-session-id");
    assert!(seen.iter().filter(in_session).all(|headers| headers["mcp-protocol-version"] == "2025-11-25"));
    assert!(seen.iter().all(|headers| headers["host"].to_str().unwrap().starts_with("127.0.0.1:")));
}

#[tokio::test]
async fn a_server_gets_the_credential_of_the_plane_and_nothing_of_the_agent() {
    let (server, server_side) = fake::http("files").await;
    let plane = Plane::with_credential(vec![server], Some("s3cret"));
    let mut agent = plane.run(5);
    agent.greet().await;
    let session = agent.session.clone().unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("mcp-session-id", session.as_str()),
        ("authorization", "Bearer of-the-agent"),
        ("cookie", "of-the-agent"),
        ("x-forwarded-for", "of-the-agent"),
    ];
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read_text_file", "arguments": {"path": "a"}}});
    let reply = agent.send("POST", &headers, body.to_string()).await;
    assert!(!reply.said().0);
    let seen = server_side.seen.lock().unwrap();
    assert!(seen.iter().all(|headers| headers["authorization"] == "Bearer s3cret" && headers.len() <= 8));
    assert!(!format!("{seen:?}").contains("of-the-agent") && !format!("{seen:?}").contains(&session));
    assert!(!format!("{:?}", plane.ledger.events.lock().unwrap()).contains("s3cret"));
}

#[tokio::test]
async fn a_suspended_run_waits_with_its_call_and_goes_on() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    plane.gateway.fence(agent.run, FenceState::Held);
    let (gateway, run) = (plane.gateway.clone(), agent.run);
    let call = agent.read("a");
    tokio::pin!(call);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut call).await;
    assert!(early.is_err() && plane.ledger.of(EventType::ToolCallDecided).is_empty());
    gateway.fence(run, FenceState::Open);
    assert_eq!(call.await.said(), (false, "read_text_file of a".into()));
}

#[tokio::test]
async fn many_calls_at_once_share_one_server_and_each_gets_its_own_answer() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(200);
    agent.greet().await;
    let paths: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let replies = futures_util::future::join_all(paths.iter().map(|path| agent.read(path))).await;
    for (path, reply) in paths.iter().zip(replies) {
        assert_eq!(reply.said(), (false, format!("read_text_file of {path}")));
    }
    let recorded = plane.ledger.of(EventType::ToolCallDecided).len();
    assert_eq!((recorded, plane.ledger.of(EventType::ToolCallCompleted).len()), (100, 100));
    assert_eq!(plane.budgets.balance(&Scope::run(agent.run)).used.tool_calls, 100);
}
