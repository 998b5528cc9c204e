//! `evidence keys`: the arguments.

use clap::{Subcommand, ValueEnum};
use cogward_model::{TenantName, id::EventId};

use super::{ReasonFlag, TenantFlag};

/// `evidence keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// List all keys that a log has or had
    #[command(
        after_help = "`-o json` has the public keys, the statements that led from each to the next, and what waits.\n\n\
        Example:\n  cogward evidence keys list -o json | jq -r '.keys[0].keys[]' > log.vkey"
    )]
    List {
        #[command(flatten)]
        log: LogFlags,
    },
    /// Ask for the present key to be replaced; another operator has to confirm it
    #[command(
        after_help = "The old and the new key sign the statement of it, which becomes a leaf of the log. For the days of the\n\
        overlap both sign every checkpoint: give witnesses and readers the new one in that time. Then the old private\n\
        key is destroyed.\n\nExamples:\n  \
        cogward evidence keys rotate --reason \"every year\"\n  \
        cogward evidence keys rotate --overlap-days 0 --reason \"the old host was stolen\""
    )]
    Rotate {
        /// For how many days the old key signs along before it is destroyed
        #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=366))]
        overlap_days: u32,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Ask for a past key to be revoked; another operator has to confirm it
    #[command(
        after_help = "Its signatures count up to a size of the log and no further, and it signs along no more. A present key is\n\
        replaced first.\n\nExample:\n  \
        cogward evidence keys revoke --generation 0 --why compromised --reason \"case 2026/118\""
    )]
    Revoke {
        /// The number of the key; the first is 0
        #[arg(long, value_name = "N")]
        generation: u64,
        /// What became of it
        #[arg(long)]
        why: WhyWord,
        /// Up to this size of the log its signature counts; without it, as far as enough witnesses saw, or on a plane
        /// without witnesses as far as it signed alone
        #[arg(long, value_name = "N")]
        size: Option<u64>,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Confirm what another operator asked for; it happens now
    #[command(after_help = "Example:\n  cogward evidence keys confirm evt_01KB... --reason \"as agreed\"")]
    Confirm {
        /// The request, as `evidence keys list` shows it
        request: EventId,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}

/// Which log.
#[derive(Debug, clap::Args)]
pub struct LogFlags {
    /// The plane log, which witnesses see, instead of a tenant's
    #[arg(long = "plane-log", conflicts_with = "tenant")]
    pub plane: bool,
    #[command(flatten)]
    tenant: TenantFlag,
}

impl LogFlags {
    /// The tenant in whose log the keys are told of.
    pub fn tenant(&self) -> TenantName {
        if self.plane { TenantName::default_tenant() } else { self.tenant.tenant.clone() }
    }
}

/// What became of a key.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WhyWord {
    /// Somebody else has it, or may have
    Compromised,
    /// Nobody can say any more where it was
    Lost,
    /// Another key took its place
    Superseded,
}
