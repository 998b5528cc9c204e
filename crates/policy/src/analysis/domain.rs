//! Values that stand for all values: one for each side of each constant.

use std::collections::BTreeSet;

use super::constants::Compared;
use crate::{
    shape::{Field, Kind},
    value::{Decimal, Record, Value},
};

/// A text that no rule names.
pub(super) const ELSE: &str = "something-else";
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

/// Texts that are each named one, begin as named ones do, and one that does neither.
pub(super) fn texts(compared: &Compared) -> Vec<String> {
    let mut all = compared.texts.clone();
    for prefix in &compared.prefixes {
        all.insert(prefix.clone());
        all.insert(format!("{prefix}{ELSE}"));
    }
    all.insert(ELSE.to_owned());
    all.into_iter().collect()
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
pub(super) fn values(kind: &Kind, compared: &Compared) -> (Vec<Value>, bool) {
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
        Kind::Text => (texts(compared).into_iter().map(Value::Text).collect(), true),
        Kind::Set(element) => {
            let mut members: BTreeSet<Value> =
                compared.members.iter().filter(|one| is_a(one, element)).cloned().collect();
            members.extend(fresh(element, &members));
            let (sets, all) = subsets(members);
            (sets.into_iter().map(|set| Value::Set(set.into_iter().collect())).collect(), all)
        }
        // Read as a whole, which nothing can be compared with.
        Kind::Record(fields) => (vec![Value::Record(least(fields))], false),
    }
}

/// A member that is not named.
fn fresh(kind: &Kind, named: &BTreeSet<Value>) -> Option<Value> {
    match kind {
        Kind::Text => Some(Value::Text(ELSE.to_owned())),
        Kind::Long => (0..=i64::MAX).map(Value::Long).find(|value| !named.contains(value)),
        _ => None,
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
pub(super) fn least(fields: &std::collections::BTreeMap<String, Field>) -> Record {
    fields
        .iter()
        .filter(|(_, field)| field.required)
        .map(|(name, field)| (name.clone(), smallest(&field.kind)))
        .collect()
}

fn smallest(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::Long => Value::Long(0),
        Kind::Decimal => Value::Decimal(Decimal::from_ten_thousandths(0)),
        Kind::Text => Value::Text(ELSE.to_owned()),
        Kind::Set(_) => Value::Set(Vec::new()),
        Kind::Record(fields) => Value::Record(least(fields)),
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
        assert_eq!(texts(&compared), ["a", "b/", "b/something-else", ELSE]);
    }

    #[test]
    fn subsets_are_all_of_few_and_some_of_many() {
        let (all, exact) = subsets(["a", "b", "c"]);
        assert!(exact && all.len() == 8);
        let (some, exact) = subsets(0..20);
        assert!(!exact && some.len() == 22 && some.iter().any(|set| set.len() == 20));
    }
}
