//! The sections of a manifest, field by field.
//!
//! A faulty field does not end the reading: its section goes on, so that the author sees the rest.

use std::{collections::BTreeMap, ops::RangeInclusive};

use cogward_model::{
    NanoUsd,
    manifest::{
        API_VERSION, Access, AgentBudget, AutonomyClass, Budgets, DEFAULT_RUN_CONNECTIONS, DefaultModel, EvidenceNeeds,
        Layer, Manifest, Metadata, Package, Parameter, Permissions, Profile, Resources, RunBudget, Sandbox, Spec,
        Telemetry, Tier,
    },
    violation::Reaction,
};

use super::{
    access, check,
    fields::{Field, Fields, Sink, shown},
    files, permissions,
    tree::{Kind, Node},
};

const LINE: RangeInclusive<usize> = 1..=200;
const PROSE: RangeInclusive<usize> = 1..=2_000;
const PATH: RangeInclusive<usize> = 1..=1_024;
/// Entries of each list under `spec.package`.
const LISTED_MAX: usize = 256;
const TOKENS: RangeInclusive<u64> = 0..=1_000_000_000_000;
const CALLS: RangeInclusive<u64> = 0..=1_000_000_000;
/// Up to a tebibyte.
const EGRESS_MIB: RangeInclusive<u64> = 0..=1_048_576;
const WALL_CLOCK: RangeInclusive<u64> = 1..=2_592_000;
/// A million dollars: beyond it, a typing error is likelier than a wish.
const COST_MAX: NanoUsd = NanoUsd::from_nanos(1_000_000_000_000_000);

/// A section, and whether every field of it was read.
pub(crate) struct Section<T> {
    pub(crate) value: T,
    pub(crate) clean: bool,
}

/// Reads a section and notes whether it added findings.
fn section<T>(sink: &mut Sink, read: impl FnOnce(&mut Sink) -> T) -> Section<T> {
    let before = sink.count();
    let value = read(sink);
    Section { value, clean: sink.count() == before }
}

pub(crate) fn manifest(root: &Node, sink: &mut Sink) -> Option<Manifest> {
    let mut top = Field::root(root, sink).fields(sink)?;
    let fix = format!("begin with `apiVersion: {API_VERSION}`");
    if let Some(found) = top.required("apiVersion", &fix, sink).and_then(|f| f.text(LINE, sink))
        && found != API_VERSION
    {
        sink.on("apiVersion", "api-version", format!("`{}` is not read by this plane", shown(&found)), fix);
    }
    if let Some(found) = top.required("kind", "write `kind: Agent`", sink).and_then(|f| f.text(LINE, sink))
        && found != "Agent"
    {
        sink.on("kind", "kind", format!("`{}` is not a kind", shown(&found)), "write `kind: Agent`");
    }
    let metadata =
        top.required("metadata", "say who the agent is and who answers for it", sink).and_then(|f| metadata(&f, sink));
    let spec = top.required("spec", "say what the agent is and may do", sink).and_then(|f| spec(&f, sink));
    top.finish(sink);
    Some(Manifest { api_version: API_VERSION.to_owned(), kind: "Agent".to_owned(), metadata: metadata?, spec: spec? })
}

fn metadata(field: &Field<'_>, sink: &mut Sink) -> Option<Metadata> {
    const NAME: &str = "use 1 to 63 lower-case letters, digits and hyphens, starting with a letter";
    let mut map = field.fields(sink)?;
    let name = map.required("name", NAME, sink).and_then(|f| f.typed("name", NAME, sink));
    let tenant = map.required("tenant", "name the tenant, such as `default`", sink);
    let tenant = tenant.and_then(|f| f.typed("name", NAME, sink));
    let version = map.required("version", "give this version a label, such as `\"1.0.0\"`", sink);
    let version = version.and_then(|f| f.typed("name", "use a label such as `\"1.0.0\"`", sink));
    let owner = line(&mut map, "owner", "name the team that runs it", sink);
    let sponsor = line(&mut map, "sponsor", "name the person who is accountable for it", sink);
    let cost_centre = line(&mut map, "costCentre", "say where its cost is booked", sink);
    let description = map.optional("description", sink).and_then(|f| f.text(PROSE, sink));
    map.finish(sink);
    Some(Metadata {
        name: name?,
        tenant: tenant?,
        version: version?,
        owner: owner?,
        sponsor: sponsor?,
        cost_centre: cost_centre?,
        description,
    })
}

/// A line of text that must be there.
fn line(map: &mut Fields<'_>, name: &'static str, fix: &str, sink: &mut Sink) -> Option<String> {
    let text = map.required(name, fix, sink)?.text(LINE, sink)?;
    if text.contains('\n') {
        sink.on(&map.path(name), "bound", "more than one line", "write it on one line");
        return None;
    }
    Some(text)
}

fn spec(field: &Field<'_>, sink: &mut Sink) -> Option<Spec> {
    const AUTONOMY: &[(&str, AutonomyClass)] = &[
        ("user-delegated", AutonomyClass::UserDelegated),
        ("supervised", AutonomyClass::Supervised),
        ("autonomous", AutonomyClass::Autonomous),
    ];
    const TIERS: &[(&str, Tier)] =
        &[("development", Tier::Development), ("staging", Tier::Staging), ("production", Tier::Production)];
    const TELEMETRY: &[(&str, Telemetry)] = &[("accept", Telemetry::Accept), ("refuse", Telemetry::Refuse)];
    let mut map = field.fields(sink)?;
    let goal = map.required("goal", "say in one sentence what a run is to achieve", sink);
    let goal = goal.and_then(|f| f.text(PROSE, sink));
    let autonomy = map.required("autonomy", "write `user-delegated`, `supervised` or `autonomous`", sink);
    let autonomy = autonomy.and_then(|f| f.word(AUTONOMY, sink));
    let tier = match map.optional("tier", sink) {
        Some(f) => f.word(TIERS, sink),
        None => Some(Tier::default()),
    };
    let package = section(sink, |sink| {
        map.required("package", "say where the code is and how it starts", sink).and_then(|f| package(&f, sink))
    });
    let permissions = section(sink, |sink| match map.optional("permissions", sink) {
        Some(f) => permissions::permissions(&f, sink),
        None => Some(Permissions::default()),
    });
    let sandbox = match map.optional("sandbox", sink) {
        Some(f) => sandbox(&f, sink),
        None => Some(Sandbox::default()),
    };
    let access = match map.optional("access", sink) {
        Some(f) => access::access(&f, sink),
        None => Some(Access::default()),
    };
    let budgets = section(sink, |sink| {
        map.required("budgets", "limit what a run may use up", sink).and_then(|f| budgets(&f, sink))
    });
    let telemetry = match map.optional("telemetry", sink) {
        Some(f) => f.word(TELEMETRY, sink),
        None => Some(Telemetry::default()),
    };
    let evidence = match map.optional("evidence", sink) {
        Some(f) => evidence(&f, sink),
        None => Some(EvidenceNeeds::default()),
    };
    map.finish(sink);

    check::package_and_permissions(&package, &permissions, sink);
    check::package_and_tier(&package, tier, sink);
    check::permissions_and_budgets(&permissions, &budgets, sink);
    if let Some(sandbox) = &sandbox {
        check::sandbox(sandbox, sink);
    }
    if let Some(budgets) = &budgets.value {
        check::budgets(budgets, sink);
    }
    Some(Spec {
        goal: goal?,
        autonomy: autonomy?,
        tier: tier?,
        package: package.value?,
        permissions: permissions.value?,
        sandbox: sandbox?,
        access: access?,
        budgets: budgets.value?,
        telemetry: telemetry?,
        evidence: evidence?,
    })
}

fn package(field: &Field<'_>, sink: &mut Sink) -> Option<Package> {
    let mut map = field.fields(sink)?;
    let directory = map.optional("directory", sink).and_then(|f| f.text(PATH, sink));
    let oci_layout = map.optional("ociLayout", sink).and_then(|f| f.text(PATH, sink));
    let layers = map.optional("layers", sink).map(|f| layers(&f, sink)).unwrap_or_default();
    let entrypoint = map.required("entrypoint", "write the program and its arguments: `[python3, agent.py]`", sink);
    let entrypoint = entrypoint.map(|f| texts(&f, LISTED_MAX, 0..=4_096, sink));
    let prompts = map.optional("prompts", sink).map(|f| texts(&f, LISTED_MAX, PATH, sink)).unwrap_or_default();
    let model = map.optional("model", sink).and_then(|f| default_model(&f, sink));
    let tools = map.optional("tools", sink).map(|f| texts(&f, 1_024, 1..=256, sink)).unwrap_or_default();
    let skills = map.optional("skills", sink).map(|f| texts(&f, LISTED_MAX, PATH, sink)).unwrap_or_default();
    let policies = map.optional("policies", sink).map(|f| texts(&f, LISTED_MAX, PATH, sink)).unwrap_or_default();
    let environment = map.optional("environment", sink).map(|f| environment(&f, sink)).unwrap_or_default();
    map.finish(sink);
    let package = Package {
        directory,
        oci_layout,
        layers,
        entrypoint: entrypoint?,
        prompts,
        model,
        tools,
        skills,
        policies,
        environment,
    };
    check::package(&package, &field.path, sink);
    Some(package)
}

pub(crate) fn texts(field: &Field<'_>, most: usize, bytes: RangeInclusive<usize>, sink: &mut Sink) -> Vec<String> {
    let items = field.items(most, sink);
    items.iter().filter_map(|item| item.text(bytes.clone(), sink)).collect()
}

fn layers(field: &Field<'_>, sink: &mut Sink) -> Vec<Layer> {
    let mut layers = Vec::new();
    for item in field.items(16, sink) {
        let Some(mut map) = item.fields(sink) else { continue };
        let directory = map.required("directory", "name the directory, relative to this file", sink);
        let directory = directory.and_then(|f| f.text(PATH, sink));
        let at = map.required("at", "say where it is in the sandbox, such as `/opt/site`", sink);
        let at = at.and_then(|f| f.text(PATH, sink));
        map.finish(sink);
        // A layer that is only half there keeps its place: the rules name layers by number.
        layers.push(Layer { directory: directory.unwrap_or_default(), at: at.unwrap_or_default() });
    }
    layers
}

fn default_model(field: &Field<'_>, sink: &mut Sink) -> Option<DefaultModel> {
    let mut map = field.fields(sink)?;
    let name = map.required("name", "name one of the permitted models", sink).and_then(|f| f.text(LINE, sink));
    let parameters = map.optional("parameters", sink).map(|f| parameters(&f, sink)).unwrap_or_default();
    map.finish(sink);
    Some(DefaultModel { name: name?, parameters })
}

fn parameters(field: &Field<'_>, sink: &mut Sink) -> BTreeMap<String, Parameter> {
    let mut parameters = BTreeMap::new();
    for (name, value) in field.entries(64, sink) {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
            let fix = "use letters, digits, `_`, `-` and `.`";
            sink.on(&value.path, "name", "this is not the name of a parameter", fix);
            continue;
        }
        let read = match &value.node.kind {
            Kind::Bool(truth) => Some(Parameter::Bool(*truth)),
            Kind::Int(text) => match text.parse() {
                Ok(number) => Some(Parameter::Int(number)),
                Err(_) => {
                    value.number(0..=u64::from(u32::MAX), sink).and_then(|n| i64::try_from(n).ok()).map(Parameter::Int)
                }
            },
            Kind::Float(text) => {
                let fix = format!("put it in quotes, so that the digest has one text: \"{text}\"");
                sink.at(value.node.place, &value.path, "no-float", "a number with decimals", fix);
                None
            }
            _ => value.text(0..=4_096, sink).map(Parameter::Text),
        };
        if let Some(read) = read {
            parameters.insert(name.to_owned(), read);
        }
    }
    parameters
}

fn environment(field: &Field<'_>, sink: &mut Sink) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in field.entries(64, sink) {
        if let Some(text) = value.text(0..=4_096, sink) {
            check::variable(name, &text, &value.path, sink);
            variables.insert(name.to_owned(), text);
        }
    }
    variables
}

fn sandbox(field: &Field<'_>, sink: &mut Sink) -> Option<Sandbox> {
    let mut map = field.fields(sink)?;
    let profile = match map.optional("profile", sink) {
        Some(f) => f.word(&Profile::ALL.map(|profile| (profile.as_str(), profile)), sink),
        None => Some(Profile::default()),
    };
    let resources = match map.optional("resources", sink) {
        Some(f) => resources(&f, sink),
        None => Some(Resources::default()),
    };
    let grace = match map.optional("graceSeconds", sink) {
        Some(f) => f.number32(0..=600, sink),
        None => Some(Sandbox::default().grace_seconds),
    };
    let on_violation = match map.optional("onViolation", sink) {
        Some(f) => {
            f.word(&[Reaction::Deny, Reaction::Suspend, Reaction::Kill].map(|r| (r.as_str(), r)), sink).map(Some)
        }
        None => Some(None),
    };
    let files = files::files(&mut map, sink);
    map.finish(sink);
    let (workspace, inputs, outputs) = files?;
    Some(Sandbox {
        profile: profile?,
        resources: resources?,
        grace_seconds: grace?,
        on_violation: on_violation?,
        workspace,
        inputs,
        outputs,
    })
}

fn resources(field: &Field<'_>, sink: &mut Sink) -> Option<Resources> {
    let mut map = field.fields(sink)?;
    let usual = Resources::default();
    let mut read = |name, within, default, sink: &mut Sink| match map.optional(name, sink) {
        Some(f) => f.number32(within, sink),
        None => Some(default),
    };
    let cpu_millis = read("cpuMillis", 50..=64_000, usual.cpu_millis, sink);
    let memory_mib = read("memoryMib", 16..=65_536, usual.memory_mib, sink);
    let pids = read("pids", 4..=4_096, usual.pids, sink);
    let workspace_mib = read("workspaceMib", 1..=65_536, usual.workspace_mib, sink);
    let open_files = read("openFiles", 16..=65_536, usual.open_files, sink);
    let workspace_inodes = files::inodes(&mut map, sink);
    let mut limit = |name, sink: &mut Sink| match map.optional(name, sink) {
        Some(f) => f.number32(1..=65_536, sink).map(Some),
        None => Some(None),
    };
    let io_read_mib_per_second = limit("ioReadMibPerSecond", sink);
    let io_write_mib_per_second = limit("ioWriteMibPerSecond", sink);
    map.finish(sink);
    Some(Resources {
        cpu_millis: cpu_millis?,
        memory_mib: memory_mib?,
        pids: pids?,
        workspace_mib: workspace_mib?,
        workspace_inodes: workspace_inodes?,
        open_files: open_files?,
        io_read_mib_per_second: io_read_mib_per_second?,
        io_write_mib_per_second: io_write_mib_per_second?,
    })
}

fn budgets(field: &Field<'_>, sink: &mut Sink) -> Option<Budgets> {
    let mut map = field.fields(sink)?;
    let run = map.required("run", "limit `tokens`, `costUsd`, `toolCalls` and `wallClockSeconds` of one run", sink);
    let run = run.and_then(|f| {
        let mut map = f.fields(sink)?;
        let (tokens, cost_usd, tool_calls) = amounts(&mut map, sink);
        let connections = number_or(&mut map, "connections", CALLS, DEFAULT_RUN_CONNECTIONS, sink);
        let egress = limit(&mut map, "egressMib", EGRESS_MIB, sink);
        let wall = map.required("wallClockSeconds", "say how long a run may last", sink);
        let wall = wall.and_then(|f| f.number(WALL_CLOCK, sink));
        map.finish(sink);
        Some(RunBudget {
            tokens: tokens?,
            cost_usd: cost_usd?,
            tool_calls: tool_calls?,
            connections: connections?,
            egress_mib: egress?,
            wall_clock_seconds: wall?,
        })
    });
    let mut agent = None;
    if let Some(field) = map.optional("agent", sink)
        && let Some(mut inner) = field.fields(sink)
    {
        let (tokens, cost_usd, tool_calls) = amounts(&mut inner, sink);
        let connections = limit(&mut inner, "connections", CALLS, sink);
        let egress = limit(&mut inner, "egressMib", EGRESS_MIB, sink);
        inner.finish(sink);
        if let (Some(tokens), Some(cost_usd), Some(tool_calls), Some(connections), Some(egress_mib)) =
            (tokens, cost_usd, tool_calls, connections, egress)
        {
            agent = Some(AgentBudget { tokens, cost_usd, tool_calls, connections, egress_mib });
        }
    }
    map.finish(sink);
    Some(Budgets { run: run?, agent })
}

fn amounts(map: &mut Fields<'_>, sink: &mut Sink) -> (Option<u64>, Option<NanoUsd>, Option<u64>) {
    let tokens = map.required("tokens", "limit the model tokens, in and out", sink);
    let tokens = tokens.and_then(|f| f.number(TOKENS, sink));
    let cost = map.required("costUsd", "limit the cost in dollars, in quotes: `\"0.50\"`", sink);
    let cost = cost.and_then(|f| cost_usd(&f, sink));
    let calls = map.required("toolCalls", "limit the tool calls", sink).and_then(|f| f.number(CALLS, sink));
    (tokens, cost, calls)
}

/// A limit that may be left out; `Some(None)` where it is.
fn limit(
    map: &mut Fields<'_>,
    name: &'static str,
    within: RangeInclusive<u64>,
    sink: &mut Sink,
) -> Option<Option<u64>> {
    match map.optional(name, sink) {
        Some(field) => field.number(within, sink).map(Some),
        None => Some(None),
    }
}

fn number_or(
    map: &mut Fields<'_>,
    name: &'static str,
    within: RangeInclusive<u64>,
    otherwise: u64,
    sink: &mut Sink,
) -> Option<u64> {
    Some(limit(map, name, within, sink)?.unwrap_or(otherwise))
}

fn cost_usd(field: &Field<'_>, sink: &mut Sink) -> Option<NanoUsd> {
    let amount: NanoUsd = field.typed("bound", "write dollars in quotes: `\"0.50\"`", sink)?;
    if amount > COST_MAX {
        sink.on(&field.path, "bound", "more than a million dollars", "use at most `\"1000000\"`");
        return None;
    }
    Some(amount)
}

fn evidence(field: &Field<'_>, sink: &mut Sink) -> Option<EvidenceNeeds> {
    let mut map = field.fields(sink)?;
    let usual = EvidenceNeeds::default();
    let days = match map.optional("retentionDays", sink) {
        Some(f) => f.number32(1..=36_500, sink),
        None => Some(usual.retention_days),
    };
    let mut truth = |name, default, sink: &mut Sink| match map.optional(name, sink) {
        Some(f) => f.truth(sink),
        None => Some(default),
    };
    let arguments = truth("keepArguments", usual.keep_arguments, sink);
    let results = truth("keepResults", usual.keep_results, sink);
    map.finish(sink);
    Some(EvidenceNeeds { retention_days: days?, keep_arguments: arguments?, keep_results: results? })
}
