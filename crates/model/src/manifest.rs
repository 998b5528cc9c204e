//! The manifest of an agent: `apiVersion: cogward.dev/v1alpha1`, `kind: Agent`.
//!
//! These are the types after parsing; reading YAML with positions, and the rules that need more than
//! one field, are in the registry. Everything that an agent may do is here, and nothing else is
//! allowed: there is no default that grants.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    AgentName, NanoUsd, TenantName, ToolName, UpstreamName, VersionLabel, action::Amounts, http_scope::PathPattern,
    name_scope::NamePattern, violation::Reaction,
};

mod access;
mod evidence;
mod files;

pub use access::{Access, OutsideGrant};
pub use evidence::EvidenceNeeds;
pub use files::{Input, Medium, Output, Workspace, skill_name};

/// The `apiVersion` that this plane reads.
pub const API_VERSION: &str = "cogward.dev/v1alpha1";

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Always `cogward.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Agent`.
    pub kind: String,
    /// Who it is and who answers for it.
    pub metadata: Metadata,
    /// What it is and may do.
    pub spec: Spec,
}

/// Who the agent is and who answers for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique within the tenant.
    pub name: AgentName,
    /// The tenant that it belongs to.
    pub tenant: TenantName,
    /// The label of this version; a label is used once.
    pub version: VersionLabel,
    /// The team that runs it.
    pub owner: String,
    /// The person who is accountable for it, as the customer's directory names them.
    pub sponsor: String,
    /// Where its cost is booked.
    pub cost_centre: String,
    /// What it is for, for a reader of the register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What the agent is and may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// What a run is to achieve, in one sentence.
    pub goal: String,
    /// On whose authority it acts; never changes within a run.
    pub autonomy: AutonomyClass,
    /// Where it may run.
    #[serde(default)]
    pub tier: Tier,
    /// Code, prompts, model, tools, skills: what the digest covers.
    pub package: Package,
    /// All that it may reach.
    #[serde(default)]
    pub permissions: Permissions,
    /// How it is isolated.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Who may act as the agent from outside its sandbox.
    #[serde(default, skip_serializing_if = "Access::is_closed")]
    pub access: Access,
    /// What it may use up.
    pub budgets: Budgets,
    /// Whether its OpenTelemetry exports are taken.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What must be recorded, and for how long it is kept.
    #[serde(default)]
    pub evidence: EvidenceNeeds,
}

/// On whose authority an agent acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AutonomyClass {
    /// For a named user, within that user's rights; a run must name the user.
    UserDelegated,
    /// By itself, with a person who watches and approves.
    Supervised,
    /// By itself.
    Autonomous,
}

impl AutonomyClass {
    /// The word used in the manifest and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserDelegated => "user-delegated",
            Self::Supervised => "supervised",
            Self::Autonomous => "autonomous",
        }
    }
}

/// The environment tier of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// For building and trying.
    #[default]
    Development,
    /// For evaluation before production.
    Staging,
    /// Real work.
    Production,
}

impl Tier {
    /// Every tier, from the least to the most trusted.
    pub const ALL: [Self; 3] = [Self::Development, Self::Staging, Self::Production];

    /// The word used in the manifest and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// The content-addressed composition of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Package {
    /// A directory with the agent's code, relative to the manifest. Exactly one of `directory` and `ociLayout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// An OCI image layout directory, relative to the manifest; its image is the sandbox's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci_layout: Option<String>,
    /// More directories that the code needs (a vendored virtual environment), each at a path in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// The program and its arguments; the program is a path in the sandbox or a name in its `PATH`.
    pub entrypoint: Vec<String>,
    /// Files of the package that are prompts; they must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// The model that the agent uses by default, with its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<DefaultModel>,
    /// Tools that the code expects, as `server/tool`; each must be permitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Folders of the package that are skills; they must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
    /// Cedar policy files of the package; they must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// More environment variables for the agent. Not for secrets: the plane keeps those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// A directory that is part of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layer {
    /// The directory, relative to the manifest.
    pub directory: String,
    /// Where it is in the sandbox: an absolute path under `/opt`, `/srv` or `/app`.
    pub at: String,
}

/// The model an agent uses when it does not say which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultModel {
    /// Its name; must be permitted.
    pub name: String,
    /// Parameters that belong to the version: text, whole numbers and truth values (a temperature is `"0.2"`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Parameter>,
}

/// The value of a model parameter; no floats, so that a digest has one text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Parameter {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
}

/// All that an agent may reach. What is not listed is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permissions {
    /// Tools by server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolGrant>,
    /// Models by provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelGrant>,
    /// Hosts outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressGrant>,
    /// Memory stores. (A memory is granted by its tools: a manifest that names one here is refused.)
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<String>,
    /// OAuth scopes that the agent may ever be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// OAuth audiences (RFC 8707 resources) for which a token may ever be issued to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
}

/// Tools of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolGrant {
    /// A registered tool server of the tenant.
    pub server: UpstreamName,
    /// The tools of it that may be listed and called.
    pub allow: Vec<ToolName>,
    /// The resources of it that may be listed, read and watched: URIs, `*` for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<NamePattern>,
    /// The prompts of it that may be listed and taken: names, `*` for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<NamePattern>,
    /// The model, one of `models`, that the plane asks for it where it wants a model (sampling) and the agent's client
    /// cannot be asked; without it the server is refused then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<String>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelGrant {
    /// A registered provider of the tenant.
    pub provider: UpstreamName,
    /// The model as the provider names it, and as the agent asks for it.
    pub name: String,
    /// The most output tokens of one call; asked of the provider when the agent does not say, and reserved.
    #[serde(default = "default_output_tokens")]
    pub max_output_tokens: u32,
}

fn default_output_tokens() -> u32 {
    4_096
}

/// One host outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressGrant {
    /// An exact host name.
    pub host: String,
    /// A TCP port.
    pub port: u16,
    /// Whether the connection must be TLS to that very host (the default), or may be anything.
    #[serde(default)]
    pub protocol: EgressProtocol,
    /// With it, the plane ends the agent's TLS and decides each request by itself; only with `protocol: tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<Inspect>,
}

/// The requests that may be made to an inspected host; every other one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inspect {
    /// The methods, in upper case.
    pub methods: Vec<String>,
    /// The paths: `/v1/models`, `/repos/*/issues`, `/v1/*`.
    pub paths: Vec<PathPattern>,
    /// The credential whose placeholder the plane replaces in requests to this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialGrant>,
}

/// A stored credential that requests may use. The agent only ever holds its placeholder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialGrant {
    /// Its name, as the operator stored it for the tenant.
    pub name: UpstreamName,
    /// The variable in which the agent finds the placeholder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// What stands for a credential in the agent's requests, followed by its name.
pub const PLACEHOLDER_PREFIX: &str = "cogward-placeholder:";

impl CredentialGrant {
    /// What the agent writes where the credential belongs.
    #[must_use]
    pub fn placeholder(&self) -> String {
        format!("{PLACEHOLDER_PREFIX}{}", self.name)
    }
}

/// What may be spoken on a permitted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EgressProtocol {
    /// TLS whose server name is the declared host.
    #[default]
    Tls,
    /// Plain HTTP through the proxy.
    Http,
}

/// How the agent is isolated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sandbox {
    /// The profile; it is enforced in full or the run is refused.
    #[serde(default)]
    pub profile: Profile,
    /// What the agent's processes may use.
    #[serde(default)]
    pub resources: Resources,
    /// Seconds between being asked to end and being killed, at most 600.
    #[serde(default = "default_grace")]
    pub grace_seconds: u32,
    /// What follows when it does something of severity `high`, beside the refusal. Unless given: `deny`, and `kill` in
    /// profiles that are stronger than `standard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_violation: Option<Reaction>,
    /// What `/work` is made of.
    #[serde(default, skip_serializing_if = "Workspace::is_usual")]
    pub workspace: Workspace,
    /// Files that a run is given, read-only at `/inputs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Files that are kept of a run when it has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            resources: Resources::default(),
            grace_seconds: default_grace(),
            on_violation: None,
            workspace: Workspace::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

impl Sandbox {
    /// What follows a violation of severity `high`. A stronger profile is for agents that may turn against their
    /// operator, and what none of them needs is taken for that.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        let usual = if self.profile > Profile::Standard { Reaction::Kill } else { Reaction::Deny };
        self.on_violation.unwrap_or(usual)
    }
}

fn default_grace() -> u32 {
    10
}

/// An isolation profile, from the weakest to the strongest. The order is that of what the agent has to break to reach
/// the host, and floors compare with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// What an OCI runtime of the host's operator (runc, crun) makes of a generated bundle: namespaces, no
    /// capabilities, a system-call list, the plane's own control groups. No Landlock, and refused calls are not reported.
    Container,
    /// Namespaces, seccomp, Landlock and cgroups.
    #[default]
    Standard,
    /// The same with a smaller list of system calls and no sockets but TCP to the plane. Needs Linux 6.12.
    Hardened,
    /// A kernel in user space (gVisor) answers the agent's system calls; the host's kernel sees only what that kernel
    /// needs. Needs a configured `runsc`.
    Gvisor,
    /// A virtual machine with a kernel of its own. Needs a configured machine monitor and hardware virtualisation.
    Microvm,
}

impl Profile {
    /// Every profile, from the weakest to the strongest.
    pub const ALL: [Self; 5] = [Self::Container, Self::Standard, Self::Hardened, Self::Gvisor, Self::Microvm];

    /// The word used in the manifest and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Standard => "standard",
            Self::Hardened => "hardened",
            Self::Gvisor => "gvisor",
            Self::Microvm => "microvm",
        }
    }
}

/// What the agent's processes may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// Thousandths of a core, 50 to 64,000.
    pub cpu_millis: u32,
    /// Memory of all processes together with the workspace, in MiB, 16 to 65,536.
    pub memory_mib: u32,
    /// Processes and threads, 4 to 4,096.
    pub pids: u32,
    /// The writable workspace, in MiB, 1 to 65,536. It counts as memory unless its medium is the disk.
    pub workspace_mib: u32,
    /// Files, directories and links in the workspace, 64 to 1,048,576; 256 for each MiB unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_inodes: Option<u32>,
    /// Open files of one process, 16 to 65,536.
    pub open_files: u32,
    /// What may be read from the disks of the package, in MiB per second, 1 to 65,536; what is cached is not counted.
    /// Unlimited unless given, and refused where the host cannot limit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub io_read_mib_per_second: Option<u32>,
    /// The same for writing. Needs control groups of version 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub io_write_mib_per_second: Option<u32>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_millis: 1_000,
            memory_mib: 512,
            pids: 128,
            workspace_mib: 64,
            workspace_inodes: None,
            open_files: 1_024,
            io_read_mib_per_second: None,
            io_write_mib_per_second: None,
        }
    }
}

impl Resources {
    /// Files, directories and links that the workspace may hold. A file of 4 KiB for each is generous, and keeps
    /// them from being a way around its size.
    #[must_use]
    pub fn inodes(&self) -> u32 {
        self.workspace_inodes.unwrap_or_else(|| self.workspace_mib.saturating_mul(256).clamp(1_024, 1_048_576))
    }
}

/// What the agent may use up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budgets {
    /// Of one run.
    pub run: RunBudget,
    /// Of all runs of the agent together, over its life; none means that only runs are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentBudget>,
}

/// What one run may use up. Everything is limited; there is no "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunBudget {
    /// Model tokens, in and out.
    pub tokens: u64,
    /// Dollars, as text: `"0.50"`.
    pub cost_usd: NanoUsd,
    /// Tool calls.
    pub tool_calls: u64,
    /// Connections to declared hosts; each request of plain HTTP is one.
    #[serde(default = "default_connections")]
    pub connections: u64,
    /// MiB to and from declared hosts together; without it only connections are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_mib: Option<u64>,
    /// Seconds from start to end; time suspended counts.
    pub wall_clock_seconds: u64,
}

/// Connections of a run whose manifest does not say.
pub const DEFAULT_RUN_CONNECTIONS: u64 = 10_000;

fn default_connections() -> u64 {
    DEFAULT_RUN_CONNECTIONS
}

impl RunBudget {
    /// The limits as amounts.
    #[must_use]
    pub fn limits(&self) -> Amounts {
        Amounts {
            tokens: self.tokens,
            cost: self.cost_usd,
            tool_calls: self.tool_calls,
            connections: self.connections,
            egress_bytes: bytes_of(self.egress_mib),
        }
    }
}

/// What all runs of an agent may use up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentBudget {
    /// Model tokens, in and out.
    pub tokens: u64,
    /// Dollars, as text.
    pub cost_usd: NanoUsd,
    /// Tool calls.
    pub tool_calls: u64,
    /// Connections to declared hosts; without it only those of each run are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// MiB to and from declared hosts together; without it only those of each run are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_mib: Option<u64>,
}

impl AgentBudget {
    /// The limits as amounts.
    #[must_use]
    pub fn limits(&self) -> Amounts {
        Amounts {
            tokens: self.tokens,
            cost: self.cost_usd,
            tool_calls: self.tool_calls,
            connections: self.connections.unwrap_or(u64::MAX),
            egress_bytes: bytes_of(self.egress_mib),
        }
    }
}

/// What is not limited has a limit that cannot be reached.
fn bytes_of(mib: Option<u64>) -> u64 {
    mib.map_or(u64::MAX, |mib| mib.saturating_mul(1024 * 1024))
}

/// What happens to the OpenTelemetry signals (traces, metrics, logs) of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Telemetry {
    /// The SDK in the agent is turned off, and there is nothing to export to.
    #[default]
    Refuse,
    /// They are kept with the run, within bounds, as operational data.
    Accept,
}

impl Telemetry {
    /// The word used in the manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Accept => "accept",
        }
    }
}
