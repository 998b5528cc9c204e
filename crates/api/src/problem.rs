//! Problems: everything the API refuses, as RFC 9457 details with a stable code.
//!
//! A code is a promise to scripts: its word and its status never change. Each has a page
//! `docs/errors/<code>.md` that says what happened and what to do; [`ProblemCode::page`] carries it,
//! so a code without a page does not compile.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the pages of the codes are published; a problem's `type` is this and the code.
pub const TYPE_BASE: &str = "https://cogward.dev/errors/";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, as a word that never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ProblemCode { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The word on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// The HTTP status that it is sent with.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            /// The same few words each time it occurs.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
            /// Its page, in Markdown: what happened, what to do.
            #[must_use]
            pub fn page(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("../../../docs/errors/", $text, ".md")),)* }
            }
        }
    };
}

codes! {
    /// The request is malformed: a field is unknown, missing, or not of its kind.
    InvalidRequest = "invalid_request", 400, "The request is not valid";
    /// The command changes state and gave no reason.
    ReasonRequired = "reason_required", 400, "A reason is required";
    /// There is no credential, or the plane does not know it.
    Unauthenticated = "unauthenticated", 401, "The credential is missing or unknown";
    /// A budget does not cover what was asked for.
    BudgetExceeded = "budget_exceeded", 402, "A budget is used up";
    /// The operator may not do this.
    Forbidden = "forbidden", 403, "The operator may not do this";
    /// A rule of the agent's registration does not allow this run.
    RunRefused = "run_refused", 403, "The run was refused";
    /// The active policies do not let the operator give this command.
    PolicyBlocked = "policy_blocked", 403, "A policy does not allow this command";
    /// Whoever wrote a version of a policy may not approve it here.
    PolicyFourEyes = "policy_four_eyes", 403, "Another operator has to approve it";
    /// Whoever asked for it may not be the one who answers.
    FourEyes = "four_eyes", 403, "Another operator has to do it";
    /// The key of the plane log signed another history than this plane's.
    SplitView = "split_view", 409, "One key signed two histories";
    /// There is no such thing, or no such version of it.
    NotFound = "not_found", 404, "There is no such thing";
    /// The API has no such path.
    RouteNotFound = "route_not_found", 404, "There is no such path";
    /// The path has no such method.
    MethodNotAllowed = "method_not_allowed", 405, "The path has no such method";
    /// The name, or the label of a version, is taken by something else.
    AlreadyExists = "already_exists", 409, "It exists already";
    /// The verb does not apply to the state that the run is in.
    BadTransition = "bad_transition", 409, "The run's state does not allow this";
    /// The host cannot enforce what the manifest's sandbox asks for, in full.
    ProfileUnenforceable = "profile_unenforceable", 409, "The host cannot enforce the sandbox profile";
    /// The sandbox profile is weaker than the floor of the tenant or the plane.
    ProfileTooWeak = "profile_too_weak", 409, "The sandbox profile is too weak";
    /// The manifest names a tool whose definition nobody has approved, in a tier that does not take that.
    ToolNotApproved = "tool_not_approved", 409, "A tool is not approved";
    /// Something else still needs it.
    InUse = "in_use", 409, "It is still in use";
    /// The idempotency key was used for another request.
    IdempotencyConflict = "idempotency_conflict", 409, "The idempotency key was used for another request";
    /// A version of a policy was not approved.
    PolicyNotApproved = "policy_not_approved", 409, "The version is not approved";
    /// Nobody could undo this version of the plane's policy.
    PolicyLocksOut = "policy_locks_out", 409, "The policy would lock its operator out";
    /// The version grants more than what decides now, or that is not known.
    PolicyGrants = "policy_grants", 409, "The version may grant more than the last one";
    /// The approval was answered, used, or is over.
    ApprovalClosed = "approval_closed", 409, "The approval is not pending any more";
    /// The redaction or the hold is in another state.
    RedactionClosed = "redaction_closed", 409, "Its state does not allow this";
    /// The keys of a log are in a state in which this change is not possible.
    KeyChangeRefused = "key_change_refused", 409, "The keys cannot be changed like this now";
    /// A legal hold keeps what was to be erased.
    EvidenceHeld = "evidence_held", 409, "A legal hold keeps it";
    /// The cursor points at events that are no longer kept.
    CursorExpired = "cursor_expired", 410, "The events at this cursor are no longer kept";
    /// The resource has changed since it was read.
    PreconditionFailed = "precondition_failed", 412, "It has changed since it was read";
    /// The body is larger than the plane takes.
    PayloadTooLarge = "payload_too_large", 413, "The body is too large";
    /// The body is of another media type than the route takes.
    UnsupportedMediaType = "unsupported_media_type", 415, "The media type is not supported";
    /// A public field, or something that was erased before: there is nothing that could be erased.
    NotRedactable = "not_redactable", 422, "It cannot be redacted";
    /// The text breaks rules of policies; `findings` names line, rule and fix of each.
    PolicyInvalid = "policy_invalid", 422, "The policy is not valid";
    /// The manifest breaks rules; `findings` names file, line, rule and fix of each.
    ManifestInvalid = "manifest_invalid", 422, "The manifest is not valid";
    /// The package's stream is not a package: a path leaves it, an entry is of a kind it may not have.
    PackageInvalid = "package_invalid", 422, "The package is not valid";
    /// Too many requests; the same one may succeed later.
    Throttled = "throttled", 429, "Too many requests";
    /// The plane failed in a way it has no better word for.
    Internal = "internal", 500, "The plane failed";
    /// A tool server or provider does not answer.
    UpstreamUnavailable = "upstream_unavailable", 502, "An upstream does not answer";
    /// The plane cannot write evidence, so it does nothing that would need it.
    EvidenceUnavailable = "evidence_unavailable", 503, "Evidence cannot be written";
    /// The index of the evidence is not current, or is being made anew.
    IndexUnavailable = "index_unavailable", 503, "The evidence index is not current";
    /// A part of the evidence is only in the archive, and the archive cannot be read.
    ArchiveUnreachable = "archive_unreachable", 503, "The archive cannot be read";
    /// The plane is starting or stopping.
    NotReady = "not_ready", 503, "The plane is starting or stopping";
}

impl ProblemCode {
    /// The problem's `type`.
    #[must_use]
    pub fn type_uri(self) -> String {
        format!("{TYPE_BASE}{}", self.as_str())
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a problem code")]
pub struct ParseProblemCodeError(String);

impl FromStr for ProblemCode {
    type Err = ParseProblemCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().copied().find(|code| code.as_str() == text);
        known.ok_or_else(|| ParseProblemCodeError(text.chars().take(64).collect()))
    }
}

/// An RFC 9457 problem. `detail` is for the person who sent the request; it never has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// [`TYPE_BASE`] and the code: the address of the code's page.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The code's few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, in one sentence.
    pub detail: String,
    /// The path of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The word to act on.
    pub code: ProblemCode,
    /// The rule that decided, where one did: `permissions.tools`, `budgets.run.tokens`, `run.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// Every fault of a manifest, not only the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// One fault of a manifest or package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The file, relative to the package.
    pub file: String,
    /// The line, from 1; none where the fault is of the file as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The field: `spec.permissions.tools[0].server`; none where the fault is of the file as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The rule that it breaks, stable enough to search for.
    pub rule: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Finding {
    /// `agent.yaml:12:5: path: message [rule]`, as compilers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        write!(f, ": {} [{}]", self.message, self.rule)
    }
}

impl Problem {
    /// A problem with the code's status and title.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            type_uri: code.type_uri(),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            code,
            rule: None,
            next_step: None,
            findings: Vec::new(),
        }
    }

    /// Names the rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn next_step(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }

    /// Names the path of the request.
    #[must_use]
    pub fn instance(mut self, path: impl Into<String>) -> Self {
        self.instance = Some(path.into());
        self
    }

    /// Adds the faults of a manifest.
    #[must_use]
    pub fn findings(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.detail, self.code)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_says_what_to_do() {
        for code in ProblemCode::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {code}\n")), "{code}: the page opens with its code");
            assert!(page.contains(&format!("HTTP {}", code.status())), "{code}: the page names its status");
            assert!(page.contains("## What happened"), "{code}");
            assert!(page.contains("## What to do"), "{code}");
        }
    }

    #[test]
    fn a_code_reads_back_from_its_word() {
        for code in ProblemCode::ALL {
            assert_eq!(code.as_str().parse::<ProblemCode>().unwrap(), *code);
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert!("teapot".parse::<ProblemCode>().is_err());
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457() {
        let problem = Problem::new(ProblemCode::BadTransition, "cannot resume a run that is running")
            .rule("run.state")
            .next_step("look at it with `cogward run show`")
            .instance("/api/v1/runs/x/resume");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "https://cogward.dev/errors/bad_transition");
        assert_eq!(json["status"], 409);
        assert_eq!(json["code"], "bad_transition");
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
