//! The command line: nouns and verbs, each with a help text that shows how it is used.

mod archive;
mod evidence;
mod floors;
mod issuers;
mod keys;
mod policies;
mod redactions;
mod runs;
#[cfg(test)]
mod tests;
mod tokens;
mod tools;
mod upstreams;
mod witnesses;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use cogward_model::{AgentName, RunId, TenantName, VersionLabel, id::OperationId};

pub use self::{
    archive::{ArchiveCommand, ArchiveFlags, LockWord, StoreFlags},
    evidence::{EvidencePart, EvidenceSearch, Prove, Sample},
    floors::{Floor, Operator},
    issuers::{Issuer, IssuerAdd, OutsideClientFlags, OutsideFlags},
    keys::{Keys, LogFlags, WhyWord},
    policies::{Approval, ApprovalWord, Policy},
    redactions::{Hold, Redact, RedactionWord},
    runs::{InputFile, LogStream, Run, RunCommand, RunStart, TimeoutFlag},
    tokens::{KeyPlace, TokenFlags},
    tools::Tool,
    upstreams::{
        Credential, CredentialAdd, CredentialFlag, Memory, MemoryFlags, MemoryScopeFlag, MemoryStoreFlag, OAuthBy,
        OAuthFlags, OpenApiFlags, Provider, ProviderAdd, ProviderKind, ToolNetworkFlag, ToolSandboxFlag, ToolServer,
        ToolServerAdd, ToolServerLimitFlags,
    },
    witnesses::{Exchange, TimestampFlags, Timestamps, Witness, WitnessFlags, WitnessMemory},
};
use crate::{
    output::{ColorWhen, Format},
    settings::PlaneFlags,
};

/// Run AI agents under governance: every call decided, metered and recorded before it takes effect.
#[derive(Debug, Parser)]
#[command(
    name = "cogward",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = "First steps:\n  \
        cogward doctor                          what this host can enforce\n  \
        cogward serve                           start a plane; it prints a credential once\n  \
        cogward login                           keep that credential for these commands\n  \
        cogward agent init my-agent --directory my-agent\n  \
        cogward agent register -f my-agent/agent.yaml\n  \
        cogward run start my-agent --wait\n\n\
        Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 waits for approval,\n\
        7 budget or rate limit, 8 plane unreachable, 9 not verified, 124 timed out, 130 interrupted.\n\
        Data goes to standard output, everything else to standard error. JSON output is stable, tables are not."
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where the plane is.
    #[command(flatten)]
    pub plane: PlaneFlags,
    /// The form of the output
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub output: Format,
    /// When to colour; NO_COLOR and CLICOLOR_FORCE are honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    pub color: ColorWhen,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the plane in this process until SIGTERM
    Serve(Box<Serve>),
    /// Say what this host can enforce, and how to provide what is missing
    Doctor(Doctor),
    /// Prove on this host what cogward claims
    #[command(subcommand)]
    Verify(Verify),
    /// Register agents and look at them
    #[command(subcommand)]
    Agent(Agent),
    /// Connect MCP servers whose tools agents may be given
    #[command(subcommand)]
    ToolServer(ToolServer),
    /// Look at the tools of tool servers, approve and block them
    #[command(subcommand)]
    Tool(Tool),
    /// Look at the memory of agents, and have it forgotten
    #[command(subcommand)]
    Memory(Memory),
    /// Connect model providers whose models agents may be given
    #[command(subcommand)]
    Provider(Provider),
    /// Store credentials for inspected hosts
    #[command(subcommand)]
    Credential(Credential),
    /// Trust issuers whose access tokens let clients outside in
    #[command(subcommand)]
    Issuer(Issuer),
    /// Start runs, look at them, stop them
    #[command(subcommand)]
    Run(Run),
    /// Read, export and checkpoint the evidence
    #[command(subcommand)]
    Evidence(Evidence),
    /// Witness the logs of planes: cosign their checkpoints, by HTTP or by file
    #[command(subcommand)]
    Witness(Witness),
    /// Watch what happens
    #[command(subcommand)]
    Event(Event),
    /// List and create tenants
    #[command(subcommand)]
    Tenant(Tenant),
    /// Say which sandbox profiles are too weak to be registered or started
    #[command(subcommand)]
    Floor(Floor),
    /// Write, approve and activate policies, and look at what they decided
    #[command(subcommand)]
    Policy(Policy),
    /// Answer calls that wait for a person
    #[command(subcommand)]
    Approval(Approval),
    /// Add, list and revoke operators, their roles and their credentials
    #[command(subcommand)]
    Operator(Operator),
    /// Look at a lifecycle command and its receipt
    #[command(subcommand)]
    Operation(Operation),
    /// Look at the plane itself
    #[command(subcommand)]
    Plane(Plane),
    /// Keep the plane's address and an operator's credential for later commands
    Login(Login),
    /// Look at what `cogward login` kept, or forget it
    #[command(subcommand)]
    Context(Context),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  source <(cogward completions bash)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "The first start creates the data directory, its keys, the tenant `default`, and prints the\n\
    operator's credential once on standard output. SIGTERM drains; runs live on and are taken over again.\n\n\
    Examples:\n  \
    cogward serve\n  \
    cogward serve --data-dir /var/lib/cogward --listen 127.0.0.1:7420")]
pub struct Serve {
    /// The directory that holds everything the plane keeps [default: COGWARD_DATA_DIR, or
    /// ~/.local/share/cogward]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address and port of the API; port 0 takes a free one and writes it to DIR/plane.json
    #[arg(long, value_name = "ADDRESS:PORT", default_value = crate::settings::DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// A host that manifests may declare is dialled at exactly this address: a service of yours inside, which
    /// agents cannot reach by a look-up; may be repeated
    #[arg(long, value_name = "HOST=ADDRESS:PORT", value_parser = egress_host)]
    pub egress_host: Vec<(String, SocketAddr)>,
    /// Seconds between two looks at the sandbox of a run; a control that is gone ends the run
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub attest_every: u32,
    /// Whoever wrote a version of a policy may not approve it; needs two operators
    #[arg(long)]
    pub policy_four_eyes: bool,
    /// A cvc5 (1.3.1 or later) that proves what changes of policies grant, where asking questions is not enough
    #[arg(long, value_name = "PROGRAM")]
    pub policy_solver: Option<PathBuf>,
    /// What goes to the log: error, warn, info, debug, or a filter such as `cogward_gateway=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    #[command(flatten)]
    pub drivers: DriversFlag,
    #[command(flatten)]
    pub outside: OutsideFlags,
    #[command(flatten)]
    pub witnesses: WitnessFlags,
    #[command(flatten)]
    pub timestamps: TimestampFlags,
    #[command(flatten)]
    pub archive: ArchiveFlags,
    #[command(flatten)]
    pub tokens: TokenFlags,
    /// The form of the log
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub log_format: LogFormat,
}

/// What carries the profiles that the kernel's own means do not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct DriversFlag {
    /// What carries the profiles container, gvisor and microvm on this host, in YAML or JSON
    /// [default: COGWARD_SANDBOX_CONFIG, or nothing: they are then refused]
    #[arg(long, value_name = "FILE")]
    pub sandbox_config: Option<PathBuf>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON document per line
    Json,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "Exits 0 when `standard` or a stronger profile can be enforced, else 4.\n\n\
    Examples:\n  \
    cogward doctor\n  \
    cogward doctor --format json | jq '.checks[] | select(.status == \"missing\")'\n  \
    cogward doctor --remote         the host of the plane instead of this one")]
pub struct Doctor {
    /// Ask the plane about its host instead of looking at this one
    #[arg(long)]
    pub remote: bool,
    /// The form of the report; `-o json` is the same as `--format json`
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub format: DoctorFormat,
    #[command(flatten)]
    pub drivers: DriversFlag,
}

/// `verify`
#[derive(Debug, Subcommand)]
pub enum Verify {
    /// Attack sandboxes of a profile from inside, in every way that it claims to refuse
    #[command(
        after_help = "Real sandboxes are made as for runs, and attacked from this program's own binary, a static program,\n\
        Python and a shell. Needs no plane, and what a plane needs of the host. Takes some seconds. Exits 9 when an attack\n\
        succeeded or was not refused by the control that must refuse it, and 4 when the host cannot enforce the\n\
        profile, which `cogward doctor` explains.\n\n\
        Examples:\n  \
        cogward verify sandbox\n  \
        cogward verify sandbox --profile hardened --format junit > sandbox.xml\n  \
        cogward verify sandbox --profile hardened --format sarif > sandbox.sarif\n  \
        cogward verify sandbox --format json | jq '.attempts[] | select(.program == \"shell\")'"
    )]
    Sandbox {
        /// The profile to attack
        #[arg(long, value_enum, default_value_t, value_name = "PROFILE")]
        profile: ProfileWord,
        /// The form of the report; `-o json` is the same as `--format json`
        #[arg(long, value_enum, default_value_t, value_name = "FORM")]
        format: ReportFormat,
        #[command(flatten)]
        drivers: DriversFlag,
    },
}

/// A profile, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProfileWord {
    /// Profile `container`
    Container,
    /// Profile `standard`
    #[default]
    Standard,
    /// Profile `hardened`
    Hardened,
    /// Profile `gvisor`
    Gvisor,
    /// Profile `microvm`
    Microvm,
}

impl ProfileWord {
    /// The profile that it names.
    pub fn profile(self) -> cogward_model::manifest::Profile {
        self.into()
    }
}

impl From<ProfileWord> for cogward_model::manifest::Profile {
    fn from(word: ProfileWord) -> Self {
        match word {
            ProfileWord::Container => Self::Container,
            ProfileWord::Standard => Self::Standard,
            ProfileWord::Hardened => Self::Hardened,
            ProfileWord::Gvisor => Self::Gvisor,
            ProfileWord::Microvm => Self::Microvm,
        }
    }
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReportFormat {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// JUnit XML, for build servers
    Junit,
    /// SARIF 2.1.0, for scanners: what was not refused
    Sarif,
}

/// The form of the doctor's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum DoctorFormat {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TenantFlag {
    /// The tenant
    #[arg(long, default_value = "default", value_name = "TENANT")]
    pub tenant: TenantName,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReasonFlag {
    /// Why; goes into the evidence
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

/// Why, where it is not required.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ReasonMaybe {
    /// Why; goes into the evidence
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
}

/// How many.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LimitFlag {
    /// Stop after this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

impl LimitFlag {
    /// The limit, as a count.
    pub fn count(&self) -> Option<usize> {
        self.limit.and_then(|n| usize::try_from(n).ok())
    }
}

/// `HOST=ADDRESS:PORT`.
fn egress_host(text: &str) -> Result<(String, SocketAddr), String> {
    let (host, address) = text.split_once('=').ok_or("expected HOST=ADDRESS:PORT")?;
    let host = cogward_registry::manifest::canonical_host(host).map_err(str::to_owned)?;
    let address = address.parse().map_err(|_| format!("`{address}` is not an address and a port"))?;
    Ok((host, address))
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a reason must say something".to_owned());
    }
    if text.len() > cogward_model::limits::REASON_BYTES_MAX {
        return Err(format!("a reason has at most {} bytes", cogward_model::limits::REASON_BYTES_MAX));
    }
    Ok(text.to_owned())
}

/// `agent`
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Write a first agent: a manifest and a program that reads only the run contract
    #[command(after_help = "Files that are there already are never overwritten.\n\nExample:\n  \
        cogward agent init claims-triage --directory claims-triage\n  \
        cogward agent register -f claims-triage/agent.yaml")]
    Init {
        /// Its name
        name: AgentName,
        /// Write it into this directory, which is made when it is not there
        #[arg(long, value_name = "DIR", default_value = ".")]
        directory: PathBuf,
    },
    /// Check a manifest, package what it names, and register it as a version
    #[command(after_help = "Every fault is shown with file, line, rule and fix. Nothing that is not declared can be\n\
        reached by a run; nothing that is declared may be unknown to the plane.\n\n\
        Examples:\n  \
        cogward agent register -f agent.yaml\n  \
        cogward agent register -f agent.yaml --dry-run")]
    Register {
        /// The manifest
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Check everything, on the plane too, but register nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        reason: ReasonMaybe,
    },
    /// List registered agents
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show an agent with its versions, or one version with its manifest
    #[command(after_help = "Examples:\n  cogward agent show claims-triage\n  \
        cogward agent show claims-triage --version 1.2.0 -o json")]
    Show {
        /// The agent
        name: AgentName,
        /// One version of it, with its manifest
        #[arg(long, value_name = "VERSION")]
        version: Option<VersionLabel>,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Keep sandboxes of a version ready, so that its runs begin at once; or show how many there are
    #[command(
        after_help = "Each is complete, proven and held before the agent's first instruction; a run uses one, once,\n\
        and only its input is added. Each holds its memory until then.\n\n\
        Examples:\n  cogward agent warm claims-triage --count 4 --reason \"morning peak\"\n  \
        cogward agent warm claims-triage"
    )]
    Warm {
        /// The agent
        name: AgentName,
        /// The version; the latest when not given
        #[arg(long, value_name = "VERSION")]
        version: Option<VersionLabel>,
        /// How many are to be ready, at most 32; 0 keeps none
        #[arg(long, value_name = "N")]
        count: Option<u32>,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonMaybe,
    },
}

/// `evidence`
#[derive(Debug, Subcommand)]
pub enum Evidence {
    /// Show the evidence of a run
    #[command(after_help = "Examples:\n  cogward evidence show --run RUN\n  \
        cogward evidence show --run RUN -o jsonl | jq 'select(.body.decision == \"block\")'")]
    Show {
        /// The run
        #[arg(long, value_name = "RUN")]
        run: RunId,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Find evidence by what is in it
    #[command(
        after_help = "The search itself is recorded, persons as pseudonyms. It says up to which leaf the index is\n\
        current; whether the index is whole is proven by `export --agent` and its like.\n\n\
        Examples:\n  cogward evidence search --agent claims-triage --decision block --from 2026-11-01\n  \
        cogward evidence search --tool crm/delete --user anna@bank.example -o jsonl"
    )]
    Search(Box<EvidenceSearch>),
    /// Prove something about the ledger in a file that is verified offline
    #[command(subcommand)]
    Prove(Prove),
    /// Draw an auditor's sample that neither side can steer
    #[command(subcommand)]
    Sample(Sample),
    /// Make the query index anew from the ledger
    #[command(after_help = "The ledger is not touched. Searches say how far the new index is.\n\n\
        Example:\n  cogward evidence reindex --reason \"restored from a backup\"")]
    Reindex {
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Export a tenant's evidence, or a part of it, into a directory that can be verified offline
    #[command(
        after_help = "The directory appears when the export is whole, never before. A part (a run, a time, an agent) has\n\
        a proof for each leaf and shows that it is all of that part.\n\n\
        Examples:\n  cogward evidence export ./evidence-2026-11\n  \
        cogward evidence export ./run --run RUN --disclose --reason \"complaint 17\"\n  \
        cogward evidence export ./november --from 2026-11-01 --to 2026-12-01\n  \
        cogward evidence export ./claims --agent claims-triage --from 2026-11-01\n  \
        cogward-verify ./claims --key log.vkey"
    )]
    Export {
        /// The directory to make; must not exist
        directory: PathBuf,
        #[command(flatten)]
        part: Box<EvidencePart>,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Say how far the plane's log is witnessed, and with which keys it is signed
    Status,
    /// The archive of sealed segments: how it does, and how it is brought back
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Erase values of the evidence: asked for, approved by another operator, carried out
    #[command(subcommand)]
    Redact(Redact),
    /// The keys that sign a log: list, replace, revoke
    #[command(subcommand)]
    Keys(Keys),
    /// Keep values from being erased: legal holds
    #[command(subcommand)]
    Hold(Hold),
    /// Erase what is older than the manifests keep it, now instead of within the hour
    #[command(after_help = "The values of a run are kept for `spec.evidence.retentionDays` of its version.\n\n\
        Example:\n  cogward evidence retain --dry-run --reason \"what would go?\"")]
    Retain {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Print the signed checkpoint of a tenant's ledger, or exchange the plane's with witnesses by file
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Keep checkpoints somewhere else: whoever holds one can prove that what it covers was not\n\
        changed later.\n\nExample:\n  cogward evidence checkpoint >> checkpoints.txt"
    )]
    Checkpoint {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(subcommand)]
        exchange: Option<Exchange>,
    },
    /// Have the plane log stamped with the time by files, for a site without a network
    #[command(subcommand)]
    Timestamp(Timestamps),
}

/// `event`
#[derive(Debug, Subcommand)]
pub enum Event {
    /// Print operational events as they happen
    #[command(
        after_help = "A broken connection is taken up again after the last event that was seen. Operational events\n\
        are no evidence; that is under `cogward evidence`.\n\n\
        Examples:\n  \
        cogward event watch --tenant default\n  \
        cogward event watch -o jsonl | jq 'select(.type == \"run.killed\")'"
    )]
    Watch {
        /// Only of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        /// Only of this run
        #[arg(long, value_name = "RUN")]
        run: Option<RunId>,
        /// Begin after this event
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        #[command(flatten)]
        limit: LimitFlag,
    },
}

/// `tenant`
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// List tenants
    List {
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Create a tenant
    #[command(after_help = "Example:\n  cogward tenant create retail --reason \"pilot of the retail bank\"")]
    Create {
        /// Its name
        name: TenantName,
        #[command(flatten)]
        reason: ReasonMaybe,
    },
}

/// `operation`
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Show a lifecycle command and its receipt
    Show {
        /// The operation
        operation: OperationId,
    },
}

/// `plane`
#[derive(Debug, Subcommand)]
pub enum Plane {
    /// Show what the plane is and whether it is well
    Show,
}

/// `login`
#[derive(Debug, Args)]
#[command(after_help = "The credential is tried before it is kept, in a file that only you can read.\n\n\
    Examples:\n  \
    cogward login                            asks for the credential\n  \
    cogward login --credential-file - < token.txt\n  \
    cogward login --plane http://127.0.0.1:7421 --credential-file token.txt\n  \
    cogward login --check                    whose credential is used now")]
pub struct Login {
    #[command(flatten)]
    pub credential: CredentialFlag,
    /// Keep nothing; say whose credential is used now
    #[arg(long, conflicts_with = "credential_file")]
    pub check: bool,
}

/// `context`
#[derive(Debug, Subcommand)]
pub enum Context {
    /// Show which plane is used and where its address and credential come from
    Show,
    /// Forget what `cogward login` kept
    Clear,
}
