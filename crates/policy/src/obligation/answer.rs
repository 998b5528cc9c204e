//! Redaction of the answer of a tool. What cannot be told apart is withheld, and so is what the field was looked for in
//! and not found where the policy says it is: servers wrap their answers in ways of their own (`{"result": …}`, JSON
//! within a text), and a field that is missed is a field that is shown.

use super::{
    ApplyError, Obligation,
    apply::{Edit, NESTING_MAX, WHITESPACE, quoted, span, spliced, stand_in},
};
use crate::{
    path::Path,
    projection::{elements, members},
};

/// What stands for a text whose parts cannot be told apart.
pub const WITHHELD: &str =
    "[withheld: a policy redacts fields of this answer, and they cannot be told apart in this part]";

/// Meets the obligations on the `result` of a tool call: of it stay `structuredContent`, the texts of `content` that are
/// JSON, and whether it is an error. A part that is not JSON is withheld, because the fields in it cannot be told apart;
/// so is one that has no such field. Nothing is answered when nothing changes.
///
/// # Errors
/// When one cannot be met; the answer must then be withheld whole.
pub fn apply_result(obligations: &[Obligation], raw: &str) -> Result<Option<String>, ApplyError> {
    let paths: Vec<&Path> = obligations
        .iter()
        .filter_map(|obligation| match obligation {
            Obligation::RedactResult(path) => Some(path),
            _ => None,
        })
        .collect();
    if paths.is_empty() {
        return Ok(None);
    }
    let mut kept: Vec<(&str, String)> = Vec::new();
    let mut blocks: Option<Vec<String>> = None;
    let mut withheld = false;
    for (name, value) in members(raw).map_err(|_| ApplyError::Malformed)? {
        let value = value.get();
        match name.as_ref() {
            "content" => {
                let all = elements(value).map_err(|_| ApplyError::Malformed)?;
                let shown: Result<_, _> = all.into_iter().map(|block| block_of(block.get(), &paths)).collect();
                blocks = Some(shown?);
                kept.push(("content", String::new()));
            }
            "structuredContent" => match without(value, &paths)? {
                Some(clean) => kept.push(("structuredContent", clean)),
                None => withheld = true,
            },
            "isError" if matches!(value, "true" | "false") => kept.push(("isError", value.to_owned())),
            "resultType" if value == "\"complete\"" => kept.push(("resultType", value.to_owned())),
            // Whatever else there is may say it again.
            _ => {}
        }
    }
    if withheld {
        if blocks.is_none() {
            kept.push(("content", String::new()));
        }
        blocks.get_or_insert_default().push(text_block(WITHHELD));
    }
    let parts = kept.into_iter().map(|(name, value)| match (name, &blocks) {
        ("content", Some(blocks)) => format!("\"content\":[{}]", blocks.join(",")),
        _ => format!("\"{name}\":{value}"),
    });
    let clean = format!("{{{}}}", parts.collect::<Vec<_>>().join(","));
    Ok((clean != raw).then_some(clean))
}

/// One block of content. Only its text stays: names, titles and addresses beside it are words of the server too.
fn block_of(block: &str, paths: &[&Path]) -> Result<String, ApplyError> {
    let all = members(block).map_err(|_| ApplyError::Malformed)?;
    let find = |name: &str| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
    let text = match find("type") {
        Some("\"text\"") => find("text").map(str::to_owned),
        Some("\"resource\"") => match find("resource") {
            Some(resource) => {
                let inner = members(resource).map_err(|_| ApplyError::Malformed)?;
                inner.iter().find(|(key, _)| key == "text").map(|(_, value)| value.get().to_owned())
            }
            None => None,
        },
        // Images, sounds, links and what is not known may show anything.
        _ => None,
    };
    Ok(match text {
        Some(text) => text_block(&text_of(&text, paths)?),
        None => text_block(WITHHELD),
    })
}

fn text_block(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// A text, given as JSON has it.
fn text_of(raw: &str, paths: &[&Path]) -> Result<String, ApplyError> {
    let text: String = serde_json::from_str(raw).map_err(|_| ApplyError::Malformed)?;
    let part = text.trim_matches(WHITESPACE);
    let is_json = part.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(part).is_ok();
    // A text that says a thing twice is withheld like one that is not JSON.
    let clean = if is_json { without(part, paths).unwrap_or_default() } else { None };
    Ok(clean.unwrap_or_else(|| WITHHELD.to_owned()))
}

/// A value without what is at the paths; `None` where one of them leads nowhere, so that what it means may be elsewhere.
fn without(part: &str, paths: &[&Path]) -> Result<Option<String>, ApplyError> {
    let mut edits = Vec::new();
    for path in paths {
        if !take_out(part, part, path.steps(), Way { taken: 0, depth: 0 }, &mut edits)? {
            return Ok(None);
        }
    }
    Ok(Some(spliced(part, edits)?.unwrap_or_else(|| part.to_owned())))
}

/// How far a path has been followed.
#[derive(Clone, Copy)]
struct Way {
    taken: usize,
    depth: usize,
}

/// Takes out what is at a path. False where the path leads nowhere.
fn take_out(whole: &str, part: &str, steps: &[String], way: Way, edits: &mut Vec<Edit>) -> Result<bool, ApplyError> {
    let Some((step, rest)) = steps.split_first() else {
        edits.push(Edit { at: span(whole, part), with: stand_in(part) });
        return Ok(true);
    };
    if way.depth > NESTING_MAX {
        return Err(ApplyError::TooDeep);
    }
    let deeper = |taken: usize| Way { taken: way.taken + taken, depth: way.depth + 1 };
    match part.as_bytes().first() {
        Some(b'{') => {
            let all = members(part).map_err(|_| ApplyError::Malformed)?;
            match all.iter().find(|(name, _)| name == step) {
                Some((_, value)) => take_out(whole, value.get(), rest, deeper(1), edits),
                // The object that would hold it is where it is meant to be, and does not hold it.
                None => Ok(rest.is_empty() && way.taken > 0),
            }
        }
        Some(b'[') => {
            let all = elements(part).map_err(|_| ApplyError::Malformed)?;
            let mut found = all.is_empty();
            for element in all {
                found |= take_out(whole, element.get(), steps, deeper(0), edits)?;
            }
            Ok(found)
        }
        // A text on the way may hold anything, the field too.
        Some(b'"') => {
            edits.push(Edit { at: span(whole, part), with: quoted(WITHHELD) });
            Ok(true)
        }
        _ => Ok(part == "null"),
    }
}

#[cfg(test)]
mod tests;
