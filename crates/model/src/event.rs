//! Evidence events: what is written to the ledger, with the class of every field.
//!
//! An [`Event`] is the body of a leaf before the ledger has given it its place. The class decides
//! how a field is written: public in clear, personal and confidential as salted commitments whose
//! values are sealed in the vault, and a secret cannot be put into an event at all.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::{AgentName, RunId, TenantName, VersionLabel};

/// A value that the restricted JSON profile can hold: no floats, integers within 2^53.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer; the ledger refuses one beyond ±2^53.
    Int(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map.
    Map(BTreeMap<String, Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}
impl From<u64> for Value {
    /// Counts beyond 2^53 are held there: JSON readers could not tell them apart.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value.min(1 << 53)).unwrap_or(1 << 53))
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(list: Vec<T>) -> Self {
        Self::List(list.into_iter().map(Into::into).collect())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// How a field may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldClass {
    /// In clear, for ever.
    Public,
    /// About a person: only a salted commitment is in the ledger.
    Personal,
    /// The customer's business: committed likewise.
    Confidential,
}

/// One field of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Lower-case ASCII with underscores; `run`, `run_prev`, `run_seq`, `type`, `id`, `tenant` and `v` belong to the ledger.
    pub name: Cow<'static, str>,
    /// Its class.
    pub class: FieldClass,
    /// Its value.
    pub value: Value,
}

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What happened. The text is the leaf's `type` and never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType { $($(#[$doc])* #[serde(rename = $text)] $name,)* }
        impl EventType {
            /// Every type, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The leaf's `type`.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

event_types! {
    /// The plane came up.
    PlaneStarted = "plane.started";
    /// The plane was asked to stop and drained.
    PlaneStopped = "plane.stopped";
    /// A tenant was created.
    TenantCreated = "tenant.created";
    /// An operator credential was made.
    OperatorCreated = "operator.created";
    /// An operator credential was revoked.
    OperatorRevoked = "operator.revoked";
    /// An operator credential was replaced.
    OperatorRotated = "operator.rotated";
    /// The roles of an operator were changed.
    OperatorRolesSet = "operator.roles_set";
    /// A credential was refused at the API, with how often.
    OperatorLoginRefused = "operator.login_refused";
    /// A command of an operator was refused, by policy or by role.
    OperatorCommandRefused = "operator.command_refused";
    /// A version of a policy was written. Its text is with the plane, under its digest.
    PolicyVersionAdded = "policy.version_added";
    /// A version of a policy was approved.
    PolicyApproved = "policy.approved";
    /// A version of a policy decides from now on.
    PolicyActivated = "policy.activated";
    /// A level has no policy of its own any more.
    PolicyDeactivated = "policy.deactivated";
    /// A call waits for a person.
    ApprovalRequested = "approval.requested";
    /// A person allowed one call.
    ApprovalApproved = "approval.approved";
    /// A person refused a call.
    ApprovalDenied = "approval.denied";
    /// Nobody answered in time, or the run ended before.
    ApprovalExpired = "approval.expired";
    /// The call that was allowed was made; it cannot be made again.
    ApprovalConsumed = "approval.consumed";
    /// The call that was allowed was not made after all: the approval stands again.
    ApprovalReturned = "approval.returned";
    /// The weakest sandbox profile that is accepted was changed.
    FloorChanged = "floor.changed";
    /// An agent version was registered.
    AgentRegistered = "agent.registered";
    /// How many sandboxes of a version are kept ready was changed.
    AgentWarmSet = "agent.warm_set";
    /// A registration was refused.
    AgentRefused = "agent.registration_refused";
    /// A tool server was added or replaced.
    ToolServerAdded = "tool_server.added";
    /// A tool server was removed and its credential forgotten.
    ToolServerRemoved = "tool_server.removed";
    /// An operator asked for memories to be forgotten; what follows may have happened.
    MemoryForgetRequested = "memory.forget_requested";
    /// Memories were forgotten, with the count of them.
    MemoryForgotten = "memory.forgotten";
    /// A tool was seen that nobody has approved.
    ToolQuarantined = "tool.quarantined";
    /// A tool is not what it was: another definition, gone, back, or of another server.
    ToolChanged = "tool.changed";
    /// An operator approved the definition of a tool.
    ToolApproved = "tool.approved";
    /// An operator blocked a tool.
    ToolBlocked = "tool.blocked";
    /// An operator set the labels of a tool.
    ToolLabelled = "tool.labelled";
    /// A model provider was added or replaced.
    ProviderAdded = "provider.added";
    /// A credential for an inspected host was stored or replaced.
    CredentialAdded = "credential.added";
    /// A credential for an inspected host was removed and forgotten.
    CredentialRemoved = "credential.removed";
    /// An issuer of access tokens was trusted, or where its keys are was changed.
    IssuerAdded = "issuer.added";
    /// An issuer of access tokens is trusted no more.
    IssuerRemoved = "issuer.removed";
    /// Requests of clients outside were refused, by rule, with how many.
    OutsideRefused = "outside.refused";
    /// A client outside came with a token that was not seen before.
    OutsideToken = "outside.token";
    /// A run was asked for and accepted.
    RunRequested = "run.requested";
    /// A run was asked for and refused.
    RunRefused = "run.refused";
    /// The sandbox was examined from outside, with what was found in force.
    SandboxAttested = "sandbox.attested";
    /// The sandbox is up, with what it enforces.
    RunStarted = "run.started";
    /// A restarted plane took the run over again.
    RunAdopted = "run.adopted";
    /// The run was suspended.
    RunSuspended = "run.suspended";
    /// The run was resumed.
    RunResumed = "run.resumed";
    /// The run was asked to end.
    RunCancelRequested = "run.cancel_requested";
    /// The run was killed.
    RunKilled = "run.killed";
    /// The run has ended; the last leaf of its chain, with the count of them.
    RunClosed = "run.closed";
    /// A tool call was decided.
    ToolCallDecided = "tool.call.decided";
    /// A tool call ended.
    ToolCallCompleted = "tool.call.completed";
    /// The list of tools was served, filtered.
    ToolListServed = "tool.list.served";
    /// The list of resources was served, filtered.
    ResourceListServed = "resource.list.served";
    /// Reading a resource was decided.
    ResourceReadDecided = "resource.read.decided";
    /// Reading a resource ended.
    ResourceReadCompleted = "resource.read.completed";
    /// The list of prompts was served, filtered.
    PromptListServed = "prompt.list.served";
    /// Taking a prompt was decided.
    PromptGetDecided = "prompt.get.decided";
    /// Taking a prompt ended.
    PromptGetCompleted = "prompt.get.completed";
    /// That a tool server asks the agent's model was decided.
    SamplingDecided = "sampling.decided";
    /// A tool server had its answer of the agent's model, or none.
    SamplingCompleted = "sampling.completed";
    /// That a tool server asks the agent's user was decided.
    ElicitationDecided = "elicitation.decided";
    /// A tool server had its answer of the agent's user, or none.
    ElicitationCompleted = "elicitation.completed";
    /// A model call was decided.
    ModelCallDecided = "model.call.decided";
    /// A model call ended.
    ModelCallCompleted = "model.call.completed";
    /// A connection was decided.
    EgressDecided = "egress.decided";
    /// A connection ended.
    EgressCompleted = "egress.completed";
    /// The sandbox stopped something.
    SandboxViolation = "sandbox.violation";
    /// Something that somebody should look into: an attempt on a credential.
    SecurityFinding = "security.finding";
    /// Evidence was exported.
    EvidenceExported = "evidence.exported";
    /// Evidence was read.
    EvidenceRead = "evidence.read";
    /// An operator asked for values of the evidence to be erased.
    RedactionRequested = "redaction.requested";
    /// Another operator approved an erasure.
    RedactionApproved = "redaction.approved";
    /// An operator refused an erasure.
    RedactionDenied = "redaction.denied";
    /// The keys of the erased values were destroyed, with which leaves and commitments that concerns.
    RedactionExecuted = "redaction.executed";
    /// An erasure was asked for or to be carried out, and a rule or a hold forbids it.
    RedactionRefused = "redaction.refused";
    /// Keys that the log says were destroyed had come back with older files, and were destroyed again.
    RedactionReplayed = "redaction.replayed";
    /// Values whose time is over were erased.
    RetentionExecuted = "retention.executed";
    /// An operator asked for a legal hold; nothing in its scope is erased from now on.
    HoldRequested = "hold.requested";
    /// Another operator placed a legal hold.
    HoldPlaced = "hold.placed";
    /// An operator asked for a legal hold to be released; it still holds.
    HoldReleaseRequested = "hold.release_requested";
    /// A step of a legal hold was tried by somebody who may not take it.
    HoldRefused = "hold.refused";
    /// A legal hold was released by another operator, or withdrawn before it was placed.
    HoldReleased = "hold.released";
    /// Evidence was searched, with the query's public form and how much was found.
    QueryExecuted = "query.executed";
    /// Evidence was asked for and not given: how often, by which route, with which problem.
    QueryFailed = "query.failed";
    /// A part of the evidence was exported: a run, a window, all with a key, or a sample.
    PackExported = "pack.exported";
    /// A proof was handed out.
    EvidenceProven = "evidence.proven";
    /// An auditor committed to the number by which a sample will be drawn.
    SampleCommitted = "sample.committed";
    /// An operator had the query index made anew.
    EvidenceReindexed = "evidence.reindexed";
    /// The roots of the verifiable index over a range of leaves.
    LedgerIndexed = "ledger.index";
    /// Witnesses' signatures on a checkpoint of the plane log were brought in by an operator.
    CheckpointCosigned = "checkpoint.cosigned";
    /// A time stamp (RFC 3161) of a checkpoint of the plane log was taken in.
    TimeAnchored = "time.anchor";
    /// An operator asked for the keys of a log to be changed.
    LedgerKeyRequested = "ledger.key.requested";
    /// A change of keys was tried by somebody who may not confirm it.
    LedgerKeyRefused = "ledger.key.refused";
    /// The key that signs a log was replaced: the statement that the old and the new one signed.
    LedgerKeyRotated = "ledger.key.rotated";
    /// The signatures of a past key do not count any more beyond a size.
    LedgerKeyRevoked = "ledger.key.revoked";
    /// A past key was destroyed.
    LedgerKeyRetired = "ledger.key.retired";
    /// A segment of the write-ahead log is in the archive: it was read back and is named by a signed manifest.
    LedgerArchived = "ledger.archived";
    /// A segment of the write-ahead log is only in the archive from now on: it is removed from the plane's disk.
    LedgerReleased = "ledger.released";
    /// A torn tail was cut at start.
    LedgerRecovered = "ledger.recovered";
    /// The host's clock was set: it went back, and the ledger's time waited for it, or ahead of the time that passed.
    TimeStepped = "time.step";
    /// The event schema that records are held to from here on.
    LedgerSchema = "ledger.schema";
    /// The disk is nearly full; agents are stopped, the audit is not.
    LedgerLowSpace = "ledger.low_space";
    /// There is space again.
    LedgerSpaceRestored = "ledger.space_restored";
    /// No checkpoint of a log can be signed, for longer than the plane puts up with; agents are stopped.
    LedgerUnsigned = "ledger.unsigned";
    /// Checkpoints are signed again.
    LedgerSignedAgain = "ledger.signed_again";
}

impl EventType {
    /// Whether every event of this type says that something was refused. Others say so by their decision.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::OperatorCommandRefused
                | Self::OperatorLoginRefused
                | Self::AgentRefused
                | Self::RunRefused
                | Self::OutsideRefused
                | Self::ApprovalDenied
                | Self::RedactionDenied
                | Self::RedactionRefused
                | Self::HoldRefused
                | Self::LedgerKeyRefused
                | Self::SandboxViolation
        )
    }

    /// The type of the decision on an action.
    #[must_use]
    pub fn decided(action: &crate::action::Action) -> Self {
        match action {
            crate::action::Action::ToolCall { .. } => Self::ToolCallDecided,
            crate::action::Action::ModelCall { .. } => Self::ModelCallDecided,
            crate::action::Action::Egress { .. } | crate::action::Action::Request { .. } => Self::EgressDecided,
            crate::action::Action::ResourceRead { .. } => Self::ResourceReadDecided,
            crate::action::Action::PromptGet { .. } => Self::PromptGetDecided,
            crate::action::Action::Sampling { .. } => Self::SamplingDecided,
            crate::action::Action::Elicitation { .. } => Self::ElicitationDecided,
        }
    }

    /// The type of the outcome of an action.
    #[must_use]
    pub fn completed(action: &crate::action::Action) -> Self {
        match action {
            crate::action::Action::ToolCall { .. } => Self::ToolCallCompleted,
            crate::action::Action::ModelCall { .. } => Self::ModelCallCompleted,
            crate::action::Action::Egress { .. } | crate::action::Action::Request { .. } => Self::EgressCompleted,
            crate::action::Action::ResourceRead { .. } => Self::ResourceReadCompleted,
            crate::action::Action::PromptGet { .. } => Self::PromptGetCompleted,
            crate::action::Action::Sampling { .. } => Self::SamplingCompleted,
            crate::action::Action::Elicitation { .. } => Self::ElicitationCompleted,
        }
    }
}

/// Who acts, for whom. Every event names both, or says that there is no such party.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// The agent and version, `None` for what an operator or the plane does by itself.
    pub agent: Option<(AgentName, VersionLabel)>,
    /// The human authority: the user for whom the run acts, or the operator. Personal.
    pub subject: Option<String>,
}

impl Attribution {
    /// The plane by itself.
    #[must_use]
    pub fn plane() -> Self {
        Self { agent: None, subject: None }
    }

    /// A person, without an agent.
    pub fn operator(subject: impl Into<String>) -> Self {
        Self { agent: None, subject: Some(subject.into()) }
    }
}

/// The body of a leaf, before the ledger gives it an id, a place in its run's chain and a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// Whose ledger it goes to.
    pub tenant: TenantName,
    /// The run it belongs to; its leaves form a chain of their own.
    pub run: Option<RunId>,
    /// Who acts, for whom.
    pub by: Attribution,
    /// The person whom the other personal fields are about, where that is not the subject: their values are erased
    /// with that person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The rest.
    pub fields: Vec<Field>,
}

impl Event {
    /// An event without fields yet.
    #[must_use]
    pub fn new(kind: EventType, tenant: TenantName, by: Attribution) -> Self {
        Self { kind, tenant, run: None, by, about: None, fields: Vec::with_capacity(8) }
    }

    /// Says whom its personal fields are about, all but the subject.
    #[must_use]
    pub fn about(mut self, person: impl Into<String>) -> Self {
        self.about = Some(person.into());
        self
    }

    /// Places it in a run's chain.
    #[must_use]
    pub fn run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Adds a field that everyone may read.
    #[must_use]
    pub fn public(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push(Field { name: Cow::Borrowed(name), class: FieldClass::Public, value: value.into() });
        self
    }

    /// Adds a field about a person.
    #[must_use]
    pub fn personal(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push(Field { name: Cow::Borrowed(name), class: FieldClass::Personal, value: value.into() });
        self
    }

    /// Adds a field of the customer's business.
    #[must_use]
    pub fn confidential(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push(Field { name: Cow::Borrowed(name), class: FieldClass::Confidential, value: value.into() });
        self
    }
}
