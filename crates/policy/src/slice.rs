//! A slice: the rules of a hierarchy that one head can match, ready to be asked.

use std::{collections::HashSet, sync::Arc};

use cedar_policy::{Authorizer, Context, Entities, EntityUid, PolicySet, Request};
use cogward_model::Digest;

use crate::{
    ask::{Facts, Head},
    context,
    entities::Cast,
    level::{LevelKind, PolicyScope},
    needs::Needs,
    rule::{Place, Rule},
    verdict::{Cause, Decided, LevelDecision, RuleError, Verdict},
    version::Version,
};

/// What a hierarchy says to one head; asked once per call, with the facts of the call.
#[derive(Debug)]
pub struct Slice {
    head: Arc<Head>,
    cast: Result<Cast, String>,
    levels: Vec<LevelSlice>,
    needs: Needs,
}

#[derive(Debug)]
struct LevelSlice {
    level: PolicyScope,
    version: Digest,
    rules: Vec<Arc<Rule>>,
    set: PolicySet,
    needs: Needs,
}

impl Slice {
    pub(crate) fn of(versions: &[Arc<Version>], head: &Arc<Head>) -> Self {
        let cast = Cast::of(head).map_err(|error| error.to_string());
        let mut slice = Self { head: Arc::clone(head), cast, levels: Vec::new(), needs: Needs::default() };
        let places = slice.cast.as_ref().ok().map(|cast| {
            (
                place(&cast.principal, &cast.entities),
                place(&cast.action, &cast.entities),
                place(&cast.resource, &cast.entities),
            )
        });
        for version in versions {
            let rules: Vec<Arc<Rule>> = match &places {
                Some((principal, action, resource)) => {
                    let matches = |rule: &&Arc<Rule>| rule.scope.matches(principal, action, resource);
                    version.rules().iter().filter(matches).cloned().collect()
                }
                None => Vec::new(),
            };
            let mut needs = Needs::default();
            for rule in &rules {
                needs.merge(&rule.reads.needs);
                for tracker in version.trackers() {
                    if rule.reads.whole_history || rule.reads.history.contains(&tracker.name) {
                        needs.track(tracker);
                    }
                }
            }
            // A sum counts calls whether or not a rule reads it for this one, so its argument is always projected.
            for tracker in version.trackers().iter().filter(|tracker| tracker.counts(&head.deed)) {
                if let crate::track::Measure::Sum(path) = &tracker.measure {
                    needs.arguments.add(path.steps().iter().map(String::as_str));
                }
            }
            slice.needs.merge(&needs);
            let set = PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone())).unwrap_or_default();
            slice.levels.push(LevelSlice {
                level: version.level().clone(),
                version: version.digest(),
                rules,
                set,
                needs,
            });
        }
        slice
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
        self.levels.iter().flat_map(|level| level.rules.iter().map(move |rule| (&level.level, rule)))
    }

    /// Decides one call.
    #[must_use]
    pub fn decide(&self, facts: &Facts) -> Decided {
        let authorizer = Authorizer::new();
        let mut decided = Decided {
            verdict: Verdict::Block,
            decided_by: LevelKind::Plane,
            levels: Vec::with_capacity(self.levels.len()),
            obligations: Vec::new(),
            escalations: Vec::new(),
        };
        let mut strictest: Option<Verdict> = None;
        for level in &self.levels {
            let (answer, matched) = self.level(level, &authorizer, facts);
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

    /// The answer of one level, and the permits that matched.
    fn level<'a>(
        &self,
        level: &'a LevelSlice,
        authorizer: &Authorizer,
        facts: &Facts,
    ) -> (LevelDecision, Vec<&'a Arc<Rule>>) {
        let mut answer = LevelDecision {
            level: level.level.clone(),
            version: level.version,
            verdict: Verdict::Block,
            cause: Cause::NothingMatched,
            rules: Vec::new(),
            errors: Vec::new(),
        };
        if level.rules.is_empty() && self.cast.is_ok() {
            return (answer, Vec::new());
        }
        let request = match self.request(level, facts) {
            Ok(request) => request,
            Err(what) => {
                answer.cause = Cause::BadAsk;
                answer.errors.push(RuleError { rule: String::new(), what });
                return (answer, Vec::new());
            }
        };
        let Ok(cast) = &self.cast else { return (answer, Vec::new()) };
        let response = authorizer.is_authorized(&request, &level.set, &cast.entities);
        let find = |id: &str| level.rules.iter().find(|rule| rule.id == id);
        let mut failed = Vec::new();
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let rule: &str = error.policy_id().as_ref();
            if find(rule).is_none_or(|rule| rule.forbids) {
                failed.push(rule.to_owned());
            }
            answer.errors.push(RuleError { rule: rule.to_owned(), what: context::told(error.inner()) });
        }
        answer.errors.sort();
        let matched: Vec<&Arc<Rule>> = response.diagnostics().reason().filter_map(|id| find(id.as_ref())).collect();
        let forbids: Vec<String> = matched.iter().filter(|rule| rule.forbids).map(|rule| rule.id.clone()).collect();
        if !forbids.is_empty() {
            answer.cause = Cause::Forbidden;
            answer.rules = forbids;
        } else if !failed.is_empty() {
            answer.cause = Cause::RuleFailed;
            answer.rules = failed;
        } else if !matched.is_empty() {
            let missing =
                |rule: &&&Arc<Rule>| rule.require_labels.iter().any(|label| !self.head.labels.contains(label));
            let unlabelled: Vec<String> = matched.iter().filter(missing).map(|rule| rule.id.clone()).collect();
            let escalates: Vec<String> =
                matched.iter().filter(|rule| rule.escalation.is_some()).map(|rule| rule.id.clone()).collect();
            if !unlabelled.is_empty() {
                answer.cause = Cause::LabelMissing;
                answer.rules = unlabelled;
            } else if !escalates.is_empty() {
                answer.verdict = Verdict::Escalate;
                answer.cause = Cause::Escalated;
                answer.rules = escalates;
            } else {
                answer.verdict = Verdict::Permit;
                answer.cause = Cause::Permitted;
                answer.rules = matched.iter().map(|rule| rule.id.clone()).collect();
            }
        }
        answer.rules.sort();
        (answer, matched)
    }

    fn request(&self, level: &LevelSlice, facts: &Facts) -> Result<Request, String> {
        let cast = self.cast.as_ref().map_err(Clone::clone)?;
        let pairs = context::pairs(&self.head, facts, &level.needs);
        let context = Context::from_pairs(pairs).map_err(|error| error.to_string())?;
        Request::new(cast.principal.clone(), cast.action.clone(), cast.resource.clone(), context, None)
            .map_err(|error| error.to_string())
    }
}

fn place(uid: &EntityUid, entities: &Entities) -> Place {
    let above: HashSet<EntityUid> = entities.ancestors(uid).into_iter().flatten().cloned().collect();
    Place { uid: uid.clone(), above }
}
