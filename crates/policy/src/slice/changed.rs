//! What a permit makes of a call is decided again: a cap that puts an argument in, or a part that is taken out, must not
//! make a call that a level would not have permitted.

use super::Slice;
use crate::{
    ask::Facts,
    obligation::Obligation,
    rule::Rule,
    verdict::{Decided, Verdict},
};

impl Slice {
    /// What each level, from the widest, asks to be done to a call that these facts are of.
    #[must_use]
    pub fn obligations_by_level(&self, facts: &Facts) -> Vec<Vec<Obligation>> {
        let of = |level| self.level(level, facts).1.into_iter().flat_map(|rule| rule.obligations.clone()).collect();
        self.levels.iter().map(of).collect()
    }

    /// Whether each level stands by what was decided when it sees its view of the call. A level does not that is
    /// stricter, or wants something done or approved that was not.
    ///
    /// # Errors
    /// The number of the first level that does not, from the widest. One without a view does not.
    pub fn stands(&self, decided: &Decided, views: &[Facts]) -> Result<(), usize> {
        for (number, level) in self.levels.iter().enumerate() {
            let (Some(before), Some(view)) = (decided.levels.get(number), views.get(number)) else {
                return Err(number);
            };
            let (answer, matched) = self.level(level, view);
            let done = |rule: &Rule| rule.obligations.iter().all(|one| decided.obligations.contains(one));
            let approved = |rule: &Rule| rule.escalation.iter().all(|one| decided.escalations.contains(one));
            let stands = answer.verdict <= before.verdict
                && matched.iter().all(|rule| done(rule))
                && (answer.verdict != Verdict::Escalate || matched.iter().all(|rule| approved(rule)));
            if !stands {
                return Err(number);
            }
        }
        Ok(())
    }
}
