use std::{collections::BTreeSet, fmt::Write};

use cedar_policy::{PolicyId, PolicySet};
use cogward_model::manifest::{AutonomyClass, Tier};
use proptest::prelude::*;

use super::*;
use crate::{
    Ask, BudgetLeft, Deed, Hierarchy, PolicyScope, Principal, Record, Value,
    ask::{AgentVersion, MemoryOperation},
    explain,
    obligation::Obligation,
};

pub(crate) fn agent(tenant: &str, agent: &str, tier: Tier) -> Principal {
    Principal::Agent(AgentVersion {
        tenant: tenant.parse().unwrap(),
        agent: agent.parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        digest: Digest::from_bytes([1; 32]),
        tier,
        autonomy: AutonomyClass::Supervised,
        delegators: vec!["acme/boss".into()],
    })
}

pub(crate) fn tool(server: &str, tool: &str, pinned: bool) -> Deed {
    Deed::ToolCall { server: server.parse().unwrap(), tool: tool.parse().unwrap(), pinned }
}

fn head(deed: Deed, labels: &[&str]) -> Arc<Head> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Arc::new(Head { principal: agent("acme", "clerk", Tier::Production), deed, labels })
}

pub(crate) fn facts() -> Facts {
    // Monday, 2026-11-23, 09:00 UTC.
    let mut facts = Facts::at(cogward_model::Timestamp::from_unix_micros(1_795_424_400_000_000));
    facts.subject = Some("ada".into());
    facts.budget = Some(BudgetLeft { usd_nanos: 1_000, tokens: 500, calls: 3 });
    facts.labels = Some(BTreeSet::from(["personal".to_owned()]));
    facts.arguments = Some(Record::from([("amount".into(), Value::Long(5)), ("to".into(), Value::Text("ada".into()))]));
    facts
}

fn version(level: &str, text: &str) -> Arc<Version> {
    Arc::new(Version::load(level.parse().unwrap(), text).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

fn decide(levels: &[(&str, &str)], deed: Deed, labels: &[&str]) -> Decided {
    let hierarchy = Hierarchy::new(levels.iter().map(|(level, text)| version(level, text)));
    let ask = Ask::new(head(deed, labels), facts());
    let decided = hierarchy.decide(&ask);
    let again = Ask::from_json(&ask.to_json().unwrap()).unwrap();
    let explained = explain(hierarchy.versions(), &again, &decided);
    assert!(explained.agrees, "{:?}", explained.differences);
    decided
}

const ALL: &str = "@id(\"all\") permit(principal, action, resource);";
const NONE: &str = "@id(\"none\") forbid(principal, action, resource);";
const ASK: &str =
    "@id(\"ask\") @escalate(\"approver\") @reason(\"money\") @expires(\"15m\") permit(principal, action, resource);";

#[test]
fn the_verdict_of_one_level_in_a_table() {
    let broken = "@id(\"broken\") forbid(principal, action, resource) when { context.arguments.nothing == 1 };";
    let broken_permit = "@id(\"maybe\") permit(principal, action, resource) when { context.arguments.nothing == 1 };";
    for (texts, verdict, cause, rules) in [
        (vec![""], Verdict::Block, Cause::NothingMatched, vec![]),
        (vec![ALL], Verdict::Permit, Cause::Permitted, vec!["all"]),
        (vec![ASK], Verdict::Escalate, Cause::Escalated, vec!["ask"]),
        (vec![ALL, ASK], Verdict::Escalate, Cause::Escalated, vec!["ask"]),
        (vec![ALL, ASK, NONE], Verdict::Block, Cause::Forbidden, vec!["none"]),
        (vec![ALL, broken], Verdict::Block, Cause::RuleFailed, vec!["broken"]),
        (vec![ASK, broken], Verdict::Block, Cause::RuleFailed, vec!["broken"]),
        (vec![NONE, broken], Verdict::Block, Cause::Forbidden, vec!["none"]),
        (vec![broken_permit], Verdict::Block, Cause::NothingMatched, vec![]),
        (vec![ALL, broken_permit], Verdict::Permit, Cause::Permitted, vec!["all"]),
    ] {
        let decided = decide(&[("plane", &texts.join("\n"))], tool("bank", "pay", true), &[]);
        assert_eq!((decided.verdict, decided.levels[0].cause), (verdict, cause), "{texts:?}");
        assert_eq!(decided.levels[0].rules, rules, "{texts:?}");
        assert_eq!(decided.levels[0].errors.is_empty(), !texts.iter().any(|t| t.contains("nothing")), "{texts:?}");
    }
}

#[test]
fn the_strictest_level_decides_and_a_lower_one_never_widens() {
    let levels = ["plane", "tenant:acme", "tier:acme/production", "agent:acme/clerk"];
    let texts = [(ALL, Verdict::Permit), (ASK, Verdict::Escalate), (NONE, Verdict::Block)];
    for combination in 0..81_usize {
        let chosen: Vec<_> = (0..4_u32).map(|n| texts[combination / 3_usize.pow(n) % 3]).collect();
        let stack: Vec<_> = levels.iter().zip(&chosen).map(|(level, (text, _))| (*level, *text)).collect();
        let decided = decide(&stack, tool("bank", "pay", true), &[]);
        let strictest = chosen.iter().map(|(_, verdict)| *verdict).max().unwrap();
        assert_eq!(decided.verdict, strictest);
        let first = chosen.iter().position(|(_, verdict)| *verdict == strictest).unwrap();
        assert_eq!(decided.decided_by, LevelKind::ALL[first]);
        assert_eq!(decided.escalations.is_empty(), strictest != Verdict::Escalate);
    }
}

#[test]
fn obligations_of_all_levels_add_up_and_every_role_has_to_approve() {
    let plane = "@redact(\"result.a\") @escalate(\"risk\") permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    let tenant = "@cap(\"arguments.amount=3\") permit(principal, action in Cogward::Action::\"tool_call\", resource);
        @redact(\"result.a, result.b\") @escalate(\"legal\") permit(principal, action in Cogward::Action::\"tool_call\", resource);
        permit(principal, action == Cogward::Action::\"model_call\", resource);";
    let decided = decide(&[("plane", plane), ("tenant:acme", tenant)], tool("bank", "pay", true), &[]);
    assert_eq!(decided.verdict, Verdict::Escalate);
    let roles: Vec<&str> = decided.escalations.iter().map(|escalation| escalation.role.as_str()).collect();
    assert_eq!(roles, ["legal", "risk"]);
    let path = |text: &str| crate::Path::parse(text).unwrap();
    assert_eq!(
        decided.obligations,
        [
            Obligation::RedactResult(path("a")),
            Obligation::RedactResult(path("b")),
            Obligation::Cap { path: path("amount"), most: 3 },
        ]
    );
}

#[test]
fn a_required_label_that_is_not_there_blocks() {
    let text = "@id(\"inside\") @require_label(\"internal\") permit(principal, action, resource);";
    let decided = decide(&[("plane", text)], tool("bank", "pay", true), &["internal"]);
    assert_eq!(decided.verdict, Verdict::Permit);
    let decided = decide(&[("plane", &format!("{ALL}\n{text}"))], tool("bank", "pay", true), &["public"]);
    assert_eq!((decided.verdict, decided.levels[0].cause), (Verdict::Block, Cause::LabelMissing));
    assert_eq!(decided.rule(), "policy.plane.inside");
}

#[test]
fn what_nobody_labels_has_no_labels_whatever_a_question_says() {
    let server = || "bank".parse().unwrap();
    let model = Deed::ModelCall { provider: server(), model: "m".into() };
    let host = Deed::Egress { host: "api.example.com".into(), port: 443 };
    let (sampling, read) =
        (Deed::Sampling { server: server() }, Deed::ResourceRead { server: server(), uri: "a:b".into() });
    let forbid = format!(
        "{ALL} @id(\"no\") forbid(principal, action, resource)
        when {{ resource has labels && resource.labels.contains(\"open\") }};"
    );
    let unguarded =
        format!("{ALL} @id(\"no\") forbid(principal, action, resource) when {{ resource.labels.isEmpty() }};");
    let required = "@id(\"inside\") @require_label(\"open\") permit(principal, action, resource);";
    for deed in [host, sampling] {
        let says = |text: &str| {
            let decided = decide(&[("plane", text)], deed.clone(), &["open"]);
            (decided.verdict, decided.levels[0].cause)
        };
        assert_eq!(says(&forbid), (Verdict::Permit, Cause::Permitted), "{deed:?}");
        assert_eq!(says(&unguarded), (Verdict::Block, Cause::RuleFailed), "{deed:?}");
        assert_eq!(says(required), (Verdict::Block, Cause::LabelMissing), "{deed:?}");
    }
    for deed in [read, model] {
        assert_eq!(decide(&[("plane", &forbid)], deed.clone(), &["open"]).verdict, Verdict::Block);
        assert_eq!(decide(&[("plane", required)], deed, &["open"]).verdict, Verdict::Permit);
    }
}

fn memory(tool: &str, pinned: bool) -> Deed {
    let operation = MemoryOperation::of_tool(tool);
    Deed::Memory { server: "notes".parse().unwrap(), tool: tool.parse().unwrap(), operation, pinned }
}

#[test]
fn a_memory_is_told_by_its_action_and_its_operation() {
    let rule = "permit(principal, action, resource);
        @id(\"no-write\") forbid(principal, action in Cogward::Action::\"memory\", resource)
          when { context.operation == \"write\" && context.labels.contains(\"personal\") };";
    for (deed, verdict) in [
        (memory("remember", true), Verdict::Block),
        (memory("recall", true), Verdict::Permit),
        (memory("forget", true), Verdict::Permit),
        (tool("bank", "remember", true), Verdict::Permit),
    ] {
        assert_eq!(decide(&[("plane", rule)], deed.clone(), &[]).verdict, verdict, "{deed:?}");
    }
    // Calls of memories count as calls of tools, as calls of their tool, and as calls of memories.
    for (of, counts) in [
        ("tool_call", true),
        ("memory", true),
        ("tool:notes/*", true),
        ("tool:notes/remember", true),
        ("tool:notes/recall", false),
        ("model_call", false),
    ] {
        let tracker = crate::Tracker::parse(&format!("n = count of {of} per run")).unwrap();
        assert_eq!(tracker.counts(&memory("remember", true)), counts, "{of}");
    }
    assert!(!crate::Tracker::parse("n = count of memory per run").unwrap().counts(&tool("bank", "pay", true)));
}

#[test]
fn every_deed_reaches_the_rules_that_are_about_it() {
    let server = || "bank".parse().unwrap();
    for (deed, head) in [
        (
            tool("bank", "pay", true),
            "action in Cogward::Action::\"tool_call\", resource in Cogward::ToolServer::\"bank\"",
        ),
        (
            tool("bank", "pay", true),
            "action == Cogward::Action::\"tool:bank/pay\", resource == Cogward::Tool::\"bank/pay\"",
        ),
        (tool("bank", "pay", false), "action in Cogward::Action::\"tool_call\", resource is Cogward::Tool"),
        (
            Deed::ModelCall { provider: server(), model: "gpt \"5\"".into() },
            "action == Cogward::Action::\"model_call\", resource in Cogward::Provider::\"bank\"",
        ),
        (
            Deed::Egress { host: "api.example.com".into(), port: 443 },
            "action == Cogward::Action::\"egress\", resource in Cogward::Domain::\"example.com\"",
        ),
        (
            memory("remember", true),
            "action in Cogward::Action::\"memory\", resource == Cogward::Tool::\"notes/remember\"",
        ),
        (memory("recall", false), "action in Cogward::Action::\"memory\", resource in Cogward::ToolServer::\"notes\""),
        // It is a call of a tool, and of this one.
        (memory("forget", true), "action in Cogward::Action::\"tool_call\", resource"),
        (memory("forget", true), "action == Cogward::Action::\"tool:notes/forget\", resource"),
        (
            Deed::Token { audience: "crm".into() },
            "action == Cogward::Action::\"token\", resource == Cogward::Audience::\"crm\"",
        ),
        (
            Deed::RunCommand { agent: "acme/clerk".into(), command: "start".into() },
            "action == Cogward::Action::\"run_command\", resource in Cogward::Tenant::\"acme\"",
        ),
        (
            Deed::OperatorCommand { tenant: None, command: "tenant.add".into() },
            "action == Cogward::Action::\"operator_command\", resource == Cogward::Plane::\"plane\"",
        ),
        (
            Deed::Sampling { server: server() },
            "action == Cogward::Action::\"sampling\", resource == Cogward::ToolServer::\"bank\"",
        ),
        (Deed::Elicitation { server: server() }, "action == Cogward::Action::\"elicitation\", resource"),
        (
            Deed::ResourceRead { server: server(), uri: "file:///a b".into() },
            "action == Cogward::Action::\"resource_read\", resource in Cogward::ToolServer::\"bank\"",
        ),
        (
            Deed::PromptGet { server: server(), prompt: "sum".into() },
            "action == Cogward::Action::\"prompt_get\", resource == Cogward::Prompt::\"bank/sum\"",
        ),
    ] {
        for principal in
            ["principal", "principal in Cogward::Tenant::\"acme\"", "principal in Cogward::Tier::\"production\""]
        {
            let decided = decide(&[("plane", &format!("permit({principal}, {head});"))], deed.clone(), &[]);
            assert_eq!(decided.verdict, Verdict::Permit, "{principal}, {head}");
        }
        let other =
            decide(&[("plane", &format!("permit(principal in Cogward::Tenant::\"other\", {head});"))], deed, &[]);
        assert_eq!(other.verdict, Verdict::Block, "{head}");
    }
    let evil = Deed::Egress { host: "example.com.evil.org".into(), port: 443 };
    let text = "permit(principal, action, resource in Cogward::Domain::\"example.com\");";
    assert_eq!(decide(&[("plane", text)], evil, &[]).verdict, Verdict::Block);
}

#[test]
fn the_context_says_what_is_known_and_what_is_missing_blocks() {
    for (condition, matches) in [
        ("context.time.weekday == 1 && context.time.hour == 9 && context.time.epoch_ms == 1795424400000", true),
        ("context.subject == \"ada\" && context.budget.calls == 3", true),
        ("context.labels.contains(\"personal\")", true),
        ("context.tier == \"production\" && context.autonomy == \"supervised\"", true),
        ("principal.delegators.contains(Cogward::Agent::\"acme/boss\")", true),
        ("resource.labels.contains(\"internal\") && resource.server == \"bank\"", true),
        ("context.arguments.amount > 4 && context.arguments.to like \"a*\"", true),
        ("context has run", false),
        ("context.arguments has other", false),
    ] {
        let text = format!("{ALL} forbid(principal, action, resource) when {{ {condition} }};");
        let decided = decide(&[("plane", &text)], tool("bank", "pay", true), &["internal"]);
        assert_eq!(decided.verdict == Verdict::Block, matches, "{condition}: {decided:?}");
        assert!(decided.levels[0].errors.is_empty(), "{condition}: {decided:?}");
    }
    // Whatever a rule reads and nobody looked up: the forbid counts as matching.
    for read in ["budget.tokens < 1", "labels.contains(\"x\")", "history.n > 5", "arguments.amount > 5", "run == \"x\""]
    {
        let text = format!(
            "{ALL} @track(\"n = count of tool_call per run\") forbid(principal, action, resource) when {{ context.{read} }};"
        );
        let hierarchy = Hierarchy::new([version("plane", &text)]);
        let bare = Facts::at(cogward_model::Timestamp::from_unix_micros(0));
        let decided = hierarchy.decide(&Ask::new(head(tool("bank", "pay", true), &[]), bare));
        assert_eq!((decided.verdict, decided.levels[0].cause), (Verdict::Block, Cause::RuleFailed), "{read}");
    }
}

#[test]
fn trackers_are_read_by_what_they_count_and_known_beforehand() {
    let plane = "@track(\"n = count of tool_call per run\") permit(principal, action, resource) when { context.history.n <= 3 };";
    let tenant =
        "@track(\"total = sum(arguments.amount) of tool:bank/pay per user within 1h; n = count of tool_call per run\")
        permit(principal, action, resource) unless { context.history.total > 100 };";
    let hierarchy = Hierarchy::new([version("plane", plane), version("tenant:acme", tenant)]);
    assert_eq!(hierarchy.trackers().len(), 2);
    let head = head(tool("bank", "pay", true), &[]);
    let slice = hierarchy.slice(&head);
    let keys: BTreeSet<String> = slice.needs().history.iter().map(|tracker| tracker.key()).collect();
    assert_eq!(keys.len(), 2);
    assert!(slice.needs().arguments.below("amount").is_some());
    for (n, total, verdict) in [(3, 100, Verdict::Permit), (4, 100, Verdict::Block), (3, 101, Verdict::Block)] {
        let mut facts = facts();
        for tracker in &slice.needs().history {
            facts.history.insert(tracker.key(), if tracker.name == "n" { n } else { total });
        }
        assert_eq!(slice.decide(&facts).verdict, verdict, "{n} {total}");
    }
}

#[test]
fn only_what_the_matching_rules_read_is_needed() {
    let text = "permit(principal, action == Cogward::Action::\"model_call\", resource) when { context.budget.tokens > 5 };
        permit(principal, action in Cogward::Action::\"tool_call\", resource) when {
            context has arguments && context.arguments has a.b && context.arguments.a.b == 1 && context.labels.isEmpty() };";
    let hierarchy = Hierarchy::new([version("plane", text)]);
    let needs = hierarchy.slice(&head(tool("bank", "pay", true), &[])).needs().clone();
    assert!(needs.labels && !needs.budget && !needs.time && !needs.arguments.is_whole());
    assert!(needs.arguments.below("a").is_some_and(|a| a.below("b").is_some()) && needs.arguments.below("x").is_none());
    let needs = hierarchy
        .slice(&head(Deed::ModelCall { provider: "p".parse().unwrap(), model: "m".into() }, &[]))
        .needs()
        .clone();
    assert!(needs.budget && !needs.labels && needs.arguments.is_empty());
}

#[test]
fn the_cache_of_slices_is_bounded_and_labels_are_part_of_its_key() {
    let text = "permit(principal, action, resource) when { resource.labels.contains(\"open\") };";
    let hierarchy = Hierarchy::new([version("plane", text)]).keeping(8);
    for n in 0..50 {
        let _ = hierarchy.slice(&head(Deed::Egress { host: format!("h{n}.example"), port: 1 }, &[]));
        assert!((1..=8).contains(&hierarchy.slices()));
    }
    let verdict = |labels: &[&str]| hierarchy.decide(&Ask::new(head(tool("a", "b", true), labels), facts())).verdict;
    assert_eq!((verdict(&["open"]), verdict(&[])), (Verdict::Permit, Verdict::Block));
}

/// The same question put to the whole set of a level, as Cedar itself answers it.
fn reference(version: &Version, head: &Arc<Head>, facts: &Facts) -> (Verdict, BTreeSet<String>, BTreeSet<String>) {
    let set = PolicySet::from_policies(version.rules().iter().map(|rule| rule.policy.clone())).unwrap();
    let mut needs = Needs {
        budget: true,
        labels: true,
        subject: true,
        run: true,
        time: true,
        model: true,
        request: true,
        ..Needs::default()
    };
    needs.arguments.add([]);
    version.trackers().iter().for_each(|tracker| needs.track(tracker));
    let cast = Cast::of(head).unwrap();
    let context = Context::from_pairs(context::pairs(head, facts, &needs)).unwrap();
    let request = Request::new(cast.principal, cast.action, cast.resource, context, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, &set, &cast.entities);
    let rule = |id: &PolicyId| version.rules().iter().find(|rule| rule.id == *AsRef::<str>::as_ref(id)).unwrap();
    let matched: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    let ids = response
        .diagnostics()
        .errors()
        .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| error.policy_id());
    let failed: BTreeSet<String> = ids.map(ToString::to_string).collect();
    let forbids = |ids: &BTreeSet<String>| ids.iter().any(|id| rule(&PolicyId::new(id)).forbids);
    let asks = |ids: &BTreeSet<String>| ids.iter().any(|id| rule(&PolicyId::new(id)).escalation.is_some());
    let verdict = if matched.is_empty() || forbids(&matched) || forbids(&failed) || asks(&failed) {
        Verdict::Block
    } else if matched.iter().any(|id| rule(&PolicyId::new(id)).escalation.is_some()) {
        Verdict::Escalate
    } else {
        Verdict::Permit
    };
    (verdict, matched, failed)
}

fn policy() -> impl Strategy<Value = String> {
    let principal = prop_oneof![
        Just("principal"),
        Just("principal in Cogward::Tenant::\"acme\""),
        Just("principal in Cogward::Agent::\"acme/clerk\""),
        Just("principal == Cogward::AgentVersion::\"acme/clerk@1.0.0\""),
        Just("principal is Cogward::AgentVersion in Cogward::Tier::\"production\""),
        Just("principal is Cogward::Operator"),
        Just("principal in Cogward::Tenant::\"other\""),
    ];
    let action = prop_oneof![
        Just("action"),
        Just("action in Cogward::Action::\"tool_call\""),
        Just("action == Cogward::Action::\"tool:bank/pay\""),
        Just("action in [Cogward::Action::\"tool:bank/pay\", Cogward::Action::\"egress\"]"),
        Just("action == Cogward::Action::\"egress\""),
        Just("action in []"),
    ];
    let resource = prop_oneof![
        Just("resource"),
        Just("resource == Cogward::Tool::\"bank/pay\""),
        Just("resource in Cogward::ToolServer::\"bank\""),
        Just("resource is Cogward::Host"),
        Just("resource is Cogward::Tool in Cogward::ToolServer::\"files\""),
        Just("resource in Cogward::Domain::\"example.com\""),
    ];
    let condition = prop_oneof![
        Just("true"),
        Just("false"),
        Just("context.arguments.amount > 4"),
        Just("context.arguments.amount > 5"),
        Just("context.arguments.missing == 1"),
        Just("context.arguments has missing && context.arguments.missing == 1"),
        Just("context.labels.contains(\"personal\")"),
        Just("context.arguments.to == \"ada\" && context.arguments.amount >= 5 && context.arguments.missing == 1"),
        Just("context.arguments.to == \"bob\" && context.arguments.missing == 1"),
        Just("context.arguments.amount == \"5\""),
        Just("context.arguments.amount != 5"),
        Just("context.arguments.to < 5"),
        Just("context has subject && context.subject == \"ada\""),
        Just("context has run || context.arguments has amount"),
        Just("context.arguments has to.name"),
        Just("context.budget.calls <= 3 && context.time.weekday > 1"),
        Just("context.budget.tokens < 10"),
        Just("principal.tier == \"production\""),
        Just("principal.tier == \"staging\""),
        Just("principal.nothing == 1"),
        Just("resource.labels.contains(\"open\")"),
        Just("resource.port == 443"),
        Just("resource.port == 443 && context.arguments.amount > 1"),
        Just("principal.tier == \"staging\" && context.arguments.missing == 1"),
        Just("context.arguments.missing == 1 && principal.tier == \"staging\""),
        Just("context.tier == \"staging\" && context.time.hour == 9"),
        Just("9223372036854775807 + context.arguments.amount > 1"),
        Just("action == Cogward::Action::\"egress\" || resource in Cogward::ToolServer::\"bank\""),
    ];
    let clause =
        (prop_oneof![Just("when"), Just("unless")], condition).prop_map(|(word, text)| format!("{word} {{ {text} }}"));
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("@escalate(\"x\") permit"), 2 => Just("forbid")];
    (effect, principal, action, resource, proptest::collection::vec(clause, 0..3)).prop_map(
        |(effect, principal, action, resource, clauses)| {
            format!("{effect}({principal}, {action}, {resource}) {};", clauses.join(" "))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_slice_answers_what_the_whole_set_answers(
        texts in proptest::collection::vec(proptest::collection::vec(policy(), 0..24), 1..3),
        deed in prop_oneof![
            Just(tool("bank", "pay", true)), Just(tool("bank", "pay", false)), Just(tool("files", "read", true)),
            Just(Deed::Egress { host: "api.example.com".into(), port: 443 }),
        ],
        open: bool,
    ) {
        let levels = ["plane", "tenant:acme"];
        let versions: Vec<Arc<Version>> = texts.iter().zip(levels).map(|(rules, level)| version(level, &rules.join("\n"))).collect();
        let head = head(deed, if open { &["open"] } else { &[] });
        let facts = facts();
        let decided = Hierarchy::new(versions.iter().cloned()).slice(&head).decide(&facts);
        let mut strictest = Verdict::Permit;
        for (answer, version) in decided.levels.iter().zip(&versions) {
            let (verdict, matched, failed) = reference(version, &head, &facts);
            prop_assert_eq!(answer.verdict, verdict, "{}", version.text());
            let errors: BTreeSet<String> = answer.errors.iter().map(|error| error.rule.clone()).collect();
            prop_assert_eq!(&errors, &failed, "{}", version.text());
            let mut rules: BTreeSet<String> = answer.rules.iter().cloned().collect();
            if answer.cause == Cause::RuleFailed {
                rules.clear();
            } else if answer.verdict != Verdict::Escalate {
                prop_assert_eq!(&rules, &matched, "{}", version.text());
            }
            prop_assert!(rules.is_subset(&matched));
            strictest = strictest.max(verdict);
        }
        prop_assert_eq!(decided.verdict, strictest);
    }
}

#[test]
fn a_permit_that_holds_something_back_blocks_where_it_fails() {
    let tools = "permit(principal, action in Cogward::Action::\"tool_call\", resource)";
    let overflows = "when { 9223372036854775807 * context.arguments.amount > 10 }";
    for (held, cause) in [
        ("@escalate(\"boss\")", Cause::RuleFailed),
        ("@redact(\"result.iban\")", Cause::RuleFailed),
        ("@cap(\"arguments.amount=1\")", Cause::RuleFailed),
        ("@require_label(\"open\")", Cause::RuleFailed),
        // Nothing is lost with it that another permit would not give.
        ("@doc(\"plain\")", Cause::Permitted),
    ] {
        let text =
            format!("@id(\"all\") permit(principal, action, resource); @id(\"held\") {held} {tools} {overflows};");
        let decided = decide(&[("plane", &text)], tool("bank", "pay", true), &["open"]);
        assert_eq!(decided.levels[0].cause, cause, "{text}");
        assert_eq!(decided.verdict == Verdict::Permit, cause == Cause::Permitted, "{text}");
        assert_eq!(decided.levels[0].errors[0].rule, "held");
    }
}

#[test]
fn heads_with_the_same_conditions_share_them_and_others_do_not() {
    let text =
        "forbid(principal, action, resource) when { resource.labels.contains(\"open\") && context.budget.calls < 1 };
        forbid(principal, action, resource) when { context.budget.tokens < 1 };";
    let hierarchy = Hierarchy::new([version("plane", text)]);
    let slices = [("a", true), ("b", true), ("c", false)]
        .map(|(name, open)| hierarchy.slice(&head(tool("bank", name, true), if open { &["open"] } else { &[] })));
    let dependent = |n: usize| slices[n].levels[0].dependent.as_ref().unwrap();
    assert!(Arc::ptr_eq(dependent(0), dependent(1)) && !Arc::ptr_eq(dependent(0), dependent(2)));
    assert_eq!((dependent(0).rules.len(), dependent(2).rules.len()), (2, 1));
}

#[test]
fn a_text_of_many_levels_is_named_by_what_it_says() {
    let mut text = String::new();
    for n in 0..50 {
        let _ = writeln!(text, "@id(\"r{n}\") permit(principal, action, resource);");
    }
    let decided = decide(&[("plane", &text)], tool("bank", "pay", true), &[]);
    assert_eq!(decided.levels[0].rules.len(), 50);
    assert!(decided.sentence().contains("policy of plane permits it"));
    assert_eq!(PolicyScope::Plane.to_string(), "plane");
}
