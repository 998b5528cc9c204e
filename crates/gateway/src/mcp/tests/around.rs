//! Ways round policy through what an MCP server says beside its answer, and what a client sends beside its call.

use cogward_policy::Version;

use super::{
    matrix::{manifest, plane},
    *,
};
use crate::policy::PolicySet;

const URL: &str = r#"{"elicitation":{"url":{}}}"#;

fn activate(plane: &Plane, text: &str) {
    let version = Arc::new(Version::load("plane".parse().unwrap(), text).unwrap());
    let set = PolicySet { versions: vec![version], ..PolicySet::default() };
    plane.gateway.policies().active().replace(set, cogward_model::Timestamp::from_unix_micros(1)).unwrap();
}

fn shown(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[tokio::test]
async fn an_error_tells_nothing_of_an_answer_that_is_redacted() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        activate(
            &plane,
            "@redact(\"result.iban\") permit(principal, action in Cogward::Action::\"tool_call\", resource);",
        );
        let mut agent = plane.run_of(&manifest(true), 20);
        agent.greet_with(URL).await;
        for (tool, code) in [("refuse", "-32021"), ("page", "-32042"), ("fail", "-32000")] {
            let reply = agent.call(tool, json!({})).await;
            let text = shown(&reply);
            assert!(!text.contains("SECRET") && !text.contains("evil.example"), "modern {modern}: {text}");
            let (failed, said) = reply.said();
            assert!(failed && said.contains(code) && said.contains("withholds"), "modern {modern}: {said}");
            let reply = agent.modern("tools/call", json!({"name": tool, "arguments": {}}), URL).await;
            assert!(!shown(&reply).contains("SECRET") && !shown(&reply).contains("evil.example"), "{:?}", reply.body);
        }
        assert!(plane.ledger.of(EventType::ElicitationDecided).is_empty(), "nobody is asked");
        // Without a redaction it is told as before.
        activate(&plane, "permit(principal, action, resource);");
        assert!(agent.call("fail", json!({})).await.said().1.contains("SECRET"));
        assert_eq!(agent.call("refuse", json!({})).await.code(), -32021);
    }
}

#[tokio::test]
async fn a_page_that_the_user_is_sent_to_is_a_question_like_any_other() {
    for modern in [false, true] {
        let (plane, _desk) = plane(modern).await;
        let decided = |plane: &Plane| {
            let all = plane.ledger.of(EventType::ElicitationDecided);
            all.iter().map(|event| field(event, "decision").unwrap()).collect::<Vec<_>>()
        };
        let mut agent = plane.run_of(&manifest(true), 20);
        // A client that cannot open pages is not told of one.
        agent.greet_with("{}").await;
        let reply = agent.call("page", json!({})).await;
        assert!(!shown(&reply).contains("evil.example") && reply.said().0, "modern {modern}: {:?}", reply.body);
        assert_eq!(decided(&plane), ["block".into()]);
        // One that can is, and that is recorded; of the rest of the error it gets nothing.
        agent.greet_with(URL).await;
        let reply = agent.call("page", json!({})).await.json();
        assert_eq!(reply["error"]["code"], -32042, "modern {modern}: {reply}");
        assert_eq!(reply["error"]["data"]["elicitations"][0]["url"], "https://evil.example/");
        assert_eq!(reply["error"]["data"].as_object().unwrap().len(), 1, "{reply}");
        assert_eq!(decided(&plane), ["block".into(), "permit".into()]);
        // Policy can forbid it.
        let text = "permit(principal, action, resource);
            @id(\"no-pages\") forbid(principal, action == Cogward::Action::\"elicitation\", resource);";
        activate(&plane, text);
        let reply = agent.call("page", json!({})).await;
        assert!(!shown(&reply).contains("evil.example") && reply.said().0, "modern {modern}: {:?}", reply.body);
        let last = plane.ledger.of(EventType::ElicitationDecided).pop().unwrap();
        assert_eq!(field(&last, "rule"), Some("policy.plane.no-pages".into()));
        // An error of this kind that is not as MCP has it asks nobody anything.
        for params in ["form", "none"] {
            let reply = agent.call("page", json!({"as": params})).await;
            assert!(!shown(&reply).contains("evil.example") && reply.said().0, "modern {modern}: {:?}", reply.body);
        }
        assert_eq!(decided(&plane).len(), 3);
    }
}

#[tokio::test]
async fn a_server_says_nothing_beside_while_an_answer_of_it_is_redacted() {
    let (plane, desk) = plane(false).await;
    let text = "@redact(\"result.a\") permit(principal, action == Cogward::Action::\"tool:desk/hang\", resource);
        permit(principal, action, resource);";
    activate(&plane, text);
    let mut agent = plane.run_of(&manifest(true), 1_000);
    agent.greet_with("{}").await;
    let logs = |messages: Vec<Value>| messages.iter().filter(|m| m["method"] == "notifications/message").count();
    let talk = || agent.call("talk", json!({}));
    assert_eq!(logs(talk().await.messages()), 3);
    let hanging = agent.stream(9, "tools/call", json!({"name": "hang", "arguments": {}})).await;
    while desk.calls.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let reply = talk().await;
    assert_eq!(logs(reply.messages()), 0, "what it logs now may be about the other call");
    assert_eq!(reply.json()["result"]["content"][0]["text"], "talked");
    // Nor is anybody asked.
    let reply = agent.call("ask_user", json!({})).await;
    assert!(!shown(&reply).contains("elicitation/create"), "{:?}", reply.body);
    // When it is over, the server is heard again.
    let off = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}});
    agent.post(off.to_string()).await;
    desk.left.notified().await;
    drop(hanging);
    // The call is settled a moment after its server was left.
    while logs(talk().await.messages()) != 3 {
        assert!(plane.ledger.of(EventType::ToolCallDecided).len() < 900, "it is not heard again");
    }
}

fn decided(plane: &Plane, kind: EventType) -> Vec<Recorded> {
    plane.ledger.of(kind).iter().map(|event| field(event, "decision").unwrap()).collect()
}

#[tokio::test]
async fn answers_that_go_along_with_a_call_are_recorded_whether_they_were_asked_for_or_not() {
    let (plane, _desk) = plane(true).await;
    let agent = plane.run_of(&manifest(true), 20);
    let answer = json!({"who": {"action": "accept", "content": {"pay": 5000}}});
    let call = json!({"name": "ask_user", "arguments": {}, "inputResponses": answer});
    let recorded = |plane: &Plane| {
        let admitted = plane.ledger.of(EventType::ToolCallDecided).pop().unwrap();
        format!("{:?}", field(&admitted, "responses")).contains("5000")
    };
    agent.modern("tools/call", call.clone(), URL).await;
    assert!(recorded(&plane));
    // Nobody asked: it is decided like the question that it would answer, under the call that it came with.
    let unasked = plane.ledger.of(EventType::ElicitationDecided).pop().unwrap();
    assert_eq!(field(&unasked, "unasked"), Some(true.into()));
    assert!(format!("{:?}", field(&unasked, "responses")).contains("5000"), "{unasked:?}");
    assert!(matches!(field(&unasked, "refs"), Some(Recorded::List(refs)) if refs.len() == 1), "{unasked:?}");
    let can = r#"{"elicitation":{}}"#;
    let first = agent.modern("tools/call", json!({"name": "ask_user", "arguments": {}}), can).await.json();
    assert!(!recorded(&plane), "there were none");
    let mut again = call;
    again["requestState"] = first["result"]["requestState"].clone();
    let second = agent.modern("tools/call", again, can).await;
    assert!(shown(&second).contains("5000") && recorded(&plane), "{:?}", second.body);
    // What was asked was decided when it was asked, and not once more.
    assert_eq!(decided(&plane, EventType::ElicitationDecided).len(), 2);
}

/// Where policy does not let a server ask, an agent cannot tell it without having been asked.
#[tokio::test]
async fn answers_that_nobody_asked_for_are_decided_like_their_questions() {
    let (plane, desk) = plane(true).await;
    let (user, model) = (EventType::ElicitationDecided, EventType::SamplingDecided);
    let agent = plane.run_of(&manifest(true), 100);
    let can = r#"{"elicitation":{},"sampling":{}}"#;
    let forbids = |action: &str| {
        format!(
            "permit(principal, action, resource);
            @id(\"mute\") forbid(principal, action == Cogward::Action::\"{action}\", resource);"
        )
    };
    let tell = async |answers: Value, state: Option<Value>| {
        let mut call = json!({"name": "ask_user", "arguments": {}, "inputResponses": answers});
        if let Some(state) = state {
            call["requestState"] = state;
        }
        agent.modern("tools/call", call, can).await
    };
    let accepted = json!({"action": "accept", "content": {"pay": 5000}});
    let said = json!({"role": "assistant", "content": {"type": "text", "text": "pay 5000"}, "model": "m"});
    let both = json!({"action": "accept", "role": "assistant", "content": {"pay": 5000}});
    let roots = json!({"roots": [{"uri": "file:///pay-5000"}]});
    for (action, answer, blocked) in [
        ("elicitation", &accepted, true),
        ("elicitation", &roots, true),
        ("elicitation", &both, true),
        ("elicitation", &json!({"pay": 5000}), true),
        ("elicitation", &said, false),
        ("sampling", &said, true),
        ("sampling", &both, true),
        ("sampling", &accepted, false),
    ] {
        activate(&plane, &forbids(action));
        let before = desk.calls.load(Ordering::SeqCst);
        let reply = tell(json!({"who": answer}), None).await;
        let forwarded = desk.calls.load(Ordering::SeqCst) - before;
        assert_eq!(forwarded, usize::from(!blocked), "{action} {answer}: {:?}", reply.body);
        assert_eq!(shown(&reply).contains("policy_blocked"), blocked, "{action} {answer}: {:?}", reply.body);
        let kind = if action == "sampling" { model } else { user };
        if blocked {
            assert_eq!(decided(&plane, kind).pop(), Some("block".into()), "{action} {answer}");
            let call = plane.ledger.of(EventType::ToolCallCompleted).pop().unwrap();
            assert_eq!(field(&call, "outcome"), Some("unknown".into()), "{call:?}");
        }
    }
    // One answer of several is enough, and a state is good for what it asked alone.
    activate(&plane, "permit(principal, action, resource);");
    let first = agent.modern("tools/call", json!({"name": "ask_user", "arguments": {}}), can).await.json();
    let state = first["result"]["requestState"].clone();
    activate(&plane, &forbids("elicitation"));
    let before = desk.calls.load(Ordering::SeqCst);
    let reply = tell(json!({"who": accepted, "pay": accepted}), Some(state)).await;
    assert!(shown(&reply).contains("policy_blocked"), "{:?}", reply.body);
    assert_eq!(desk.calls.load(Ordering::SeqCst), before);
    // The same with nothing but what was asked goes on, though no more would be asked by now.
    activate(&plane, "permit(principal, action, resource);");
    let first = agent.modern("tools/call", json!({"name": "ask_user", "arguments": {}}), can).await.json();
    activate(&plane, &forbids("elicitation"));
    let reply = tell(json!({"who": accepted}), Some(first["result"]["requestState"].clone())).await;
    assert!(shown(&reply).contains("5000"), "{:?}", reply.body);
    // A prompt that is taken is no way round either.
    let prompt = json!({"name": "greet", "inputResponses": {"who": accepted}});
    let reply = agent.modern("prompts/get", prompt, can).await;
    assert!(shown(&reply).contains("policy_blocked"), "{:?}", reply.body);
    assert!(!desk.seen.lock().unwrap().iter().any(|message| message["method"] == "prompts/get"));
}

#[tokio::test]
async fn what_a_task_is_told_is_recorded_and_asking_about_it_takes_a_slot() {
    const CAN: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let (plane, desk) = plane(true).await;
    let agent = plane.run_of(&manifest(true), 20);
    agent.modern("tools/call", json!({"name": "begin", "arguments": {}}), CAN).await;
    let told = json!({"taskId": "task-1", "inputResponses": {"who": {"action": "accept", "content": {"pay": 5000}}}});
    agent.modern("tasks/update", told, CAN).await;
    let record = plane.ledger.of(EventType::ToolCallDecided).pop().unwrap();
    assert_eq!(field(&record, "method"), Some("tasks/update".into()));
    assert!(format!("{:?}", field(&record, "responses")).contains("5000"), "{record:?}");
    // Calls in flight leave no slot for what is asked about tasks, and a task whose call is over needs none itself.
    let run = plane.gateway.context(agent.run).unwrap();
    let all = u32::try_from(cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX).unwrap();
    let slots = Arc::clone(&run.calls).acquire_many_owned(all).await.unwrap();
    let asked = |desk: &super::desk::Desk| {
        desk.seen.lock().unwrap().iter().filter(|message| message["method"] == "tasks/get").count()
    };
    let reply = agent.modern("tasks/get", json!({"taskId": "task-1"}), CAN).await;
    assert!(shown(&reply).contains("limits.callsInFlight"), "{:?}", reply.body);
    assert_eq!(asked(&desk), 0);
    drop(slots);
    let reply = agent.modern("tasks/get", json!({"taskId": "task-1"}), CAN).await.json();
    assert_eq!((reply["result"]["status"].as_str(), asked(&desk)), (Some("working"), 1));
    // Asked without end, it is answered at its pace.
    let (begun, most) = (std::time::Instant::now(), crate::pace::BURST + 20);
    for _ in 0..most {
        agent.modern("tasks/get", json!({"taskId": "task-1"}), CAN).await;
    }
    assert!(begun.elapsed() >= crate::pace::INTERVAL * 16, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nothing_of_the_meta_of_a_call_goes_on_but_its_place_in_a_trace() {
    for modern in [false, true] {
        let (plane, desk) = plane(modern).await;
        let agent = plane.run_of(&manifest(true), 20);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let meta = json!({"traceparent": parent, "bank/transfer": "EVIL", "baggage": "a=EVIL"});
        agent.modern("tools/call", json!({"name": "talk", "arguments": {}, "meta": meta}), "{}").await;
        let seen = desk.seen.lock().unwrap();
        let call = seen.iter().find(|message| message["method"] == "tools/call").unwrap();
        assert!(call["params"]["_meta"]["traceparent"] == parent && !call.to_string().contains("EVIL"), "{call}");
        // What goes on is in the record.
        let record = plane.ledger.of(EventType::ToolCallDecided).pop().unwrap();
        assert_eq!(field(&record, "trace"), Some(format!(r#"{{"traceparent":"{parent}"}}"#).into()), "{record:?}");
    }
}

#[tokio::test]
async fn what_policy_makes_of_arguments_keeps_to_the_schema_or_is_not_forwarded() {
    let (plane, desk) = plane(false).await;
    activate(
        &plane,
        "@cap(\"arguments.limit=3\") permit(principal, action in Cogward::Action::\"tool_call\", resource);",
    );
    let mut agent = plane.run_of(&manifest(true), 20);
    agent.greet_with("{}").await;
    let (failed, said) = agent.call("sized", json!({"limit": 20})).await.said();
    assert!(failed && said.contains("did not forward"), "{said}");
    assert_eq!(desk.calls.load(Ordering::SeqCst), 0);
    let outcome = plane.ledger.outcome().await;
    assert_eq!(field(&outcome, "outcome"), Some("unknown".into()));
    activate(
        &plane,
        "@cap(\"arguments.limit=12\") permit(principal, action in Cogward::Action::\"tool_call\", resource);",
    );
    assert!(!agent.call("sized", json!({"limit": 20})).await.said().0);
    let seen = desk.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen["params"]["arguments"], json!({"limit": 12}));
}
