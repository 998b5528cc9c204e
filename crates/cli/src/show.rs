//! How each noun of the API looks in a table.

use cogward_api::{
    Agent, AgentVersion, EgressCredential, Event, EvidenceHealth, EvidenceLeaf, EvidenceStatus, Operation,
    OperationState, Plane, Provider, Registration, Run, Tenant, ToolServer, Warm, WhoAmI,
};
use cogward_model::{
    Timestamp,
    attestation::{Attested, Check},
    memory::MemoryBackend,
    run::RunState,
    upstream::{Price, ProviderShape, ToolNetwork, ToolSandbox, ToolTransport},
    violation::{Severity, ViolationTotal},
};

use crate::output::{Cell, Show, Tone};

mod archive;
mod files;
mod issuers;
mod keys;
mod policies;
mod redactions;

fn maybe<T: std::fmt::Display>(value: &Option<T>) -> Cell {
    value.as_ref().map(ToString::to_string).unwrap_or_default().into()
}

/// To the second; JSON has the microseconds.
fn time(time: Timestamp) -> Cell {
    let text = time.to_string();
    format!("{}Z", text.get(..19).unwrap_or(&text)).into()
}

fn maybe_time(at: Option<Timestamp>) -> Cell {
    at.map_or_else(|| Cell::from(""), time)
}

fn state(state: RunState) -> Cell {
    let tone = match state {
        RunState::Running | RunState::Succeeded => Tone::Good,
        RunState::Starting | RunState::Suspended | RunState::Stopping | RunState::Cancelled => Tone::Warn,
        RunState::Failed | RunState::Killed => Tone::Bad,
    };
    Cell::toned(state.as_str(), tone)
}

/// Bytes to and from hosts outside, and the limit if there is one.
fn outside(bytes: u64, mib: Option<u64>) -> String {
    let used = bytes.div_ceil(1024 * 1024);
    mib.map_or_else(|| format!("{used} MiB"), |limit| format!("{used} of {limit} MiB"))
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Microseconds, in the unit that reads best.
pub fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros / 100 % 10),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
    }
}

/// Bytes, in MiB with a tenth.
fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

impl Show for Tenant {
    const PLURAL: &'static str = "tenants";
    const HEAD: &'static [&'static str] = &["NAME", "CREATED"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.name), time(self.created)]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for Agent {
    const PLURAL: &'static str = "agents";
    const HEAD: &'static [&'static str] = &["NAME", "TENANT", "LATEST", "AUTONOMY", "OWNER", "SPONSOR", "CREATED"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(&self.tenant),
            Cell::from(&self.latest),
            self.autonomy.as_str().into(),
            Cell::from(&self.owner),
            Cell::from(&self.sponsor),
            time(self.created),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        for version in &self.versions {
            let text = format!("{}  {}  {}", version.version, version.digest, version.tier.as_str());
            all.push(("VERSION", text.into()));
        }
        all
    }
}

impl Show for AgentVersion {
    const PLURAL: &'static str = "versions";
    const HEAD: &'static [&'static str] = &["VERSION", "AGENT", "TENANT", "DIGEST", "CREATED"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.version),
            Cell::from(&self.agent),
            Cell::from(&self.tenant),
            self.digest.into(),
            time(self.created),
        ]
    }
    fn name(&self) -> String {
        format!("{}@{}", self.agent, self.version)
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        let spec = &self.manifest.spec;
        all.push(("GOAL", Cell::from(&spec.goal)));
        all.push(("AUTONOMY", spec.autonomy.as_str().into()));
        all.push(("TIER", spec.tier.as_str().into()));
        all.push(("PROFILE", spec.sandbox.profile.as_str().into()));
        for grant in &spec.permissions.tools {
            let tools = grant.allow.iter().map(|tool| tool.as_str()).collect::<Vec<_>>().join(", ");
            all.push(("TOOLS", format!("{}: {tools}", grant.server).into()));
            for (what, patterns) in [("RESOURCES", &grant.resources), ("PROMPTS", &grant.prompts)] {
                if !patterns.is_empty() {
                    let named = patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>().join(", ");
                    all.push((what, format!("{}: {named}", grant.server).into()));
                }
            }
        }
        for grant in &spec.permissions.models {
            all.push(("MODEL", format!("{}/{}", grant.provider, grant.name).into()));
        }
        for grant in &spec.permissions.egress {
            let mut text = format!("{}:{}", grant.host, grant.port);
            if let Some(inspect) = &grant.inspect {
                let paths = inspect.paths.iter().map(|path| path.as_str()).collect::<Vec<_>>().join(", ");
                text.push_str(&format!(": {} of {paths}", inspect.methods.join(", ")));
            }
            all.push(("EGRESS", text.into()));
        }
        let budget = &spec.budgets.run;
        let text = format!(
            "{} tokens, ${}, {} tool calls, {} connections, {} s of each run",
            budget.tokens, budget.cost_usd, budget.tool_calls, budget.connections, budget.wall_clock_seconds
        );
        all.push(("BUDGET", text.into()));
        all
    }
}

impl Show for Warm {
    const PLURAL: &'static str = "versions";
    const HEAD: &'static [&'static str] = &["AGENT", "VERSION", "WANTED", "READY"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.agent),
            Cell::from(&self.version),
            self.count.to_string().into(),
            self.ready.to_string().into(),
        ]
    }
    fn name(&self) -> String {
        format!("{}@{}", self.agent, self.version)
    }
}

impl Show for Registration {
    const PLURAL: &'static str = "registrations";
    const HEAD: &'static [&'static str] = &["AGENT", "VERSION", "TENANT", "DIGEST"];
    fn row(&self) -> Vec<Cell> {
        vec![Cell::from(&self.agent), Cell::from(&self.version), Cell::from(&self.tenant), self.digest.into()]
    }
    fn name(&self) -> String {
        format!("{}@{}", self.agent, self.version)
    }
}

impl Show for ToolServer {
    const PLURAL: &'static str = "tool servers";
    const HEAD: &'static [&'static str] =
        &["NAME", "TENANT", "KIND", "AT", "CREDENTIAL", "BREAKER", "TOOLS", "UPDATED"];
    fn row(&self) -> Vec<Cell> {
        let cogward_api::ToolCounts { approved, quarantined, blocked, gone } = self.tools;
        let counts = [(approved, "approved"), (quarantined, "quarantined"), (blocked, "blocked"), (gone, "gone")];
        let counts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        let tone = if quarantined + blocked + gone > 0 { Tone::Warn } else { Tone::Plain };
        let (kind, at) = match &self.transport {
            ToolTransport::Stdio { command, args, sandbox, network, .. } => {
                let kind = match (sandbox, network) {
                    (ToolSandbox::None, _) => "stdio, UNCONFINED",
                    (ToolSandbox::Standard, ToolNetwork::Host) => "stdio, HOST NETWORK",
                    (ToolSandbox::Standard, ToolNetwork::None) => "stdio",
                };
                (kind, std::iter::once(command).chain(args).cloned().collect::<Vec<_>>().join(" "))
            }
            ToolTransport::Http { url, .. } => ("http", url.clone()),
            ToolTransport::Memory { store, scope, .. } => {
                let at = match store {
                    MemoryBackend::Builtin {} => "built in",
                    MemoryBackend::Pgvector { url, .. } | MemoryBackend::Qdrant { url, .. } => url,
                };
                ("memory", format!("{at}, of {scope}"))
            }
            ToolTransport::OpenApi { url, .. } => ("openapi", url.clone()),
        };
        vec![
            Cell::from(&self.name),
            Cell::from(&self.tenant),
            kind.into(),
            at.into(),
            yes(self.has_credential).into(),
            Cell::toned(
                self.breaker.clone().unwrap_or_default(),
                if self.breaker.as_deref() == Some("open") { Tone::Warn } else { Tone::Plain },
            ),
            Cell::toned(counts.join(", "), tone),
            time(self.updated),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for EgressCredential {
    const PLURAL: &'static str = "credentials";
    const HEAD: &'static [&'static str] = &["NAME", "TENANT", "HOST", "HEADER", "PLACEHOLDER", "UPDATED"];
    fn row(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(&self.tenant),
            format!("{}:{}", self.host, self.port).into(),
            self.header.as_str().into(),
            self.placeholder.as_str().into(),
            time(self.updated),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for Provider {
    const PLURAL: &'static str = "providers";
    const HEAD: &'static [&'static str] = &["NAME", "TENANT", "KIND", "AT", "MODELS", "CREDENTIAL", "UPDATED"];
    fn row(&self) -> Vec<Cell> {
        let (kind, at) = match &self.shape {
            ProviderShape::OpenAi { base_url } => ("openai", base_url.as_str()),
            ProviderShape::Anthropic { base_url } => ("anthropic", base_url.as_str()),
            ProviderShape::Scripted { .. } => ("scripted", "built in"),
        };
        vec![
            Cell::from(&self.name),
            Cell::from(&self.tenant),
            kind.into(),
            at.into(),
            self.prices.len().into(),
            yes(self.has_credential).into(),
            time(self.updated),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        for (model, Price { input_per_million, output_per_million }) in &self.prices {
            all.push(("PRICE", format!("{model}  ${input_per_million} in, ${output_per_million} out").into()));
        }
        all.extend(self.labels.iter().map(|label| ("LABEL", Cell::from(&label.to_string()))));
        all
    }
}

/// The client outside of a run.
fn client(client: Option<&cogward_model::outside::OutsideClient>) -> String {
    client.map_or_else(String::new, |client| {
        format!("{} of {}, for {} ({})", client.client, client.issuer, client.subject, client.binding.as_str())
    })
}

impl Show for Run {
    const PLURAL: &'static str = "runs";
    const HEAD: &'static [&'static str] = &["RUN", "STATE", "AGENT", "VERSION", "TENANT", "TOKENS", "COST", "CREATED"];
    fn row(&self) -> Vec<Cell> {
        vec![
            self.id.into(),
            state(self.state),
            Cell::from(&self.agent),
            Cell::from(&self.version),
            Cell::from(&self.tenant),
            self.usage.tokens.into(),
            format!("${}", self.usage.cost_usd).into(),
            time(self.created),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let (usage, limits) = (&self.usage, &self.limits);
        let mut all = vec![
            ("RUN", self.id.into()),
            ("STATE", state(self.state)),
            ("CAUSE", maybe(&self.fail_cause)),
            ("EXIT CODE", maybe(&self.exit_code)),
            ("AGENT", Cell::from(&self.agent)),
            ("VERSION", format!("{}  {}", self.version, self.digest).into()),
            ("TENANT", Cell::from(&self.tenant)),
            ("GOAL", Cell::from(&self.goal)),
            ("AUTONOMY", self.autonomy.as_str().into()),
            ("AS USER", maybe(&self.as_user)),
            ("CLIENT", client(self.outside.as_ref()).into()),
            ("STARTED BY", maybe(&self.started_by)),
            ("REASON", maybe(&self.reason)),
            ("CREATED", time(self.created)),
            ("STARTED", maybe_time(self.started)),
            ("ENDED", maybe_time(self.ended)),
            ("TOKENS", format!("{} of {}", usage.tokens, limits.tokens).into()),
            ("COST", format!("${} of ${}", usage.cost_usd, limits.cost_usd).into()),
            ("TOOL CALLS", format!("{} of {}", usage.tool_calls, limits.tool_calls).into()),
            ("MODEL CALLS", usage.model_calls.into()),
            ("CONNECTIONS", format!("{} of {}", usage.connections, limits.connections).into()),
            ("OUTSIDE", outside(usage.egress_bytes, limits.egress_mib).into()),
            ("REFUSALS", usage.refusals.into()),
            ("CPU", usage.cpu_ms.map(|ms| span(ms.saturating_mul(1_000))).unwrap_or_default().into()),
            ("MEMORY PEAK", usage.memory_peak_bytes.map(mib).unwrap_or_default().into()),
            ("DISK READ", usage.io_read_bytes.map(mib).unwrap_or_default().into()),
            ("DISK WRITTEN", usage.io_write_bytes.map(mib).unwrap_or_default().into()),
            ("WALL CLOCK", format!("at most {} s", limits.wall_clock_seconds).into()),
        ];
        if let Some(attested) = &self.attested {
            all.push(("ATTESTED", seen(attested)));
            all.extend(attested.gone.iter().map(|check| ("NOT IN FORCE", gone(check))));
        }
        all.extend(self.violations.iter().map(|violation| ("VIOLATION", refused(violation))));
        all.extend(files::of_run(self));
        all.push(("OUTPUT", maybe(&self.output)));
        all
    }
}

fn seen(attested: &Attested) -> Cell {
    let (tone, word) = if attested.holds { (Tone::Good, "in force") } else { (Tone::Bad, "NOT in force") };
    let text = format!(
        "{word} at {}: {} checks on {} processes in {}, proof {}",
        attested.at,
        attested.checks,
        attested.processes,
        span(attested.took_us),
        attested.proof
    );
    Cell::toned(text, tone)
}

fn gone(check: &Check) -> Cell {
    let detail = check.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    Cell::toned(format!("{}{detail}", check.name), Tone::Bad)
}

fn refused(violation: &ViolationTotal) -> Cell {
    let tone = match violation.severity {
        Severity::High => Tone::Bad,
        Severity::Warning => Tone::Warn,
        Severity::Info => Tone::Plain,
    };
    let ViolationTotal { layer, action, object, severity, total } = violation;
    Cell::toned(format!("{total} x {layer} {action} {object} ({})", severity.as_str()), tone)
}

impl Show for Operation {
    const PLURAL: &'static str = "operations";
    const HEAD: &'static [&'static str] =
        &["OPERATION", "VERB", "RUN", "STATE", "FENCED AFTER", "EFFECTIVE AFTER", "PROCESSES"];
    fn row(&self) -> Vec<Cell> {
        let receipt = self.receipt.as_ref();
        vec![
            self.id.into(),
            self.verb.into(),
            self.run.into(),
            operation_state(self.state),
            receipt.map_or_else(String::new, |r| span(r.fenced_us)).into(),
            receipt.map_or_else(String::new, |r| span(r.effective_us)).into(),
            maybe(&receipt.and_then(|r| r.processes)),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        all.push(("REASON", Cell::from(&self.reason)));
        all.push(("REQUESTED BY", Cell::from(&self.requested_by)));
        all.push(("REQUESTED", Cell::from(self.requested)));
        if let Some(receipt) = &self.receipt {
            all.push(("RUN IS NOW", state(receipt.state)));
            all.push(("CALLS CUT", maybe(&receipt.calls_cut)));
            let leaf = receipt.evidence.as_ref().map(|at| format!("{}/{} {}", at.tenant, at.seq, at.id));
            all.push(("EVIDENCE", maybe(&leaf)));
        }
        all.push(("PROBLEM", maybe(&self.problem)));
        all
    }
}

fn operation_state(state: OperationState) -> Cell {
    let tone = match state {
        OperationState::Pending => Tone::Warn,
        OperationState::Done => Tone::Good,
        OperationState::Failed => Tone::Bad,
    };
    Cell::toned(state.as_str(), tone)
}

impl Show for EvidenceLeaf {
    const PLURAL: &'static str = "leaves of evidence";
    const HEAD: &'static [&'static str] = &["SEQ", "TIME", "TYPE", "OUTCOME", "OBJECT", "RULE", "WHY"];
    fn row(&self) -> Vec<Cell> {
        let outcome = self.first(&["decision", "outcome", "verdict", "state"]);
        let tone = match outcome.as_str() {
            "block" | "suspended" | "killed" => Tone::Bad,
            "permit" => Tone::Good,
            _ => Tone::Plain,
        };
        let object = match (self.first(&["provider", "host", "layer"]), self.first(&["model", "port", "action"])) {
            (left, right) if left.is_empty() || right.is_empty() => {
                self.first(&["tool", "object", "tool_server"]) + &left
            }
            (provider, model) if self.body.contains_key("model") => format!("{provider}/{model}"),
            (host, port) if self.body.contains_key("port") => format!("{host}:{port}"),
            (layer, action) => format!("{layer} {action} {}", self.first(&["object"])),
        };
        vec![
            self.seq.into(),
            self.time.into(),
            Cell::from(&self.kind),
            Cell::toned(outcome, tone),
            object.into(),
            self.first(&["rule"]).into(),
            self.first(&["reason", "code", "cause", "severity"]).into(),
        ]
    }
    fn name(&self) -> String {
        self.body.get("id").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }
}

/// What a leaf says of itself, in clear or disclosed.
/// How far the plane log is witnessed, in one line.
pub fn witnessed(status: &EvidenceStatus) -> String {
    match (&status.witnessed, status.exposure_seconds) {
        _ if !status.quorum_wanted => {
            "Not witnessed: the plane asks no witness. Keep the pack's checkpoint outside; docs/evidence.md says why."
                .to_owned()
        }
        (Some(seen), Some(age)) if status.below_quorum => format!(
            "Below quorum: {} of {} checkpoints are witnessed (by {}), the newest {age} s ago.",
            seen.size,
            status.size,
            seen.by.join(", ")
        ),
        (Some(seen), _) => format!("Witnessed up to the newest checkpoint, by {}.", seen.by.join(", ")),
        (None, _) => "Below quorum: nothing is witnessed yet.".to_owned(),
    }
}

impl Show for EvidenceStatus {
    const PLURAL: &'static str = "plane logs";
    const HEAD: &'static [&'static str] = &["PLANE LOG", "CHECKPOINTS", "WITNESSED", "BY", "EXPOSED FOR"];
    fn row(&self) -> Vec<Cell> {
        let tone = if self.below_quorum { Tone::Bad } else { Tone::Good };
        let (size, by) = match &self.witnessed {
            Some(seen) => (Cell::toned(seen.size.to_string(), tone), seen.by.join(", ")),
            None => {
                (Cell::toned(if self.quorum_wanted { "below quorum" } else { "by nobody" }, Tone::Bad), String::new())
            }
        };
        let exposed = self.exposure_seconds.map(|age| format!("{age} s")).unwrap_or_default();
        vec![Cell::from(&self.log), self.size.into(), size, Cell::from(&by), Cell::from(&exposed)]
    }
    fn name(&self) -> String {
        self.log.clone()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        // The second is longer than a screen; JSON has both.
        let stamp = self.timestamp.as_ref();
        let said = stamp.map(|stamp| format!("{} leaves at {}, {} s ago", stamp.size, stamp.time, stamp.age_seconds));
        all.push(("TIME STAMP", Cell::from(&said.unwrap_or_else(|| "none".to_owned()))));
        if let Some(offset) = stamp.and_then(|stamp| stamp.offset_ms) {
            all.push(("CLOCK OFFSET", Cell::from(&format!("{offset} ms"))));
        }
        all.extend(self.unsigned_seconds.map(|age| ("UNSIGNED FOR", Cell::toned(format!("{age} s"), Tone::Bad))));
        all.extend(self.keys.first().map(|key| ("KEY", Cell::from(key))));
        all
    }
}

trait Fields {
    /// The first of these fields that says something; a commitment that is not disclosed says nothing.
    fn first(&self, names: &[&str]) -> String;
}

impl Fields for EvidenceLeaf {
    fn first(&self, names: &[&str]) -> String {
        let said = names.iter().find_map(|name| {
            let lost = || self.lost.contains(*name).then(|| "lost (its key is gone)".to_owned());
            if let Some(gone) = self.erased.get(*name).map(|redaction| format!("erased ({redaction})")).or_else(lost) {
                return Some(gone);
            }
            let value = self.disclosed.get(*name).or_else(|| self.body.get(*name))?;
            match value {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) => Some(number.to_string()),
                _ => None,
            }
        });
        said.unwrap_or_default()
    }
}

impl Show for Event {
    const PLURAL: &'static str = "events";
    const HEAD: &'static [&'static str] = &["TIME", "TYPE", "RUN", "MESSAGE"];
    fn row(&self) -> Vec<Cell> {
        vec![self.time.into(), Cell::from(&self.kind), maybe(&self.run), Cell::from(&self.message)]
    }
    fn name(&self) -> String {
        self.cursor.clone()
    }
}

/// An event as a line of its own: a stream has no widths to align to.
pub fn event_line(event: &Event) -> String {
    // A message that names the run itself needs it no second time.
    let run = event.run.map(|run| run.to_string()).filter(|run| !event.message.contains(run.as_str()));
    let run = run.map(|run| format!("  {run}")).unwrap_or_default();
    format!("{}  {}{run}  {}", event.time, event.kind, event.message)
}

impl Show for WhoAmI {
    const PLURAL: &'static str = "operators";
    const HEAD: &'static [&'static str] = &["OPERATOR", "NAME"];
    fn row(&self) -> Vec<Cell> {
        vec![self.operator.into(), Cell::from(&self.name)]
    }
    fn name(&self) -> String {
        self.operator.to_string()
    }
}

impl Show for Plane {
    const PLURAL: &'static str = "planes";
    const HEAD: &'static [&'static str] =
        &["VERSION", "STARTED", "LISTENS ON", "DATA", "EVIDENCE", "LIVE RUNS", "TAKES RUNS"];
    fn row(&self) -> Vec<Cell> {
        let evidence = match &self.evidence {
            EvidenceHealth::Ok => Cell::toned("ok", Tone::Good),
            EvidenceHealth::LowSpace { free_bytes } => {
                Cell::toned(format!("low space: {} MiB left, agents are stopped", free_bytes >> 20), Tone::Bad)
            }
            EvidenceHealth::Unsigned { why } => Cell::toned(format!("not signed, agents wait: {why}"), Tone::Bad),
            EvidenceHealth::Failed { why } => Cell::toned(format!("failed: {why}"), Tone::Bad),
        };
        vec![
            Cell::from(&self.version),
            time(self.started),
            Cell::from(&self.listen),
            Cell::from(&self.data_dir),
            evidence,
            self.runs_live.into(),
            yes(self.accepting).into(),
        ]
    }
    fn name(&self) -> String {
        self.listen.clone()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        for level in &self.policies_unusable {
            let told = format!("{level} cannot be used, nothing is permitted under it: `cogward policy status`");
            all.push(("POLICY", Cell::toned(told, Tone::Bad)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(body: serde_json::Value, disclosed: serde_json::Value) -> EvidenceLeaf {
        serde_json::from_value(serde_json::json!({
            "seq": 7, "time": "2026-11-23T02:00:00.000000Z", "type": "t", "body": body, "disclosed": disclosed,
        }))
        .unwrap()
    }

    /// One row per kind of action, and no commitment passed off as a value.
    #[test]
    fn a_leaf_tells_its_outcome_object_and_cause() {
        let none = serde_json::json!({});
        let tool = serde_json::json!({
            "decision": "block", "tool": "files/write", "rule": "permissions.tools", "code": "not_declared",
        });
        let model = serde_json::json!({ "decision": "permit", "provider": "p", "model": "m" });
        let egress = serde_json::json!({ "outcome": "completed", "host": "h", "port": 443 });
        let violation = serde_json::json!({ "layer": "seccomp", "action": "ptrace", "object": "x" });
        let hidden = serde_json::json!({ "state": "suspended", "reason": { "$c": "abc" } });
        let cells = |body: serde_json::Value, disclosed: serde_json::Value| -> String {
            let row = leaf(body, disclosed).row();
            row[3..].iter().map(Cell::text).collect::<Vec<_>>().join("|")
        };
        assert_eq!(cells(tool, none.clone()), "block|files/write|permissions.tools|not_declared");
        assert_eq!(cells(model, none.clone()), "permit|p/m||");
        assert_eq!(cells(egress, none.clone()), "completed|h:443||");
        assert_eq!(cells(violation, none.clone()), "|seccomp ptrace x||");
        assert_eq!(cells(hidden.clone(), none), "suspended|||");
        assert_eq!(cells(hidden, serde_json::json!({ "reason": "look" })), "suspended|||look");
    }

    #[test]
    fn spans_read_well() {
        assert_eq!(span(312), "312 µs");
        assert_eq!(span(41_260), "41.2 ms");
        assert_eq!(span(2_345_000), "2.34 s");
    }
}
