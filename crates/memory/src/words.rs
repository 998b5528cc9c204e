//! Words of texts, and how well a text answers a question.
//!
//! Ranking is done here and not by the stores: their statistics are over everybody's memories, so their order would tell
//! one owner of another's. This one knows the owner's own texts alone, and is the same for every store.

use std::collections::HashMap;

use crate::item::Item;

/// Most words of a question; more are not looked for.
pub(crate) const QUERY_WORDS_MAX: usize = 32;
/// Longest word that is looked for, in characters; longer ones are cut in questions and texts alike.
const WORD_CHARS_MAX: usize = 64;

/// The words of a text, in lower case: letters and digits, nothing that any store could read as syntax.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.chars().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()).take(WORD_CHARS_MAX).collect()
        })
        .filter(|word: &String| !word.is_empty())
}

/// The words of a question, each once.
pub(crate) fn query_words(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for word in words(text) {
        if !all.contains(&word) {
            all.push(word);
            if all.len() == QUERY_WORDS_MAX {
                break;
            }
        }
    }
    all
}

/// How well each text answers a question (BM25 over these texts alone).
pub(crate) fn rank(query: &[String], items: &[Item]) -> Vec<f64> {
    const K: f64 = 1.2;
    const B: f64 = 0.75;
    let counted: Vec<(HashMap<String, f64>, f64)> = items
        .iter()
        .map(|item| {
            let mut counts = HashMap::new();
            let mut length = 0.0;
            for word in words(&item.text) {
                length += 1.0;
                if query.contains(&word) {
                    *counts.entry(word).or_insert(0.0) += 1.0;
                }
            }
            (counts, length)
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred texts")]
    let all = items.len() as f64;
    let mean = (counted.iter().map(|(_, length)| length).sum::<f64>() / all.max(1.0)).max(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred texts")]
    let having = |word: &str| counted.iter().filter(|(counts, _)| counts.contains_key(word)).count() as f64;
    let weights: Vec<(&String, f64)> = query
        .iter()
        .map(|word| {
            let with = having(word);
            (word, (1.0 + (all - with + 0.5) / (with + 0.5)).ln())
        })
        .collect();
    counted
        .iter()
        .map(|(counts, length)| {
            let of = |(word, weight): &(&String, f64)| {
                let count = counts.get(*word).copied().unwrap_or(0.0);
                weight * count * (K + 1.0) / (count + K * (1.0 - B + B * length / mean))
            };
            weights.iter().map(of).sum()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn syntax_is_not_in_words() {
        let found = query_words(r#"text:"Tea" OR owner_key:* NEAR(a b) -milk ^x {y} "#);
        assert_eq!(found, ["text", "tea", "or", "owner", "key", "near", "a", "b", "milk", "x", "y"]);
        assert!(query_words("\"*^:(){}-+' \u{200b}").is_empty());
    }

    proptest! {
        #[test]
        fn words_are_letters_and_digits_and_bounded(text in "\\PC{0,300}") {
            let all = query_words(&text);
            prop_assert!(all.len() <= QUERY_WORDS_MAX);
            for word in all {
                prop_assert!(!word.is_empty() && word.chars().count() <= WORD_CHARS_MAX, "{word:?}");
                prop_assert!(word.chars().all(char::is_alphanumeric), "{word:?}");
            }
        }
    }
}
