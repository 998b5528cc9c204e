//! The gate's question to the policies, and what follows from the answer.
//!
//! Policies ([`active`]) are pure; what they look back on ([`history`]) and who they send a call to
//! ([`crate::approvals`]) is here. One call is decided by the versions of one generation, together with what it adds
//! to the history, in one step that waits for nothing. What policies ask to be changed ([`obligation`]) is changed
//! before the record is written, so what is recorded is what is forwarded.

pub mod active;
mod ask;
pub mod carried;
mod changed;
pub mod history;
mod in_hand;
mod judge;
mod obligation;
pub mod restore;
mod window;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use cogward_model::{
    Digest, TenantName, Timestamp, ToolName, UpstreamName,
    action::{Action, Amounts},
    id::ApprovalId,
};
use cogward_policy::{Shape, ask::MemoryOperation};

pub(crate) use self::{
    active::RunPolicies,
    history::Added,
    in_hand::InHand,
    judge::{Cleared, Judgement},
    obligation::redacted,
};
pub use self::{
    active::{ActivePolicies, ActiveStatus, PolicySet},
    history::{Ended, History, Who},
    obligation::Withheld,
    restore::{Earlier, Restoring},
};
use crate::{approvals::Approvals, gate::First, run::RunContext, upstreams::ProviderLabels};

/// What operators know of a tool beside its name.
#[derive(Debug, Clone, Default)]
pub struct ToolMarks {
    /// The labels of the data that it reads; of a model, those of its provider.
    pub labels: Arc<BTreeSet<String>>,
    /// The types of its arguments, of the definition that was approved; none for a tool that is not pinned.
    pub shape: Option<Arc<Shape>>,
    /// What it does to what is kept, where it is a tool of a memory.
    pub memory: Option<MemoryOperation>,
}

/// Where marks of tools are kept.
pub trait ToolFacts: Send + Sync {
    /// What is known of a tool. Asked for every call: nothing may be waited for.
    fn of(&self, tenant: &TenantName, server: &UpstreamName, tool: &ToolName) -> ToolMarks;

    /// The labels of all the data of a server, as its tools are labelled: what its resources and prompts carry.
    fn of_server(&self, _tenant: &TenantName, _server: &UpstreamName) -> Arc<BTreeSet<String>> {
        Arc::default()
    }
}

/// Everything that decides beside the manifest.
#[derive(Default)]
pub struct Policies {
    active: ActivePolicies,
    history: Arc<History>,
    approvals: OnceLock<Arc<dyn Approvals>>,
    marks: OnceLock<Arc<dyn ToolFacts>>,
    providers: OnceLock<Arc<ProviderLabels>>,
}

/// One call, as the policies are asked about it.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) run: &'a RunContext,
    pub(crate) action: &'a Action,
    pub(crate) content: Content<'a>,
    pub(crate) worst: Amounts,
    pub(crate) first: Option<First>,
    /// The approval that it waits for, where it says so.
    pub(crate) awaits: Option<ApprovalId>,
    /// What is left of the run's budgets; looked up when a policy reads it.
    pub(crate) left: &'a dyn Fn() -> Amounts,
    pub(crate) now: Timestamp,
    pub(crate) adds: Adds,
}

/// What a question does to the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adds {
    /// A call that is permitted counts from here on.
    WhenPermitted,
    /// It is only asked what the answer would be.
    Nothing,
}

/// What would be forwarded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content<'a> {
    /// The arguments of a tool: an object in JSON that was checked. Policies read them, and may change them.
    pub arguments: Option<&'a bytes::Bytes>,
    /// A body that goes on as it is. An approval is for these very bytes.
    pub body: Option<&'a bytes::Bytes>,
    /// The definition under which it is asked for, where there is one. An approval is for this one and no other.
    pub definition: Option<Digest>,
    /// What goes on besides: the query of a request, answers to questions of a tool server. An approval is for this and
    /// no other.
    pub beside: Option<&'a bytes::Bytes>,
}

impl Policies {
    /// What is active.
    #[must_use]
    pub fn active(&self) -> &ActivePolicies {
        &self.active
    }

    /// What was done before.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Who is asked for approvals. The first one stays; without one, what needs an approval is refused.
    pub fn approvals_by(&self, approvals: Arc<dyn Approvals>) {
        let _ = self.approvals.set(approvals);
    }

    /// Where the marks of tools are. The first one stays; without one, no tool has any.
    pub fn tools_marked_by(&self, marks: Arc<dyn ToolFacts>) {
        let _ = self.marks.set(marks);
    }

    /// Where the labels of providers are. The first ones stay; without them, no provider has any.
    pub fn providers_labelled_by(&self, labels: Arc<ProviderLabels>) {
        let _ = self.providers.set(labels);
    }

    fn marks(&self, run: &RunContext, action: &Action) -> ToolMarks {
        if let (Action::ModelCall { provider, .. }, Some(labels)) = (action, self.providers.get()) {
            let labels = labels.of(&run.grant.tenant, provider);
            return ToolMarks { labels, shape: None, memory: None };
        }
        let (Some(marks), tenant) = (self.marks.get(), &run.grant.tenant) else { return ToolMarks::default() };
        match action {
            Action::ToolCall { server, tool } => marks.of(tenant, server, tool),
            // Nobody labels each of them: they come from where the labelled data are.
            Action::ResourceRead { server, .. } | Action::PromptGet { server, .. } => {
                ToolMarks { memory: None, labels: marks.of_server(tenant, server), shape: None }
            }
            Action::ModelCall { .. }
            | Action::Egress { .. }
            | Action::Request { .. }
            | Action::Sampling { .. }
            | Action::Elicitation { .. } => ToolMarks::default(),
        }
    }
}
