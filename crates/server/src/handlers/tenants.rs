//! Tenants.

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{Page, PageQuery, Tenant, TenantCreate};
use cogward_journal::JournalEvent;
use cogward_model::event::EventType;
use cogward_store::{IdempotencyRow, TenantRow};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::{bounded_reason, on_the_wire, page_of};
use crate::{
    events::by_operator,
    extract::{Asked, Caller, Json},
    failure::Failure,
    idempotency,
    plane::App,
};

fn view(row: TenantRow) -> Tenant {
    Tenant { name: row.name, created: row.created }
}

pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Tenant>>, Failure> {
    Ok(Answer(on_the_wire(app.store.tenants(&page_of(&query)).await?, view)))
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Json<TenantCreate>,
) -> Result<impl IntoResponse, Failure> {
    let claim = idempotency::claim(&caller, &headers, &method, &uri, &body.bytes)?;
    if let Some(row) = idempotency::earlier(&app, claim.as_ref()).await? {
        let tenant = serde_json::from_str(&row.response);
        let tenant: Tenant = tenant.map_err(|e| Failure::internal("a kept answer cannot be read", &e))?;
        return Ok((StatusCode::CREATED, Answer(tenant)));
    }
    let TenantCreate { name, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    let mut tx = app.store.begin().await?;
    let row = TenantRow { name: name.clone(), created: tx.now(), created_by: caller.0.name.clone() };
    tx.tenant_insert(&row).await?;
    let tenant = view(row);
    if let Some(claim) = claim {
        let response = serde_json::to_string(&tenant).map_err(|e| Failure::internal("an answer cannot be kept", &e))?;
        let (operator, key, request_digest) = (claim.operator, claim.key, claim.request_digest);
        let created = tx.now();
        tx.idempotency_insert(&IdempotencyRow { operator, key, request_digest, status: 201, response, created })
            .await?;
    }
    let event = by_operator(EventType::TenantCreated, name.clone(), &caller.0, reason.as_deref());
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    app.journal.publish(JournalEvent::tenant("tenant.created", name));
    Ok((StatusCode::CREATED, Answer(tenant)))
}
