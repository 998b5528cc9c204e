//! Ways round policy: each of them was tried.

use std::collections::BTreeSet;

use cogward_model::{TenantName, ToolName, manifest::Manifest};
use cogward_policy::Shape;

use super::{
    approval::{People, people, reference},
    policy::{OPEN, activate, governed, last, pay, refused, value, well},
    *,
};
use crate::{
    approvals::ApprovalState,
    policy::{ToolFacts, ToolMarks},
};

const HIGHEST: &str = "permit(principal, action, resource);
    @id(\"large\") forbid(principal, action == Cogward::Action::\"tool:files/read_text_file\", resource)
    when { context has arguments && context.arguments has amount && context.arguments.amount > 100 };";

fn capped(most: i64) -> String {
    format!(
        "@id(\"own\") @cap(\"arguments.amount={most}\") permit(principal, action in Cogward::Action::\"tool_call\", resource);"
    )
}

#[tokio::test]
async fn a_cap_of_a_lower_level_makes_no_call_that_a_higher_one_forbids() {
    let ledger = Arc::new(Ledger::default());
    let (own, fine) = (capped(1_000_000), capped(50));
    let (gate, run, _) = governed(&ledger, &[("plane", HIGHEST), ("agent:default/reader", &own)]);
    assert!(gate.admit(&run, pay(r#"{"amount":null}"#)).await.is_err());
    for arguments in ["{}", r#"{"to":"DE02"}"#] {
        let refusal = refused(&gate, &run, pay(arguments)).await;
        assert_eq!(refusal.code, RefusalCode::PolicyBlocked, "{arguments}");
        assert_eq!(refusal.rule, "policy.plane.large", "{arguments}: {refusal:?}");
        assert!(refusal.detail.contains("what it makes of them"), "{refusal:?}");
        // What is recorded is the question that was answered so.
        let input = format!("{:?}", value(&last(&ledger), "policy_input"));
        assert!(input.contains("1000000"), "{input}");
    }
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":101}"#)).await.rule, "policy.plane.large");
    activate(&gate, &[("plane", HIGHEST), ("agent:default/reader", &fine)]);
    let admitted = gate.admit(&run, pay("{}")).await.ok().unwrap();
    assert_eq!(admitted.target().arguments, r#"{"amount":50}"#);
    // Nor one that a higher level wants a person to see.
    let escalates = "@escalate(\"boss\") permit(principal, action in Cogward::Action::\"tool_call\", resource)
        when { context has arguments && context.arguments has amount && context.arguments.amount > 100 };
        permit(principal, action, resource);";
    activate(&gate, &[("plane", escalates), ("agent:default/reader", &own)]);
    let people = people(&gate, vec![Ok(ApprovalState::Pending(reference()))]);
    assert_eq!(refused(&gate, &run, pay("{}")).await.code, RefusalCode::PolicyBlocked);
    assert!(people.asked.lock().unwrap().is_empty());
    // Nor one of which a higher level wants something taken out.
    let redacts = escalates.replace("@escalate(\"boss\")", "@redact(\"result.iban\")");
    activate(&gate, &[("plane", &redacts), ("agent:default/reader", &own)]);
    assert_eq!(refused(&gate, &run, pay("{}")).await.code, RefusalCode::PolicyBlocked);
}

#[tokio::test]
async fn what_a_lower_level_takes_out_a_higher_one_sees_gone() {
    let ledger = Arc::new(Ledger::default());
    let plane = "permit(principal, action, resource);
        @id(\"named\") forbid(principal, action == Cogward::Action::\"tool:files/read_text_file\", resource)
        unless { context has arguments && context.arguments has to && context.arguments.to == \"DE02\" };";
    let own = "@redact(\"arguments.to\") permit(principal, action in Cogward::Action::\"tool_call\", resource)
        when { context has arguments && context.arguments has to && context.arguments.to like \"DE*\" };";
    let call = || pay(r#"{"amount":1,"to":"DE02"}"#);
    let (gate, run, _) = governed(&ledger, &[("plane", plane), ("agent:default/reader", own)]);
    assert_eq!(refused(&gate, &run, call()).await.rule, "policy.plane.named");
    // A level that reads what it takes out itself, or a wider one does, has seen it.
    activate(&gate, &[("plane", OPEN), ("agent:default/reader", own)]);
    assert_eq!(gate.admit(&run, call()).await.ok().unwrap().target().arguments, r#"{"amount":1,"to":"[redacted]"}"#);
    let reads = own.replace("@redact(\"arguments.to\")", "");
    activate(&gate, &[("plane", own), ("agent:default/reader", &reads)]);
    assert_eq!(gate.admit(&run, call()).await.ok().unwrap().target().arguments, r#"{"amount":1,"to":"[redacted]"}"#);
}

#[tokio::test]
async fn a_sum_counts_what_is_forwarded() {
    let ledger = Arc::new(Ledger::default());
    let plane = "@track(\"spent = sum(arguments.amount) of tool:files/* per user within 1h\")
        permit(principal, action, resource) when { context.history.spent <= 100 };";
    let (gate, run, _) = governed(&ledger, &[("plane", plane), ("agent:default/reader", &capped(60))]);
    // Nothing is given, sixty is forwarded.
    well(gate.admit(&run, pay("{}")).await.ok().unwrap());
    assert_eq!(refused(&gate, &run, pay("{}")).await.rule, "policy.plane");
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":41}"#)).await.rule, "policy.plane");
    well(gate.admit(&run, pay(r#"{"amount":30}"#)).await.ok().unwrap());
    well(gate.admit(&run, pay(r#"{"amount":10}"#)).await.ok().unwrap());
    // Ninety are asked for and sixty forwarded: forty are left, of a hundred.
    let (gate, run, _) = governed(&ledger, &[("plane", plane), ("agent:default/reader", &capped(60))]);
    well(gate.admit(&run, pay(r#"{"amount":90}"#)).await.ok().unwrap());
    well(gate.admit(&run, pay(r#"{"amount":40}"#)).await.ok().unwrap());
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.rule, "policy.plane");
}

/// What a tool server asks back, or what a client reads.
struct Other(Action, Bytes, Option<Bytes>);

impl Governed for Other {
    fn action(&self) -> Action {
        self.0.clone()
    }
    fn content(&self) -> Content<'_> {
        Content { body: Some(&self.1), beside: self.2.as_ref(), ..Content::default() }
    }
}

fn other(action: Action) -> Call<Other> {
    let body = Bytes::from_static(b"{\"messages\":[\"transfer 5000\"]}");
    Call { target: Other(action, body, None), worst: Amounts::default(), objection: None, fields: vec![] }
}

fn sampling() -> Action {
    Action::Sampling { server: "files".parse().unwrap() }
}

fn asked(people: &People) -> Vec<(String, &'static str)> {
    people.asked.lock().unwrap().iter().map(|ask| (ask.role.clone(), ask.action.noun())).collect()
}

#[tokio::test]
async fn an_approval_is_for_its_action_and_for_those_who_gave_it() {
    let ledger = Arc::new(Ledger::default());
    let of = |role: &str, action: &str| {
        format!("@escalate(\"{role}\") permit(principal, action in Cogward::Action::\"{action}\", resource);")
    };
    let text = of("clerk", "tool_call") + &of("privacy", "sampling");
    let (gate, run, _) = governed(&ledger, &[("plane", &text)]);
    let approved = || Ok(ApprovalState::Approved(vec![reference()]));
    let waits = || Ok(ApprovalState::Pending(reference()));
    // Popped from the end.
    let people = people(&gate, vec![waits(), waits(), approved()]);
    let call = gate.admit(&run, pay(r#"{"amount":1}"#)).await.ok().unwrap();
    let first = call.first();
    // More of the same needs no other yes.
    well(gate.admit_more(&run, first, pay(r#"{"amount":1}"#)).await.ok().unwrap());
    assert_eq!(asked(&people), [("clerk".to_owned(), "tool.call")]);
    // What the server asks back within it does.
    let refusal = gate.admit_more(&run, first, other(sampling())).await.err().unwrap();
    assert_eq!(refusal.code, RefusalCode::ApprovalRequired);
    assert_eq!(asked(&people)[1], ("privacy".to_owned(), "sampling"));
    // The person sees what is asked for.
    let preview = people.asked.lock().unwrap()[1].arguments.clone();
    assert_eq!(preview.as_deref(), Some(&br#"{"messages":["transfer 5000"]}"#[..]));
    // And so does more of the same when somebody else has to approve it by now.
    activate(&gate, &[("plane", &of("board", "tool_call"))]);
    assert!(gate.admit_more(&run, first, pay(r#"{"amount":1}"#)).await.is_err());
    assert_eq!(asked(&people)[2], ("board".to_owned(), "tool.call"));
    // A call that nobody had to approve is no approval of anything.
    activate(&gate, &[("plane", OPEN)]);
    let open = gate.admit(&run, pay(r#"{"amount":1}"#)).await.ok().unwrap();
    assert_eq!(open.first().approved, None);
}

#[tokio::test]
async fn an_approval_is_for_what_goes_along_with_a_call_too() {
    let ledger = Arc::new(Ledger::default());
    let text = "@escalate(\"privacy\") permit(principal, action, resource);";
    let (gate, run, _) = governed(&ledger, &[("plane", text)]);
    let people = people(&gate, (0..4).map(|_| Ok(ApprovalState::Pending(reference()))).collect());
    for beside in [None, Some("amount=1"), Some("amount=2")] {
        let mut call = other(sampling());
        call.target.2 = beside.map(Bytes::from);
        assert!(gate.admit(&run, call).await.is_err());
    }
    let requests: BTreeSet<String> = people.asked.lock().unwrap().iter().map(|ask| ask.request.to_string()).collect();
    assert_eq!(requests.len(), 3);
    // Whoever approves it sees that too.
    let last = people.asked.lock().unwrap().pop().unwrap().arguments.unwrap();
    assert_eq!(last, "{\"messages\":[\"transfer 5000\"]}\namount=2");
    // Also behind a text that is longer than anybody is shown.
    let mut call = other(sampling());
    (call.target.1, call.target.2) = ("x".repeat(20_000).into(), Some("amount=5000".into()));
    assert!(gate.admit(&run, call).await.is_err());
    let last = people.asked.lock().unwrap().pop().unwrap().arguments.unwrap();
    assert!(last.starts_with(b"amount=5000\nxxx") && last.len() > 20_000);
}

#[tokio::test]
async fn what_is_asked_back_counts_and_more_of_the_same_does_not() {
    let ledger = Arc::new(Ledger::default());
    let text = "@track(\"asks = count of sampling per run; calls = count of tool_call per run\")
        permit(principal, action, resource) when { context.history.asks <= 1 && context.history.calls <= 1 };";
    let (gate, run, _) = governed(&ledger, &[("plane", text)]);
    let first = gate.admit(&run, pay(r#"{"amount":1}"#)).await.ok().unwrap().first();
    assert!(gate.admit_more(&run, first, pay(r#"{"amount":1}"#)).await.is_ok(), "the same call");
    assert!(gate.admit_more(&run, first, other(sampling())).await.is_ok(), "the only one");
    assert_eq!(gate.admit_more(&run, first, other(sampling())).await.err().unwrap().rule, "policy.plane");
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.rule, "policy.plane");
}

#[tokio::test(start_paused = true)]
async fn asking_about_a_call_later_takes_a_slot_and_time() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = setup(&ledger, 5);
    let first = gate.admit(&run, call("read_text_file")).await.ok().unwrap().first();
    let begun = Instant::now();
    let later = || Call { worst: Amounts::default(), ..call("read_text_file") };
    for _ in 0..crate::pace::BURST + 40 {
        well(gate.admit_later(&run, first, later()).await.ok().unwrap());
    }
    assert!(begun.elapsed() >= crate::pace::INTERVAL * 40, "{:?}", begun.elapsed());
    // With all slots taken there is none for it, and that is recorded.
    let all = u32::try_from(cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX).unwrap();
    let slots = Arc::clone(&run.calls).acquire_many_owned(all).await.unwrap();
    let refusal = gate.admit_later(&run, first, later()).await.err().unwrap();
    assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::Throttled, "limits.callsInFlight"));
    assert_eq!(value(&last(&ledger), "rule"), Some(&"limits.callsInFlight".into()));
    drop(slots);
    let held = gate.admit_later(&run, first, later()).await.ok().unwrap();
    assert_eq!(run.calls.available_permits() + 1, cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX);
    drop(held);
    assert_eq!(run.calls.available_permits(), cogward_model::limits::RUN_CALLS_IN_FLIGHT_MAX);
}

/// A server one of whose tools reads personal data.
struct Labelled;

impl ToolFacts for Labelled {
    fn of(&self, _: &TenantName, _: &UpstreamName, _: &ToolName) -> ToolMarks {
        ToolMarks {
            memory: None,
            labels: Arc::default(),
            shape: Some(Arc::new(Shape::of(&serde_json::json!({"type": "object"})))),
        }
    }
    fn of_server(&self, _: &TenantName, server: &UpstreamName) -> Arc<BTreeSet<String>> {
        let labels = if server.as_str() == "files" { vec!["personal".to_owned()] } else { vec![] };
        Arc::new(labels.into_iter().collect())
    }
}

#[tokio::test]
async fn what_is_read_of_a_server_is_labelled_like_its_tools() {
    let ledger = Arc::new(Ledger::default());
    let (gate, _, scope) = setup(&ledger, 100);
    gate.policies().tools_marked_by(Arc::new(Labelled));
    let mut manifest = serde_json::to_value(manifest()).unwrap();
    manifest["spec"]["permissions"]["tools"] = serde_json::json!([
        {"server": "files", "allow": ["read_text_file"], "resources": ["file:///*"], "prompts": ["greet"]},
        {"server": "more", "allow": ["x"], "resources": ["more:///*"], "prompts": ["greet"]},
    ]);
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    let run = || {
        let id: RunId = Id::new(&SystemClock, &SystemEntropy);
        let grant = RunGrant::new(id, &manifest, Digest::from_bytes([7; 32]), None, vec![scope.clone()]);
        let context = Arc::new(RunContext::new(grant));
        context.fence.set(FenceState::Open);
        context
    };
    let read = |server: &str, uri: &str| Action::ResourceRead { server: server.parse().unwrap(), uri: uri.to_owned() };
    let prompt = |server: &str| Action::PromptGet { server: server.parse().unwrap(), prompt: "greet".to_owned() };
    // After personal data was read, nothing is called any more, however it was read.
    let never = "permit(principal, action, resource);
        @id(\"never\") forbid(principal, action in Cogward::Action::\"tool_call\", resource)
        when { context.labels.contains(\"personal\") };";
    activate(&gate, &[("plane", never)]);
    for (action, labelled) in [
        (read("files", "file:///a.txt"), true),
        (prompt("files"), true),
        (read("more", "more:///a.txt"), false),
        (prompt("more"), false),
    ] {
        let run = run();
        well(gate.admit(&run, other(action.clone())).await.ok().unwrap());
        let next = gate.admit(&run, pay(r#"{"amount":1}"#)).await.map(well).err().map(|refusal| refusal.rule);
        assert_eq!(next, labelled.then(|| "policy.plane.never".to_owned()), "{action:?}");
    }
    let labelled = "permit(principal, action, resource);
        @id(\"no\") forbid(principal, action, resource)
        when { resource has labels && resource.labels.contains(\"personal\") };";
    activate(&gate, &[("plane", labelled)]);
    let run = run();
    for action in [read("files", "file:///a.txt"), prompt("files")] {
        assert_eq!(refused(&gate, &run, other(action)).await.rule, "policy.plane.no");
    }
    assert!(gate.admit(&run, other(read("more", "more:///a.txt"))).await.is_ok());
}

/// The template as it is published, in production.
#[tokio::test]
async fn the_template_of_dora_lets_models_and_hosts_of_the_register_through() {
    let ledger = Arc::new(Ledger::default());
    let (gate, _, scope) = setup(&ledger, 100);
    activate(&gate, &[("plane", include_str!("../../../../../docs/policies/dora.cedar"))]);
    let mut manifest = serde_json::to_value(manifest()).unwrap();
    manifest["spec"]["tier"] = "production".into();
    manifest["spec"]["permissions"]["models"] = serde_json::json!([
        {"provider": "openai", "name": "gpt-5", "maxOutputTokens": 256},
        {"provider": "other", "name": "tiny", "maxOutputTokens": 256},
    ]);
    manifest["spec"]["permissions"]["egress"] = serde_json::json!([
        {"host": "api.example.com", "port": 443}, {"host": "other.example.com", "port": 443},
    ]);
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    let id: RunId = Id::new(&SystemClock, &SystemEntropy);
    let grant = RunGrant::new(id, &manifest, Digest::from_bytes([7; 32]), None, vec![scope]);
    assert_eq!(grant.tier.as_str(), "production");
    let run = Arc::new(RunContext::new(grant));
    run.fence.set(FenceState::Open);
    let model = |provider: &str, model: &str| Action::ModelCall {
        provider: provider.parse().unwrap(),
        model: model.to_owned(),
        wire: cogward_model::action::ModelWire::OpenAiChat,
        streaming: false,
    };
    let host = |host: &str| Action::Egress { host: host.to_owned(), port: 443 };
    for (action, registered) in [
        (model("openai", "gpt-5"), true),
        (model("other", "tiny"), false),
        (host("api.example.com"), true),
        (host("other.example.com"), false),
    ] {
        let refused = gate.admit(&run, other(action.clone())).await.map(well).err().map(|refusal| refusal.rule);
        assert_eq!(refused, (!registered).then(|| "policy.plane.dora-28-register".to_owned()), "{action:?}");
    }
}

#[tokio::test]
async fn a_model_has_the_labels_of_its_provider_and_a_run_does_not_read_them() {
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource);
        @id(\"register\") forbid(principal, action == Cogward::Action::\"model_call\", resource)
        unless { resource.labels.contains(\"registered\") };
        @id(\"clean\") forbid(principal, action in Cogward::Action::\"tool_call\", resource)
        unless { context.labels.isEmpty() };";
    let (gate, run, _) = setup(&ledger, 100);
    let labels = Arc::new(crate::upstreams::ProviderLabels::default());
    gate.policies().providers_labelled_by(Arc::clone(&labels));
    activate(&gate, &[("plane", text)]);
    let model = || Action::ModelCall {
        provider: "scripted".parse().unwrap(),
        model: "demo-model".to_owned(),
        wire: cogward_model::action::ModelWire::OpenAiChat,
        streaming: false,
    };
    let (own, elsewhere) = (TenantName::default_tenant(), "acme".parse().unwrap());
    let provider: UpstreamName = "scripted".parse().unwrap();
    let label = |tenant: &TenantName, all: &[&str]| {
        labels.put(tenant, &provider, all.iter().map(|label| (*label).to_owned()).collect());
    };
    assert_eq!(refused(&gate, &run, other(model())).await.rule, "policy.plane.register");
    label(&elsewhere, &["registered"]);
    assert_eq!(refused(&gate, &run, other(model())).await.rule, "policy.plane.register", "of another tenant");
    label(&own, &["registered", "european"]);
    well(gate.admit(&run, other(model())).await.ok().unwrap());
    let record = ledger.of(EventType::ModelCallDecided).pop().unwrap();
    assert_eq!(value(&record, "labels_read"), None);
    assert!(gate.admit(&run, pay("{}")).await.is_ok(), "nothing labelled was read");
    label(&own, &["european"]);
    assert_eq!(refused(&gate, &run, other(model())).await.rule, "policy.plane.register", "taken away");
}

#[tokio::test]
async fn the_marks_of_a_server_are_those_of_all_its_tools() {
    use crate::pins::{PinTable, ServerPins, ToolMarks};
    let table = PinTable::default();
    let mark = |tool: &str, label: &str| {
        let labels = [label.parse().unwrap()].into_iter().collect();
        (tool.parse::<ToolName>().unwrap(), ToolMarks { labels, idempotent: false })
    };
    let marks = [mark("a", "personal"), mark("b", "secret")].into_iter().collect();
    let (tenant, files): (TenantName, UpstreamName) = (TenantName::default_tenant(), "files".parse().unwrap());
    table.put(&tenant, &files, ServerPins::new(None, vec![], Default::default(), marks));
    let labels: Vec<String> = table.of_server(&tenant, &files).iter().cloned().collect();
    assert_eq!(labels, ["personal", "secret"]);
    assert!(table.of_server(&tenant, &"other".parse().unwrap()).is_empty());
}
