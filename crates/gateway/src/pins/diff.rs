//! A definition, and the difference of two, as lines for a person. Nothing hidden stays hidden in them.

use cogward_model::visible::visible;
use serde_json::Value;

/// Longest product of line counts that is compared line by line; beyond it all is shown as replaced.
const CELLS_MAX: usize = 4_000_000;
/// Longest line, in characters; more is cut, and said so.
const LINE_MAX: usize = 4_096;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is in both.
    Same,
    /// It is only in the one before.
    Removed,
    /// It is only in the one after.
    Added,
}

/// A definition on several lines, in the order of its keys. A text with line breaks has a line for each.
#[must_use]
pub fn lines(raw: &str) -> Vec<String> {
    let mut out = Vec::new();
    match serde_json::from_str::<Value>(raw) {
        Ok(mut value) => {
            // The order of keys is no part of a definition.
            value.sort_all_objects();
            write(&mut out, "", "", &value, "");
        }
        Err(_) => out.push(cut(&visible(raw))),
    }
    out
}

// The depth is that of a definition that was taken: bounded.
fn write(out: &mut Vec<String>, indent: &str, lead: &str, value: &Value, tail: &str) {
    let deeper = format!("{indent}  ");
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push(format!("{indent}{lead}{{"));
            let last = members.len();
            for (place, (key, member)) in members.iter().enumerate() {
                let comma = if place + 1 < last { "," } else { "" };
                write(out, &deeper, &format!("\"{}\": ", cut(&visible(key))), member, comma);
            }
            out.push(format!("{indent}}}{tail}"));
        }
        Value::Array(items) if !items.is_empty() => {
            out.push(format!("{indent}{lead}["));
            for (place, item) in items.iter().enumerate() {
                write(out, &deeper, "", item, if place + 1 < items.len() { "," } else { "" });
            }
            out.push(format!("{indent}]{tail}"));
        }
        Value::String(text) => {
            let mut parts = text.split('\n').map(|part| cut(&visible(part))).peekable();
            let mut first = true;
            while let Some(part) = parts.next() {
                let open = if first { format!("{indent}{lead}\"") } else { format!("{deeper}| ") };
                let close = if parts.peek().is_none() { format!("\"{tail}") } else { String::new() };
                out.push(format!("{open}{part}{close}"));
                first = false;
            }
        }
        other => out.push(format!("{indent}{lead}{other}{tail}")),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LINE_MAX) {
        Some((place, _)) => {
            format!("{}… ({} bytes more)", text.get(..place).unwrap_or_default(), text.len() - place)
        }
        None => text.to_owned(),
    }
}

/// The difference between two definitions.
#[must_use]
pub fn difference(before: &[String], after: &[String]) -> Vec<(Change, String)> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let rest = |list: &[String]| list.len() - head;
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = tail.min(rest(before)).min(rest(after));
    let middle = |list: &'_ [String]| list.get(head..list.len() - tail).unwrap_or_default().to_vec();
    let (old, new) = (middle(before), middle(after));
    let mut out: Vec<(Change, String)> = Vec::with_capacity(before.len() + after.len());
    out.extend(before.iter().take(head).map(|line| (Change::Same, line.clone())));
    changed(&mut out, &old, &new);
    out.extend(before.iter().skip(before.len() - tail).map(|line| (Change::Same, line.clone())));
    out
}

fn changed(out: &mut Vec<(Change, String)>, old: &[String], new: &[String]) {
    if old.len().saturating_mul(new.len()) > CELLS_MAX {
        out.extend(old.iter().map(|line| (Change::Removed, line.clone())));
        out.extend(new.iter().map(|line| (Change::Added, line.clone())));
        return;
    }
    // Longest common subsequence of what is left, from the end.
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or_default();
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                at(&longest, i + 1, j + 1) + 1
            } else {
                at(&longest, i + 1, j).max(at(&longest, i, j + 1))
            };
            if let Some(cell) = longest.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                out.push((Change::Same, a.clone()));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), Some(_)) if at(&longest, i + 1, j) >= at(&longest, i, j + 1) => {
                out.push((Change::Removed, a.clone()));
                i += 1;
            }
            (_, Some(b)) => {
                out.push((Change::Added, b.clone()));
                j += 1;
            }
            (Some(a), None) => {
                out.push((Change::Removed, a.clone()));
                i += 1;
            }
            (None, None) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_difference_shows_what_was_hidden() {
        let before = lines(r#"{"name":"a","description":"Reads.\nAll.","inputSchema":{"type":"object"}}"#);
        let after = lines(
            "{\"name\":\"a\",\"description\":\"Reads.\u{200b}\\nAll.\\u001b[2J\",\"inputSchema\":{\"type\":\"object\"}}",
        );
        let said: Vec<String> = difference(&before, &after)
            .into_iter()
            .map(|(change, line)| match change {
                Change::Same => format!(" {line}"),
                Change::Removed => format!("-{line}"),
                Change::Added => format!("+{line}"),
            })
            .collect();
        assert_eq!(
            said.join("\n"),
            " {\n-  \"description\": \"Reads.\n-    | All.\",\n+  \"description\": \"Reads.<U+200B>\n+    | All.<U+001B>[2J\",\n   \
             \"inputSchema\": {\n     \"type\": \"object\"\n   },\n   \"name\": \"a\"\n }"
        );
    }

    #[test]
    fn long_lines_and_large_definitions_are_bounded() {
        let long = lines(&serde_json::json!({"d": "x".repeat(100_000)}).to_string());
        assert!(
            long.iter().all(|line| line.len() < LINE_MAX + 64) && long[1].ends_with("bytes more)\""),
            "{}",
            long[1].len()
        );
        let many = |word: &str| (0..5_000).map(|n| format!("{word}{n}")).collect::<Vec<_>>();
        assert_eq!(difference(&many("a"), &many("b")).len(), 10_000);
    }

    proptest! {
        /// Both texts can be read from their difference.
        #[test]
        fn nothing_is_lost(before in proptest::collection::vec("[abc]", 0..12), after in proptest::collection::vec("[abc]", 0..12)) {
            let all = difference(&before, &after);
            let of = |skip: Change| all.iter().filter(|(c, _)| *c != skip).map(|(_, l)| l.clone()).collect::<Vec<_>>();
            prop_assert_eq!(of(Change::Added), before);
            prop_assert_eq!(of(Change::Removed), after);
        }

        #[test]
        fn no_line_of_any_definition_moves_a_terminal(text: String, key: String) {
            for line in lines(&serde_json::json!({ key: [text] }).to_string()) {
                prop_assert!(line.chars().all(|c| !c.is_control() && cogward_model::visible::hidden(c).is_none()));
            }
        }
    }
}
