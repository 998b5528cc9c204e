//! The gate with policies: verdicts, history, obligations, and what fails.

use std::collections::BTreeSet;

use cogward_model::{TenantName, ToolName, event::FieldClass, policy_scope::PolicyScope};
use cogward_policy::{Shape, Version};

use super::*;
use crate::policy::{PolicySet, ToolFacts, ToolMarks};

pub(super) struct Pay {
    pub(super) arguments: Bytes,
}

impl Governed for Pay {
    fn action(&self) -> Action {
        Action::ToolCall { server: "files".parse().unwrap(), tool: "read_text_file".parse().unwrap() }
    }
    fn content(&self) -> Content<'_> {
        Content { arguments: Some(&self.arguments), ..Content::default() }
    }
    fn set_arguments(&mut self, arguments: Bytes) {
        self.arguments = arguments;
    }
    fn fields(&self, _: &RunContext) -> Vec<Field> {
        vec![confidential("args", String::from_utf8(self.arguments.to_vec()).unwrap())]
    }
}

pub(super) fn pay(arguments: &str) -> Call<Pay> {
    Call {
        target: Pay { arguments: Bytes::copy_from_slice(arguments.as_bytes()) },
        worst: Amounts { tool_calls: 1, ..Amounts::default() },
        objection: None,
        fields: vec![],
    }
}

/// `read_text_file` takes an amount and reads personal data; `list_directory` is not pinned.
struct Marks;

impl ToolFacts for Marks {
    fn of(&self, _: &TenantName, _: &UpstreamName, tool: &ToolName) -> ToolMarks {
        if tool.as_str() != "read_text_file" {
            return ToolMarks::default();
        }
        let schema = serde_json::json!({
            "type": "object",
            "properties": {"amount": {"type": "integer"}, "to": {"type": "string"}},
            "required": ["amount"],
        });
        ToolMarks {
            labels: Arc::new(BTreeSet::from(["personal".to_owned()])),
            shape: Some(Arc::new(Shape::of(&schema))),
            memory: None,
        }
    }
}

fn version(level: &str, text: &str) -> Arc<Version> {
    Arc::new(Version::load(level.parse().unwrap(), text).unwrap())
}

pub(super) fn activate(gate: &Gate, levels: &[(&str, &str)]) -> u64 {
    let versions = levels.iter().map(|(level, text)| version(level, text)).collect();
    gate.policies().active().replace(PolicySet { versions, ..PolicySet::default() }, gate.now()).unwrap()
}

pub(super) fn governed(ledger: &Arc<Ledger>, levels: &[(&str, &str)]) -> (Arc<Gate>, Arc<RunContext>, Scope) {
    let (gate, run, scope) = setup(ledger, 1_000);
    gate.policies().tools_marked_by(Arc::new(Marks));
    activate(&gate, levels);
    (Arc::new(gate), run, scope)
}

pub(super) fn value<'a>(event: &'a Event, name: &str) -> Option<&'a Value> {
    event.fields.iter().find(|field| field.name == name).map(|field| &field.value)
}

pub(super) fn last(ledger: &Ledger) -> Event {
    ledger.of(EventType::ToolCallDecided).pop().unwrap()
}

pub(super) fn well(admitted: Admitted<impl Sized>) {
    let used = admitted.reserved();
    admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
}

pub(super) async fn refused<A: Governed>(gate: &Gate, run: &Arc<RunContext>, call: Call<A>) -> Refusal {
    gate.admit(run, call).await.err().unwrap()
}

pub(super) const OPEN: &str = "permit(principal, action, resource);";

#[tokio::test]
async fn the_built_in_version_is_in_every_record() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = setup(&ledger, 5);
    well(gate.admit(&run, call("read_text_file")).await.ok().unwrap());
    let record = last(&ledger);
    let Some(Value::List(policy)) = value(&record, "policy") else { panic!("{record:?}") };
    assert!(matches!(&policy[..], [Value::Text(text)] if text.starts_with("plane sha256:")), "{policy:?}");
    assert_eq!(value(&record, "policy_verdict"), Some(&"permit".into()));
    assert_eq!(value(&record, "policy_level"), Some(&"plane".into()));
    let input = record.fields.iter().find(|field| field.name == "policy_input").unwrap();
    assert_eq!(input.class, FieldClass::Confidential);
    assert!(matches!(value(&record, "version_digest"), Some(Value::Text(_))));
}

#[tokio::test]
async fn a_block_names_its_level_and_rule_costs_nothing_and_tells_the_advice() {
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource);
        @id(\"no-reading\") @advice(\"Ask the data office\")
        forbid(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"files/read_text_file\");";
    let (gate, run, scope) = governed(&ledger, &[("tenant:default", text)]);
    let refusal = refused(&gate, &run, pay(r#"{"amount":1}"#)).await;
    assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::PolicyBlocked, "policy.tenant.no-reading"));
    assert_eq!(refusal.next_step, "Ask the data office");
    let record = last(&ledger);
    assert_eq!(value(&record, "decision"), Some(&"block".into()));
    assert_eq!(value(&record, "policy_rules"), Some(&vec!["no-reading"].into()));
    assert_eq!(gate.budgets.balance(&scope).used.tool_calls + gate.budgets.balance(&scope).held.tool_calls, 0);
    // What is not declared is refused as that: a policy tells nothing of it.
    let text = "forbid(principal, action, resource);";
    activate(&gate, &[("plane", text)]);
    assert_eq!(refused(&gate, &run, call("write_file")).await.code, RefusalCode::NotDeclared);
}

#[tokio::test]
async fn without_policies_or_with_one_that_cannot_be_used_nothing_is_permitted() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = governed(&ledger, &[]);
    gate.policies().active().clear();
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.rule, "policy");
    let unusable = |scope: PolicyScope| PolicySet {
        unusable: [(scope, "it cannot be read".to_owned())].into(),
        ..PolicySet::default()
    };
    for scope in ["plane", "tenant:default", "tier:default/development", "agent:default/reader"] {
        let set = unusable(scope.parse().unwrap());
        gate.policies().active().replace(set, gate.now()).unwrap();
        let refusal = refused(&gate, &run, pay(r#"{"amount":1}"#)).await;
        assert_eq!(refusal.code, RefusalCode::PolicyBlocked, "{scope}");
    }
    gate.policies().active().replace(unusable("agent:default/other".parse().unwrap()), gate.now()).unwrap();
    assert!(gate.admit(&run, pay(r#"{"amount":1}"#)).await.is_ok(), "another agent's level is not ours");
}

#[tokio::test]
async fn arguments_decide_and_no_spelling_gets_around_them() {
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource);
        @id(\"large\") forbid(principal, action == Cogward::Action::\"tool:files/read_text_file\", resource)
        when { context.arguments.amount > 100 };";
    let (gate, run, _) = governed(&ledger, &[("agent:default/reader", text)]);
    assert!(gate.admit(&run, pay(r#"{"amount":100}"#)).await.is_ok());
    for (arguments, rule) in [
        (r#"{"amount":101}"#, "policy.agent.large"),
        (r#"{"\u0061mount":101}"#, "policy.agent.large"),
        (r#"{"amount":1,"amount":101}"#, "policy.arguments"),
        (r#"{"amount":101,"\u0061mount":1}"#, "policy.arguments"),
        (r#"{"amount":9223372036854775808}"#, "policy.arguments"),
        (r#"{"amount":1e30}"#, "policy.arguments"),
        (r#"{"amount":"1"}"#, "policy.arguments"),
        // Another letter that looks the same is another argument, and this one is not given.
        ("{\"\u{430}mount\":1}", "policy.agent.large"),
        ("{}", "policy.agent.large"),
        ("not json", "policy.arguments"),
    ] {
        assert_eq!(refused(&gate, &run, pay(arguments)).await.rule, rule, "{arguments}");
    }
}

#[tokio::test]
async fn an_argument_that_a_rule_names_and_no_schema_types_is_not_passed_over() {
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource);
        @id(\"etc\") forbid(principal, action in Cogward::Action::\"tool_call\", resource) when {
            context has arguments && context.arguments has path && context.arguments.path like \"/etc/*\" };";
    let (gate, run, _) = governed(&ledger, &[("tenant:default", text)]);
    // The schema of this tool has no `path`, and lets others be sent.
    for arguments in [r#"{"amount":1,"path":"/etc/passwd"}"#, r#"{"amount":1,"p\u0061th":{"a":1}}"#] {
        assert_eq!(refused(&gate, &run, pay(arguments)).await.rule, "policy.arguments", "{arguments}");
    }
    assert!(gate.admit(&run, pay(r#"{"amount":1,"other":"/etc/passwd"}"#)).await.is_ok());
    assert!(gate.admit(&run, pay(r#"{"amount":1,"path":null}"#)).await.is_ok());
    // A tool that is not pinned has no types at all.
    struct List(Bytes);
    impl Governed for List {
        fn action(&self) -> Action {
            Action::ToolCall { server: "files".parse().unwrap(), tool: "list_directory".parse().unwrap() }
        }
        fn content(&self) -> Content<'_> {
            Content { arguments: Some(&self.0), ..Content::default() }
        }
    }
    let list = |arguments: &'static str| Call {
        target: List(Bytes::from_static(arguments.as_bytes())),
        worst: Amounts::default(),
        objection: None,
        fields: vec![],
    };
    assert_eq!(refused(&gate, &run, list(r#"{"path":"/etc"}"#)).await.rule, "policy.arguments");
    assert!(gate.admit(&run, list(r#"{"other":"/etc"}"#)).await.is_ok());
}

#[tokio::test]
async fn more_than_can_be_recorded_is_not_decided() {
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource) when { context.arguments.to != \"x\" };";
    let (gate, run, scope) = governed(&ledger, &[("plane", text)]);
    for (length, rule) in [(20_000, "policy.arguments"), (16_300, "policy.input")] {
        let long = serde_json::json!({"amount": 1, "to": "y".repeat(length)}).to_string();
        let refusal = refused(&gate, &run, pay(&long)).await;
        assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::InvalidRequest, rule));
    }
    assert_eq!(gate.budgets.balance(&scope).held.tool_calls, 0);
    // What no policy reads may be as long as it likes.
    let unread = serde_json::json!({"amount": 1, "to": "y", "more": "z".repeat(200_000)}).to_string();
    assert!(gate.admit(&run, pay(&unread)).await.is_ok());
}

const FIVE: &str = "@track(\"reads = count of tool:files/read_text_file per user\")
    permit(principal, action, resource) when { context.history.reads <= 5 };
    permit(principal, action == Cogward::Action::\"tool_call\", resource);";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_at_once_get_exactly_five_and_what_had_no_effect_is_given_back() {
    let ledger = Arc::new(Ledger::default());
    let text = FIVE.replace("== Cogward::Action::\"tool_call\"", "== Cogward::Action::\"model_call\"");
    let (gate, run, _) = governed(&ledger, &[("tenant:default", &text)]);
    let ask = |gate: &Arc<Gate>, run: &Arc<RunContext>| {
        let (gate, run) = (Arc::clone(gate), Arc::clone(run));
        tokio::spawn(async move { gate.admit(&run, pay(r#"{"amount":1}"#)).await })
    };
    let calls: Vec<_> = (0..64).map(|_| ask(&gate, &run)).collect();
    let mut admitted = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(call) => admitted.push(call),
            Err(refusal) => assert_eq!(refusal.rule, "policy.tenant"),
        }
    }
    assert_eq!(admitted.len(), 5, "in flight counts");
    // Two certainly had no effect, one may have had one: two more are let through.
    for _ in 0..2 {
        let cause = "not reachable".to_owned();
        admitted.pop().unwrap().settle(&Outcome::Broken { used: Amounts::default(), cause });
    }
    drop(admitted.pop());
    for call in admitted {
        well(call);
    }
    for (n, expected) in [true, true, false].into_iter().enumerate() {
        let answer = ask(&gate, &run).await.unwrap();
        assert_eq!(answer.is_ok(), expected, "{n}");
        answer.into_iter().for_each(well);
    }
}

#[tokio::test]
async fn what_is_not_recorded_or_not_affordable_is_taken_back() {
    let ledger = Arc::new(Ledger::default());
    let text = "@track(\"reads = count of tool_call per run\")
        permit(principal, action, resource) when { context.history.reads <= 1 };";
    let (gate, run, _) = governed(&ledger, &[("plane", text)]);
    ledger.broken.store(true, Ordering::Release);
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.code, RefusalCode::EvidenceUnavailable);
    ledger.broken.store(false, Ordering::Release);
    let dear = Call { worst: Amounts { tool_calls: 5_000, ..Amounts::default() }, ..pay(r#"{"amount":1}"#) };
    assert_eq!(refused(&gate, &run, dear).await.code, RefusalCode::BudgetExceeded);
    assert!(gate.admit(&run, pay(r#"{"amount":1}"#)).await.is_ok(), "the only one that counts");
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.rule, "policy.plane");
}

#[tokio::test]
async fn a_sum_cannot_be_got_around_by_how_the_number_is_written() {
    let ledger = Arc::new(Ledger::default());
    let text = "@track(\"spent = sum(arguments.amount) of tool:files/* per user within 1h\")
        permit(principal, action, resource) when { context.history.spent <= 100 };";
    let (gate, run, _) = governed(&ledger, &[("tenant:default", text)]);
    well(gate.admit(&run, pay(r#"{"amount":60}"#)).await.ok().unwrap());
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":41}"#)).await.rule, "policy.tenant");
    for arguments in [r#"{"amount":"41"}"#, r#"{"amount":1e40}"#, r#"{"amount":{"x":1}}"#, r#"{"amount":[41]}"#] {
        assert!(gate.admit(&run, pay(arguments)).await.is_err(), "{arguments}");
    }
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":9223372036854775807}"#)).await.rule, "policy.tenant");
    // A negative amount gives nothing back.
    well(gate.admit(&run, pay(r#"{"amount":-1000}"#)).await.ok().unwrap());
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":41}"#)).await.rule, "policy.tenant");
    well(gate.admit(&run, pay(r#"{"amount":40}"#)).await.ok().unwrap());
    // A tool whose arguments have no types, under a sum that counts it.
    struct List;
    impl Governed for List {
        fn action(&self) -> Action {
            Action::ToolCall { server: "files".parse().unwrap(), tool: "list_directory".parse().unwrap() }
        }
        fn content(&self) -> Content<'_> {
            static ARGUMENTS: Bytes = Bytes::from_static(br#"{"amount":1}"#);
            Content { arguments: Some(&ARGUMENTS), ..Content::default() }
        }
    }
    let call = Call { target: List, worst: Amounts::default(), objection: None, fields: vec![] };
    assert_eq!(refused(&gate, &run, call).await.rule, "policy.history");
}

#[tokio::test]
async fn only_after_and_never_after() {
    let ledger = Arc::new(Ledger::default());
    let text = "@track(\"read = count of tool:files/read_text_file per run completed\")
        permit(principal, action == Cogward::Action::\"tool:files/read_text_file\", resource);
        @id(\"after\") permit(principal, action, resource == Cogward::Tool::\"files/list_directory\")
        when { context.history.read >= 1 };
        @id(\"never\") forbid(principal, action in Cogward::Action::\"tool_call\", resource == Cogward::Tool::\"files/list_directory\")
        when { context.labels.contains(\"secret\") };";
    let (gate, run, _) = governed(&ledger, &[("plane", text)]);
    assert_eq!(refused(&gate, &run, call("list_directory")).await.rule, "policy.plane");
    let reading = gate.admit(&run, pay(r#"{"amount":1}"#)).await.ok().unwrap();
    assert!(gate.admit(&run, call("list_directory")).await.is_err(), "not while it is in flight");
    well(reading);
    assert!(gate.admit(&run, call("list_directory")).await.is_ok());
    assert_eq!(value(&ledger.of(EventType::ToolCallDecided)[1], "labels_read"), Some(&vec!["personal"].into()));
    activate(&gate, &[("plane", &text.replace("secret", "personal"))]);
    assert_eq!(refused(&gate, &run, call("list_directory")).await.rule, "policy.plane.never");
}

#[tokio::test]
async fn obligations_change_what_is_recorded_and_forwarded() {
    let ledger = Arc::new(Ledger::default());
    let text = "@cap(\"arguments.amount=10\") @redact(\"arguments.to, result.iban\")
        permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    let (gate, run, _) = governed(&ledger, &[("tenant:default", text)]);
    let admitted = gate.admit(&run, pay(r#"{"amount": 99,"to":"DE02"}"#)).await.ok().unwrap();
    let forwarded = r#"{"amount": 10,"to":"[redacted]"}"#;
    assert_eq!(admitted.target().arguments, forwarded);
    let record = last(&ledger);
    assert_eq!(value(&record, "args"), Some(&forwarded.into()));
    let told = vec!["redact arguments.to", "redact result.iban", "cap arguments.amount=10"];
    assert_eq!(value(&record, "obligations"), Some(&told.into()));
    assert!(admitted.redacts());
    let result = admitted.redact(br#"{"content":[],"structuredContent":{"iban":"DE02"}}"#).unwrap().unwrap();
    assert!(!result.contains("DE02"));
    assert!(admitted.redact(b"garbage").is_err());
    let refusal = refused(&gate, &run, pay(r#"{"amount":true,"to":"DE02"}"#)).await;
    assert_eq!(refusal.code, RefusalCode::PolicyBlocked, "what is no number cannot be capped: {refusal:?}");
    // A number that is not given is the cap, not the server's own idea of it.
    let admitted = gate.admit(&run, pay("{}")).await.ok().unwrap();
    assert_eq!(admitted.target().arguments, r#"{"amount":10}"#);
    // What is no tool goes on as it is, so a change that is asked for stops it.
    activate(
        &gate,
        &[("plane", "@redact(\"result.a\") permit(principal, action in Cogward::Action::\"tool_call\", resource);")],
    );
    assert!(gate.admit(&run, call("list_directory")).await.ok().unwrap().redacts());
}

#[tokio::test]
async fn a_call_is_recorded_under_the_versions_that_decided_it() {
    let hold = Arc::new(Notify::new());
    let ledger = Arc::new(Ledger { hold: Some(Arc::clone(&hold)), ..Ledger::default() });
    let (gate, run, scope) = governed(&ledger, &[("tenant:default", OPEN)]);
    let deciding = tokio::spawn({
        let (gate, run) = (Arc::clone(&gate), Arc::clone(&run));
        async move { gate.admit(&run, pay(r#"{"amount":1}"#)).await.is_ok() }
    });
    while gate.budgets.balance(&scope).held.tool_calls == 0 {
        tokio::task::yield_now().await;
    }
    let next = activate(&gate, &[("tenant:default", "forbid(principal, action, resource);")]);
    hold.notify_one();
    assert!(deciding.await.unwrap());
    let record = last(&ledger);
    assert_eq!(value(&record, "policy_generation"), Some(&(next - 1).into()));
    let digest = version("tenant:default", OPEN).digest().to_string();
    let Some(Value::List(policy)) = value(&record, "policy") else { panic!("{record:?}") };
    assert!(policy.contains(&format!("tenant:default {digest}").into()), "{policy:?}");
    hold.notify_one();
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.code, RefusalCode::PolicyBlocked);
    let bad = PolicySet { versions: vec![], unusable: Default::default() };
    assert_eq!(gate.policies().active().replace(bad, gate.now()).unwrap(), next + 1);
}

#[tokio::test]
async fn models_and_hosts_are_decided_by_the_same_policies() {
    struct Wants(Action);
    impl Governed for Wants {
        fn action(&self) -> Action {
            self.0.clone()
        }
    }
    let ledger = Arc::new(Ledger::default());
    let text = "permit(principal, action, resource);
        @id(\"long\") forbid(principal, action == Cogward::Action::\"model_call\", resource) when { context.model.tokens_max > 100 };
        @id(\"out\") forbid(principal, action == Cogward::Action::\"egress\", resource in Cogward::Domain::\"example.com\");";
    let (gate, run, scope) = governed(&ledger, &[("tenant:default", text)]);
    let most = Amounts { tokens: 1_000, tool_calls: 10, connections: 10, ..Amounts::default() };
    gate.budgets.open(scope, most);
    let ask = |action: Action, tokens| {
        let worst = Amounts { tokens, ..Amounts::default() };
        gate.admit(&run, Call { target: Wants(action), worst, objection: None, fields: vec![] })
    };
    let model = || Action::ModelCall {
        provider: "scripted".parse().unwrap(),
        model: "demo-model".into(),
        wire: cogward_model::action::ModelWire::OpenAiChat,
        streaming: false,
    };
    assert!(ask(model(), 100).await.is_ok());
    assert_eq!(ask(model(), 101).await.err().unwrap().rule, "policy.tenant.long");
    let host = Action::Egress { host: "api.example.com".into(), port: 443 };
    assert_eq!(ask(host, 0).await.err().unwrap().rule, "policy.tenant.out");
}
