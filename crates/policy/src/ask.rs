//! The question that policy answers: who wants to do what to what, and what is known at that moment.
//!
//! An ask is complete: the same ask and the same versions give the same answer at any later time. It is therefore what
//! is recorded with a decision, and what `explain` runs again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cogward_model::{
    AgentName, Digest, RunId, TenantName, Timestamp, ToolName, UpstreamName, VersionLabel,
    action::{Action, ModelWire},
    manifest::{AutonomyClass, Tier},
};
use serde::{Deserialize, Serialize};

use crate::value::Record;

/// The longest ask that can be recorded, in bytes of JSON. A longer one is not decided.
pub const ASK_BYTES_MAX: usize = 16 * 1024;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Who, and what is done to what. Constant for a run and a target, so slices are kept for it.
    pub head: Arc<Head>,
    /// What is known at this moment.
    pub facts: Facts,
}

/// Who does what to what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Who.
    pub principal: Principal,
    /// What, to what.
    pub deed: Deed,
    /// The data labels of the resource, set by operators; they count only where [`Deed::has_labels`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A version of an agent, in a run.
    Agent(AgentVersion),
    /// A person or a program with an operator's credential.
    Operator(Operator),
}

/// A version of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentVersion {
    /// Its tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The version's label.
    pub version: VersionLabel,
    /// The version's digest.
    pub digest: Digest,
    /// Its environment tier.
    pub tier: Tier,
    /// On whose authority it acts.
    pub autonomy: AutonomyClass,
    /// The agents that delegated to it, the first one first, as `tenant/agent`. Empty until agents delegate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegators: Vec<String>,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// The name of the credential.
    pub name: String,
    /// The tenant that it is for; none is the whole plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Its roles.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<String>,
}

/// What is done to what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    /// A tool is called.
    ToolCall {
        /// The tool server.
        server: UpstreamName,
        /// The tool.
        tool: ToolName,
        /// Whether the tool is pinned, so that its arguments have types.
        pinned: bool,
    },
    /// A model is called.
    ModelCall {
        /// The provider.
        provider: UpstreamName,
        /// The model.
        model: String,
    },
    /// A host outside is reached, by a connection or by a request to an inspected host.
    Egress {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A tool of a memory is called. It is a call of a tool, and is asked as one too.
    Memory {
        /// The tool server that keeps the memory.
        server: UpstreamName,
        /// The tool.
        tool: ToolName,
        /// What the tool does to what is kept.
        operation: MemoryOperation,
        /// Whether the tool is pinned, so that its arguments have types.
        pinned: bool,
    },
    /// A token of an identity is issued.
    Token {
        /// For whom it is.
        audience: String,
    },
    /// A command for a run is carried out.
    RunCommand {
        /// The run's agent as `tenant/agent`.
        agent: String,
        /// The command: `start`, `suspend`, `resume`, `stop`, `kill`.
        command: String,
    },
    /// Any other command of an operator.
    OperatorCommand {
        /// The tenant that it concerns; none is the plane.
        tenant: Option<TenantName>,
        /// The command as the API names it: `tool-server.add`.
        command: String,
    },
    /// A tool server asks for a completion.
    Sampling {
        /// The tool server.
        server: UpstreamName,
    },
    /// A tool server asks the user.
    Elicitation {
        /// The tool server.
        server: UpstreamName,
    },
    /// A resource of a tool server is read.
    ResourceRead {
        /// The tool server.
        server: UpstreamName,
        /// The resource.
        uri: String,
    },
    /// A prompt of a tool server is taken.
    PromptGet {
        /// The tool server.
        server: UpstreamName,
        /// The prompt.
        prompt: String,
    },
}

/// What is done to a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryOperation {
    /// Something is searched or read.
    Read,
    /// Something is kept.
    Write,
    /// Something is forgotten.
    Delete,
}

impl MemoryOperation {
    /// Every operation.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Delete];

    /// What a tool of a memory does. One that is not known is taken to write: that is what rules forbid.
    #[must_use]
    pub fn of_tool(tool: &str) -> Self {
        match tool {
            "recall" | "read" | "list" => Self::Read,
            "forget" => Self::Delete,
            _ => Self::Write,
        }
    }
}

/// What is known at the moment of the decision. Only what the active versions read has to be there
/// ([`crate::Needs`]); what is missing and read blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The user for whom it acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What the budgets have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetLeft>,
    /// The data labels that the run has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeSet<String>>,
    /// The values of trackers, by [`crate::Tracker::key`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub history: BTreeMap<String, i64>,
    /// The arguments of a tool call that the versions read, by [`crate::Shape::project`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Record>,
    /// What is known of a model call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
    /// The request to an inspected host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<HttpRequest>,
}

/// What is left of the run's budgets, the least of all that it counts against; no limit is the greatest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetLeft {
    /// Money, in nano dollars.
    pub usd_nanos: i64,
    /// Model tokens.
    pub tokens: i64,
    /// Tool calls.
    pub calls: i64,
}

/// What is known of a model call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// The wire that the agent spoke: `openai.chat`.
    pub wire: String,
    /// Whether the answer is streamed.
    pub streaming: bool,
    /// The most tokens that it may use.
    pub tokens_max: i64,
}

/// A request to an inspected host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRequest {
    /// The method as it was sent.
    pub method: String,
    /// The path as it was sent, without the query.
    pub path: String,
}

/// Why an ask cannot be recorded or read back.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// What the policies read of this call is longer than what can be recorded.
    #[error("what the policies read of this call takes {0} bytes; the most that is recorded is {ASK_BYTES_MAX}")]
    TooLong(usize),
    /// The bytes are no ask.
    #[error("these bytes are no recorded ask")]
    Unreadable(#[source] serde_json::Error),
}

impl Head {
    /// The head as a part of every ask that has it: see [`Facts::asked`].
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn to_json(&self) -> Result<String, AskError> {
        serde_json::to_string(self).map_err(AskError::Unreadable)
    }
}

impl Facts {
    /// What is recorded of the ask with these facts: as [`Ask::to_json`], with a head that was written before.
    ///
    /// # Errors
    /// When it is too long to be recorded.
    pub fn asked(&self, head: &str) -> Result<String, AskError> {
        let mut text = Vec::with_capacity(head.len() + 256);
        text.extend_from_slice(b"{\"head\":");
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(b",\"facts\":");
        serde_json::to_writer(&mut text, self).map_err(AskError::Unreadable)?;
        text.push(b'}');
        if text.len() > ASK_BYTES_MAX {
            return Err(AskError::TooLong(text.len()));
        }
        String::from_utf8(text).map_err(|error| AskError::Unreadable(serde::de::Error::custom(error)))
    }

    /// Nothing but the time.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            at_ms: now.unix_millis(),
            run: None,
            subject: None,
            budget: None,
            labels: None,
            history: BTreeMap::new(),
            arguments: None,
            model: None,
            request: None,
        }
    }
}

impl Deed {
    /// The word of every action, in the order of the schema.
    pub const ACTIONS: [&'static str; 11] = [
        "tool_call",
        "model_call",
        "egress",
        "memory",
        "token",
        "run_command",
        "operator_command",
        "sampling",
        "elicitation",
        "resource_read",
        "prompt_get",
    ];

    /// The tool that is called, of a memory or not.
    #[must_use]
    pub fn tool(&self) -> Option<(&UpstreamName, &ToolName)> {
        match self {
            Self::ToolCall { server, tool, .. } | Self::Memory { server, tool, .. } => Some((server, tool)),
            _ => None,
        }
    }

    /// Whether what it is on carries labels: a tool has its own, a resource and a prompt those of all tools of their server,
    /// a model those of its provider. Nobody labels the others.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        match self {
            Self::ToolCall { .. }
            | Self::Memory { .. }
            | Self::ModelCall { .. }
            | Self::ResourceRead { .. }
            | Self::PromptGet { .. } => true,
            Self::Egress { .. }
            | Self::Token { .. }
            | Self::RunCommand { .. }
            | Self::OperatorCommand { .. }
            | Self::Sampling { .. }
            | Self::Elicitation { .. } => false,
        }
    }

    /// The word of its action.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::ToolCall { .. } => "tool_call",
            Self::ModelCall { .. } => "model_call",
            Self::Egress { .. } => "egress",
            Self::Memory { .. } => "memory",
            Self::Token { .. } => "token",
            Self::RunCommand { .. } => "run_command",
            Self::OperatorCommand { .. } => "operator_command",
            Self::Sampling { .. } => "sampling",
            Self::Elicitation { .. } => "elicitation",
            Self::ResourceRead { .. } => "resource_read",
            Self::PromptGet { .. } => "prompt_get",
        }
    }

    /// The deed that a wire asks for. `memory` is what a tool of a memory does; `None` for every other tool.
    #[must_use]
    pub fn of(action: &Action, pinned: bool, memory: Option<MemoryOperation>) -> Self {
        match action {
            Action::ToolCall { server, tool } => {
                let (server, tool) = (server.clone(), tool.clone());
                match memory {
                    Some(operation) => Self::Memory { server, tool, operation, pinned },
                    None => Self::ToolCall { server, tool, pinned },
                }
            }
            Action::ModelCall { provider, model, .. } => {
                Self::ModelCall { provider: provider.clone(), model: model.clone() }
            }
            Action::Egress { host, port } | Action::Request { host, port, .. } => {
                Self::Egress { host: host.clone(), port: *port }
            }
            Action::ResourceRead { server, uri } => Self::ResourceRead { server: server.clone(), uri: uri.clone() },
            Action::PromptGet { server, prompt } => Self::PromptGet { server: server.clone(), prompt: prompt.clone() },
            Action::Sampling { server } => Self::Sampling { server: server.clone() },
            Action::Elicitation { server } => Self::Elicitation { server: server.clone() },
        }
    }
}

impl ModelFacts {
    /// What a model call says of itself.
    #[must_use]
    pub fn of(wire: ModelWire, streaming: bool, tokens_max: u64) -> Self {
        Self { wire: wire.as_str().to_owned(), streaming, tokens_max: i64::try_from(tokens_max).unwrap_or(i64::MAX) }
    }
}

impl Ask {
    /// A question.
    #[must_use]
    pub fn new(head: Arc<Head>, facts: Facts) -> Self {
        Self { head, facts }
    }

    /// The one text of this ask: keys in order, no spaces.
    ///
    /// # Errors
    /// When it is too long to be recorded.
    pub fn to_json(&self) -> Result<String, AskError> {
        self.facts.asked(&self.head.to_json()?)
    }

    /// Reads a recorded ask.
    ///
    /// # Errors
    /// When the bytes are none, or too many.
    pub fn from_json(text: &str) -> Result<Self, AskError> {
        if text.len() > ASK_BYTES_MAX {
            return Err(AskError::TooLong(text.len()));
        }
        serde_json::from_str(text).map_err(AskError::Unreadable)
    }
}

#[cfg(test)]
mod tests;
