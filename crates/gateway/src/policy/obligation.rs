//! What a permit asks for, done to the bytes of a call and of its answer. What cannot be done for certain stops the
//! call, or withholds the answer.

use bytes::Bytes;
use cogward_policy::{
    Obligation,
    obligation::{apply_arguments, apply_result},
};

/// A call took place, and the agent may not see its answer: what policy takes out of it could not be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("policy takes a part out of its answer, and the form of the answer does not allow that")]
pub struct Withheld;

/// The arguments after the obligations; `None` when they stay as they are.
///
/// # Errors
/// One sentence with the cause: the call must not take place.
pub(super) fn arguments(before: Option<&Bytes>, obligations: &[Obligation]) -> Result<Option<Bytes>, String> {
    if obligations.iter().all(is_of_result) {
        return Ok(None);
    }
    let bytes = before.ok_or("policy changes the arguments of this call, and it has none")?;
    let text = std::str::from_utf8(bytes).map_err(|_| "policy changes the arguments, and they are not UTF-8")?;
    let after = apply_arguments(obligations, text);
    Ok(after.map_err(|error| format!("policy changes the arguments of this call: {error}"))?.map(Bytes::from))
}

/// The obligations that the answer has to meet.
pub(super) fn of_result(obligations: &[Obligation]) -> Vec<Obligation> {
    obligations.iter().filter(|obligation| is_of_result(obligation)).cloned().collect()
}

fn is_of_result(obligation: &Obligation) -> bool {
    matches!(obligation, Obligation::RedactResult(_))
}

/// An obligation as the record says it.
pub(super) fn told(obligation: &Obligation) -> String {
    match obligation {
        Obligation::RedactArguments(path) => format!("redact arguments.{path}"),
        Obligation::RedactResult(path) => format!("redact result.{path}"),
        Obligation::Cap { path, most } => format!("cap arguments.{path}={most}"),
    }
}

/// The result of a tool as the agent may see it; `None` when that is the result as it came.
///
/// # Errors
/// [`Withheld`]: nothing of it.
pub(crate) fn redacted(result: &[u8], obligations: &[Obligation]) -> Result<Option<String>, Withheld> {
    if obligations.is_empty() {
        return Ok(None);
    }
    // The depth is bounded here, and no key is there twice.
    crate::json::check(result).map_err(|_| Withheld)?;
    let text = std::str::from_utf8(result).map_err(|_| Withheld)?;
    apply_result(obligations, text).map_err(|_| Withheld)
}
