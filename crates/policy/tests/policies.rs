//! The policies that are published, asked: every row of the tables beside the templates, and every example of the guide.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{collections::BTreeSet, fs, sync::Arc};

use cogward_model::{
    Timestamp,
    manifest::{AutonomyClass, Tier},
};
use cogward_policy::{
    Ask, BudgetLeft, Deed, Facts, Head, Hierarchy, PolicyScope, Principal, Schema, Shape, Version,
    ask::{AgentVersion, HttpRequest, MemoryOperation, ModelFacts, Operator},
};
use serde_json::json;

fn docs(path: &str) -> String {
    let path = format!("{}/../../docs/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn taken(name: &str, text: &str, schema: &Schema) -> Version {
    match Version::check(PolicyScope::Plane, text, schema) {
        Ok(version) => {
            assert!(version.warnings().is_empty(), "{name}: {:?}", version.warnings());
            version
        }
        Err(findings) => panic!("{name}: {findings}\n{text}"),
    }
}

fn principal(who: &str) -> Principal {
    if who == "operator" {
        return Principal::Operator(Operator { name: "ada".into(), tenant: None, roles: BTreeSet::new() });
    }
    let (tier, autonomy) = who.split_once(' ').unwrap();
    let autonomies = [AutonomyClass::UserDelegated, AutonomyClass::Supervised, AutonomyClass::Autonomous];
    Principal::Agent(AgentVersion {
        tenant: "acme".parse().unwrap(),
        agent: "clerk".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        digest: cogward_model::Digest::from_bytes([3; 32]),
        tier: Tier::ALL.into_iter().find(|one| one.as_str() == tier).unwrap(),
        autonomy: autonomies.into_iter().find(|one| one.as_str() == autonomy).unwrap(),
        delegators: Vec::new(),
    })
}

fn deed(does: &str) -> Deed {
    let (kind, object) = does.split_once(' ').unwrap();
    let two = || object.split_once('/').unwrap();
    match kind {
        "tool" => Deed::ToolCall { server: two().0.parse().unwrap(), tool: two().1.parse().unwrap(), pinned: true },
        "model" => Deed::ModelCall { provider: two().0.parse().unwrap(), model: two().1.into() },
        "egress" => {
            let (host, port) = object.split_once(':').unwrap();
            Deed::Egress { host: host.into(), port: port.parse().unwrap() }
        }
        "resource" => Deed::ResourceRead { server: two().0.parse().unwrap(), uri: two().1.into() },
        "sampling" => Deed::Sampling { server: object.parse().unwrap() },
        "memory" => Deed::Memory {
            server: two().0.parse().unwrap(),
            tool: two().1.parse().unwrap(),
            operation: MemoryOperation::of_tool(two().1),
            pinned: true,
        },
        "command" => Deed::OperatorCommand { tenant: None, command: object.into() },
        other => panic!("`{other}` is no deed"),
    }
}

/// One row of a table as an ask; what it does not say is harmless.
fn ask(hierarchy: &Hierarchy, who: &str, does: &str, with: &str) -> Ask {
    let mut head = Head { principal: principal(who), deed: deed(does), labels: BTreeSet::new() };
    let mut facts = Facts::at(Timestamp::from_unix_micros(1_795_424_400_000_000));
    facts.subject = Some("ada".into());
    facts.labels = Some(BTreeSet::new());
    let mut budget = BudgetLeft { usd_nanos: 1_000_000_000, tokens: 100_000, calls: 100 };
    let mut model = ModelFacts { wire: "openai.chat".into(), streaming: false, tokens_max: 1_000 };
    for tracker in hierarchy.trackers() {
        facts.history.insert(tracker.key(), 1);
    }
    for part in with.split_whitespace() {
        let (name, value) = part.split_once('=').unwrap();
        match name {
            "labels" => head.labels = value.split('+').map(str::to_owned).collect(),
            "read" => facts.labels = Some(value.split('+').map(str::to_owned).collect()),
            "subject" => facts.subject = Some(value.to_owned()).filter(|subject| subject != "none"),
            "method" => facts.request = Some(HttpRequest { method: value.into(), path: "/".into() }),
            "tokens" => model.tokens_max = value.parse().unwrap(),
            "calls" => budget.calls = value.parse().unwrap(),
            tracker => {
                let known = hierarchy.trackers().into_iter().find(|one| one.name == tracker);
                let known = known.unwrap_or_else(|| panic!("`{tracker}` is no tracker"));
                facts.history.insert(known.key(), value.parse().unwrap());
            }
        }
    }
    facts.budget = Some(budget);
    facts.model = Some(model);
    Ask::new(Arc::new(head), facts)
}

#[test]
fn every_template_answers_as_its_table_says() {
    for name in ["least-privilege", "soc2", "dora"] {
        let text = docs(&format!("policies/{name}.cedar"));
        let version = Arc::new(taken(name, &text, &Schema::new()));
        let hierarchy = Hierarchy::new([Arc::clone(&version)]);
        let mut seen = BTreeSet::new();
        let table = docs(&format!("policies/{name}.md"));
        for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [who, does, with, verdict, rule] = cells.as_slice() else { panic!("{name}: {row}") };
            let decided = hierarchy.decide(&ask(&hierarchy, who, does, with));
            assert_eq!(decided.verdict.as_str(), *verdict, "{name}: {row}\n{decided:?}");
            let rules = &decided.levels.first().unwrap().rules;
            assert_eq!(rules.join(" "), *rule, "{name}: {row}");
            assert!(decided.levels.iter().all(|level| level.errors.is_empty()), "{name}: {row}\n{decided:?}");
            seen.extend(rules.iter().cloned());
        }
        let without: Vec<&str> =
            version.rules().iter().map(|rule| rule.id.as_str()).filter(|id| !seen.contains(*id)).collect();
        assert!(without.is_empty(), "{name}: no row is decided by {without:?}");
    }
}

/// What the tables cannot say: who approves.
#[test]
fn who_started_a_change_does_not_approve_it_where_the_templates_say_so() {
    for (name, rule, four_eyes) in
        [("soc2", "soc2-cc8.1-change", true), ("dora", "dora-9-critical", true), ("least-privilege", "lp-write", false)]
    {
        let version = taken(name, &docs(&format!("policies/{name}.cedar")), &Schema::new());
        let rule = version.rules().iter().find(|one| one.id == rule).unwrap_or_else(|| panic!("{name}: no {rule}"));
        assert_eq!(rule.escalation.as_ref().unwrap().four_eyes, four_eyes, "{name}");
    }
}

#[test]
fn every_example_of_the_guide_is_taken() {
    let mut schema = Schema::new();
    let mut tool = |server: &str, name: &str, properties: serde_json::Value, required: &[&str]| {
        let schema_of = json!({ "type": "object", "properties": properties, "required": required });
        schema.tool(server, name, Arc::new(Shape::of(&schema_of)));
    };
    tool("bank", "transfer", json!({ "amount": { "type": "number" }, "to": { "type": "string" } }), &["amount", "to"]);
    tool("crm", "search", json!({ "query": { "type": "string" }, "limit": { "type": "integer" } }), &["query"]);
    tool("crm", "get_customer", json!({ "id": { "type": "string" } }), &["id"]);
    tool("mail", "send", json!({ "to": { "type": "array", "items": { "type": "string" } } }), &["to"]);
    tool("files", "write", json!({ "path": { "type": "string" } }), &["path"]);
    tool("review", "check", json!({ "id": { "type": "string" } }), &["id"]);
    let guide = docs("policy.md");
    let examples: Vec<&str> = guide.split("```cedar\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 10, "{} examples", examples.len());
    for example in examples {
        taken("docs/policy.md", example, &schema);
    }
}
