//! The keys that sign a log: shown to operators, changed by two of them.

use axum::{Json as Answer, extract::State};
use cogward_api::{
    KeyChangeRequest, KeyRevocation, KeyRole, KeyRotation, KeyStatement, KeyWhy, KeysQuery, LogKey, LogKeys,
    ProblemCode,
};
use cogward_evidence::{KeyChange, KeyChangeError, KeyRequest, KeyState, KeyringError, LogName};
use cogward_identity::Operator;
use cogward_journal::{JournalEvent, Severity};
use cogward_ledger::key_chain::Why;
use cogward_model::{TenantName, event::EventType, id::EventId};

use super::{known_tenant, runs::given_reason};
use crate::{
    erasure::refused_to_one,
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane, UNSIGNED_NEXT, unrecorded},
};

/// For so long the old key signs along when nobody says otherwise: time for witnesses and readers to take the new one.
const OVERLAP_DAYS: u32 = 30;

fn failure(error: KeyChangeError) -> Failure {
    let refused = |rule: &'static str, error: KeyChangeError| {
        Failure::new(ProblemCode::KeyChangeRefused, error.to_string())
            .rule(rule)
            .next_step("`cogward evidence keys list` shows the keys of the log and what waits to be confirmed")
    };
    match error {
        KeyChangeError::Overlap(_) => refused("key.overlap", error),
        KeyChangeError::Asked => refused("key.request", error),
        KeyChangeError::Unsettled => refused("key.unsettled", error),
        KeyChangeError::NotPast(_) => refused("key.generation", error),
        KeyChangeError::Size { .. } => refused("key.size", error),
        KeyChangeError::Days => Failure::invalid(error.to_string()).rule("key.overlap"),
        KeyChangeError::Record(error) => unrecorded(&error),
        // A token: nothing was changed, and what may have been made in it is used by the next attempt.
        KeyChangeError::Unsigned(_) | KeyChangeError::Keys(KeyringError::Token(_)) => {
            Failure::new(ProblemCode::EvidenceUnavailable, error.to_string())
                .rule("evidence.signed")
                .next_step(UNSIGNED_NEXT)
        }
        KeyChangeError::Chain(_) | KeyChangeError::Keys(_) | KeyChangeError::Read(_) => {
            Failure::internal("the keys could not be changed", &error)
        }
    }
}

/// Which log of a tenant is meant.
fn log_of(tenant: &TenantName, plane: bool) -> Result<LogName, Failure> {
    match plane {
        true if *tenant == TenantName::default_tenant() => Ok(LogName::Plane),
        true => Err(Failure::invalid("the plane log is told of in the log of the tenant `default`").rule("key.log")),
        false => Ok(LogName::Tenant(tenant.clone())),
    }
}

fn request_of(request: KeyRequest) -> KeyChangeRequest {
    let KeyRequest { id, change, by, by_name, at } = request;
    let (change, overlap_days, generation, size, why) = match change {
        KeyChange::Rotate { overlap_days } => ("rotate", Some(overlap_days), None, None, None),
        KeyChange::Revoke { generation, size, why } => {
            ("revoke", None, Some(generation), size, Some(why.as_str().to_owned()))
        }
    };
    let change = change.to_owned();
    KeyChangeRequest { id, change, overlap_days, generation, size, why, by: by_name, operator: by, at }
}

fn view(state: KeyState) -> LogKeys {
    let KeyState { origin, chain, retiring, statements, request, mut tokens } = state;
    let keys = chain.keys().map(|(generation, key)| {
        let along = retiring.filter(|(of, _)| *of == generation);
        let role = match along {
            _ if generation == chain.generation() => KeyRole::Present,
            _ if chain.is_revoked(generation) => KeyRole::Revoked,
            Some(_) => KeyRole::Along,
            None => KeyRole::Past,
        };
        LogKey {
            generation,
            role,
            counts_up_to: chain.counts_up_to(generation),
            until: along.map(|(_, until)| until),
            token: tokens.remove(&generation),
            keys: key.lines().lines().map(str::to_owned).collect(),
        }
    });
    LogKeys {
        keys: keys.collect(),
        log: origin,
        statements: statements
            .into_iter()
            .map(|entry| KeyStatement { leaf: entry.leaf, statement: entry.statement })
            .collect(),
        request: request.map(request_of),
    }
}

fn state(app: &Plane, log: &LogName) -> Result<KeyState, Failure> {
    app.evidence.key_state(log).map_err(|error| Failure::internal("the keys are not usable", &error))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<KeysQuery>,
) -> Result<Answer<LogKeys>, Failure> {
    known_tenant(&app, &tenant).await?;
    Ok(Answer(view(state(&app, &log_of(&tenant, query.plane == Some(true))?)?)))
}

pub(crate) async fn rotate(
    State(app): State<App>,
    Caller(operator): Caller,
    Params(tenant): Params<TenantName>,
    body: Json<KeyRotation>,
) -> Result<Answer<LogKeys>, Failure> {
    let KeyRotation { plane, overlap_days, confirms, reason } = body.value;
    let reason = given_reason(reason)?;
    known_tenant(&app, &tenant).await?;
    let log = log_of(&tenant, plane)?;
    let Some(request) = confirms else {
        let change = KeyChange::Rotate { overlap_days: overlap_days.unwrap_or(OVERLAP_DAYS) };
        return ask(&app, &operator, (tenant, log, change), &reason).await;
    };
    if overlap_days.is_some() {
        return Err(Failure::invalid("a confirmation says nothing but what it confirms").rule("key.request"));
    }
    let is_kind = |change: &KeyChange| matches!(change, KeyChange::Rotate { .. });
    confirm(app, operator, (tenant, log, request), reason, is_kind, EventType::LedgerKeyRotated).await
}

pub(crate) async fn revoke(
    State(app): State<App>,
    Caller(operator): Caller,
    Params(tenant): Params<TenantName>,
    body: Json<KeyRevocation>,
) -> Result<Answer<LogKeys>, Failure> {
    let KeyRevocation { plane, generation, size, why, confirms, reason } = body.value;
    let reason = given_reason(reason)?;
    known_tenant(&app, &tenant).await?;
    let log = log_of(&tenant, plane)?;
    match (confirms, generation, why) {
        (None, Some(generation), Some(why)) => {
            let why = match why {
                KeyWhy::Compromised => Why::Compromised,
                KeyWhy::Lost => Why::Lost,
                KeyWhy::Superseded => Why::Superseded,
            };
            ask(&app, &operator, (tenant, log, KeyChange::Revoke { generation, size, why }), &reason).await
        }
        (Some(request), None, None) if size.is_none() => {
            let is_kind = |change: &KeyChange| matches!(change, KeyChange::Revoke { .. });
            confirm(app, operator, (tenant, log, request), reason, is_kind, EventType::LedgerKeyRevoked).await
        }
        (None, ..) => Err(Failure::invalid("say which key is revoked and why").rule("key.request")),
        (Some(_), ..) => Err(Failure::invalid("a confirmation says nothing but what it confirms").rule("key.request")),
    }
}

async fn ask(
    app: &Plane,
    operator: &Operator,
    (tenant, log, change): (TenantName, LogName, KeyChange),
    reason: &str,
) -> Result<Answer<LogKeys>, Failure> {
    let event = by_operator(EventType::LedgerKeyRequested, tenant.clone(), operator, Some(reason));
    let asked = (change, operator.id, operator.name.to_string());
    app.evidence.ask_key_change(&log, asked, event).await.map_err(failure)?;
    tell(app, "ledger.key.requested", &tenant, Severity::Warning);
    Ok(Answer(view(state(app, &log)?)))
}

async fn confirm(
    app: App,
    operator: Operator,
    (tenant, log, request): (TenantName, LogName, EventId),
    reason: String,
    is_kind: impl Fn(&KeyChange) -> bool,
    kind: EventType,
) -> Result<Answer<LogKeys>, Failure> {
    let waiting = state(&app, &log)?.request.filter(|waiting| waiting.id == request && is_kind(&waiting.change));
    let Some(waiting) = waiting else {
        let why = format!("no such change waits under `{request}`");
        return Err(Failure::new(ProblemCode::KeyChangeRefused, why)
            .rule("key.request")
            .next_step("`cogward evidence keys list` shows what waits to be confirmed"));
    };
    let refs = vec![request.to_string()];
    if waiting.by == operator.id {
        let event = by_operator(EventType::LedgerKeyRefused, tenant, &operator, Some(&reason))
            .public("log", state(&app, &log)?.origin)
            .public("refs", refs);
        return Err(refused_to_one(&app, event, &operator).await?);
    }
    let event = by_operator(kind, tenant.clone(), &operator, Some(&reason))
        .public("refs", refs)
        .public("requested_by", waiting.by.to_string());
    // In a task of its own: a client that goes away does not leave it half done.
    let work = tokio::spawn(async move {
        let changed = app.evidence.change_keys(&log, (request, waiting.change), event).await.map_err(failure)?;
        tell(&app, kind.as_str(), &tenant, Severity::Warning);
        Ok(Answer(view(changed)))
    });
    work.await.map_err(|error| Failure::internal("the change broke off; it is carried on at the next start", &error))?
}

fn tell(plane: &Plane, word: &'static str, tenant: &TenantName, severity: Severity) {
    plane.journal.publish(JournalEvent::tenant(word, tenant.clone()).severity(severity));
}
