//! A slice: the rules of a hierarchy that one head can match, ready to be asked.

use std::{collections::HashSet, sync::Arc};

use cedar_policy::{Authorizer, Context, Entities, EntityUid, Request};
use cogward_model::Digest;

use crate::{
    ask::{Facts, Head},
    context,
    entities::Cast,
    lean::{Constants, Dependent, Evaluated, Lean},
    level::{LevelKind, PolicyScope},
    needs::Needs,
    rule::{Place, Rule},
    track::Measure,
    verdict::{Cause, Decided, LevelDecision, RuleError, Verdict},
    version::Version,
};

mod changed;

/// Cedar's own words could hold values of the call.
const UNASKABLE: &str = "the facts cannot be put as a question";

/// What a hierarchy says to one head; asked once per call, with the facts of the call.
#[derive(Debug)]
pub struct Slice {
    head: Arc<Head>,
    cast: Result<Cast, String>,
    levels: Vec<LevelSlice>,
    needs: Needs,
    authorizer: Authorizer,
}

#[derive(Debug)]
struct LevelSlice {
    level: PolicyScope,
    version: Digest,
    /// Rules that match whatever the facts are.
    always: Vec<Arc<Rule>>,
    dependent: Result<Arc<Dependent>, String>,
    needs: Needs,
}

impl LevelSlice {
    fn of(version: &Version, head: &Head, cast: &Cast) -> Self {
        let places = [&cast.principal, &cast.action, &cast.resource].map(|uid| place(uid, &cast.entities));
        let [principal, action, resource] = &places;
        let constants = Constants::of(head, cast);
        let mut always = Vec::new();
        let mut dependent = Vec::new();
        let mut parts = Vec::new();
        let mut needs = Needs::default();
        let numbered = version.rules().iter().enumerate();
        for (number, rule) in numbered.filter(|(_, rule)| rule.scope.matches(principal, action, resource)) {
            let lean = constants.as_ref().map(|constants| constants.lean(rule));
            match lean {
                Some(Lean::Never) => {}
                Some(Lean::Always) => always.push(Arc::clone(rule)),
                Some(Lean::When(done, conjuncts)) => {
                    parts.push((number, done));
                    needs.merge(&rule.reads.needs);
                    for tracker in version.trackers() {
                        if rule.reads.whole_history || rule.reads.history.contains(&tracker.name) {
                            needs.track(tracker);
                        }
                    }
                    dependent.push((Arc::clone(rule), conjuncts));
                }
                None => return Self::broken(version, "the head cannot be put as a question".to_owned()),
            }
        }
        Self {
            level: version.level().clone(),
            version: version.digest(),
            always,
            dependent: version.shared(parts, || Dependent::new(dependent)),
            needs,
        }
    }

    fn broken(version: &Version, what: String) -> Self {
        Self {
            level: version.level().clone(),
            version: version.digest(),
            always: Vec::new(),
            dependent: Err(what),
            needs: Needs::default(),
        }
    }
}

impl Slice {
    pub(crate) fn of(versions: &[Arc<Version>], head: &Arc<Head>) -> Self {
        let cast = Cast::of(head).map_err(|error| error.to_string());
        let levels: Vec<LevelSlice> = versions
            .iter()
            .map(|version| match &cast {
                Ok(cast) => LevelSlice::of(version, head, cast),
                Err(what) => LevelSlice::broken(version, what.clone()),
            })
            .collect();
        let mut needs = Needs::default();
        levels.iter().for_each(|level| needs.merge(&level.needs));
        // A sum counts calls whether or not a rule reads it for this one, so its argument is always projected.
        let trackers = versions.iter().flat_map(|version| version.trackers());
        for tracker in trackers.filter(|tracker| tracker.counts(&head.deed)) {
            if let Measure::Sum(path) = &tracker.measure {
                needs.arguments.add(path.steps().iter().map(String::as_str));
            }
        }
        Self { head: Arc::clone(head), cast, levels, needs, authorizer: Authorizer::new() }
    }

    /// The head that it is for.
    #[must_use]
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// What the facts of a call have to hold.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The rules that can match.
    pub fn rules(&self) -> impl Iterator<Item = (&PolicyScope, &Arc<Rule>)> {
        self.levels.iter().flat_map(|level| {
            let dependent = level.dependent.iter().flat_map(|dependent| &dependent.rules);
            level.always.iter().chain(dependent).map(move |rule| (&level.level, rule))
        })
    }

    /// Decides one call.
    #[must_use]
    pub fn decide(&self, facts: &Facts) -> Decided {
        let mut decided = Decided {
            verdict: Verdict::Block,
            decided_by: LevelKind::Plane,
            levels: Vec::with_capacity(self.levels.len()),
            obligations: Vec::new(),
            escalations: Vec::new(),
        };
        let mut strictest: Option<Verdict> = None;
        for level in &self.levels {
            let (answer, matched) = self.level(level, facts);
            for rule in matched {
                decided.obligations.extend(rule.obligations.iter().cloned());
                decided.escalations.extend(rule.escalation.iter().cloned());
            }
            if strictest.is_none_or(|so_far| answer.verdict > so_far) {
                strictest = Some(answer.verdict);
                decided.verdict = answer.verdict;
                decided.decided_by = LevelKind::of(&answer.level);
            }
            decided.levels.push(answer);
        }
        if decided.verdict == Verdict::Block {
            decided.obligations.clear();
            decided.escalations.clear();
        }
        decided.obligations.sort();
        decided.obligations.dedup();
        decided.escalations.sort();
        decided.escalations.dedup();
        decided
    }

    /// The answer of one level, and the rules that matched.
    fn has_label(&self, label: &str) -> bool {
        self.head.deed.has_labels() && self.head.labels.contains(label)
    }

    fn level<'a>(&self, level: &'a LevelSlice, facts: &Facts) -> (LevelDecision, Vec<&'a Arc<Rule>>) {
        let mut answer = LevelDecision {
            level: level.level.clone(),
            version: level.version,
            verdict: Verdict::Block,
            cause: Cause::NothingMatched,
            rules: Vec::new(),
            errors: Vec::new(),
        };
        let (dependent, evaluated) = match self.evaluate(level, facts) {
            Ok(evaluated) => evaluated,
            Err(what) => {
                answer.cause = Cause::BadAsk;
                answer.errors.push(RuleError { rule: String::new(), what });
                return (answer, Vec::new());
            }
        };
        let mut failed = Vec::new();
        for (number, what) in evaluated.failed {
            let rule = dependent.get(number);
            let id = rule.map(|rule| rule.id.clone()).unwrap_or_default();
            if rule.is_none_or(|rule| rule.holds_back()) {
                failed.push(id.clone());
            }
            answer.errors.push(RuleError { rule: id, what });
        }
        answer.errors.sort();
        let matched = evaluated.matched.into_iter().filter_map(|number| dependent.get(number));
        let matched: Vec<&Arc<Rule>> = level.always.iter().chain(matched).collect();
        let ids = |wanted: &dyn Fn(&Rule) -> bool| -> Vec<String> {
            matched.iter().filter(|rule| wanted(rule)).map(|rule| rule.id.clone()).collect()
        };
        let forbids = ids(&|rule| rule.forbids);
        if !forbids.is_empty() {
            (answer.cause, answer.rules) = (Cause::Forbidden, forbids);
        } else if !failed.is_empty() {
            (answer.cause, answer.rules) = (Cause::RuleFailed, failed);
        } else if !matched.is_empty() {
            let unlabelled = ids(&|rule| rule.require_labels.iter().any(|label| !self.has_label(label)));
            let escalates = ids(&|rule| rule.escalation.is_some());
            if !unlabelled.is_empty() {
                (answer.cause, answer.rules) = (Cause::LabelMissing, unlabelled);
            } else if !escalates.is_empty() {
                answer.verdict = Verdict::Escalate;
                (answer.cause, answer.rules) = (Cause::Escalated, escalates);
            } else {
                answer.verdict = Verdict::Permit;
                (answer.cause, answer.rules) = (Cause::Permitted, ids(&|_| true));
            }
        }
        answer.rules.sort();
        (answer, matched)
    }

    /// The dependent rules of a level and which of them match or fail.
    fn evaluate<'a>(&self, level: &'a LevelSlice, facts: &Facts) -> Result<(&'a [Arc<Rule>], Evaluated), String> {
        let cast = self.cast.as_ref().map_err(Clone::clone)?;
        let dependent = level.dependent.as_ref().map_err(Clone::clone)?;
        let few = dependent.few(facts);
        if few.as_ref().is_some_and(Vec::is_empty) {
            return Ok((&[], Evaluated::default()));
        }
        let pairs = context::pairs(&self.head, facts, &level.needs);
        let context = Context::from_pairs(pairs).map_err(|_| UNASKABLE.to_owned())?;
        let (principal, action, resource) = (cast.principal.clone(), cast.action.clone(), cast.resource.clone());
        let request = Request::new(principal, action, resource, context, None).map_err(|_| UNASKABLE.to_owned())?;
        Ok((&dependent.rules, dependent.evaluate(few.as_deref(), &self.authorizer, &request, &cast.entities)))
    }
}

fn place(uid: &EntityUid, entities: &Entities) -> Place {
    let above: HashSet<EntityUid> = entities.ancestors(uid).into_iter().flatten().cloned().collect();
    Place { uid: uid.clone(), above }
}

#[cfg(test)]
pub(crate) mod tests;
