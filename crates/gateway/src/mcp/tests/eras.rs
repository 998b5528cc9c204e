//! What a well-meaning client of either era sees.

use super::*;

#[tokio::test]
async fn a_session_lists_only_what_is_declared_and_each_definition_as_it_came() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let mut agent = plane.run(5);
    agent.greet().await;
    let listed = agent.ask("tools/list", json!({})).await;
    let tools = fake::tools();
    assert_eq!(listed.json()["result"]["tools"], json!([tools[2], tools[1]]), "by name");
    assert!(!String::from_utf8_lossy(&listed.body).contains("secret of the house"));
    agent.ask("tools/list", json!({})).await;
    let served = plane.ledger.of(EventType::ToolListServed);
    assert_eq!(served.len(), 1, "recorded once, not per request");
    assert_eq!(field(&served[0], "count"), Some(2_u64.into()));
    assert_eq!(agent.ask("ping", json!({})).await.json()["result"], json!({}));
    assert_eq!(agent.ask("prompts/list", json!({})).await.code(), -32601);
    let session = agent.session.clone().unwrap();
    assert_eq!(agent.send("GET", &[("mcp-session-id", &session)], "").await.status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(agent.send("GET", &[("accept", "text/event-stream")], "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(agent.send("DELETE", &[("mcp-session-id", &session)], "").await.status, StatusCode::OK);
    assert_eq!(agent.ask("ping", json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn older_revisions_are_agreed_on_and_unknown_ones_answered_with_the_newest() {
    let plane = Plane::new(vec![]);
    let agent = plane.run(5);
    for (wanted, agreed) in [("2025-03-26", "2025-03-26"), ("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25")] {
        let reply = agent.ask("initialize", json!({"protocolVersion": wanted})).await;
        assert_eq!(reply.json()["result"]["protocolVersion"], agreed);
    }
}

#[tokio::test]
async fn the_stateless_era_needs_no_session() {
    let plane = Plane::new(vec![fake::stdio("files")]);
    let agent = plane.run(5);
    let found = agent.stateless("server/discover", json!({}), &[]).await.json();
    assert_eq!(found["result"]["resultType"], "complete");
    assert_eq!(found["result"]["supportedVersions"][0], "2026-07-28");
    let listed = agent.stateless("tools/list", json!({}), &[]).await.json();
    assert_eq!(
        (&listed["result"]["cacheScope"], &listed["result"]["resultType"]),
        (&json!("private"), &json!("complete"))
    );
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 2);
    let params = json!({"name": "read_text_file", "arguments": {"path": "a"}});
    let called = agent.stateless("tools/call", params, &[]).await;
    assert_eq!(called.json()["result"]["resultType"], "complete");
    assert_eq!(called.said(), (false, "read_text_file of a".into()));
    let denied = agent.stateless("tools/call", json!({"name": "write_file", "arguments": {}}), &[]).await;
    assert!(denied.said().0 && denied.json()["result"]["resultType"] == "complete");
    assert_eq!(agent.stateless("ping", json!({}), &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_subscription_is_acknowledged_first_and_stays_open() {
    let plane = Plane::new(vec![]);
    let agent = plane.run(5);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let body = json!({"jsonrpc": "2.0", "id": "sub-1", "method": "subscriptions/listen", "params": {"_meta": meta, "notifications": {"toolsListChanged": true}}});
    let request = Request::post(format!("http://{}/mcp", agent.address))
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "subscriptions/listen")
        .body(Full::from(body.to_string()))
        .unwrap();
    let mut stream = agent.http.request(request).await.unwrap().into_body();
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(first.strip_prefix(b"data: ").unwrap()).unwrap();
    assert_eq!(event["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(event["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub-1");
    plane.gateway.cut(agent.run);
    assert!(!matches!(stream.frame().await, Some(Ok(_))), "a cut ends it");
}

#[tokio::test]
async fn several_servers_are_told_apart_by_name_and_one_that_is_down_takes_only_its_own_tools() {
    let plane = Plane::new(vec![fake::stdio("files"), fake::stdio("more-files")]);
    let mut agent = plane.run_of(&two_servers(), 5);
    agent.greet().await;
    let names = |reply: &Reply| {
        let listed = reply.json();
        let tools = listed["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["files_read_text_file", "more-files_list_directory", "more-files_read_text_file"];
    assert_eq!(names(&agent.ask("tools/list", json!({})).await), all);
    let called = agent.call("more-files_read_text_file", json!({"path": "x"})).await;
    assert_eq!(called.said(), (false, "read_text_file of x".into()));
    assert!(agent.call("read_text_file", json!({"path": "x"})).await.said().0);
    plane.gateway.upstreams().remove_tool_server(&tenant(), &"files".parse().unwrap());
    assert_eq!(names(&agent.ask("tools/list", json!({})).await), all[1..]);
    assert_eq!(plane.ledger.of(EventType::ToolListServed).len(), 2);
    plane.gateway.upstreams().remove_tool_server(&tenant(), &"more-files".parse().unwrap());
    let none = agent.ask("tools/list", json!({})).await;
    assert_eq!(none.code(), -32603, "an agent is not left to act without its tools unawares");
}

#[tokio::test]
async fn a_registration_can_be_checked() {
    let (server, _) = fake::http("files").await;
    let plane = Plane::new(vec![server]);
    let names = plane.gateway.list_upstream_tools(&tenant(), &"files".parse().unwrap()).await.unwrap();
    assert_eq!(names, ["list_directory", "read_text_file", "write_file"]);
    assert!(plane.gateway.list_upstream_tools(&tenant(), &"none".parse().unwrap()).await.is_err());
}
