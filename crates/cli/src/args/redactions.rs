//! `cogward evidence redact`, `cogward evidence hold`, `cogward evidence retain`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use cogward_model::{
    AgentName, RunId, Timestamp,
    id::{HoldId, RedactionId},
    redaction::{ErasureScope, HoldScope, LegalGround},
};

use super::{LimitFlag, ReasonFlag, TenantFlag, policies::moment};

/// What is to be erased.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("erase").required(true).args(["subject", "run", "leaf"])))]
pub struct ErasureFlags {
    /// Every hidden value of records made for this person: the user of a run or the operator, exactly as the evidence has it
    #[arg(long, value_name = "PERSON")]
    pub subject: Option<String>,
    /// Every hidden value of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<RunId>,
    /// One field of the leaf with this number
    #[arg(long, value_name = "NUMBER", requires = "field")]
    pub leaf: Option<u64>,
    /// The field of the leaf
    #[arg(long, value_name = "FIELD", requires = "leaf", conflicts_with_all = ["subject", "run"])]
    pub field: Option<String>,
}

impl ErasureFlags {
    /// The scope that is meant; the command line sees to it that there is one.
    pub fn scope(self) -> Option<ErasureScope> {
        match self {
            Self { subject: Some(subject), .. } => Some(ErasureScope::Subject(subject)),
            Self { run: Some(run), .. } => Some(ErasureScope::Run(run)),
            Self { leaf: Some(leaf), field: Some(name), .. } => Some(ErasureScope::Field { leaf, name }),
            Self { .. } => None,
        }
    }
}

/// What is to be held.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("keep").required(true).args(["subject", "run", "agent", "from"])))]
pub struct HoldFlags {
    /// Everything about this person, exactly as the evidence has the name
    #[arg(long, value_name = "PERSON")]
    pub subject: Option<String>,
    /// Everything of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<RunId>,
    /// Everything of this agent
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<AgentName>,
    /// Everything that was recorded from this time on: `2026-11-22`, or `2026-11-22T08:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<Timestamp>,
    /// ... and before this time
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "from",
        conflicts_with_all = ["subject", "run", "agent"])]
    pub until: Option<Timestamp>,
}

impl HoldFlags {
    /// The scope that is meant; the command line sees to it that there is one.
    pub fn scope(self) -> Option<HoldScope> {
        match self {
            Self { subject: Some(subject), .. } => Some(HoldScope::Subject(subject)),
            Self { run: Some(run), .. } => Some(HoldScope::Run(run)),
            Self { agent: Some(agent), .. } => Some(HoldScope::Agent(agent)),
            Self { from: Some(from), until, .. } => Some(HoldScope::Window { from, until }),
            Self { .. } => None,
        }
    }
}

/// A state of redactions, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RedactionWord {
    /// Nobody has answered
    Requested,
    /// Approved, and nothing is erased yet
    Approved,
    /// Refused
    Denied,
    /// Being carried out
    Executing,
    /// Erased
    Executed,
}

/// `evidence redact`
#[derive(Debug, Subcommand)]
pub enum Redact {
    /// Ask for values to be erased; another operator has to approve it
    #[command(after_help = "Only hidden values can be erased: who acted, what was decided and when stays.\n\
        The reason stays too: name nobody in it.\n\n\
        Examples:\n  \
        cogward evidence redact request --subject anna@example.org --ground gdpr-17-1-b --reason \"ticket 4711\"\n  \
        cogward evidence redact request --leaf 812 --field args --ground gdpr-17-1-d --reason \"ticket 4712\"")]
    Request {
        #[command(flatten)]
        what: ErasureFlags,
        /// The legal ground: `gdpr-17-1-a` to `gdpr-17-1-f`, or the name of another one
        #[arg(long, value_name = "GROUND")]
        ground: LegalGround,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Approve what another operator asked for
    Approve {
        /// The redaction
        redaction: RedactionId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Refuse it
    Deny {
        /// The redaction
        redaction: RedactionId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Destroy the keys, for good
    #[command(after_help = "There is no way back. What is recorded afterwards has other keys and is not erased.")]
    Execute {
        /// The redaction
        redaction: RedactionId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// List redactions, newest first
    List {
        /// Only in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<RedactionWord>,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show one
    Show {
        /// The redaction
        redaction: RedactionId,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Write the receipt for the data subject into a directory, with what checks it
    #[command(after_help = "Example:\n  cogward evidence redact receipt red_01KB... ./receipt\n  \
        python3 ./receipt/verify-receipt.py ./receipt --key 'cogward.dev/ledger/...'")]
    Receipt {
        /// The redaction
        redaction: RedactionId,
        /// The directory to make; must not exist
        directory: PathBuf,
        #[command(flatten)]
        tenant: TenantFlag,
    },
}

/// `evidence hold`
#[derive(Debug, Subcommand)]
pub enum Hold {
    /// Ask for a legal hold; it holds at once, and another operator has to confirm it
    #[command(
        after_help = "Nothing in its scope is erased, by nobody and by no retention, until two operators release it.\n\n\
        Examples:\n  \
        cogward evidence hold place --agent claims-triage --reason \"case 2026/118\"\n  \
        cogward evidence hold place --from 2026-10-01 --until 2026-11-01 --reason \"audit of October\""
    )]
    Place {
        #[command(flatten)]
        what: HoldFlags,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Place what another operator asked for
    Confirm {
        /// The hold
        hold: HoldId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Ask for its release; said by another operator too, it is released
    Release {
        /// The hold
        hold: HoldId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// List legal holds, newest first
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show one
    Show {
        /// The hold
        hold: HoldId,
        #[command(flatten)]
        tenant: TenantFlag,
    },
}
