use cogward_model::UpstreamName;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Shape, ask::Deed};

fn schema() -> Schema {
    let mut schema = Schema::new();
    let pay = json!({
        "type": "object",
        "required": ["amount", "to"],
        "properties": {"amount": {"type": "integer"}, "to": {"type": "string"}, "urgent": {"type": "boolean"}}
    });
    schema.tool("bank", "pay", Arc::new(Shape::of(&pay)));
    schema
}

fn tenant() -> PolicyScope {
    PolicyScope::Tenant("acme".parse().unwrap())
}

fn version(text: &str) -> Arc<Version> {
    Arc::new(Version::check(tenant(), text, &schema()).unwrap_or_else(|findings| panic!("{findings:?}\n{text}")))
}

fn pay(condition: &str) -> Arc<Version> {
    version(&format!(
        "@id(\"pay\")\npermit(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when {{ {condition} }};"
    ))
}

fn compared(before: &Arc<Version>, after: &Arc<Version>) -> Comparison {
    compare(&tenant(), Some(before), Some(after), &schema(), Bounds::default())
}

#[test]
fn a_limit_that_is_raised_by_one_grants_and_one_that_is_lowered_takes() {
    let (before, after) = (pay("context.arguments.amount < 100"), pay("context.arguments.amount <= 100"));
    let raised = compared(&before, &after);
    assert_eq!(raised.extent, Extent::Exact);
    assert_eq!((raised.grants.len(), raised.takes.len()), (1, 0), "{raised:?}");
    let example = &raised.grants[0];
    assert!(matches!(&example.ask.head.deed, Deed::ToolCall { tool, .. } if tool.as_str() == "pay"));
    let amount = example.ask.facts.arguments.as_ref().and_then(|record| record.get("amount"));
    assert_eq!(amount, Some(&crate::Value::Long(100)));
    assert_eq!(stack(&after).decide(&example.ask), example.after.clone().unwrap(), "the example can be asked again");
    let lowered = compared(&after, &before);
    assert_eq!((lowered.extent, lowered.grants.len(), lowered.takes.len()), (Extent::Exact, 0, 1));
}

#[test]
fn the_same_said_otherwise_is_no_change() {
    for (before, after) in [
        ("context.arguments.amount < 100", "!(context.arguments.amount >= 100)"),
        (
            "context.arguments.to == \"a\" || context.arguments.to == \"b\"",
            "[\"a\", \"b\"].contains(context.arguments.to)",
        ),
        (
            "context.labels.contains(\"personal\") && context.arguments.amount > 5",
            "context.arguments.amount > 5 && context.labels.containsAny([\"personal\"])",
        ),
        ("context.tier == \"production\"", "principal in Cogward::Tier::\"production\""),
        ("[1, 5].contains(context.arguments.amount)", "context.arguments.amount == 5 || context.arguments.amount == 1"),
        ("context.time.hour >= 8 && context.time.hour < 9", "context.time.hour == 8"),
    ] {
        let compared = compared(&pay(before), &pay(after));
        assert_eq!(compared.extent, Extent::Exact, "{before}");
        assert!(compared.grants.is_empty() && compared.takes.is_empty(), "{before}: {compared:?}");
        assert!(compared.questions > 0);
    }
}

#[test]
fn a_list_of_constants_is_told_from_another() {
    let (before, after) =
        (pay("[\"a\"].contains(context.arguments.to)"), pay("[\"a\", \"b\"].contains(context.arguments.to)"));
    let wider = compared(&before, &after);
    assert_eq!((wider.extent, wider.grants.len(), wider.takes.len()), (Extent::Exact, 1, 0));
}

#[test]
fn what_cannot_be_enumerated_is_a_search_that_says_why() {
    let calculates = compared(
        &pay("context.arguments.amount < 100"),
        &pay("context.arguments.amount * 2 < 100 + context.arguments.amount"),
    );
    assert!(matches!(&calculates.extent, Extent::Search { because } if because.len() == 1), "{calculates:?}");
    let searches = compared(&pay("context.arguments.to like \"*@acme.com\""), &pay("true"));
    assert!(matches!(searches.extent, Extent::Search { .. }) && searches.grants.len() == 1);
    let prefix = compared(&pay("context.arguments.to like \"DE*\""), &pay("context.arguments.to like \"D*\""));
    assert_eq!((prefix.extent, prefix.grants.len(), prefix.takes.len()), (Extent::Exact, 1, 0));
}

#[test]
fn an_approval_or_an_obligation_that_goes_is_a_grant() {
    let plain = "permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    let asks = format!("@escalate(\"treasurer\") {plain}");
    let asks_two = format!("{asks}\n@id(\"two\") @escalate(\"officer\") {plain}");
    let four_eyes = format!("@escalate(\"treasurer\") @four_eyes {plain}");
    let redacts = format!("@redact(\"result.iban\") {plain}");
    for (before, after, grants, takes) in [
        (asks.as_str(), plain, true, false),
        (plain, asks.as_str(), false, true),
        (asks_two.as_str(), asks.as_str(), true, false),
        (four_eyes.as_str(), asks.as_str(), true, false),
        (asks.as_str(), four_eyes.as_str(), false, true),
        (redacts.as_str(), plain, true, false),
        (plain, redacts.as_str(), false, true),
    ] {
        let compared = compared(&version(before), &version(after));
        assert_eq!((!compared.grants.is_empty(), !compared.takes.is_empty()), (grants, takes), "{before}\n{after}");
    }
}

#[test]
fn calls_of_memories_are_told_apart() {
    let all = "permit(principal, action, resource);";
    let no_write =
        "forbid(principal, action in Cogward::Action::\"memory\", resource) when { context.operation == \"write\" };";
    let none = "forbid(principal, action in Cogward::Action::\"memory\", resource);";
    let (all, no_write, none) =
        (version(all), version(&format!("{all} {no_write}")), version(&format!("{all} {none}")));
    for (before, after, grants, takes) in
        [(&all, &no_write, false, true), (&none, &no_write, true, false), (&no_write, &no_write, false, false)]
    {
        let compared = compared(before, after);
        assert_eq!((!compared.grants.is_empty(), !compared.takes.is_empty()), (grants, takes), "{}", after.text());
        assert_eq!(compared.extent, Extent::Exact);
    }
}

#[test]
fn a_level_without_a_say_permits() {
    let only = pay("context.arguments.amount < 100");
    let first = compare(&tenant(), None, Some(&only), &schema(), Bounds::default());
    assert!(first.grants.is_empty() && !first.takes.is_empty(), "a first version can only narrow");
    let gone = compare(&tenant(), Some(&only), None, &schema(), Bounds::default());
    assert!(!gone.grants.is_empty() && gone.takes.is_empty());
    assert_eq!(gone.extent, Extent::Exact);
}

#[test]
fn rules_that_do_nothing_are_found() {
    let text = "
        @id(\"small\") permit(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when { context.arguments.amount < 10 };
        @id(\"large\") permit(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when { context.arguments.amount < 100 };
        @id(\"never\") permit(principal, action == Cogward::Action::\"tool:bank/pay\", resource)
            when { context.arguments.amount < 10 && context.arguments.amount > 20 };
        @id(\"idle\") forbid(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when { context.arguments.amount > 500 };
        @id(\"holds\") forbid(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when { context.arguments.to == \"eve\" };
        @id(\"asks\") @escalate(\"boss\") permit(principal, action == Cogward::Action::\"tool:bank/pay\", resource)
            when { context.arguments.amount > 90 && context.arguments.amount < 95 };";
    let lint = lint(&version(text), &schema(), Bounds::default());
    assert_eq!(lint.extent, Extent::Exact);
    let idle: Vec<(&str, &Idle)> = lint.idle.iter().map(|idle| (idle.rule.as_str(), &idle.why)).collect();
    let shadowed = Idle::Shadowed { by: vec!["large".to_owned()] };
    assert_eq!(
        idle,
        [("small", &shadowed), ("never", &Idle::Dead), ("idle", &Idle::Shadowed { by: Vec::new() })],
        "a permit inside another, one that cannot match, a forbid of what nothing permits"
    );
}

#[test]
fn hosts_operators_and_labels_are_told_apart() {
    let below = "permit(principal, action == Cogward::Action::\"egress\", resource in Cogward::Domain::\"acme.com\");";
    let one =
        "permit(principal, action == Cogward::Action::\"egress\", resource == Cogward::Host::\"api.acme.com:443\");";
    let compared_hosts = compared(&version(one), &version(below));
    assert!(!compared_hosts.grants.is_empty() && compared_hosts.takes.is_empty(), "{compared_hosts:?}");
    let labelled = "permit(principal, action in Cogward::Action::\"tool_call\", resource) when { resource.labels.contains(\"open\") };";
    let required = "@require_label(\"open\") permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    let same = compared(&version(labelled), &version(required));
    assert!(same.grants.is_empty() && same.takes.is_empty(), "{same:?}");
    let wider = "permit(principal in Cogward::Role::\"admin\", action == Cogward::Action::\"operator_command\", resource);
                 permit(principal == Cogward::Operator::\"ada\", action == Cogward::Action::\"operator_command\", resource);";
    let narrow =
        "permit(principal in Cogward::Role::\"admin\", action == Cogward::Action::\"operator_command\", resource);";
    let compared_commands = compared(&version(narrow), &version(wider));
    assert!(!compared_commands.grants.is_empty() && compared_commands.takes.is_empty());
}

#[test]
fn too_many_combinations_are_a_search() {
    let sum: Vec<String> = (0..9).map(|n| format!("context.labels.contains(\"l{n}\")")).collect();
    let amounts: Vec<String> = (0..60).map(|n| (n * 10).to_string()).collect();
    let texts: Vec<String> = (0..200).map(|n| format!("\"t{n}\"")).collect();
    let long = format!(
        "({}) && [{}].contains(context.arguments.amount) && [{}].contains(context.arguments.to)",
        sum.join(" || "),
        amounts.join(", "),
        texts.join(", ")
    );
    let (long, never) = (pay(&long), pay("false"));
    let few = Bounds { questions: 5_000, until: None };
    let compared = compare(&tenant(), Some(&long), Some(&never), &schema(), few);
    assert!(matches!(&compared.extent, Extent::Search { because } if because.iter().any(|why| why.contains("5000"))));
    assert!(compared.questions <= 5_000 && !compared.takes.is_empty());
    let over = Bounds { until: Some(std::time::Instant::now()), ..few };
    let compared = compare(&tenant(), Some(&long), Some(&never), &schema(), over);
    assert!(matches!(&compared.extent, Extent::Search { because } if because.contains("there was no time left")));
    assert_eq!(compared.questions, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever two conditions over one amount and one text say, an exact answer agrees with asking about every amount.
    #[test]
    fn an_exact_answer_is_right(
        a in condition(), b in condition(), amount in -3_i64..15, to in prop::sample::select(vec!["a", "b", "zz"]),
    ) {
        // Both read both arguments: not to read one any more is a change that no question of these shows.
        let of = |text: &str| pay(&format!("({text}) && context.arguments.amount < 999 && context.arguments.to != \"\""));
        let (before, after) = (of(&a), of(&b));
        let compared = compared(&before, &after);
        prop_assert_eq!(&compared.extent, &Extent::Exact);
        let server: UpstreamName = "bank".parse().unwrap();
        let mut ask = Ask::new(
            Arc::new(Head {
                principal: crate::Principal::Agent(crate::ask::AgentVersion {
                    tenant: "acme".parse().unwrap(),
                    agent: "claims".parse().unwrap(),
                    version: "1.0.0".parse().unwrap(),
                    digest: cogward_model::Digest::from_bytes([1; 32]),
                    tier: cogward_model::manifest::Tier::Production,
                    autonomy: cogward_model::manifest::AutonomyClass::Autonomous,
                    delegators: Vec::new(),
                }),
                deed: Deed::ToolCall { server, tool: "pay".parse().unwrap(), pinned: true },
                labels: BTreeSet::new(),
            }),
            crate::Facts::at(cogward_model::Timestamp::from_unix_micros(0)),
        );
        ask.facts.arguments = Some(crate::Record::from([
            ("amount".to_owned(), crate::Value::Long(amount)),
            ("to".to_owned(), crate::Value::Text(to.to_owned())),
        ]));
        let (was, is) = (stack(&before).decide(&ask).verdict, stack(&after).decide(&ask).verdict);
        if is < was { prop_assert!(!compared.grants.is_empty(), "{} -> {}", a, b); }
        if was < is { prop_assert!(!compared.takes.is_empty(), "{} -> {}", a, b); }
    }
}

fn condition() -> impl Strategy<Value = String> {
    let operators = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!="]);
    let amount = (operators, 0_i64..12).prop_map(|(op, c)| format!("context.arguments.amount {op} {c}"));
    let text = prop::sample::select(vec!["a", "b", "c"]).prop_map(|c| format!("context.arguments.to == \"{c}\""));
    let leaf = prop_oneof![amount, text];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}
