//! Obligations on raw JSON: the bytes that are not meant stay as they are.

use std::ops::Range;

use super::{Obligation, number::exceeds};
use crate::{
    path::Path,
    projection::{elements, members},
};

/// What stands for a text that was taken out.
pub const REDACTED: &str = "[redacted]";

/// The most lists in lists that are followed.
pub(super) const NESTING_MAX: usize = 64;

/// What JSON allows between its parts.
pub(super) const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Why an obligation cannot be met. The call is blocked, or its answer withheld.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Not JSON, or a member twice.
    #[error("it is not one JSON object without repeated members")]
    Malformed,
    /// A cap on something that is no number.
    #[error("`{0}` is not a number, so it cannot be held at {1}")]
    NoNumber(Path, i64),
    /// Lists in lists without end.
    #[error("it is nested too deeply")]
    TooDeep,
}

/// One replacement of bytes.
pub(super) struct Edit {
    pub(super) at: Range<usize>,
    pub(super) with: String,
}

/// Meets the obligations on the arguments of a call. Nothing is answered when nothing changes.
///
/// # Errors
/// When one cannot be met; the call must then be blocked.
///
/// ```
/// # use cogward_policy::obligation::{apply_arguments, caps};
/// let capped = apply_arguments(&caps("arguments.limit=100")?, r#"{ "limit": 5000, "q": "x" }"#)?;
/// assert_eq!(capped.as_deref(), Some(r#"{ "limit": 100, "q": "x" }"#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn apply_arguments(obligations: &[Obligation], raw: &str) -> Result<Option<String>, ApplyError> {
    let mut changed: Option<String> = None;
    // One after the other, caps first: two caps can put members into one object, and what is redacted stays so.
    let redacts = |obligation: &&Obligation| matches!(obligation, Obligation::RedactArguments(_));
    let ordered = obligations.iter().filter(|one| !redacts(one)).chain(obligations.iter().filter(redacts));
    for obligation in ordered {
        let text = changed.as_deref().unwrap_or(raw);
        let part = text.trim_matches(WHITESPACE);
        let mut edits = Vec::new();
        match obligation {
            Obligation::RedactArguments(path) => {
                members(part).map_err(|_| ApplyError::Malformed)?;
                redact(text, part, path.steps(), 0, &mut edits)?;
            }
            Obligation::Cap { path, most } => {
                members(part).map_err(|_| ApplyError::Malformed)?;
                cap(text, part, path, path.steps(), *most, 0, &mut edits)?;
            }
            Obligation::RedactResult(_) => continue,
        }
        if let Some(next) = spliced(text, edits)? {
            changed = Some(next);
        }
    }
    Ok(changed)
}

/// Replaces what is at the path by a mark, or by null where it is no text.
fn redact(
    whole_text: &str,
    part: &str,
    steps: &[String],
    depth: usize,
    edits: &mut Vec<Edit>,
) -> Result<(), ApplyError> {
    let Some((step, rest)) = steps.split_first() else {
        edits.push(Edit { at: span(whole_text, part), with: stand_in(part) });
        return Ok(());
    };
    if depth > NESTING_MAX {
        return Err(ApplyError::TooDeep);
    }
    match part.as_bytes().first() {
        Some(b'{') => {
            for (name, value) in members(part).map_err(|_| ApplyError::Malformed)? {
                if name == *step {
                    redact(whole_text, value.get(), rest, depth + 1, edits)?;
                }
            }
        }
        Some(b'[') => {
            for element in elements(part).map_err(|_| ApplyError::Malformed)? {
                redact(whole_text, element.get(), steps, depth + 1, edits)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What stands in the place of a value that was taken out.
pub(super) fn stand_in(part: &str) -> String {
    if part.starts_with('"') { quoted(REDACTED) } else { "null".to_owned() }
}

/// Holds a number at a maximum. One that is not there is put in, because the server's own default may be more.
fn cap(
    raw: &str,
    part: &str,
    path: &Path,
    steps: &[String],
    most: i64,
    depth: usize,
    edits: &mut Vec<Edit>,
) -> Result<(), ApplyError> {
    let no_number = || ApplyError::NoNumber(path.clone(), most);
    if depth > NESTING_MAX {
        return Err(ApplyError::TooDeep);
    }
    let Some((step, rest)) = steps.split_first() else {
        let too_much = part == "null" || exceeds(part, most).ok_or_else(no_number)?;
        if too_much {
            edits.push(Edit { at: span(raw, part), with: most.to_string() });
        }
        return Ok(());
    };
    match part.as_bytes().first() {
        Some(b'{') => {
            let all = members(part).map_err(|_| ApplyError::Malformed)?;
            if let Some((_, value)) = all.iter().find(|(name, _)| name == step) {
                if value.get() == "null" && !rest.is_empty() {
                    edits.push(Edit { at: span(raw, value.get()), with: nested(rest, most) });
                    return Ok(());
                }
                return cap(raw, value.get(), path, rest, most, depth + 1, edits);
            }
            let at = span(raw, part).start + 1;
            let comma = if all.is_empty() { "" } else { "," };
            edits.push(Edit { at: at..at, with: format!("{}:{}{comma}", quoted(step), nested(rest, most)) });
            Ok(())
        }
        Some(b'[') => {
            let all = elements(part).map_err(|_| ApplyError::Malformed)?;
            all.into_iter().try_for_each(|element| cap(raw, element.get(), path, steps, most, depth + 1, edits))
        }
        _ => Err(no_number()),
    }
}

/// The cap inside the objects that are missing around it.
fn nested(steps: &[String], most: i64) -> String {
    steps.iter().rev().fold(most.to_string(), |inner, step| format!("{{{}:{inner}}}", quoted(step)))
}

/// Where a part, borrowed from a text, is in it.
pub(super) fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.len()
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text with the edits made; of edits that overlap, the wider one is made.
pub(super) fn spliced(text: &str, mut edits: Vec<Edit>) -> Result<Option<String>, ApplyError> {
    if edits.is_empty() {
        return Ok(None);
    }
    edits.sort_by(|a, b| a.at.start.cmp(&b.at.start).then(b.at.end.cmp(&a.at.end)));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for edit in edits {
        if edit.at.start < done {
            continue;
        }
        out.push_str(text.get(done..edit.at.start).ok_or(ApplyError::Malformed)?);
        out.push_str(&edit.with);
        done = edit.at.end;
    }
    out.push_str(text.get(done..).ok_or(ApplyError::Malformed)?);
    Ok((out != text).then_some(out))
}

#[cfg(test)]
mod tests;
