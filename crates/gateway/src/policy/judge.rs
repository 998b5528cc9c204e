//! One call, decided by the active versions together with its history.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use cogward_model::{
    Digest,
    action::Action,
    decision::{Refusal, RefusalCode},
    event::{Field, Value},
};
use cogward_policy::{AskError, Decided, Facts, Obligation, Slice, Verdict};

use super::{
    Adds, Content, InHand, Policies, Question, ToolMarks,
    active::{Asking, Resolved},
    ask,
    changed::Changed,
    history::{Added, HistoryError, Step, Tracker, Who},
    obligation,
};
use crate::{
    approvals::ApprovalAsk,
    gate::{confidential, public},
    mcp::sha256,
    policy::History,
    run::RunContext,
};

/// How long what is asked for may be to be shown before what goes along with it, in bytes.
const SHOWN_BEFORE_BYTES_MAX: usize = 8 * 1024;

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
    /// What was approved: the action, and who had to say yes to it.
    pub(crate) approved: Option<Digest>,
    redacted: Vec<Obligation>,
    counted: Counted,
    reads: Arc<BTreeSet<String>>,
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
        if !self.reads.is_empty() {
            policies.history.reads(&run.who, &*self.reads);
        }
        (std::mem::take(&mut self.counted.added), self.redacted)
    }
}

/// What is constant while one question is decided.
pub(super) struct Judging<'a> {
    pub(super) question: &'a Question<'a>,
    resolved: &'a Resolved,
    pub(super) slice: &'a Slice,
    asking: &'a Asking,
    marks: &'a ToolMarks,
    adds: Vec<(Tracker, i64)>,
    /// What policy made of the arguments, where that is something else.
    changed: Option<Changed>,
}

/// What one step of the history gave.
struct Stepped {
    decided: Decided,
    facts: Facts,
    added: Added,
    /// A level does not stand by it: `decided` is what it says to what policy made of the call, and `facts` what it saw.
    fallen: bool,
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
        let asking = match ask::head(question, &marks) {
            Ok(asking) => asking,
            Err(error) => return Judgement::Block { refusal: too_much(&error), fields: versions(&resolved) },
        };
        let slice = resolved.hierarchy.slice(&asking.head);
        let facts = match ask::facts(question, slice.needs(), &marks) {
            Ok(facts) => facts,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(&resolved) },
        };
        let adds = match ask::adds(question, &resolved, &asking.head.deed, &facts) {
            Ok(adds) => adds,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(&resolved) },
        };
        if let Err(refusal) = ask::untyped(question, slice.needs(), &marks) {
            return Judgement::Block { refusal, fields: versions(&resolved) };
        }
        let (resolved, slice) = (&*resolved, &*slice);
        let mut judging = Judging { question, resolved, slice, asking: &asking, marks: &marks, adds, changed: None };
        self.conclude(&mut judging, facts, in_hand)
    }

    fn conclude(&self, judging: &mut Judging<'_>, facts: Facts, in_hand: &InHand) -> Judgement {
        let stepped = match self.step(judging, facts, None) {
            Ok(stepped) => stepped,
            Err(refusal) => return Judgement::Block { refusal, fields: versions(judging.resolved) },
        };
        let (stepped, arguments) = match self.oblige(judging, stepped) {
            Ok(obliged) => obliged,
            Err(refused) => return *refused,
        };
        let judging = &*judging;
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
        if stepped.fallen {
            return Judgement::Block { refusal: fallen(&stepped.decided), fields };
        }
        if stepped.decided.verdict == Verdict::Block {
            return Judgement::Block { refusal: judging.refusal(&stepped.decided), fields };
        }
        let approved =
            (stepped.decided.verdict == Verdict::Escalate).then(|| approval(judging.question.action, &stepped.decided));
        let mut cleared = Cleared {
            fields,
            arguments,
            approved,
            redacted: obligation::of_result(&stepped.decided.obligations),
            counted,
            reads: judging.reads(),
        };
        let approved_before =
            approved.is_some() && judging.question.first.is_some_and(|first| first.approved == approved);
        if stepped.decided.verdict == Verdict::Escalate && !approved_before {
            let asks = judging.asks(&stepped.decided, cleared.arguments.as_ref());
            if !in_hand.covers(&asks) {
                return Judgement::Escalate { asks, fields: cleared.fields };
            }
            // Approved: it is decided once more, now with what it adds. Anything else than the same answer is
            // another question.
            match self.step(judging, stepped.facts, Some(&stepped.decided)) {
                Ok(again) if !again.fallen && again.decided == stepped.decided => cleared.counted.added = again.added,
                Ok(again) => {
                    self.give_up(judging, again.added);
                    return Judgement::Escalate { asks, fields: cleared.fields };
                }
                Err(refusal) => return Judgement::Block { refusal, fields: cleared.fields },
            }
        }
        Judgement::Permit(Box::new(cleared))
    }

    /// Where policy changes the arguments: decides again what it makes of them, and counts that instead.
    fn oblige(&self, judging: &mut Judging<'_>, stepped: Stepped) -> Result<(Stepped, Option<Bytes>), Box<Judgement>> {
        if stepped.decided.verdict == Verdict::Block {
            return Ok((stepped, None));
        }
        let arguments = match judging.obliged(&stepped.decided) {
            Ok(None) => return Ok((stepped, None)),
            Ok(Some(arguments)) => arguments,
            Err(refusal) => {
                let fields = judging.fields(&stepped).unwrap_or_else(|_| versions(judging.resolved));
                self.give_up(judging, stepped.added);
                return Err(Box::new(Judgement::Block { refusal, fields }));
            }
        };
        self.give_up(judging, stepped.added);
        let stepped = judging
            .change(stepped.decided, &stepped.facts, &arguments)
            .and_then(|()| self.step(judging, stepped.facts, None))
            .map_err(|refusal| Box::new(Judgement::Block { refusal, fields: versions(judging.resolved) }))?;
        Ok((stepped, Some(arguments)))
    }

    fn give_up(&self, judging: &Judging<'_>, added: Added) {
        self.history.take_back(&judging.question.run.who, added);
    }

    /// Decides, and adds what a permitted call adds, in one step. What was `approved` is permitted.
    fn step(&self, judging: &Judging<'_>, mut facts: Facts, approved: Option<&Decided>) -> Result<Stepped, Refusal> {
        let needs = judging.slice.needs();
        let lasting = !judging.adds.is_empty() || !judging.reads().is_empty();
        if needs.history.is_empty() && !needs.labels && !lasting {
            return Ok(judging.decide(facts));
        }
        let stepped = self.history.step(&judging.question.run.who, judging.question.now, |step| {
            judging.look_back(step, &mut facts);
            let mut stepped = judging.decide(facts);
            let decided = &stepped.decided;
            let permitted = decided.verdict == Verdict::Permit || approved.is_some_and(|before| before == decided);
            if permitted && !stepped.fallen && judging.question.adds == Adds::WhenPermitted {
                stepped.added = judging.add(step)?;
            }
            Ok(stepped)
        });
        stepped.and_then(|stepped| stepped).map_err(history_unusable)
    }
}

impl Judging<'_> {
    fn decide(&self, facts: Facts) -> Stepped {
        let added = Added::default();
        let Some(changed) = &self.changed else {
            return Stepped { decided: self.slice.decide(&facts), facts, added, fallen: false };
        };
        match changed.decide(self.slice, &facts) {
            None => Stepped { decided: changed.first.clone(), facts, added, fallen: false },
            Some((decided, facts)) => Stepped { decided, facts, added, fallen: true },
        }
    }

    /// From here on it is decided about what policy made of the arguments.
    fn change(&mut self, first: Decided, facts: &Facts, arguments: &Bytes) -> Result<(), Refusal> {
        let seen = Changed::views(&first, facts, self)?;
        let changed = self.with(arguments);
        let read = ask::facts(&changed, self.slice.needs(), self.marks)?;
        let adds = ask::adds(&changed, self.resolved, &self.asking.head.deed, &read)?;
        (self.adds, self.changed) = (adds, Some(Changed { first, seen }));
        Ok(())
    }

    /// What policies read of other arguments.
    pub(super) fn read(&self, arguments: &Bytes) -> Result<Option<cogward_policy::Record>, Refusal> {
        ask::facts(&self.with(arguments), self.slice.needs(), self.marks).map(|facts| facts.arguments)
    }

    /// The same question with other arguments.
    fn with<'b>(&'b self, arguments: &'b Bytes) -> Question<'b> {
        let content = Content { arguments: Some(arguments), ..self.question.content };
        Question { content, ..*self.question }
    }

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

    /// The labels of the data that is read. Those of a model say what it is, not what it answers with.
    fn reads(&self) -> Arc<BTreeSet<String>> {
        match self.question.action {
            Action::ModelCall { .. } => Arc::default(),
            _ => Arc::clone(&self.marks.labels),
        }
    }

    fn add(&self, step: &mut Step<'_>) -> Result<Added, HistoryError> {
        if !self.reads().is_empty() && !step.has_room_for_labels() {
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
        let request = request(self.question.action, arguments.or(content.body), content.beside, content.definition);
        // Of what is no tool the body says what is asked for. What goes along stands behind it, and before what is so long
        // that whoever approves sees it cut.
        let shown = match (arguments.or(content.body), content.beside) {
            (Some(first), Some(beside)) if first.len() > SHOWN_BEFORE_BYTES_MAX => {
                Some(Bytes::from([beside.as_ref(), b"\n", first.as_ref()].concat()))
            }
            (Some(first), Some(beside)) => Some(Bytes::from([first.as_ref(), b"\n", beside.as_ref()].concat())),
            (first, beside) => first.or(beside).cloned(),
        };
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
            arguments: shown.clone(),
            role: escalation.role.clone(),
            four_eyes: escalation.four_eyes,
            reason: escalation.reason.clone(),
            expires: Duration::from_secs(escalation.expires_s),
            awaits: self.question.awaits,
            level: level.clone(),
            rules: rules.clone(),
            policy: self.resolved.versions.clone(),
            at: self.question.now,
        };
        let mut asks: Vec<ApprovalAsk> = decided.escalations.iter().map(ask).collect();
        // Of one role that two rules name, the one that gives less time; four eyes where any of them wants them.
        asks.sort_by(|a, b| (&a.role, a.expires).cmp(&(&b.role, b.expires)));
        asks.dedup_by(|later, kept| {
            let same = later.role == kept.role;
            kept.four_eyes |= same && later.four_eyes;
            same
        });
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
        let Stepped { decided, facts, .. } = stepped;
        let input = self.asking.record(facts).map_err(|error| too_much(&error))?;
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
        if !self.reads.is_empty() {
            fields.push(public("labels_read", self.reads.iter().cloned().collect::<Vec<_>>()));
        }
        fields
    }
}

/// An amount as the record can hold it: numbers beyond 2^53 are texts there.
fn amount_value(amount: i64) -> Value {
    if amount.unsigned_abs() <= 1 << 53 { Value::Int(amount) } else { Value::Text(amount.to_string()) }
}

fn versions(resolved: &Resolved) -> Vec<Field> {
    vec![public("policy", resolved.versions.clone()), public("policy_generation", resolved.current.active.generation())]
}

/// The digest of exactly what is asked for.
fn request(action: &Action, content: Option<&Bytes>, beside: Option<&Bytes>, definition: Option<Digest>) -> Digest {
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
        part(b"definition");
        part(definition.as_bytes());
    }
    if let Some(beside) = beside {
        part(b"beside");
        part(beside);
    }
    finished(context)
}

/// What an approval stands for while a call goes on: what is done, and everybody who had to say yes to it.
fn approval(action: &Action, decided: &Decided) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(b"cogward.approval.v1");
    context.update(request(action, None, None, None).as_bytes());
    for escalation in &decided.escalations {
        // Nothing in it can fail to be written; were it otherwise, it would be another approval.
        let text = serde_json::to_vec(escalation).unwrap_or_default();
        context.update(sha256(&text).as_bytes());
    }
    finished(context)
}

fn finished(context: Context) -> Digest {
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

/// What policy makes of a call is not permitted.
fn fallen(decided: &Decided) -> Refusal {
    let detail = format!(
        "policy changes the arguments of this call, and does not permit what it makes of them: {}",
        decided.sentence()
    );
    let next = "Make the call so that policy need not change it; whoever keeps the policies can mend them";
    Refusal::new(RefusalCode::PolicyBlocked, rule_of(decided), detail, next)
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
