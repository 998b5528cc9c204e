//! Values that stand for all values: one for each side of each constant.

use std::{collections::BTreeSet, str::FromStr};

use super::constants::Compared;
use crate::{
    shape::{Field, Kind},
    value::{Decimal, Record, Value},
};

/// Members of a set whose every combination is looked at; of more, each alone, none and all.
const MEMBERS_MAX: usize = 6;

/// Whole numbers around the constants, within a range.
pub(super) fn longs(compared: &Compared, least: i64, most: i64) -> Vec<i64> {
    let around = |c: &i64| [c.saturating_sub(1), *c, c.saturating_add(1)];
    let mut all: BTreeSet<i64> =
        compared.longs.iter().flat_map(around).filter(|v| (least..=most).contains(v)).collect();
    if all.is_empty() {
        all.insert(0.clamp(least, most));
    }
    all.into_iter().collect()
}

/// Words for what no rule names. Which one it is depends on the rules, so that none of them can name it.
pub(super) fn words() -> impl Iterator<Item = String> {
    // Each begins with another letter, for rules that say how a name begins.
    let more = ('a'..='z').map(|first| format!("{first}-something-else"));
    ["something-else".to_owned()].into_iter().chain(more)
}

/// Texts that are each named one, begin as named ones do, and one that does neither. `other` is chosen so that a
/// beginning with it behind is no other constant, and begins as no longer one does.
pub(super) fn texts(compared: &Compared, other: &str) -> Vec<String> {
    let mut all = compared.texts.clone();
    for prefix in &compared.prefixes {
        all.insert(prefix.clone());
        all.insert(format!("{prefix}{other}"));
    }
    all.insert(other.to_owned());
    all.into_iter().collect()
}

/// The same for names of a kind, which not every text is. False beside them when a beginning may be that of a name and
/// none was found.
pub(super) fn names<T: FromStr + Ord>(
    compared: &Compared,
    more: impl IntoIterator<Item = String>,
    other: &str,
) -> (BTreeSet<T>, bool) {
    let is = |text: &str| text.parse::<T>().is_ok();
    let mut all: BTreeSet<T> = texts(compared, other).into_iter().chain(more).filter_map(|t| t.parse().ok()).collect();
    let begins_none = |prefix: &str| {
        // Alphabets: a character is allowed within a name or it is not, and so is the first one.
        let first = prefix.chars().next().is_some_and(|first| !is(&format!("{first}a")));
        first || prefix.chars().any(|within| !is(&format!("a{within}a")))
    };
    let known = |prefix: &String| is(&format!("{prefix}{other}")) || begins_none(prefix);
    let exact = is(other) && compared.prefixes.iter().all(known);
    all.extend(other.parse().ok());
    (all, exact)
}

/// Subsets of the members that are named, with and without one that is not. False beside them when not all of them.
pub(super) fn subsets<T: Ord + Clone>(members: impl IntoIterator<Item = T>) -> (Vec<BTreeSet<T>>, bool) {
    let members: Vec<T> = members.into_iter().collect();
    if members.len() <= MEMBERS_MAX {
        let chosen = |bits: usize| {
            let inside = |place: &usize| bits >> place & 1 == 1;
            (0..members.len()).filter(inside).filter_map(|place| members.get(place).cloned()).collect()
        };
        return ((0..1_usize << members.len()).map(chosen).collect(), true);
    }
    let mut some: Vec<BTreeSet<T>> = members.iter().map(|one| BTreeSet::from([one.clone()])).collect();
    some.push(BTreeSet::new());
    some.push(members.into_iter().collect());
    (some, false)
}

/// Values of one kind of argument.
pub(super) fn values(kind: &Kind, compared: &Compared, other: &str) -> (Vec<Value>, bool) {
    match kind {
        Kind::Bool => (vec![Value::Bool(false), Value::Bool(true)], true),
        Kind::Long => (longs(compared, i64::MIN, i64::MAX).into_iter().map(Value::Long).collect(), true),
        Kind::Decimal => {
            let around = |c: &Decimal| {
                let units = c.ten_thousandths();
                [units.saturating_sub(1), units, units.saturating_add(1)].map(Decimal::from_ten_thousandths)
            };
            let mut all: BTreeSet<Decimal> = compared.decimals.iter().flat_map(around).collect();
            if all.is_empty() {
                all.insert(Decimal::from_ten_thousandths(0));
            }
            (all.into_iter().map(Value::Decimal).collect(), true)
        }
        Kind::Text => (texts(compared, other).into_iter().map(Value::Text).collect(), true),
        Kind::Set(element) => {
            let mut members: BTreeSet<Value> =
                compared.members.iter().filter(|one| is_a(one, element)).cloned().collect();
            let more = fresh(element, &members, other);
            let some = !more.is_empty();
            members.extend(more);
            let (sets, all) = subsets(members);
            (sets.into_iter().map(|set| Value::Set(set.into_iter().collect())).collect(), all && some)
        }
        // Read as a whole, which nothing can be compared with.
        Kind::Record(fields) => (vec![Value::Record(least(fields, other))], false),
    }
}

/// Members that are not named: one stands for all of them. Of truth values there are no others.
fn fresh(kind: &Kind, named: &BTreeSet<Value>, other: &str) -> Vec<Value> {
    let free = |value: &Value| !named.contains(value);
    match kind {
        Kind::Bool => vec![Value::Bool(false), Value::Bool(true)],
        Kind::Long => (0..=i64::MAX).map(Value::Long).find(free).into_iter().collect(),
        Kind::Decimal => {
            let decimals = (0..=i64::MAX).map(|units| Value::Decimal(Decimal::from_ten_thousandths(units)));
            decimals.into_iter().find(free).into_iter().collect()
        }
        // Rules can name texts and numbers in sets, and nothing that is made of them.
        Kind::Text | Kind::Set(_) | Kind::Record(_) => vec![smallest(kind, other)],
    }
}

fn is_a(value: &Value, kind: &Kind) -> bool {
    matches!(
        (value, kind),
        (Value::Text(_), Kind::Text)
            | (Value::Long(_), Kind::Long)
            | (Value::Bool(_), Kind::Bool)
            | (Value::Decimal(_), Kind::Decimal)
    )
}

/// The smallest record with these fields.
pub(super) fn least(fields: &std::collections::BTreeMap<String, Field>, other: &str) -> Record {
    fields
        .iter()
        .filter(|(_, field)| field.required)
        .map(|(name, field)| (name.clone(), smallest(&field.kind, other)))
        .collect()
}

fn smallest(kind: &Kind, other: &str) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::Long => Value::Long(0),
        Kind::Decimal => Value::Decimal(Decimal::from_ten_thousandths(0)),
        Kind::Text => Value::Text(other.to_owned()),
        Kind::Set(_) => Value::Set(Vec::new()),
        Kind::Record(fields) => Value::Record(least(fields, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_value_on_each_side_of_each_constant() {
        let compared = Compared {
            longs: BTreeSet::from([5, i64::MAX]),
            texts: BTreeSet::from(["a".to_owned()]),
            prefixes: BTreeSet::from(["b/".to_owned()]),
            ..Compared::default()
        };
        assert_eq!(longs(&compared, 0, i64::MAX), [4, 5, 6, i64::MAX - 1, i64::MAX]);
        assert_eq!(longs(&compared, 0, 5), [4, 5]);
        assert_eq!(longs(&Compared::default(), 3, 9), [3]);
        assert_eq!(texts(&compared, "else"), ["a", "b/", "b/else", "else"]);
    }

    #[test]
    fn names_begin_as_rules_say_or_it_is_known_that_none_does() {
        let of = |prefixes: &[&str]| Compared {
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            ..Compared::default()
        };
        let names = |prefixes: &[&str]| names::<cogward_model::UpstreamName>(&of(prefixes), [], "else");
        let (all, exact) = names(&["ba", "-x", "api."]);
        assert!(exact, "no server's name begins with `-` or has a dot in it");
        assert_eq!(all.iter().map(cogward_model::UpstreamName::as_str).collect::<Vec<_>>(), ["ba", "baelse", "else"]);
        assert!(!names(&[&"a".repeat(60)]).1, "there is a name that begins so, and the one that was tried is too long");
    }

    #[test]
    fn a_set_has_a_member_that_is_not_named_whatever_it_holds() {
        let named = Compared { members: BTreeSet::from([Value::Long(0)]), ..Compared::default() };
        for (kind, sets) in [(Kind::Bool, 4), (Kind::Long, 4), (Kind::Record(std::collections::BTreeMap::new()), 2)] {
            let (values, all) = values(&Kind::Set(Box::new(kind.clone())), &named, "else");
            assert!(all && values.len() == sets, "{kind:?}: {values:?}");
            assert!(values.contains(&Value::Set(Vec::new())));
        }
    }

    #[test]
    fn subsets_are_all_of_few_and_some_of_many() {
        let (all, exact) = subsets(["a", "b", "c"]);
        assert!(exact && all.len() == 8);
        let (some, exact) = subsets(0..20);
        assert!(!exact && some.len() == 22 && some.iter().any(|set| set.len() == 20));
    }
}
