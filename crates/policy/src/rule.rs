//! One compiled rule: what it matches, what it asks for, what it reads.

use std::{collections::HashSet, sync::Arc};

use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint, pst::Clause,
};

use crate::{escalation::Escalation, obligation::Obligation, reads::Reads, track::Tracker};

/// One rule of a version.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name: `@id`, or `rule-N` by its place in the text.
    pub id: String,
    /// The line on which it begins, from 1.
    pub line: u32,
    /// The column at which it begins, from 1.
    pub column: u32,
    /// Whether it forbids.
    pub forbids: bool,
    /// `@doc`.
    pub doc: Option<String>,
    /// `@advice`: what a person who is refused by it can do.
    pub advice: Option<String>,
    /// `@escalate`, `@reason`, `@expires`.
    pub escalation: Option<Escalation>,
    /// `@redact`, `@cap`.
    pub obligations: Vec<Obligation>,
    /// `@require_label`.
    pub require_labels: Vec<String>,
    /// `@track`.
    pub trackers: Vec<Arc<Tracker>>,
    pub(crate) reads: Reads,
    pub(crate) scope: Scope,
    pub(crate) clauses: Vec<Clause>,
    pub(crate) policy: Policy,
}

/// What the head of a rule matches.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    principal: One,
    action: Option<Vec<(EntityUid, bool)>>,
    resource: One,
}

#[derive(Debug, Clone)]
enum One {
    Any,
    Is(EntityTypeName),
    Exactly(EntityUid),
    Within(Option<EntityTypeName>, EntityUid),
}

/// One entity of a question with everything that it is in.
#[derive(Debug)]
pub(crate) struct Place {
    pub uid: EntityUid,
    pub above: HashSet<EntityUid>,
}

impl Place {
    fn within(&self, uid: &EntityUid) -> bool {
        self.uid == *uid || self.above.contains(uid)
    }
}

impl One {
    fn matches(&self, place: &Place) -> bool {
        match self {
            Self::Any => true,
            Self::Is(kind) => place.uid.type_name() == kind,
            Self::Exactly(uid) => place.uid == *uid,
            Self::Within(kind, uid) => {
                kind.as_ref().is_none_or(|kind| place.uid.type_name() == kind) && place.within(uid)
            }
        }
    }
}

impl One {
    /// Whether an entity of one of the kinds can match; such entities are in those that are `above`.
    fn may_be(&self, kinds: &[&str], above: &[&str]) -> bool {
        match self {
            Self::Any => true,
            Self::Is(kind) | Self::Within(Some(kind), _) => kinds.contains(&kind.basename()),
            Self::Exactly(uid) => kinds.contains(&uid.type_name().basename()),
            Self::Within(None, uid) => above.contains(&uid.type_name().basename()),
        }
    }
}

impl Scope {
    pub(crate) fn of(policy: &Policy) -> Self {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => One::Any,
            PrincipalConstraint::Eq(uid) => One::Exactly(uid),
            PrincipalConstraint::In(uid) => One::Within(None, uid),
            PrincipalConstraint::Is(kind) => One::Is(kind),
            PrincipalConstraint::IsIn(kind, uid) => One::Within(Some(kind), uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => One::Any,
            ResourceConstraint::Eq(uid) => One::Exactly(uid),
            ResourceConstraint::In(uid) => One::Within(None, uid),
            ResourceConstraint::Is(kind) => One::Is(kind),
            ResourceConstraint::IsIn(kind, uid) => One::Within(Some(kind), uid),
        };
        let action = match policy.action_constraint() {
            ActionConstraint::Any => None,
            ActionConstraint::Eq(uid) => Some(vec![(uid, true)]),
            ActionConstraint::In(uids) => Some(uids.into_iter().map(|uid| (uid, false)).collect()),
        };
        Self { principal, action, resource }
    }

    /// The actions of the head with whether each is meant exactly; nothing is all of them.
    pub(crate) fn actions(&self) -> Option<&[(EntityUid, bool)]> {
        self.action.as_deref()
    }

    /// Whether an operator's command can match.
    pub(crate) fn may_be_a_command(&self) -> bool {
        let named = |(uid, _): &(EntityUid, bool)| matches!(uid.id().unescaped(), "run_command" | "operator_command");
        self.actions().is_none_or(|actions| actions.iter().any(named))
            && self.principal.may_be(&["Operator"], &["Operator", "Role", "Tenant", "Plane"])
            && self.resource.may_be(&["Agent", "Tenant", "Plane"], &["Agent", "Tenant", "Plane"])
    }

    /// Whether something can match whose resource carries no labels.
    pub(crate) fn may_have_no_labels(&self) -> bool {
        const LABELLED: [&str; 5] = ["tool_call", "memory", "model_call", "resource_read", "prompt_get"];
        let labelled = |(uid, _): &(EntityUid, bool)| {
            let action = uid.id().unescaped();
            LABELLED.contains(&action) || action.starts_with("tool:")
        };
        !self.actions().is_some_and(|actions| actions.iter().all(labelled))
            && self.resource.may_be(
                &["Host", "ToolServer", "Agent", "Tenant", "Plane", "Audience"],
                &["Host", "Domain", "ToolServer", "Agent", "Tenant", "Plane", "Audience"],
            )
    }

    pub(crate) fn matches(&self, principal: &Place, action: &Place, resource: &Place) -> bool {
        let action = self.action.as_ref().is_none_or(|wanted| {
            wanted.iter().any(|(uid, exactly)| if *exactly { action.uid == *uid } else { action.within(uid) })
        });
        action && self.principal.matches(principal) && self.resource.matches(resource)
    }
}

impl Rule {
    pub(crate) fn permits(policy: &Policy) -> bool {
        policy.effect() == Effect::Permit
    }

    /// Whether it holds something back where it matches: a forbid, or a permit that asks, obliges or wants a label. Were
    /// it to say nothing where it fails, another permit would let through what it was written to hold back.
    pub(crate) fn holds_back(&self) -> bool {
        self.forbids || self.escalation.is_some() || !self.obligations.is_empty() || !self.require_labels.is_empty()
    }
}
