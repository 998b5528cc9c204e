//! Model providers: their keys sealed, their prices with them.

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{Page, PageQuery, Provider, ProviderPut};
use cogward_gateway::{
    Credential,
    model::provider::{ProviderClient, ProviderTimeouts},
};
use cogward_journal::JournalEvent;
use cogward_model::{TenantName, UpstreamName, event::EventType, upstream};
use cogward_store::ProviderRow;
use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::{
    bounded_reason, etag, known_tenant, page_of, precondition, tool_servers::keep_secret, tools::bounded_labels,
};
use crate::{
    events::{by_operator, digest_of},
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// The name of the sealed key.
pub(crate) fn secret_name(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("provider/{tenant}/{name}")
}

async fn view(plane: &Plane, row: ProviderRow) -> Result<Provider, Failure> {
    let upstream::Provider { tenant, name, shape, prices, labels } = row.config;
    let has_credential = plane.store.secret(&secret_name(&tenant, &name)).await?.is_some();
    Ok(Provider { tenant, name, shape, prices, labels, has_credential, updated: row.updated })
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Provider>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let page = app.store.providers(&tenant, &page_of(&query)).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(view(&app, row).await?);
    }
    Ok(Answer(Page { items, next_cursor: page.next }))
}

async fn found(plane: &Plane, tenant: &TenantName, name: &UpstreamName) -> Result<ProviderRow, Failure> {
    plane.store.provider(tenant, name).await?.ok_or_else(|| Failure::missing("provider", name))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
) -> Result<impl IntoResponse, Failure> {
    let row = found(&app, &tenant, &name).await?;
    Ok(([etag(row.revision)], Answer(view(&app, row).await?)))
}

pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    headers: HeaderMap,
    body: Json<ProviderPut>,
) -> Result<impl IntoResponse, Failure> {
    let ProviderPut { shape, prices, labels, credential, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    bounded_labels(&labels)?;
    known_tenant(&app, &tenant).await?;
    let config = upstream::Provider { tenant: tenant.clone(), name: name.clone(), shape, prices, labels };
    let secret = credential.map(|c| Zeroizing::new(c.into_exposed()));
    let for_gateway = || secret.clone().map(Credential::new);
    // Its script or its base URL is read here; a real provider is not called, because a call costs.
    let tried = ProviderClient::new(config.clone(), for_gateway(), ProviderTimeouts::default());
    tried.map_err(|e| Failure::invalid(e.to_string()).rule("shape"))?;

    let mut tx = app.store.begin().await?;
    precondition(&headers, tx.provider(&tenant, &name).await?.map(|row| row.revision))?;
    let at = tx.now();
    let revision = tx.provider_put(&config, &caller.0.name, at).await?;
    keep_secret(&app, &mut tx, &secret_name(&tenant, &name), secret.as_ref()).await?;
    let event = by_operator(EventType::ProviderAdded, tenant.clone(), &caller.0, reason.as_deref())
        .public("provider", name.as_str())
        .public("revision", revision)
        .public("models", config.prices.keys().cloned().collect::<Vec<_>>())
        .public("has_credential", secret.is_some())
        .public("labels", config.labels.iter().map(ToString::to_string).collect::<Vec<_>>())
        .confidential("config", digest_of(&config));
    let committed = tx.commit(vec![event]).await?;
    app.publish(committed).await?;
    let kept = app.gateway.upstreams().put_provider(config, for_gateway());
    kept.map_err(|e| Failure::internal("the provider cannot be used", &e))?;
    app.journal.publish(
        JournalEvent::tenant("provider.added", tenant.clone())
            .detail(serde_json::json!({ "provider": name, "revision": revision })),
    );
    let row = found(&app, &tenant, &name).await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag(revision)], Answer(view(&app, row).await?)))
}
