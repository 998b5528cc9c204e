//! What operators command, decided by the same function.

use std::{collections::BTreeSet, sync::Arc};

use cogward_model::{
    AgentName, TenantName, Timestamp,
    decision::{Refusal, RefusalCode},
    event::Field,
    manifest::Tier,
    policy_scope::PolicyScope,
};
use cogward_policy::{Ask, Deed, Escalation, Facts, Head, Hierarchy, Principal, Verdict, ask::Operator};

use super::Policies;
use crate::gate::{confidential, public};

/// A command that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAsk {
    /// The name of the credential.
    pub operator: String,
    /// The tenant that the credential is for; none is the whole plane.
    pub of_tenant: Option<TenantName>,
    /// Its roles.
    pub roles: BTreeSet<String>,
    /// What is commanded: [`Deed::RunCommand`] or [`Deed::OperatorCommand`].
    pub deed: Deed,
    /// The tenant that it concerns; none is the plane.
    pub tenant: Option<TenantName>,
    /// The agent that it concerns: then the levels of its tier and the agent are asked, too.
    pub agent: Option<(AgentName, Tier)>,
}

/// What the policies say to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandVerdict {
    /// Whether it may be carried out; with a refusal otherwise.
    pub verdict: Result<(), Refusal>,
    /// Who has to approve it: empty unless that is why it is refused.
    pub escalations: Vec<Escalation>,
    /// For the record.
    pub fields: Vec<Field>,
}

impl Policies {
    /// Decides a command. It looks back on nothing, and what policies would change of it they cannot: both block.
    #[must_use]
    pub fn decide_command(&self, ask: &CommandAsk, now: Timestamp) -> CommandVerdict {
        let blocked = |rule: String, detail: String| CommandVerdict {
            verdict: Err(refusal(RefusalCode::PolicyBlocked, rule, detail, None)),
            escalations: Vec::new(),
            fields: Vec::new(),
        };
        let Some(current) = self.active().current() else {
            return blocked("policy".to_owned(), "no policies are active".to_owned());
        };
        let levels = levels(ask);
        if let Some(level) = levels.iter().find(|level| current.unusable.contains_key(level)) {
            let detail = format!("the active policy of {level} cannot be used");
            return blocked(format!("policy.{}", level.level()), detail);
        }
        let versions = levels.iter().filter_map(|level| current.active.versions().get(level)).cloned();
        let hierarchy = Hierarchy::new(versions);
        let head = Arc::new(Head {
            principal: Principal::Operator(Operator {
                name: ask.operator.clone(),
                tenant: ask.of_tenant.clone(),
                roles: ask.roles.clone(),
            }),
            deed: ask.deed.clone(),
            labels: BTreeSet::new(),
        });
        let slice = hierarchy.slice(&head);
        let facts = Facts::at(now);
        let decided = slice.decide(&facts);
        let input = match Ask::new(head, facts).to_json() {
            Ok(input) => input,
            Err(error) => return blocked("policy.input".to_owned(), error.to_string()),
        };
        let rules = decided.decider().map(|decider| decider.rules.clone()).unwrap_or_default();
        let level = decided.decided_by.as_str();
        let rule = rules.first().map_or_else(|| format!("policy.{level}"), |rule| format!("policy.{level}.{rule}"));
        let advice =
            slice.rules().filter(|(_, rule)| rules.contains(&rule.id)).find_map(|(_, rule)| rule.advice.clone());
        let told = hierarchy.versions().iter().map(|version| format!("{} {}", version.level(), version.digest()));
        let fields = vec![
            public("policy", told.collect::<Vec<_>>()),
            public("policy_generation", current.active.generation()),
            public("policy_verdict", decided.verdict.as_str()),
            public("policy_level", level),
            public("policy_rules", rules),
            confidential("policy_input", input),
        ];
        let no = |code| Err(refusal(code, rule.clone(), decided.sentence(), advice.clone()));
        let verdict = match decided.verdict {
            Verdict::Permit if decided.obligations.is_empty() => Ok(()),
            Verdict::Permit | Verdict::Block => no(RefusalCode::PolicyBlocked),
            Verdict::Escalate => no(RefusalCode::ApprovalRequired),
        };
        CommandVerdict { verdict, escalations: decided.escalations, fields }
    }
}

/// The levels that have a say: those above what the command concerns.
fn levels(ask: &CommandAsk) -> Vec<PolicyScope> {
    let mut levels = vec![PolicyScope::Plane];
    if let Some(tenant) = &ask.tenant {
        levels.push(PolicyScope::Tenant(tenant.clone()));
        if let Some((agent, tier)) = &ask.agent {
            levels.push(PolicyScope::Tier(tenant.clone(), *tier));
            levels.push(PolicyScope::Agent(tenant.clone(), agent.clone()));
        }
    }
    levels
}

fn refusal(code: RefusalCode, rule: String, detail: String, advice: Option<String>) -> Refusal {
    let next = advice.unwrap_or_else(|| "Whoever keeps this policy can say what it permits".to_owned());
    Refusal::new(code, rule, detail, next.trim_end_matches('.'))
}
