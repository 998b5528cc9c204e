//! The client that the official conformance suite judges: the suite starts this test binary once for each of its
//! scenarios, with the URL of a server as the last argument (scripts/conformance.py --client). Needs root, for a network
//! of the suite's own.

use std::sync::Arc;

use cogward_model::{Id, SystemClock, SystemEntropy, pin_name::OtherKind};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    exchange::{ClientCan, Peer, Step, UpRequest},
    *,
};
use crate::mcp::mirror;

/// Rounds of questions that one call may take.
const ROUNDS_MAX: usize = 5;

#[test]
fn the_official_suite_takes_the_connector_for_a_client() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for suite in ["released", "next"] {
        let there =
            format!("{root}/tests/fixtures/mcp-conformance/{suite}/node_modules/@modelcontextprotocol/conformance");
        assert!(std::path::Path::new(&there).exists(), "{there} is missing: run scripts/setup-tests.sh");
    }
    let results = tempfile::tempdir().unwrap();
    let judged = std::process::Command::new("python3")
        .arg(format!("{root}/scripts/conformance.py"))
        .arg("--client")
        .arg(std::env::current_exe().unwrap())
        .arg("--out")
        .arg(results.path())
        .output()
        .unwrap();
    let (said, why) = (String::from_utf8_lossy(&judged.stdout), String::from_utf8_lossy(&judged.stderr));
    assert!(judged.status.success(), "{said}\n{why}");
    assert_eq!(said.matches("as a client").count(), 3, "each line is judged: {said}\n{why}");
    for scenario in ["initialize", "tools_call", "sse-retry", "sep-2322-client-request-state", "http-standard-headers"]
    {
        assert!(said.contains(scenario), "`{scenario}` was not judged: {said}");
    }
}

#[test]
#[ignore = "the client of the conformance suite, started by it"]
fn client() {
    let Ok(scenario) = std::env::var("MCP_CONFORMANCE_SCENARIO") else { return };
    let url = std::env::args().next_back().unwrap();
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").ok().and_then(|text| serde_json::from_str(&text).ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(act(&scenario, &url, &context.unwrap_or_default()));
    // What is sent aside, such as the end of a session, has its time.
    runtime.shutdown_timeout(Duration::from_millis(300));
}

async fn act(scenario: &str, url: &str, context: &Value) {
    let text = |name: &str| context[name].as_str().map(str::to_owned);
    let (mut transport, mut secret) = (json!({"kind": "http", "url": url}), text("client_secret"));
    if let Some(id) = text("client_id").filter(|_| scenario.starts_with("auth/client-credentials")) {
        transport["oauth"] = json!({"client_id": id});
        if let Some(key) = text("private_key_pem") {
            transport["oauth"]["authentication"] = json!({"kind": "private_key_jwt"});
            secret = Some(key);
        }
    }
    let server = json!({"tenant": "default", "name": "judge", "transport": transport});
    let secret = secret.map(|secret| Credential::new(Zeroizing::new(secret)));
    let client = Arc::new(ToolServerClient::new(serde_json::from_value(server).unwrap(), secret));
    let tools = client.tools().await.unwrap();
    if scenario == "json-schema-ref-no-deref" || scenario == "initialize" {
        return;
    }
    let can = ClientCan::ELICIT_FORM.with(ClientCan::SAMPLING).with(ClientCan::ROOTS);
    let asked = scenario.contains("elicitation") || scenario.starts_with("sep-2322");
    let peer = match asked {
        true => Peer { run: Some(Id::new(&SystemClock, &SystemEntropy)), can },
        false => Peer::PLANE,
    };
    let mut calls: Vec<(String, Value)> = Vec::new();
    for call in context["toolCalls"].as_array().into_iter().flatten() {
        calls.push((call["name"].as_str().unwrap_or_default().to_owned(), call["arguments"].clone()));
    }
    if calls.is_empty() {
        let arguments = |name: &str| if name == "add_numbers" { json!({"a": 2, "b": 3}) } else { json!({}) };
        calls = tools.iter().map(|tool| (tool.name.to_string(), arguments(tool.name.as_str()))).collect();
    }
    for (name, arguments) in calls {
        let Some(tool) = name.parse().ok().and_then(|name| tools.get(&name)) else { continue };
        let mut arguments = arguments;
        if name == "json_schema_echo" {
            // What was listed, as it was listed.
            let listed = tools.get(&"json_schema_2020_12_tool".parse().unwrap()).map(|tool| tool.raw.get());
            let listed: Value = serde_json::from_str(listed.unwrap_or("{}")).unwrap();
            arguments = json!({"schema": listed["inputSchema"]});
        }
        let headers = mirror::headers(&tool.mirrored, &arguments);
        let mut more = String::new();
        for _ in 0..ROUNDS_MAX {
            let params = format!(r#"{{"name":"{name}","arguments":{arguments}{more}}}"#);
            let request = UpRequest {
                name: Some(&name),
                mirrored: &headers,
                ..UpRequest::plain("tools/call", params.as_bytes())
            };
            let Some(required) = carried_out(&client, peer, request).await else { break };
            if tools.get(&"test_mrtr_unrelated".parse().unwrap()).is_some() {
                // What belongs to one call does not appear in another.
                let params = br#"{"name":"test_mrtr_unrelated","arguments":{}}"#;
                let request = UpRequest { name: Some("test_mrtr_unrelated"), ..UpRequest::plain("tools/call", params) };
                carried_out(&client, peer, request).await;
            }
            more = answered(&required);
        }
    }
    if scenario == "http-standard-headers" {
        for listed in client.list(OtherKind::Resource).await.iter().flat_map(|listed| listed.items()) {
            let params = json!({"uri": listed.name.key()}).to_string();
            let request =
                UpRequest { name: Some(listed.name.key()), ..UpRequest::plain("resources/read", params.as_bytes()) };
            carried_out(&client, peer, request).await;
        }
        for listed in client.list(OtherKind::Prompt).await.iter().flat_map(|listed| listed.items()) {
            let params = json!({"name": listed.name.key()}).to_string();
            let request =
                UpRequest { name: Some(listed.name.key()), ..UpRequest::plain("prompts/get", params.as_bytes()) };
            carried_out(&client, peer, request).await;
        }
    }
}

/// Carries a request out; what is missing where the server wants to know more.
async fn carried_out(client: &Arc<ToolServerClient>, peer: Peer, request: UpRequest<'_>) -> Option<Value> {
    let mut exchange = match client.begin(None, peer, request).await {
        Ok(exchange) => exchange,
        Err(error) => {
            eprintln!("{error}");
            return None;
        }
    };
    loop {
        match exchange.next().await {
            Ok(Step::Done(reply)) => {
                eprintln!("{}", String::from_utf8_lossy(&reply.result));
                return None;
            }
            Ok(Step::InputRequired(reply)) => return serde_json::from_slice(&reply.result).ok(),
            Ok(Step::Ask(ask)) => {
                let params: Value = serde_json::from_slice(&ask.params).unwrap_or_default();
                ask.answer.answer(Ok(answer_to(&params).to_string().as_bytes()));
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("{error}");
                return None;
            }
        }
    }
}

/// What a person would answer who takes what is proposed.
fn answer_to(params: &Value) -> Value {
    if params["messages"].is_array() {
        let content = json!({"type": "text", "text": "yes"});
        return json!({"role": "assistant", "model": "m", "content": content});
    }
    let mut content = serde_json::Map::new();
    for (name, property) in params["requestedSchema"]["properties"].as_object().into_iter().flatten() {
        let value = match (&property["default"], property["type"].as_str()) {
            (Value::Null, Some("boolean")) => json!(true),
            (Value::Null, Some("integer" | "number")) => json!(1),
            (Value::Null, _) => json!("x"),
            (proposed, _) => proposed.clone(),
        };
        content.insert(name.clone(), value);
    }
    json!({"action": "accept", "content": content, "roots": []})
}

/// The members that a call is repeated with.
fn answered(required: &Value) -> String {
    let mut answers = serde_json::Map::new();
    for (key, request) in required["inputRequests"].as_object().into_iter().flatten() {
        answers.insert(key.clone(), answer_to(&request["params"]));
    }
    let mut more = format!(r#","inputResponses":{}"#, Value::Object(answers));
    if let Some(state) = required.get("requestState") {
        more.push_str(&format!(r#","requestState":{state}"#));
    }
    more
}
