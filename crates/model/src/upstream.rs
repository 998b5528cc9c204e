//! What the operator connects: tool servers and model providers. Their credentials are never here;
//! the plane keeps those sealed and this only says that there is one and how it is sent.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DataLabel, Digest, NanoUsd, TenantName, ToolName, UpstreamName,
    memory::{MemoryBackend, MemoryQuota, MemoryScope},
};

/// A registered MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolServer {
    /// The tenant whose agents may be given its tools.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.tools[].server`.
    pub name: UpstreamName,
    /// How it is reached.
    pub transport: ToolTransport,
    /// How it is treated, where the plane's own ways do not fit.
    #[serde(default, skip_serializing_if = "ToolServerLimits::is_default")]
    pub limits: ToolServerLimits,
}

/// How a tool server is treated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolServerLimits {
    /// Requests that are under way at once, of all runs together; more wait. None means no bound of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How long a request may take without any sign of progress, in seconds; 60 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// How often lists, reads and the tools in `idempotent` are asked for once more when the server breaks off; once
    /// unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u8>,
    /// Tools that may be called twice for one call: the operator's word, never the server's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub idempotent: BTreeSet<ToolName>,
    /// When it is left alone for a while; after ten failures in a row for 15 seconds unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerLimits>,
}

impl ToolServerLimits {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a tool server is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerLimits {
    /// After so many failures in a row; 0 never.
    pub failures: u32,
    /// For so many seconds, until one request may try it.
    pub open_seconds: u32,
}

/// How a tool server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToolTransport {
    /// A process that speaks MCP on its stdin and stdout. Started without a shell, with an empty environment.
    Stdio {
        /// Absolute path of the program.
        command: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
        /// Its environment, without secrets.
        #[serde(default)]
        env: BTreeMap<String, String>,
        /// The variable in which it gets the credential that the plane keeps, if one was given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_env: Option<String>,
        /// What it is confined by.
        #[serde(default, skip_serializing_if = "is_default")]
        sandbox: ToolSandbox,
        /// Its network.
        #[serde(default, skip_serializing_if = "is_default")]
        network: ToolNetwork,
        /// The paths of the host that it sees, at the same places, beside the programs of the system.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mounts: Vec<ToolMount>,
        /// The memory of all its processes, in MiB; 512 unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_mib: Option<u32>,
    },
    /// MCP streamable HTTP.
    Http {
        /// `https://...`, or `http://` to a loopback address.
        url: String,
        /// The header that carries the credential that the plane keeps; `Authorization: Bearer` unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential_header: Option<String>,
        /// Headers of every request, where one is not enough: `{secret}` stands for the credential, `{NAME}` for its
        /// member NAME where the credential is a JSON object of texts.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
        /// The credential is not sent: tokens are got with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oauth: Option<OAuthClient>,
    },
    /// The plane itself: memory that agents write to and read from.
    Memory {
        /// Where it is kept.
        store: MemoryBackend,
        /// Whose it is.
        #[serde(default)]
        scope: MemoryScope,
        /// Numbers in a vector. Without, no vectors are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dimensions: Option<u32>,
        /// How much one owner may keep.
        #[serde(default, skip_serializing_if = "MemoryQuota::is_default")]
        quota: MemoryQuota,
    },
    /// An API over HTTP that an OpenAPI document describes. Its operations are the tools; the plane makes the requests.
    #[serde(rename = "openapi")]
    OpenApi {
        /// Where all requests go, whatever the document says: `https://...`, or `http://` to a loopback address.
        url: String,
        /// The document, and what of it is taken.
        document: OpenApiDocument,
        /// How the credential is sent that the plane keeps.
        #[serde(default, skip_serializing_if = "is_default")]
        credential: ApiCredential,
        /// Headers of every request: `{secret}` stands for the credential, `{NAME}` for its member NAME where the
        /// credential is a JSON object of texts.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
        /// The credential is not sent: tokens are got with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oauth: Option<OAuthClient>,
    },
}

/// An OpenAPI document (3.0 or 3.1), and what of it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenApiDocument {
    /// The document, JSON or YAML. It goes in and is kept; it is not given back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The digest of its bytes. Where it is given with the text, they must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The operations that are taken, by operation id, tool name or tag; all unless said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Which of them are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Deprecated operations as well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deprecated: bool,
}

/// How the credential of an API is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ApiCredential {
    /// `Authorization: Bearer`.
    #[default]
    Bearer,
    /// `Authorization: Basic`; the credential is `USER:PASSWORD`.
    Basic,
    /// A header, as it is.
    Header {
        /// Its name.
        name: String,
    },
    /// A parameter of the query.
    Query {
        /// Its name.
        name: String,
    },
}

/// How the plane gets tokens for a tool server (OAuth 2.1, client credentials).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuthClient {
    /// The plane's name at the authorisation server.
    pub client_id: String,
    /// Where tokens are asked for; found by the tool server's own documents unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// How the plane shows who it is; the credential is the secret, or the private key.
    #[serde(default)]
    pub authentication: ClientAuthentication,
    /// What is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Whom tokens are for (RFC 8707); the tool server's URL unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// How a client shows an authorisation server who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientAuthentication {
    /// `client_secret_basic`: the secret in a header.
    #[default]
    SecretBasic,
    /// `client_secret_post`: the secret in the form.
    SecretPost,
    /// `private_key_jwt`: signed with ES256; the credential is the key in PKCS #8 PEM.
    PrivateKeyJwt {
        /// The key's name at the authorisation server.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_id: Option<String>,
    },
}

/// What a program that serves tools is confined by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolSandbox {
    /// A sandbox with the controls of profile `standard`.
    #[default]
    Standard,
    /// Nothing: it runs as the plane's own user and may do whatever that one may.
    None,
}

/// The network of a program that serves tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolNetwork {
    /// None but a loopback interface of its own.
    #[default]
    None,
    /// The host's: whatever the plane's host reaches, its own loopback included.
    Host,
}

/// A path of the host that a program which serves tools sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolMount {
    /// An absolute path, the same inside.
    pub path: String,
    /// Whether it may write below it, as if it were its owner. Nothing below is executed then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub writable: bool,
}

/// All that a program which serves tools is confined to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// By what.
    pub sandbox: ToolSandbox,
    /// Its network.
    pub network: ToolNetwork,
    /// What it sees of the host.
    pub mounts: Vec<ToolMount>,
    /// Its memory, in MiB.
    pub memory_mib: Option<u32>,
}

impl ToolTransport {
    /// What its program is confined to; the usual where it has none.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        match self {
            Self::Stdio { sandbox, network, mounts, memory_mib, .. } => {
                let (sandbox, network, memory_mib) = (*sandbox, *network, *memory_mib);
                Confinement { sandbox, network, mounts: mounts.clone(), memory_mib }
            }
            Self::Http { .. } | Self::Memory { .. } | Self::OpenApi { .. } => Confinement::default(),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A credential for one inspected host. The plane keeps the secret sealed and puts it in the place of its
/// placeholder, in one header of requests to that host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressCredential {
    /// The tenant whose agents may use it.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.egress[].inspect.credential.name`.
    pub name: UpstreamName,
    /// The one host that it is sent to, in canonical form.
    pub host: String,
    /// The port of it.
    pub port: u16,
    /// The one header in which the placeholder may stand, in lower case.
    pub header: String,
}

/// A registered model provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The tenant whose agents may be given its models.
    pub tenant: TenantName,
    /// Its name in manifests, `permissions.models[].provider`.
    pub name: UpstreamName,
    /// The wire it speaks.
    pub shape: ProviderShape,
    /// Prices of its models. A model without a price is refused: its cost could not be limited.
    #[serde(default)]
    pub prices: BTreeMap<String, Price>,
    /// Labels that policies read of its models, as `resource.labels`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<DataLabel>,
}

/// The wire that a provider speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProviderShape {
    /// `/chat/completions` and `/responses` under a base URL such as `https://api.openai.com/v1`.
    OpenAi {
        /// Base URL, with its version part.
        base_url: String,
    },
    /// `/v1/messages` under a base URL such as `https://api.anthropic.com`.
    Anthropic {
        /// Base URL, without `/v1`.
        base_url: String,
    },
    /// The built-in provider that answers from a script: deterministic, offline, for demos and tests.
    Scripted {
        /// The script, as YAML or JSON text.
        script: String,
    },
}

/// What a model costs, per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Dollars per million input tokens.
    pub input_per_million: NanoUsd,
    /// Dollars per million output tokens.
    pub output_per_million: NanoUsd,
}

impl Price {
    /// The cost of some tokens, rounded up: a limit must never be reached late.
    #[must_use]
    pub fn cost(&self, input_tokens: u64, output_tokens: u64) -> NanoUsd {
        let total = u128::from(self.input_per_million.nanos()) * u128::from(input_tokens)
            + u128::from(self.output_per_million.nanos()) * u128::from(output_tokens);
        NanoUsd::from_nanos(u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}
