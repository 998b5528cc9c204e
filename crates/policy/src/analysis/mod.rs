//! What a new version would change, before it is activated: whether it grants what the last one did not, and which of
//! its rules do nothing.
//!
//! The method here asks both versions about questions that stand for all questions: one for each side of each
//! constant that their rules compare with ([`Extent::Exact`]). Where rules calculate, search in texts or compare two
//! values, or where there are too many combinations, it is a search that can find a difference and cannot prove that
//! there is none ([`Extent::Search`], with the reasons). A solver can then: the sets that it is given are in [`sets`].

mod constants;
mod domain;
mod facts;
mod heads;
mod rules;
pub mod sets;

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    ask::{Ask, Deed, Head},
    escalation::Escalation,
    hierarchy::Hierarchy,
    level::{LevelKind, PolicyScope},
    schema::Schema,
    shape::Shape,
    slice::Slice,
    track::Measure,
    verdict::{Decided, Verdict},
    version::Version,
};
use constants::Constants;
use facts::Facets;
use heads::Heads;

/// The most questions that are asked.
pub const QUESTIONS_MAX: usize = 200_000;

/// The most examples of one kind that are kept.
pub const EXAMPLES_MAX: usize = 10;

/// What an analysis may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Questions.
    pub questions: usize,
    /// When it has to be over; what was found by then is its answer.
    pub until: Option<Instant>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { questions: QUESTIONS_MAX, until: None }
    }
}

/// How far an answer reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Extent {
    /// The questions that were asked stand for all questions.
    Exact,
    /// They do not: what was found is true, and there may be more.
    Search {
        /// Why.
        because: BTreeSet<String>,
    },
}

/// One question that two versions answer differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The question.
    pub ask: Ask,
    /// The answer of the version of now; none has no say and permits.
    pub before: Option<Decided>,
    /// The answer of the new one.
    pub after: Option<Decided>,
}

/// What a change of versions at one level does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// How far it reaches.
    pub extent: Extent,
    /// Questions that were asked.
    pub questions: usize,
    /// Questions that the new version answers more mildly, or with fewer obligations or approvers: what it grants.
    pub grants: Vec<Example>,
    /// Questions that it answers more strictly: what it takes away.
    pub takes: Vec<Example>,
}

/// A rule that does nothing, as far as the questions reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleRule {
    /// The rule.
    pub rule: String,
    /// Its line.
    pub line: u32,
    /// Why it does nothing.
    pub why: Idle,
}

/// Why a rule does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Idle {
    /// No question matches it.
    Dead,
    /// Whenever it matches, the answer is the same without it.
    Shadowed {
        /// Rules that match whenever it does, as far as there are such.
        by: Vec<String>,
    },
}

/// The rules of one version that do nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lint {
    /// How far it reaches.
    pub extent: Extent,
    /// Questions that were asked.
    pub questions: usize,
    /// The rules, in the order of the text.
    pub idle: Vec<IdleRule>,
}

/// Compares two versions of one level. `None` is a level without a say, which permits; for the plane pass its built-in
/// version instead.
#[must_use]
pub fn compare(
    level: &PolicyScope,
    before: Option<&Arc<Version>>,
    after: Option<&Arc<Version>>,
    schema: &Schema,
    bounds: Bounds,
) -> Comparison {
    let rules = before.into_iter().chain(after).flat_map(|version| version.rules());
    let constants = Constants::of(rules, schema);
    let mut questions = Questions::new(level, &constants, schema, bounds);
    let fewer_sums = before.is_some_and(|before| sums(Some(before)).any(|sum| !sums(after).any(|kept| kept == sum)));
    let (before, after) = (before.map(stack), after.map(stack));
    let (mut grants, mut takes) = (Vec::new(), Vec::new());
    let mut reads_less = false;
    let heads = questions.heads();
    for head in heads {
        if questions.is_over() {
            break;
        }
        let slices = [&before, &after].map(|stack| stack.as_ref().map(|stack| stack.slice(&head)));
        let [old, new] = &slices;
        if old.as_ref().map(|slice| texts(slice)) == new.as_ref().map(|slice| texts(slice)) {
            continue;
        }
        let read = |slice: &Option<Arc<Slice>>| slice.as_ref().map(|s| s.needs().arguments.clone()).unwrap_or_default();
        reads_less |= !read(new).covers(&read(old));
        let (mut granted, mut taken) = (false, false);
        let both: Vec<&Arc<Slice>> = slices.iter().flatten().collect();
        questions.each(&head, &both, |facts| {
            let (was, is) = (old.as_ref().map(|s| s.decide(facts)), new.as_ref().map(|s| s.decide(facts)));
            let example =
                || Example { ask: Ask::new(Arc::clone(&head), facts.clone()), before: was.clone(), after: is.clone() };
            // One example for each head: the rest of it is alike.
            if !granted && grants.len() < EXAMPLES_MAX && grants_more(was.as_ref(), is.as_ref()) {
                granted = true;
                grants.push(example());
            }
            if !taken && takes.len() < EXAMPLES_MAX && grants_more(is.as_ref(), was.as_ref()) {
                taken = true;
                takes.push(example());
            }
        });
    }
    // Such calls have no facts to ask with, so none of the questions was about them.
    if grants.is_empty() && reads_less {
        questions.because.insert(READS_LESS.to_owned());
    }
    if grants.is_empty() && fewer_sums {
        questions.because.insert(FEWER_SUMS.to_owned());
    }
    Comparison { extent: questions.extent(), questions: questions.asked, grants, takes }
}

const READS_LESS: &str =
    "arguments are not read any more, and a call is blocked whose arguments policy reads and cannot";
const FEWER_SUMS: &str = "a sum is not kept any more, and a call is blocked whose amount cannot be added to one";

/// The sums that a version keeps.
fn sums(version: Option<&Arc<Version>>) -> impl Iterator<Item = String> {
    let trackers = version.into_iter().flat_map(|version| version.trackers());
    trackers.filter(|tracker| matches!(tracker.measure, Measure::Sum(_))).map(|tracker| tracker.key())
}

/// Whether the second answer allows anything that the first does not.
fn grants_more(first: Option<&Decided>, second: Option<&Decided>) -> bool {
    let verdict = |decided: Option<&Decided>| decided.map_or(Verdict::Permit, |decided| decided.verdict);
    let (before, after) = (verdict(first), verdict(second));
    if after == Verdict::Block {
        return false;
    }
    if after < before {
        return true;
    }
    // Even where more is asked than before, what is done to the call and its answer may be less.
    let Some(first) = first else { return false };
    let lacks = |second: &Decided| {
        first.obligations.iter().any(|one| !second.obligations.contains(one))
            || first.escalations.iter().any(|one| !second.escalations.iter().any(|other| as_strict(other, one)))
    };
    second.is_none_or(lacks) && (second.is_some() || !first.obligations.is_empty() || !first.escalations.is_empty())
}

/// Whether an escalation asks for all that another one asks for.
fn as_strict(this: &Escalation, other: &Escalation) -> bool {
    this.role == other.role && (this.four_eyes || !other.four_eyes)
}

/// The rules of a version that do nothing.
#[must_use]
pub fn lint(version: &Arc<Version>, schema: &Schema, bounds: Bounds) -> Lint {
    let constants = Constants::of(version.rules(), schema);
    let mut questions = Questions::new(version.level(), &constants, schema, bounds);
    let idle = rules::idle(version, &mut questions);
    Lint { extent: questions.extent(), questions: questions.asked, idle }
}

fn stack(version: &Arc<Version>) -> Hierarchy {
    Hierarchy::new([Arc::clone(version)])
}

/// What the rules of a slice say, whatever version they stand in. The names of counts say nothing by themselves: what
/// they count stands on any rule of the version.
fn texts(slice: &Slice) -> BTreeSet<String> {
    let counted = slice.needs().history.iter().map(|tracker| format!("@{} = {}", tracker.name, tracker.key()));
    slice.rules().map(|(_, rule)| rule.policy.to_string()).chain(counted).collect()
}

/// The questions of one analysis: bounded, and counted.
struct Questions<'a> {
    level: &'a PolicyScope,
    constants: &'a Constants,
    schema: &'a Schema,
    bounds: Bounds,
    asked: usize,
    because: BTreeSet<String>,
}

impl<'a> Questions<'a> {
    fn new(level: &'a PolicyScope, constants: &'a Constants, schema: &'a Schema, bounds: Bounds) -> Self {
        let because = constants.beyond.iter().map(|why| (*why).to_owned()).collect();
        Self { level, constants, schema, bounds, asked: 0, because }
    }

    fn heads(&mut self) -> Vec<Arc<Head>> {
        let mut heads = Heads::new(self.level, self.constants, self.schema);
        let all = heads.collect();
        if !heads.all {
            self.because.insert("there are more principals and resources to tell apart than are looked at".to_owned());
        }
        all
    }

    /// Whether there is no time left.
    fn is_over(&mut self) -> bool {
        let over = self.bounds.until.is_some_and(|until| Instant::now() >= until);
        if over {
            self.because.insert("there was no time left".to_owned());
        }
        over
    }

    /// Asks about every combination of facts, or about an even choice of them where there are too many: for each shape
    /// that the arguments of the head's tool can have.
    fn each(&mut self, head: &Arc<Head>, slices: &[&Arc<Slice>], mut ask: impl FnMut(&crate::Facts)) {
        let mut needs = crate::Needs::default();
        for slice in slices {
            needs.merge(slice.needs());
        }
        let shapes = match &head.deed {
            Deed::ToolCall { server, tool, pinned: true } | Deed::Memory { server, tool, pinned: true, .. }
                if !needs.arguments.is_empty() =>
            {
                self.schema.shapes(server.as_str(), tool.as_str()).0
            }
            _ => &[],
        };
        if shapes.is_empty() {
            self.each_of(head, &needs, None, &mut ask);
        }
        for shape in shapes {
            self.each_of(head, &needs, Some(shape), &mut ask);
        }
    }

    fn each_of(
        &mut self,
        head: &Arc<Head>,
        needs: &crate::Needs,
        shape: Option<&Shape>,
        ask: &mut impl FnMut(&crate::Facts),
    ) {
        let facets = Facets::of(head, needs, self.constants, shape);
        if !facets.all {
            self.because.insert("sets have more members than every combination is looked at of".to_owned());
        }
        let all = facets.combinations();
        let left = self.bounds.questions.saturating_sub(self.asked);
        // Odd, so that with few exceptions it has no divisor in common with the number of combinations.
        let step = if all > left { (all / left.max(1)) | 1 } else { 1 };
        if step > 1 {
            self.because.insert(format!("there are more than {} combinations of values", self.bounds.questions));
        }
        for place in 0..all.min(left) {
            if self.is_over() {
                return;
            }
            ask(&facets.facts(place.saturating_mul(step)));
            self.asked += 1;
        }
    }

    fn extent(&self) -> Extent {
        if self.because.is_empty() { Extent::Exact } else { Extent::Search { because: self.because.clone() } }
    }
}

impl Example {
    /// The example in one line for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let verdict = |decided: &Option<Decided>| match decided {
            Some(decided) => decided.verdict.as_str(),
            None => "no say",
        };
        let level = self.after.as_ref().or(self.before.as_ref()).map_or(LevelKind::Plane, |decided| decided.decided_by);
        let facts = serde_json::to_string(&self.ask.facts).unwrap_or_default();
        let head = serde_json::to_string(&*self.ask.head).unwrap_or_default();
        format!("{} to {} ({}): {head} with {facts}", verdict(&self.before), verdict(&self.after), level.as_str())
    }
}

#[cfg(test)]
mod tests;
