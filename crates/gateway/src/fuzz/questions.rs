//! Recorded questions to policies, which come back from exports and ledgers to be asked again.

use std::collections::BTreeSet;

use cogward_policy::{Ask, AskError};
use serde_json::Value;

use super::{Class, ITERATIONS, found_out, hold_for, targets::class};

const WORDS: &[&[u8]] = &[
    b"\"labels\":[\"personal\"],",
    b"\"pinned\":false",
    b"\"history\":{\"a\":1}",
    b"{\"memory\":{",
    b"\"operation\":\"write\"",
    b"9223372036854775808",
    b"-1",
    b"null",
    b"\"arguments\":{\"a\":{\"decimal\":\"1.5\"}}",
];

/// The texts of a list; none of what is no list.
fn words(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn question(read: impl Fn(&str) -> Result<Ask, AskError>, bytes: &[u8]) -> Class {
    let text = String::from_utf8_lossy(bytes);
    let ask = match read(&text) {
        Ok(ask) => ask,
        Err(error) => return class(error.to_string().chars().take(40).collect::<String>()),
    };
    let Ok(written) = ask.to_json() else { return class("too long to be recorded") };
    let again = Ask::from_json(&written).expect("what is recorded can be read");
    assert_eq!(again, ask, "what is recorded is the question: {written}");
    assert_eq!(again.to_json().ok(), Some(written), "and has one text");
    // Every word that it is decided by stands in what was read.
    let value: Value = serde_json::from_str(&text).expect("a question is JSON");
    assert_eq!(ask.head.labels, words(&value["head"]["labels"]), "labels that nobody recorded, or fewer");
    let read = ask.facts.labels.clone().unwrap_or_default();
    assert_eq!(read, words(&value["facts"]["labels"]), "labels that nobody read, or fewer");
    class((ask.head.deed.action(), ask.facts.history.len().min(3), ask.facts.arguments.is_some()))
}

#[test]
fn ask() {
    hold_for(ITERATIONS, "ask", include_str!("../../fuzz/ask.txt"), WORDS, |bytes| question(Ask::from_json, bytes));
}

#[test]
fn a_reader_of_questions_with_a_mistake_is_found_out() {
    type Change = fn(&mut Ask);
    let mistakes: [(&str, Change); 2] = [
        ("labels are left out", |ask| {
            let mut head = (*ask.head).clone();
            head.labels.clear();
            ask.head = head.into();
        }),
        ("a run has read nothing", |ask| ask.facts.labels = Some(BTreeSet::new())),
    ];
    let wrong = mistakes.map(|(mistake, change)| {
        let read = move |text: &str| {
            Ask::from_json(text).map(|mut ask| {
                change(&mut ask);
                ask
            })
        };
        (mistake, move |bytes: &[u8]| question(read, bytes))
    });
    found_out(include_str!("../../fuzz/ask.txt"), WORDS, wrong);
}
