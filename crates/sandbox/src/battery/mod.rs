//! The attack battery: what a customer's penetration tester would try, as a feature.
//!
//! [`attacks`] is data: what each attack tries, by what means, and how it must be refused. [`verify`] carries all of
//! it out in real sandboxes of a profile, made by [`crate::launch`] as runs are, from four kinds of programs: Python,
//! a shell, this program's own binary (raw system calls, no interpreter), and a static program that needs no library at
//! all. A check that could not fail would prove nothing, so each program also carries controls that must be noticed,
//! and tests run the battery on sandboxes in which one control was left out.

pub mod attacks;
pub(crate) mod inside;
mod junit;
mod plan;
mod run;
mod sarif;

use cogward_model::manifest::Profile;
use serde::{Deserialize, Serialize};

pub use self::{
    attacks::{Attack, Means},
    run::{VerifyError, verify},
};

/// The program that carries attacks out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// This program itself, by raw system calls.
    Binary,
    /// A program of system calls alone: no C library, no loader, nothing of the root.
    Static,
    /// `python3` of the sandbox's root.
    Python,
    /// `/bin/sh` of the sandbox's root.
    Shell,
}

impl Program {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Binary, Self::Static, Self::Python, Self::Shell];

    /// The word in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Static => "static",
            Self::Python => "python",
            Self::Shell => "shell",
        }
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Refused, as it must be.
    Refused,
    /// It succeeded.
    Allowed,
    /// Refused, but not by the control that must refuse it: that control is not in force.
    Unexpected,
    /// It could not be tried, because its tool is not in the root.
    Skipped,
    /// The program ended before it said what became of it.
    NotRun,
}

impl Verdict {
    /// The word in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Allowed => "ALLOWED",
            Self::Unexpected => "UNEXPECTED",
            Self::Skipped => "skipped",
            Self::NotRun => "NOT RUN",
        }
    }

    /// Whether the sandbox failed.
    #[must_use]
    pub fn failed(self) -> bool {
        !matches!(self, Self::Refused | Self::Skipped)
    }
}

/// One attack, tried from one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The attack, such as `network.tcp-metadata`.
    pub id: String,
    /// What it tries.
    pub tries: String,
    /// From where.
    pub program: Program,
    /// How it ended.
    pub verdict: Verdict,
    /// What the system answered.
    pub answer: String,
    /// What it must answer.
    pub expected: String,
}

/// All attempts on one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The profile that was attacked.
    pub profile: Profile,
    /// The host's kernel.
    pub kernel: String,
    /// Different attacks.
    pub attacks: usize,
    /// Programs that are not there, so that their attempts are missing.
    pub absent: Vec<Program>,
    /// What the programs' own package was mounted from, as in the evidence of a run: what only an image keeps from an
    /// agent was tried when it was one.
    pub package: String,
    /// Refused system calls that the sandbox reported meanwhile.
    pub reported: u64,
    /// Each attempt.
    pub attempts: Vec<Attempt>,
}

impl Report {
    /// Whether every attack was refused as it must be.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.attempts.is_empty() && self.failures().next().is_none()
    }

    /// The attempts that were not refused as they must be.
    pub fn failures(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.verdict.failed())
    }

    /// Attempts with a verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.attempts.iter().filter(|attempt| attempt.verdict == verdict).count()
    }

    /// The report as a SARIF 2.1.0 log: a rule for each attack that was tried, a result for each attempt that was not
    /// refused as it must be.
    #[must_use]
    pub fn sarif(&self) -> serde_json::Value {
        sarif::write(self)
    }

    /// The report as JUnit XML, one case for each attempt.
    #[must_use]
    pub fn junit(&self) -> String {
        junit::write(self)
    }
}
