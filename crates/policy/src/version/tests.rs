use proptest::prelude::*;

use super::*;

fn findings(text: &str) -> Vec<Finding> {
    match Version::load(PolicyScope::Plane, text) {
        Ok(_) => Vec::new(),
        Err(Findings(findings)) => findings,
    }
}

fn refused(text: &str, what: &str) {
    let found = findings(text);
    assert!(found.iter().any(|one| one.what.contains(what)), "{text}\n{found:#?}");
}

const PERMIT: &str = "permit(principal, action, resource);";

#[test]
fn a_version_is_named_by_its_level_and_its_text() {
    let built_in = Version::built_in().unwrap();
    assert_eq!(built_in.digest(), Version::digest_of(&PolicyScope::Plane, BUILT_IN));
    let tenant: PolicyScope = "tenant:acme".parse().unwrap();
    assert_ne!(Version::digest_of(&tenant, BUILT_IN), built_in.digest());
    assert_ne!(Version::digest_of(&PolicyScope::Plane, "x"), built_in.digest());
    assert_eq!((built_in.rules().len(), built_in.text()), (1, BUILT_IN));
}

#[test]
fn errors_of_the_language_have_a_place_and_a_next_step() {
    let found = findings("permit(principal, action, resource);\nforbid(principal, action resource);");
    assert_eq!((found[0].line, found[0].column), (2, 26), "{found:?}");
    assert!(!found[0].next_step.is_empty());
    refused("permit(principal, action, resource) when { foo };", "foo");
    refused("permit(principal == ?principal, action, resource);", "`?principal`");
    refused("permit(principal, action, resource) when { unknown(\"x\") };", "");
}

#[test]
fn every_error_is_told_at_once() {
    let text = "@escalte(\"x\") permit(principal, action, resource);\n@id(\"a b\") permit(principal, action, resource);\n\
                @expires(\"5m\") permit(principal, action == Cogward::Action::\"tool_call\", resource);\n";
    let found = findings(text);
    assert_eq!(found.iter().map(|one| one.line).collect::<Vec<_>>(), [1, 2, 3, 3], "{found:#?}");
    assert!(found[0].next_step.contains("`@escalate`"));
}

#[test]
fn annotations_without_a_meaning_are_refused() {
    for (text, what) in [
        ("@permit(\"x\") permit", "not an annotation"),
        ("@Escalate(\"x\") permit", "not an annotation"),
        ("@escalate(\"\") permit", "not a role"),
        ("@escalate(\"a role\") permit", "not a role"),
        ("@escalate(\"x\") @expires(\"soon\") permit", "not a time"),
        ("@escalate(\"x\") @expires(\"31d\") permit", "not a time"),
        ("@escalate(\"x\") forbid", "on a `forbid`"),
        ("@require_label(\"x\") forbid", "on a `forbid`"),
        ("@reason(\"x\") permit", "there is none"),
        ("@redact(\"a.b\") permit", "begins with neither"),
        ("@redact(\"result.a\") permit", "other actions too"),
        ("@cap(\"arguments.a\") permit", "is not `arguments.PATH=NUMBER`"),
        ("@require_label(\"Not A Label\") permit", "is not a label"),
        ("@track(\"x\") permit", "does not fit"),
        ("@id(\"a\") permit(principal, action, resource); @id(\"a\") permit", "the same id"),
        ("@id(\"rule-2\") permit(principal, action, resource); permit", "the same id"),
        (
            "@track(\"x = count of egress per run\") permit(principal, action, resource); @track(\"x = count of egress per user\") permit",
            "declared twice",
        ),
    ] {
        refused(&format!("{text}(principal, action, resource);"), what);
    }
    let long = format!("@doc(\"{}\") {PERMIT}", "x".repeat(5_000));
    refused(&long, "more than 4096 bytes");
    refused("permit(principal, action, resource) when { context.history.calls > 1 };", "is not declared");
}

#[test]
fn an_exact_match_of_the_group_is_refused_because_it_matches_nothing() {
    refused(
        "forbid(principal, action == Cogward::Action::\"tool_call\", resource);",
        "matches no call of an approved tool",
    );
    assert_eq!(findings("forbid(principal, action in Cogward::Action::\"tool_call\", resource);"), []);
}

#[test]
fn what_a_rule_asks_for_is_read() {
    let text = "// A remark; with a semicolon and a \" quote.\n\
        @id(\"pay\")\n@doc(\"Payments\")\n@advice(\"Ask for less\")\n@escalate(\"approver\")\n@reason(\"money\")\n@expires(\"2h\")\n\
        @redact(\"arguments.memo, result.iban\")\n@cap(\"arguments.amount=100\")\n@require_label(\"internal\")\n\
        permit(principal, action in Cogward::Action::\"tool_call\", resource);\n\npermit(principal, action, resource);";
    let version = Version::load(PolicyScope::Plane, text).unwrap();
    let rule = &version.rules()[0];
    assert_eq!((rule.id.as_str(), rule.line, rule.column, rule.forbids), ("pay", 2, 1, false));
    assert_eq!(rule.escalation.as_ref().map(|one| (one.role.as_str(), one.expires_s)), Some(("approver", 7200)));
    assert_eq!((rule.obligations.len(), rule.require_labels.as_slice()), (3, ["internal".to_owned()].as_slice()));
    assert_eq!((version.rules()[1].id.as_str(), version.rules()[1].line), ("rule-2", 13));
}

#[test]
fn bounds_are_held() {
    refused(&" ".repeat(TEXT_BYTES_MAX + 1), "the most is 1048576");
    refused(&"permit(principal,action,resource);".repeat(RULES_MAX + 1), "more than 20000 rules");
    assert_eq!(findings(&"permit(principal,action,resource);".repeat(2_000)), []);
}

/// Each of these overflows the stack of a parser, of the conversion or of the release of a tree that has no bound.
#[test]
fn no_depth_overflows_a_stack() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| {
        format!("permit(principal, action, resource) when {{ {}{inner}{} }};", open.repeat(n), close.repeat(n))
    };
    for text in [
        deep("(", "true", ")", 100_000),
        deep("[", "1", "]", 100_000),
        deep("{\"a\":", "1", "}", 50_000),
        deep("!", "true", "", 400_000),
        deep("-", "1", "", 400_000),
        deep("true && ", "true", "", 50_000),
        deep("true || ", "true", "", 6_000),
        deep("1 + ", "1 == 1", "", 6_000),
        deep("if true then true else ", "true", "", 4_000),
        deep("", "context", ".a", 9_000),
        deep("context has a && ", "true", "", 5_000),
        // As much as the bounds before the parser let through: the parser and the rest have to bear it.
        deep("true && ", "true", "", 1_490),
        deep("1 + ", "1 == 1", "", 2_980),
        deep("if true then true else ", "true", "", 990),
        deep("", "context", ".a", 2_980),
        deep("!", "true", "", 2_980),
        "(".repeat(1_000_000),
        "{".repeat(1_000_000),
        "permit".repeat(100_000),
        "!".repeat(1_000_000),
        "@a".repeat(300_000),
        "\"".repeat(500_001),
        "principal".to_owned() + &".a".repeat(500_000),
    ] {
        let found = findings(&text);
        assert!(!found.is_empty(), "{}…", text.chars().take(60).collect::<String>());
    }
    let wide = format!(
        "{PERMIT} forbid(principal, action, resource) when {{ [{}].contains(1) }};",
        "1, ".repeat(50_000) + "1"
    );
    assert_eq!(findings(&wide), []);
    let fine = deep("true && ", "true", "", 150);
    assert_eq!(findings(&fine), []);
    assert_eq!(findings(&deep("(", "true", ")", 100)), []);
}

#[test]
fn a_mark_in_a_string_or_a_remark_is_no_bracket() {
    let text = format!("// {}\n@doc(\"{}\") {PERMIT}", "(".repeat(500), "(".repeat(500));
    assert_eq!(findings(&text), []);
    let text = format!("@doc(\"\\\"{}\") {PERMIT}", "(".repeat(500));
    assert_eq!(findings(&text), []);
}

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("permit(principal, action, resource)".to_owned()),
        Just("forbid(principal in Cogward::Tenant::\"acme\", action, resource)".to_owned()),
        Just(" when { ".to_owned()),
        Just(" unless { context.arguments.a > 5 }".to_owned()),
        Just(";\n".to_owned()),
        Just("@id(\"x\") ".to_owned()),
        Just("@track(\"n = count of tool_call per run\")".to_owned()),
        Just("context.history.n".to_owned()),
        Just(" if true then decimal(\"1.0\") else ".to_owned()),
        Just("[1, \"x\", {}]".to_owned()),
        "[(){}@&|!<>=.,;:\"a-z0-9 -]{0,12}",
        "\\PC{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_text_panics_the_loader(parts in proptest::collection::vec(fragment(), 0..14)) {
        let text = parts.concat();
        for finding in findings(&text) {
            prop_assert!(finding.what != "the text could not be read", "{}", text);
            prop_assert!(usize::try_from(finding.line).unwrap() <= text.lines().count().max(1));
        }
    }
}
