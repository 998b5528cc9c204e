//! Every refusal of the API as a problem. What a client reads and what the log says are two texts.

use axum::response::{IntoResponse, Response};
use cogward_api::{Finding, PROBLEM_JSON, Problem, ProblemCode};
use cogward_engine::{CommandError, StartError, WarmError};
use cogward_store::{Noun, StoreError};
use http::{HeaderValue, StatusCode, header};

/// A refused request.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Problem>);

impl Failure {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    pub(crate) fn rule(mut self, rule: impl Into<String>) -> Self {
        self.0.rule = Some(rule.into());
        self
    }

    pub(crate) fn next_step(mut self, step: impl Into<String>) -> Self {
        self.0.next_step = Some(step.into());
        self
    }

    pub(crate) fn findings(mut self, findings: Vec<Finding>) -> Self {
        self.0.findings = findings;
        self
    }

    pub(crate) fn more_findings(&mut self, findings: Vec<Finding>) {
        self.0.findings.extend(findings);
    }

    pub(crate) fn code(&self) -> ProblemCode {
        self.0.code
    }

    /// What is told the client.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::InvalidRequest, detail)
    }

    /// Something is not there; the sentence does not say whether it could be.
    pub(crate) fn missing(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(ProblemCode::NotFound, format!("there is no {what} `{name}`"))
    }

    /// The plane's own fault: the cause goes to the log, the client gets a sentence.
    pub(crate) fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(missing) = cogward_evidence::unfetched(error) {
            tracing::warn!(cause = %missing, "{what}");
            return Self::new(ProblemCode::ArchiveUnreachable, missing.to_string()).rule("evidence.archive").next_step(
                "see that the plane reaches its archive: `cogward evidence archive status`; then ask again",
            );
        }
        tracing::error!(cause = %cogward_engine::ports::PortError::from_error(error), "{what}");
        Self::new(ProblemCode::Internal, what.to_owned()).next_step("look at the plane's log")
    }
}

/// A problem with the path of its request.
pub(crate) fn render(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = render(&self.0);
        // The outermost layer knows the path and writes the body again with it.
        response.extensions_mut().insert(*self.0);
        response
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict { noun: Noun::IdempotencyKey, .. } => {
                Self::new(ProblemCode::IdempotencyConflict, "the idempotency key is in use by another request")
            }
            StoreError::Conflict { .. } => Self::new(ProblemCode::AlreadyExists, error.to_string()),
            StoreError::Missing { .. } => Self::new(ProblemCode::NotFound, error.to_string()),
            StoreError::Stale { .. } => Self::new(ProblemCode::PreconditionFailed, error.to_string())
                .next_step("read it again and repeat the command"),
            _ => Self::internal("the state database failed", &error),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::UnknownTenant(_) => Self::new(ProblemCode::NotFound, text)
                .rule("registry.registered")
                .next_step("`cogward tenant list` says what there is"),
            StartError::UnknownAgent { .. } => Self::new(ProblemCode::NotFound, text)
                .rule("registry.registered")
                .next_step("register it with `cogward agent register -f agent.yaml`, or name its tenant"),
            StartError::UnknownVersion { .. } => Self::new(ProblemCode::NotFound, text)
                .rule("registry.registered")
                .next_step("`cogward agent show AGENT` lists its versions"),
            StartError::UserRequired(_) => Self::new(ProblemCode::RunRefused, text)
                .rule("spec.autonomy")
                .next_step("name the user with `--as USER`"),
            StartError::TooLong { .. } => Self::invalid(text).rule("limits.request"),
            StartError::ProfileTooWeak { floor, tier, .. } => Self::new(ProblemCode::ProfileTooWeak, text)
                .rule("profile_too_weak")
                .next_step(format!(
                    "register a version with `profile: {}`, or have an operator lower the floor with `cogward floor set \
                     {}`",
                    floor.as_str(),
                    tier.as_str()
                )),
            StartError::Input { .. } => Self::new(ProblemCode::RunRefused, text)
                .rule("spec.sandbox.inputs")
                .next_step("give each declared input with `--input-file NAME=PATH`"),
            StartError::ProfileUnenforceable { .. } => Self::new(ProblemCode::ProfileUnenforceable, text)
                .rule("profile_unenforceable")
                .next_step("run `cogward doctor` for the fix of each"),
            StartError::NotAdmitted { .. } => Self::new(ProblemCode::RunRefused, text)
                .rule("spec.access.outside")
                .next_step("register a version whose `spec.access.outside` names the client"),
            StartError::OutsideTier(_) => Self::new(ProblemCode::RunRefused, text)
                .rule("outside.tier")
                .next_step("register a version with `tier: development`, or run the agent in a sandbox"),
            StartError::OutsideFloor { .. } => Self::new(ProblemCode::ProfileTooWeak, text)
                .rule("profile_too_weak")
                .next_step("`cogward floor list` says what is accepted and who set it"),
            StartError::OutsideGiven(_) => Self::invalid(text).rule("outside.input"),
            StartError::Attached(_) => Self::new(ProblemCode::RunRefused, text)
                .rule("outside.attached")
                .next_step("`cogward run list` shows it"),
            StartError::Stopped(_) => Self::new(ProblemCode::RunRefused, text).rule("outside.stopped"),
            StartError::TooManyOutside(_) => {
                Self::new(ProblemCode::RunRefused, text).rule("limits.outsideRuns").next_step("end a run first")
            }
            StartError::TooManyRuns(_) => {
                Self::new(ProblemCode::RunRefused, text).rule("limits.runs").next_step("end a run first")
            }
            StartError::Stopping => Self::new(ProblemCode::NotReady, text),
            StartError::Evidence(_) => Self::new(ProblemCode::EvidenceUnavailable, text)
                .rule("evidence.durable")
                .next_step("`cogward plane show` says why: free space on the plane's disk, or connect the token"),
            StartError::Store(error) => error.into(),
            other => Self::internal("the run cannot be started", &other),
        }
    }
}

impl From<WarmError> for Failure {
    fn from(error: WarmError) -> Self {
        let text = error.to_string();
        match error {
            WarmError::TooMany { max } => {
                Self::invalid(text).rule("limits.warm").next_step(format!("ask for {max} or fewer"))
            }
            WarmError::Inputs | WarmError::Profile(_) => {
                Self::invalid(text).rule("agent.warm").next_step("its runs are started without; nothing was changed")
            }
            WarmError::Evidence(_) => Self::new(ProblemCode::EvidenceUnavailable, text)
                .rule("evidence.durable")
                .next_step("free space on the plane's disk, then look at `cogward plane show`"),
            WarmError::Store(error) => error.into(),
            other => Self::internal("the sandboxes cannot be kept ready", &other),
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        match error {
            CommandError::UnknownRun(run) => Self::missing("run", run),
            CommandError::Transition(_) => Self::new(ProblemCode::BadTransition, text)
                .rule("run.state")
                .next_step("look at its state with `cogward run show`"),
            CommandError::ReasonTooLong(_) => Self::invalid(text).rule("limits.reason"),
            CommandError::Evidence(_) => Self::new(ProblemCode::EvidenceUnavailable, text)
                .rule("evidence.durable")
                .next_step("free space on the plane's disk, then look at `cogward plane show`"),
            CommandError::Store(error) => error.into(),
            other => Self::internal("the command could not be carried out", &other),
        }
    }
}
