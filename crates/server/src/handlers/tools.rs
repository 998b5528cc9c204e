//! The tools of tool servers, and what else they define: looked at, approved, blocked, labelled.

use std::{collections::BTreeSet, time::Duration};

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{
    DiffLine, Known, LineChange, Page, PageQuery, Reason, Tool, ToolApprove, ToolDetail, ToolDiff, ToolLabelsPut,
    ToolListQuery, ToolQuery,
};
use cogward_gateway::pins::{
    diff::{self, Change},
    suspicion::{self, Names},
};
use cogward_model::{DataLabel, TenantName, Timestamp, UpstreamName, pin::Suspicion, pin_name::PinName};
use cogward_store::ToolPinRow;
use http::HeaderMap;

use super::{bounded_reason, etag, page_of, precondition, runs::given_reason, tool_servers::found as known_server};
use crate::{
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    pins::{Decision, ToolKey},
    plane::{App, Plane},
};

/// How long a server may take to say what it offers before the operator is shown what is known.
const REFRESH_MAX: Duration = Duration::from_secs(5);
/// Most labels of a tool or of a provider.
const LABELS_MAX: usize = 32;

type Path = (TenantName, UpstreamName, PinName);

/// Has the server asked, so that what is shown is what it offers now; `again`, whatever is known of it. A server that
/// does not answer keeps nobody from looking at what is known of it, and it is said how old that is.
async fn refresh(app: &Plane, tenant: &TenantName, server: &UpstreamName, again: bool) -> Known {
    let asked = tokio::time::timeout(REFRESH_MAX, app.gateway.pin_all(tenant, server, again)).await;
    let unanswered = match asked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the tool server `{server}` did not say within {} s", REFRESH_MAX.as_secs())),
    };
    if let Some(why) = &unanswered {
        tracing::info!(%tenant, %server, why, "the tools of a server are shown as they are known");
    }
    let ago = app.gateway.listed_ago(tenant, server).and_then(|ago| u64::try_from(ago.as_micros()).ok());
    let now = app.store.now().unix_micros();
    Known { listed: ago.map(|ago| Timestamp::from_unix_micros(now.saturating_sub(ago))), unanswered }
}

async fn names(app: &Plane, tenant: &TenantName) -> Result<Names, Failure> {
    Ok(Names::of(app.store.tool_names(tenant).await?))
}

fn suspicions(row: &ToolPinRow, names: &Names) -> Vec<Suspicion> {
    let mut all = row.tool.tool().map(|tool| names.suspicions(&row.server, tool)).unwrap_or_default();
    all.extend(suspicion::in_definition(&row.definition));
    all
}

fn view(row: &ToolPinRow, names: &Names) -> Tool {
    Tool {
        tenant: row.tenant.clone(),
        server: row.server.clone(),
        name: row.tool.clone(),
        state: row.pin.state,
        cause: row.pin.cause,
        offered: row.pin.offered,
        digest: row.pin.digest,
        approved_digest: row.pin.approved,
        approved_by: row.approved_by.clone(),
        approved: row.approved,
        reason: row.reason.clone(),
        labels: row.labels.clone(),
        idempotent: row.idempotent,
        seen: row.seen,
        suspicions: suspicions(row, names),
    }
}

async fn found(app: &Plane, (tenant, server, tool): &Path, query: &ToolQuery) -> Result<(ToolPinRow, Known), Failure> {
    known_server(app, tenant, server).await?;
    let known = refresh(app, tenant, server, query.relist).await;
    let row = app.store.tool_pin(tenant, server, tool).await?;
    let row = row.ok_or_else(|| Failure::missing(tool.kind().as_str(), format!("{server}/{tool}")))?;
    Ok((row, known))
}

pub(crate) async fn list(
    State(app): State<App>,
    Params((tenant, server)): Params<(TenantName, UpstreamName)>,
    Asked(query): Asked<ToolListQuery>,
) -> Result<Answer<Page<Tool>>, Failure> {
    known_server(&app, &tenant, &server).await?;
    refresh(&app, &tenant, &server, query.relist && query.cursor.is_none()).await;
    let query = PageQuery { limit: query.limit, cursor: query.cursor };
    let names = names(&app, &tenant).await?;
    let page = app.store.tool_pins_page(&tenant, &server, &page_of(&query)).await?;
    Ok(Answer(super::on_the_wire(page, |row| view(&row, &names))))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params(path): Params<Path>,
    Asked(query): Asked<ToolQuery>,
) -> Result<impl IntoResponse, Failure> {
    let (row, known) = found(&app, &path, &query).await?;
    let names = names(&app, &path.0).await?;
    let approved_definition = row.approved_definition.clone().filter(|_| row.pin.approved != Some(row.pin.digest));
    let detail = ToolDetail {
        tool: view(&row, &names),
        shown: diff::lines(&row.definition),
        definition: row.definition,
        approved_definition,
        known,
    };
    Ok(([etag(row.revision)], Answer(detail)))
}

pub(crate) async fn difference(
    State(app): State<App>,
    Params(path): Params<Path>,
    Asked(query): Asked<ToolQuery>,
) -> Result<Answer<ToolDiff>, Failure> {
    let (row, known) = found(&app, &path, &query).await?;
    let names = names(&app, &path.0).await?;
    let before = row.approved_definition.as_deref().map(diff::lines).unwrap_or_default();
    let lines = diff::difference(&before, &diff::lines(&row.definition)).into_iter().map(|(change, text)| {
        let change = match change {
            Change::Same => LineChange::Same,
            Change::Removed => LineChange::Removed,
            Change::Added => LineChange::Added,
        };
        DiffLine { change, text }
    });
    Ok(Answer(ToolDiff {
        suspicions: suspicions(&row, &names),
        lines: lines.collect(),
        server: row.server,
        name: row.tool,
        state: row.pin.state,
        before: row.pin.approved,
        after: row.pin.digest,
        known,
    }))
}

async fn decide(
    app: &App,
    caller: Caller,
    path: Path,
    headers: HeaderMap,
    decision: Decision,
) -> Result<impl IntoResponse + use<>, Failure> {
    let (tenant, server, tool) = path;
    let (book, key) = (app.pins.clone(), ToolKey { tenant: tenant.clone(), server, tool });
    // In a task of its own: a client that goes away must not leave the store and the gateway apart.
    let task = tokio::spawn(async move {
        book.decide(&caller.0, key, |revision| precondition(&headers, Some(revision)), decision).await
    });
    let row = task.await.map_err(|error| Failure::internal("the decision broke off", &error))??;
    let names = names(app, &tenant).await?;
    Ok(([etag(row.revision)], Answer(view(&row, &names))))
}

pub(crate) async fn approve(
    State(app): State<App>,
    caller: Caller,
    Params(path): Params<Path>,
    headers: HeaderMap,
    body: Json<ToolApprove>,
) -> Result<impl IntoResponse, Failure> {
    let ToolApprove { digest, reason } = body.value;
    let reason = given_reason(reason)?;
    decide(&app, caller, path, headers, Decision::Approve { digest, reason }).await
}

pub(crate) async fn block(
    State(app): State<App>,
    caller: Caller,
    Params(path): Params<Path>,
    headers: HeaderMap,
    body: Json<Reason>,
) -> Result<impl IntoResponse, Failure> {
    let reason = given_reason(Some(body.value.reason))?;
    decide(&app, caller, path, headers, Decision::Block { reason }).await
}

pub(super) fn bounded_labels(labels: &BTreeSet<DataLabel>) -> Result<(), Failure> {
    if labels.len() > LABELS_MAX {
        return Err(Failure::invalid(format!("there are at most {LABELS_MAX} labels")).rule("limits.labels"));
    }
    Ok(())
}

pub(crate) async fn label(
    State(app): State<App>,
    caller: Caller,
    Params(path): Params<Path>,
    headers: HeaderMap,
    body: Json<ToolLabelsPut>,
) -> Result<impl IntoResponse, Failure> {
    let ToolLabelsPut { labels, idempotent, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    bounded_labels(&labels)?;
    decide(&app, caller, path, headers, Decision::Label { labels, idempotent, reason }).await
}
