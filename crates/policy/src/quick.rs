//! The simplest conjuncts, answered from the facts without an evaluator: a path of the context compared with a literal.
//!
//! The answer is only ever that a rule does not match, and only when Cedar would say so too: the conjuncts at the front
//! of its condition are true one after the other until one is false. Whatever is missing, of another type, or of another
//! form is left to Cedar. A property test holds slices against Cedar alone.

use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Expr, Literal};

use crate::{
    ask::Facts,
    context::clock,
    reads::chain,
    value::{Record, Value},
};

/// One conjunct.
#[derive(Debug)]
enum Quick {
    Compare { path: Vec<String>, op: BinaryOp, with: Fixed },
    Has { path: Vec<String> },
    Labelled(String),
}

#[derive(Debug)]
enum Fixed {
    Bool(bool),
    Long(i64),
    Text(String),
}

/// The conjuncts at the front of a condition that are of such a form.
#[derive(Debug, Default)]
pub(crate) struct Front(Vec<Quick>);

/// A value of the context.
enum Seen<'a> {
    Bool(bool),
    Long(i64),
    Text(&'a str),
}

impl Front {
    pub(crate) fn of(conjuncts: &[Arc<Expr>]) -> Self {
        Self(conjuncts.iter().map_while(|conjunct| quick(conjunct)).collect())
    }

    /// Whether the condition is certainly false.
    pub(crate) fn is_false(&self, facts: &Facts) -> bool {
        for quick in &self.0 {
            match quick.holds(facts) {
                Some(true) => {}
                Some(false) => return true,
                None => return false,
            }
        }
        false
    }
}

fn quick(expr: &Expr) -> Option<Quick> {
    let owned = |steps: Vec<&str>| steps.into_iter().map(str::to_owned).collect::<Vec<String>>();
    match expr {
        Expr::HasAttr { expr, attrs } => {
            let mut steps = chain(expr)?;
            steps.extend(attrs.iter().map(|attr| attr.as_str()));
            Some(Quick::Has { path: owned(steps) })
        }
        Expr::BinaryOp { op: BinaryOp::Contains, left, right } => match (chain(left)?.as_slice(), right.as_ref()) {
            (["labels"], Expr::Literal(Literal::String(label))) => Some(Quick::Labelled(label.to_string())),
            _ => None,
        },
        Expr::BinaryOp { op, left, right } => {
            let Expr::Literal(literal) = right.as_ref() else { return None };
            let ordered = matches!(op, BinaryOp::Less | BinaryOp::LessEq | BinaryOp::Greater | BinaryOp::GreaterEq);
            let with = match literal {
                Literal::Long(number) => Fixed::Long(*number),
                Literal::Bool(value) if !ordered => Fixed::Bool(*value),
                Literal::String(text) if !ordered => Fixed::Text(text.to_string()),
                _ => return None,
            };
            let known = ordered || matches!(op, BinaryOp::Eq | BinaryOp::NotEq);
            known.then_some(Quick::Compare { path: owned(chain(left)?), op: *op, with })
        }
        _ => None,
    }
}

impl Quick {
    fn holds(&self, facts: &Facts) -> Option<bool> {
        match self {
            Self::Labelled(label) => facts.labels.as_ref().map(|labels| labels.contains(label)),
            Self::Has { path } => has(path, facts),
            Self::Compare { path, op, with } => match (seen(path, facts)?, with) {
                (Seen::Long(left), Fixed::Long(right)) => Some(match op {
                    BinaryOp::Eq => left == *right,
                    BinaryOp::NotEq => left != *right,
                    BinaryOp::Less => left < *right,
                    BinaryOp::LessEq => left <= *right,
                    BinaryOp::Greater => left > *right,
                    BinaryOp::GreaterEq => left >= *right,
                    _ => return None,
                }),
                (Seen::Text(left), Fixed::Text(right)) => equal(*op, left == right),
                (Seen::Bool(left), Fixed::Bool(right)) => equal(*op, left == *right),
                _ => None,
            },
        }
    }
}

fn equal(op: BinaryOp, same: bool) -> Option<bool> {
    match op {
        BinaryOp::Eq => Some(same),
        BinaryOp::NotEq => Some(!same),
        _ => None,
    }
}

fn has(path: &[String], facts: &Facts) -> Option<bool> {
    let (first, rest) = path.split_first()?;
    match (first.as_str(), rest) {
        ("arguments", []) => Some(facts.arguments.is_some()),
        ("subject", []) => Some(facts.subject.is_some()),
        ("run", []) => Some(facts.run.is_some()),
        ("request", []) => Some(facts.request.is_some()),
        ("arguments", [above @ .., last]) => {
            let mut record = facts.arguments.as_ref()?;
            for step in above {
                record = inner(record.get(step)?)?;
            }
            Some(record.contains_key(last))
        }
        _ => None,
    }
}

fn inner(value: &Value) -> Option<&Record> {
    match value {
        Value::Record(record) => Some(record),
        _ => None,
    }
}

fn seen<'a>(path: &[String], facts: &'a Facts) -> Option<Seen<'a>> {
    let (first, rest) = path.split_first()?;
    match (first.as_str(), rest) {
        ("arguments", [above @ .., last]) => {
            let mut record = facts.arguments.as_ref()?;
            for step in above {
                record = inner(record.get(step)?)?;
            }
            match record.get(last)? {
                Value::Bool(value) => Some(Seen::Bool(*value)),
                Value::Long(value) => Some(Seen::Long(*value)),
                Value::Text(value) => Some(Seen::Text(value)),
                Value::Decimal(_) | Value::Set(_) | Value::Record(_) => None,
            }
        }
        ("budget", [what]) => {
            let left = facts.budget?;
            match what.as_str() {
                "usd_nanos" => Some(Seen::Long(left.usd_nanos)),
                "tokens" => Some(Seen::Long(left.tokens)),
                "calls" => Some(Seen::Long(left.calls)),
                _ => None,
            }
        }
        ("time", [what]) => {
            let [epoch_ms, hour, weekday] = clock(facts.at_ms);
            match what.as_str() {
                "epoch_ms" => Some(Seen::Long(epoch_ms)),
                "hour" => Some(Seen::Long(hour)),
                "weekday" => Some(Seen::Long(weekday)),
                _ => None,
            }
        }
        _ => None,
    }
}
