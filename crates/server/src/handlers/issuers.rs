//! Authorization servers whose access tokens are taken from clients outside.

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{Issuer, IssuerPut, Page, PageQuery, ProblemCode};
use cogward_journal::JournalEvent;
use cogward_model::{
    TenantName, UpstreamName,
    event::EventType,
    outside::{IssuerKeys, TrustedIssuer},
};
use cogward_store::{IssuerRow, PageRequest};
use http::{HeaderMap, StatusCode};

use super::{bounded_reason, etag, known_tenant, page_of, precondition, tool_servers::reason_of};
use crate::{
    events::{by_operator, digest_of},
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    outside::{usable_issuer, usable_keys},
    plane::{App, Plane},
};

/// Issuers of one tenant.
const ISSUERS_MAX: u32 = 64;

fn view(row: IssuerRow) -> Issuer {
    let TrustedIssuer { tenant, name, issuer, keys, bearer_in_development } = row.config;
    Issuer { tenant, name, issuer, keys, bearer_in_development, updated: row.updated }
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Issuer>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let page = app.store.issuers(&tenant, &page_of(&query)).await?;
    Ok(Answer(super::on_the_wire(page, view)))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
) -> Result<impl IntoResponse, Failure> {
    let row = app.store.issuer(&tenant, &name).await?.ok_or_else(|| Failure::missing("issuer", &name))?;
    Ok(([etag(row.revision)], Answer(view(row))))
}

pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    headers: HeaderMap,
    body: Json<IssuerPut>,
) -> Result<impl IntoResponse, Failure> {
    let IssuerPut { issuer, keys, bearer_in_development, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    usable_issuer(&issuer)?;
    usable_keys(&keys)?;
    let config = TrustedIssuer { tenant: tenant.clone(), name: name.clone(), issuer, keys, bearer_in_development };
    let plane = app;
    let (row, revision) = to_the_end(async move {
        known_tenant(&plane, &tenant).await?;
        let turn = plane.credential_changes.lock().await;
        one_of_a_kind(&plane, &config).await?;
        let mut tx = plane.store.begin().await?;
        let before = tx.issuer(&tenant, &name).await?;
        precondition(&headers, before.as_ref().map(|row| row.revision))?;
        let at = tx.now();
        let revision = tx.issuer_put(&config, &caller.0.name, at).await?;
        let row = tx.issuer(&tenant, &name).await?.ok_or_else(|| Failure::missing("issuer", &name))?;
        let keys = match &config.keys {
            IssuerKeys::Given { .. } => "given",
            IssuerKeys::Url { url } => url.as_str(),
        };
        let event = by_operator(EventType::IssuerAdded, tenant.clone(), &caller.0, reason.as_deref())
            .public("issuer", name.as_str())
            .public("url", config.issuer.as_str())
            .public("keys", keys)
            .public("bearer_in_development", config.bearer_in_development)
            .public("revision", revision)
            .public("config", digest_of(&config));
        let committed = tx.commit(vec![event]).await?;
        // The one before is trusted no more at once; the new one when that is in the ledger.
        plane.issuers.remove(&config.tenant, &config.name);
        plane.publish(committed).await?;
        let taken = plane.issuers.put(config);
        taken.map_err(|error| Failure::internal("the keys cannot be used", &error))?;
        drop(turn);
        plane.journal.publish(
            JournalEvent::tenant("issuer.added", tenant)
                .detail(serde_json::json!({ "issuer": name, "revision": revision })),
        );
        Ok((row, revision))
    })
    .await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag(revision)], Answer(view(row))))
}

/// A name stands for one issuer for ever, and an issuer has one name: records say the name.
async fn one_of_a_kind(plane: &Plane, config: &TrustedIssuer) -> Result<(), Failure> {
    let page = PageRequest { after: None, limit: ISSUERS_MAX };
    let known = plane.store.issuers(&config.tenant, &page).await?;
    let first = plane.store.issuer_named(&config.tenant, &config.name).await?;
    if first.is_some_and(|issuer| issuer != config.issuer) {
        return Err(Failure::new(ProblemCode::AlreadyExists, "the name stands for another issuer")
            .rule("issuer")
            .next_step("take another name; manifests and records mean the first one by this name"));
    }
    if known.items.iter().any(|row| row.config.name != config.name && row.config.issuer == config.issuer) {
        return Err(Failure::new(ProblemCode::AlreadyExists, "the issuer is trusted under another name")
            .rule("issuer")
            .next_step("`cogward issuer list` says under which"));
    }
    let new = !known.items.iter().any(|row| row.config.name == config.name);
    if new && known.items.len() >= ISSUERS_MAX as usize {
        return Err(Failure::invalid(format!("a tenant trusts at most {ISSUERS_MAX} issuers")).rule("limits.issuers"));
    }
    Ok(())
}

pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    uri: http::Uri,
) -> Result<StatusCode, Failure> {
    let reason = reason_of(&uri)?;
    to_the_end(async move {
        let turn = app.credential_changes.lock().await;
        let mut tx = app.store.begin().await?;
        if !tx.issuer_delete(&tenant, &name).await? {
            return Err(Failure::missing("issuer", &name));
        }
        let event = by_operator(EventType::IssuerRemoved, tenant.clone(), &caller.0, Some(&reason))
            .public("issuer", name.as_str());
        let committed = tx.commit(vec![event]).await?;
        // At once: whoever stops trusting somebody wants that now.
        app.issuers.remove(&tenant, &name);
        drop(turn);
        app.publish(committed).await?;
        let event = JournalEvent::tenant("issuer.removed", tenant);
        app.journal.publish(event.detail(serde_json::json!({ "issuer": name })));
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Carries a change out, also when the client goes away meanwhile: the store and the memory change together.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(change).await.unwrap_or_else(|error| Err(Failure::internal("the change was cut off", &error)))
}
