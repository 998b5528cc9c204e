//! The logs as C2SP tlog-tiles behind a credential, and what witnesses say of the plane log.

use std::collections::HashMap;

use axum::{
    Json as Answer,
    extract::State,
    response::{IntoResponse, Response},
};
use cogward_api::{
    Cosignatures, EvidenceStatus, ProblemCode, TimestampStatus, WitnessRequestQuery, WitnessedCheckpoint,
};
use cogward_evidence::{CosignError, Cosigned, LogName};
use cogward_ledger::witness::AddCheckpoint;
use cogward_model::{TenantName, Timestamp, event::EventType, id::OperatorId};
use http::header;

use super::known_tenant;
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    log_door,
    plane::{App, Plane},
    split_view::SplitView,
};

/// An operator's reading of a tenant's entries is recorded once in this time: a mirror asks every second.
const READING_MICROS: u64 = 3_600_000_000;
/// Operators and tenants whose last recorded reading is remembered.
const READERS_MAX: usize = 4_096;

/// Whose reading of which log was recorded when.
#[derive(Default)]
pub(crate) struct Readers(tokio::sync::Mutex<HashMap<(OperatorId, TenantName), Timestamp>>);

pub(crate) async fn of_tenant(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, file)): Params<(TenantName, String)>,
) -> Result<Response, Failure> {
    known_tenant(&app, &tenant).await?;
    if file.starts_with("tile/entries/") {
        recorded(&app, &caller, &tenant).await?;
    }
    given(&app, &LogName::Tenant(tenant), file).await
}

pub(crate) async fn of_plane(State(app): State<App>, Params(file): Params<String>) -> Result<Response, Failure> {
    given(&app, &LogName::Plane, file).await
}

/// Records that the entries of a log are read, before any is shown.
async fn recorded(app: &Plane, caller: &Caller, tenant: &TenantName) -> Result<(), Failure> {
    let now = app.clock.now();
    let mut readers = app.log_readers.0.lock().await;
    let reader = (caller.0.id, tenant.clone());
    if readers.get(&reader).is_some_and(|last| now.micros_since(*last) < READING_MICROS) {
        return Ok(());
    }
    let event = by_operator(EventType::EvidenceRead, tenant.clone(), &caller.0, None).public("read_log", true);
    app.record(event).await?;
    if readers.len() >= READERS_MAX {
        readers.clear();
    }
    readers.insert(reader, now);
    Ok(())
}

async fn given(app: &Plane, log: &LogName, file: String) -> Result<Response, Failure> {
    let answer = log_door::file(&app.evidence, log, file, log_door::Readers::Private).await;
    let answer = answer.map_err(|error| Failure::new(ProblemCode::EvidenceUnavailable, error.to_string()))?;
    answer.ok_or_else(|| Failure::new(ProblemCode::NotFound, "the log has no such file"))
}

fn witnessed(cosigned: Cosigned) -> WitnessedCheckpoint {
    let first = cosigned.judged.by.iter().map(|(_, time)| *time).min().unwrap_or_default();
    WitnessedCheckpoint {
        size: cosigned.size,
        time: Timestamp::from_unix_micros(first.saturating_mul(1_000_000)),
        by: cosigned.judged.by.into_iter().map(|(name, _)| name).collect(),
    }
}

fn stamped(app: &Plane) -> Option<TimestampStatus> {
    let newest = app.evidence.timestamp()?;
    Some(TimestampStatus {
        size: newest.size,
        time: newest.time,
        age_seconds: app.clock.now().micros_since(newest.time) / 1_000_000,
        offset_ms: newest.offset_ms,
    })
}

pub(super) fn state(app: &Plane) -> Result<EvidenceStatus, Failure> {
    let unusable = |e: cogward_evidence::KeyringError| Failure::internal("the keys are not usable", &e);
    let found = app.evidence.witness_status();
    let (quorum, seen) = (found.quorum.map(witnessed), found.newest.map(witnessed));
    let below_quorum = found.needs_witnesses && quorum.as_ref().is_none_or(|quorum| quorum.size < found.size);
    let age = |since: Timestamp| app.clock.now().micros_since(since) / 1_000_000;
    Ok(EvidenceStatus {
        log: app.evidence.origin(&LogName::Plane).map_err(unusable)?,
        keys: app.evidence.verifying_keys(&LogName::Plane).map_err(unusable)?.lines().map(str::to_owned).collect(),
        size: found.size,
        witnesses: app.evidence.witnesses().witnesses().iter().map(|witness| witness.name.clone()).collect(),
        quorum_wanted: found.needs_witnesses,
        exposure_seconds: quorum.as_ref().map(|quorum| if below_quorum { age(quorum.time) } else { 0 }),
        unsigned_seconds: app.evidence.unsigned_seconds(),
        timestamp: stamped(app),
        witnessed: quorum,
        seen,
        below_quorum,
        archive: app.archived.status(),
        alarms: app.evidence.alarms(),
    })
}

pub(crate) async fn status(State(app): State<App>) -> Result<Answer<EvidenceStatus>, Failure> {
    state(&app).map(Answer)
}

pub(crate) async fn witness_request(
    State(app): State<App>,
    Asked(query): Asked<WitnessRequestQuery>,
) -> Result<Response, Failure> {
    let Some(published) = app.evidence.published(&LogName::Plane).filter(|published| published.size > 0) else {
        return Err(Failure::new(ProblemCode::EvidenceUnavailable, "the plane log is not published yet"));
    };
    let old = query.old.unwrap_or(0);
    if old > published.size {
        return Err(Failure::invalid(format!("the plane log has {} leaves", published.size)));
    }
    let proof = app.evidence.plane_consistency(old, published.size).await;
    let proof = proof.map_err(|e| Failure::new(ProblemCode::EvidenceUnavailable, e.to_string()))?;
    let request = AddCheckpoint { old, proof, note: published.note.clone() };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], request.to_text()).into_response())
}

pub(crate) async fn add_cosignatures(
    State(app): State<App>,
    caller: Caller,
    body: Json<Cosignatures>,
) -> Result<Answer<EvidenceStatus>, Failure> {
    let cosigned = app.evidence.cosign(&body.value.note).await;
    let finding = match &cosigned {
        Err(split @ CosignError::SplitView { ours, theirs }) => {
            let (both, detail) = (format!("{split}\n"), "somebody brought it");
            Some(SplitView { both: &both, ours, theirs: Some(theirs), detail }.keep(&app.evidence))
        }
        _ => None,
    };
    let cosigned = cosigned.map_err(|error| match error {
        CosignError::Unknown(_) => Failure::invalid(error.to_string())
            .next_step("name the witness's key to the plane: `cogward serve --witness-policy FILE`, docs/evidence.md"),
        CosignError::Note(_) | CosignError::Size { .. } => Failure::invalid(error.to_string()),
        CosignError::SplitView { .. } => Failure::new(ProblemCode::SplitView, error.to_string()),
        CosignError::Tiles(_) | CosignError::Io(_) | CosignError::Read(_) => {
            Failure::new(ProblemCode::EvidenceUnavailable, error.to_string())
        }
    });
    if let Some(finding) = finding {
        app.record(finding).await?;
    }
    let cosigned = cosigned?;
    let by: Vec<String> = cosigned.judged.by.into_iter().map(|(name, _)| name).collect();
    let event = by_operator(EventType::CheckpointCosigned, TenantName::default_tenant(), &caller.0, None)
        .public("size", cosigned.size)
        .public("witnesses", by)
        .public("quorum", cosigned.judged.quorum);
    app.record(event).await?;
    state(&app).map(Answer)
}
