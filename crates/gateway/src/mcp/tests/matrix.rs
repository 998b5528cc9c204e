//! Both eras on both sides: what a server asks back reaches the client of its own call, whatever each of them speaks.

use hyper::body::Incoming;

use super::{
    desk::{Desk, TOOLS, desk},
    *,
};

/// Everything that a client can declare.
const CAN: &str = r#"{"elicitation":{},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// An agent that may use all of the desk but its secrets.
pub(super) fn manifest(models: bool) -> Manifest {
    let mut manifest = serde_json::to_value(crate::testing::manifest()).unwrap();
    manifest["spec"]["permissions"]["tools"] =
        json!([{"server": "desk", "allow": TOOLS, "resources": ["desk://a", "desk://b*"], "prompts": ["greet"]}]);
    if !models {
        manifest["spec"]["permissions"]["models"] = json!([]);
    }
    serde_json::from_value(manifest).unwrap()
}

pub(super) async fn plane(modern: bool) -> (Plane, Arc<Desk>) {
    let (server, desk) = desk("desk", modern).await;
    (Plane::with(vec![server], None, Duration::from_secs(5)), desk)
}

/// Messages of a stream, one by one.
pub(super) struct Stream(Incoming, String, pub(super) Option<String>);

impl Stream {
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((event, rest)) = self.1.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.1 = rest;
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id: ")) {
                    self.2 = Some(id.to_owned());
                }
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
                if let Some(data) = data {
                    return Some(serde_json::from_str(data).unwrap());
                }
            }
            let part = self.0.frame().await?.ok()?.into_data().unwrap();
            self.1.push_str(std::str::from_utf8(&part).unwrap());
        }
    }
}

impl Agent {
    pub(super) async fn open(&self, method: &str, headers: &[(&str, &str)], body: String) -> (StatusCode, Stream) {
        let mut request = Request::builder().method(method).uri(format!("http://{}/mcp", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        (response.status(), Stream(response.into_body(), String::new(), None))
    }

    /// A request in a session whose answer is a stream.
    pub(super) async fn stream(&self, id: u64, method: &str, params: Value) -> Stream {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let session = self.session.clone().unwrap();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-session-id", session.as_str()),
        ];
        self.open("POST", &headers, body).await.1
    }

    pub(super) async fn greet_with(&mut self, capabilities: &str) {
        let capabilities: Value = serde_json::from_str(capabilities).unwrap();
        let reply =
            self.ask("initialize", json!({"protocolVersion": "2025-11-25", "capabilities": capabilities})).await;
        self.session = Some(reply.headers["mcp-session-id"].to_str().unwrap().to_owned());
    }

    /// A stateless request of a client that can be asked.
    pub(super) async fn modern(&self, method: &str, mut params: Value, capabilities: &str) -> Reply {
        let capabilities: Value = serde_json::from_str(capabilities).unwrap();
        let extra = params.as_object_mut().unwrap().remove("meta");
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": capabilities
        });
        for (key, value) in extra.iter().filter_map(Value::as_object).flatten() {
            params["_meta"][key] = value.clone();
        }
        let named =
            ["name", "uri", "taskId"].iter().find_map(|key| params[key].as_str()).unwrap_or_default().to_owned();
        let mut all = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        if !named.is_empty() {
            all.push(("mcp-name", &named));
        }
        let body = json!({"jsonrpc": "2.0", "id": "m", "method": method, "params": params}).to_string();
        self.send("POST", &all, body).await
    }
}

fn answer_of(tool: &str) -> Value {
    match tool {
        "ask_user" => json!({"action": "accept", "content": {"name": "Ada"}}),
        "ask_model" => json!({"role": "assistant", "content": {"type": "text", "text": "42"}, "model": "m"}),
        _ => json!({"roots": [{"uri": "file:///work"}]}),
    }
}

const ASKING: [(&str, &str); 3] =
    [("ask_user", "elicitation/create"), ("ask_model", "sampling/createMessage"), ("ask_roots", "roots/list")];

#[tokio::test]
async fn a_session_is_asked_on_its_stream_by_servers_of_either_era() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        agent.greet_with(CAN).await;
        for (tool, method) in ASKING {
            let mut stream = agent.stream(3, "tools/call", json!({"name": tool, "arguments": {}})).await;
            let asked = stream.next().await.unwrap();
            assert_eq!(asked["method"], method, "modern {modern}: {asked}");
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer_of(tool)}).to_string();
            assert_eq!(agent.post(answer).await.status, StatusCode::ACCEPTED);
            let result = stream.next().await.unwrap();
            let text = result["result"]["content"][0]["text"].as_str().unwrap().to_owned();
            assert!(result["id"] == 3 && text.contains(&answer_of(tool).to_string()), "modern {modern}: {result}");
            assert!(stream.next().await.is_none(), "the answer ends the stream");
        }
        for (kind, count) in [(EventType::ElicitationDecided, 1), (EventType::SamplingCompleted, 1)] {
            assert_eq!(plane.ledger.of(kind).len(), count, "modern {modern}");
        }
    }
}

#[tokio::test]
async fn a_stateless_request_is_told_what_it_still_needs_by_servers_of_either_era() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let agent = plane.run_of(&manifest(true), 20);
        for (tool, method) in ASKING {
            let first = agent.modern("tools/call", json!({"name": tool, "arguments": {}}), CAN).await.json();
            let result = &first["result"];
            assert_eq!(result["resultType"], "input_required", "modern {modern}: {first}");
            let (key, asked) = result["inputRequests"].as_object().unwrap().iter().next().unwrap();
            assert_eq!(asked["method"], method);
            let state = result["requestState"].as_str().unwrap();
            assert!(!state.contains("desk"), "a server's state is its own");
            let again = json!({"name": tool, "arguments": {}, "inputResponses": {key.as_str(): answer_of(tool)}, "requestState": state});
            let second = agent.modern("tools/call", again.clone(), CAN).await.json();
            let text = second["result"]["content"][0]["text"].as_str().unwrap_or_default();
            assert!(text.contains(&answer_of(tool).to_string()), "modern {modern}: {second}");
            assert_eq!(second["result"]["resultType"], "complete");
            // The same state again is refused, and nothing is asked of the server.
            let calls = desk.calls.load(Ordering::SeqCst);
            let third = agent.modern("tools/call", again, CAN).await;
            assert_eq!((third.code(), desk.calls.load(Ordering::SeqCst)), (-32602, calls), "modern {modern}");
        }
        let refused = plane.ledger.of(EventType::ToolCallDecided);
        let refused = refused.iter().filter(|e| field(e, "rule") == Some("mcp.requestState".into())).count();
        assert_eq!(refused, 3, "each attempt is recorded");
    }
}

use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_state_is_of_no_use_to_another_run_nor_for_another_request() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let (agent, other) = (plane.run_of(&manifest(true), 20), plane.run_of(&manifest(true), 20));
        let call = json!({"name": "ask_user", "arguments": {"a": 1}});
        let first = agent.modern("tools/call", call.clone(), CAN).await.json();
        let state = first["result"]["requestState"].as_str().unwrap().to_owned();
        let key = first["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
        let with = |name: &str, arguments: Value, state: &str| json!({"name": name, "arguments": arguments, "inputResponses": {key.as_str(): answer_of("ask_user")}, "requestState": state});
        let calls = desk.calls.load(Ordering::SeqCst);
        for (who, params) in [
            (&other, with("ask_user", json!({"a": 1}), &state)),
            (&agent, with("ask_user", json!({"a": 2}), &state)),
            (&agent, with("ask_roots", json!({"a": 1}), &state)),
            (&agent, with("ask_user", json!({"a": 1}), &format!("{state}-TAMPERED"))),
            (&agent, with("ask_user", json!({"a": 1}), "")),
        ] {
            let refused = who.modern("tools/call", params, CAN).await;
            assert_eq!(refused.code(), -32602, "modern {modern}: {:?}", refused.body);
        }
        assert_eq!(desk.calls.load(Ordering::SeqCst), calls, "none of them reached the server");
        let good = agent.modern("tools/call", with("ask_user", json!({"a": 1}), &state), CAN).await.json();
        assert!(good["result"]["content"][0]["text"].as_str().unwrap().contains("Ada"), "{good}");
    }
}

#[tokio::test]
async fn wrong_answers_are_refused_and_a_missing_one_is_asked_for_again() {
    let (plane, _desk) = plane(false).await;
    let agent = plane.run_of(&manifest(true), 20);
    let call = json!({"name": "ask_user", "arguments": {}});
    let first = agent.modern("tools/call", call.clone(), CAN).await.json();
    let state = first["result"]["requestState"].clone();
    for wrong in [json!(null), json!([]), json!("x"), json!({"question": 7})] {
        let params = json!({"name": "ask_user", "arguments": {}, "inputResponses": wrong, "requestState": state});
        assert_eq!(agent.modern("tools/call", params, CAN).await.code(), -32602, "{wrong}");
    }
    let params = json!({"name": "ask_user", "arguments": {}, "inputResponses": {"else": {}}, "requestState": state});
    let again = agent.modern("tools/call", params, CAN).await.json();
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    assert_ne!(again["result"]["requestState"], state);
}

#[tokio::test]
async fn who_cannot_be_asked_is_not_and_without_a_model_there_is_no_sampling() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        let agent = plane.run_of(&manifest(true), 20);
        let said = agent.modern("tools/call", json!({"name": "ask_user", "arguments": {}}), "{}").await;
        assert_ne!(said.json()["result"]["resultType"], "input_required", "modern {modern}: {:?}", said.body);
        // Able, but without a model of its own.
        let poor = plane.run_of(&manifest(false), 20);
        let said = poor.modern("tools/call", json!({"name": "ask_model", "arguments": {}}), CAN).await.json();
        assert_ne!(said["result"]["resultType"], "input_required", "modern {modern}: {said}");
        let blocked = plane.ledger.of(EventType::SamplingDecided);
        assert_eq!(field(blocked.last().unwrap(), "decision"), Some("block".into()));
        let mut session = plane.run_of(&manifest(false), 20);
        session.greet_with(CAN).await;
        let said = session.call("ask_model", json!({})).await;
        assert!(
            !said.messages().iter().any(|message| message["method"] == "sampling/createMessage"),
            "{:?}",
            said.body
        );
    }
}

#[tokio::test]
async fn progress_and_log_come_as_they_are_said_and_as_far_as_they_are_wanted() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        agent.greet_with(CAN).await;
        assert_eq!(agent.ask("logging/setLevel", json!({"level": "info"})).await.json()["result"], json!({}));
        assert_eq!(agent.ask("logging/setLevel", json!({"level": "loud"})).await.code(), -32602);
        let params = json!({"name": "talk", "arguments": {}, "_meta": {"progressToken": "mine"}});
        let told = agent.ask("tools/call", params).await.messages();
        let of = |method: &str| {
            told.iter().filter(|m| m["method"] == method).map(|m| m["params"].clone()).collect::<Vec<_>>()
        };
        let progress = of("notifications/progress");
        assert_eq!(progress.len(), 3, "modern {modern}: {told:?}");
        assert!(progress.iter().all(|p| p["progressToken"] == "mine" && p["x"] == "kept"), "{progress:?}");
        assert_eq!(of("notifications/message").len(), 2, "debug is not wanted: {told:?}");

        // A stateless request that wants to hear nothing hears nothing, and one that does does.
        let quiet = agent.modern("tools/call", json!({"name": "talk", "arguments": {}}), "{}").await;
        assert!(!quiet.streamed() && quiet.json()["result"]["resultType"] == "complete", "{:?}", quiet.body);
        let meta = json!({"io.modelcontextprotocol/logLevel": "error", "progressToken": 9});
        let told =
            agent.modern("tools/call", json!({"name": "talk", "arguments": {}, "meta": meta}), "{}").await.messages();
        assert_eq!(told.iter().filter(|m| m["method"] == "notifications/message").count(), 1, "{told:?}");
        assert_eq!(told.iter().filter(|m| m["params"]["progressToken"] == 9).count(), 3, "{told:?}");
        assert_eq!(told.last().unwrap()["result"]["resultType"], "complete");
    }
}

#[tokio::test]
async fn resources_and_prompts_are_shown_and_read_only_as_declared() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let mut agent = plane.run_of(&manifest(true), 20);
        agent.greet_with("{}").await;
        let names = |reply: &Reply, list: &str, key: &str| {
            let list = reply.json()["result"][list].as_array().cloned().unwrap_or_default();
            list.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&agent.ask("resources/list", json!({})).await, "resources", "uri"), ["desk://a"]);
        assert!(String::from_utf8_lossy(&agent.ask("resources/list", json!({})).await.body).contains("1.5"));
        assert_eq!(plane.ledger.of(EventType::ResourceListServed).len(), 1, "recorded once");
        let templates = agent.ask("resources/templates/list", json!({})).await;
        assert_eq!(names(&templates, "resourceTemplates", "uriTemplate"), Vec::<String>::new());
        assert_eq!(names(&agent.ask("prompts/list", json!({})).await, "prompts", "name"), ["greet"]);
        let read = agent.ask("resources/read", json!({"uri": "desk://a"})).await.json();
        assert_eq!(read["result"]["contents"][0]["text"], "words");
        let before = desk.seen.lock().unwrap().len();
        let (there, not) = (
            agent.ask("resources/read", json!({"uri": "desk://secret"})).await,
            agent.ask("resources/read", json!({"uri": "desk://nothing"})).await,
        );
        assert_eq!((there.code(), not.code()), (-32002, -32002));
        let message = |reply: &Reply| reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(message(&there).replace("secret", "nothing"), message(&not), "alike, whether it is there or not");
        assert_eq!(agent.ask("prompts/get", json!({"name": "hidden"})).await.code(), -32002);
        assert_eq!(agent.modern("resources/read", json!({"uri": "desk://b/../secret"}), "{}").await.code(), -32602);
        assert_eq!(desk.seen.lock().unwrap().len(), before, "none of them reached the server");
        let modern_read = agent.modern("resources/read", json!({"uri": "desk://a"}), "{}").await.json();
        assert_eq!(modern_read["result"]["cacheScope"], "private");
        assert_eq!(agent.ask("prompts/get", json!({"name": "greet"})).await.json()["result"]["description"], "greet");
        let reference =
            json!({"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}});
        let completed = agent.ask("completion/complete", reference).await.json();
        assert_eq!(completed["result"]["completion"]["values"][0], "greet");
        let hidden = json!({"ref": {"type": "ref/resource", "uri": "desk://secret"}, "argument": {}});
        assert_eq!(agent.ask("completion/complete", hidden).await.code(), -32002);
        let decided = plane.ledger.of(EventType::ResourceReadDecided);
        assert!(decided.iter().all(|e| field(e, "server") == Some("desk".into())));
        assert_eq!(decided.iter().filter(|e| field(e, "decision") == Some("block".into())).count(), 4);
    }
}
