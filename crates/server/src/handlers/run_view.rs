//! A run as the API shows it.

use std::{collections::HashMap, io::Read, os::unix::fs::OpenOptionsExt};

use cogward_api::{Run, RunLimits, RunUsage};
use cogward_budget::Scope;
use cogward_model::{
    AgentName, NanoUsd, TenantName, VersionLabel,
    attestation::Attested,
    limits::RUN_INPUT_BYTES_MAX,
    manifest::{AutonomyClass, Manifest},
    violation::ViolationTotal,
};
use cogward_store::RunRow;
use serde::Deserialize;

use super::files;
use crate::{failure::Failure, plane::Plane};

/// The output of a run has the bound of an input.
const OUTPUT_BYTES_MAX: usize = RUN_INPUT_BYTES_MAX;

type Key = (TenantName, AgentName, VersionLabel);

/// Shows runs; reads each version once.
pub(crate) struct RunViews<'a> {
    plane: &'a Plane,
    versions: HashMap<Key, (AutonomyClass, RunLimits)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kept {
    sandbox: KeptSandbox,
    used: KeptUsed,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KeptSecurity {
    violations: Vec<ViolationTotal>,
    attested: Option<Attested>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KeptSandbox {
    cpu_micros: Option<u64>,
    memory_peak_bytes: Option<u64>,
    io_read_bytes: Option<u64>,
    io_write_bytes: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KeptUsed {
    tokens: u64,
    cost_usd: NanoUsd,
    tool_calls: u64,
    model_calls: u64,
    connections: u64,
    egress_bytes: u64,
    refusals: u64,
}

impl<'a> RunViews<'a> {
    pub(crate) fn new(plane: &'a Plane) -> Self {
        Self { plane, versions: HashMap::new() }
    }

    pub(crate) async fn view(&mut self, row: RunRow) -> Result<Run, Failure> {
        let (autonomy, limits) = self.version(&row).await?;
        let (usage, security) = (self.usage(&row), self.security(&row));
        Ok(Run {
            id: row.id,
            tenant: row.tenant,
            agent: row.agent,
            version: row.version,
            digest: row.digest,
            state: row.state,
            autonomy,
            as_user: row.subject,
            outside: row.outside,
            started_by: Some(row.created_by),
            reason: row.reason,
            goal: row.goal,
            created: row.created,
            started: row.started,
            ended: row.ended,
            exit_code: row.exit_code,
            fail_cause: row.fail_cause,
            output: None,
            output_refused: None,
            inputs: Vec::new(),
            artifacts: Vec::new(),
            usage,
            limits,
            violations: security.violations,
            attested: security.attested,
        })
    }

    /// With its output, if it has ended.
    pub(crate) async fn whole(&mut self, row: RunRow) -> Result<Run, Failure> {
        let path = self.plane.files.dir(row.id).join("output");
        let ended = row.ended.is_some();
        let mut run = self.view(row).await?;
        if ended {
            let read = tokio::task::spawn_blocking(move || bounded(&path)).await;
            run.output = read.ok().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let left = files::left(self.plane, run.id).await;
            (run.artifacts, run.output_refused) = (left.artifacts, left.output_refused);
        }
        let (files, id) = (self.plane.files.clone(), run.id);
        let given = tokio::task::spawn_blocking(move || files.inputs(id)).await;
        run.inputs = given.ok().and_then(Result::ok).unwrap_or_default().into_iter().map(|(input, _)| input).collect();
        Ok(run)
    }

    async fn version(&mut self, row: &RunRow) -> Result<(AutonomyClass, RunLimits), Failure> {
        let key = (row.tenant.clone(), row.agent.clone(), row.version.clone());
        if let Some(known) = self.versions.get(&key) {
            return Ok(*known);
        }
        let version = self.plane.store.version(&row.tenant, &row.agent, &row.version).await?;
        let version = version.ok_or_else(|| Failure::missing("version", &row.version))?;
        let manifest: Manifest = serde_json::from_str(&version.manifest_json)
            .map_err(|e| Failure::internal("a stored manifest cannot be read", &e))?;
        let budget = manifest.spec.budgets.run;
        let limits = RunLimits {
            tokens: budget.tokens,
            cost_usd: budget.cost_usd,
            tool_calls: budget.tool_calls,
            connections: budget.connections,
            egress_mib: budget.egress_mib,
            wall_clock_seconds: budget.wall_clock_seconds,
        };
        Ok(*self.versions.entry(key).or_insert((manifest.spec.autonomy, limits)))
    }

    /// Of a run that is not closed from the engine, of another from its row.
    fn security(&self, row: &RunRow) -> KeptSecurity {
        let kept = row.usage_json.as_ref().and_then(|text| serde_json::from_str(text).ok());
        kept.unwrap_or_else(|| {
            let (violations, attested) = self.plane.engine.security(row.id).unwrap_or_default();
            KeptSecurity { violations, attested }
        })
    }

    fn usage(&self, row: &RunRow) -> RunUsage {
        if let Some(text) = &row.usage_json {
            let Kept { sandbox, used } = serde_json::from_str(text).unwrap_or_default();
            return RunUsage {
                tokens: used.tokens,
                cost_usd: used.cost_usd,
                tool_calls: used.tool_calls,
                model_calls: used.model_calls,
                connections: used.connections,
                egress_bytes: used.egress_bytes,
                refusals: used.refusals,
                cpu_ms: sandbox.cpu_micros.map(|us| us / 1_000),
                memory_peak_bytes: sandbox.memory_peak_bytes,
                io_read_bytes: sandbox.io_read_bytes,
                io_write_bytes: sandbox.io_write_bytes,
            };
        }
        let balance = self.plane.budgets.balance(&Scope::run(row.id));
        let counted = balance.used.saturating_add(balance.held);
        let tally = self.plane.gateway.tally(row.id);
        RunUsage {
            tokens: counted.tokens,
            cost_usd: counted.cost,
            tool_calls: counted.tool_calls,
            model_calls: tally.model_calls,
            connections: tally.connections,
            egress_bytes: counted.egress_bytes,
            refusals: tally.refusals,
            cpu_ms: None,
            memory_peak_bytes: None,
            io_read_bytes: None,
            io_write_bytes: None,
        }
    }
}

fn bounded(path: &std::path::Path) -> Option<Vec<u8>> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nofollow()).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The file is the supervisor's; a link in its place is somebody else's work.
pub(crate) fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}
