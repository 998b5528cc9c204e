//! Approvals: what a person has to say yes to first, as the gate asks for it.
//!
//! The agent is never kept waiting: it is told which approval its call waits for, and makes the same call again.
//! The same call is the same run, the same action and the same bytes of arguments; an approval is for that and for
//! one time.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use cogward_model::{
    AgentName, Digest, RunId, TenantName, Timestamp, VersionLabel,
    action::Action,
    decision::{ApprovalRef, Refusal, RefusalCode},
    id::ApprovalId,
};

/// One question to the people who hold a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalAsk {
    /// Whose.
    pub tenant: TenantName,
    /// The run that asks.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// The agent's version.
    pub version: VersionLabel,
    /// The user for whom it acts.
    pub subject: Option<String>,
    /// What it wants to do.
    pub action: Action,
    /// Of the exact request: the action, its object, and the bytes that would be forwarded.
    pub request: Digest,
    /// The arguments of a tool call as they would be forwarded, or the body of another action, and what goes along, for
    /// the person to read.
    pub arguments: Option<Bytes>,
    /// Who may say yes.
    pub role: String,
    /// Nobody who started the run, or for whom it acts, may say yes.
    pub four_eyes: bool,
    /// Why a person is asked.
    pub reason: Option<String>,
    /// How long the question stands, and the answer with it.
    pub expires: Duration,
    /// The level of policy that asks.
    pub level: String,
    /// Its rules that ask.
    pub rules: Vec<String>,
    /// The active versions, as `level sha256:…`.
    pub policy: Vec<String>,
    /// When.
    pub at: Timestamp,
    /// The approval that the request waits for, where it says so: it is one of those that are found, or nothing is
    /// asked and nothing used.
    pub awaits: Option<ApprovalId>,
}

/// What became of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalState {
    /// Nobody has answered this one yet.
    Pending(ApprovalRef),
    /// All of them were approved, and are used up by this answer.
    Approved(Vec<ApprovalRef>),
    /// Somebody said no to this one.
    Denied(ApprovalRef),
    /// The time of this one is over.
    Expired(ApprovalRef),
    /// It was not asked: too many questions wait already. One sentence for the agent.
    TooMany(String),
    /// It was not asked: the approval that the request waits for is used, over, or for something else.
    Gone(ApprovalId),
}

/// The approvals cannot be asked. No effect may follow.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the approvals cannot be asked: {0}")]
pub struct ApprovalsDown(pub String);

/// An answer that is waited for.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<ApprovalState, ApprovalsDown>> + Send + 'a>>;

/// Where approvals are kept.
pub trait Approvals: Send + Sync {
    /// Finds the questions by their run, request and role, or puts them. When each of them is approved, all are
    /// used up by the answer, in one step: two calls never get the same approval. The same request behind a used
    /// approval is a new question.
    fn ask<'a>(&'a self, asks: &'a [ApprovalAsk]) -> Asking<'a>;

    /// What they were for certainly did not take place, and no record says that it would: they stand again, as far
    /// as their time is not over. What is not given back stays used.
    fn give_back(&self, approvals: &[ApprovalRef]);
}

/// An approval as a body says it, for programs.
pub(crate) fn told(approval: &ApprovalRef) -> serde_json::Value {
    let ApprovalRef { id, role, expires } = approval;
    serde_json::json!({"id": id.to_string(), "role": role, "expires": expires.to_string()})
}

/// What an agent is told whose call waits for a person, or did not get a yes.
pub(crate) fn refusal(code: RefusalCode, approval: ApprovalRef) -> Refusal {
    let ApprovalRef { id, role, expires } = &approval;
    let (rule, detail, next) = match code {
        RefusalCode::ApprovalDenied => (
            "approval.denied",
            format!("the approval {id} was denied"),
            "Do not repeat this call; look for another way or tell the user".to_owned(),
        ),
        RefusalCode::ApprovalExpired => (
            "approval.expired",
            format!("the approval {id} was not given or not used in time"),
            "Tell the user that nobody approved it in time".to_owned(),
        ),
        _ => (
            "approval.required",
            format!("it needs an approval by the role `{role}`, which was asked for as {id}"),
            format!(
                "It has not run. When it is approved (until {expires}), make the same call again with exactly the \
                 same arguments; it then runs once"
            ),
        ),
    };
    Refusal::new(code, rule, detail, next).about(approval)
}
