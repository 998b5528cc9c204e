//! `cogward evidence`: what is searched for, what is exported, what is proven.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cogward_model::{AgentName, RunId, Timestamp, VersionLabel, id::ApprovalId};

use super::{LimitFlag, ReasonMaybe, TenantFlag, policies::moment};

/// What to search for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EvidenceSearch {
    /// By this agent
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<AgentName>,
    /// By this version of an agent
    #[arg(long, value_name = "VERSION")]
    pub version: Option<VersionLabel>,
    /// On the authority of this person: a user or an operator. Recorded as a pseudonym alone
    #[arg(long, value_name = "NAME", conflicts_with = "pseudonym")]
    pub user: Option<String>,
    /// The same by the pseudonym that the record of a search or a pack has
    #[arg(long, value_name = "HEX")]
    pub pseudonym: Option<String>,
    /// Commanded, asked for or agreed to by this operator, or about this operator: by public id or by name
    #[arg(long, value_name = "ID|NAME")]
    pub operator: Option<String>,
    /// Of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<RunId>,
    /// About this tool
    #[arg(long, value_name = "SERVER/TOOL")]
    pub tool: Option<String>,
    /// About this tool server
    #[arg(long, value_name = "SERVER")]
    pub tool_server: Option<String>,
    /// Of this type: tool.call.decided; docs/evidence/events.md lists them
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// With this decision or verdict: permit, block, escalate
    #[arg(long, value_name = "WORD")]
    pub decision: Option<String>,
    /// Whatever was refused: decisions, commands, credentials, registrations, what a sandbox stopped
    #[arg(long, conflicts_with = "decision")]
    pub refused: bool,
    /// Decided by the policy version with this digest
    #[arg(long, value_name = "DIGEST")]
    pub policy: Option<String>,
    /// About this approval
    #[arg(long, value_name = "APPROVAL")]
    pub approval: Option<ApprovalId>,
    /// From this time on: `2026-11-22`, or `2026-11-22T08:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<Timestamp>,
    /// Go on where an earlier search with the same words stopped
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    #[command(flatten)]
    pub limit: LimitFlag,
    #[command(flatten)]
    pub tenant: TenantFlag,
}

/// Which part to export.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EvidencePart {
    /// One run
    #[arg(long, value_name = "RUN", group = "part")]
    pub run: Option<RunId>,
    /// All of this agent, with the proof that it is all
    #[arg(long, value_name = "AGENT", group = "part")]
    pub agent: Option<AgentName>,
    /// All of this tool
    #[arg(long, value_name = "SERVER/TOOL", group = "part")]
    pub tool: Option<String>,
    /// All of this tool server
    #[arg(long, value_name = "SERVER", group = "part")]
    pub tool_server: Option<String>,
    /// All of this approval
    #[arg(long, value_name = "APPROVAL", group = "part")]
    pub approval: Option<ApprovalId>,
    /// All of this type of event
    #[arg(long = "type", value_name = "TYPE", group = "part")]
    pub kind: Option<String>,
    /// All on the authority of this person
    #[arg(long, value_name = "NAME", group = "part")]
    pub user: Option<String>,
    /// The same by a pseudonym
    #[arg(long, value_name = "HEX", group = "part")]
    pub pseudonym: Option<String>,
    /// From this time on, alone or with an agent and so on: `2026-11-22`, or `2026-11-22T08:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "run")]
    pub from: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "run")]
    pub to: Option<Timestamp>,
    /// With the hidden values that the vault still opens; policies decide it as `evidence.disclose`
    #[arg(long, requires = "reason")]
    pub disclose: bool,
    #[command(flatten)]
    pub reason: ReasonMaybe,
}

/// `evidence prove`
#[derive(Debug, Subcommand)]
pub enum Prove {
    /// Prove that a leaf is in the ledger, as a C2SP tlog-proof
    #[command(after_help = "Example:\n  cogward evidence prove inclusion 4711 --file 4711.tlog-proof\n  \
        cogward-verify proof 4711.tlog-proof --key log.vkey")]
    Inclusion {
        /// The leaf's number
        leaf: u64,
        #[command(flatten)]
        to: ProofFile,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Prove that an older state of the ledger is a beginning of a newer one
    #[command(
        after_help = "The sizes are the second lines of checkpoints. Compare the roots that the verifier names with\n\
        those of the checkpoints that you kept.\n\n\
        Example:\n  cogward evidence prove consistency 1000 5000 --file grown.json"
    )]
    Consistency {
        /// Leaves of the older state
        old: u64,
        /// Leaves of the newer state; what is signed now unless said
        new: Option<u64>,
        #[command(flatten)]
        to: ProofFile,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Prove all leaves of a run, from its first to its run.closed
    #[command(after_help = "Example:\n  cogward evidence prove run RUN --file run.json")]
    Run {
        /// The run
        run: RunId,
        #[command(flatten)]
        to: ProofFile,
    },
}

/// Where a proof goes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ProofFile {
    /// Into this file, which must not exist; else to standard output
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `evidence sample`
#[derive(Debug, Subcommand)]
pub enum Sample {
    /// Commit to the number by which the sample will be drawn, and keep the checkpoint that it will be drawn from
    #[command(
        after_help = "The number is yours: 16 to 128 letters and digits that nobody can guess. Only its SHA-256 is\n\
        told now. Keep the checkpoint that is printed; the sample must carry the same.\n\n\
        Example:\n  NONCE=$(openssl rand -hex 16)\n  \
        cogward evidence sample commit $(printf %s $NONCE | sha256sum | cut -d' ' -f1) > sample.checkpoint"
    )]
    Commit {
        /// The SHA-256 of the number, in hexadecimal digits
        commitment: String,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Draw the sample and export it as a pack
    #[command(after_help = "Example:\n  cogward evidence sample draw ./sample --nonce $NONCE --count 60 --size 48210")]
    Draw {
        /// The directory to make; must not exist
        directory: PathBuf,
        /// The number
        #[arg(long, value_name = "NONCE")]
        nonce: String,
        /// How many leaves
        #[arg(long, value_name = "N")]
        count: u64,
        /// Leaves of the checkpoint that answered the commitment: its second line
        #[arg(long, value_name = "LEAVES")]
        size: u64,
        /// With the hidden values that the vault still opens; policies decide it as `evidence.disclose`
        #[arg(long, requires = "reason")]
        disclose: bool,
        #[command(flatten)]
        reason: ReasonMaybe,
        #[command(flatten)]
        tenant: TenantFlag,
    },
}
