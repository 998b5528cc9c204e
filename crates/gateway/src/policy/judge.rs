//! One call, decided by the active versions together with its history.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use cogward_model::{
    Digest,
    action::Action,
    decision::{Refusal, RefusalCode},
    event::{Field, Value},
};
use cogward_policy::{Ask, AskError, Decided, Facts, Head, Obligation, Slice, Verdict};

use super::{
    Adds, InHand, Policies, Question, ToolMarks,
    active::Resolved,
    ask,
    history::{Added, HistoryError, Step, Tracker, Who},
    obligation,
};
use crate::{
    approvals::ApprovalAsk,
    gate::{confidential, public},
    policy::History,
    run::RunContext,
};

/// The answer to a question.
pub(crate) enum Judgement {
    /// It may take place.
    Permit(Box<Cleared>),
    /// It may not.
    Block {
        /// Why.
        refusal: Refusal,
        /// For the record.
        fields: Vec<Field>,
    },
    /// Somebody has to approve it first.
    Escalate {
        /// Each of them.
        asks: Vec<ApprovalAsk>,
        /// For the record.
        fields: Vec<Field>,
    },
}

/// A call that policy permits, with what follows from that.
pub(crate) struct Cleared {
    /// For the record.
    pub(crate) fields: Vec<Field>,
    /// What the arguments become.
    pub(crate) arguments: Option<Bytes>,
    redacted: Vec<Obligation>,
    counted: Counted,
    reads: ToolMarks,
}

/// What a call added to its history; taken back when the call is not recorded.
struct Counted {
    history: Arc<History>,
    who: Arc<Who>,
    added: Added,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let added = std::mem::take(&mut self.added);
        if !added.is_empty() {
            self.history.take_back(&self.who, added);
        }
    }
}

impl Cleared {
    /// The call is recorded: what it added stays, what it reads has been read. Gives what is settled with it, and
    /// what is taken out of its answer.
    pub(crate) fn keep(mut self, policies: &Policies, run: &RunContext) -> (Added, Vec<Obligation>) {
        if !self.reads.labels.is_empty() {
            policies.history.reads(&run.who, &*self.reads.labels);
        }
        (std::mem::take(&mut self.counted.added), self.redacted)
    }
}

/// What is constant while one question is decided.
struct Judging<'a> {
    question: &'a Question<'a>,
    resolved: &'a Resolved,
    slice: &'a Slice,
    head: &'a Arc<Head>,
    marks: &'a ToolMarks,
    adds: Vec<(Tracker, i64)>,
}

/// What one step of the history gave.
struct Stepped {
    decided: Decided,
    facts: Facts,
    added: Added,
}

impl Policies {
    /// Decides a call under the versions that are active now. What it adds to the history counts from here on.
    pub(crate) fn judge(&self, question: &Question<'_>, in_hand: &InHand) -> Judgement {
        let blocked = |refusal| Judgement::Block { refusal, fields: Vec::new() };
        let Some(current) = self.active.current() else { return blocked(nothing_active()) };
        let resolved = question.run.policies.resolve(current, &question.run.grant);
        if let Some(level) = &resolved.unusable {
            return blocked(unusable(level.level()));
        }
        let marks = self.marks(question.run, question.action);
        let head = ask::head(question, &marks);
        let slice = resolved.hierarchy.slice(&head);
        let facts = match ask::facts(question, slice.needs(), &marks) {
            Ok(facts) => facts,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(&resolved) },
        };
        let adds = match ask::adds(question, &resolved, &head.deed, &facts) {
            Ok(adds) => adds,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(&resolved) },
        };
        let judging = Judging { question, resolved: &resolved, slice: &slice, head: &head, marks: &marks, adds };
        self.conclude(&judging, facts, in_hand)
    }

    fn conclude(&self, judging: &Judging<'_>, facts: Facts, in_hand: &InHand) -> Judgement {
        let stepped = match self.step(judging, facts, None) {
            Ok(stepped) => stepped,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(judging.resolved) },
        };
        let fields = match judging.fields(&stepped) {
            Ok(fields) => fields,
            Err(refusal) => {
                self.give_up(judging, stepped.added);
                return Judgement::Block { refusal, fields: versions(judging.resolved) };
            }
        };
        let counted = Counted {
            history: Arc::clone(&self.history),
            who: Arc::clone(&judging.question.run.who),
            added: stepped.added,
        };
        if stepped.decided.verdict == Verdict::Block {
            return Judgement::Block { refusal: judging.refusal(&stepped.decided), fields };
        }
        let arguments = match judging.obliged(&stepped.decided) {
            Ok(arguments) => arguments,
            Err(refusal) => return Judgement::Block { refusal, fields },
        };
        let mut cleared = Cleared {
            fields,
            arguments,
            redacted: obligation::of_result(&stepped.decided.obligations),
            counted,
            reads: judging.marks.clone(),
        };
        let approved_before = judging.question.first.is_some_and(|first| first.approved);
        if stepped.decided.verdict == Verdict::Escalate && !approved_before {
            let asks = judging.asks(&stepped.decided, cleared.arguments.as_ref());
            if !in_hand.covers(&asks) {
                return Judgement::Escalate { asks, fields: cleared.fields };
            }
            // Approved: it is decided once more, now with what it adds. Anything else than the same answer is
            // another question.
            match self.step(judging, stepped.facts, Some(&stepped.decided)) {
                Ok(again) if again.decided == stepped.decided => cleared.counted.added = again.added,
                Ok(again) => {
                    self.give_up(judging, again.added);
                    return Judgement::Escalate { asks, fields: cleared.fields };
                }
                Err(refusal) => return Judgement::Block { refusal, fields: cleared.fields },
            }
        }
        Judgement::Permit(Box::new(cleared))
    }

    fn give_up(&self, judging: &Judging<'_>, added: Added) {
        self.history.take_back(&judging.question.run.who, added);
    }

    /// Decides, and adds what a permitted call adds, in one step. What was `approved` is permitted.
    fn step(&self, judging: &Judging<'_>, mut facts: Facts, approved: Option<&Decided>) -> Result<Stepped, Refusal> {
        let needs = judging.slice.needs();
        let lasting = !judging.adds.is_empty() || !judging.marks.labels.is_empty();
        if needs.history.is_empty() && !needs.labels && !lasting {
            let decided = judging.slice.decide(&facts);
            return Ok(Stepped { decided, facts, added: Added::default() });
        }
        let stepped = self.history.step(&judging.question.run.who, judging.question.now, |step| {
            judging.look_back(step, &mut facts);
            let decided = judging.slice.decide(&facts);
            let permitted = decided.verdict == Verdict::Permit || approved.is_some_and(|before| *before == decided);
            let adds = permitted && judging.question.adds == Adds::WhenPermitted;
            let added = if adds { judging.add(step)? } else { Added::default() };
            Ok(Stepped { decided, facts, added })
        });
        stepped.and_then(|stepped| stepped).map_err(history_unusable)
    }
}

impl Judging<'_> {
    /// What was done before, as far as it is read.
    fn look_back(&self, step: &mut Step<'_>, facts: &mut Facts) {
        let needs = self.slice.needs();
        if needs.labels {
            facts.labels = Some(step.labels());
        }
        facts.history.clear();
        for declared in &needs.history {
            let Some(tracker) = self.resolved.tracker(declared) else { continue };
            let adds = self.adds.iter().find(|(own, _)| own.key == tracker.key).map_or(0, |(_, adds)| *adds);
            facts.history.insert(tracker.key.to_string(), step.value(tracker, adds));
        }
    }

    fn add(&self, step: &mut Step<'_>) -> Result<Added, HistoryError> {
        if !self.marks.labels.is_empty() && !step.has_room_for_labels() {
            return Err(HistoryError::Full);
        }
        step.add(self.adds.clone())
    }

    /// What obligations make of the arguments.
    fn obliged(&self, decided: &Decided) -> Result<Option<Bytes>, Refusal> {
        let of_a_tool = matches!(self.question.action, Action::ToolCall { .. });
        let unmet = |why: String| {
            let next = "Make the call so that the policy can be kept to";
            Refusal::new(RefusalCode::PolicyBlocked, rule_of(decided), why, next)
        };
        if !of_a_tool && !decided.obligations.is_empty() {
            return Err(unmet(
                "policy changes this call or its answer, and calls of this kind go on as they are".into(),
            ));
        }
        obligation::arguments(self.question.content.arguments, &decided.obligations).map_err(unmet)
    }

    /// What is asked of whom. The request is what would be forwarded, to the byte.
    fn asks(&self, decided: &Decided, arguments: Option<&Bytes>) -> Vec<ApprovalAsk> {
        let grant = &self.question.run.grant;
        let arguments = arguments.or(self.question.content.arguments);
        let content = self.question.content;
        let request = request(self.question.action, arguments.or(content.body), content.definition);
        let (level, rules) =
            decided.decider().map(|decider| (decider.level.to_string(), decider.rules.clone())).unwrap_or_default();
        let ask = |escalation: &cogward_policy::Escalation| ApprovalAsk {
            tenant: grant.tenant.clone(),
            run: grant.run,
            agent: grant.agent.clone(),
            version: grant.version.clone(),
            subject: grant.subject.clone(),
            action: self.question.action.clone(),
            request,
            arguments: arguments.cloned(),
            role: escalation.role.clone(),
            reason: escalation.reason.clone(),
            expires: Duration::from_secs(escalation.expires_s),
            awaits: self.question.awaits,
            level: level.clone(),
            rules: rules.clone(),
            policy: version_texts(self.resolved),
            at: self.question.now,
        };
        let mut asks: Vec<ApprovalAsk> = decided.escalations.iter().map(ask).collect();
        // Of one role that two rules name, the one that gives less time.
        asks.sort_by(|a, b| (&a.role, a.expires).cmp(&(&b.role, b.expires)));
        asks.dedup_by(|later, kept| later.role == kept.role);
        asks
    }

    fn refusal(&self, decided: &Decided) -> Refusal {
        let decider = decided.decider();
        let determining = |(level, rule): &(&cogward_model::policy_scope::PolicyScope, &Arc<cogward_policy::Rule>)| {
            decider.is_some_and(|decider| decider.level == **level && decider.rules.contains(&rule.id))
        };
        let advice = self.slice.rules().filter(determining).find_map(|(_, rule)| rule.advice.clone());
        let next = advice.unwrap_or_else(|| "Whoever keeps this policy can say what it permits".to_owned());
        let next = next.trim_end_matches('.').to_owned();
        Refusal::new(RefusalCode::PolicyBlocked, rule_of(decided), decided.sentence(), next)
    }

    /// What the record says of the decision.
    fn fields(&self, stepped: &Stepped) -> Result<Vec<Field>, Refusal> {
        let Stepped { decided, facts, added: _ } = stepped;
        let input = Ask::new(Arc::clone(self.head), facts.clone()).to_json().map_err(|error| too_much(&error))?;
        let mut fields = versions(self.resolved);
        fields.push(public("policy_verdict", decided.verdict.as_str()));
        fields.push(public("policy_level", decided.decided_by.as_str()));
        let rules = decided.decider().map(|decider| decider.rules.clone()).unwrap_or_default();
        fields.push(public("policy_rules", rules));
        if !decided.obligations.is_empty() {
            let told: Vec<String> = decided.obligations.iter().map(obligation::told).collect();
            fields.push(public("obligations", told));
        }
        fields.push(confidential("policy_input", input));
        Ok(fields)
    }
}

impl Cleared {
    /// What later decisions look back on, for the record.
    pub(crate) fn lasting(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        if !self.counted.added.is_empty() {
            let amounts = self.counted.added.amounts().map(|(key, amount)| (key.to_owned(), amount_value(amount)));
            fields.push(confidential("history", Value::Map(amounts.collect())));
        }
        if !self.reads.labels.is_empty() {
            fields.push(public("labels_read", self.reads.labels.iter().cloned().collect::<Vec<_>>()));
        }
        fields
    }
}

/// An amount as the record can hold it: numbers beyond 2^53 are texts there.
fn amount_value(amount: i64) -> Value {
    if amount.unsigned_abs() <= 1 << 53 { Value::Int(amount) } else { Value::Text(amount.to_string()) }
}

fn version_texts(resolved: &Resolved) -> Vec<String> {
    let versions = resolved.hierarchy.versions().iter();
    versions.map(|version| format!("{} {}", version.level(), version.digest())).collect()
}

fn versions(resolved: &Resolved) -> Vec<Field> {
    vec![public("policy", version_texts(resolved)), public("policy_generation", resolved.current.active.generation())]
}

/// The digest of exactly what is asked for.
fn request(action: &Action, content: Option<&Bytes>, definition: Option<Digest>) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(bytes);
    };
    part(b"cogward.request.v1");
    part(action.noun().as_bytes());
    part(action.object().as_bytes());
    match action {
        Action::ModelCall { wire, streaming, .. } => {
            part(wire.as_str().as_bytes());
            part(&[u8::from(*streaming)]);
        }
        Action::ToolCall { .. }
        | Action::Egress { .. }
        | Action::Request { .. }
        | Action::ResourceRead { .. }
        | Action::PromptGet { .. }
        | Action::Sampling { .. }
        | Action::Elicitation { .. } => {}
    }
    part(content.map_or(&[][..], |bytes| bytes));
    if let Some(definition) = definition {
        part(definition.as_bytes());
    }
    let mut digest = [0; 32];
    for (to, from) in digest.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Digest::from_bytes(digest)
}

/// `policy.LEVEL.RULE`; without a rule where none matched.
fn rule_of(decided: &Decided) -> String {
    let rule = decided.decider().and_then(|decider| decider.rules.first());
    let level = decided.decided_by.as_str();
    rule.map_or_else(|| format!("policy.{level}"), |rule| format!("policy.{level}.{rule}"))
}

fn nothing_active() -> Refusal {
    let detail = "no policies are active";
    Refusal::new(RefusalCode::PolicyBlocked, "policy", detail, "An operator has to activate a policy")
}

fn unusable(level: &'static str) -> Refusal {
    let detail = format!("the active policy of the {level} cannot be used");
    let next = "An operator has to activate a version that can be read";
    Refusal::new(RefusalCode::PolicyBlocked, format!("policy.{level}"), detail, next)
}

fn history_unusable(error: HistoryError) -> Refusal {
    let next = match error {
        HistoryError::Full => "Try again when earlier counts are over; the operator can shorten the windows",
        HistoryError::Unknown => "An operator has to take the counting rules out of the policy",
    };
    Refusal::new(RefusalCode::PolicyBlocked, "policy.history", error.to_string(), next)
}

fn too_much(error: &AskError) -> Refusal {
    let next = "Send less in what the policy reads, or have the policy read less";
    Refusal::new(RefusalCode::InvalidRequest, "policy.input", error.to_string(), next)
}
