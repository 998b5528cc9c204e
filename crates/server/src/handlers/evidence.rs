//! Evidence: read, signed, exported. Each reading is itself recorded, before anything is shown.

use axum::{
    Json as Answer,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use cogward_api::{EvidenceLeaf, Page, PageQuery, TAR};
use cogward_evidence::{AnchorFailure, ExportError, LeafView};
use cogward_model::{
    RunId, TenantName,
    event::EventType,
    id::{EventId, Id},
};
use http::header;

use super::{archive, known_tenant, runs};
use crate::{
    commands,
    events::by_operator,
    extract::{Asked, Caller, Params},
    failure::Failure,
    plane::{App, Plane, unrecorded},
};

/// A leaf on the wire, with its hidden values or without.
pub(super) fn view(leaf: LeafView, disclosed: bool) -> EvidenceLeaf {
    let body = match leaf.body {
        serde_json::Value::Object(body) => body,
        _ => serde_json::Map::new(),
    };
    let kind = body.get("type").and_then(|t| t.as_str()).unwrap_or_default().to_owned();
    let disclosed = if disclosed { leaf.disclosed } else { Default::default() };
    EvidenceLeaf { seq: leaf.seq, time: leaf.time, kind, body, disclosed, erased: leaf.erased }
}

pub(crate) async fn of_run(
    State(app): State<App>,
    caller: Caller,
    Params(run): Params<RunId>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<EvidenceLeaf>>, Failure> {
    let row = runs::found(&app, run).await?;
    let after = match &query.cursor {
        None => 0,
        Some(text) => text.parse::<u64>().map_err(|_| Failure::invalid("the cursor is not one of this list"))?,
    };
    // Not in the run's own chain: reading a run must not make it longer.
    let event = by_operator(EventType::EvidenceRead, row.tenant.clone(), &caller.0, None)
        .public("read_run", run.to_string())
        .public("after", after);
    app.record(event).await?;
    let disclosed = commands::may_disclose(&app, &caller, &row.tenant);
    let limit = query.limit() as usize;
    let mut leaves = app
        .evidence
        .run_leaves(&row.tenant, run, after, limit.saturating_add(1))
        .await
        .map_err(|e| Failure::internal("the evidence cannot be read", &e))?;
    let more = leaves.len() > limit;
    leaves.truncate(limit);
    let next_cursor = leaves.last().filter(|_| more).map(|leaf| leaf.run_seq.to_string());
    Ok(Answer(Page { items: leaves.into_iter().map(|leaf| view(leaf, disclosed)).collect(), next_cursor }))
}

pub(crate) async fn checkpoint(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
) -> Result<Response, Failure> {
    known_tenant(&app, &tenant).await?;
    let signed = app.evidence.checkpoint(&tenant).await;
    let signed = signed.map_err(|error| unrecorded(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], signed.note).into_response())
}

/// A tenant's whole log, as it is being made and sent.
pub(super) async fn whole(app: &Plane, caller: &Caller, tenant: TenantName) -> Result<Response, Failure> {
    app.record(by_operator(EventType::EvidenceExported, tenant.clone(), &caller.0, None)).await?;
    let staging = staged(app);
    app.evidence.export(&tenant, staging.path()).await.map_err(|error| match error {
        ExportError::Record(error) | ExportError::Anchor(AnchorFailure::Record(error)) => unrecorded(&error),
        other => Failure::internal("the evidence cannot be exported", &other),
    })?;
    Ok(sent(staging, &tenant))
}

/// A directory for a pack, which goes away when it was sent.
pub(super) fn staged(app: &Plane) -> archive::Staging {
    let id: EventId = Id::new(&*app.clock, &*app.entropy);
    archive::Staging::new(app.data.join("exports").join(id.to_string()))
}

pub(super) fn sent(staging: archive::Staging, tenant: &TenantName) -> Response {
    let body = Body::from_stream(archive::stream(staging));
    let name = format!("attachment; filename=\"cogward-evidence-{tenant}.tar\"");
    ([(header::CONTENT_TYPE, TAR.to_owned()), (header::CONTENT_DISPOSITION, name)], body).into_response()
}
