//! `cogward tool`.

use clap::Subcommand;
use cogward_model::{DataLabel, Digest, UpstreamName, pin_name::PinName};

use super::{LimitFlag, ReasonFlag, ReasonMaybe, TenantFlag};

/// `tool`
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// List what one tool server defines, or all of them, and whether it is approved
    #[command(
        after_help = "What is no tool has its kind before its name: resource:URI, template:URI, prompt:NAME.\n\n\
        Examples:\n  cogward tool list\n  cogward tool list files --relist"
    )]
    List {
        /// The tool server; all of them unless said
        server: Option<UpstreamName>,
        /// Ask the servers again, whatever is known of them
        #[arg(long)]
        relist: bool,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a tool with its definition; what would be hidden is written out
    Show {
        /// The tool server
        server: UpstreamName,
        /// The tool, or resource:URI, template:URI, prompt:NAME
        tool: PinName,
        /// Ask the server again, whatever is known of it
        #[arg(long)]
        relist: bool,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Ask the server again, and show what is different between the approved definition and the one that is offered
    #[command(after_help = "A server that does not answer is shown as it was known, and how old that is.\n\
        What would be hidden is written out, such as <U+200B>. The digest at the end is what\n\
        `cogward tool approve --digest` takes.\n\n\
        Examples:\n  cogward tool diff files read_text_file\n  cogward tool diff files prompt:summarise")]
    Diff {
        /// The tool server
        server: UpstreamName,
        /// The tool, or resource:URI, template:URI, prompt:NAME
        tool: PinName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Approve the definition of a tool; agents see and call it from the next call on
    #[command(
        after_help = "Without --digest it shows what is different, and approves exactly that. With --digest it\n\
        approves the definition that was looked at before, and no other.\n\n\
        Examples:\n  \
        cogward tool approve files read_text_file --reason \"reviewed, ticket 4711\"\n  \
        cogward tool approve files read_text_file --digest sha256:… --reason \"reviewed, ticket 4711\""
    )]
    Approve {
        /// The tool server
        server: UpstreamName,
        /// The tool, or resource:URI, template:URI, prompt:NAME
        tool: PinName,
        /// The definition that was looked at
        #[arg(long, value_name = "DIGEST")]
        digest: Option<Digest>,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Block a tool; the next call of it is refused
    Block {
        /// The tool server
        server: UpstreamName,
        /// The tool, or resource:URI, template:URI, prompt:NAME
        tool: PinName,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
    /// Set the labels of a tool's data, and whether a call may be sent twice without harm
    #[command(after_help = "The labels that are given replace the ones before. Policies read them.\n\n\
        Examples:\n  \
        cogward tool label crm get_customer personal\n  \
        cogward tool label files read_text_file --idempotent")]
    Label {
        /// The tool server
        server: UpstreamName,
        /// The tool
        tool: PinName,
        /// The labels, all of them; none takes them away
        labels: Vec<DataLabel>,
        /// A call may be sent twice without harm
        #[arg(long)]
        idempotent: bool,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonMaybe,
    },
}
