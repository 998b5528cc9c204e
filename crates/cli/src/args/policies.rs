//! `policy` and `approval`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cogward_model::{
    PolicyScope, RunId, TenantName, Timestamp,
    id::{ApprovalId, EventId},
};

use super::{LimitFlag, ReasonFlag, TenantFlag};

/// A level.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LevelFlag {
    /// `plane`, `tenant:TENANT`, `tier:TENANT/TIER` or `agent:TENANT/AGENT`
    #[arg(long, value_name = "LEVEL", default_value = "plane")]
    pub level: PolicyScope,
}

/// `policy`
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// List the versions of a level, or the levels that have policies
    #[command(after_help = "Examples:\n  cogward policy list\n  cogward policy list --level tenant:retail")]
    List {
        /// The versions of this level, newest first
        #[arg(long, value_name = "LEVEL")]
        level: Option<PolicyScope>,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a version with its text
    #[command(
        after_help = "A version is named by its number, its digest, the beginning of its digest, or `active`.\n\n\
        Examples:\n  \
        cogward policy show active\n  \
        cogward policy show 3 --level tenant:retail -o json | jq -r .text"
    )]
    Show {
        /// The version
        version: String,
        #[command(flatten)]
        level: LevelFlag,
        /// The text alone
        #[arg(long)]
        text: bool,
    },
    /// Look at a text as if it were written; nothing is stored
    Check {
        /// The Cedar text; - is standard input
        file: PathBuf,
        #[command(flatten)]
        level: LevelFlag,
    },
    /// Write a version; it decides nothing before it is approved and activated
    #[command(
        after_help = "A text with faults is refused with all of them. The same text at the same level is the same version.\n\n\
        Example:\n  \
        cogward policy put policy.cedar --level tenant:retail --reason \"DORA, article 9\""
    )]
    Put {
        /// The Cedar text; - is standard input
        file: PathBuf,
        #[command(flatten)]
        level: LevelFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Approve a version
    Approve {
        /// The version: its number, or its digest or the beginning of it
        version: String,
        #[command(flatten)]
        level: LevelFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Have a version decide from now on; an earlier one is the way back
    #[command(
        after_help = "Calls that are being decided end under the version before. Refused when nobody could activate another\n\
        version afterwards.\n\n\
        Examples:\n  \
        cogward policy activate 4 --reason \"change 1812\"\n  \
        cogward policy activate 3 --reason \"back: 4 blocks the night run\""
    )]
    Activate {
        /// The version: its number, or its digest or the beginning of it
        version: String,
        #[command(flatten)]
        level: LevelFlag,
        /// Only if nothing else was activated since this revision of the level, which `list` shows
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
        /// Only if it is certain that it grants nothing that what decides now does not
        #[arg(long)]
        if_grants_nothing: bool,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Find out what a version grants and takes away before it decides anything, and which of its rules do nothing
    #[command(
        after_help = "Exits 0 when it is certain that the version grants nothing that the other one does not, 1 when it does, \
        and 9 when that is not certain.\n\n\
        Examples:\n  \
        cogward policy diff 5\n  \
        cogward policy diff 5 --against 3 --level tenant:retail -o json"
    )]
    Diff {
        /// The version: its number, or its digest or the beginning of it
        version: String,
        #[command(flatten)]
        level: LevelFlag,
        /// Compare with this version; with what decides now unless said
        #[arg(long, value_name = "VERSION")]
        against: Option<String>,
    },
    /// Leave a level without a say; the plane goes back to what cogward comes with
    Deactivate {
        #[command(flatten)]
        level: LevelFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Say which versions each gateway applies, and since when
    Status,
    /// Make a past decision again, with the versions of its time
    #[command(after_help = "Exits 9 when the answer is not the recorded one, or cannot be made again.\n\n\
        Example:\n  \
        cogward policy explain --decision evt_01KAMZ... --run run_01KAMZ...")]
    Explain {
        /// The decision, as the evidence names it
        #[arg(long, value_name = "ID")]
        decision: EventId,
        /// The run that it is of; without it the whole ledger is searched
        #[arg(long, value_name = "RUN")]
        run: Option<RunId>,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Make recorded decisions again with a version, and list those that would change
    #[command(
        after_help = "Nothing is changed. Decisions whose record does not have what the version reads are counted as unknown.\n\n\
        Examples:\n  \
        cogward policy simulate --version 5 --since 2026-11-22T00:00:00Z\n  \
        cogward policy simulate --version 2 --level tenant:retail --run run_01KAMZ... -o json"
    )]
    Simulate {
        /// The version: its number, or its digest or the beginning of it
        #[arg(long, value_name = "VERSION")]
        version: String,
        #[command(flatten)]
        level: LevelFlag,
        /// Whose decisions, for the plane's level
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        /// From this time on: `2026-11-22`, or `2026-11-22T08:00:00Z`
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Timestamp>,
        /// Before this time
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Timestamp>,
        /// Only of this run
        #[arg(long, value_name = "RUN")]
        run: Option<RunId>,
        /// Read at most this many decisions
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        decisions: Option<u32>,
        /// Show at most this many that would change
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
        examples: Option<u32>,
    },
}

/// A time in UTC, as people write it: a day, or to the second, or as the plane does.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let whole = match (text.len(), text.strip_suffix('Z')) {
        (10, None) => format!("{text}T00:00:00.000000Z"),
        (20, Some(second)) => format!("{second}.000000Z"),
        _ => text.to_owned(),
    };
    whole.parse().map_err(|_| format!("`{text}` is not a time: write 2026-11-22, or 2026-11-22T08:00:00Z"))
}

/// A state of approvals, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ApprovalWord {
    /// Nobody has answered
    Pending,
    /// Allowed, and not used yet
    Approved,
    /// Refused
    Denied,
    /// Nobody answered or used it in time
    Expired,
    /// Used
    Consumed,
}

/// `approval`
#[derive(Debug, Subcommand)]
pub enum Approval {
    /// List the calls that wait, or waited, for a person
    #[command(
        after_help = "Examples:\n  cogward approval list --state pending\n  cogward approval list --run run_01KAMZ..."
    )]
    List {
        /// Only in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<ApprovalWord>,
        /// Only of this run
        #[arg(long, value_name = "RUN")]
        run: Option<RunId>,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show one with the arguments of its call; that you read them is recorded
    Show {
        /// The approval
        approval: ApprovalId,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Allow exactly this call, once
    #[command(after_help = "The agent makes the same call again, and it runs. Changed arguments are another call.\n\n\
        Example:\n  cogward approval approve apr_01KAMZ... --reason \"checked with the customer\"")]
    Approve {
        /// The approval
        approval: ApprovalId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Refuse this call for the rest of its run
    Deny {
        /// The approval
        approval: ApprovalId,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}
