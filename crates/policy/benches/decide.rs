//! What one decision costs: at 10, 100, 1,000 and 10,000 rules, from the raw arguments to the answer, against the same
//! set evaluated whole by Cedar's `is_authorized`, in one process and one run.
//!
//! Prints the middle and the 99th percentile, the ratio to plain Cedar, and processor time per decision, because that
//! survives a noisy machine. Run with `cargo bench -p cogward-policy`.

use std::{fs, hint::black_box, sync::Arc, time::Instant};

use cedar_policy::{Authorizer, Context, PolicySet, Request};
use cogward_model::{Timestamp, manifest::AutonomyClass, manifest::Tier};
use cogward_policy::{
    Active, Ask, BudgetLeft, Deed, Facts, Head, PolicyScope, Principal, Schema, Shape, Slice, Verdict, Version,
    ask::AgentVersion, entities::Cast,
};

const SERVERS: usize = 10;
const TOOLS: usize = 50;
const AGENTS: usize = 20;

struct Cost {
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// Nanoseconds of processor time of this thread, by the kernel's account.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn measure(times: usize, mut what: impl FnMut(usize)) -> Cost {
    (0..times / 10 + 1).for_each(&mut what);
    let mut spans = Vec::with_capacity(times);
    let before = cpu();
    for n in 0..times {
        let start = Instant::now();
        what(n);
        spans.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let cpu_us = (cpu() - before) / 1e3 / times as f64;
    spans.sort_by(f64::total_cmp);
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
    Cost { p50_us: at(0.5), p99_us: at(0.99), cpu_us }
}

fn shape() -> Arc<Shape> {
    Arc::new(Shape::of(&serde_json::json!({
        "type": "object",
        "properties": {
            "amount": { "type": "integer" },
            "to": { "type": "string" },
            "memo": { "type": "string" },
            "options": { "type": "object", "properties": { "urgent": { "type": "boolean" } }, "required": ["urgent"] },
        },
        "required": ["amount", "to", "options"],
    })))
}

fn schema() -> Schema {
    let mut schema = Schema::new();
    for tool in 0..TOOLS {
        schema.tool(&format!("server{}", tool % SERVERS), &format!("tool{tool}"), shape());
    }
    schema
}

/// Rules as an organisation writes them: most are about one tool, some about one agent, few about everything.
fn spread(from: usize, to: usize) -> String {
    let mut text = String::from("@id(\"base\")\npermit(principal, action, resource);\n");
    for n in from + 1..to {
        let tool = n % TOOLS;
        let action = format!("Cogward::Action::\"tool:server{}/tool{tool}\"", tool % SERVERS);
        let agent = format!("Cogward::Agent::\"acme/agent{}\"", (n / TOOLS) % AGENTS);
        text.push_str(&match n % 10 {
            0..=4 => format!(
                "@id(\"r{n}\")\nforbid(principal in {agent}, action == {action}, resource) when {{ context.arguments.amount > {} }};\n",
                100_000 + n
            ),
            5..=7 => format!(
                "@id(\"r{n}\")\nforbid(principal, action == {action}, resource) when {{ context.arguments.to like \"*@evil{n}.example\" }};\n"
            ),
            8 => format!(
                "@id(\"r{n}\")\n@escalate(\"approver\")\npermit(principal in {agent}, action == {action}, resource) when {{ context.arguments.options.urgent && context.arguments.amount > {} }};\n",
                50_000 + n
            ),
            _ => format!(
                "@id(\"r{n}\")\nforbid(principal in {agent}, action in Cogward::Action::\"tool_call\", resource) when {{ context.budget.tokens < {} }};\n",
                n % 100
            ),
        });
    }
    text
}

/// The bad case: the head of every rule matches every call of a tool.
fn all_match(from: usize, to: usize) -> String {
    let mut text = String::from("@id(\"base\")\npermit(principal, action, resource);\n");
    for n in from + 1..to {
        text.push_str(&format!(
            "@id(\"r{n}\")\nforbid(principal, action in Cogward::Action::\"tool_call\", resource) when {{ context has arguments && context.arguments.amount > {} && context.arguments.to == \"account{n}\" }};\n",
            1_000 + n
        ));
    }
    text
}

fn head(agent: usize, tool: usize) -> Arc<Head> {
    let Ok(server) = format!("server{}", tool % SERVERS).parse() else { unreachable!("a name") };
    let Ok(tool) = format!("tool{tool}").parse() else { unreachable!("a name") };
    let Ok(name) = format!("agent{agent}").parse() else { unreachable!("a name") };
    Arc::new(Head {
        principal: Principal::Agent(AgentVersion {
            tenant: "acme".parse().expect("a name"),
            agent: name,
            version: "1.0.0".parse().expect("a label"),
            digest: cogward_model::Digest::from_bytes([7; 32]),
            tier: Tier::Production,
            autonomy: AutonomyClass::Supervised,
            delegators: Vec::new(),
        }),
        deed: Deed::ToolCall { server, tool, pinned: true },
        labels: Default::default(),
    })
}

fn facts(slice: &Slice, shape: &Shape, raw: &str) -> Facts {
    let needs = slice.needs();
    let mut facts = Facts::at(Timestamp::from_unix_micros(1_795_400_000_000_000));
    if !needs.arguments.is_empty() {
        facts.arguments = Some(shape.project(raw, &needs.arguments).expect("arguments that fit"));
    }
    if needs.budget {
        facts.budget = Some(BudgetLeft { usd_nanos: 1, tokens: 100_000, calls: 10 });
    }
    facts
}

/// The rules over as many levels as their text takes.
fn row(name: &str, rules: usize, text: fn(usize, usize) -> String) {
    let shape = shape();
    let levels = ["plane", "tenant:acme", "tier:acme/production", "agent:acme/agent0"];
    let wanted = rules.div_ceil(2_500);
    let each = rules / wanted;
    let texts: Vec<String> = (0..wanted).map(|n| text(n * each, (n + 1) * each)).collect();
    let start = Instant::now();
    let schema = schema();
    let versions = texts.iter().zip(levels).map(|(text, level)| {
        let level: PolicyScope = level.parse().expect("a level");
        Arc::new(Version::check(level, text, &schema).expect("a set"))
    });
    let versions: Vec<Arc<Version>> = versions.collect();
    let checked = start.elapsed();
    let active = Active::new(1, versions).expect("a set");
    let heads: Vec<Arc<Head>> = (0..AGENTS * TOOLS).map(|n| head(n % AGENTS, n / AGENTS)).collect();
    let raw =
        r#"{"amount":250,"to":"ada@example.com","memo":"0123456789abcdef0123456789abcdef","options":{"urgent":false}}"#;
    let hierarchy =
        active.hierarchy(&"acme".parse().expect("a name"), Tier::Production, &"agent0".parse().expect("a name"));
    let start = Instant::now();
    let matching: usize = heads.iter().map(|head| hierarchy.slice(head).rules().count()).sum();
    let sliced_us = start.elapsed().as_secs_f64() * 1e6 / heads.len() as f64;
    let decision = measure(20_000, |n| {
        let head = &heads[n * 31 % heads.len()];
        let slice = hierarchy.slice(head);
        let facts = facts(&slice, &shape, raw);
        let decided = slice.decide(&facts);
        assert_eq!(decided.verdict, Verdict::Permit);
        black_box(decided);
    });
    let recorded = measure(5_000, |n| {
        let head = &heads[n * 31 % heads.len()];
        let slice = hierarchy.slice(head);
        black_box(Ask::new(Arc::clone(head), facts(&slice, &shape, raw)).to_json().expect("a short ask"));
    });
    // The same set, whole, as Cedar evaluates it; its request is made beforehand.
    let sets: Vec<PolicySet> = texts.iter().map(|text| text.parse().expect("a set")).collect();
    let authorizer = Authorizer::new();
    let cast = Cast::of(&heads[0]).expect("entities");
    let context = serde_json::json!({
        "arguments": { "amount": 250, "to": "ada@example.com", "options": { "urgent": false } },
        "budget": { "tokens": 100_000, "usd_nanos": 1, "calls": 10 },
    });
    let context = Context::from_json_value(context, None).expect("a context");
    let request = Request::new(cast.principal, cast.action, cast.resource, context, None).expect("a request");
    let plain = measure((2_000_000 / rules).clamp(200, 20_000), |_| {
        for set in &sets {
            black_box(authorizer.is_authorized(&request, set, &cast.entities));
        }
    });
    println!(
        "{name:<12} {rules:>6} {:>8.1} {:>9.2} {:>9.2} {:>9.2} {:>11.1} {:>8.1}x {:>10.1} {:>10.1} {:>9.2}",
        matching as f64 / heads.len() as f64,
        decision.p50_us,
        decision.p99_us,
        decision.cpu_us,
        plain.p50_us,
        plain.cpu_us / decision.cpu_us,
        sliced_us,
        checked.as_secs_f64() * 1e3,
        recorded.cpu_us,
    );
}

fn main() {
    println!(
        "{:<12} {:>6} {:>8} {:>9} {:>9} {:>9} {:>11} {:>9} {:>10} {:>10} {:>9}",
        "set",
        "rules",
        "matching",
        "p50 us",
        "p99 us",
        "cpu us",
        "plain p50",
        "plain/our",
        "slice us",
        "check ms",
        "ask us"
    );
    for rules in [10, 100, 1_000, 10_000] {
        row("spread", rules, spread);
    }
    for rules in [100, 1_000] {
        row("all match", rules, all_match);
    }
}
