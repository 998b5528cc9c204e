//! What an agent may ask for, in one type, whatever wire it came over.
//!
//! MCP, OpenAI, Anthropic and CONNECT requests all become an [`Action`] before anything is decided,
//! so there is one gate and one vocabulary of decisions.

use serde::{Deserialize, Serialize};

use crate::{Digest, NanoUsd, ToolName, UpstreamName};

/// One request for an effect outside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `tools/call` on a tool server.
    ToolCall {
        /// The tool server as the operator named it.
        server: UpstreamName,
        /// The tool as its server names it.
        tool: ToolName,
    },
    /// A completion by a model provider.
    ModelCall {
        /// The provider as the operator named it.
        provider: UpstreamName,
        /// The model as the provider names it.
        model: String,
        /// The wire that the agent spoke.
        wire: ModelWire,
        /// Whether the answer is streamed.
        streaming: bool,
    },
    /// A connection to a host outside.
    Egress {
        /// Canonical lower-case host name, already through the strict parser.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// One request to an inspected host.
    Request {
        /// Canonical lower-case host name, already through the strict parser.
        host: String,
        /// TCP port.
        port: u16,
        /// The method as it was sent.
        method: String,
        /// The path as it was sent, without the query.
        path: String,
    },
    /// `resources/read` on a tool server, or completing an argument of a resource template.
    ResourceRead {
        /// The tool server as the operator named it.
        server: UpstreamName,
        /// The resource as its server names it.
        uri: String,
    },
    /// `prompts/get` on a tool server, or completing an argument of a prompt.
    PromptGet {
        /// The tool server as the operator named it.
        server: UpstreamName,
        /// The prompt as its server names it.
        prompt: String,
    },
    /// A tool server asks for a completion of the agent's model, within a call.
    Sampling {
        /// The tool server as the operator named it.
        server: UpstreamName,
    },
    /// A tool server asks the agent's user for something, within a call.
    Elicitation {
        /// The tool server as the operator named it.
        server: UpstreamName,
    },
}

impl Action {
    /// The word in event types: `tool.call`, `model.call`, `egress`, `resource.read`, `prompt.get`, `sampling`, `elicitation`.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::ToolCall { .. } => "tool.call",
            Self::ModelCall { .. } => "model.call",
            Self::Egress { .. } | Self::Request { .. } => "egress",
            Self::ResourceRead { .. } => "resource.read",
            Self::PromptGet { .. } => "prompt.get",
            Self::Sampling { .. } => "sampling",
            Self::Elicitation { .. } => "elicitation",
        }
    }

    /// What the action is on, for a person: `files/read_text_file`, `scripted/demo-model`, `host:443`,
    /// `GET host:443/v1/models`.
    #[must_use]
    pub fn object(&self) -> String {
        match self {
            Self::ToolCall { server, tool } => format!("{server}/{tool}"),
            Self::ModelCall { provider, model, .. } => format!("{provider}/{model}"),
            Self::Egress { host, port } => format!("{host}:{port}"),
            Self::Request { host, port, method, path } => format!("{method} {host}:{port}{path}"),
            Self::ResourceRead { server, uri } => format!("{server} {uri}"),
            Self::PromptGet { server, prompt } => format!("{server}/{prompt}"),
            Self::Sampling { server } | Self::Elicitation { server } => server.to_string(),
        }
    }
}

/// The dialect of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelWire {
    /// `POST /v1/chat/completions`.
    OpenAiChat,
    /// `POST /v1/responses`.
    OpenAiResponses,
    /// `POST /v1/messages`.
    AnthropicMessages,
}

impl ModelWire {
    /// The word used in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai.chat",
            Self::OpenAiResponses => "openai.responses",
            Self::AnthropicMessages => "anthropic.messages",
        }
    }
}

/// What an action uses up: reserved at its worst before it is carried out, settled at its actual after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Model tokens, in and out.
    pub tokens: u64,
    /// Money.
    pub cost: NanoUsd,
    /// Tool calls.
    pub tool_calls: u64,
    /// Connections to hosts outside.
    pub connections: u64,
    /// Bytes to and from hosts outside.
    pub egress_bytes: u64,
}

impl Amounts {
    /// Sum, each part held at its maximum.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.saturating_add(other.cost),
            tool_calls: self.tool_calls.saturating_add(other.tool_calls),
            connections: self.connections.saturating_add(other.connections),
            egress_bytes: self.egress_bytes.saturating_add(other.egress_bytes),
        }
    }

    /// Difference, each part held at zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            cost: self.cost.saturating_sub(other.cost),
            tool_calls: self.tool_calls.saturating_sub(other.tool_calls),
            connections: self.connections.saturating_sub(other.connections),
            egress_bytes: self.egress_bytes.saturating_sub(other.egress_bytes),
        }
    }
}

/// How a governed call ended, as the plane saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered.
    Completed {
        /// What was really used.
        used: Amounts,
        /// Whether `used` is an estimate because the upstream did not say.
        estimated: bool,
        /// Whether the upstream's answer says that the call failed (MCP `isError`, HTTP status).
        upstream_error: bool,
        /// Digest of the answer's bytes, salted by the evidence layer.
        result: Option<Digest>,
    },
    /// The upstream could not be reached, broke off, or was cut; the effect is unknown.
    Broken {
        /// What is charged: the reservation, unless less is certain.
        used: Amounts,
        /// A short cause without any payload.
        cause: String,
    },
}
