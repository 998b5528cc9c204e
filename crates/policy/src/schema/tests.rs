use std::fs;

use serde_json::json;

use super::*;
use crate::{Finding, Findings, PolicyScope, Severity, Version};

fn schema() -> Schema {
    let mut schema = Schema::new();
    schema.tool(
        "bank",
        "pay",
        Arc::new(Shape::of(&json!({
            "type": "object",
            "properties": {
                "amount": { "type": "integer" },
                "rate": { "type": "number" },
                "to": { "type": "object", "properties": { "iban": { "type": "string" } }, "required": ["iban"] },
                "memo": { "type": "string" },
                "blob": {},
            },
            "required": ["amount", "to"],
        }))),
    );
    schema.tool("files", "read", Arc::new(Shape::of(&json!({ "properties": { "path": { "type": "string" } } }))));
    schema
}

fn findings(text: &str) -> Vec<Finding> {
    match Version::check(PolicyScope::Plane, text, &schema()) {
        Ok(version) => version.warnings().to_vec(),
        Err(Findings(findings)) => findings,
    }
}

fn only(text: &str) -> Finding {
    let mut all = findings(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

const PAY: &str = "action == Cogward::Action::\"tool:bank/pay\"";

#[test]
fn the_published_schema_is_the_one_that_is_used() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.schema.cedarschema");
    let text = Schema::published();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), text, "run again with UPDATE_DOCS=1");
    let (_, warnings) = cedar_policy::Schema::from_cedarschema_str(&text).unwrap();
    assert_eq!(warnings.count(), 0);
}

#[test]
fn an_argument_that_does_not_exist_is_refused_when_it_is_written() {
    let text = format!("@id(\"x\")\nforbid(principal, {PAY}, resource)\n  when {{ context.arguments.amout > 5 }};");
    let found = only(&text);
    assert_eq!((found.severity, found.line, found.rule.as_deref()), (Severity::Error, 3, Some("x")));
    assert_eq!(found.what, "`bank/pay` has no argument `amout`");
    assert_eq!(found.next_step, "Did you mean `amount`?");
    let text = format!("forbid(principal, {PAY}, resource) when {{ context.arguments.to.ibn == \"x\" }};");
    assert_eq!(only(&text).next_step, "Did you mean `to.iban`?");
}

#[test]
fn an_argument_without_a_type_is_refused_with_the_reason() {
    let found = only(&format!("forbid(principal, {PAY}, resource) when {{ context.arguments.blob == 1 }};"));
    assert!(found.what.contains("`blob` of `bank/pay`: the schema says nothing of its type"), "{found}");
}

#[test]
fn a_type_that_does_not_fit_is_refused() {
    for text in [
        "context.arguments.amount == \"5\"",
        "context.arguments.rate > 5",
        "context.arguments.memo like \"x*\"",
        "context.budget.money > 5",
        "context.tier == 5",
    ] {
        let found = findings(&format!("forbid(principal, {PAY}, resource) when {{ {text} }};"));
        assert!(found.iter().any(|one| one.severity == Severity::Error), "{text}: {found:?}");
    }
    for text in [
        "context.arguments.amount == 5",
        "context.arguments has rate && context.arguments.rate.greaterThan(decimal(\"5.0\"))",
        "context.arguments has memo && context.arguments.memo like \"x*\"",
        "context.budget.tokens < 5 || context.labels.contains(\"personal\") || context.time.hour > 22",
        "principal.tier == \"production\" && resource.server == \"bank\"",
    ] {
        assert_eq!(findings(&format!("forbid(principal, {PAY}, resource) when {{ {text} }};")), [], "{text}");
    }
}

#[test]
fn an_optional_argument_has_to_be_guarded() {
    let found = only(&format!("forbid(principal, {PAY}, resource) when {{ context.arguments.memo == \"x\" }};"));
    assert_eq!(found.what, "the argument `memo` of `bank/pay` is optional");
    assert_eq!(found.next_step, "Ask first whether it is there: `context.arguments has memo && …`");
}

#[test]
fn an_unknown_tool_tier_or_kind_is_refused() {
    for head in [
        "principal, action == Cogward::Action::\"tool:bank/pya\", resource",
        "principal, action == Cogward::Action::\"toolcall\", resource",
        "principal in Cogward::Tier::\"prod\", action, resource",
        "principal is Cogward::Agnet, action, resource",
        "principal, action, resource is Tool",
    ] {
        let found = findings(&format!("permit({head});"));
        assert!(found.iter().any(|one| one.severity == Severity::Error), "{head}: {found:?}");
    }
    let found = only("permit(principal, action, resource == Cogward::Tool::\"bank/pya\");");
    assert_eq!((found.severity, found.next_step.as_str()), (Severity::Warning, "Did you mean `bank/pay`?"));
}

#[test]
fn annotations_that_name_what_is_not_there_are_refused() {
    for (annotation, next_step) in [
        ("@redact(\"arguments.to.ibna\")", "Did you mean `arguments.to.iban`?"),
        ("@cap(\"arguments.amuont=5\")", "Did you mean `arguments.amount`?"),
        ("@cap(\"arguments.memo=5\")", "Name an argument that is a number"),
        ("@track(\"x = sum(arguments.amuont) of tool:bank/pay per run\")", "Did you mean `arguments.amount`?"),
        ("@track(\"x = sum(arguments.memo) of tool:bank/* per run\")", "Name an argument that is a number"),
    ] {
        let found = only(&format!("{annotation}\npermit(principal, {PAY}, resource);"));
        assert_eq!((found.severity, found.next_step.as_str()), (Severity::Error, next_step), "{annotation}");
    }
    let fine = format!(
        "@redact(\"arguments.blob, result.anything\")\n@cap(\"arguments.amount=5\")\n\
         @track(\"x = sum(arguments.rate) of tool:bank/* per run; y = count of tool_call per user\")\n\
         permit(principal, {PAY}, resource);"
    );
    assert_eq!(findings(&fine), []);
}

#[test]
fn an_argument_of_some_tools_can_be_read_where_it_is_there() {
    let text = "forbid(principal, action in Cogward::Action::\"tool_call\", resource) when {
        context has arguments && context.arguments has path && context.arguments.path like \"*/..*\" };";
    assert_eq!(findings(text), []);
    let text = text.replace("context has arguments && ", "");
    assert!(findings(&text).iter().any(|one| one.severity == Severity::Error));
}

#[test]
fn a_count_is_declared_where_all_of_its_calls_are_seen() {
    let refused = |level: &str, per: &str| {
        let text =
            format!("@track(\"n = count of tool_call per {per} within 1h\") permit(principal, action, resource);");
        match Version::check(level.parse().unwrap(), &text, &schema()) {
            Ok(_) => false,
            Err(Findings(found)) => found.iter().any(|one| one.what.contains("sees only a part")),
        }
    };
    for (level, whole) in [
        ("plane", ["run", "agent", "user", "tenant"].as_slice()),
        ("tenant:acme", &["run", "agent", "user", "tenant"]),
        ("tier:acme/production", &["run"]),
        ("agent:acme/clerk", &["run", "agent"]),
    ] {
        for per in ["run", "agent", "user", "tenant"] {
            assert_eq!(refused(level, per), !whole.contains(&per), "{level} per {per}");
        }
    }
}

#[test]
fn every_finding_comes_at_once_in_the_order_of_the_text() {
    let text = format!(
        "forbid(principal, {PAY}, resource) when {{ context.arguments.a == 1 }};\n\
         permit(principal, action, resource);\n\
         forbid(principal, {PAY}, resource) when {{ context.arguments.b == 1 }};\n"
    );
    let found = findings(&text);
    assert_eq!(found.iter().map(|one| one.line).collect::<Vec<_>>(), [1, 3], "{found:?}");
}

#[test]
fn two_tenants_tools_of_one_name_offer_what_they_share() {
    let mut both = schema();
    both.tool("bank", "pay", Arc::new(Shape::of(&json!({ "properties": { "amount": { "type": "string" } } }))));
    let text = format!("forbid(principal, {PAY}, resource) when {{ context.arguments.amount == 1 }};");
    let Err(Findings(found)) = Version::check(PolicyScope::Plane, &text, &both) else { panic!("taken") };
    assert!(found.iter().any(|one| one.what.contains("tenants have tools of this name")), "{found:?}");
}

#[test]
fn a_rule_about_memories_reads_the_operation_and_the_arguments_of_one_tool() {
    let mut schema = schema();
    let remember = json!({ "properties": { "text": { "type": "string" } }, "required": ["text"] });
    schema.memory_tool("notes", "remember", Arc::new(Shape::of(&remember)));
    let check =
        |text: &str| Version::check(PolicyScope::Plane, text, &schema).map(|version| version.warnings().to_vec());
    for fine in [
        "forbid(principal, action in Cogward::Action::\"memory\", resource) when { context.operation == \"write\" };",
        "forbid(principal, action == Cogward::Action::\"tool:notes/remember\", resource) when { context.arguments.text like \"*x*\" && context.operation != \"read\" };",
        "forbid(principal, action in Cogward::Action::\"memory\", resource in Cogward::ToolServer::\"notes\");",
        "@track(\"kept = count of memory per run\") forbid(principal, action in Cogward::Action::\"memory\", resource) when { context.history.kept > 5 };",
    ] {
        assert_eq!(check(fine), Ok(vec![]), "{fine}");
    }
    for (wrong, part) in [
        ("forbid(principal, action == Cogward::Action::\"memory\", resource);", "matches no call"),
        (
            "forbid(principal, action in Cogward::Action::\"tool_call\", resource) when { context.operation == \"write\" };",
            "operation",
        ),
        ("forbid(principal, action in Cogward::Action::\"memory\", resource is Cogward::Store);", "Store"),
        (
            "@track(\"t = count of token per run\") permit(principal, action == Cogward::Action::\"model_call\", resource);",
            "token",
        ),
        ("forbid(principal, action == Cogward::Action::\"token\", resource);", "nothing asks for `token` yet"),
        (
            "forbid(principal, action in [Cogward::Action::\"egress\", Cogward::Action::\"token\"], resource);",
            "`token`",
        ),
    ] {
        let Err(Findings(found)) = check(wrong) else { panic!("taken: {wrong}") };
        assert!(found.iter().any(|one| one.what.contains(part)), "{wrong}: {found:?}");
    }
}

#[test]
fn an_escalation_of_commands_is_refused_because_nobody_is_waited_for() {
    for head in [
        "principal, action, resource",
        "principal is Cogward::Operator, action, resource",
        "principal in Cogward::Role::\"release\", action, resource",
        "principal in Cogward::Tenant::\"acme\", action, resource",
        "principal, action == Cogward::Action::\"operator_command\", resource",
        "principal, action in [Cogward::Action::\"egress\", Cogward::Action::\"run_command\"], resource",
        "principal, action, resource in Cogward::Plane::\"plane\"",
        "principal, action, resource is Cogward::Tenant",
    ] {
        let found = only(&format!("@escalate(\"boss\") permit({head});"));
        assert!(
            found.severity == Severity::Error && found.what.contains("a command waits for nobody"),
            "{head}: {found}"
        );
        assert!(found.next_step.contains("principal is Cogward::AgentVersion"), "{found}");
        // The same without an escalation is a rule like any other, and one that was stored earlier is still read.
        assert_eq!(findings(&format!("permit({head});")), [], "{head}");
        let stored = Version::load(PolicyScope::Plane, &format!("@escalate(\"boss\") permit({head});"));
        assert!(stored.is_ok(), "{head}");
    }
    for head in [
        "principal is Cogward::AgentVersion, action, resource",
        "principal is Cogward::AgentVersion in Cogward::Tenant::\"acme\", action, resource",
        "principal in Cogward::Tier::\"production\", action, resource",
        "principal in Cogward::Agent::\"acme/clerk\", action, resource",
        "principal, action in Cogward::Action::\"tool_call\", resource",
        "principal, action, resource is Cogward::Tool",
        "principal, action, resource in Cogward::ToolServer::\"bank\"",
    ] {
        assert_eq!(findings(&format!("@escalate(\"boss\") permit({head});")), [], "{head}");
    }
}

#[test]
fn four_eyes_are_a_mark_on_an_escalation() {
    let check = |text: &str| Version::check(PolicyScope::Plane, text, &schema());
    let version = check(&format!("@escalate(\"boss\") @four_eyes permit(principal, {PAY}, resource);")).unwrap();
    assert!(version.rules()[0].escalation.as_ref().unwrap().four_eyes);
    let version = check(&format!("@escalate(\"boss\") permit(principal, {PAY}, resource);")).unwrap();
    assert!(!version.rules()[0].escalation.as_ref().unwrap().four_eyes);
    for wrong in ["@four_eyes", "@escalate(\"boss\") @four_eyes(\"off\")", "@escalate(\"boss\") @foureyes"] {
        assert!(check(&format!("{wrong} permit(principal, {PAY}, resource);")).is_err(), "{wrong}");
    }
}

#[test]
fn labels_are_read_only_of_what_carries_them() {
    // A forbid on the label of a host would never match: it is refused when it is written, and not taken as if it did.
    for head in [
        "principal, action == Cogward::Action::\"egress\", resource",
        "principal, action in [Cogward::Action::\"model_call\", Cogward::Action::\"egress\"], resource",
        "principal, action == Cogward::Action::\"sampling\", resource",
        "principal, action == Cogward::Action::\"elicitation\", resource",
        "principal, action, resource is Cogward::Host",
        "principal, action, resource in Cogward::Domain::\"example.com\"",
        "principal is Cogward::AgentVersion, action, resource",
    ] {
        for clause in ["forbid", "permit"] {
            let text = format!("{clause}({head}) when {{ resource.labels.contains(\"register\") }};");
            let found = findings(&text);
            assert!(!found.is_empty(), "{text}");
            for one in found {
                assert_eq!(one.severity, Severity::Error, "{text}: {one}");
                assert!(one.next_step.contains("hosts and tool servers do not"), "{text}: {one}");
            }
        }
        let found = findings(&format!("@require_label(\"register\") permit({head});"));
        assert!(found.iter().any(|one| one.what.contains("carries no labels")), "{head}: {found:?}");
    }
    for head in [
        "principal, action in Cogward::Action::\"tool_call\", resource",
        "principal, action in Cogward::Action::\"memory\", resource",
        "principal, action == Cogward::Action::\"tool:bank/pay\", resource",
        "principal, action in [Cogward::Action::\"resource_read\", Cogward::Action::\"prompt_get\"], resource",
        "principal, action == Cogward::Action::\"model_call\", resource",
        "principal, action, resource in Cogward::Provider::\"openai\"",
        "principal, action, resource is Cogward::Tool",
        "principal, action, resource is Cogward::Resource in Cogward::ToolServer::\"bank\"",
    ] {
        for text in [
            format!("permit({head}) when {{ resource.labels.contains(\"open\") }};"),
            format!("@require_label(\"open\") permit({head});"),
        ] {
            assert_eq!(findings(&text), [], "{text}");
        }
    }
    // Of everything, it is asked first; and a version that was stored earlier is still read.
    let guarded =
        "forbid(principal, action, resource) when { resource has labels && resource.labels.contains(\"x\") };";
    assert_eq!(findings(guarded), []);
    assert!(Version::load(PolicyScope::Plane, "@require_label(\"open\") permit(principal, action, resource);").is_ok());
}
