//! What rules compare with what: the constants beside each place of a question that they read.
//!
//! Where every comparison is of one place with constants, a value for each side of each constant is as good as all
//! values. Where rules calculate, compare two places or search in texts, it is not, and that is noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::pst::{self, BinaryOp, Clause, Expr, Literal, PatternElem, UnaryOp, Var};

use super::domain;
use crate::{
    path::Paths,
    rule::Rule,
    schema::Schema,
    track::Pattern,
    value::{Decimal, Value},
};

/// Which part of a question a place is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    Principal,
    Resource,
    Context,
}

/// A place that rules read: `context.arguments.amount`, `resource.labels`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub root: Root,
    pub steps: Vec<String>,
}

/// What one place is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    pub longs: BTreeSet<i64>,
    pub decimals: BTreeSet<Decimal>,
    pub texts: BTreeSet<String>,
    /// What texts may begin with.
    pub prefixes: BTreeSet<String>,
    /// What a set may hold.
    pub members: BTreeSet<Value>,
}

/// What some rules read and compare.
#[derive(Debug, Default)]
pub(super) struct Constants {
    pub places: BTreeMap<Place, Compared>,
    /// Entities that are named anywhere, heads included, as kind and id.
    pub entities: BTreeSet<(String, String)>,
    /// What is read of the arguments of tools.
    pub arguments: Paths,
    /// A word that no rule and no tool has in a name: it stands for everybody and everything that is not named.
    pub other: String,
    /// Why a value for each side of each constant does not stand for all values.
    pub beyond: BTreeSet<&'static str>,
}

const CALCULATES: &str = "a rule calculates with values of the call";
const TWO_PLACES: &str = "a rule compares two values of the call with one another";
const SEARCHES: &str = "a rule searches in a text, with `*` before its end";
const OTHER: &str = "a rule uses addresses, times or a kind of expression that cannot be enumerated";
const ALL_NAMED: &str = "the rules have every word in them that could stand for what they do not name";
const NOT_OFFERED: &str = "a rule reads arguments that no approved tool has";

impl Constants {
    /// Of these rules, over the tools of this schema.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>, schema: &Schema) -> Self {
        let mut constants = Self::default();
        for rule in rules {
            constants.arguments.merge(&rule.reads.needs.arguments);
            // Of two tools one may be counted and the other not.
            for tracker in &rule.trackers {
                let named = match &tracker.of {
                    Pattern::Action(_) => continue,
                    Pattern::Server(server) => ("ToolServer".to_owned(), server.to_string()),
                    Pattern::Tool(server, tool) => ("Tool".to_owned(), format!("{server}/{tool}")),
                };
                constants.entities.insert(named);
            }
            let Ok(pst::Policy::Static(tree)) = rule.policy.to_pst() else {
                constants.beyond.insert(OTHER);
                continue;
            };
            constants.head(rule);
            for clause in tree.body().clauses() {
                match clause {
                    Clause::When(expr) | Clause::Unless(expr) => constants.walk(expr),
                }
            }
            for label in &rule.require_labels {
                let place = Place { root: Root::Resource, steps: vec!["labels".to_owned()] };
                constants.places.entry(place).or_default().members.insert(Value::Text(label.clone()));
            }
        }
        if !schema.offers(&constants.arguments) {
            constants.beyond.insert(NOT_OFFERED);
        }
        constants.other = constants.not_named(schema);
        constants
    }

    /// The first of some words that is part of no name or text in the rules, and of no tool's name, and that no rule's
    /// beginning is the beginning of, alone or behind another one.
    fn not_named(&mut self, schema: &Schema) -> String {
        let mut all: BTreeSet<&str> = self.entities.iter().map(|(_, id)| id.as_str()).collect();
        for compared in self.places.values() {
            all.extend(compared.texts.iter().chain(&compared.prefixes).map(String::as_str));
            compared.members.iter().for_each(|member| texts_in(member, &mut all));
        }
        all.extend(schema.tools().flat_map(|(server, tool, _)| [server, tool]));
        let begins: BTreeSet<&str> =
            self.places.values().flat_map(|compared| &compared.prefixes).map(String::as_str).collect();
        let reached = |begin: &str, word: &str| {
            let split = begin.char_indices().filter_map(|(at, _)| begin.split_at_checked(at));
            let mut split = split.filter(|(_, rest)| word.starts_with(rest));
            split.any(|(before, _)| before.is_empty() || begins.contains(before))
        };
        let free = |word: &String| {
            !all.iter().any(|text| text.contains(word.as_str())) && !begins.iter().any(|begin| reached(begin, word))
        };
        match domain::words().find(free) {
            Some(word) => word,
            None => {
                self.beyond.insert(ALL_NAMED);
                domain::words().next().unwrap_or_default()
            }
        }
    }

    /// What a place is compared with, if it is read.
    pub fn at(&self, root: Root, steps: &[&str]) -> Option<&Compared> {
        let place = Place { root, steps: steps.iter().map(|step| (*step).to_owned()).collect() };
        self.places.get(&place)
    }

    /// The ids of the named entities of a kind.
    pub fn named<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.entities.iter().filter(move |(of, _)| of == kind).map(|(_, id)| id.as_str())
    }

    fn head(&mut self, rule: &Rule) {
        use cedar_policy::{ActionConstraint as A, PrincipalConstraint as P, ResourceConstraint as R};
        let mut named = Vec::new();
        match rule.policy.principal_constraint() {
            P::Eq(uid) | P::In(uid) | P::IsIn(_, uid) => named.push(uid),
            P::Any | P::Is(_) => {}
        }
        match rule.policy.resource_constraint() {
            R::Eq(uid) | R::In(uid) | R::IsIn(_, uid) => named.push(uid),
            R::Any | R::Is(_) => {}
        }
        match rule.policy.action_constraint() {
            A::Any => {}
            A::Eq(uid) => named.push(uid),
            A::In(uids) => named.extend(uids),
        }
        for uid in named {
            self.entities.insert((uid.type_name().basename().to_owned(), uid.id().unescaped().to_owned()));
        }
    }

    fn walk(&mut self, expr: &Expr) {
        if let Some(place) = place_of(expr) {
            // A place by itself is a truth value.
            self.places.entry(place).or_default();
            return;
        }
        match expr {
            Expr::Literal(Literal::EntityUID(uid)) => self.entity(uid),
            Expr::Literal(_) | Expr::Var(_) | Expr::Slot(_) => {}
            Expr::UnaryOp { op: UnaryOp::Not | UnaryOp::IsEmpty, expr } => self.walk(expr),
            Expr::HasAttr { expr, attrs } => match place_of(expr) {
                Some(mut place) => {
                    place.steps.extend(attrs.iter().map(ToString::to_string));
                    self.places.entry(place).or_default();
                }
                None => self.walk(expr),
            },
            Expr::BinaryOp { op: BinaryOp::And | BinaryOp::Or, left, right } => {
                self.walk(left);
                self.walk(right);
            }
            Expr::BinaryOp { op, left, right } => self.compare(*op, left, right),
            Expr::Like { expr, pattern } => self.like(expr, pattern),
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                in_expr.iter().for_each(|inner| self.walk(inner));
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                for part in [cond, then_expr, else_expr] {
                    self.walk(part);
                }
            }
            Expr::Set(parts) => parts.iter().for_each(|part| self.walk(part)),
            Expr::Record(parts) => parts.values().for_each(|part| self.walk(part)),
            other => self.calculation(other, OTHER),
        }
    }

    fn entity(&mut self, uid: &pst::EntityUID) {
        self.entities.insert((uid.ty.0.id.to_string(), uid.eid.to_string()));
    }

    fn compare(&mut self, op: BinaryOp, left: &Expr, right: &Expr) {
        let sides = [(place_of(left), right, true), (place_of(right), left, false)];
        for (place, other, is_left) in sides {
            let Some(place) = place else { continue };
            if let Some(constants) = literals(other)
                && is_told(op, other, is_left)
            {
                for uid in entities_of(other) {
                    self.entity(uid);
                }
                let compared = self.places.entry(place).or_default();
                // What a set is compared with says what may be in it; a list that has to contain a value, what it may be.
                let of_sets = match op {
                    BinaryOp::Contains => is_left,
                    _ => matches!(other, Expr::Set(_)),
                };
                for constant in constants {
                    compared.add(constant, of_sets);
                }
                return;
            }
        }
        let about_entities = |expr: &Expr| matches!(expr, Expr::Var(_)) || is_entities(expr);
        let of_two = matches!((left, right), (Expr::Var(_), Expr::Var(_)));
        if matches!(op, BinaryOp::In | BinaryOp::Eq | BinaryOp::NotEq)
            && about_entities(left)
            && about_entities(right)
            && !of_two
        {
            for uid in entities_of(left).into_iter().chain(entities_of(right)) {
                self.entity(uid);
            }
            return;
        }
        let of_two = of_two || (place_of(left).is_some() && place_of(right).is_some());
        let why = if of_two { TWO_PLACES } else { CALCULATES };
        let both = Expr::BinaryOp { op, left: Arc::new(left.clone()), right: Arc::new(right.clone()) };
        self.calculation(&both, why);
    }

    fn like(&mut self, expr: &Expr, pattern: &[PatternElem]) {
        let Some(place) = place_of(expr) else { return self.calculation(expr, SEARCHES) };
        let literal: String = pattern
            .iter()
            .filter_map(|part| match part {
                PatternElem::Char(c) => Some(*c),
                PatternElem::Wildcard => None,
            })
            .collect();
        let first = pattern.iter().position(|part| matches!(part, PatternElem::Wildcard));
        let compared = self.places.entry(place).or_default();
        match first {
            None => _ = compared.texts.insert(literal),
            Some(at) if pattern.iter().skip(at).all(|part| matches!(part, PatternElem::Wildcard)) => {
                compared.prefixes.insert(literal);
            }
            Some(_) => {
                let filled = pattern.iter().map(|part| match part {
                    PatternElem::Char(c) => *c,
                    PatternElem::Wildcard => 'x',
                });
                compared.texts.extend([literal, filled.collect()]);
                self.beyond.insert(SEARCHES);
            }
        }
    }

    /// An expression that is more than comparisons with constants: every place in it may have every constant in it.
    fn calculation(&mut self, expr: &Expr, why: &'static str) {
        self.beyond.insert(why);
        let (mut places, mut all) = (Vec::new(), Compared::default());
        let mut open = vec![expr];
        while let Some(expr) = open.pop() {
            if let Some(place) = place_of(expr) {
                places.push(place);
                continue;
            }
            for constant in literals(expr).into_iter().flatten() {
                all.add(constant.clone(), false);
                all.add(constant, true);
            }
            match expr {
                Expr::Literal(Literal::EntityUID(uid)) => self.entity(uid),
                Expr::UnaryOp { expr, .. }
                | Expr::GetAttr { expr, .. }
                | Expr::HasAttr { expr, .. }
                | Expr::Like { expr, .. } => open.push(expr),
                Expr::BinaryOp { left, right, .. } => open.extend([left.as_ref(), right.as_ref()]),
                Expr::Is { expr, in_expr, .. } => {
                    open.push(expr);
                    open.extend(in_expr.iter().map(AsRef::as_ref));
                }
                Expr::IfThenElse { cond, then_expr, else_expr } => {
                    open.extend([cond.as_ref(), then_expr.as_ref(), else_expr.as_ref()]);
                }
                Expr::Set(parts) => open.extend(parts.iter().map(AsRef::as_ref)),
                Expr::Record(parts) => open.extend(parts.values().map(AsRef::as_ref)),
                _ => {}
            }
        }
        for place in places {
            self.places.entry(place).or_default().merge(&all);
        }
    }
}

impl Compared {
    fn add(&mut self, constant: Value, member: bool) {
        if member {
            self.members.insert(constant);
            return;
        }
        match constant {
            Value::Long(value) => _ = self.longs.insert(value),
            Value::Decimal(value) => _ = self.decimals.insert(value),
            Value::Text(value) => _ = self.texts.insert(value),
            Value::Bool(_) | Value::Set(_) | Value::Record(_) => {}
        }
    }

    fn merge(&mut self, other: &Self) {
        self.longs.extend(&other.longs);
        self.decimals.extend(&other.decimals);
        self.texts.extend(other.texts.iter().cloned());
        self.prefixes.extend(other.prefixes.iter().cloned());
        self.members.extend(other.members.iter().cloned());
    }
}

/// `context.a.b` as a place; nothing for any other expression.
fn place_of(expr: &Expr) -> Option<Place> {
    match expr {
        Expr::GetAttr { expr, attr } => {
            let mut place = match expr.as_ref() {
                Expr::Var(Var::Principal) => Place { root: Root::Principal, steps: Vec::new() },
                Expr::Var(Var::Resource) => Place { root: Root::Resource, steps: Vec::new() },
                Expr::Var(Var::Context) => Place { root: Root::Context, steps: Vec::new() },
                inner => place_of(inner)?,
            };
            place.steps.push(attr.to_string());
            Some(place)
        }
        _ => None,
    }
}

/// The constants that an expression is, if it is nothing else. Entities are none: they have places of their own.
fn literals(expr: &Expr) -> Option<Vec<Value>> {
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(vec![Value::Bool(*value)]),
        Expr::Literal(Literal::Long(value)) => Some(vec![Value::Long(*value)]),
        Expr::Literal(Literal::String(value)) => Some(vec![Value::Text(value.to_string())]),
        Expr::Literal(Literal::EntityUID(_)) => Some(Vec::new()),
        Expr::UnaryOp { op: UnaryOp::Neg, expr } => match expr.as_ref() {
            Expr::Literal(Literal::Long(value)) => Some(vec![Value::Long(value.checked_neg()?)]),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOp::Decimal, expr } => match expr.as_ref() {
            Expr::Literal(Literal::String(text)) => text.parse().ok().map(|value| vec![Value::Decimal(value)]),
            _ => None,
        },
        Expr::Set(parts) => {
            // Sets of sets are not taken apart: their members are no values of a place.
            let part = |part: &Arc<Expr>| if matches!(**part, Expr::Set(_)) { None } else { literals(part) };
            let parts: Option<Vec<_>> = parts.iter().map(part).collect();
            Some(parts?.into_iter().flatten().collect())
        }
        _ => None,
    }
}

/// Whether a comparison of a place with constants is told by the value on each side of each of them, or by which of
/// them a set holds.
fn is_told(op: BinaryOp, other: &Expr, place_is_left: bool) -> bool {
    let of_set = matches!(other, Expr::Set(_));
    match op {
        BinaryOp::Eq | BinaryOp::NotEq => true,
        BinaryOp::Less
        | BinaryOp::LessEq
        | BinaryOp::Greater
        | BinaryOp::GreaterEq
        | BinaryOp::DecimalLessThan
        | BinaryOp::DecimalLessEq
        | BinaryOp::DecimalGreater
        | BinaryOp::DecimalGreaterEq => !of_set,
        BinaryOp::Contains => of_set != place_is_left,
        BinaryOp::ContainsAll | BinaryOp::ContainsAny => of_set,
        _ => false,
    }
}

/// Whether an expression is entities and nothing else.
fn is_entities(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(Literal::EntityUID(_)) => true,
        Expr::Set(parts) => parts.iter().all(|part| matches!(**part, Expr::Literal(Literal::EntityUID(_)))),
        _ => false,
    }
}

fn texts_in<'a>(value: &'a Value, all: &mut BTreeSet<&'a str>) {
    match value {
        Value::Text(text) => _ = all.insert(text),
        Value::Set(values) => values.iter().for_each(|value| texts_in(value, all)),
        Value::Record(record) => record.values().for_each(|value| texts_in(value, all)),
        Value::Bool(_) | Value::Long(_) | Value::Decimal(_) => {}
    }
}

/// The entities that stand in a literal or in a list of them.
fn entities_of(expr: &Expr) -> Vec<&pst::EntityUID> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => vec![uid],
        Expr::Set(parts) => parts.iter().flat_map(|part| entities_of(part)).collect(),
        _ => Vec::new(),
    }
}
