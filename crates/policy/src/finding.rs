//! What is wrong with a policy text, in one list: a person corrects it once, not once per error.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Findings that are kept; what is beyond is counted.
pub const FINDINGS_MAX: usize = 200;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The text is taken.
    Warning,
    /// The text is refused.
    Error,
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it refuses the text.
    pub severity: Severity,
    /// From 1; 0 when it concerns the whole text.
    pub line: u32,
    /// From 1, in characters; 0 when it concerns the whole text.
    pub column: u32,
    /// The rule, when there is one.
    pub rule: Option<String>,
    /// One sentence, without a full stop.
    pub what: String,
    /// One sentence, without a full stop.
    pub next_step: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "[{rule}] ")?;
        }
        write!(f, "{}. {}", self.what, self.next_step)
    }
}

/// Everything that is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the policy set is refused: {}", first(.0))]
pub struct Findings(pub Vec<Finding>);

fn first(findings: &[Finding]) -> String {
    match findings {
        [] => "nothing is known of why".to_owned(),
        [one] => one.to_string(),
        [one, rest @ ..] => format!("{one} (and {} more)", rest.len()),
    }
}
