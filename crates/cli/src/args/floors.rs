//! `floor` and `operator`.

use clap::Subcommand;
use cogward_model::{RoleName, TenantName, id::OperatorId, manifest::Tier};

use super::{LimitFlag, ProfileWord, ReasonFlag};

/// A tier, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TierWord {
    /// For building and trying
    Development,
    /// For evaluation before production
    Staging,
    /// Real work
    Production,
}

impl TierWord {
    /// The tier that it names.
    pub fn tier(self) -> Tier {
        match self {
            Self::Development => Tier::Development,
            Self::Staging => Tier::Staging,
            Self::Production => Tier::Production,
        }
    }
}

/// `floor`
#[derive(Debug, Subcommand)]
pub enum Floor {
    /// List the weakest profile that is accepted for each tier, and who set it
    #[command(after_help = "Examples:\n  cogward floor list\n  cogward floor list --tenant retail")]
    List {
        /// As they hold for this tenant, instead of what the plane demands of all
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
    },
    /// Set the weakest profile to accept for a tier, on the whole plane or in a tenant
    #[command(after_help = "It holds for every registration and every start from now on. Runs that are live go on;\n\
        `cogward floor shortfalls` lists them. The stricter of the plane's and the tenant's floor holds, so a tenant's\n\
        can only ask for more.\n\n\
        Examples:\n  \
        cogward floor set staging hardened --reason \"decision of the risk board, 2026-11\"\n  \
        cogward floor set development hardened --tenant retail --reason \"customer data in test\"")]
    Set {
        /// The tier
        #[arg(value_enum)]
        tier: TierWord,
        /// The weakest profile to accept
        #[arg(value_enum)]
        profile: ProfileWord,
        /// Only in this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Take back what was set: the default holds for the plane again, or the plane's for the tenant
    Clear {
        /// The tier
        #[arg(value_enum)]
        tier: TierWord,
        /// Only in this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// List registered versions that their floor does not accept any more, with their live runs
    #[command(
        after_help = "These versions do not start. Runs of them that are live were started before the floor was\n\
        raised; end them with `cogward run cancel` or `cogward run kill`.\n\n\
        Example:\n  cogward floor shortfalls -o json | jq -r '.[].live_runs[]'"
    )]
    Shortfalls {
        /// Only of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        #[command(flatten)]
        limit: LimitFlag,
    },
}

/// `operator`
#[derive(Debug, Subcommand)]
pub enum Operator {
    /// List the operators
    List {
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Add an operator, and print its credential, once
    #[command(
        after_help = "Roles are those that policies name: `@escalate(\"finance\")` is answered by operators with the role\n\
        finance.\n\n\
        Examples:\n  \
        cogward operator add ada --role finance --role legal --reason \"joined the desk\" > ada.credential\n  \
        cogward operator add audit --auditor --reason \"external audit 2026\""
    )]
    Add {
        /// The name for the records
        name: String,
        /// A role; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<RoleName>,
        /// It reads everything and changes nothing
        #[arg(long)]
        auditor: bool,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Set the roles of an operator; those that are not named are taken away
    #[command(
        after_help = "Example:\n  cogward operator roles opr_01KAMZ... --role finance --reason \"new on the desk\""
    )]
    Roles {
        /// The operator; the one whose credential is used unless said
        operator: Option<OperatorId>,
        /// A role; may be repeated; none takes all away
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<RoleName>,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Revoke an operator; its credential is dead at once
    Revoke {
        /// The operator
        operator: OperatorId,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Replace an operator's credential, and print the new one, once
    #[command(
        after_help = "The old credential is dead at once, or after --overlap, for programs that are given the new\n\
        one one after the other. The new one goes to standard output and is kept nowhere.\n\n\
        Examples:\n  \
        cogward operator rotate --reason \"yearly\" | cogward login --credential-file -\n  \
        cogward operator rotate --overlap 600 --reason \"yearly\" > new-credential"
    )]
    Rotate {
        /// The operator; the one whose credential is used unless said
        operator: Option<OperatorId>,
        /// How long the old credential is valid beside the new one, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0,
            value_parser = clap::value_parser!(u32).range(0..=86_400))]
        overlap: u32,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}
