//! Runs: one execution of an agent version each.

use cogward_model::{
    AgentName, Digest, NanoUsd, RunId, TenantName, Timestamp, VersionLabel,
    attestation::Attested,
    content::{Artifact, GivenInput, NotKept},
    manifest::AutonomyClass,
    outside::OutsideClient,
    run::RunState,
    violation::ViolationTotal,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RunInput;

/// A run to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunStart {
    /// The tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The version; the latest registered unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionLabel>,
    /// What the agent gets on its standard input and in `/run/cogward/input.json`; at most 1 MiB of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The files that it is given, each declared by the version and uploaded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub inputs: Vec<RunInput>,
    /// The user for whom the run acts; a `user-delegated` agent must have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub as_user: Option<String>,
    /// The client outside that is to act in it, in the place of the agent's code. One that comes by itself needs none of
    /// this; one whose last run was stopped does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideClient>,
    /// Why; goes into the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
}

/// A run as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Its identifier.
    pub id: RunId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its agent.
    pub agent: AgentName,
    /// Its version.
    pub version: VersionLabel,
    /// The version's identity.
    pub digest: Digest,
    /// Where it is in its life.
    pub state: RunState,
    /// On whose authority it acts; never changes.
    pub autonomy: AutonomyClass,
    /// The user for whom it acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_user: Option<String>,
    /// The client outside that acts in it; there is no sandbox then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideClient>,
    /// The operator who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    /// Why it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it is to achieve.
    pub goal: String,
    /// When it was accepted.
    pub created: Timestamp,
    /// When the agent's first instruction ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When its last process was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The exit code of the agent's first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it did not succeed, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_cause: Option<String>,
    /// What the agent gave as its result, once it has ended; at most 1 MiB of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Why its output file was not taken, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_refused: Option<NotKept>,
    /// The files that it was given; only where one run is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<GivenInput>,
    /// What became of its declared outputs, once it has ended; only where one run is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// What it has used.
    pub usage: RunUsage,
    /// What it may use.
    pub limits: RunLimits,
    /// What was refused by its sandbox and its proxy, the gravest first, with exact totals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<ViolationTotal>,
    /// The last look at its sandbox from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
}

/// What a run has used so far. Calls in flight count with what is reserved for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunUsage {
    /// Model tokens, in and out.
    pub tokens: u64,
    /// Dollars.
    pub cost_usd: NanoUsd,
    /// Tool calls that were carried out.
    pub tool_calls: u64,
    /// Model calls that were carried out.
    pub model_calls: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Bytes to and from hosts outside.
    pub egress_bytes: u64,
    /// Calls and connections that were refused.
    pub refusals: u64,
    /// Processor time of all its processes, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Most memory of all its processes together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Bytes read from disks, where the host counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written to disks, where the host counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
}

/// What a run may use, from its version's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunLimits {
    /// Model tokens, in and out.
    pub tokens: u64,
    /// Dollars.
    pub cost_usd: NanoUsd,
    /// Tool calls.
    pub tool_calls: u64,
    /// Connections to declared hosts.
    pub connections: u64,
    /// MiB to and from declared hosts together, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_mib: Option<u64>,
    /// Seconds from start to end.
    pub wall_clock_seconds: u64,
}

/// Why a state is changed; goes into the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// One sentence for the person who reads the record in a year.
    #[schemars(length(min = 1, max = 1000))]
    pub reason: String,
}

/// Which runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunQuery {
    /// Only of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Only of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Only in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// Most items to return, 1 to 200; 50 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which of a run's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// The word in the query.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Which part of a run's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Standard output unless said.
    #[serde(default)]
    pub stream: LogStream,
    /// Leave out this many bytes from its beginning, to go on where an earlier answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}
