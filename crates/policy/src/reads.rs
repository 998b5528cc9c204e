//! What a rule reads of the context, from its syntax tree.

use std::sync::Arc;

use cedar_policy::pst::{Clause, Expr, Var};

use crate::needs::Needs;

/// What the conditions of one rule read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads {
    /// Facts and arguments.
    pub needs: Needs,
    /// Names under `context.history`; the trackers are found when the whole set is known.
    pub history: Vec<String>,
    /// Every tracker of the set, because the history is used as a whole.
    pub whole_history: bool,
}

impl Reads {
    pub(crate) fn of(clauses: &[Clause]) -> Self {
        let mut reads = Self::default();
        for clause in clauses {
            match clause {
                Clause::When(expr) | Clause::Unless(expr) => reads.walk(expr),
            }
        }
        reads
    }

    /// A chain of attributes of the context is read.
    fn context(&mut self, steps: &[&str]) {
        let needs = &mut self.needs;
        match steps {
            [] => {
                *needs = Needs {
                    budget: true,
                    labels: true,
                    subject: true,
                    run: true,
                    time: true,
                    model: true,
                    request: true,
                    ..Needs::default()
                };
                needs.arguments.add([]);
                self.whole_history = true;
            }
            ["budget", ..] => needs.budget = true,
            ["labels", ..] => needs.labels = true,
            ["subject", ..] => needs.subject = true,
            ["run", ..] => needs.run = true,
            ["time", ..] => needs.time = true,
            ["model", ..] => needs.model = true,
            ["request", ..] => needs.request = true,
            ["arguments", path @ ..] => needs.arguments.add(path.iter().copied()),
            ["history", name, ..] => self.history.push((*name).to_owned()),
            ["history"] => self.whole_history = true,
            _ => {}
        }
    }

    fn walk(&mut self, expr: &Expr) {
        if let Some(steps) = chain(expr) {
            return self.context(&steps);
        }
        match expr {
            Expr::UnaryOp { expr, .. } | Expr::GetAttr { expr, .. } | Expr::Like { expr, .. } => self.walk(expr),
            Expr::HasAttr { expr, attrs } => {
                // `context has a.b` reads whether they are there, and nothing of the context as a whole.
                match chain(expr) {
                    Some(mut steps) => {
                        steps.extend(attrs.iter().map(|attr| attr.as_str()));
                        match steps.as_slice() {
                            ["arguments"] => self.needs.arguments.ask(),
                            steps => self.context(steps),
                        }
                    }
                    None => self.walk(expr),
                }
            }
            Expr::BinaryOp { left, right, .. } => {
                self.walk(left);
                self.walk(right);
            }
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                if let Some(inner) = in_expr {
                    self.walk(inner);
                }
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                self.walk(cond);
                self.walk(then_expr);
                self.walk(else_expr);
            }
            Expr::Set(parts) => parts.iter().for_each(|part| self.walk(part)),
            Expr::Record(parts) => parts.values().for_each(|part| self.walk(part)),
            Expr::Literal(_) | Expr::Slot(_) | Expr::Var(_) => {}
            // A kind of expression that is not known here may read anything.
            _ => self.context(&[]),
        }
    }
}

/// `context.a.b` as `[a, b]`; nothing for any other expression.
pub(crate) fn chain(expr: &Expr) -> Option<Vec<&str>> {
    match expr {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut steps = chain(expr)?;
            steps.push(attr.as_str());
            Some(steps)
        }
        _ => None,
    }
}

/// How deep an expression is nested, as far as `most`.
pub(crate) fn depth(expr: &Arc<Expr>) -> usize {
    let mut deepest = 0;
    let mut open = vec![(expr, 1_usize)];
    while let Some((expr, depth)) = open.pop() {
        deepest = deepest.max(depth);
        let next = depth + 1;
        match expr.as_ref() {
            Expr::UnaryOp { expr, .. }
            | Expr::GetAttr { expr, .. }
            | Expr::Like { expr, .. }
            | Expr::HasAttr { expr, .. } => open.push((expr, next)),
            Expr::BinaryOp { left, right, .. } => open.extend([(left, next), (right, next)]),
            Expr::Is { expr, in_expr, .. } => {
                open.push((expr, next));
                open.extend(in_expr.iter().map(|inner| (inner, next)));
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                open.extend([(cond, next), (then_expr, next), (else_expr, next)]);
            }
            Expr::Set(parts) => open.extend(parts.iter().map(|part| (part, next))),
            Expr::Record(parts) => open.extend(parts.values().map(|part| (part, next))),
            _ => {}
        }
    }
    deepest
}
