//! `cogward tool`.

use clap::Subcommand;
use cogward_model::{DataLabel, Digest, ToolName, UpstreamName};

use super::{LimitFlag, ReasonFlag, ReasonMaybe, TenantFlag};

/// `tool`
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// List the tools of one tool server, or of all, and whether they are approved
    #[command(after_help = "Examples:\n  cogward tool list\n  cogward tool list files")]
    List {
        /// The tool server; all of them unless said
        server: Option<UpstreamName>,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a tool with its definition; what would be hidden is written out
    Show {
        /// The tool server
        server: UpstreamName,
        /// The tool
        tool: ToolName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Show what is different between the approved definition and the one that is offered
    #[command(after_help = "What would be hidden is written out, such as <U+200B>. The digest at the end is what\n\
        `cogward tool approve --digest` takes.\n\n\
        Example:\n  cogward tool diff files read_text_file")]
    Diff {
        /// The tool server
        server: UpstreamName,
        /// The tool
        tool: ToolName,
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
        /// The tool
        tool: ToolName,
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
        /// The tool
        tool: ToolName,
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
        tool: ToolName,
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
