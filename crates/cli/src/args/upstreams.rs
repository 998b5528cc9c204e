//! `cogward tool-server`, `cogward provider` and `cogward credential`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use cogward_model::{DataLabel, ToolName, UpstreamName, upstream::Price};

use super::{LimitFlag, ReasonFlag, ReasonMaybe, TenantFlag};

/// `tool-server`
#[derive(Debug, Subcommand)]
pub enum ToolServer {
    /// Add or replace a tool server
    #[command(
        after_help = "The plane keeps the credential sealed and sends it to the server; no agent ever sees it. A program\n\
            runs in a sandbox of its own: it sees the system's programs and what is mounted, at absolute paths, and has no\n\
            network unless it is given the host's.\n\n\
            New tools are quarantined: no agent sees or calls one before its definition was approved, with\n\
            `cogward tool approve`, or here with --approve-tools.\n\n\
        Examples:\n  \
        cogward tool-server add files --approve-tools --mount /srv/mcp --mount-writable /data \\\n    \
          --stdio -- /usr/bin/node /srv/mcp/filesystem.js /data\n  \
        cogward tool-server add tickets --url https://mcp.tickets.example/mcp --credential-file token.txt\n  \
        vault read -field=token kv/mcp | cogward tool-server add crm --url https://crm.example/mcp --credential-file -\n  \
        cogward tool-server add notes --memory builtin --scope agent+user --approve-tools\n  \
        cogward tool-server add notes --memory pgvector --url postgres://cogward@db.example/agents --credential-file pw.txt\n  \
        cogward tool-server add invoices --openapi invoices.yaml --url https://api.invoices.example/v2 \\\n    \
          --include invoices --credential-file key.txt --credential-header X-Api-Key"
    )]
    Add(Box<ToolServerAdd>),
    /// List tool servers
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a tool server
    Show {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Remove a tool server and forget its credential
    #[command(after_help = "Example:\n  cogward tool-server remove crm --reason \"contract ended\"")]
    Remove {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}

/// `tool-server add`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("transport").required(true).multiple(true).args(["server_url", "stdio", "memory", "openapi"]))]
pub struct ToolServerAdd {
    /// Its name in manifests, `permissions.tools[].server`
    pub name: UpstreamName,
    /// It speaks MCP over streamable HTTP at this URL; with --openapi, where the requests of its tools go; with
    /// --memory, where that store is
    #[arg(long = "url", value_name = "URL")]
    pub server_url: Option<String>,
    /// It is the program after `--`, an absolute path with its arguments, and speaks MCP on its standard
    /// input and output
    #[arg(long, requires = "command", conflicts_with_all = ["server_url", "memory", "openapi"])]
    pub stdio: bool,
    /// It is the plane itself, which keeps memory for agents, in this store
    #[arg(long, value_name = "STORE", value_enum)]
    pub memory: Option<MemoryStoreFlag>,
    #[command(flatten)]
    pub memory_flags: MemoryFlags,
    /// The program and its arguments
    #[arg(
        last = true,
        requires = "stdio",
        conflicts_with = "server_url",
        value_name = "PROGRAM",
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
    /// A variable of the program's environment, which is otherwise empty; not for secrets
    #[arg(long, value_name = "NAME=VALUE", requires = "stdio", conflicts_with = "server_url", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// The variable in which the program gets the credential
    #[arg(long, value_name = "NAME", requires = "stdio", conflicts_with = "server_url")]
    pub credential_env: Option<String>,
    /// A path of the host that the program sees, at the same place, to read and to execute; may be repeated. Beside these it
    /// sees the programs of the system alone
    #[arg(long, value_name = "PATH", requires = "stdio", conflicts_with = "server_url")]
    pub mount: Vec<String>,
    /// A directory of the host that it may also write to, as if it were its owner; may be repeated
    #[arg(long, value_name = "PATH", requires = "stdio", conflicts_with = "server_url")]
    pub mount_writable: Vec<String>,
    /// `host`: it has the network of the plane's host, the loopback included; without, it has none
    #[arg(long, value_name = "WHICH", requires = "stdio", conflicts_with = "server_url", value_enum, default_value_t)]
    pub network: ToolNetworkFlag,
    /// `none`: it runs as the plane's own user, unconfined
    #[arg(long, value_name = "WHICH", requires = "stdio", conflicts_with = "server_url", value_enum, default_value_t)]
    pub sandbox: ToolSandboxFlag,
    /// Memory of all its processes, in MiB; 512 unless given
    #[arg(long, value_name = "MIB", requires = "stdio", conflicts_with = "server_url")]
    pub memory_mib: Option<u32>,
    /// The header that carries the credential; `Authorization: Bearer` unless said
    #[arg(long, value_name = "HEADER", requires = "server_url", conflicts_with_all = ["stdio", "memory"])]
    pub credential_header: Option<String>,
    /// A header of every request; `{secret}` stands for the credential, `{NAME}` for its member NAME where it is a
    /// JSON object of texts
    #[arg(
        long,
        value_name = "HEADER=TEXT",
        requires = "server_url",
        conflicts_with_all = ["stdio", "memory"],
        value_parser = pair
    )]
    pub header: Vec<(String, String)>,
    #[command(flatten)]
    pub openapi: OpenApiFlags,
    #[command(flatten)]
    pub oauth: OAuthFlags,
    #[command(flatten)]
    pub limits: ToolServerLimitFlags,
    #[command(flatten)]
    pub credential: CredentialFlag,
    /// Approve the tools that it offers now, as they are; without it they wait for `cogward tool approve`
    #[arg(long)]
    pub approve_tools: bool,
    #[command(flatten)]
    pub tenant: TenantFlag,
    #[command(flatten)]
    pub reason: ReasonMaybe,
}

/// Where a memory is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryStoreFlag {
    /// A file of its own in the plane's data directory
    Builtin,
    /// A PostgreSQL database; its password is the credential
    Pgvector,
    /// A Qdrant; its API key is the credential
    Qdrant,
}

/// Whose a memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryScopeFlag {
    /// What one agent knows of one user
    #[value(name = "agent+user")]
    AgentAndUser,
    /// What all agents know of one user
    User,
    /// What one agent knows
    Agent,
    /// What all agents of the tenant know
    Tenant,
    /// What one run knows
    Run,
}

/// How a memory is kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub struct MemoryFlags {
    /// Whose it is; `agent+user` unless said
    #[arg(long, value_name = "SCOPE", value_enum, requires = "memory")]
    pub scope: Option<MemoryScopeFlag>,
    /// Numbers in the vectors that agents may give; without, no vectors are kept
    #[arg(long, value_name = "N", requires = "memory", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub dimensions: Option<u32>,
    /// Memories that one owner may keep; 10,000 unless said
    #[arg(long, value_name = "N", requires = "memory", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub quota_items: Option<u32>,
    /// MiB that one owner may keep; 64 unless said
    #[arg(long, value_name = "MIB", requires = "memory", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub quota_mib: Option<u32>,
    /// How long a memory is kept at most; without end unless said, 30 days for scope `run`
    #[arg(long, value_name = "SECONDS", requires = "memory", value_parser = clap::value_parser!(u64).range(1..))]
    pub ttl_seconds: Option<u64>,
    /// The table of a pgvector, with its schema or without; `cogward.memory` unless said
    #[arg(long, value_name = "TABLE", requires = "memory")]
    pub table: Option<String>,
    /// The table is there and is not made
    #[arg(long, requires = "table")]
    pub existing_table: bool,
    /// What a column of the table that is there is called, where it is not called as ours; may be repeated
    #[arg(long, value_name = "OURS=THEIRS", requires = "existing_table", value_parser = pair)]
    pub column: Vec<(String, String)>,
    /// The collection of a Qdrant; `cogward-memory` unless said
    #[arg(long, value_name = "COLLECTION", requires = "memory", conflicts_with = "table")]
    pub collection: Option<String>,
}

/// `memory`
#[derive(Debug, Subcommand)]
pub enum Memory {
    /// Show how much there is in a memory
    Show {
        /// The tool server
        server: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Forget what was kept for a user, whatever the scope, or all of a memory
    #[command(after_help = "Examples:\n  \
        cogward memory forget --server notes --user ann@bank.example --reason \"request 4711\"\n  \
        cogward memory forget --server notes --everybody --reason \"end of the pilot\"")]
    Forget {
        /// The tool server
        #[arg(long, value_name = "SERVER")]
        server: UpstreamName,
        /// The user, as runs were started with `--as`
        #[arg(long, value_name = "USER", required_unless_present = "everybody", conflicts_with = "everybody")]
        user: Option<String>,
        /// All that is in it
        #[arg(long)]
        everybody: bool,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}

/// The network of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ToolNetworkFlag {
    /// A loopback interface of its own
    #[default]
    None,
    /// The host's
    Host,
}

/// What confines a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ToolSandboxFlag {
    /// A sandbox with the controls of profile `standard`
    #[default]
    Standard,
    /// Nothing
    None,
}

/// Tools out of an OpenAPI document.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tools of an API over HTTP (OpenAPI)")]
pub struct OpenApiFlags {
    /// Its tools are the operations of this OpenAPI document (3.0 or 3.1, JSON or YAML); the plane makes the requests
    #[arg(long, value_name = "FILE")]
    pub openapi: Option<PathBuf>,
    /// Take this operation, or those with this tag, and no other; may be repeated
    #[arg(long, value_name = "ID-OR-TAG", requires = "openapi")]
    pub include: Vec<String>,
    /// Leave this operation out, or those with this tag; may be repeated
    #[arg(long, value_name = "ID-OR-TAG", requires = "openapi")]
    pub exclude: Vec<String>,
    /// Take deprecated operations as well
    #[arg(long, requires = "openapi")]
    pub deprecated: bool,
    /// The parameter of the query that carries the credential
    #[arg(long, value_name = "NAME", requires = "openapi", conflicts_with = "credential_header")]
    pub credential_query: Option<String>,
    /// The credential is `USER:PASSWORD` and is sent as `Authorization: Basic`
    #[arg(long, requires = "openapi", conflicts_with_all = ["credential_header", "credential_query"])]
    pub credential_basic: bool,
}

/// Tokens in place of the credential.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tokens (OAuth 2.1, client credentials)")]
pub struct OAuthFlags {
    /// Get tokens as this client; the credential is its secret, or its private key
    #[arg(long, value_name = "ID", requires = "server_url", conflicts_with_all = ["credential_header", "memory"])]
    pub oauth_client_id: Option<String>,
    /// Where tokens are asked for; found by the server's own documents unless said
    #[arg(long, value_name = "URL", requires = "oauth_client_id")]
    pub oauth_token_endpoint: Option<String>,
    /// What is asked for
    #[arg(long, value_name = "SCOPE", requires = "oauth_client_id")]
    pub oauth_scope: Vec<String>,
    /// Whom tokens are for; the server's URL unless said
    #[arg(long, value_name = "URL", requires = "oauth_client_id")]
    pub oauth_resource: Option<String>,
    /// How the plane shows who it is
    #[arg(long, value_enum, default_value_t = OAuthBy::Basic, requires = "oauth_client_id")]
    pub oauth_by: OAuthBy,
    /// The private key's name at the authorisation server
    #[arg(long, value_name = "ID", requires = "oauth_client_id")]
    pub oauth_key_id: Option<String>,
}

/// How a client shows an authorisation server who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OAuthBy {
    /// The secret in a header (`client_secret_basic`)
    Basic,
    /// The secret in the form (`client_secret_post`)
    Post,
    /// Signed with ES256 (`private_key_jwt`)
    PrivateKey,
}

/// How a tool server is treated.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct ToolServerLimitFlags {
    /// Requests under way at once, of all runs together; more wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// How long a request may take without any sign of progress; 60 unless said
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub timeout_seconds: Option<u32>,
    /// How often what changes nothing is asked for once more; once unless said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    pub retries: Option<u8>,
    /// A tool that may be called twice for one call, because it changes nothing; what the server says of it counts
    /// for nothing
    #[arg(long, value_name = "TOOL")]
    pub idempotent: Vec<ToolName>,
    /// Leave it alone after so many failures in a row, for so many seconds; 10:15 unless said, 0:0 never
    #[arg(long, value_name = "FAILURES:SECONDS", value_parser = breaker)]
    pub breaker: Option<(u32, u32)>,
}

fn breaker(text: &str) -> Result<(u32, u32), String> {
    let parts =
        text.split_once(':').and_then(|(failures, seconds)| Some((failures.parse().ok()?, seconds.parse().ok()?)));
    parts.ok_or_else(|| "write FAILURES:SECONDS, such as 10:15".to_owned())
}

/// A secret, from a file.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CredentialFlag {
    /// A file with the credential that the plane is to keep; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let good = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good {
        Ok((name.to_owned(), value.to_owned()))
    } else {
        Err(format!("`{name}` cannot be the name of a variable"))
    }
}

/// `provider`
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// Add or replace a model provider
    #[command(
        after_help = "A model without a price is refused: its cost could not be limited. Prices are dollars per\n\
        million tokens, input and output. The plane keeps the key sealed; no agent ever sees it.\n\n\
        Examples:\n  \
        cogward provider add openai --kind openai --base-url https://api.openai.com/v1 \\\n      \
        --price gpt-5-mini=0.25,2.00 --credential-file key.txt\n  \
        cogward provider add local --kind openai --base-url http://127.0.0.1:8000/v1 --price llama=0,0\n  \
        cogward provider add scripted --script answers.json --price demo=1,2"
    )]
    Add(ProviderAdd),
    /// List model providers
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a model provider
    Show {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
}

/// `provider add`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("shape").required(true).args(["base_url", "script"]))]
pub struct ProviderAdd {
    /// Its name in manifests, `permissions.models[].provider`
    pub name: UpstreamName,
    /// The wire that it speaks at its base URL
    #[arg(long, value_enum, requires = "base_url")]
    pub kind: Option<ProviderKind>,
    /// Its base URL: with its version part for `openai`, without for `anthropic`
    #[arg(long, value_name = "BASE-URL", requires = "kind")]
    pub base_url: Option<String>,
    /// The built-in provider that answers from this script, offline and the same each time
    #[arg(long, value_name = "FILE", conflicts_with = "base_url")]
    pub script: Option<PathBuf>,
    /// What a model costs: dollars per million input tokens and per million output tokens
    #[arg(long, value_name = "MODEL=IN,OUT", value_parser = price)]
    pub price: Vec<(String, Price)>,
    /// A label that policies read of its models; may be repeated. Those that are given replace the ones before
    #[arg(long)]
    pub label: Vec<DataLabel>,
    #[command(flatten)]
    pub credential: CredentialFlag,
    #[command(flatten)]
    pub tenant: TenantFlag,
    #[command(flatten)]
    pub reason: ReasonMaybe,
}

/// The wire that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProviderKind {
    /// OpenAI: chat completions and responses
    Openai,
    /// Anthropic: messages
    Anthropic,
}

/// `MODEL=IN,OUT`.
fn price(text: &str) -> Result<(String, Price), String> {
    let (model, prices) = text.rsplit_once('=').ok_or("expected MODEL=IN,OUT, such as gpt-5-mini=0.25,2.00")?;
    let (input, output) = prices.split_once(',').ok_or("expected two prices, IN,OUT")?;
    if model.is_empty() {
        return Err("the model has no name".to_owned());
    }
    let input_per_million = input.parse().map_err(|error: cogward_model::money::ParseMoneyError| error.to_string())?;
    let output_per_million =
        output.parse().map_err(|error: cogward_model::money::ParseMoneyError| error.to_string())?;
    Ok((model.to_owned(), Price { input_per_million, output_per_million }))
}

/// `credential`
#[derive(Debug, Subcommand)]
pub enum Credential {
    /// Store or replace a credential for one inspected host
    #[command(
        after_help = "The plane keeps the secret sealed. An agent whose manifest names it holds only the placeholder\n\
        `cogward-placeholder:NAME`, which the plane replaces in the one header of requests to the one host.\n\n\
        Examples:\n  \
        cogward credential add github --host api.github.com --credential-file token.txt\n  \
        cogward credential add search --host api.search.example --header x-api-key --credential-file key.txt\n  \
        vault read -field=token kv/github | cogward credential add github --host api.github.com --credential-file -"
    )]
    Add(CredentialAdd),
    /// List credentials and the hosts that they belong to
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show where a credential belongs; the secret is never shown
    Show {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Forget a credential; the next request does not have it
    #[command(after_help = "Example:\n  cogward credential remove github --reason \"the token leaked\"")]
    Remove {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}

/// `credential add`
#[derive(Debug, Args)]
pub struct CredentialAdd {
    /// Its name in manifests, `permissions.egress[].inspect.credential.name`
    pub name: UpstreamName,
    /// The one host that it is sent to
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// The port of the host
    #[arg(long, value_name = "PORT", default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The one header in which the placeholder is replaced
    #[arg(long, value_name = "HEADER", default_value = "authorization")]
    pub header: String,
    /// A file with the secret alone, without `Bearer`; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub credential_file: PathBuf,
    #[command(flatten)]
    pub tenant: TenantFlag,
    #[command(flatten)]
    pub reason: ReasonMaybe,
}
