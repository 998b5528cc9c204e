//! Agents and their versions.

use axum::{
    Json as Answer,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use cogward_api::{
    Agent, AgentVersion, Page, PageQuery, ProblemCode, RegisterQuery, TAR, VersionSummary, Warm, WarmPut,
};
use cogward_model::{AgentName, TenantName, VersionLabel, manifest::Manifest};
use cogward_store::{AgentRow, PageRequest, VersionRow};
use http::{HeaderMap, StatusCode, header};

use super::{bounded_reason, known_tenant, page_of, registration};
use crate::{
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    plane::{App, Plane},
};

/// Versions of one agent that are read to sort them by age.
const VERSIONS_MAX: usize = 5_000;

fn manifest_of(row: &VersionRow) -> Result<Manifest, Failure> {
    serde_json::from_str(&row.manifest_json).map_err(|e| Failure::internal("a stored manifest cannot be read", &e))
}

fn summary(row: &VersionRow) -> Result<VersionSummary, Failure> {
    let tier = serde_json::from_value(serde_json::Value::String(row.tier.clone()));
    Ok(VersionSummary {
        version: row.label.clone(),
        digest: row.version_digest,
        tier: tier.map_err(|e| Failure::internal("a stored version cannot be read", &e))?,
        created: row.created,
    })
}

async fn view(plane: &Plane, row: AgentRow) -> Result<Agent, Failure> {
    let latest = plane.store.version_latest(&row.tenant, &row.name).await?;
    let latest = latest.ok_or_else(|| Failure::missing("agent", &row.name))?;
    Ok(Agent {
        autonomy: manifest_of(&latest)?.spec.autonomy,
        latest: latest.label,
        tenant: row.tenant,
        name: row.name,
        owner: row.owner,
        sponsor: row.sponsor,
        created: row.created,
        versions: Vec::new(),
    })
}

/// Every version, newest first.
async fn newest_first(plane: &Plane, tenant: &TenantName, agent: &AgentName) -> Result<Vec<VersionSummary>, Failure> {
    let mut page = PageRequest { after: None, limit: 500 };
    let mut all = Vec::new();
    loop {
        let found = plane.store.versions(tenant, agent, &page).await?;
        for row in &found.items {
            all.push(summary(row)?);
        }
        match found.next {
            Some(next) if all.len() < VERSIONS_MAX => page.after = Some(next),
            _ => break,
        }
    }
    all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| b.version.cmp(&a.version)));
    Ok(all)
}

async fn found(plane: &Plane, tenant: &TenantName, agent: &AgentName) -> Result<AgentRow, Failure> {
    plane.store.agent(tenant, agent).await?.ok_or_else(|| Failure::missing("agent", agent))
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<Agent>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let page = app.store.agents(&tenant, &page_of(&query)).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(view(&app, row).await?);
    }
    Ok(Answer(Page { items, next_cursor: page.next }))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, agent)): Params<(TenantName, AgentName)>,
) -> Result<Answer<Agent>, Failure> {
    let row = found(&app, &tenant, &agent).await?;
    let mut shown = view(&app, row).await?;
    shown.versions = newest_first(&app, &tenant, &agent).await?;
    Ok(Answer(shown))
}

pub(crate) async fn versions(
    State(app): State<App>,
    Params((tenant, agent)): Params<(TenantName, AgentName)>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<VersionSummary>>, Failure> {
    found(&app, &tenant, &agent).await?;
    let all = newest_first(&app, &tenant, &agent).await?;
    let begin = match &query.cursor {
        None => 0,
        Some(cursor) => {
            let place = all.iter().position(|v| v.version.as_str() == cursor);
            place.ok_or_else(|| Failure::invalid("the cursor is not one of this list"))?.saturating_add(1)
        }
    };
    let limit = query.limit() as usize;
    let more = all.len() > begin.saturating_add(limit);
    let items: Vec<_> = all.into_iter().skip(begin).take(limit).collect();
    let next_cursor = items.last().filter(|_| more).map(|v| v.version.to_string());
    Ok(Answer(Page { items, next_cursor }))
}

pub(crate) async fn version(
    State(app): State<App>,
    Params((tenant, agent, label)): Params<(TenantName, AgentName, VersionLabel)>,
) -> Result<Answer<AgentVersion>, Failure> {
    let row = app.store.version(&tenant, &agent, &label).await?;
    let row = row.ok_or_else(|| Failure::missing("version", &label))?;
    Ok(Answer(AgentVersion {
        manifest: manifest_of(&row)?,
        tenant: row.tenant,
        agent: row.agent,
        version: row.label,
        digest: row.version_digest,
        created: row.created,
    }))
}

pub(crate) async fn register(
    State(app): State<App>,
    caller: Caller,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<RegisterQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    bounded_reason(query.reason.as_deref())?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(TAR) {
        return Err(Failure::new(ProblemCode::UnsupportedMediaType, format!("the package must be {TAR}")));
    }
    known_tenant(&app, &tenant).await?;
    let registered = registration::register(&app, &caller.0, tenant, query, body).await?;
    let status = if registered.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Answer(registered)).into_response())
}

async fn warm_view(
    plane: &Plane,
    (tenant, agent, version): (TenantName, AgentName, VersionLabel),
) -> Result<Answer<Warm>, Failure> {
    let (count, ready) = plane.engine.warm(&tenant, &agent, &version).await?;
    Ok(Answer(Warm { agent, version, count, ready }))
}

pub(crate) async fn warm(
    State(app): State<App>,
    Params(of): Params<(TenantName, AgentName, VersionLabel)>,
) -> Result<Answer<Warm>, Failure> {
    let row = app.store.version(&of.0, &of.1, &of.2).await?;
    row.ok_or_else(|| Failure::missing("version", &of.2))?;
    warm_view(&app, of).await
}

pub(crate) async fn set_warm(
    State(app): State<App>,
    caller: Caller,
    Params(of): Params<(TenantName, AgentName, VersionLabel)>,
    body: Json<WarmPut>,
) -> Result<Answer<Warm>, Failure> {
    let WarmPut { count, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    let row = app.store.version(&of.0, &of.1, &of.2).await?;
    row.ok_or_else(|| Failure::missing("version", &of.2))?;
    app.engine.set_warm((&of.0, &of.1, &of.2), count, (&caller.0.name, caller.0.id), reason.as_deref()).await?;
    warm_view(&app, of).await
}
