//! Rules as they are evaluated for one head: without the head, which matched already, and without the part of the
//! condition that is constant for it.
//!
//! A rule's condition is a row of conjuncts. Those at its front that read only the head are evaluated once: one that is
//! false ends the rule for this head, one that is true is left away, one that fails stays and fails at every call, as
//! it would in the whole set. Conjuncts behind the first that is not constant stay, because that one may fail first.

use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Policy, PolicySet, Request,
    pst::{
        self, ActionConstraint, BinaryOp, Clause, Effect, Expr, PrincipalConstraint, ResourceConstraint, UnaryOp, Var,
    },
};

use crate::{
    ask::{Facts, Head},
    context,
    entities::Cast,
    needs::Needs,
    quick::Front,
    rule::Rule,
};

/// The most rules of one group; groups are asked first whether any rule in them matches.
const GROUP: usize = 16;

/// So many rules are asked one by one.
const FEW: usize = 6;

/// What is left of a rule for one head.
pub(crate) enum Lean {
    /// It never matches.
    Never,
    /// It always matches.
    Always,
    /// It matches when all that is behind so many conjuncts holds.
    When(usize, Vec<Arc<Expr>>),
}

/// What is constant for a head.
pub(crate) struct Constants<'a> {
    request: Request,
    entities: &'a Entities,
    authorizer: Authorizer,
}

impl<'a> Constants<'a> {
    pub(crate) fn of(head: &Head, cast: &'a Cast) -> Option<Self> {
        let facts = Facts::at(cogward_model::Timestamp::from_unix_micros(0));
        let context = Context::from_pairs(context::pairs(head, &facts, &Needs::default())).ok()?;
        let (principal, action, resource) = (cast.principal.clone(), cast.action.clone(), cast.resource.clone());
        let request = Request::new(principal, action, resource, context, None).ok()?;
        Some(Self { request, entities: &cast.entities, authorizer: Authorizer::new() })
    }

    pub(crate) fn lean(&self, rule: &Rule) -> Lean {
        let all = conjuncts(&rule.clauses);
        let mut done = 0;
        for conjunct in &all {
            if !is_constant(conjunct) {
                break;
            }
            match self.holds(conjunct) {
                Some(true) => done += 1,
                Some(false) => return Lean::Never,
                None => break,
            }
        }
        let rest: Vec<Arc<Expr>> = all.into_iter().skip(done).collect();
        if rest.is_empty() { Lean::Always } else { Lean::When(done, rest) }
    }

    /// Whether a constant holds; nothing when it fails.
    fn holds(&self, conjunct: &Arc<Expr>) -> Option<bool> {
        let set = PolicySet::from_policies([policy("0", Arc::clone(conjunct)).ok()?]).ok()?;
        let answer = self.authorizer.is_authorized(&self.request, &set, self.entities);
        answer.diagnostics().errors().next().is_none().then(|| answer.decision() == Decision::Allow)
    }
}

/// The rules of a level that depend on the facts, in groups, so that one evaluation can answer for many that do not
/// match.
#[derive(Debug, Default)]
pub(crate) struct Dependent {
    pub rules: Vec<Arc<Rule>>,
    /// What can be said of each rule without Cedar, and each rule for Cedar alone.
    fronts: Vec<Front>,
    singles: Vec<PolicySet>,
    /// Single rules by their number, and groups by `#` and theirs.
    front: PolicySet,
    groups: Vec<PolicySet>,
}

/// The numbers of the rules that match, and of those that fail, with what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Evaluated {
    pub matched: Vec<usize>,
    pub failed: Vec<(usize, String)>,
}

impl Dependent {
    /// # Errors
    /// When Cedar does not take an expression that it gave; the level then blocks.
    pub(crate) fn new(all: Vec<(Arc<Rule>, Vec<Arc<Expr>>)>) -> Result<Self, String> {
        let fronts = all.iter().map(|(_, conjuncts)| Front::of(conjuncts)).collect();
        let (rules, conditions): (Vec<Arc<Rule>>, Vec<Arc<Expr>>) =
            all.into_iter().map(|(rule, conjuncts)| (rule, joined(conjuncts, BinaryOp::And))).unzip();
        let mut singles = Vec::with_capacity(rules.len());
        for (number, condition) in conditions.iter().enumerate() {
            let single = policy(&number.to_string(), Arc::clone(condition))?;
            singles.push(PolicySet::from_policies([single]).map_err(|error| error.to_string())?);
        }
        let mut front = Vec::new();
        let mut groups = Vec::new();
        let (forbids, permits): (Vec<usize>, Vec<usize>) =
            (0..rules.len()).partition(|n| rules.get(*n).is_some_and(|rule| rule.forbids));
        // Forbids rarely match, so groups of them answer at once. Of a few permits one usually does.
        let permits_apart = permits.len() <= GROUP;
        for (numbers, apart) in [(&forbids, false), (&permits, permits_apart)] {
            for group in numbers.chunks(GROUP) {
                let of = |n: &usize| conditions.get(*n).map(|condition| (*n, Arc::clone(condition)));
                let members: Vec<(usize, Arc<Expr>)> = group.iter().filter_map(of).collect();
                let each: Result<Vec<Policy>, String> =
                    members.iter().map(|(n, condition)| policy(&n.to_string(), Arc::clone(condition))).collect();
                if apart || members.len() <= 2 {
                    front.extend(each?);
                    continue;
                }
                let any = balanced(members.into_iter().map(|(_, condition)| condition).collect());
                front.push(policy(&format!("#{}", groups.len()), any)?);
                groups.push(PolicySet::from_policies(each?).map_err(|error| error.to_string())?);
            }
        }
        let front = PolicySet::from_policies(front).map_err(|error| error.to_string())?;
        Ok(Self { rules, fronts, singles, front, groups })
    }

    /// The rules that may match, when they are few enough to be asked one by one. Nothing else says that of many.
    pub(crate) fn few(&self, facts: &Facts) -> Option<Vec<usize>> {
        let mut few = Vec::new();
        for (number, front) in self.fronts.iter().enumerate() {
            if !front.is_false(facts) {
                if few.len() == FEW {
                    return None;
                }
                few.push(number);
            }
        }
        Some(few)
    }

    /// Asks Cedar: a few rules one by one, or all of them in groups.
    pub(crate) fn evaluate(
        &self,
        few: Option<&[usize]>,
        authorizer: &Authorizer,
        request: &Request,
        entities: &Entities,
    ) -> Evaluated {
        let mut evaluated = Evaluated::default();
        let mut open: Vec<usize> = Vec::new();
        let mut ask = |set: &PolicySet, open: &mut Vec<usize>| {
            let response = authorizer.is_authorized(request, set, entities);
            for id in response.diagnostics().reason() {
                match number(id.as_ref()) {
                    Id::Rule(n) => evaluated.matched.push(n),
                    Id::Group(n) => open.push(n),
                }
            }
            for error in response.diagnostics().errors() {
                let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
                match number(error.policy_id().as_ref()) {
                    Id::Rule(n) => evaluated.failed.push((n, context::told(error.inner()))),
                    Id::Group(n) => open.push(n),
                }
            }
        };
        match few {
            Some(few) => few.iter().filter_map(|n| self.singles.get(*n)).for_each(|set| ask(set, &mut open)),
            None => {
                ask(&self.front, &mut open);
                let groups = std::mem::take(&mut open);
                groups.into_iter().filter_map(|n| self.groups.get(n)).for_each(|group| ask(group, &mut open));
            }
        }
        evaluated
    }
}

enum Id {
    Rule(usize),
    Group(usize),
}

/// The ids are ours; one that is not a number is that of no rule.
fn number(id: &str) -> Id {
    match id.strip_prefix('#') {
        Some(group) => Id::Group(group.parse().unwrap_or(usize::MAX)),
        None => Id::Rule(id.parse().unwrap_or(usize::MAX)),
    }
}

/// A condition as a policy of its own. All are permits, because Cedar names the permits that matched only while no
/// forbid did; what a rule is, its [`Rule`] knows.
fn policy(id: &str, condition: Arc<Expr>) -> Result<Policy, String> {
    let bare = pst::Template::new(
        id,
        Effect::Permit,
        PrincipalConstraint::Any,
        ActionConstraint::Any,
        ResourceConstraint::Any,
    );
    let template = bare.try_with_clauses([Clause::When(condition)]).map_err(|error| error.to_string())?;
    let policy = pst::StaticPolicy::try_from(template).map_err(|error| error.to_string())?;
    Policy::from_pst(pst::Policy::Static(policy)).map_err(|error| error.to_string())
}

/// The conjuncts of all clauses, in the order in which they are evaluated.
fn conjuncts(clauses: &[Clause]) -> Vec<Arc<Expr>> {
    let mut all = Vec::new();
    for clause in clauses {
        match clause {
            Clause::Unless(expr) => all.push(Arc::new(Expr::UnaryOp { op: UnaryOp::Not, expr: Arc::clone(expr) })),
            Clause::When(expr) => {
                let mut open = vec![expr];
                while let Some(expr) = open.pop() {
                    match expr.as_ref() {
                        Expr::BinaryOp { op: BinaryOp::And, left, right } => open.extend([right, left]),
                        _ => all.push(Arc::clone(expr)),
                    }
                }
            }
        }
    }
    all
}

/// Whether an expression reads nothing but the head. `context.tier` and `context.autonomy` are of the version.
fn is_constant(expr: &Arc<Expr>) -> bool {
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr.as_ref() {
            Expr::Literal(_) | Expr::Var(Var::Principal | Var::Action | Var::Resource) => {}
            Expr::GetAttr { expr, attr } | Expr::HasAttr { expr, attrs: pst::NonEmpty { head: attr, .. } }
                if matches!(expr.as_ref(), Expr::Var(Var::Context)) =>
            {
                if !matches!(attr.as_str(), "tier" | "autonomy") {
                    return false;
                }
            }
            Expr::UnaryOp { expr, .. }
            | Expr::GetAttr { expr, .. }
            | Expr::Like { expr, .. }
            | Expr::HasAttr { expr, .. } => open.push(expr),
            Expr::BinaryOp { left, right, .. } => open.extend([left, right]),
            Expr::Is { expr, in_expr, .. } => {
                open.push(expr);
                open.extend(in_expr);
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => open.extend([cond, then_expr, else_expr]),
            Expr::Set(parts) => open.extend(parts),
            Expr::Record(parts) => open.extend(parts.values()),
            _ => return false,
        }
    }
    true
}

/// All of a row, from the left.
fn joined(parts: Vec<Arc<Expr>>, op: BinaryOp) -> Arc<Expr> {
    let mut parts = parts.into_iter();
    let first = parts.next().unwrap_or_else(|| Arc::new(Expr::Literal(pst::Literal::Bool(true))));
    parts.fold(first, |left, right| Arc::new(Expr::BinaryOp { op, left, right }))
}

/// Any of some, no deeper than it must be.
fn balanced(mut parts: Vec<Arc<Expr>>) -> Arc<Expr> {
    while parts.len() > 1 {
        let pairs = parts.chunks(2).map(|pair| joined(pair.to_vec(), BinaryOp::Or)).collect();
        parts = pairs;
    }
    joined(parts, BinaryOp::Or)
}
