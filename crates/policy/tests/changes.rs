//! What a change grants: each way that was found of making an analysis call it nothing, and a search for more of them.
//!
//! "Nothing, exactly" is what an activation is held to. It has to be right for every question, so random changes over a
//! small world are compared, and wherever nothing is said to be granted, questions are asked that the analysis did not
//! choose.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::sync::Arc;

use cogward_policy::{
    PolicyScope, Schema, Shape, Version,
    analysis::{Bounds, Comparison, Extent, compare, sets},
};
use serde_json::{Value as Json, json};

#[path = "changes/world.rs"]
mod world;

const ALL: &str = "permit(principal, action, resource);";

fn plane() -> PolicyScope {
    PolicyScope::Plane
}

fn schema(tools: &[(&str, &str, Json)]) -> Schema {
    let mut schema = Schema::new();
    for (server, tool, properties) in tools {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let input = json!({ "type": "object", "properties": properties, "required": required });
        schema.tool(server, tool, Arc::new(Shape::of(&input)));
    }
    schema
}

/// Texts as they are written: what is not a policy of this schema is no attack.
fn change(schema: &Schema, before: &str, after: &str) -> Comparison {
    let of = |text: &str| match Version::check(plane(), text, schema) {
        Ok(version) => Arc::new(version),
        Err(findings) => panic!("{findings}\n{text}"),
    };
    compare(&plane(), Some(&of(before)), Some(&of(after)), schema, Bounds::default())
}

fn files() -> Schema {
    schema(&[("files", "write", json!({ "path": { "type": "string" } }))])
}

/// It is seen that the change grants something, and that it takes nothing where it is turned around.
fn grants(schema: &Schema, before: &str, after: &str) {
    let changed = change(schema, before, after);
    assert!(!changed.grants.is_empty(), "{before}\n->\n{after}\n{:?}, {} questions", changed.extent, changed.questions);
}

#[test]
fn a_forbid_on_arguments_of_all_tools_is_asked_about_every_approved_tool() {
    let forbid = "forbid(principal, action in Cogward::Action::\"tool_call\", resource) when {
        context has arguments && context.arguments has path && context.arguments.path like \"/etc/*\" };";
    grants(&files(), &format!("{ALL} {forbid}"), ALL);
    let only = "permit(principal, action, resource) when { action == Cogward::Action::\"tool_call\" };";
    grants(&files(), only, "permit(principal, action in Cogward::Action::\"tool_call\", resource);");
    // Without such a tool no question is about the path, and one may be approved tomorrow.
    let changed = change(&schema(&[]), &format!("{ALL} {forbid}"), ALL);
    assert!(matches!(changed.extent, Extent::Search { .. }), "{changed:?}");
}

#[test]
fn one_of_many_tools_is_not_left_out() {
    let tools: Vec<(String, &str)> = (0..40).map(|n| (format!("server-{n}"), "run")).collect();
    let mut all: Vec<(&str, &str, Json)> =
        tools.iter().map(|(server, tool)| (server.as_str(), *tool, json!({ "n": { "type": "integer" } }))).collect();
    all.push(("server-7", "erase", json!({ "everything": { "type": "boolean" } })));
    let forbid = "forbid(principal, action in Cogward::Action::\"tool_call\", resource) when {
        context has arguments && context.arguments has everything && context.arguments.everything };";
    grants(&schema(&all), &format!("{ALL} {forbid}"), ALL);
}

#[test]
fn a_count_that_counts_something_else_is_another_rule() {
    let text = |counted: &str| {
        format!(
            "@track(\"n = count of {counted} per run\") permit(principal is Cogward::Operator, action, resource);
             permit(principal is Cogward::AgentVersion, action, resource);
             @id(\"lim\") forbid(principal is Cogward::AgentVersion, action in Cogward::Action::\"tool_call\", resource)
             when {{ context.history.n > 3 }};"
        )
    };
    let (before, after) = (text("tool_call"), text("prompt_get"));
    grants(&files(), &before, &after);
    let of = |text: &str| Version::load(plane(), text).unwrap();
    let refused = sets::schema_of(&files(), [Some(&of(&before)), Some(&of(&after))]).unwrap_err().to_string();
    assert!(refused.contains("`n` counts something else"), "{refused}");
    assert!(sets::schema_of(&files(), [Some(&of(&before)), Some(&of(&before))]).is_ok());
}

#[test]
fn tools_of_one_name_in_two_tenants_are_each_asked_about() {
    let two = schema(&[
        ("files", "write", json!({ "path": { "type": "string" } })),
        ("files", "write", json!({ "target": { "type": "string" } })),
        ("files", "write", json!({ "target": { "type": "string" } })),
    ]);
    let forbid = "forbid(principal, action in Cogward::Action::\"tool_call\", resource) when {
        context has arguments && context.arguments has path && context.arguments.path == \"/etc/passwd\" };";
    grants(&two, &format!("{ALL} {forbid}"), ALL);
    // A solver is told what both have, so it is told nothing.
    let of = |text: &str| Version::load(plane(), text).unwrap();
    let (before, after) = (of(&format!("{ALL} {forbid}")), of(ALL));
    let refused = sets::schema_of(&two, [Some(&before), Some(&after)]).unwrap_err().to_string();
    assert!(refused.contains("tenants have tools of one name"), "{refused}");
    assert!(sets::schema_of(&two, [Some(&after), Some(&after)]).is_ok(), "no rule reads arguments");
}

#[test]
fn no_rule_can_name_the_stand_in_for_everybody_else() {
    let agents = "principal is Cogward::AgentVersion, action, resource";
    for named in [
        "[\"alice\", \"something-else\"].contains(context.subject)",
        "[\"alice\", \"something-else\", \"a-something-else\", \"b-something-else\"].contains(context.subject)",
        "(context.subject like \"x*\" || context.subject like \"xs*\" || context.subject like \"xa-*\")",
        "context.subject like \"s*\"",
        "context.subject like \"something*\"",
        "context.subject like \"something-else*\"",
    ] {
        let before = format!("permit({agents}) when {{ context has subject && {named} }};");
        let after = format!("permit({agents}) when {{ context has subject }};");
        grants(&files(), &before, &after);
    }
    let before = "permit(principal == Cogward::Operator::\"something-else\", action, resource);";
    grants(&files(), before, "permit(principal is Cogward::Operator, action, resource);");
    let before = format!("permit({agents}) when {{ principal.version == \"1.0.0\" }};");
    grants(&files(), &before, &format!("permit({agents});"));
    let server = "permit(principal, action in Cogward::Action::\"tool_call\", resource in Cogward::ToolServer::\"something-else\");";
    grants(&files(), server, "permit(principal, action in Cogward::Action::\"tool_call\", resource);");
    // Whoever names them all gets no exact answer.
    let words: Vec<String> = ('a'..='z').map(|first| format!("\"{first}-something-else\"")).collect();
    let all = format!(
        "permit({agents}) when {{ context has subject && [\"something-else\", {}].contains(context.subject) }};",
        words.join(", ")
    );
    let changed = change(&files(), &all, &all.replace("z-something-else", "bob"));
    assert!(matches!(changed.extent, Extent::Search { .. }));
}

#[test]
fn what_ends_in_a_domain_may_begin_as_another_rule_says() {
    let hosts =
        "forbid(principal, action == Cogward::Action::\"egress\", resource in Cogward::Domain::\"example.com\")";
    let before = format!("{ALL} {hosts};");
    let after = format!("{ALL} {hosts} unless {{ resource.name like \"api.*\" }};");
    grants(&files(), &before, &after);
    let narrow = change(&files(), &after, &before);
    assert_eq!((narrow.extent, narrow.grants.len()), (Extent::Exact, 0));
    assert!(!narrow.takes.is_empty());
}

#[test]
fn labels_that_no_rule_names_are_labels_too() {
    let tools = "principal, action in Cogward::Action::\"tool_call\", resource";
    grants(&files(), &format!("permit({tools}) when {{ resource.labels.isEmpty() }};"), &format!("permit({tools});"));
    let forbid = format!("forbid({tools}) when {{ context.labels == [\"personal\"] }};");
    grants(&files(), &format!("{ALL} {forbid}"), ALL);
    let not_empty = format!("forbid({tools}) unless {{ context.labels.isEmpty() }};");
    grants(&files(), &format!("{ALL} {not_empty}"), ALL);
    // Sets of sets are not told apart.
    let forbid = format!("forbid({tools}) when {{ [[\"a\"], [\"b\"]].contains(context.labels) }};");
    assert!(matches!(change(&files(), ALL, &format!("{ALL} {forbid}")).extent, Extent::Search { .. }));
}

#[test]
fn lists_of_records_may_have_something_in_them() {
    let lines = json!({ "items": { "type": "array", "items": { "type": "object", "properties": { "n": { "type": "integer" } } } } });
    let schema = schema(&[("shop", "order", lines)]);
    let forbid = "forbid(principal, action == Cogward::Action::\"tool:shop/order\", resource) unless { context.arguments.items.isEmpty() };";
    grants(&schema, &format!("{ALL} {forbid}"), ALL);
}

#[test]
fn a_run_may_be_one_that_no_rule_names() {
    let forbid = "forbid(principal is Cogward::AgentVersion, action, resource) when { context has run };";
    grants(&files(), &format!("{ALL} {forbid}"), ALL);
    let named = "forbid(principal is Cogward::AgentVersion, action, resource) unless { context has run && context.run == \"run_00000000000000000000000000\" };";
    grants(&files(), &format!("{ALL} {named}"), ALL);
}

#[test]
fn an_approval_in_place_of_a_redaction_is_a_grant() {
    let tools = "permit(principal, action in Cogward::Action::\"tool_call\", resource);";
    grants(&files(), &format!("@redact(\"result.iban\") {tools}"), &format!("@escalate(\"boss\") {tools}"));
    let changed = change(
        &files(),
        &format!("@redact(\"result.iban\") {tools}"),
        &format!("@redact(\"result.iban\") @escalate(\"boss\") {tools}"),
    );
    assert!(changed.grants.is_empty() && !changed.takes.is_empty());
}

#[test]
fn operators_have_none_of_the_facts_of_agents() {
    let commands = "forbid(principal is Cogward::Operator, action, resource)";
    // Were budgets known of them, this would forbid nothing.
    grants(&files(), &format!("{ALL} {commands} unless {{ context has budget }};"), ALL);
}

#[test]
fn what_is_not_read_any_more_no_longer_blocks_what_could_not_be_read() {
    // A number beyond 64 bits is no question that can be asked, and the forbid blocks it.
    let never = "forbid(principal, action == Cogward::Action::\"tool:bank/pay\", resource) when { context.arguments.amount > 5 && context.arguments.amount < 5 };";
    let schema = schema(&[("bank", "pay", json!({ "amount": { "type": "integer" } }))]);
    let changed = change(&schema, &format!("{ALL} {never}"), ALL);
    assert!(
        matches!(&changed.extent, Extent::Search { because } if because.iter().any(|why| why.contains("not read")))
    );
    let summed = format!("@track(\"s = sum(arguments.amount) of tool:bank/pay per run\") {ALL}");
    let changed = change(&schema, &summed, ALL);
    assert!(
        matches!(&changed.extent, Extent::Search { because } if because.iter().any(|why| why.contains("sum"))),
        "{changed:?}"
    );
}

#[test]
fn the_time_that_it_may_take_is_looked_at_for_each_head() {
    let rules: Vec<String> = (0..300)
        .map(|n| format!("permit(principal == Cogward::AgentVersion::\"t{n}/a{n}@{n}\", action == Cogward::Action::\"tool:s{n}/t\", resource) when {{ context.time.hour > {} }};", n % 24))
        .collect();
    let of = |text: &str| Arc::new(Version::load(plane(), text).unwrap());
    let (before, after) = (of(&rules.join("\n")), of(&rules[1..].join("\n")));
    let started = std::time::Instant::now();
    let until = started + std::time::Duration::from_millis(300);
    let changed = compare(
        &plane(),
        Some(&before),
        Some(&after),
        &Schema::new(),
        Bounds { questions: 200_000, until: Some(until) },
    );
    let over = started.elapsed().saturating_sub(std::time::Duration::from_millis(300));
    assert!(
        matches!(&changed.extent, Extent::Search { because } if because.contains("there was no time left")),
        "{:?}",
        changed.extent
    );
    assert!(over < std::time::Duration::from_secs(20), "{over:?}: one head, and not all of them");
}
