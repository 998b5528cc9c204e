//! The known name that is nearest to one that is not known.

/// The nearest of the names, if any is near enough to have been meant.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > 64 {
        return None;
    }
    let length = wrong.chars().count();
    // Two letters in the wrong order are two changes.
    let most = (length / 3).max(if length < 4 { 1 } else { 2 });
    names
        .into_iter()
        .filter(|name| name.len() <= 64)
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// How many letters have to be put in, taken out or changed.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut above_left = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        let mut before = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&right) {
            let changed = above_left + usize::from(!a.eq_ignore_ascii_case(b));
            above_left = *cell;
            *cell = changed.min(above_left + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_offered() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(nearest("escalte", ["escalate", "expires"]), Some("escalate"));
        assert_eq!(nearest("amout", ["amount", "account"]), Some("amount"));
        assert_eq!(nearest("colour", ["amount", "account"]), None);
    }
}
