//! What is wrong with a manifest or a package, in the form of a compiler's message.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// More findings than this help nobody; the rest is counted.
const FINDINGS_MAX: usize = 100;

/// One fault: where it is, which rule it breaks, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Finding {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// The column, from 1; 0 when it is about the whole file.
    pub column: u32,
    /// The field: `spec.permissions.tools[0].server`. Empty when it is about the whole file.
    pub path: String,
    /// The rule, stable enough to search for.
    pub rule: Cow<'static, str>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} [{}]; fix: {}", self.problem, self.rule, self.fix)
    }
}

/// Every fault that was found, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Findings {
    /// The faults, at most 100.
    pub findings: Vec<Finding>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Findings {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.findings.len().saturating_add(usize::try_from(self.more).unwrap_or(usize::MAX))
    }

    /// Adds one; beyond the first 100 they are only counted.
    pub fn push(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Adds all of another list.
    pub fn append(&mut self, other: Self) {
        for finding in other.findings {
            self.push(finding);
        }
        self.more = self.more.saturating_add(other.more);
    }

    /// Brings them into the order of the file.
    pub(crate) fn sort(&mut self) {
        self.findings.sort_by_key(|f| (f.line, f.column));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, finding) in self.findings.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}
