//! Rules that do nothing: no question matches them, or every answer is the same without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Idle, IdleRule, Questions};
use crate::{hierarchy::Hierarchy, rule::Rule, slice::Slice, verdict::Cause, version::Version};

/// What one rule says to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    Matches,
    Fails,
}

/// What of a rule makes a difference to an answer. Two permits with the same of it are as good as one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect<'a> {
    Permits,
    Asks(&'a crate::Escalation),
    Obliges(&'a crate::Obligation),
    Requires(&'a str),
    Forbids,
}

#[derive(Default)]
struct Seen {
    matched: bool,
    matters: bool,
    /// Rules that said something every time that this one did.
    beside: Option<BTreeSet<String>>,
}

/// Each rule by itself, so that what it says is not hidden by what others say.
struct Alone<'a> {
    rule: &'a Arc<Rule>,
    slice: Arc<Slice>,
}

pub(super) fn idle(version: &Arc<Version>, questions: &mut Questions<'_>) -> Vec<IdleRule> {
    let stacks: Vec<(&Arc<Rule>, Hierarchy)> = version
        .rules()
        .iter()
        .map(|rule| (rule, Hierarchy::new([Arc::new(version.with_rules(|other| other.id == rule.id))])))
        .collect();
    let whole = Hierarchy::new([Arc::clone(version)]);
    let mut seen: BTreeMap<&str, Seen> =
        version.rules().iter().map(|rule| (rule.id.as_str(), Seen::default())).collect();
    for head in questions.heads() {
        if questions.is_over() {
            break;
        }
        let slice = whole.slice(&head);
        let inside: BTreeSet<&str> = slice.rules().map(|(_, rule)| rule.id.as_str()).collect();
        if inside.is_empty() {
            continue;
        }
        let alone: Vec<Alone<'_>> = stacks
            .iter()
            .filter(|(rule, _)| inside.contains(rule.id.as_str()))
            .map(|(rule, stack)| Alone { rule, slice: stack.slice(&head) })
            .collect();
        questions.each(&head, &[&slice], |facts| {
            let said: Vec<(&Arc<Rule>, Says)> = alone
                .iter()
                .map(|one| (one.rule, says(one, facts)))
                .filter(|(_, says)| *says != Says::Nothing)
                .collect();
            for (place, (rule, _)) in said.iter().enumerate() {
                let Some(seen) = seen.get_mut(rule.id.as_str()) else { continue };
                seen.matched = true;
                let others =
                    || said.iter().enumerate().filter(move |(other, _)| *other != place).map(|(_, said)| *said);
                if !seen.matters {
                    seen.matters = answer(said.iter().copied()) != answer(others());
                }
                let names = others().map(|(other, _)| other.id.clone()).collect::<BTreeSet<_>>();
                seen.beside = Some(match seen.beside.take() {
                    Some(before) => before.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
        });
    }
    let reason = |rule: &Arc<Rule>| {
        let seen = seen.get(rule.id.as_str())?;
        match (seen.matched, seen.matters) {
            (false, _) => Some(Idle::Dead),
            (true, true) => None,
            (true, false) => Some(Idle::Shadowed { by: seen.beside.iter().flatten().cloned().collect() }),
        }
    };
    let idle = |rule: &Arc<Rule>| Some(IdleRule { rule: rule.id.clone(), line: rule.line, why: reason(rule)? });
    version.rules().iter().filter_map(idle).collect()
}

fn says(alone: &Alone<'_>, facts: &crate::Facts) -> Says {
    let decided = alone.slice.decide(facts);
    let Some(level) = decided.levels.first() else { return Says::Nothing };
    match level.cause {
        Cause::NothingMatched | Cause::BadAsk if level.errors.is_empty() => Says::Nothing,
        Cause::NothingMatched | Cause::BadAsk | Cause::RuleFailed => Says::Fails,
        _ => Says::Matches,
    }
}

/// What the rules that said something come to: nothing is a block.
fn answer<'a>(said: impl Iterator<Item = (&'a Arc<Rule>, Says)>) -> BTreeSet<Effect<'a>> {
    let mut effects = BTreeSet::new();
    for (rule, says) in said {
        match (rule.forbids, says) {
            (_, Says::Nothing) => {}
            (false, Says::Fails) if !rule.holds_back() => {}
            (true, _) | (false, Says::Fails) => return BTreeSet::from([Effect::Forbids]),
            (false, Says::Matches) => {
                effects.insert(Effect::Permits);
                effects.extend(rule.escalation.as_ref().map(Effect::Asks));
                effects.extend(rule.obligations.iter().map(Effect::Obliges));
                effects.extend(rule.require_labels.iter().map(|label| Effect::Requires(label)));
            }
        }
    }
    // Blocked either way: a forbid adds nothing where nothing is permitted.
    if effects.is_empty() { BTreeSet::from([Effect::Forbids]) } else { effects }
}
