//! What policy made of the arguments of a call, as each level sees it.
//!
//! Every level is asked again, because a cap that puts an argument in or a part that is taken out could make a call that
//! the level would not have permitted. A level sees the arguments as they are forwarded, but for what it takes out itself
//! or a wider one does: that was there when it was asked, and is taken out on account of the answer.

use cogward_policy::{Decided, Facts, Obligation, Record, Slice};

use super::{judge::Judging, obligation};
use cogward_model::decision::{Refusal, RefusalCode};

/// Arguments that policy changed.
pub(super) struct Changed {
    /// What was decided about the arguments as they came.
    pub(super) first: Decided,
    /// What each level reads of them now, from the widest.
    pub(super) seen: Vec<Option<Record>>,
}

impl Changed {
    /// What each level reads of the arguments.
    ///
    /// # Errors
    /// They cannot be read as policies read them.
    pub(super) fn views(first: &Decided, facts: &Facts, judging: &Judging<'_>) -> Result<Vec<Option<Record>>, Refusal> {
        let by_level = judging.slice.obligations_by_level(facts);
        let view = |level: usize| {
            // What this level or a wider one takes out it has seen.
            let own: Vec<&Obligation> = by_level.iter().take(level + 1).flatten().collect();
            let rest = first.obligations.iter().filter(|one| !(is_redaction(one) && own.contains(one)));
            let rest: Vec<Obligation> = rest.cloned().collect();
            let arguments = obligation::arguments(judging.question.content.arguments, &rest).map_err(unmet)?;
            match arguments.as_ref() {
                Some(arguments) => judging.read(arguments),
                None => Ok(facts.arguments.clone()),
            }
        };
        (0..by_level.len()).map(view).collect()
    }

    /// The first level that does not stand by what was decided: what it says, and what it sees. `None` when all do.
    pub(super) fn decide(&self, slice: &Slice, facts: &Facts) -> Option<(Decided, Facts)> {
        let of = |arguments: &Option<Record>| Facts { arguments: arguments.clone(), ..facts.clone() };
        let mut views: Vec<Facts> = self.seen.iter().map(of).collect();
        let level = slice.stands(&self.first, &views).err()?;
        let view = if level < views.len() { views.swap_remove(level) } else { facts.clone() };
        Some((slice.decide(&view), view))
    }
}

fn is_redaction(obligation: &Obligation) -> bool {
    matches!(obligation, Obligation::RedactArguments(_))
}

fn unmet(why: String) -> Refusal {
    let next = "Make the call so that the policy can be kept to";
    Refusal::new(RefusalCode::PolicyBlocked, "policy", why, next)
}
