//! The plane itself.

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{
    Check, CheckStatus, Doctor, EvidenceHealth, Plane, ProblemCode, Ready, WhoAmI, openapi as description,
};
use cogward_evidence::Health;
use http::header;

use crate::{extract::Caller, failure::Failure, plane::App};

pub(crate) async fn show(State(app): State<App>) -> Answer<Plane> {
    let evidence = match &*app.evidence.health().borrow() {
        Health::Ok => EvidenceHealth::Ok,
        Health::LowSpace { free } => EvidenceHealth::LowSpace { free_bytes: *free },
        Health::Unsigned { why } => EvidenceHealth::Unsigned { why: why.to_string() },
        Health::Failed { why } => EvidenceHealth::Failed { why: why.to_string() },
    };
    Answer(Plane {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: app.started,
        listen: app.address.to_string(),
        data_dir: app.data.root().display().to_string(),
        accepting: app.is_accepting() && evidence == EvidenceHealth::Ok,
        evidence,
        runs_live: app.engine.live_count() as u64,
        policies_unusable: app.policies.active().unusable.keys().cloned().collect(),
    })
}

pub(crate) async fn doctor(State(app): State<App>) -> Answer<Doctor> {
    let mut doctor = app.doctor.clone();
    for (level, (digest, why)) in &app.policies.active().unusable {
        doctor.checks.push(Check {
            name: format!("policy {level}"),
            status: CheckStatus::Missing,
            detail: format!("the active version {digest} cannot be used, so nothing is permitted under it: {why}"),
            fix: Some(format!("activate another version: `cogward policy list --level {level}`")),
        });
    }
    doctor.checks.extend(log_keys(&app));
    Answer(doctor)
}

/// Whether the tokens with the keys of logs sign, on a plane that has any.
fn log_keys(app: &App) -> Option<Check> {
    let tokens = app.evidence.tokens().join(", ");
    let unsigned = app.evidence.unsigned_seconds();
    (!tokens.is_empty()).then(|| Check {
        name: "log keys".to_owned(),
        status: if unsigned.is_none() { CheckStatus::Ok } else { CheckStatus::Missing },
        detail: match unsigned {
            None => format!("in {tokens}"),
            Some(seconds) => format!("in {tokens}, which did not sign for {seconds} s"),
        },
        fix: unsigned.map(|_| "connect the token; the plane's log says what it answers".to_owned()),
    })
}

pub(crate) async fn who_am_i(Caller(operator): Caller) -> Answer<WhoAmI> {
    Answer(WhoAmI { operator: operator.id, name: operator.name })
}

pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], description::document_text())
}

pub(crate) async fn health() -> &'static str {
    "ok\n"
}

pub(crate) async fn ready(State(app): State<App>) -> Result<Answer<Ready>, Failure> {
    // It needs no credential, so it says no more than whether.
    if app.is_accepting() && *app.evidence.health().borrow() == Health::Ok {
        Ok(Answer(Ready { ready: true }))
    } else {
        Err(Failure::new(ProblemCode::NotReady, "the plane takes no runs now"))
    }
}
