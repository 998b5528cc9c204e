//! `@redact`, `@cap` and `@require_label`: what has to hold or be done when a permit determined the verdict.

use serde::{Deserialize, Serialize};

use crate::path::{Path, PathError};

mod answer;
mod apply;
mod number;

pub use answer::{WITHHELD, apply_result};
pub use apply::{ApplyError, REDACTED, apply_arguments};

/// One thing to do to a call or to its answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Obligation {
    /// A part of the arguments is taken out before they are forwarded.
    RedactArguments(Path),
    /// A part of the answer is taken out before the agent gets it.
    RedactResult(Path),
    /// A whole number among the arguments is held at a maximum.
    Cap {
        /// Which.
        path: Path,
        /// The maximum.
        most: i64,
    },
}

/// Why the value of an annotation is no obligation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObligationError {
    /// Neither of the two sides.
    #[error("`{0}` begins with neither `arguments.` nor `result.`")]
    Side(String),
    /// Not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// No number.
    #[error("`{0}` is not `arguments.PATH=NUMBER`")]
    Cap(String),
    /// Not a label.
    #[error("`{0}` is not a label: use lower-case letters, digits, `-`, `_` and `.`")]
    Label(String),
}

/// Reads the value of `@redact`: paths with commas between them.
///
/// # Errors
/// The first that is none.
pub fn redactions(text: &str) -> Result<Vec<Obligation>, ObligationError> {
    let read = |part: &str| {
        if let Some(path) = part.strip_prefix("arguments.") {
            return Ok(Obligation::RedactArguments(Path::parse(path)?));
        }
        let path = part.strip_prefix("result.").ok_or_else(|| ObligationError::Side(short(part)))?;
        Ok(Obligation::RedactResult(Path::parse(path)?))
    };
    text.split(',').map(|part| read(part.trim())).collect()
}

/// Reads the value of `@cap`: `arguments.PATH=NUMBER` with commas between them.
///
/// # Errors
/// The first that is none.
pub fn caps(text: &str) -> Result<Vec<Obligation>, ObligationError> {
    let read = |part: &str| {
        let refuse = || ObligationError::Cap(short(part));
        let (path, most) = part.split_once('=').ok_or_else(refuse)?;
        let path = path.trim().strip_prefix("arguments.").ok_or_else(refuse)?;
        Ok(Obligation::Cap { path: Path::parse(path)?, most: most.trim().parse().map_err(|_| refuse())? })
    };
    text.split(',').map(|part| read(part.trim())).collect()
}

/// Reads the value of `@require_label`: labels with commas between them.
///
/// # Errors
/// The first that is none.
pub fn labels(text: &str) -> Result<Vec<String>, ObligationError> {
    let read = |part: &str| if is_label(part) { Ok(part.to_owned()) } else { Err(ObligationError::Label(short(part))) };
    text.split(',').map(|part| read(part.trim())).collect()
}

/// Whether a text can be a data label: 1 to 63 lower-case letters, digits, `-`, `_` and `.`, starting with a letter.
#[must_use]
pub fn is_label(text: &str) -> bool {
    crate::escalation::is_role(text)
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
