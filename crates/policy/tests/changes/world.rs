//! A small world, random changes of its policies, and random questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cogward_model::{
    Timestamp,
    manifest::{AutonomyClass, Tier},
};
use cogward_policy::{
    Ask, BudgetLeft, Decided, Deed, Facts, Head, Hierarchy, PolicyScope, Principal, Record, Schema, Shape, Tracker,
    Value, Verdict, Version,
    analysis::{Bounds, Extent, compare},
    ask::{AgentVersion, HttpRequest, ModelFacts, Operator},
};
use proptest::{prelude::*, sample::select};
use serde_json::json;

const TRACKERS: [&str; 3] =
    ["n = count of tool_call per run", "n = count of model_call per run", "n = count of tool:files/write per agent"];

const RUNS: [&str; 2] = ["run_00000000000000000000000000", "run_0000000000000000000000000A"];

fn level() -> PolicyScope {
    PolicyScope::Tenant("acme".parse().unwrap())
}

fn schema() -> Schema {
    let mut schema = Schema::new();
    let text = json!({ "type": "string" });
    for (server, tool, properties, required) in [
        (
            "bank",
            "pay",
            json!({ "amount": { "type": "integer" }, "to": text, "fast": { "type": "boolean" } }),
            json!(["amount"]),
        ),
        ("files", "write", json!({ "path": text }), json!(["path"])),
        // Another one of the same name.
        ("files", "write", json!({ "target": text, "amount": { "type": "integer" } }), json!([])),
        (
            "files",
            "scan",
            json!({
                "items": { "type": "array", "items": { "type": "object", "properties": { "n": { "type": "integer" } } } },
                "tags": { "type": "array", "items": text },
            }),
            json!(["items"]),
        ),
        ("misc", "ping", json!({}), json!([])),
    ] {
        let input = json!({ "type": "object", "properties": properties, "required": required });
        schema.tool(server, tool, Arc::new(Shape::of(&input)));
    }
    schema
}

// ---- Policies.

/// The head of a rule, and whether it is about calls of tools alone.
const HEADS: [(&str, bool); 9] = [
    ("principal, action, resource", false),
    ("principal is Cogward::AgentVersion, action, resource", false),
    ("principal, action in Cogward::Action::\"tool_call\", resource", true),
    ("principal, action in Cogward::Action::\"tool_call\", resource in Cogward::ToolServer::\"files\"", true),
    ("principal, action == Cogward::Action::\"tool:files/write\", resource", true),
    ("principal, action == Cogward::Action::\"egress\", resource in Cogward::Domain::\"example.com\"", false),
    ("principal, action == Cogward::Action::\"model_call\", resource", false),
    ("principal, action == Cogward::Action::\"resource_read\", resource", false),
    ("principal is Cogward::Operator, action, resource", false),
];

const CONDITIONS: [&str; 45] = [
    "true",
    "context has subject",
    "context has subject && context.subject == \"alice\"",
    "context has subject && [\"alice\", \"something-else\"].contains(context.subject)",
    "context has subject && context.subject like \"s*\"",
    "context has subject && context.subject like \"something-else*\"",
    "context has subject && context.subject like \"al*\"",
    "context has run",
    "context has run && context.run == \"run_00000000000000000000000000\"",
    "context has labels && context.labels.contains(\"personal\")",
    "context has labels && context.labels == [\"personal\"]",
    "context has labels && context.labels.isEmpty()",
    "context has labels && context.labels.containsAny([\"secret\", \"open\"])",
    "context has labels && [\"personal\", \"secret\"].containsAll(context.labels)",
    "principal has agent && principal.agent == \"claims\"",
    "principal has agent && principal.agent like \"something*\"",
    "principal has version && principal.version == \"1.0.0\"",
    "principal in Cogward::Agent::\"acme/claims\"",
    "context has tier && context.tier == \"production\"",
    "principal has autonomy && principal.autonomy == \"supervised\"",
    "context has budget && context.budget.calls < 3",
    "context.time.hour < 18",
    "context.time.weekday > 5",
    "context has history && context.history.n > 3",
    "context has history && context.history.n < 2",
    "resource has labels && resource.labels.isEmpty()",
    "resource has labels && resource.labels.contains(\"open\")",
    "resource has labels && resource.labels == [\"open\"]",
    "action == Cogward::Action::\"tool_call\"",
    "context has arguments && context.arguments has path && context.arguments.path like \"/etc/*\"",
    "context has arguments && context.arguments has path && context.arguments.path == \"/etc/passwd\"",
    "context has arguments && context.arguments has amount && context.arguments.amount > 5",
    "context has arguments && context.arguments has fast",
    "context has arguments && context.arguments has items && context.arguments.items.isEmpty()",
    "context has arguments && context.arguments has tags && context.arguments.tags.contains(\"a\")",
    "context has arguments && context.arguments has tags && context.arguments.tags == [\"a\"]",
    "context has request && context.request.method == \"POST\"",
    "context has request && context.request.path like \"/v1/*\"",
    "resource is Cogward::Host && resource.name like \"api.*\"",
    "resource in Cogward::Domain::\"example.com\"",
    "resource is Cogward::Tool && resource.server == \"files\"",
    "resource is Cogward::Tool && resource.name like \"s*\"",
    "resource is Cogward::Resource && resource.uri like \"file:///etc/*\"",
    "context has model && context.model.tokens_max > 100",
    "context has command && context.command == \"tool.approve\"",
];

#[derive(Debug, Clone)]
struct Rule {
    effect: &'static str,
    head: (&'static str, bool),
    clause: &'static str,
    conditions: Vec<&'static str>,
    any: bool,
}

#[derive(Debug, Clone)]
struct Text {
    tracker: &'static str,
    /// Whether all that is not forbidden is permitted.
    open: bool,
    rules: Vec<Rule>,
}

impl Rule {
    fn text(&self) -> String {
        // What is done to a call stands on calls of tools.
        let head = if self.effect.starts_with("@redact") && !self.head.1 { HEADS[2].0 } else { self.head.0 };
        let conditions: Vec<String> = self.conditions.iter().map(|one| format!("({one})")).collect();
        format!(
            "{}({head}) {} {{ {} }};\n",
            self.effect,
            self.clause,
            conditions.join(if self.any { " || " } else { " && " })
        )
    }
}

impl Text {
    fn version(&self) -> Arc<Version> {
        let nothing = if self.open { "" } else { " when { false }" };
        // What is counted stands on a rule that no question of agents concerns.
        let base = format!(
            "@track(\"{}\") permit(principal is Cogward::Operator, action, resource);\n\
             permit(principal is Cogward::AgentVersion, action, resource){nothing};\n",
            self.tracker
        );
        let text: String = std::iter::once(base).chain(self.rules.iter().map(Rule::text)).collect();
        Arc::new(Version::load(level(), &text).unwrap_or_else(|findings| panic!("{findings}\n{text}")))
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let effects = select(vec![
        "forbid",
        "forbid",
        "forbid",
        "permit",
        "permit",
        "@escalate(\"boss\") permit",
        "@redact(\"result.x\") permit",
        "@require_label(\"open\") permit",
    ]);
    let conditions = prop::collection::vec(select(CONDITIONS.to_vec()), 1..=2);
    (effects, select(HEADS.to_vec()), select(vec!["when", "when", "unless"]), conditions, prop::bool::weighted(0.3))
        .prop_map(|(effect, head, clause, conditions, any)| Rule { effect, head, clause, conditions, any })
}

fn text() -> impl Strategy<Value = Text> {
    let rules = prop::collection::vec(rule(), 1..=3);
    (select(TRACKERS.to_vec()), prop::bool::weighted(0.7), rules).prop_map(|(tracker, open, rules)| Text {
        tracker,
        open,
        rules,
    })
}

/// A version and what somebody made of it.
fn change() -> impl Strategy<Value = (Text, Text)> {
    (text(), rule(), select(TRACKERS.to_vec()), 0_usize..8).prop_map(|(before, other, tracker, how)| {
        let mut after = before.clone();
        let last = after.rules.len() - 1;
        let rule = &mut after.rules[last];
        match how {
            0 | 1 => _ = after.rules.pop(),
            2 => after.tracker = tracker,
            3 => rule.effect = other.effect,
            4 => rule.conditions = other.conditions,
            5 => rule.head = other.head,
            6 => _ = (rule.conditions.len() > 1).then(|| rule.conditions.pop()),
            _ => *rule = other,
        }
        (before, after)
    })
}

// ---- Questions that the analysis does not choose.

fn principal() -> impl Strategy<Value = Principal> {
    let agent = (
        select(vec!["claims", "clerk", "something-else", "sorter"]),
        select(vec!["1.0.0", "2.0.0", "something-else"]),
        select(vec![Tier::Development, Tier::Staging, Tier::Production]),
        select(vec![AutonomyClass::UserDelegated, AutonomyClass::Supervised, AutonomyClass::Autonomous]),
    );
    let agent = agent.prop_map(|(agent, version, tier, autonomy)| {
        Principal::Agent(AgentVersion {
            tenant: "acme".parse().unwrap(),
            agent: agent.parse().unwrap(),
            version: version.parse().unwrap(),
            digest: cogward_model::Digest::from_bytes([7; 32]),
            tier,
            autonomy,
            delegators: Vec::new(),
        })
    });
    let operator = select(vec!["ada", "something-else"])
        .prop_map(|name| Principal::Operator(Operator { name: name.into(), tenant: None, roles: BTreeSet::new() }));
    prop_oneof![6 => agent, 1 => operator]
}

fn value(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A call of an agent with its arguments.
fn deed() -> impl Strategy<Value = (Deed, Option<Record>)> {
    let tool = |server: &str, tool: &str, pinned| Deed::ToolCall {
        server: server.parse().unwrap(),
        tool: tool.parse().unwrap(),
        pinned,
    };
    let pay = (0_i64..10, prop::option::of(any::<bool>())).prop_map(move |(amount, fast)| {
        let fast = fast.map(|fast| ("fast".to_owned(), Value::Bool(fast)));
        let record = [("amount".to_owned(), Value::Long(amount)), ("to".to_owned(), value("x"))];
        (tool("bank", "pay", true), Some(record.into_iter().chain(fast).collect()))
    });
    let paths = select(vec!["/etc/passwd", "/etc/x", "/home", "something-else"]);
    let write = (paths, any::<bool>(), 0_i64..10).prop_map(move |(path, first, amount)| {
        let record: Record = if first {
            [("path".to_owned(), value(path))].into()
        } else {
            [("target".to_owned(), value(path)), ("amount".to_owned(), Value::Long(amount))].into()
        };
        (tool("files", "write", true), Some(record))
    });
    let tags = prop::option::of(prop::collection::btree_set(select(vec!["a", "b"]), 0..3));
    let scan = (any::<bool>(), tags).prop_map(move |(items, tags)| {
        let one = Value::Record([("n".to_owned(), Value::Long(1))].into());
        let items = ("items".to_owned(), Value::Set(if items { vec![one] } else { Vec::new() }));
        let tags = tags.map(|tags| ("tags".to_owned(), Value::Set(tags.into_iter().map(value).collect())));
        (tool("files", "scan", true), Some([items].into_iter().chain(tags).collect()))
    });
    let other = select(vec![
        (tool("misc", "ping", true), Some(Record::new())),
        (tool("files", "write", false), None),
        (tool("unknown", "some", false), None),
    ]);
    let hosts = select(vec!["example.com", "api.example.com", "www.example.com", "api.other.org", "other.org"]);
    let host = hosts.prop_map(|host| (Deed::Egress { host: host.to_owned(), port: 443 }, None));
    let model = Just((Deed::ModelCall { provider: "openai".parse().unwrap(), model: "gpt".to_owned() }, None));
    let read = select(vec!["file:///etc/x", "file:///home"])
        .prop_map(|uri| (Deed::ResourceRead { server: "files".parse().unwrap(), uri: uri.to_owned() }, None));
    prop_oneof![2 => pay, 3 => write, 2 => scan, 3 => other, 2 => host, 1 => model, 1 => read]
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    let set = prop::collection::btree_set(select(of.to_vec()), 0..=2);
    set.prop_map(|set| set.into_iter().map(str::to_owned).collect())
}

fn ask() -> impl Strategy<Value = Ask> {
    const LABELS: &[&str] = &["personal", "secret", "open", "unnamed"];
    let subject = prop::option::of(select(vec!["alice", "alan", "bob", "something-else", "sam", "something-else-x"]));
    let run = prop::option::of(select(RUNS.to_vec()));
    let command = select(vec!["tool.approve", "floor.set"]);
    let request = prop::option::of((select(vec!["GET", "POST"]), select(vec!["/v1/a", "/"])));
    let numbers = (0_u64..24, 1_u64..8, 0_i64..6, prop::collection::vec(0_i64..6, TRACKERS.len()), 90_i64..110);
    (principal(), deed(), some(LABELS), some(LABELS), subject, run, command, request, numbers).prop_map(
        |(principal, (deed, arguments), of_resource, labels, subject, run, command, request, numbers)| {
            let (hour, day, calls, history, tokens_max) = numbers;
            let at = ((4 + day - 1) * 24 + hour) * 3_600_000;
            let mut facts = Facts::at(Timestamp::from_unix_micros(at * 1000));
            if matches!(principal, Principal::Operator(_)) {
                let tenant = Some("acme".parse().unwrap());
                let deed = Deed::OperatorCommand { tenant, command: command.to_owned() };
                return Ask::new(Arc::new(Head { principal, deed, labels: BTreeSet::new() }), facts);
            }
            facts.subject = subject.map(str::to_owned);
            facts.run = run.map(|run| run.parse().unwrap());
            facts.labels = Some(labels);
            facts.budget = Some(BudgetLeft { usd_nanos: 5, tokens: 5, calls });
            facts.arguments = arguments;
            if matches!(deed, Deed::ModelCall { .. }) {
                facts.model = Some(ModelFacts { wire: "openai.chat".into(), streaming: false, tokens_max });
            }
            if matches!(deed, Deed::Egress { .. }) {
                facts.request =
                    request.map(|(method, path)| HttpRequest { method: method.to_owned(), path: path.to_owned() });
            }
            let counted = TRACKERS.iter().zip(history).map(|(text, value)| {
                let tracker = Tracker::parse(text).unwrap();
                let least = i64::from(tracker.counts(&deed));
                (tracker.key(), value.max(least))
            });
            facts.history = counted.collect::<BTreeMap<_, _>>();
            Ask::new(Arc::new(Head { principal, deed, labels: of_resource }), facts)
        },
    )
}

/// Whether the second answer allows anything that the first does not. Said here once more, and not taken from where it
/// is tested.
fn allows_more(first: &Decided, second: &Decided) -> bool {
    if second.verdict == Verdict::Block {
        return false;
    }
    let roles = |decided: &Decided| decided.escalations.iter().map(|one| one.role.clone()).collect::<BTreeSet<_>>();
    second.verdict < first.verdict
        || (first.verdict != Verdict::Block
            && (!first.obligations.iter().all(|one| second.obligations.contains(one))
                || !roles(first).is_subset(&roles(second))))
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_exactly_is_nothing(
        (before, after) in change(), asks in prop::collection::vec(ask(), 150),
    ) {
        let (before, after) = (before.version(), after.version());
        let bounds = Bounds { questions: 60_000, until: None };
        let compared = compare(&level(), Some(&before), Some(&after), &schema(), bounds);
        if compared.extent == Extent::Exact {
            let [old, new] = [&before, &after].map(|version| Hierarchy::new([Arc::clone(version)]));
            for ask in &asks {
                let (was, is) = (old.decide(ask), new.decide(ask));
                let (granted, taken) = (allows_more(&was, &is), allows_more(&is, &was));
                prop_assert!(
                    !granted || !compared.grants.is_empty(),
                    "{}\n->\n{}\ngrants {:?}\nwas {:?}\nis {:?}", before.text(), after.text(), ask, was, is
                );
                prop_assert!(
                    !taken || !compared.takes.is_empty(),
                    "{}\n->\n{}\ntakes {:?}\nwas {:?}\nis {:?}", before.text(), after.text(), ask, was, is
                );
            }
        }
    }
}
