//! Streams that break off, are called off, never end, or are not read.

use std::sync::atomic::Ordering;

use super::{
    matrix::{manifest, plane},
    *,
};

const CAN: &str = r#"{"elicitation":{},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

#[tokio::test]
async fn an_answer_that_was_cut_off_can_be_had_again_in_its_own_session_only() {
    let (plane, _desk) = plane(false).await;
    let mut agent = plane.run_of(&manifest(true), 20);
    agent.greet_with(CAN).await;
    let own = agent.session.clone().unwrap();
    let mut stream = agent.stream(5, "tools/call", json!({"name": "ask_user", "arguments": {}})).await;
    let asked = stream.next().await.unwrap();
    let last = stream.2.clone().unwrap();
    drop(stream);
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}).to_string();
    assert_eq!(agent.post(answer).await.status, StatusCode::ACCEPTED);
    plane.ledger.outcome().await;
    // Another session of the same run has nothing of it.
    agent.greet_with(CAN).await;
    let other = agent.session.clone().unwrap();
    let get = |session: &str| {
        let (session, last) = (session.to_owned(), last.clone());
        let agent = &agent;
        async move {
            let headers = [
                ("accept", "text/event-stream"),
                ("mcp-session-id", session.as_str()),
                ("last-event-id", last.as_str()),
            ];
            agent.open("GET", &headers, String::new()).await
        }
    };
    let (status, mut foreign) = get(&other).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), foreign.next()).await.is_err(),
        "an empty stream of its own"
    );
    let (_, mut again) = get(&own).await;
    let result = again.next().await.unwrap();
    assert!(
        result["id"] == 5 && result["result"]["content"][0]["text"].as_str().unwrap().contains("decline"),
        "{result}"
    );
    // Nor has another run.
    let stranger = plane.run_of(&manifest(true), 20);
    let headers = [("accept", "text/event-stream"), ("mcp-session-id", own.as_str()), ("last-event-id", last.as_str())];
    assert_eq!(stranger.open("GET", &headers, String::new()).await.0, StatusCode::NOT_FOUND);
    let forged = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}).to_string();
    let headers = [("content-type", "application/json"), ("mcp-session-id", own.as_str())];
    assert_eq!(stranger.send("POST", &headers, forged).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_call_is_called_off_at_its_server_in_the_way_of_either_era() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        // In a session the client says so.
        agent.greet_with(CAN).await;
        let mut stream = agent.stream(8, "tools/call", json!({"name": "hang", "arguments": {}})).await;
        let off =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 8}}).to_string();
        assert_eq!(agent.post(off).await.status, StatusCode::ACCEPTED);
        assert!(stream.next().await.unwrap()["result"]["isError"] == true);
        tokio::time::timeout(Duration::from_secs(5), desk.left.notified()).await.unwrap();
        assert_eq!(field(&plane.ledger.outcome().await, "outcome"), Some("unknown".into()), "modern {modern}");
        // A stateless one leaves.
        let before = plane.ledger.of(EventType::ToolCallCompleted).len();
        let call = agent.modern("tools/call", json!({"name": "hang", "arguments": {}}), CAN);
        assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
        tokio::time::timeout(Duration::from_secs(5), desk.left.notified()).await.unwrap();
        while plane.ledger.of(EventType::ToolCallCompleted).len() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_asks_without_end_is_stopped() {
    let (plane, _desk) = plane(false).await;
    let mut agent = plane.run_of(&manifest(true), 20);
    agent.greet_with(CAN).await;
    let mut stream = agent.stream(1, "tools/call", json!({"name": "ask_endlessly", "arguments": {}})).await;
    let mut asked = 0;
    let end = loop {
        let message = stream.next().await.unwrap();
        if message.get("method").is_none() {
            break message;
        }
        asked += 1;
        assert!(asked <= 64);
        let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"action": "decline"}}).to_string();
        agent.post(answer).await;
    };
    assert!(end["result"]["isError"] == true && end.to_string().contains("without end"), "{end}");
    let (plane, desk) = super::matrix::plane(true).await;
    let mut agent = plane.run_of(&manifest(true), 20);
    agent.greet_with(CAN).await;
    let mut stream = agent.stream(1, "tools/call", json!({"name": "ask_endlessly", "arguments": {}})).await;
    let end = loop {
        let message = stream.next().await.unwrap();
        if message.get("method").is_none() {
            break message;
        }
        agent.post(json!({"jsonrpc": "2.0", "id": message["id"], "result": {"roots": []}}).to_string()).await;
    };
    assert!(end["result"]["isError"] == true && desk.calls.load(Ordering::SeqCst) <= 16, "{end}");
}

#[tokio::test]
async fn a_flood_of_log_messages_ends_the_call_and_not_the_plane() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        agent.greet_with(CAN).await;
        let mut stream = agent.stream(1, "tools/call", json!({"name": "flood", "arguments": {}})).await;
        let end = loop {
            let message = stream.next().await.unwrap();
            if message.get("method").is_none() {
                break message;
            }
        };
        assert!(end["result"]["isError"] == true, "modern {modern}: {end}");
        assert_eq!(agent.ask("ping", json!({})).await.json()["result"], json!({}));
    }
}

#[tokio::test]
async fn streams_of_a_run_are_bounded_and_a_cut_ends_them_all() {
    let (plane, _desk) = plane(false).await;
    let agent = plane.run_of(&manifest(true), 20);
    let listen = || async {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {"_meta": meta}}).to_string();
        let headers = [
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "subscriptions/listen"),
        ];
        agent.open("POST", &headers, body).await
    };
    let mut open = Vec::new();
    for _ in 0..64 {
        let (status, mut stream) = listen().await;
        assert_eq!(status, StatusCode::OK);
        stream.next().await.unwrap();
        open.push(stream);
    }
    assert_eq!(listen().await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(open.pop());
    while listen().await.0 != StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    plane.gateway.cut(agent.run);
    for mut stream in open {
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn changes_are_told_to_those_who_may_know_in_either_era() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
        let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["desk://a", "desk://secret"]});
        let body = json!({"jsonrpc": "2.0", "id": "s", "method": "subscriptions/listen", "params": {"_meta": meta, "notifications": filter}});
        let headers = [
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "subscriptions/listen"),
        ];
        let (_, mut stream) = agent.open("POST", &headers, body.to_string()).await;
        let first = stream.next().await.unwrap();
        let heard = json!({"toolsListChanged": true, "resourceSubscriptions": ["desk://a"]});
        assert_eq!(first["params"]["notifications"], heard, "modern {modern}");
        tokio::time::timeout(Duration::from_secs(5), desk.listened_to()).await.unwrap();
        desk.tell("notifications/resources/updated", &json!({"uri": "desk://secret"}));
        desk.tell("notifications/resources/updated", &json!({"uri": "desk://a"}));
        desk.tell("notifications/tools/list_changed", &json!({}));
        let mut told = Vec::new();
        while told.len() < 2 {
            let message = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap();
            assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "s", "{message}");
            assert_ne!(message["params"]["uri"], "desk://secret");
            told.push(message["method"].as_str().unwrap().to_owned());
        }
        assert_eq!(told, ["notifications/resources/updated", "notifications/tools/list_changed"], "modern {modern}");
        drop(stream);

        agent.greet_with("{}").await;
        let session = agent.session.clone().unwrap();
        let headers = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str())];
        let (_, mut standing) = agent.open("GET", &headers, String::new()).await;
        assert_eq!(agent.ask("resources/subscribe", json!({"uri": "desk://secret"})).await.code(), -32002);
        assert_eq!(agent.ask("resources/subscribe", json!({"uri": "desk://a"})).await.json()["result"], json!({}));
        let told = loop {
            desk.tell("notifications/resources/updated", &json!({"uri": "desk://a"}));
            match tokio::time::timeout(Duration::from_millis(100), standing.next()).await {
                Ok(told) => break told.unwrap(),
                Err(_) => continue,
            }
        };
        assert_eq!(
            (&told["method"], &told["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!("desk://a"))
        );
        assert_eq!(agent.ask("resources/unsubscribe", json!({"uri": "desk://a"})).await.json()["result"], json!({}));
    }
}

#[tokio::test]
async fn a_task_belongs_to_the_run_that_began_it() {
    let (plane, desk) = plane(true).await;
    let (agent, other) = (plane.run_of(&manifest(true), 20), plane.run_of(&manifest(true), 20));
    let begun = agent.modern("tools/call", json!({"name": "begin", "arguments": {}}), CAN).await.json();
    assert_eq!(begun["result"]["task"]["taskId"], "task-1", "{begun}");
    let got = agent.modern("tasks/get", json!({"taskId": "task-1"}), CAN).await.json();
    assert_eq!(got["result"]["status"], "working", "{got}");
    let before = desk.seen.lock().unwrap().len();
    for (who, task) in [(&other, "task-1"), (&agent, "task-2")] {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let refused = who.modern(method, json!({"taskId": task}), CAN).await;
            assert_eq!(refused.code(), -32602, "{method}");
        }
    }
    assert_eq!(agent.modern("tasks/get", json!({"taskId": "task-1"}), "{}").await.code(), -32021);
    assert_eq!(agent.modern("tasks/list", json!({}), CAN).await.code(), -32601);
    assert_eq!(desk.seen.lock().unwrap().len(), before);
    let wrong = agent.modern("tools/call", json!({"name": "wrong", "arguments": {}}), CAN).await;
    assert!(wrong.said().0, "a kind of result that nobody knows is none");
}
