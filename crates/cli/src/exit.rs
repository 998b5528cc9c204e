//! Exit codes and failures: what a script can act on, and what a person reads.
//!
//! The codes are a promise (`docs/cli.md`, Exit codes). Every failure has a cause and, wherever there
//! is one, the next command to type.

use std::{fmt, process::ExitCode};

use cogward_api::{Finding, Problem, ProblemCode};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, in a way that no other code says.
    Failed = 1,
    /// The command line, or the request made from it, is not valid.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Refused by policy, registration or permission.
    Refused = 4,
    /// It conflicts with what is: a name that is taken, a state that does not allow the verb.
    Conflict = 5,
    /// Waits for an approval.
    Approval = 6,
    /// A budget or a rate limit.
    Limit = 7,
    /// The plane does not answer.
    Unreachable = 8,
    /// Evidence or the sandbox does not verify.
    Unverified = 9,
    /// The time given with `--timeout` is over.
    TimedOut = 124,
    /// Interrupted from the keyboard.
    Interrupted = 130,
}

impl Exit {
    /// Every code with its meaning, for the documentation.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Done, "done"),
        (Self::Failed, "failed"),
        (Self::Usage, "usage: the command line or the request is not valid"),
        (Self::NotFound, "not found"),
        (Self::Refused, "refused by policy, registration or permission"),
        (Self::Conflict, "conflict: the name is taken, or the state does not allow the verb"),
        (Self::Approval, "waits for an approval"),
        (Self::Limit, "a budget or a rate limit"),
        (Self::Unreachable, "the plane does not answer"),
        (Self::Unverified, "evidence or the sandbox does not verify"),
        (Self::TimedOut, "the time given with `--timeout` is over"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code of a problem's word.
    pub fn of_problem(code: ProblemCode) -> Self {
        match code {
            ProblemCode::InvalidRequest | ProblemCode::ReasonRequired => Self::Usage,
            ProblemCode::Unauthenticated
            | ProblemCode::Forbidden
            | ProblemCode::RunRefused
            | ProblemCode::ProfileUnenforceable
            | ProblemCode::ProfileTooWeak
            | ProblemCode::ToolNotApproved
            | ProblemCode::ManifestInvalid
            | ProblemCode::PolicyInvalid
            | ProblemCode::PolicyBlocked
            | ProblemCode::PolicyFourEyes
            | ProblemCode::FourEyes
            | ProblemCode::NotRedactable
            | ProblemCode::PolicyGrants
            | ProblemCode::PackageInvalid => Self::Refused,
            ProblemCode::BudgetExceeded | ProblemCode::Throttled => Self::Limit,
            ProblemCode::NotFound | ProblemCode::RouteNotFound | ProblemCode::CursorExpired => Self::NotFound,
            ProblemCode::AlreadyExists
            | ProblemCode::BadTransition
            | ProblemCode::InUse
            | ProblemCode::PolicyNotApproved
            | ProblemCode::PolicyLocksOut
            | ProblemCode::ApprovalClosed
            | ProblemCode::RedactionClosed
            | ProblemCode::KeyChangeRefused
            | ProblemCode::EvidenceHeld
            | ProblemCode::IdempotencyConflict
            | ProblemCode::PreconditionFailed => Self::Conflict,
            ProblemCode::SplitView => Self::Unverified,
            ProblemCode::NotReady => Self::Unreachable,
            ProblemCode::MethodNotAllowed
            | ProblemCode::PayloadTooLarge
            | ProblemCode::UnsupportedMediaType
            | ProblemCode::Internal
            | ProblemCode::UpstreamUnavailable
            | ProblemCode::EvidenceUnavailable
            | ProblemCode::ArchiveUnreachable
            | ProblemCode::IndexUnavailable => Self::Failed,
        }
    }

    /// The code of an answer that is no problem document: something between us and the plane spoke.
    pub fn of_status(status: u16) -> Self {
        match status {
            400 => Self::Usage,
            401 | 403 => Self::Refused,
            402 | 429 => Self::Limit,
            404 | 410 => Self::NotFound,
            409 | 412 => Self::Conflict,
            502..=504 => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code to exit with.
    pub exit: Exit,
    /// The cause, in one sentence.
    pub cause: String,
    /// The stable word of the API's problem, where the API refused.
    pub code: Option<ProblemCode>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Faults of a manifest.
    pub findings: Vec<Finding>,
    /// What to do next, with a command wherever there is one.
    pub next: Option<String>,
}

impl Failure {
    /// A failure without a next step yet.
    pub fn new(exit: Exit, cause: impl Into<String>) -> Self {
        Self { exit, cause: cause.into(), code: None, rule: None, findings: Vec::new(), next: None }
    }

    /// The command line is not valid.
    pub fn usage(cause: impl Into<String>) -> Self {
        Self::new(Exit::Usage, cause)
    }

    /// Something of this machine failed: a file, a terminal.
    pub fn local(what: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, format!("{what}: {error}"))
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The text for a person, with control characters made visible: parts of it come from elsewhere.
    pub fn report(&self) -> String {
        if self.exit == Exit::Done {
            return String::new();
        }
        let mut text = format!("error: {}", printable(&self.cause));
        if let Some(code) = self.code {
            text.push_str(&format!(" [{code}]"));
        }
        text.push('\n');
        for finding in &self.findings {
            text.push_str(&format!("  {}\n", printable(&finding.to_string())));
            text.push_str(&format!("    fix: {}\n", printable(&finding.fix)));
        }
        if let Some(rule) = &self.rule {
            text.push_str(&format!("  rule: {}\n", printable(rule)));
        }
        if let Some(next) = &self.next {
            text.push_str(&format!("  next: {}\n", printable(next)));
        }
        text
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let next = problem.next_step.or_else(|| default_next(problem.code).map(str::to_owned));
        Self {
            exit: Exit::of_problem(problem.code),
            cause: problem.detail,
            code: Some(problem.code),
            rule: problem.rule,
            findings: problem.findings,
            next,
        }
    }
}

/// The next step where the plane did not say one.
fn default_next(code: ProblemCode) -> Option<&'static str> {
    match code {
        ProblemCode::Unauthenticated => Some("give the plane's credential to `cogward login`"),
        ProblemCode::ProfileTooWeak => Some("`cogward floor list` says what is accepted and who set it"),
        ProblemCode::ProfileUnenforceable => Some("`cogward doctor` says what the host lacks and how to provide it"),
        ProblemCode::NotFound => {
            Some("list what there is with the noun's `list`, and `--tenant` where it is not default")
        }
        ProblemCode::BadTransition => Some("`cogward run show RUN` tells its state"),
        ProblemCode::RouteNotFound | ProblemCode::MethodNotAllowed => {
            Some("the plane may be older than this command: compare `cogward --version` with `cogward plane show`")
        }
        ProblemCode::Internal | ProblemCode::EvidenceUnavailable => {
            Some("`cogward plane show` tells whether it is well")
        }
        ProblemCode::ManifestInvalid => {
            Some("correct the file and register it again; docs/manifest.md has every field")
        }
        ProblemCode::PolicyInvalid => Some("correct the text; docs/policy.md has the language"),
        ProblemCode::PolicyBlocked => Some("`cogward policy status` shows which versions decide"),
        ProblemCode::ApprovalClosed => Some("`cogward approval show ID` tells what became of it"),
        ProblemCode::Throttled | ProblemCode::NotReady => Some("repeat the command in a moment"),
        _ => None,
    }
}

/// `text` without anything that a terminal would obey.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => safe.push(letter),
            // Besides control characters, those that turn the direction of text and so show another text.
            // Nor those that show nothing and hide that two texts differ.
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}' => {
                safe.extend(letter.escape_unicode());
            }
            _ if letter.is_control() => safe.extend(letter.escape_unicode()),
            _ => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mapping as one table: scripts rely on it, so a change to it is a breaking change.
    #[test]
    fn the_exit_code_of_every_problem() {
        let mut table = String::new();
        for code in ProblemCode::ALL {
            table.push_str(&format!("{code:<24} {}\n", Exit::of_problem(*code).code()));
        }
        assert_eq!(
            table,
            "invalid_request          2\n\
             reason_required          2\n\
             unauthenticated          4\n\
             budget_exceeded          7\n\
             forbidden                4\n\
             run_refused              4\n\
             policy_blocked           4\n\
             policy_four_eyes         4\n\
             four_eyes                4\n\
             split_view               9\n\
             not_found                3\n\
             route_not_found          3\n\
             method_not_allowed       1\n\
             already_exists           5\n\
             bad_transition           5\n\
             profile_unenforceable    4\n\
             profile_too_weak         4\n\
             tool_not_approved        4\n\
             in_use                   5\n\
             idempotency_conflict     5\n\
             policy_not_approved      5\n\
             policy_locks_out         5\n\
             policy_grants            4\n\
             approval_closed          5\n\
             redaction_closed         5\n\
             key_change_refused       5\n\
             evidence_held            5\n\
             cursor_expired           3\n\
             precondition_failed      5\n\
             payload_too_large        1\n\
             unsupported_media_type   1\n\
             not_redactable           4\n\
             policy_invalid           4\n\
             manifest_invalid         4\n\
             package_invalid          4\n\
             throttled                7\n\
             internal                 1\n\
             upstream_unavailable     1\n\
             evidence_unavailable     1\n\
             index_unavailable        1\n\
             archive_unreachable      1\n\
             not_ready                8\n"
        );
    }

    #[test]
    fn an_answer_from_something_else_is_mapped_by_its_status() {
        let expected = [(400, 2), (401, 4), (402, 7), (403, 4), (404, 3), (409, 5), (429, 7), (500, 1), (503, 8)];
        for (status, exit) in expected {
            assert_eq!(Exit::of_status(status).code(), exit, "{status}");
        }
    }

    #[test]
    fn a_report_has_cause_rule_findings_and_next_step_and_obeys_no_escape() {
        let finding = Finding {
            file: "agent.yaml".into(),
            line: Some(12),
            column: None,
            path: None,
            rule: "permissions.tools".into(),
            message: "no tool server `fil\u{1b}[2Jes`".into(),
            fix: "add it first".into(),
        };
        let problem = Problem::new(ProblemCode::ManifestInvalid, "1 fault").findings(vec![finding]).rule("r");
        let report = Failure::from(problem).report();
        assert_eq!(
            report,
            "error: 1 fault [manifest_invalid]\n  \
               agent.yaml:12: no tool server `fil\\u{1b}[2Jes` [permissions.tools]\n    \
                 fix: add it first\n  \
               rule: r\n  \
               next: correct the file and register it again; docs/manifest.md has every field\n"
        );
    }
}
