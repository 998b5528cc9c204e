//! The known word that somebody most likely meant.

/// Words longer than this are not compared: a message is not worth the time.
const LENGTH_MAX: usize = 64;

/// The nearest of `known`, if one is near enough to be meant.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > LENGTH_MAX {
        return None;
    }
    let bare = bare(word);
    if let Some(same) = known.iter().find(|k| self::bare(k) == bare) {
        return Some(same);
    }
    known
        .iter()
        .map(|k| (distance(&bare, &self::bare(k)), *k))
        .filter(|(far, k)| *far <= (k.len() / 3).clamp(1, 3))
        .min_by_key(|(far, _)| *far)
        .map(|(_, k)| k)
}

/// Without case and separators: `cost_centre` and `CostCentre` mean `costCentre`.
fn bare(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Letters to insert, remove or replace.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_and_what_is_something_else() {
        let known = ["costCentre", "owner", "sponsor", "toolCalls", "costUsd"];
        assert_eq!(nearest("cost_center", &known), Some("costCentre"));
        assert_eq!(nearest("ownr", &known), Some("owner"));
        assert_eq!(nearest("ToolCalls", &known), Some("toolCalls"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn distances() {
        let far = |a: &str, b: &str| distance(&bare(a), &bare(b));
        assert_eq!((far("kitten", "sitting"), far("", "abc"), far("abc", ""), far("same", "same")), (3, 3, 3, 0));
    }
}
