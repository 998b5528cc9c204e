//! Recorded questions to policies, which come back from exports and ledgers to be asked again.

use cogward_policy::{Ask, AskError};

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
    let value: serde_json::Value = serde_json::from_str(&text).expect("a question is JSON");
    let told = |place: &serde_json::Value| place.as_array().map_or(0, Vec::len);
    assert!(ask.head.labels.len() <= told(&value["head"]["labels"]), "labels that nobody recorded");
    let read = ask.facts.labels.as_ref().map(std::collections::BTreeSet::len);
    assert!(read.is_none() || value["facts"]["labels"].is_array(), "labels that nobody read");
    let distinct = |place: &serde_json::Value| {
        place.as_array().into_iter().flatten().filter_map(|label| label.as_str()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ask.head.labels.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), distinct(&value["head"]["labels"]));
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
        ("a run has read nothing", |ask| ask.facts.labels = Some(std::collections::BTreeSet::new())),
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
